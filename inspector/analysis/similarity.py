"""Class maps side by side: which class of each network is the same, and how far two maps agree."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from inspector.explain.class_maps import ClassMap, ClassMaps


@dataclass(frozen=True)
class MapSimilarity:
    """How alike two maps on one grid are, from -1 to 1; None where one of them is the same everywhere."""

    cosine: float | None  # signs and sizes count, a common factor does not
    rank: float | None  # Spearman's correlation: only the order of the cells counts


def compare_maps(a: ClassMap, b: ClassMap) -> MapSimilarity | None:
    """How alike two maps are, cell by cell; None where their grids differ."""
    if a.values.shape != b.values.shape:
        return None
    first, second = (values.detach().flatten().double().cpu() for values in (a.values, b.values))
    norms = first.norm() * second.norm()
    return MapSimilarity(float(first @ second / norms) if norms > 0 else None, compute_rank_correlation(first, second))


def compute_rank_correlation(a: Tensor, b: Tensor) -> float | None:
    """Spearman's correlation of two maps of one shape, ties sharing their mean rank; None where one is constant."""
    ranks = torch.stack([_compute_ranks(a.flatten()), _compute_ranks(b.flatten())])
    if (ranks.std(1) == 0).any():
        return None
    return float(torch.corrcoef(ranks)[0, 1])


def _compute_ranks(values: Tensor) -> Tensor:
    _, places, counts = values.unique(return_inverse=True, return_counts=True)
    ranks: Tensor = counts.cumsum(0).double() - (counts - 1) / 2
    return ranks[places]


def find_same_class(maps: Sequence[ClassMaps], name: str | None = None) -> list[int]:
    """For each of several class maps the class to show: that of a name, where its network knows it in any case.

    Without a name it is the first one's likeliest class if all know it, and else each one's own likeliest. A network
    that does not know a name shows its own likeliest too.
    """
    if name is None:
        name = find_common_class_name(maps)
    return [_find_class_or_top1(network_maps, name) for network_maps in maps]


def _find_class_or_top1(maps: ClassMaps, name: str | None) -> int:
    k = None if name is None else find_class_by_name(maps.classifier.class_names, name)
    return int(maps.logits.argmax()) if k is None else k


def find_common_class_name(maps: Sequence[ClassMaps]) -> str | None:
    """The name of the first one's likeliest class, if all networks know it."""
    name = maps[0].top(1)[0][1]
    return name if all(find_class_by_name(each.classifier.class_names, name) is not None for each in maps) else None


def find_class_by_name(names: Sequence[str], name: str) -> int | None:
    """The class of this name, in upper or lower case; that in the same case where both are there."""
    if name in names:
        return names.index(name)
    lowered = name.casefold()
    return next((k for k, other in enumerate(names) if other.casefold() == lowered), None)
