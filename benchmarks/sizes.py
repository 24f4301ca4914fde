"""Measure the accuracy of the networks in models/ at several input sizes, cropped and whole, on the same photos.

The ImageNet network gets a folder of photos whose file names start with the wnid of their class. The flower networks
get the photos of their folder that they were not trained on, and the Fashion-MNIST networks all 10,000 test images at
28 pixels, since these images have no others. The numbers are written to results/sizes.md, and to the entry "sizes" of
each model.json, from which the app shows them.

    python benchmarks/sizes.py --photos FOLDER --classes imagenet_classes.tsv --flowers FOLDER --data FOLDER

--photos and --classes (columns index, wnid, name) are for the ImageNet network, --flowers is a folder with one folder
per class, and --data is the folder that torchvision's FashionMNIST reads. A group of networks whose folder is not given
is left as it is.
"""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer
from report import format_table, write_results
from rich.progress import track
from torchvision.datasets import FashionMNIST

import inspector
from inspector.datasets.sizes import SizeMeasurements, label_items, list_usual_sizes, measure_sizes
from inspector.entries import parse_json
from inspector.files import json_bytes, write_atomic
from inspector.images.photo import Photo
from inspector.images.photo_size import describe_size
from inspector.images.sources import Item, list_images
from inspector.networks.catalog import CARD, shipped_models
from inspector.networks.size_accuracy import compute_wilson_interval, make_entry
from inspector.training.data import read_photos

FASHION = ("fashion_gap", "fashion_gmp", "fashion_gap_sigmoid", "fashion_gmp_sigmoid")
FLOWERS = ("flowers17_gap", "flowers17_gmp")
HEADER = (
    *("network", "photos", "the network sees", "grid", "right", "accuracy", "95 % interval", "gained", "lost"),
    *("as accurate", "ms"),
)
COMMAND = "python benchmarks/sizes.py --photos FOLDER --classes imagenet_classes.tsv --flowers FOLDER --data FOLDER"

Folder = Annotated[Path | None, typer.Option(exists=True, file_okay=False)]


def main(
    photos: Folder = None,
    classes: Annotated[Path | None, typer.Option(exists=True, dir_okay=False)] = None,
    flowers: Folder = None,
    data: Folder = None,
) -> None:
    """Measure the sizes, print and write the table, and write the numbers into the cards."""
    measured: dict[str, SizeMeasurements] = {}
    if photos is not None and classes is not None:
        with classes.open(newline="") as file:
            index = {wnid: int(number) for number, wnid, _ in csv.reader(file, delimiter="\t")}
        labeled = [(item, index[Path(item.path).name.split("_")[0]]) for item in list_images(photos)]
        text = f"{len(labeled)} ImageNet photos (probably of the training)"
        measured["efficientnet_lite0"] = measure("efficientnet_lite0", labeled, text)
    for name in FLOWERS if flowers is not None else ():
        labeled = list_test_flowers(name, flowers)
        measured[name] = measure(name, labeled, f"{len(labeled)} test photos of the 17 flowers")
    if data is not None:
        test = FashionMNIST(data, train=False)
        images = [inspector.read_image(pixels) for pixels in test.data.numpy()]
        for name in FASHION:
            pairs = list(zip(images, test.targets.tolist(), strict=True))
            measured[name] = measure(name, pairs, "10,000 test images of Fashion-MNIST", ["28"])
    for name, measurements in measured.items():
        card = shipped_models() / name / CARD
        entry = {"sizes": make_entry(measurements.accuracies, COMMAND)}
        write_atomic(card, json_bytes(parse_json(card.read_bytes()) | entry))
    rows = [row for name, measurements in measured.items() for row in list_rows(name, measurements)]
    write_results("sizes", COMMAND, format_table(HEADER, rows))


def list_test_flowers(name: str, folder: Path) -> list[tuple[Item, int]]:
    """List the photos that `inspector train` held back from the network, with the numbers of their classes."""
    classifier = inspector.load(name)
    tests = {str(folder / file) for file in read_photos(folder, classifier.preprocessing, torch.device("cpu")).files}
    return [(item, k) for item, k in label_items(classifier, list_images(folder), str(folder)) if item.path in tests]


def measure(
    name: str, labeled: Sequence[tuple[Item | Photo, int]], data: str, sizes: Sequence[str] = ()
) -> SizeMeasurements:
    """Measure a network at its usual sizes, or at those given."""
    classifier = inspector.load(name)
    sizes = sizes or list_usual_sizes(classifier.preprocessing.size)
    return measure_sizes(classifier, track(labeled, name), sizes, data)


def list_rows(name: str, measurements: SizeMeasurements) -> Iterable[tuple[object, ...]]:
    """Return the rows of the table about one network."""
    accuracies = measurements.accuracies
    for measured in measurements.measured:
        one = accuracies.sizes[measured.size]
        low, high = compute_wilson_interval(one.right, accuracies.photos)
        counts = one.right, f"{one.right / accuracies.photos:.1%}", f"{low:.1%} to {high:.1%}", one.gained, one.lost
        grid, as_accurate = " x ".join(map(str, measured.grid)), "yes" if one.is_as_accurate else "no"
        seen = describe_size(measured.size)
        yield name, accuracies.data, seen, grid, *counts, as_accurate, f"{measured.milliseconds:.0f}"


if __name__ == "__main__":
    typer.run(main)
