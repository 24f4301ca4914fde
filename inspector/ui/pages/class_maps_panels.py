"""What the first page shows of single cells: the channels of the chosen cell, and the class that wins each cell."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

from inspector.analysis.positions import (
    CellContributions,
    Decisions,
    Winners,
    find_decisions,
    has_deciding_cells,
    inspect_cell,
)
from inspector.explain.map_arrays import Maps
from inspector.output.text import format_number
from inspector.output.viewer import WINNER_COLORS, ViewerData
from inspector.ui.state.view_state import Cell, ViewState, convert_cell

if TYPE_CHECKING:
    from inspector.explain.class_maps import ClassMaps
    from inspector.explain.finer import FinerMaps

Line: TypeAlias = list[str | dict[str, Any]]

CHANNELS = 5  # number of channels listed for a cell


def answer_cell(maps: Maps, finer: "ClassMaps | None", data: ViewerData, state: ViewState) -> dict[str, Any] | None:
    """Return what the chosen cell sees and its strongest channels, as lines; None if no cell is chosen.

    A line is a list of texts and of channels, which the browser shows as links.

    Args:
        maps: the class maps of the page. Arrays need to have channels.
        finer: the same with their finer grid, if it is drawn.
        data: what the viewer draws.
        state: the chosen class and cell.
    """
    if state.cell is None:
        return None
    row, column = convert_cell(state.cell, data.factor, 1)
    is_between = convert_cell((row, column), 1, data.factor) != state.cell
    if is_between and finer is not None and finer.finer is not None:
        lines = _describe_cell_between(finer, finer.finer, state, state.cell)
        return {"cell": state.cell, "k": state.k, "lines": [*lines, _describe_extent(data, state.cell)]}
    # If the weights of the head depend on the image, this runs the network.
    inspected = inspect_cell(maps, row, column, state.k, (), CHANNELS)
    name = maps.classifier.class_names[state.k]
    decisions = find_decisions(maps) if has_deciding_cells(maps) else None
    if decisions is None:
        others = len(maps.feature_maps) - len(inspected.channels)
        ending = f"; {others} others {_format(inspected.rest)} together."
        lines = [[f"Strongest channels for {name}: ", *_list_channels(inspected), ending]]
    else:
        lines = _describe_decisions(maps, state, inspected, decisions)
    return {"cell": state.cell, "k": state.k, "lines": [*lines, [_describe_extent(data, state.cell)]]}


def _describe_cell_between(maps: "ClassMaps", finer: "FinerMaps", state: ViewState, cell: Cell) -> list[Line]:
    """Return to which shift of the photo a cell between the network's own belongs, and its strongest channels."""
    row, column = convert_cell(cell, finer.factor, 1)
    down, across = cell[0] % finer.factor, cell[1] % finer.factor
    shift = down * finer.factor + across
    shifted = replace(maps, split=finer.splits[shift])
    inspected = inspect_cell(shifted, row, column, state.k, (), CHANNELS)
    name, quantity = maps.classifier.class_names[state.k], maps.classifier.meaning.quantity
    moves = [
        f"{steps * axis.stride:g} pixels {way}"
        for steps, axis, way in ((down, finer.field.y, "up"), (across, finer.field.x, "to the left"))
        if steps
    ]
    others = len(shifted.feature_maps) - len(inspected.channels)
    return [
        [
            f"It lies between the network's own cells: it is cell ({row}, {column}) of the pass of the photo moved "
            f"{' and '.join(moves)} in the input. That pass has the {quantity} "
            f"{format_number(float(finer.logits[shift, state.k]), '.3f')} for {name}; the photo's own is "
            f"{format_number(float(maps.logits[state.k]), '.3f')}, to which this cell adds nothing."
        ],
        [
            f"Strongest channels for {name}: ",
            *_list_channels(inspected),
            f"; {others} others {_format(inspected.rest)} together.",
        ],
    ]


def _format(value: float) -> str:
    return format_number(value, "+.3f")


