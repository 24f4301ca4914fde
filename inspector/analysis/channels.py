"""Split a logit into the contributions of the channels before the pooling.

    logit[k] = bias[k] + sum over c of  part[k, c],    part[k, c] = weight[k, c] * pooled[c]

The difference of two logits, and a logit minus the mean of all logits, are split in the same way. If the head flattens
the feature maps, every cell has its own weight, and the contribution of a channel is the sum over its cells.
"""

from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from inspector.explain.class_maps import AVERAGE, ClassMaps


@dataclass(frozen=True)
class ContributionRow:
    """One row of the table of contributions: the bias, a channel, or all other channels."""

    channel: int | None  # None for the bias and for the sum of the other channels
    text: str
    value: float  # in logits
    before: float  # running sum before this row, in logits
    after: float  # running sum including this row, in logits


@dataclass(frozen=True, eq=False)
class ChannelContributions:
    """A logit, or a difference of logits, as a sum over channels."""

    title: str
    parts: Tensor  # (C,), contributions in logits
    weight: Tensor | None  # (C,), weight of each channel; None if each cell of a channel has its own weight
    pooled: Tensor  # (C,), pooled value of each channel
    bias: float
    total: float  # parts.sum() + bias: the logit of the network, or the difference of logits

    @property
    def order(self) -> Tensor:
        """Return the channel indices (C,) by decreasing absolute contribution; in a tie, the lower index first."""
        return self.parts.abs().argsort(descending=True, stable=True)

    def list_rows(self, count: int) -> list[ContributionRow]:
        """Return one row for the bias, one per channel with the largest contributions, and one for all other channels.

        Args:
            count: number of channels with a row of their own.

        Returns:
            Rows whose values sum to ``total``.
        """
        shown, rest = self.order[:count].tolist(), self.order[count:]
        entries: list[tuple[int | None, str, float]] = [(None, "bias", self.bias)]
        entries += [(c, f"channel {c}", float(self.parts[c])) for c in shown]
        if len(rest):
            text = f"{len(rest)} other channels" if len(rest) > 1 else "1 other channel"
            entries.append((None, text, float(self.parts[rest].double().sum())))
        sums = pairwise(accumulate((value for _, _, value in entries), initial=0.0))
        return [ContributionRow(*entry, *before_after) for entry, before_after in zip(entries, sums, strict=True)]


def compute_channel_contributions(
    maps: ClassMaps, k: str | int, against: str | int | None = None
) -> ChannelContributions:
    """Split the logit of a class into the contributions of the channels.

    Args:
        maps: class maps of one image.
        k: name or index of the class.
        against: name or index of a class whose logit is subtracted, or "average" for the mean of all logits.

    Returns:
        Contributions. Their sum plus the bias is the logit, or the difference of logits.
    """
    class_map, decomposition = maps.class_map(k, against), maps.decomposition
    k = maps.classifier.class_index(k)
    row = decomposition.weight([k])[0]
    if against == AVERAGE:
        row = row - decomposition.weight(range(len(maps.logits))).mean(0)
    elif against is not None:
        row = row - decomposition.weight([maps.classifier.class_index(against)])[0]
    assert class_map.total is not None, "only scores of positions have none"
    parts, pooled = decomposition.parts_by(row).sum((1, 2)), compute_pooled_values(maps)
    weight = None if _is_flattened(maps) else row
    return ChannelContributions(class_map.title, parts, weight, pooled, class_map.bias, class_map.total)


def compute_pooled_values(maps: ClassMaps) -> Tensor:
    """Return the pooled value of each channel, (C,). If the head flattens instead of pooling, return channel means."""
    pooled = [
        branch.feature_maps.mean((1, 2)) if branch.pooling == "flatten" else branch.shares().sum((1, 2))
        for branch in maps.decomposition.branches
    ]
    return torch.cat(pooled)


def find_classes_with_highest_weight(maps: ClassMaps, channel: int, count: int) -> list[tuple[int, str, float]]:
    """Find the classes with the highest head weight for a channel.

    Args:
        maps: class maps of any image.
        channel: index of the channel.
        count: number of classes.

    Returns:
        (index, name, weight) by decreasing weight; empty if the head has no fixed weight per channel.
    """
    weight = maps.classifier.head.weight
    if weight is None or _is_flattened(maps):
        return []
    order = weight[:, channel].argsort(descending=True, stable=True)[:count].tolist()
    return [(k, maps.classifier.class_names[k], float(weight[k, channel])) for k in order]


def _is_flattened(maps: ClassMaps) -> bool:
    return any(branch.pooling == "flatten" for branch in maps.decomposition.branches)
