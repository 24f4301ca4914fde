"""Modules and rules for Captum's DeepLIFT, guided backpropagation and LRP. Only this file uses Captum's private names.

Captum sets hooks on the modules of a network. So it misses calls of functions, and fails for modules that work in
place or run twice. Here each call of a tensor function gets a module of its own, and only these modules get hooks.
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

_PLACE = object()  # placeholder, among the stored arguments of a call, for a tensor that depends on the input


class CallModule(nn.Module):
    """A call of a tensor function, as a module. Arguments that do not depend on the input stay constant."""

    def __init__(self, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        super().__init__()
        leaves, spec = tree_flatten((tuple(args), dict(kwargs)))
        constants = [_PLACE if _depends_on_input(leaf) else leaf for leaf in leaves]

        def reapply(*tensors: Tensor) -> Any:
            # Pass copies: an in-place function would change the tensors that the hooks keep.
            copies = (tensor.clone() for tensor in tensors)
            args, kwargs = tree_unflatten([next(copies) if leaf is _PLACE else leaf for leaf in constants], spec)
            return function(*args, **kwargs)

        self.reapply = reapply

    def forward(self, *tensors: Tensor) -> Any:
        """Call the function again, with new values of the tensors that depend on the input."""
        return self.reapply(*tensors)


class ReluCall(CallModule, nn.ReLU):
    """A call of ReLU or ReLU6."""


class MaxPoolingCall(CallModule):
    """A call of a max pooling."""


class RelevanceCall(CallModule):
    """A call through which LRP propagates relevance by the epsilon rule."""

    def __init__(self, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        super().__init__(function, args, kwargs)
        self.rule = EpsilonRule()


def _depends_on_input(value: object) -> bool:
    return isinstance(value, Tensor) and value.requires_grad and not isinstance(value, nn.Parameter)


def propagate_max_pooling(
    module: MaxPoolingCall, inputs: Tensor, outputs: Tensor, grad_input: Tensor, grad_output: Tensor, eps: float
) -> Tensor:
    """Compute DeepLIFT's multipliers of a max pooling. Captum's own rule is wrong if windows overlap.

    Args:
        module: the pooling.
        inputs: (2N, C, H, W); the first half is the images, the second the baselines.
        outputs: (2N, C, h, w).
        grad_input: gradient with respect to `inputs`.
        grad_output: gradient with respect to `outputs`.
        eps: if image and baseline differ by less than this, the multiplier is the gradient.

    Returns:
        Multipliers with the shape of `inputs`.
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
_users: list[int] = []  # ids of the threads inside `extend_captum_tables`


@contextmanager
def extend_captum_tables() -> Iterator[None]:
    """Add the modules above to Captum's tables inside the ``with`` block. The last thread that leaves removes them."""
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

# Takes the name, positional and keyword arguments of a call. Returns the type of its module; None: it needs no module.
ChooseModule = Callable[[str, Sequence[Any], Mapping[str, Any]], type[CallModule] | None]


def choose_relu(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> type[CallModule] | None:
    """Return the module type for ReLU, ReLU6, and a clamp or hardtanh whose lower limit is 0; None for other calls."""
    lower = kwargs.get("min_val", kwargs.get("min", args[1] if len(args) > 1 else None))
    starts_at_zero = name in ("hardtanh", "hardtanh_", "clamp", "clamp_", "clamp_min") and lower == 0
    return ReluCall if name in _RELUS or starts_at_zero else None


def choose_nonlinearity(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> type[CallModule] | None:
    """Return the module type for an activation function or a max pooling; None for other calls."""
    if name in _MAX_POOLINGS:
        return MaxPoolingCall
    return choose_relu(name, args, kwargs) or (CallModule if name in _NONLINEARITIES else None)


def choose_affine_or_relu(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> type[CallModule] | None:
    """Return the module type for a call that LRP has a rule for; None if the call keeps all values, such as a reshape.

    Raises:
        AttributionError: LRP has no rule for the function.
    """
    if name in (*_AFFINE, *_MAX_POOLINGS):
        return RelevanceCall
    relu = choose_relu(name, args, kwargs)
    if relu is None and name not in _LAYOUT_ONLY:
        raise AttributionError(
            f"LRP has no rule for {name!r}, which this network calls. It has rules for affine layers, max pooling and "
            "ReLU."
        )
    return relu


class ModularNetwork(nn.Module):
    """A network in which each chosen call of a tensor function is a module. The first pass makes these modules."""

    def __init__(self, network: nn.Module, choose_module: ChooseModule) -> None:
        super().__init__()
        self.original = (network,)  # in a tuple: so it is not a child module, and gets no hooks
        self.choose_module = choose_module
        self.calls = nn.ModuleList()

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logits (N, K) of images (N, channels, H, W)."""
        number = 0

        def perform(function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
            nonlocal number
            tensors = [leaf for leaf in tree_leaves((args, kwargs)) if _depends_on_input(leaf)]
            kind = self.choose_module(op_name(function), args, kwargs) if tensors else None
            if kind is None:
                return function(*args, **kwargs)
            number += 1
            if number > len(self.calls):
                self.calls.append(kind(function, args, kwargs))
            # Pass clones: the hooks of two calls on the same tensor would disturb each other.
            return self.calls[number - 1](*(tensor.clone() for tensor in tensors))

        return forward_logits(self.original[0], images, perform)
