"""Jobs in the background: in order, stopped by the user or with the page, and never without a result or a reason."""

import threading
import time
from typing import Any

import pytest

from inspector.errors import AttributionError, Cancelled
from inspector.ui.state import jobs
from inspector.ui.state.jobs import Job, catch_errors


def wait_until(should_stop: Any) -> None:
    """Do work that ends only when it is stopped."""
    while not should_stop():
        time.sleep(0.01)
    raise Cancelled("Stopped.")


def test_pieces_are_done_in_order_and_can_use_earlier_results() -> None:
    results: dict[tuple[str, ...], Any] = {}
    job = Job(
        {("a",): lambda on_progress, should_stop: 1, ("b",): lambda on_progress, should_stop: results["a",] + 1},
        results,
    )
    job.thread.join(5)
    assert results == {("a",): 1, ("b",): 2}
    assert job.progress == 1
    assert not job.running


def test_what_another_session_computed_is_not_computed_again() -> None:
    results: dict[tuple[str, ...], Any] = {("a",): "theirs"}
    Job({("a",): lambda on_progress, should_stop: "ours"}, results).thread.join(5)
    assert results == {("a",): "theirs"}


def test_a_job_reports_progress_and_stops_between_and_within_pieces() -> None:
    results: dict[tuple[str, ...], Any] = {}
    halfway = threading.Event()

    def half(on_progress: Any, should_stop: Any) -> None:
        on_progress(0.5)
        halfway.set()
        wait_until(should_stop)

    job = Job(
        {("a",): lambda on_progress, should_stop: 1, ("b",): half, ("c",): lambda on_progress, should_stop: 3}, results
    )
    assert halfway.wait(5)
    assert job.task == ("b",)
    assert job.progress == pytest.approx(1.5 / 3)
    job.stop.set()
    job.thread.join(5)
    assert not job.running
    assert results == {("a",): 1}


def test_a_job_stops_when_its_page_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_TIMEOUT", 0.3)
    job = Job({("a",): lambda on_progress, should_stop: wait_until(should_stop)}, {})
    for _ in range(5):
        time.sleep(0.1)
        job.keep_alive()
    assert job.running
    job.thread.join(5)
    assert not job.running


def test_a_third_job_waits_for_its_turn_and_can_be_stopped_while_it_does() -> None:
    first, second = (Job({("a",): lambda on_progress, should_stop: wait_until(should_stop)}, {}) for _ in range(2))
    results: dict[tuple[str, ...], Any] = {}
    third, fourth = (Job({("a",): lambda on_progress, should_stop: 1}, found) for found in (results, {}))
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


def test_work_that_fails_leaves_a_message(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(on_progress: Any, should_stop: Any) -> None:
        raise AttributionError("LRP has no rule.")

    def crash(on_progress: Any, should_stop: Any) -> None:
        raise ZeroDivisionError

    results: dict[tuple[str, ...], Any] = {}
    Job({("a",): catch_errors(refuse), ("b",): catch_errors(crash)}, results).thread.join(5)
    assert results == {
        ("a",): "LRP has no rule.",
        ("b",): "An unexpected error occurred. The log of the server has the details.",
    }
    assert "ZeroDivisionError" in caplog.text
