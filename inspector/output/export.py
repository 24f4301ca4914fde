"""Write a figure and the numbers behind it: PNG, PDF, SVG, NPZ, CSV, a report, the photo and a manifest.

The manifest names all that the figure was made from, photo and network by hash, so that it can be made again
(`rebuild.py`).
"""

import io
import json
import threading
import zipfile
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from inspector.errors import ExportError
from inspector.explain.class_maps import ClassMaps, FigureContent
from inspector.files import csv_bytes, new_folder
from inspector.output.figure import class_map_figure
from inspector.output.manifest import make_manifest, manifest_bytes
from inspector.output.report import make_report
from inspector.output.style import DEFAULT_STYLE, FigureStyle

Format = Literal["png", "pdf", "svg"]
FORMATS: tuple[Format, ...] = ("png", "pdf", "svg")
_NUMBERS = ("maps.npz", "logits.csv", "contributions.csv")
FILES = (*(f"figure.{format}" for format in FORMATS), *_NUMBERS, "report.html", "photo.png", "manifest.json")
_ALL_MAPS = FigureStyle(("all",), columns=5)

# Text stays text, and equal figures give equal bytes.
_STYLE: Any = {"svg.fonttype": "none", "pdf.fonttype": 42, "svg.hashsalt": "inspector"}
_NO_DATE: dict[Format, dict[str, None]] = {"png": {}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}
# Half the time of a PNG would go into making it a seventh smaller.
_QUICK: dict[Format, dict[str, Any]] = {"png": {"pil_kwargs": {"compress_level": 1}}, "pdf": {}, "svg": {}}
_drawing = threading.Lock()  # matplotlib's settings belong to the whole process


def figure_bytes(figure: Figure, format: Format, dpi: int = DEFAULT_STYLE.dpi) -> bytes:
    """The figure as the bytes of a file; `dpi` is that of a PNG, and of the photos in the others."""
    buffer = io.BytesIO()
    with _drawing, matplotlib.rc_context(_STYLE):
        figure.savefig(buffer, format=format, dpi=dpi, metadata=_NO_DATE[format], **_QUICK[format])
    return buffer.getvalue()


def numbers_bytes(maps: ClassMaps, shown: FigureContent, style: FigureStyle = DEFAULT_STYLE) -> bytes:
    """All class maps and what they sum to as an NPZ file, with the manifest inside as JSON."""
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        values=maps.values.numpy(force=True),
        bias=maps.bias.numpy(force=True),
        logits=maps.logits.numpy(force=True),
        probabilities=maps.probabilities.numpy(force=True),
        class_names=np.array(maps.classifier.class_names),
        manifest=np.array(json.dumps(make_manifest(maps, shown, style))),
    )
    return buffer.getvalue()


def logits_csv(maps: ClassMaps) -> bytes:
    """A row a class: its number, name, probability, logit, bias and the sum of its map."""
    numbers = (maps.probabilities, maps.logits, maps.bias, maps.values.sum((1, 2)))
    columns = [tensor.numpy(force=True) for tensor in numbers]
    rows = zip(range(len(maps.logits)), maps.classifier.class_names, *columns, strict=True)
    return csv_bytes(("index", "name", "probability", "logit", "bias", "map_sum"), rows)


def contributions_csv(maps: ClassMaps, shown: FigureContent) -> bytes:
    """A row a class shown and position: what the position adds, in logits, as the figure shows it."""
    read = [(k, maps.class_map(k, shown.against, shown.dense)) for k in shown.classes]
    cells = ((k, one.title, *yx, part) for k, one in read for yx, part in np.ndenumerate(one.values.numpy(force=True)))
    return csv_bytes(("index", "class", "y", "x", "contribution"), cells)


def photo_bytes(maps: ClassMaps) -> bytes:
    """The upright photo as a PNG, without what else its file told, such as the place where it was taken."""
    if maps.view is None:
        raise ExportError("These class maps came from a tensor: there is no photo to write.")
    buffer = io.BytesIO()
    Image.fromarray(maps.view.photo.pixels).save(buffer, "PNG", compress_level=4)
    return buffer.getvalue()


def zip_bytes(maps: ClassMaps, shown: FigureContent, style: FigureStyle = DEFAULT_STYLE) -> bytes:
    """All files as one ZIP file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in FILES:
            entry = zipfile.ZipInfo(name)  # without the time of day: equal exports are equal files
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, make_file(name, maps, shown, style))
    return buffer.getvalue()


def make_file(name: str, maps: ClassMaps, shown: FigureContent, style: FigureStyle = DEFAULT_STYLE) -> bytes:
    """The bytes of one file of an export by its name: one of FILES, class-maps.zip, or all-maps.png, .pdf or .svg."""
    match name.split("."):
        case ["maps", "npz"]:
            return numbers_bytes(maps, shown, style)
        case ["logits", "csv"]:
            return logits_csv(maps)
        case ["contributions", "csv"]:
            return contributions_csv(maps, shown)
        case ["report", "html"]:
            return make_report(maps, shown, style, make_manifest(maps, shown, style)).encode()
        case ["photo", "png"]:
            return photo_bytes(maps)
        case ["manifest", "json"]:
            return manifest_bytes(maps, shown, style)
        case ["class-maps", "zip"]:
            return zip_bytes(maps, shown, style)
        case ["all-maps", suffix]:
            all_maps = maps.figure_content(1, dense=maps.classifier.head.has_position_scores)
            return figure_bytes(class_map_figure(maps, all_maps, _ALL_MAPS), _format(suffix))
        case ["figure", suffix]:
            return figure_bytes(class_map_figure(maps, shown, style), _format(suffix), style.dpi)
    raise ExportError(f"No file {name!r} in an export; {', '.join(FILES)} are.")


def _format(suffix: str) -> Format:
    (format,) = (format for format in FORMATS if format == suffix)
    return format


def save_class_maps(maps: ClassMaps, folder: Path, shown: FigureContent, style: FigureStyle = DEFAULT_STYLE) -> Path:
    """Write the whole export into a new folder, all of it or nothing, and return the folder.

    Raises:
        ExportError: the folder is not empty, or cannot be written.
    """
    with new_folder(folder) as unfinished:
        for name in FILES:
            (unfinished / name).write_bytes(make_file(name, maps, shown, style))
    return folder
