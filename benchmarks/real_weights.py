"""Test that real weights from other sources load, predict well on photos, and give class maps that sum to the logits.

Every network is added with the command `inspector add` to an empty models/ folder, and loaded by its name. Each photo
then goes through inspector.class_maps, as in normal use. The largest residual is that of all photos and classes,
divided by the sum of the absolute values of all terms of the sum.

    python benchmarks/real_weights.py --data FOLDER

FOLDER contains weights/, imagenet100/ (photos whose names start with the wnid of their class), imagenet_classes.tsv
(index, wnid, name) and demo/.
"""

import csv
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from report import format_table, write_results
from rich.progress import track

import inspector
from inspector.images.preprocessing import Interpolation

HEADER = ("network", "arch", "verdict", "photos", "top-1", "largest residual / sum of absolute parts")
MEAN_128 = "0.50196078"  # (x - 128) / 128 for x in 0-255
PREPROCESSING_225 = (
    "--size", "225", "--mean", ",".join([MEAN_128] * 3), "--std", ",".join([MEAN_128] * 3), "--resize", "225",
    "--interpolation", "bicubic",
)  # fmt: skip
# Ways to resize photos to 225x225: it is not documented which one this network was trained with.
RESIZINGS: tuple[tuple[str, int | str, Interpolation], ...] = (
    ("to cover 225x225, bicubic", 225, "bicubic"),
    ("to cover 256x256, bicubic", 256, "bicubic"),
    ("squeezed, bicubic", "squeeze", "bicubic"),
    ("to cover 225x225, bilinear", 225, "bilinear"),
    ("to cover 256x256, bilinear", 256, "bilinear"),
    ("squeezed, bilinear", "squeeze", "bilinear"),
)
CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# The ImageNet photos that show a class of CIFAR-10, by the end of their file names.
SHOWN = {
    "airplane": ("airliner",),
    "bird": ("indigo_bunting", "great_grey_owl", "peacock", "hummingbird", "crane", "pelican"),
    "cat": ("Siamese_cat",),
    "dog": (
        "Pekinese", "bluetick", "Norwegian_elkhound", "Irish_terrier", "Dandie_Dinmont", "Lhasa", "Gordon_setter",
        "groenendael", "Rottweiler", "Tibetan_mastiff", "pug", "Cardigan",
    ),
    "ship": ("fireboat", "speedboat", "catamaran", "yawl"),
    "truck": ("tow_truck",),
}  # fmt: skip
DEMO = {"chelsea.png": "cat", "gradcam_dogs.png": "dog", "coral_bird.bmp": "bird", "coral_parrot.jpg": "bird"}
PARROT = "coral_parrot.jpg"


@dataclass(frozen=True)
class Score:
    """Predictions of a network for photos."""

    verdicts: str
    photos: int
    answers: Mapping[str, tuple[int, float]]  # photo -> top-1 class and its probability
    right: int  # among the photos whose class is known
    known: int  # photos whose class is known
    residual: float  # the largest, divided by the sum of the absolute terms

    @property
    def largest(self) -> str:
        return f"{self.residual:.1e}"

    @property
    def top1(self) -> str:
        return f"{self.right / self.known:.0%} ({self.right} of {self.known})" if self.known else "-"


