"""Split logits of a linear head over positions and channels into evidence for a class, against it, and common to all.

With s for what a cell adds to a pooled value, F / (h w) for average pooling and F at the deciding cell for max pooling,
and d for the weights of a class less the mean of all classes:

    logit[k] = bias[k] + sum of  mean[c] * s[c, y, x]            common to all classes
                       + sum of  max(d[k, c] * s[c, y, x], 0)    for the class
                       + sum of  min(d[k, c] * s[c, y, x], 0)    against it

Where features are not negative, the evidence for a class is max(d[k, c], 0) * s. This module does not import torch.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Evidence:
    """The logit of one class for some photos, less the bias, in three parts."""

    positive: NDArray[np.float32]  # (n, h * w, C): evidence for the class, in logits; not negative
    against: NDArray[np.float64]  # (n,): sums of the evidence against it; not positive
    common: NDArray[np.float64]  # (n,): what the mean weights of all classes give


def compute_shares(features: NDArray[np.float32], pooling: str) -> NDArray[np.float32]:
    """Compute what each cell adds to each pooled value.

    Args:
        features: feature maps (n, C, h, w).
        pooling: "average" or "max".

    Returns:
        Array (n, h * w, C). Its sum over the cells is the pooled value. With max pooling it is zero but at the cell
        that decides a channel: the first one, row by row, with the maximum.
    """
    cells = features.reshape(*features.shape[:2], -1).transpose(0, 2, 1)
    if pooling == "average":
        return cells / np.float32(cells.shape[1])
    shares = np.zeros_like(cells)
    deciding = cells.argmax(1)[:, None]
    np.put_along_axis(shares, deciding, np.take_along_axis(cells, deciding, 1), 1)
    return shares


def compute_evidence(features: NDArray[np.float32], weight: NDArray[np.float32], k: int, pooling: str) -> Evidence:
    """Split the logit of a class into evidence for it, against it, and common to all classes.

    Args:
        features: feature maps (n, C, h, w).
        weight: (K, C) of the linear layer.
        k: number of the class.
        pooling: "average" or "max".
    """
    mean = weight.mean(0, dtype=np.float64)
    shares = compute_shares(features, pooling)
    common = shares.sum(1, dtype=np.float64) @ mean
    shares *= (weight[k] - mean).astype(np.float32)
    against = np.minimum(shares, 0).sum((1, 2), dtype=np.float64)
    return Evidence(np.maximum(shares, 0, out=shares), against, common)


def pool_cells(features: NDArray[np.float32], kept: NDArray[np.bool_], pooling: str) -> NDArray[np.float64]:
    """Pool some of the cells of each photo.

    Args:
        features: feature maps (n, C, h, w).
        kept: (n, h, w), true at the cells to pool. A photo of which none is kept is pooled whole.
        pooling: "average" or "max".

    Returns:
        Pooled features (n, C).
    """
    kept = (kept | ~kept.any((1, 2), keepdims=True))[:, None]
    if pooling == "max":
        return np.asarray(np.where(kept, features, -np.inf).max((2, 3)), np.float64)
    return np.asarray((features * kept).sum((2, 3), dtype=np.float64) / kept.sum((2, 3)))
