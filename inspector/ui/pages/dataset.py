"""The page Dataset: runs a batch over photos, and shows its results, summarized and image by image."""

import hashlib
from pathlib import Path
from typing import Any

import streamlit as st

from inspector.datasets.listing import ListedResults, list_results, read_listed
from inspector.datasets.results import Results, read_results, read_state
from inspector.datasets.summarize import open_summary
from inspector.datasets.summary import NUMBERS, DatasetSummary, belongs_to
from inspector.errors import InspectorError
from inspector.files import find_cache_folder
from inspector.ui.components import html
from inspector.ui.components.controls import show_error, show_errors
from inspector.ui.components.markdown import plain
from inspector.ui.pages import dataset_batch, dataset_images, dataset_panels
from inspector.ui.state import batches, cache, folders, keys
from inspector.ui.state.batches import Batch
from inspector.ui.state.networks import NetworkChoice


def show(network: NetworkChoice) -> None:
    """Draw the page."""
    keys.update_link()
    st.title("Dataset", anchor=False)
    batch: Batch | None = st.session_state.get(keys.BATCH)
    if batch is not None and batch.job.running:
        dataset_batch.show_progress(batch)
    elif batch is not None:
        _end(batch)
    chosen = _choose_results()
    if chosen is None:
        st.caption(
            "A batch computes the class maps of all photos of a folder. This page summarizes them: accuracy, average "
            "class maps, confusions, and every photo. On the command line: `inspector batch PHOTOS -o results`."
        )
    is_running = batch is not None and batch.job.running
    if not is_running:
        with st.expander("Run a batch", expanded=chosen is None, icon=":material/play_arrow:"):
            dataset_batch.show_form(network)
    if chosen is None:
        return
    with show_errors():
        listed = read_listed(chosen)
        if listed is not None and not listed.is_complete and not is_running:
            dataset_batch.show_resume(listed)
        if listed is not None and not listed.written:
            return
        results = _open_results(chosen)
        _show_results(results, _summarize(results))


def _end(batch: Batch) -> None:
    """Choose the results of a run that has just ended, once. Show its message if it has failed."""
    if isinstance(batch.result, str):
        show_error(batch.result)
    if not batch.was_shown:
        batch.was_shown = True
        _list_results.clear()
        if batch.request.out.is_dir():
            st.session_state[keys.RESULTS] = folders.name_folder(batch.request.out)


def _choose_results() -> Path | None:
    """Show the choice of results, those that changed last first. Return the folder of the chosen ones."""
    private = folders.results_folder() / batches.PRIVATE
    listed = _list_results(_list_roots())
    own = st.session_state.get(keys.OWN_RESULTS, [])
    shown = [one for one in listed if private not in one.folder.parents or one.folder in own or folders.is_open()]
    # A link may have a value that is in no list: an older spelling, or results that are for those with the link.
    typed = st.session_state.get(keys.RESULTS) or st.query_params.get(keys.RESULTS)
    chosen = None
    if typed:
        with show_errors():
            chosen = folders.find_typed(typed.strip(), [one.folder for one in listed])
    names = [folders.name_folder(one.folder) for one in shown]
    name = None if chosen is None else folders.name_folder(chosen)
    if name is not None and name not in names:
        names.append(name)
    if typed != name:
        st.session_state[keys.RESULTS] = name
    is_open = folders.is_open()
    st.selectbox(
        "Results",
        names,
        index=None,
        key=keys.RESULTS,
        bind="query-params",
        accept_new_options=is_open,
        placeholder="Choose results, or type the name of a folder" if is_open else "Choose results",
        help=f"Folders that a batch wrote, on the machine that runs this app{' (any of it)' if is_open else ''}.",
    )
    return chosen


def _list_roots() -> tuple[Path, ...]:
    """Return the folders below which the page looks for results."""
    return (folders.results_folder(), *folders.listed_folders(), *([Path()] if folders.is_open() else ()))


@st.cache_data(ttl=20, show_spinner=False)
def _list_results(roots: tuple[Path, ...]) -> list[ListedResults]:
    return list_results(roots)


def _show_results(results: Results, summary: DatasetSummary) -> None:
    st.caption(f"{plain(summary.network)}, {len(summary.class_names):,} classes")
    st.html(html.make_value_list(summary.describe()))
    dataset_images.show_images(results, summary)
    dataset_panels.show_average_maps(results, summary)
    if len(summary.pairs):
        dataset_panels.show_confusions(results, summary)
    if summary.counts.images > summary.counts.errors:
        dataset_panels.show_gallery(results, summary)


def _open_results(folder: Path) -> Results:
    """Open a folder of results.

    Raises:
        InspectorError: the folder holds no results.
    """
    name = folders.name_folder(folder)
    with st.spinner("Opening the results ..."):
        try:
            if not folder.is_dir():
                raise InspectorError(f"No folder {name} on this machine. Use one that `inspector batch` wrote.")
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