def main(
    data: Annotated[Path, typer.Option(help="The folder of weights and photos.", exists=True, file_okay=False)],
) -> None:
    """Add and score the networks, and write results/real_weights.md."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["INSPECTOR_MODELS"] = str(Path(folder) / "models")
        rows, notes = measure_networks(data, Path(folder))
    write_results("real_weights", "python benchmarks/real_weights.py --data FOLDER", format_table(HEADER, rows), *notes)


def measure_networks(data: Path, folder: Path) -> tuple[list[tuple[object, ...]], list[str]]:
    """Return the rows of the table, and the notes below it."""
    with (data / "imagenet_classes.tsv").open(newline="") as file:
        index = {wnid: (int(number), name) for number, wnid, name in csv.reader(file, delimiter="\t")}
    imagenet, cifar, birds = folder / "imagenet.txt", folder / "cifar.txt", data / "weights" / "inat_bird_labels.txt"
    imagenet.write_text("\n".join(name for _, name in index.values()))
    cifar.write_text("\n".join(CIFAR))
    photos = sorted((data / "imagenet100").iterdir())
    labeled: list[tuple[Path, int | None]] = [(path, index[path.name.split("_")[0]][0]) for path in photos]
    demo = sorted((data / "demo").iterdir())

    squeezenet, mobilenet = "squeezenet1_0_deepcompression_torchvision", "mobilenet_v2_tvcompatible"
    add_network(data, "squeezenet", squeezenet, "torchvision:squeezenet1_0", imagenet)
    add_network(data, "mobilenet", f"{mobilenet}_imagenet", "torchvision:mobilenet_v2", imagenet, *PREPROCESSING_225)
    add_network(data, "birds", f"{mobilenet}_inat_bird", "torchvision:mobilenet_v2", birds, *PREPROCESSING_225)
    add_network(data, "cifar", "cifar10_resnet20_akamaster", "cifar_resnet", cifar, "--size", "32")

    shown = [(path, CIFAR.index(name)) for path in photos for name, ends in SHOWN.items() if path.stem.endswith(ends)]
    shown += [(path, CIFAR.index(DEMO[path.name])) for path in demo if path.name in DEMO]
    networks = {
        "squeezenet": ("SqueezeNet 1.0", "torchvision:squeezenet1_0", labeled),
        "mobilenet": ("MobileNetV2", "torchvision:mobilenet_v2", labeled),
        "birds": ("MobileNetV2, 965 birds", "torchvision:mobilenet_v2", [(path, None) for path in demo]),
        "cifar": ("CIFAR ResNet-20", "cifar_resnet", shown),
    }
    scores = {name: score_network(inspector.load(name), photos) for name, (_, _, photos) in networks.items()}
    rows = [
        (title, f"`{arch}`", scores[name].verdicts, scores[name].photos, scores[name].top1, scores[name].largest)
        for name, (title, arch, _) in networks.items()
    ]
    resizings = [
        (
            resizing,
            score_network(inspector.load("mobilenet", resize=resize, interpolation=interpolation), labeled).top1,
            name_bird(data, resize, interpolation),
        )
        for resizing, resize, interpolation in RESIZINGS
    ]
    return rows, write_notes(resizings, scores["cifar"].answers, len(demo))


def add_network(data: Path, name: str, file: str, arch: str, labels: Path, *options: str) -> None:
    """Run `inspector add`, as a user types it."""
    weights = data / "weights" / f"{file}.safetensors"
    command = [sys.executable, "-m", "inspector.cli", "add", weights, "--name", name, "--arch", arch]
    subprocess.run([*map(str, command), "--labels", str(labels), *options], check=True)


def name_bird(data: Path, resize: int | str, interpolation: Interpolation) -> str:
    maps = inspector.class_maps(
        inspector.load("birds", resize=resize, interpolation=interpolation), data / "demo" / PARROT
    )
    ((_, name, probability),) = maps.top(1)
    return f"{name}, {probability:.2f}"


def score_network(classifier: inspector.Classifier, labeled: Iterable[tuple[Path, int | None]]) -> Score:
    verdicts, answers, right, known, residual = set(), {}, 0, 0, 0.0
    for path, label in track(list(labeled), classifier.name):
        maps = inspector.class_maps(classifier, path)
        k = int(maps.logits.argmax())
        answers[path.name] = k, float(maps.probabilities[k])
        right, known = right + (k == label), known + (label is not None)
        verdicts.add(maps.verdict)
        errors = (maps.values.sum((1, 2)) + maps.bias - maps.logits).abs()
        residual = max(residual, float((errors / (maps.values.abs().sum((1, 2)) + maps.bias.abs())).max()))
    return Score(", ".join(sorted(verdicts)), len(answers), answers, right, known, residual)


def write_notes(
    resizings: Sequence[tuple[str, str, str]], answers: Mapping[str, tuple[int, float]], photos_of_birds: int
) -> list[str]:
    """Return the paragraphs below the table."""
    demo = ", ".join(
        f"{photo} ({expected}): {CIFAR[answers[photo][0]]} {answers[photo][1]:.2f}" for photo, expected in DEMO.items()
    )
    return [
        "The 100 ImageNet photos are probably training photos: top-1 only checks the loading, and is optimistic. "
        "SqueezeNet gets them with torchvision's preprocessing. There is no labeled set of birds: the "
        f"{photos_of_birds} photos are those of demo/; {PARROT} shows a macaw.",
        "It is not documented how the photos of the two MobileNets were resized to 225x225. The first table uses the "
        "first way, the best of these six, though on 100 photos a difference of a few points says little:",
        format_table(("resizing", "MobileNetV2, top-1", f"prediction of the birds network for {PARROT}"), resizings),
        "CIFAR ResNet-20 gets the ImageNet photos that show one of its ten classes (airliner, birds, Siamese cat, "
        f"dogs, boats, tow truck), and of demo/: {demo}. These photos differ from its training images.",
    ]


if __name__ == "__main__":
    typer.run(main)
