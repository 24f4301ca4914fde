"""The test of a concept: its parts pasted into other photos, and the concept removed from its own."""

from typing import get_args

import streamlit as st

from inspector.analysis.transplant import Removal
from inspector.datasets.concepts.model import ConceptCard
from inspector.datasets.concepts.outcomes import TRIALS_FILE, ConceptTrial, TrialOptions, add_trial
from inspector.datasets.concepts.trials import measure_concept
from inspector.ui.components.concept_progress import show_progress
from inspector.ui.components.controls import show_errors, show_table
from inspector.ui.components.markdown import plain
from inspector.ui.state import keys
from inspector.ui.state.concept_work import OpenedConcepts, start_work
from inspector.ui.state.jobs import OnProgress, ShouldStop
from inspector.ui.state.networks import find_network

_REMOVALS = get_args(Removal)


def show_trial(opened: OpenedConcepts, card: ConceptCard) -> None:
    """Show the result of the last test of a concept, and the form that tests it."""
    st.subheader("Does it decide?", anchor=False)
    name = opened.found.find_class(card.k).name
    st.caption(
        f"Its parts are pasted into photos of other classes, and it is removed from photos of {plain(name)}. If random "
        "parts and regions of the same size do as much, it decides no more than anything else."
    )
    if (trial := opened.trials.get(card.key)) is not None:
        _show_result(trial, name)
    if not opened.may_write:
        return
    if (work := opened.find_running("test")) is not None:
        show_progress(work)
        return
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        photos = st.number_input("Photos", 1, 500, 60, key=keys.TRIAL_PHOTOS, width=120, help="At most, of each kind.")
        help = "In each photo of another class."
        places = st.number_input("Places", 1, 20, 3, key=keys.TRIAL_PLACES, width=120, help=help)
        help = "Continue what is around it, or blur."
        removal = st.segmented_control(
            "Removal", _REMOVALS, default="inpaint", required=True, key=keys.TRIAL_REMOVAL, help=help
        )
        label = plain(f"Test {card.key}" if trial is None else f"Test {card.key} again")
        if st.button(label, key=keys.TRIAL, type="primary", icon=":material/science:"):
            with show_errors():
                _start(opened, card, TrialOptions(photos, places, removal or "inpaint"))


def _start(opened: OpenedConcepts, card: ConceptCard, options: TrialOptions) -> None:
    network = find_network(opened.found.network)
    with st.spinner(f"Loading {plain(network.name)} ..."):
        classifier = network.load()

    def test(on_progress: OnProgress, should_stop: ShouldStop) -> ConceptTrial:
        trial = measure_concept(
            classifier,
            opened.stored,
            opened.found,
            card.key,
            options,
            on_progress=lambda done, passes: on_progress(done / passes),
            should_stop=should_stop,
        )
        add_trial(opened.folder / TRIALS_FILE, opened.found, trial)
        return trial

    start_work("test", card.key, opened.stored.results.folder, test)


def _show_result(trial: ConceptTrial, name: str) -> None:
    rows = [
        {
            "test": f"photos of other classes with a part of it become {name}",
            "concept": str(trial.added),
            "random": str(trial.added_random),
        },
        {
            "test": f"photos predicted as {name} leave it without the concept",
            "concept": str(trial.removed),
            "random": str(trial.removed_random),
        },
    ]
    show_table(rows, "Results of the test, with 95 % confidence intervals")
    options = trial.options
    st.caption(
        f"With 95 % confidence intervals. At most {options.photos:,} photos, {options.places:,} places each, removed "
        f"by {'inpainting' if options.removal == 'inpaint' else 'blurring'}."
    )
