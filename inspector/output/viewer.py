"""What a viewer of class maps draws: one photo, and the maps of some classes, as one value that becomes JSON.

The app's first page is drawn from it, by JavaScript that depends neither on Streamlit nor on the network. Every picture
that needs no new forward pass follows from these numbers: another of the classes, a contrast of two of them or with the
mean of all, another color map, the raw grid, gray or color, another opacity.

Two numbers of a cell have fixed names (`OutputMeaning.describe_cells`):

- contribution per cell (sums to the logit): ``sum of contributions + bias == logit``
- class score per cell (before pooling): the score that the cell would get if it alone were pooled, without the bias.
  Average pooling takes the mean of the scores, max pooling reads each channel in the cell with its maximum.
"""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import asdict, astuple, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from inspector.explain.class_maps import ClassMaps
from inspector.explain.grid import AxisPlacement, CellExtent, axis_placements, cell_extents, fit_size
from inspector.output.colormaps import COLORMAPS, encode_colors
from inspector.output.overlay import find_gray

MEAN = -1  # stands for the mean of all classes, where a class has its index


@dataclass(frozen=True, eq=False)
class ViewerClass:
    """The maps of one class, or of the mean of all classes."""

    k: int  # index of the class; MEAN for the mean of all classes
    logit: float
    probability: float | None  # None if the network returns other values
    bias: float
    contributions: NDArray[np.float32]  # (h, w): their sum plus the bias is the logit
    scores: NDArray[np.float32] | None  # (h, w), class scores before pooling; None for a head that has none


@dataclass(frozen=True, eq=False)
class ViewerData:
    """One photo with its class maps."""

    photo: str  # URL of the photo, dimmed outside the crop, in color; any size
    photo_name: str
    photo_gray: int  # mean brightness of what the network sees, 0-255: the color bar is drawn on it
    photo_size: tuple[int, int]  # height and width of the photo; crop and extents are in its pixels
    crop: tuple[float, float, float, float]  # left, top, right, bottom of what the network sees
    draw_size: tuple[int, int]  # height and width of the drawing, in pixels
    grid: tuple[int, int]  # rows and columns
    down: AxisPlacement  # where the rows lie on the drawing
    across: AxisPlacement  # where the columns lie on the drawing
    rows: tuple[CellExtent, ...]  # where the cells and their receptive fields lie on the photo
    columns: tuple[CellExtent, ...]
    misplaced: str | None  # why the place of the cells is unknown: the maps are then drawn as bare grids
    names: tuple[str, ...]  # of all classes; each is different
    top: tuple[int, ...]  # indices of the classes with the highest logits
    classes: tuple[ViewerClass, ...]  # the classes whose maps can be drawn, and the mean of all classes
    pooling: str  # "average", "max", ...
    per_class: bool  # each feature map is the class map of one class
    quantity: str  # the word for a value that a map sums to, such as "logit"
    units: str  # the word behind a number, such as "logits"
    difference: str  # the words for what the map of a contrast sums to, such as "difference of logits"
    words: tuple[str, str]  # what a contribution and what a class score is
    contrast_words: str  # what a contribution to a contrast is
    verdict: str
    residual: float  # largest residual over all classes
    finer: int = 1  # cells per cell of the network's own grid, down and across: its own cells sum to the logit

    def to_json(self) -> dict[str, Any]:
        """Return the data in types that JSON can store. Maps are base64 of 32-bit floats, row by row."""
        shared = ("rows", "columns", "down", "across", "classes")
        return {name: value for name, value in vars(self).items() if name not in shared} | {
            "rows": [_round(extent) for extent in self.rows],
            "columns": [_round(extent) for extent in self.columns],
            "down": astuple(self.down),
            "across": astuple(self.across),
            "classes": {str(one.k): _encode_class(one) for one in self.classes},
            "words": {"contributions": self.words[0], "scores": self.words[1]},
            "colormaps": list_colormaps(),
        }


