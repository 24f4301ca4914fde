"""Compare the class maps of several networks: find the same class in each, and measure how similar two maps are."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from inspector.explain.class_maps import ClassMap, ClassMaps


@dataclass(frozen=True)
class MapSimilarity:
    """Similarity of two maps on the same grid, -1 to 1; None if it is not defined."""

    cosine: float | None  # cosine similarity; None if one of the maps is zero
    rank: float | None  # Spearman's rank correlation; None if one of the maps is constant


def compare_maps(a: ClassMap, b: ClassMap) -> MapSimilarity | None:
    """Measure how similar two maps are, cell by cell; return None if their grids differ."""
    if a.values.shape != b.values.shape:
        return None
    first, second = (values.detach().flatten().double().cpu() for values in (a.values, b.values))
    norms = first.norm() * second.norm()
    return MapSimilarity(float(first @ second / norms) if norms > 0 else None, compute_rank_correlation(first, second))


def compute_rank_correlation(a: Tensor, b: Tensor) -> float | None:
    """Compute Spearman's rank correlation of two maps of the same shape; equal values get their mean rank.

    Returns:
        -1 to 1; None if one of the maps is constant.
    """
    ranks = torch.stack([_compute_ranks(a.flatten()), _compute_ranks(b.flatten())])
    if (ranks.std(1) == 0).any():
        return None
    return float(torch.corrcoef(ranks)[0, 1])


def _compute_ranks(values: Tensor) -> Tensor:
    _, places, counts = values.unique(return_inverse=True, return_counts=True)
    ranks: Tensor = counts.cumsum(0).double() - (counts - 1) / 2
    return ranks[places]


def find_same_class(maps: Sequence[ClassMaps], name: str | None = None) -> list[int]:
    """Choose the class to show for each of several class maps.

    Args:
        maps: class maps, of the same or of different networks.
        name: name of a class; upper and lower case do not matter. Default: the top-1 class of the first maps, if all
            networks have it.

    Returns:
        Class index for each of the maps. If a network has no class of that name, it is the index of its top-1 class.
    """
    name = find_common_class_name(maps) if name is None else name
    found = [None if name is None else find_class_by_name(each.classifier.class_names, name) for each in maps]
    return [int(each.logits.argmax()) if k is None else k for each, k in zip(maps, found, strict=True)]


def find_common_class_name(maps: Sequence[ClassMaps]) -> str | None:
    """Return the name of the top-1 class of the first maps if all networks have it, else None."""
    name = maps[0].top(1)[0][1]
    return name if all(find_class_by_name(each.classifier.class_names, name) is not None for each in maps) else None


def find_class_by_name(names: Sequence[str], name: str) -> int | None:
    """Return the index of the class with this exact name, or else with this name in any letter case; None if absent."""
    if name in names:
        return names.index(name)
    lowered = name.casefold()
    return next((k for k, other in enumerate(names) if other.casefold() == lowered), None)
