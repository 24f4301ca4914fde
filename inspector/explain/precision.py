"""Rounding: how much of it each floating-point type explains, and how to compute with less of it."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from inspector.explain.tracing.tensor_calls import op_name

TOLERANCE = 1e-5  # allowed residual in float32, relative to the sum of the absolute values of all summands
_CASTS = ("to", "float", "double", "half", "bfloat16", "type", "type_as")


def find_tolerance(dtypes: Collection[torch.dtype]) -> float:
    """Return the residual that rounding explains, relative to the sum of the absolute values of all summands.

    Args:
        dtypes: the types of the numbers that were computed. The least precise of them decides.
    """
    return max([TOLERANCE, *(4 * torch.finfo(dtype).eps for dtype in dtypes if dtype.is_floating_point)])


def relative_error(predicted: Tensor, logits: Tensor, total: Tensor, tolerance: float = TOLERANCE) -> Tensor:
    """Compute the error of sums relative to what rounding explains: above 1, or NaN, the sum is wrong.

    Args:
        predicted: sums (..., K), bias included.
        logits: the network's logits (..., K).
        total: sums of the absolute values of all summands (..., K), bias included.
        tolerance: the part of `total` that rounding explains.

    Returns:
        Tensor (..., K), without unit.
    """
    error, allowed = (predicted - logits).abs(), tolerance * total
    # Where all summands are zero, so must be the logit.
    return torch.where(error == 0, 0, error / allowed)


def widen(tensor: Tensor) -> Tensor:
    """Convert half precision to float32, so that sums are not rounded more than once."""
    return tensor.float() if tensor.is_floating_point() and torch.finfo(tensor.dtype).bits < 32 else tensor


def find_widest(device: torch.device) -> torch.dtype:
    """Return the most precise type of a device. Apple's GPUs have single precision only."""
    return torch.float32 if device.type == "mps" else torch.float64


def call_widened(function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Handler that computes in the most precise type among the arguments.

    Arguments of other types are converted, parameters included. Conversions to a less precise type are left out, so
    that what remains of a nonlinearity is not rounding.
    """
    floats = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if _is_float(leaf)]
    if not floats:
        return function(*args, **kwargs)
    dtype = max((leaf.dtype for leaf in floats), key=lambda one: torch.finfo(one).bits)
    if op_name(function) in _CASTS and args and _is_float(args[0]) and args[0].dtype == dtype:
        result = function(args[0].new_empty(0), *args[1:], **kwargs)
        if _is_float(result):
            return args[0].to(result.device)
    args, kwargs = pytree.tree_map(
        lambda leaf: leaf.to(dtype) if _is_float(leaf) and leaf.dtype != dtype else leaf, (tuple(args), kwargs)
    )
    if isinstance(kwargs.get("dtype"), torch.dtype) and kwargs["dtype"].is_floating_point:
        kwargs = kwargs | {"dtype": dtype}
    return function(*args, **kwargs)


def _is_float(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()
