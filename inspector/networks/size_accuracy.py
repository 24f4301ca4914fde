"""How accurate a network is at several input sizes, as measured on labeled photos: the entry "sizes" of a model.json.

    "sizes": {
      "data": "100 ImageNet photos",
      "photos": 100,
      "measured": "python benchmarks/sizes.py ...",
      "accuracy": {"224": {"right": 89, "gained": 0, "lost": 0}, "whole:288": {"right": 91, "gained": 5, "lost": 3}}
    }

The keys of "accuracy" are sizes as for `inspector explain --size`; a number is the side of the center crop. All sizes
were measured on the same photos, so they are compared photo by photo with the size of the training: `gained` photos are
right at this size only, `lost` ones at the size of the training only. This module does not import torch.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from inspector.entries import Entries
from inspector.images.photo_size import MAX_SIDE, describe_size, format_size

_LEVEL = 0.05  # a size is less accurate if its result or a worse one has a smaller probability than this
_MANY = 1000  # photos; for more, the normal distribution is close enough to the binomial one
_SIZE = re.compile("native|(whole:)?[1-9][0-9]{0,3}|[1-9][0-9]{0,3}x[1-9][0-9]{0,3}")


@dataclass(frozen=True)
class SizeAccuracy:
    """The accuracy at one input size."""

    size: str  # "224", "208x408", "whole:288" or "native"
    right: int  # photos whose label is the top-1 class
    gained: int  # photos that are right here, and wrong at the size of the training
    lost: int  # photos that are wrong here, and right at the size of the training

    @property
    def is_whole(self) -> bool:
        """Whether the whole photo is seen, at a shorter side that is the same for all photos."""
        return self.size.startswith("whole:")

    @property
    def shorter_side(self) -> int | None:
        """The shorter side of the input in pixels; None if the photo decides it."""
        return min((int(side) for side in re.findall("[0-9]+", self.size)), default=None)

    @property
    def is_as_accurate(self) -> bool:
        """Whether this size is not significantly less accurate than that of the training.

        This is the one-sided exact sign test on the photos that are right at one of both sizes only (McNemar,
        Psychometrika 1947), at the level of 5 %: of so many tosses of a coin, at most `gained` are heads. With few
        photos only large differences are significant.
        """
        differing = self.gained + self.lost
        if differing > _MANY:
            return NormalDist(differing / 2, math.sqrt(differing) / 2).cdf(self.gained + 0.5) >= _LEVEL
        at_most = sum(math.comb(differing, heads) for heads in range(self.gained + 1))
        return at_most / (1 << differing) >= _LEVEL


@dataclass(frozen=True)
class SizeAccuracies:
    """The accuracy at several input sizes, on the same photos."""

    data: str  # which photos
    photos: int
    trained: str  # the size of the training, one of `sizes`
    sizes: Mapping[str, SizeAccuracy]

    def find_best_whole(self) -> SizeAccuracy | None:
        """Return the most accurate size at which the whole photo is seen: of equal ones the smallest, None if none."""
        whole = [one for one in self.sizes.values() if one.is_whole]
        return max(whole, key=lambda one: (one.right, -(one.shorter_side or 0)), default=None)

    def describe(self) -> str:
        """Return the accuracy of the crop, of the best whole size and of full resolution, in a sentence."""
        best = self.find_best_whole()
        listed = dict.fromkeys((self.trained, self.trained if best is None else best.size, "native"))
        parts = [self._describe_size(size) for size in listed if size in self.sizes]
        return f"Measured on {self.data}: {'; '.join(parts)}."

    def _describe_size(self, size: str) -> str:
        one = self.sizes[size]
        text = f"{describe_size(size)}: {one.right:,} of {self.photos:,} right"
        if size == self.trained:
            return text
        compared = "as accurate as the crop" if one.is_as_accurate else "significantly less than the crop"
        return f"{text}, {compared} ({one.gained:,} gained, {one.lost:,} lost)"


def compute_wilson_interval(right: int, photos: int) -> tuple[float, float]:
    """Return the 95 % confidence interval of a share, 0-1, by Wilson (JASA 1927)."""
    from scipy.stats import binomtest  # takes a second to import, and the app does not need it

    interval = binomtest(right, photos).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def read_size_accuracies(entries: Entries, trained: tuple[int, int]) -> SizeAccuracies:
    """Read the entry "sizes" of a model.json.

    Args:
        entries: the content of the entry.
        trained: (height, width) of the input in the training.

    Raises:
        KeyError, ValueError: an entry is missing, or is not what it should be.
    """
    photos, accuracy = entries.whole("photos", least=1), entries.object("accuracy")
    sizes = {size: _read_size(accuracy, size, photos) for size in accuracy.values}
    own = format_size(trained)
    base = sizes.get(own)
    if base is None or base.gained or base.lost:
        entries.refuse("accuracy", f"an entry {own!r}, the size of the training, with 0 gained and 0 lost")
    if any(one.right != base.right + one.gained - one.lost for one in sizes.values()):
        entries.refuse("accuracy", f"right to be that of {own!r} plus gained minus lost")
    return SizeAccuracies(entries.text("data"), photos, own, sizes)


def make_entry(accuracies: SizeAccuracies, measured: str) -> dict[str, Any]:
    """Return the entry "sizes" of a model.json, with the command that measured it."""
    counts = {
        one.size: {"right": one.right, "gained": one.gained, "lost": one.lost} for one in accuracies.sizes.values()
    }
    return {"data": accuracies.data, "photos": accuracies.photos, "measured": measured, "accuracy": counts}


def _read_size(accuracy: Entries, size: str, photos: int) -> SizeAccuracy:
    if not _SIZE.fullmatch(size) or any(int(side) > MAX_SIDE for side in re.findall("[0-9]+", size)):
        raise ValueError(f"expected sizes as 224, 208x408, whole:288 or native for accuracy, got {size!r:.60}")
    counts = accuracy.object(size)
    one = SizeAccuracy(size, *(counts.whole(key) for key in ("right", "gained", "lost")))
    if max(one.right, one.gained + one.lost) > photos:
        raise ValueError(f"expected at most {photos} photos for accuracy, got {one.right} right at {size}")
    return one
