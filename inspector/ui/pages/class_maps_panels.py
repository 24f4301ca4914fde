"""The panels below the photo of the page Class maps: the chosen cell in numbers, and logits without masked cells."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import streamlit as st

from inspector.analysis.masking import MaskedOutcome, PixelChange, find_cells_above, make_mask, mask_at_head
from inspector.analysis.positions import CellContributions, Decisions, inspect_cell
from inspector.explain.class_maps import ClassMap, ClassMaps
from inspector.explain.grid import CellExtent
from inspector.output.text import format_number
from inspector.ui.components import html
from inspector.ui.components.controls import choose_segment, show_errors, show_table
from inspector.ui.components.markdown import plain
from inspector.ui.state import cache, keys
from inspector.ui.state.selection import MapSelection

CHANNELS = 5  # number of channels listed for a cell
Cell: TypeAlias = tuple[int, int]  # row, column
_CHANGED: dict[PixelChange, str] = {"blur": "blurred", "grey": "gray"}
_FROM_CELL = "from this cell"
_CHANNEL_WIDTH, _VALUE_WIDTH = 62, 84  # widths of columns, in CSS pixels; "margin" gets the rest


@dataclass(frozen=True, eq=False)
class ShownMaps:
    """What the page shows. It is computed once; a click on the photo does not compute it again."""

    maps: ClassMaps
    key: cache.MapsKey
    selection: MapSelection
    listed: tuple[int, ...]  # the top classes and the chosen class
    class_maps: Mapping[int, ClassMap]  # class -> map, for the listed classes
    rows: tuple[CellExtent, ...]  # where the cells lie on the photo
    columns: tuple[CellExtent, ...]
    decisions: Decisions | None  # which cell has the maximum of each channel; None unless all pooling is max pooling


def show_cell(shown: ShownMaps, cell: Cell) -> None:
    """Show what the chosen cell sees, what it adds to the listed classes, and through which channels."""
    maps, (row, column) = shown.maps, cell
    # If the weights of the head depend on the image, this runs the network.
    with st.spinner("Reading the channels of this cell ..."):
        inspected = inspect_cell(maps, row, column, shown.selection.k, shown.listed, CHANNELS)
    y, x = shown.rows[row], shown.columns[column]
    if maps.classifier.receptive_field.misplaced is not None:
        st.markdown(f"**Cell ({row}, {column})** lies somewhere in the photo: its place is unknown.")
    else:
        _show_extent(cell, y, x)
    if shown.decisions is not None and not _show_votes(shown, shown.decisions, inspected):
        return
    left, right = st.columns(2, gap="small")
    with left:
        _show_classes(maps, inspected)
    with right:
        if shown.decisions is None:
            _show_channels(shown, inspected)
        else:
            _show_deciding_channels(shown, shown.decisions, inspected)


def _show_extent(cell: Cell, y: CellExtent, x: CellExtent) -> None:
    """Show which pixels of the photo the cell sees."""
    row, column = cell
    st.markdown(
        f"**Cell ({row}, {column})** sees the pixels x {x.first:.0f} to {x.last:.0f}, y {y.first:.0f} to "
        f"{y.last:.0f} of the photo (dashed frame). Their center is ({x.center:.0f}, {y.center:.0f}).",
        help="Row and column count from 0, as in `maps.values[:, row, column]`. The dashed frame is the receptive "
        "field, cut off at the border of the network's input: no pixel outside it can change this cell. The solid "
        "frame is the cell: the pixels that are nearer to its center than to that of any other cell.",
    )


def _escape_name(shown: ShownMaps) -> str:
    return plain(shown.maps.classifier.class_names[shown.selection.k])


def _show_classes(maps: ClassMaps, inspected: CellContributions) -> None:
    columns = {
        "class": [maps.classifier.class_names[j] for j, _ in inspected.parts],
        _FROM_CELL: [value for _, value in inspected.parts],
        "logit": [float(maps.logits[j]) for j, _ in inspected.parts],
    }
    show_table(columns, "What this cell adds to the logit of each class", {_FROM_CELL: "%+.3f", "logit": "%.3f"})
    st.caption("What this cell adds to the logit of each class.")


def _show_channels(shown: ShownMaps, inspected: CellContributions) -> None:
    alt = "The channels with the largest contributions in this cell"
    show_table(_list_channels(inspected), alt, {_FROM_CELL: "%+.3f"})
    others = len(shown.maps.feature_maps) - len(inspected.channels)
    rest = format_number(inspected.rest, "+.3f")
    st.caption(
        f"The channels of this cell with the largest contributions to {_escape_name(shown)}. The other {others} add "
        f"{rest} together."
    )


def _list_channels(inspected: CellContributions) -> dict[str, list[Any]]:
    return {
        "channel": [str(c) for c, _ in inspected.channels],
        _FROM_CELL: [value for _, value in inspected.channels],
    }


def _show_votes(shown: ShownMaps, decisions: Decisions, inspected: CellContributions) -> int:
    """Show and return the number of channels whose maximum is in the cell."""
    votes, channels = int(decisions.votes[inspected.row, inspected.column]), len(decisions.cells)
    silent = int((decisions.cells < 0).sum())
    silent_note = f" {silent} channels are silent: their maximum is 0, which no cell decides." if silent else ""
    if not votes:
        st.markdown(
            f"It **has the maximum of none of the {channels} channels**. Max pooling reads only the maximum of each "
            f"channel, and these are in other cells.{silent_note} Switch on *Score every cell* to see what it would "
            "score alone."
        )
        return votes
    k = shown.selection.k
    contribution = format_number(float(shown.maps.values[k, inspected.row, inspected.column]), "+.3f")
    logit = format_number(float(shown.maps.logits[k]), ".3f")
    st.markdown(
        f"It **has the maximum of {votes} of {channels} channels**, and max pooling reads nothing else of them. "
        f"Together they add {contribution} to the logit {logit} of {_escape_name(shown)}.{silent_note}"
    )
    return votes


def _show_deciding_channels(shown: ShownMaps, decisions: Decisions, inspected: CellContributions) -> None:
    """Show the channels whose maximum is in the cell, and how far it exceeds the values of all other cells."""
    width, margins = shown.maps.values.shape[2], []
    for c, _ in inspected.channels:
        other, gap = int(decisions.runners_up[c]), float(decisions.gaps[c])
        margins.append(f"{gap:.3g} over ({other // width}, {other % width})" if other >= 0 else "the only cell")
    settings = {
        "channel": st.column_config.TextColumn(width=_CHANNEL_WIDTH),
        _FROM_CELL: st.column_config.NumberColumn(format="%+.3f", width=_VALUE_WIDTH),
    }
    columns = _list_channels(inspected) | {"margin": margins}
    show_table(columns, "The channels whose maximum is in this cell", settings)
    st.caption(
        f"The channels whose maximum is in this cell, with the largest contributions to {_escape_name(shown)} first. "
        "Margin: how much the maximum exceeds that of the next cell, in units of the feature map. In a tie, margin 0, "
        "the first cell counts, row by row."
    )


def read_mask(shown: ShownMaps) -> tuple[str, tuple[Cell, ...]]:
    """Return (revision, cells): the cells last masked by the buttons, and a text that changes with each press.

    A mask belongs to one photo, network and grid. For another photo, network or grid, the mask is empty at first.
    """
    about = f"{shown.key} {tuple(shown.maps.values.shape[1:])}"
    mask: tuple[str, int, tuple[Cell, ...]] = st.session_state.get(keys.MASK, ("", 0, ()))
    if mask[0] != about:
        mask = st.session_state[keys.MASK] = (about, 0, ())
    return f"{mask[0]} {mask[1]}", mask[2]


def _write_mask(cells: tuple[Cell, ...]) -> None:
    about, revision, _ = st.session_state[keys.MASK]
    st.session_state[keys.MASK] = (about, revision + 1, cells)


def show_what_if(shown: ShownMaps, masked: tuple[Cell, ...]) -> None:
    """Show the logits when the masked cells are left out of the pooling, and when they are changed in the photo."""
    maps = shown.maps
    change = _choose_mask(shown, masked)
    if not masked:
        text = "Click cells on the photo to mask them, or select one with the arrow keys and press Enter."
        st.info(text, icon=":material/touch_app:")
        return
    outcomes: dict[str, ClassMaps | MaskedOutcome] = {"original": maps}
    with show_errors():
        outcomes["head"] = mask_at_head(maps, make_mask(maps, masked))
    with st.spinner("Running the network on the masked photo ..."):
        photo = outcomes["photo"] = cache.mask_photo(shown.key, tuple(sorted(masked)), change, maps)
    _show_outcomes(shown, outcomes)
    left, right = st.columns([3, 4], vertical_alignment="center")
    with left:
        assert photo.pixels is not None, "the network ran on them"
        st.image(photo.pixels, width=180, output_format="PNG", alt="masked input of the network")
    with right:
        st.caption(
            "**Head**: the masked cells are left out of the pooling, and nothing else changes. This is exact and needs "
            f"no forward pass. **Photo**: the network runs on the photo with these cells {_CHANGED[change]}. The two "
            "differ because receptive fields overlap: every cell that sees a masked pixel changes too, and the masked "
            "region is again something that the network responds to."
        )


def _choose_mask(shown: ShownMaps, masked: tuple[Cell, ...]) -> PixelChange:
    """Show the controls of the mask. Return how masked cells are changed in the photo."""
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        text = (
            "Masked cells are blurred until nothing can be recognized in them; or set to the mean color that the "
            "network subtracts."
        )
        change = choose_segment("In the photo", list(_CHANGED), key=keys.MASK_CHANGE, help=text)
        text = "In percent of the highest value of the class map."
        percent = st.number_input("Cells above, %", 0, 99, 50, 10, key=keys.MASK_ABOVE, width=150, help=text)
        above = find_cells_above(shown.class_maps[shown.selection.k], percent / 100)
        cells = tuple((int(y), int(x)) for y, x in above.nonzero().tolist())
        st.button("Mask these cells", on_click=_write_mask, args=(cells,), disabled=not cells)
        st.button("Clear", on_click=_write_mask, args=((),), disabled=not masked)
    return change


def _show_outcomes(shown: ShownMaps, outcomes: Mapping[str, ClassMaps | MaskedOutcome]) -> None:
    """Show logits and probabilities of the listed classes and of each outcome's top-1 class."""
    listed = dict.fromkeys([*shown.listed, *(int(outcome.logits.argmax()) for outcome in outcomes.values())])
    meaning = shown.maps.classifier.meaning
    rows = [
        (
            shown.maps.classifier.class_names[j],
            [
                *(format_number(float(one.logits[j]), ".3f") for one in outcomes.values()),
                *(meaning.describe(float(one.logits[j]), float(one.probabilities[j])) for one in outcomes.values()),
            ],
        )
        for j in listed
    ]
    st.html(html.make_grouped_table([meaning.quantity, meaning.outcome], list(outcomes), rows))
