"""Measure where on its grid a class map has its evidence, as one number per map: maps (N, h, w) in, (N,) out.

    border    = sum of |m| in the outermost ring of cells / sum of |m|
    positions = exp(- sum over cells of p log p),  p = |m| / sum of |m|

`positions` is the effective number of cells with evidence: 1 if one cell has all of it, h * w if all cells have the
same. Its logarithm is the complexity of Bhatt, Weller, Moura ("Evaluating and Aggregating Feature-based Model
Explanations", IJCAI 2020). A map of zeros has no evidence, and one with an infinity no shares: both give nan. Imports
no torch.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def measure_border_share(maps: Floats) -> Floats:
    """Return the share of each map's sum in the outermost ring of cells, 0-1. The maps have no negative values."""
    total = maps.sum((1, 2))
    inner = maps[:, 1:-1, 1:-1].sum((1, 2))
    return 1 - _divide(inner, total)


def compute_uniform_border_share(grid: tuple[int, int]) -> float:
    """Return the border share of a uniform map of that grid: the value to compare with."""
    return float(measure_border_share(np.ones((1, *grid)))[0])


def count_effective_cells(maps: Floats) -> Floats:
    """Return the exponential of each map's entropy: the number of cells of a uniform map with the same entropy."""
    magnitudes = np.abs(maps).reshape(len(maps), maps.shape[1] * maps.shape[2])
    shares = _divide(magnitudes, magnitudes.sum(1, keepdims=True))
    # 0 log 0 is 0; nan stays.
    logs = np.log(shares, where=shares != 0, out=np.zeros_like(shares))
    count: Floats = np.exp(-(shares * logs).sum(1))
    return count


def _divide(shares: Floats, total: Floats) -> Floats:
    result = np.full(np.broadcast_shapes(shares.shape, total.shape), np.nan)
    quotient: Floats = np.divide(shares, total, out=result, where=(total > 0) & np.isfinite(total))
    return quotient
