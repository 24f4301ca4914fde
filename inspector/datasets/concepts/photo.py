"""Split a logit of one photo into concepts and the rest, each summed from its own terms. This module needs no torch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inspector.analysis.evidence import compute_evidence
from inspector.analysis.factorization import compute_amounts
from inspector.datasets.concepts.model import ClassConcepts, ConceptCard, LogitTerms
from inspector.datasets.features import StoredFeatures
from inspector.errors import InspectorError


@dataclass(frozen=True, eq=False)
class PhotoConcepts:
    """The logit of one class for one photo as a sum of concepts, rest and bias."""

    k: int
    maps: NDArray[np.float64]  # (r, h, w): what each concept adds at each cell, in logits
    terms: LogitTerms
    logit: float  # computed from the features without concepts: weight @ pooled + bias
    network_logit: float | None = None  # the network's own; it differs by the rounding of stored features

    @property
    def contributions(self) -> NDArray[np.float64]:
        """What each concept adds to the logit, (r,)."""
        return np.asarray(self.maps.sum((1, 2)))

    @property
    def residual(self) -> float:
        """How far concepts, rest and bias are from the logit."""
        return abs(self.terms.logit - self.logit)

    @property
    def difference(self) -> float | None:
        """How far the logit is from the network's own."""
        return None if self.network_logit is None else abs(self.logit - self.network_logit)


def split_photo(
    one: ClassConcepts,
    features: NDArray[np.float32],
    weight: NDArray[np.float32],
    bias: NDArray[np.float32],
    pooling: str,
    network_logit: float | None = None,
) -> PhotoConcepts:
    """Split the logit of a class for any photo.

    Args:
        one: concepts of the class.
        features: feature maps before pooling (C, h, w), as `ClassMaps.feature_maps` or `StoredFeatures.read` give them.
        weight: (K, C) of the linear layer.
        bias: (K,).
        pooling: "average" or "max".
        network_logit: the network's own logit, for the difference.

    Raises:
        InspectorError: the photo has other channels than the concepts.
    """
    if features.shape[0] != one.patterns.shape[1] or weight.shape[1] != features.shape[0]:
        raise InspectorError(
            f"The concepts have {one.patterns.shape[1]} channels, the photo {features.shape[0]}. Use concepts of the "
            "same network."
        )
    evidence = compute_evidence(features[None], weight, one.k, pooling)
    positions = evidence.positive[0]
    amounts = compute_amounts(positions, one.patterns)
    left = float((positions - amounts @ one.patterns).sum())
    offset = float(bias[one.k])
    terms = LogitTerms(float(amounts.sum()), left, float(evidence.against[0]), float(evidence.common[0]), offset)
    flat = features.reshape(len(features), -1)
    pooled = flat.mean(1, np.float64) if pooling == "average" else flat.max(1).astype(np.float64)
    logit = float(weight[one.k].astype(np.float64) @ pooled) + offset
    return PhotoConcepts(one.k, amounts.T.reshape(-1, *features.shape[1:]), terms, logit, network_logit)


def find_strong_cells(
    one: ClassConcepts, cards: Sequence[ConceptCard], features: NDArray[np.float32], stored: StoredFeatures
) -> NDArray[np.bool_]:
    """Find the cells of photos that have one of some concepts of a class.

    Args:
        one: the concepts of the class.
        cards: some of its cards.
        features: feature maps (n, C, h, w).
        stored: the features of the results, which have the head.

    Returns:
        Mask (n, h, w).
    """
    evidence = compute_evidence(features, stored.weight, one.k, stored.pooling).positive
    amounts = compute_amounts(evidence.reshape(-1, evidence.shape[2]), one.patterns)
    strong = [amounts[:, card.number - 1] >= card.least for card in cards]
    return np.asarray(np.logical_or.reduce(strong).reshape(len(features), *features.shape[2:]))


def split_stored_photo(one: ClassConcepts, stored: StoredFeatures, index: int) -> PhotoConcepts:
    """Split the logit of a class for a photo of the results; `index` is its place in their list.

    Raises:
        InspectorError: the results have no such photo, or it cannot be read.
    """
    photo = stored.by_index.get(index)
    if photo is None:
        raise InspectorError(f"The results have no photo {index} that could be read.")
    (features,) = stored.read([index])
    return split_photo(one, features, stored.weight, stored.bias, stored.pooling, photo.logits.get(one.k))
