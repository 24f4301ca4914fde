"""Pictures of the page Dataset as they are saved, and the lines of Python that make them."""

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import ArrayLike

from inspector.datasets.results import Results, StoredImage
from inspector.datasets.stored_maps import make_crop, read_receptive_field
from inspector.output.overlay import common_scale, dimmed_photo, draw_map_on_photo
from inspector.output.picture import Picture
from inspector.ui.components.save import PictureToSave
from inspector.ui.components.saved_maps import make_grid_to_save
from inspector.ui.components.stored_maps import find_photo
from inspector.ui.state import folders

_SIDE = 1280  # longer side of a saved picture, in pixels


def make_stored_map_to_save(
    results: Results, stored: StoredImage, k: int, name: str, place: tuple[str, int, int], on_photo: bool
) -> PictureToSave:
    """Return a stored class map, to be saved.

    Args:
        results: the opened results.
        stored: the image.
        k: index of the class.
        name: name of the picture.
        place: file, row group and row of the image in the results.
        on_photo: whether the page draws the map over its photo, and not as a raw grid.
    """
    values = stored.maps[k]
    scale = common_scale([values])
    code = [*_open_results(results), f"stored = read_stored_image(results, *{place!r})", f"values = stored.maps[{k}]"]
    if not on_photo:
        return make_grid_to_save(name, values, scale, results.meaning.describe_cells(), code, [stored.path])

    def draw() -> Picture:
        photo, reason = find_photo(results, stored)
        if photo is None:  # its file was changed since the page was drawn
            return make_grid_to_save(name, values, scale, reason, code).draw()  # type: ignore[return-value]
        crop, field = make_crop(photo.size, stored.box, results), read_receptive_field(results)
        canvas = dimmed_photo(photo, crop, _SIDE, gray=True)
        pixels = draw_map_on_photo(canvas, crop, values, field, scale)
        return Picture(pixels, name, (photo.name, f"strongest color at {scale:.3g}"))

    lines = [
        "from inspector.datasets.stored_maps import make_crop, read_receptive_field",
        "from inspector.images.photo import read_image",
        "from inspector.output.overlay import dimmed_photo, draw_map_on_photo",
        *code,
        f"photo = read_image({stored.path!r})",
        "crop, field = make_crop(photo.size, stored.box, results), read_receptive_field(results)",
        f"canvas = dimmed_photo(photo, crop, {_SIDE}, gray=True)",
        f"pixels = draw_map_on_photo(canvas, crop, values, field, {scale!r})",
    ]
    return PictureToSave(name, draw, "\n".join(lines))


def make_average_to_save(
    results: Results, name: str, values: ArrayLike, scale: float, meaning: str, code: str
) -> PictureToSave:
    """Return an average map of the summary of results, to be saved.

    Args:
        results: the opened results.
        name: name of the picture.
        values: the map (h, w).
        scale: the |value| with the strongest color.
        meaning: what the value of a cell is.
        code: the expression of Python that is the map, given `summary`.
    """
    lines = [
        "from inspector.datasets.summarize import open_summary",
        *_open_results(results),
        'summary = open_summary(results, results.folder / "survey")',
        f"values = {code}",
    ]
    return make_grid_to_save(name, values, scale, meaning, lines)


def _open_results(results: Results) -> Sequence[str]:
    return [
        "from pathlib import Path",
        "",
        "from inspector.datasets.results import read_results, read_stored_image",
        f"results = read_results(Path({folders.name_folder(results.folder)!r}))",
    ]


def find_place(row: Mapping[str, Any]) -> tuple[str, int, int]:
    """Return where an image of the index lies in the results: file, row group and row."""
    return row["part"], row["row_group"], row["row"]
