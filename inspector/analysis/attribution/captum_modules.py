"""The modules and rules for Captum's DeepLIFT, guided backpropagation and LRP, the only use of its private names.

Captum reads a network through hooks on its modules, which misses what is a function, in place or used twice. So its
hooks get modules of their own, one for each call of the pass; the caller's network has no part in it.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from captum.attr._core.deep_lift import SUPPORTED_NON_LINEAR, nonlinear
from captum.attr._core.lrp import SUPPORTED_NON_LINEAR_LAYERS
from captum.attr._utils.lrp_rules import EpsilonRule
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from inspector.errors import AttributionError
from inspector.explain.tracing.forward import forward_logits
from inspector.explain.tracing.tensor_calls import op_name


class CallModule(nn.Module):
    """One call of a function in a pass; what else than tensors of the pass went into it stays as it was."""

    rule: EpsilonRule  # where LRP is to go through it

    def __init__(self, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        super().__init__()
        leaves, spec = tree_flatten((tuple(args), dict(kwargs)))
        places = [n for n, leaf in enumerate(leaves) if _depends_on_input(leaf)]
        constants = [None if _depends_on_input(leaf) else leaf for leaf in leaves]

        def reapply(*tensors: Tensor) -> Any:
            filled = list(constants)
            for place, tensor in zip(places, tensors, strict=True):
                # A copy: in place it would spoil what the hooks keep.
                filled[place] = tensor.clone()
            args, kwargs = tree_unflatten(filled, spec)
            return function(*args, **kwargs)

        self.reapply = reapply

    def forward(self, *tensors: Tensor) -> Any:
        return self.reapply(*tensors)


class ReluCall(CallModule, nn.ReLU):
    """A ReLU or ReLU6."""


class MaxPoolingCall(CallModule):
    """A max pooling."""


def _depends_on_input(value: object) -> bool:
    return isinstance(value, Tensor) and value.requires_grad and not isinstance(value, nn.Parameter)


def propagate_max_pooling(
    module: MaxPoolingCall, inputs: Tensor, outputs: Tensor, grad_input: Tensor, grad_output: Tensor, eps: float
) -> Tensor:
    """DeepLIFT's rule: the first half of a batch is the photo, the second the baseline.

    Captum's own loses what windows that overlap share.
    """
    (photo, baseline), (photo_output, baseline_output) = inputs.chunk(2), outputs.chunk(2)
    larger = torch.maximum(photo_output, baseline_output)
    with torch.enable_grad():
        leaf = inputs.detach().clone().requires_grad_()
        changes = torch.cat([larger - baseline_output, photo_output - larger])
        (routed,) = torch.autograd.grad(module.reapply(leaf), leaf, grad_output * changes)
    change = photo - baseline
    multiplier = torch.where(change.abs() < eps, grad_input.chunk(2)[0], sum(routed.chunk(2)) / change)
    return torch.cat([multiplier, multiplier])


_DEEP_LIFT_RULES: dict[type[nn.Module], Callable[..., Tensor]] = {
    CallModule: nonlinear,
    ReluCall: nonlinear,
    MaxPoolingCall: propagate_max_pooling,
}
_lock = threading.Lock()
_users: list[int] = []  # the threads inside `extend_captum_tables`


@contextmanager
def extend_captum_tables() -> Iterator[None]:
    """Let Captum know the modules of calls inside; when the last thread leaves, its tables are as they were."""
    with _lock:
        if not _users:
            SUPPORTED_NON_LINEAR.update(_DEEP_LIFT_RULES)
            SUPPORTED_NON_LINEAR_LAYERS.append(ReluCall)
        _users.append(threading.get_ident())
    try:
        yield
    finally:
        with _lock:
            _users.remove(threading.get_ident())
            if not _users:
                for kind in _DEEP_LIFT_RULES:
                    del SUPPORTED_NON_LINEAR[kind]
                SUPPORTED_NON_LINEAR_LAYERS.remove(ReluCall)


# fmt: off
_RELUS = ("relu", "relu_", "relu6")
_NONLINEARITIES = (
    "hardtanh", "hardtanh_", "clamp", "clamp_", "clamp_min", "clamp_max", "elu", "elu_", "selu", "celu", "leaky_relu",
    "leaky_relu_", "sigmoid", "sigmoid_", "tanh", "tanh_", "softplus", "silu", "gelu", "mish", "hardswish",
    "hardsigmoid",
)
_MAX_POOLINGS = ("max_pool2d", "adaptive_max_pool2d", "amax")
_AFFINE = (
    "conv2d", "linear", "batch_norm", "avg_pool2d", "adaptive_avg_pool2d", "mean", "add", "add_", "__add__", "iadd",
    "__iadd__", "pad", "cat",
)
_LAYOUT_ONLY = (
    "flatten", "view", "reshape", "squeeze", "unsqueeze", "permute", "transpose", "contiguous", "clone", "to", "float",
    "dropout", "size", "dim", "__get__", "numel", "chunk", "split", "type", "is_floating_point",
)
# fmt: on

# A module for a call of the function with this name, or None where there is no rule for it.
MakeModule = Callable[[str, Callable[..., Any], Sequence[Any], dict[str, Any]], CallModule | None]


def make_relu(
    name: str, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]
) -> CallModule | None:
    lower = kwargs.get("min_val", kwargs.get("min", args[1] if len(args) > 1 else None))
    if name in _RELUS or (name in ("hardtanh", "hardtanh_", "clamp", "clamp_", "clamp_min") and lower == 0):
        return ReluCall(function, args, kwargs)
    return None


def make_nonlinearity(
    name: str, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]
) -> CallModule | None:
    if name in _MAX_POOLINGS:
        return MaxPoolingCall(function, args, kwargs)
    relu = make_relu(name, function, args, kwargs)
    return CallModule(function, args, kwargs) if relu is None and name in _NONLINEARITIES else relu


def make_affine_or_relu(
    name: str, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]
) -> CallModule | None:
    if name in (*_AFFINE, *_MAX_POOLINGS):
        call = CallModule(function, args, kwargs)
        call.rule = EpsilonRule()
        return call
    relu = make_relu(name, function, args, kwargs)
    if relu is None and name not in _LAYOUT_ONLY:
        raise AttributionError(
            f"LRP has no rule for {name!r}, which this network calls: it has them for layers and ReLU."
        )
    return relu


class ModularNetwork(nn.Module):
    """A network's pass in which each call that `make_module` makes a module for goes through a module of its own."""

    def __init__(self, network: nn.Module, make_module: MakeModule) -> None:
        super().__init__()
        self.original = (network,)  # in a tuple it is no child: the hooks are for the calls
        self.make_module = make_module
        self.calls = nn.ModuleList()

    def forward(self, images: Tensor) -> Tensor:
        number = 0

        def perform(function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
            nonlocal number
            tensors = [leaf for leaf in tree_leaves((args, kwargs)) if _depends_on_input(leaf)]
            module = self.make_module(op_name(function), function, args, kwargs) if tensors else None
            if module is None:
                return function(*args, **kwargs)
            number += 1
            if number > len(self.calls):
                self.calls.append(module)
            # Clones: of two hooks on one tensor, the earlier call's would get what the later call's has yet to change.
            return self.calls[number - 1](*(tensor.clone() for tensor in tensors))

        return forward_logits(self.original[0], images, perform)
