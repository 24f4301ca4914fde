"""Trials for test_isolation.py: a child process imports them from this module, which imports no large library."""

import os
import sys
import time
from pathlib import Path

from inspector.errors import HeadError


def run_by_onnx_runtime(path: Path, *settings: object) -> None:
    import numpy as np
    import onnxruntime

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    session.run(None, {"x": np.ones((1, 3, 32, 32), np.float32)})


def end_by_signal(path: Path, number: int) -> None:
    os.kill(os.getpid(), number)


def exit_at_once(path: Path) -> None:
    os._exit(3)


def fill_memory(path: Path) -> None:
    bytearray(4_000_000_000)


def run_for_ever(path: Path) -> None:
    while True:
        pass


def sleep_for_ever(path: Path) -> None:
    time.sleep(1000)


def raise_one_of_ours(path: Path) -> None:
    raise HeadError("No pooling.")


def raise_another(path: Path) -> None:
    raise RecursionError("maximum recursion depth exceeded")


def print_much(path: Path) -> list[str]:
    print("a line\n" * 1000)
    sys.stderr.write("a line\n" * 1000)
    return []


def count_runs(path: Path) -> list[str]:
    with path.with_name("runs").open("a") as runs:
        runs.write("x")
    return ["further"]
