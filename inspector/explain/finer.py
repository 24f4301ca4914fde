"""Finer class maps: the network's own cells, and the cells between them, whose numbers are exact too.

A network of stride 32 has one cell per 32 pixels. Run on the photo shifted by 16 pixels, it has cells halfway between.
The maps of factor x factor shifts, interleaved, are one map of a finer grid ("shift and stitch": Sermanet et al.,
"OverFeat", ICLR 2014; Long et al., "Fully convolutional networks for semantic segmentation", CVPR 2015). Each shift s
has its own equation:

    logit of s [k] = bias[k] + sum over the cells of s of  values[k, y, x]

so the network's own cells sum to its own logit, and the mean over the shifts of these sums is the mean of their logits.

    dilation   the shifts are computed from the network's own pass, by dilating its last strides (dilation.py)
    shifts     the network runs once for each shift; what lies beyond the end of the photo is padded with zeros

Dilation gives the same numbers in less time, except near the edges, where each pads in its own way. It is taken where
every cell sees a part of the photo only. A cell that sees all of it, through squeeze-and-excitation or attention, sees
the edges too, and layers before the dilated ones would not see the photo shifted: such networks run once per shift.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from inspector.errors import InspectorError, NetworkError, PlaceError
from inspector.explain.classifier import Classifier
from inspector.explain.decomposition import Decomposition, decompose
from inspector.explain.dilated_calls import DilationError
from inspector.explain.dilation import DilationPlan, capture_dilated, capture_planned
from inspector.explain.feature_capture import CapturedPass, capture_pass
from inspector.explain.kinds import Verdict, worst_verdict
from inspector.explain.map_arrays import FinerArrays, Floats
from inspector.explain.precision import find_product_type, find_tolerance, relative_error, widen
from inspector.explain.receptive_field import ReceptiveField

FACTORS = (1, 2, 4)
_ROWS = 32  # images and their shifts that run at once

Method = Literal["dilation", "shifts"]


@dataclass(frozen=True, eq=False)
class FinerMaps:
    """The class maps of one image on a finer grid than the network's own."""

    factor: int  # cells per cell of the network's own grid, down and across
    method: Method
    reason: str  # why the network was not dilated; "" where it was
    field: ReceptiveField  # of the cells of the finer grid
    splits: tuple[Decomposition, ...]  # one per shift, row by row; the first is the network's own
    logits: Tensor  # (factor * factor, K), of each shift
    # Largest difference of the network's own cells, computed by dilation, from its own feature maps; as a part of their
    # largest value. 0 where the network itself runs.
    difference: float
    residual: float  # largest difference between a logit of a shift and its sum, in logits
    verdict: Verdict  # the worst of all shifts

    def with_own(self, split: Decomposition) -> "FinerMaps":
        """Return the same maps with the network's own decomposition in its own cells."""
        return replace(self, splits=(split, *self.splits[1:]))

    @property
    def mean_logits(self) -> Tensor:
        """The mean of the logits of all shifts: (K,)."""
        return self.logits.mean(0)

    @property
    def bias(self) -> Tensor:
        """The mean of the biases of all shifts: (K,)."""
        return torch.stack([split.bias for split in self.splits]).mean(0)

    @cached_property
    def values(self) -> Tensor:
        """The class maps of all classes: (K, factor * h, factor * w), in logits; see `contributions`."""
        return self.contributions(range(self.logits.shape[1]))

    def contributions(self, classes: Sequence[int]) -> Tensor:
        """Return the maps of some classes on the finer grid: (len(classes), factor * h, factor * w), in logits.

        The cells ``[::factor, ::factor]`` are the network's own: they and the bias sum to its logit. The sum of all
        cells, divided by factor * factor, and the mean bias are the mean logit of the shifts.
        """
        return self._interleave([split.contributions(classes) for split in self.splits])

    def scores(self, classes: Sequence[int]) -> Tensor:
        """Return the scores of the cells as if each alone were pooled, as `ClassMaps.position_scores`."""
        return self._interleave([split.scores(classes) for split in self.splits])

    def to_numpy(self, classes: Sequence[int], with_scores: bool = False) -> FinerArrays:
        """Return the maps of some classes, and the mean of all classes, as NumPy arrays; see `FinerArrays`."""
        chosen, every = list(classes), range(self.logits.shape[1])

        def select(rows: Tensor) -> Floats:
            selected: Floats = torch.cat([rows[chosen], rows.mean(0, keepdim=True)]).float().numpy(force=True)
            return selected

        return FinerArrays(
            self.factor,
            self.field,
            self.describe(),
            tuple(chosen),
            select(self.contributions(every)),
            select(self.scores(every)) if with_scores else None,
            select(self.mean_logits),
            float(self.residual),
            self.verdict,
        )

    def _interleave(self, maps: Sequence[Tensor]) -> Tensor:
        rows, columns = maps[0].shape[1:]
        shifts = torch.stack(list(maps)).unflatten(0, (self.factor, self.factor))  # (down, across, k, h, w)
        maps_of_classes: Tensor = shifts.permute(2, 3, 0, 4, 1)  # (k, h, down, w, across)
        return maps_of_classes.reshape(-1, rows * self.factor, columns * self.factor)

    def describe(self) -> str:
        """Return in one sentence how the cells between the network's own were computed."""
        size, count = f"{self.factor}x finer", self.factor**2
        if self.method == "dilation":
            return f"{size} by dilating the last strides: every {_ORDINALS[self.factor]} cell is the network's own."
        return f"{size} by {count} passes of the shifted photo, because {self.reason}."


