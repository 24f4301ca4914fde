"""Find the calls in a forward pass that pool feature maps: calls that reduce each channel to one value, or flatten.

Every function and method call on tensors is inspected, so a pooling is found whether it is a module, a function or a
method, and whether the maps are laid out as (N, C, h, w), as (N, h, w, C), or as tokens, (N, h * w, C).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from inspector.explain.tracing.tensor_calls import Handler, TensorNotes, call_unchanged


@dataclass(frozen=True)
class FeatureLayout:
    """How feature maps are laid out in a tensor."""

    channels: Literal["first", "last"]
    grid: tuple[int, int] | None  # h, w; None for tokens that form no grid, because a class token is among them
    tokens: bool = False  # all cells are on one axis

    def feature_maps(self, tensor: Tensor) -> Tensor:
        """Return a view of the tensor as (N, C, h, w); as (N, C, 1, tokens) where there is no grid."""
        if self.tokens:
            rows: Tensor = tensor if self.channels == "first" else tensor.transpose(1, 2)
            maps: Tensor = rows.unflatten(2, self.grid or (1, -1))
            return maps
        return tensor if self.channels == "first" else tensor.permute(0, 3, 1, 2)


@dataclass(frozen=True, eq=False)
class PoolingCall:
    """A call that reduced each channel of feature maps to one value, or flattened them."""

    index: int  # number of such calls before it in the same pass
    source: Tensor  # the feature maps, in the network's own layout
    result: Tensor
    layout: FeatureLayout
    reapply: Callable[[Tensor], Tensor] | None  # pools other maps of this shape; None where two calls did the pooling

    def feature_maps(self) -> Tensor:
        """Return a copy of the feature maps, (N, C, h, w)."""
        # A copy, because an in-place ReLU that follows would overwrite a view.
        return self.layout.feature_maps(self.source).detach().clone()

    def pooled(self) -> Tensor:
        """Return a copy of the pooled values: (N, C), or (N, C * h * w) where the maps were flattened."""
        return self.result.detach().flatten(1).clone()

    def per_channel_derivative(self) -> Tensor | None:
        """Compute d pooled / d feature maps if every pooled value depends on its own channel only.

        The gradient of a sum of pooled values, each with a sign s[c] of 1 or -1, is

            d (sum over c of s[c] * p[c]) / d F[d, y, x]  =  sum over c of  s[c] * dp[c] / dF[d, y, x]

        If p[c] depends on F[c] only, the right side is s[d] * dp[d] / dF[d, y, x]: the signed gradient is the plain one
        times s. Where channels mix, alternating signs give another gradient.

        Returns:
            Tensor (N, C, h, w); None if channels mix, or if the pooling cannot be applied again.
        """
        if self.reapply is None or self.layout.feature_maps(self.source).shape[1] != self.result[0].numel():
            return None
        with torch.inference_mode(False), torch.enable_grad():
            leaf = self.source.detach().clone().requires_grad_()
            pooled = self.reapply(leaf.clone()).flatten(1)
            if not pooled.requires_grad:
                return None
            (plain,) = torch.autograd.grad(pooled.sum(), leaf, retain_graph=True)
            signs = torch.ones_like(pooled)
            signs[:, ::2] = -1
            (signed,) = torch.autograd.grad(pooled, leaf, signs)
        plain, signed = self.layout.feature_maps(plain), self.layout.feature_maps(signed)
        expected = plain * signs[..., None, None]
        independent = torch.allclose(signed, expected, rtol=1e-4, atol=1e-6 * float(plain.abs().max()))
        return plain if independent else None


class PoolingCallDetector:
    """A handler that passes each pooling call of a forward pass to `on_call`, whose answer replaces the result.

    The call itself goes through `handler`. One detector serves one pass.
    """

    def __init__(self, on_call: Callable[[PoolingCall], Tensor], handler: Handler = call_unchanged) -> None:
        self._on_call, self._handler = on_call, handler
        self._found = 0
        self._grids: dict[
            int, tuple[int, int]
        ] = {}  # number of cells -> last grid (h, w); tokens get their grid from here
        # Result of reducing one axis -> the maps before: maps.mean(3).mean(2) pools in two calls.
        self._half_pooled = TensorNotes[Tensor]()
        # Tensors computed from parameters only (e.g. a resized position embedding). They are not counted, since how
        # many there are depends on the input size.
        self._constants = TensorNotes[bool]()

    def __call__(self, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Call the function, and pass the call to `on_call` if it pools feature maps."""
        result = self._handler(function, args, kwargs)
        # The input is the first argument that is a tensor; einsum's first argument is its equation.
        position = next((n for n, argument in enumerate(args) if isinstance(argument, Tensor)), None)
        given = kwargs.get("input") if position is None else args[position]
        if not isinstance(result, Tensor) or not isinstance(given, Tensor):
            return result
        if all(self._is_constant(argument) for argument in (*args, *kwargs.values()) if isinstance(argument, Tensor)):
            self._constants[result] = True
            return result
        first_half = self._half_pooled.get(given)
        source = given if first_half is None else first_half
        layout = _find_layout(source.shape, result.shape, self._grids)
        if layout is not None:
            reapply = _make_reapply(function, args, kwargs, position) if source is given else None
            result = self._on_call(PoolingCall(self._found, source, result, layout, reapply))
            self._found += 1
        elif _has_lost_an_axis(given.shape, result.shape):
            self._half_pooled[result] = given
        self._note_grid(result.shape)
        return result

    def _is_constant(self, tensor: Tensor) -> bool:
        return isinstance(tensor, nn.Parameter) or tensor in self._constants

    def _note_grid(self, shape: torch.Size) -> None:
        if len(shape) == 4:
            for height, width in (shape[1:3], shape[2:]):
                # One row or one column may be the output of attention for a single query: it is not taken as a grid.
                if height > 1 and width > 1:
                    self._grids[height * width] = height, width


