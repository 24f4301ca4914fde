"""Factorize the evidence of positions into a few concepts: P[p, c] = sum over j of  amounts[p, j] * patterns[j, c].

Patterns and amounts are not negative. A pattern sums to 1 over the channels, so an amount is what the concept adds to
the logit at a position. Patterns are found by non-negative matrix factorization (Lee and Seung, Nature 1999; in
scikit-learn, Frobenius norm). With the patterns fixed, amounts are the exact least-squares solution for each position,
so those of a photo do not depend on other photos. This module does not import torch.
"""

import warnings

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from inspector.errors import require

RANKS = (6, 8, 10)  # numbers of concepts that are tried
_MOST_POSITIONS = 4000  # with evidence, that the patterns are fitted to
_ENOUGH = 0.0125  # a further concept must lower what is left by this share of the evidence's sum of squares, for each
_STRONG, _STRONGEST = 0.5, 12  # cells of a concept: at least this share of the median of so many strongest
_LARGEST = 100  # iterations for an amount, per concept
_TOLERANCE, _ITERATIONS = 1e-3, 200  # of the factorization


def find_patterns(positions: NDArray[np.float32], rank: int, seed: int, random: bool = False) -> NDArray[np.float64]:
    """Find the patterns of concepts.

    Args:
        positions: evidence (p, C), not negative.
        rank: number of concepts.
        seed: seed of the random numbers.
        random: begin with random patterns instead of those of a singular value decomposition.

    Returns:
        Patterns (r, C), each with the sum 1; fewer than `rank` where there are fewer positions or channels.

    Raises:
        InspectorError: scikit-learn is not installed.
    """
    sklearn = require("sklearn.decomposition", extra="concepts", purpose="Finding concepts")
    channels = np.flatnonzero(positions.any(0))
    rows = _choose_rows(positions, seed)
    rank = min(rank, len(rows), len(channels))
    patterns = np.zeros((rank, positions.shape[1]))
    if rank == 0:
        return patterns
    options = {"init": "random" if random or rank >= min(len(rows), len(channels)) else "nndsvda", "random_state": seed}
    model = sklearn.NMF(rank, tol=_TOLERANCE, max_iter=_ITERATIONS, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about iterations: a factorization that has not converged serves as well
        model.fit(positions[np.ix_(rows, channels)])
    patterns[:, channels] = model.components_
    sums = patterns.sum(1)
    return np.asarray(patterns[sums > 0] / sums[sums > 0, None])


def compute_amounts(positions: NDArray[np.float32], patterns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute how much of each concept is at each position: the amounts (p, r) >= 0 with the least squared error.

    Args:
        positions: evidence (p, C).
        patterns: (r, C).
    """
    # In the basis of the patterns, each problem has r unknowns and r equations.
    basis, triangle = np.linalg.qr(patterns.T)
    targets = positions @ basis
    amounts = np.zeros((len(positions), len(patterns)))
    for number in np.flatnonzero(positions.any(1)) if len(patterns) else ():
        amounts[number] = nnls(triangle, targets[number], maxiter=_LARGEST * len(patterns))[0]
    return amounts


def measure_left(positions: NDArray[np.float32], amounts: NDArray[np.float64], patterns: NDArray[np.float64]) -> float:
    """Measure what the factorization leaves: its squared error as a share of the sum of squares, 0-1."""
    total = float(np.square(positions, dtype=np.float64).sum())
    if total == 0:
        return 0.0
    # |P - UH|^2 = |P|^2 - 2 <P H^T, U> + <U^T U, H H^T>: no array of the size of P is made.
    error = total - 2 * float((positions @ patterns.T * amounts).sum())
    error += float((amounts.T @ amounts * (patterns @ patterns.T)).sum())
    return max(error, 0.0) / total


def choose_patterns(positions: NDArray[np.float32], seed: int, rank: int | None = None) -> NDArray[np.float64]:
    """Find patterns, and choose their number by what the rest still holds.

    The number grows through RANKS as long as each further concept lowers what is left by at least 1.25 % of the sum of
    squares of the evidence.

    Args:
        positions: evidence (p, C).
        seed: seed of the random numbers.
        rank: number of concepts. Default: chosen.
    """
    if rank is not None:
        return find_patterns(positions, rank, seed)
    rows = positions[_choose_rows(positions, seed)]
    best, left = find_patterns(positions, RANKS[0], seed), None
    for number in RANKS[1:]:
        left = measure_left(rows, compute_amounts(rows, best), best) if left is None else left
        more = find_patterns(positions, number, seed)
        left_of_more = measure_left(rows, compute_amounts(rows, more), more)
        if left - left_of_more < _ENOUGH * (len(more) - len(best)):
            break
        best, left = more, left_of_more
    return best


def compute_directions(features: NDArray[np.float32], maps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the direction of each concept in the space of features: mean features where it is strong less all.

    Args:
        features: feature maps (n, C, h, w).
        maps: amounts of each concept (n, h, w, r). Strong are the cells that have at least half of the median amount of
            the twelve strongest.

    Returns:
        Directions (r, C) of length 1; zeros for a concept without amounts.
    """
    cells = features.transpose(0, 2, 3, 1).reshape(-1, features.shape[1])
    mean = cells.mean(0, np.float64)
    directions = np.zeros((maps.shape[3], features.shape[1]))
    for number, amounts in enumerate(maps.reshape(-1, maps.shape[3]).T):
        strongest = np.sort(amounts)[-_STRONGEST:]
        if (strongest := strongest[strongest > 0]).size:
            least = _STRONG * float(np.median(strongest))
            direction = cells[amounts >= least].mean(0, np.float64) - mean
            directions[number] = direction / max(float(np.linalg.norm(direction)), 1e-300)
    return directions


def match_patterns(patterns: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return for each pattern (r, C) its highest cosine with the other patterns (s, C): (r,), 0-1."""
    if not len(patterns) or not len(others):
        return np.zeros(len(patterns))
    first, second = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (patterns, others))
    return np.asarray((first @ second.T).max(1))


def _choose_rows(positions: NDArray[np.float32], seed: int) -> NDArray[np.intp]:
    """Return the positions that patterns are fitted to: all with evidence, or a random part of them."""
    rows = np.flatnonzero(positions.any(1))
    if len(rows) > _MOST_POSITIONS:
        rows = np.sort(np.random.default_rng(seed).choice(rows, _MOST_POSITIONS, replace=False))
    return rows
