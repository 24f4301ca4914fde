"""Class-map statistics over labeled images: each image contributes the map of its true class only."""

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
    """Class-map statistics over labeled images."""

    average_maps: Tensor  # (K, h, w) float32 in logits: mean map of class k over the images of class k, zeros if none
    counts: Tensor  # (K,), number of images per class
    residual: float  # largest residual of all images, in logits
    verdict: Verdict  # worst verdict of all images
    images: int  # number of images
    inside: tuple[EvidenceInside | None, ...]  # one per image; None if the objects on the image are unknown


def average_class_maps(images: Iterable[tuple[ClassMaps, int, Mask | None]], tolerance: float = 0) -> AverageClassMaps:
    """Average class maps over labeled images.

    Only sums of the maps are kept in memory, so `images` can be a generator.

    Args:
        images: for each image its class maps, the index of its true class, and the object mask (H, W) of the photo, or
            None if the object is not known.
        tolerance: in the pointing game, the highest value may be this far outside the object, in pixels of the photo.

    Returns:
        Average map of each class, with statistics over all images.

    Raises:
        InspectorError: there is no image, or the class maps have different grids or numbers of classes.
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
                f"Class maps of {_describe_shape(totals)} and of {_describe_shape(maps.values)} cannot "
                "be averaged. Use images of one input size and one network."
            )
        k = maps.classifier.class_index(label)
        totals[k] += maps.values[k].detach().double().cpu()
        counts[k] += 1
        # np.maximum keeps a residual of NaN; max() could drop it.
        residual = float(np.maximum(residual, maps.residual))
        verdict = worst_verdict(verdict, maps.verdict)
        inside.append(None if mask is None else measure_evidence_inside(maps, k, mask, tolerance))
    if not inside:
        raise InspectorError("There is no image to average. Use at least one.")
    average = (totals / counts.clamp(min=1)[:, None, None]).float()
    return AverageClassMaps(average, counts, residual, verdict, len(inside), tuple(inside))


def _describe_shape(values: Tensor) -> str:
    classes, height, width = values.shape
    return f"{classes} classes with {height} x {width} cells"
