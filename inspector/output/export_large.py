"""Write the class maps of a large image: the figure, the numbers and a manifest."""

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

from inspector.explain.large_class_maps import LargeMaps
from inspector.files import csv_bytes, json_bytes
from inspector.output.export import encode_npz, list_probabilities
from inspector.output.figure import class_map_figure
from inspector.output.figure_file import encode_figure
from inspector.output.manifest import describe_network, list_top

FILES = ("figure.png", "maps.npz", "logits.csv", "manifest.json")


def make_large_files(maps: LargeMaps, image: Path, tile: int) -> dict[str, bytes]:
    """Return the files of the export, name -> bytes, one for each of FILES.

    Args:
        maps: class maps of the image.
        image: file of the image.
        tile: side of a tile, in pixels of the image.
    """
    manifest = _make_manifest(maps, image, tile)
    class_names = [maps.classifier.class_names[k] for k in maps.classes]
    reduced = maps.reduced()
    figure = class_map_figure(reduced, reduced.figure_content(range(len(maps.classes))))
    return {
        "figure.png": encode_figure(figure, "png"),
        "maps.npz": encode_npz(maps, class_names, manifest),
        "logits.csv": _make_logits_csv(maps),
        "manifest.json": json_bytes(manifest),
    }


def _make_logits_csv(maps: LargeMaps) -> bytes:
    """Return a CSV file with one row per class. Only the chosen classes have a map, so only these have sum and bias."""
    sums = {
        k: (float(values.double().sum()), float(bias))
        for k, values, bias in zip(maps.classes, maps.values, maps.bias, strict=True)
    }
    probabilities = list_probabilities(maps)
    rows = (
        (k, name, probability, float(maps.logits[k]), *sums.get(k, ("", "")))
        for k, (name, probability) in enumerate(zip(maps.classifier.class_names, probabilities, strict=True))
    )
    return csv_bytes(("index", "name", "probability", "logit", "map_sum", "bias"), rows)


def _make_manifest(maps: LargeMaps, image: Path, tile: int) -> dict[str, Any]:
    """Return the manifest: everything that the numbers were computed from, in types that JSON can store."""
    classifier = maps.classifier
    with image.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        **describe_network(classifier),
        "fed": classifier.preprocessing.describe_values(),
        "mean": classifier.preprocessing.mean,
        "std": classifier.preprocessing.std,
        "head": {"pooling": classifier.head.pooling, "verdict": maps.verdict, "residual": maps.residual},
        "place": classifier.place,
        "image": {"name": image.name, "sha256": digest, "size": maps.image.size},
        "tiles": {"side": tile, "count": maps.tiles, **asdict(maps.tiling)},
        "classes": maps.classes,
        "top": list_top(maps),
    }
