"""The architectures of the networks in models/."""

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from inspector.pooling import GlobalAveragePooling, GlobalMaxPooling


def fashion_convnet(pooling: Literal["average", "max"], classes: int = 10) -> nn.Sequential:
    """Six 3x3 convolutions, a 1x1 convolution to one map a class, and a global pooling: (N, 1, 28, 28) -> (N, classes).

    8, 8, 16, 16, 32, 32 filters, each with ReLU, 2x2 max pooling after every second one. The last maps are 3x3 and
    are the class maps themselves: their pooled values are the logits. Xavier weights, every bias 0.01.
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
            if layer.bias is not None:
                nn.init.constant_(layer.bias, 0.01)
    return nn.Sequential(*layers)


def efficientnet_lite0() -> nn.Module:
    """EfficientNet-Lite0 (Tan and Le, ICML 2019; Lite: no squeeze-and-excitation, ReLU6): (N, 3, H, W) -> (N, 1000)."""
    # timm has it too, but timm and torchvision take five seconds to import, and this is the app's first network.
    from efficientnet_lite_pytorch.model import EfficientNet

    class WithoutBatchSize(EfficientNet):
        """Its own forward reshapes to the input's batch size, so its head could be read only a class at a time: 2 s."""

        def forward(self, inputs: Tensor) -> Tensor:
            pooled = self._avg_pooling(self.extract_features(inputs)).flatten(1)  # type: ignore[no-untyped-call]
            logits: Tensor = self._fc(self._dropout(pooled))
            return logits

    network: nn.Module = WithoutBatchSize.from_name("efficientnet-lite0")  # type: ignore[no-untyped-call]
    return network


class _CifarBlock(nn.Module):
    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride = stride
        self.missing = width - before

    def forward(self, maps: Tensor) -> Tensor:
        out = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(maps)))))
        # Option A: the shortcut takes every second pixel, and zeros for the channels that it has not.
        half = self.missing // 2
        shortcut = functional.pad(maps[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, self.missing - half))
        return functional.relu(out + shortcut)


class CifarResNet(nn.Module):
    """The ResNets for CIFAR-10 (He et al., CVPR 2016, section 4.2): (N, 3, 32, 32) -> (N, classes)."""

    def __init__(self, depth: int = 20, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        blocks = (depth - 2) // 6
        self.layer1 = self._stage(16, 16, blocks)
        self.layer2 = self._stage(16, 32, blocks)
        self.layer3 = self._stage(32, 64, blocks)
        self.linear = nn.Linear(64, classes)

    @staticmethod
    def _stage(before: int, width: int, blocks: int) -> nn.Sequential:
        first = _CifarBlock(before, width, 1 if before == width else 2)
        return nn.Sequential(first, *(_CifarBlock(width, width, 1) for _ in range(blocks - 1)))

    def forward(self, images: Tensor) -> Tensor:
        maps = self.layer3(self.layer2(self.layer1(functional.relu(self.bn1(self.conv1(images))))))
        logits: Tensor = self.linear(maps.mean((2, 3)))
        return logits


def cifar_resnet(depth: int = 20, classes: int = 10) -> CifarResNet:
    """6 n + 2 layers deep, n blocks a stage."""
    return CifarResNet(depth, classes)


# What a model.json may name as its architecture.
FACTORIES: dict[str, Callable[..., nn.Module]] = {
    "cifar_resnet": cifar_resnet,
    "efficientnet_lite0": efficientnet_lite0,
    "fashion_convnet": fashion_convnet,
}
