"""Fixtures of the tests of maps that depend on the weights: a small classifier and one input."""

import pytest
import torch
from torch import Tensor

from inspector import Classifier


@pytest.fixture
def classifier(hand_made_gap) -> Classifier:
    return Classifier.wrap(hand_made_gap, size=8)


@pytest.fixture
def inputs() -> Tensor:
    return torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(3))
