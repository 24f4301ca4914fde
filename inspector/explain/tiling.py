"""Cut an image into tiles, and prove by numbers that the network's feature maps can be computed tile by tile.

A tile that begins or ends inside the image is padded there with zeros, where a pass over the whole image reads pixels.
So the outermost cells of the tile are wrong. How many is measured by a pass in which half of the pixels are NaN: NaN
passes through every convolution, pooling, gate and normalization, and reaches exactly those cells that depend on that
half, however weakly. If it reaches all cells, some layer mixes the whole image, and no tiling exists.

All images that are run have lengths that leave the same remainder, divided by the stride, as those of the image to be
tiled: "same" padding as in TensorFlow and ceil_mode depend on it.
"""

import math
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from inspector.errors import NetworkError
from inspector.explain.classifier import Classifier
from inspector.explain.feature_capture import capture_pass
from inspector.explain.precision import TOLERANCE

_SEED = 2  # seed of the noise images


@dataclass(frozen=True)
class AxisTiling:
    """One axis of an image and of its feature maps."""

    length: int  # pixels
    stride: int  # pixels from one cell to the next
    positions: int  # cells of the feature maps
    before: int  # cells that are wrong at the first edge of a tile that begins inside the image
    after: int  # cells that are wrong at the last edge of a tile that ends inside the image

    def window(self, first: int, last: int) -> tuple[slice, slice]:
        """Return the pixels of a tile that gives the cells from `first` to before `last`, and these cells within it."""
        left_out = max(0, first - self.before)
        right_out = max(0, self.positions - last - self.after)
        pixels = slice(left_out * self.stride, self.length - right_out * self.stride)
        return pixels, slice(first - left_out, last - left_out)

    def with_positions(self, positions: int) -> "AxisTiling":
        """Return the axis with another number of cells; its length changes by multiples of the stride."""
        return replace(self, length=self.length + (positions - self.positions) * self.stride, positions=positions)


