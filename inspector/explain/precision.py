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


def find_product_type(tensor: Tensor, function: Callable[..., Any] = torch.matmul) -> torch.dtype:
    """Return the type to whose precision a function rounds its factors, if it multiplies tensors of this kind.

    On a GPU that may be TF32, for which float16 stands here: both have ten bits. On a CPU it may be bfloat16.

    Args:
        tensor: a factor or a result.
        function: a function of torch. Convolutions have a setting of their own.
    """
    if tensor.dtype != torch.float32 or tensor.device.type not in ("cpu", "cuda"):
        return tensor.dtype
    if tensor.is_cuda:
        is_convolution = op_name(function).startswith("conv")
        operations = torch.backends.cudnn if is_convolution else torch.backends.cuda.matmul
        return torch.float16 if allows_tf32(operations) else torch.float32
    return torch.bfloat16 if _read_matmul_precision() == "medium" else torch.float32


def allows_tf32(operations: Any) -> bool:
    """Return whether torch may compute operations in TF32: `torch.backends.cuda.matmul` or `torch.backends.cudnn`."""
    try:
        return bool(operations.allow_tf32)
    except RuntimeError:  # it was set by its newer name, and reading the older one is an error
        return bool(getattr(operations, "conv", operations).fp32_precision == "tf32")


def _read_matmul_precision() -> str:
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # as in `allows_tf32`
        backends: Any = torch.backends
        return "medium" if backends.mkldnn.matmul.fp32_precision == "bf16" else "highest"


def multiply(a: Tensor, b: Tensor) -> Tensor:
    """Return the matrix product a @ b with factors that are not rounded to a less precise type than their own."""
    if find_product_type(a) == a.dtype:
        return a @ b
    return (a.double() @ b.double()).to(a.dtype)


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
