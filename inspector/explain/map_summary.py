"""The class maps of one image in words, as NumPy arrays, and as what a figure shows of them."""

from collections.abc import Sequence
from dataclasses import replace
from numbers import Real
from typing import TYPE_CHECKING

from torch import Tensor

from inspector.errors import ClassError, InspectorError
from inspector.explain.finer import FinerMaps
from inspector.explain.map_arrays import MapArrays, count_maxima, shows_scores
from inspector.explain.shown_map import AVERAGE, ClassMap, FigureContent, make_class_map

if TYPE_CHECKING:
    from inspector.explain.image_maps import ClassMaps


def make_map_arrays(maps: "ClassMaps") -> MapArrays:
    """Return the maps as NumPy arrays, with what a viewer needs to know of the network."""
    network, split = maps.classifier.facts, maps.split
    values, bias, logits, probabilities = (
        one.numpy(force=True) for one in (maps.values, maps.bias, maps.logits, maps.probabilities)
    )
    is_max = network.pooling == "max" and split is not None and len(split.branches) == 1
    return MapArrays(
        network,
        maps.view,
        values,
        bias,
        logits,
        probabilities,
        float(maps.residual),
        maps.verdict,
        maps.position_scores().numpy(force=True) if shows_scores(network) and split is not None else None,
        count_maxima(split.branches[0].feature_maps.numpy(force=True)) if is_max and split is not None else None,
        maps.backend,
    )


def describe_class_maps(maps: "ClassMaps") -> str:
    """Return network and photo, top classes, verdict and sizes, a line each; further lines only where needed."""
    classifier, (count, rows, columns) = maps.classifier, maps.values.shape
    top = ", ".join(f"{name} ({maps.outcome(k)})" for k, name, _ in maps.top(3))
    height, width = maps.view.photo.size
    warning = classifier.receptive_field.warning
    return "\n".join(
        (
            f"ClassMaps of {maps.view.photo.name} by {classifier.name}",
            f"  top: {top}",
            f"  verdict: {maps.verdict}, largest residual {maps.residual:.1e} {classifier.meaning.units}",
            f"  maps: {count} classes x {rows} x {columns} cells",
            f"  photo: {height} x {width} pixels, fed {classifier.preprocessing.describe()}",
            *([] if maps.finer is None else [f"  {maps.finer.describe()}"]),
            *([] if warning is None else [f"  {warning}"]),
            *(f"  {note}" for note in classifier.precision_notes),
        )
    )


def make_shown_map(
    maps: "ClassMaps", k: str | int, against: str | int | None, dense: bool, grid: FinerMaps | None
) -> ClassMap:
    """Return one map to show, on the network's own grid or on a finer one; see `ClassMaps.class_map`."""

    def select(classes: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        if grid is not None:
            values = grid.scores(classes) if dense else grid.contributions(classes)
        else:
            values = maps.position_scores(classes) if dense else maps.values[classes]
        return values, maps.bias[classes], maps.logits[classes]

    names = maps.classifier.class_names
    shown = make_class_map(names, select, k, against, dense)
    if grid is None:
        return shown

    def select_means(classes: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        return grid.mean_logits[classes], grid.bias[classes], grid.mean_logits[classes]

    mean = make_class_map(names, select_means, k, against, dense).total
    return replace(shown, factor=grid.factor, mean_total=mean)


def make_figure_content(
    maps: "ClassMaps",
    classes: Sequence[str | int] | int,
    against: str | int | None,
    dense: bool,
    smooth: bool,
    opacity: float,
) -> FigureContent:
    """Return what a figure shows, with class indices in place of names; see `ClassMaps.figure_content`."""
    if not isinstance(opacity, Real) or not 0 <= opacity <= 1:
        raise InspectorError(f"The opacity is a number from 0 to 1; got {opacity!r}.")
    if isinstance(classes, int):
        if classes < 1:
            raise ClassError(f"A figure shows at least one class; got {classes}. For the last class, use [-1].")
        chosen = tuple(k for k, _, _ in maps.top(classes))
    else:
        names = [classes] if isinstance(classes, str) else classes
        chosen = tuple(maps.classifier.class_index(k) for k in names)
    if against is not None and against != AVERAGE:
        against = maps.classifier.class_index(against)
    factor = 1 if maps.finer is None else maps.finer.factor
    return FigureContent(chosen, against, dense, smooth, float(opacity), factor)
