"""A report on one photo as a single HTML file: it opens offline, holds its pictures, and asks for nothing."""

import base64
import io
import json
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from PIL import Image

from inspector.errors import InspectorError
from inspector.explain.class_maps import ClassMap, ClassMaps, FigureContent
from inspector.explain.kinds import VERDICTS
from inspector.images.photo import Pixels
from inspector.output.overlay import common_scale, dimmed_photo, draw_map_on_photo, grid_image, needs_lossless
from inspector.output.style import COLORMAPS, DEFAULT_STYLE, FigureStyle

_SIDE = 560  # pixels of the longer side of a picture
_FEW = 20  # classes: as many are all shown
_LIKELIEST = 10

# Should a name ever get past the escaping, the browser still loads and runs nothing.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: COLOUR_SCHEME; --line: light-dark(#d4d7de, #3a3f4b); --small: light-dark(#5b6270, #a3a9b6); }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; padding: 1.5rem; max-width: 75rem;
  background: light-dark(#fff, #0e1117); color: light-dark(#1b1e25, #fafafa); overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .3rem } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem }
p { margin: .4rem 0; max-width: 60rem } .small { color: var(--small); font-size: .9rem }
.verdict { font-weight: 600 }
.tiles { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(15rem, 100%), 1fr)) }
.cells { grid-template-columns: repeat(auto-fill, minmax(7.5rem, 1fr)) }
figure { margin: 0 } img { width: 100%; display: block; border-radius: .2rem } .cells img { image-rendering: pixelated }
figcaption { font-size: .9rem; margin-top: .3rem } figcaption span { display: block; color: var(--small) }
.bar { height: .8rem; border-radius: .2rem } .ticks { display: flex; justify-content: space-between; font-size: .85rem }
.wide { overflow-x: auto } table { border-collapse: collapse; font-size: .95rem; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .8rem; text-align: right; border-bottom: 1px solid var(--line); overflow-wrap: normal }
th:nth-child(2), td:nth-child(2) { text-align: left } pre { white-space: pre-wrap; font-size: .8rem }
"""


def report_html(
    maps: ClassMaps, shown: FigureContent, style: FigureStyle = DEFAULT_STYLE, manifest: Mapping[str, Any] | None = None
) -> str:
    """Photo, class maps with what they add up to, logits, verdict and settings; every name escaped."""
    view = maps.view
    if view is None:
        raise InspectorError("These class maps came from a tensor: there is no photo to report on.")
    names = maps.classifier.class_names
    read = [(k, maps.class_map(k, shown.against, shown.dense)) for k in shown.classes]
    drawn = [(one, f"{maps.probabilities[k]:.1%}") for k, one in read]
    if "contrast" in style.panels:
        drawn.append((maps.contrast_map(shown.classes, shown.dense), ""))
    scale = common_scale([one.values for one, _ in drawn])
    warm, cold = COLORMAPS[style.colours]
    title = f"{names[maps.top(1)[0][0]]}: {view.photo.name}"
    body = [
        f"<h1>{escape(view.photo.name)}</h1>",
        f"<p>{escape(maps.classifier.name)} takes it for <b>{escape(names[maps.top(1)[0][0]])}</b> "
        f"({maps.top(1)[0][2]:.1%}). Each map shows {escape(maps.describe_reading(shown.dense, shown.against))}: {warm} speaks "
        f"for the class, {cold} against it.</p>",
        f'<p><span class="verdict">{escape(maps.verdict)}</span>: {escape(VERDICTS[maps.verdict].sentence)} Largest miss over '
        f"all {len(names)} classes: {maps.residual:.1e} logits.</p>",
        *(f'<p class="small">{escape(note)}</p>' for note in view.photo.notes),
        f'<div class="tiles">{"".join(_tiles(maps, drawn, shown, style, scale))}</div>',
        _bar(scale, style),
    ]
    if len(names) <= _FEW:
        body += [
            "<h2>All class maps before pooling</h2>",
            f'<div class="tiles cells">{"".join(_cells(maps, style))}</div>',
        ]
    body += [
        "<h2>Logits and what they are made of</h2>",
        '<p class="small">A logit is the score that a class gets before softmax or sigmoid. It is the sum of its class '
        "map over all positions, plus a bias.</p>",
        _table(maps, shown),
    ]
    if manifest is not None:
        settings = json.dumps(manifest, indent=2, ensure_ascii=False)
        body += [
            "<h2>Settings</h2>",
            f"<details><summary>The manifest: <code>inspector rebuild manifest.json -o FOLDER</code> makes the same "
            f"figure</summary><pre>{escape(settings)}</pre></details>",
        ]
    scheme = "dark" if style.dark else "light dark"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE.replace('COLOUR_SCHEME', scheme)}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _tiles(
    maps: ClassMaps, drawn: list[tuple[ClassMap, str]], shown: FigureContent, style: FigureStyle, scale: float
) -> Iterator[str]:
    view = maps.view
    assert view is not None
    canvas = dimmed_photo(view.photo, view.crop, _SIDE)
    exact = needs_lossless(view.photo.size)
    yield _tile(canvas, exact, "photo", view.photo.name, "dimmed where the network did not look")
    for one, probability in drawn:
        field = maps.classifier.receptive_field
        image = draw_map_on_photo(
            canvas, view.crop, one.values, field, scale, shown.smooth, shown.opacity, style.colours
        )
        yield _tile(image, exact, f"class map of {one.title}", f"{one.title} {probability}", one.equation())


def _cells(maps: ClassMaps, style: FigureStyle) -> Iterator[str]:
    scale, winner = common_scale([maps.values]), int(maps.logits.argmax())
    for k, name in enumerate(maps.classifier.class_names):
        line = f"logit {maps.logits[k]:.3f}".replace("-", "\N{MINUS SIGN}") + (", winner" if k == winner else "")
        image = grid_image(maps.values[k].numpy(force=True), scale, style.colours)
        yield _tile(image, True, f"cells of {name}", name, line)


def _tile(pixels: Pixels, exact: bool, what: str, title: str, line: str) -> str:
    return (
        f'<figure><img src="{_data_url(pixels, exact)}" alt="{escape(what)}">'
        f"<figcaption><b>{escape(title.strip())}</b><span>{escape(line)}</span></figcaption></figure>"
    )


def _data_url(pixels: Pixels, exact: bool) -> str:
    """A PNG where every pixel counts (cells, tiny photos), else a JPEG, a tenth as large."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG" if exact else "JPEG", quality=90)
    return f"data:image/{'png' if exact else 'jpeg'};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _bar(scale: float, style: FigureStyle) -> str:
    stops = ", ".join(f"rgb({r}, {g}, {b})" for r, g, b in style.palette[::42])
    ticks = "".join(f"<span>{_number(tick * scale, '+.3g') if tick else '0'}</span>" for tick in (-1, -0.5, 0, 0.5, 1))
    return (
        f'<h2>Scale</h2><div class="bar" style="background: linear-gradient(to right, {stops})"></div>'
        f'<div class="ticks">{ticks}</div><p class="small">logits a position, the same for all maps above</p>'
    )


def _table(maps: ClassMaps, shown: FigureContent) -> str:
    count = len(maps.logits)
    likeliest = [k for k, _, _ in maps.top(count if count <= _FEW else _LIKELIEST)]
    sums = maps.values.sum((1, 2))
    rows = []
    for k in dict.fromkeys([*likeliest, *shown.classes]):
        miss = abs(float(sums[k] + maps.bias[k] - maps.logits[k]))
        numbers = [_number(float(tensor[k]), ".4f") for tensor in (sums, maps.bias, maps.logits)]
        cells = [
            str(k),
            escape(maps.classifier.class_names[k]),
            f"{maps.probabilities[k]:.2%}",
            *numbers,
            f"{miss:.1e}",
        ]
        rows.append("".join(f"<td>{cell}</td>" for cell in cells))
    head = "".join(f"<th>{name}</th>" for name in ("", "class", "probability", "map", "+ bias", "= logit", "miss"))
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    rest = "" if len(rows) == count else f'<p class="small">All {count} classes are in logits.csv and maps.npz.</p>'
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>{rest}'


def _number(value: float, how: str) -> str:
    return format(value, how).replace("-", "\N{MINUS SIGN}")
