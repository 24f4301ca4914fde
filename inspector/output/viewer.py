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
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, astuple, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from inspector.explain.grid import AxisPlacement, CellExtent, axis_placements, cell_extents, fit_size
from inspector.explain.kinds import VERDICTS
from inspector.explain.map_arrays import FinerArrays, Floats, MapArrays
from inspector.output.colormaps import COLORMAPS, encode_colors
from inspector.output.overlay import find_gray
from inspector.output.style import GRAY, OKABE_ITO

MEAN = -1  # stands for the mean of all classes, where a class has its index
VIEWER_COLORMAPS = ("inspector", "turbo", "inferno", "PuOr_r")
WINNER_COLORS = (*OKABE_ITO, GRAY)  # of the winning classes per cell; all classes after the first seven are gray
_BETWEEN = ", between the network's own cells"  # note on a cell


@dataclass(frozen=True, eq=False)
class ViewerClass:
    """The maps of one class, or of the mean of all classes."""

    k: int  # index of the class; MEAN for the mean of all classes
    logit: float
    probability: float | None  # None if the network returns other values
    bias: float
    contributions: NDArray[np.float32]  # (h, w): the sum of the network's own cells plus the bias is the logit
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
    factor: int  # cells per cell of the network's own grid, down and across
    finer: dict[str, Any] | None  # of a finer grid: description, verdict, residual, and mean logits by class
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
    verdict_sentence: str
    verdict_color: str  # "green", "orange" or "red"
    residual: float  # largest residual over all classes
    notes: tuple[str, ...]  # on cells: of how many channels they have the maximum, and which ones lie between others
    note_of: tuple[int, ...]  # index of each cell's note, row by row; empty if there are no notes

    def to_json(self) -> dict[str, Any]:
        """Return the data in types that JSON can store. Maps are base64 of 32-bit floats, row by row.

        A logit, a probability or a residual that is not finite is None.
        """
        shared = ("rows", "columns", "down", "across", "classes", "residual")
        return {name: value for name, value in vars(self).items() if name not in shared} | {
            "rows": [_round(extent) for extent in self.rows],
            "columns": [_round(extent) for extent in self.columns],
            "down": astuple(self.down),
            "across": astuple(self.across),
            "classes": {str(one.k): _encode_class(one) for one in self.classes},
            "residual": _finite(self.residual),
            "words": {"contributions": self.words[0], "scores": self.words[1]},
            "colormaps": list_colormaps(),
            "winner_colors": WINNER_COLORS,
        }


def make_viewer_data(
    maps: MapArrays,
    names: Sequence[str],
    classes: Iterable[int],
    photo: str,
    side: int,
    top: int = 5,
    finer: FinerArrays | None = None,
) -> ViewerData:
    """Collect what a viewer draws.

    Args:
        maps: class maps of a photo, with their class scores if these are sent, too.
        names: names of all classes, each different.
        classes: indices of the classes whose maps are sent, besides the top classes.
        photo: URL of the photo, dimmed outside the crop.
        side: longer side of the drawing, in pixels.
        top: how many classes are listed.
        finer: the maps of these classes on a finer grid, drawn in place of the network's own.
    """
    view, network = maps.view, maps.classifier
    field, meaning = network.receptive_field if finer is None else finer.field, network.meaning
    values = maps.values if finer is None else finer.values
    grid = (int(values.shape[1]), int(values.shape[2]))
    if field.misplaced is not None:
        down, across = (AxisPlacement(cells, -0.5, 0, 1) for cells in grid)
    else:
        down, across = axis_placements(view.crop, field)
    rows, columns = cell_extents(grid, view.crop, field)
    factor = 1 if finer is None else finer.factor
    notes, note_of = _list_notes(maps, factor)
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
        factor=factor,
        finer=None if finer is None else _describe_finer(finer),
        down=down,
        across=across,
        rows=rows,
        columns=columns,
        misplaced=field.misplaced,
        names=tuple(names),
        top=best,
        classes=_list_classes(maps, list_sent(best, classes), finer),
        pooling=network.pooling,
        per_class=network.per_class,
        quantity=meaning.quantity,
        units=meaning.units,
        difference=meaning.difference,
        words=(meaning.describe_cells(finer=finer is not None), meaning.describe_cells(dense=True)),
        contrast_words=meaning.describe_cells(quantity=meaning.difference, finer=finer is not None),
        verdict=maps.verdict,
        verdict_sentence=_describe_verdict(maps),
        verdict_color=VERDICTS[maps.verdict].color,
        residual=float(maps.residual),
        notes=notes,
        note_of=note_of,
    )


