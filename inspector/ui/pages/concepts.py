"""The page Concepts: what a network reads for each class, tests of it, and a repaired last layer."""

from itertools import count
from pathlib import Path
from typing import Any

import streamlit as st

from inspector.analysis.localization import Regions, read_boxes
from inspector.datasets.concepts import files
from inspector.datasets.concepts.files import ConceptFlag
from inspector.datasets.concepts.find import concepts
from inspector.datasets.concepts.model import ConceptOptions
from inspector.datasets.concepts.report import make_concept_report
from inspector.errors import ExportError, InspectorError
from inspector.ui.components.choose_results import choose_results
from inspector.ui.components.concept_progress import show_progress
from inspector.ui.components.controls import show_download_buttons, show_error, show_errors
from inspector.ui.components.markdown import plain
from inspector.ui.pages import concepts_cards, concepts_repair
from inspector.ui.state import keys, uploads
from inspector.ui.state.concept_work import OpenedConcepts, find_work, open_concepts, start_work
from inspector.ui.state.jobs import OnProgress, ShouldStop
from inspector.ui.state.memory_file import open_memory_file
from inspector.ui.state.top_bar import Bar

_CHOSEN = "6 to 10, chosen"


def show(bar: Bar) -> None:
    """Draw the page."""
    st.title("Concepts", anchor=False)
    if (problem := st.session_state.pop(keys.CONCEPT_PROBLEM, None)) is not None:
        show_error(problem)
    folder = choose_results("Folders of results with feature maps", lambda listed: listed.has_features)
    work = find_work()
    if work is not None and isinstance(work.result, str) and work.results == folder:
        show_error(work.result)
    if work is not None and work.job.running and work.results != folder:
        show_progress(work)
    if folder is None:
        _explain(bar)
        return
    with show_errors():
        opened = open_concepts(folder)
        if opened.problem:
            show_error(opened.problem)
        _show_form(opened)
        if opened.concepts is None:
            return
        flags = _read_flags(opened)
        concepts_cards.show_class(bar, opened, flags)
        concepts_repair.show_repair(opened, flags)
        _show_report(opened, flags)


def _explain(bar: Bar) -> None:
    st.markdown(
        "What does a network read for each class, and which of it is a shortcut, such as a watermark or a ruler? "
        "Concepts are parts of the evidence for a class that add up to its logit. They are found in stored feature "
        "maps."
    )
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(
            'Choose results above, or make some: run a batch with "Keep feature maps" on the page Dataset. On the '
            "command line: `inspector batch PHOTOS --features -o results`.",
            width="stretch",
        )
        if bar.dataset_page is not None:
            st.page_link(bar.dataset_page, label="Run a batch", icon=":material/play_arrow:")


def _show_form(opened: OpenedConcepts) -> None:
    """Show the form that finds concepts."""
    if (work := opened.find_running("find")) is not None:
        show_progress(work)
        return
    is_first = opened.concepts is None
    with st.expander("Find concepts" if is_first else "Find again", expanded=is_first, icon=":material/search:"):
        if not opened.may_write:
            st.info("These results may only be read here. Find their concepts on the command line.")
            return
        with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
            help = "6, 8 or 10: as many as still lower what no concept explains by 1.25 % each."
            rank = st.selectbox("Per class", [_CHOSEN, *range(2, 21)], key=keys.FIND_RANK, width=170, help=help)
            help = "The search runs with so many seeds. A card says how well they agree."
            seeds = st.number_input("Seeds", 1, 10, 3, key=keys.FIND_SEEDS, width=120, help=help)
            help = "Share of each class's photos that is not looked at: a repair is measured there."
            held_out = st.number_input("Held out", 0.0, 0.5, 0.25, 0.05, key=keys.FIND_HELD_OUT, width=130, help=help)
        help = "A CSV with the columns file, x1, y1, x2, y2. Each card then says how much of it is on the objects."
        boxes = st.file_uploader(
            "Boxes of the objects (optional)",
            "csv",
            key=keys.FIND_OBJECTS,
            max_upload_size=uploads.MAX_LABELS // 1_000_000,
            help=help,
        )
        count = len(opened.stored.photos)
        if st.button(f"Find concepts on {count:,} photos", key=keys.FIND, type="primary", icon=":material/search:"):
            with show_errors():
                objects = None if boxes is None else _read_boxes(boxes.getvalue(), boxes.name)
                options = ConceptOptions(None if rank == _CHOSEN else rank, 0, seeds, held_out)
                _find(opened, options, objects)


def _read_boxes(data: bytes, name: str) -> Regions:
    with open_memory_file(data, name) as path:
        try:
            return Regions(read_boxes(path))
        except InspectorError as error:
            raise type(error)(str(error).replace(str(path), name)) from error


def _find(opened: OpenedConcepts, options: ConceptOptions, objects: Regions | None) -> None:
    stored, folder = opened.stored, opened.folder

    def find(on_progress: OnProgress, should_stop: ShouldStop) -> Path:
        found = concepts(stored, None, options, objects=objects, on_progress=on_progress, should_stop=should_stop)
        return files.write_concepts(folder, found)

    st.query_params.pop(keys.CONCEPT, None)
    start_work("find", "", stored.results.folder, find)


def _read_flags(opened: OpenedConcepts) -> dict[str, ConceptFlag] | None:
    """Return the flags; None if the file is of other concepts: then say so, with a button to begin a new one."""
    try:
        return files.read_flags(opened.flags_path, opened.found)
    except InspectorError as error:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.warning(plain(str(error)), icon=":material/flag:")
            kept = _name_old_flags(opened.flags_path)
            help = f"The file is kept as {plain(kept.name)}."
            if opened.may_write and st.button("Begin new flags", key=keys.NEW_FLAGS, help=help):
                _set_aside(opened.flags_path, kept)
                st.rerun()
        return None


def _name_old_flags(path: Path) -> Path:
    """Return a path beside the file of flags that no file has."""
    paths = (path.with_name(f"flags-before{number or ''}.json") for number in count())
    return next(kept for kept in paths if not kept.exists())


def _set_aside(path: Path, kept: Path) -> None:
    try:
        path.replace(kept)
    except OSError as error:
        raise ExportError(f"Cannot rename {path}: {error.strerror}.") from error


def _show_report(opened: OpenedConcepts, flags: dict[str, ConceptFlag] | None) -> None:
    """Show the button that makes the report."""
    repaired = concepts_repair.find_repaired(opened)
    settings: dict[str, Any] = {"repair": None if repaired is None else repaired.repair}

    def make(name: str) -> bytes:
        trials = list(opened.trials.values())
        return make_concept_report(opened.stored, opened.found, flags or {}, trials=trials, **settings).encode()

    st.divider()
    title = "All cards, names, flags, tests and the repair in one file, which opens offline:"
    show_download_buttons({"Download the report": "concepts.html"}, make, title, "concepts ")
