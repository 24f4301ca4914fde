"""Compute the class maps of an image too large to pass through a network in one piece.

The network runs on tiles that overlap by as much as its cells see (`tiling.py`), and of each tile only those cells are
kept that equal the cells of a pass over the whole image. Meanwhile the pooled values are accumulated, sums in double
precision:

    average   p[c] = (sum over tiles of the sum over their cells) / (h * w)
    max       p[c] = the largest maximum of all tiles; of equal ones the first cell of the whole grid, row by row

The network's own layers after the pooling turn them into logits. Only then are the classes with the highest logits
known. So for average pooling the feature maps of every tile wait in a temporary folder, 4 * C * h * w bytes, for the
weights of these classes: a second pass over the image would take as long as the first. Max pooling needs only the cells
of its maxima.
"""

import math
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from inspector.errors import HeadError, InspectorError, NetworkError
from inspector.explain.class_maps import ClassMaps
from inspector.explain.class_names import list_top_classes
from inspector.explain.classifier import Classifier, check_classifier
from inspector.explain.kinds import Pooling, Verdict
from inspector.explain.memory import give_back_freed_memory
from inspector.explain.precision import find_product_type, find_tolerance, multiply, relative_error, widen
from inspector.explain.receptive_field import make_even_field
from inspector.explain.tiling import Tile, Tiling, compute_feature_maps, make_tiles, verify_tiling
from inspector.explain.tracing.forward import match_parameters
from inspector.images.large import LargeImage, LargeSource, open_large_image
from inspector.images.photo import Photo
from inspector.images.preprocessing import Crop, View, make_whole_view


