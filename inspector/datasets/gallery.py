"""Draw overlays (class maps over photos) for a run, and write HTML pages that show the overlays."""

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from inspector.datasets.table import read_rows
from inspector.errors import ExportError, translate_errors
from inspector.explain.kinds import OutputMeaning
from inspector.explain.receptive_field import ReceptiveField
from inspector.files import write_atomic
from inspector.images.decode import Pixels
from inspector.images.preprocessing import Crop, View
from inspector.output.overlay import common_scale, dimmed_photo, draw_map_on_photo
from inspector.output.templates import render_template

_OVERLAY_SIDE = 360  # pixels of the longer side of an overlay
_IMAGES_PER_PAGE = 200  # images
_COLUMNS = ("index", "path", "label", "classes", "probabilities", "logits", "label_rank", "verdict", "error")


def make_overlay_path(index: int) -> str:
    """Return the path of an image's overlay, relative to the folder of the run."""
    return f"overlays/{index:08}.jpg"


def make_canvas(view: View) -> Pixels:
    """Return the small, dimmed photo that an overlay is drawn on, so that the full photo need not stay in memory."""
    return dimmed_photo(view.photo, view.crop, _OVERLAY_SIDE)


def draw_overlay(file: Path, crop: Crop, canvas: Pixels, values: ArrayLike, field: ReceptiveField) -> None:
    """Draw one class map over a canvas, scaled to its own largest value, and write the image as a JPEG.

    Args:
        file: the JPEG to write; its folder is made if it is missing.
        crop: where the network's input lies on the photo.
        canvas: the dimmed photo from `make_canvas`.
        values: map (h, w), in logits.
        field: receptive fields of the map's cells.

    Raises:
        ExportError: the file cannot be written.
    """
    grid = np.asarray(values, np.float32)
    buffer = io.BytesIO()
    picture = Image.fromarray(draw_map_on_photo(canvas, crop, grid, field, common_scale([grid])))
    picture.save(buffer, "JPEG", quality=90)
    _write_file(file, buffer.getvalue())


def write_gallery(out: Path) -> Path:
    """Write gallery-0001.html, gallery-0002.html, ... with 200 images each, and gallery.html with links to these pages.

    Returns:
        The path of gallery.html.

    Raises:
        ExportError: a page cannot be written.
    """
    about = read_rows(out)[1]
    last_page = -(-about["images"] // _IMAGES_PER_PAGE)
    # Results of older versions name no unit.
    meaning = OutputMeaning(about["probability"], about.get("unit"))
    shared = {"class_names": about["class_names"], "make_overlay_path": make_overlay_path, "meaning": meaning}
    pages = []
    for number, rows in enumerate(_iterate_pages(out), 1):
        name, first, last = _format_page_name(number), rows[0], rows[-1]
        page = {"file": name, "first": first["index"], "last": last["index"], "path": first["path"]}
        neighbors = {"first": 1, "previous": number - 1, "next": number + 1, "last": last_page}
        links = [(text, _format_page_name(n)) for text, n in neighbors.items() if 1 <= n <= last_page and n != number]
        title = f"Images {page['first']:,} to {page['last']:,} of {about['images']:,}"
        _write_page(out / name, "gallery_page.html", title, rows=rows, links=links, **shared)
        pages.append(page)
    index = out / "gallery.html"
    title = f"Class maps of {about['source']}"
    shown = {
        "images": about["images"],
        "network": about["network"],
        "misplaced": about["receptive_field"].get("misplaced"),
    }
    _write_page(index, "gallery.html", title, pages=pages, **shown)
    return index


def _write_page(file: Path, template: str, title: str, **values: Any) -> None:
    html = render_template(template, title=title, image_sources="'self' file:", **values)
    _write_file(file, html.encode())


def _write_file(file: Path, content: bytes) -> None:
    with translate_errors(ExportError, f"Cannot write {file}: {{reason}}."):
        file.parent.mkdir(exist_ok=True)
        write_atomic(file, content)


def _iterate_pages(out: Path) -> Iterator[list[Mapping[str, Any]]]:
    rows: list[Mapping[str, Any]] = []
    # Read shard by shard, so that a table of a million rows is never in memory as a whole.
    for fragment in read_rows(out)[0].get_fragments():
        rows += fragment.to_table(columns=list(_COLUMNS)).to_pylist()
        while len(rows) >= _IMAGES_PER_PAGE:
            yield rows[:_IMAGES_PER_PAGE]
            del rows[:_IMAGES_PER_PAGE]
    if rows:
        yield rows


def _format_page_name(number: int) -> str:
    return f"gallery-{number:04}.html"
