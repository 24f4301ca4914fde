"""Load a trained network to put a new head on (transfer learning)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from inspector.errors import NetworkError
from inspector.explain.classifier import Classifier
from inspector.explain.tracing.chosen_output import original_network
from inspector.images.preprocessing import PreprocessingOverrides
from inspector.networks.build import build, suggest_library_names
from inspector.networks.builtin import FACTORIES
from inspector.networks.catalog import find_model_card, find_model_folder
from inspector.networks.load import resolve
from inspector.networks.transfer import HeadKind


@dataclass(frozen=True, eq=False)
class Backbone:
    """A classifier, and how to build its network again."""

    classifier: Classifier
    architecture: str  # name that `networks.build.build` accepts
    options: Mapping[str, Any]  # keyword arguments of the architecture
    packaged: Mapping[str, str] | None  # package and file of the weights; None if no installed package has them


def load_backbone(name: str, weights: Path | None, overrides: PreprocessingOverrides) -> Backbone:
    """Load a backbone by its name, with its pretrained weights or with the weights in a file.

    Args:
        name: a name in models/, "torchvision:NAME", "timm:NAME", or a torchvision name without prefix.
        weights: a checkpoint with other weights for this architecture. None: the pretrained weights.
        overrides: settings that replace parts of the default preprocessing.

    Raises:
        NetworkError: the name is unknown, the weights do not fit or cannot be read, or the network is not a
            convolutional network for RGB images.
        HeadError: the network pools no feature maps, such as a vision transformer.
    """
    options: dict[str, Any] = {}
    if find_model_folder(name) is not None:
        if weights is not None:
            raise NetworkError(f"{name} in models/ has weights already. Name an architecture for {weights.name}.")
        card = find_model_card(name, suggest_library_names)
        loaded = resolve(name, overrides=overrides)
        architecture, options = card.architecture["factory"], dict(card.architecture.get("arguments", {}))
        if ":" in architecture and "classes" in card.architecture:
            options["num_classes"] = card.architecture["classes"]
        packaged = card.weights if isinstance(card.weights, Mapping) else None
    else:
        architecture, packaged = name if ":" in name else f"torchvision:{name}", None
        loaded = resolve(weights or architecture, architecture if weights else None, overrides=overrides)
    classifier = Classifier.from_network(loaded)
    if weights is not None:
        # Rebuilding SqueezeNet needs the number of classes: it has one feature map per class before the pooling.
        options["num_classes"] = len(classifier.class_names)
    if architecture not in FACTORIES and not architecture.startswith(("torchvision:", "timm:")):
        raise NetworkError(f"{name} cannot be a backbone. Use a convolutional network of torchvision, timm or ours.")
    if len(classifier.preprocessing.mean) != 3:
        raise NetworkError(f"{name} takes gray images. Use a backbone for RGB photos.")
    return Backbone(classifier, architecture, options, packaged)


def make_transfer_arguments(backbone: Backbone, head: HeadKind) -> dict[str, Any]:
    """Return the arguments of `inspector.networks.build.transfer`, except the number of classes."""
    size = list(backbone.classifier.preprocessing.size)
    arguments = {"backbone": backbone.architecture, "head": head, "size": size}
    return arguments | {"options": dict(backbone.options)} if backbone.options else arguments


def build_with_head(backbone: Backbone, head: HeadKind, classes: int) -> nn.Module:
    """Build a network of two modules: `trunk`, with the weights of the backbone, and `head`, with random weights."""
    network = build("transfer", classes, make_transfer_arguments(backbone, head))
    trunk = network.get_submodule("trunk.network")
    state = original_network(backbone.classifier.network).state_dict()
    trunk.load_state_dict({name: state[name] for name in trunk.state_dict()})
    return network
