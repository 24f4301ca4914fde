"""Small networks with one pooling, for pages that are published."""

from typing import Any

import torch
from torch import nn

from inspector import Classifier

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Tiny(nn.Module):
    """Eight channels on a grid of 3 x 4 cells, then any head."""

    def __init__(self, head: nn.Module, channels: int = 3, maps: int = 8) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(channels, maps, 9, stride=8, padding=2), head

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.conv(images)))


def make_network(pooling: type[nn.Module] | None, maps: int = 8, channels: int = 3, **settings: Any) -> Classifier:
    """A small network with average, max or no pooling; if it has three feature maps, each is the map of a class."""
    torch.manual_seed(0)
    head = [nn.Flatten()] if pooling is None else [pooling(1), nn.Flatten()]
    width = maps * (12 if pooling is None else 1)
    network = Tiny(nn.Sequential(*head, *([] if maps == 3 else [nn.Linear(width, 3)])), channels, maps).eval()
    values = IMAGENET if channels == 3 else ((0.5,), (0.25,))
    names, name = ["a cat", "a dog", "a dog"], f"{pooling.__name__ if pooling else 'flatten'} {maps} {channels}"
    return Classifier.wrap(network, names, (24, 32), *values, (27, 36), name=name, **settings)
