"""Run tensor functions with the statistics of one image frozen.

A layer that normalizes divides by a number that it computes from the image. With that number frozen, the layer is
affine. Layer-wise relevance propagation treats normalizations in the same way (Ali et al., "XAI for transformers",
ICML 2022).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from inspector.explain.tracing.tensor_calls import op_name


def call_frozen(function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Handler that calls a tensor function with the statistics of the first row frozen.

    If an argument is in double precision, all are converted to it, parameters included.
    """
    if any(isinstance(leaf, Tensor) and leaf.dtype == torch.float64 for leaf in pytree.tree_leaves((args, kwargs))):
        args, kwargs = pytree.tree_map(_to_double, (tuple(args), kwargs))
    name = op_name(function)
    if name in _NORMALIZATIONS:
        return _NORMALIZATIONS[name](*args, **kwargs)
    result = function(*args, **kwargs)
    if name in _STATISTICS and isinstance(result, Tensor):
        return freeze_to_first_row(result)
    if name in _POWERS and isinstance(args[0], Tensor):
        return _freeze_power(args[0], result)
    return result


def _to_double(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def freeze_to_first_row(statistic: Tensor) -> Tensor:
    """Return the first row's values for all rows, as a constant without gradient."""
    return statistic[:1].detach().expand_as(statistic)


def _freeze_power(values: Tensor, result: Tensor) -> Tensor:
    """Return x ** a as x times a frozen x ** (a - 1). If each row has a single value, the whole power is frozen.

    In generalized-mean pooling each cell then gets its share, x_i ** a / sum of all x ** a.
    """
    if result[0].numel() == 1:
        return freeze_to_first_row(result)
    factor = torch.where(values == 0, 0, result / values)
    return values * freeze_to_first_row(factor)


# The parameters of these functions have the names and order of those in torch.nn.functional.


def _layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor:
    axes = tuple(range(-len(normalized_shape), 0))
    centered = input - input.mean(axes, keepdim=True)
    normalized = centered * freeze_to_first_row((centered.square().mean(axes, keepdim=True) + eps).rsqrt())
    normalized = normalized if weight is None else normalized * weight
    return normalized if bias is None else normalized + bias


def _rms_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    axes = tuple(range(-len(normalized_shape), 0))
    eps = torch.finfo(input.dtype).eps if eps is None else eps
    normalized = input * freeze_to_first_row((input.square().mean(axes, keepdim=True) + eps).rsqrt())
    return normalized if weight is None else normalized * weight


def _group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Tensor:
    rows = input.reshape(len(input), num_groups, -1)
    normalized = _layer_norm(rows, rows.shape[2:], eps=eps).reshape(input.shape)
    per_channel = (1, -1, *[1] * (input.ndim - 2))
    normalized = normalized if weight is None else normalized * weight.view(per_channel)
    return normalized if bias is None else normalized + bias.view(per_channel)


def _normalize(input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: None = None) -> Tensor:
    return input / freeze_to_first_row(torch.linalg.vector_norm(input, p, dim, keepdim=True).clamp_min(eps))


_NORMALIZATIONS: Mapping[str, Callable[..., Tensor]] = {
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "group_norm": _group_norm,
    "normalize": _normalize,
}
_STATISTICS = ("rsqrt", "var", "std", "norm", "vector_norm", "linalg_vector_norm")
_POWERS = ("pow", "__pow__", "sqrt", "float_power")
