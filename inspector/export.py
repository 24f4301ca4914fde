"""Write a figure and the numbers behind it: PNG, PDF, SVG, NPZ and a manifest.

The manifest names all that the figure was made from, photo and network by hash, so that it can be made again.
"""

import io
import json
import math
import shutil
import tempfile
import threading
import zipfile
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from inspector.errors import ExportError
from inspector.figure import all_maps_figure, class_map_figure
from inspector.maps import ClassMaps, Shown

Format = Literal["png", "pdf", "svg"]
FORMATS: tuple[Format, ...] = ("png", "pdf", "svg")
FILES = (*(f"figure.{format}" for format in FORMATS), "maps.npz", "manifest.json")
DPI = 200

# Text stays text, and equal figures give equal bytes.
_STYLE: Any = {"svg.fonttype": "none", "pdf.fonttype": 42, "svg.hashsalt": "inspector"}
_NO_DATE: dict[Format, dict[str, None]] = {"png": {}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}
_drawing = threading.Lock()  # matplotlib's settings belong to the whole process


def figure_bytes(figure: Figure, format: Format) -> bytes:
    """The figure as the bytes of a file."""
    buffer = io.BytesIO()
    with _drawing, matplotlib.rc_context(_STYLE):
        figure.savefig(buffer, format=format, dpi=DPI, metadata=_NO_DATE[format])
    return buffer.getvalue()


def manifest(maps: ClassMaps, shown: Shown) -> dict[str, Any]:
    """All that the figure and the numbers were made from, as JSON takes it."""
    classifier, view = maps.classifier, maps.view
    photo = None
    if view is not None:
        photo = {
            "name": view.photo.name,
            "sha256": view.photo.sha256,
            "size": view.photo.size,
            "seen": view.box,
            "notes": view.photo.notes,
        }
    return {
        "inspector": version("inspector"),
        "versions": {name: version(name) for name in ("torch", "numpy", "matplotlib", "opencv-python", "pillow")},
        "network": {"name": classifier.name, "sha256": classifier.sha256()},
        "preprocessing": asdict(classifier.preprocessing),
        "head": {"pooling": classifier.head.pooling, "verdict": maps.verdict, "residual": maps.residual},
        "receptive_field": {name: _finite(axis) for name, axis in asdict(classifier.receptive_field).items()},
        "photo": photo,
        "shown": asdict(shown),
        "top": [{"class": k, "name": name, "probability": p} for k, name, p in maps.top(5)],
    }


def _finite(axis: dict[str, float]) -> dict[str, float | None]:
    """JSON has no infinity: null for a size without bounds."""
    return {name: value if math.isfinite(value) else None for name, value in axis.items()}


def numbers_bytes(maps: ClassMaps, shown: Shown) -> bytes:
    """All class maps and what they sum to as an NPZ file, with the manifest inside as JSON."""
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        values=maps.values.numpy(force=True),
        bias=maps.bias.numpy(force=True),
        logits=maps.logits.numpy(force=True),
        probabilities=maps.probabilities.numpy(force=True),
        class_names=np.array(maps.classifier.class_names),
        manifest=np.array(json.dumps(manifest(maps, shown))),
    )
    return buffer.getvalue()


def manifest_bytes(maps: ClassMaps, shown: Shown) -> bytes:
    return (json.dumps(manifest(maps, shown), indent=2) + "\n").encode()


def zip_bytes(maps: ClassMaps, shown: Shown) -> bytes:
    """All files as one ZIP file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in FILES:
            entry = zipfile.ZipInfo(name)  # without the time of day: equal exports are equal files
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, file(name, maps, shown))
    return buffer.getvalue()


def file(name: str, maps: ClassMaps, shown: Shown) -> bytes:
    """The bytes of one file of an export by its name: one of FILES, class-maps.zip, or all-maps.png, .pdf or .svg."""
    make = {"maps.npz": numbers_bytes, "manifest.json": manifest_bytes, "class-maps.zip": zip_bytes}.get(name)
    if make is not None:
        return make(maps, shown)
    stem, _, suffix = name.partition(".")
    (format,) = (format for format in FORMATS if format == suffix)
    if stem == "all-maps":
        return figure_bytes(all_maps_figure(maps, dense=maps.classifier.head.scores_positions), format)
    return figure_bytes(class_map_figure(maps, shown), format)


def save(maps: ClassMaps, folder: Path, shown: Shown) -> Path:
    """Write the whole export into a new folder, all of it or nothing, and return the folder."""
    if "\0" in str(folder):
        raise ExportError(f"Cannot write {str(folder)!r}: a name holds no null character. Nothing was left there.")
    unfinished: Path | None = None
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ExportError(f"{folder} is there already and not empty: nothing was written. Name a new folder.")
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=".inspector-", dir=folder.parent))
        unfinished.chmod(0o755)
        for name in FILES:
            (unfinished / name).write_bytes(file(name, maps, shown))
        unfinished.replace(folder)
    except OSError as error:
        raise ExportError(f"Cannot write {folder}: {error.strerror}. Nothing was left there.") from error
    finally:
        if unfinished is not None:
            shutil.rmtree(unfinished, ignore_errors=True)  # gone already where it was renamed
    return folder
