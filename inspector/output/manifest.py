"""Make the manifest of an export: a record of everything that its figure and numbers were computed from.

The manifest identifies photo, network and class names by SHA-256, so that `reproduce.py` can check these inputs.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from inspector.explain.class_maps import ClassMaps, FigureContent
from inspector.explain.classifier import Classifier
from inspector.explain.finer import FinerMaps
from inspector.explain.large_class_maps import LargeMaps
from inspector.explain.receptive_field import ReceptiveField
from inspector.files import json_bytes, replace_non_finite
from inspector.images.decode import Pixels
from inspector.output.style import DEFAULT_STYLE, FigureStyle
from inspector.version import __version__

VERSIONS = ("torch", "torchvision", "numpy", "matplotlib", "opencv-python", "pillow")
_LIBRARIES = ("onnxruntime", "openvino")  # backends that are separate libraries, with their own versions


def make_manifest(maps: ClassMaps, shown: FigureContent, style: FigureStyle = DEFAULT_STYLE) -> dict[str, Any]:
    """Return the manifest: everything that figure and numbers were computed from, in types that JSON can store."""
    classifier, view = maps.classifier, maps.view
    photo = None
    if not view.is_input:  # no photo makes the same tensor again
        photo = {
            "name": view.photo.name,
            "sha256": view.photo.sha256,
            "pixels_sha256": hash_pixels(view.photo.pixels),
            "size": view.photo.size,
            "seen": view.box,
            "notes": view.photo.notes,
            # Only where the caller chose them; those of the network are in its preprocessing.
            **{key: given for key in ("window", "display") if (given := getattr(view.photo, key)) is not None},
        }
    return {
        **describe_network(classifier, maps.backend),
        "preprocessing": asdict(classifier.preprocessing),
        "fed": classifier.preprocessing.describe(),
        "head": {"pooling": classifier.head.pooling, "verdict": maps.verdict, "residual": maps.residual},
        "place": classifier.place,
        "receptive_field": describe_field(classifier.receptive_field),
        **({} if maps.finer is None else {"finer": describe_finer(maps.finer)}),
        "photo": photo,
        "shown": {key: value for key, value in asdict(shown).items() if key != "finer" or value > 1},
        "style": asdict(style),
        "top": list_top(maps),
    }


def describe_finer(finer: FinerMaps) -> dict[str, Any]:
    """Return how a finer map was computed, in types that JSON can store."""
    names = ("factor", "method", "reason", "difference", "residual", "verdict")
    return {name: getattr(finer, name) for name in names} | {"receptive_field": describe_field(finer.field)}


def list_top(maps: ClassMaps | LargeMaps) -> list[dict[str, Any]]:
    """Return the five classes with the highest logits, with their probabilities or other values."""
    if maps.classifier.meaning.has_probabilities:
        return [{"class": k, "name": name, "probability": p} for k, name, p in maps.top(5)]
    return [{"class": k, "name": name, "value": float(maps.logits[k])} for k, name, _ in maps.top(5)]


def describe_field(field: ReceptiveField) -> dict[str, Any]:
    """Return receptive fields in types that JSON can store: y, x, and why the place of the cells is unknown, or None.

    An infinite size is None.
    """
    axes = {name: replace_non_finite(asdict(axis)) for name, axis in (("y", field.y), ("x", field.x))}
    return {**axes, "misplaced": field.misplaced}


def describe_network(classifier: Classifier, backend: str | None = None) -> dict[str, Any]:
    """Return the entries of a manifest about versions, network, class names and output activation."""
    library = (backend or "").partition(" ")[0]  # what follows is its precision, as in "onnxruntime int8"
    packages = (*VERSIONS, *([library] if library in _LIBRARIES else []))
    notes = {"precision": " ".join(classifier.precision_notes)} if backend and classifier.precision_notes else {}
    return {
        "inspector": __version__,
        "versions": {name: found for name in packages if (found := find_version(name)) is not None},
        "network": {"name": classifier.name, "sha256": classifier.sha256()}
        | ({"backend": backend} if backend else {})
        | notes,
        "class_names": {"count": len(classifier.class_names), "sha256": hash_names(classifier.class_names)},
        "probability": classifier.probability,
        **{name: one for name in ("output", "unit") if (one := getattr(classifier, name)) is not None},
    }


def find_version(package: str) -> str | None:
    """Return the version of a package, or of Inspector; None if the package is not installed."""
    if package == "inspector":
        return __version__
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def hash_pixels(pixels: Pixels) -> str:
    """Return the SHA-256 of a photo's size and pixels: equal for all files that decode to the same pixels."""
    return hashlib.sha256(f"{pixels.shape}".encode() + pixels.tobytes()).hexdigest()


def hash_names(names: Sequence[str]) -> str:
    """Return the SHA-256 of the class names; it depends on their order."""
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


def encode_manifest(maps: ClassMaps, shown: FigureContent, style: FigureStyle = DEFAULT_STYLE) -> bytes:
    """Return the manifest as the bytes of a JSON file."""
    return json_bytes(make_manifest(maps, shown, style))