_ORDINALS = {2: "second", 4: "fourth"}
# Network -> shape of the input and factor -> how it is dilated, or why it cannot be, so that it is tried once only.
_plans: WeakKeyDictionary[nn.Module, dict[tuple[torch.Size, int], DilationPlan | str]] = WeakKeyDictionary()


def count_images(factor: int) -> int:
    """Return how many images run at once with all their shifts; InspectorError if there is no such factor."""
    if factor not in FACTORS:
        raise InspectorError(f"finer is {factor!r}. Use 2 or 4; 1 is the network's own grid.")
    return max(1, _ROWS // factor**2)


def compute_finer(classifier: Classifier, inputs: Tensor, factor: int) -> tuple[CapturedPass, list[FinerMaps]]:
    """Run a network, and compute its class maps on a finer grid.

    Args:
        classifier: the network.
        inputs: normalized images (N, channels, H, W).
        factor: 2 or 4.

    Returns:
        The network's own pass, and the finer maps of each image.

    Raises:
        InspectorError: there is no such factor, or it does not divide the distance of the cells in pixels.
        PlaceError: the place of the cells is unknown, so nothing lies between them.
        NetworkError: the network does not support these inputs.
    """
    field = classifier.receptive_field
    strides = find_strides(classifier, factor)
    dilated = _refuse_dilation(classifier) or _dilate(classifier, inputs, strides, factor)
    if isinstance(dilated, str):
        (own, shifted), difference = _capture_shifts(classifier, inputs, strides, factor), 0.0
    else:
        own, shifted, difference = dilated
    method, reason = ("shifts", dilated) if isinstance(dilated, str) else ("dilation", "")
    y, x = (replace(axis, stride=axis.stride / factor) for axis in (field.y, field.x))
    finer = replace(field, y=y, x=x)
    results = []
    for splits, logits, residual, verdict in _split_images(classifier, inputs, own, shifted):
        results.append(FinerMaps(factor, method, reason, finer, splits, logits, difference, residual, verdict))  # type: ignore[arg-type]
    return own, results


def plan_dilation(classifier: Classifier, factor: int) -> DilationPlan | str:
    """Return which calls of a network are dilated, for its input size and any number of images; or why none are.

    Raises:
        As `compute_finer`.
    """
    strides, inputs = find_strides(classifier, factor), classifier.noise_input(2)
    outcome = _refuse_dilation(classifier) or _dilate(classifier, inputs, strides, factor)
    plan = outcome if isinstance(outcome, str) else _plans[classifier.network][inputs.shape, factor]
    return "several functions pool together" if isinstance(plan, DilationPlan) and plan.poolings is None else plan


def find_strides(classifier: Classifier, factor: int) -> tuple[int, int]:
    """Return the distance of the cells of the finer grid (down, across), in pixels of the input.

    Raises:
        As `compute_finer`.
    """
    count_images(factor)
    field = classifier.receptive_field
    if field.misplaced is not None:
        raise PlaceError(f"There is no finer map where the place of the cells is unknown: {field.misplaced}.")
    if any((axis.stride / factor) % 1 for axis in (field.y, field.x)):
        apart = " x ".join(f"{axis.stride:g}" for axis in (field.y, field.x))
        raise InspectorError(
            f"A map {factor}x finer needs cells whose distance in pixels {factor} divides; those of {classifier.name} "
            f"are {apart} pixels apart. Leave out finer."
        )
    return round(field.y.stride / factor), round(field.x.stride / factor)


def _refuse_dilation(classifier: Classifier) -> str:
    """Return why a network is not dilated, as far as it is known without a pass; "" if it may be."""
    head, field = classifier.head, classifier.receptive_field
    if math.isinf(field.y.size) or math.isinf(field.x.size):
        return "its cells may see the whole photo"
    if head.needs_derivative:
        return f"its {head.pooling} pooling is split by its derivative"
    strides = {(b.field.y.stride, b.field.x.stride) for b in head.branches if b.field is not None}
    return "" if len(strides) == 1 else "it pools feature maps of several grids"


def _dilate(
    classifier: Classifier, inputs: Tensor, strides: tuple[int, int], factor: int
) -> tuple[CapturedPass, CapturedPass, float] | str:
    """Return the network's own pass, that of the other shifts, and how far its own cells were off; or why not."""
    network, calls = classifier.network, classifier.head.calls
    plans, key = _plans.setdefault(network, {}), (inputs.shape, factor)
    plan = plans.get(key)
    if isinstance(plan, str):
        return plan
    if plan is not None and (passes := capture_planned(network, inputs, calls, plan)) is not None:
        return *passes, plan.difference
    try:
        own, shifted, plan = capture_dilated(network, inputs, calls, strides)
    except DilationError as error:
        plans[key] = str(error)
        return str(error)
    plans[key] = plan
    return own, shifted, plan.difference


def _capture_shifts(
    classifier: Classifier, inputs: Tensor, strides: tuple[int, int], factor: int
) -> tuple[CapturedPass, CapturedPass]:
    """Run the network on the photo and on its shifts; what is returned is as in `capture_dilated`."""
    own = capture_pass(classifier.capture, inputs)
    steps = [(p * strides[0], q * strides[1]) for p in range(factor) for q in range(factor)]
    shifted = [shift_inputs(inputs, *step) for step in steps[1:]]
    several = max(1, _ROWS // len(inputs))
    batches = [torch.cat(shifted[n : n + several]) for n in range(0, len(shifted), several)]
    passes = [capture_pass(classifier.capture, batch) for batch in batches]
    names = {one.backend for one in (own, *passes)}
    if len(names) > 1:
        raise NetworkError(f"Shifts ran on several backends: {', '.join(sorted(names))}. Try again.")
    return own, _join_passes(passes)


def shift_inputs(inputs: Tensor, down: int, across: int) -> Tensor:
    """Move images (N, channels, H, W) up and to the left by some pixels; what comes in is zero, as padding is."""
    return pad(inputs[..., down:, across:], (0, across, 0, down))


def _join_passes(passes: Sequence[CapturedPass]) -> CapturedPass:
    poolings = []
    for same in zip(*(one.poolings for one in passes), strict=True):
        maps = torch.cat([one.feature_maps for one in same])
        pooled, derivatives = ([getattr(one, name) for one in same] for name in ("pooled", "derivative"))
        joined = [None if any(one is None for one in each) else torch.cat(each) for each in (pooled, derivatives)]
        poolings.append(replace(same[0], feature_maps=maps, pooled=joined[0], derivative=joined[1]))
    return passes[0]._replace(poolings=poolings, logits=torch.cat([one.logits for one in passes]), class_maps=None)


def _split_images(
    classifier: Classifier, inputs: Tensor, own: CapturedPass, shifted: CapturedPass
) -> Iterator[tuple[tuple[Decomposition, ...], Tensor, float, Verdict]]:
    """Yield for each image: decompositions and logits of its shifts, the largest residual, and the worst verdict."""
    images, joined = len(own.logits), _join_passes([own, shifted])
    rows = inputs[:1].expand(len(joined.logits), -1, -1, -1)  # only their number and shape count
    splits = decompose(classifier.network, classifier.head, rows, joined, with_values=False)
    checks = _check_sums(splits, joined.logits)
    for n in range(images):
        chosen = range(n, len(splits), images)
        residual = max(checks[row][0] for row in chosen)
        verdict = worst_verdict(*(splits[row].verdict if checks[row][1] else "not exact" for row in chosen))
        yield tuple(splits[row] for row in chosen), widen(joined.logits[n::images]), residual, verdict


def _check_sums(splits: Sequence[Decomposition], logits: Tensor) -> list[tuple[float, bool]]:
    """Compare the sums over cells and channels with the logits of each row: the residual, and if rounding explains it.

    The class maps of the shifts are computed for the classes that are asked for only. So the sums over cells are taken
    first, and weighted for all classes then.
    """
    head = splits[0].head
    if head.weight is None:
        return [split.compare_with_logits(one) for split, one in zip(splits, logits, strict=True)]
    shares = torch.stack([torch.cat([branch.summed_shares() for branch in split.branches]) for split in splits])
    weight, bias = widen(head.weight), torch.stack([split.bias for split in splits])
    shares, wide = shares.to(weight), widen(logits).to(weight)
    sums, tolerance = shares @ weight.T + bias, max(head.tolerance, find_tolerance({find_product_type(logits)}))
    # The sum of the absolute values is at least this. Few classes need the whole sum, which takes as long as the sums.
    total = (sums - bias).abs() + bias.abs()
    larger = (relative_error(sums, wide, total, tolerance) <= 1).logical_not().any(0).nonzero()[:, 0]
    total[:, larger] = shares.abs() @ weight[larger].abs().T + bias[:, larger].abs()
    within = (relative_error(sums, wide, total, tolerance) <= 1).all(1).tolist()
    return list(zip((sums - wide).abs().amax(1).tolist(), within, strict=True))