@dataclass(frozen=True, eq=False)
class LargeMaps:
    """The logits of a large image, and the class maps of some classes."""

    values: Tensor  # (k, h, w) in logits, for the chosen classes only
    classes: tuple[int, ...]  # indices of the k chosen classes, in the order of `values`
    bias: Tensor  # (k,)
    logits: Tensor  # (K,), computed by the network's layers after the pooling
    probabilities: Tensor  # (K,); NaN if the network returns other values
    # The largest |weight @ pooled + bias - logit| of all classes and |values.sum() + bias - logit| of the chosen ones.
    residual: float
    verdict: Verdict
    tiling: Tiling  # how the image was tiled, with the verified error
    tiles: int
    image: LargeImage
    classifier: Classifier

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) of the feature maps."""
        return self.tiling.grid

    def top(self, count: int = 5) -> list[tuple[int, str, float]]:
        """Return (index, name, probability) of the classes with the highest logits, highest first."""
        logits, probabilities = self.logits.numpy(force=True), self.probabilities.numpy(force=True)
        return list_top_classes(self.classifier.class_names, logits, probabilities, count)

    def reduced(self, side: int = 2000) -> ClassMaps:
        """Return the class maps over a reduced image, to draw them.

        Args:
            side: the longer side of the reduced image has at most so many pixels.

        Returns:
            ClassMaps of the chosen classes only, numbered 0 to k - 1.
        """
        pixels, factor = self.image.preview(side)
        (height, width), chosen = self.image.size, list(self.classes)
        photo = Photo(pixels, self.image.name, "", (f"Shown at 1/{factor} of its size.",) if factor > 1 else ())
        # The network saw the whole image at its own size; only the reduced pixels are kept.
        view = View(photo, pixels, Crop(photo.size, (0, 0, width / factor, height / factor), (height, width)))
        field = self.classifier.receptive_field
        if math.isinf(field.y.size):
            field = replace(make_even_field((height, width), self.grid), misplaced=field.misplaced)
        class_names = tuple(self.classifier.class_names[k] for k in chosen)
        classifier = replace(self.classifier, class_names=class_names, receptive_field=field)
        outputs = (self.values, self.bias, self.logits[chosen], self.probabilities[chosen], self.residual, self.verdict)
        return ClassMaps(*outputs, split=None, classifier=classifier, source=view)


@dataclass(frozen=True, eq=False)
class _Accumulated:
    """What one pooling has accumulated over the tiles."""

    values: Tensor  # (C,), sums in double precision, or maxima
    cells: Tensor  # (C,), cells of the maxima, numbered row by row over the whole grid; zeros for sums


@dataclass(frozen=True, eq=False)
class _TiledPass:
    """A pass over an image in tiles."""

    classifier: Classifier
    image: LargeImage
    tiling: Tiling
    tiles: list[Tile]
    folder: Path  # temporary folder for the feature maps of average pooling

    def maps_file(self, tile: int, branch: int) -> Path:
        return self.folder / f"{tile}-{branch}.npy"


def large_class_maps(
    classifier: Classifier,
    image: LargeSource,
    classes: int | Sequence[str | int] = 5,
    tile: int = 1024,
    progress: Callable[[int, int], None] | None = None,
) -> LargeMaps:
    """Compute the class maps of an image at its own size, however large: the same as in one piece, to float rounding.

    Only one tile is in memory at a time. After each, freed memory goes back to the system.

    Args:
        classifier: classifier with an affine head behind average or max pooling.
        image: file, or sliceable uint8 array (H, W, 3) or (H, W); see `open_large_image`.
        classes: number of classes with the highest logits, or names or numbers of classes.
        tile: side in pixels of the area whose cells one tile gives; the network also reads as much around it as the
            cells see.
        progress: called after each tile with the number of tiles done and of all tiles.

    Raises:
        HeadError: the head is not affine behind average or max pooling.
        NetworkError: the network cannot be run on tiles.
        ImageError: the file cannot be read.
        ClassError: there is no such class.
        InspectorError: `tile` or `classes` is below 1, or the disk has no room for the feature maps.
    """
    check_classifier(classifier)
    if tile < 1 or (isinstance(classes, int) and classes < 1):
        raise InspectorError(f"Expected a tile of at least 1 pixel and at least 1 class, got {tile} and {classes}.")
    channels = len(classifier.preprocessing.mean)
    if channels not in (1, 3):
        raise NetworkError(f"Large images are read in gray or RGB, and the network takes {channels} channels.")
    large = open_large_image(image)
    _check_head(classifier)
    named = [] if isinstance(classes, int) else [classifier.class_index(k) for k in classes]
    tiling = verify_tiling(classifier, large.size)
    with tempfile.TemporaryDirectory(prefix="inspector-") as folder:
        tiled = _TiledPass(classifier, large, tiling, make_tiles(tiling, tile), Path(folder))
        _check_disk(tiled)
        accumulated = _run_tiles(tiled, progress)
        pooled = _pool(classifier, accumulated, tiling)
        logits = _compute_logits(classifier, pooled)
        highest = logits.argsort(descending=True, stable=True)
        chosen = highest[:classes].tolist() if isinstance(classes, int) else named
        values = _compute_maps(tiled, chosen, accumulated)
    _, bias = classifier.head.affine
    residual, within_rounding = _check_sums(classifier, pooled, logits, chosen, values)
    return LargeMaps(
        values=values,
        classes=tuple(chosen),
        bias=bias.to(values)[chosen],
        logits=logits,
        probabilities=classifier.probabilities(logits),
        residual=residual,
        verdict=classifier.head.verdict if within_rounding else "not exact",
        tiling=tiling,
        tiles=len(tiled.tiles),
        image=large,
        classifier=classifier,
    )


def _check_head(classifier: Classifier) -> None:
    head = classifier.head
    if head.weight is None:
        raise HeadError(
            f"What follows the pooling of {classifier.name} is not affine (its class maps are {head.verdict}). "
            "Use a network whose class maps are exact, with one weight for every image."
        )
    if not {branch.pooling for branch in head.branches} <= {"average", "max"}:
        raise HeadError(
            f"The head of {classifier.name} ({head.pooling}) takes images of one size only. Use a network with "
            "global average or max pooling."
        )


def _check_disk(tiled: _TiledPass) -> None:
    """Raise InspectorError if the disk has no room for the feature maps."""
    channels = sum(branch.width for branch in tiled.classifier.head.branches if branch.pooling == "average")
    needed = 4 * channels * math.prod(tiled.tiling.grid)
    free = shutil.disk_usage(tiled.folder).free
    if needed > free:
        raise InspectorError(
            f"The feature maps need {needed / 1e9:.1f} GB of disk space for a while, but {tiled.folder.parent} has "
            f"only {free / 1e9:.1f} GB. Set the environment variable TMPDIR to a folder with more."
        )


def _run_tiles(tiled: _TiledPass, progress: Callable[[int, int], None] | None) -> list[_Accumulated]:
    """Accumulate each pooling of the head over all tiles; the feature maps of average pooling stay in the folder."""
    accumulated: dict[int, _Accumulated] = {}  # index of the branch -> accumulated values
    for n, tile in enumerate(tiled.tiles):
        cells = _number_cells(tile, tiled.tiling)
        for b, maps in enumerate(_run_tile(tiled.classifier, tiled.image, tile)):
            pooling = tiled.classifier.head.branches[b].pooling
            accumulated[b] = _accumulate(pooling, accumulated.get(b), maps, cells)
            if pooling == "average":
                np.save(tiled.maps_file(n, b), maps.numpy())
        # Tiles have several sizes, so memory that one tile freed does not fit the next. Without this it accumulates.
        give_back_freed_memory()
        if progress is not None:
            progress(n + 1, len(tiled.tiles))
    return list(accumulated.values())


def _run_tile(classifier: Classifier, image: LargeImage, tile: Tile) -> list[Tensor]:
    """Compute the feature maps of each pooling that a tile gives: (C, rows, columns), widened, in main memory."""
    window = image.read(*tile.pixels)
    size = window.shape[:2]
    if len(classifier.preprocessing.mean) == 1:
        window = np.asarray(Image.fromarray(window).convert("L"))  # converted to gray as in make_view
    sized = replace(classifier, preprocessing=replace(classifier.preprocessing, size=size, resize=None))
    inputs = sized.inputs(make_whole_view(Photo(window, image.name, ""), window))
    return [widen(maps[0][:, *tile.kept]).cpu() for maps in compute_feature_maps(classifier, inputs)]


def _number_cells(tile: Tile, tiling: Tiling) -> Tensor:
    """Number a tile's cells row by row over the whole grid: (rows * columns,)."""
    rows, columns = (torch.arange(one.start, one.stop) for one in (tile.rows, tile.columns))
    return (rows[:, None] * tiling.x.positions + columns).flatten()


