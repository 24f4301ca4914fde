"""Write a figure (PNG, PDF, SVG), its numbers (NPZ, CSV), a report, the photo and a manifest.

The manifest identifies everything that the figure was computed from, so that `reproduce.py` can make the figure again.
"""

import io
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from inspector.errors import ExportError
from inspector.explain.class_maps import ClassMaps, FigureContent
from inspector.explain.large_class_maps import LargeMaps
from inspector.files import csv_bytes, new_folder
from inspector.output.class_map_files import ALL_MAPS, FIGURES, make_figure_file
from inspector.output.manifest import encode_manifest, make_manifest
from inspector.output.report import make_report
from inspector.output.style import DEFAULT_STYLE, FigureStyle

_NUMBERS = ("maps.npz", "logits.csv", "contributions.csv")
FILES = (*FIGURES, *_NUMBERS, "report.html", "photo.png", "manifest.json")


def encode_numbers(maps: ClassMaps, shown: FigureContent, style: FigureStyle = DEFAULT_STYLE) -> bytes:
    """Return an NPZ file with all class maps, biases, logits and probabilities, and with the manifest as JSON."""
    return encode_npz(maps, maps.classifier.class_names, make_manifest(maps, shown, style))


def encode_npz(maps: ClassMaps | LargeMaps, class_names: Sequence[str], manifest: Mapping[str, Any]) -> bytes:
    """Return an NPZ file with class maps, biases, logits, probabilities, class names, and the manifest as JSON."""
    arrays = {name: getattr(maps, name).numpy(force=True) for name in ("values", "bias", "logits", "probabilities")}
    if isinstance(maps, LargeMaps):
        arrays["classes"] = np.array(maps.classes)
    elif maps.finer is not None:
        arrays["finer_values"] = maps.finer.values.numpy(force=True)
        arrays["finer_logits"] = maps.finer.logits.numpy(force=True)
    arrays |= {"class_names": np.array(class_names), "manifest": np.array(json.dumps(manifest))}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def make_logits_csv(maps: ClassMaps) -> bytes:
    """Return a CSV file with one row per class: number, name, probability, logit, bias, and the sum of its map."""
    numbers = (maps.logits, maps.bias, maps.values.sum((1, 2)))
    columns = [tensor.numpy(force=True) for tensor in numbers]
    probabilities = list_probabilities(maps)
    rows = zip(range(len(maps.logits)), maps.classifier.class_names, probabilities, *columns, strict=True)
    return csv_bytes(("index", "name", "probability", "logit", "bias", "map_sum"), rows)


def list_probabilities(maps: ClassMaps | LargeMaps) -> list[Any]:
    """Return the probability of every class for a CSV file; empty texts if the network returns other values."""
    if not maps.classifier.meaning.has_probabilities:
        return [""] * len(maps.probabilities)
    return list(maps.probabilities.numpy(force=True))


def make_contributions_csv(maps: ClassMaps, shown: FigureContent) -> bytes:
    """Return a CSV file with one row per cell of each class shown: the contribution in logits that the figure shows."""
    finer = shown.finer > 1
    class_maps = [(k, maps.class_map(k, shown.against, shown.dense, finer)) for k in shown.classes]
    rows = (
        (k, class_map.title, y, x, contribution)
        for k, class_map in class_maps
        for (y, x), contribution in np.ndenumerate(class_map.values.numpy(force=True))
    )
    return csv_bytes(("index", "class", "y", "x", "contribution"), rows)


def encode_photo(maps: ClassMaps) -> bytes:
    """Return the upright photo as a PNG file, without metadata such as the GPS position."""
    buffer = io.BytesIO()
    Image.fromarray(maps.view.photo.pixels).save(buffer, "PNG", compress_level=4)
    return buffer.getvalue()


def encode_zip(maps: ClassMaps, shown: FigureContent, style: FigureStyle = DEFAULT_STYLE) -> bytes:
    """Return a ZIP file that contains all FILES."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in FILES:
            entry = zipfile.ZipInfo(name)  # no time stamp, so that equal exports give equal bytes
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, make_file(name, maps, shown, style))
    return buffer.getvalue()


def make_file(name: str, maps: ClassMaps, shown: FigureContent, style: FigureStyle = DEFAULT_STYLE) -> bytes:
    """Make the bytes of one file of an export.

    Args:
        name: one of FILES, "class-maps.zip", or "all-maps.png" (also .pdf and .svg).
        maps: class maps of a photo.
        shown: which maps to show, and how (contrast, opacity, ...).
        style: how the figure looks.

    Raises:
        ExportError: an export has no file with this name, or the file needs a photo and there is none.
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
    if name in (*FIGURES, *ALL_MAPS):
        return make_figure_file(name, maps, shown, style)
    raise ExportError(f"No file {name!r} in an export. Use one of {', '.join(FILES)}.")


def save_class_maps(
    maps: ClassMaps,
    folder: Path,
    shown: FigureContent,
    style: FigureStyle = DEFAULT_STYLE,
    overwrite: bool = False,
) -> Path:
    """Write all FILES into a new folder, or none of them, and return the folder.

    Args:
        maps: class maps of a photo.
        folder: the folder to write.
        shown: which maps to show, and how.
        style: how the figure looks.
        overwrite: replace a folder that holds only FILES, once the new one is complete.

    Raises:
        ExportError: the folder is not empty, or cannot be written.
    """
    with new_folder(folder, is_ours=FILES.__contains__ if overwrite else None) as unfinished:
        for name in FILES:
            (unfinished / name).write_bytes(make_file(name, maps, shown, style))
    return folder
