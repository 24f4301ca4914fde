"""Keep freed memory or return it to the system. These are settings of the whole process, for glibc only."""

import ctypes
import os
import platform
from functools import cache

_THRESHOLDS = {"M_TRIM_THRESHOLD": -1, "M_MMAP_THRESHOLD": -3}  # numbers of mallopt's parameters in glibc
_KEPT_BYTES = 1 << 30
_M_ARENA_MAX, _ARENAS = -8, 2


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next batch, which usually has the same size.

    By default the memory for the feature maps of each batch is requested from the kernel again, page by page, which
    may take longer than the network.
    """
    if (libc := _load_glibc()) is not None:
        for parameter in _THRESHOLDS.values():
            libc.mallopt(parameter, _KEPT_BYTES)


def give_back_freed_memory() -> None:
    """Return all freed memory to the system, also blocks between blocks in use."""
    if (libc := _load_glibc()) is not None:
        libc.malloc_trim(0)


@cache
def share_freed_memory() -> None:
    """Let all threads take memory from two arenas of glibc, unless $MALLOC_ARENA_MAX says how many.

    By default there are eight per core, and memory that is freed in one is not used by the threads of another: a server
    whose work is done by ever new threads then holds the largest need of each. Call it before there are many threads.
    """
    if "MALLOC_ARENA_MAX" not in os.environ and (libc := _load_glibc()) is not None:
        libc.mallopt(_M_ARENA_MAX, _ARENAS)


def use_huge_pages() -> None:
    """Let torch allocate large tensors in pages of 2 MB, which are fewer to manage: Linux only.

    Call it before the first tensor is made. If $THP_MEM_ALLOC_ENABLE is set already, it is not changed.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def _load_glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
