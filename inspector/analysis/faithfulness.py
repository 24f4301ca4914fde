"""Insertion and deletion: does the network use the pixels that a map marks?

Deletion covers the photo with the mean color, starting where the map is highest. The sooner the probability of the
class falls, the lower is the area under the curve, and the better is the map. Insertion starts from a blurred photo and
restores it in the same order; here a higher area is better (Petsiuk, Das and Saenko, "RISE", BMVC 2018). Random maps
are the baseline.

Whole patches are covered or restored, as in region perturbation (Samek et al., TNNLS 2017). Changed single pixels
would be noise, which misleads every network and favors noisy maps. A patch size of one pixel gives the metric of RISE.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.functional import gaussian_blur

from inspector.analysis.attribution.case import Attribution, OnProgress, ShouldStop
from inspector.errors import Cancelled
from inspector.explain import grid
from inspector.explain.classifier import Classifier
from inspector.explain.tracing.forward import forward

CurveKind: TypeAlias = Literal["insertion", "deletion"]

STEPS = 16  # steps of a curve
SEEDS = (0, 1, 2, 3)  # seeds of the random maps
PATCHES = 14  # patches along the shorter side of the input
_CHUNK = 4  # images per pass


@dataclass(frozen=True, eq=False)
class Curve:
    """Probability and logit of a class as a growing part of the photo is deleted or inserted."""

    fractions: Tensor  # (S,), part of the photo that is deleted or inserted, 0-1
    probabilities: Tensor  # (S,), 0-1
    logits: Tensor  # (S,)

    @property
    def area(self) -> float:
        """Return the area under the curve of the probability, by the trapezoid rule, 0-1."""
        return float(torch.trapezoid(self.probabilities, self.fractions))


@dataclass(frozen=True, eq=False)
class Faithfulness:
    """Insertion and deletion curves of one map."""

    insertion: Curve
    deletion: Curve


@dataclass(frozen=True, eq=False)
class RandomBaseline:
    """Insertion and deletion curves of random maps."""

    curves: tuple[Faithfulness, ...]  # one pair of curves per seed

    @property
    def insertion(self) -> tuple[float, float]:
        """Return mean and standard deviation (n - 1), over random maps, of the area under the insertion curve."""
        return _compute_mean_and_deviation([curves.insertion.area for curves in self.curves])

    @property
    def deletion(self) -> tuple[float, float]:
        """Return mean and standard deviation (n - 1), over random maps, of the area under the deletion curve."""
        return _compute_mean_and_deviation([curves.deletion.area for curves in self.curves])

    def mean(self, kind: CurveKind) -> Curve:
        """Return the mean curve over all seeds."""
        curves: list[Curve] = [getattr(pair, kind) for pair in self.curves]
        means = (torch.stack([getattr(c, name) for c in curves]).mean(0) for name in ("probabilities", "logits"))
        return Curve(curves[0].fractions, *means)


@dataclass(frozen=True, eq=False)
class PatchTest:
    """A test that inserts and deletes patches of one image and computes the probability of one class."""

    classifier: Classifier
    inputs: Tensor  # (1, channels, H, W), normalized
    k: int  # index of the class
    patch: int | None = None  # side of a patch in pixels; None: a fourteenth of the shorter side of the input
    steps: int = STEPS  # steps of a curve; fewer if there are fewer patches than steps
    on_progress: OnProgress = lambda done: None
    should_stop: ShouldStop = lambda: False  # is called before each pass; true stops the test

    @property
    def side(self) -> int:
        """Return the side of a patch in pixels."""
        return max(1, round(min(self.inputs.shape[2:]) / PATCHES)) if self.patch is None else self.patch

    def measure(self, attribution: Attribution) -> Faithfulness:
        """Measure insertion and deletion in the order of a map, highest values first.

        Args:
            attribution: the map that gives the order.

        Raises:
            Cancelled: `should_stop` returned true.
            PlaceError: the place of the map's cells is unknown.
        """
        values = resample_on_input(attribution, self.inputs.shape[2:])
        # A patch at the right or lower edge may be smaller: ceil_mode=True averages only the pixels that exist.
        means = functional.avg_pool2d(values[None, None], self.side, ceil_mode=True)
        return self.measure_order(means.flatten().argsort(descending=True, stable=True))

    def measure_random_maps(self, attribution: Attribution, seeds: Sequence[int] = SEEDS) -> RandomBaseline:
        """Measure insertion and deletion of random maps.

        The random maps have the same grid as `attribution`, because scattered patches change a photo much more than the
        same number of adjacent patches.

        Args:
            attribution: the map to compare the random maps with.
            seeds: one random map per seed.

        Raises:
            Cancelled: `should_stop` returned true.
        """
        curves = []
        for n, seed in enumerate(seeds):
            values = torch.rand(attribution.values.shape, generator=torch.Generator().manual_seed(seed))

            def report_part(done: float, n: int = n) -> None:
                self.on_progress((n + done) / len(seeds))

            random = replace(attribution, values=values.to(attribution.values))
            curves.append(replace(self, on_progress=report_part).measure(random))
        return RandomBaseline(tuple(curves))

    def measure_order(self, order: Tensor) -> Faithfulness:
        """Measure insertion and deletion in a given order of patches.

        Args:
            order: indices of all patches, counted row by row, (P,).

        Raises:
            Cancelled: `should_stop` returned true.
        """
        inputs, patches = self.inputs, len(order)
        counts = torch.linspace(0, patches, min(self.steps, patches) + 1).round().long()
        ranks = _expand_patches(order.argsort(), self.side, inputs.shape[2:]).to(inputs.device)
        selected = (ranks < counts.to(ranks.device)[:, None, None])[:, None]  # (S, 1, H, W)
        # Count pixels, not patches, because patches at the edge may be smaller.
        fractions = selected.float().mean((1, 2, 3)).cpu()
        blurred = blur_inputs(inputs)
        chunks: list[Tensor] = []
        jobs = [(n, inserting) for inserting in (True, False) for n in range(len(counts))]
        for start in range(0, len(jobs), _CHUNK):
            if self.should_stop():
                raise Cancelled("Insertion and deletion were stopped.")
            # Only a few images at a time: at large input sizes, all of them would fill the memory.
            images = [
                torch.where(selected[n], inputs[0], blurred[0]) if inserting else inputs[0].masked_fill(selected[n], 0)
                for n, inserting in jobs[start : start + _CHUNK]
            ]
            chunks.append(forward(self.classifier.network, torch.stack(images)))
            self.on_progress(min(1.0, (start + _CHUNK) / len(jobs)))
        logits = torch.cat(chunks)
        probabilities = self.classifier.scores(logits)[:, self.k].cpu().chunk(2)
        pairs = zip(probabilities, logits[:, self.k].cpu().chunk(2), strict=True)
        return Faithfulness(*(Curve(fractions, *pair) for pair in pairs))


def resample_on_input(attribution: Attribution, size: Sequence[int]) -> Tensor:
    """Resample a map to the pixels of the input, (H, W): interpolate between the centers of its cells."""
    values, field = attribution.values, attribution.field
    if tuple(values.shape) == tuple(size) and field.y.stride == field.x.stride == 1:
        return values
    return torch.from_numpy(grid.resample_on_input(values.numpy(force=True), field, size)).to(values)


def _expand_patches(values: Tensor, patch: int, size: Sequence[int]) -> Tensor:
    """Give every pixel the value of its patch, (H, W). The values are ordered row by row."""
    rows, columns = (math.ceil(side / patch) for side in size)
    cells = values.view(rows, columns).repeat_interleave(patch, 0).repeat_interleave(patch, 1)
    return cells[: size[0], : size[1]]


def blur_inputs(inputs: Tensor) -> Tensor:
    """Blur images (N, channels, H, W) with a Gaussian whose standard deviation is an eighth of the shorter side."""
    sigma = min(inputs.shape[2:]) / 8
    width = 2 * min(math.ceil(2 * sigma), min(inputs.shape[2:]) - 1) + 1
    # Blur one axis after the other: this takes far fewer multiplications than both at once.
    return gaussian_blur(gaussian_blur(inputs, [width, 1], [sigma, sigma]), [1, width], [sigma, sigma])


def _compute_mean_and_deviation(areas: Sequence[float]) -> tuple[float, float]:
    return statistics.mean(areas), statistics.stdev(areas) if len(areas) > 1 else 0.0
