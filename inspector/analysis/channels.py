"""The ledger of a logit: what each channel before the pooling brings to it, and that it adds up.

    logit[k] = bias[k] + sum over c of  part[k, c],    part[k, c] = weight[k, c] * pooled[c]

The same for the difference of two logits, and for a logit less the average one. Where maps are flattened, every
position has a weight of its own, and a channel's part is the sum over its positions.
"""

from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from inspector.explain.class_maps import AVERAGE, ClassMaps, class_maps
from inspector.explain.classifier import Classifier
from inspector.images.photo import Photo, read_image
from inspector.images.preprocessing import View, make_whole_view


@dataclass(frozen=True)
class ContributionRow:
    """A line of a ledger."""

    channel: int | None  # None for what is no single channel
    text: str
    value: float  # in logits
    before: float  # the running sum before it, and after it
    after: float


@dataclass(frozen=True, eq=False)
class ChannelContributions:
    """A logit, or a logit less another or less the average one, as a sum over channels."""

    title: str
    parts: Tensor  # (C,), in logits
    weight: Tensor | None  # (C,); None where a channel has many
    pooled: Tensor  # (C,): the value of each channel that the weight is multiplied with
    bias: float
    total: float  # parts.sum() + bias, as the network gave it

    @property
    def order(self) -> Tensor:
        """All channels, the largest part first, whatever its sign; of equal ones the lower number."""
        return self.parts.abs().argsort(descending=True, stable=True)

    def list_rows(self, count: int) -> list[ContributionRow]:
        """The bias, so many channels with the largest parts, and all others as one line; the sum is the total."""
        order = self.order
        shown, rest = order[:count], order[count:]
        channels: list[int | None] = [None, *shown.tolist()]
        texts = ["bias", *(f"channel {c}" for c in shown.tolist())]
        values = [self.bias, *self.parts[shown].tolist()]
        if len(rest):
            channels.append(None)
            texts.append(f"{len(rest)} other channels" if len(rest) > 1 else "1 other channel")
            values.append(float(self.parts[rest].double().sum()))
        sums = list(accumulate(values, initial=0.0))
        return [ContributionRow(*row) for row in zip(channels, texts, values, sums[:-1], sums[1:], strict=True)]


def compute_channel_contributions(
    maps: ClassMaps, k: str | int, against: str | int | None = None
) -> ChannelContributions:
    """Of class k, or of k against another class or against "average"."""
    class_map, decomposition = maps.class_map(k, against), maps.decomposition
    k = maps.classifier.class_index(k)
    row = decomposition.weight([k])[0]
    if against == AVERAGE:
        row = row - decomposition.weight(range(len(maps.logits))).mean(0)
    elif against is not None:
        row = row - decomposition.weight([maps.classifier.class_index(against)])[0]
    assert class_map.total is not None, "only scores of positions have none"
    weight = None if _is_flattened(maps) else row
    return ChannelContributions(
        class_map.title,
        decomposition.parts_by(row).sum((1, 2)),
        weight,
        compute_pooled_values(maps),
        class_map.bias,
        class_map.total,
    )


def compute_pooled_values(maps: ClassMaps) -> Tensor:
    """What the pooling made of each channel, (C,); where maps are flattened and not pooled, each channel's mean."""
    return torch.cat(
        [
            branch.feature_maps.mean((1, 2)) if branch.pooling == "flatten" else branch.shares().sum((1, 2))
            for branch in maps.decomposition.branches
        ]
    )


def find_classes_with_highest_weight(maps: ClassMaps, channel: int, count: int) -> list[tuple[int, str, float]]:
    """(index, name, weight) of the classes that a channel speaks for most; none where weights change with the image."""
    weight = maps.classifier.head.weight
    if weight is None or _is_flattened(maps):
        return []
    order = weight[:, channel].argsort(descending=True, stable=True)[:count].tolist()
    return [(k, maps.classifier.class_names[k], float(weight[k, channel])) for k in order]


def _is_flattened(maps: ClassMaps) -> bool:
    return any(branch.pooling == "flatten" for branch in maps.decomposition.branches)


@dataclass(frozen=True, eq=False)
class PhotoChannels:
    """What the channels make of one photo, small enough to keep hundreds of them."""

    name: str
    pooled: Tensor  # (C,)
    feature_maps: Tensor  # (C, h, w), in half precision: to look at, not to count with
    view: View  # of what the network saw and nothing else


def read_photo_channels(classifier: Classifier, photo: Photo) -> PhotoChannels:
    maps = class_maps(classifier, photo)
    assert maps.view is not None, "a photo was given"
    pixels = maps.view.pixels
    input_view = make_whole_view(read_image(pixels, photo.name), pixels)
    return PhotoChannels(photo.name, compute_pooled_values(maps), maps.feature_maps.half(), input_view)