def _list_channels(inspected: CellContributions) -> Line:
    return _join([(c, f" ({_format(value)})") for c, value in inspected.channels], " \N{MIDDLE DOT} ") or ["none"]


def _join(channels: Sequence[tuple[int, str]], between: str) -> Line:
    """Return channels as links, each with a text behind it."""
    parts: list[str | dict[str, Any]] = []
    for c, text in channels:
        parts += [*([between] if parts else []), {"channel": c, "text": str(c)}, text]
    return parts


def _describe_extent(data: ViewerData, cell: Cell) -> str:
    """Return which pixels of the photo the cell sees."""
    if data.misplaced is not None:
        return "It lies somewhere in the photo: its place is unknown."
    y, x = data.rows[cell[0]], data.columns[cell[1]]
    return (
        f"It sees the pixels x {x.first:.0f} to {x.last:.0f}, y {y.first:.0f} to {y.last:.0f} of the photo (dashed "
        f"frame, its receptive field), centered at ({x.center:.0f}, {y.center:.0f})."
    )


def _describe_decisions(maps: Maps, state: ViewState, inspected: CellContributions, decisions: Decisions) -> list[Line]:
    """Return of which channels the cell has the maximum, and how far it exceeds the values of all other cells."""
    votes, channels = int(decisions.votes[inspected.row, inspected.column]), len(decisions.cells)
    silent = int((decisions.cells < 0).sum())
    silent_note = f" {silent} channels are silent: their maximum is 0, which no cell decides." if silent else ""
    if not votes:
        sentence = (
            f"It has the maximum of none of the {channels} channels. Max pooling reads only the maximum of each "
            f"channel, and these are in other cells.{silent_note}"
        )
        return [[sentence]]
    width = maps.values.shape[2]
    margins = []
    for c, value in inspected.channels:
        other, gap = int(decisions.runners_up[c]), float(decisions.gaps[c])
        beyond = f"{gap:.3g} above ({other // width}, {other % width})" if other >= 0 else "the only cell"
        margins.append((c, f" ({_format(value)}, {beyond})"))
    name = maps.classifier.class_names[state.k]
    total = _format(float(maps.values[state.k, inspected.row, inspected.column]))
    sentence = (
        f"It has the maximum of {votes} of {channels} channels, and max pooling reads nothing else of them. Together "
        f"they add {total} to the {maps.classifier.meaning.quantity} of {name}.{silent_note}"
    )
    listed = ["Strongest channels, and how far their maximum exceeds the next cell: ", *_join(margins, "; "), "."]
    return [[sentence], listed]


def answer_winners(maps: Maps, winners: Winners) -> dict[str, Any]:
    """Return the class with the highest value in each cell: what the browser paints, and the legend.

    The first seven classes have colors of their own; all others share gray.
    """
    names, last = maps.classifier.class_names, len(WINNER_COLORS) - 1
    place = {k: i for i, k in enumerate(winners.classes)}
    # The last note is for cells in which all classes have the same value: the grid has the class -1 there.
    order = [place.get(k, -1) for k in winners.grid.flatten().tolist()]
    counts = {k: order.count(i) for k, i in place.items()}
    legend = [
        {"name": names[k], "color": color, "count": counts[k]}
        for k, color in zip(winners.classes[:last], WINNER_COLORS, strict=False)
    ]
    if rest := winners.classes[last:]:
        name = f"{len(rest)} other classes" if len(rest) > 1 else "1 other class"
        legend.append({"name": name, "color": WINNER_COLORS[-1], "count": sum(counts[k] for k in rest)})
    return {
        "cells": [min(i, last) for i in order],
        "colors": [[int(color[i : i + 2], 16) for i in (1, 3, 5)] for color in WINNER_COLORS],
        "values": winners.values.flatten().tolist(),
        "notes": [*(f" for {names[k]}" for k in winners.classes), ": no class wins"],
        "note_of": [i if i >= 0 else len(place) for i in order],
        "legend": legend,
    }
