"""Write the class maps of a large image: the figure, the numbers and a manifest."""

import hashlib
import io
import json
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from inspector.explain.large_class_maps import LargeMaps
from inspector.files import csv_bytes, json_bytes
from inspector.output.export import encode_figure
from inspector.output.figure import class_map_figure
from inspector.output.manifest import VERSIONS, hash_names


def make_large_files(maps: LargeMaps, image: Path, tile: int) -> dict[str, bytes]:
    """Return the bytes of every file by its name: figure.png, maps.npz, logits.csv and manifest.json.

    Args:
        maps: class maps of the image.
        image: the file that they were computed from.
        tile: side of a tile in pixels.
    """
    manifest = _make_manifest(maps, image, tile)
    reduced = maps.reduced()
    figure = class_map_figure(reduced, reduced.figure_content(range(len(maps.classes))))
    return {
        "figure.png": encode_figure(figure, "png"),
        "maps.npz": _encode_numbers(maps, manifest),
        "logits.csv": _make_logits_csv(maps),
        "manifest.json": json_bytes(manifest),
    }


def _encode_numbers(maps: LargeMaps, manifest: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        values=maps.values.numpy(),
        classes=np.array(maps.classes),
        class_names=np.array([maps.classifier.class_names[k] for k in maps.classes]),
        bias=maps.bias.numpy(),
        logits=maps.logits.numpy(),
        probabilities=maps.probabilities.numpy(),
        manifest=np.array(json.dumps(manifest)),
    )
    return buffer.getvalue()


def _make_logits_csv(maps: LargeMaps) -> bytes:
    """Return one row per class; only the chosen classes have a map, and so a sum and a bias."""
    sums = {
        k: (float(values.double().sum()), float(bias))
        for k, values, bias in zip(maps.classes, maps.values, maps.bias, strict=True)
    }
    rows = (
        (k, name, float(maps.probabilities[k]), float(maps.logits[k]), *sums.get(k, ("", "")))
        for k, name in enumerate(maps.classifier.class_names)
    )
    return csv_bytes(("index", "name", "probability", "logit", "map_sum", "bias"), rows)


def _make_manifest(maps: LargeMaps, image: Path, tile: int) -> dict[str, Any]:
    """Return what the numbers were computed from, in types of JSON."""
    classifier = maps.classifier
    with image.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "inspector": version("inspector"),
        "versions": {name: version(name) for name in VERSIONS},
        "network": {"name": classifier.name, "sha256": classifier.sha256()},
        "class_names": {"count": len(classifier.class_names), "sha256": hash_names(classifier.class_names)},
        "probability": classifier.probability,
        "mean": classifier.preprocessing.mean,
        "std": classifier.preprocessing.std,
        "head": {"pooling": classifier.head.pooling, "verdict": maps.verdict, "residual": maps.residual},
        "image": {"name": image.name, "sha256": digest, "size": maps.image.size},
        "tiles": {"side": tile, "count": maps.tiles, **asdict(maps.tiling)},
        "classes": maps.classes,
        "top": [{"class": k, "name": name, "probability": p} for k, name, p in maps.top(5)],
    }
