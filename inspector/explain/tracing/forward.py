"""Run a network and see what happens inside: the only module that runs one.

Every tensor function that the network calls goes through a handler. Its stack belongs to the thread and what it sees
goes only to the caller, so threads that share a network share nothing else. The network itself is never touched but
for its modes, which are put back.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from inspector.errors import NetworkError
from inspector.explain.kinds import OutputActivation
from inspector.explain.tracing.pooling_calls import (
    Handler,
    PoolingCall,
    TensorCallMode,
    call_unchanged,
    on_pooling_calls,
    op_name,
)
from inspector.explain.tracing.recording import OpRecorder, OpRecording

# Functions that make probabilities of logits, and those that only lay a tensor out anew.
_ENDINGS: dict[str, OutputActivation] = {
    "softmax": "softmax", "log_softmax": "softmax", "sigmoid": "sigmoid", "logsigmoid": "sigmoid",
}  # fmt: skip
# What a network raises on inputs that it does not take.
_FAILURES = (RuntimeError, ValueError, TypeError, IndexError, AssertionError, NotImplementedError)
# Functions that only lay the values of a tensor out in another way.
LAYOUT_OPS = ("squeeze", "unsqueeze", "flatten", "view", "reshape", "__getitem__", "contiguous", "clone", "to", "float")


@dataclass(frozen=True, eq=False)
class CapturedPooling:
    """What went into and came out of a call that took feature maps to one value a channel, or flattened them."""

    index: int  # how many such calls came before it in the same pass
    feature_maps: Tensor  # (N, C, h, w)
    pooled: Tensor | None  # (N, P); None where only the feature maps were heard
    derivative: Tensor | None = None  # d pooled / d feature maps, (N, C, h, w), where it was asked for and exists
    tokens: bool = False  # the positions lay on one axis
    on_grid: bool = True  # False for tokens with a class token among them
    class_maps: Tensor | None = None  # (N, K, h, w), in logits; where what ran the network made them on the way


@dataclass
class _Passes:
    """The forward passes under way on one network, and the modes it had before the first of them."""

    count: int
    training: list[nn.Module]


_guard = threading.Lock()
_under_way: WeakKeyDictionary[nn.Module, _Passes] = WeakKeyDictionary()


@contextmanager
def eval_mode(network: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; the modes as they were when the last thread leaves, also after an error."""
    with _guard:
        passes = _under_way.setdefault(network, _Passes(0, []))
        if passes.count == 0:
            # The flag and not eval(): networks override train() and eval(), with effects that cannot be undone.
            passes.training = [module for module in network.modules() if module.training]
            for module in passes.training:
                module.training = False
        passes.count += 1
    try:
        yield
    finally:
        with _guard:
            passes.count -= 1
            if passes.count == 0:
                for module in passes.training:
                    module.training = True
                del _under_way[network]


def forward_logits(
    network: nn.Module, inputs: Tensor, handler: Handler = call_unchanged, rows: int | None = None
) -> Tensor:
    """The logits (N, K) of one pass in which every tensor function goes through `handler`.

    Where the network ends in softmax or sigmoid, what went into it. `rows` is N where the handler changes it. Raises
    NetworkError when the network cannot run on these inputs or returns no logits.
    """
    ends = _Ends(handler)
    with eval_mode(network), TensorCallMode(ends.perform):
        output = run_network(network, inputs)
    logits = ends.found[id(output)][0] if id(output) in ends.found else output
    return as_logits(logits, len(inputs) if rows is None else rows)


def find_output_activation(network: nn.Module, inputs: Tensor) -> OutputActivation | None:
    """Whether the network ends in softmax or sigmoid."""
    ends = _Ends(call_unchanged)
    with torch.no_grad(), eval_mode(network), TensorCallMode(ends.perform):
        output = run_network(network, inputs)
    return ends.found[id(output)][1] if id(output) in ends.found else None


