"""Find which pixels each cell of a feature map sees, and where their center lies.

Every convolution and pooling on the way changes the grid by a rule that depends only on its kernel size k, stride s,
padding p and dilation d (Araujo, Norris, Sim, "Computing receptive fields of convolutional neural networks", Distill
2019):

    center += ((k - 1) * d / 2 - p) * stride;   size += (k - 1) * d * stride;   stride *= s

Resizing a class map to the image instead puts its cells in the wrong places: those of a ResNet are off by 15.5 pixels
of 224.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from inspector.explain.tracing.forward import PoolingNotReachedError, forward_logits
from inspector.explain.tracing.pooling_calls import PoolingCall, PoolingCallDetector
from inspector.explain.tracing.tensor_calls import TensorNotes, op_name


@dataclass(frozen=True)
class Axis:
    """The receptive fields along one axis, in pixels of the input; the edge of the first pixel is 0."""

    centre: float  # center of the receptive field of cell 0
    stride: float  # distance from one cell to the next
    size: float  # math.inf if every cell sees the whole image


@dataclass(frozen=True)
class ReceptiveField:
    """The receptive fields of all cells of a feature map."""

    y: Axis
    x: Axis
    # Why the cells do not lie there: their place is unknown, and their map belongs on no photo. None: they lie there.
    misplaced: str | None = None
    # Whether all operations before are known not to move cells in another way. It is no part of where cells lie.
    certain: bool = field(default=False, compare=False)

    @property
    def description(self) -> str:
        """One sentence: whether the place of the cells is known."""
        return self.warning or "Every cell responds to its own part of the photo."

    @property
    def warning(self) -> str | None:
        """One sentence that the place of the cells is unknown, and why; None if it is known."""
        if self.misplaced is None:
            return None
        return f"The place of this evidence is unknown: {self.misplaced}. It is drawn on no photo."


PIXELS = ReceptiveField(
    Axis(centre=0.5, stride=1, size=1), Axis(centre=0.5, stride=1, size=1)
)  # the receptive fields of the image's own pixels


def find_receptive_field(network: nn.Module, example: Tensor, pooling: int) -> ReceptiveField:
    """Find the receptive fields of the feature maps that a pooling call takes; see `find_receptive_fields`."""
    (field,) = find_receptive_fields(network, example, [pooling])
    return field


def find_receptive_fields(network: nn.Module, example: Tensor, poolings: Sequence[int]) -> list[ReceptiveField]:
    """Follow the operations of a pass to the receptive fields of the feature maps that some pooling calls take.

    Args:
        network: any classifier.
        example: an input (1, channels, H, W).
        poolings: indices of the pooling calls.

    Returns:
        The receptive fields of each call. If some op changes the grid by a rule that is not known here, the cells
        divide the input evenly and each sees all of it.
    """
    tracker = ReceptiveFieldTracker(example)
    found: dict[int, ReceptiveField] = {}

    def look_up(call: PoolingCall) -> Tensor:
        if call.index in poolings:
            grid = call.layout.grid or (1, 1)
            field = tracker.field_of(call.source, grid)
            found[call.index] = field or make_even_field(example.shape[-2:], grid)
        return call.result

    with torch.no_grad():
        forward_logits(network, example, PoolingCallDetector(look_up, tracker.handle))
    if len(found) < len(poolings):
        raise PoolingNotReachedError(example)
    return [found[index] for index in poolings]


def make_even_field(size: Sequence[int], grid: Sequence[int]) -> ReceptiveField:
    """Return receptive fields for cells that divide an image (height, width) evenly and each see all of it."""
    y, x = (Axis(pixels / n / 2, pixels / n, math.inf) for pixels, n in zip(size, grid, strict=True))
    return ReceptiveField(y, x)


def slide_window(axis: Axis, kernel: int, stride: int, padding: float, dilation: int) -> Axis:
    """Return the receptive fields along an axis after a convolution or pooling."""
    reach = (kernel - 1) * dilation
    return Axis(
        centre=axis.centre + (reach / 2 - padding) * axis.stride,
        stride=axis.stride * stride,
        size=axis.size + reach * axis.stride,
    )


@dataclass(frozen=True, eq=False)
class _Track:
    """What is known of one tensor of a pass."""

    field: ReceptiveField | None  # None if it is unknown
    grid: tuple[int, ...]  # h, w
    certain: bool  # whether all operations so far are in the tables below


class ReceptiveFieldTracker:
    """A handler that follows the receptive fields of all tensors of one pass."""

    def __init__(self, image: Tensor) -> None:
        self._tracks = TensorNotes[_Track]()
        self._tracks[image] = _Track(PIXELS, tuple(image.shape[-2:]), True)

    def field_of(self, tensor: Tensor, grid: tuple[int, int]) -> ReceptiveField | None:
        """Return the receptive fields of a tensor whose cells form this grid (h, w); None if they are not known."""
        track = self._tracks.get(tensor)
        if track is None or track.field is None or track.grid != grid:
            return None
        return replace(track.field, certain=track.certain)

    def strides_of(self, tensor: Tensor) -> tuple[float, float] | None:
        """Return the distances (down, across) of a tensor's cells, in any layout; None if they are not known."""
        track = self._tracks.get(tensor)
        return None if track is None or track.field is None else (track.field.y.stride, track.field.x.stride)

    def handle(self, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Call the function, and note the receptive fields of its result."""
        known = [(tensor, self._tracks.get(tensor)) for tensor in _find_tensors([args, kwargs])]
        inputs = [(tensor, track) for tensor, track in known if track is not None]
        # Read before the call, because an in-place op changes its argument.
        spatial_last = bool(inputs) and all(_is_spatial_last(tensor, track) for tensor, track in inputs)
        shape = tuple(inputs[0][0].shape) if inputs else ()
        tracks = [track for _, track in inputs]
        result = function(*args, **kwargs)
        for tensor in _find_tensors(result) if tracks else ():
            name, first = op_name(function), tracks[0]
            certain = all(track.certain for track in tracks)
            if name in _WINDOW_RULES:
                rule, parameters = _WINDOW_RULES[name]
                given = dict(zip(parameters, args, strict=False)) | kwargs
                field = None if first.field is None else rule(first.field, given, spatial_last)
                track = _Track(field, _find_grid(tensor, first, spatial_last), certain)
            elif name in _GRID_RULES and spatial_last and tensor.ndim == 4:
                grid = tuple(tensor.shape[-2:])
                field = first.field and _GRID_RULES[name](first.field, args[1:], first.grid, grid)
                track = _Track(field, grid, certain)
            elif name in _LAYOUT_OPS and tensor.numel() == math.prod(shape):
                # An exchange of height and width, or a view of other height and width, is a layout op too.
                keeps = spatial_last and tuple(tensor.shape[-2:]) == first.grid
                if name in _EXCHANGES:
                    keeps = _keeps_order(name, args[1:], len(shape))
                elif name not in _VIEWS or (spatial_last and tensor.ndim < 4 and name == "flatten"):
                    keeps = True
                track = replace(first, certain=certain and keeps)
            elif spatial_last:
                field, grid = _merge_fields(tracks, tuple(tensor.shape)), tuple(tensor.shape[-2:])
                track = _Track(field, grid, certain and (name in _POINTWISE_OPS or name in _CELLWISE_OPS))
            else:
                # If the grid is not in the last two axes, a matrix product (as in attention) may mix cells.
                pointwise = name in _POINTWISE_OPS and tuple(tensor.shape[:-1]) == shape[:-1]
                certain &= pointwise or name in _CELLWISE_OPS
                track = _Track(_widen_field(tracks) if pointwise else None, first.grid, certain)
            self._tracks[tensor] = track
        return result


def _is_spatial_last(tensor: Tensor, track: _Track) -> bool:
    """Tell whether the last two axes are the grid; they are not for tokens and for channels-last maps."""
    return tensor.ndim >= 4 and tuple(tensor.shape[-2:]) == track.grid


def _keeps_order(name: str, axes: Sequence[Any], ndim: int) -> bool:
    """Tell whether a permutation moves or shuffles channels only; `axes` are its arguments after the tensor."""
    flat = axes[0] if len(axes) == 1 and isinstance(axes[0], list | tuple) else axes
    if not flat or not all(isinstance(axis, int) for axis in flat):
        return False
    order = [axis % ndim for axis in flat]
    if name == "permute":
        return order in ([0, 2, 3, 1], [0, 3, 1, 2]) or order[-2:] == [ndim - 2, ndim - 1]
    return bool(max(order) < ndim - 2)


def _find_grid(result: Tensor, source: _Track, spatial_last: bool) -> tuple[int, ...]:
    return tuple(result.shape[-2:] if spatial_last else result.shape[1:3]) if result.ndim == 4 else source.grid


def _merge_fields(tracks: Sequence[_Track], shape: tuple[int, ...]) -> ReceptiveField | None:
    """Return the field of a merge on the same grid, such as a residual sum: as large as the largest input's."""
    same_grid = [track for track in tracks if len(shape) >= 4 and track.grid == shape[-2:]]
    return _widen_field([*same_grid, *tracks]) if same_grid else None


def _widen_field(tracks: Sequence[_Track]) -> ReceptiveField | None:
    """Return the field of cells that see what the cells of all inputs see, at the place of the first input.

    An unknown field, for example of a squeeze-and-excitation gate, counts as infinite.
    """
    first = tracks[0].field
    if first is None:
        return None
    fields = [one.field for one in tracks]
    y, x = (
        _unite([None if one is None else getattr(one, axis) for one in fields], getattr(first, axis)) for axis in "yx"
    )
    return ReceptiveField(y, x)


def _unite(axes: Sequence[Axis | None], first: Axis) -> Axis:
    known = [axis for axis in axes if axis is not None]
    if len(known) < len(axes) or any(math.isinf(axis.size) for axis in known):
        return replace(first, size=math.inf)
    if any(axis.stride != first.stride for axis in known):
        return replace(first, size=max(axis.size for axis in known))
    start, end = min(axis.centre - axis.size / 2 for axis in known), max(axis.centre + axis.size / 2 for axis in known)
    return Axis((start + end) / 2, first.stride, end - start)


# fmt: off
_LAYOUT_OPS = (
    "flatten", "unflatten", "view", "reshape", "permute", "transpose", "movedim", "contiguous", "to", "detach", "float",
)
_POINTWISE_OPS = (
    "relu", "relu6", "gelu", "silu", "hardswish", "sigmoid", "clamp", "hardtanh", "leaky_relu", "elu", "dropout", "add",
    "__add__", "add_", "iadd", "__iadd__", "mul", "multiply", "__mul__", "mul_", "sub", "subtract", "__sub__", "div",
    "__truediv__", "batch_norm", "layer_norm", "linear", "cat", "rsqrt", "divide",
)
# Other functions that leave every cell where it is, if the grid is in the last two axes. Those that reduce the grid to
# one cell make gates.
_CELLWISE_OPS = (
    "concat", "chunk", "split", "group_norm", "instance_norm", "prelu", "mish", "softplus", "tanh", "hardsigmoid",
    "exp", "square", "sqrt", "rsqrt", "pow", "relu_", "hardtanh_", "clamp_", "clamp_min", "clamp_max", "mean",
    "adaptive_avg_pool2d", "sum", "dropout2d", "native_batch_norm", "rms_norm", "true_divide", "div_", "neg",
    "expand_as", "expand", "imul", "__imul__", "rsub", "__rsub__", "__radd__", "__rmul__", "clone", "half",
    "bfloat16", "double", "type_as",
)
_EXCHANGES = ("permute", "transpose", "movedim")
_VIEWS = ("flatten", "unflatten", "view", "reshape")
# fmt: on


def _find_tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]


