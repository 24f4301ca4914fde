"""Recognise, in a network's calls of tensor functions, those that take feature maps to one value a channel.

A TorchFunctionMode sees every function and method call on tensors, so a pooling is seen whether it is a module, a
function or a method, and whether the maps lie as (N, C, h, w), as (N, h, w, C), or as tokens, (N, h * w, C).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

# What one call of a network does with each tensor function: it must call it, and may return something else.
Handler = Callable[[Callable[..., Any], Sequence[Any], dict[str, Any]], Any]


class TensorCallMode(TorchFunctionMode):
    """Hand every tensor function that is called inside, on this thread, to a handler."""

    def __init__(self, handler: Handler) -> None:
        super().__init__()
        self.handler = handler

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return self.handler(func, args, kwargs or {})


def call_unchanged(function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """The handler that changes nothing."""
    return function(*args, **kwargs)


def op_name(function: Callable[..., Any]) -> str:
    """The name of a tensor function, the same for torch.relu, Tensor.relu and torch.ops.aten.relu.default."""
    return str(getattr(function, "__name__", "")).split(".")[0]


@dataclass(frozen=True)
class FeatureLayout:
    """How feature maps lie in a tensor."""

    channels: Literal["first", "last"]
    grid: tuple[int, int] | None  # h, w; None where tokens lie on no grid: a class token is among them
    tokens: bool = False  # the positions lie on one axis

    def feature_maps(self, tensor: Tensor) -> Tensor:
        """The tensor as (N, C, h, w); (N, C, 1, tokens) where there is no grid. A view."""
        if self.tokens:
            rows: Tensor = tensor if self.channels == "first" else tensor.transpose(1, 2)
            maps: Tensor = rows.unflatten(2, self.grid or (1, -1))
            return maps
        return tensor if self.channels == "first" else tensor.permute(0, 3, 1, 2)


@dataclass(frozen=True, eq=False)
class PoolingCall:
    """A call that took feature maps to one value a channel, or flattened them."""

    index: int  # how many such calls came before it in the same pass
    source: Tensor
    result: Tensor
    layout: FeatureLayout
    reapply: Callable[[Tensor], Tensor] | None  # the same on other maps like these; None where it took two calls

    def feature_maps(self) -> Tensor:
        """(N, C, h, w), a copy: an in-place ReLU that follows would rewrite an alias."""
        return self.layout.feature_maps(self.source).detach().clone()

    def pooled(self) -> Tensor:
        """(N, C), or (N, C * h * w) where they were flattened; a copy."""
        return self.result.detach().flatten(1).clone()

    def derivative(self) -> Tensor | None:
        """d pooled / d feature maps, (N, C, h, w), if every pooled value depends on its own channel only, else None."""
        if self.reapply is None or self.layout.feature_maps(self.source).shape[1] != self.result[0].numel():
            return None
        with torch.inference_mode(False), torch.enable_grad():
            leaf = self.source.detach().clone().requires_grad_()
            pooled = self.reapply(leaf.clone()).flatten(1)
            if not pooled.requires_grad:
                return None
            (slope,) = torch.autograd.grad(pooled.sum(), leaf, retain_graph=True)
            # Channels that mix would show under other signs.
            signs = torch.ones_like(pooled)
            signs[:, ::2] = -1
            (signed,) = torch.autograd.grad(pooled, leaf, signs)
        slope, signed = self.layout.feature_maps(slope), self.layout.feature_maps(signed)
        alone = torch.allclose(signed, slope * signs[..., None, None], rtol=1e-4, atol=1e-6 * float(slope.abs().max()))
        return slope if alone else None


def on_pooling_calls(act: Callable[[PoolingCall], Tensor], perform: Handler = call_unchanged) -> Handler:
    """A handler that hands each reduction of a pass to `act`, in order, and returns its answer as the result."""
    count = 0
    grids: dict[int, tuple[int, int]] = {}  # the last 4-D grid of so many positions: tokens have lost theirs
    # Results that lost one of two axes, as by maps.mean(3).mean(2), each with the maps that it came from.
    half: dict[int, tuple[Tensor, Tensor]] = {}
    # What was made of parameters alone, a position embedding resized to the image: how often changes with its size.
    constant: dict[int, Tensor] = {}

    def handler(function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        nonlocal count
        result = perform(function, args, kwargs)
        # Mostly the first argument; einsum's is its equation.
        place = next((n for n, argument in enumerate(args) if isinstance(argument, Tensor)), None)
        given = kwargs.get("input") if place is None else args[place]
        if not isinstance(result, Tensor) or not isinstance(given, Tensor):
            return result
        arguments = [argument for argument in (*args, *kwargs.values()) if isinstance(argument, Tensor)]
        if all(_is_constant(argument, constant) for argument in arguments):
            constant[id(result)] = result
            return result
        _, source = half.get(id(given), (None, given))
        layout = _layout(source.shape, result.shape, grids)
        if layout is not None:

            def again(maps: Tensor) -> Tensor:
                if place is None:
                    pooled: Tensor = function(*args, **(kwargs | {"input": maps}))
                else:
                    pooled = function(*args[:place], maps, *args[place + 1 :], **kwargs)
                return pooled

            result = act(PoolingCall(count, source, result, layout, again if source is given else None))
            count += 1
        elif _lost_an_axis(given.shape, result.shape):
            half[id(result)] = result, given
        if result.ndim == 4:
            for h, w in (result.shape[1:3], result.shape[2:]):
                # What attention makes of one query is no grid.
                if h > 1 and w > 1:
                    grids[h * w] = h, w
        return result

    return handler


def _is_constant(tensor: Tensor, known: dict[int, Tensor]) -> bool:
    return isinstance(tensor, nn.Parameter) or id(tensor) in known


def _layout(source: torch.Size, result: torch.Size, grids: dict[int, tuple[int, int]]) -> FeatureLayout | None:
    """How the channels of `source` lie if it has several positions and `result` one value a channel, else None."""
    if len(result) not in (2, 3, 4) or source[:1] != result[:1] or not source[0]:
        return None
    values = result.numel() // source[0]
    if len(source) == 4:
        return _layout_of_maps(source, result, values)
    if len(source) == 3:
        return _layout_of_tokens(source, result, values, grids)
    return None


def _layout_of_maps(source: torch.Size, result: torch.Size, values: int) -> FeatureLayout | None:
    _, channels, height, width = source
    if height * width > 1:
        # One row of one channel is a map of one position, with the channels last.
        pooled, flattened = values == channels == result[1], values == source[1:].numel() and len(result) == 2
        flattened = flattened and channels * height > 1
        if pooled or flattened:
            return FeatureLayout("first", (height, width))
    if channels * height > 1 and width > 1 and values == width == result[-1]:
        return FeatureLayout("last", (channels, height))
    return None


def _layout_of_tokens(
    source: torch.Size, result: torch.Size, values: int, grids: dict[int, tuple[int, int]]
) -> FeatureLayout | None:
    _, rows, columns = source
    if rows > 1 and columns > 1 and values == columns == result[-1]:
        return FeatureLayout("last", grids.get(rows), tokens=True)
    # Without a grid it is a sum over channels, as a normalisation makes one for each token.
    if columns in grids and columns > 1 and values == rows == result[1]:
        return FeatureLayout("first", grids[columns], tokens=True)
    return None


def _lost_an_axis(source: torch.Size, result: torch.Size) -> bool:
    """Whether maps (N, a, b, c) became one value a row or column: (N, a, b), (N, a, c) or (N, b, c)."""
    if len(source) != 4 or source[:1] != result[:1] or result.numel() >= source.numel():
        return False
    left = tuple(result[1:])
    return any(
        left in ((*source[1:axis], *source[axis + 1 :]), (*source[1:axis], 1, *source[axis + 1 :])) for axis in (2, 3)
    ) or left == tuple(source[2:])
