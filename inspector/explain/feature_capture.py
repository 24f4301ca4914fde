"""Hear the feature maps before pooling in every pass, without watching every call where a hook can do it."""

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from inspector.explain.tracing.forward import (
    CapturedPooling,
    as_logits,
    capture_and_record,
    copy_sharing_parameters,
    eval_mode,
    find_output_activation,
    forward_logits,
    pooling_not_reached,
    run_network,
)
from inspector.explain.tracing.pooling_calls import PoolingCall, PoolingCallDetector
from inspector.explain.tracing.recording import OpRecording


class CapturedPass(NamedTuple):
    """What one pass gave."""

    poolings: list[CapturedPooling]  # those at the tap, in order
    logits: Tensor  # (N, K)
    recording: OpRecording | None = None  # of what followed the reductions, where the pass was watched
    backend: str = "eager"  # what ran the network; with its dtype where that is not float32: "folded bfloat16"


class Accelerator(Protocol):
    """Another implementation of the same forward pass, such as a compiled network."""

    status: str  # one sentence: which backend runs, and why

    def __call__(self, inputs: Tensor) -> CapturedPass | None:
        """Run the pass; None if these inputs are not supported or the network was changed."""


@dataclass(frozen=True, eq=False)
class FeatureCapture:
    """The places in a network where its feature maps can be heard on the way to the logits."""

    network: nn.Module
    calls: tuple[int, ...]  # the reductions that take them in
    needs_derivative: bool  # whether their derivatives are asked for
    hooked_copy: nn.Module | None  # a copy of the network on its parameters, with a hook; None: watch every call
    has_user_hooks: bool  # whether it has hooks of the user's too
    captured: threading.local  # what the hook heard, a thread each
    # Where the network keeps each parameter and buffer, its name there, and what was there.
    state: list[tuple[dict[str, Any], str, Any]]
    modules: list[nn.Module]  # of the network
    accelerated: Accelerator | None = None


def make_feature_capture(
    network: nn.Module, example: Tensor, calls: Sequence[int], pooled: bool = False, needs_derivative: bool = False
) -> FeatureCapture:
    """A tap at the reductions with these indices, set up with one example input (1, channels, H, W).

    It hears their feature maps, and their results and derivatives if asked for. Of a single one that is a module which
    runs once in a pass, a hook hears the maps at no cost; watching every call costs 1 to 9 % of the pass. The hook sits
    on a copy that shares the parameters: the network itself is never touched.
    """
    heard = threading.local()
    modules = list(network.modules())
    kept = [values for module in modules for values in (module._parameters, module._buffers)]
    state = [(values, name, tensor) for values in kept for name, tensor in values.items()]
    # A hook before the pooling hears no pooled values, no derivatives, and no logits behind a softmax.
    one = len(calls) == 1 and not pooled and not needs_derivative and find_output_activation(network, example) is None
    listener = copy_sharing_parameters(network) if one else None
    # The network too: a closure may lead from the copy back to it.
    with eval_mode(network):
        module = None if listener is None else _module_that_reduces(listener, example, calls[0])
    if module is None:
        return FeatureCapture(network, tuple(calls), needs_derivative, None, False, heard, state, modules)
    assert listener is not None, "the module is one of its"
    hooked = any(one._forward_hooks or one._forward_pre_hooks for one in listener.modules())
    # A clone: what follows the pooling may write into its input.
    module.register_forward_pre_hook(lambda _, inputs: setattr(heard, "feature_maps", inputs[0].clone()))
    return FeatureCapture(network, tuple(calls), needs_derivative, listener, hooked, heard, state, modules)


def capture_pass(tap: FeatureCapture, inputs: Tensor) -> CapturedPass:
    """The reductions at the tap, and the logits, of one pass."""
    if tap.accelerated is not None and (heard := tap.accelerated(inputs)) is not None:
        return heard
    if tap.hooked_copy is None or not _as_it_was_copied(tap):
        return CapturedPass(*capture_and_record(tap.network, inputs, tap.calls, tap.needs_derivative))
    # A hook of the user's might keep an inference tensor, which knows no gradients; the clones below are ordinary ones.
    with torch.no_grad() if tap.has_user_hooks else torch.inference_mode():
        logits = as_logits(run_network(tap.hooked_copy, inputs), len(inputs))
    feature_maps: Tensor | None = tap.captured.__dict__.pop("feature_maps", None)
    if feature_maps is None:
        raise pooling_not_reached(inputs)
    return CapturedPass([CapturedPooling(tap.calls[0], feature_maps.clone(), None)], logits.clone())


def _as_it_was_copied(tap: FeatureCapture) -> bool:
    """Whether the network still has the same parameters, and is in evaluation mode as its copy is."""
    same = all(values.get(name) is tensor for values, name, tensor in tap.state)
    return same and not any(module.training for module in tap.modules)


def _module_that_reduces(network: nn.Module, example: Tensor, call: int) -> nn.Module | None:
    """The module whose input is what the reduction takes in, if it runs only once in a pass."""
    running: list[tuple[nn.Module, Any, int]] = []  # from the outermost in, each with its first input and its version
    runs: Counter[nn.Module] = Counter()
    found: list[nn.Module] = []

    def enter(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        runs[module] += 1
        first = inputs[0] if inputs else None
        running.append((module, first, first._version if isinstance(first, Tensor) else 0))

    def leave(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        running.pop()

    def look(seen: PoolingCall) -> Tensor:
        source = seen.source
        if seen.index == call and source.ndim == 4 and seen.layout.channels == "first":
            # A module that wrote into its input before it reduced it would be heard too early.
            found.extend(
                module
                for module, tensor, version in reversed(running)
                if tensor is source and version == source._version
            )
        return seen.result

    hooks = [module.register_forward_pre_hook(enter) for module in network.modules()]
    hooks += [module.register_forward_hook(leave) for module in network.modules()]
    try:
        with torch.no_grad():
            forward_logits(network, example, PoolingCallDetector(look))
    finally:
        for hook in hooks:
            hook.remove()
    return next((module for module in found if runs[module] == 1), None)
