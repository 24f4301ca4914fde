"""Make a report on one photo as a single HTML file, which contains its images and opens offline."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from inspector.explain.class_maps import ClassMap, ClassMaps, FigureContent
from inspector.explain.kinds import VERDICTS
from inspector.output.colormaps import COLORMAPS, list_bar_colors
from inspector.output.overlay import (
    common_scale,
    dimmed_photo,
    draw_map_on_photo,
    grid_image,
    make_gray,
    needs_lossless,
)
from inspector.output.picture import encode_url
from inspector.output.standalone import encode_data, list_page_parts, make_standalone_data
from inspector.output.style import DEFAULT_STYLE, FigureStyle
from inspector.output.templates import render_template
from inspector.output.text import format_number

_SIDE = 560  # pixels of the longer side of each image in the report
_FEW_CLASSES = 20  # up to this number of classes, the report shows all classes
_TOP = 10  # with more classes, the table lists so many top classes


@dataclass(frozen=True)
class _Tile:
    """An image with its caption."""

    url: str
    alt: str
    title: str
    line: str


def make_report(
    maps: ClassMaps, shown: FigureContent, style: FigureStyle = DEFAULT_STYLE, manifest: Mapping[str, Any] | None = None
) -> str:
    """Make the report: the viewer, class maps with their sums as equations, logits, verdict and settings.

    The viewer is interactive. Without JavaScript it is absent, and the pictures below it show the same maps.

    Args:
        maps: class maps of a photo.
        shown: which maps to show, and how (contrast, opacity, ...).
        style: colors; the contrast map is added if "contrast" is one of the panels.
        manifest: the settings to append, from `make_manifest`; None: append no settings.

    Returns:
        The HTML page. Names from the user are escaped, so they cannot change the page.
    """
    view = maps.view
    finer = shown.finer > 1
    drawn = [(maps.class_map(k, shown.against, shown.dense, finer), maps.outcome(k)) for k in shown.classes]
    if "contrast" in style.panels:
        drawn.append((maps.contrast_map(shown.classes, shown.dense, finer), ""))
    scale = common_scale([class_map.values for class_map, _ in drawn])
    ((top, top_class, _),) = maps.top(1)
    classes, bar, lowest = len(maps.logits), list_bar_colors(style.colours), COLORMAPS[style.colours].lowest
    return render_template(
        "report.html",
        title=f"{top_class}: {view.photo.name}",
        image_sources="data:",
        color_scheme="dark" if style.dark else "light dark",
        photo=view.photo,
        network=maps.classifier.name,
        top_class=top_class,
        top_outcome=maps.outcome(top),
        meaning=maps.classifier.meaning,
        fed=maps.classifier.preprocessing.describe(),
        notes=(*view.photo.notes, *maps.classifier.notes, *maps.classifier.precision_notes),
        reading=maps.describe_reading(shown.dense, shown.against),
        colors=COLORMAPS[style.colours].describe(),
        verdict=maps.verdict,
        verdict_sentence=VERDICTS[maps.verdict].sentence,
        residual=maps.residual,
        finer=None if maps.finer is None else maps.finer.describe(),
        misplacement=maps.classifier.receptive_field.warning,
        classes=classes,
        tiles=list(_make_tiles(maps, drawn, shown, style, scale)),
        stops=", ".join(f"rgb({r}, {g}, {b})" for r, g, b in bar[:: len(bar) // 6]),
        ticks=[format_number(part * scale, "+.3g") for part in np.linspace(lowest, 1, 3 - 2 * lowest)],
        cells=list(_make_cells(maps, style)) if classes <= _FEW_CLASSES else [],
        rows=list(_make_rows(maps, shown)),
        viewer=encode_data(make_standalone_data(maps, shown, style)),
        **list_page_parts(),
        manifest=None if manifest is None else json.dumps(manifest, indent=2, ensure_ascii=False),
    )


def _make_tiles(
    maps: ClassMaps, drawn: list[tuple[ClassMap, str]], shown: FigureContent, style: FigureStyle, scale: float
) -> Iterator[_Tile]:
    view, field = maps.view, maps.shown_field
    photo = dimmed_photo(view.photo, view.crop, _SIDE)
    canvas = make_gray(photo) if style.gray else photo
    lossless = needs_lossless(view.photo.size)
    yield _Tile(encode_url(photo, lossless), "photo", view.photo.name, "dimmed outside the network's crop")
    for class_map, probability in drawn:
        image = draw_map_on_photo(
            canvas, view.crop, class_map.values, field, scale, shown.smooth, shown.opacity, style.colours
        )
        title = f"{class_map.title} {probability}".strip()
        yield _Tile(encode_url(image, lossless), f"class map of {class_map.title}", title, class_map.equation())


def _make_cells(maps: ClassMaps, style: FigureStyle) -> Iterator[_Tile]:
    scale, top = common_scale([maps.values]), int(maps.logits.argmax())
    for k, name in enumerate(maps.classifier.class_names):
        line = f"{maps.classifier.meaning.quantity} {format_number(float(maps.logits[k]), '.3f')}" + (
            ", top-1" if k == top else ""
        )
        image = grid_image(maps.values[k].numpy(force=True), scale, style.colours)
        yield _Tile(encode_url(image, lossless=True), f"cells of {name}", name, line)


def _make_rows(maps: ClassMaps, shown: FigureContent) -> Iterator[list[str]]:
    """Yield one row of the table, as a list of texts, for each top class and each class shown."""
    classes = len(maps.logits)
    top = [k for k, _, _ in maps.top(classes if classes <= _FEW_CLASSES else _TOP)]
    sums = maps.values.sum((1, 2))
    for k in dict.fromkeys([*top, *shown.classes]):
        residual = abs(float(sums[k] + maps.bias[k] - maps.logits[k]))
        numbers = [format_number(float(tensor[k]), ".4f") for tensor in (sums, maps.bias, maps.logits)]
        yield [str(k), maps.classifier.class_names[k], maps.outcome(k, 2), *numbers, f"{residual:.1e}"]
