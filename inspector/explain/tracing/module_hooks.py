"""Watch the modules of a network during one forward pass.

The hooks sit on a copy of the network that shares its parameters, so the network itself is never touched.
"""

import threading
from collections import Counter
from collections.abc import Callable, Sequence
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
from inspector.explain.tracing.pooling_calls import (
    Handler,
    PoolingCall,
    TensorCallMode,
    call_unchanged,
    on_pooling_calls,
    op_name,
)


@dataclass(frozen=True, eq=False)
class ModuleOutput:
    """What a module returned in a pass."""

    name: str  # the module's place in the network, as in "layer4.1.relu"
    module: nn.Module
    run: int  # how many times it had run in this pass before
    started: int  # how many runs of modules had begun before this one: a block begins before what is inside it
    output: Any


def hook_modules(
    network: nn.Module, inputs: Tensor, act: Callable[[ModuleOutput], Tensor | None], perform: Handler = call_unchanged
) -> Tensor:
    """The logits (N, K) of one pass in which what each module returns goes to `act`, which may return another instead.

    The hooks sit on a copy on the same parameters, of this call alone; where there can be none, on the network, for
    this pass, and hear this thread only.
    """
    watched = copy_sharing_parameters(network) or network
    names = {module: name for name, module in watched.named_modules() if name}
    thread, runs = threading.get_ident(), Counter[nn.Module]()
    running: list[int] = []
    begun = count()

    def enter(module: nn.Module, _: Any) -> None:
        if threading.get_ident() == thread:
            running.append(next(begun))

    def leave(module: nn.Module, _: Any, output: Any) -> Tensor | None:
        if threading.get_ident() != thread:
            return None
        runs[module] += 1
        return act(ModuleOutput(names[module], module, runs[module] - 1, running.pop(), output))

    hooks = [module.register_forward_pre_hook(enter) for module in names]
    hooks += [module.register_forward_hook(leave) for module in names]
    try:
        # The network too: a closure may lead from the copy back to it.
        with eval_mode(network):
            return forward_logits(watched, inputs, perform)
    finally:
        for hook in hooks:
            hook.remove()


def output_and_gradient(network: nn.Module, inputs: Tensor, name: str, run: int, k: int) -> tuple[Tensor, Tensor]:
    """What a module returned in its run `run`, and d logit k / d that, summed over the images; of the same shape.

    NetworkError where the module did not run, or returned no tensor of real numbers.
    """
    leaves: list[Tensor] = []

    def cut(returned: ModuleOutput) -> Tensor | None:
        if (returned.name, returned.run) != (name, run) or not _is_real(returned.output):
            return None
        # From here on only: what came before needs no gradients, and its maps no place to stay.
        torch.set_grad_enabled(True)
        leaf: Tensor = returned.output.detach().clone().requires_grad_()
        leaves.append(leaf)
        # A clone: an in-place operation that follows may not write into a leaf that asks for gradients.
        return leaf.clone()

    with torch.inference_mode(False), torch.no_grad():
        logit = hook_modules(network, inputs, cut)[:, k].sum()
        if not leaves:
            raise NetworkError(
                f"No layer {name!r} returned a tensor in its run {run + 1}: its outputs cannot be heard."
            )
        (leaf,) = leaves
        gradient = torch.autograd.grad(logit, leaf, allow_unused=True)[0] if logit.requires_grad else None
    return leaf.detach(), torch.zeros_like(leaf) if gradient is None else gradient


def _is_real(output: Any) -> bool:
    return isinstance(output, Tensor) and output.is_floating_point()


@dataclass(frozen=True)
class Layer:
    """A module that has parameters of its own or no modules inside, as it ran."""

    name: str  # its place in the network, as in "layer4.1.conv2"
    kind: str  # "Conv2d"
    shape: tuple[int, ...] | None  # of what it first returned, the batch first; None for what is no tensor
    parameters: int  # of its own
    runs: int  # how many times it ran in the pass


@dataclass(frozen=True)
class Trace:
    """What happened in one pass."""

    layers: tuple[Layer, ...]  # in the order in which they first ran
    output: tuple[int, ...]  # the shape of what the network returned
    before: int | None  # how many layers had run when the last of the chosen reductions took place
    after: tuple[str, ...]  # the tensor functions called since then, but for those that only lay values out anew


def trace(network: nn.Module, inputs: Tensor, calls: Sequence[int] = ()) -> Trace:
    """The layers of one pass in order, and what followed the last of the reductions `calls`.

    The hooks sit on a copy on the same parameters; where there can be none, on the network, for this pass.
    """
    watched = copy_sharing_parameters(network) or network
    own = {module: sum(p.numel() for p in module.parameters(recurse=False)) for module in watched.modules()}
    # A convolution may have a module inside that pads for it.
    names = {module: name for name, module in watched.named_modules() if own[module] or not any(module.children())}
    ran: dict[nn.Module, Layer] = {}
    after: list[str] = []
    before: int | None = None

    def note(module: nn.Module, _: Any, output: Any) -> None:
        shape = tuple(output.shape) if isinstance(output, Tensor) else None
        first = ran.get(module, Layer(names[module], type(module).__name__, shape, own[module], 0))
        ran[module] = replace(first, runs=first.runs + 1)

    def reach(seen: PoolingCall) -> Tensor:
        nonlocal before
        if calls and seen.index == max(calls):
            before = len(ran)
            after.clear()
        return seen.result

    def listen(function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        name = op_name(function)
        if name not in (*LAYOUT_OPS, "__get__", "dropout", "size", "dim", "permute", "transpose"):
            after.append(name)
        return function(*args, **kwargs)

    hooks = [module.register_forward_hook(note) for module in names]
    try:
        with torch.no_grad(), eval_mode(watched), TensorCallMode(on_pooling_calls(reach, listen)):
            output = run_network(watched, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    shape = tuple(output.shape) if isinstance(output, Tensor) else ()
    return Trace(tuple(ran.values()), shape, before, tuple(after) if before is not None else ())
