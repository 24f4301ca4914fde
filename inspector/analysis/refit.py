"""Fit a linear head again on pooled features, without the directions of some concepts.

With V for an orthonormal basis of these directions and x for pooled features, the head is W (I - V V^T) x + b: nothing
along V reaches a logit. W and b minimize the mean cross entropy plus a penalty on how far W is from the weights before,
so classes without photos stay as they are.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from inspector.explain.kinds import OutputActivation

Array = NDArray[np.float64]

_PENALTY = 1e-3  # on the squared change of the weights, for features of root mean square 1
_STEPS = 200  # of L-BFGS, at most


def make_basis(directions: Array) -> Array:
    """Return an orthonormal basis (m, C) of the directions (n, C); fewer where they depend on each other."""
    if not len(directions):
        return directions
    _, sizes, basis = np.linalg.svd(directions, full_matrices=False)
    return np.asarray(basis[sizes > 1e-6 * max(float(sizes.max()), 1e-300)])


def project_out(rows: Array, basis: Array) -> Array:
    """Return rows (n, C), of features or weights, without what lies along a basis (m, C)."""
    return rows - rows @ basis.T @ basis


def refit_head(
    features: Array,
    labels: NDArray[np.int64],
    weight: Array,
    bias: Array,
    basis: Array,
    output: OutputActivation = "softmax",
    from_zero: bool = False,
) -> tuple[Array, Array]:
    """Fit weight and bias on features without the directions of a basis.

    Args:
        features: pooled features (n, C).
        labels: class of each row, (n,).
        weight: weights before, (K, C).
        bias: biases before, (K,).
        basis: orthonormal directions (m, C).
        output: "sigmoid" fits each class on its own; every other, the softmax over classes.
        from_zero: forget the weights before, which know what is to be forgotten.

    Returns:
        Weight (K, C), with nothing along the basis, and bias (K,).
    """
    kept = project_out(features, basis)
    scale = float(np.sqrt(np.square(kept).mean())) or 1.0
    inputs, targets = torch.from_numpy(kept / scale), torch.from_numpy(labels)
    start = torch.from_numpy(project_out(weight, basis) * scale)
    anchor = torch.zeros_like(start) if from_zero else start
    fitted = anchor.clone().requires_grad_()
    offset = torch.from_numpy(np.zeros_like(bias) if from_zero else bias.copy()).requires_grad_()
    one_hot = functional.one_hot(targets, len(weight)).double() if output == "sigmoid" else None
    optimizer = torch.optim.LBFGS([fitted, offset], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def compute_loss() -> torch.Tensor:
        optimizer.zero_grad()
        logits = functional.linear(inputs, fitted, offset)
        if one_hot is None:
            loss = functional.cross_entropy(logits, targets)
        else:
            loss = functional.binary_cross_entropy_with_logits(logits, one_hot) * len(weight)
        loss = loss + _PENALTY * (fitted - anchor).square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(compute_loss)
    return project_out(fitted.detach().numpy() / scale, basis), offset.detach().numpy()
