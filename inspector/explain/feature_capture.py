"""Capture the feature maps before pooling, and the logits, in one forward pass.

Where possible a module hook captures the feature maps, which costs nothing; elsewhere all tensor functions of the pass
are intercepted, which costs 1 to 9 % of its time.
"""

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from inspector.explain.tracing.forward import (
    CapturedPooling,
    capture_poolings,
    copy_sharing_parameters,
    eval_mode,
    find_output_activation,
    forward_logits,
    pooling_not_reached,
    run_network,
)
from inspector.explain.tracing.module_hooks import register_hooks
from inspector.explain.tracing.outputs import as_logits
from inspector.explain.tracing.pooling_calls import PoolingCall, PoolingCallDetector
from inspector.explain.tracing.recording import count_writes


class CapturedPass(NamedTuple):
    """What was captured in one pass."""

    poolings: list[CapturedPooling]  # the poolings of the head, in order
    logits: Tensor  # (N, K)
    class_maps: Tensor | None = None  # (N, K, h, w) in logits; only where a backend computes them in its graph
    # Name of the backend that ran the network, with its dtype if that is not float32: "folded bfloat16".
    backend: str = "eager"


class Accelerator(Protocol):
    """Another implementation of the same forward pass, such as a compiled network."""

    status: str  # one sentence: which backend runs, and why

    def __call__(self, inputs: Tensor) -> CapturedPass | None:
        """Run the pass; None if these inputs are not supported or the network was changed."""


class _Slot(NamedTuple):
    """Where a module stores a parameter or buffer."""

    tensors: dict[str, Any]  # the module's parameters or buffers by name
    name: str
    tensor: Tensor | None  # the parameter or buffer that was stored when the slot was made

    def holds_tensor(self) -> bool:
        return self.tensors.get(self.name) is self.tensor


@dataclass(frozen=True, eq=False)
class FeatureCapture:
    """How to capture the inputs of a head's poolings. Use `make_feature_capture` to make one."""

    network: nn.Module
    calls: tuple[int, ...]  # indices of the pooling calls
    needs_derivative: bool
    slots: list[_Slot]  # of all parameters and buffers of the network
    modules: list[nn.Module]  # of the network
    hooked_copy: nn.Module | None = None  # shares the parameters; its hook writes to `captured`. None: no hook
    has_user_hooks: bool = False  # whether the copy has hooks of the user too
    captured: threading.local | None = None  # what the hook captured, per thread
    accelerated: Accelerator | None = None


def make_feature_capture(
    network: nn.Module, example: Tensor, calls: Sequence[int], pooled: bool = False, needs_derivative: bool = False
) -> FeatureCapture:
    """Prepare to capture the inputs of some pooling calls.

    A hook is used if there is a single pooling call, and if it is a module that runs once per pass. The hook is on a
    copy that shares the parameters, so the network itself is never changed.

    Args:
        network: any classifier.
        example: an input (1, channels, H, W).
        calls: indices of the pooling calls.
        pooled: whether to capture the pooled values too.
        needs_derivative: whether to compute the derivatives of the poolings too.
    """
    modules = list(network.modules())
    stores = [tensors for module in modules for tensors in (module._parameters, module._buffers)]
    slots = [_Slot(tensors, name, tensor) for tensors in stores for name, tensor in tensors.items()]
    capture = FeatureCapture(network, tuple(calls), needs_derivative, slots, modules)
    # A hook before the pooling captures no pooled values, no derivatives, and no logits before a softmax.
    if len(calls) > 1 or pooled or needs_derivative or find_output_activation(network, example) is not None:
        return capture
    copy = copy_sharing_parameters(network)
    if copy is None:
        return capture
    # Put the original network into evaluation mode too: a closure in the copy may call modules of the original.
    with eval_mode(network):
        module = _find_pooling_module(copy, example, calls[0])
    if module is None:
        return capture
    has_user_hooks = any(one._forward_hooks or one._forward_pre_hooks for one in copy.modules())
    captured = threading.local()
    # A clone, because what follows the pooling may write into its input.
    module.register_forward_pre_hook(lambda _, inputs: setattr(captured, "feature_maps", inputs[0].clone()))
    return replace(capture, hooked_copy=copy, has_user_hooks=has_user_hooks, captured=captured)


