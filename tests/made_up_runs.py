"""Invented training runs in the files of `inspector train`: three heads, two seeds each, ten tiny photos."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from inspector.images.examples import list_examples
from inspector.networks.catalog import shipped_models

CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
NETWORKS = {"gap": "fashion_gap", "gmp": "fashion_gmp", "connected": None}
IMAGES_PER_CLASS = 10  # test images per seed in the confusion matrices


def write_runs(out: Path, photos: bool = True, weights: bool = True) -> Path:
    """Write the runs of an experiment "clothes" and return their folder. The third head has no weights."""
    files = {} if not photos else write_photos(out / "photos")
    for number, (name, network) in enumerate(NETWORKS.items()):
        for seed in (0, 1):
            folder = out / "runs" / "clothes" / name / f"seed{seed}"
            folder.mkdir(parents=True)
            _write_scores(folder, name, number, seed, out / "photos" if photos else None)
            _write_csv(folder / "confusion.csv", [CLASSES, *make_confusion(number)])
            save_file({"average_maps": _make_average_maps(number)}, folder / "average_maps.safetensors")
            if photos:
                _write_csv(folder / "test.csv", _make_test_rows(files, name))
            if weights and network is not None:
                for file in ("model.json", "weights.safetensors"):
                    shutil.copy(shipped_models() / network / file, folder / file)
    return out / "runs"


def write_photos(folder: Path) -> dict[str, str]:
    """Write one photo per class, each in a folder of its class. Return file -> class."""
    files = {}
    for caption, path in list_examples("fashion_mnist").items():
        label = "T-shirt/top" if caption == "T-shirt" else caption
        file = f"{caption}/{path.name}"
        (folder / caption).mkdir(parents=True)
        shutil.copy(path, folder / file)
        files[file] = label
    return files


def make_confusion(number: int) -> list[list[int]]:
    """Return a confusion matrix with ten images per class: all right but `number + 2` shirts predicted as coats."""
    counts = np.eye(len(CLASSES), dtype=int) * IMAGES_PER_CLASS
    shirt, coat = CLASSES.index("Shirt"), CLASSES.index("Coat")
    counts[shirt, [shirt, coat]] = IMAGES_PER_CLASS - number - 2, number + 2
    rows: list[list[int]] = counts.tolist()
    return rows


def _write_scores(folder: Path, name: str, number: int, seed: int, images: Path | None) -> None:
    about = {
        "title": name,
        "settings": {"experiment": "clothes", "run": name, "rate": 0.1, "seed": seed},
        "parameters": {"head": 330, "all": 18_000 + number},
        "class_maps": {
            "verdict": "exact",
            "residual": 1e-6,
            "images": 10,
            "inside": {"share": 0.5 + 0.1 * seed, "pointing": 0.75, "images": 10},
        },
    }
    if images is not None:
        about["images"] = str(images)
    (folder / "run.json").write_text(json.dumps(about))
    rows = [("epoch", "training_loss", "validation_loss", "top1", "top2", "seconds")]
    for epoch in range(1, 6):
        loss = (1 + 0.2 * number + 0.1 * seed) / epoch
        top1 = 1 - 0.1 * loss - 0.02 * number
        rows.append((epoch, loss, loss + 0.05 * epoch, top1, (1 + top1) / 2, 2.0))  # type: ignore[arg-type]
    _write_csv(folder / "history.csv", rows)


def _make_average_maps(number: int) -> np.ndarray:
    """Return maps where class k is k + 1 in one cell, another cell for every head."""
    maps = np.zeros((len(CLASSES), 3, 3), np.float32)
    maps[:, number, number] = np.arange(1, len(CLASSES) + 1)
    return maps


def _make_test_rows(files: dict[str, str], name: str) -> list[tuple[object, ...]]:
    """Return the rows of test.csv: max pooling predicts coat for the shirt; all others are right."""
    rows: list[tuple[object, ...]] = [("file", "label", "predicted", "probability", "inside")]
    for file, label in files.items():
        rows.append((file, label, "Coat" if (name, label) == ("gmp", "Shirt") else label, 0.9, ""))
    return rows


def _write_csv(path: Path, rows: object) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)  # type: ignore[arg-type]
