"""Folders of tiny photos, and a models/ with a small backbone for them."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from inspector.images.examples import list_examples
from inspector.networks.builtin import cifar_resnet

BACKBONE = "tiny"  # its name in models/


def write_photos(folder: Path, counts: Mapping[str, int], size: tuple[int, int] = (18, 20)) -> Path:
    """A folder of photos for each class: noise, of the first class over red, of the second over green, and so on."""
    random = np.random.default_rng(0)
    for k, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = random.integers(0, 128, (*size, 3), np.uint8)
            pixels[..., k % 3] += 100
            Image.fromarray(pixels).save(folder / name / f"{number:02}.png")
    return folder


def copy_examples(folder: Path) -> Path:
    """A new folder with the ten Fashion-MNIST examples, and a file that is no image."""
    folder.mkdir()
    for path in list_examples("fashion_mnist").values():
        shutil.copy(path, folder / path.name)
    (folder / "broken.png").write_bytes(b"no image")
    return folder


def write_backbone(models: Path, name: str = BACKBONE, classes: Sequence[str] = ("a", "b", "c", "d")) -> Path:
    """A ResNet of 8 layers with random weights and statistics: 16 x 16 pixels, last feature maps of 64 x 4 x 4."""
    folder = models / name
    folder.mkdir(parents=True)
    torch.manual_seed(5)
    network = cifar_resnet(8, len(classes))
    network.train()(torch.randn(8, 3, 16, 16))
    save_file(network.state_dict(), folder / "weights.safetensors")
    card = {
        "title": "Tiny",
        "architecture": {"factory": "cifar_resnet", "arguments": {"depth": 8, "classes": len(classes)}},
        "weights": "weights.safetensors",
        "probability": "softmax",
        "classes": list(classes),
        "size": [16, 16],
        "resize": [16, 16],
        "interpolation": "bilinear",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
        "examples": "photos",
    }
    (folder / "model.json").write_text(json.dumps(card))
    return models
