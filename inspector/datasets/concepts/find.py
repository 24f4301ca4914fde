"""Find the concepts of each class in stored features, without a pass of the network.

features of a class's photos -> evidence for the class -> patterns and amounts -> cards
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inspector.analysis.evidence import Evidence, compute_evidence
from inspector.analysis.factorization import (
    choose_patterns,
    compute_amounts,
    compute_directions,
    find_patterns,
    match_patterns,
    measure_left,
)
from inspector.analysis.localization import Regions
from inspector.datasets.concepts.cards import make_cards
from inspector.datasets.concepts.model import ClassConcepts, ConceptOptions, Concepts, LogitTerms
from inspector.datasets.features import StoredFeatures, read_features
from inspector.errors import Cancelled, InspectorError
from inspector.explain.class_names import find_class_index
from inspector.explain.grid import require_place

LEAST_PHOTOS = 5  # of a class
_MOST_VALUES = 60_000_000  # of features of one class in memory; of more photos, a part is used
DEFAULT_OPTIONS = ConceptOptions()


def concepts(
    results: str | Path | StoredFeatures,
    classes: Sequence[str | int] | None = None,
    options: ConceptOptions = DEFAULT_OPTIONS,
    *,
    objects: Regions | None = None,
    on_progress: Callable[[float], None] = lambda done: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Concepts:
    """Find what a network reads for each class: concepts, which add up to its logits.

    The evidence of all positions of the class's photos is factorized into a few patterns of channels.

    Args:
        results: folder that `inspector batch --features` wrote, or its opened features.
        classes: names or numbers of classes. Default: all with at least five photos.
        options: number of concepts, seeds, held-out photos.
        objects: boxes or masks of the objects on the photos; each card then says how much of it is inside.
        on_progress: is called with the share of the classes that are done, 0-1.
        should_stop: is called before each class.

    Returns:
        The concepts of each class. With the same options they are always the same.

    Raises:
        InspectorError: the results have no features or cannot be read, or a class has fewer than five photos, or no
            evidence.
        ClassError: a class does not exist.
        HeadError: the head is not linear.
        PlaceError: the place of the cells is unknown.
        LocalizationError: an object does not fit its photo.
        Cancelled: `should_stop` returned true.
    """
    stored = results if isinstance(results, StoredFeatures) else read_features(results)
    require_place(stored.field)
    names, about = stored.results.class_names, stored.results.about
    by_label = any(photo.label is not None for photo in stored.photos)
    by_class = _group_by_class(stored, by_label)
    wanted = sorted(by_class) if classes is None else [find_class_index(names, one) for one in classes]
    skipped, found = [], []
    for k in dict.fromkeys(wanted):
        indices = by_class.get(k, [])
        if len(indices) < LEAST_PHOTOS:
            sentence = f"{names[k]} has {len(indices)} photos. Expected at least {LEAST_PHOTOS}."
            if classes is not None:
                raise InspectorError(sentence)
            skipped.append(sentence)
    enough = [k for k in dict.fromkeys(wanted) if len(by_class.get(k, [])) >= LEAST_PHOTOS]
    if not enough:
        raise InspectorError(
            f"No class of {stored.results.folder} has {LEAST_PHOTOS} photos or more. Use more photos, in a folder for "
            "each class."
        )
    for number, k in enumerate(enough):
        if should_stop():
            raise Cancelled("Stopped.")
        one = find_class_concepts(stored, k, by_class[k], options, objects)
        if one is None:
            sentence = f"No cell of the photos of {names[k]} has evidence for it, so it has no concepts."
            if classes is not None:
                raise InspectorError(sentence)
            skipped.append(sentence)
        else:
            found.append(one)
        on_progress((number + 1) / len(enough))
    if not found:
        raise InspectorError(
            f"No class of {stored.results.folder} has evidence in its photos, so there are no concepts. Expected a "
            "trained network."
        )
    return Concepts(about["network"], about["network_sha256"], by_label, options, tuple(found), tuple(skipped))


def find_class_concepts(
    stored: StoredFeatures, k: int, indices: Sequence[int], options: ConceptOptions, objects: Regions | None = None
) -> ClassConcepts | None:
    """Find the concepts of one class on some photos; None if no cell has evidence. Arguments as for `concepts`."""
    used, held_out = split_photos(indices, options)
    chosen = _thin_out(used, stored.shape)
    evidence = compute_evidence(stored.read(chosen), stored.weight, k, stored.pooling)
    positions = evidence.positive.reshape(-1, stored.shape[0])
    patterns = choose_patterns(positions, options.seed, options.rank)
    if not len(patterns):
        return None
    amounts = compute_amounts(positions, patterns)
    order = np.argsort(-amounts.sum(0), kind="stable")
    patterns, amounts = patterns[order], amounts[:, order]
    others = [find_patterns(positions, len(patterns), options.seed + n, random=True) for n in range(1, options.seeds)]
    stability = np.mean([match_patterns(patterns, other) for other in others], 0) if others else None
    left = measure_left(positions, amounts, patterns)
    terms = _average_terms(evidence, amounts, patterns, float(stored.bias[k]))
    del evidence, positions
    maps = amounts.reshape(len(chosen), *stored.shape[1:], -1)
    features = stored.read(chosen)
    return ClassConcepts(
        k=k,
        name=stored.results.class_names[k],
        photos=tuple(chosen),
        held_out=tuple(held_out),
        cards=make_cards(stored, k, chosen, maps, stability, options.top, objects),
        patterns=patterns,
        directions=compute_directions(features, maps),
        left=left,
        terms=terms,
        difference=_compare_with_network(stored, k, chosen, stored.pool(features)),
    )


def split_photos(indices: Sequence[int], options: ConceptOptions) -> tuple[list[int], list[int]]:
    """Split the photos of a class at random into those that concepts are found on, and those that are held out.

    A class has at least four photos of the first kind, and one of the second, unless none is to be held out.
    """
    order = np.random.default_rng(options.seed).permutation(len(indices))
    count = min(max(round(options.held_out * len(indices)), bool(options.held_out)), max(len(indices) - 4, 0))
    held_out, used = (sorted(indices[n] for n in part) for part in (order[:count], order[count:]))
    return used, held_out


def list_held_out(stored: StoredFeatures, found: Concepts) -> set[int]:
    """List the photos that are kept for measurements: of classes without concepts too, as many and chosen alike."""
    listed = {one.k: one.held_out for one in found.classes}
    groups = _group_by_class(stored, found.by_label).items()
    return {n for k, indices in groups for n in listed.get(k, split_photos(indices, found.options)[1])}


def _group_by_class(stored: StoredFeatures, by_label: bool) -> dict[int, list[int]]:
    """Return the indices of the photos of each class, by their labels or by the predicted class."""
    by_class: dict[int, list[int]] = {}
    for photo in stored.photos:
        k = photo.label if by_label else photo.predicted
        if k is not None:
            by_class.setdefault(k, []).append(photo.index)
    return by_class


def _thin_out(indices: list[int], shape: tuple[int, int, int]) -> list[int]:
    most = max(LEAST_PHOTOS, _MOST_VALUES // int(np.prod(shape)))
    if len(indices) <= most:
        return indices
    return [indices[n] for n in np.linspace(0, len(indices) - 1, most).round().astype(int)]


def _average_terms(
    evidence: Evidence, amounts: NDArray[np.float64], patterns: NDArray[np.float64], bias: float
) -> LogitTerms:
    photos = len(evidence.against)
    sums = np.zeros(2)  # concepts, left
    for positive, given in zip(evidence.positive, amounts.reshape(photos, -1, len(patterns)), strict=True):
        sums += given.sum(), (positive - given @ patterns).sum()
    concepts_mean, left = sums / photos
    return LogitTerms(
        float(concepts_mean), float(left), float(evidence.against.mean()), float(evidence.common.mean()), bias
    )


def _compare_with_network(
    stored: StoredFeatures, k: int, indices: Sequence[int], pooled: NDArray[np.float64]
) -> float | None:
    """Return the largest difference of the logits of stored features from the network's own, where these are stored."""
    logits = pooled @ stored.weight[k].astype(np.float64) + float(stored.bias[k])
    own = [stored.by_index[index].logits.get(k) for index in indices]
    differences = [abs(logit - one) for logit, one in zip(logits.tolist(), own, strict=True) if one is not None]
    return max(differences, default=None)
