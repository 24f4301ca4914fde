"""What the first page shows: the class, its contrast, the chosen cell, the mask, and how the map is drawn.

The browser holds this state and draws every change at once; the server checks what the browser reports, and writes it
into the link. A new photo begins with its top-1 class, unless the class is pinned.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import streamlit as st

from inspector.explain.kinds import PixelChange
from inspector.explain.map_arrays import MapArrays
from inspector.images.examples import CONTRASTS
from inspector.output.viewer import MEAN, VIEWER_COLORMAPS
from inspector.ui.state import keys, links
from inspector.ui.state.selection import AVERAGE, CLASS, LOGIT, View

if TYPE_CHECKING:
    from inspector.explain.class_maps import ClassMaps
    from inspector.ui.state.cache import MapsKey

Cell: TypeAlias = tuple[int, int]  # row, column
Number = Literal["contributions", "scores"]
Boxes = Literal["none", "all", "largest"]
FINER = (1, 2, 4)  # cells per cell of the network's own grid
THRESHOLDS = tuple(n / 20 for n in range(1, 20))  # of boxes: shares of the largest value
_NAMES = {  # for notes on the link
    keys.AGAINST: "class",
    keys.VIEW: "view",
    keys.COLORMAP: "color map",
    keys.FINER: "finer grid",
    keys.THRESHOLD: "threshold of boxes",
}
_CELL = re.compile(r"(\d{1,9}),(\d{1,9})")


@dataclass(frozen=True)
class ViewState:
    """What is shown. The defaults are those of a new photo, with its top-1 class."""

    k: int
    against: int | None = None  # index of the class that k is contrasted with, or MEAN; None: the logit of k
    view: View = "class map"
    number: Number = "contributions"
    colors: str = "inspector"  # one of VIEWER_COLORMAPS
    gray: bool = True  # the photo below the map is gray
    smooth: bool = True  # interpolate between cell centers; False: the raw grid
    opacity: float = 0.85  # of the strongest color, 0-1
    cell: Cell | None = None  # of the grid that is shown, see `factor`
    masked: tuple[Cell, ...] = ()  # of the network's own grid
    change: PixelChange = "blur"  # how masked cells are changed in the photo
    above: int = 50  # threshold of the button that masks cells, in percent of the highest value
    pinned: bool = False  # keep class and contrast for the next photo
    by_logit: bool = False  # sort the maps of all classes by logit
    finer: int = 1  # how many times finer than the network's own grid the class map is
    boxes: Boxes = "none"  # boxes around the evidence: around all connected parts, or the largest
    threshold: float = 0.3  # of boxes: one of THRESHOLDS, a share of the largest value; the library's default
    points: bool = False  # with the boxes: local maxima above the threshold

    @property
    def contrast(self) -> int | str | None:
        """The contrast as ClassMaps.class_map takes it."""
        return "average" if self.against == MEAN else self.against

    @property
    def factor(self) -> int:
        """Cells per cell of the network's own grid. Masks and winning classes are those of its own cells."""
        return self.finer if self.view == "class map" else 1

    def on_grid(self, finer: int) -> "ViewState":
        """Return the same state on another grid, with the chosen cell that lies there."""
        other = replace(self, finer=finer)
        cell = None if self.cell is None else convert_cell(self.cell, self.factor, other.factor)
        return replace(other, cell=cell)

    def to_json(self) -> dict[str, Any]:
        """Return the state as the browser holds it."""
        return asdict(self)


@dataclass(frozen=True)
class SavedState:
    """The state of the last run of the first page."""

    subject: str  # what was shown: photo, network and grid
    labels: tuple[str, ...]  # the class names of its network
    state: ViewState


def name_subject(key: "MapsKey", maps: "ClassMaps | MapArrays") -> str:
    """Return a text that another photo, network or grid changes."""
    return f"{key} {tuple(maps.values.shape)}"


def read_state(maps: MapArrays, subject: str, labels: Sequence[str]) -> ViewState:
    """Return what the first page shows. Values of the link that are unknown are named above the page.

    Args:
        maps: the class maps of the page.
        subject: see `name_subject`.
        labels: names of all classes, each different.
    """
    first = start_state(maps, labels)
    report = (st.session_state.get(keys.VIEWER) or {}).get("state")
    saved: SavedState | None = st.session_state.get(keys.VIEW_STATE)
    if saved is None:
        return fit_state(_read_link(first, labels), maps)
    if isinstance(report, Mapping) and report.get("subject") == saved.subject:
        saved = replace(saved, state=check_report(report, saved.state))
    if saved.subject != subject:
        # The report may have come at the same moment as another photo: what it pins counts for this photo.
        return fit_state(start_photo(saved, first, labels), maps)
    return fit_state(saved.state, maps)


