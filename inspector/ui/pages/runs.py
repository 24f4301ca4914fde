"""The page Training runs: it compares runs of `inspector train`."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import streamlit as st
from numpy.typing import NDArray

from inspector.errors import InspectorError
from inspector.networks.catalog import shipped_models
from inspector.training import compare_runs
from inspector.training.compare_runs import RunGroup, group_runs
from inspector.training.read_run import Confusion, Run, find_runs, read_run
from inspector.ui.components import charts, html
from inspector.ui.components.controls import SHARE, choose_option, choose_several, show_error, show_errors, show_table
from inspector.ui.components.markdown import plain
from inspector.ui.components.save import show_save_menu
from inspector.ui.pages import runs_photo
from inspector.ui.pages.runs_saved import make_average_to_save, make_confusion_to_save, make_curves_to_save
from inspector.ui.state import keys
from inspector.ui.state.top_bar import Bar

_T = TypeVar("_T")
_DEVIATION = "standard deviation"


@dataclass(frozen=True)
class FoundRuns:
    """The finished runs that were found in folders."""

    experiments: Mapping[str, tuple[RunGroup, ...]]  # name of the experiment -> its runs
    errors: tuple[str, ...]  # error messages of the runs that could not be read


def show(bar: Bar) -> None:
    """Draw the page."""
    keys.update_link()
    folders = list_run_folders()
    found = find_experiments(folders)
    groups, marks = _choose_runs(found.experiments) if found.experiments else ([], {})
    for error in found.errors:
        show_error(error)
    if not found.experiments:
        st.info(
            f"No finished run in {plain(' or '.join(map(str, folders)) or 'runs')}. Use `inspector train "
            "experiments/lenet/stride_gap.toml --data data` to write some to `runs`; this page compares them. Until "
            "then, see [the class maps](./) of the built-in networks.",
            icon=":material/science:",
        )
    elif not groups:
        st.info("Choose a run above.", icon=":material/science:")
    else:
        _show_runs(groups, marks, bar)


def _show_runs(groups: Sequence[RunGroup], marks: Mapping[str, tuple[str, str]], bar: Bar) -> None:
    _show_curves(groups, marks)
    _show_scores(groups)
    _show_evidence(groups)
    confusions = _read_all(groups, RunGroup.confusion)
    if confusions:
        _show_confusion(groups, confusions)
    if maps := _read_all(groups, RunGroup.average_maps):
        _show_average_maps(groups, maps, _name_classes(maps, confusions))
    runs_photo.show_photo_panel(groups, bar)


def list_run_folders() -> list[Path]:
    """Return the folders of runs: $INSPECTOR_RUNS, else ./runs and, in a checkout, experiments/*/results."""
    if chosen := os.environ.get("INSPECTOR_RUNS"):
        return [Path(folder) for folder in chosen.split(os.pathsep) if folder]
    folders = [Path("runs"), *sorted((shipped_models().parent / "experiments").glob("*/results"))]
    return [folder for folder in folders if next(folder.rglob("run.json"), None)] or folders[:1]


def find_experiments(folders: Iterable[Path]) -> FoundRuns:
    """Find the experiments in folders. Experiments of two folders stay separate, even if they have the same name."""
    experiments: dict[str, tuple[RunGroup, ...]] = {}
    errors: list[str] = []
    for folder in folders:
        if not next(folder.rglob("run.json"), None):
            continue
        runs = sorted(_read_runs(find_runs([folder]), errors), key=lambda run: (run.experiment, run.name))
        for experiment, members in groupby(runs, lambda run: run.experiment):
            if groups := tuple(_group_runs(members, errors)):
                experiments[experiment if experiment not in experiments else f"{experiment} in {folder}"] = groups
    return FoundRuns(experiments, tuple(errors))


def _read_runs(folders: Iterable[Path], errors: list[str]) -> Iterator[Run]:
    """Yield the runs that can be read; add an error message to `errors` for each run that cannot."""
    for folder in folders:
        try:
            yield read_run(folder)
        except InspectorError as error:
            errors.append(str(error))


def _group_runs(runs: Iterable[Run], errors: list[str]) -> Iterator[RunGroup]:
    # Group the runs of each name separately, so that an error in one name does not affect the others.
    for _, members in groupby(runs, lambda run: run.name):
        try:
            yield from group_runs(members)
        except InspectorError as error:
            errors.append(str(error))


def _choose_runs(experiments: Mapping[str, tuple[RunGroup, ...]]) -> tuple[list[RunGroup], dict[str, tuple[str, str]]]:
    """Show the choice of runs. Return the chosen runs, and label of a run -> (color, shape) of its marks."""
    most = charts.MAX_RUNS
    with st.container(horizontal=True, vertical_alignment="top", gap="medium"):
        experiment = choose_option("Experiment", list(experiments), key=keys.EXPERIMENT)
        groups = {group.label: group for group in experiments[experiment]}
        labels = list(groups)
        settings = {"format_func": plain, "help": "One per recipe, with all its seeds."}
        chosen = choose_several("Runs", labels, labels[:most], key=f"runs_{experiment}", **settings)
    if len(chosen) > most:
        st.info(f"Only the first {most} of {len(chosen)} runs are shown: more cannot be distinguished by their marks.")
    chosen = [label for label in labels if label in chosen][:most]
    # If there are enough marks, give one to every run, so that a run keeps its mark when others are left out.
    marks = charts.assign_marks(labels if len(labels) <= most else chosen)
    return [groups[label] for label in chosen], marks


