"""Split every logit of an image over positions and channels.

    logit[k] = bias[k] + sum over y, x of  values[k, y, x]

with one forward pass and no gradient. Zhou et al. (CVPR 2016) for global average pooling; here in logits, signed, for
all classes at once, and checked against the network's own logits on every image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from inspector.capture import listen
from inspector.classifier import Classifier
from inspector.errors import InspectorError
from inspector.head import Verdict, misses
from inspector.image import ImageSource, Photo, View, make_view, read_image
from inspector.pooling import deciding_positions, position_scores, split

if TYPE_CHECKING:
    from matplotlib.figure import Figure

AVERAGE: Literal["average"] = "average"  # the average class, to contrast a class with


@dataclass(frozen=True, eq=False)
class ClassMap:
    """One class map as it is shown: a class, or a class against another or against the average class."""

    title: str
    values: Tensor  # (h, w), in logits
    bias: float
    total: float | None  # values.sum() + bias: a logit or a difference of two; None for scores, which do not sum

    def equation(self) -> str:
        """How the map adds up, in numbers."""
        if self.total is None:
            line = f"highest score {float(self.values.max()):.4f}"
        else:
            line = f"map {float(self.values.sum()):.4f} + bias {self.bias:.4f} = {self.total:.4f}"
        return line.replace("-", "\N{MINUS SIGN}")


@dataclass(frozen=True)
class Shown:
    """What a figure shows: with the photo and the network, enough to draw it again."""

    classes: tuple[int, ...]
    against: str | int | None  # another class, "average", or None for the class's own logit
    dense: bool  # position scores in place of parts of the logit
    smooth: bool  # interpolated between the cells' centres, or the raw grid
    opacity: float  # of the densest colour, 0-1


@dataclass(frozen=True, eq=False)
class ClassMaps:
    """Every logit of one image, split over the positions of the last feature maps."""

    values: Tensor  # (K, h, w), in logits
    bias: Tensor  # (K,)
    logits: Tensor  # (K,), as the network gave them
    probabilities: Tensor  # (K,)
    residual: float  # the largest |values.sum((1, 2)) + bias - logits| over all classes, in logits
    verdict: Verdict
    feature_maps: Tensor  # (C, h, w), before pooling
    classifier: Classifier
    view: View | None  # None where the input was a tensor and no photo

    def top(self, count: int = 5) -> list[tuple[int, str, float]]:
        """(index, name, probability) of the classes with the highest logits, highest first."""
        order = self.logits.argsort(descending=True, stable=True)[:count].tolist()
        return [(k, self.classifier.class_names[k], float(self.probabilities[k])) for k in order]

    def parts(self, k: str | int) -> Tensor:
        """What each channel and position adds to one logit: (C, h, w), in logits; they sum to the logit less bias."""
        channels, height, width = self.feature_maps.shape
        weight = self.classifier.head.weight[self.classifier.class_index(k)]
        if self.classifier.head.pooling == "average":
            return self.feature_maps * weight.view(channels, 1, 1) / (height * width)
        if self.classifier.head.pooling == "flatten":
            return self.feature_maps * weight.view(channels, height, width)
        deciding = deciding_positions(self.feature_maps[None])[0]
        kept = torch.arange(height * width, device=deciding.device) == deciding[:, None]  # (C, h * w)
        return self.feature_maps * kept.view_as(self.feature_maps) * weight.view(channels, 1, 1)

    def channels(self, k: str | int) -> Tensor:
        """What each channel adds to one logit: (C,), in logits; they sum to the logit less bias."""
        return self.parts(k).sum((1, 2))

    def contrast(self, a: str | int, b: str | int | None = None) -> Tensor:
        """What speaks for class a and against class b, or against the average class: (h, w), in logits.

        Sums, with the difference of the biases, to the difference of the logits.
        """
        other = self.values.mean(0) if b is None else self.values[self.classifier.class_index(b)]
        return self.values[self.classifier.class_index(a)] - other

    def position_scores(self) -> Tensor:
        """The dense reading: each position's score as if it alone were pooled, (K, h, w), in logits less bias.

        For average pooling their mean is the logit less bias; for max pooling they sum to no logit. InspectorError
        for a flattened head, where every position has a weight of its own.
        """
        if self.classifier.head.pooling == "flatten":
            raise InspectorError("A flattened head scores no position alone: each has weights of its own.")
        return position_scores(self.feature_maps[None], self.classifier.head.weight)[0]

    def read(self, k: str | int, against: str | int | None = None, dense: bool = False) -> ClassMap:
        """One class map to show: class k, or k against another class or against "average"; dense: position scores."""
        k = self.classifier.class_index(k)
        values, bias, logits = self.position_scores() if dense else self.values, self.bias, self.logits
        name = self.classifier.class_names[k]
        if against is None:
            title, shown = name, (values[k], bias[k], logits[k])
        elif against == AVERAGE:
            title = f"{name} against the average class"
            shown = (values[k] - values.mean(0), bias[k] - bias.mean(), logits[k] - logits.mean())
        else:
            b = self.classifier.class_index(against)
            title = f"{name} against {self.classifier.class_names[b]}"
            shown = (values[k] - values[b], bias[k] - bias[b], logits[k] - logits[b])
        return ClassMap(title, shown[0], float(shown[1]), None if dense else float(shown[2]))

    def reading(self, dense: bool = False, against: str | int | None = None) -> str:
        """In words, what the positions of a map are parts of."""
        if against is None:
            what = "logit"
        elif against == AVERAGE:
            what = "logit less the average logit"
        else:
            what = f"logit less that of {self.classifier.class_names[self.classifier.class_index(against)]}"
        if dense:
            return f"score of every position as if it alone were pooled (does not sum to the {what})"
        if self.classifier.head.pooling == "max":
            return f"each channel's part of the {what}, at the position that decided it"
        return f"every position's part of the {what}"

    def shown(
        self,
        classes: Sequence[str | int] | int = 5,
        against: str | int | None = None,
        dense: bool = False,
        smooth: bool = True,
        opacity: float = 0.85,
    ) -> Shown:
        """What a figure is to show: named or numbered classes, or as many of the top ones as `classes` says."""
        if isinstance(classes, int):
            chosen = tuple(k for k, _, _ in self.top(classes))
        else:
            chosen = tuple(self.classifier.class_index(k) for k in classes)
        if against is not None and against != AVERAGE:
            against = self.classifier.class_index(against)
        return Shown(chosen, against, dense, smooth, opacity)

    def figure(
        self,
        classes: Sequence[str | int] | int = 5,
        against: str | int | None = None,
        dense: bool = False,
        smooth: bool = True,
        opacity: float = 0.85,
    ) -> "Figure":
        """A matplotlib figure of the photo and the class maps over it, on one scale, with the sums."""
        from inspector.figure import class_map_figure

        return class_map_figure(self, self.shown(classes, against, dense, smooth, opacity))

    def save(
        self,
        folder: str | Path,
        classes: Sequence[str | int] | int = 5,
        against: str | int | None = None,
        dense: bool = False,
        smooth: bool = True,
        opacity: float = 0.85,
    ) -> Path:
        """Write the figure as PNG, PDF and SVG, the numbers as NPZ and a manifest into a new folder; return it.

        Raises ExportError if the folder is there already and not empty, or cannot be written.
        """
        from inspector.export import save

        return save(self, Path(folder), self.shown(classes, against, dense, smooth, opacity))


def class_maps(classifier: Classifier, image: ImageSource | Photo) -> ClassMaps:
    """The class maps of one image: a path, a file's bytes, a PIL image or an (H, W, 3) uint8 array.

    Raises ImageError for an image that cannot be read.
    """
    photo = image if isinstance(image, Photo) else read_image(image)
    view = make_view(photo, classifier.preprocessing)
    (maps,) = class_maps_of_batch(classifier, classifier.inputs(view), [view])
    return maps


def class_maps_of_batch(classifier: Classifier, inputs: Tensor, views: Sequence[View] | None = None) -> list[ClassMaps]:
    """The class maps of each image of a batch of normalised inputs, (N, channels, H, W)."""
    head = classifier.head
    feature_maps, logits = listen(classifier.tap, inputs)
    with torch.no_grad():
        values = split(head.pooling, feature_maps, None if head.per_class else head.weight)
        sums = values.sum((2, 3)) + head.bias
        total = values.abs().sum((2, 3)) + head.bias.abs()
        exact = (misses(sums, logits, total) <= 1).all(1)
        residuals = (sums - logits).abs().amax(1)
        probabilities = logits.softmax(1) if classifier.probability == "softmax" else logits.sigmoid()
    return [
        ClassMaps(
            values=values[n],
            bias=head.bias,
            logits=logits[n],
            probabilities=probabilities[n],
            residual=float(residuals[n]),
            verdict="exact" if exact[n] else "not exact",
            feature_maps=feature_maps[n],
            classifier=classifier,
            view=views[n] if views is not None else None,
        )
        for n in range(len(logits))
    ]
