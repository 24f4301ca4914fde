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
    one, other = (values.detach().flatten().double().cpu() for values in (a.values, b.values))
    size = one.norm() * other.norm()
    return MapSimilarity(float(one @ other / size) if size > 0 else None, rank_correlation(one, other))


def rank_correlation(a: Tensor, b: Tensor) -> float | None:
    """Spearman's correlation of two maps of one shape, ties sharing their mean rank; None where one is constant."""
    ranks = torch.stack([_ranks(a.flatten()), _ranks(b.flatten())])
    if (ranks.std(1) == 0).any():
        return None
    return float(torch.corrcoef(ranks)[0, 1])


def _ranks(values: Tensor) -> Tensor:
    _, places, counts = values.unique(return_inverse=True, return_counts=True)
    ranks: Tensor = counts.cumsum(0).double() - (counts - 1) / 2
    return ranks[places]


def find_same_class(maps: Sequence[ClassMaps], name: str | None = None) -> list[int]:
    """For each of several class maps the class to show: that of a name, where its network knows it in any case.

    Without a name it is the first one's likeliest class if all know it, and else each one's own likeliest. A network
    that does not know a name shows its own likeliest too.
    """
    if name is None:
        name = common_name(maps)
    found = (None if name is None else find_class_by_name(one.classifier.class_names, name) for one in maps)
    return [int(one.logits.argmax()) if k is None else k for one, k in zip(maps, found, strict=True)]


def common_name(maps: Sequence[ClassMaps]) -> str | None:
    """The name of the first one's likeliest class, if all networks know it."""
    name = maps[0].top(1)[0][1]
    return name if all(find_class_by_name(one.classifier.class_names, name) is not None for one in maps) else None


def find_class_by_name(names: Sequence[str], name: str) -> int | None:
    """The class of this name, in upper or lower case; that in the same case where both are there."""
    if name in names:
        return names.index(name)
    folded = name.casefold()
    return next((k for k, one in enumerate(names) if one.casefold() == folded), None)
