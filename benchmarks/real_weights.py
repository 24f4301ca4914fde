"""Do real weights from elsewhere load, know what is on photos, and split into class maps that add up?

Every network is added through the command line, `inspector add`, to an empty models/, and loaded by its name. Each
photo then goes through inspector.class_maps as a user's would. The largest residual is that of all photos and classes,
over the sum of the absolute values of all that was added up.

    python benchmarks/real_weights.py --data FOLDER

FOLDER holds weights/, imagenet100/ (photos whose names start with the wnid of their class), imagenet_classes.tsv
(index, wnid, name) and demo/.
"""

import csv
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from report import table, write
from rich.progress import track

import inspector

HEADER = ("network", "arch", "verdict", "photos", "top-1", "largest residual / sum of absolute parts")
MEAN_128 = "0.50196078"  # (x - 128) / 128, of x in 0-255
FED_225 = ("--size", "225", "--mean", ",".join([MEAN_128] * 3), "--std", ",".join([MEAN_128] * 3))
CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# Which of the ImageNet photos show what CIFAR-10 has, by the end of their names.
SHOW = {
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
class Scored:
    """What a network answered to photos."""

    verdicts: str
    photos: int
    answers: Mapping[str, tuple[int, float]]  # photo -> likeliest class and its probability
    right: int  # of those photos whose class is known
    known: int
    residual: float  # the largest, over the sum of the absolute parts

    @property
    def top1(self) -> str:
        return f"{self.right / self.known:.0%} ({self.right} of {self.known})" if self.known else "-"


def main(
    data: Annotated[Path, typer.Option(help="The folder of weights and photos.", exists=True, file_okay=False)],
) -> None:
    """Add and score the networks, and write results/real_weights.md."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["INSPECTOR_MODELS"] = str(Path(folder) / "models")
        rows, notes = measured(data, Path(folder))
    write("real_weights", "python benchmarks/real_weights.py --data FOLDER", table(HEADER, rows), *notes)


def measured(data: Path, folder: Path) -> tuple[list[tuple[object, ...]], list[str]]:
    """The rows of the table, and what stands below it."""
    with (data / "imagenet_classes.tsv").open(newline="") as file:
        index = {wnid: (int(number), name) for number, wnid, name in csv.reader(file, delimiter="\t")}
    imagenet, cifar, birds = folder / "imagenet.txt", folder / "cifar.txt", data / "weights" / "inat_bird_labels.txt"
    imagenet.write_text("\n".join(name for _, name in index.values()))
    cifar.write_text("\n".join(CIFAR))
    photos = sorted((data / "imagenet100").iterdir())
    labelled: list[tuple[Path, int | None]] = [(path, index[path.name.split("_")[0]][0]) for path in photos]
    demo = sorted((data / "demo").iterdir())

    squeezenet = "squeezenet1_0_deepcompression_torchvision"
    add(data, "squeezenet", squeezenet, "torchvision:squeezenet1_0", imagenet)
    scores = {"squeezenet": score("squeezenet", labelled)}
    for resize in ("225", "256", "squeeze"):
        mobilenet = ("mobilenet_v2_tvcompatible_imagenet", "torchvision:mobilenet_v2", imagenet)
        add(data, f"mobilenet-{resize}", *mobilenet, *FED_225, "--resize", resize)
        scores[f"mobilenet-{resize}"] = score(f"mobilenet-{resize}", labelled)
    best = max((name for name in scores if name.startswith("mobilenet")), key=lambda name: scores[name].right)
    how = best.partition("-")[2]
    bird_network = ("mobilenet_v2_tvcompatible_inat_bird", "torchvision:mobilenet_v2", birds)
    add(data, "birds", *bird_network, *FED_225, "--resize", how)
    scores["birds"] = score("birds", [(path, None) for path in demo])
    add(data, "cifar", "cifar10_resnet20_akamaster", "cifar_resnet", cifar, "--size", "32")
    shown = [(path, CIFAR.index(name)) for path in photos for name, ends in SHOW.items() if path.stem.endswith(ends)]
    shown += [(path, CIFAR.index(DEMO[path.name])) for path in demo if path.name in DEMO]
    scores["cifar"] = score("cifar", shown)

    chosen = {
        "squeezenet": ("SqueezeNet 1.0", "torchvision:squeezenet1_0"),
        best: (f"MobileNetV2, 225x225, resize {how}", "torchvision:mobilenet_v2"),
        "birds": ("MobileNetV2, 965 birds", "torchvision:mobilenet_v2"),
        "cifar": ("CIFAR ResNet-20", "cifar_resnet"),
    }
    rows = [
        (title, f"`{arch}`", scored.verdicts, scored.photos, scored.top1, f"{scored.residual:.1e}")
        for name, (title, arch) in chosen.items()
        for scored in (scores[name],)
    ]
    return rows, said(scores, how)


def add(data: Path, name: str, file: str, arch: str, labels: Path, *fed: str) -> None:
    """`inspector add`, as a user types it."""
    weights = data / "weights" / f"{file}.safetensors"
    command = [sys.executable, "-m", "inspector.cli", "add", weights, "--name", name, "--arch", arch]
    subprocess.run([*map(str, command), "--labels", str(labels), *fed], check=True)


def score(name: str, labelled: Iterable[tuple[Path, int | None]]) -> Scored:
    classifier = inspector.load(name)
    verdicts, answers, right, known, largest = set(), {}, 0, 0, 0.0
    for path, label in track(list(labelled), name):
        maps = inspector.class_maps(classifier, path)
        k = int(maps.logits.argmax())
        answers[path.name] = k, float(maps.probabilities[k])
        right, known = right + (k == label), known + (label is not None)
        verdicts.add(maps.verdict)
        miss = (maps.values.sum((1, 2)) + maps.bias - maps.logits).abs()
        largest = max(largest, float((miss / (maps.values.abs().sum((1, 2)) + maps.bias.abs())).max()))
    return Scored(", ".join(sorted(verdicts)), len(answers), answers, right, known, largest)


def said(scores: Mapping[str, Scored], how: str) -> list[str]:
    tried = {name: scored.top1 for name, scored in scores.items() if name.startswith("mobilenet")}
    names = {"225": "scaled to cover 225x225", "256": "scaled to cover 256x256", "squeeze": "squeezed to 225x225"}
    ways = "; ".join(f"{names[name.partition('-')[2]]}: {top1}" for name, top1 in tried.items())
    k, probability = scores["birds"].answers[PARROT]
    bird = inspector.load("birds").class_names[k]
    answers = scores["cifar"].answers
    demo = ", ".join(
        f"{photo} ({expected}): {CIFAR[answers[photo][0]]} {answers[photo][1]:.2f}" for photo, expected in DEMO.items()
    )
    return [
        "The 100 ImageNet photos are probably training photos: top-1 is a check of the loading, and optimistic.",
        f"MobileNetV2's photos: {ways}. The table has the best, {names[how]}, for that reason only; the birds are fed "
        "the same way.",
        f"The birds have no labelled set: to the {scores['birds'].photos} photos of demo/ belongs a macaw, {PARROT}, "
        f"and the answer to it is {bird}, {probability:.2f}.",
        "CIFAR ResNet-20 sees the ImageNet photos that show one of its ten classes (airliner, birds, Siamese cat, "
        f"dogs, boats, tow truck), and of demo/: {demo}. They are photos of another kind than it was trained with.",
    ]


if __name__ == "__main__":
    typer.run(main)
