"""Measure where feature maps respond to the input: only then may a map be drawn on the photo.

The sums of a class map are right whatever a network does with the places: it may mirror the photo, sort the cells, or
read tokens in another order. So the place of every cell is measured. The input is divided into stripes, across and
down, and one stripe after the other gets other pixels. With e[j, c] the change of cell c for stripe j, in all channels,
and l = log e,

    tendency[c] = sum over j of  (l[j, c] - mean over j of l[:, c]) * x[j],  x[j] = center of stripe j - center of image

says if cell c answers more to the one end of the image or to the other. It depends on no gain of a cell. Where cells
respond at their own places, it rises with their place x[c]: the correlation of the two is the `order`, and where the
tendency crosses zero, off the image's center, is the `shift`. A mirrored map has the order -1, a transposed one 0.
Nothing here knows the name of an operation: rolls that are undone pass, a bare roll does not.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from inspector.explain.receptive_field import Axis, ReceptiveField

STRIPES = 4  # per axis
_EDGE = 1 / 16  # width of the strips at the two ends of each axis, as a part of its length
_ORDER = 0.8  # smallest correlation of tendency and place
_SHIFT, _SHIFT_OF_LENGTH = 0.75, 0.03  # largest shift, in cells and as a part of the input; the larger one counts
_NEAR = 0.25  # largest distance, as a part of the input, from a cell to the stripe that it responds to most
_SHARE = 0.75  # smallest share of cells that respond most to a stripe near them, where they prefer stripes clearly
_FEW = 5  # cells along an axis below which their distance from a stripe says little
_CLEAR = 0.2  # strength from which on they do
_FAINT = 0.08  # strength below which cells respond to all parts of the image alike
_GAIN = 0.1  # standard deviation of the logarithm of a stripe's effect on all cells
_SMOOTH = 16  # pixels between the random values of a smooth image
# A change below this part of the largest one is rounding, by the number of bytes of a value.
_ROUNDING = {2: 2e-2, 4: 1e-5, 8: 1e-12}
_NOTHING = 4  # a change below this many units of rounding of the largest value is none


@dataclass(frozen=True)
class Stripe:
    """Pixels from start to end along one axis of the input, over its whole other axis."""

    axis: int  # 0 for rows, 1 for columns
    start: int
    end: int

    @property
    def center(self) -> float:
        """The middle, in pixels."""
        return (self.start + self.end) / 2


@dataclass(frozen=True, eq=False)
class Probes:
    """Images to run a network on: a base image, the base image again, and with each stripe replaced."""

    images: tuple[Tensor, ...]  # (1, channels, H, W) each
    stripes: tuple[Stripe, ...]  # of images[2:]

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the images."""
        return self.images[0].shape[2], self.images[0].shape[3]


@dataclass(frozen=True)
class AxisResponse:
    """How the cells of a feature map respond along one axis."""

    cells: int
    order: float  # correlation of the cells' tendency and their assumed place; 1 if there is one cell
    shift: float  # in cells: how far beyond its assumed place a cell responds, on average
    near: float  # share of the cells that respond most to a stripe near their assumed place
    slack: float  # in cells: smallest shift that is taken as one
    strength: float  # standard deviation of the cells' tendencies: how much they prefer their stripes to others
    unseen: Stripe | None  # a stripe that should change some cells and changes none
    sees_more: bool  # whether cells respond to pixels outside of their receptive fields


def make_probes(example: Tensor, seed: int = 0, smooth: bool = False) -> Probes:
    """Make the images of a measurement.

    Args:
        example: an input (1, channels, H, W), which gives size, dtype and device.
        seed: seed of the random pixels.
        smooth: smooth images instead of noise.
    """
    generator = torch.Generator().manual_seed(seed)
    base, other = (_make_image(example, generator, smooth) for _ in range(2))
    stripes = tuple(_divide(example.shape[2], 0) + _divide(example.shape[3], 1))
    images = [base, base.clone()]
    for stripe in stripes:
        image = base.clone()
        pixels = slice(stripe.start, stripe.end)
        image.movedim(stripe.axis + 2, 0)[pixels] = other.movedim(stripe.axis + 2, 0)[pixels]
        images.append(image)
    return Probes(tuple(images), stripes)