def make_viewer_data(
    maps: ClassMaps,
    names: Sequence[str],
    classes: Iterable[int],
    photo: str,
    side: int,
    top: int = 5,
    scores: bool = True,
) -> ViewerData:
    """Collect what a viewer draws.

    Args:
        maps: class maps of a photo.
        names: names of all classes, each different.
        classes: indices of the classes whose maps are sent, besides the top classes.
        photo: URL of the photo, dimmed outside the crop.
        side: longer side of the drawing, in pixels.
        top: how many classes are listed.
        scores: send class scores, too, if the head has them.
    """
    view, field, meaning = maps.view, maps.shown_field, maps.classifier.meaning
    factor = 1 if maps.finer is None else maps.finer.factor
    height, width = maps.values.shape[1:]
    grid = (factor * height, factor * width)
    if field.misplaced is not None:
        down, across = (AxisPlacement(cells, -0.5, 0, 1) for cells in grid)
    else:
        down, across = axis_placements(view.crop, field)
    rows, columns = cell_extents(grid, view.crop, field)
    best = tuple(k for k, _, _ in maps.top(top))
    left, upper, right, lower = view.crop.box
    return ViewerData(
        photo=photo,
        photo_name=view.photo.name,
        photo_gray=255 if field.misplaced is not None else find_gray(view.photo, view.crop),
        photo_size=view.photo.size,
        crop=(left, upper, right, lower),
        draw_size=fit_size(view.photo.size, side),
        grid=grid,
        down=down,
        across=across,
        rows=rows,
        columns=columns,
        misplaced=field.misplaced,
        names=tuple(names),
        top=best,
        classes=_list_classes(maps, list(dict.fromkeys([*best, *classes])), scores),
        pooling=maps.classifier.head.pooling,
        per_class=maps.classifier.head.per_class,
        quantity=meaning.quantity,
        units=meaning.units,
        difference=meaning.difference,
        words=(meaning.describe_cells(finer=factor > 1), meaning.describe_cells(dense=True)),
        contrast_words=meaning.describe_cells(quantity=meaning.difference),
        verdict=maps.verdict,
        residual=float(maps.residual),
        finer=factor,
    )


def _list_classes(maps: ClassMaps, chosen: list[int], with_scores: bool) -> tuple[ViewerClass, ...]:
    has_scores, every = with_scores and maps.classifier.head.has_position_scores, range(len(maps.logits))
    values = _select(maps.values if maps.finer is None else maps.finer.values, chosen)
    scores = None
    if has_scores:
        scores = _select(maps.position_scores() if maps.finer is None else maps.finer.scores(every), chosen)
    bias, logits = _select(maps.bias, chosen), _select(maps.logits, chosen)
    shares = maps.probabilities.tolist() if maps.classifier.meaning.has_probabilities else None
    return tuple(
        ViewerClass(
            k,
            float(logits[i]),
            None if k == MEAN or shares is None else float(shares[k]),
            float(bias[i]),
            values[i],
            None if scores is None else scores[i],
        )
        for i, k in enumerate([*chosen, MEAN])
    )


def _select(numbers: Any, chosen: list[int]) -> NDArray[np.float32]:
    """Return the rows of the chosen classes, and the mean of all rows as the last row."""
    rows = [numbers[chosen].numpy(force=True), numbers.mean(0, keepdim=True).numpy(force=True)]
    return np.concatenate(rows).astype(np.float32)


def list_colormaps() -> dict[str, dict[str, Any]]:
    """Return the color maps of a viewer in types that JSON can store: their titles, words and encoded colors."""
    return {
        name: asdict(words) | {"lowest": words.lowest, "colors": encode_colors(name)}
        for name, words in COLORMAPS.items()
        if name in VIEWER_COLORMAPS
    }


VIEWER_COLORMAPS = ("inspector", "turbo", "inferno", "PuOr_r")


def encode_values(values: ArrayLike) -> str:
    """Encode a map (h, w) for the browser: 32-bit floats, row by row, in base64."""
    return base64.b64encode(np.asarray(values, "<f4").tobytes()).decode()


def _encode_class(one: ViewerClass) -> dict[str, Any]:
    return {
        "k": one.k,
        "logit": one.logit,
        "probability": one.probability,
        "bias": one.bias,
        "contributions": encode_values(one.contributions),
        "scores": None if one.scores is None else encode_values(one.scores),
    }


def _round(extent: CellExtent) -> list[float]:
    return [round(place, 2) for place in astuple(extent)]
