"""Run a network and capture what happens inside: the only module that calls a network.

Every tensor function that the network calls passes through a handler. The stack of handlers belongs to the thread, and
captured values go to the caller only, so threads that share a network share no other state. The network itself is
never changed except for its modes, which are restored.
"""

import dataclasses
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from inspector.errors import InspectorError, NetworkError
from inspector.explain.kinds import OutputActivation
from inspector.explain.tracing.gradients import GradientKeeper
from inspector.explain.tracing.layouts import FeatureLayout
from inspector.explain.tracing.outputs import as_logits, pick_output
from inspector.explain.tracing.pooling_calls import PoolingCall, PoolingCallDetector
from inspector.explain.tracing.recording import OpRecorder, OpRecording
from inspector.explain.tracing.tensor_calls import Handler, TensorCallMode, TensorNotes, call_unchanged, op_name
from inspector.explain.tracing.unwrap import run_uncompiled, uses_compiler

_OUTPUT_ACTIVATIONS: dict[str, OutputActivation] = {
    "softmax": "softmax",
    "log_softmax": "softmax",
    "sigmoid": "sigmoid",
    "logsigmoid": "sigmoid",
}
# Errors that say by themselves what is wrong; of others the message needs the name too, as of a KeyError.
_FAILURES = (RuntimeError, ValueError, TypeError, IndexError, AssertionError, NotImplementedError)
# Functions that change only the layout of a tensor, not its values.
LAYOUT_OPS = ("squeeze", "unsqueeze", "flatten", "view", "reshape", "__getitem__", "contiguous", "clone", "to", "float")


class PoolingNotReachedError(NetworkError):
    """A pass does not reach a pooling that it should reach."""

    def __init__(self, inputs: Tensor) -> None:
        shape = tuple(inputs.shape)
        super().__init__(
            f"An input of shape {shape} does not reach the pooling of the head. It may be too small to pool, the "
            "network may take another way for it, or was changed since its head was found: then wrap it again."
        )


@dataclass(frozen=True, eq=False)
class CapturedPooling:
    """Input and output of one pooling call: a call that reduced each channel to one value, or flattened the maps."""

    index: int  # number of such calls before it in the same pass
    feature_maps: Tensor  # (N, C, h, w)
    pooled: Tensor | None  # (N, P); None where only the feature maps were captured
    derivative: Tensor | None = None  # d pooled / d feature maps, (N, C, h, w), if requested and if it exists
    # Layout of the feature maps in the network; None if a hook or a backend captured them.
    layout: FeatureLayout | None = None

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) of the feature maps."""
        return self.feature_maps.shape[2], self.feature_maps.shape[3]

    @property
    def pooled_values(self) -> Tensor:
        """The pooled values (N, P), where they were captured."""
        assert self.pooled is not None, "only a hook captures no pooled values"
        return self.pooled


@dataclass
class _RunningPasses:
    """The forward passes in progress on one network."""

    count: int
    training: list[nn.Module]  # modules that were in training mode before the first pass


_lock = threading.Lock()
_running_passes: WeakKeyDictionary[nn.Module, _RunningPasses] = WeakKeyDictionary()


@contextmanager
def eval_mode(network: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode; restore the modes when the last thread leaves, also after an error."""
    with _lock:
        passes = _running_passes.setdefault(network, _RunningPasses(0, []))
        if passes.count == 0:
            # Set the flag instead of calling eval(): some networks override eval() with effects that cannot be undone.
            passes.training = [module for module in network.modules() if module.training]
            for module in passes.training:
                module.training = False
        passes.count += 1
    try:
        yield
    finally:
        with _lock:
            passes.count -= 1
            if passes.count == 0:
                for module in passes.training:
                    module.training = True
                del _running_passes[network]


def forward(network: nn.Module, inputs: Tensor) -> Tensor:
    """Return the logits (N, K) of a forward pass without gradients."""
    with torch.no_grad():
        return forward_logits(network, inputs)


def forward_logits(
    network: nn.Module, inputs: Tensor, handler: Handler = call_unchanged, rows: int | None = None
) -> Tensor:
    """Run a network and return its logits, also if it ends in softmax or sigmoid.

    Args:
        network: any classifier; it runs in evaluation mode.
        inputs: normalized images (N, channels, H, W).
        handler: calls each tensor function of the pass.
        rows: number of rows of the output, if the handler changes it.

    Returns:
        Logits (N, K).

    Raises:
        NetworkError: the network does not support these inputs, or does not return logits.
    """
    logits, _ = run_to_logits(network, inputs, handler)
    return as_logits(logits, len(inputs) if rows is None else rows)


def find_output_activation(network: nn.Module, inputs: Tensor) -> OutputActivation | None:
    """Return the activation that the network ends in; None if it returns logits."""
    with torch.no_grad():
        return run_to_logits(network, inputs, call_unchanged)[1]


