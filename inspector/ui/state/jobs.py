"""Work that takes longer than a run of the page. It runs in a thread and stops when its page is closed."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
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
_running_jobs = threading.BoundedSemaphore(2)  # at most two jobs work at the same time, over all sessions


@dataclass(eq=False)
class Job:
    """A thread that does pieces of work one after the other, and stores what each piece returns in `results`."""

    works: Mapping[Task, Work]
    results: dict[Task, Any]
    task: Task = ()  # the piece in progress; empty while the job waits for jobs of other sessions
    done: float = 0.0  # share of the piece in progress that is done, 0-1
    finished: int = 0  # number of finished pieces
    stop: threading.Event = field(default_factory=threading.Event)
    last_sign: float = field(default_factory=time.monotonic)  # time of the last call of `keep_alive`, in seconds
    thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._run, daemon=True, name="methods")
        self.thread.start()

    @property
    def running(self) -> bool:
        """Whether the job has not ended: it waits or works."""
        return self.thread.is_alive()

    @property
    def progress(self) -> float:
        """Share of all pieces that is done, 0-1."""
        return min(1.0, (self.finished + self.done) / max(1, len(self.works)))

    def keep_alive(self) -> None:
        """Tell the job that its page is still open."""
        self.last_sign = time.monotonic()

    def should_stop(self) -> bool:
        """Return whether the job was stopped or its page was closed."""
        return self.stop.is_set() or time.monotonic() - self.last_sign > _TIMEOUT

    def _set_done(self, done: float) -> None:
        self.done = done

    def _run(self) -> None:
        while not _running_jobs.acquire(timeout=0.2):
            if self.should_stop():
                return
        try:
            for task, work in self.works.items():
                if self.should_stop():
                    return
                self.task, self.done = task, 0.0
                # All sessions share `results`, so another session may have computed this piece already.
                if task not in self.results:
                    self.results[task] = work(self._set_done, self.should_stop)
                self.finished, self.done = self.finished + 1, 0.0
        except Cancelled:
            return
        finally:
            _running_jobs.release()


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
