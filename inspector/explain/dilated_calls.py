"""Call convolutions, poolings and slices with a part of their stride, so that they compute the cells between too."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from inspector.errors import InspectorError
from inspector.explain.tracing.tensor_calls import op_name


class DilationError(InspectorError):
    """The last strides of a network cannot be dilated; the message says why."""


def name_rows(name: str, args: Sequence[Any], images: int, shifts: int) -> Sequence[Any]:
    """Return the arguments of a function that names the number of images, with that of all shifts in its place."""
    if name not in ("view", "reshape", "expand") or len(args) < 2:
        return args
    sizes = args[1] if isinstance(args[1], list | tuple) else args[1:]
    if not sizes or not isinstance(sizes[0], int | torch.SymInt) or sizes[0] != images:
        return args
    return args[0], (shifts * images, *sizes[1:])


_Grid = tuple[int, ...]


def _dilate_windows(
    function: Callable[..., Tensor], values: Tensor, given: dict[str, Any], steps: Sequence[int], grid: _Grid
) -> Tensor:
    """Run a convolution or pooling with a part of its stride. What lies beyond the end of the maps is padding."""
    kernel = tuple(given["weight"].shape[-2:]) if "weight" in given else _as_pair(given["kernel_size"])
    stride = _as_pair(given.get("stride") or (1 if "weight" in given else kernel))
    padding, dilation = given.get("padding", 0), _as_pair(given.get("dilation", 1))
    name = op_name(function)
    if name == "avg_pool2d":
        unusual = given.get("ceil_mode") or given.get("divisor_override")
        if unusual or (given.get("count_include_pad") is False and any(_as_pair(padding))):
            raise DilationError("its average pooling takes the mean of fewer cells at the edge")
    sides = (0, 0) if padding == "valid" else _as_pair(padding)
    finer = [one // step for one, step in zip(stride, steps, strict=True)]
    if any(one * step != whole for one, step, whole in zip(finer, steps, stride, strict=True)):
        raise DilationError("one stride skips more cells at once than the finer grid has")
    down, across = (
        max(0, (cells * step - 1) * one + (k - 1) * d + 1 - 2 * side - length)
        for cells, step, one, k, d, side, length in zip(
            grid, steps, finer, kernel, dilation, sides, values.shape[-2:], strict=True
        )
    )
    if down or across:
        values = pad(values, (0, across, 0, down), value=-math.inf if name == "max_pool2d" else 0.0)
    given = {key: value for key, value in given.items() if key not in ("input", "ceil_mode")}
    return function(values, **given | {"stride": tuple(finer)})


def _dilate_slices(
    function: Callable[..., Tensor], values: Tensor, given: dict[str, Any], steps: Sequence[int], grid: _Grid
) -> Tensor:
    """Take more of the cells that slices such as ``maps[..., ::2, ::2]`` choose."""
    index = given["index"] if isinstance(given["index"], tuple) else (given["index"],)
    if not all(part is Ellipsis or isinstance(part, slice) for part in index):
        raise DilationError("it takes single cells of its feature maps")
    parts = list(index)
    gap = parts.index(Ellipsis) if Ellipsis in parts else len(parts)
    parts[gap : gap + 1] = [slice(None)] * (4 - len(parts) + (Ellipsis in parts))
    for axis, step, cells in zip((2, 3), steps, grid, strict=True):
        start, _, stride = parts[axis].indices(values.shape[axis])
        if stride % step:
            raise DilationError("one stride skips more cells at once than the finer grid has")
        stop = start + (cells * step - 1) * (stride // step) + 1
        if (more := stop - values.shape[axis]) > 0:
            values = pad(values, (0, more) if axis == 3 else (0, 0, 0, more))
        parts[axis] = slice(start, stop, stride // step)
    return values[tuple(parts)]


def _as_pair(value: Any) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, list | tuple) else (value,)
    return values * 2 if len(values) == 1 else values


# Functions whose stride can be dilated, and the names of their parameters in order.
DILATE = {
    "conv2d": _dilate_windows,
    "max_pool2d": _dilate_windows,
    "avg_pool2d": _dilate_windows,
    "__getitem__": _dilate_slices,
}
PARAMETERS = {
    "conv2d": ("input", "weight", "bias", "stride", "padding", "dilation", "groups"),
    "max_pool2d": ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"),
    "avg_pool2d": (
        "input", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override",
    ),
    "__getitem__": ("input", "index"),
}  # fmt: skip
