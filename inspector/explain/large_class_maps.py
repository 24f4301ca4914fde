"""The class maps of an image too large to pass through a network in one piece.

The network is run on tiles that overlap by as much as its positions see (`locality.py`), and of each tile only the
positions are kept that are those of the one-piece pass. What is pooled is gathered on the way, in double precision:

    average   p[c] = (sum over tiles of the sum over their positions) / (h * w)
    max       p[c] = the largest maximum of all tiles; of equal ones the first position of the whole grid, row by row

and handed to what follows the pooling in the network, which gives the logits. The likeliest classes are known only
then. So with average pooling the feature maps of every tile wait in a temporary folder, 4 * C * h * w bytes, for the
weights of these classes: a second pass over the image would take as long as the first. Max pooling needs its winners
only.
"""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from inspector.errors import HeadError, InspectorError
from inspector.explain.class_maps import ClassMaps
from inspector.explain.classifier import Classifier
from inspector.explain.head import relative_error
from inspector.explain.kinds import Pooling, Verdict
from inspector.explain.memory import give_back_freed_memory
from inspector.explain.tiling import Tile, Tiling, compute_feature_maps, make_tiles, verify_tiling
from inspector.explain.tracing.forward import match_parameters
from inspector.explain.tracing.receptive_field import make_even_field
from inspector.images.large import LargeImage, LargeSource, open_large_image
from inspector.images.photo import Photo
from inspector.images.preprocessing import Crop, View, make_whole_view


@dataclass(frozen=True, eq=False)
class LargeMaps:
    """The logits of a large image, and some of them split over the positions of the last feature maps."""

    values: Tensor  # (k, h, w), in logits: of the chosen classes only
    classes: tuple[int, ...]  # k of them, in the order of `values`
    bias: Tensor  # (k,)
    logits: Tensor  # (K,), as what follows the pooling in the network gave them
    probabilities: Tensor  # (K,)
    residual: (
        float  # the largest |weight @ pooled + bias - logit| of all classes and |values.sum() + ...| of the chosen
    )
    verdict: Verdict
    tiling: Tiling  # how the image was cut, and the proof that it may be
    tiles: int
    image: LargeImage
    classifier: Classifier

    @property
    def grid(self) -> tuple[int, int]:
        """h, w of the feature maps."""
        return self.tiling.y.positions, self.tiling.x.positions

    def top(self, count: int = 5) -> list[tuple[int, str, float]]:
        """(index, name, probability) of the classes with the highest logits, highest first."""
        order = self.logits.argsort(descending=True, stable=True)[:count].tolist()
        return [(k, self.classifier.class_names[k], float(self.probabilities[k])) for k in order]

    def reduced(self, side: int = 2000) -> ClassMaps:
        """The chosen classes, numbered 0 to k - 1, over the image reduced to at most `side` pixels: to draw them."""
        pixels, factor = self.image.preview(side)
        (height, width), chosen = self.image.size, list(self.classes)
        photo = Photo(pixels, self.image.name, "", (f"Shown at 1/{factor} of its size.",) if factor > 1 else ())
        classifier, values = self.classifier, self.values
        field = classifier.receptive_field
        if field.y.size == float("inf"):
            field = make_even_field((height, width), values.shape[1:])
        names = tuple(classifier.class_names[k] for k in chosen)
        return ClassMaps(
            values=values,
            bias=self.bias,
            logits=self.logits[chosen],
            probabilities=self.probabilities[chosen],
            residual=self.residual,
            verdict=self.verdict,
            split=None,
            classifier=replace(classifier, class_names=names, receptive_field=field),
            view=View(photo, pixels, Crop(photo.size, (0, 0, width / factor, height / factor), (height, width))),
        )


@dataclass(frozen=True, eq=False)
class _Pooled:
    """What one pooling has taken in so far."""

    values: Tensor  # (C,), sums in double precision, or maxima
    places: Tensor  # (C,), where the maxima are, counted row by row over the whole grid; zeros for sums


