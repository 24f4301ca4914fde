"""Run tensor functions with the statistics and the gates of one image frozen.

A layer that normalizes divides by a number that it computes from the image, and a ReLU keeps or drops each value by its
sign. With these numbers and choices frozen, both are affine. Layer-wise relevance propagation treats normalizations in
the same way (Ali et al., "XAI for transformers", ICML 2022).

    normalization   x / s(x)     s is frozen (normalizing.py tells what normalizes)
    gate            relu(x)      frozen to slope * x + offset; so are other piecewise affine functions of one value
    selection       max(x)       frozen to the element that is the maximum for this image
    comparison      x > 0        frozen to its result for this image

Everything else (tanh, a square, a product) is computed as it is, so a head with such a function stays nonlinear.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from inspector.errors import NetworkError
from inspector.explain.normalizing import NORMALIZATIONS, StatisticNotes
from inspector.explain.precision import call_widened
from inspector.explain.tracing.tensor_calls import is_writing, op_name


class FrozenOps:
    """Handler that freezes statistics and gates in a first pass of one row, and uses them in other passes.

    The passes have to call the same functions in the same order, as a recording does.
    """

    def __init__(self, frozen: Sequence[Any] | None = None) -> None:
        self.frozen = [] if frozen is None else list(frozen)
        self._remaining = None if frozen is None else iter(frozen)  # None: this is the first pass
        self.notes = StatisticNotes()

    def __reduce__(self) -> tuple[type["FrozenOps"], tuple[list[Any]]]:
        # The notes of the first pass, which are weak references, are not needed any more.
        return FrozenOps, (self.frozen,)

    def reuse(self) -> "FrozenOps":
        """Return a handler for one other pass, with what the first pass has frozen."""
        return FrozenOps(self.frozen)

    def freeze(self, compute: Callable[[], Any]) -> Any:
        """Compute a value in the first pass; return the value of the first pass in others."""
        if self._remaining is not None:
            try:
                return next(self._remaining)
            except StopIteration:
                raise NetworkError("The head calls other functions than in its first pass.") from None
        with torch.no_grad():
            self.frozen.append(compute())
        return self.frozen[-1]

    def __call__(self, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Call the function with what it freezes."""
        name = op_name(function).strip("_")
        divisor = self.notes.find_divisor(name, args)
        if divisor is not None:
            statistic = self.freeze(args[divisor].detach().clone)
            frozen_args = [*args[:divisor], statistic, *args[divisor + 1 :]]
            result = call_widened(function, frozen_args, kwargs)
            self.notes.note_result("", args, kwargs, result)
            return result
        rule = _find_rule(name, args, kwargs)
        if rule is None:
            result = call_widened(function, args, kwargs)
        else:
            result = rule(self, function, args, kwargs)
            if is_writing(function, kwargs):
                target: Tensor = kwargs["out"] if isinstance(kwargs.get("out"), Tensor) else args[0]
                result = target.copy_(result)
        self.notes.note_result(name, args, kwargs, result)
        return result


_Rule = Callable[[FrozenOps, Callable[..., Any], Sequence[Any], dict[str, Any]], Any]


