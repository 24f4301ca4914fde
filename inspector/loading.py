"""Load a classifier by name: build its network, give it its weights, find its head."""

import importlib.util
from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from inspector import networks
from inspector.catalogue import Card, find_card
from inspector.classifier import Classifier, wrap
from inspector.errors import NetworkError
from inspector.image import Preprocessing, as_pair


def load(name: str) -> Classifier:
    """The classifier of a name in models/, of a folder that holds a model.json, or of "torchvision:resnet18" and such.

    torchvision's networks come with its best weights (fetched when they are not there), their own preprocessing and
    class names. Raises NetworkError for an unknown name or files that do not fit or cannot be had, HeadError for a
    network without exact class maps.
    """
    if name.startswith("torchvision:"):
        return _torchvision(name)
    card = find_card(name)
    network = _build(card)
    _give_weights(network, card)
    classifier = wrap(network.eval(), card.preprocessing, card.classes, card.name, card.probability)
    if card.centre is None:
        return classifier
    # Some networks learn to look beside the middle of their receptive field: benchmarks/cell_centres.py measures it.
    field, (y, x) = classifier.receptive_field, card.centre
    measured = replace(field, y=replace(field.y, centre=y), x=replace(field.x, centre=x))
    return replace(classifier, receptive_field=measured)


def _torchvision(name: str) -> Classifier:
    # Here and not above: it takes seconds to import, and our own networks do without.
    from torchvision import models

    wanted = name.removeprefix("torchvision:").lower()
    known = models.list_models(module=models)
    if wanted not in known:
        nearest = get_close_matches(wanted, known, n=3)
        hint = f" Nearest names: {', '.join(nearest)}." if nearest else ""
        raise NetworkError(f"torchvision has no classifier {wanted!r}.{hint}")
    weights: Any = models.get_model_weights(wanted)["DEFAULT"]
    try:
        network = models.get_model(wanted, weights=weights)
    except OSError as error:  # of which URLError is one
        raise NetworkError(f"The weights of {name} could not be fetched: {_first_line(error)}.") from error
    recipe = weights.transforms()
    preprocessing = Preprocessing(
        size=as_pair(recipe.crop_size[0]),
        resize=as_pair(recipe.resize_size[0]),
        mean=tuple(recipe.mean),
        std=tuple(recipe.std),
        interpolation=recipe.interpolation.value,
    )
    return wrap(network.eval(), preprocessing, weights.meta["categories"], name, "softmax")


def _build(card: Card) -> nn.Module:
    factory = card.architecture.get("factory")
    if factory not in networks.FACTORIES:
        raise NetworkError(f"No architecture {factory!r}. There are {', '.join(networks.FACTORIES)}.")
    try:
        return networks.FACTORIES[factory](**card.architecture.get("arguments", {}))
    except TypeError as error:
        raise NetworkError(f"The arguments of {card.name}'s architecture do not fit: {error}.") from error


def _give_weights(network: nn.Module, card: Card) -> None:
    path = card.folder / card.weights if isinstance(card.weights, str) else _packaged_file(card.weights)
    state = _read(path)
    own = network.state_dict()
    missing, unexpected = (sorted(a.keys() - b.keys()) for a, b in ((own, state), (state, own)))
    shapes = [name for name in own.keys() & state.keys() if own[name].shape != state[name].shape]
    for problem, names in (("lack", missing), ("have too", unexpected), ("have in another shape", sorted(shapes))):
        if names:
            some = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            raise NetworkError(f"The weights at {path} do not fit {card.name}'s architecture: they {problem} {some}.")
    network.load_state_dict(state)


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict by name; no code in the file is run."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise NetworkError(f"No weights at {path}.") from error
    except UnpicklingError as error:
        raise NetworkError(
            f"The weights at {path} hold more than tensors, or are broken: nothing was run. Save a plain state dict, "
            "best as safetensors."
        ) from error
    except (SafetensorError, OSError, EOFError, RuntimeError, ValueError) as error:
        raise NetworkError(f"The weights at {path} cannot be read: {_first_line(error)}.") from error
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise NetworkError(f"The weights at {path} must be tensors by name; the file holds a {type(state).__name__}.")
    return state


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def _packaged_file(weights: Mapping[str, str]) -> Path:
    try:
        package, file = weights["package"], weights["file"]
    except KeyError as error:
        raise NetworkError(f"An entry of packaged weights lacks {error}.") from error
    # find_spec of a name without dots imports nothing: no code of the package runs.
    spec = importlib.util.find_spec(package) if "." not in package else None
    if spec is None or spec.origin is None:
        raise NetworkError(f"The weights are in the package {package.replace('_', '-')}, which is not installed.")
    return Path(spec.origin).parent / file
