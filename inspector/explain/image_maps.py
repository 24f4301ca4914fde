"""The class maps of one image: maps with their sums, and what can be asked of them. `class_maps` computes them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from inspector.errors import InspectorError
from inspector.explain import map_summary
from inspector.explain.class_names import list_top_classes
from inspector.explain.classifier import Classifier
from inspector.explain.decomposition import Decomposition
from inspector.explain.finer import FinerMaps
from inspector.explain.grid import resample_on_photo
from inspector.explain.inputs import make_input_view
from inspector.explain.kinds import Verdict
from inspector.explain.map_arrays import MapArrays, describe_reading
from inspector.explain.receptive_field import ReceptiveField
from inspector.explain.shown_map import AVERAGE, ClassMap, FigureContent, choose_contrast
from inspector.images.preprocessing import View

if TYPE_CHECKING:
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

    from inspector.analysis.location import Location
    from inspector.output.notebook import ClassMapsWidget
    from inspector.output.style import FigureStyle


@dataclass(frozen=True, eq=False, repr=False)
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
    finer: FinerMaps | None = None  # with the cells between the network's own, if they were asked for

    @cached_property
    def view(self) -> View:
        """The photo and its crop; for a tensor the input itself, with mean and std undone."""
        if isinstance(self.source, View):
            return self.source
        return make_input_view(self.classifier.preprocessing, self.source)

    def top(self, count: int = 5) -> list[tuple[int, str, float]]:
        """Return (index, name, probability) of the classes with the highest logits, highest first."""
        logits, probabilities = self.logits.numpy(force=True), self.probabilities.numpy(force=True)
        return list_top_classes(self.classifier.class_names, logits, probabilities, count)

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

    def contrast(self, a: str | int, b: str | int | None = AVERAGE) -> Tensor:
        """Compute the evidence for class a rather than class b.

        Args:
            a: name or index of a class.
            b: name or index of another class, or "average" for the average of all classes.

        Returns:
            Tensor (h, w) in logits; its sum plus the difference of the biases is the difference of the logits.
        """
        other = self.values.mean(0) if b in (None, AVERAGE) else self.values[self.classifier.class_index(b)]
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
                "Class scores per cell need a head with one pooling, average or max; the pooling of this head is "
                f"{self.classifier.head.pooling}."
            )
        return self.decomposition.scores(range(len(self.logits)) if classes is None else classes)

    def class_map(
        self, k: str | int, against: str | int | None = None, dense: bool = False, finer: bool = False
    ) -> ClassMap:
        """Return one map to show, with its title.

        Args:
            k: name or index of the class.
            against: name or index of a class to contrast with, or "average" for the average of all classes.
            dense: class scores per cell (before pooling) instead of contributions.
            finer: on the finer grid, if it was computed.

        Raises:
            ClassError: there is no such class.
            InspectorError: `dense` for a head that has no class score per cell.
        """
        return map_summary.make_shown_map(self, k, against, dense, self.finer if finer else None)

    def to_numpy(self) -> MapArrays:
        """Return the maps as NumPy arrays, with what a viewer needs to know of the network."""
        return map_summary.make_map_arrays(self)

    @property
    def shown_field(self) -> ReceptiveField:
        """The receptive fields of the cells that are drawn: of the finer grid, if it was computed."""
        return self.classifier.receptive_field if self.finer is None else self.finer.field

    def contrast_map(self, classes: Sequence[int], dense: bool = False, finer: bool = False) -> ClassMap:
        """Return the first class against the second, or the other top class; InspectorError if there is no second."""
        return self.class_map(*choose_contrast(classes, [k for k, _, _ in self.top(2)]), dense, finer)

    def describe_reading(self, dense: bool = False, against: str | int | None = None) -> str:
        """Return in words what the value of a cell means, for figures and reports."""
        return describe_reading(self.classifier.facts, dense, against, self.finer is not None)

    def heatmap(
        self, k: str | int, against: str | int | None = None, smooth: bool = True, dense: bool = False
    ) -> NDArray[np.float32]:
        """Resample a class map at every pixel of the photo.

        Args:
            k: name or index of the class.
            against: name or index of a class to contrast with, or "average" for the average of all classes.
            smooth: interpolate between the centers of the cells, or give every pixel the value of its nearest cell.
            dense: class scores per cell (before pooling) instead of contributions.

        Returns:
            Array (H, W) at the photo's size: the contribution per cell (sums to the logit), or the class score per cell
            (before pooling) if `dense`, in logits and signed; zero outside of what the network sees.

        Raises:
            ClassError: there is no such class.
            PlaceError: the place of the cells on the photo is unknown.
        """
        values = self.class_map(k, against, dense, finer=True).values.numpy(force=True)
        field, crop = self.shown_field, self.view.crop
        return resample_on_photo(values, crop, field, self.view.photo.size, smooth)

    def locate(
        self,
        k: str | int,
        against: str | int | None = None,
        threshold: float = 0.3,
        unit: Literal["share", "logits"] = "share",
        dense: bool = False,
    ) -> "Location":
        """Locate the evidence for a class on the photo: `points`, `boxes` and a `mask`; see `locate_class`."""
        from inspector.analysis.location import locate_class

        return locate_class(self, k, against, threshold, unit, dense)

    def overlay(
        self,
        k: str | int,
        cmap: "str | Colormap" = "inspector",
        against: str | int | None = None,
        smooth: bool = True,
        opacity: float = 0.85,
        scale: float | None = None,
        gray: bool = True,
    ) -> NDArray[np.uint8]:
        """Draw a class map over the photo.

        Args:
            k: name or index of the class.
            cmap: "inspector" (blue-white-red), "turbo" or "inferno" (of the positive part only), or any other colormap
                of matplotlib, with zero in its middle. Zero is transparent.
            against: name or index of a class to contrast with, or "average" for the average of all classes.
            smooth: interpolate between the centers of the cells.
            opacity: opacity of the strongest color, 0-1.
            scale: absolute value of a cell with the strongest color, in logits. Default: the largest of the map.
            gray: draw the photo in gray, so that the colors of the map are seen on any photo.

        Returns:
            RGB image (H, W, 3) at the photo's size; the photo is dimmed outside of what the network sees.

        Raises:
            ClassError: there is no such class.
            InspectorError: there is no such colormap, or the place of the cells on the photo is unknown.
        """
        from inspector.output.figure import overlay_class_map

        return overlay_class_map(self, self.class_map(k, against, finer=True), cmap, smooth, opacity, scale, gray)

    def __repr__(self) -> str:
        """Return network and photo, top classes, verdict and sizes, one per line, and how a finer map was made."""
        return map_summary.describe_class_maps(self)

    @cached_property
    def _inline_figure(self) -> bytes:
        from inspector.output.figure_file import encode_figure

        return encode_figure(self.figure(), "png", 100)

    def _repr_png_(self) -> bytes:
        """Return the figure of the top classes, for what shows no HTML, such as a PDF of a notebook."""
        return self._inline_figure

    def _repr_html_(self) -> str:
        """Return the figure of the top classes with its numbers as text, which notebooks show."""
        from inspector.output.notebook import render_class_maps

        return render_class_maps(self, self._inline_figure)

    def widget(
        self,
        classes: Sequence[str | int] | int = 5,
        against: str | int | None = None,
        dense: bool = False,
        smooth: bool = True,
        opacity: float = 0.85,
        style: "FigureStyle | None" = None,
    ) -> "ClassMapsWidget":
        """Return the app's viewer as a widget for notebooks: clicks and keys are answered in the browser.

        It begins with the first of the classes. The other arguments are those of `figure`.

        Returns:
            A widget of anywidget. Its ``state`` says what is shown: class ``k``, contrast, ``cell`` (row, column), ...

        Raises:
            InspectorError: anywidget is not installed (extra ``notebook``), or the input was no photo.
        """
        from inspector.output.notebook import make_widget
        from inspector.output.style import DEFAULT_STYLE

        content = self.figure_content(classes, against, dense, smooth, opacity)
        return make_widget(self, content, style or DEFAULT_STYLE)

    def figure_content(
        self,
        classes: Sequence[str | int] | int = 5,
        against: str | int | None = None,
        dense: bool = False,
        smooth: bool = True,
        opacity: float = 0.85,
    ) -> FigureContent:
        """Return what a figure shows, with class indices in place of names; the arguments are those of `figure`."""
        return map_summary.make_figure_content(self, classes, against, dense, smooth, opacity)

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
            classes: a name, names or indices of classes, or how many of those with the highest logits.
            against: name or index of a class to contrast with, or "average" for the average of all classes.
            dense: class scores per cell (before pooling) instead of contributions.
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