def _find_rule(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> _Rule | None:
    if name in ("max", "min"):
        if len(args) == 1 and not set(kwargs) - {"input"}:
            return None  # over all rows
        is_choice = isinstance(args[1] if len(args) > 1 else kwargs.get("other"), Tensor)
        return _freeze_choice if is_choice else _freeze_indexed
    if name == "median" and len(args) == 1 and "dim" not in kwargs:
        return None
    return _RULES.get(name)


def _input_of(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
    values: Tensor = args[0] if args else kwargs["input"]
    return values


def _freeze_normalization(
    ops: FrozenOps, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]
) -> Any:
    normalization = NORMALIZATIONS[op_name(function)]

    def call_with_frozen_statistics(*args: Any, **kwargs: Any) -> Tensor:
        result: Tensor = normalization(lambda statistic: ops.freeze(statistic.detach), *args, **kwargs)
        return result

    return call_widened(call_with_frozen_statistics, args, kwargs)


def _freeze_gate(ops: FrozenOps, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    """Run a piecewise affine function of each value as slope * x + offset."""
    values = _input_of(args, kwargs)
    if any(ops.notes.is_computed(other) for other in (*args[1:], *kwargs.values()) if other is not values):
        unknown: Tensor = call_widened(function, args, kwargs)  # for example clamp with limits that were computed
        return unknown
    others = {name: value for name, value in kwargs.items() if name not in ("input", "inplace", "out")}

    def find_slope_and_offset() -> tuple[Tensor, Tensor]:
        with torch.inference_mode(False), torch.enable_grad():
            leaf = values.detach().clone().requires_grad_()
            # A clone, because the function may write into its input.
            result = call_widened(function, (leaf.clone(), *args[1:]), others)
            (slope,) = torch.autograd.grad(result.sum(), leaf)
        return slope, result.detach() - slope * leaf.detach()

    slope, offset = ops.freeze(find_slope_and_offset)
    result: Tensor = values * slope + offset
    return result


def _freeze_result(ops: FrozenOps, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Run a comparison, or another piecewise constant function."""
    frozen = ops.freeze(lambda: call_widened(function, args, kwargs))
    # Every row gets the result of the first pass.
    result = call_widened(function, args, kwargs)
    return pytree.tree_map(
        lambda own, now: own.expand_as(now).clone() if isinstance(own, Tensor) else own, frozen, result
    )


def _freeze_choice(ops: FrozenOps, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    """Run maximum or minimum of two tensors; which of the two it is, is frozen."""
    first, second = torch.broadcast_tensors(args[0], args[1] if len(args) > 1 else kwargs["other"])
    takes_first = ops.freeze(lambda: call_widened(function, (first, second), {}) == first)
    return torch.where(takes_first, first, second)


def _freeze_indexed(ops: FrozenOps, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Run a function that selects values along an axis and also returns their indices, such as topk."""
    values = _input_of(args, kwargs)
    indices = ops.freeze(lambda: call_widened(function, args, kwargs)[1])
    result = call_widened(function, args, kwargs)
    position = 2 if op_name(function) in ("topk", "kthvalue") else 1
    axis = kwargs.get("dim", args[position] if len(args) > position else -1)
    axis = axis if isinstance(axis, int) and not isinstance(axis, bool) else -1
    keeps_axis = indices.ndim == values.ndim
    own = (indices if keeps_axis else indices.unsqueeze(axis)).expand(len(values), *[-1] * (values.ndim - 1))
    selected = values.gather(axis, own)
    own, selected = (own, selected) if keeps_axis else (own.squeeze(axis), selected.squeeze(axis))
    return type(result)((selected, own)) if type(result) is not tuple else (selected, own)


def _freeze_extreme(ops: FrozenOps, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Run amax or amin; the first of equal values is frozen."""
    values = _input_of(args, kwargs)
    axes = kwargs.get("dim", args[1] if len(args) > 1 else ())
    axes = [axis % values.ndim for axis in ((axes,) if isinstance(axes, int) else axes)] or list(range(values.ndim))
    kept = [axis for axis in range(values.ndim) if axis not in axes]
    rows = values.permute(*kept, *axes).flatten(len(kept))
    find = torch.argmax if op_name(function) == "amax" else torch.argmin
    indices = ops.freeze(lambda: find(rows, -1, keepdim=True))
    selected = rows.gather(-1, indices.expand(*rows.shape[:-1], 1)).squeeze(-1)
    if kwargs.get("keepdim", args[2] if len(args) > 2 else False):
        for axis in sorted(axes):
            selected = selected.unsqueeze(axis)
    return selected


def _freeze_max_pool(ops: FrozenOps, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Run max pooling; the cells that have the maxima are frozen."""
    values = _input_of(args, kwargs)
    axes = int(op_name(function)[-2])
    with_indices = kwargs | {"return_indices": True}
    indices = ops.freeze(lambda: call_widened(function, args, with_indices)[1])
    own = indices.flatten(-axes).expand(*values.shape[:-axes], -1)
    selected = values.flatten(-axes).gather(-1, own).unflatten(-1, indices.shape[-axes:])
    return (selected, own.view_as(selected)) if kwargs.get("return_indices") else selected


# By the names of tensor functions, without underscores at either end.
_GATES: tuple[str, ...] = (
    "relu",
    "relu6",
    "leaky_relu",
    "rrelu",
    "prelu",
    "hardtanh",
    "hardsigmoid",
    "hardshrink",
    "softshrink",
)
_GATES += ("threshold", "clamp", "clamp_min", "clamp_max", "clip", "abs", "absolute")
_CONSTANTS: tuple[str, ...] = (
    "gt",
    "ge",
    "lt",
    "le",
    "eq",
    "ne",
    "greater",
    "less",
    "greater_equal",
    "less_equal",
    "isnan",
    "isfinite",
)
_CONSTANTS += ("sign", "sgn", "heaviside", "floor", "ceil", "round", "trunc", "fix", "argmax", "argmin", "argsort")
_CONSTANTS += ("isposinf", "isneginf", "signbit", "logical_and", "logical_or", "logical_not")
_INDEXED = ("topk", "sort", "median", "kthvalue", "cummax", "cummin")
_MAX_POOLS = ("max_pool1d", "max_pool2d", "adaptive_max_pool1d", "adaptive_max_pool2d")
_RULES: Mapping[str, _Rule] = (
    dict.fromkeys(NORMALIZATIONS, _freeze_normalization)
    | dict.fromkeys(_GATES, _freeze_gate)
    | dict.fromkeys(_CONSTANTS, _freeze_result)
    | dict.fromkeys(("maximum", "minimum", "fmax", "fmin"), _freeze_choice)
    | dict.fromkeys(_INDEXED, _freeze_indexed)
    | dict.fromkeys(("amax", "amin"), _freeze_extreme)
    | dict.fromkeys(_MAX_POOLS, _freeze_max_pool)
)
