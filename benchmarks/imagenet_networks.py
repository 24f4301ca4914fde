"""Three networks with trained weights for ImageNet, each as a classifier and as features and a linear layer."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import inspector
from inspector.networks.label_presets import find_preset

MEAN_128 = 0.50196078  # (x - 128) / 128 for x in 0-255


@dataclass(frozen=True)
class ImageNetNetwork:
    """How a network is loaded, and its layers up to the global average pooling."""

    load: Callable[[Path], inspector.Classifier]
    features: Callable[[nn.Module], nn.Module]  # network -> its layers up to the pooling
    linear: Callable[[nn.Module], tuple[Tensor, Tensor]]  # network -> weight (K, C) and bias (K,) after the pooling


class EfficientNetFeatures(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network.extract_features(images)  # type: ignore[operator, no-any-return]


def _load_mobilenet(data: Path) -> inspector.Classifier:
    return inspector.load(
        data / "weights/mobilenet_v2_tvcompatible_imagenet.safetensors", "torchvision:mobilenet_v2",
        find_preset("ImageNet-1k"), size=225, mean=MEAN_128, std=MEAN_128, resize=225, interpolation="bicubic",
    )  # fmt: skip


def _make_identity(device: torch.device) -> tuple[Tensor, Tensor]:
    return torch.eye(1000, device=device), torch.zeros(1000, device=device)


def _load_squeezenet(data: Path) -> inspector.Classifier:
    file = data / "weights/squeezenet1_0_deepcompression_torchvision.safetensors"
    return inspector.load(file, "torchvision:squeezenet1_0", find_preset("ImageNet-1k"))


NETWORKS = {
    "efficientnet_lite0": ImageNetNetwork(
        lambda data: inspector.load("efficientnet_lite0"),
        EfficientNetFeatures,
        lambda network: (network._fc.weight, network._fc.bias),  # type: ignore[union-attr, return-value]
    ),
    "mobilenet_v2": ImageNetNetwork(
        _load_mobilenet,
        lambda network: network.get_submodule("features"),
        lambda network: (network.get_parameter("classifier.1.weight"), network.get_parameter("classifier.1.bias")),
    ),
    # Its class maps are pooled as they are: the linear layer is the identity.
    "squeezenet1_0": ImageNetNetwork(
        _load_squeezenet,
        lambda network: nn.Sequential(
            network.get_submodule("features"), *list(network.get_submodule("classifier"))[:3]
        ),
        lambda network: _make_identity(next(network.parameters()).device),
    ),
}


def make_sequential(name: str, network: nn.Module) -> nn.Sequential:
    """Return a network as `features`, pooling and `linear`, so that other packages find its layers by these names."""
    spec = NETWORKS[name]
    weight, bias = spec.linear(network)
    linear = nn.Linear(weight.shape[1], weight.shape[0], device=weight.device)
    with torch.no_grad():
        linear.weight.copy_(weight)
        linear.bias.copy_(bias)
    layers = OrderedDict(
        features=spec.features(network), pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(), linear=linear
    )
    return nn.Sequential(layers).eval()
