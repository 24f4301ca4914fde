"""Work that takes longer than a run of the page. It runs in a thread and stops when its page is closed."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from inspector.errors import Cancelled, InspectorError

Task: TypeAlias = tuple[str, ...]  # name of a piece of work, in one or more words
OnProgress: TypeAlias = Callable[[float], None]  # called with the share of the piece that is done, 0-1
ShouldStop: TypeAlias = Callable[[], bool]
Work: TypeAlias = Callable[[OnProgress, ShouldStop], Any]

# Seconds without a call of `keep_alive` after which the page counts as closed. Browsers refresh hidden pages only once
# a minute, so this has to be longer.
_TIMEOUT = 90.0
_TURN = 2.0  # seconds of work after which a job lets those that wait work first


class Turns:
    """Lets a limited number of threads work at the same time, in the order in which they asked."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._working = 0
        self._waiting: deque[Turn] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def take(self, should_stop: ShouldStop = lambda: False, turn: "Turn | None" = None) -> Iterator["Turn"]:
        """Wait for a turn, and hold it in the `with` block.

        Raises:
            Cancelled: `should_stop` returned True before it was this thread's turn.
        """
        turn = turn or Turn()
        self._begin(turn, should_stop)
        try:
            yield turn
        finally:
            self._end(turn)

    def give_way(self, turn: "Turn", should_stop: ShouldStop) -> None:
        """Let the threads that wait work first, if this one has worked for a while.

        So a job of an hour delays a short one by seconds.

        Raises:
            Cancelled: `should_stop` returned True meanwhile.
        """
        if self._waiting and time.monotonic() - turn.since > _TURN:
            self._end(turn)
            self._begin(turn, should_stop)

    def count_before(self, turn: "Turn") -> int:
        """Return the place of a turn in the queue: 1 for the next one, 0 for one that does not wait."""
        with self._changed:
            return self._waiting.index(turn) + 1 if turn in self._waiting else 0

    def _begin(self, turn: "Turn", should_stop: ShouldStop) -> None:
        with self._changed:
            self._waiting.append(turn)
            try:
                while self._working >= self._places or self._waiting[0] is not turn:
                    if should_stop():
                        raise Cancelled("Stopped.")
                    self._changed.wait(0.2)
                self._working += 1
                turn.since = time.monotonic()
            finally:
                self._waiting.remove(turn)
                self._changed.notify_all()

    def _end(self, turn: "Turn") -> None:
        with self._changed:
            if turn.since:
                turn.since = 0.0
                self._working -= 1
                self._changed.notify_all()


@dataclass(eq=False)
class Turn:
    """A place in the queue of Turns, then at work."""

    since: float = 0.0  # when the work began, in seconds; 0 while the turn waits


# Everything that works for more than a moment takes a turn here: jobs, and pages that run a network on many photos.
turns = Turns(2)  # pieces of work of all sessions that are done at the same time


@dataclass(eq=False)
class Job:
    """A thread that does pieces of work one after the other, and stores what each piece returns in `results`.

    Before each piece, and every few seconds, jobs of other sessions that wait have their turn.
    """

    works: Mapping[Task, Work]
    results: dict[Task, Any]
    previous: "Job | None" = None  # an earlier job of this session, which was stopped: it has to end first
    task: Task = ()  # the piece in progress; empty while the job waits for jobs of other sessions
    done: float = 0.0  # share of the piece in progress that is done, 0-1
    finished: int = 0  # number of finished pieces
    stop: threading.Event = field(default_factory=threading.Event)
    last_sign: float = field(default_factory=time.monotonic)  # time of the last call of `keep_alive`, in seconds
    ends_with_page: bool = True  # stop when its page is closed; False: go on until `stop` is set
    thread: threading.Thread = field(init=False)
    _turn: Turn = field(init=False, default_factory=Turn)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._run, daemon=True, name="job")
        self.thread.start()

    @property
    def running(self) -> bool:
        """Whether the job has not ended: it waits or works."""
        return self.thread.is_alive()

    @property
    def progress(self) -> float:
        """Share of all pieces that is done, 0-1."""
        return min(1.0, (self.finished + self.done) / max(1, len(self.works)))

    @property
    def place(self) -> int:
        """Place in the queue of the jobs of all sessions: 1 for the next one, 0 if the job works or has ended."""
        return turns.count_before(self._turn)

    def keep_alive(self) -> None:
        """Tell the job that its page is still open."""
        self.last_sign = time.monotonic()

    def should_stop(self) -> bool:
        """Return whether the job was stopped or its page was closed."""
        return self.stop.is_set() or (self.ends_with_page and time.monotonic() - self.last_sign > _TIMEOUT)

    def _set_done(self, done: float) -> None:
        self.done = done
        turns.give_way(self._turn, self.should_stop)

    def _run(self) -> None:
        with suppress(Cancelled):
            while self.previous is not None and self.previous.running and not self.should_stop():
                self.previous.thread.join(0.2)
            self.previous = None
            for task, work in self.works.items():
                # All sessions share `results`, so another session may have computed this piece already.
                if task not in self.results:
                    self.task = ()
                    with turns.take(self.should_stop, self._turn):
                        self._do(task, work)
                self.finished, self.done = self.finished + 1, 0.0

    def _do(self, task: Task, work: Work) -> None:
        if self.should_stop():
            raise Cancelled("Stopped.")
        self.task, self.done = task, 0.0
        if task not in self.results:  # it may have been computed while this job waited
            self.results[task] = work(self._set_done, self.should_stop)


def describe_place(place: int) -> str:
    """Return the place in the queue as text: "2nd in the queue"."""
    ending = "th" if place % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(place % 10, "th")
    return f"{place}{ending} in the queue"


def catch_errors(work: Work) -> Work:
    """Wrap work so that it returns an error message instead of raising; only Cancelled is raised and ends the job."""

    def run(on_progress: OnProgress, should_stop: ShouldStop) -> Any:
        try:
            return work(on_progress, should_stop)
        except Cancelled:
            raise
        except InspectorError as error:
            return str(error)
        except Exception:
            logging.getLogger(__name__).exception("A piece of work failed.")
            return "An unexpected error occurred. The log of the server has the details."

    return run
