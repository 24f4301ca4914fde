"""Test what a concept does: paste its parts into photos of other classes, and remove it from photos of its class.

Each is compared with random parts, or regions, of the same size and in the same photos. The network runs on the changed
photos; how often the predicted class changes is reported with 95 % confidence intervals (Wilson, JASA 1927).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from inspector.analysis.transplant import find_patch, paste, remove
from inspector.datasets.concepts.find import list_held_out
from inspector.datasets.concepts.model import ConceptCard, Concepts
from inspector.datasets.concepts.outcomes import DEFAULT_TRIALS, ConceptTrial, Rate, TrialOptions
from inspector.datasets.concepts.photo import find_strong_cells
from inspector.datasets.features import StoredFeatures
from inspector.errors import Cancelled, InspectorError
from inspector.explain.classifier import Classifier
from inspector.explain.feature_capture import capture_pass
from inspector.explain.grid import nearest_cells
from inspector.explain.pooling import POOL
from inspector.explain.precision import widen
from inspector.images.preprocessing import View, make_view

OnTrial = Callable[[int, int], None]  # (finished passes, all passes)
_BATCH = 16  # photos per pass


@dataclass(frozen=True, eq=False)
class PastedFeatures:
    """Pooled features of photos before and after a part was pasted into them."""

    plain: NDArray[np.float64]  # (n, C), one row per photo
    pasted: NDArray[np.float64]  # (n, places, C)


def check_network(classifier: Classifier, stored: StoredFeatures) -> None:
    """Check that a classifier is the network that made the results.

    Raises:
        InspectorError: its weights or its input size are others.
    """
    about = stored.results.about
    if classifier.sha256() != about["network_sha256"]:
        raise InspectorError(
            f"{classifier.name} is not the network of these results, {about['network']}: its weights are others. Name "
            "that network."
        )
    if list(classifier.preprocessing.size) != about["size"]:
        raise InspectorError(
            f"{classifier.name} takes {list(classifier.preprocessing.size)} pixels, these results are of "
            f"{about['size']}. Use that size."
        )


def require_cells(card: ConceptCard) -> ConceptCard:
    """Return a card that has parts to paste and a direction.

    Raises:
        InspectorError: no cell has the concept.
    """
    if not card.positions:
        raise InspectorError(f"No cell of any photo has concept {card.key}, so nothing can be pasted or removed.")
    return card


def measure_concept(
    classifier: Classifier,
    stored: StoredFeatures,
    found: Concepts,
    key: str,
    options: TrialOptions = DEFAULT_TRIALS,
    *,
    on_progress: OnTrial = lambda done, passes: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> ConceptTrial:
    """Add a concept to photos of other classes and remove it from photos of its class, and count what changes.

    Args:
        classifier: the network that made the results.
        stored: their features.
        found: their concepts.
        key: key of the card.
        options: numbers of photos and places, and how regions are removed.
        on_progress: is called with the numbers of finished and of all passes.
        should_stop: is called before each pass.

    Raises:
        InspectorError: the classifier is another network, no cell has the concept, or a photo cannot be read.
        ClassError: there is no such card.
        Cancelled: `should_stop` returned true.
    """
    check_network(classifier, stored)
    card = require_cells(found.find_card(key))
    targets = choose_targets(stored, found, card.k, options)
    owners = _choose_owners(stored, found, card, options)
    passes = 2 * len(targets) * options.places + 2 * len(owners)
    run = _Runner(classifier, passes, on_progress, should_stop)
    counts = []
    for random in (False, True):
        views = paste_parts(classifier, stored, card, targets, options, random)
        logits = run([view for several in views for view in several])[1]
        counts.append(Rate(int((logits.argmax(1) == card.k).sum()), len(logits)))
    for random in (False, True):
        without = (_remove_concept(classifier, stored, index, cells, options, random) for index, cells in owners)
        logits = run(without)[1]
        counts.append(Rate(int((logits.argmax(1) != card.k).sum()), len(logits)))
    return ConceptTrial(key, options, *counts)


def capture_pasted(
    classifier: Classifier,
    stored: StoredFeatures,
    found: Concepts,
    card: ConceptCard,
    options: TrialOptions = DEFAULT_TRIALS,
    *,
    on_progress: OnTrial = lambda done, passes: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> PastedFeatures:
    """Paste parts of a concept into held-out photos of other classes, and return the pooled features.

    With them, any head on the same features can be measured without another pass. The arguments are those of
    `measure_concept`.
    """
    targets = choose_targets(stored, found, card.k, options)
    run = _Runner(classifier, len(targets) * options.places, on_progress, should_stop)
    views = paste_parts(classifier, stored, card, targets, options)
    pasted = run([view for several in views for view in several])[0]
    plain = stored.pool(stored.read(targets)) if targets else np.zeros((0, stored.shape[0]))
    return PastedFeatures(plain, pasted.reshape(len(targets), options.places, pasted.shape[1]))


def choose_targets(stored: StoredFeatures, found: Concepts, k: int, options: TrialOptions) -> list[int]:
    """Choose photos of other classes that are not predicted as class k: held-out ones if there are any."""
    held_out = list_held_out(stored, found)
    others = [
        photo.index
        for photo in stored.photos
        if (photo.label if found.by_label else photo.predicted) != k and photo.predicted != k
    ]
    others = [index for index in others if index in held_out] or others
    order = np.random.default_rng(options.seed).permutation(len(others))[: options.photos]
    return sorted(others[n] for n in order)


def paste_parts(
    classifier: Classifier,
    stored: StoredFeatures,
    card: ConceptCard,
    targets: Sequence[int],
    options: TrialOptions,
    random: bool = False,
) -> Iterator[list[View]]:
    """Yield for each target its views with a part of the concept at each of several places.

    Args:
        classifier: the network of the results.
        stored: the features of the results.
        card: the concept, whose listed positions are the parts.
        targets: indices of photos.
        options: number of places, and the seed.
        random: paste random parts of the same photos, of the same size, at the same places.
    """
    size, places = classifier.preprocessing.size, np.random.default_rng(options.seed)
    cells, chance = stored.shape[1:], np.random.default_rng(options.seed + 1)
    parts = []
    for position in card.positions:
        view = read_view(classifier, stored, position.photo)
        cell = (int(chance.integers(cells[0])), int(chance.integers(cells[1]))) if random else position.cell
        parts.append(view.pixels[find_patch(stored.field, cell, size)])
    for index in targets:
        view, views = read_view(classifier, stored, index), []
        for _ in range(options.places):
            part = parts[places.integers(len(parts))]
            top, left = (int(places.integers(a - b + 1)) for a, b in zip(size, part.shape[:2], strict=True))
            views.append(paste(view, part, top, left))
        yield views


def read_view(classifier: Classifier, stored: StoredFeatures, index: int) -> View:
    """Read a photo of the results as the network sees it.

    Raises:
        InspectorError: the photo cannot be read.
    """
    return make_view(stored.read_photo(index), classifier.preprocessing)


class _Runner:
    """Runs the network on views, in batches, with progress and stop."""

    def __init__(
        self, classifier: Classifier, passes: int, on_progress: OnTrial, should_stop: Callable[[], bool]
    ) -> None:
        self.classifier, self.passes, self.done = classifier, passes, 0
        self.on_progress, self.should_stop = on_progress, should_stop

    def __call__(self, views: Iterable[View]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return pooled features (n, C) and logits (n, K)."""
        head = self.classifier.head
        pooled, logits = [np.zeros((0, head.widths[0]))], [np.zeros((0, head.classes))]
        for batch in _split(views, _BATCH):
            if self.should_stop():
                raise Cancelled("Stopped.")
            captured = capture_pass(
                self.classifier.capture, torch.cat([self.classifier.inputs(view) for view in batch])
            )
            maps = widen(captured.poolings[0].feature_maps)
            pooled.append(POOL[head.branches[0].pooling](maps).double().numpy(force=True))
            logits.append(widen(captured.logits).double().numpy(force=True))
            self.done += len(batch)
            self.on_progress(self.done, self.passes)
        return np.concatenate(pooled), np.concatenate(logits)


