"""Figures of class maps as they are saved, and the lines of Python that make them."""

from dataclasses import fields
from typing import TYPE_CHECKING

from inspector.explain.shown_map import FigureContent
from inspector.output.style import FigureStyle
from inspector.ui.components.save import PictureToSave, write_class, write_maps_lines
from inspector.ui.state.cache import MapsKey

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from inspector.explain.class_maps import ClassMaps
    from inspector.explain.map_arrays import MapArrays
    from inspector.ui.state.top_bar import PageSelection


def make_figure_to_save(
    name: str, chosen: "PageSelection", content: FigureContent, style: FigureStyle
) -> PictureToSave:
    """Return a figure of class maps, to be saved."""

    def draw() -> "Figure":
        # Imported here, because matplotlib takes a second to import.
        from inspector.output.figure import class_map_figure

        return class_map_figure(chosen.find_maps(content), content, style)

    return PictureToSave(name, draw, write_figure(chosen.key, chosen.arrays, content, style))


def write_figure(key: MapsKey, maps: "ClassMaps | MapArrays", content: FigureContent, style: FigureStyle) -> str:
    """Return the lines of Python that draw a figure of class maps, and write it with its numbers.

    Args:
        key: key of the class maps in the caches.
        maps: the class maps.
        content: which maps the figure shows.
        style: how it looks. The lines name only what differs from the default style.
    """
    classes = ", ".join(write_class(maps, k) for k in content.classes)
    settings = [f"[{classes}]"]
    if content.against is not None:
        settings.append(f"against={write_class(maps, content.against)}")
    if content.dense:
        settings.append("dense=True")
    if not content.smooth:
        settings.append("smooth=False")
    settings += [f"opacity={content.opacity:g}", "style=style"]
    shown = ", ".join(settings)
    changed = [field for field in fields(style) if getattr(style, field.name) != field.default]
    written = ", ".join(f"{field.name}={getattr(style, field.name)!r}" for field in changed)
    first, *others = write_maps_lines(key, maps, content.finer)
    return "\n".join(
        [
            first,
            "from inspector.output.style import FigureStyle",
            *others,
            f"style = FigureStyle({written})",
            f"figure = maps.figure({shown})",
            f'figure.savefig("figure.png", dpi={style.dpi})',
            f'# With all numbers and a report: maps.save("class-maps", {shown})',
        ]
    )
