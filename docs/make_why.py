"""Make the pictures of docs/why.md, with networks and photos that come with Inspector.

python docs/make_why.py
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
import torchvision
from matplotlib.figure import Figure
from numpy.typing import NDArray

import inspector
from inspector.explain.grid import resample_on_photo
from inspector.images.examples import list_examples
from inspector.output.overlay import dimmed_photo, overlay_map

sys.path.insert(0, str(Path(__file__).resolve().parent / "tutorials"))

from fruits import NAMES, SmallResNet, draw_photos, train

OUT = Path(__file__).resolve().parent / "images" / "why"
PHOTOS = list_examples("photos")


def save(name: str, panels: Sequence[tuple[str, NDArray[np.uint8]]]) -> None:
    """Write pictures beside each other, each with its title."""
    figure = Figure(figsize=(2.6 * len(panels), 3), layout="constrained")
    for axis, (title, pixels) in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True):
        axis.imshow(pixels, interpolation="nearest")
        axis.set_title(title, fontsize=9)
        axis.set_axis_off()
    OUT.mkdir(exist_ok=True)
    figure.savefig(OUT / f"{name}.jpg", dpi=100, pil_kwargs={"quality": 88})


def main() -> None:
    """Write all pictures."""
    lite0, gmp, flowers = map(inspector.load, ("efficientnet_lite0", "fashion_gmp", "flowers17_gap"))
    cat = inspector.class_maps(lite0, PHOTOS["Cat"])
    first, second = (name for _, name, _ in cat.top(2))
    save("red", [(first, cat.overlay(first)), (f"{first} rather than\n{second}", cat.overlay(first, against=second))])
    coffee = inspector.class_maps(flowers, PHOTOS["Coffee"])
    (_, first, _), (_, second, _) = coffee.top(2)
    logit = float(coffee.logits.max())
    blue, contrast = coffee.overlay(first), coffee.overlay(first, against=second)
    save("blue", [(f"{first}, predicted\nwith a logit of {logit:.1f}", blue), (f"rather than\n{second}", contrast)])
    boot = inspector.class_maps(gmp, list_examples("fashion_mnist")["Ankle boot"])
    save(
        "blank",
        [
            ("contribution per cell:\nmax pooling takes one", boot.overlay("Ankle boot", smooth=False)),
            (
                "class score per cell\n(before pooling)",
                draw_map(boot, boot.heatmap("Ankle boot", smooth=False, dense=True)),
            ),
        ],
    )
    torch.manual_seed(0)
    network = SmallResNet()
    train(network, *draw_photos(300, 0))
    resnet = inspector.Classifier.wrap(network, NAMES, size=96, mean=0.5, std=0.25)
    resnet18 = inspector.Classifier.wrap(torchvision.models.resnet18(), size=224)
    dot = cv2.circle(np.full((224, 224, 3), 110, np.uint8), (112, 112), 14, (240, 240, 240), cv2.FILLED)
    with_dot, without = (inspector.class_maps(resnet18, one) for one in (dot, np.full_like(dot, 110)))
    answer = (with_dot.values - without.values).norm(dim=0).numpy()  # (7, 7), of all classes together
    placed = resample_on_photo(answer, with_dot.view.crop, with_dot.shown_field, (224, 224), smooth=True)
    left, top, right, bottom = (round(edge) for edge in with_dot.view.crop.box)
    stretched = np.zeros((224, 224), np.float32)
    stretched[top:bottom, left:right] = cv2.resize(answer, (right - left, bottom - top))
    own, even = "cells at the centers\nof their receptive fields", "the same cells stretched\nevenly over the photo"
    save("shifted", [(own, draw_map(with_dot, placed)), (even, draw_map(with_dot, stretched))])
    plain = inspector.class_maps(resnet, np.full((96, 96, 3), 160, np.uint8))
    save("border", [("a photo of one color", plain.view.photo.pixels), ("its map of banana", plain.overlay("banana"))])


def draw_map(maps: inspector.ClassMaps, values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return a map (H, W) over its photo."""
    canvas = dimmed_photo(maps.view.photo, maps.view.crop, max(maps.view.photo.size), gray=True)
    return overlay_map(canvas, values, float(np.abs(values).max()), 0.85)


if __name__ == "__main__":
    main()
