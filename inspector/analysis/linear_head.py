"""Heads whose logits are a linear function of one average or max pooling: what concepts and repair are defined for."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inspector.errors import HeadError
from inspector.explain.classifier import Classifier


@dataclass(frozen=True, eq=False)
class LinearHead:
    """Weight and bias of a linear layer."""

    weight: NDArray[np.float64]  # (K, C)
    bias: NDArray[np.float64]  # (K,)

    def classify(self, pooled: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the top-1 class of each row of pooled features (..., C)."""
        return np.asarray((pooled @ self.weight.T + self.bias).argmax(-1))


def read_linear_head(classifier: Classifier) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return weight (K, C) and bias (K,) of a head that is one average or max pooling and a linear layer.

    Raises:
        HeadError: the head is another one. The message names what it has.
    """
    head = classifier.head
    expected = "Expected average or max pooling and one linear layer"
    if len(head.branches) > 1 or head.pooling not in ("average", "max"):
        poolings = (
            f"{len(head.branches)} poolings" if len(head.branches) > 1 else f"pooling of the kind {head.pooling!r}"
        )
        raise HeadError(f"The head of {classifier.name} has {poolings}. {expected}.")
    if head.weight is None or head.bias is None:
        raise HeadError(f"The head of {classifier.name} is not linear: its weights depend on the photo. {expected}.")
    if head.per_class:
        problem = f"Every feature map of {classifier.name} is the map of one class, so no channels can be grouped"
        raise HeadError(f"{problem}. {expected}.")
    weight, bias = (np.asarray(one.detach().float().cpu().numpy(), np.float32) for one in (head.weight, head.bias))
    return weight, bias
