"""Measure the package of an earlier commit and the present one in turn, each in processes of their own.

A script that takes `--before COMMIT` has a mode in which it measures once and prints the numbers as JSON, and calls
`measure_in_turn` in the other. The script itself is the present one in both cases, so it may use only what the earlier
package has, too.
"""

import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_REPOSITORY = Path(__file__).parents[1]
BEFORE, NOW = "before", "now"


def measure_in_turn(script: str, arguments: Sequence[str], rounds: int, before: str | None) -> dict[str, list[Any]]:
    """Run a script once per round with the present package and, in turn, with that of an earlier commit.

    Args:
        script: path of the script.
        arguments: its arguments, with which it prints one line of JSON and nothing else on standard output.
        rounds: number of rounds. Every second one runs the packages in reverse order.
        before: the commit; None: only the present package runs.

    Returns:
        What was printed in each round under NOW, and under BEFORE if there is a commit.
    """
    with tempfile.TemporaryDirectory() as earlier:
        packages = {NOW: _REPOSITORY}
        if before is not None:
            _extract_commit(before, Path(earlier))
            packages = {BEFORE: Path(earlier), **packages}
        printed: dict[str, list[Any]] = {name: [] for name in packages}
        for turn in range(rounds):
            for name in list(packages)[:: -1 if turn % 2 else 1]:
                environment = os.environ | {"PYTHONPATH": str(packages[name])}
                command = [sys.executable, script, *arguments]
                # With `-c`, a process that the package starts looks for packages in its working directory first.
                finished = subprocess.run(
                    command, cwd=packages[name], env=environment, stdout=subprocess.PIPE, text=True, check=True
                )
                printed[name].append(json.loads(finished.stdout))
        return printed


def _extract_commit(commit: str, folder: Path) -> None:
    """Write the files of a commit into a folder."""
    archive = subprocess.run(["git", "archive", commit], cwd=_REPOSITORY, stdout=subprocess.PIPE, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(folder, filter="data")
