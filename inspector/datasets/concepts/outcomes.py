"""What tests of concepts found, and the file that keeps it beside the concepts. This module does not import torch.

RESULTS/concepts/trials.json    the last test of each concept
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast, get_args

from inspector.analysis.transplant import Removal
from inspector.datasets.concepts.files import MISSING, read_bounded
from inspector.datasets.concepts.model import Concepts
from inspector.entries import Entries, parse_json
from inspector.errors import ExportError, InspectorError, translate_errors
from inspector.files import json_bytes, lock_folder, write_atomic
from inspector.networks.size_accuracy import compute_wilson_interval
from inspector.version import __version__

TRIALS_FILE = "trials.json"
RATES = ("added", "added_random", "removed", "removed_random")  # fields of ConceptTrial


@dataclass(frozen=True)
class TrialOptions:
    """How a concept is tested.

    Raises:
        InspectorError: a number is below 1.
    """

    photos: int = 60  # of other classes that a part is pasted into, and of the class that it is removed from, at most
    places: int = 3  # in each photo of another class
    removal: Removal = "inpaint"
    seed: int = 0  # of photos, places and random parts

    def __post_init__(self) -> None:
        for name in ("photos", "places"):
            if getattr(self, name) < 1:
                raise InspectorError(f"Expected {name} of 1 or more, got {getattr(self, name)}.")


DEFAULT_TRIALS = TrialOptions()


@dataclass(frozen=True)
class Rate:
    """How many of some trials had an outcome, with its 95 % confidence interval."""

    count: int
    trials: int

    @property
    def share(self) -> float:
        """The share, 0-1; nan without trials."""
        return self.count / self.trials if self.trials else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % confidence interval of the share by Wilson; of several places in a photo each counts as a trial."""
        return compute_wilson_interval(self.count, self.trials) if self.trials else (0.0, 1.0)

    def __str__(self) -> str:
        if not self.trials:
            return "no trials"
        low, high = self.interval
        return f"{self.count} of {self.trials} ({self.share:.0%}, {low:.0%} to {high:.0%})"


@dataclass(frozen=True)
class ConceptTrial:
    """What happens where a concept is added or removed."""

    key: str  # of the card
    options: TrialOptions
    added: Rate  # trials in which a photo of another class becomes this class with a part of the concept
    added_random: Rate  # the same with random parts of the same photos
    removed: Rate  # photos that leave the class without the concept
    removed_random: Rate  # the same without random regions of the same size


def describe_rate(rate: Rate) -> dict[str, Any]:
    """Return a rate with its interval in types that JSON can store."""
    share = rate.share if rate.trials else None
    return {"count": rate.count, "trials": rate.trials, "share": share, "interval": list(rate.interval)}


def describe_trial(trial: ConceptTrial) -> dict[str, Any]:
    """Return the rates of a test in types that JSON can store."""
    return {name: describe_rate(getattr(trial, name)) for name in RATES}


def read_trials(path: str | Path, found: Concepts) -> dict[str, ConceptTrial]:
    """Read the last test of each concept by its key; empty if there is no file, or one of other concepts.

    Args:
        path: a trials.json.
        found: the concepts.

    Raises:
        InspectorError: the file is damaged.
    """
    path = Path(path)
    if not path.exists():
        return {}
    problem = f"Cannot read the tests in {path} ({{reason}}). Remove the file, and test again."
    with translate_errors(InspectorError, problem, {KeyError: problem.replace("{reason}", MISSING)}):
        about = Entries(parse_json(read_bounded(path)))
        if about.text("concepts_sha256") != found.sha256:
            return {}
        keys = [card.key for card in found.cards()]
        trials = [_parse_trial(one) for one in about.objects("trials")]
        if unknown := [one.key for one in trials if one.key not in keys]:
            raise ValueError(f"there is no concept {unknown[0]}")
        return {key: one for key in keys for one in trials if one.key == key}


def add_trial(path: str | Path, found: Concepts, trial: ConceptTrial) -> dict[str, ConceptTrial]:
    """Write a test into a trials.json, in place of an earlier one of the concept. Tests of other concepts are dropped.

    Returns:
        All tests, as `read_trials`.

    Raises:
        ExportError: the file cannot be written.
        InspectorError: it is damaged.
        ClassError: there is no such concept.
    """
    path = Path(path)
    found.find_card(trial.key)
    with translate_errors(ExportError, f"Cannot write {path}: {{reason}}."):
        path.parent.mkdir(exist_ok=True)  # not its parents: results may have been moved meanwhile
        with lock_folder(path.parent):
            trials = {**read_trials(path, found), trial.key: trial}
            about = {"version": __version__, "network": found.network, "concepts_sha256": found.sha256}
            listed = [
                {"concept": one.key, "options": asdict(one.options)} | describe_trial(one) for one in trials.values()
            ]
            write_atomic(path, json_bytes(about | {"trials": listed}, ascii_only=False))
    return read_trials(path, found)


def _parse_trial(entries: Entries) -> ConceptTrial:
    options = entries.object("options")
    removal = cast(Removal, options.choice("removal", get_args(Removal)))
    how = TrialOptions(options.whole("photos", 1), options.whole("places", 1), removal, options.whole("seed"))
    rates: Mapping[str, Rate] = {name: _parse_rate(entries.object(name)) for name in RATES}
    return ConceptTrial(entries.text("concept"), how, **rates)


def _parse_rate(entries: Entries) -> Rate:
    count, trials = entries.whole("count"), entries.whole("trials")
    if count > trials:
        raise ValueError(f"{count} of {trials} trials")
    return Rate(count, trials)
