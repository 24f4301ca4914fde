"""Which pixels one position of a feature map sees, and where their centre lies.

Every convolution and pooling on the way moves the grid by a rule that knows only its kernel k, stride s, padding p and
dilation d (Araujo, Norris, Sim, "Computing receptive fields of convolutional neural networks", Distill 2019):

    centre += ((k - 1) * d / 2 - p) * stride;   size += (k - 1) * d * stride;   stride *= s

Resizing a class map to the image instead puts its cells in the wrong places: a ResNet's by 15.5 pixels of 224.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from inspector.capture import not_reached, watch
from inspector.reductions import Seen, at_reductions, name_of


@dataclass(frozen=True)
class Axis:
    """The receptive fields along one axis, in pixels of the input; the edge of the first pixel is 0."""

    centre: float  # of the receptive field of position 0
    stride: float  # from one position to the next
    size: float  # math.inf where every position sees everything


@dataclass(frozen=True)
class ReceptiveField:
    """The receptive fields of all positions of a feature map."""

    y: Axis
    x: Axis


def receptive_field(network: nn.Module, example: Tensor, pooling: int) -> ReceptiveField:
    """The receptive fields of the feature maps that go into the reduction `pooling`, for an input (1, channels, H, W).

    Where an operation moves the grid in a way that no rule here knows, the positions are taken to divide the input
    evenly and to see all of it.
    """
    tracks = _Tracks(example)
    found: list[ReceptiveField] = []

    def look(seen: Seen) -> Tensor:
        if seen.index == pooling:
            first = seen.source.ndim == 4 and seen.layout.channels == "first"
            known = first or id(seen.source) in tracks.views
            found.append(tracks.of(seen.source) if known else tracks.even(seen.layout.grid or (1, 1)))
        return seen.result

    with torch.no_grad():
        watch(network, example, at_reductions(look, tracks.perform))
    if not found:
        raise not_reached(example)
    return found[0]


class _Tracks:
    """The receptive fields of the tensors of one pass."""

    def __init__(self, image: Tensor) -> None:
        self.image_size = image.shape[-2:]
        pixel = Axis(centre=0.5, stride=1, size=1)
        # The tensors too: an id is a name only while its owner lives.
        self.known = {id(image): (image, ReceptiveField(pixel, pixel))}
        self.views: set[int] = set()  # maps laid out anew, as tokens or with their channels last

    def of(self, tensor: Tensor) -> ReceptiveField:
        return self.known[id(tensor)][1]

    def even(self, size: Sequence[int]) -> ReceptiveField:
        """Of positions that divide the image evenly and see all of it."""
        axes = (Axis(whole / n / 2, whole / n, math.inf) for whole, n in zip(self.image_size, size, strict=True))
        return ReceptiveField(*axes)

    def perform(self, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Call the function, and note the receptive fields of what it returns."""
        sources = [tensor for tensor in _tensors([args, kwargs]) if id(tensor) in self.known]
        # Before the call: one that works in place changes its argument.
        before = [(tuple(tensor.shape[-2:]), self.of(tensor)) for tensor in sources]
        result = function(*args, **kwargs)
        if before:
            name = name_of(function)
            move, viewed = _MOVES.get(name), any(id(source) in self.views for source in sources)
            for tensor in _tensors(result):
                if move:
                    field = move(before[0][1], args, kwargs)
                elif _keeps_positions(name, sources, tensor, viewed):
                    field = _widest([field for _, field in before])
                    self.views.add(id(tensor))
                elif viewed:
                    # Attention, say, brings positions together.
                    field = self.even(tensor.shape[-2:] if tensor.ndim >= 4 else (1, 1))
                else:
                    field = self._meet(tensor, before)
                self.known[id(tensor)] = tensor, field
        return result

    def _meet(self, result: Tensor, before: list[tuple[tuple[int, ...], ReceptiveField]]) -> ReceptiveField:
        """Of what keeps the grid: where branches meet, a position sees what it saw in any of them."""
        same = [field for size, field in before if size == tuple(result.shape[-2:])]
        if result.ndim < 4 or not same:
            return self.even(result.shape[-2:] if result.ndim >= 4 else (1, 1))
        return _widest([same[0], *(field for _, field in before)])


