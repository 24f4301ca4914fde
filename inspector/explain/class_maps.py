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

from inspector.errors import InspectorError
from inspector.explain.classifier import Classifier
from inspector.explain.decomposition import Decomposition, decompose
from inspector.explain.feature_capture import capture_pass
from inspector.explain.head import relative_error
from inspector.explain.kinds import Verdict
from inspector.images.photo import ImageSource, Photo, read_image
from inspector.images.preprocessing import View, make_view

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from inspector.output.style import FigureStyle

# Values that torch adds up on one thread. More wake the others, which then spin for longer than a quick network runs.
_ALONE = 32_000
_NATIVE = 1024  # pixels: of more, the feature maps of a large network fill the memory

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
class FigureContent:
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
    split: Decomposition | None  # what the values were made of; None for a large image, whose feature maps are not kept
    classifier: Classifier
    view: View | None  # None where the input was a tensor and no photo
    backend: str = "eager"  # what ran the network (tap.Heard)

    def top(self, count: int = 5) -> list[tuple[int, str, float]]:
        """(index, name, probability) of the classes with the highest logits, highest first."""
        return list_top_classes(self.classifier.class_names, self.logits, self.probabilities, count)

    @property
    def decomposition(self) -> Decomposition:
        """What the values were made of.

        Raises:
            InspectorError: these maps are of a large image, whose feature maps are not kept.
        """
        if self.split is None:
            raise InspectorError(
                "The feature maps of a large image are not kept. Use class_maps on a part of the image that matters."
            )
        return self.split

    @property
    def feature_maps(self) -> Tensor:
        """The feature maps before pooling, (C, h, w); of several branches one after the other, on the finest grid."""
        return self.decomposition.feature_maps

    def parts(self, k: str | int) -> Tensor:
        """What each channel and position adds to one logit: (C, h, w), in logits; they sum to the logit less bias."""
        return self.decomposition.parts(self.classifier.class_index(k))

    def channels(self, k: str | int) -> Tensor:
        """What each channel adds to one logit: (C,), in logits; they sum to the logit less bias."""
        return self.parts(k).sum((1, 2))

    def contrast(self, a: str | int, b: str | int | None = None) -> Tensor:
        """What speaks for class a and against class b, or against the average class: (h, w), in logits.

        Sums, with the difference of the biases, to the difference of the logits.
        """
        other = self.values.mean(0) if b is None else self.values[self.classifier.class_index(b)]
        return self.values[self.classifier.class_index(a)] - other

    def position_scores(self, classes: Sequence[int] | None = None) -> Tensor:
        """The dense reading: each position's score as if it alone were pooled, (K, h, w), in logits less bias.

        Of all classes, or of those named. For average pooling their mean is the logit less bias; for max pooling they
        sum to no logit. InspectorError for a head that has no such scores.
        """
        if not self.classifier.head.has_position_scores:
            raise InspectorError(
                "A position is scored alone only where average or max pooling is the only one: this head's is "
                f"{self.classifier.head.pooling}."
            )
        return self.decomposition.scores(range(len(self.logits)) if classes is None else classes)

    def class_map(self, k: str | int, against: str | int | None = None, dense: bool = False) -> ClassMap:
        """One class map to show: class k, or k against another class or against "average"; dense: position scores."""
        k = self.classifier.class_index(k)
        name, others = self.classifier.class_names[k], []
        title = name
        if against == AVERAGE:
            title, others = f"{name} against the average class", list(range(len(self.logits)))
        elif against is not None:
            others = [self.classifier.class_index(against)]
            title = f"{name} against {self.classifier.class_names[others[0]]}"
        # The class first; a dense reading makes no more scores than are asked for.
        wanted = [k, *others]
        values = self.position_scores(wanted) if dense else self.values[wanted]
        values, bias, logit = (
            one[0] - one[1:].mean(0) if others else one[0] for one in (values, self.bias[wanted], self.logits[wanted])
        )
        return ClassMap(title, values, float(bias), None if dense else float(logit))

    def describe_reading(self, dense: bool = False, against: str | int | None = None) -> str:
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

    def figure_content(
        self,
        classes: Sequence[str | int] | int = 5,
        against: str | int | None = None,
        dense: bool = False,
        smooth: bool = True,
        opacity: float = 0.85,
    ) -> FigureContent:
        """What a figure is to show: named or numbered classes, or as many of the top ones as `classes` says."""
        if isinstance(classes, int):
            chosen = tuple(k for k, _, _ in self.top(classes))
        else:
            chosen = tuple(self.classifier.class_index(k) for k in classes)
        if against is not None and against != AVERAGE:
            against = self.classifier.class_index(against)
        return FigureContent(chosen, against, dense, smooth, opacity)

    def figure(
        self,
        classes: Sequence[str | int] | int = 5,
        against: str | int | None = None,
        dense: bool = False,
        smooth: bool = True,
        opacity: float = 0.85,
        style: "FigureStyle | None" = None,
    ) -> "Figure":
        """A matplotlib figure of the photo and the class maps over it, on one scale, with the sums."""
        from inspector.output.figure import class_map_figure
        from inspector.output.style import DEFAULT_STYLE

        return class_map_figure(
            self, self.figure_content(classes, against, dense, smooth, opacity), style or DEFAULT_STYLE
        )

    def save(
        self,
        folder: str | Path,
        classes: Sequence[str | int] | int = 5,
        against: str | int | None = None,
        dense: bool = False,
        smooth: bool = True,
        opacity: float = 0.85,
        style: "FigureStyle | None" = None,
    ) -> Path:
        """Write figure, numbers, report, photo and a manifest into a new folder, from which all can be made again.

        Raises ExportError if the folder is there already and not empty, or cannot be written.
        """
        from inspector.output.export import save_class_maps
        from inspector.output.style import DEFAULT_STYLE

        return save_class_maps(
            self, Path(folder), self.figure_content(classes, against, dense, smooth, opacity), style or DEFAULT_STYLE
        )


