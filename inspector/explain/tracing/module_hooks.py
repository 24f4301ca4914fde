"""Watch the modules of a network during one forward pass.

The hooks are on a copy of the network that shares its parameters, so the network itself is never changed.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from inspector.errors import NetworkError
from inspector.explain.tracing.chosen_output import original_network
from inspector.explain.tracing.forward import copy_sharing_parameters, eval_mode, forward_logits


@contextmanager
def register_hooks(
    modules: Iterable[nn.Module],
    before: Callable[[nn.Module, Any], None],
    after: Callable[[nn.Module, Any, Any], Any] | None = None,
) -> Iterator[None]:
    """Register forward pre-hooks and forward hooks on modules; remove them at the end, also after an error.

    Other threads may run the same modules: the hooks ignore them.
    """
    thread = threading.get_ident()

    def call_before(module: nn.Module, inputs: Any) -> None:
        if threading.get_ident() == thread:
            before(module, inputs)

    def call_after(module: nn.Module, inputs: Any, output: Any) -> Any:
        return after(module, inputs, output) if after is not None and threading.get_ident() == thread else None

    with ExitStack() as handles:
        for module in modules:
            handles.enter_context(module.register_forward_pre_hook(call_before))
            if after is not None:
                handles.enter_context(module.register_forward_hook(call_after))
        yield


@dataclass(frozen=True, eq=False)
class ModuleOutput:
    """What a module returned in a pass."""

    name: str  # name of the module in the network, as in "layer4.1.relu"
    module: nn.Module
    run: int  # number of earlier runs of this module in the same pass
    started: int  # number of module runs that started before this run; a block starts before the modules inside it
    output: Any


@contextmanager
def intercept_modules(network: nn.Module, on_output: Callable[[ModuleOutput], Tensor | None]) -> Iterator[nn.Module]:
    """Pass the output of every module to a function, in the passes inside the ``with`` block.

    The hooks are on a copy that shares the parameters. If the network cannot be copied, they are on the network itself
    until the block ends.

    Args:
        network: any network.
        on_output: gets each output, and may return another tensor to replace it.

    Yields:
        The network to run, in evaluation mode.
    """
    hooked = copy_sharing_parameters(network) or network
    names = {module: name for name, module in original_network(hooked).named_modules() if name}
    runs = Counter[nn.Module]()
    running: list[int] = []
    starts = count()

    def enter(module: nn.Module, _: Any) -> None:
        running.append(next(starts))

    def leave(module: nn.Module, _: Any, output: Any) -> Tensor | None:
        runs[module] += 1
        return on_output(ModuleOutput(names[module], module, runs[module] - 1, running.pop(), output))

    # Put the original network into evaluation mode too: a closure in the copy may call modules of the original.
    with register_hooks(names, enter, leave), eval_mode(network):
        yield hooked


def hook_modules(network: nn.Module, inputs: Tensor, on_output: Callable[[ModuleOutput], Tensor | None]) -> Tensor:
    """Run a classifier once and pass the output of every module to a function.

    Args:
        network: any classifier.
        inputs: normalized images (N, channels, H, W).
        on_output: gets each output, and may return another tensor to replace it.

    Returns:
        Logits (N, K).
    """
    with intercept_modules(network, on_output) as hooked:
        return forward_logits(hooked, inputs)


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
                f"Layer {name!r} returned no floating-point tensor in run {run + 1}, so its output cannot be captured."
            )
        (leaf,) = leaves
        gradient = torch.autograd.grad(logit, leaf, allow_unused=True)[0] if logit.requires_grad else None
    return leaf.detach(), torch.zeros_like(leaf) if gradient is None else gradient
