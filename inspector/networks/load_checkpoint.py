"""Build the architecture that the weights in a file belong to, and load them.

    state dicts of a file + name of an architecture -> number of classes and input channels -> network with its weights

Names and shapes are compared before a network takes memory: a file of 1 kB cannot make a network of gigabytes. So the
network is built without memory first, and a second time when the weights fit.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from inspector.errors import NetworkError
from inspector.networks.build import build, runs_users_code
from inspector.networks.checkpoint import State
from inspector.networks.fit_state import Fit, choose_usual, find_fit
from inspector.networks.state_dict import check_fit, count_classes, describe_fit, write_weights

_FACTORIES = frozenset((torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn))
# For a network that is built without memory:
_SMALL = 100_000  # values of a tensor that gets memory all the same
_MAX_VALUES = 50_000_000  # of all tensors that get memory
_MAX_TENSORS = 100_000


@dataclass(frozen=True)
class Architecture:
    """How to build a network, as `networks.build.build` takes it."""

    name: str
    classes: int | None = None  # number of logits; None: read it from the weights
    arguments: Mapping[str, Any] = field(default_factory=dict)
    trust: bool = False  # the code of package.module:factory may run

    def build(self, classes: int | None) -> nn.Module:
        """Build the network with random weights."""
        return build(self.name, classes, self.arguments, self.trust)


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A network with its weights."""

    network: nn.Module
    notes: tuple[str, ...]  # sentences on where in the file the weights were found
    channels: int | None  # input channels, if the first convolution was changed for another number of them


def load_checkpoint(
    states: Mapping[str, State],
    architecture: Architecture,
    path: Path,
    title: str | None = None,
    spare: tuple[str, ...] = (),
) -> LoadedCheckpoint:
    """Build an architecture and load the weights of a file into it.

    Args:
        states: state dicts by their place in the file, as `read_states` returns them.
        architecture: what to build.
        path: the file or folder, for error messages.
        title: name for error messages. Default: that of the architecture.
        spare: prefixes of weights that are dropped if the network has none of their name.

    Raises:
        NetworkError: the architecture is unknown, or the weights do not fit it; no memory was allocated for it then.
    """
    title = title or architecture.name
    if runs_users_code(architecture.name):
        # This code may do anything while it builds a network, so it runs once, and its memory is its own matter.
        network = architecture.build(architecture.classes or count_classes(states[choose_usual(states)]))
        fit, channels = _fit(states, network, title, path, spare)
    else:
        fit, channels, classes = fit_without_memory(states, architecture, title, path, spare)
        network = architecture.build(classes)
        adapt_input_channels(network, fit.state)
    write_weights(fit.state, network, path)
    return LoadedCheckpoint(network, describe_fit(fit), channels)


def fit_without_memory(
    states: Mapping[str, State],
    architecture: Architecture,
    title: str,
    path: Path,
    spare: tuple[str, ...] = (),
) -> tuple[Fit, int | None, int | None]:
    """Find the weights of an architecture among those of a file, without memory for the network.

    Args:
        states: state dicts by their place in the file.
        architecture: what they may belong to. It must not be package.module:factory, which runs any code.
        title: name for error messages.
        path: the file or folder, for error messages.
        spare: as in `load_checkpoint`.

    Returns:
        The weights; the number of input channels if they have another one than the architecture; and the number of
        classes (None: that of the architecture).

    Raises:
        NetworkError: the architecture is unknown, or the weights do not fit it.
    """
    classes, stored = architecture.classes, count_values(states)
    if classes is None:
        shapes = build_without_memory(partial(architecture.build, None), stored)
        classes = count_classes(find_fit(states, shapes.state_dict()).state)
    shapes = build_without_memory(partial(architecture.build, classes), stored)
    return *_fit(states, shapes, title, path, spare), classes


def _fit(
    states: Mapping[str, State], network: nn.Module, title: str, path: Path, spare: tuple[str, ...]
) -> tuple[Fit, int | None]:
    """Return the weights that fit a network, and its input channels if they were changed to those of the weights."""
    fit = find_fit(states, network.state_dict())
    channels = adapt_input_channels(network, fit.state)
    expected = network.state_dict()
    state = {name: one for name, one in fit.state.items() if name in expected or not name.startswith(spare)}
    fit = replace(fit, state=state)
    check_fit(fit, expected, title, path)
    return fit, channels


