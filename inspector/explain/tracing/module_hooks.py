"""Watch the modules of a network during one forward pass.

The hooks are on a copy of the network that shares its parameters, so the network itself is never changed.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from inspector.errors import NetworkError
from inspector.explain.tracing.forward import (
    LAYOUT_OPS,
    copy_sharing_parameters,
    eval_mode,
    forward_logits,
    run_network,
)
from inspector.explain.tracing.pooling_calls import PoolingCall, PoolingCallDetector
from inspector.explain.tracing.tensor_calls import Handler, TensorCallMode, call_unchanged, op_name


@contextmanager
def register_hooks(
    modules: Iterable[nn.Module],
    before: Callable[[nn.Module, Any], None] | None = None,
    after: Callable[[nn.Module, Any, Any], Any] | None = None,
) -> Iterator[None]:
    """Register forward pre-hooks and forward hooks on modules; remove them at the end, also after an error."""
    handles = []
    try:
        for module in modules:
            if before is not None:
                handles.append(module.register_forward_pre_hook(before))
            if after is not None:
                handles.append(module.register_forward_hook(after))
        yield
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True, eq=False)
class ModuleOutput:
    """What a module returned in a pass."""

    name: str  # of the module in the network, as in "layer4.1.relu"
    module: nn.Module
    run: int  # number of its runs before this one in the same pass
    started: int  # number of module runs that started before this one: a block starts before the modules inside it
    output: Any


def hook_modules(
    network: nn.Module,
    inputs: Tensor,
    on_output: Callable[[ModuleOutput], Tensor | None],
    handler: Handler = call_unchanged,
) -> Tensor:
    """Run a network once and pass the output of every module to a function.

    The hooks are on a copy that shares the parameters. If the network cannot be copied, they are on the network itself
    for this pass, and ignore other threads.

    Args:
        network: any classifier.
        inputs: normalized images (N, channels, H, W).
        on_output: gets each output, and may return another tensor to replace it.
        handler: calls each tensor function of the pass.

    Returns:
        Logits (N, K).
    """
    hooked = copy_sharing_parameters(network) or network
    names = {module: name for name, module in hooked.named_modules() if name}
    thread, runs = threading.get_ident(), Counter[nn.Module]()
    running: list[int] = []
    starts = count()

    def enter(module: nn.Module, _: Any) -> None:
        if threading.get_ident() == thread:
            running.append(next(starts))

    def leave(module: nn.Module, _: Any, output: Any) -> Tensor | None:
        if threading.get_ident() != thread:
            return None
        runs[module] += 1
        return on_output(ModuleOutput(names[module], module, runs[module] - 1, running.pop(), output))

    # The modes of the network count too: a closure in the copy may refer to it.
    with register_hooks(names, enter, leave), eval_mode(network):
        return forward_logits(hooked, inputs, handler)


def output_and_gradient(network: nn.Module, inputs: Tensor, name: str, run: int, k: int) -> tuple[Tensor, Tensor]:
    """Return a module's output and the gradient of a logit with respect to it.

    Args:
        network: any classifier.
        inputs: normalized images (N, channels, H, W).
        name: name of the module in the network.
        run: which of its runs in the pass; 0 is the first.
        k: index of the class.

    Returns:
        The output, and d (logit k, summed over the images) / d output, of the same shape.

    Raises:
        NetworkError: the module did not run, or did not return a floating-point tensor.
    """
    leaves: list[Tensor] = []

    def detach(returned: ModuleOutput) -> Tensor | None:
        output = returned.output
        is_real = isinstance(output, Tensor) and output.is_floating_point()
        if (returned.name, returned.run) != (name, run) or not is_real:
            return None
        # Gradients are enabled from here on only, so that the layers before keep no activations in memory.
        torch.set_grad_enabled(True)
        leaf: Tensor = output.detach().clone().requires_grad_()
        leaves.append(leaf)
        # A clone, because an in-place op that follows may not write into a leaf that requires gradients.
        return leaf.clone()

    with torch.inference_mode(False), torch.no_grad():
        logit = hook_modules(network, inputs, detach)[:, k].sum()
        if not leaves:
            raise NetworkError(
                f"No layer {name!r} returned a tensor in its run {run + 1}: its outputs cannot be heard."
            )
        (leaf,) = leaves
        gradient = torch.autograd.grad(logit, leaf, allow_unused=True)[0] if logit.requires_grad else None
    return leaf.detach(), torch.zeros_like(leaf) if gradient is None else gradient


@dataclass(frozen=True)
class Layer:
    """A module that has parameters of its own or no modules inside, as it ran."""

    name: str  # as in "layer4.1.conv2"
    kind: str  # "Conv2d"
    shape: tuple[int, ...] | None  # of its first output, with the batch; None if that is no tensor
    parameters: int  # without those of its children
    runs: int  # in the pass


@dataclass(frozen=True)
class Trace:
    """What happened in one pass."""

    layers: tuple[Layer, ...]  # in the order in which they first ran
    output: tuple[int, ...]  # shape of the network's output
    before: int | None  # number of layers that had run at the last of the chosen pooling calls
    after: tuple[str, ...]  # tensor functions called since then, except those that change only the layout


def trace(network: nn.Module, inputs: Tensor, calls: Sequence[int] = ()) -> Trace:
    """List the layers of one pass in order, and the ops after the last of the pooling calls with indices `calls`."""
    hooked = copy_sharing_parameters(network) or network
    parameters = {module: sum(p.numel() for p in module.parameters(recurse=False)) for module in hooked.modules()}
    # A module with parameters of its own counts even if it has children: a convolution may hold a padding module.
    names = {
        module: name for name, module in hooked.named_modules() if parameters[module] or not any(module.children())
    }
    ran: dict[nn.Module, Layer] = {}
    after: list[str] = []
    before: int | None = None

    def note_layer(module: nn.Module, _: Any, output: Any) -> None:
        shape = tuple(output.shape) if isinstance(output, Tensor) else None
        first = ran.get(module, Layer(names[module], type(module).__name__, shape, parameters[module], 0))
        ran[module] = replace(first, runs=first.runs + 1)

    def note_pooling(call: PoolingCall) -> Tensor:
        nonlocal before
        if calls and call.index == max(calls):
            before = len(ran)
            after.clear()
        return call.result

    def note_op(function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        name = op_name(function)
        if name not in (*LAYOUT_OPS, "__get__", "dropout", "size", "dim", "permute", "transpose"):
            after.append(name)
        return function(*args, **kwargs)

    mode = TensorCallMode(PoolingCallDetector(note_pooling, note_op))
    with torch.no_grad(), register_hooks(names, after=note_layer), eval_mode(hooked), mode:
        output = run_network(hooked, inputs)
    shape = tuple(output.shape) if isinstance(output, Tensor) else ()
    return Trace(tuple(ran.values()), shape, before, tuple(after) if before is not None else ())
