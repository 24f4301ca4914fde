"""Fit a linear head again on pooled features, without the directions of some concepts.

With V for an orthonormal basis of these directions and x for pooled features, the head is W (I - V V^T) x + b: nothing
along V reaches a logit. W and b minimize the mean cross entropy plus a penalty on how far W is from the weights before,
so classes without photos stay as they are.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from inspector.explain.kinds import OutputActivation

Array = NDArray[np.float64]

PENALTY = 1e-3
_STEPS, _CHANGE = 200, 1e-6  # of L-BFGS: at most, and the change of the loss at which it ends


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
    penalty: float = PENALTY,
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
        penalty: on the squared change of the weights, for features of root mean square 1.

    Returns:
        Weight (K, C), with nothing along the basis, and bias (K,).
    """
    kept = project_out(features, basis)
    scale = float(np.sqrt(np.square(kept).mean())) or 1.0
    inputs, targets = torch.from_numpy(kept / scale).float(), torch.from_numpy(labels)
    start = torch.from_numpy(project_out(weight, basis) * scale).float()
    anchor = torch.zeros_like(start) if from_zero else start
    fitted = anchor.clone().requires_grad_()
    offset = torch.tensor(0 * bias if from_zero else bias, dtype=torch.float32, requires_grad=True)
    one_hot = functional.one_hot(targets, len(weight)).float() if output == "sigmoid" else None
    options: dict[str, Any] = {"max_iter": _STEPS, "tolerance_change": _CHANGE, "line_search_fn": "strong_wolfe"}
    optimizer = torch.optim.LBFGS([fitted, offset], **options)

    def compute_loss() -> torch.Tensor:
        optimizer.zero_grad()
        logits = functional.linear(inputs, fitted, offset)
        if one_hot is None:
            loss = functional.cross_entropy(logits, targets)
        else:
            loss = functional.binary_cross_entropy_with_logits(logits, one_hot) * len(weight)
        loss = loss + penalty * (fitted - anchor).square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(compute_loss)
    new, moved = (one.detach().numpy().astype(np.float64) for one in (fitted, offset))
    return project_out(new / scale, basis), moved