def large_class_maps(
    classifier: Classifier,
    image: LargeSource,
    classes: int | Sequence[str | int] = 5,
    tile: int = 1024,
    progress: Callable[[int, int], None] | None = None,
) -> LargeMaps:
    """The class maps of an image at its own size, however large: the same as in one piece, to float rounding.

    `image` is a file or an array of uint8 that can be sliced (`open_large`); `classes` as many as are likeliest, or
    their names or numbers. A tile gives the positions of `tile` x `tile` pixels; the network is shown these and as much
    around them as they see, and no more at a time; after each, what the process has freed goes back to the system
    (`memory.give_back_freed_memory`). `progress` is told how many tiles are done, and of how many.
    Raises HeadError for a head that is not affine behind average or max pooling, NetworkError for a network whose
    positions see all of the image, ImageError for a file that cannot be read.
    """
    if tile < 1 or (isinstance(classes, int) and classes < 1):
        raise InspectorError(f"A tile has at least one pixel and one class is shown; got {tile} and {classes}.")
    large = open_large_image(image)
    _refuse_other_heads(classifier)
    chosen = None if isinstance(classes, int) else [classifier.class_index(k) for k in classes]
    locality = verify_tiling(classifier, large.size)
    tiles = make_tiles(locality, tile)
    with tempfile.TemporaryDirectory(prefix="inspector-") as folder:
        _refuse_without_room(Path(folder), classifier, locality)
        branches = _pooled(classifier, large, tiles, locality, Path(folder), progress)
        cells = locality.y.positions * locality.x.positions
        average = [branch.pooling == "average" for branch in classifier.head.branches]
        pooled = torch.cat([one.values / (cells if mean else 1) for mean, one in zip(average, branches, strict=True)])
        logits = _logits(classifier, pooled)
        if chosen is None:
            assert isinstance(classes, int)
            chosen = logits.argsort(descending=True, stable=True)[:classes].tolist()
        values = _values(classifier, chosen, branches, tiles, locality, Path(folder))
    head = classifier.head
    assert head.bias is not None
    bias = head.bias.to(values)[chosen]
    residual, adds_up = _check(classifier, pooled, logits, chosen, values)
    return LargeMaps(
        values=values,
        classes=tuple(chosen),
        bias=bias,
        logits=logits,
        probabilities=classifier.probabilities(logits),
        residual=residual,
        verdict=head.verdict if adds_up else "not exact",
        tiling=locality,
        tiles=len(tiles),
        image=large,
        classifier=classifier,
    )


def _refuse_other_heads(classifier: Classifier) -> None:
    head = classifier.head
    if head.weight is None:
        raise HeadError(
            f"What follows the pooling of {classifier.name} is not affine (its class maps are {head.verdict}): on "
            "tiles runs a network whose class maps are exact, with one weight for every image."
        )
    if not {branch.pooling for branch in head.branches} <= {"average", "max"}:
        raise HeadError(
            f"The head of {classifier.name} ({head.pooling}) is made for one size of image: global average or max "
            "pooling can be gathered from tiles."
        )


def _refuse_without_room(folder: Path, classifier: Classifier, locality: Tiling) -> None:
    """InspectorError before the work where the feature maps have no room on the disk."""
    channels = sum(branch.width for branch in classifier.head.branches if branch.pooling == "average")
    needed = 4 * channels * locality.y.positions * locality.x.positions
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InspectorError(
            f"The feature maps need {needed / 1e9:.1f} GB of disk for a while, and {folder.parent} has "
            f"{free / 1e9:.1f} GB left: name a folder with more in the environment variable TMPDIR."
        )


def _pooled(
    classifier: Classifier,
    image: LargeImage,
    tiles: Sequence[Tile],
    locality: Tiling,
    folder: Path,
    progress: Callable[[int, int], None] | None,
) -> list[_Pooled]:
    """What each pooling of the head takes in of all tiles; average pooling leaves the feature maps in the folder."""
    kinds = [branch.pooling for branch in classifier.head.branches]
    so_far: list[_Pooled | None] = [None] * len(kinds)
    for n, tile in enumerate(tiles):
        for b, maps in enumerate(_kept(classifier, image, tile)):
            so_far[b] = _taken_in(kinds[b], so_far[b], maps, _places(tile, locality))
            if kinds[b] == "average":
                np.save(_file(folder, n, b), maps.numpy())
        # Tiles are of several sizes: what one left does not fit the next, and would pile up.
        give_back_freed_memory()
        if progress is not None:
            progress(n + 1, len(tiles))
    return [one for one in so_far if one is not None]