def _show_curves(groups: Sequence[RunGroup], marks: Mapping[str, tuple[str, str]]) -> None:
    left, right = st.columns(2, gap="large")
    with left:
        st.subheader("Top-1 accuracy on the test images", anchor=False)
        st.altair_chart(charts.draw_top1_chart(groups, marks), alt="Top-1 accuracy on the test images after each epoch")
        show_save_menu([make_curves_to_save(groups, marks, "top-1 accuracy", "top1")], "accuracy chart")
    with right:
        st.subheader("Loss in nats", anchor=False)
        chart = charts.draw_loss_chart(groups, marks)
        st.altair_chart(chart, alt="Loss of the test and training images after each epoch")
        show_save_menu([make_curves_to_save(groups, marks, "loss", "loss")], "loss chart")
    st.caption(
        "Mean over the seeds; the band is one standard deviation wide on each side. Point at a mark for its numbers. "
        "Click a name in the legend to highlight its run, double-click to show all runs again."
    )


def _show_scores(groups: Sequence[RunGroup]) -> None:
    columns = compare_runs.list_columns(groups)
    rows = [dict(zip(columns, row, strict=True)) for row in compare_runs.format_rows(groups)]
    show_table(rows, "The scores of each run")
    st.caption(plain(compare_runs.make_caption(groups)))


def _show_evidence(groups: Sequence[RunGroup]) -> None:
    rows = [row for group in groups if (row := make_evidence_row(group)) is not None]
    if not rows:
        return
    st.subheader("Evidence inside the object", anchor=False)
    columns = {"inside the object": SHARE, "pointing game": SHARE}
    show_table(rows, "Evidence inside the object, one row per run", columns)
    st.caption(
        "Inside the object: the share of the positive evidence for the true class that lies in the box or mask of the "
        "object, the mean over test images and seeds, with the standard deviation over the seeds. Pointing game: the "
        "share of images whose maximum lies there."
    )


def make_evidence_row(group: RunGroup) -> dict[str, Any] | None:
    """Return the evidence inside the object of one group of runs; None if a seed has not measured it."""
    if (share := group.inside()) is None:
        return None
    measured = [run.class_maps["inside"] for run in group.runs if run.class_maps is not None]
    return {
        "run": group.label,
        "inside the object": share[0],
        _DEVIATION: f"\N{PLUS-MINUS SIGN} {100 * share[1]:.1f} %" if len(measured) > 1 else "",
        "pointing game": compare_runs.mean_and_deviation(float(inside["pointing"]) for inside in measured)[0],
        "images": measured[0].get("images"),
    }


def _read_all(groups: Sequence[RunGroup], read: Callable[[RunGroup], _T | None]) -> dict[str, _T]:
    """Call `read` with each group; leave out groups for which it returns None. Show an error for a broken file."""
    values = {}
    for group in groups:
        with show_errors():
            if (value := read(group)) is not None:
                values[group.label] = value
    return values


@st.fragment
def _show_confusion(groups: Sequence[RunGroup], confusions: Mapping[str, Confusion]) -> None:
    st.subheader("Confusion matrix", anchor=False)
    label = choose_option("Run", list(confusions), key=keys.CONFUSION_RUN)
    confusion = confusions[label]
    wide, narrow = st.columns([3, 2], gap="large")
    with wide:
        if len(confusion.classes) <= charts.MAX_CLASSES:
            dark = st.context.theme.type == "dark"
            # Limit the width: on a wide screen, the cells would be much wider than high.
            with st.container(width=170 + 44 * len(confusion.classes)):
                st.altair_chart(charts.draw_confusion_matrix(confusion, dark), alt=f"Confusion matrix of {label}")
            group = next(group for group in groups if group.label == label)
            show_save_menu([make_confusion_to_save(group, confusion)], "confusion chart")
            st.caption(
                "One row per true class, in percent of its test images. Blue: classified correctly; orange: not."
            )
        else:
            st.info(f"A matrix of {len(confusion.classes)} classes is too large to show.")
    with narrow:
        st.markdown("**Most frequent confusions**")
        lines = charts.list_confusions(confusion)
        st.html(html.make_ordered_list(lines) if lines else "None: every test image is classified correctly.")
        seeds = next(len(group.runs) for group in groups if group.label == label)
        correct, images = int(confusion.counts.trace()), int(confusion.counts.sum())
        pooled = f", summed over {seeds} seeds" if seeds > 1 else ""
        st.caption(f"{correct:,} of {images:,} test images classified correctly{pooled}.")


@st.fragment
def _show_average_maps(
    groups: Sequence[RunGroup], maps: Mapping[str, NDArray[Any]], names: Mapping[str, tuple[str, ...]]
) -> None:
    all_names = list(dict.fromkeys(name for of_run in names.values() for name in of_run))
    heading = st.empty()
    name = choose_option("Class", all_names, key=keys.RUNS_CLASS)
    heading.subheader(f"Average class map of {plain(name)}", anchor=False)
    with st.spinner("Drawing ..."):
        chosen = {label: (maps[label], of_run.index(name)) for label, of_run in names.items() if name in of_run}
        st.html(html.draw_average_maps(chosen))
    by_label = {group.label: group for group in groups}
    pictures = [make_average_to_save(by_label[label], values, k, name) for label, (values, k) in chosen.items()]
    show_save_menu(pictures, "average picture", "Save a picture")
    st.caption(
        "Contribution per cell (sums to the logit): the mean over the test images of this class. Red is evidence for "
        "it, blue against it. Each run has one scale for all its classes: heads differ in the size of their logits."
    )


def _name_classes(maps: Mapping[str, NDArray[Any]], confusions: Mapping[str, Confusion]) -> dict[str, tuple[str, ...]]:
    """Return label of a run -> names of its classes; "class 0" and so on if the run has no names."""
    names = {}
    for label, values in maps.items():
        classes = confusions[label].classes if label in confusions else ()
        names[label] = classes if len(classes) == len(values) else tuple(f"class {k}" for k in range(len(values)))
    return names
