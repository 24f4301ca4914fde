"""Define the architectures of the networks in models/ and experiments/."""

from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from typing import Any, Literal, cast

from torch import Tensor, nn
from torch.nn import functional

from inspector.explain.pooling import GlobalAveragePooling, GlobalMaxPooling

_EFFICIENTNET = "BatchSizeFreeEfficientNet"


def fashion_convnet(pooling: Literal["average", "max"], classes: int = 10) -> nn.Sequential:
    """Build a network whose last feature maps are its class maps: (N, 1, 28, 28) -> (N, classes).

    It has six 3x3 convolutions with ReLU and 8, 8, 16, 16, 32, 32 filters. A 2x2 max pooling follows every second
    convolution. A 1x1 convolution then makes one 3x3 map per class, and global pooling of these maps gives the logits.
    The weights have Xavier initialization; every bias is 0.01.

    Args:
        pooling: kind of the global pooling.
        classes: number of logits.
    """
    layers: list[nn.Module] = []
    previous = 1
    for filters in (8, 16, 32):
        for channels in (previous, filters):
            layers += [nn.Conv2d(channels, filters, 3, padding=1), nn.ReLU()]
        layers.append(nn.MaxPool2d(2))
        previous = filters
    layers.append(nn.Conv2d(previous, classes, 1))
    layers.append(GlobalAveragePooling() if pooling == "average" else GlobalMaxPooling())
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.constant_(layer.get_parameter("bias"), 0.01)
    return nn.Sequential(*layers)


def lenet(
    trunk: Literal["pooling", "stride"],
    head: Literal["connected", "average", "max"] = "connected",
    activation: Literal["relu", "none"] = "relu",
    classes: int = 10,
) -> nn.Sequential:
    """Build a LeNet (LeCun et al., Proc. IEEE 1998) with one of three heads: (N, 1, 28, 28) -> (N, classes).

    Both trunks end in 16 feature maps of 5x5 cells. The weights have torch's default initialization.

    Args:
        trunk: how the trunk reduces the resolution: by 2x2 max pooling, or by convolutions with stride 2.
        head: "connected": flatten, then fully connected layers of sizes 400-120-84-classes. "average" and "max": pool
            each map to one value, then one fully connected layer.
        activation: activation after every convolution and fully connected layer except the last.
        classes: number of logits.
    """
    first: list[nn.Module] = [nn.Conv2d(1, 6, 5, padding=2), nn.ReLU()]
    if trunk == "pooling":
        first += [nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)]
    else:
        first += [nn.Conv2d(6, 16, 5, stride=2), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()]
        first += [nn.Conv2d(16, 16, 3, stride=2), nn.ReLU()]
    last: list[nn.Module]
    if head == "connected":
        last = [nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, classes)]
    else:
        last = [GlobalAveragePooling() if head == "average" else GlobalMaxPooling(), nn.Linear(16, classes)]
    if activation == "none":
        first, last = ([layer for layer in part if not isinstance(layer, nn.ReLU)] for part in (first, last))
    return nn.Sequential(OrderedDict(trunk=nn.Sequential(*first), head=nn.Sequential(*last)))


def efficientnet_lite0() -> nn.Module:
    """Build EfficientNet-Lite0: (N, 3, H, W) -> (N, 1000).

    It is EfficientNet-B0 (Tan and Le, ICML 2019) without squeeze-and-excitation and with ReLU6.
    """
    return cast(nn.Module, _define_efficientnet().from_name("efficientnet-lite0"))


@cache
def _define_efficientnet() -> Any:
    # Not from timm: timm and torchvision take five seconds to import, and the app shows this network first.
    from efficientnet_lite_pytorch.model import EfficientNet

    class BatchSizeFreeEfficientNet(EfficientNet):
        """EfficientNet without its reshape to the input's batch size, because that makes reading the head take 2 s."""

        def forward(self, inputs: Tensor) -> Tensor:
            pooled = self._avg_pooling(self.extract_features(inputs)).flatten(1)  # type: ignore[no-untyped-call]
            return cast(Tensor, self._fc(self._dropout(pooled)))

    BatchSizeFreeEfficientNet.__qualname__ = _EFFICIENTNET
    return BatchSizeFreeEfficientNet


def __getattr__(name: str) -> Any:
    """Return the class of EfficientNet-Lite0, which pickle looks up by its name, without importing it any earlier."""
    if name == _EFFICIENTNET:
        return _define_efficientnet()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class _CifarBlock(nn.Module):
    def __init__(self, channels_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride = stride
        self.added_channels = width - channels_in

    def forward(self, maps: Tensor) -> Tensor:
        out = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(maps)))))
        # The paper's option A: the shortcut skips pixels as the stride does, and fills added channels with zeros.
        half = self.added_channels // 2
        thinned = maps[:, :, :: self.stride, :: self.stride]
        return functional.relu(out + functional.pad(thinned, (0, 0, 0, 0, half, self.added_channels - half)))


class CifarResNet(nn.Module):
    """ResNet for CIFAR-10 (He et al., CVPR 2016, section 4.2): (N, 3, 32, 32) -> (N, classes)."""

    def __init__(self, depth: int = 20, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        blocks = (depth - 2) // 6
        self.layer1 = self._make_stage(16, 16, blocks)
        self.layer2 = self._make_stage(16, 32, blocks)
        self.layer3 = self._make_stage(32, 64, blocks)
        self.linear = nn.Linear(64, classes)

    @staticmethod
    def _make_stage(channels_in: int, width: int, blocks: int) -> nn.Sequential:
        first = _CifarBlock(channels_in, width, 1 if channels_in == width else 2)
        return nn.Sequential(first, *(_CifarBlock(width, width, 1) for _ in range(blocks - 1)))

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logits (N, classes)."""
        maps = self.layer3(self.layer2(self.layer1(functional.relu(self.bn1(self.conv1(images))))))
        return cast(Tensor, self.linear(maps.mean((2, 3))))


def cifar_resnet(depth: int = 20, classes: int = 10) -> CifarResNet:
    """Build a ResNet for CIFAR-10 with `depth` = 6 n + 2 layers: n blocks in each of three stages."""
    return CifarResNet(depth, classes)


# Architectures by the name that a model.json or a recipe uses.
FACTORIES: dict[str, Callable[..., nn.Module]] = {
    "cifar_resnet": cifar_resnet,
    "efficientnet_lite0": efficientnet_lite0,
    "fashion_convnet": fashion_convnet,
    "lenet": lenet,
}
