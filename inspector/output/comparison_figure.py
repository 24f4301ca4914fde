"""Draw a figure that compares class maps side by side: of several networks, or of several photos."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from inspector.errors import InspectorError
from inspector.explain.class_maps import ClassMaps
from inspector.output.figure import (
    PANEL,
    InlineFigure,
    add_color_bar,
    add_empty_axes,
    describe_exactness,
    shorten_name,
    show_image,
)
from inspector.output.overlay import common_scale, dimmed_photo, draw_map_on_photo

_OPACITY = 0.8


def side_by_side_figure(
    maps: Sequence[ClassMaps],
    classes: str | Sequence[str | int],
    names: Sequence[str],
    own_scales: bool = False,
    smooth: bool = True,
) -> Figure:
    """Draw class maps over their photos, each with its sum as an equation.

    If all maps are of the same photo, the first panel shows this photo without a map.

    Args:
        maps: one ClassMaps per panel.
        classes: one class for all panels, or a list with one class per panel.
        names: title of each panel, such as the name of the network.
        own_scales: give each map its own scale and color bar; otherwise all maps share one scale.
        smooth: interpolate between the cell centers; otherwise draw the raw grid.

    Raises:
        InspectorError: `maps` is empty, or a network does not have the class.
    """
    views = [one.view for one in maps]
    if not views:
        raise InspectorError("There are no class maps to draw side by side.")
    chosen = [classes] * len(maps) if isinstance(classes, str) else classes
    indices = [one.classifier.class_index(k) for one, k in zip(maps, chosen, strict=True)]
    class_maps = [one.class_map(k) for one, k in zip(maps, indices, strict=True)]
    scale = common_scale([class_map.values for class_map in class_maps])
    shared = len({view.photo.sha256 for view in views}) == 1
    rows = -(-(len(maps) + shared) // 4)
    columns = -(-(len(maps) + shared) // rows)
    aspect = min(2.0, max(0.6, max(view.photo.size[0] / view.photo.size[1] for view in views)))
    figure = InlineFigure(figsize=(PANEL * columns + 1.1, (PANEL * aspect + 0.8) * rows + 0.4), layout="constrained")
    axes = add_empty_axes(figure, rows, columns)
    if shared:
        show_image(axes[0], dimmed_photo(views[0].photo, views[0].crop), shorten_name(views[0].photo.name), ["", ""])
    one_class = len({class_map.title for class_map in class_maps}) == 1
    panels = zip(axes[shared:], maps, views, class_maps, indices, names, strict=False)
    for axis, one, view, class_map, k, name in panels:
        field, ends = one.classifier.receptive_field, common_scale([class_map.values]) if own_scales else scale
        canvas = dimmed_photo(view.photo, view.crop)
        image = draw_map_on_photo(canvas, view.crop, class_map.values, field, ends, smooth, _OPACITY)
        what = shorten_name(name) if one_class else f"{shorten_name(name, 14)}: {shorten_name(class_map.title, 16)}"
        show_image(axis, image, f"{what} ({one.outcome(k)})", [class_map.equation(), describe_exactness(one)])
        if own_scales:
            units = one.classifier.meaning.units
            add_color_bar([axis], ends, units=units, font_size=7, shrink=0.8, aspect=25)
    if not own_scales:
        units = " or ".join(dict.fromkeys(one.classifier.meaning.units for one in maps))
        add_color_bar(axes, scale, units=units, font_size=10, shrink=0.7, aspect=30)
    what = f"{class_maps[0].title}: its class map" if one_class else "class maps"
    by = "each network" if shared else maps[0].classifier.name
    scales = "each on its own scale" if own_scales else "on one scale"
    unknown = [one.classifier.receptive_field.warning for one in maps]
    lines = [f"{what} by {by}, {scales}", *dict.fromkeys(sentence for sentence in unknown if sentence is not None)]
    figure.suptitle("\n".join(lines), fontsize=10, parse_math=False)
    return figure
