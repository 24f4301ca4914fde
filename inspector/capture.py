"""Run a network and see what happens inside: the only module that runs one.

A TorchFunctionMode sees every function and method call on tensors, so a pooling is seen whether it is a module, a
function or a method. Its stack belongs to the thread and what it sees goes only to the caller, so threads that share
a network share nothing else. The network itself is never touched but for its modes, which are put back.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from inspector.errors import NetworkError

Layout = Literal["channels first", "channels last"]

# What one call of a network does with each tensor function: it must call it, and may return something else.
Handler = Callable[[Callable[..., Any], Sequence[Any], dict[str, Any]], Any]


@dataclass(frozen=True, eq=False)
class Reduction:
    """A call that took a 4-D tensor to one value a channel, or flattened it."""

    index: int  # how many such calls came before it in the same pass
    feature_maps: Tensor  # (N, C, h, w), a copy of what went in
    pooled: Tensor  # (N, C), or (N, C * h * w) where it was flattened: a copy of what came out


class _Watch(TorchFunctionMode):
    def __init__(self, handler: Handler) -> None:
        super().__init__()
        self.handler = handler

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return self.handler(func, args, kwargs or {})


@dataclass
class _Passes:
    """The forward passes under way on one network, and the modes it had before the first of them."""

    count: int
    training: list[nn.Module]


_guard = threading.Lock()
_under_way: WeakKeyDictionary[nn.Module, _Passes] = WeakKeyDictionary()


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
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


def call(function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """The handler that changes nothing."""
    return function(*args, **kwargs)


def watch(network: nn.Module, inputs: Tensor, handler: Handler) -> Tensor:
    """The logits (N, K) of one pass in which every tensor function goes through `handler`.

    Raises NetworkError when the network cannot run on these inputs or returns no logits.
    """
    with evaluating(network), _Watch(handler):
        return _forward(network, inputs)


def _forward(network: nn.Module, inputs: Tensor) -> Tensor:
    try:
        output = network(inputs)
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise NetworkError(f"The network cannot run on an input of shape {tuple(inputs.shape)}: {reason}") from error
    return _logits(output)


def _logits(output: Any) -> Tensor:
    if isinstance(output, tuple | list) and output:
        output = output[0]
    if not isinstance(output, Tensor) or output.ndim < 2 or output[0].numel() != output.shape[1]:
        got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise NetworkError(f"A classifier returns logits of shape (N, classes); this network returned {got}.")
    return output.flatten(1)


def run(network: nn.Module, inputs: Tensor) -> Tensor:
    """The logits (N, K) of a plain pass."""
    with torch.no_grad():
        return watch(network, inputs, call)


def reductions(network: nn.Module, inputs: Tensor, only: int | None = None) -> tuple[list[Reduction], Tensor]:
    """The reductions of one pass in order, or the one with the index `only`, and the logits (N, K)."""
    found: list[Reduction] = []

    def keep(index: int, source: Tensor, result: Tensor, layout: Layout) -> Tensor:
        if only is None or index == only:
            # Copies: an in-place ReLU that follows would rewrite an alias.
            feature_maps = (source if layout == "channels first" else source.permute(0, 3, 1, 2)).detach().clone()
            found.append(Reduction(index, feature_maps, result.detach().flatten(1).clone()))
        return result

    with torch.no_grad():
        logits = watch(network, inputs, at_reductions(keep))
    return found, logits


def capture(network: nn.Module, inputs: Tensor, index: int) -> tuple[Reduction, Tensor]:
    """The reduction with this index in one pass, and the logits (N, K)."""
    found, logits = reductions(network, inputs, only=index)
    if not found:
        raise _not_reached(inputs)
    return found[0], logits


def _not_reached(inputs: Tensor) -> NetworkError:
    shape = tuple(inputs.shape)
    return NetworkError(f"The pooling was not reached with an input of shape {shape}: it may be too small to pool.")


@dataclass(frozen=True, eq=False)
class Tap:
    """A place in a network where its feature maps can be heard on the way to the logits."""

    network: nn.Module
    call: int  # the reduction that takes them in
    listener: nn.Module | None  # a copy of the network on its parameters, with a hook; None: watch every call
    heard: threading.local  # what the hook heard, a thread each
    # Where the network keeps each parameter and buffer, its name there, and what was there.
    state: list[tuple[dict[str, Any], str, Any]]
    modules: list[nn.Module]  # of the network


def tap(network: nn.Module, example: Tensor, call: int) -> Tap:
    """A tap at the reduction with the index `call`, set up with one example input (1, channels, H, W).

    Where that reduction is a module that runs once in a pass, a hook costs nothing, and watching every call 1 to 9 %
    of the pass. The hook sits on a copy that shares the parameters: the network itself is never touched.
    """
    heard = threading.local()
    modules = list(network.modules())
    kept = [values for module in modules for values in (module._parameters, module._buffers)]
    state = [(values, name, tensor) for values in kept for name, tensor in values.items()]
    listener = _copy_on_same_parameters(network)
    # The network too: a closure may lead from the copy back to it.
    with evaluating(network):
        module = None if listener is None else _module_that_reduces(listener, example, call)
    if module is None:
        return Tap(network, call, None, heard, state, modules)
    # A clone: what follows the pooling may write into its input.
    module.register_forward_pre_hook(lambda _, inputs: setattr(heard, "feature_maps", inputs[0].clone()))
    return Tap(network, call, listener, heard, state, modules)


def listen(tap: Tap, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """The feature maps (N, C, h, w) at the tap, a copy, and the logits (N, K) of one pass."""
    if tap.listener is None or not _as_it_was_copied(tap):
        reduction, logits = capture(tap.network, inputs, tap.call)
        return reduction.feature_maps, logits
    # The copy is ours, so nothing of the user's can keep an inference tensor; clones made outside are ordinary ones.
    with torch.inference_mode():
        logits = _forward(tap.listener, inputs)
    feature_maps: Tensor | None = tap.heard.__dict__.pop("feature_maps", None)
    if feature_maps is None:
        raise _not_reached(inputs)
    return feature_maps.clone(), logits.clone()


def _as_it_was_copied(tap: Tap) -> bool:
    """Whether the network still has the same parameters, and is in evaluation mode as its copy is."""
    same = all(values.get(name) is tensor for values, name, tensor in tap.state)
    return same and not any(module.training for module in tap.modules)


def _copy_on_same_parameters(network: nn.Module) -> nn.Module | None:
    shared = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    try:
        copy = deepcopy(network, shared)
        for module in copy.modules():
            module.training = False
    except Exception:  # whatever a network holds that cannot be copied: it is watched instead
        return None
    return copy


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

    def look(at: int, source: Tensor, result: Tensor, layout: Layout) -> Tensor:
        if at == call and layout == "channels first":
            # A module that wrote into its input before it reduced it would be heard too early.
            found.extend(
                module
                for module, tensor, version in reversed(running)
                if tensor is source and version == source._version
            )
        return result

    hooks = [module.register_forward_pre_hook(enter) for module in network.modules()]
    hooks += [module.register_forward_hook(leave) for module in network.modules()]
    try:
        with torch.no_grad():
            watch(network, example, at_reductions(look))
    finally:
        for hook in hooks:
            hook.remove()
    return next((module for module in found if runs[module] == 1), None)


def substitute(network: nn.Module, inputs: Tensor, index: int, pooled: Tensor) -> Tensor:
    """The logits of a pass in which `pooled` stands where the reduction with this index returned its result.

    `pooled` may have more rows than `inputs`: what follows the pooling then runs on all of them. Gradients flow from
    the logits to `pooled` if it asks for them.
    """

    def replace(at: int, source: Tensor, result: Tensor, layout: Layout) -> Tensor:
        # A clone: an in-place operation that follows may not write into a leaf that asks for gradients.
        return pooled.reshape(-1, *result.shape[1:]).clone() if at == index else result

    return watch(network, inputs, at_reductions(replace))


def at_reductions(act: Callable[[int, Tensor, Tensor, Layout], Tensor], perform: Handler = call) -> Handler:
    """A handler that hands the number, input, output and layout of each reduction to `act`, and returns its answer."""
    count = 0

    def handler(function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        nonlocal count
        result = perform(function, args, kwargs)
        if isinstance(result, Tensor):
            source = args[0] if args else kwargs.get("input")
            if isinstance(source, Tensor) and (layout := _layout(source.shape, result.shape)):
                result = act(count, source, result, layout)
                count += 1
        return result

    return handler


def _layout(source: torch.Size, result: torch.Size) -> Layout | None:
    """How the channels of `source` lie if it has several positions and `result` one value a channel, else None."""
    if len(source) != 4 or len(result) not in (2, 3, 4) or source[0] != result[0]:
        return None
    images, channels, height, width = source
    values = result.numel() // images if images else 0
    if height * width > 1:
        pooled, flattened = values == channels == result[1], values == channels * height * width and len(result) == 2
        if pooled or flattened:
            return "channels first"
    if channels * height > 1 and width > 1 and values == width == result[-1]:
        return "channels last"
    return None