def _kept(classifier: Classifier, image: LargeImage, tile: Tile) -> list[Tensor]:
    """The feature maps that a tile gives to each pooling: (C, rows, columns), in main memory."""
    window = image.read(*tile.pixels)
    size = window.shape[:2]
    if len(classifier.preprocessing.mean) == 1:
        window = np.asarray(Image.fromarray(window).convert("L"))  # as make_view makes grey
    sized = replace(classifier, preprocessing=replace(classifier.preprocessing, size=size, resize=None))
    inputs = sized.inputs(make_whole_view(Photo(window, image.name, ""), window))
    return [maps[0][:, *tile.kept].cpu() for maps in compute_feature_maps(classifier, inputs)]


def _places(tile: Tile, locality: Tiling) -> Tensor:
    """The number of each of a tile's positions, counted row by row over the whole grid: (rows * columns,)."""
    rows, columns = (torch.arange(one.start, one.stop) for one in (tile.rows, tile.columns))
    return (rows[:, None] * locality.x.positions + columns).flatten()


def _taken_in(pooling: Pooling, so_far: _Pooled | None, maps: Tensor, places: Tensor) -> _Pooled:
    """What a pooling has taken in with the maps (C, rows, columns) of one more tile."""
    flat = maps.flatten(1)
    if pooling == "average":
        sums = flat.sum(1, dtype=torch.float64)
        return _Pooled(sums if so_far is None else so_far.values + sums, torch.zeros(len(sums), dtype=torch.long))
    maxima, first = flat.max(1)
    here = _Pooled(maxima, places[first])
    if so_far is None:
        return here
    # The tiles do not come in the order of the whole grid's rows.
    wins = (here.values > so_far.values) | ((here.values == so_far.values) & (here.places < so_far.places))
    return _Pooled(torch.where(wins, here.values, so_far.values), torch.where(wins, here.places, so_far.places))


def _logits(classifier: Classifier, pooled: Tensor) -> Tensor:
    """The logits (K,) that the network itself makes of pooled values (P,)."""
    shape = (1, len(classifier.preprocessing.mean), *classifier.preprocessing.size)
    example = match_parameters(classifier.network, torch.zeros(shape))
    row = match_parameters(classifier.network, pooled[None])
    return classifier.head.head_function(classifier.network, example).logits(row)[0].cpu()


def _values(
    classifier: Classifier,
    chosen: Sequence[int],
    pooled: Sequence[_Pooled],
    tiles: Sequence[Tile],
    locality: Tiling,
    folder: Path,
) -> Tensor:
    """What every position adds to the logits of the chosen classes: (k, h, w)."""
    head, (h, w) = classifier.head, (locality.y.positions, locality.x.positions)
    assert head.weight is not None
    weights = head.weight[list(chosen)].cpu().split([branch.width for branch in head.branches], 1)
    values: Tensor = weights[0].new_zeros(len(chosen), h, w)
    for b, (branch, weight, one) in enumerate(zip(head.branches, weights, pooled, strict=True)):
        if branch.pooling == "max":
            brought = weight * one.values
            values.flatten(1).scatter_add_(1, one.places.expand_as(brought), brought)
            continue
        for n, tile in enumerate(tiles):
            maps = torch.from_numpy(np.load(_file(folder, n, b))) / (h * w)
            values[:, tile.rows, tile.columns] += (weight @ maps.flatten(1)).unflatten(1, maps.shape[1:])
    return values


def _file(folder: str | Path, tile: int, branch: int) -> Path:
    return Path(folder) / f"{tile}-{branch}.npy"


def _check(
    classifier: Classifier, pooled: Tensor, logits: Tensor, chosen: Sequence[int], values: Tensor
) -> tuple[float, bool]:
    """The largest miss, in logits, and whether all are within rounding: of all classes as sums over channels, and of
    the chosen ones as sums over positions."""
    head = classifier.head
    assert head.weight is not None
    assert head.bias is not None
    weight, bias, exact = (tensor.cpu().double() for tensor in (head.weight, head.bias, logits))
    of_all = weight @ pooled.double() + bias
    of_chosen = values.sum((1, 2), dtype=torch.float64) + bias[chosen]
    within = (relative_error(of_all, exact, weight.abs() @ pooled.double().abs() + bias.abs()) <= 1).all()
    # By its absolute values: of the parts that were added up.
    total = values.abs().sum((1, 2), dtype=torch.float64) + bias[chosen].abs()
    within &= (relative_error(of_chosen, exact[chosen], total) <= 1).all()
    residual = torch.cat([of_all - exact, of_chosen - exact[chosen]]).abs().max()
    return float(residual), bool(within)
