"""Capture the feature maps before pooling, and the logits, in one forward pass.

Where possible a module hook captures the feature maps, which costs nothing; elsewhere all tensor functions of the pass
are intercepted, which costs 1 to 9 % of its time.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from inspector.explain.tracing.forward import (
    CapturedPooling,
    capture_poolings,
    eval_mode,
    find_output_activation,
    forward_logits,
    run_network,
)
from inspector.explain.tracing.module_hooks import register_hooks
from inspector.explain.tracing.outputs import as_logits
from inspector.explain.tracing.pooling_calls import PoolingCall, PoolingCallDetector
from inspector.explain.tracing.tensor_calls import count_writes


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

    def list_notes(self) -> tuple[str, ...]:
        """Return sentences on how its results differ from those of the network in float32."""


@dataclass(frozen=True, eq=False)
class FeatureCapture:
    """How to capture the inputs of a head's poolings. Use `make_feature_capture` to make one."""

    network: nn.Module
    calls: tuple[int, ...]  # indices of the pooling calls
    needs_derivative: bool
    module: nn.Module | None = None  # the module of the network whose input the pooling takes; None: no hook
    accelerated: Accelerator | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return what is pickled: no backend, whose session belongs to this process, so PyTorch runs the network."""
        return self.__dict__ | {"accelerated": None}


def make_feature_capture(
    network: nn.Module, example: Tensor, calls: Sequence[int], pooled: bool = False, needs_derivative: bool = False
) -> FeatureCapture:
    """Prepare to capture the inputs of some pooling calls.

    A hook is used if there is a single pooling call, and if it is a module that runs once per pass. The hook is on the
    network only during a pass, and ignores other threads.

    Args:
        network: any classifier.
        example: an input (1, channels, H, W).
        calls: indices of the pooling calls.
        pooled: whether to capture the pooled values too.
        needs_derivative: whether to compute the derivatives of the poolings too.
    """
    capture = FeatureCapture(network, tuple(calls), needs_derivative)
    # A hook before the pooling captures no pooled values, no derivatives, and no logits before a softmax.
    if len(calls) > 1 or pooled or needs_derivative or find_output_activation(network, example) is not None:
        return capture
    return replace(capture, module=_find_pooling_module(network, example, calls[0]))


def capture_pass(capture: FeatureCapture, inputs: Tensor) -> CapturedPass:
    """Run one pass and capture the poolings and the logits.

    The pass is always one of the network itself, so no change of it goes unnoticed.

    Args:
        capture: what to capture.
        inputs: normalized images (N, channels, H, W).

    Raises:
        NetworkError: the network does not support these inputs, or a pooling call is not reached.
    """
    if capture.accelerated is not None and (accelerated := capture.accelerated(inputs)) is not None:
        return accelerated
    if capture.module is not None and (hooked := _capture_by_hook(capture, capture.module, inputs)) is not None:
        return hooked
    return CapturedPass(*capture_poolings(capture.network, inputs, capture.calls, capture.needs_derivative))


def _capture_by_hook(capture: FeatureCapture, module: nn.Module, inputs: Tensor) -> CapturedPass | None:
    """Capture the input of a module in one pass; None if it did not run once, because the network was changed."""
    captured: list[Tensor] = []

    def keep(_: nn.Module, given: tuple[Any, ...]) -> None:
        # A clone, because what follows the pooling may write into its input.
        captured.append(given[0].clone())

    with torch.no_grad(), eval_mode(capture.network), register_hooks([module], keep):
        logits = as_logits(run_network(capture.network, inputs), len(inputs))
    if len(captured) != 1:
        return None
    (feature_maps,) = captured
    if feature_maps.is_inference():  # a copy made outside of inference mode supports gradients
        feature_maps, logits = feature_maps.clone(), logits.clone()
    return CapturedPass([CapturedPooling(capture.calls[0], feature_maps, None)], logits)


def _find_pooling_module(network: nn.Module, example: Tensor, call_index: int) -> nn.Module | None:
    """Find the module whose input is what a pooling call takes; None if it runs more than once in a pass."""
    running: list[tuple[nn.Module, Any, int]] = []  # outermost first, each with its first input and its writes
    runs: Counter[nn.Module] = Counter()
    found: list[nn.Module] = []

    def enter(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        runs[module] += 1
        first = inputs[0] if inputs else None
        running.append((module, first, count_writes(first)))

    def leave(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        running.pop()

    def find(call: PoolingCall) -> Tensor:
        source = call.source
        if call.index == call_index and source.ndim == 4 and call.layout.channels == "first":
            # A module may write into its input before it pools it. A hook would then capture other values, so skip it.
            writes = count_writes(source)
            found.extend([m for m, tensor, written in reversed(running) if tensor is source and written == writes])
        return call.result

    with register_hooks(network.modules(), enter, leave), torch.no_grad():
        forward_logits(network, example, PoolingCallDetector(find))
    return next((module for module in found if runs[module] == 1), None)
