"""Load a classifier by name: build its network, give it its weights, find its head."""

import importlib.util
from collections.abc import Mapping
from dataclasses import replace
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
    classifier = wrap(network.eval(), card.preprocessing, card.classes, card.name, card.probability)
    if card.centre is None:
        return classifier
    # Some networks learn to look beside the middle of their receptive field: benchmarks/cell_centres.py measures it.
    field, (y, x) = classifier.receptive_field, card.centre
    measured = replace(field, y=replace(field.y, centre=y), x=replace(field.x, centre=x))
    return replace(classifier, receptive_field=measured)


def _build(architecture: Mapping[str, Any]) -> nn.Module:
    factory = architecture.get("factory")
    if factory not in networks.FACTORIES:
        raise NetworkError(f"No architecture {factory!r}. There are {', '.join(networks.FACTORIES)}.")
    return networks.FACTORIES[factory](**architecture.get("arguments", {}))


def _give_weights(network: nn.Module, card: Card) -> None:
    if isinstance(card.weights, str):
        path = card.folder / card.weights
    else:
        path = _packaged_file(card.weights["package"], card.weights["file"])
    try:
        network.load_state_dict(_read(path))
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