def run_to_logits(network: nn.Module, inputs: Tensor, handler: Handler) -> tuple[Any, OutputActivation | None]:
    """Run a network and return its logits, and the activation by which it turns them into its output."""
    sources = TensorNotes[
        tuple[Any, OutputActivation]
    ]()  # probabilities -> the logits that they were computed from, and the activation

    def note_activation(function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        result = handler(function, args, kwargs)
        name, argument = op_name(function), args[0] if args else kwargs.get("input")
        if not isinstance(result, Tensor):
            return result
        if name in _OUTPUT_ACTIVATIONS and isinstance(argument, Tensor):
            # Only outputs with one value per class: attention weights, for example, need not be kept alive.
            if argument.ndim and argument[0].numel() in argument.shape[:2]:
                sources[result] = argument, _OUTPUT_ACTIVATIONS[name]
        elif name in LAYOUT_OPS and (source := sources.get(argument)) is not None:
            sources[result] = handler(function, (source[0], *args[1:]), kwargs), source[1]
        return result

    with eval_mode(network), TensorCallMode(note_activation):
        output = call_network(network, inputs)
    output = pick_output(output)
    return sources.get(output) or (output, None)


def call_network(network: nn.Module, inputs: Tensor) -> Any:
    """Call a network and return its output; NetworkError if it does not support the inputs."""
    try:
        with run_uncompiled() if uses_compiler() else nullcontext():
            return network(inputs)
    except (InspectorError, MemoryError):
        raise
    except Exception as error:  # a network may raise errors of its own
        text = str(error).splitlines()[0] if str(error) else ""
        name = type(error).__name__
        reason = text if text and isinstance(error, _FAILURES) else f"{name}: {text}" if text else name
        raise NetworkError(f"The network cannot run on an input of shape {tuple(inputs.shape)}: {reason}") from error


def run_network(network: nn.Module, inputs: Tensor) -> Any:
    """Call a network and return its logits, or its whole output where it is not clear which tensor they are."""
    return pick_output(call_network(network, inputs))


def capture_poolings(
    network: nn.Module,
    inputs: Tensor,
    calls: Sequence[int] | None = None,
    needs_derivative: bool = False,
    recorder: OpRecorder | None = None,
) -> tuple[list[CapturedPooling], Tensor]:
    """Capture the pooling calls of one pass.

    Args:
        network: any classifier.
        inputs: normalized images (N, channels, H, W).
        calls: indices of the pooling calls to capture. Default: all.
        needs_derivative: whether to compute d pooled / d feature maps too.
        recorder: records the ops that follow the captured calls.

    Returns:
        The captured calls in order, and the logits (N, K).

    Raises:
        NetworkError: the network does not support these inputs, or one of the given calls is not reached.
    """
    captured: list[CapturedPooling] = []

    def capture(call: PoolingCall) -> Tensor:
        if calls is None or call.index in calls:
            derivative = call.per_channel_derivative() if needs_derivative else None
            pooling = CapturedPooling(call.index, call.feature_maps(), call.pooled(), derivative, call.layout)
            captured.append(pooling)
            if recorder is not None:
                recorder.note_pooling(call)
        return call.result

    handler = call_unchanged if recorder is None else recorder.handle
    with torch.no_grad():
        logits = forward_logits(network, inputs, PoolingCallDetector(capture, handler))
    if calls is not None and len(captured) < len(calls):
        raise PoolingNotReachedError(inputs)
    return captured, logits


def capture_and_record(
    network: nn.Module, inputs: Tensor, calls: Sequence[int], needs_derivative: bool = False
) -> tuple[list[CapturedPooling], Tensor, OpRecording | None]:
    """Capture pooling calls and logits as `capture_poolings` does, and record the ops between them."""
    recorder = OpRecorder()
    captured, logits = capture_poolings(network, inputs, calls, needs_derivative, recorder)
    return captured, logits, recorder.recording(logits)


def match_parameters(network: nn.Module, inputs: Tensor) -> Tensor:
    """Convert inputs to the device and dtype of the network's parameters."""
    parameter = next((p for p in network.parameters() if p.is_floating_point()), None)
    return inputs if parameter is None else inputs.to(parameter.device, parameter.dtype)


def noise_input(network: nn.Module, shape: Sequence[int], seed: int = 0) -> Tensor:
    """Return standard normal noise of a shape as a network's input; the same noise for the same seed."""
    noise = torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed))
    return match_parameters(network, noise)


def forward_with_pooled(
    network: nn.Module,
    inputs: Tensor,
    pooled: Mapping[int, Tensor],
    handler: Handler = call_unchanged,
    recorder: OpRecorder | None = None,
) -> Tensor:
    """Run a network with other values in place of the results of its pooling calls.

    Args:
        network: any classifier.
        inputs: normalized images (N, channels, H, W).
        pooled: values (R, P) by the index of the pooling call. R may differ from N: all that follows the pooling then
            runs on R rows.
        handler: calls each tensor function of the pass.
        recorder: records the ops that follow; it takes the place of the handler.

    Returns:
        Logits (R, K). Gradients flow from them to `pooled`.
    """
    keeper = GradientKeeper(handler if recorder is None else recorder.handle)

    def replace(call: PoolingCall) -> Tensor:
        if call.index not in pooled:
            return call.result
        result = keeper.insert(lambda: call.pooled_layout.restore(pooled[call.index]))
        if recorder is not None:
            recorder.note_pooling(dataclasses.replace(call, result=result))
        return result

    rows = len(next(iter(pooled.values())))
    return forward_logits(network, inputs, PoolingCallDetector(replace, keeper.handle), rows)


def copy_sharing_parameters(network: nn.Module) -> nn.Module | None:
    """Copy a network, with the same parameters and in evaluation mode, to put hooks on; None if it cannot be copied."""
    shared = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    try:
        copy = deepcopy(network, shared)
        for module in copy.modules():
            module.training = False
    except Exception:  # a network may hold objects that cannot be copied
        return None
    return copy
