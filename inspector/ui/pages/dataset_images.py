"""The images of a data set in a table with filters, and one image with its stored class maps."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import streamlit as st

from inspector.datasets import index as dataset_index
from inspector.datasets.index import ORDERS, Filters
from inspector.datasets.results import Results, StoredImage
from inspector.datasets.summary import DatasetSummary
from inspector.explain.class_names import label_names
from inspector.output.text import format_number, replace_minus
from inspector.ui.components import html, stored_maps
from inspector.ui.components.controls import (
    choose_option,
    choose_segment,
    enter_number,
    search_option,
    show_error,
    show_errors,
    show_table,
    switch,
)
from inspector.ui.components.markdown import plain
from inspector.ui.components.save import show_save_menu
from inspector.ui.components.saved_results import find_place, make_stored_map_to_save
from inspector.ui.state import cache, keys

ALL, MISCLASSIFIED, UNREADABLE = "all", "misclassified", "unreadable"  # values in links
_PAGE = 50  # images per page of the table
_SIDE = 720  # longer side of a picture, in pixels
_NO_IMAGE = ":material/photo_library:"


@dataclass(frozen=True)
class ImageSelection:
    """Which images the table lists, and in which order."""

    filters: Filters
    column: str  # column of the index that sorts the images
    descending: bool


@st.fragment
def show_images(results: Results, summary: DatasetSummary) -> None:
    """Show the table of images, and the chosen image beside it."""
    st.subheader("Images", anchor=False)
    with show_errors():
        changed = cache.read_change_time(summary.index)
        selection = _choose(summary, changed)
        with st.spinner("Reading the index ..."):
            count = _count_images(summary.index, changed, selection.filters)
            table, one = st.columns([3, 2], gap="large")
            with table:
                if not count:
                    st.info("No image matches these filters.", icon=_NO_IMAGE)
                    return
                page = _choose_page(count)
                rows = _list_rows(summary.index, changed, selection, _PAGE * (page - 1))
                _show_table(summary, rows)
            with one:
                _show_chosen_image(results, summary, rows)


def _choose(summary: DatasetSummary, changed: int) -> ImageSelection:
    """Show the controls of the filters and the order. Return the choices."""
    names = label_names(summary.class_names)
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        settings: dict[str, Any] = {"on_change": _open_first_page}
        narrow = settings | {"width": 200}
        which = choose_segment("Images", [ALL, MISCLASSIFIED, UNREADABLE], key=keys.IMAGE_FILTER, **settings)
        predicted = search_option("Top-1 class", names, "any", key=keys.TOP_CLASS, **narrow)
        labels = _list_labels(summary.index, changed)
        label = search_option("Label", labels, "any", key=keys.LABEL, **narrow)
        text = st.text_input("Path contains", key=keys.PATH, bind="query-params", **narrow)
        order = choose_option("Sort by", list(ORDERS), key=keys.IMAGE_ORDER, width=230, **settings)
        descending = switch("Descending", key=keys.DESCENDING, **settings)
    filters = Filters(
        predicted=None if predicted is None else names.index(predicted),
        label=label,
        wrong=which == MISCLASSIFIED,
        errors=which == UNREADABLE,
        text=text.strip(),
    )
    return ImageSelection(filters, ORDERS[order], descending)


def _open_first_page() -> None:
    st.session_state[keys.PAGE] = 1
    _clear_image()


def _clear_image() -> None:
    st.session_state[keys.IMAGE] = None


def _choose_page(count: int) -> int:
    pages = max(1, -(-count // _PAGE))
    # Other filters can leave fewer pages than before, and Streamlit accepts no number above the last page.
    if st.session_state.get(keys.PAGE, 1) > pages:
        st.session_state[keys.PAGE] = pages
    images = "1 image" if count == 1 else f"{count:,} images"
    label = f"Page of {pages:,} with {images}"
    page: int = enter_number(label, 1, pages, key=keys.PAGE, width=280, on_change=_clear_image)
    return page


def _show_table(summary: DatasetSummary, rows: Sequence[dict[str, Any]]) -> None:
    def choose_image(row: int) -> None:
        st.session_state[keys.IMAGE] = rows[row]["index"]

    formats = {"number": None, "probability": "percent", "border": "percent", "inside": "percent", "cells": "%.1f"}
    show_table(
        [_make_row(summary, row) for row in rows],
        "Images with their predictions and where the evidence lies",
        {name: st.column_config.NumberColumn(format=text, width="small") for name, text in formats.items()},
        choose_image,
        key=f"images_{rows[0]['index']}_{rows[-1]['index']}_{len(rows)}",
        height=min(460, 37 + 35 * len(rows)),
        placeholder="",
    )
    st.caption(
        "Border and cells describe the class map of the top-1 class. Border: the share of its absolute values in the "
        f"outermost ring of cells. Cells: over how many of the {summary.grid[0] * summary.grid[1]} cells it extends "
        "(the exponential of its entropy). Select a row to see its image."
    )


def _make_row(summary: DatasetSummary, row: dict[str, Any]) -> dict[str, Any]:
    cells = {
        "number": row["index"],
        "image": Path(row["path"]).name,
        "label": row["label"],
        "top-1 class": None if row["predicted"] is None else summary.class_names[row["predicted"]],
        "probability": row["probability"],
        "border": row["border"],
        "cells": row["positions"],
    }
    if summary.counts.with_objects:
        cells["inside"] = row["inside"]
    if summary.counts.errors:
        cells["error"] = row["error"]
    return cells


def _show_chosen_image(results: Results, summary: DatasetSummary, rows: Sequence[dict[str, Any]]) -> None:
    """Show the image whose number was typed or whose row was selected; at first, the image of the first row."""
    first = str(rows[0]["index"])
    number = enter_number("Image number", 0, None, None, key=keys.IMAGE, width=200, placeholder=first)
    row = rows[0] if number is None else dataset_index.find_row(summary.index, number)
    if row is None:
        st.info(f"There is no image number {number}.", icon=_NO_IMAGE)
    else:
        _show_image(results, summary, row)


def _show_image(results: Results, summary: DatasetSummary, row: dict[str, Any]) -> None:
    """Show one image with its stored class maps."""
    st.markdown(f"**{plain(Path(row['path']).name)}**  \n{plain(row['path'])}")
    if row["error"] is not None:
        show_error(row["error"])
        return
    stored = read_image_of(results, summary, row)
    names = summary.class_names
    labels = label_names(names)
    k = st.radio(
        "Class map of",
        list(stored.maps),
        format_func=lambda k: plain(labels[k]),
        horizontal=True,
        key=f"class_of_{row['index']}",
    )
    image, problem = stored_maps.draw_stored_map(results, stored, stored.maps[k], _SIDE)
    tile = html.Tile(image, names[k], [_format_sum(stored, k)], f"class map of {names[k]}")
    st.html(html.make_tiles([tile], "min(100%, 24rem)"))
    if problem:
        st.caption(plain(problem))
    name = f"{names[k]} on {Path(row['path']).name}"
    picture = make_stored_map_to_save(results, stored, k, name, find_place(row), on_photo=not problem)
    show_save_menu([picture], "image picture")
    label = "no label" if row["label"] is None else f"label {plain(row['label'])}"
    if row["label_rank"] is not None:
        label += _in_brackets(f"rank {row['label_rank'] + 1}", _format_share(row["label_probability"]))
    top = plain(names[row["predicted"]]) + _in_brackets(_format_share(row["probability"]))
    st.caption(f"{label}; top-1 {top}; {plain(row['verdict'])}, largest residual {row['residual']:.1e} logits")


def _format_share(probability: float | None) -> str:
    """Return a probability as text; nothing if the network returns other values."""
    return "" if probability is None else f"{probability:.1%}"


def _in_brackets(*parts: str) -> str:
    """Return the parts that are not empty in brackets, after a space; nothing if all are empty."""
    text = ", ".join(part for part in parts if part)
    return f" ({text})" if text else ""


def _format_sum(stored: StoredImage, k: int) -> str:
    total = float(stored.own_cells(k).sum())
    if k not in stored.logits:
        return f"map {format_number(total, '.3f')}"
    return replace_minus(f"map {total:.3f} + bias {stored.biases[k]:.3f} = {stored.logits[k]:.3f}")


def read_image_of(results: Results, summary: DatasetSummary, row: dict[str, Any]) -> StoredImage:
    """Read the stored class maps of the image that one row of the index describes."""
    changed = cache.read_change_time(summary.index)
    return stored_maps.read_stored_image(results.folder, changed, *find_place(row), results)


# The next three caches are small. `changed`, the time of the index, is in their keys, so that a new index is read.
@st.cache_data(max_entries=128, show_spinner=False)
def _list_rows(index: Path, changed: int, selection: ImageSelection, offset: int) -> list[dict[str, Any]]:
    return dataset_index.list_rows(index, selection.filters, selection.column, selection.descending, _PAGE, offset)


@st.cache_data(max_entries=128, show_spinner=False)
def _count_images(index: Path, changed: int, filters: Filters) -> int:
    return dataset_index.count_images(index, filters)


@st.cache_data(max_entries=8, show_spinner=False)
def _list_labels(index: Path, changed: int) -> list[str]:
    return dataset_index.list_labels(index)
