"""Maps over photos as they are saved: as a picture, and as the lines of Python that make it."""

from collections.abc import Sequence

from torch import Tensor

from inspector.explain.tracing.receptive_field import ReceptiveField
from inspector.images.preprocessing import View
from inspector.output.overlay import dimmed_photo, draw_map_on_photo
from inspector.output.picture import Picture
from inspector.ui.components.save import PictureToSave

_SIDE = 1280  # longer side of a saved picture, in pixels: twice that of the largest map on the screen


def make_map_to_save(
    name: str,
    values: Tensor,
    view: View,
    field: ReceptiveField,
    scale: float,
    meaning: str,
    python: Sequence[str],
    smooth: bool = True,
) -> PictureToSave:
    """Return a map over its photo, to be saved.

    Args:
        name: name of the picture.
        values: the map (h, w).
        view: the photo, and the part that the network sees.
        field: receptive field of the cells.
        scale: the |value| with the strongest color.
        meaning: small print below the name, such as what the colors mean.
        python: lines that compute `maps`, the class maps of the photo, `values` and their receptive `field`.
        smooth: interpolate between the cells.
    """

    def draw() -> Picture:
        canvas = dimmed_photo(view.photo, view.crop, _SIDE, gray=True)
        pixels = draw_map_on_photo(canvas, view.crop, values.numpy(force=True), field, scale, smooth)
        return Picture(pixels, name, (view.photo.name, meaning))

    lines = [
        "from inspector.output.overlay import dimmed_photo, draw_map_on_photo",
        *python,
        f"canvas = dimmed_photo(maps.view.photo, maps.view.crop, {_SIDE}, gray=True)",
        f"pixels = draw_map_on_photo(canvas, maps.view.crop, values, field, {scale!r}, smooth={smooth})",
    ]
    return PictureToSave(name, draw, "\n".join(lines))
