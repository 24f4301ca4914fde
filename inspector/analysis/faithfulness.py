"""Does the network use what a map points at? Insertion and deletion.

Deletion covers the photo with the mean colour, first where the map is highest: the sooner the probability of the class
falls, the lower the area under its curve, the better the map. Insertion uncovers a blurred photo in the same order: the
higher the area, the better (Petsiuk, Das, Saenko, "RISE", BMVC 2018). Beside them stands what random maps get.

Both go patch by patch, as region perturbation does (Samek et al., TNNLS 2017): single pixels would make a noise that
misleads every network, and favour the maps that are noise themselves. A patch of one pixel is RISE's own measure.
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

STEPS = 16
SEEDS = (0, 1, 2, 3)  # of the random maps
PATCHES = 14  # along the shorter side
_CHUNK = 4  # images at a time


@dataclass(frozen=True, eq=False)
class Curve:
    """What becomes of a class while more and more of the photo is covered or uncovered."""

    fractions: Tensor  # (S,), of the photo: 0 to 1
    probabilities: Tensor  # (S,)
    logits: Tensor  # (S,)

    @property
    def area(self) -> float:
        """Under the probability, by the trapezoid rule: 0 to 1."""
        return float(torch.trapezoid(self.probabilities, self.fractions))


@dataclass(frozen=True, eq=False)
class Faithfulness:
    """Both curves of one order."""

    insertion: Curve
    deletion: Curve


@dataclass(frozen=True, eq=False)
class RandomBaseline:
    """What random maps get: mean and sample standard deviation (n - 1) of the areas."""

    curves: tuple[Faithfulness, ...]  # one a seed

    @property
    def insertion(self) -> tuple[float, float]:
        return _compute_mean_and_deviation([curves.insertion.area for curves in self.curves])

    @property
    def deletion(self) -> tuple[float, float]:
        return _compute_mean_and_deviation([curves.deletion.area for curves in self.curves])

    def mean(self, kind: CurveKind) -> Curve:
        """The mean of the curves."""
        curves: list[Curve] = [getattr(pair, kind) for pair in self.curves]
        means = (torch.stack([getattr(c, name) for c in curves]).mean(0) for name in ("probabilities", "logits"))
        return Curve(curves[0].fractions, *means)


def choose_patch_size(size: Sequence[int]) -> int:
    """The side of a patch in pixels for an input (height, width)."""
    return max(1, round(min(size) / PATCHES))


def measure_faithfulness(
    classifier: Classifier,
    inputs: Tensor,
    k: int,
    attribution: Attribution,
    patch: int | None = None,
    steps: int = STEPS,
    on_progress: OnProgress = lambda done: None,
    should_stop: ShouldStop = lambda: False,
) -> Faithfulness:
    """Insertion and deletion of an input (1, channels, H, W) in the order of a map, its highest values first."""
    height, width = inputs.shape[2:]
    patch = choose_patch_size((height, width)) if patch is None else patch
    values = resample_on_input(attribution, (height, width))
    # The last patches of a row or column may be cut off: the mean over what they have.
    means = functional.avg_pool2d(values[None, None], patch, ceil_mode=True)[0, 0]
    order = means.flatten().argsort(descending=True, stable=True)
    return measure_patches(classifier, inputs, k, order, patch, steps, on_progress, should_stop)


def compute_random_baseline(
    classifier: Classifier,
    inputs: Tensor,
    k: int,
    attribution: Attribution,
    patch: int | None = None,
    steps: int = STEPS,
    seeds: Sequence[int] = SEEDS,
    on_progress: OnProgress = lambda done: None,
    should_stop: ShouldStop = lambda: False,
) -> RandomBaseline:
    """The same for maps of random values, one a seed, on the grid of the map that they are compared with.

    The grid matters: patches that lie scattered harm a photo far more than as many in one piece.
    """
    curves = []
    for n, seed in enumerate(seeds):
        values = torch.rand(attribution.values.shape, generator=torch.Generator().manual_seed(seed)).to(
            attribution.values
        )

        def report_part(done: float, n: int = n) -> None:
            on_progress((n + done) / len(seeds))

        random = replace(attribution, values=values)
        curves.append(measure_faithfulness(classifier, inputs, k, random, patch, steps, report_part, should_stop))
    return RandomBaseline(tuple(curves))


def measure_patches(
    classifier: Classifier,
    inputs: Tensor,
    k: int,
    order: Tensor,
    patch: int,
    steps: int = STEPS,
    on_progress: OnProgress = lambda done: None,
    should_stop: ShouldStop = lambda: False,
) -> Faithfulness:
    """Insertion and deletion of patches in this order, their numbers row by row; at most `steps` of as many patches."""
    patches = len(order)
    counts = torch.linspace(0, patches, min(steps, patches) + 1).round().long()
    ranks = _expand_patches(order.argsort(), patch, inputs.shape[2:]).to(inputs.device)
    selected = (ranks < counts.to(ranks.device)[:, None, None])[:, None]  # (S, 1, H, W)
    # By pixels and not by patches: those at the edge may be smaller.
    fractions = selected.float().mean((1, 2, 3)).cpu()
    blurred = blur_inputs(inputs)
    logits: list[Tensor] = []
    jobs = [(n, inserting) for inserting in (True, False) for n in range(len(counts))]
    for start in range(0, len(jobs), _CHUNK):
        if should_stop():
            raise Cancelled("Insertion and deletion were stopped.")
        # Made as they are needed: all at once would fill the memory at large sizes.
        images = [
            torch.where(selected[n], inputs[0], blurred[0]) if inserting else inputs[0].masked_fill(selected[n], 0)
            for n, inserting in jobs[start : start + _CHUNK]
        ]
        logits.append(forward(classifier.network, torch.stack(images)))
        on_progress(min(1.0, (start + _CHUNK) / len(jobs)))
    all_logits = torch.cat(logits)
    probabilities = classifier.probabilities(all_logits)[:, k].cpu().chunk(2)
    insertion, deletion = (
        Curve(fractions, *pair) for pair in zip(probabilities, all_logits[:, k].cpu().chunk(2), strict=True)
    )
    return Faithfulness(insertion, deletion)


def resample_on_input(attribution: Attribution, size: Sequence[int]) -> Tensor:
    """A map at every pixel of the input, (H, W): interpolated between the true centres of its cells."""
    values, field = attribution.values, attribution.field
    if tuple(values.shape) == tuple(size) and field.y.stride == field.x.stride == 1:
        return values
    return torch.from_numpy(grid.resample_on_input(values.numpy(force=True), field, size)).to(values)


def _expand_patches(values: Tensor, patch: int, size: Sequence[int]) -> Tensor:
    """A value a patch, row by row, at every pixel: (H, W)."""
    rows, columns = (math.ceil(side / patch) for side in size)
    cells = values.view(rows, columns).repeat_interleave(patch, 0).repeat_interleave(patch, 1)
    return cells[: size[0], : size[1]]


def blur_inputs(inputs: Tensor) -> Tensor:
    """What is left when all detail is gone: a Gaussian whose standard deviation is an eighth of the shorter side."""
    sigma = min(inputs.shape[2:]) / 8
    width = 2 * min(math.ceil(2 * sigma), min(inputs.shape[2:]) - 1) + 1
    # One axis after the other: far fewer products.
    return gaussian_blur(gaussian_blur(inputs, [width, 1], [sigma, sigma]), [1, width], [sigma, sigma])


def _compute_mean_and_deviation(areas: Sequence[float]) -> tuple[float, float]:
    return statistics.mean(areas), statistics.stdev(areas) if len(areas) > 1 else 0.0
