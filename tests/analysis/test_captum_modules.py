"""Captum's own tables come back as they were."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch
from captum.attr._core.deep_lift import SUPPORTED_NON_LINEAR
from captum.attr._core.lrp import SUPPORTED_NON_LINEAR_LAYERS
from torch import Tensor

from inspector import Classifier
from inspector.analysis.attribution.captum_modules import CallModule, MaxPoolingCall, ReluCall, extend_captum_tables
from inspector.analysis.attribution.methods import METHODS, compute_attribution
from inspector.errors import AttributionError


def tables() -> tuple[dict[type, object], list[type]]:
    return dict(SUPPORTED_NON_LINEAR), list(SUPPORTED_NON_LINEAR_LAYERS)


def knows_our_modules() -> bool:
    return {CallModule, ReluCall, MaxPoolingCall} <= set(
        SUPPORTED_NON_LINEAR
    ) and ReluCall in SUPPORTED_NON_LINEAR_LAYERS


@pytest.fixture
def inputs() -> Tensor:
    return torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_an_import_leaves_captums_tables_as_they_are():
    code = (
        "from captum.attr._core.deep_lift import SUPPORTED_NON_LINEAR as rules\n"
        "from captum.attr._core.lrp import SUPPORTED_NON_LINEAR_LAYERS as layers\n"
        "before = dict(rules), list(layers)\n"
        "import inspector.analysis.attribution.methods\n"
        "print(before == (dict(rules), list(layers)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "True"


@pytest.mark.parametrize("name", METHODS)
def test_every_method_leaves_captums_tables_as_they_were(hand_made_gap, inputs, name):
    before = tables()
    try:
        compute_attribution(Classifier.wrap(hand_made_gap, size=8), inputs, 0, name)
    except AttributionError:
        assert name == "Guided Grad-CAM", "the one that needs a ReLU"
    assert tables() == before


def test_captums_tables_come_back_after_an_error():
    def fail_inside() -> None:
        with extend_captum_tables():
            assert knows_our_modules()
            raise ValueError("broken")

    before = tables()
    with pytest.raises(ValueError, match="broken"):
        fail_inside()
    assert tables() == before


def test_captums_tables_stay_extended_until_the_last_thread_has_left():
    before, entered, first_left = tables(), Barrier(2), Barrier(2)

    def leave_first() -> None:
        with extend_captum_tables():
            entered.wait(10)
        first_left.wait(10)

    def leave_last() -> bool:
        with extend_captum_tables():
            entered.wait(10)
            first_left.wait(10)
            return knows_our_modules()

    with ThreadPoolExecutor(2) as pool:
        first, last = pool.submit(leave_first), pool.submit(leave_last)
        first.result(20)
        assert last.result(20)
    assert tables() == before
