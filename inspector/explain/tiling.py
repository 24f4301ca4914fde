"""Prove by number that the feature maps of a network can be made tile by tile, and find how far its positions see.

A tile that begins and ends inside the image is padded there with zeros, where the one-piece pass sees the image: so its
outer positions are wrong. How many is read from a pass in which half of the image is no number: NaN goes through every
convolution, pooling, gate and normalisation, and spoils just those positions that see the half, however little they
see of it. If it spoils all, something inside brings all positions together, and there is no tiling.

Every image that is run has sides that leave the same rest, divided by the stride, as those of the image to come:
"same" padding as TensorFlow counts it and ceil_mode depend on it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from inspector.errors import NetworkError
from inspector.explain.classifier import Classifier
from inspector.explain.feature_capture import capture_pass
from inspector.explain.head import TOLERANCE


@dataclass(frozen=True)
class AxisTiling:
    """One axis of an image and of its feature maps."""

    length: int  # pixels
    stride: int  # pixels from one position to the next
    positions: int  # of the feature maps
    before: int  # how many positions are wrong at the first edge of a tile that begins inside the image
    after: int  # and at the last edge of a tile that ends inside

    def window(self, first: int, last: int) -> tuple[slice, slice]:
        """The pixels whose tile has the positions from `first` to before `last` right, and where in it they are."""
        left_out = max(0, first - self.before)
        right_out = max(0, self.positions - last - self.after)
        pixels = slice(left_out * self.stride, self.length - right_out * self.stride)
        return pixels, slice(first - left_out, last - left_out)

    def with_positions(self, positions: int) -> "AxisTiling":
        """Of a shorter or longer image, whose length leaves the same rest."""
        return replace(self, length=self.length + (positions - self.positions) * self.stride, positions=positions)


@dataclass(frozen=True)
class Tiling:
    """That, and how far, every position sees only what lies around it."""

    y: AxisTiling
    x: AxisTiling
    # The largest difference between tiles and the same noise in one piece, as a part of the largest value.
    difference: float


@dataclass(frozen=True)
class Tile:
    """The positions that one tile gives, in rows and columns of the whole grid, and how to come by them."""

    rows: slice
    columns: slice
    pixels: tuple[slice, slice]  # of the image
    kept: tuple[slice, slice]  # of the tile's own positions


def make_tiles(locality: Tiling, side: int) -> list[Tile]:
    """Tiles that together give every position once, row by row: those of about `side` x `side` pixels each."""
    found = []
    for rows in _parts(locality.y, side):
        for columns in _parts(locality.x, side):
            (top, keep_rows), (left, keep_columns) = locality.y.window(*rows), locality.x.window(*columns)
            found.append(Tile(slice(*rows), slice(*columns), (top, left), (keep_rows, keep_columns)))
    return found


def _parts(span: AxisTiling, side: int) -> list[tuple[int, int]]:
    """From which position to before which each tile goes; all about equally long."""
    count = -(-span.positions // max(1, side // span.stride))
    return list(pairwise(span.positions * n // count for n in range(count + 1)))


def verify_tiling(classifier: Classifier, size: tuple[int, int]) -> Tiling:
    """How images of a size (H, W) are cut into tiles whose feature maps are those of the one-piece pass.

    Read from passes over strips, and proved on noise: tiles at both ends and inside must be equal to the noise in one
    piece, to 1e-5 of its largest value. Raises NetworkError with the figures where they are not.
    """
    y, x = (_span(classifier, axis, size[axis]) for axis in (0, 1))
    if y.positions < 1 or x.positions < 1:
        raise NetworkError(
            f"An image of {size[1]} x {size[0]} pixels is too small for {classifier.name}: none of its positions fits."
        )
    difference = _largest_difference(classifier, y, x)
    if not difference <= TOLERANCE:
        raise NetworkError(
            f"{classifier.name} cannot be run on tiles: their feature maps differ from those of the whole by "
            f"{difference:.1e} of the largest value, where at most {TOLERANCE:.0e} is rounding. What a position gives "
            "depends on where it lies, as with position embeddings, or its network computes in low precision."
        )
    return Tiling(y, x, difference)


def compute_feature_maps(classifier: Classifier, inputs: Tensor) -> list[Tensor]:
    """What each pooling of the head takes in: (N, C, h, w) each."""
    return [one.feature_maps for one in capture_pass(classifier.capture, inputs).poolings]


def _span(classifier: Classifier, axis: int, length: int) -> AxisTiling:
    """Read from strips as long as positions see, or as the last that was tried."""
    field = (classifier.receptive_field.y, classifier.receptive_field.x)[axis]
    # One that no rule knows is counted as infinite, be it or not.
    least = field.size if math.isfinite(field.size) else 4 * classifier.preprocessing.size[axis]
    stride = max(1, round(field.stride))
    probe = 0
    for factor in (1, 4):
        probe = math.ceil(factor * least / stride + 4) * stride + length % stride
        span = _read(classifier, axis, probe, stride)
        if span is not None:
            return span.with_positions(span.positions + (length - probe) // stride)
    raise NetworkError(
        f"{classifier.name} cannot be run on tiles: pixels {probe // 2} px away still change its feature maps, so "
        "something inside brings all positions together, as squeeze-and-excitation, attention and normalisation over "
        "positions do. A network without would do, such as a ResNet, DenseNet, MobileNetV2 or EfficientNet-Lite."
    )


def _read(classifier: Classifier, axis: int, length: int, stride: int) -> AxisTiling | None:
    """How far positions see along one axis; None where all of a strip of this length see one half of it."""
    half = length // 2 // stride
    from_first = _nan_reach(classifier, axis, length, slice(0, half * stride))
    from_last = _nan_reach(classifier, axis, length, slice(length - half * stride, length))
    positions = len(from_first)
    seen, unseen = from_first.nonzero(), from_last.nonzero()
    before = int(seen.max()) + 1 - half if len(seen) else 0
    after = positions - half - int(unseen.min()) if len(unseen) else 0
    # Not where even those at the far edge see the half: the strip is too short, or no length would do.
    if half + before >= positions or positions - half - after <= 0:
        return None
    # One at least: a tile of a single position would have nothing to pool.
    return AxisTiling(length, stride, positions, max(1, before), max(1, after))


def _nan_reach(classifier: Classifier, axis: int, length: int, pixels: slice) -> Tensor:
    """Which positions along the axis see any of these pixels: (positions,)."""
    sides = list(classifier.preprocessing.size)
    sides[axis] = length
    inputs = _noise(classifier, sides)
    inputs.movedim(axis + 2, 0)[pixels] = math.nan
    seen = [maps.isnan().any(0).any(0).any(1 - axis) for maps in _maps(classifier, inputs)]
    return torch.stack(seen).any(0).cpu()


def _largest_difference(classifier: Classifier, y: AxisTiling, x: AxisTiling) -> float:
    """Between tiles and the whole of an image just so large that a tile of two positions has edges inside it."""
    y, x = (span.with_positions(span.before + span.after + 4) for span in (y, x))
    image = _noise(classifier, (y.length, x.length))
    whole = _maps(classifier, image)
    thirds = [((0, s.before + 1), (s.before + 1, s.before + 3), (s.before + 3, s.positions)) for s in (y, x)]
    worst = 0.0
    # The diagonal of 3 x 3 tiles: along both axes a first, an inner and a last one.
    for rows, columns in zip(*thirds, strict=True):
        (top, keep_rows), (left, keep_columns) = y.window(*rows), x.window(*columns)
        for one, expected in zip(_maps(classifier, image[..., top, left]), whole, strict=True):
            kept = one[..., keep_rows, keep_columns]
            exact = expected[..., slice(*rows), slice(*columns)]
            if kept.shape != exact.shape:
                raise NetworkError(
                    f"{classifier.name} cannot be run on tiles: a tile has {tuple(kept.shape[2:])} positions where the "
                    f"whole has {tuple(exact.shape[2:])}, so its grid does not move by {y.stride} x {x.stride} pixels."
                )
            worst = max(worst, float((kept - exact).abs().max() / expected.abs().max().clamp_min(1e-30)))
    return worst


def _maps(classifier: Classifier, inputs: Tensor) -> list[Tensor]:
    """As `feature_maps`; NetworkError where tiles of this size do not fit, or the poolings have more than one grid."""
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


def _noise(classifier: Classifier, size: Sequence[int]) -> Tensor:
    return classifier.noise_input(seed=2, size=size)
