"""The pictures of the first page as they are saved, with the lines of Python that make them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from inspector.analysis.positions import find_winners
from inspector.explain.grid import resample_on_photo
from inspector.explain.map_arrays import MapArrays
from inspector.explain.receptive_field import make_even_field
from inspector.explain.shown_map import FigureContent
from inspector.images.decode import Pixels
from inspector.images.preprocessing import Crop
from inspector.output.colormaps import COLORMAPS
from inspector.output.overlay import dimmed_photo, draw_bar, draw_map_on_photo, find_gray, grid_image, paint_classes
from inspector.output.picture import ColorBar, Picture
from inspector.output.style import FigureStyle
from inspector.output.text import format_number
from inspector.output.viewer import WINNER_COLORS
from inspector.ui.components.save import PictureToSave, write_class, write_maps_lines
from inspector.ui.components.saved_figures import make_figure_to_save
from inspector.ui.pages.class_maps_boxes import draw_shown_boxes, write_boxes
from inspector.ui.pages.class_maps_grid import ShownMaps
from inspector.ui.state import cache
from inspector.ui.state.top_bar import PageSelection
from inspector.ui.state.view_state import ViewState

if TYPE_CHECKING:
    from inspector.explain.class_maps import ClassMaps

_SIDE = 1200  # longer side of a saved picture, in pixels: about twice that on the screen


def list_pictures(
    chosen: PageSelection, shown: ShownMaps, state: ViewState, scale: float, listed: Sequence[int]
) -> list[PictureToSave]:
    """Return the pictures that the first page shows, to be saved.

    Args:
        chosen: what the page shows.
        shown: the class maps on the grid that is drawn.
        state: what is shown.
        scale: the |value| with the strongest color.
        listed: indices of the classes of the figure.
    """
    dense = state.number == "scores"
    content = FigureContent(tuple(listed), state.contrast, dense, state.smooth, state.opacity, state.factor)
    style = FigureStyle(colours=state.colors, gray=state.gray)
    figure = make_figure_to_save("figure of the top classes", chosen, content, style)
    return [*_list_own_pictures(chosen, shown, state, scale), figure]


def _list_own_pictures(chosen: PageSelection, shown: ShownMaps, state: ViewState, scale: float) -> list[PictureToSave]:
    maps = chosen.arrays
    lines, boxes = write_maps_lines(chosen.key, maps, state.factor), write_boxes(shown, state)
    photo = PictureToSave(
        f"photo {maps.view.photo.name}",
        lambda: draw_photo(shown, state),
        "\n".join([*lines, "pixels = maps.view.photo.pixels  # (H, W, 3), RGB", *boxes, *_write_saving("photo")]),
    )
    if state.view == "winning class":
        return [
            PictureToSave("top class per cell", lambda: draw_winners(maps, state), _write_winners(lines)),
            photo,
        ]
    title = maps.class_map(state.k, state.contrast).title
    code = "\n".join([*lines, *_write_map(maps, state, scale), *boxes, *_write_saving("class-map")])
    pictures = [PictureToSave(f"class map {title}", lambda: draw_map(shown, state, scale), code), photo]
    if state.view == "what if" and state.masked:
        pictures.append(
            PictureToSave(
                "photo with masked cells",
                lambda: _draw_masked(chosen.maps, chosen.key, state),
                "\n".join(
                    [
                        "from inspector.analysis.masking import make_mask, mask_in_photo",
                        *lines,
                        f"outcome = mask_in_photo(maps, make_mask(maps, {list(state.masked)!r}), {state.change!r})",
                        "pixels = outcome.pixels  # what the network saw",
                        *_write_saving("masked"),
                    ]
                ),
            )
        )
    return pictures


def _draw_masked(maps: "ClassMaps", key: cache.MapsKey, state: ViewState) -> Picture:
    """Return the photo with the masked cells changed, as the network saw it."""
    outcome = cache.mask_photo(key, tuple(sorted(state.masked)), state.change, maps)
    assert outcome.pixels is not None, "the network ran on them"
    pixels = outcome.pixels if outcome.pixels.ndim == 3 else np.repeat(outcome.pixels[..., None], 3, 2)
    return Picture(pixels, f"{cache.get_view(maps).photo.name} without {len(state.masked)} cells")


def draw_photo(shown: ShownMaps, state: ViewState) -> Picture:
    """Draw the photo as the page shows it, with its boxes."""
    view = shown.arrays.view
    pixels, lines = draw_shown_boxes(dimmed_photo(view.photo, view.crop, _SIDE), shown, state)
    return Picture(pixels, view.photo.name, lines)


def draw_map(shown: ShownMaps, state: ViewState, scale: float) -> Picture:
    """Draw the class map as the page shows it, with its boxes, sum and color bar."""
    view, field, meaning = shown.arrays.view, shown.field, shown.arrays.classifier.meaning
    class_map = shown.class_map(state.k, state.contrast, state.number == "scores")
    canvas = dimmed_photo(view.photo, view.crop, _SIDE, state.gray)
    pixels = draw_map_on_photo(
        canvas, view.crop, class_map.values, field, scale, state.smooth, state.opacity, state.colors
    )
    quantity = meaning.quantity if state.against is None else meaning.difference
    words = meaning.describe_cells(state.number == "scores", quantity, shown.finer is not None)
    pixels, boxes = draw_shown_boxes(pixels, shown, state)
    lowest = COLORMAPS[state.colors].lowest
    bar = draw_bar(state.colors, state.opacity, find_gray(view.photo, view.crop))
    if field.misplaced is not None:  # the bare grid is opaque
        bar = np.repeat(grid_image(np.linspace(lowest, 1, 512, dtype=np.float32)[None], 1.0, state.colors), 24, 0)
    ticks = [(0.0, format_number(lowest * scale)), (1.0, format_number(scale, "+.3g"))]
    if lowest:
        ticks.insert(1, (0.5, "0"))
    label = words if lowest else f"{words}; {COLORMAPS[state.colors].title}"
    return Picture(pixels, class_map.title, (class_map.equation(), *boxes), ColorBar(bar, tuple(ticks), label))


def draw_winners(maps: MapArrays, state: ViewState) -> Picture:
    """Draw the photo with each cell in the color of the class with the highest value there.

    Where the place of the cells is unknown, the bare grid is drawn.
    """
    winners, view = find_winners(maps), maps.view
    names, last = maps.classifier.class_names, len(WINNER_COLORS) - 1
    listed = ", ".join(f"{names[k]} ({int((winners.grid == k).sum())} cells)" for k in winners.classes[:last])
    canvas, grid = dimmed_photo(view.photo, view.crop, _SIDE, state.gray), winners.grid
    crop, field = view.crop, maps.classifier.receptive_field
    if field.misplaced is not None:
        canvas, field = np.full_like(canvas, 255), make_even_field(crop.input_size, grid.shape)
        crop = Crop(view.photo.size, (0, 0, view.photo.size[1], view.photo.size[0]), crop.input_size)
    color_of = {k: min(i, last) for i, k in enumerate(winners.classes)}
    # The numbers of the colors start at 1, because resampling writes 0 outside the part that the network saw.
    numbers = [[1 + color_of.get(int(k), -1) for k in row] for row in grid]
    drawn = resample_on_photo(numbers, crop, field, (canvas.shape[0], canvas.shape[1]), smooth=False)
    colors = [[int(color[i : i + 2], 16) for i in (1, 3, 5)] for color in WINNER_COLORS]
    # Every cell is painted, so the color is less opaque than in a class map: the photo has to stay visible.
    pixels: Pixels = paint_classes(canvas, drawn.round().astype(int) - 1, colors, 0.6 * state.opacity)
    return Picture(pixels, "Top class per cell", (listed,))


def _write_map(maps: MapArrays, state: ViewState, scale: float) -> list[str]:
    k, against = (write_class(maps, k) for k in (state.k, state.contrast))
    other = "" if state.contrast is None else f", against={against}"
    if state.number == "scores":
        return [
            f"scores = maps.class_map({k}{other}, dense=True).values  # class score per cell, (h, w)",
            f"figure = maps.figure([{k}]{other}, dense=True, smooth={state.smooth}, opacity={state.opacity:g})",
            'figure.savefig("class-map-figure.png")',
            f"pixels = maps.overlay({k}{other})  # the contributions",
        ]
    return [
        f"class_map = maps.class_map({k}{other})",
        "print(class_map.equation())",
        f"pixels = maps.overlay({k}{other}, cmap={state.colors!r}, smooth={state.smooth}, opacity={state.opacity:g}, "
        f"scale={scale:.6g}, gray={state.gray})",
    ]


def _write_winners(lines: list[str]) -> str:
    return "\n".join(
        [
            "from inspector.analysis.positions import find_winners",
            *lines,
            "winners = find_winners(maps)",
            "print(winners.grid)  # index of the class with the highest value in each cell",
        ]
    )


def _write_saving(name: str) -> list[str]:
    return ["", "from PIL import Image", "", f'Image.fromarray(pixels).save("{name}.png")']
