"""The overlays of a batch run, and pages that show them: plain HTML files beside the pictures, read as one scrolls."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from inspector.datasets.table import read_rows
from inspector.explain.tracing.receptive_field import ReceptiveField
from inspector.images.photo import Pixels
from inspector.images.preprocessing import View
from inspector.output.overlay import common_scale, dimmed_photo, overlay_map, resample_on_photo

_SIDE = 360  # pixels of the longer side of an overlay
_PAGE = 200  # images
_COLUMNS = ("index", "path", "label", "classes", "probabilities", "label_rank", "verdict", "error")
# Should a name ever get past the escaping, the browser still runs nothing.
_POLICY = "default-src 'none'; img-src 'self' file:; style-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: light dark; --line: light-dark(#d4d7de, #3a3f4b); --small: light-dark(#5b6270, #a3a9b6); }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; padding: 1.5rem; max-width: 90rem;
  background: light-dark(#fff, #0e1117); color: light-dark(#1b1e25, #fafafa); overflow-wrap: anywhere; }
h1 { font-size: 1.4rem } nav { margin: .6rem 0 } nav a { margin-right: 1rem }
main { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(13rem, 100%), 1fr)) }
figure { margin: 0 } img { width: 100%; aspect-ratio: 4 / 3; object-fit: contain; background: var(--line) }
figcaption { font-size: .85rem } figcaption span { display: block; color: var(--small) }
.error { border: 1px solid var(--line); padding: .6rem; font-size: .85rem }
"""


def overlay_path(index: int) -> str:
    """Where an image's overlay lies, below the folder of the run."""
    return f"overlays/{index:08}.jpg"


def make_canvas(view: View) -> Pixels:
    """What an overlay is drawn on; of the photo nothing else is needed then."""
    return dimmed_photo(view, _SIDE)


def draw_overlay(
    file: Path, view: View, canvas: Pixels, values: ArrayLike, field: ReceptiveField, opacity: float = 0.85
) -> None:
    """A class map (h, w) over a canvas, on its own scale, as a JPEG."""
    grid = np.asarray(values, np.float32)
    drawn = resample_on_photo(grid, view, field, canvas.shape[:2], smooth=True)
    file.parent.mkdir(exist_ok=True)
    Image.fromarray(overlay_map(canvas, drawn, common_scale([grid]), opacity)).save(file, quality=90)


def write_gallery(out: Path) -> Path:
    """gallery-0001.html and so on, 200 images each, and gallery.html, which leads to them."""
    about = read_rows(out)[1]
    names, images = about["class_names"], about["images"]
    pages = -(-images // _PAGE)
    links = []
    for number, rows in enumerate(_pages(out), 1):
        first, last = rows[0]["index"], rows[-1]["index"]
        links.append(f'<li><a href="{_name(number)}">{first:,} to {last:,}</a>: {escape(rows[0]["path"])} ...</li>')
        around = [("first", 1), ("before", number - 1), ("next", number + 1), ("last", pages)]
        steps = "".join(f'<a href="{_name(n)}">{word}</a>' for word, n in around if 1 <= n <= pages and n != number)
        nav = f'<nav><a href="gallery.html">all pages</a>{steps}</nav>'
        shown = "\n".join(_shown(row, names) for row in rows)
        title = f"Images {first:,} to {last:,} of {images:,}"
        (out / _name(number)).write_text(_html(title, f"{nav}<main>{shown}</main>{nav}"), encoding="utf-8")
    told = (
        f"<p>{images:,} images by {escape(about['network'])}. Over each photo the class map of its likeliest class: "
        "red speaks for it, blue against. Each picture has a scale of its own.</p>"
    )
    index = out / "gallery.html"
    index.write_text(_html(f"Class maps of {about['source']}", f"{told}<ul>{''.join(links)}</ul>"), encoding="utf-8")
    return index


def _pages(out: Path) -> Iterator[list[Mapping[str, Any]]]:
    rows: list[Mapping[str, Any]] = []
    # One shard after the other: a table of a million rows stays on the disk.
    for fragment in read_rows(out)[0].get_fragments():
        rows += fragment.to_table(columns=list(_COLUMNS)).to_pylist()
        while len(rows) >= _PAGE:
            yield rows[:_PAGE]
            del rows[:_PAGE]
    if rows:
        yield rows


def _name(number: int) -> str:
    return f"gallery-{number:04}.html"


def _shown(row: Mapping[str, Any], names: Sequence[str]) -> str:
    path, label = escape(row["path"]), escape(row["label"] or "")
    if row["error"] is not None:
        return f'<div class="error"><b>{path}</b><br>{escape(row["error"])}</div>'
    name = escape(names[row["classes"][0]])
    rank = row["label_rank"]
    lines = [path, f"label: {label}" + (f" (place {rank + 1})" if rank is not None else "") if label else ""]
    lines.append("" if row["verdict"].startswith("exact") else escape(row["verdict"]))
    return (
        f'<figure><img src="{overlay_path(row["index"])}" loading="lazy" alt="class map of {name}">'
        f"<figcaption><b>{name}</b> {row['probabilities'][0]:.1%}"
        f"{''.join(f'<span>{line}</span>' for line in lines if line)}</figcaption></figure>"
    )


def _html(title: str, body: str) -> str:
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>\n'
        f"<body><h1>{escape(title)}</h1>\n{body}\n</body></html>\n"
    )
