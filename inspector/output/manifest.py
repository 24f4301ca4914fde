"""The manifest of an export: all that its figure and numbers were computed from, so that they can be computed again.

Photo, network and class names are identified by SHA-256 (`reproduce.py` checks them).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from inspector.explain.class_maps import ClassMaps, FigureContent
from inspector.files import json_bytes, replace_non_finite
from inspector.images.photo import Pixels
from inspector.output.style import DEFAULT_STYLE, FigureStyle

VERSIONS = ("torch", "torchvision", "numpy", "matplotlib", "opencv-python", "pillow")
_LIBRARIES = ("onnxruntime", "openvino")  # backends that have versions of their own


def make_manifest(maps: ClassMaps, shown: FigureContent, style: FigureStyle = DEFAULT_STYLE) -> dict[str, Any]:
    """All that the figure and the numbers were made from, as JSON takes it."""
    classifier, view = maps.classifier, maps.view
    photo = None
    if view is not None:
        photo = {
            "name": view.photo.name,
            "sha256": view.photo.sha256,
            "pixels_sha256": pixels_sha256(view.photo.pixels),
            "size": view.photo.size,
            "seen": view.box,
            "notes": view.photo.notes,
        }
    return {
        "inspector": version("inspector"),
        "versions": {name: version(name) for name in VERSIONS} | _find_library_version(maps.backend),
        "network": {"name": classifier.name, "sha256": classifier.sha256(), "backend": maps.backend},
        "class_names": {"count": len(classifier.class_names), "sha256": names_sha256(classifier.class_names)},
        "probability": classifier.probability,
        "preprocessing": asdict(classifier.preprocessing),
        "head": {"pooling": classifier.head.pooling, "verdict": maps.verdict, "residual": maps.residual},
        "receptive_field": {
            name: replace_non_finite(axis) for name, axis in asdict(classifier.receptive_field).items()
        },
        "photo": photo,
        "shown": asdict(shown),
        "style": asdict(style),
        "top": [{"class": k, "name": name, "probability": p} for k, name, p in maps.top(5)],
    }


def _find_library_version(backend: str) -> dict[str, str]:
    """The version of a backend that is a library of its own, where it is installed under its usual name."""
    try:
        return {backend: version(backend)} if backend in _LIBRARIES else {}
    except PackageNotFoundError:
        return {}


def pixels_sha256(pixels: Pixels) -> str:
    """Of the upright photo's size and pixels: the same for every file that holds the same picture."""
    return hashlib.sha256(f"{pixels.shape}".encode() + pixels.tobytes()).hexdigest()


def names_sha256(names: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


def manifest_bytes(maps: ClassMaps, shown: FigureContent, style: FigureStyle = DEFAULT_STYLE) -> bytes:
    return json_bytes(make_manifest(maps, shown, style))
