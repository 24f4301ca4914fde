"""Where on its grid a class map's evidence stands, as one number a map: maps (N, h, w) in, (N,) out.

    border     = sum of |m| in the outermost ring of cells / sum of |m|
    positions  = exp(- sum over positions of  p log p),  p = |m| / sum of |m|

The logarithm of `positions` is the complexity of Bhatt, Weller, Moura ("Evaluating and Aggregating Feature-based Model
Explanations", IJCAI 2020): 1 where all evidence stands on one position, h * w where it lies evenly on all. A map of
zeros has no evidence, one with an infinity no shares: nan in place of a number. Imports no torch.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def measure_border_share(maps: Floats) -> Floats:
    """Which part of the maps' sums lies in the outermost ring of cells, 0-1, for maps without negative values."""
    total = maps.sum((1, 2))
    inner = maps[:, 1:-1, 1:-1].sum((1, 2))
    return 1 - _divide(inner, total)


def compute_uniform_border_share(grid: tuple[int, int]) -> float:
    """The border's share of a map that is the same everywhere: what to compare with."""
    return float(measure_border_share(np.ones((1, *grid)))[0])


def count_effective_cells(maps: Floats) -> Floats:
    """On how many positions the evidence stands: as many as would have this entropy if it lay evenly on them."""
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
