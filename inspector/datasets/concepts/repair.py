"""Repair a head: fit it again on stored features without flagged concepts, and measure what changes.

Their directions are projected out of the pooled features, and in the fit the cells that have them are not pooled: what
projection leaves of a shortcut, such as another view of it, would be learned again from these cells.

Photos that `concepts` held out serve for all measurements, and for nothing else.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inspector.analysis.evidence import compute_shares, pool_cells
from inspector.analysis.linear_head import LinearHead
from inspector.analysis.refit import Array, make_basis, project_out, refit_head
from inspector.datasets.concepts.files import ConceptFlag, read_bounded
from inspector.datasets.concepts.find import list_held_out
from inspector.datasets.concepts.model import ClassConcepts, ConceptCard, Concepts
from inspector.datasets.concepts.outcomes import DEFAULT_TRIALS, Rate, TrialOptions, describe_rate
from inspector.datasets.concepts.photo import find_strong_cells
from inspector.datasets.concepts.trials import PastedFeatures, capture_pasted, check_network, require_cells
from inspector.datasets.features import StoredFeatures
from inspector.errors import InspectorError, translate_errors
from inspector.explain.classifier import Classifier

_ROWS = 200  # photos whose features are read at once


@dataclass(frozen=True)
class HeadScores:
    """How good a head is on the held-out photos."""

    accuracy: Rate
    recall: Mapping[int, Rate]  # by class
    added: Mapping[str, Rate]  # by key of a flagged concept: photos of other classes that become its class with it

    @property
    def mean_recall(self) -> float:
        """Mean of the recalls of all classes, 0-1."""
        return float(np.mean([one.share for one in self.recall.values()]))


@dataclass(frozen=True)
class ChangedPhoto:
    """A photo that the repaired head calls another class."""

    index: int
    path: str
    label: int | None
    before: int
    after: int
    held_out: bool


@dataclass(frozen=True, eq=False)
class Repair:
    """A repaired head, with scores beside those of other heads."""

    flagged: tuple[str, ...]  # keys of the concepts whose directions were projected out
    head: LinearHead
    original: LinearHead
    basis: Array  # (m, C): the directions, orthonormal
    scores: Mapping[str, HeadScores]  # "before", "repaired", "without refit", and "trained without" if it was asked for
    changed: tuple[ChangedPhoto, ...]
    held_out: int  # photos of the measurements
    fitted: int  # photos of the fit
    trials: TrialOptions = field(default_factory=TrialOptions)


def repair_head(
    classifier: Classifier,
    stored: StoredFeatures,
    found: Concepts,
    flags: Mapping[str, ConceptFlag],
    *,
    without: Collection[str] = (),
    trials: TrialOptions = DEFAULT_TRIALS,
    on_progress: Callable[[float], None] = lambda done: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Repair:
    """Fit the head again without the concepts that are flagged as shortcuts, and measure it.

    Args:
        classifier: the network that made the results. It runs on photos with pasted parts.
        stored: the features.
        found: the concepts.
        flags: by the keys of cards; those with the flag "shortcut" count, of any number of classes.
        without: paths of photos that have a shortcut, if they are known. A head that is fitted anew without them shows
            what can be reached.
        trials: photos and places for the transplants.
        on_progress: is called with the share that is done, 0-1.
        should_stop: is called before each pass of the network.

    Raises:
        InspectorError: no concept is flagged as a shortcut, the photos have no labels, a class has no held-out photos,
            the classifier is another network, no cell has a flagged concept, or `without` has a photo that is not in
            the results, or all of a class.
        Cancelled: `should_stop` returned true.
    """
    check_network(classifier, stored)
    cards = [require_cells(card) for card in list_shortcuts(found, flags)]
    if not found.by_label:
        raise InspectorError(
            "The photos have no labels, which a repair is fitted and measured with. Use a folder per class."
        )
    pooled, labels = pool_all(stored)
    held_out = list_held_out(stored, found)
    if not held_out:
        raise InspectorError("No photo was held out to measure a repair on. Use `inspector concepts --held-out 0.25`.")
    indices = [photo.index for photo in stored.photos]
    is_held_out = np.array([index in held_out for index in indices])
    fit = ~is_held_out & (labels >= 0)
    original = LinearHead(stored.weight.astype(np.float64), stored.bias.astype(np.float64))
    basis = make_basis(np.stack([_find_direction(found.find_class(card.k), card) for card in cards]))
    heads = {
        "before": original,
        "repaired": _fit(classifier, original, _pool_without(stored, found, cards, pooled, fit), labels[fit], basis),
        "without refit": LinearHead(project_out(original.weight, basis), original.bias),
    }
    if without:
        clean = fit & ~_find_photos(stored, without)
        if lost := sorted(set(labels[fit].tolist()) - set(labels[clean].tolist())):
            raise InspectorError(
                f"Without the listed photos, none of {stored.results.class_names[lost[0]]} is left to fit a head on. "
                "List fewer photos."
            )
        heads["trained without"] = _fit(classifier, original, pooled[clean], labels[clean], basis[:0], from_zero=True)
    pasted = {}
    for number, card in enumerate(cards):
        pasted[card.key] = capture_pasted(
            classifier,
            stored,
            found,
            card,
            trials,
            on_progress=lambda done, passes, number=number: on_progress((number + done / passes) / len(cards)),  # type: ignore[misc]
            should_stop=should_stop,
        )
    tested = pooled[is_held_out], labels[is_held_out]
    return Repair(
        flagged=tuple(card.key for card in cards),
        head=heads["repaired"],
        original=original,
        basis=basis,
        scores={name: score_head(head, *tested, cards, pasted) for name, head in heads.items()},
        changed=_list_changed(stored, pooled, original, heads["repaired"], held_out),
        held_out=int(is_held_out.sum()),
        fitted=int(fit.sum()),
        trials=trials,
    )


def list_shortcuts(found: Concepts, flags: Mapping[str, ConceptFlag]) -> list[ConceptCard]:
    """List the cards that are flagged as shortcuts.

    Raises:
        InspectorError: there is none.
    """
    cards = [found.find_card(key) for key, one in flags.items() if one.flag == "shortcut"]
    if not cards:
        raise InspectorError(
            "No concept is flagged as a shortcut, so there is nothing to repair. Use `inspector concepts RESULTS "
            "--flag 3.1=shortcut`."
        )
    return cards


def pool_all(stored: StoredFeatures) -> tuple[Array, NDArray[np.int64]]:
    """Return the pooled features (n, C) of all photos of the results, and their labels (n,); -1: it has none."""
    indices = [photo.index for photo in stored.photos]
    chunks = [stored.pool(stored.read(indices[n : n + _ROWS])) for n in range(0, len(indices), _ROWS)]
    labels = [-1 if photo.label is None else photo.label for photo in stored.photos]
    return np.concatenate(chunks).astype(np.float64), np.array(labels, np.int64)


def score_head(
    head: LinearHead,
    pooled: Array,
    labels: NDArray[np.int64],
    cards: Sequence[ConceptCard] = (),
    pasted: Mapping[str, PastedFeatures] | None = None,
) -> HeadScores:
    """Score a head on pooled features: accuracy, recall of each class, and photos that become a class with a concept.

    Args:
        head: weight and bias.
        pooled: (n, C).
        labels: (n,).
        cards: flagged concepts.
        pasted: features of photos with their parts, by the keys of the cards.
    """
    right = head.classify(pooled) == labels
    recall = {int(k): Rate(int(right[labels == k].sum()), int((labels == k).sum())) for k in np.unique(labels)}
    added = {}
    for card in cards if pasted else ():
        assert pasted is not None
        one = pasted[card.key]
        others = head.classify(one.plain) != card.k
        added[card.key] = Rate(
            int((head.classify(one.pasted[others]) == card.k).sum()), int(others.sum()) * one.pasted.shape[1]
        )
    return HeadScores(Rate(int(right.sum()), len(right)), recall, added)


def read_photo_list(path: Path) -> list[str]:
    """Read a text file with the path of a photo per line.

    Raises:
        InspectorError: it cannot be read, or is no text.
    """
    with translate_errors(InspectorError, f"Cannot read {path} ({{reason}}). Use a text file with a path per line."):
        return parse_photo_list(read_bounded(path), path)


def parse_photo_list(content: bytes, name: str | Path) -> list[str]:
    """Return the paths in a text file that has one per line.

    Raises:
        InspectorError: it is no text in UTF-8. `name` is that of the file.
    """
    try:
        return [line for line in content.decode("utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise InspectorError(f"{name} is no text in UTF-8. Use a file with the path of a photo per line.") from error


def explain_change(stored: StoredFeatures, repair: Repair, index: int) -> NDArray[np.float64]:
    """Compute why a photo changed its class: the map of the change of the contrast of both classes.

    Args:
        stored: the features.
        repair: the repaired head.
        index: place of the photo in the results.

    Returns:
        Map (h, w) in logits. Its sum, with that of the biases, is how far the repair moved the difference between the
        logits of the class after and the class before.
    """
    (features,) = stored.read([index])
    pooled = stored.pool(features[None])
    before, after = (int(head.classify(pooled)[0]) for head in (repair.original, repair.head))
    change = repair.head.weight - repair.original.weight
    shares = compute_shares(features[None], stored.pooling)[0]
    return np.asarray((shares @ (change[after] - change[before])).reshape(features.shape[1:]))


def describe_repair(repair: Repair, found: Concepts, stored: StoredFeatures) -> dict[str, Any]:
    """Return what a repair did in types that JSON can store."""
    names = stored.results.class_names
    return {
        "network": found.network,
        "network_sha256": found.network_sha256,
        "concepts_sha256": found.sha256,
        "flagged": [{"concept": key, "class": names[found.find_card(key).k]} for key in repair.flagged],
        "directions": len(repair.basis),
        "photos": {"fitted": repair.fitted, "held_out": repair.held_out},
        "scores": {name: _describe_scores(scores, names) for name, scores in repair.scores.items()},
        "changed": [
            {
                "index": one.index,
                "path": one.path,
                "label": None if one.label is None else names[one.label],
                "before": names[one.before],
                "after": names[one.after],
                "held_out": one.held_out,
            }
            for one in repair.changed
        ],
    }


def _describe_scores(scores: HeadScores, names: Sequence[str]) -> dict[str, Any]:
    return {
        "accuracy": describe_rate(scores.accuracy),
        "mean_recall": scores.mean_recall,
        "recall": {names[k]: describe_rate(rate) for k, rate in scores.recall.items()},
        "transplant": {key: describe_rate(rate) for key, rate in scores.added.items()},
    }


def _pool_without(
    stored: StoredFeatures, found: Concepts, cards: Sequence[ConceptCard], pooled: Array, fit: NDArray[np.bool_]
) -> Array:
    """Return the pooled features of the photos of the fit, without cells that have a flagged concept of their class."""
    pooled = pooled.copy()
    for k in {card.k for card in cards}:
        own = [card for card in cards if card.k == k]
        places = [n for n, photo in enumerate(stored.photos) if fit[n] and photo.label == k]
        for first in range(0, len(places), _ROWS):
            some = places[first : first + _ROWS]
            features = stored.read([stored.photos[n].index for n in some])
            strong = find_strong_cells(found.find_class(k), own, features, stored)
            pooled[some] = pool_cells(features, ~strong, stored.pooling)
    return pooled[fit]


def _find_direction(one: ClassConcepts, card: ConceptCard) -> Array:
    return np.asarray(one.directions[card.number - 1])


def _fit(
    classifier: Classifier,
    original: LinearHead,
    pooled: Array,
    labels: NDArray[np.int64],
    basis: Array,
    from_zero: bool = False,
) -> LinearHead:
    return LinearHead(
        *refit_head(pooled, labels, original.weight, original.bias, basis, classifier.probability, from_zero)
    )


def _find_photos(stored: StoredFeatures, paths: Collection[str]) -> NDArray[np.bool_]:
    known = {photo.path for photo in stored.photos}
    if missing := sorted(set(paths) - known):
        raise InspectorError(f"The results have no photo {missing[0]:.300}. Use the paths of `inspector batch`.")
    return np.array([photo.path in set(paths) for photo in stored.photos])


def _list_changed(
    stored: StoredFeatures, pooled: Array, before: LinearHead, after: LinearHead, held_out: Collection[int]
) -> tuple[ChangedPhoto, ...]:
    classes = zip(stored.photos, before.classify(pooled).tolist(), after.classify(pooled).tolist(), strict=True)
    return tuple(
        ChangedPhoto(photo.index, photo.path, photo.label, a, b, photo.index in held_out)
        for photo, a, b in classes
        if a != b
    )
