"""Below the photo: what the chosen position adds, sees and decides; and what if positions were not there."""

from html import escape
from typing import TypeAlias

import streamlit as st

from inspector.analysis.masking import Change, MaskedOutcome, make_mask, mask_at_head, positions_above
from inspector.analysis.positions import (
    Position,
    cell_extents,
    find_decisions,
    has_deciding_positions,
    inspect_position,
)
from inspector.errors import InspectorError
from inspector.explain.class_maps import ClassMap, ClassMaps
from inspector.ui.components import html
from inspector.ui.state import cache

CHANNELS = 5  # shown of a position
Cell: TypeAlias = tuple[int, int]  # row, column
_TABLE = """<style>
.what-if { border-collapse: collapse; width: 100%; max-width: 46rem; font-size: .85rem; line-height: 1.3 }
.what-if th, .what-if td { border: 0; border-bottom: 1px solid rgba(128, 128, 128, .3); padding: .3rem .15rem }
.what-if td, .what-if th { text-align: right; font-weight: 400; font-variant-numeric: tabular-nums }
.what-if th:first-child { text-align: left } .what-if th[colspan] { text-align: center }
.what-if tr:nth-child(-n + 2) th { opacity: .7 }
</style>"""
_DONE: dict[Change, str] = {"blur": "blurred", "grey": "greyed"}


def position(maps: ClassMaps, cell: Cell, k: int, listed: tuple[int, ...]) -> None:
    """What the chosen position sees, adds to class k and to others, and decides."""
    row, column = cell
    # Where the weight changes with the image it is read with a pass of the network.
    with st.spinner("Reading the channels of this position ..."):
        here = inspect_position(maps, row, column, k, listed, CHANNELS)
    rows, columns = cell_extents(maps)
    down, across = rows[row], columns[column]
    st.markdown(
        f"**Position ({row}, {column})** sees the photo's pixels x {across.first:.0f} to {across.last:.0f}, "
        f"y {down.first:.0f} to {down.last:.0f} (dashed), around ({across.centre:.0f}, {down.centre:.0f}).",
        help="Row and column count from 0, as in `maps.values[:, row, column]`. The dashed frame is the receptive "
        "field, as far as the network saw the photo: no pixel outside it can change this position. The solid frame is "
        "the cell, the pixels that are nearer to this centre than to any other.",
    )
    decided = has_deciding_positions(maps)
    if decided and not _votes(maps, here, k):
        return
    left, right = st.columns([5, 4])
    with left:
        _classes(maps, here)
    with right:
        (_deciding_channels if decided else _channels)(maps, here, k)


def _name(maps: ClassMaps, k: int) -> str:
    return html.plain_text(maps.classifier.class_names[k])


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "\N{MINUS SIGN}")


def _classes(maps: ClassMaps, here: Position) -> None:
    st.dataframe(
        {
            "class": [maps.classifier.class_names[j] for j, _ in here.parts],
            "logits here": [value for _, value in here.parts],
            "whole logit": [float(maps.logits[j]) for j, _ in here.parts],
        },
        hide_index=True,
        column_config={
            "logits here": st.column_config.NumberColumn(format="%+.3f"),
            "whole logit": st.column_config.NumberColumn(format="%.3f"),
        },
        alt="What this position adds to each class",
    )
    st.caption("What this position adds to each class: its part of the logit.")


def _channels(maps: ClassMaps, here: Position, k: int) -> None:
    st.dataframe(
        {"channel": [str(c) for c, _ in here.channels], "logits here": [value for _, value in here.channels]},
        hide_index=True,
        column_config={"logits here": st.column_config.NumberColumn(format="%+.3f")},
        alt="The strongest channels at this position",
    )
    others = len(maps.feature_maps) - len(here.channels)
    st.caption(f"The strongest channels for {_name(maps, k)} here; the other {others} add {_signed(here.rest)}.")


def _votes(maps: ClassMaps, here: Position, k: int) -> int:
    """How many channels the position decides, shown and returned."""
    made = find_decisions(maps)
    votes, channels = int(made.votes[here.row, here.column]), len(made.positions)
    silent = int((made.positions < 0).sum())
    unheard = f" {silent} channels are silent (maximum 0): nobody decides them." if silent else ""
    if not votes:
        st.markdown(
            f"It **decides none of {channels} channels**: max pooling takes of each channel its maximum, and all have "
            f"theirs elsewhere.{unheard} What it would score alone is told with *Score every position* on."
        )
        return votes
    part = _signed(float(maps.values[k, here.row, here.column]))
    logit = f"{float(maps.logits[k]):.3f}".replace("-", "\N{MINUS SIGN}")
    st.markdown(
        f"It **decides {votes} of {channels} channels**: it holds their maximum, which is all that max pooling takes "
        f"of them. Together they add {part} to the logit {logit} of {_name(maps, k)}.{unheard}"
    )
    return votes


