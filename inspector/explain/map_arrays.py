"""The class maps of one photo as NumPy arrays, with what a viewer needs to know of the network. Imports no torch.

`ClassMaps.to_numpy` makes them of class maps, and a network that is kept for ONNX Runtime or OpenVINO
(networks/stored.py) computes them by itself. What is drawn from them is the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from inspector.explain.class_names import find_class_index, list_top_classes
from inspector.explain.kinds import OutputMeaning, Verdict
from inspector.explain.receptive_field import ReceptiveField
from inspector.explain.shown_map import AVERAGE, ClassMap, choose_contrast, make_class_map
from inspector.images.preprocessing import View

if TYPE_CHECKING:
    from inspector.explain.class_maps import ClassMaps

FEW_CLASSES = 20  # the maps of all classes are shown; of more, side by side, they would be too many to read

Floats = NDArray[np.float32]
Maps: TypeAlias = "ClassMaps | MapArrays"  # the class maps of one photo, as tensors or as arrays


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
class ChannelArrays:
    """What the class maps of one photo are computed from, of a head with one pooling."""

    feature_maps: Floats  # (C, h, w), before pooling
    weight: Floats | None  # (K, P), d logits / d pooled values; None if each feature map is the class map of one class


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
    channels: ChannelArrays | None = None  # of a network that is kept; None: `ClassMaps` has more, for any head

    @property
    def feature_maps(self) -> Floats:
        """The feature maps before pooling, (C, h, w), where there are channels."""
        assert self.channels is not None
        return self.channels.feature_maps

    def parts(self, k: str | int) -> Floats:
        """Compute what each channel adds to the logit of a class in each cell, where there are channels.

        Args:
            k: name or index of the class.

        Returns:
            Array (C, h, w) in logits; its sum is the logit less the bias.
        """
        assert self.channels is not None
        k, shares = find_class_index(self.classifier.class_names, k), self._share_pooled_values()
        weight = self.channels.weight
        row = (np.arange(len(shares)) == k).astype(np.float32) if weight is None else weight[k]
        # With flatten every value of the feature maps has a weight of its own, otherwise every channel has one.
        parts: Floats = shares * row.reshape(shares.shape if self.classifier.pooling == "flatten" else (-1, 1, 1))
        return parts

    def _share_pooled_values(self) -> Floats:
        """Compute what each cell adds to each pooled value, (C, h, w); see `position_shares`."""
        maps = self.feature_maps
        if self.classifier.pooling == "average":
            return maps / np.float32(maps[0].size)
        if self.classifier.pooling == "flatten":
            return maps
        flat, channels = maps.reshape(len(maps), -1), np.arange(len(maps))
        shares, cells = np.zeros_like(flat), flat.argmax(1)
        shares[channels, cells] = flat[channels, cells]
        return shares.reshape(maps.shape)

    def top(self, count: int = 5) -> list[tuple[int, str, float]]:
        """Return (index, name, probability) of the classes with the highest logits, highest first."""
        return list_top_classes(self.classifier.class_names, self.logits, self.probabilities, count)

    def outcome(self, k: int, digits: int = 1) -> str:
        """Return the probability of a class as text, or its value with its unit, as `ClassMaps.outcome` does."""
        return self.classifier.meaning.describe(float(self.logits[k]), float(self.probabilities[k]), digits)

    @property
    def finer(self) -> None:
        """None: arrays of a finer grid are `FinerArrays`."""

    @property
    def shown_field(self) -> ReceptiveField:
        """The receptive fields of the cells that are drawn."""
        return self.classifier.receptive_field

    def contrast_map(self, classes: Sequence[int], dense: bool = False, finer: bool = False) -> ClassMap:
        """Return the first class against the second, or the other top class, as `ClassMaps.contrast_map` does."""
        return self.class_map(*choose_contrast(classes, [k for k, _, _ in self.top(2)]), dense, finer)

    def describe_reading(self, dense: bool = False, against: str | int | None = None) -> str:
        """Return in words what the value of a cell means, for figures."""
        return describe_reading(self.classifier, dense, against)

    def class_map(self, k: int, against: str | int | None = None, dense: bool = False, finer: bool = False) -> ClassMap:
        """Return one map to show, as `ClassMaps.class_map` does; its values are an array on the network's own grid."""

        def select(classes: list[int]) -> tuple[Floats, Floats, Floats]:
            values = self.scores if dense else self.values
            assert values is not None, "asked for only where there are scores"
            return values[classes], self.bias[classes], self.logits[classes]

        return make_class_map(self.classifier.class_names, select, k, against, dense)


def describe_reading(
    network: NetworkFacts, dense: bool = False, against: str | int | None = None, is_finer: bool = False
) -> str:
    """Return in words what the value of a cell means; the other arguments are those of `ClassMaps.class_map`."""
    quantity = network.meaning.quantity
    if against == AVERAGE:
        quantity = f"{quantity} less the average {quantity}"
    elif against is not None:
        quantity = f"{quantity} less that of {network.class_names[find_class_index(network.class_names, against)]}"
    reading = network.meaning.describe_cells(dense, quantity, is_finer)
    if dense:
        return f"{reading}, which does not sum to the {quantity}"
    return f"{reading}, of each channel in the cell with its maximum" if network.pooling == "max" else reading


def to_array(values: Any) -> NDArray[Any]:
    """Return a tensor or an array as array."""
    array: NDArray[Any] = values if isinstance(values, np.ndarray) else values.numpy(force=True)
    return array


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


def compare_sums(values: Floats, bias: Floats, logits: Floats, tolerance: float) -> tuple[float, list[int]]:
    """Compare the sums of class maps with the logits.

    Args:
        values: class maps (K, h, w).
        bias: (K,).
        logits: (K,).
        tolerance: residual that rounding explains, relative to the sum of all absolute summands.

    Returns:
        The largest residual of all classes, in logits, and the classes whose residual is not finite or not explained.
    """
    cells = values.reshape(len(values), -1)
    with np.errstate(over="ignore", invalid="ignore"):
        # einsum takes half the time of ndarray.sum for so few cells per row.
        error = np.abs(np.einsum("kc->k", cells) + bias - logits)
        allowed = tolerance * (np.einsum("kc->k", np.abs(cells)) + np.abs(bias))
    is_explained = (error <= allowed) & np.isfinite(error)
    return float(error.max()), [] if is_explained.all() else np.flatnonzero(~is_explained).tolist()


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
