"""The class maps of one photo as NumPy arrays, with what a viewer needs to know of the network. Imports no torch.

`ClassMaps.to_numpy` makes them of class maps, and a network that is kept for ONNX Runtime or OpenVINO
(networks/stored.py) computes them by itself. What is drawn from them is the same.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from inspector.explain.class_names import list_top_classes
from inspector.explain.kinds import OutputMeaning, Verdict
from inspector.explain.receptive_field import ReceptiveField
from inspector.explain.shown_map import ClassMap, make_class_map
from inspector.images.preprocessing import View

FEW_CLASSES = 20  # the maps of all classes are shown; of more, side by side, they would be too many to read

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class NetworkFacts:
    """What a viewer needs to know of a network."""

    name: str
    class_names: tuple[str, ...]  # (K,)
    size: tuple[int, int]  # (height, width) of the input, in pixels
    receptive_field: ReceptiveField  # of the feature maps before pooling
    meaning: OutputMeaning
    pooling: str  # "average", "max", ..., or several, as in "average + max"
    per_class: bool  # each feature map is the class map of one class
    has_scores: bool  # each cell has a class score of its own, as if it alone were pooled


@dataclass(frozen=True, eq=False)
class FinerArrays:
    """The maps of some classes on a finer grid than the network's own; see `FinerMaps`."""

    factor: int  # cells per cell of the network's own grid, down and across
    field: ReceptiveField  # of the cells of the finer grid
    description: str  # how the cells between the network's own were computed
    classes: tuple[int, ...]  # indices of n classes
    values: Floats  # (n + 1, factor * h, factor * w) in logits; the last map is the mean of all classes
    scores: Floats | None  # as `values`, class scores before pooling; None as in MapArrays
    mean_logits: Floats  # (n + 1,), the mean over all shifts
    residual: float  # largest difference between a logit of a shift and its sum, in logits
    verdict: Verdict  # the worst of all shifts


@dataclass(frozen=True, eq=False)
class MapArrays:
    """Every logit of one photo as a sum over the cells of the last feature maps."""

    classifier: NetworkFacts
    view: View  # the photo and its crop
    values: Floats  # (K, h, w) in logits
    bias: Floats  # (K,)
    logits: Floats  # (K,), the network's own
    probabilities: Floats  # (K,); NaN if the network returns other values
    residual: float  # largest |values.sum((1, 2)) + bias - logits| of all classes, in logits
    verdict: Verdict
    # (K, h, w), class scores before pooling; None if the head has none, and for average pooling of many classes, where
    # they are the values times the number of cells and are not shown
    scores: Floats | None
    # (h, w), number of channels whose maximum lies in each cell; None unless max pooling is the only pooling
    maxima: NDArray[np.intp] | None
    backend: str = "eager"  # what ran the network

    def top(self, count: int = 5) -> list[tuple[int, str, float]]:
        """Return (index, name, probability) of the classes with the highest logits, highest first."""
        return list_top_classes(self.classifier.class_names, self.logits, self.probabilities, count)

    def class_map(self, k: int, against: str | int | None = None, dense: bool = False) -> ClassMap:
        """Return one map to show, as `ClassMaps.class_map` does; its values are an array."""

        def select(classes: list[int]) -> tuple[Floats, Floats, Floats]:
            values = self.scores if dense else self.values
            assert values is not None, "asked for only where there are scores"
            return values[classes], self.bias[classes], self.logits[classes]

        return make_class_map(self.classifier.class_names, select, k, against, dense)


def shows_scores(network: NetworkFacts) -> bool:
    """Return whether class scores before pooling are shown."""
    return network.has_scores and (network.pooling == "max" or len(network.class_names) <= FEW_CLASSES)


def count_maxima(feature_maps: ArrayLike) -> NDArray[np.intp]:
    """Count the channels that have their maximum in each cell, for max pooling.

    Args:
        feature_maps: (C, h, w).

    Returns:
        Array (h, w). Of equal maxima the first counts, row by row; a channel whose maximum is 0 counts nowhere.
    """
    maps = np.asarray(feature_maps)
    flat = maps.reshape(len(maps), -1)
    cells = flat.argmax(1)[flat.max(1) != 0]
    counts: NDArray[np.intp] = np.bincount(cells, minlength=flat.shape[1]).reshape(maps.shape[1:])
    return counts


def compare_sums(values: Floats, bias: Floats, logits: Floats, tolerance: float) -> tuple[float, bool]:
    """Compare the sums of class maps with the logits.

    Args:
        values: class maps (K, h, w).
        bias: (K,).
        logits: (K,).
        tolerance: residual that rounding explains, relative to the sum of all absolute summands.

    Returns:
        The largest residual of all classes, in logits, and whether it is finite and rounding explains every residual.
    """
    cells = values.reshape(len(values), -1)
    with np.errstate(over="ignore", invalid="ignore"):
        # einsum takes half the time of ndarray.sum for so few cells per row.
        error = np.abs(np.einsum("kc->k", cells) + bias - logits)
        allowed = tolerance * (np.einsum("kc->k", np.abs(cells)) + np.abs(bias))
    residual = float(error.max())
    return residual, math.isfinite(residual) and bool((error <= allowed).all())


def compute_probabilities(meaning: OutputMeaning, logits: Sequence[float] | Floats) -> Floats:
    """Compute class probabilities (K,) from logits (K,) as the network does; NaN where there are none."""
    values = np.asarray(logits, np.float32)
    if meaning.activation == "softmax":
        shares = np.exp(values - values.max())
        return np.asarray(shares / shares.sum(), np.float32)
    if meaning.activation == "sigmoid":
        # By tanh, which does not overflow.
        return np.asarray(0.5 * (1 + np.tanh(values / 2)), np.float32)
    return values if meaning.activation == "identity" else np.full_like(values, np.nan)
