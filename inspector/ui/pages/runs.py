"""The page of the laboratory: what `inspector train` left, compared."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import streamlit as st
from numpy.typing import NDArray

from inspector.errors import InspectorError
from inspector.networks.catalog import models_folder
from inspector.training.compare_runs import RunGroup, caption, group_runs, mean_and_deviation, table_header, table_rows
from inspector.training.read_run import Confusion, Run, find_runs, read_run
from inspector.ui.components import charts, html
from inspector.ui.pages import runs_photo

_T = TypeVar("_T")


@dataclass(frozen=True)
class Found:
    """What lies in the folders of runs."""

    experiments: Mapping[str, tuple[RunGroup, ...]]
    problems: tuple[str, ...]  # a sentence each


def show() -> None:
    folders = run_folders()
    found = find(folders)
    with st.sidebar:
        st.title("Laboratory", anchor=False)
        st.caption("How trained networks and their heads compare.")
        groups, marks = _choose(found.experiments) if found.experiments else ([], {})
    for problem in found.problems:
        st.error(problem, icon=":material/error:")
    if not found.experiments:
        st.info(
            f"No finished run in {' or '.join(map(str, folders)) or 'runs'}: "
            "`inspector train experiments/lenet/stride_gap.toml --data data` makes some in `runs`, and this page then "
            "compares them. Until then there are [the class maps](./) of the networks that come with it.",
            icon=":material/science:",
        )
    elif not groups:
        st.info("Choose a run in the sidebar.", icon=":material/science:")
    else:
        _curves(groups, marks)
        _table(groups)
        _evidence(groups)
        confusions = _known(groups, RunGroup.confusion)
        if confusions:
            _confusions(groups, confusions)
        if maps := _known(groups, RunGroup.average_maps):
            _average_maps(maps, _class_names(maps, confusions))
        runs_photo.show(groups)


def run_folders() -> list[Path]:
    """Where runs lie: $INSPECTOR_RUNS, else ./runs and, in a checkout, the results beside the recipes."""
    if chosen := os.environ.get("INSPECTOR_RUNS"):
        return [Path(folder) for folder in chosen.split(os.pathsep) if folder]
    usual = [Path("runs"), *sorted((models_folder().parent / "experiments").glob("*/results"))]
    # Whether an unfinished run is all there is: then the folder is as good as empty.
    return [folder for folder in usual if next(folder.rglob("run.json"), None)] or usual[:1]


def find(folders: Iterable[Path]) -> Found:
    """The experiments in the folders and what was wrong there; an experiment of one name in two folders is two."""
    experiments: dict[str, tuple[RunGroup, ...]] = {}
    problems: list[str] = []
    for folder in folders:
        if not next(folder.rglob("run.json"), None):
            continue
        runs = sorted(_readable(find_runs([folder]), problems), key=lambda run: (run.experiment, run.name))
        for experiment, members in groupby(runs, lambda run: run.experiment):
            if groups := tuple(_grouped(members, problems)):
                experiments[experiment if experiment not in experiments else f"{experiment} in {folder}"] = groups
    return Found(experiments, tuple(problems))


def _readable(folders: Iterable[Path], problems: list[str]) -> Iterator[Run]:
    for folder in folders:
        try:
            yield read_run(folder)
        except InspectorError as error:
            problems.append(str(error))


def _grouped(runs: Iterable[Run], problems: list[str]) -> Iterator[RunGroup]:
    # By name: one that cannot be grouped does not take the others with it.
    for _, members in groupby(runs, lambda run: run.name):
        try:
            yield from group_runs(members)
        except InspectorError as error:
            problems.append(str(error))


def _choose(experiments: Mapping[str, tuple[RunGroup, ...]]) -> tuple[list[RunGroup], dict[str, tuple[str, str]]]:
    """The groups from the sidebar, and the colours and shapes of all of their experiment."""
    experiment = st.selectbox("Experiment", list(experiments), key="experiment", bind="query-params")
    groups = {group.label: group for group in experiments[experiment]}
    labels = list(groups)
    chosen = st.pills(
        "Runs", labels, selection_mode="multi", default=labels[: charts.MOST_RUNS], key=f"runs_{experiment}",
        format_func=html.plain_text, bind="query-params", help="One a recipe, over all its seeds.",
    )  # fmt: skip
    if len(chosen) > charts.MOST_RUNS:
        st.info(f"The first {charts.MOST_RUNS} of {len(chosen)} runs are shown: more cannot be told apart.")
    chosen = [label for label in labels if label in chosen][: charts.MOST_RUNS]
    # As long as all fit, a run keeps its colour when others are left out.
    return [groups[label] for label in chosen], charts.marks_of(labels if len(labels) <= charts.MOST_RUNS else chosen)


def _curves(groups: Sequence[RunGroup], marks: Mapping[str, tuple[str, str]]) -> None:
    left, right = st.columns(2, gap="large")
    with left:
        st.subheader("Top-1 of the test images", anchor=False)
        st.altair_chart(charts.top1_chart(groups, marks), alt="Top-1 of the test images after each epoch")
    with right:
        st.subheader("Loss, in nats", anchor=False)
        st.altair_chart(charts.loss_chart(groups, marks), alt="Loss of the test and training images after each epoch")
    st.caption(
        "Mean over the seeds in a band of one standard deviation each way. Point at a mark for its numbers; click a "
        "name in the legend to bring it forward, twice to bring all back."
    )


def _table(groups: Sequence[RunGroup]) -> None:
    rows = [dict(zip(table_header(groups), row, strict=True)) for row in table_rows(groups)]
    st.dataframe(rows, hide_index=True, alt="The scores of each run")
    st.caption(caption(groups))


def _evidence(groups: Sequence[RunGroup]) -> None:
    rows = [row for group in groups if (row := evidence(group)) is not None]
    if not rows:
        return
    st.subheader("Is the evidence on the object?", anchor=False)
    percent = {
        name: st.column_config.ProgressColumn(format="percent", min_value=0, max_value=1)
        for name in ("inside the object", "pointing game")
    }
    st.dataframe(rows, hide_index=True, column_config=percent, alt="Evidence inside the object, a row a run")
    st.caption(
        "Inside the object: how much of the positive evidence for an image's own class lies in its box or mask, the "
        "mean over the test images and seeds; spread: the standard deviation over the seeds. Pointing game: at how "
        "many images the map's highest value lies there."
    )


def evidence(group: RunGroup) -> dict[str, Any] | None:
    """How much of the evidence lies inside the object, mean over the seeds; None where a seed does not know it."""
    if (share := group.inside()) is None:
        return None
    measured = [run.class_maps["inside"] for run in group.runs if run.class_maps is not None]
    return {
        "run": group.label,
        "inside the object": share[0],
        "spread": f"\N{PLUS-MINUS SIGN} {100 * share[1]:.1f} %" if len(measured) > 1 else "",
        "pointing game": mean_and_deviation(float(inside["pointing"]) for inside in measured)[0],
        "images": measured[0].get("images"),
    }


def _known(groups: Sequence[RunGroup], read: Callable[[RunGroup], _T | None]) -> dict[str, _T]:
    """What is read of each group that knows it; what is broken is one sentence."""
    known = {}
    for one in groups:
        try:
            if (value := read(one)) is not None:
                known[one.label] = value
        except InspectorError as error:
            st.error(str(error), icon=":material/error:")
    return known


@st.fragment
def _confusions(groups: Sequence[RunGroup], known: Mapping[str, Confusion]) -> None:
    st.subheader("Which classes are taken for which?", anchor=False)
    label = st.selectbox("Run", list(known), key="matrix", bind="query-params", width=280)
    confusion = known[label]
    wide, narrow = st.columns([3, 2], gap="large")
    with wide:
        if len(confusion.classes) <= charts.MOST_CLASSES:
            dark = st.context.theme.type == "dark"
            # On a wide screen the cells would be bars.
            with st.container(width=170 + 44 * len(confusion.classes)):
                st.altair_chart(charts.heat_map(confusion, dark), alt=f"Confusion matrix of {label}")
            st.caption("A row a true class, in percent of its test images. Blue: recognised, orange: not.")
        else:
            st.info(f"A matrix of {len(confusion.classes)} classes is too large to show.")
    with narrow:
        st.markdown("**Most frequent confusions**")
        lines = "".join(f"<li>{escape(line)}</li>" for line in charts.most_frequent(confusion))
        st.html(f"<ol>{lines}</ol>" if lines else "None: every test image got its class.")
        seeds = next(len(group.runs) for group in groups if group.label == label)
        right, images = int(confusion.counts.trace()), int(confusion.counts.sum())
        over = f", those of {seeds} seeds together" if seeds > 1 else ""
        st.caption(f"{right:,} of {images:,} test images recognised{over}.")


@st.fragment
def _average_maps(maps: Mapping[str, NDArray[Any]], names: Mapping[str, tuple[str, ...]]) -> None:
    every = list(dict.fromkeys(name for some in names.values() for name in some))
    heading = st.empty()
    name = st.selectbox("Class", every, key="average", bind="query-params", width=280)
    heading.subheader(f"Where does each network look for {html.plain_text(name)}?", anchor=False)
    with st.spinner("Drawing ..."):
        of_class = {label: some.index(name) for label, some in names.items() if name in some}
        st.html(html.draw_average_maps({label: (maps[label], k) for label, k in of_class.items()}))
    st.caption(
        "The mean of this class's own map over its test images, cell by cell: red speaks for the class, blue against "
        "it. Each run has its own scale, for all its classes: heads differ in the size of their logits."
    )


def _class_names(maps: Mapping[str, NDArray[Any]], confusions: Mapping[str, Confusion]) -> dict[str, tuple[str, ...]]:
    """The class names of each run's maps; numbers where the run does not tell."""
    names = {}
    for label, values in maps.items():
        told = confusions[label].classes if label in confusions else ()
        names[label] = told if len(told) == len(values) else tuple(f"class {k}" for k in range(len(values)))
    return names