def list_sent(best: Iterable[int], classes: Iterable[int]) -> list[int]:
    """Return the indices of the classes whose maps are sent: the top classes and others, each once."""
    return list(dict.fromkeys([*best, *classes]))


def _describe_verdict(maps: MapArrays) -> str:
    backend = "" if maps.backend == "eager" else f" The forward pass ran through {maps.backend}."
    return f"{VERDICTS[maps.verdict].sentence} {maps.classifier.meaning.sentence(len(maps.values))}{backend}"


def _list_notes(maps: MapArrays, factor: int) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return the notes on cells, and the index of each cell's note, on a grid that is `factor` times finer."""
    own = [] if maps.maxima is None else maps.maxima.flatten().tolist()
    counts = range(max(own, default=-1) + 1)
    notes = [f", maximum of {count} channel{'' if count == 1 else 's'}" for count in counts]
    if factor == 1:
        return tuple(notes), tuple(own)
    _, rows, columns = maps.values.shape
    note_of = [
        (own[y // factor * columns + x // factor] if own else 0) if y % factor == x % factor == 0 else -1
        for y in range(factor * rows)
        for x in range(factor * columns)
    ]
    notes = [*(notes or [", the network's own"]), _BETWEEN]
    return tuple(notes), tuple(len(notes) - 1 if i < 0 else i for i in note_of)


def _describe_finer(finer: FinerArrays) -> dict[str, Any]:
    means = dict(zip(map(str, (*finer.classes, MEAN)), map(_finite, finer.mean_logits.tolist()), strict=True))
    return {
        "description": finer.description,
        "verdict": finer.verdict,
        "residual": _finite(finer.residual),
        "mean_logits": means,
    }


def _list_classes(maps: MapArrays, chosen: list[int], finer: FinerArrays | None) -> tuple[ViewerClass, ...]:
    if finer is None:
        values = _select(maps.values, chosen)
        scores = None if maps.scores is None else _select(maps.scores, chosen)
    else:
        values, scores = finer.values, finer.scores
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


def _select(numbers: Floats, chosen: list[int]) -> NDArray[np.float32]:
    """Return the rows of the chosen classes, and the mean of all rows as the last row."""
    return np.concatenate([numbers[chosen], numbers.mean(0, keepdims=True)]).astype(np.float32)


def list_colormaps(others: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """Return the color maps of a viewer in types that JSON can store: their titles, words and encoded colors."""
    return {
        name: asdict(words) | {"lowest": words.lowest, "colors": encode_colors(name)}
        for name, words in COLORMAPS.items()
        if name in (*VIEWER_COLORMAPS, *others)
    }


def encode_values(values: ArrayLike) -> str:
    """Encode a map (h, w) for the browser: 32-bit floats, row by row, in base64."""
    return base64.b64encode(np.asarray(values, "<f4").tobytes()).decode()


def _encode_class(one: ViewerClass) -> dict[str, Any]:
    return {
        "k": one.k,
        "logit": _finite(one.logit),
        "probability": one.probability and _finite(one.probability),
        "bias": one.bias,
        "contributions": encode_values(one.contributions),
        "scores": None if one.scores is None else encode_values(one.scores),
    }


def _round(extent: CellExtent) -> list[float]:
    return [round(place, 2) for place in astuple(extent)]


def _finite(value: float) -> float | None:
    """Return a number for JSON, which has no NaN and no infinity: None stands for these."""
    return value if math.isfinite(value) else None
