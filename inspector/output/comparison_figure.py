"""Draw figures that compare maps side by side: of several networks, photos or attribution methods."""

from collections.abc import Iterator, Mapping, Sequence

from matplotlib.figure import Figure

from inspector.analysis.attribution.case import Attribution
from inspector.analysis.comparable_maps import make_comparable
from inspector.analysis.faithfulness import Faithfulness
from inspector.errors import InspectorError
from inspector.explain.class_maps import ClassMaps
from inspector.output.figure import (
    PANEL,
    add_color_bar,
    add_empty_axes,
    describe_exactness,
    show_image,
)
from inspector.output.figure_file import InlineFigure
from inspector.output.figure_text import shorten_name
from inspector.output.overlay import common_scale, dimmed_photo, draw_map_on_photo, find_scale
from inspector.output.text import format_number

_OPACITY = 0.8


def side_by_side_figure(
    maps: Sequence[ClassMaps],
    classes: str | Sequence[str | int],
    names: Sequence[str],
    own_scales: bool = False,
    smooth: bool = True,
    resample: bool = False,
    against: Sequence[str | int | None] | None = None,
    colormap: str = "inspector",
) -> Figure:
    """Draw class maps over their photos, each with its sum as an equation.

    If all maps are of the same photo, the first panel shows this photo without a map. Maps with different grids share a
    scale per area of the photo, see `make_comparable`.

    Args:
        maps: one ClassMaps per panel.
        classes: one class for all panels, or a list with one class per panel.
        names: title of each panel, such as the name of the network.
        own_scales: give each map its own scale and color bar; otherwise all maps share one scale.
        smooth: interpolate between the cell centers; otherwise draw the raw grid.
        resample: draw all maps on the smallest of their grids, with their sums kept. They have to be of one photo.
        against: for each panel a class that its class is contrasted with, "average", or None. Default: no contrast.
        colormap: one of COLORMAPS.

    Raises:
        InspectorError: `maps` is empty, or a network does not have the class.
    """
    views = [one.view for one in maps]
    if not views:
        raise InspectorError("There are no class maps to draw side by side.")
    chosen = [classes] * len(maps) if isinstance(classes, str) else classes
    indices = [one.classifier.class_index(k) for one, k in zip(maps, chosen, strict=True)]
    others = [None] * len(maps) if against is None else against
    class_maps = [one.class_map(k, other) for one, k, other in zip(maps, indices, others, strict=True)]
    contrast = any(other is not None for other in others)
    drawn = make_comparable(maps, class_maps, resample, not own_scales, contrast)
    scale = common_scale(drawn.values)
    shared = len({view.photo.sha256 for view in views}) == 1
    rows = -(-(len(maps) + shared) // 4)
    columns = -(-(len(maps) + shared) // rows)
    aspect = min(2.0, max(0.6, max(view.photo.size[0] / view.photo.size[1] for view in views)))
    figure = InlineFigure(figsize=(PANEL * columns + 1.1, (PANEL * aspect + 0.8) * rows + 0.4), layout="constrained")
    axes = add_empty_axes(figure, rows, columns)
    if shared:
        show_image(axes[0], dimmed_photo(views[0].photo, views[0].crop), shorten_name(views[0].photo.name), ["", ""])
    one_class = len({class_map.title for class_map in class_maps}) == 1
    panels = zip(axes[shared:], maps, class_maps, drawn.placed, indices, names, strict=False)
    for axis, one, class_map, placed, k, name in panels:
        ends = common_scale([placed.values]) if own_scales else scale
        canvas = dimmed_photo(one.view.photo, one.view.crop, gray=True)
        image = draw_map_on_photo(canvas, placed.crop, placed.values, placed.field, ends, smooth, _OPACITY, colormap)
        what = shorten_name(name) if one_class else f"{shorten_name(name, 14)}: {shorten_name(class_map.title, 16)}"
        show_image(axis, image, f"{what} ({one.outcome(k)})", [class_map.equation(), describe_exactness(one)])
        if own_scales:
            meaning = one.classifier.meaning
            label = meaning.describe_cells(quantity=meaning.difference if contrast else meaning.quantity)
            add_color_bar([axis], ends, colormap, label, font_size=7, shrink=0.8, aspect=25)
    if not own_scales:
        add_color_bar(axes, scale, colormap, drawn.unit, font_size=10, shrink=0.7, aspect=30)
    what = f"{class_maps[0].title}: its class map" if one_class else "class maps"
    by = "each network" if shared else maps[0].classifier.name
    scales = "each on its own scale" if own_scales else "on one scale"
    unknown = [one.classifier.receptive_field.warning for one in maps]
    lines = [f"{what} by {by}, {scales}", *dict.fromkeys(sentence for sentence in unknown if sentence is not None)]
    figure.suptitle("\n".join(lines), fontsize=10, parse_math=False)
    return figure


def methods_figure(
    maps: ClassMaps,
    k: str | int,
    attributions: Sequence[Attribution],
    curves: Mapping[str, Faithfulness] | None = None,
    smooth: bool = True,
) -> Figure:
    """Draw maps of several attribution methods beside the photo, each on its own scale.

    Args:
        maps: class maps of the photo.
        k: name or index of the class that the methods explain.
        attributions: the maps, at least one, in the order of the panels.
        curves: name of a method -> its insertion and deletion curves, whose areas are printed.
        smooth: interpolate between the cell centers; otherwise draw the raw grid.

    Raises:
        InspectorError: `attributions` is empty, or the network does not have the class.
    """
    if not attributions:
        raise InspectorError("There are no maps of methods to draw side by side.")
    view, name = maps.view, maps.classifier.class_names[maps.classifier.class_index(k)]
    rows = -(-(len(attributions) + 1) // 4)
    columns = -(-(len(attributions) + 1) // rows)
    aspect = min(2.0, max(0.6, view.photo.size[0] / view.photo.size[1]))
    figure = InlineFigure(figsize=(PANEL * columns, (PANEL * aspect + 0.9) * rows + 0.4), layout="constrained")
    photo, *panels = add_empty_axes(figure, rows, columns)
    show_image(photo, dimmed_photo(view.photo, view.crop), shorten_name(view.photo.name), ["", "", ""])
    canvas = dimmed_photo(view.photo, view.crop, gray=True)
    for axis, one in zip(panels, attributions, strict=False):
        values = one.values.numpy(force=True)
        scale = find_scale(values, one.grid)
        image = draw_map_on_photo(canvas, view.crop, values, one.field, scale, smooth, _OPACITY)
        lines = list(_describe_attribution(one, scale, (curves or {}).get(one.name)))
        show_image(axis, image, one.name, [*lines, ""][:3])
    what = f"{name} ({maps.outcome(maps.classifier.class_index(k))}) by {maps.classifier.name}"
    count = f"{len(attributions)} attribution methods" if len(attributions) > 1 else "an attribution method"
    figure.suptitle(f"{what}: {count}, each on its own scale", fontsize=10, parse_math=False)
    return figure


def _describe_attribution(one: Attribution, scale: float, curves: Faithfulness | None) -> Iterator[str]:
    yield f"scale \N{PLUS-MINUS SIGN}{scale:.3g} {one.unit}"
    if one.completeness is None:
        yield "makes no claim about its sum"
    else:
        numbers = (format_number(number, ".3f") for number in (one.completeness.sum, one.completeness.target))
        yield "sum {} of {} claimed".format(*numbers)
    if curves is not None:
        yield f"insertion {curves.insertion.area:.3f}, deletion {curves.deletion.area:.3f}"
