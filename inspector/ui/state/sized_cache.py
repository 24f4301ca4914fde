"""Keep the results of functions for all sessions, bounded by the memory that they take together.

A photo has a few kilobytes or 240 MB, so a number of entries bounds nothing. Streamlit's caches of objects have no
other bound.
"""

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, is_dataclass
from functools import wraps
from inspect import signature
from typing import Any, Generic, ParamSpec, TypeVar

import numpy as np

P = ParamSpec("P")
R = TypeVar("R")

MAX_BYTES = 1_000_000_000


@dataclass(frozen=True)
class _Entry:
    value: Any
    blocks: dict[Hashable, int]  # memory blocks that the value holds -> their bytes


class SizedCache:
    """Values by key. When they take more than `max_bytes` together, those used the longest time ago are dropped.

    Memory that several values share, such as a photo and its class maps, counts once. The newest value always stays.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes, self.size = max_bytes, 0
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._holders: Counter[Hashable] = Counter()  # memory block -> number of entries that hold it
        self._lock = threading.Lock()
        self._running: dict[Hashable, threading.Lock] = {}

    def get(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        """Return the value of a key. If there is none, compute it, once for all threads that wait for it."""
        with self._lock:
            if (entry := self._find(key)) is not None:
                return entry.value
            running = self._running.setdefault(key, threading.Lock())
        with running:
            with self._lock:
                if (entry := self._find(key)) is not None:
                    return entry.value
            try:
                value = compute()
                with self._lock:
                    self._add(key, _Entry(value, dict(find_memory(value))))
                return value
            finally:
                with self._lock:
                    self._running.pop(key, None)

    def drop(self, matches: Callable[[Any], bool]) -> None:
        """Drop the values of all keys that match."""
        with self._lock:
            for key in [key for key in self._entries if matches(key)]:
                self._remove(key)

    def _find(self, key: Hashable) -> _Entry | None:
        if key in self._entries:
            self._entries.move_to_end(key)
        return self._entries.get(key)

    def _add(self, key: Hashable, entry: _Entry) -> None:
        self._entries[key] = entry
        for block, size in entry.blocks.items():
            self.size += size if self._holders[block] == 0 else 0
            self._holders[block] += 1
        while self.size > self.max_bytes and len(self._entries) > 1:
            self._remove(next(iter(self._entries)))

    def _remove(self, key: Hashable) -> None:
        for block, size in self._entries.pop(key).blocks.items():
            self._holders[block] -= 1
            if self._holders[block] == 0:
                del self._holders[block]
                self.size -= size


def find_memory(value: object, seen: set[int] | None = None) -> Iterator[tuple[Hashable, int]]:
    """Yield the memory blocks of the arrays, tensors and bytes that a value holds, with their bytes.

    Dataclasses and containers are searched. Networks are not: they are kept by other caches.
    """
    seen = set() if seen is None else seen
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, np.ndarray):
        while isinstance(value.base, np.ndarray):
            value = value.base
        yield id(value), value.nbytes
    elif isinstance(value, bytes | str):
        yield id(value), len(value)
    elif hasattr(value, "untyped_storage"):  # a tensor; torch is not imported here
        storage = value.untyped_storage()
        yield ("storage", storage.data_ptr()), storage.nbytes()
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from find_memory(item, seen)
    elif is_dataclass(value) and not hasattr(value, "network"):
        for item in vars(value).values():
            yield from find_memory(item, seen)


_cache = SizedCache(MAX_BYTES)


def drop_results(matches: Callable[[Any], bool]) -> None:
    """Drop the results whose keys match. A key is a function and those of its arguments that are part of it."""
    _cache.drop(matches)


class KeptResults(Generic[P, R]):
    """A function whose results are kept in memory. Its key are the arguments whose names have no underscore before."""

    def __init__(self, function: Callable[P, R], on_new: Callable[[Hashable, SizedCache], None]) -> None:
        self._function, self._on_new, self._signature = function, on_new, signature(function)
        wraps(function)(self)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Return the result that is kept, or call the function."""
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        key = (self._function, *(value for name, value in bound.arguments.items() if not name.startswith("_")))

        def compute() -> R:
            self._on_new(key, _cache)
            return self._function(*args, **kwargs)

        result: R = _cache.get(key, compute)
        return result

    def clear(self) -> None:
        """Forget all results of this function."""
        _cache.drop(lambda key: key[0] is self._function)


def keep_results(
    on_new: Callable[[Hashable, SizedCache], None] = lambda key, cache: None,
) -> Callable[[Callable[P, R]], KeptResults[P, R]]:
    """Decorate a function as KeptResults. `on_new` is called with each new key and the cache."""
    return lambda function: KeptResults(function, on_new)