def _make_image(example: Tensor, generator: torch.Generator, smooth: bool) -> Tensor:
    """Return standard normal noise, or a smooth random image with a tenth of noise."""
    noise = torch.randn(example.shape, generator=generator)
    if smooth:
        coarse = [max(2, side // _SMOOTH) for side in example.shape[2:]]
        values = torch.randn(*example.shape[:2], *coarse, generator=generator)
        noise = interpolate(values, size=example.shape[2:], mode="bicubic") + 0.1 * noise
    return noise.to(example)


def _divide(length: int, axis: int) -> list[Stripe]:
    """Return equal stripes along one axis, and narrow ones at its two ends."""
    count = min(STRIPES, length)
    edges, narrow = [round(length * n / count) for n in range(count + 1)], max(1, round(length * _EDGE))
    bounds = [*pairwise(edges), (0, narrow), (length - narrow, length)]
    return [Stripe(axis, start, end) for start, end in bounds]


def measure_response(
    maps: Sequence[Tensor], probes: Probes, field: ReceptiveField
) -> tuple[AxisResponse, AxisResponse] | None:
    """Measure how feature maps respond along both axes.

    Args:
        maps: feature maps (C, h, w) of each of the images, in the grid whose places are in question.
        probes: the images.
        field: the assumed receptive fields.

    Returns:
        The response down and across; None if no cell responds to any stripe by more than rounding.
    """
    largest = max(float((one - maps[0]).abs().max()) for one in maps[1:])
    if largest <= _NOTHING * torch.finfo(maps[0].dtype).eps * float(maps[0].abs().max()):
        return None
    rounding = _ROUNDING.get(maps[0].element_size(), 1e-5)
    changes = _measure_changes(maps)
    tolerance = rounding * float(changes.max())
    if not math.isfinite(tolerance) or float(changes[1:].max()) <= 2 * float(changes[0].max()):
        return None
    axes = []
    for number, axis in enumerate((field.y, field.x)):
        chosen = [n for n, stripe in enumerate(probes.stripes) if stripe.axis == number]
        own = changes[[n + 1 for n in chosen]].movedim(number + 1, 1).flatten(2)  # (stripes, n, other cells)
        stripes = [probes.stripes[n] for n in chosen]
        axes.append(_measure_axis(own, changes[0], stripes, axis, probes.size[number], tolerance))
    return axes[0], axes[1]


def _measure_changes(maps: Sequence[Tensor]) -> Tensor:
    """Return how far each cell differs from that of the base image: (1 + stripes, h, w); the first is the repetition.

    Channels count alike, whatever their range, unless they hardly change.
    """
    base, *others = (one.detach().double().cpu() for one in maps)
    differences = torch.stack([one - base for one in others])
    spread = differences[1:].square().mean((0, 2, 3)).sqrt()
    return (differences / (spread + 0.01 * spread.max() + 1e-300)[:, None, None]).square().sum(1).sqrt()


def _measure_axis(
    changes: Tensor, repeated: Tensor, stripes: Sequence[Stripe], axis: Axis, length: int, tolerance: float
) -> AxisResponse:
    """Measure the response along one axis from the changes (stripes, n, other cells)."""
    cells = changes.shape[1]
    centers = axis.centre + axis.stride * torch.arange(cells, dtype=torch.float64)
    responds = (changes > tolerance + 2 * float(repeated.max())).any(2)  # (stripes, n)
    unseen, sees_more = None, False
    for stripe, answer in zip(stripes, responds, strict=True):
        reach = axis.size / 2 if math.isfinite(axis.size) else math.inf
        touched = (centers + reach > stripe.start) & (centers - reach < stripe.end)
        sees_more |= bool((answer & ~touched).any())
        expected = min(reach, abs(axis.stride) / 2)
        if bool(((centers - stripe.center).abs() <= expected).any()) and not answer.any():
            unseen = stripe
    if cells == 1:
        return AxisResponse(1, 1.0, 0.0, 1.0, math.inf, math.inf, unseen, sees_more)
    equal = changes[: min(STRIPES, length)]
    logs = (equal + 1e-3 * equal.mean(0) + 1e-6 * equal.mean() + float(repeated.mean()) + 1e-300).log()
    stripe_places = torch.tensor([one.center for one in stripes[: len(equal)]], dtype=torch.float64) / length - 0.5
    tendency = ((logs - logs.mean(0)) * stripe_places[:, None, None]).sum(0)  # (n, other cells)
    places = (centers / length - 0.5).clamp(-0.5, 0.5)[:, None].expand_as(tendency)
    near = float(((stripe_places[logs.argmax(0)] - places).abs() <= _NEAR).double().mean())
    rise, spread = tendency - tendency.mean(), places - places.mean()
    order = float((rise * spread).sum() / (rise.norm() * spread.norm() + 1e-300))
    strength = float(tendency.std(correction=0))
    # Exact receptive fields that are small against the image bound the shift better than its estimate does.
    if math.isfinite(axis.size) and axis.size <= length / 2 and not sees_more:
        return AxisResponse(cells, order, 0.0, near, math.inf, strength, unseen, sees_more)
    slope, in_cells = float((rise * spread).sum() / spread.square().sum().clamp_min(1e-300)), length / abs(axis.stride)
    shift = float(tendency.mean()) / slope - float(places.mean()) if slope else math.inf
    # Some stripes change all cells more than others, by chance. The less a cell prefers its own stripe, the more of the
    # shift is this chance.
    chance = 2 * _GAIN * float(stripe_places.norm()) / max(abs(slope), 1e-6)
    slack = max(_SHIFT, _SHIFT_OF_LENGTH * in_cells) + chance * in_cells
    return AxisResponse(cells, order, shift * in_cells, near, slack, strength, unseen, sees_more)


def prefers_no_part(response: tuple[AxisResponse, AxisResponse] | None) -> bool:
    """Tell whether cells respond to no part of the image, or to all parts alike: nothing is known of their place."""
    return response is None or any(axis.order < _ORDER and axis.strength < _FAINT for axis in response)


def explain_misplacement(response: tuple[AxisResponse, AxisResponse] | None, certain: bool = False) -> str | None:
    """Say in words why cells are not at their assumed places, as far as it was measured; None if they are there.

    Args:
        response: from `measure_response`.
        certain: whether the assumed places follow from operations that are all known to keep them. Then they hold for
            cells that respond to the whole image alike, as those of deep networks with random weights do.
    """
    if response is None:
        return None if certain else "no cell of the feature maps changes with the photo by more than rounding"
    for axis, name, sides in zip(response, ("down", "across"), ("top and bottom", "left and right"), strict=True):
        if axis.unseen is not None:
            lines = ("rows", "columns")[axis.unseen.axis]
            return f"no cell responds to the pixel {lines} {axis.unseen.start} to {axis.unseen.end - 1}"
        if certain and axis.strength < _CLEAR:
            continue
        if axis.order < _ORDER and axis.strength < _FAINT:
            return "every cell responds to all parts of the photo alike"
        if axis.order < -_ORDER:
            return f"the cells respond to the opposite side of the photo, {sides} exchanged"
        if axis.order < _ORDER:
            return f"the cells respond to other parts of the photo than their own (correlation {name} {axis.order:.2f})"
        if axis.near < _SHARE and axis.strength > _CLEAR and not certain and axis.cells >= _FEW:
            return f"only {axis.near:.0%} of the cells respond most to the photo near their place {name} it"
        if abs(axis.shift) > axis.slack and axis.strength > _FAINT:
            return f"the cells respond {abs(axis.shift):.1f} cells beside their place {name} the photo"
    return None
