"""Measure where on its grid a class map m has its evidence: maps (N, h, w) in, one number per map (N,) out.

    border    = sum of |m| in the outermost ring of cells / sum of |m|
    positions = exp(- sum over cells of p log p),  p = |m| / sum of |m|

`positions` is the effective number of cells with evidence: 1 if one cell has all evidence, h * w if all cells have the
same amount. Its logarithm is the complexity defined by Bhatt, Weller, Moura ("Evaluating and Aggregating Feature-based
Model Explanations", IJCAI 2020). For a map of zeros, or a map with an infinite value, both numbers are nan. This module
does not import torch.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def measure_border_share(maps: Floats) -> Floats:
    """Return which share of each map's sum is in the outermost ring of cells, 0-1. The maps must not be negative."""
    total = maps.sum((1, 2))
    inner = maps[:, 1:-1, 1:-1].sum((1, 2))
    return 1 - _divide(inner, total)


def compute_uniform_border_share(grid: tuple[int, int]) -> float:
    """Return the border share of a uniform map on this grid, as the value to compare other maps with."""
    return float(measure_border_share(np.ones((1, *grid)))[0])


def count_effective_cells(maps: Floats) -> Floats:
    """Return the exponential of each map's entropy: the number of cells of a uniform map with the same entropy."""
    magnitudes = np.abs(maps).reshape(len(maps), maps.shape[1] * maps.shape[2])
    shares = _divide(magnitudes, magnitudes.sum(1, keepdims=True))
    # The limit of p log p at 0 is 0, so the logarithm of 0 may be left at 0. nan stays nan.
    logs = np.log(shares, where=shares != 0, out=np.zeros_like(shares))
    count: Floats = np.exp(-(shares * logs).sum(1))
    return count


def _divide(shares: Floats, total: Floats) -> Floats:
    result = np.full(np.broadcast_shapes(shares.shape, total.shape), np.nan)
    quotient: Floats = np.divide(shares, total, out=result, where=(total > 0) & np.isfinite(total))
    return quotient