_VIEWS = ("flatten", "unflatten", "view", "reshape", "permute", "transpose", "movedim", "contiguous")
_POINTWISE = (
    "relu", "relu6", "gelu", "silu", "hardswish", "sigmoid", "clamp", "hardtanh", "leaky_relu", "elu", "dropout", "add",
    "__add__", "add_", "iadd", "__iadd__", "mul", "__mul__", "mul_", "sub", "__sub__", "div", "__truediv__",
    "batch_norm", "layer_norm", "linear",
)  # fmt: skip


def _keeps_positions(name: str, sources: Sequence[Tensor], result: Tensor, viewed: bool) -> bool:
    """Whether maps were laid out anew, or, where they lie so already, every position was worked on by itself."""
    if name in _VIEWS:
        return sources[0].numel() == result.numel()
    return viewed and name in _POINTWISE and sources[0].shape[:-1] == result.shape[:-1]


def _widest(fields: Sequence[ReceptiveField]) -> ReceptiveField:
    """The first, as large as the largest."""
    return ReceptiveField(
        replace(fields[0].y, size=max(field.y.size for field in fields)),
        replace(fields[0].x, size=max(field.x.size for field in fields)),
    )


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def _moved(axis: Axis, kernel: int, stride: int, padding: float, dilation: int) -> Axis:
    reach = (kernel - 1) * dilation
    return Axis(
        centre=axis.centre + (reach / 2 - padding) * axis.stride,
        stride=axis.stride * stride,
        size=axis.size + reach * axis.stride,
    )


def _convolution(field: ReceptiveField, args: Sequence[Any], kwargs: dict[str, Any]) -> ReceptiveField:
    given = dict(zip(("input", "weight", "bias", "stride", "padding", "dilation"), args, strict=False)) | kwargs
    kernel = given["weight"].shape[-2:]
    dilation = _pair(given.get("dilation", 1))
    padding = given.get("padding", 0)
    if padding == "same":
        padding = [(k - 1) * d // 2 for k, d in zip(kernel, dilation, strict=True)]
    padding = (0, 0) if padding == "valid" else _pair(padding)
    return _window(field, kernel, _pair(given.get("stride", 1)), padding, dilation)


def _pooling(field: ReceptiveField, args: Sequence[Any], kwargs: dict[str, Any], dilated: bool) -> ReceptiveField:
    # avg_pool2d has no dilation: ceil_mode stands in its place.
    names = ("input", "kernel_size", "stride", "padding", "dilation")[: 5 if dilated else 4]
    given = dict(zip(names, args, strict=False)) | kwargs
    kernel = _pair(given["kernel_size"])
    stride = given.get("stride")
    dilation = _pair(given.get("dilation", 1))
    return _window(field, kernel, _pair(stride) if stride else kernel, _pair(given.get("padding", 0)), dilation)


def _padding(field: ReceptiveField, args: Sequence[Any], kwargs: dict[str, Any]) -> ReceptiveField:
    left, _, top, _ = (*(args[1] if len(args) > 1 else kwargs["pad"]), 0, 0)[:4]
    return _window(field, (1, 1), (1, 1), (top, left), (1, 1))


def _window(field: ReceptiveField, *rules: Sequence[Any]) -> ReceptiveField:
    (kernel, stride, padding, dilation) = rules
    return ReceptiveField(
        _moved(field.y, kernel[0], stride[0], padding[0], dilation[0]),
        _moved(field.x, kernel[1], stride[1], padding[1], dilation[1]),
    )


def _pair(value: Any) -> Sequence[Any]:
    values = tuple(value) if isinstance(value, list | tuple) else (value,)
    return values * 2 if len(values) == 1 else values


_MOVES: dict[str, Callable[[ReceptiveField, Sequence[Any], dict[str, Any]], ReceptiveField]] = {
    "conv2d": _convolution,
    "max_pool2d": partial(_pooling, dilated=True),
    "avg_pool2d": partial(_pooling, dilated=False),
    "pad": _padding,
}
