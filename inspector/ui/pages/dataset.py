"""The page Dataset: runs a batch over photos, and shows its results, summarized and image by image."""

import hashlib
from pathlib import Path

import streamlit as st

from inspector.datasets.listing import read_listed
from inspector.datasets.results import Results
from inspector.datasets.summarize import open_summary
from inspector.datasets.summary import NUMBERS, DatasetSummary, belongs_to
from inspector.files import find_cache_folder
from inspector.ui.components import html
from inspector.ui.components.choose_results import choose_results, forget_list, open_results
from inspector.ui.components.controls import show_error, show_errors
from inspector.ui.components.markdown import plain
from inspector.ui.pages import dataset_batch, dataset_images, dataset_panels
from inspector.ui.state import cache, folders, keys
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
    chosen = choose_results("Folders that a batch wrote")
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
        results = open_results(chosen)
        _show_results(results, _summarize(results))


def _end(batch: Batch) -> None:
    """Choose the results of a run that has just ended, once. Show its message if it has failed."""
    if isinstance(batch.result, str):
        show_error(batch.result)
    if not batch.was_shown:
        batch.was_shown = True
        forget_list()
        if batch.request.out.is_dir():
            st.session_state[keys.RESULTS] = folders.name_folder(batch.request.out)


def _show_results(results: Results, summary: DatasetSummary) -> None:
    st.caption(f"{plain(summary.network)}, {len(summary.class_names):,} classes")
    st.html(html.make_value_list(summary.describe()))
    dataset_images.show_images(results, summary)
    dataset_panels.show_average_maps(results, summary)
    if len(summary.pairs):
        dataset_panels.show_confusions(results, summary)
    if summary.counts.images > summary.counts.errors:
        dataset_panels.show_gallery(results, summary)


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
