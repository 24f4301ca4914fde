"""What several test files need: the data beside the project, small networks, a photo."""

import os
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import torch
from torch import nn

from inspector.output.figure_file import encode_figure

REPOSITORY = Path(__file__).parent.parent

mpl.use("agg")
# For the app: which backend runs a network must not depend on the speed of this machine.
os.environ["INSPECTOR_BACKEND"] = "eager"
# The networks that come with Inspector, and none that a user of this machine has added.
os.environ["INSPECTOR_MODELS"] = str(REPOSITORY / "none")
# Results that a user of this machine has are not listed.
os.environ["INSPECTOR_RESULTS"] = str(REPOSITORY / "none")
# The files of the tests are our own, and a trial in a separate process takes seconds. test_isolation.py switches it on.
os.environ["INSPECTOR_ISOLATION"] = "off"
# Small networks gain nothing from a second thread, and lose much where cores are shared.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The read-only data beside the project."""
    data = Path(os.environ.get("INSPECTOR_SHARED", REPOSITORY.parent / "shared")) / "data"
    if not data.is_dir():
        pytest.skip(f"There is no data folder at {data}; name the folder above it in $INSPECTOR_SHARED.")
    return data


@pytest.fixture
def pixels() -> np.ndarray:
    """A photo of 20 x 30 pixels, (H, W, 3) uint8."""
    return np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


@pytest.fixture
def only_png(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the PDF and the SVG of an export empty, in a test of something else: each takes half a second."""
    monkeypatch.setattr(
        "inspector.output.class_map_files.encode_figure",
        lambda figure, format, *dpi: encode_figure(figure, format, *dpi) if format == "png" else b"",
    )


class HandMade(nn.Module):
    """Feature maps that are the two channels of a 1x1 convolution, a global pooling, Linear to three classes.

    Channel 0 is red, channel 1 is green less blue. Weights and biases are powers of two, so sums are exact.
    """

    def __init__(self, pooling: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1, bias=False)
        self.pooling = pooling
        self.linear = nn.Linear(2, 3)
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor([[1.0, 0, 0], [0, 1, -1]]).view(2, 3, 1, 1))
            self.linear.weight.copy_(torch.tensor([[1.0, 0], [0, 2], [-1, 0.5]]))
            self.linear.bias.copy_(torch.tensor([0.5, -0.25, 0]))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.linear(self.pooling(self.conv(inputs)).flatten(1))


@pytest.fixture
def hand_made_gap() -> nn.Module:
    return HandMade(nn.AdaptiveAvgPool2d(1)).eval()


@pytest.fixture
def hand_made_gmp() -> nn.Module:
    return HandMade(nn.AdaptiveMaxPool2d(1)).eval()