@dataclass(frozen=True)
class Tiling:
    """How an image is tiled, with the proof that its tiles give the feature maps of the whole."""

    y: AxisTiling
    x: AxisTiling
    # Largest difference between the feature maps of tiles and of the whole on noise, as a part of the largest value.
    difference: float

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) of the feature maps."""
        return self.y.positions, self.x.positions


@dataclass(frozen=True)
class Tile:
    """The cells that one tile gives, and how to compute them."""

    rows: slice  # cells of the whole grid
    columns: slice
    pixels: tuple[slice, slice]  # pixels of the image
    kept: tuple[slice, slice]  # cells of the tile's own feature maps


def make_tiles(tiling: Tiling, side: int) -> list[Tile]:
    """Return tiles of about `side` x `side` pixels that together give every cell once, row by row."""
    y, x = tiling.y, tiling.x
    return [_make_tile(y, x, rows, columns) for rows in _split_axis(y, side) for columns in _split_axis(x, side)]


def _make_tile(y: AxisTiling, x: AxisTiling, rows: tuple[int, int], columns: tuple[int, int]) -> Tile:
    (top, kept_rows), (left, kept_columns) = y.window(*rows), x.window(*columns)
    return Tile(slice(*rows), slice(*columns), (top, left), (kept_rows, kept_columns))


def _split_axis(axis: AxisTiling, side: int) -> list[tuple[int, int]]:
    """Return the first cell of each tile and the one after its last; all tiles are about equally long."""
    count = -(-axis.positions // max(1, side // axis.stride))
    return list(pairwise(axis.positions * n // count for n in range(count + 1)))


def verify_tiling(classifier: Classifier, size: tuple[int, int]) -> Tiling:
    """Measure how images of a size can be tiled, and verify it on noise.

    Tiles at both ends and inside must equal the noise image in one piece, to 1e-5 of its largest value.

    Args:
        classifier: classifier whose network will run on the tiles.
        size: (height, width) of the image in pixels.

    Raises:
        NetworkError: the network cannot be run on tiles, or not on an image of this size.
    """
    if (warning := classifier.receptive_field.warning) is not None:
        raise NetworkError(f"{classifier.name} cannot be run on tiles. {warning}")
    y, x = (_measure_axis(classifier, axis, size[axis]) for axis in (0, 1))
    if y.positions < 1 or x.positions < 1:
        raise NetworkError(
            f"An image of {size[1]} x {size[0]} pixels is too small for {classifier.name}: its feature maps would have "
            "no cell."
        )
    difference = _compare_tiles(classifier, y, x)
    if not difference <= TOLERANCE:
        raise NetworkError(
            f"{classifier.name} cannot be run on tiles: their feature maps differ from those of the whole image by "
            f"{difference:.1e} of the largest value, where at most {TOLERANCE:.0e} is rounding. The values of a cell "
            "depend on where it lies, as with position embeddings, or the network computes in low precision."
        )
    return Tiling(y, x, difference)


def compute_feature_maps(classifier: Classifier, inputs: Tensor) -> list[Tensor]:
    """Compute the input of each pooling of the head, (N, C, h, w) each."""
    return [one.feature_maps for one in capture_pass(classifier.capture, inputs).poolings]


def _measure_axis(classifier: Classifier, axis: int, length: int) -> AxisTiling:
    """Measure how far cells see, on a strip as long as the receptive field, and if needed on one four times as long."""
    field = (classifier.receptive_field.y, classifier.receptive_field.x)[axis]
    # An infinite size may only mean that the size is unknown, so start from four times the input size.
    field_size = field.size if math.isfinite(field.size) else 4 * classifier.preprocessing.size[axis]
    stride = max(1, round(field.stride))
    strip = 0
    for factor in (1, 4):
        strip = math.ceil(factor * field_size / stride + 4) * stride + length % stride
        if measured := _measure_strip(classifier, axis, strip, stride):
            return measured.with_positions(measured.positions + (length - strip) // stride)
    raise NetworkError(
        f"{classifier.name} cannot be run on tiles: pixels {strip // 2} px away still change its feature maps, so "
        "some layer mixes all cells, as squeeze-and-excitation, attention and normalization over cells do. Use a "
        "network without such layers, such as a ResNet, DenseNet, MobileNetV2 or EfficientNet-Lite."
    )


def _measure_strip(classifier: Classifier, axis: int, length: int, stride: int) -> AxisTiling | None:
    """Measure how far cells see along one axis; None if all cells of a strip of this length depend on one half."""
    half = length // 2 // stride
    from_first = nan_reach(classifier, axis, length, slice(0, half * stride))
    from_last = nan_reach(classifier, axis, length, slice(length - half * stride, length))
    positions = len(from_first)
    reached_first, reached_last = from_first.nonzero(), from_last.nonzero()
    before = int(reached_first.max()) + 1 - half if len(reached_first) else 0
    after = positions - half - int(reached_last.min()) if len(reached_last) else 0
    # All cells depend on one half: this strip is too short, or the network mixes all cells at any length.
    if half + before >= positions or positions - half - after <= 0:
        return None
    # At least one, because a tile of a single cell would leave nothing to pool.
    return AxisTiling(length, stride, positions, max(1, before), max(1, after))


def nan_reach(classifier: Classifier, axis: int, length: int, pixels: slice) -> Tensor:
    """Find the cells along an axis that depend on some pixels, by setting these to NaN.

    Args:
        classifier: classifier whose feature maps are computed.
        axis: 0 for rows, 1 for columns.
        length: pixels of the noise image along the axis; along the other it has the classifier's input size.
        pixels: those that are set to NaN.

    Returns:
        Tensor (cells,) of bool.
    """
    size = list(classifier.preprocessing.size)
    size[axis] = length
    inputs = classifier.noise_input(seed=_SEED, size=size)
    inputs.movedim(axis + 2, 0)[pixels] = math.nan
    reached = [maps.isnan().any(0).any(0).any(1 - axis) for maps in _compute_on_one_grid(classifier, inputs)]
    return torch.stack(reached).any(0).cpu()


def _compare_tiles(classifier: Classifier, y: AxisTiling, x: AxisTiling) -> float:
    """Return the largest difference between tiles and the whole, as a part of the largest value.

    The image is just large enough for a tile of two cells that has its edges inside it.
    """
    y, x = (axis.with_positions(axis.before + axis.after + 4) for axis in (y, x))
    image = classifier.noise_input(seed=_SEED, size=(y.length, x.length))
    whole = _compute_on_one_grid(classifier, image)
    thirds = [((0, s.before + 1), (s.before + 1, s.before + 3), (s.before + 3, s.positions)) for s in (y, x)]
    largest = 0.0
    # The diagonal of 3 x 3 tiles: it has a first, an inner and a last tile along both axes.
    for rows, columns in zip(*thirds, strict=True):
        tile = _make_tile(y, x, rows, columns)
        for maps, expected in zip(_compute_on_one_grid(classifier, image[..., *tile.pixels]), whole, strict=True):
            kept, exact = maps[..., *tile.kept], expected[..., tile.rows, tile.columns]
            if kept.shape != exact.shape:
                raise NetworkError(
                    f"{classifier.name} cannot be run on tiles: a tile has {tuple(kept.shape[2:])} cells where the "
                    f"whole image has {tuple(exact.shape[2:])}, so the grid does not move by {y.stride} x {x.stride} "
                    "pixels."
                )
            largest = max(largest, float((kept - exact).abs().max() / expected.abs().max().clamp_min(1e-30)))
    return largest


def _compute_on_one_grid(classifier: Classifier, inputs: Tensor) -> list[Tensor]:
    """Compute the feature maps; NetworkError if the network refuses this size, or pools more than one grid."""
    try:
        maps = compute_feature_maps(classifier, inputs)
    except NetworkError as error:
        raise NetworkError(f"{classifier.name} cannot be run on tiles of an image of this size. {error}") from error
    grids = sorted({tuple(one.shape[2:]) for one in maps})
    if len(grids) > 1:
        raise NetworkError(
            f"{classifier.name} cannot be run on tiles: it pools feature maps of different grids {grids}."
        )
    return maps
