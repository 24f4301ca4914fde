"""What the page Concepts works on: features and concepts of results, and one piece of work of the session at a time."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import streamlit as st

from inspector.datasets.concepts import files, outcomes
from inspector.datasets.concepts.model import Concepts
from inspector.datasets.features import StoredFeatures, read_features
from inspector.errors import InspectorError
from inspector.ui.components.choose_results import read_folder_state
from inspector.ui.components.stored_maps import make_opener
from inspector.ui.state import cache, folders, keys, sessions
from inspector.ui.state.jobs import Job, Work, catch_errors

if TYPE_CHECKING:
    from inspector.datasets.concepts.repair import Repair

Kind = Literal["find", "test", "repair"]

_RESULT = ("concepts",)  # task of the job
_DOING: Mapping[Kind, str] = {"find": "Finding", "test": "Testing", "repair": "Repairing as"}


@dataclass(eq=False)
class ConceptWork:
    """Work in progress, or ended."""

    kind: Kind
    subject: str  # the key of the card that is tested, or the name of the new network; "" for finding
    results: Path  # folder of the results
    work: Work
    job: Job = field(init=False)

    def __post_init__(self) -> None:
        self.job = Job({_RESULT: catch_errors(self.work)}, {}, ends_with_page=False)
        sessions.at_session_end(self.job.stop.set)

    @property
    def result(self) -> Any:
        """What the work returned; an error message; None if it was stopped or runs."""
        return self.job.results.get(_RESULT)

    def describe(self) -> str:
        """Return what is done, such as "Testing 3.1"."""
        return f"{_DOING[self.kind]} {self.subject or 'concepts'}"


@dataclass(frozen=True, eq=False)
class OpenedConcepts:
    """Results with features, and what is stored about their concepts."""

    stored: StoredFeatures
    folder: Path  # of the files of concepts
    may_write: bool
    concepts: Concepts | None  # None: not found yet, or not of these results
    problem: str  # why the stored concepts cannot be used; "" if there are none, or they can
    trials: Mapping[str, outcomes.ConceptTrial]  # by the keys of the cards
    running: ConceptWork | None  # on these results, when the files were read: it may have written others since

    @property
    def found(self) -> Concepts:
        """The concepts.

        Raises:
            InspectorError: there are none yet.
        """
        if self.concepts is None:
            raise InspectorError("No concepts were found yet.")
        return self.concepts

    def find_running(self, kind: Kind) -> ConceptWork | None:
        """Return the work of this kind that runs on these results."""
        return self.running if self.running is not None and self.running.kind == kind else None

    @property
    def flags_path(self) -> Path:
        """The file of flags."""
        return self.folder / files.FLAGS_FILE

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all classes of the network."""
        return tuple(self.stored.results.class_names)


@dataclass(frozen=True, eq=False)
class RepairedNetwork:
    """A repaired head, and the network that was written with it."""

    repair: "Repair"
    folder: Path
    results: Path  # folder of the results
    concepts_sha256: str  # of the concepts that were flagged


def find_work() -> ConceptWork | None:
    """Return the last work of this session."""
    work: ConceptWork | None = st.session_state.get(keys.CONCEPT_WORK)
    return work


def start_work(kind: Kind, subject: str, results: Path, work: Work) -> None:
    """Start work and run the page again. It goes on while the visitor uses other pages.

    Raises:
        InspectorError: other work of this session runs.
    """
    previous = find_work()
    if previous is not None and previous.job.running:
        raise InspectorError(f"{previous.describe()} is in progress. Wait until it has ended, or stop it.")
    st.session_state[keys.CONCEPT_WORK] = ConceptWork(kind, subject, results, work)
    st.rerun()


def open_concepts(folder: Path) -> OpenedConcepts:
    """Open the features of a folder of results, and its concepts if they were found before.

    Raises:
        InspectorError: there are no results or features, or a file of them is damaged.
    """
    work = find_work()
    running = work if work is not None and work.job.running and work.results == folder else None
    stored = _read_features(folder, read_folder_state(folder))
    stored = replace(stored, open_photo=make_opener(stored.results))
    own = folder / files.FOLDER
    may_write = folders.is_open() or _is_below(folder, folders.results_folder())
    if not (own / files.CARDS).is_file():
        return OpenedConcepts(stored, own, may_write, None, "", {}, running)
    try:
        found = _read_concepts(own, cache.read_change_time(own / files.CARDS))
        files.check_concepts(found, stored)
    except InspectorError as error:
        return OpenedConcepts(stored, own, may_write, None, str(error), {}, running)
    trials = outcomes.read_trials(own / outcomes.TRIALS_FILE, found)
    return OpenedConcepts(stored, own, may_write, found, "", trials, running)


def _is_below(folder: Path, parent: Path) -> bool:
    return folder.resolve().is_relative_to(parent.resolve())


@st.cache_resource(max_entries=4, show_spinner="Opening the features ...")
def _read_features(folder: Path, state: list[list[Any]]) -> StoredFeatures:
    return read_features(folder)


@st.cache_resource(max_entries=4, show_spinner=False)
def _read_concepts(folder: Path, changed: int) -> Concepts:
    return files.read_concepts(folder)
