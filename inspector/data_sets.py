"""The data sets of experiments/, whole in memory: small enough, and no loader keeps a network waiting."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torchvision.datasets import MNIST, FashionMNIST

from inspector.errors import TrainingError
from inspector.recipe import Data


@dataclass(frozen=True)
class DataSet:
    """What torchvision has, and what a model.json tells of it."""

    title: str
    torchvision: type[MNIST]
    classes: tuple[str, ...]
    examples: str
    source: str


DATA: dict[Data, DataSet] = {
    "fashion_mnist": DataSet(
        "Fashion-MNIST",
        FashionMNIST,
        ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        "fashion_mnist",
        "Fashion-MNIST (Xiao, Rasul, Vollgraf 2017), 60,000 training images.",
    ),
    "mnist": DataSet(
        "MNIST", MNIST, tuple("0123456789"), "none", "MNIST (LeCun, Cortes, Burges), 60,000 training images."
    ),
}


@dataclass(frozen=True)
class Images:
    """Images in memory and what they show."""

    pixels: Tensor  # (N, 1, H, W), 0-1
    labels: Tensor  # (N,)

    def __len__(self) -> int:
        return len(self.labels)


def read_images(name: Data, folder: Path, training: bool, device: torch.device) -> Images:
    """The training or the test images of a data set in torchvision's folder; fetched when they are not there."""
    known = DATA[name]
    raw = folder / known.torchvision.__name__ / "raw"
    try:
        read = known.torchvision(folder, train=training, download=True)
        pixels = read.data[:, None].to(device) / 255
    # torchvision tells broken files by assertions too.
    except (OSError, RuntimeError, ValueError, AssertionError) as error:
        raise TrainingError(
            f"No {known.title} in {raw}, nor could it be fetched ({str(error) or 'the files are broken'}); "
            "a network connection or its four unzipped idx files there would do."
        ) from error
    return Images(pixels.to(memory_format=torch.channels_last), read.targets.to(device))