def _split(views: Iterable[View], size: int) -> Iterator[list[View]]:
    iterator = iter(views)
    yield from iter(partial(_take, iterator, size), [])


def _take(views: Iterator[View], size: int) -> list[View]:
    return [view for _, view in zip(range(size), views, strict=False)]


def _choose_owners(
    stored: StoredFeatures, found: Concepts, card: ConceptCard, options: TrialOptions
) -> list[tuple[int, NDArray[np.bool_]]]:
    """Choose photos predicted as the class that have the concept; each with its cells (h, w) that have it."""
    one, owners = found.find_class(card.k), []
    candidates = [index for index in (*one.photos, *one.held_out) if stored.by_index[index].predicted == card.k]
    for index in candidates:
        (cells,) = find_strong_cells(one, [card], stored.read([index]), stored)
        if cells.any():
            owners.append((index, cells))
    order = np.random.default_rng(options.seed).permutation(len(owners))[: options.photos]
    return [owners[n] for n in sorted(order)]


def _remove_concept(
    classifier: Classifier,
    stored: StoredFeatures,
    index: int,
    cells: NDArray[np.bool_],
    options: TrialOptions,
    random: bool,
) -> View:
    """Return the view of a photo without some cells, or without as many cells elsewhere: the same shape, moved."""
    view = read_view(classifier, stored, index)
    if random:
        chance = np.random.default_rng((options.seed, index))
        cells = np.roll(cells, [int(chance.integers(side)) for side in cells.shape], (0, 1))
    rows, columns = (
        nearest_cells(axis, count, length)
        for axis, count, length in zip(
            (stored.field.y, stored.field.x), cells.shape, view.pixels.shape[:2], strict=True
        )
    )
    return remove(view, cells[np.ix_(rows, columns)], options.removal)
