"""Measure the accuracy of the networks in models/, and whether their class maps sum to the logits on every image.

Each image goes through inspector.class_maps, as in normal use: reading, preprocessing, forward pass, class maps,
verdict. The ImageNet network gets a folder of photos whose file names start with the wnid of their class. The
Fashion-MNIST networks get all 10,000 test images. The last column is the top-1 accuracy in the article, whose networks
were trained with a sigmoid between the logits and the cross-entropy.

    python benchmarks/accuracy.py --photos FOLDER --classes imagenet_classes.tsv --data FOLDER

--photos and --classes (columns index, wnid, name) are for the ImageNet network. --data is the folder that torchvision's
FashionMNIST reads, for the other networks.
"""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from report import format_table, write_results
from rich.progress import track
from torchvision.datasets import FashionMNIST

import inspector
from inspector.images.photo import ImageSource

# Network -> top-1 accuracy in the article.
FASHION = {
    "fashion_gap": "-",
    "fashion_gmp": "-",
    "fashion_gap_sigmoid": "about 87 %",
    "fashion_gmp_sigmoid": "just under 85 %",
}
HEADER = (
    "network",
    "images",
    "top-1",
    "top-2",
    "top-5",
    "verdict exact",
    "largest residual (logits)",
    "top-1 in the article",
)


def main(
    photos: Annotated[Path, typer.Option(help="Photos whose names start with a wnid.", exists=True, file_okay=False)],
    classes: Annotated[Path, typer.Option(help="TSV: index, wnid, name.", exists=True, dir_okay=False)],
    data: Annotated[
        Path, typer.Option(help="Folder in which torchvision stores Fashion-MNIST.", exists=True, file_okay=False)
    ],
) -> None:
    """Measure the accuracy of the networks and write results/accuracy.md."""
    with classes.open(newline="") as file:
        index = {wnid: int(number) for number, wnid, _ in csv.reader(file, delimiter="\t")}
    labeled = [(path, index[path.name.split("_")[0]]) for path in sorted(photos.iterdir())]
    rows = [(*score_network("efficientnet_lite0", labeled), "-")]
    test = FashionMNIST(data, train=False)
    fashion_images = list(zip(test.data.numpy(), test.targets.tolist(), strict=True))
    rows += [(*score_network(name, fashion_images), article) for name, article in FASHION.items()]
    command = "python benchmarks/accuracy.py --photos FOLDER --classes imagenet_classes.tsv --data FOLDER"
    write_results("accuracy", command, format_table(HEADER, rows))


def score_network(name: str, labeled: Iterable[tuple[ImageSource, int]]) -> tuple[object, ...]:
    classifier = inspector.load(name)
    ranks, residuals, exact = [], [], 0
    for image, label in track(labeled, name):
        maps = inspector.class_maps(classifier, image)
        ranks.append(int((maps.logits > maps.logits[label]).sum()))
        residuals.append(maps.residual)
        exact += maps.verdict == "exact"
    accuracies = (f"{sum(rank < k for rank in ranks) / len(ranks):.2%}" for k in (1, 2, 5))
    return (name, len(ranks), *accuracies, f"{exact} of {len(ranks)}", f"{max(residuals):.1e}")


if __name__ == "__main__":
    typer.run(main)
