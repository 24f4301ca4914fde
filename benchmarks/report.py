"""Functions that the benchmarks share: interleaved timing, and a Markdown table below the command that produced it."""

import ctypes
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def time_interleaved(
    contestants: Mapping[str, Callable[[], Any]], rounds: int, warm_up: int = 2, untimed_call_first: bool = False
) -> dict[str, list[float]]:
    """Measure the milliseconds of each contestant in each round.

    Every round runs all of them one after the other, and every second round in reverse order. Other work on the machine
    then slows all of them equally, and none always follows the same other one. With `untimed_call_first` each runs once
    untimed before it is timed: torch's threads spin for milliseconds after a pass, and slow down the next function.
    """
    times: dict[str, list[float]] = {name: [] for name in contestants}
    order = list(contestants)
    for turn in range(-warm_up, rounds):
        for name in order if turn % 2 else order[::-1]:
            if untimed_call_first:
                contestants[name]()
            start = time.perf_counter()
            contestants[name]()
            if turn >= 0:
                times[name].append((time.perf_counter() - start) * 1e3)
    return times


def format_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def write_results(name: str, command: str, *parts: str, folder: Path = RESULTS, title: str | None = None) -> None:
    """Print the parts, and write them to <folder>/<name>.md below title, command and a line about the machine."""
    machine = f"{os.cpu_count()} cores, torch {torch.__version__} on the CPU"
    machine += f" with {torch.get_num_threads()} threads, Python {sys.version.split()[0]}."
    heading = [] if title is None else [f"# {title}"]
    text = "\n\n".join([*heading, f"    {command}", machine, *parts]) + "\n"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.md").write_text(text)
    print(text)


def measure_peak_memory(work: Callable[[], Any]) -> int:
    """Measure the peak resident memory of a function, in MB above the resident memory before it (Linux only)."""
    # Otherwise the function would reuse memory that loading freed, and its own memory would not be visible.
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
    before = _read_memory("VmRSS")
    # Reset the peak, so that the peak of loading and building is not counted.
    Path("/proc/self/clear_refs").write_text("5")
    work()
    return _read_memory("VmHWM") - before


def _read_memory(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith(field))