def start_state(maps: MapArrays, labels: Sequence[str]) -> ViewState:
    """Return what a photo begins with: its top-1 class, and the contrast that shows both objects of an example."""
    top = maps.top(1)[0][0]
    objects = CONTRASTS.get(maps.view.photo.name, ())
    others = [labels.index(name) for name in objects if name in labels and name != labels[top]]
    return ViewState(top, others[0] if len(others) == 1 and len(objects) == 2 else None)


def start_photo(saved: SavedState, start: ViewState, labels: Sequence[str]) -> ViewState:
    """Return the state for another photo or network: its start, or the pinned class if the network has it."""
    state, known = saved.state, len(saved.labels)
    first = replace(state, k=start.k, against=start.against, cell=None, masked=())
    if not state.pinned or not 0 <= state.k < known or saved.labels[state.k] not in labels:
        return first
    k, against = labels.index(saved.labels[state.k]), state.against
    if against is not None and against != MEAN:
        name = saved.labels[against] if 0 <= against < known else None
        against = labels.index(name) if name in labels else None
    return replace(first, k=k, against=None if against == k else against)


def check_report(report: Mapping[str, Any], before: ViewState) -> ViewState:
    """Return the state that the browser reports. A value that cannot be one is that of `before`."""

    def take(name: str, is_valid: bool) -> Any:
        return report[name] if is_valid else getattr(before, name)

    get = report.get
    cell, masked, grid = _check_cell(get("cell")), get("masked"), get("grid")
    cells = tuple(found for one in masked if (found := _check_cell(one))) if isinstance(masked, list) else before.masked
    state = ViewState(
        k=take("k", _is_whole(get("k"))),
        against=take("against", "against" in report and (get("against") is None or _is_whole(get("against")))),
        view=take("view", get("view") in get_args(View)),
        number=take("number", get("number") in get_args(Number)),
        colors=take("colors", get("colors") in VIEWER_COLORMAPS),
        gray=take("gray", isinstance(get("gray"), bool)),
        smooth=take("smooth", isinstance(get("smooth"), bool)),
        opacity=take("opacity", _is_number(get("opacity")) and 0 <= report["opacity"] <= 1),
        masked=cells,
        change=take("change", get("change") in get_args(PixelChange)),
        above=take("above", _is_whole(get("above")) and 0 <= report["above"] <= 99),
        by_logit=take("by_logit", isinstance(get("by_logit"), bool)),
        pinned=take("pinned", isinstance(get("pinned"), bool)),
        finer=take("finer", _is_whole(get("finer")) and report["finer"] in FINER),
        boxes=take("boxes", get("boxes") in get_args(Boxes)),
        threshold=take("threshold", _is_number(get("threshold")) and report["threshold"] in THRESHOLDS),
        points=take("points", isinstance(get("points"), bool)),
    )
    # The browser may have chosen the cell on the grid of before, while the finer one was computed.
    shown = grid if _is_whole(grid) and grid in FINER else state.factor
    return state if cell is None else replace(state, cell=convert_cell(cell, shown, state.factor))


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_cell(cell: Any) -> Cell | None:
    if isinstance(cell, list) and len(cell) == 2 and all(_is_whole(part) and part >= 0 for part in cell):
        return cell[0], cell[1]
    return None


def convert_cell(cell: Cell, factor: int, other: int) -> Cell:
    """Return the cell of one grid that lies where a cell of another does, or just above and left of it.

    Args:
        cell: row and column.
        factor: how many times finer its grid is than the network's own.
        other: how many times finer the other grid is.
    """
    return cell[0] * other // factor, cell[1] * other // factor


def fit_state(state: ViewState, maps: MapArrays) -> ViewState:
    """Leave out what these class maps do not have: classes, cells outside the grid, class scores."""
    count, height, width = maps.values.shape

    def is_on_grid(cell: Cell) -> bool:
        return bool(cell[0] < height and cell[1] < width)

    def is_shown(cell: Cell) -> bool:
        return is_on_grid(convert_cell(cell, state.factor, 1))

    against = state.against
    if against is not None and (not MEAN <= against < count or against == state.k):
        against = None
    return replace(
        state,
        k=state.k if 0 <= state.k < count else maps.top(1)[0][0],
        against=against,
        number=state.number if maps.classifier.pooling == "max" and maps.scores is not None else "contributions",
        cell=state.cell if state.cell is not None and is_shown(state.cell) else None,
        masked=tuple(cell for cell in dict.fromkeys(state.masked) if is_on_grid(cell)),
    )


