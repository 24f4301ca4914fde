"""Tell which numbers normalize: statistics by which a head divides the values that it computed them from.

A statistic was reduced over features (a mean of squares, a norm, a standard deviation), and after that only shifted,
scaled and raised to a power. It normalizes where it divides more values than it has itself, or where its inverse
multiplies them. The same number as a value of its own (the length of a capsule, the distance from a prototype), or as
a factor, does not normalize.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from inspector.explain.tracing.tensor_calls import TensorNotes

# Names of tensor functions, without underscores at either end.
DIVISIONS = ("div", "divide", "true_divide", "truediv", "itruediv")
PRODUCTS = ("mul", "multiply", "rmul", "imul")
_REDUCTIONS: tuple[str, ...] = (
    "sum",
    "mean",
    "nansum",
    "norm",
    "vector_norm",
    "linalg_vector_norm",
    "linalg_norm",
    "frobenius_norm",
)
_REDUCTIONS += ("std", "var", "std_mean", "var_mean", "amax", "amin", "max", "min", "einsum")
_SHIFTS: tuple[str, ...] = (
    "add",
    "radd",
    "iadd",
    "sub",
    "isub",
    "clamp",
    "clamp_min",
    "clamp_max",
    "clip",
    "maximum",
    "minimum",
    "max",
)
_SHIFTS += ("abs", "square", "sqrt", "nan_to_num")
_LAYOUTS: tuple[str, ...] = (
    "view",
    "reshape",
    "unsqueeze",
    "squeeze",
    "expand",
    "expand_as",
    "broadcast_to",
    "repeat",
    "flatten",
)
_LAYOUTS += ("getitem", "contiguous", "clone", "detach", "to", "float", "double", "half", "bfloat16", "type", "type_as")
_LAYOUTS += ("view_as", "reshape_as", "unflatten", "permute", "transpose", "repeat_interleave", "as_strided")


@dataclass(frozen=True)
class Statistic:
    """A number per row, or a few, by which a head may normalize."""

    values: int  # number of different values per row
    inverted: bool = False  # a factor that normalizes, such as 1 / standard deviation


class StatisticNotes:
    """Notes on the tensors of one pass through a head."""

    def __init__(self) -> None:
        self._statistics = TensorNotes[Statistic | None]()
        self._computed = TensorNotes[bool]()  # results of functions; all other tensors are constants
        self._weighted = TensorNotes[bool]()  # products of features and weights: their sum is a Linear layer

    def is_computed(self, value: Any) -> bool:
        """Tell whether a value is a tensor that was computed from the pooled values."""
        return value in self._computed

    def find_divisor(self, name: str, args: Sequence[Any]) -> int | None:
        """Return the position of the argument that normalizes the other; None if there is none."""
        if len(args) < 2 or name not in (*DIVISIONS, *PRODUCTS):
            return None
        for position in (0, 1) if name in PRODUCTS else (1,):
            statistic, other = self._statistics.get(args[position]), args[1 - position]
            normalizes = statistic is not None and statistic.inverted == (name in PRODUCTS)
            if normalizes and other in self._computed and self._statistics.get(other) is None:
                assert statistic is not None
                if other.numel() // max(1, len(other)) > statistic.values:
                    return position
        return None

    def note_result(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> None:
        """Note whether the result of a function is a statistic. Pass no statistic that was a divisor."""
        statistic = self._describe(name, args, kwargs, result)
        tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        constants = [tensor for tensor in tensors if tensor not in self._computed]
        weighted = name in PRODUCTS and any(tensor.numel() > 1 for tensor in constants)
        weighted |= name in _LAYOUTS and any(self._weighted.get(tensor) for tensor in tensors)
        for leaf in pytree.tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._computed[leaf] = True
                self._weighted[leaf] = weighted
                self._statistics[leaf] = statistic

    def _describe(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> Statistic | None:
        tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        # The second argument of expand_as, for example, only tells a shape.
        relevant = tensors[:1] if name in _LAYOUTS else tensors
        computed = [tensor for tensor in relevant if tensor in self._computed]
        first = next((leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)), None)
        if first is None or not computed or not first.is_floating_point():
            return None
        is_sum = name in ("sum", "mean", "nansum") and self._weighted.get(computed[0])
        if name in _REDUCTIONS and len(computed) == len(tensors) and first.numel() < computed[0].numel() and not is_sum:
            return Statistic(first.numel() // len(computed[0]) if first.ndim else 1)
        statistics = [statistic for tensor in computed if (statistic := self._statistics.get(tensor)) is not None]
        if len(statistics) < len(computed):
            return None
        return _combine(name, args, kwargs, statistics, self._statistics.get(args[0]) is not None)


def _combine(
    name: str, args: Sequence[Any], kwargs: Mapping[str, Any], statistics: Sequence[Statistic], is_first: bool
) -> Statistic | None:
    """Describe what a function makes of statistics and constants; None if it is no statistic any more.

    Args:
        name: of the function.
        args: its arguments.
        kwargs: its keyword arguments.
        statistics: those among its arguments.
        is_first: whether the first argument is one of them.
    """
    own = replace(statistics[0], values=max(one.values for one in statistics))
    inverse = replace(own, inverted=not own.inverted)
    if name in _LAYOUTS:
        return own
    if name in ("rsqrt", "reciprocal", "rdiv", "rtruediv"):
        return inverse
    if name in ("pow", "float_power", "rpow"):
        exponent = args[1] if len(args) > 1 else kwargs.get("exponent")
        if isinstance(exponent, Tensor):
            exponent = float(exponent) if exponent.numel() == 1 else None
        if not is_first or name == "rpow" or not isinstance(exponent, int | float):
            return None
        return inverse if exponent < 0 else own
    if len({one.inverted for one in statistics}) > 1:
        return None
    if name in DIVISIONS:
        if len(statistics) > 1:
            return None
        return own if is_first else inverse
    if name in PRODUCTS:
        return own
    return own if name in _SHIFTS and (not own.inverted or name in ("abs", "square", "sqrt")) else None


Freeze: TypeAlias = Callable[[Tensor], Tensor]

# The parameters of these functions have the names and order of those in torch.nn.functional. `freeze` gets the number
# by which a function normalizes, and returns the frozen one.


def layer_norm(
    freeze: Freeze,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor:
    """Compute layer normalization with a frozen standard deviation."""
    axes = tuple(range(-len(normalized_shape), 0))
    centered = input - input.mean(axes, keepdim=True)
    normalized = centered * freeze((centered.square().mean(axes, keepdim=True) + eps).rsqrt())
    normalized = normalized if weight is None else normalized * weight
    return normalized if bias is None else normalized + bias


def rms_norm(
    freeze: Freeze,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    """Compute root-mean-square normalization with a frozen root mean square."""
    axes = tuple(range(-len(normalized_shape), 0))
    eps = torch.finfo(torch.float32).eps if eps is None else eps
    normalized = input * freeze((input.square().mean(axes, keepdim=True) + eps).rsqrt())
    return normalized if weight is None else normalized * weight


def group_norm(
    freeze: Freeze,
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Tensor:
    """Compute group normalization with frozen standard deviations."""
    rows = input.reshape(len(input), num_groups, -1)
    normalized = layer_norm(freeze, rows, rows.shape[2:], eps=eps).reshape(input.shape)
    per_channel = (1, -1, *[1] * (input.ndim - 2))
    normalized = normalized if weight is None else normalized * weight.view(per_channel)
    return normalized if bias is None else normalized + bias.view(per_channel)


def instance_norm(
    freeze: Freeze,
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Compute instance normalization with frozen standard deviations."""
    if use_input_stats:
        return group_norm(freeze, input, input.shape[1], weight, bias, eps)
    return torch.nn.functional.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)


def normalize(
    freeze: Freeze, input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: None = None
) -> Tensor:
    """Divide by a frozen norm."""
    return input / freeze(torch.linalg.vector_norm(input, p, dim, keepdim=True).clamp_min(eps))


def cosine_similarity(freeze: Freeze, x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """Compute the cosine of the angle between vectors with frozen lengths."""
    x1, x2 = torch.broadcast_tensors(x1, x2)
    lengths = [torch.linalg.vector_norm(one, 2, dim).clamp_min(eps) for one in (x1, x2)]
    return (x1 * x2).sum(dim) / freeze(lengths[0] * lengths[1])


NORMALIZATIONS: Mapping[str, Callable[..., Tensor]] = {
    "layer_norm": layer_norm,
    "rms_norm": rms_norm,
    "group_norm": group_norm,
    "instance_norm": instance_norm,
    "normalize": normalize,
    "cosine_similarity": cosine_similarity,
}
