"""Measure the accuracy of a network in models/ at several input sizes, cropped and whole, on the same photos.

The numbers are written to results/sizes_NETWORK.md, and to the entry "sizes" of its model.json, from which the app and
`inspector describe` show them. FOLDER holds the labeled photos:

- with --classes (columns index, wnid, name), photos whose file names start with the wnid of their ImageNet class;
- for the Fashion-MNIST networks, what torchvision's FashionMNIST reads: all 10,000 test images, at 28 pixels only,
  because they have no others;
- for the flower networks, one folder per class, of which those photos are used that the network was not trained on.

    python benchmarks/sizes.py efficientnet_lite0 FOLDER --classes imagenet_classes.tsv
    python benchmarks/sizes.py flowers17_gap FOLDER
"""

import csv
from collections.abc import Iterator, Sequence
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
from inspector.explain.classifier import Classifier
from inspector.files import json_bytes, write_atomic
from inspector.images.photo import Photo, read_image
from inspector.images.photo_size import describe_size
from inspector.images.sources import Item, list_images
from inspector.networks.catalog import CARD, shipped_models
from inspector.networks.size_accuracy import compute_wilson_interval, make_entry
from inspector.training.data import read_photos

HEADER = ("the network sees", "grid", "right", "accuracy", "95 % interval", "gained", "lost", "as accurate")


def main(
    network: str,
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False)],
    classes: Annotated[Path | None, typer.Option(exists=True, dir_okay=False)] = None,
) -> None:
    """Measure the sizes, print and write the table, and write the numbers into the card."""
    classifier = inspector.load(network)
    command = f"python benchmarks/sizes.py {network} FOLDER"
    sizes = list_usual_sizes(classifier.preprocessing.size)
    labeled: Sequence[tuple[Item | Photo, int]]
    if classes is not None:
        command += " --classes imagenet_classes.tsv"
        with classes.open(newline="") as file:
            index = {wnid: int(number) for number, wnid, _ in csv.reader(file, delimiter="\t")}
        labeled = [(item, index[Path(item.path).name.split("_")[0]]) for item in list_images(folder)]
        data = f"{len(labeled)} ImageNet photos (probably of the training)"
    elif network.startswith("fashion_"):
        sizes = sizes[:1]
        test = FashionMNIST(folder, train=False)
        labeled = [(read_image(pixels), int(k)) for pixels, k in zip(test.data.numpy(), test.targets, strict=True)]
        data = f"{len(labeled):,} test images of Fashion-MNIST"
    else:
        labeled = list_test_photos(classifier, folder)
        data = f"{len(labeled)} test photos of {folder.name}"
    measurements = measure_sizes(classifier, track(labeled, network), sizes, data)
    card = shipped_models() / network / CARD
    entry = {"sizes": make_entry(measurements.accuracies, command)}
    write_atomic(card, json_bytes(parse_json(card.read_bytes()) | entry))
    write_results(
        f"sizes_{network}", command, f"Accuracy on {data}.", format_table(HEADER, list(list_rows(measurements)))
    )


def list_test_photos(classifier: Classifier, folder: Path) -> list[tuple[Item | Photo, int]]:
    """List the photos that `inspector train` held back, with the numbers of their classes."""
    tests = {str(folder / file) for file in read_photos(folder, classifier.preprocessing, torch.device("cpu")).files}
    return [(item, k) for item, k in label_items(classifier, list_images(folder), str(folder)) if item.path in tests]


def list_rows(measurements: SizeMeasurements) -> Iterator[tuple[object, ...]]:
    """Yield the rows of the table."""
    accuracies = measurements.accuracies
    for measured in measurements.measured:
        one = accuracies.sizes[measured.size]
        low, high = compute_wilson_interval(one.right, accuracies.photos)
        share, interval = f"{one.right / accuracies.photos:.1%}", f"{low:.1%} to {high:.1%}"
        grid, as_accurate = " x ".join(map(str, measured.grid)), "yes" if one.is_as_accurate else "no"
        yield describe_size(measured.size), grid, one.right, share, interval, one.gained, one.lost, as_accurate


if __name__ == "__main__":
    typer.run(main)
