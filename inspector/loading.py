"""Load a classifier by name: build its network, give it its weights, find its head."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from inspector import networks
from inspector.catalogue import Card, find_card
from inspector.classifier import Classifier, wrap
from inspector.errors import NetworkError


def load(name: str) -> Classifier:
    """The classifier in a folder of models/, by name, or in any folder that holds a model.json, by path.

    Raises NetworkError for an unknown name or files that do not fit, HeadError for a network without exact class maps.
    """
    card = find_card(name)
    network = _build(card.architecture)
    _give_weights(network, card)
    return wrap(network.eval(), card.preprocessing, card.classes, card.name, card.probability)


def _build(architecture: Mapping[str, Any]) -> nn.Module:
    arguments = architecture.get("arguments", {})
    if "timm" in architecture:
        # Here and not above: it takes a second to import, and the small networks do without.
        import timm

        network: nn.Module = timm.create_model(architecture["timm"], pretrained=False, **arguments)
        return network
    factory = architecture.get("factory")
    if factory not in networks.FACTORIES:
        raise NetworkError(f"No architecture {factory!r}. There are {', '.join(networks.FACTORIES)} and timm's.")
    return networks.FACTORIES[factory](**arguments)


def _give_weights(network: nn.Module, card: Card) -> None:
    if isinstance(card.weights, str):
        state = _read(card.folder / card.weights)
    else:
        state = _read(_packaged_file(card.weights["package"], card.weights["file"]))
        if card.weights.get("keys") == "in order":
            state = _renamed_in_order(network, state)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise NetworkError(f"The weights of {card.name} do not fit its architecture: {error}") from error


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
        return state
    except FileNotFoundError as error:
        raise NetworkError(f"No weights at {path}.") from error
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise NetworkError(f"The weights at {path} cannot be read: {error}.") from error


def _packaged_file(package: str, file: str) -> Path:
    # find_spec imports nothing: no code of the package runs.
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise NetworkError(f"The weights are in the package {package.replace('_', '-')}, which is not installed.")
    return Path(spec.origin).parent / file


def _renamed_in_order(network: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under the network's own names, one to one in order."""
    own = network.state_dict()
    shapes, own_shapes = ([tuple(tensor.shape) for tensor in tensors.values()] for tensors in (state, own))
    if shapes != own_shapes:
        raise NetworkError(f"{len(shapes)} tensors of weights do not fit the network's {len(own_shapes)} one to one.")
    return dict(zip(own, state.values(), strict=True))
