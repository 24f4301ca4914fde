"""The page of a data set: what `inspector batch` found, on average and image by image."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import streamlit as st

from inspector.datasets import index as dataset_index
from inspector.datasets.index import ORDERS, Filters
from inspector.datasets.results import Results, StoredImage, read_results, read_state
from inspector.datasets.summarize import summarize
from inspector.datasets.summary import NUMBERS, DatasetSummary, belongs_to, read_summary
from inspector.errors import InspectorError
from inspector.ui.components import html, stored_maps
from inspector.ui.pages import dataset_panels
from inspector.ui.state import cache
from inspector.ui.state.selection import label_names

_PAGE = 50  # images in the table
_SIDE = 720  # pixels of the longer side of a picture
ALL, MISTAKEN, UNREAD = "all", "mistaken", "not read"


def show() -> None:
    with st.sidebar:
        st.title("Data set", anchor=False)
        st.caption("What the class maps of a whole data set say.")
        typed = st.text_input(
            "Folder of results", key="data", bind="query-params", placeholder="results",
            help="On the machine that runs this app: a folder that `inspector batch` wrote.",
        )  # fmt: skip
    if not typed.strip():
        st.info(
            "Explain a folder of photos, and type the name of the folder of results in the sidebar:\n\n"
            "    inspector batch PHOTOS --model efficientnet_lite0 -o results\n"
            "    inspector survey results\n\n"
            "The second command is for tables and figures; this page makes what it needs itself.",
            icon=":material/photo_library:",
        )
        return
    try:
        results = _open(typed.strip())
        survey = _survey(results)
        with st.sidebar:
            st.caption(f"{html.escape_markdown(survey.network)}, {len(survey.class_names):,} classes")
        _overview(survey)
        _images(results, survey)
        dataset_panels.average_maps(survey)
        if len(survey.pairs):
            dataset_panels.confusions(survey)
        if survey.counts.images > survey.counts.errors:
            dataset_panels.gallery(results, survey)
    except InspectorError as error:
        st.error(str(error), icon=":material/error:")


def _open(typed: str) -> Results:
    folder = Path(typed).expanduser()
    if not stored_maps.may_open(folder):
        below = " or ".join(str(root.resolve()) for root in stored_maps.allowed_folders() or ())
        raise InspectorError(f"This app opens folders below {below} only; $INSPECTOR_DATA names others to it.")
    with st.spinner("Opening the results ..."):
        try:
            if not folder.is_dir():
                raise InspectorError(f"No folder {typed} here; one that `inspector batch` wrote would do.")
            return _results(folder, read_state(folder))
        except (OSError, ValueError) as error:
            raise InspectorError(f"Cannot open {typed}; a folder that `inspector batch` wrote would do.") from error


@st.cache_resource(max_entries=4, show_spinner=False)
def _results(folder: Path, state: list[list[Any]]) -> Results:
    return read_results(folder)


def _survey(results: Results) -> DatasetSummary:
    """The survey that lies beside the results, made now where there is none or they have changed."""
    out = results.folder / "survey"
    if not belongs_to(out, results):
        said = f"Reading the class maps of {results.images:,} images, this once ..."
        bar = st.progress(0.0, said)

        def tell(done: float) -> None:
            bar.progress(done, said)

        summarize(results.folder, out, on_progress=tell)
        bar.empty()
    return _kept(out, cache.changed(out / NUMBERS))


@st.cache_resource(max_entries=4, show_spinner="Reading the survey ...")
def _kept(out: Path, changed: int) -> DatasetSummary:
    return read_summary(out)


def _overview(survey: DatasetSummary) -> None:
    st.html(html.make_value_list(survey.describe()))


@st.fragment
def _images(results: Results, survey: DatasetSummary) -> None:
    st.subheader("Images", anchor=False)
    try:
        changed = cache.changed(survey.index)
        chosen, order, descending = _choose(survey, changed)
        with st.spinner("Asking the index ..."):
            found = _count(survey.index, changed, chosen)
            pages = max(1, -(-found // _PAGE))
            # Fewer pages than before: a number beyond the last would be refused.
            if st.session_state.get("page", 1) > pages:
                st.session_state["page"] = pages
            table, one = st.columns([3, 2], gap="large")
            with table:
                if not found:
                    st.info("No image is like this.", icon=":material/photo_library:")
                    return
                page = st.number_input(
                    f"Page of {pages:,} with {found:,} images", 1, pages, key="page", bind="query-params", width=280,
                    on_change=_first_image,
                )  # fmt: skip
                rows = _rows(survey.index, changed, chosen, order, descending, _PAGE * (page - 1))
                _table(survey, rows)
            with one:
                number = st.number_input(
                    "Image number", 0, value=None, key="image", bind="query-params", width=200,
                    placeholder=str(rows[0]["index"]),
                )  # fmt: skip
                row = rows[0] if number is None else dataset_index.find_row(survey.index, number)
                if row is None:
                    st.info(f"There is no image number {number}.", icon=":material/photo_library:")
                else:
                    _image(results, survey, row)
    except InspectorError as error:
        st.error(str(error), icon=":material/error:")


def _choose(survey: DatasetSummary, changed: int) -> tuple[Filters, str, bool]:
    """Which images, sorted by which column, and whether the highest come first."""
    titles = label_names(survey.class_names)
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        which = st.segmented_control(
            "Images", [ALL, MISTAKEN, UNREAD], default=ALL, required=True, key="which", bind="query-params",
            on_change=_first_page,
        )  # fmt: skip
        predicted = st.selectbox(
            "Likeliest class", titles, index=None, placeholder="any", key="predicted", bind="query-params", width=200,
            on_change=_first_page,
        )  # fmt: skip
        label = st.selectbox(
            "Label", _labels(survey.index, changed), index=None, placeholder="any", key="label", bind="query-params",
            width=200, on_change=_first_page,
        )  # fmt: skip
        text = st.text_input("In the path", key="path", bind="query-params", width=200, on_change=_first_page)
        order = st.selectbox(
            "Sorted by", list(ORDERS), key="order", bind="query-params", width=230, on_change=_first_page
        )
        descending = st.toggle("Highest first", key="descending", bind="query-params", on_change=_first_page)
    number = titles.index(predicted) if predicted is not None else None
    return Filters(number, label, which == MISTAKEN, which == UNREAD, text.strip()), ORDERS[order], descending


def _first_page() -> None:
    st.session_state["page"] = 1
    _first_image()


def _first_image() -> None:
    st.session_state["image"] = None


def _table(survey: DatasetSummary, rows: Sequence[dict[str, Any]]) -> None:
    def follow() -> None:
        if chosen := st.session_state[key]["selection"]["rows"]:
            st.session_state["image"] = rows[chosen[0]]["index"]

    key = f"images_{rows[0]['index']}_{rows[-1]['index']}_{len(rows)}"
    names = survey.class_names
    cells = [
        {
            "number": row["index"],
            "image": Path(row["path"]).name,
            "label": row["label"],
            "likeliest class": None if row["predicted"] is None else names[row["predicted"]],
            "probability": row["probability"],
            "border": row["border"],
            "positions": row["positions"],
            **({"inside": row["inside"]} if survey.counts.with_objects else {}),
            **({"error": row["error"]} if survey.counts.errors else {}),
        }
        for row in rows
    ]
    percent = st.column_config.NumberColumn(format="percent", width="small")
    st.dataframe(
        cells,
        key=key,
        on_select=follow,
        selection_mode="single-row",
        hide_index=True,
        height=min(460, 37 + 35 * len(rows)),
        placeholder="",
        column_config={
            "number": st.column_config.NumberColumn(width="small"),
            "probability": percent,
            "border": percent,
            "inside": percent,
            "positions": st.column_config.NumberColumn(format="%.1f", width="small"),
        },
        alt="Images with what they were taken for and where the evidence stands",
    )
    st.caption(
        "Of the class map of the likeliest class: how much of it, by size, lies in the outermost ring of cells, and on "
        f"how many of the {survey.grid[0] * survey.grid[1]} positions it stands (the exponential of its entropy). "
        "Choose a row to see its image."
    )


def _image(results: Results, survey: DatasetSummary, row: dict[str, Any]) -> None:
    """One image with the class maps that are stored of it."""
    st.markdown(f"**{html.escape_markdown(Path(row['path']).name)}**  \n{html.escape_markdown(row['path'])}")
    if row["error"] is not None:
        st.error(row["error"], icon=":material/error:")
        return
    stored = dataset_panels.stored_of(results, survey, row)
    names = survey.class_names
    titles = {k: label_names(names)[k] for k in stored.maps}
    k = st.radio(
        "Class map of", list(titles), format_func=lambda k: html.escape_markdown(titles[k]), horizontal=True,
        key=f"class_of_{row['index']}",
    )  # fmt: skip
    image, why = stored_maps.draw_stored_map(results, stored, stored.maps[k], _SIDE)
    st.html(
        html.make_tiles(
            [html.Tile(image, names[k], [_equation(stored, k)], f"class map of {names[k]}")], "min(100%, 24rem)"
        )
    )
    if why:
        st.caption(why)
    label = "no label" if row["label"] is None else f"label {html.escape_markdown(row['label'])}"
    if row["label_rank"] is not None:
        label += f", number {row['label_rank'] + 1} with {row['label_probability']:.1%}"
    st.caption(
        f"{label}; likeliest {html.escape_markdown(names[row['predicted']])} with {row['probability']:.1%}; "
        f"{row['verdict']}, largest miss {row['residual']:.1e} logits"
    )


def _equation(stored: StoredImage, k: int) -> str:
    total = float(stored.maps[k].sum())
    if k not in stored.logits:
        return f"map {total:.3f}".replace("-", "\N{MINUS SIGN}")
    line = f"map {total:.3f} + bias {stored.biases[k]:.3f} = {stored.logits[k]:.3f}"
    return line.replace("-", "\N{MINUS SIGN}")


# Bounded, and few numbers each.
@st.cache_data(max_entries=128, show_spinner=False)
def _rows(
    index: Path, changed: int, chosen: Filters, order: str, descending: bool, offset: int
) -> list[dict[str, Any]]:
    return dataset_index.list_rows(index, chosen, order, descending, _PAGE, offset)


@st.cache_data(max_entries=128, show_spinner=False)
def _count(index: Path, changed: int, chosen: Filters) -> int:
    return dataset_index.count_images(index, chosen)


@st.cache_data(max_entries=8, show_spinner=False)
def _labels(index: Path, changed: int) -> list[str]:
    return dataset_index.list_labels(index)