class _Ends:
    """The probabilities that a pass made of logits, each with the logits and the kind."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.found: dict[
            int, tuple[Any, OutputActivation, Any]
        ] = {}  # the probabilities too: an id is a name while they live

    def perform(self, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        result = self.handler(function, args, kwargs)
        name, source = op_name(function), args[0] if args else kwargs.get("input")
        # Of one value a class: not the weights of an attention, which would be kept alive to no end.
        if name in _ENDINGS and isinstance(source, Tensor) and source.ndim and source[0].numel() in source.shape[:2]:
            self.found[id(result)] = source, _ENDINGS[name], result
        elif name in LAYOUT_OPS and id(source) in self.found:
            logits, kind, _ = self.found[id(source)]
            self.found[id(result)] = function(logits, *args[1:], **kwargs), kind, result
        return result


def run_network(network: nn.Module, inputs: Tensor) -> Any:
    """What the network returns: of a tuple the first, of a mapping the logits."""
    try:
        output = network(inputs)
    except _FAILURES as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise NetworkError(f"The network cannot run on an input of shape {tuple(inputs.shape)}: {reason}") from error
    if isinstance(output, Mapping):
        tensors = {name: value for name, value in output.items() if isinstance(value, Tensor)}
        named = next((name for name in ("logits", "out", "output", "preds") if name in tensors), None)
        if named is None and len(tensors) != 1:
            got = ", ".join(map(str, output))
            raise NetworkError(f"A classifier returns logits of shape (N, classes); this network returned {got}.")
        return tensors[named] if named is not None else next(iter(tensors.values()))
    return output[0] if isinstance(output, tuple | list) and output else output


def as_logits(output: Any, rows: int) -> Tensor:
    """What a network returned as logits (N, K), where it is so many rows of them; NetworkError otherwise."""
    # One logit an image often comes without an axis of its own.
    if isinstance(output, Tensor) and output.shape == (rows,):
        output = output[:, None]
    if not isinstance(output, Tensor) or output.ndim < 2 or output[0].numel() != output.shape[1]:
        got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise NetworkError(f"A classifier returns logits of shape (N, classes); this network returned {got}.")
    return output.flatten(1)


def forward(network: nn.Module, inputs: Tensor) -> Tensor:
    """The logits (N, K) of a plain pass."""
    with torch.no_grad():
        return forward_logits(network, inputs)


def capture_poolings(
    network: nn.Module,
    inputs: Tensor,
    only: Sequence[int] | None = None,
    needs_derivative: bool = False,
    recorder: OpRecorder | None = None,
) -> tuple[list[CapturedPooling], Tensor]:
    """The reductions of one pass in order, or those with the indices in `only`, and the logits (N, K).

    With `needs_derivative` also the derivative of each. What follows these reductions is told to the recorder.
    """
    found: list[CapturedPooling] = []

    def keep(seen: PoolingCall) -> Tensor:
        if only is None or seen.index in only:
            slope = seen.derivative() if needs_derivative else None
            lay = seen.layout
            found.append(
                CapturedPooling(seen.index, seen.feature_maps(), seen.pooled(), slope, lay.tokens, lay.grid is not None)
            )
            if recorder is not None:
                recorder.note_pooling(seen)
        return seen.result

    with torch.no_grad():
        logits = forward_logits(
            network, inputs, on_pooling_calls(keep, call_unchanged if recorder is None else recorder.perform)
        )
    return found, logits


def capture_chosen_poolings(
    network: nn.Module,
    inputs: Tensor,
    calls: Sequence[int],
    needs_derivative: bool = False,
    recorder: OpRecorder | None = None,
) -> tuple[list[CapturedPooling], Tensor]:
    """The reductions with these indices in one pass, and the logits (N, K). NetworkError where one is not reached."""
    found, logits = capture_poolings(network, inputs, calls, needs_derivative, recorder)
    if len(found) < len(calls):
        raise pooling_not_reached(inputs)
    return found, logits


def capture_and_record(
    network: nn.Module, inputs: Tensor, calls: Sequence[int], needs_derivative: bool = False
) -> tuple[list[CapturedPooling], Tensor, OpRecording | None]:
    """The same as `capture`, and what led from these reductions to the logits."""
    recorder = OpRecorder()
    found, logits = capture_chosen_poolings(network, inputs, calls, needs_derivative, recorder)
    return found, logits, recorder.recording(logits)


def match_parameters(network: nn.Module, inputs: Tensor) -> Tensor:
    """Move inputs to the device and dtype of the network's parameters."""
    parameter = next((p for p in network.parameters() if p.is_floating_point()), None)
    return inputs if parameter is None else inputs.to(parameter.device, parameter.dtype)


