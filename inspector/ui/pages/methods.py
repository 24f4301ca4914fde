"""Part of the page Compare: the exact map beside other attribution methods, their sums and their faithfulness."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import streamlit as st

from inspector.analysis.attribution.case import Attribution, OnProgress, ShouldStop
from inspector.analysis.attribution.methods import METHODS, compute_attribution
from inspector.analysis.faithfulness import PatchTest
from inspector.analysis.randomization import ALL_LAYERS, LAST_LAYER, measure_randomization, shuffle_weights
from inspector.explain.class_maps import ClassMaps
from inspector.ui.components.controls import choose_several, switch
from inspector.ui.components.markdown import plain
from inspector.ui.pages import methods_panels as panels
from inspector.ui.pages.methods_panels import BASELINE, CURVES, MAP, RANDOMIZED, MethodsSelection, Results
from inspector.ui.state import cache, keys
from inspector.ui.state.handover import hand_on, take_over
from inspector.ui.state.jobs import Job, Task, Work, catch_errors, describe_place
from inspector.ui.state.selection import choose_class
from inspector.ui.state.top_bar import PageSelection

_QUICK = 4  # images that pass through the network for one map; a method with more is slow
DEFAULT_METHODS = ("Exact map", "Grad-CAM", "Saliency", "Integrated gradients")


def show(selection: PageSelection) -> None:
    """Draw this part of the page."""
    take_over(selection, "methods", (keys.CLASS,))
    chosen = _choose(selection.maps, selection.key)
    hand_on(selection, k=chosen.k)
    if not chosen.names:
        st.info("Choose a method above to see its map of the photo.", icon=":material/compare:")
        return
    _show_methods(selection.maps, chosen)


def _choose(maps: ClassMaps, key: cache.MapsKey) -> MethodsSelection:
    """Show the controls. Return the choices."""
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        k = choose_class(maps)
        text = (
            "Does the network use what a map marks? The photo is deleted, or inserted, in the order of the map, "
            "highest values first, while the probability of the class is measured."
        )
        curves = switch("Insertion and deletion", text, key=keys.CURVES, on=True)
    text = (
        "The exact map is computed from the head of the network; the other methods approximate. Occlusion and "
        "Score-CAM need more than a hundred forward passes."
    )
    names = choose_several("Methods", list(METHODS), list(DEFAULT_METHODS), key=keys.METHODS, help=text)
    is_randomized = st.session_state.get(keys.SHUFFLED) == (key, k)
    return MethodsSelection(key, k, tuple(name for name in METHODS if name in names), curves, is_randomized)


def _show_methods(maps: ClassMaps, chosen: MethodsSelection) -> None:
    results = cache.get_method_results(chosen.key, chosen.k)
    job = _start_job(maps, chosen, results)
    _show_progress(job, len(results))
    # Use a copy, because the job adds results while the page is drawn.
    finished = dict(results)
    panels.show_maps(maps, chosen, finished)
    panels.show_downloads(maps, chosen, finished)
    if chosen.curves:
        panels.show_curves(maps, chosen, finished)
    panels.show_numbers(chosen, finished)
    panels.show_randomization(maps, chosen, finished)


def _start_job(maps: ClassMaps, chosen: MethodsSelection, results: Results) -> Job | None:
    """Return the job that computes the missing results; None if none is missing. Stop the job of an earlier choice."""
    previous: tuple[MethodsSelection, Job] | None = st.session_state.get(keys.METHODS_JOB)
    missing = {task: work for task, work in _list_works(maps, chosen).items() if task not in results}
    if previous is not None:
        previous_choice, job = previous
        if missing and previous_choice == chosen and (job.running or job.stop.is_set()):
            return job
        job.stop.set()
    if not missing:
        st.session_state.pop(keys.METHODS_JOB, None)
        return None
    job = Job(missing, results, None if previous is None else previous[1])
    st.session_state[keys.METHODS_JOB] = chosen, job
    # Wait a moment, so that this run of the page already shows the results of fast methods.
    job.thread.join(0.3)
    return job


def _list_works(maps: ClassMaps, chosen: MethodsSelection) -> dict[Task, Work]:
    """Return task -> work for all chosen results, in the order in which they are computed.

    The maps of quick methods come first, then their curves, then each slow map with its curve.
    """
    classifier, inputs, k = maps.classifier, maps.classifier.inputs(cache.get_view(maps)), chosen.k
    results = cache.get_method_results(chosen.key, k)
    works: dict[Task, Work] = {}

    def after_map(name: str, compute: Callable[..., Any]) -> Work:
        """Make work that calls `compute` with the map of a method. If the map failed, return its error message."""

        def run(on_progress: OnProgress, should_stop: ShouldStop) -> Any:
            result = results[MAP, name]
            if isinstance(result, str):
                return result
            return compute(attribution=result, on_progress=on_progress, should_stop=should_stop)

        return run

    test = PatchTest(classifier, inputs, k)

    def measure(attribution: Attribution, **signals: Any) -> Any:
        return replace(test, **signals).measure(attribution)

    def measure_random(attribution: Attribution, **signals: Any) -> Any:
        return replace(test, **signals).measure_random_maps(attribution)

    quick, slow = _split_by_speed(chosen.names)
    for group in (quick, *([name] for name in slow)):
        for name in group:
            works[MAP, name] = partial(compute_attribution, classifier, inputs, k, name)
        for name in group if chosen.curves else ():
            works[CURVES, name] = after_map(name, measure)
    for name in chosen.names if chosen.curves else ():
        works[BASELINE, METHODS[name].grid] = after_map(name, measure_random)
    if chosen.is_randomized:
        for layers in (LAST_LAYER, ALL_LAYERS):
            # Shuffle the weights when the first method needs them, and only once for all methods.
            shuffle = functools.cache(partial(shuffle_weights, classifier, inputs, layers))

            def randomize(shuffle: Any = shuffle, **arguments: Any) -> Any:
                return measure_randomization(shuffle(), inputs, k, **arguments)

            for name in chosen.names:
                works[RANDOMIZED, layers, name] = after_map(name, randomize)
    return {task: catch_errors(work) for task, work in works.items()}


def _split_by_speed(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the methods that need few passes through the network, and the others, the quickest first."""
    ordered = sorted(names, key=lambda name: METHODS[name].images)
    count = sum(METHODS[name].images <= _QUICK for name in names)
    return ordered[:count], ordered[count:]


