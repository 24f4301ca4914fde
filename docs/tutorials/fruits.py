"""Drawings of fruit and a small ResNet for the tutorials, without a download."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

NAMES = ["apple", "banana", "plum"]
SIZE = 96  # pixels
COLORS = {"apple": (205, 40, 45), "banana": (228, 200, 60), "plum": (95, 45, 130)}


def draw_photo(fruits: Sequence[str], seed: int) -> NDArray[np.uint8]:
    """Draw fruits and some gray stones on a blurred background: (96, 96, 3)."""
    random = np.random.default_rng(seed)
    blurred = random.integers(70, 200, (3, 3, 1)) + random.integers(
        -15, 15, (3, 3, 3)
    )
    photo = Image.fromarray(blurred.astype(np.uint8)).resize(
        (SIZE, SIZE), Image.Resampling.BICUBIC
    )
    draw, places = ImageDraw.Draw(photo), random.permutation(9)
    things = [*fruits, *["stone"] * int(random.integers(1, 4))]
    for place, thing in zip(places, things, strict=False):
        x, y = (
            int(16 + 32 * one + random.integers(-4, 5))
            for one in divmod(int(place), 3)
        )
        radius, color = (
            int(random.integers(10, 14)),
            COLORS.get(thing, (int(random.integers(60, 180)),) * 3),
        )
        box, shade = (
            (x - radius, y - radius, x + radius, y + radius),
            random.normal(0, 15, 3),
        )
        fill = tuple(int(value) for value in np.clip(color + shade, 0, 255))
        if thing == "banana":
            start = int(random.integers(0, 360))
            draw.chord(box, start, start + 150, fill)
        else:
            draw.ellipse(box, fill)
        if thing == "apple":
            draw.line((x, y - radius, x + 4, y - radius - 6), (70, 50, 20), 3)
    noise = random.normal(0, 2, (SIZE, SIZE, 3))
    return (np.asarray(photo) + noise).clip(0, 255).astype(np.uint8)


def draw_photos(count: int, seed: int) -> tuple[NDArray[np.uint8], Tensor]:
    """Return photos (count, 96, 96, 3) of one fruit each, and labels (count,)."""
    labels = np.random.default_rng(seed).integers(0, len(NAMES), count)
    photos = [
        draw_photo([NAMES[label]], 1_000_000 * (seed + 1) + n)
        for n, label in enumerate(labels)
    ]
    return np.stack(photos), torch.from_numpy(labels)


def make_inputs(photos: NDArray[np.uint8]) -> Tensor:
    """Return photos as inputs (N, 3, 96, 96), with mean 0.5 and std 0.25."""
    return (
        (torch.from_numpy(photos).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    ).contiguous()


class SmallResNet(nn.Module):
    """A ResNet with three blocks, and a grid of 12 x 12 cells."""

    def __init__(self, num_classes: int = 3, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, 2, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )
        self.layer1 = self._make_block(width, 2 * width)
        self.layer2 = self._make_block(2 * width, 4 * width)
        self.layer3 = BasicBlock(4 * width, 4 * width)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(4 * width, num_classes)

    @staticmethod
    def _make_block(channels: int, out: int) -> nn.Module:
        shortcut = nn.Sequential(
            nn.Conv2d(channels, out, 1, 2, bias=False), nn.BatchNorm2d(out)
        )
        return BasicBlock(channels, out, 2, shortcut)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (N, num_classes)."""
        maps = self.layer3(self.layer2(self.layer1(self.stem(images))))
        return self.fc(self.pool(maps).flatten(1))


def train(
    network: nn.Module,
    photos: NDArray[np.uint8],
    labels: Tensor,
    epochs: int = 5,
    after_epoch: Callable[[int], object] = lambda epoch: None,
) -> float:
    """Train a network; call `after_epoch` before (0) and after epochs (1, ...).

    Returns the last loss.
    """
    inputs, optimizer = (
        make_inputs(photos),
        torch.optim.Adam(network.parameters(), 3e-3),
    )
    loss = torch.zeros(())
    after_epoch(0)
    for epoch in range(1, epochs + 1):
        network.train()
        for batch in torch.randperm(len(inputs)).split(32):
            loss = nn.functional.cross_entropy(
                network(inputs[batch]), labels[batch]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        after_epoch(epoch)
    network.eval()
    return loss.item()