def noise_input(network: nn.Module, shape: Sequence[int], seed: int = 0) -> Tensor:
    """Return standard normal noise of a shape as a network's input; the same noise for the same seed."""
    noise = torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed))
    return match_parameters(network, noise)


def pooling_not_reached(inputs: Tensor) -> NetworkError:
    shape = tuple(inputs.shape)
    return NetworkError(f"The pooling was not reached with an input of shape {shape}: it may be too small to pool.")


def find_poolings_reaching_logits(network: nn.Module, inputs: Tensor) -> list[int]:
    """The indices of the reductions whose results reach the logits other than through another reduction."""
    leaves: list[tuple[int, Tensor]] = []

    def cut(seen: PoolingCall) -> Tensor:
        # A fresh leaf for each: what reaches the logits through a later reduction ends there.
        if not seen.result.is_floating_point():
            return seen.result
        leaf = seen.result.detach().clone().requires_grad_()
        leaves.append((seen.index, leaf))
        return leaf.clone()

    with torch.inference_mode(False), torch.enable_grad():
        total = forward_logits(network, inputs, on_pooling_calls(cut)).sum()
        if not leaves or not total.requires_grad:
            return []
        gradients = torch.autograd.grad(total, [leaf for _, leaf in leaves], allow_unused=True)
    return [index for (index, _), gradient in zip(leaves, gradients, strict=True) if gradient is not None]


def forward_with_pooled(
    network: nn.Module, inputs: Tensor, pooled: Mapping[int, Tensor], perform: Handler = call_unchanged
) -> Tensor:
    """The logits of a pass in which `pooled[index]`, (R, P), stands where the reduction of that index gave its result.

    R may be more than the images of `inputs`: what follows the pooling then runs on all rows. Gradients flow from the
    logits to `pooled`; every other function goes through `perform`.
    """

    def replace(seen: PoolingCall) -> Tensor:
        if seen.index not in pooled:
            return seen.result
        # A clone: an in-place operation that follows may not write into a leaf that asks for gradients.
        return pooled[seen.index].reshape(-1, *seen.result.shape[1:]).clone()

    return forward_logits(network, inputs, on_pooling_calls(replace, perform), len(next(iter(pooled.values()))))


def replay_recording(tape: OpRecording, pooled: Mapping[int, Tensor], perform: Handler = call_unchanged) -> Tensor:
    """The same from a tape, without the network before its poolings.

    NetworkError where what follows them does not take so many rows.
    """
    rows = len(next(iter(pooled.values())))
    try:
        return as_logits(tape.replay(pooled, perform), rows)
    except _FAILURES as error:
        raise NetworkError(f"What follows the pooling does not take {rows} rows: {error}") from error


def copy_sharing_parameters(network: nn.Module) -> nn.Module | None:
    """A copy, in evaluation mode, to put hooks on: the network itself is never touched. None if it cannot be copied."""
    shared = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    try:
        copy = deepcopy(network, shared)
        for module in copy.modules():
            module.training = False
    except Exception:  # whatever a network holds that cannot be copied: it is watched instead
        return None
    return copy
