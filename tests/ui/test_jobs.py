"""Work in the background: done in order, stopped when told to, left alone or not wanted, and never silent."""

import threading
import time
from typing import Any

import pytest

from inspector.errors import AttributionError, Cancelled
from inspector.ui.state import jobs
from inspector.ui.state.jobs import Job, catch_errors


def until(stopped: Any) -> None:
    """Work that ends only when it is told to stop."""
    while not stopped():
        time.sleep(0.01)
    raise Cancelled("Stopped.")


def test_pieces_are_done_in_order_and_may_use_what_earlier_ones_made() -> None:
    results: dict[tuple[str, ...], Any] = {}
    job = Job({("a",): lambda tell, stopped: 1, ("b",): lambda tell, stopped: results["a",] + 1}, results)
    job.thread.join(5)
    assert results == {("a",): 1, ("b",): 2}
    assert job.progress == 1
    assert not job.running


def test_what_another_session_did_meanwhile_is_not_done_again() -> None:
    results: dict[tuple[str, ...], Any] = {("a",): "theirs"}
    Job({("a",): lambda tell, stopped: "ours"}, results).thread.join(5)
    assert results == {("a",): "theirs"}


def test_it_tells_how_far_it_is_and_stops_between_and_within_pieces() -> None:
    results: dict[tuple[str, ...], Any] = {}
    halfway = threading.Event()

    def half(tell: Any, stopped: Any) -> None:
        tell(0.5)
        halfway.set()
        until(stopped)

    job = Job({("a",): lambda tell, stopped: 1, ("b",): half, ("c",): lambda tell, stopped: 3}, results)
    assert halfway.wait(5)
    assert job.task == ("b",)
    assert job.progress == pytest.approx(1.5 / 3)
    job.stop.set()
    job.thread.join(5)
    assert not job.running
    assert results == {("a",): 1}


def test_work_that_nobody_looks_at_any_more_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_TIMEOUT", 0.3)
    job = Job({("a",): lambda tell, stopped: until(stopped)}, {})
    for _ in range(5):
        time.sleep(0.1)
        job.keep_alive()
    assert job.running
    job.thread.join(5)
    assert not job.running


def test_a_third_job_waits_for_its_turn_and_can_be_stopped_while_it_does() -> None:
    first, second = (Job({("a",): lambda tell, stopped: until(stopped)}, {}) for _ in range(2))
    results: dict[tuple[str, ...], Any] = {}
    third, fourth = (Job({("a",): lambda tell, stopped: 1}, made) for made in (results, {}))
    time.sleep(0.3)
    assert third.running
    assert third.task == ()
    fourth.stop.set()
    fourth.thread.join(5)
    assert not fourth.running
    first.stop.set()
    third.thread.join(5)
    assert results == {("a",): 1}
    second.stop.set()
    second.thread.join(5)


def test_what_fails_leaves_a_sentence(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(tell: Any, stopped: Any) -> None:
        raise AttributionError("LRP has no rule.")

    def crash(tell: Any, stopped: Any) -> None:
        raise ZeroDivisionError

    results: dict[tuple[str, ...], Any] = {}
    Job({("a",): catch_errors(refuse), ("b",): catch_errors(crash)}, results).thread.join(5)
    assert results == {("a",): "LRP has no rule.", ("b",): "It failed; the server's log says why."}
    assert "ZeroDivisionError" in caplog.text