def capture_pass(capture: FeatureCapture, inputs: Tensor) -> CapturedPass:
    """Run one pass and capture the poolings and the logits.

    Args:
        capture: what to capture.
        inputs: normalized images (N, channels, H, W).

    Raises:
        NetworkError: the network does not support these inputs, or a pooling call is not reached.
    """
    if capture.accelerated is not None and (accelerated := capture.accelerated(inputs)) is not None:
        return accelerated
    if capture.hooked_copy is None or capture.captured is None or not _is_copy_valid(capture):
        return CapturedPass(*capture_poolings(capture.network, inputs, capture.calls, capture.needs_derivative))
    # With hooks of the user use no_grad: a hook may keep a tensor, and inference tensors support no gradients. The
    # clones that are returned are normal tensors.
    with torch.no_grad() if capture.has_user_hooks else torch.inference_mode():
        logits = as_logits(run_network(capture.hooked_copy, inputs), len(inputs))
    feature_maps: Tensor | None = capture.captured.__dict__.pop("feature_maps", None)
    if feature_maps is None:
        raise pooling_not_reached(inputs)
    return CapturedPass([CapturedPooling(capture.calls[0], feature_maps.clone(), None)], logits.clone())


def _is_copy_valid(capture: FeatureCapture) -> bool:
    """Tell whether the network still has the parameters of its copy, and is in evaluation mode as the copy is."""
    return all(slot.holds_tensor() for slot in capture.slots) and not any(m.training for m in capture.modules)


def _find_pooling_module(network: nn.Module, example: Tensor, call_index: int) -> nn.Module | None:
    """Find the module whose input is what a pooling call takes; None if it runs more than once in a pass."""
    running: list[
        tuple[nn.Module, Any, int]
    ] = []  # running modules, outermost first, each with its first input and that input's version
    runs: Counter[nn.Module] = Counter()
    found: list[nn.Module] = []

    def enter(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        runs[module] += 1
        first = inputs[0] if inputs else None
        running.append((module, first, first._version if isinstance(first, Tensor) else 0))

    def leave(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        running.pop()

    def find(call: PoolingCall) -> Tensor:
        source = call.source
        if call.index == call_index and source.ndim == 4 and call.layout.channels == "first":
            # A module may write into its input before it pools it. A hook would then capture other values, so skip it.
            version = source._version
            found.extend([m for m, tensor, written in reversed(running) if tensor is source and written == version])
        return call.result

    with register_hooks(network.modules(), enter, leave), torch.no_grad():
        forward_logits(network, example, PoolingCallDetector(find))
    return next((module for module in found if runs[module] == 1), None)


@dataclass(frozen=True, eq=False)
class WeightFingerprint:
    """A best-effort check that a parameter or buffer is unchanged, which takes a microsecond.

    It notices another tensor, memory or version (torch counts in-place writes), and another first value: writes to
    `parameter.data` are not counted.
    """

    slot: _Slot
    state: tuple[int, int]  # count of in-place writes, and address in memory
    first_value: Any  # a NumPy view of the first value in memory; None if it is not float32 on the CPU
    expected: float | None

    def is_unchanged(self) -> bool:
        """Tell whether the tensor is the same, as far as can be seen."""
        if not self.slot.holds_tensor() or _read_state(self.slot.tensor) != self.state:
            return False
        return self.first_value is None or bool(self.first_value[0] == self.expected)


def fingerprint_weights(capture: FeatureCapture) -> list[WeightFingerprint]:
    """Fingerprint all parameters and buffers of the captured network as they are now."""
    fingerprints = []
    for slot in capture.slots:
        tensor, first_value, expected = slot.tensor, None, None
        if tensor is not None and tensor.device.type == "cpu" and tensor.dtype == torch.float32 and tensor.numel():
            # NumPy reads one value 50 times as fast as torch.
            first_value = tensor.detach().as_strided((1,), (1,)).numpy()
            expected = float(first_value[0])
        fingerprints.append(WeightFingerprint(slot, _read_state(tensor), first_value, expected))
    return fingerprints


def _read_state(tensor: Tensor | None) -> tuple[int, int]:
    """Return torch's count of the writes into a tensor, and its address."""
    return (0, 0) if tensor is None else (count_writes(tensor), tensor.data_ptr())
