"""What the class maps of a set of images say: the average map of each class, and whether all sums hold."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from inspector.analysis.localization import EvidenceInside, Mask, measure_evidence_inside
from inspector.errors import InspectorError
from inspector.explain.class_maps import ClassMaps
from inspector.explain.kinds import Verdict, worst_verdict


@dataclass(frozen=True, eq=False)
class AverageClassMaps:
    """The class maps of a set of images, each image's own class."""

    average_maps: Tensor  # (K, h, w) float32, in logits: the mean of k's map over the images of class k, or zeros
    counts: Tensor  # (K,), images of each class
    residual: float  # the largest of all images, in logits
    verdict: Verdict  # the worst of all images
    images: int
    inside: tuple[EvidenceInside | None, ...]  # one an image, in their order; None where its objects are not known


def average_class_maps(images: Iterable[tuple[ClassMaps, int, Mask | None]], tolerance: float = 0) -> AverageClassMaps:
    """The survey of images: of each its class maps, its class, and where its object is, (H, W) of the photo, if known.

    Images are taken one by one, and no more than sums is kept of their maps: let a generator make them. `tolerance` is
    that of the pointing game. Raises InspectorError where there is no image, and for maps of several grids.
    """
    totals, counts = torch.zeros(0), torch.zeros(0, dtype=torch.int64)
    residual, verdict = 0.0, worst_verdict()
    inside: list[EvidenceInside | None] = []
    for maps, label, mask in images:
        if not inside:
            totals = torch.zeros(maps.values.shape, dtype=torch.float64)
            counts = torch.zeros(len(totals), dtype=torch.int64)
        elif maps.values.shape != totals.shape:
            raise InspectorError(
                f"Class maps of {_describe_shape(totals)} and of {_describe_shape(maps.values)} have no average; "
                "images at one input size, and one network, would do."
            )
        k = maps.classifier.class_index(label)
        totals[k] += maps.values[k].detach().double().cpu()
        counts[k] += 1
        # Not max(): a miss that is no number must stay one.
        residual = float(np.maximum(residual, maps.residual))
        verdict = worst_verdict(verdict, maps.verdict)
        inside.append(None if mask is None else measure_evidence_inside(maps, k, mask, tolerance))
    if not inside:
        raise InspectorError("No image, so no average class map; one image or more would do.")
    average = (totals / counts.clamp(min=1)[:, None, None]).float()
    return AverageClassMaps(average, counts, residual, verdict, len(inside), tuple(inside))


def _describe_shape(values: Tensor) -> str:
    classes, height, width = values.shape
    return f"{classes} classes on {height} x {width} positions"
