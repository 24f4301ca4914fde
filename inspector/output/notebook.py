"""Class maps in notebooks: a picture with its numbers, and the viewer as a widget."""

from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from inspector.analysis.layers import LayerMaps
from inspector.errors import require
from inspector.explain.class_maps import ClassMaps, FigureContent
from inspector.explain.kinds import VERDICTS
from inspector.output.frontend import bundle_javascript, read_frontend
from inspector.output.overlay import common_scale, draw_mosaic
from inspector.output.picture import encode_url, make_png_url
from inspector.output.standalone import make_standalone_data, make_viewer_page
from inspector.output.style import FigureStyle
from inspector.output.templates import render_template
from inspector.output.text import format_number

if TYPE_CHECKING:
    ClassMapsWidget: TypeAlias = Any  # an anywidget.AnyWidget: the library is optional

_TOP = 5  # number of classes in the table
_CHANNELS = 32  # number of channels of a layer that are shown


def render_class_maps(maps: ClassMaps, figure: bytes) -> str:
    """Return a figure of class maps with its numbers as HTML, which needs no script.

    Args:
        maps: class maps of a photo.
        figure: the figure as a PNG.
    """
    sums, classifier = maps.values.sum((1, 2)), maps.classifier
    best = maps.top(_TOP)
    rows = [
        [name, maps.outcome(k, 2), *(format_number(float(one[k]), ".4f") for one in (sums, maps.bias, maps.logits))]
        for k, name, _ in best
    ]
    return render_template(
        "class_maps.html",
        url=make_png_url(figure),
        alt=_describe(maps),
        meaning=classifier.meaning,
        rows=rows,
        verdict=maps.verdict,
        sentence=VERDICTS[maps.verdict].sentence,
        classes=len(maps.logits),
        residual=f"{maps.residual:.1e}",
    )


def _describe(maps: ClassMaps) -> str:
    ((k, name, _),) = maps.top(1)
    return f"Class maps of {maps.view.photo.name} by {maps.classifier.name}: {name} ({maps.outcome(k)})"


def render_layer_maps(layer_maps: LayerMaps) -> str:
    """Return the channels of a layer with the largest values as HTML, on one scale."""
    maps = layer_maps.maps.numpy(force=True)
    chosen = np.argsort(-np.abs(maps).max((1, 2)), kind="stable")[:_CHANNELS]
    scale = common_scale([maps[chosen]])
    count, rows, columns = maps.shape
    tiles = []
    for c in chosen.tolist():
        pixels, (height, width) = draw_mosaic(maps[c : c + 1], scale)
        tiles.append((c, encode_url(pixels[:height, :width], lossless=True)))
    return render_template(
        "layer_maps.html",
        tiles=tiles,
        title=f"{layer_maps.layer.label}: {count} channels of {rows} x {columns} cells, {layer_maps.view.photo.name}",
        colors=f"strongest color at \N{PLUS-MINUS SIGN}{scale:.3g}" if scale else "all values are 0",
    )


def make_widget(maps: ClassMaps, shown: FigureContent, style: FigureStyle) -> "ClassMapsWidget":
    """Return the viewer as a widget, see `ClassMaps.widget`.

    Raises:
        InspectorError: anywidget is not installed, or the input was no photo.
    """
    data = make_standalone_data(maps, shown, style)
    return _make_widget_class()(data=data, state=data["state"], title=_describe(maps))


@cache
def _make_widget_class() -> type:
    """Make the class when a widget is first asked for: its base class is in a library that is optional."""
    anywidget = require("anywidget", extra="notebook", purpose="The widget of class maps")
    traits = require("traitlets", extra="notebook", purpose="The widget of class maps")

    class ClassMapsWidget(anywidget.AnyWidget):  # type: ignore[misc, name-defined]
        """The viewer of class maps. ``state`` says what is shown: class ``k``, contrast, ``cell``, and so on."""

        _esm = bundle_javascript("widget.js")
        _css = read_frontend("viewer.css")
        data = traits.Dict().tag(sync=True)  # from make_standalone_data
        state = traits.Dict().tag(sync=True)
        title = traits.Unicode()

        def _repr_mimebundle_(self, **kwargs: Any) -> Any:
            """Add a page with the viewer, which a notebook without a kernel and its export to HTML show."""
            bundle, metadata = super()._repr_mimebundle_(**kwargs)
            page = make_viewer_page(self.data, self.title)
            html = render_template("viewer_frame.html", page=page, title=self.title)
            return bundle | {"text/html": html, "text/plain": self.title}, metadata

    return ClassMapsWidget