def join_states(parts: Sequence[str | Mapping[str, str]], states: Sequence[Mapping[str, State]]) -> State:
    """Join the weights of several files.

    Args:
        parts: the entries of a model.json; one with "into" holds the weights of one part of the network.
        states: the state dicts of each file.
    """
    joined: State = {}
    for part, found in zip(parts, states, strict=True):
        prefix = f"{part['into']}." if isinstance(part, Mapping) and "into" in part else ""
        joined |= {prefix + key: tensor for key, tensor in found[choose_usual(found)].items()}
    return joined


def adapt_input_channels(network: nn.Module, state: Mapping[str, Tensor]) -> int | None:
    """Give the first convolution of a network for RGB images as many input channels as its weight has.

    Returns:
        The new number of channels; None if nothing was changed.
    """
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d) and layer.in_channels == 3 and layer.groups == 1:
            weight = state.get(f"{name}.weight")
            if weight is None or weight.ndim != 4 or weight.shape[1] == 3 or not weight.shape[1]:
                return None
            layer.in_channels = weight.shape[1]
            shape = (layer.out_channels, layer.in_channels, *layer.kernel_size)
            layer.weight = nn.Parameter(layer.weight.new_empty(shape).normal_())
            return layer.in_channels
    return None


def build_without_memory(
    construct: Callable[[], nn.Module], stored: int, watch: Callable[[Tensor], object] = lambda made: None
) -> nn.Module:
    """Call a function that builds a network; the network's large tensors get shapes and no values.

    Some networks need values to be built. They get memory, but not much more than their weights have in the file.

    Args:
        construct: builds the network.
        stored: number of values in the file.
        watch: called with each tensor that torch.empty makes for a layer, on the device "meta". It may raise
            BuildStoppedError to end the building.

    Raises:
        NetworkError: the network cannot be built, or has many more values than the file.
    """
    try:
        with _TensorMaker(give_memory=False, limit=_MAX_VALUES, watch=watch):
            return construct()
    except BuildStoppedError:
        raise
    except Exception:  # what torch raises where values are missing; if anything else is wrong, it is raised again
        with _TensorMaker(give_memory=True, limit=2 * stored + _MAX_VALUES, watch=watch):
            return construct()


def count_values(states: Mapping[str, State]) -> int:
    """Count the values of the largest state dict."""
    return max(sum(tensor.numel() for tensor in state.values()) for state in states.values())


class BuildStoppedError(NetworkError):
    """A network is not built to its end, because the weights in a file cannot belong to it."""


class _TensorMaker(TorchFunctionMode):
    """Make the tensors of a network that is being built, and count them.

    Layers make their weights by torch.empty. Without memory, large ones of these are on the device "meta", where they
    have a shape and no values. With other tensors, some networks compute their own structure, which needs values; these
    are made as usual until they have taken as much memory as is allowed.
    """

    def __init__(self, give_memory: bool, limit: int, watch: Callable[[Tensor], object] = lambda made: None) -> None:
        super().__init__()
        self.give_memory, self.limit, self.watch = give_memory, limit, watch
        self.tensors = self.values = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Iterable[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options = kwargs or {}
        if func not in _FACTORIES or options.get("device") is not None:
            return func(*args, **options)
        self.tensors += 1
        if self.tensors > _MAX_TENSORS:
            raise BuildStoppedError(
                f"The architecture has more than {_MAX_TENSORS:,} tensors, which no checkpoint has."
            )
        made = func(*args, **options | {"device": "meta"})
        if func is torch.empty:
            self.watch(made)
        full = self.values + made.numel() > self.limit
        if full and self.give_memory:
            raise BuildStoppedError("The architecture has many more parameters than the file has weights.")
        if made.numel() > _SMALL and not self.give_memory and (func is torch.empty or full):
            return made
        self.values += made.numel()
        return func(*args, **options)