def class_maps(
    classifier: Classifier, image: ImageSource | Photo, size: int | Sequence[int] | Literal["native"] | None = None
) -> ClassMaps:
    """The class maps of one image: a path, a file's bytes, a PIL image or an (H, W, 3) uint8 array.

    At another input size the maps have another grid, and the logits are others: (height, width), or "native" for all
    of the photo at its own resolution, up to 1024 pixels. Networks are at their best at the size that they were trained
    with. Raises ImageError for an image that cannot be read, NetworkError for a size that the network does not take.
    """
    photo = image if isinstance(image, Photo) else read_image(image)
    if size == "native":
        classifier = classifier.with_input_size(native_size(photo), crop=False)
    elif size is not None:
        classifier = classifier.with_input_size(size)
    view = make_view(photo, classifier.preprocessing)
    (maps,) = class_maps_of_batch(classifier, classifier.inputs(view), [view])
    return maps


def list_top_classes(
    class_names: Sequence[str], logits: Tensor, probabilities: Tensor, count: int
) -> list[tuple[int, str, float]]:
    """Return (index, name, probability) of the `count` classes with the highest logits, highest first."""
    order = logits.argsort(descending=True, stable=True)[:count].tolist()
    return [(k, class_names[k], float(probabilities[k])) for k in order]


def native_size(photo: Photo) -> tuple[int, int]:
    """The photo's own (height, width); of a larger one so scaled that its longer side has 1024 pixels."""
    scale = min(1, _NATIVE / max(photo.size))
    return round(photo.size[0] * scale), round(photo.size[1] * scale)


def class_maps_of_batch(classifier: Classifier, inputs: Tensor, views: Sequence[View] | None = None) -> list[ClassMaps]:
    """The class maps of each image of a batch of normalised inputs, (N, channels, H, W)."""
    heard, logits, tape, backend = capture_pass(classifier.capture, inputs)
    probabilities = classifier.probabilities(logits)
    made = []
    for n, split in enumerate(decompose(classifier.network, classifier.head, inputs, heard, tape)):
        residual, adds_up = _check(split, logits[n])
        maps = ClassMaps(
            values=split.values,
            bias=split.bias,
            logits=logits[n],
            probabilities=probabilities[n],
            residual=residual,
            verdict=classifier.head.verdict if adds_up else "not exact",
            split=split,
            classifier=classifier,
            view=views[n] if views is not None else None,
            backend=backend,
        )
        made.append(maps)
    return made


def _check(split: Decomposition, logits: Tensor) -> tuple[float, bool]:
    """The largest miss over all classes, in logits, and whether all are within rounding."""
    rows = split.values.flatten(1).split(max(1, _ALONE // split.values[0].numel()))
    sums = torch.cat([own.sum(1) for own in rows]) + split.bias
    total = torch.cat([own.abs().sum(1) for own in rows]) + split.bias.abs()
    return float((sums - logits).abs().max()), bool((relative_error(sums, logits, total) <= 1).all())
