"""Measure what int8 and bfloat16 cost in accuracy: networks with trained weights, on labeled photos.

No photo that calibrated a network is counted:

- 100 photos of 100 classes of ImageNet (probably training photos), calibrated with Inspector's example images:
  EfficientNet-Lite0, MobileNetV2, SqueezeNet 1.0
- 17 flowers, the photos of the test split, calibrated with 128 of the other photos: the two flower networks in models/

The table has the photos predicted as labeled in float32 (ONNX Runtime) and in lower precision, the photos with the same
top-1 class in both, the largest change of a logit, the median correlation of the class maps of the top-1 class, and the
largest residual of a sum over the cells; or why the network is refused. It needs the data that ../shared or
$INSPECTOR_SHARED holds.

    python benchmarks/lower_precision.py
"""

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated

import numpy as np
import typer
from imagenet_networks import NETWORKS
from report import format_table, write_results

import inspector
from inspector.explain.backends.accelerate import accelerate
from inspector.explain.backends.lower_precision import Calibration

KINDS = (("onnxruntime", "int8"), ("openvino", "int8"), ("openvino", "bfloat16"))
HEADER = (
    "network", "backend", "precision", "photos", "right in float32", "right", "same top-1", "largest change of a logit",
    "correlation of maps", "largest residual",
)  # fmt: skip
SAMPLE = 128
SPLIT = "split_of_source_repo"  # column of files.csv
DATA = Path(os.environ.get("INSPECTOR_SHARED", "../shared"), "data")


@dataclass(frozen=True)
class Case:
    """A network, the photos on which it is measured with the numbers of their classes, and those that calibrate it."""

    network: inspector.Classifier
    photos: Sequence[Path]
    labels: Sequence[int]
    calibration: Calibration | None


def main(
    data: Annotated[Path, typer.Option(help="Folder with imagenet100, flowers17 and weights.")] = DATA,
) -> None:
    """Measure all networks, and write results/lower_precision.md."""
    rows: list[tuple[object, ...]] = []
    for case in [*list_imagenet(data), *list_flowers(data)]:
        for backend, dtype in KINDS:
            try:
                figures = measure(case, backend, dtype)
            except inspector.InspectorError as error:
                figures = (str(error), *[""] * 6)
            rows.append((case.network.name, backend, dtype, *figures))
            print(format_table(HEADER, rows[-1:]), flush=True)
    write_results("lower_precision", "python benchmarks/lower_precision.py", format_table(HEADER, rows))


def list_imagenet(data: Path) -> list[Case]:
    with (data / "imagenet_classes.tsv").open(newline="") as file:
        numbers = {row[1]: int(row[0]) for row in csv.reader(file, delimiter="\t") if row[0].isdigit()}
    photos = sorted((data / "imagenet100").iterdir())
    labels = [numbers[photo.name.split("_")[0]] for photo in photos]
    return [Case(spec.load(data), photos, labels, None) for spec in NETWORKS.values()]


def list_flowers(data: Path) -> list[Case]:
    with (data / "flowers17" / "files.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    cases = []
    for name in ("flowers17_gap", "flowers17_gmp"):
        network = inspector.load(name)
        numbers = {label: k for k, label in enumerate(network.class_names)}
        tested, others = (
            [
                (data / "flowers17" / row["file"], numbers[row["class"]])
                for row in rows
                if (row[SPLIT] == "test") is test
            ]
            for test in (True, False)
        )
        others = others[:: -(-len(others) // SAMPLE)]
        calibration = Calibration([photo for photo, _ in others], [k for _, k in others])
        cases.append(Case(network, [photo for photo, _ in tested], [k for _, k in tested], calibration))
    return cases


def measure(case: Case, backend: str, dtype: str) -> tuple[object, ...]:
    """Compare a backend in lower precision with ONNX Runtime in float32, photo by photo."""
    exact = accelerate(case.network, "onnxruntime")
    lower = accelerate(case.network, backend, dtype=dtype, calibration=case.calibration)
    right, same, changes, correlations, residuals = [0, 0], 0, list[float](), list[float](), list[float]()
    for photo, label in zip(case.photos, case.labels, strict=True):
        one, other = (inspector.class_maps(classifier, photo) for classifier in (exact, lower))
        assert other.verdict != "not exact", photo
        k, found = int(one.logits.argmax()), int(other.logits.argmax())
        right[0] += k == label
        right[1] += found == label
        same += k == found
        changes.append(float((one.logits - other.logits).abs().max()))
        correlations.append(float(np.corrcoef(one.values[k].flatten(), other.values[k].flatten())[0, 1]))
        residuals.append(float(other.residual))
    figures = f"{max(changes):.2f}", f"{median(correlations):.3f}", f"{max(residuals):.0e}"
    return len(case.photos), *right, same, *figures


if __name__ == "__main__":
    typer.run(main)
