"""Choose the output of a network that holds its logits, where it returns several tensors."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from inspector.errors import NetworkError
from inspector.explain.tracing.forward import call_network, eval_mode
from inspector.explain.tracing.outputs import (
    as_logits,
    describe_outputs,
    find_output_name,
    list_outputs,
    list_possible_logits,
    pick_output,
)
from inspector.explain.tracing.tensor_calls import TensorCallMode


class OutputAdapter(nn.Module):
    """A module that runs a network and returns something else than the network does.

    Attributes:
        network: the network, or another adapter of it.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network


class ChosenOutput(OutputAdapter):
    """A network as a module that returns one of its outputs.

    Attributes:
        output: name of the output, as in `list_outputs`.
    """

    def __init__(self, network: nn.Module, output: str) -> None:
        super().__init__(network)
        self.output = output

    def forward(self, inputs: Tensor) -> Tensor:
        """Run the network and return the chosen output."""
        output = self.network(inputs)
        try:
            return list_outputs(output)[self.output]
        except KeyError:
            got = describe_outputs(output)
            raise NetworkError(
                f"No output {self.output!r} for inputs of shape {tuple(inputs.shape)}: the network returns {got}."
            ) from None


def original_network(network: nn.Module) -> nn.Module:
    """Return the network inside adapters; any other network as it is."""
    while isinstance(network, OutputAdapter):
        network = network.network
    return network


def find_chosen_output(network: nn.Module) -> str | None:
    """Return the name of the output that an adapter chose; None if there is no such adapter."""
    while isinstance(network, OutputAdapter):
        if isinstance(network, ChosenOutput):
            return network.output
        network = network.network
    return None


def choose_output(network: nn.Module, example: Tensor, wanted: str | int | None = None) -> nn.Module:
    """Return the network, or a module that returns one of its outputs, so that the result returns logits.

    Args:
        network: any classifier.
        example: an input (1, channels, H, W).
        wanted: name or index of the output. Default: the only one that can be the logits. An output from which another
            one is computed holds features, not logits.

    Raises:
        NetworkError: there is no such output, or several may be the logits. The message lists them.
    """
    calls: list[_Call] = []

    def note(function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        result = function(*args, **kwargs)
        # A function that writes into its first argument may return nothing, as in `logits[:, :5] = ...`.
        written = args[0] if result is None and args else result
        calls.append((_list_tensors((args, kwargs)), _list_tensors(written)))
        return result

    with torch.no_grad(), eval_mode(network):
        if wanted is None:
            output = call_network(network, example)
            if isinstance(pick_output(output), Tensor) or len(list_possible_logits(list_outputs(output))) < 2:
                return network
        with TensorCallMode(note):
            output = call_network(network, example)
    outputs = list_outputs(output)
    if wanted is not None:
        name = find_output_name(output, wanted)
        as_logits(outputs[name], len(example))
        return ChosenOutput(network, name) if name else network
    possible = {name: outputs[name] for name in list_possible_logits(outputs)}
    final = [name for name in possible if not _is_input_of_another(name, possible, calls)]
    if len(final) != 1:
        as_logits(output, len(example))  # raises an error that lists the outputs
    return ChosenOutput(network, final[0])


_Call = tuple[list[Tensor], list[Tensor]]  # arguments and results of a tensor function


def _list_tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(values) if isinstance(leaf, Tensor)]


def _is_input_of_another(name: str, outputs: Mapping[str, Tensor], calls: Sequence[_Call]) -> bool:
    """Tell whether an output, or a tensor of the same values, is an input of what another output is computed from."""
    values = outputs[name].flatten()
    results = [result for _, made in calls for result in made if result.numel() == values.numel()]
    same = {id(result) for result in results if torch.equal(result.flatten(), values)} | {id(outputs[name])}
    for tensor in outputs.values():
        needed = {id(tensor)}
        for args, made in reversed(calls):
            if any(id(result) in needed for result in made):
                needed.update(map(id, args))
        if id(tensor) not in same and same & needed:
            return True
    return False
