"""The class maps of one image: maps with their sums, and what can be asked of them. `class_maps` computes them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from inspector.errors import InspectorError
from inspector.explain.class_names import list_top_classes
from inspector.explain.classifier import Classifier
from inspector.explain.decomposition import Decomposition
from inspector.explain.inputs import make_input_view
from inspector.explain.kinds import Verdict
from inspector.images.preprocessing import View

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from inspector.output.style import FigureStyle


AVERAGE: Literal["average"] = "average"  # contrasts a class with the average class


@dataclass(frozen=True, eq=False)
class ClassMap:
    """One map to show: of a class, or of its contrast with another class or with the average class."""

    title: str
    values: Tensor  # (h, w) in logits
    bias: float
    total: float | None  # values.sum() + bias, a logit or a difference of logits; None for position scores

    def equation(self) -> str:
        """Return how the map sums to the logit, as text."""
        if self.total is None:
            line = f"highest score {float(self.values.max()):.4f}"
        else:
            line = f"map {float(self.values.sum()):.4f} + bias {self.bias:.4f} = {self.total:.4f}"
        return line.replace("-", "\N{MINUS SIGN}")


@dataclass(frozen=True)
class FigureContent:
    """What a figure shows: together with the photo and the network, enough to draw it again."""

    classes: tuple[int, ...]
    against: str | int | None  # the class to contrast with, or "average"; None for no contrast
    dense: bool  # position scores instead of contributions to the logit
    smooth: bool  # interpolate between the centers of the cells
    opacity: float  # of the strongest color, 0-1


@dataclass(frozen=True, eq=False)
class ClassMaps:
    """Every logit of one image as a sum over the cells of the last feature maps."""

    values: Tensor  # (K, h, w) in logits
    bias: Tensor  # (K,)
    logits: Tensor  # (K,), the network's own
    probabilities: Tensor  # (K,); NaN if the network returns other values
    residual: float  # largest |values.sum((1, 2)) + bias - logits| of all classes, in logits
    verdict: Verdict
    split: Decomposition | None  # None for a large image, whose feature maps are not kept
    classifier: Classifier
    source: View | Tensor  # the photo and its crop; or the input (channels, H, W), if that came as a tensor
    backend: str = "eager"  # what ran the network, with the dtype unless float32

    @cached_property
    def view(self) -> View:
        """The photo and its crop; for a tensor the input itself, with mean and std undone."""
        if isinstance(self.source, View):
            return self.source
        return make_input_view(self.classifier.preprocessing, self.source)

    def top(self, count: int = 5) -> list[tuple[int, str, float]]:
        """Return (index, name, probability) of the classes with the highest logits, highest first."""
        return list_top_classes(self.classifier.class_names, self.logits, self.probabilities, count)

    def outcome(self, k: int, digits: int = 1) -> str:
        """Return the probability of a class as text, as in "97.3%", or its value with its unit, as in "41.3 years"."""
        return self.classifier.meaning.describe(float(self.logits[k]), float(self.probabilities[k]), digits)

    @property
    def decomposition(self) -> Decomposition:
        """The sum that the values come from; InspectorError for a large image, whose feature maps are not kept."""
        if self.split is None:
            raise InspectorError(
                "The feature maps of a large image are not kept. Use class_maps on a part of the image that matters."
            )
        return self.split

    @property
    def feature_maps(self) -> Tensor:
        """The feature maps before pooling, (C, h, w); those of several branches concatenated, on the finest grid."""
        return self.decomposition.feature_maps

    def parts(self, k: str | int) -> Tensor:
        """Compute what each channel adds to the logit of a class in each cell.

        Args:
            k: name or index of the class.

        Returns:
            Tensor (C, h, w) in logits; its sum is the logit less the bias.
        """
        return self.decomposition.parts(self.classifier.class_index(k))

    def channels(self, k: str | int) -> Tensor:
        """Compute what each channel adds to the logit of a class, in all cells together: (C,), in logits."""
        return self.parts(k).sum((1, 2))

    def contrast(self, a: str | int, b: str | int | None = None) -> Tensor:
        """Compute the evidence for class a rather than class b.

        Args:
            a: name or index of a class.
            b: name or index of another class. Default: the average of all classes.

        Returns:
            Tensor (h, w) in logits; its sum plus the difference of the biases is the difference of the logits.
        """
        other = self.values.mean(0) if b is None else self.values[self.classifier.class_index(b)]
        return self.values[self.classifier.class_index(a)] - other

    def position_scores(self, classes: Sequence[int] | None = None) -> Tensor:
        """Compute the score of each cell as if it alone were pooled.

        For average pooling, the mean over the cells is the logit less the bias. For max pooling, these are the dense
        scores of Oquab et al. (CVPR 2015), which do not sum to the logit.

        Args:
            classes: indices of classes. Default: all.

        Returns:
            Tensor (len(classes), h, w) in logits, without the bias.

        Raises:
            InspectorError: the head has more than one pooling, or one that is neither average nor max.
        """
        if not self.classifier.head.has_position_scores:
            raise InspectorError(
                "Position scores need a head with one pooling, average or max; the pooling of this head is "
                f"{self.classifier.head.pooling}."
            )
        return self.decomposition.scores(range(len(self.logits)) if classes is None else classes)

    def class_map(self, k: str | int, against: str | int | None = None, dense: bool = False) -> ClassMap:
        """Return one map to show, with its title.

        Args:
            k: name or index of the class.
            against: name or index of a class to contrast with, or "average" for the average of all classes.
            dense: position scores instead of contributions to the logit.

        Raises:
            ClassError: there is no such class.
            InspectorError: `dense` for a head that has no position scores.
        """
        k = self.classifier.class_index(k)
        name, others = self.classifier.class_names[k], []
        title = name
        if against == AVERAGE:
            title, others = f"{name} against the average class", list(range(len(self.logits)))
        elif against is not None:
            others = [self.classifier.class_index(against)]
            title = f"{name} against {self.classifier.class_names[others[0]]}"
        # Select before scoring, so that only the scores that are needed are computed.
        selected = [k, *others]
        values = self.position_scores(selected) if dense else self.values[selected]
        values, bias, logit = (
            rows[0] - rows[1:].mean(0) if others else rows[0]
            for rows in (values, self.bias[selected], self.logits[selected])
        )
        return ClassMap(title, values, float(bias), None if dense else float(logit))

    def contrast_map(self, classes: Sequence[int], dense: bool = False) -> ClassMap:
        """Return the first class against the second, or the other top class; InspectorError if there is no second."""
        if not classes or len(self.logits) < 2:
            raise InspectorError("A contrast needs two classes. Show one more class.")
        first, *others = classes
        other = next((k for k in (*others, *(k for k, _, _ in self.top(2))) if k != first), None)
        return self.class_map(first, other, dense)

    def describe_reading(self, dense: bool = False, against: str | int | None = None) -> str:
        """Return in words what the value of a cell means, for figures and reports."""
        quantity = self.classifier.meaning.quantity
        if against == AVERAGE:
            quantity = f"{quantity} less the average {quantity}"
        elif against is not None:
            quantity = f"{quantity} less that of {self.classifier.class_names[self.classifier.class_index(against)]}"
        if dense:
            return f"score of each cell as if it alone were pooled (does not sum to the {quantity})"
        if self.classifier.head.pooling == "max":
            return f"contribution of each channel to the {quantity}, in the cell with its maximum"
        return f"contribution of each cell to the {quantity}"

    def figure_content(
        self,
        classes: Sequence[str | int] | int = 5,
        against: str | int | None = None,
        dense: bool = False,
        smooth: bool = True,
        opacity: float = 0.85,
    ) -> FigureContent:
        """Return what a figure shows, with class indices in place of names; the arguments are those of `figure`."""
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
        """Draw the photo and its class maps, all on one scale, with the sums.

        Args:
            classes: names or indices of classes, or how many of those with the highest logits.
            against: name or index of a class to contrast with, or "average" for the average of all classes.
            dense: position scores instead of contributions to the logit.
            smooth: interpolate between the centers of the cells.
            opacity: opacity of the strongest color, 0-1.
            style: colors, sizes and panels.

        Returns:
            A matplotlib Figure.

        Raises:
            ClassError: there is no such class.
            InspectorError: the input was no photo, or the panels do not fit into the style's width.
        """
        from inspector.output.figure import class_map_figure
        from inspector.output.style import DEFAULT_STYLE

        content = self.figure_content(classes, against, dense, smooth, opacity)
        return class_map_figure(self, content, style or DEFAULT_STYLE)

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
        """Write figure, numbers, report and photo into a new folder, with a manifest to reproduce them.

        The folder may exist if it is empty, and is returned. The other arguments are those of `figure`.

        Raises:
            ExportError: the folder is not empty, or cannot be written.
        """
        from inspector.output.export import save_class_maps
        from inspector.output.style import DEFAULT_STYLE

        content = self.figure_content(classes, against, dense, smooth, opacity)
        return save_class_maps(self, Path(folder), content, style or DEFAULT_STYLE)
