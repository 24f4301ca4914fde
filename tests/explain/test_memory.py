"""Freed memory is given back on request, threads share it, and huge pages can be switched off."""

import os
import platform
import subprocess
import sys

import pytest

from inspector.explain.memory import use_huge_pages

# Small blocks: glibc keeps these between others, while it frees large ones at once.
FREED = """
import numpy, resource
from pathlib import Path
from inspector.explain.memory import give_back_freed_memory
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6
blocks = [numpy.ones(100_000, numpy.uint8) for _ in range(3000)]
last, blocks = blocks[-1], None
before = resident()
give_back_freed_memory()
print(before - resident())
"""

# Eight threads take memory at the same time; glibc lists its arenas as heaps.
ARENAS = """
import ctypes
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from inspector.explain.memory import share_freed_memory
share_freed_memory()
libc, all_at_once = ctypes.CDLL(None), Barrier(8)
def take():
    libc.malloc(1000)
    all_at_once.wait()
with ThreadPoolExecutor(8) as pool:
    list(pool.map(lambda n: take(), range(8)))
libc.malloc_info(0, ctypes.c_void_p.in_dll(libc, "stdout"))
libc.fflush(None)
"""
ONLY_GLIBC = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="these are settings of glibc")


@ONLY_GLIBC
def test_freed_memory_goes_back_to_the_system() -> None:
    output = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True, check=True).stdout
    assert float(output) > 200


@ONLY_GLIBC
@pytest.mark.parametrize(("chosen", "arenas"), [(None, 2), ("3", 3)])
def test_threads_share_two_arenas_unless_the_environment_says_otherwise(chosen: str | None, arenas: int) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"}
    environment |= {} if chosen is None else {"MALLOC_ARENA_MAX": chosen}
    done = subprocess.run([sys.executable, "-c", ARENAS], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.count("<heap ") == arenas


def test_huge_pages_are_used_unless_the_environment_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "0")
    use_huge_pages()
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == "0"
    monkeypatch.delenv("THP_MEM_ALLOC_ENABLE")
    use_huge_pages()
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == "1"
