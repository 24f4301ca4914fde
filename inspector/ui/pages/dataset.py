"""The page Data set: the results of `inspector batch`, summarized and image by image."""

import hashlib
from pathlib import Path
from typing import Any

import streamlit as st

from inspector.datasets.results import Results, read_results, read_state
from inspector.datasets.summarize import open_summary
from inspector.datasets.summary import NUMBERS, DatasetSummary, belongs_to
from inspector.errors import InspectorError
from inspector.files import find_cache_folder
from inspector.ui.components import html, stored_maps
from inspector.ui.components.controls import show_errors
from inspector.ui.components.markdown import plain
from inspector.ui.pages import dataset_images, dataset_panels
from inspector.ui.state import cache, keys


def show() -> None:
    """Draw the page."""
    keys.update_link()
    with st.sidebar:
        st.title("Data set", anchor=False)
        st.caption("Summary of the class maps of a whole data set.")
        folder = st.text_input(
            "Folder of results",
            key=keys.RESULTS,
            bind="query-params",
            placeholder="results",
            help="A folder that `inspector batch` wrote, on the machine that runs this app.",
        ).strip()
    if not folder:
        st.info(
            "Compute the class maps of a folder of photos, and type the name of the folder of results in the "
            "sidebar:\n\n"
            "    inspector batch PHOTOS --model efficientnet_lite0 -o results\n"
            "    inspector survey results\n\n"
            "The second command writes tables and figures. This page does not need it.",
            icon=":material/photo_library:",
        )
        return
    with show_errors():
        results = _open_results(folder)
        _show_results(results, _summarize(results))


def _show_results(results: Results, summary: DatasetSummary) -> None:
    with st.sidebar:
        st.caption(f"{plain(summary.network)}, {len(summary.class_names):,} classes")
    st.html(html.make_value_list(summary.describe()))
    dataset_images.show_images(results, summary)
    dataset_panels.show_average_maps(summary)
    if len(summary.pairs):
        dataset_panels.show_confusions(summary)
    if summary.counts.images > summary.counts.errors:
        dataset_panels.show_gallery(results, summary)


def _open_results(name: str) -> Results:
    """Open a folder of results.

    Raises:
        InspectorError: the app may not open the folder, or the folder holds no results.
    """
    missing = f"No folder {name} on this machine. Use one that `inspector batch` wrote."
    try:
        folder = Path(name).expanduser()
    except RuntimeError as error:  # ~name of a user that does not exist
        raise InspectorError(missing) from error
    if not stored_maps.may_open(folder):
        allowed = " or ".join(str(root.resolve()) for root in stored_maps.allowed_folders() or ())
        raise InspectorError(f"This app opens only folders inside {allowed}. Use $INSPECTOR_DATA to allow others.")
    with st.spinner("Opening the results ..."):
        try:
            if not folder.is_dir():
                raise InspectorError(missing)
            return _read_results(folder, read_state(folder))
        except (OSError, ValueError) as error:
            raise InspectorError(f"Cannot open {name}. Use a folder that `inspector batch` wrote.") from error


@st.cache_resource(max_entries=4, show_spinner=False)
def _read_results(folder: Path, state: list[list[Any]]) -> Results:
    return read_results(folder)


def _summarize(results: Results) -> DatasetSummary:
    """Return the summary in the folder of results. If it is missing or older than the results, make one in the cache.

    A link must not write into a folder of the user.
    """
    out = results.folder / "survey"
    if not belongs_to(out, results):
        name = hashlib.sha256(str(results.folder.resolve()).encode(errors="surrogateescape")).hexdigest()[:32]
        out = find_cache_folder() / "surveys" / name
    if not belongs_to(out, results):
        text = f"Reading the class maps of {results.images:,} images (only once) ..."
        bar = st.progress(0.0, text)

        def show_progress(done: float) -> None:
            bar.progress(done, text)

        open_summary(results, out, show_progress)
        bar.empty()
    return _read_summary(out, cache.read_change_time(out / NUMBERS), results)


@st.cache_resource(max_entries=4, show_spinner="Reading the summary ...")
def _read_summary(out: Path, changed: int, _results: Results) -> DatasetSummary:
    return open_summary(_results, out)  # it waits while another visitor or process replaces the summary