def _make_reapply(
    function: Callable[..., Tensor], args: Sequence[Any], kwargs: dict[str, Any], position: int | None
) -> Callable[[Tensor], Tensor]:
    """Return the same call as a function of its input, the argument at `position` or the keyword "input"."""
    if position is None:
        return lambda maps: function(*args, **(kwargs | {"input": maps}))
    return lambda maps: function(*args[:position], maps, *args[position + 1 :], **kwargs)


def _find_layout(source: torch.Size, result: torch.Size, grids: dict[int, tuple[int, int]]) -> FeatureLayout | None:
    """Find the layout of `source` if it has several cells and `result` has one value per channel; else None."""
    if len(result) not in (2, 3, 4) or source[:1] != result[:1] or not source[0]:
        return None
    values = result.numel() // source[0]
    if len(source) == 4:
        return _find_map_layout(source, result, values)
    if len(source) == 3:
        return _find_token_layout(source, result, values, grids)
    return None


def _find_map_layout(source: torch.Size, result: torch.Size, values: int) -> FeatureLayout | None:
    _, channels, height, width = source
    if height * width > 1:
        # Not for (N, 1, 1, W): these may be W channels of one cell, with the channels last, not flattened maps.
        flattened = values == source[1:].numel() and len(result) == 2 and channels * height > 1
        if flattened or values == channels == result[1]:
            return FeatureLayout("first", (height, width))
    if channels * height > 1 and width > 1 and values == width == result[-1]:
        return FeatureLayout("last", (channels, height))
    return None


def _find_token_layout(
    source: torch.Size, result: torch.Size, values: int, grids: dict[int, tuple[int, int]]
) -> FeatureLayout | None:
    _, rows, columns = source
    if rows > 1 and columns > 1 and values == columns == result[-1]:
        return FeatureLayout("last", grids.get(rows), tokens=True)
    # If the number of columns is no known grid, this is a reduction over channels, as in normalization.
    if columns in grids and columns > 1 and values == rows == result[1]:
        return FeatureLayout("first", grids[columns], tokens=True)
    return None


def _has_lost_an_axis(source: torch.Size, result: torch.Size) -> bool:
    """Tell whether maps (N, a, b, c) were reduced along one axis."""
    if len(source) != 4 or source[:1] != result[:1] or result.numel() >= source.numel():
        return False
    a, b, c = source[1:]
    return tuple(result[1:]) in ((a, b), (a, c), (b, c), (a, b, 1), (a, 1, c))
