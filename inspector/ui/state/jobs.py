"""Work that outlasts a run of the page: in a thread of its own, with progress, stopped when told to or left alone."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from inspector.errors import Cancelled, InspectorError

Task: TypeAlias = tuple[str, ...]  # the name of a piece of work
Work: TypeAlias = Callable[
    [Callable[[float], None], Callable[[], bool]], Any
]  # (tell how much is done, ask whether to stop)

_LEFT_ALONE = 90.0  # seconds without a look, after which a page is taken to be closed: hidden ones look once a minute
_turns = threading.BoundedSemaphore(2)  # how many jobs of all sessions run at once


@dataclass(eq=False)
class Job:
    """Pieces of work done one after the other; a result, or a sentence on why there is none, goes into `results`."""

    works: Mapping[Task, Work]
    results: dict[Task, Any]
    at: Task = ()  # the piece under way; empty while other sessions have their turn
    done: float = 0.0  # of that piece, 0-1
    finished: int = 0  # pieces
    stop: threading.Event = field(default_factory=threading.Event)
    polled: float = field(default_factory=time.monotonic)
    thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._run, daemon=True, name="methods")
        self.thread.start()

    @property
    def running(self) -> bool:
        return self.thread.is_alive()

    @property
    def progress(self) -> float:
        return min(1.0, (self.finished + self.done) / max(1, len(self.works)))

    def look(self) -> None:
        """Tell it that somebody still waits for it."""
        self.polled = time.monotonic()

    def stopped(self) -> bool:
        return self.stop.is_set() or time.monotonic() - self.polled > _LEFT_ALONE

    def _tell(self, done: float) -> None:
        self.done = done

    def _run(self) -> None:
        while not _turns.acquire(timeout=0.2):
            if self.stopped():
                return
        try:
            for task, work in self.works.items():
                if self.stopped():
                    return
                self.at, self.done = task, 0.0
                # Another session may have done it meanwhile.
                if task not in self.results:
                    self.results[task] = work(self._tell, self.stopped)
                self.finished, self.done = self.finished + 1, 0.0
        except Cancelled:
            return
        finally:
            _turns.release()


def translate_memory_error(work: Work) -> Work:
    """The same, with a sentence as its result where it fails."""

    def run(tell: Callable[[float], None], stopped: Callable[[], bool]) -> Any:
        try:
            return work(tell, stopped)
        except Cancelled:
            raise
        except InspectorError as error:
            return str(error)
        except Exception:
            logging.getLogger(__name__).exception("A piece of work failed.")
            return "It failed; the server's log says why."

    return run