def _deciding_channels(maps: ClassMaps, here: Position, k: int) -> None:
    """The channels that the position decides, and how far it is ahead."""
    made, width = find_decisions(maps), maps.values.shape[2]
    ahead = []
    for c, _ in here.channels:
        place, gap = int(made.runners_up[c]), float(made.gaps[c])
        ahead.append(f"{gap:.3g} of ({place // width}, {place % width})" if place >= 0 else "the only one")
    st.dataframe(
        {
            "channel": [str(c) for c, _ in here.channels],
            "logits here": [value for _, value in here.channels],
            "ahead by": ahead,
        },
        hide_index=True,
        column_config={"logits here": st.column_config.NumberColumn(format="%+.3f")},
        alt="The strongest channels that this position decides",
    )
    st.caption(
        f"The strongest channels for {_name(maps, k)} that it decides, and how far it is ahead of which position, in "
        "the feature map's unit. A tie, 0, goes to the first position, row by row."
    )


def preset(key: cache.MapsKey, maps: ClassMaps) -> tuple[str, tuple[Cell, ...]]:
    """What the buttons masked last, with its revision before it; of another photo or network nothing."""
    about = f"{key} {tuple(maps.values.shape[1:])}"
    kept: tuple[str, int, tuple[Cell, ...]] = st.session_state.get("mask", ("", 0, ()))
    if kept[0] != about:
        kept = st.session_state["mask"] = (about, 0, ())
    return f"{kept[0]} {kept[1]}", kept[2]


def _mask(cells: tuple[Cell, ...]) -> None:
    about, number, _ = st.session_state["mask"]
    st.session_state["mask"] = (about, number + 1, cells)


def what_if(
    maps: ClassMaps, key: cache.MapsKey, masked: tuple[Cell, ...], listed: tuple[int, ...], class_map: ClassMap
) -> None:
    """The logits without the masked positions, at the head and with the photo changed there."""
    change = _what_if_controls(masked, class_map)
    if not masked:
        st.info(
            "Click positions on the photo to mask them, or walk there with the arrow keys and press Enter.",
            icon=":material/touch_app:",
        )
        return
    head = _without(maps, masked)
    with st.spinner("Running the network on the changed photo ..."):
        photo = cache.what_if_of(key, tuple(sorted(masked)), change, maps)
    outcomes = {"now": maps, "head": head, "photo": photo}
    _before_and_after(maps, {how: one for how, one in outcomes.items() if one is not None}, listed)
    left, right = st.columns([3, 4], vertical_alignment="center")
    with left:
        assert photo.pixels is not None, "it was run on them"
        st.image(photo.pixels, width=180, output_format="PNG", alt="what the network saw")
    with right:
        st.caption(
            "**Head**: these positions are left out where the feature maps are pooled, and nothing else changes. It is "
            "exact, and nothing is run. **Photo**: the network is run on the photo with these cells "
            f"{_DONE[change]}. The two differ because receptive fields overlap: every position that sees a masked "
            f"pixel changes too, and what is {_DONE[change]} is again something that the network sees."
        )


def _what_if_controls(masked: tuple[Cell, ...], class_map: ClassMap) -> Change:
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        change: Change = st.segmented_control(
            "In the photo", list(_DONE), default="blur", required=True, key="change", bind="query-params",
            help="Blurred, so that what stood in a cell cannot be told; or as grey as the mean that the network "
            "subtracts.",
        )  # fmt: skip
        share = st.number_input(
            "Where above, %", 0, 99, 50, 10, key="above", width=150, help="Of the highest value of the class map."
        )
        cells = tuple((int(y), int(x)) for y, x in positions_above(class_map, share / 100).nonzero().tolist())
        st.button("Mask there", on_click=_mask, args=(cells,), disabled=not cells)
        st.button("Clear", on_click=_mask, args=((),), disabled=not masked)
    return change


def _without(maps: ClassMaps, masked: tuple[Cell, ...]) -> MaskedOutcome | None:
    try:
        return mask_at_head(maps, make_mask(maps, masked))
    except InspectorError as error:
        st.error(str(error), icon=":material/error:")
        return None


def _before_and_after(maps: ClassMaps, outcomes: dict[str, ClassMaps | MaskedOutcome], listed: tuple[int, ...]) -> None:
    """A table that wraps, since a narrow window has no room for seven columns of Streamlit's."""
    # What comes out on top belongs here too.
    shown = list(dict.fromkeys([*listed, *(int(one.logits.argmax()) for one in outcomes.values())]))
    groups = "".join(f'<th colspan="{len(outcomes)}">{score}</th>' for score in ("logit", "probability"))
    titles = "".join(f"<th>{how}</th>" for how in (*outcomes, *outcomes))
    rows = ""
    for j in shown:
        logits = [f"{float(one.logits[j]):.3f}".replace("-", "\N{MINUS SIGN}") for one in outcomes.values()]
        probabilities = [f"{float(one.probabilities[j]):.1%}" for one in outcomes.values()]
        cells = "".join(f"<td>{number}</td>" for number in (*logits, *probabilities))
        rows += f"<tr><th scope=row>{escape(maps.classifier.class_names[j])}</th>{cells}</tr>"
    st.html(f"{_TABLE}<table class=what-if><tr><th></th>{groups}</tr><tr><th></th>{titles}</tr>{rows}</table>")
