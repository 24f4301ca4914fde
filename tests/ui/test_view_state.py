"""The state of the first page: what the browser reports counts as far as it fits."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from inspector.ui.state.view_state import MEAN, ViewState, check_report, fit_state

BEFORE = ViewState(1, against=2, cell=(0, 1), masked=((1, 1),), opacity=0.5, above=30)


def make_maps(pooling: str = "max") -> Any:
    values = np.zeros((3, 2, 3), np.float32)
    network = SimpleNamespace(pooling=pooling)
    return SimpleNamespace(values=values, scores=values, top=lambda count: [(0, "a", 1.0)], classifier=network)


def report(**values: Any) -> dict[str, Any]:
    return BEFORE.to_json() | {"cell": [0, 1], "masked": [[1, 1]]} | values


def test_a_complete_report_is_the_new_state() -> None:
    reported = report(
        k=2, against=MEAN, view="what if", number="scores", colors="turbo", gray=False, smooth=False, opacity=1,
        cell=[1, 2], masked=[[0, 0], [1, 0]], change="grey", above=99, pinned=True,
        by_logit=True,
    )  # fmt: skip
    assert check_report(reported, BEFORE) == ViewState(
        2, MEAN, "what if", "scores", "turbo", False, False, 1, (1, 2), ((0, 0), (1, 0)), "grey", 99, True, True
    )


@pytest.mark.parametrize("wrong", ["x", True, 1e999, None, [], {}, -5])
def test_a_value_that_cannot_be_one_keeps_the_value_before(wrong: object) -> None:
    for name in ("view", "number", "colors", "change", "above", "opacity"):
        assert getattr(check_report(report(**{name: wrong}), BEFORE), name) == getattr(BEFORE, name), name
    assert check_report(report(k="x", against="y", masked="z"), BEFORE) == BEFORE
    assert check_report(report(cell=[0, -1], masked=[[0], "a", [0, 2]]), BEFORE).masked == ((0, 2),)


def test_what_these_class_maps_do_not_have_is_left_out() -> None:
    state = fit_state(
        ViewState(7, against=9, cell=(2, 0), masked=((0, 3), (1, 0), (1, 0)), number="scores"), make_maps()
    )
    assert state == ViewState(0, masked=((1, 0),), number="scores")
    assert fit_state(ViewState(1, against=1), make_maps()).against is None
    assert fit_state(ViewState(1, against=MEAN), make_maps()).against == MEAN
    assert fit_state(ViewState(1, number="scores"), make_maps("average")).number == "contributions"
