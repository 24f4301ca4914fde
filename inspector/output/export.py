"""Write a figure and the numbers behind it: PNG, PDF, SVG, NPZ, CSV, a report, the photo and a manifest.

The manifest names all that the figure was computed from, so that it can be made again (`reproduce.py`).
"""

import io
import json
import threading
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from inspector.errors import ExportError
from inspector.explain.class_maps import ClassMaps, FigureContent
from inspector.explain.large_class_maps import LargeMaps
from inspector.files import csv_bytes, new_folder
from inspector.output.figure import class_map_figure
from inspector.output.manifest import encode_manifest, make_manifest
from inspector.output.report import make_report
from inspector.output.style import DEFAULT_STYLE, FigureStyle

Format = Literal["png", "pdf", "svg"]
FORMATS: tuple[Format, ...] = ("png", "pdf", "svg")
_NUMBERS = ("maps.npz", "logits.csv", "contributions.csv")
FILES = (*(f"figure.{format}" for format in FORMATS), *_NUMBERS, "report.html", "photo.png", "manifest.json")
_ALL_MAPS = FigureStyle(("all",), columns=5)

# Text is written as text, and equal figures are written as equal bytes.
_RC: Any = {"svg.fonttype": "none", "pdf.fonttype": 42, "svg.hashsalt": "inspector"}
_NO_DATE: dict[Format, dict[str, None]] = {"png": {}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}
# Better compression would take as long as the rest of a PNG, and make it only a seventh smaller.
_OPTIONS: dict[Format, dict[str, Any]] = {"png": {"pil_kwargs": {"compress_level": 1}}, "pdf": {}, "svg": {}}
_rc_lock = threading.Lock()  # matplotlib's settings belong to the whole process


def encode_figure(figure: Figure, format: Format, dpi: int = DEFAULT_STYLE.dpi) -> bytes:
    """Encode a figure as the bytes of a file; `dpi` is the resolution of a PNG, and of the photos in PDF and SVG."""
    buffer = io.BytesIO()
    with _rc_lock, matplotlib.rc_context(_RC):
        figure.savefig(buffer, format=format, dpi=dpi, metadata=_NO_DATE[format], **_OPTIONS[format])
    return buffer.getvalue()


def encode_numbers(maps: ClassMaps, shown: FigureContent, style: FigureStyle = DEFAULT_STYLE) -> bytes:
    """Encode all class maps and their sums as an NPZ file, with the manifest inside as JSON."""
    return encode_npz(maps, maps.classifier.class_names, make_manifest(maps, shown, style))


def encode_npz(maps: ClassMaps | LargeMaps, class_names: Sequence[str], manifest: Mapping[str, Any]) -> bytes:
    """Encode class maps, bias, logits and probabilities as an NPZ file, with their class names and the manifest."""
    arrays = {name: getattr(maps, name).numpy(force=True) for name in ("values", "bias", "logits", "probabilities")}
    if isinstance(maps, LargeMaps):
        arrays["classes"] = np.array(maps.classes)
    arrays |= {"class_names": np.array(class_names), "manifest": np.array(json.dumps(manifest))}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def make_logits_csv(maps: ClassMaps) -> bytes:
    """Write one row per class: number, name, probability, logit, bias and the sum of its map."""
    numbers = (maps.probabilities, maps.logits, maps.bias, maps.values.sum((1, 2)))
    columns = [tensor.numpy(force=True) for tensor in numbers]
    rows = zip(range(len(maps.logits)), maps.classifier.class_names, *columns, strict=True)
    return csv_bytes(("index", "name", "probability", "logit", "bias", "map_sum"), rows)


def make_contributions_csv(maps: ClassMaps, shown: FigureContent) -> bytes:
    """Write one row per class shown and cell: the contribution of the cell in logits, as the figure shows it."""
    class_maps = [(k, maps.class_map(k, shown.against, shown.dense)) for k in shown.classes]
    rows = (
        (k, class_map.title, y, x, contribution)
        for k, class_map in class_maps
        for (y, x), contribution in np.ndenumerate(class_map.values.numpy(force=True))
    )
    return csv_bytes(("index", "class", "y", "x", "contribution"), rows)


def encode_photo(maps: ClassMaps) -> bytes:
    """Encode the upright photo as a PNG, without metadata such as the place where it was taken.

    Raises:
        ExportError: the maps came from a tensor.
    """
    if maps.view is None:
        raise ExportError("These class maps came from a tensor: there is no photo to write.")
    buffer = io.BytesIO()
    Image.fromarray(maps.view.photo.pixels).save(buffer, "PNG", compress_level=4)
    return buffer.getvalue()


def encode_zip(maps: ClassMaps, shown: FigureContent, style: FigureStyle = DEFAULT_STYLE) -> bytes:
    """Pack all FILES into one ZIP file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in FILES:
            entry = zipfile.ZipInfo(name)  # without the time of day: equal exports are equal files
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, make_file(name, maps, shown, style))
    return buffer.getvalue()


def make_file(name: str, maps: ClassMaps, shown: FigureContent, style: FigureStyle = DEFAULT_STYLE) -> bytes:
    """Make the bytes of one file of an export.

    Args:
        name: one of FILES, class-maps.zip, or all-maps.png, .pdf or .svg.
        maps: class maps of a photo.
        shown: which maps, and how they are read.
        style: how the figure looks.

    Raises:
        ExportError: an export has no such file, or there is no photo for it.
        InspectorError: the figure cannot be drawn in this style.
    """
    files: dict[str, Callable[[], bytes]] = {
        "maps.npz": lambda: encode_numbers(maps, shown, style),
        "logits.csv": lambda: make_logits_csv(maps),
        "contributions.csv": lambda: make_contributions_csv(maps, shown),
        "report.html": lambda: make_report(maps, shown, style, make_manifest(maps, shown, style)).encode(),
        "photo.png": lambda: encode_photo(maps),
        "manifest.json": lambda: encode_manifest(maps, shown, style),
        "class-maps.zip": lambda: encode_zip(maps, shown, style),
    }
    if name in files:
        return files[name]()
    for format in FORMATS:
        if name == f"figure.{format}":
            return encode_figure(class_map_figure(maps, shown, style), format, style.dpi)
        if name == f"all-maps.{format}":
            all_maps = maps.figure_content(1, dense=maps.classifier.head.has_position_scores)
            return encode_figure(class_map_figure(maps, all_maps, _ALL_MAPS), format)
    raise ExportError(f"No file {name!r} in an export. Use one of {', '.join(FILES)}.")


def save_class_maps(maps: ClassMaps, folder: Path, shown: FigureContent, style: FigureStyle = DEFAULT_STYLE) -> Path:
    """Write all FILES into a new folder, or none of them, and return the folder.

    Raises:
        ExportError: the folder is not empty, or cannot be written.
    """
    with new_folder(folder) as unfinished:
        for name in FILES:
            (unfinished / name).write_bytes(make_file(name, maps, shown, style))
    return folder
