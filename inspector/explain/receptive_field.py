"""Which pixels the cells of a feature map see. How they are found: tracing/receptive_field.py. Imports no torch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Axis:
    """The receptive fields along one axis, in pixels of the input; the edge of the first pixel is 0."""

    centre: float  # center of the receptive field of cell 0
    stride: float  # distance from one cell to the next
    size: float  # math.inf if every cell sees the whole image


@dataclass(frozen=True)
class ReceptiveField:
    """The receptive fields of all cells of a feature map."""

    y: Axis
    x: Axis
    # Why the cells do not lie there: their place is unknown, and their map belongs on no photo. None: they lie there.
    misplaced: str | None = None
    # Whether all operations before are known not to move cells in another way. It is no part of where cells lie.
    certain: bool = field(default=False, compare=False)

    @property
    def description(self) -> str:
        """One sentence: whether the place of the cells is known."""
        return self.warning or "Every cell responds to its own part of the photo."

    @property
    def warning(self) -> str | None:
        """One sentence that the place of the cells is unknown, and why; None if it is known."""
        if self.misplaced is None:
            return None
        return f"The place of this evidence is unknown: {self.misplaced}. It is drawn on no photo."


PIXELS = ReceptiveField(
    Axis(centre=0.5, stride=1, size=1), Axis(centre=0.5, stride=1, size=1)
)  # the receptive fields of the image's own pixels


def read_field(stored: Mapping[str, Any]) -> ReceptiveField:
    """Return receptive fields from what `describe_field` of output/manifest.py returned."""
    # JSON has no infinity, so an infinite size is stored as null.
    y, x = (
        Axis(axis["centre"], axis["stride"], math.inf if axis["size"] is None else float(axis["size"]))
        for axis in map(stored.__getitem__, ("y", "x"))
    )
    return ReceptiveField(y, x, stored.get("misplaced"))


def make_even_field(size: Sequence[int], grid: Sequence[int]) -> ReceptiveField:
    """Return receptive fields for cells that divide an image (height, width) evenly and each see all of it."""
    y, x = (Axis(pixels / n / 2, pixels / n, math.inf) for pixels, n in zip(size, grid, strict=True))
    return ReceptiveField(y, x)
