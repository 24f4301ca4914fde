"""Make the picture of docs/training_log.md: class maps of one photo during a training.

python docs/make_training_log.py
"""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import inspector

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS / "tutorials"))

from fruits import NAMES, SmallResNet, draw_photo, draw_photos, train  # noqa: E402

EPOCHS = (0, 1, 2, 8)


def main() -> None:
    """Train the network of the tutorials, and put the pictures of some epochs beside each other."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    network = SmallResNet()
    classifier = inspector.Classifier.wrap(network, NAMES, size=96, mean=0.5, std=0.25, name="small ResNet")
    pictures: dict[int, np.ndarray] = {}

    def log(epoch: int) -> None:
        photo = {f"epoch {epoch}": draw_photo(["apple", "banana", "plum"], 0)}
        write = lambda tag, picture, step: pictures.update({step: picture})  # noqa: E731
        inspector.log_class_maps(classifier, photo, write, epoch, NAMES, side=170, strict=True)

    train(network, *draw_photos(600, 0), max(EPOCHS), log)
    rows = [np.hstack([pictures[epoch] for epoch in EPOCHS[start : start + 2]]) for start in (0, 2)]
    Image.fromarray(np.vstack(rows)).save(DOCS / "images" / "training-log.jpg", quality=88)


if __name__ == "__main__":
    main()
