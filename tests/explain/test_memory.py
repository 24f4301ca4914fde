"""Freed memory is given back on request, and huge pages can be switched off."""

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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps freed memory until asked")
def test_freed_memory_goes_back_to_the_system() -> None:
    output = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True, check=True).stdout
    assert float(output) > 200


def test_huge_pages_are_used_unless_the_environment_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "0")
    use_huge_pages()
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == "0"
    monkeypatch.delenv("THP_MEM_ALLOC_ENABLE")
    use_huge_pages()
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == "1"
