"""Replace the head of a trained network by a new head (transfer learning).

images (N, 3, H, W) -> trunk -> feature maps (N, C, h, w) -> head -> logits (N, K)
"""

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from inspector.errors import NetworkError, translate_errors
from inspector.explain.pooling import GlobalAveragePooling, GlobalMaxPooling

HeadKind = Literal["average", "max", "connected"]

_HIDDEN = 512  # size of the hidden layer in the head "connected"
_SMALL, _LARGE = 128, 256  # pixels: for the search in _cut_before_head, images below _SMALL become _LARGE


class Trunk(nn.Module):
    """A network without its head.

    It calls the network's own method for feature maps, or a graph that torchvision cut before the head.
    """

    def __init__(self, network: nn.Module, method: str | None) -> None:
        super().__init__()
        self.network = network
        self.method = method

    def forward(self, images: Tensor) -> Tensor:
        """Compute the last feature maps (N, C, h, w)."""
        maps: Tensor = getattr(self.network, self.method)(images) if self.method else self.network(images)["maps"]
        return maps


def add_head(network: nn.Module, head: HeadKind, classes: int, size: Sequence[int]) -> nn.Sequential:
    """Put a new head with random weights on a network's trunk. The two parts of the result are `trunk` and `head`.

    Args:
        network: the backbone; the function changes it.
        head: "average": global average pooling -> Linear. "max": global max pooling -> Linear. "connected": flatten ->
            Linear(512) -> ReLU -> Linear; the network then takes inputs of this ``size`` only.
        classes: number of logits.
        size: (height, width) of the input.

    Raises:
        NetworkError: the last feature maps of the network cannot be found.
    """
    image = torch.zeros(1, 3, *size)
    trunk = extract_trunk(network, image)
    channels, *grid = _run(trunk, image).shape[1:]
    if head == "connected":
        hidden = nn.Linear(channels * math.prod(grid), _HIDDEN)
        layers = nn.Sequential(nn.Flatten(), hidden, nn.ReLU(), nn.Linear(_HIDDEN, classes))
    else:
        pooling = GlobalAveragePooling() if head == "average" else GlobalMaxPooling()
        layers = nn.Sequential(pooling, nn.Linear(channels, classes))
    return nn.Sequential(OrderedDict(trunk=trunk, head=layers))


def extract_trunk(network: nn.Module, image: Tensor) -> Trunk:
    """Extract the part of a network that computes its last feature maps, (N, C, h, w).

    Args:
        network: the whole network; the function may change it.
        image: an example input, (1, 3, H, W).

    Raises:
        NetworkError: the network cannot be cut, or its last feature maps are not (N, C, h, w) with h and w above 1.
    """
    if hasattr(network, "forward_features"):  # timm
        network.reset_classifier(0)  # type: ignore[operator]
        trunk = Trunk(network, "forward_features")
    elif hasattr(network, "extract_features"):  # the packages for EfficientNet
        network._fc = nn.Identity()
        trunk = Trunk(network, "extract_features")
    else:
        trunk = _cut_before_head(network, image)
    maps = _run(trunk, image)
    kind = type(network).__name__
    if maps.ndim == 4 and min(maps.shape[2:]) < 2:
        small, size = ("x".join(map(str, sides)) for sides in (maps.shape[2:], image.shape[2:]))
        raise NetworkError(f"The last feature maps of {kind} are {small} at {size}. Use a larger input size.")
    # Compare the channels, too: timm's Swin has maps with the channels last.
    if maps.ndim != 4 or maps.shape[1] != getattr(network, "num_features", maps.shape[1]):
        got, hint = tuple(maps.shape[1:]), "Use a convolutional network as backbone"
        raise NetworkError(f"The last feature maps of {kind} are {got}, not channels x height x width. {hint}.")
    return trunk


def _cut_before_head(network: nn.Module, image: Tensor) -> Trunk:
    # Import it here: torchvision takes a second to import, and most networks are loaded without it.
    from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

    # On a small image the last maps may have one cell, as pooled maps do. A larger image distinguishes them.
    if min(image.shape[2:]) < _SMALL:
        image = torch.zeros(1, 3, *(max(side, _LARGE) for side in image.shape[2:]))
    # Exclude such poolings: VGG and AlexNet pool to a fixed grid before they flatten, which enlarges small maps.
    pools = {name for name, layer in network.named_modules() if isinstance(layer, nn.AdaptiveAvgPool2d)}
    hint = "Use a network of torchvision or timm as backbone"
    message = f"{type(network).__name__} cannot be cut before its head ({{type}}). {hint}."
    with translate_errors(NetworkError, message):  # any exception: tracing runs the network's own code
        names = get_graph_node_names(network)[1]
        results = _run(create_feature_extractor(network, names), image)
        maps = [name for name in names if name not in pools and _is_map(results[name])]
        return Trunk(create_feature_extractor(network, {maps[-1]: "maps"}), None)


def _is_map(result: object) -> bool:
    return isinstance(result, Tensor) and result.ndim == 4 and min(result.shape[2:]) > 1


def _run(module: nn.Module, image: Tensor) -> Any:
    with torch.inference_mode():
        return module.eval()(image)
