"""Compare a network in lower precision with the same network in float32.

Rounding to bfloat16 or to 8-bit integers makes another network: its class maps sum to its own logits, and these differ
from those of float32. How much they differ is measured on photos when it is built, and is stated with its maps.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from statistics import median
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inspector.errors import NetworkError
from inspector.explain.class_maps import class_maps_of_batch
from inspector.explain.classifier import Classifier
from inspector.images.examples import choose_examples, list_examples
from inspector.images.photo import ImageSource, Photo, read_image
from inspector.images.preprocessing import make_view

_BATCH = 8  # images that are compared in one pass
_MOST_EXAMPLES = 64  # photos from which the ranges of activations are taken; more change them little
_PART = 0.6  # of the sides of an example photo: the size of the parts that are compared, too


# Takes inputs (N, channels, H, W); for each of them it returns logits (K,) and class maps (K, h, w).
RunMaps: TypeAlias = Callable[[Tensor], Iterable[tuple[Tensor, Tensor]]]


@dataclass(frozen=True, eq=False)
class Calibration:
    """Photos for building a network in lower precision: every other one to quantize it, the others to compare it."""

    photos: Sequence[ImageSource | Photo]  # at least two
    labels: Sequence[int] | None = None  # the class of each photo, to measure the accuracy
    least_agreement: float = 0.9  # share of photos that must be predicted as in float32, else the network is refused

    def __post_init__(self) -> None:
        if len(self.photos) < 2:
            raise NetworkError(f"Lower precision needs at least 2 photos to build and compare; got {len(self.photos)}.")
        if self.labels is not None and len(self.labels) != len(self.photos):
            raise NetworkError(f"Expected one label per photo; got {len(self.labels)} for {len(self.photos)} photos.")
        if not 0 <= self.least_agreement <= 1:
            raise NetworkError(f"Expected least_agreement from 0 to 1, got {self.least_agreement}.")


@dataclass(frozen=True)
class PrecisionLoss:
    """How a network in lower precision differs from itself in float32, on photos that did not calibrate it."""

    dtype: str  # "int8" or "bfloat16"
    photos: int
    same_class: int  # photos with the same top-1 class
    largest_change: float  # of a logit
    correlation: float  # of the class maps of the top-1 class in float32: the median over the photos
    right: tuple[int, int] | None = None  # photos predicted as labeled, in float32 and in lower precision

    def describe(self) -> str:
        """Return the figures in one sentence."""
        right = "" if self.right is None else f" ({self.right[1]} and {self.right[0]} of them as labeled)"
        return (
            f"Computed in {self.dtype}. Compared with float32 on {self.photos} photos: the same top-1 class in "
            f"{self.same_class}{right}, logits changed by at most {self.largest_change:.2g}, median correlation of the "
            f"class maps {self.correlation:.3f}."
        )

    def to_json(self) -> str:
        """Return the figures as JSON, for the metadata of a file."""
        return json.dumps(asdict(self))


class CalibrationInputs:
    """The inputs of a network that are made of calibration photos."""

    def __init__(self, classifier: Classifier, calibration: Calibration | None) -> None:
        self._classifier = classifier
        self._photos: Sequence[ImageSource | Photo] = (
            _list_example_parts(classifier) if calibration is None else calibration.photos
        )
        self._labels = None if calibration is None else calibration.labels
        self.least_agreement = Calibration.least_agreement if calibration is None else calibration.least_agreement

    def iterate_calibrating(self) -> Iterator[NDArray[np.float32]]:
        """Yield the inputs (1, channels, H, W) that quantize the network."""
        chosen = range(0, len(self._photos), 2)
        step = -(-len(chosen) // _MOST_EXAMPLES)
        return (self._read(n).numpy(force=True) for n in chosen[::step])

    def iterate_compared(self) -> Iterator[tuple[Tensor, Sequence[int] | None]]:
        """Yield the inputs (n, channels, H, W) on which it is compared, with their labels if these are known."""
        chosen = range(1, len(self._photos), 2)
        for first in range(0, len(chosen), _BATCH):
            numbers = chosen[first : first + _BATCH]
            inputs = torch.cat([self._read(n) for n in numbers])
            yield inputs, None if self._labels is None else [self._labels[n] for n in numbers]

    @cached_property
    def sha256(self) -> str:
        """Hash of the inputs that quantize the network."""
        digest = hashlib.sha256()
        for values in self.iterate_calibrating():
            digest.update(values.tobytes())
        return digest.hexdigest()

    def _read(self, n: int) -> Tensor:
        source = self._photos[n]
        photo = source if isinstance(source, Photo) else read_image(source)
        return self._classifier.inputs(make_view(photo, self._classifier.preprocessing))


def measure_loss(network: Classifier, run: RunMaps, dtype: str, inputs: CalibrationInputs) -> PrecisionLoss:
    """Compare logits and class maps in lower precision with those in float32.

    Args:
        network: the classifier in float32.
        run: runs it in lower precision.
        dtype: name of the lower precision.
        inputs: the photos.
    """
    same, right, changes, correlations = list[bool](), list[tuple[bool, bool]](), list[float](), list[float]()
    for batch, labels in inputs.iterate_compared():
        for n, (exact, (logits, maps)) in enumerate(zip(class_maps_of_batch(network, batch), run(batch), strict=True)):
            top, other_top = int(exact.logits.argmax()), int(logits.argmax())
            same.append(top == other_top)
            changes.append(float((exact.logits - logits).abs().max()))
            correlations.append(_correlate(exact.values[top], maps[top]))
            if labels is not None:
                right.append((top == labels[n], other_top == labels[n]))
    counts = (sum(one for one, _ in right), sum(one for _, one in right)) if right else None
    return PrecisionLoss(dtype, len(same), sum(same), float(np.max(changes)), median(correlations), counts)


def check_loss(loss: PrecisionLoss, least_agreement: float) -> None:
    """Raise NetworkError, with the figures, if the top-1 class changes in too many photos."""
    if loss.same_class < least_agreement * loss.photos - 1e-9 or not np.isfinite(loss.largest_change):
        raise NetworkError(
            f"The network is refused in {loss.dtype}: on {loss.photos} photos its top-1 class is that of float32 in "
            f"{loss.same_class} (at least {least_agreement:.0%} are needed), and logits change by up to "
            f"{loss.largest_change:.2g}. Calibrate with photos like those it will see, or use float32."
        )


def _correlate(one: Tensor, other: Tensor) -> float:
    """Return the correlation of two maps over their cells; 1 for equal maps, 0 where only one is constant."""
    values = torch.stack([one.flatten(), other.flatten()]).double()
    values = values - values.mean(1, keepdim=True)
    norms = values.norm(dim=1)
    if bool((norms == 0).any()):
        return float(bool((norms == 0).all()))
    return float((values[0] / norms[0]) @ (values[1] / norms[1]))


def _list_example_parts(classifier: Classifier) -> list[ImageSource]:
    """Return the example images that fit the network, each followed by its four corners.

    Raises:
        NetworkError: the network takes other images than gray and RGB, of which there are no examples.
    """
    if len(classifier.preprocessing.mean) not in (1, 3):
        raise NetworkError(
            f"There are no example images of {len(classifier.preprocessing.mean)} channels to build this network in "
            "lower precision. Give images of your own: calibration=Calibration(images)."
        )
    photos = [read_image(file) for file in list_examples(choose_examples(classifier.preprocessing)).values()]
    parts = [[photo.pixels, *_cut_corners(photo)] for photo in photos]
    # Alternate between two photos, so that no photo both calibrates and is compared.
    return [
        part for pair in zip(parts[::2], parts[1::2], strict=False) for both in zip(*pair, strict=True) for part in both
    ]


def _cut_corners(photo: Photo) -> list[NDArray[np.uint8]]:
    height, width = (max(1, round(_PART * side)) for side in photo.size)
    rows, columns = (slice(None, height), slice(-height, None)), (slice(None, width), slice(-width, None))
    return [photo.pixels[row, column] for row in rows for column in columns]