def _show_progress(job: Job | None, count: int) -> None:
    """Show a progress bar and a button to stop. Run the page again when there are more than `count` results."""
    place = st.empty()
    if job is None:
        return
    if not job.running:
        # A job that was not stopped has ended by itself: there is nothing to resume.
        if not job.stop.is_set():
            return
        with place.container(horizontal=True, vertical_alignment="center"):
            st.caption("Stopped.")
            if st.button("Resume", key=keys.RESUME, icon=":material/play_arrow:"):
                st.session_state.pop(keys.METHODS_JOB, None)
                st.rerun()
        return

    def watch() -> None:
        job.keep_alive()
        if not job.running or len(job.results) != count:
            st.rerun()
        with st.container(horizontal=True, vertical_alignment="center"):
            st.progress(job.progress, plain(describe_place(job.place)) if job.place else _describe_task(job.task))
            if st.button("Stop", key=keys.STOP, icon=":material/stop:"):
                job.stop.set()
                job.thread.join(2)
                st.rerun()

    with place.container():
        st.fragment(watch, run_every=0.4)()


def _describe_task(task: Task) -> str:
    if not task:
        return "Waiting ..."
    kind, *details = task
    name = details[-1]
    return {
        MAP: f"{name} ...",
        CURVES: f"Insertion and deletion by {name} ...",
        BASELINE: "Insertion and deletion by random maps ...",
        RANDOMIZED: f"{name} with shuffled weights ({details[0]}) ...",
    }[kind]