def save_state(state: ViewState, subject: str, labels: Sequence[str], start: ViewState) -> None:
    """Keep the state for the next run, for other pages and in the link. The link leaves out what is as at the start."""
    name = None if state.k == start.k and not state.pinned else labels[state.k]
    against = None if state.against in (None, MEAN, start.against) else labels[state.against]
    reading = {None: LOGIT, MEAN: AVERAGE}.get(state.against, CLASS)
    st.session_state[keys.VIEW_STATE] = SavedState(subject, tuple(labels), state)
    st.session_state[keys.SHOWN_PAGE] = "image"
    first = ViewState(state.k)
    link = {
        keys.CLASS: name,
        keys.READING: None if state.against == start.against else reading,
        keys.AGAINST: against,
        keys.VIEW: None if state.view == first.view else state.view,
        keys.POSITION_SCORES: "true" if state.number == "scores" else None,
        keys.COLORMAP: None if state.colors == first.colors else state.colors,
        keys.GRAY: None if state.gray else "false",
        keys.RAW_GRID: None if state.smooth else "true",
        keys.OPACITY: None if state.opacity == first.opacity else f"{state.opacity:g}",
        keys.CELL: None if state.cell is None else _write_cell(state.cell),
        keys.MASKED: ";".join(map(_write_cell, state.masked)) or None,
        keys.MASK_CHANGE: None if state.change == first.change else state.change,
        keys.MASK_ABOVE: None if state.above == first.above else str(state.above),
        keys.BY_LOGIT: "true" if state.by_logit else None,
        keys.PINNED: "true" if state.pinned else None,
        keys.FINER: None if state.finer == first.finer else str(state.finer),
        keys.BOXES: None if state.boxes == first.boxes else state.boxes,
        keys.THRESHOLD: None if state.threshold == first.threshold else str(state.threshold),
        keys.POINTS: "true" if state.points else None,
    }
    for key, value in link.items():
        links.follow_choice(key, value)
        if value is None:
            if key in st.query_params:
                del st.query_params[key]
        elif st.query_params.get(key) != value:
            st.query_params[key] = value


def _write_cell(cell: Cell) -> str:
    return f"{cell[0]},{cell[1]}"


def _read_link(start: ViewState, labels: Sequence[str]) -> ViewState:
    """Return the state of the link."""

    def choose(key: str, options: Sequence[Any], default: Any) -> Any:
        links.note_unknown(key, options, _NAMES.get(key, key))
        value = st.query_params.get(key)
        return value if value in options else default

    name, reading, other = (
        choose(keys.CLASS, labels, None),
        choose(keys.READING, (LOGIT, AVERAGE, CLASS), None),
        choose(keys.AGAINST, labels, None),
    )
    k = start.k if name is None else labels.index(name)
    against = start.against if reading is None else MEAN if reading == AVERAGE else None
    if reading == CLASS and other is not None:
        against = labels.index(other)
    flags = ("true", "false", "True", "False")
    opacity, above = st.query_params.get(keys.OPACITY, ""), st.query_params.get(keys.MASK_ABOVE, "")
    first = ViewState(k)
    return ViewState(
        k,
        against,
        choose(keys.VIEW, get_args(View), first.view),
        "scores" if choose(keys.POSITION_SCORES, flags, "false").lower() == "true" else "contributions",
        choose(keys.COLORMAP, VIEWER_COLORMAPS, first.colors),
        choose(keys.GRAY, flags, "true").lower() == "true",
        choose(keys.RAW_GRID, flags, "false").lower() == "false",
        min(float(opacity), 1.0) if re.fullmatch(r"\d(\.\d{1,6})?", opacity) else first.opacity,
        read_cell(st.query_params.get(keys.CELL, "")),
        tuple(cell for text in st.query_params.get(keys.MASKED, "").split(";")[:10_000] if (cell := read_cell(text))),
        choose(keys.MASK_CHANGE, get_args(PixelChange), first.change),
        int(above) if re.fullmatch(r"\d{1,2}", above) else first.above,
        choose(keys.PINNED, flags, "false").lower() == "true",
        choose(keys.BY_LOGIT, flags, "false").lower() == "true",
        int(choose(keys.FINER, tuple(map(str, FINER)), first.finer)),
        choose(keys.BOXES, get_args(Boxes), first.boxes),
        float(choose(keys.THRESHOLD, tuple(map(str, THRESHOLDS)), first.threshold)),
        choose(keys.POINTS, flags, "false").lower() == "true",
    )


def read_cell(text: str) -> Cell | None:
    """Read a cell, "row,column", from a link; None if the text is no cell."""
    found = _CELL.fullmatch(text)
    return (int(found[1]), int(found[2])) if found and text.isascii() else None
