"""Jobs in the background: in order, stopped by the user or with the page, and never without a result or a reason."""

import threading
import time
from typing import Any

import pytest

from inspector.errors import AttributionError, Cancelled
from inspector.ui.state import jobs
from inspector.ui.state.jobs import Job, catch_errors, describe_place


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


def test_jobs_take_turns_after_every_piece_first_come_first_served() -> None:
    order: list[str] = []
    go_on = threading.Event()

    def piece(name: str) -> Any:
        def work(on_progress: Any, should_stop: Any) -> None:
            order.append(name)
            assert go_on.wait(10)

        return work

    def make_job(name: str, count: int) -> Job:
        return Job({(name, str(n)): piece(name) for n in range(count)}, {})

    def wait_for(pieces: int) -> None:
        for _ in range(1000):
            if len(order) == pieces:
                return
            time.sleep(0.01)
        raise AssertionError(order)

    long_jobs = [make_job("first", 20), make_job("second", 20)]
    wait_for(2)
    late = [make_job("third", 1)]
    time.sleep(0.1)
    late.append(make_job("fourth", 1))
    time.sleep(0.1)
    go_on.set()
    for job in (*long_jobs, *late):
        job.thread.join(10)
    assert len(order) == 42
    # The other visitors wait for the two pieces in progress only, and come in the order in which they asked.
    assert order.index("third") < order.index("fourth") <= 4


def test_a_long_piece_lets_those_that_wait_work_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_TURN", 0.05)

    def long(on_progress: Any, should_stop: Any) -> None:
        while not should_stop():
            time.sleep(0.01)
            on_progress(0.5)
        raise Cancelled("Stopped.")

    long_jobs = [Job({("a",): long}, {}) for _ in range(3)]
    for _ in range(3):
        results: dict[tuple[str, ...], Any] = {}
        Job({("b",): lambda on_progress, should_stop: 1}, results).thread.join(5)
        assert results == {("b",): 1}, "three jobs without an end do not keep a short one waiting"
    assert all(job.running for job in long_jobs)
    for job in long_jobs:
        job.stop.set()
    for job in long_jobs:
        job.thread.join(5)
        assert not job.running
    assert jobs.turns.count_before(jobs.Turn()) == 0


def test_a_job_knows_its_place_in_the_queue_and_one_that_is_stopped_leaves_it() -> None:
    working = [Job({("a",): lambda on_progress, should_stop: wait_until(should_stop)}, {}) for _ in range(2)]
    waiting = []
    for count in range(3):
        waiting.append(Job({("a",): lambda on_progress, should_stop: wait_until(should_stop)}, {}))
        for _ in range(500):
            if waiting[-1].place == count + 1:
                break
            time.sleep(0.01)
    assert [job.place for job in working] == [0, 0]
    assert [job.place for job in waiting] == [1, 2, 3]
    waiting[1].stop.set()
    waiting[1].thread.join(5)
    assert [job.place for job in waiting] == [1, 0, 2]
    for job in (*working, *waiting):
        job.stop.set()
    for job in (*working, *waiting):
        job.thread.join(5)


def test_the_place_is_an_ordinal_number() -> None:
    places = [describe_place(place).split()[0] for place in (1, 2, 3, 4, 11, 12, 13, 21, 22, 101, 111)]
    assert places == ["1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "22nd", "101st", "111th"]


def test_a_job_without_a_page_goes_on_until_it_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_TIMEOUT", 0.1)
    job = Job({("a",): lambda on_progress, should_stop: wait_until(should_stop)}, {}, ends_with_page=False)
    job.thread.join(0.5)
    assert job.running
    job.stop.set()
    job.thread.join(5)
    assert not job.running


def test_a_job_of_a_session_begins_when_its_earlier_job_has_ended() -> None:
    left = threading.Event()

    def stubborn(on_progress: Any, should_stop: Any) -> None:
        left.wait(10)

    earlier = Job({("a",): stubborn}, {})
    time.sleep(0.1)
    earlier.stop.set()
    results: dict[tuple[str, ...], Any] = {}
    later = Job({("b",): lambda on_progress, should_stop: 1}, results, earlier)
    later.thread.join(0.5)
    assert later.running
    assert not results
    left.set()
    later.thread.join(5)
    assert results == {("b",): 1}
    assert later.previous is None, "earlier jobs are not kept"


def test_a_job_that_waits_for_its_turn_can_be_stopped_and_holds_up_nobody() -> None:
    turns = jobs.Turns(1)
    with turns.take(lambda: False):
        with pytest.raises(Cancelled), turns.take(lambda: True):
            pass
        waiting = threading.Thread(target=lambda: turns.take(lambda: False).__enter__(), daemon=True)
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive()
    waiting.join(5)
    assert not waiting.is_alive()


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