def _accumulate(pooling: Pooling, before: _Accumulated | None, maps: Tensor, cells: Tensor) -> _Accumulated:
    """Add the feature maps (C, rows, columns) of one more tile to a pooling."""
    flat = maps.flatten(1)
    if pooling == "average":
        sums = flat.sum(1, dtype=torch.float64)
        return _Accumulated(sums if before is None else before.values + sums, torch.zeros(len(sums), dtype=torch.long))
    maxima, first = flat.max(1)
    tile = _Accumulated(maxima, cells[first])
    if before is None:
        return tile
    # Of equal maxima the first cell of the whole grid counts. Tiles do not come in the order of its rows.
    is_first = (tile.values == before.values) & (tile.cells < before.cells)
    wins = (tile.values > before.values) | is_first
    return _Accumulated(torch.where(wins, tile.values, before.values), torch.where(wins, tile.cells, before.cells))


def _pool(classifier: Classifier, accumulated: Sequence[_Accumulated], tiling: Tiling) -> Tensor:
    """Return the pooled values (P,) of all branches."""
    divisors = [math.prod(tiling.grid) if branch.pooling == "average" else 1 for branch in classifier.head.branches]
    return torch.cat([one.values / divisor for one, divisor in zip(accumulated, divisors, strict=True)])


def _compute_logits(classifier: Classifier, pooled: Tensor) -> Tensor:
    """Compute the logits (K,) of pooled values (P,) by the network's own layers."""
    row = match_parameters(classifier.network, pooled[None])
    return classifier.head.head_function(classifier.network, classifier.noise_input()).logits(row)[0].cpu()


def _compute_maps(tiled: _TiledPass, chosen: list[int], accumulated: Sequence[_Accumulated]) -> Tensor:
    """Compute the class maps (k, h, w) of the chosen classes."""
    head, grid = tiled.classifier.head, tiled.tiling.grid
    weights = head.affine[0][chosen].cpu().split(head.widths, 1)
    values: Tensor = weights[0].new_zeros(len(chosen), *grid)
    for b, (branch, weight, one) in enumerate(zip(head.branches, weights, accumulated, strict=True)):
        if branch.pooling == "max":
            contributions = weight * one.values
            values.flatten(1).scatter_add_(1, one.cells.expand_as(contributions), contributions)
            continue
        for n, tile in enumerate(tiled.tiles):
            maps = torch.from_numpy(np.load(tiled.maps_file(n, b))) / math.prod(grid)
            values[:, tile.rows, tile.columns] += multiply(weight, maps.flatten(1)).unflatten(1, maps.shape[1:])
    return values


def _check_sums(
    classifier: Classifier, pooled: Tensor, logits: Tensor, chosen: list[int], values: Tensor
) -> tuple[float, bool]:
    """Return the largest residual in logits, and whether all residuals are within rounding.

    Logits are compared with the sums over channels for all classes, and with the sums over cells for the chosen ones.
    """
    tolerance = max(classifier.head.tolerance, find_tolerance({find_product_type(logits)}))
    weight, bias, exact = (tensor.cpu().double() for tensor in (*classifier.head.affine, logits))
    over_channels = weight @ pooled.double() + bias
    over_cells = values.sum((1, 2), dtype=torch.float64) + bias[chosen]
    over_all = weight.abs() @ pooled.double().abs() + bias.abs()
    within = (relative_error(over_channels, exact, over_all, tolerance) <= 1).all()
    # Rounding grows with the absolute values of what was summed.
    total = values.abs().sum((1, 2), dtype=torch.float64) + bias[chosen].abs()
    within &= (relative_error(over_cells, exact[chosen], total, tolerance) <= 1).all()
    residual = torch.cat([over_channels - exact, over_cells - exact[chosen]]).abs().max()
    return float(residual), bool(within)
