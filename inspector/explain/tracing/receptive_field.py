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

from inspector.explain.tracing.forward import forward_logits, pooling_not_reached
from inspector.explain.tracing.pooling_calls import Handler, PoolingCall, on_pooling_calls, op_name


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
    perform, field_of = follow(example)
    found: list[ReceptiveField] = []

    def look(seen: PoolingCall) -> Tensor:
        if seen.index == pooling:
            grid = seen.layout.grid or (1, 1)
            found.append(field_of(seen.source, grid) or even_field(example.shape[-2:], grid))
        return seen.result

    with torch.no_grad():
        forward_logits(network, example, on_pooling_calls(look, perform))
    if not found:
        raise pooling_not_reached(example)
    return found[0]


def follow(image: Tensor) -> tuple[Handler, Callable[[Tensor, tuple[int, int]], ReceptiveField | None]]:
    """A handler that follows the receptive fields of one pass, and a look-up for what has come out of it so far.

    The look-up takes a tensor and the grid (h, w) that its positions lie on, and gives None where no rule knew the way.
    All that the pass makes is kept as long as they are.
    """
    tracks = _Tracks(image)

    def field_of(tensor: Tensor, grid: tuple[int, int]) -> ReceptiveField | None:
        followed = tracks.known.get(id(tensor))
        return followed.field if followed is not None and followed.grid == grid else None

    return tracks.perform, field_of


def even_field(size: Sequence[int], grid: Sequence[int]) -> ReceptiveField:
    """Of positions that divide an image (height, width) evenly and see all of it."""
    axes = (Axis(whole / n / 2, whole / n, math.inf) for whole, n in zip(size, grid, strict=True))
    return ReceptiveField(*axes)


@dataclass(frozen=True, eq=False)
class _Track:
    """What is known of one tensor of a pass."""

    tensor: Tensor  # kept: an id is a name only while its owner lives
    field: ReceptiveField | None  # None: lost
    grid: tuple[int, ...]  # h, w

    @property
    def laid_out_usually(self) -> bool:
        """Whether its last two axes are the positions; not so with the channels last, or as tokens."""
        return self.tensor.ndim >= 4 and tuple(self.tensor.shape[-2:]) == self.grid


class _Tracks:
    """The receptive fields of the tensors of one pass."""

    def __init__(self, image: Tensor) -> None:
        pixel = Axis(centre=0.5, stride=1, size=1)
        self.known: dict[int, _Track] = {}
        self._note(image, ReceptiveField(pixel, pixel), tuple(image.shape[-2:]))

    def _note(self, tensor: Tensor, field: ReceptiveField | None, grid: tuple[int, ...]) -> None:
        self.known[id(tensor)] = _Track(tensor, field, grid)

    def perform(self, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Call the function, and note the receptive fields of what it returns."""
        sources = [self.known[id(tensor)] for tensor in _tensors([args, kwargs]) if id(tensor) in self.known]
        # Before the call: one that works in place changes its argument.
        usual = bool(sources) and all(source.laid_out_usually for source in sources)
        shape = tuple(sources[0].tensor.shape) if sources else ()
        result = function(*args, **kwargs)
        for tensor in _tensors(result) if sources else ():
            name, first = op_name(function), sources[0]
            if move := _MOVES.get(name):
                field = None if first.field is None else move(first.field, args, kwargs, usual)
                self._note(tensor, field, _moved_grid(tensor, first, usual))
            elif name in _VIEWS and tensor.numel() == math.prod(shape):
                self._note(tensor, first.field, first.grid)
            elif usual:
                self._note(tensor, _met(sources, tuple(tensor.shape)), tuple(tensor.shape[-2:]))
            else:
                # Where maps lie in another way, attention, say, may bring positions together.
                alone = name in _POINTWISE and tuple(tensor.shape[:-1]) == shape[:-1]
                self._note(tensor, _widest(sources) if alone else None, first.grid)
        return result


def _moved_grid(result: Tensor, source: _Track, usual: bool) -> tuple[int, ...]:
    return tuple(result.shape[-2:] if usual else result.shape[1:3]) if result.ndim == 4 else source.grid


def _met(sources: Sequence[_Track], shape: tuple[int, ...]) -> ReceptiveField | None:
    """Of what keeps the grid: where branches meet, a position sees what it saw in any of them."""
    same = [source for source in sources if len(shape) >= 4 and source.grid == shape[-2:]]
    return _widest([*same, *sources]) if same else None


def _widest(sources: Sequence[_Track]) -> ReceptiveField | None:
    """The first, as large as the largest; what was lost saw all, a gate of squeeze-and-excitation, say."""
    first, fields = sources[0].field, [source.field for source in sources]
    if first is None:
        return None
    return ReceptiveField(
        replace(first.y, size=max(math.inf if field is None else field.y.size for field in fields)),
        replace(first.x, size=max(math.inf if field is None else field.x.size for field in fields)),
    )


_VIEWS = (
    "flatten", "unflatten", "view", "reshape", "permute", "transpose", "movedim", "contiguous", "to", "detach", "float",
)  # fmt: skip
_POINTWISE = (
    "relu", "relu6", "gelu", "silu", "hardswish", "sigmoid", "clamp", "hardtanh", "leaky_relu", "elu", "dropout", "add",
    "__add__", "add_", "iadd", "__iadd__", "mul", "multiply", "__mul__", "mul_", "sub", "subtract", "__sub__", "div",
    "__truediv__", "batch_norm", "layer_norm", "linear",
)  # fmt: skip


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


def _convolution(
    field: ReceptiveField, args: Sequence[Any], kwargs: dict[str, Any], usual: bool
) -> ReceptiveField | None:
    if not usual:
        return None
    given = dict(zip(("input", "weight", "bias", "stride", "padding", "dilation"), args, strict=False)) | kwargs
    kernel = given["weight"].shape[-2:]
    dilation = _pair(given.get("dilation", 1))
    padding = given.get("padding", 0)
    if padding == "same":
        padding = [(k - 1) * d // 2 for k, d in zip(kernel, dilation, strict=True)]
    padding = (0, 0) if padding == "valid" else _pair(padding)
    return _window(field, kernel, _pair(given.get("stride", 1)), padding, dilation)


def _pooling(
    field: ReceptiveField, args: Sequence[Any], kwargs: dict[str, Any], usual: bool, dilated: bool
) -> ReceptiveField | None:
    if not usual:
        return None
    # avg_pool2d has no dilation: ceil_mode stands in its place.
    names = ("input", "kernel_size", "stride", "padding", "dilation")[: 5 if dilated else 4]
    given = dict(zip(names, args, strict=False)) | kwargs
    kernel = _pair(given["kernel_size"])
    stride = given.get("stride")
    dilation = _pair(given.get("dilation", 1))
    return _window(field, kernel, _pair(stride) if stride else kernel, _pair(given.get("padding", 0)), dilation)


def _padding(field: ReceptiveField, args: Sequence[Any], kwargs: dict[str, Any], usual: bool) -> ReceptiveField:
    sides = (*(args[1] if len(args) > 1 else kwargs["pad"]), 0, 0, 0, 0)
    # The last axis comes first: with the channels last, what is done to them.
    left, _, top, _ = sides[:4] if usual else sides[2:6]
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


_MOVES: dict[str, Callable[[ReceptiveField, Sequence[Any], dict[str, Any], bool], ReceptiveField | None]] = {
    "conv2d": _convolution,
    "max_pool2d": partial(_pooling, dilated=True),
    "avg_pool2d": partial(_pooling, dilated=False),
    "pad": _padding,
}