def _follow_convolution(field: ReceptiveField, given: dict[str, Any], spatial_last: bool) -> ReceptiveField | None:
    if not spatial_last:
        return None
    kernel = given["weight"].shape[-2:]
    dilation = _as_pair(given.get("dilation", 1))
    padding = given.get("padding", 0)
    if padding == "same":
        padding = [(k - 1) * d // 2 for k, d in zip(kernel, dilation, strict=True)]
    padding = (0, 0) if padding == "valid" else _as_pair(padding)
    return _slide_windows(field, kernel, _as_pair(given.get("stride", 1)), padding, dilation)


def _follow_pooling(field: ReceptiveField, given: dict[str, Any], spatial_last: bool) -> ReceptiveField | None:
    if not spatial_last:
        return None
    kernel = _as_pair(given["kernel_size"])
    stride = _as_pair(given["stride"]) if given.get("stride") else kernel
    return _slide_windows(field, kernel, stride, _as_pair(given.get("padding", 0)), _as_pair(given.get("dilation", 1)))


def _follow_padding(field: ReceptiveField, given: dict[str, Any], spatial_last: bool) -> ReceptiveField:
    sides = (*given["pad"], 0, 0, 0, 0)
    # `pad` lists the last axis first. In a channels-last layout the last axis is the channels.
    left, _, top, _ = sides[:4] if spatial_last else sides[2:6]
    return _slide_windows(field, (1, 1), (1, 1), (top, left), (1, 1))


def _slide_windows(
    field: ReceptiveField, kernel: Sequence[Any], stride: Sequence[Any], padding: Sequence[Any], dilation: Sequence[Any]
) -> ReceptiveField:
    y, x = map(slide_window, (field.y, field.x), kernel, stride, padding, dilation)
    return ReceptiveField(y, x)


def _as_pair(value: Any) -> Sequence[Any]:
    values = tuple(value) if isinstance(value, list | tuple) else (value,)
    return values * 2 if len(values) == 1 else values


# The rule for each function, with the names of the function's first parameters.
_WINDOW_RULES: dict[str, tuple[Callable[..., ReceptiveField | None], tuple[str, ...]]] = {
    "conv2d": (_follow_convolution, ("input", "weight", "bias", "stride", "padding", "dilation")),
    "max_pool2d": (_follow_pooling, ("input", "kernel_size", "stride", "padding", "dilation")),
    "avg_pool2d": (_follow_pooling, ("input", "kernel_size", "stride", "padding")),
    "pad": (_follow_padding, ("input", "pad")),
}


def _follow_slices(
    field: ReceptiveField, arguments: Sequence[Any], grid: Sequence[int], result: Sequence[int]
) -> ReceptiveField | None:
    """Follow a crop such as ``maps[..., 2:-2, ::2]``."""
    index = arguments[0] if isinstance(arguments[0], tuple) else (arguments[0],)
    if any(part is not Ellipsis and not isinstance(part, slice) for part in index):
        return None
    parts = list(index)
    if Ellipsis in parts:
        gap = parts.index(Ellipsis)
        parts[gap : gap + 1] = [slice(None)] * (5 - len(parts))
    parts += [slice(None)] * (4 - len(parts))
    starts, _, steps = zip(*(part.indices(cells) for part, cells in zip(parts[2:], grid, strict=True)), strict=True)
    return _slide_windows(field, (1, 1), steps, [-start for start in starts], (1, 1))


def _follow_scaling(
    field: ReceptiveField, arguments: Sequence[Any], grid: Sequence[int], result: Sequence[int]
) -> ReceptiveField | None:
    """Follow an op that divides the same area into other cells, as interpolation and adaptive pooling do."""
    if max(result) == 1:
        return None
    axes = []
    for axis, old, new in zip((field.y, field.x), grid, result, strict=True):
        factor = old / new
        center = axis.centre + (factor - 1) / 2 * axis.stride
        axes.append(Axis(center, axis.stride * factor, axis.size + max(1, math.ceil(factor)) * axis.stride))
    y, x = axes
    return ReceptiveField(y, x) if tuple(grid) != tuple(result) else field


# Rules for functions of maps (N, C, h, w): the field, the arguments after the maps, the grid before and after.
_GRID_RULES: dict[
    str, Callable[[ReceptiveField, Sequence[Any], Sequence[int], Sequence[int]], ReceptiveField | None]
] = {
    "__getitem__": _follow_slices,
    "interpolate": _follow_scaling,
    "adaptive_avg_pool2d": _follow_scaling,
    "adaptive_max_pool2d": _follow_scaling,
}
