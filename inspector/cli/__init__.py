"""The command line `inspector`. Each module in this folder holds commands of one kind."""

import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from typer import Option

# Importing these modules adds their commands. The help lists the commands in this order.
from inspector.cli import boxes, concepts, dataset, explain, large, networks, publish, train
from inspector.cli.console import print_error, screen
from inspector.cli.options import cli, command
from inspector.cli.report import ExitStatus
from inspector.errors import InspectorError, summarize_reason
from inspector.version import __version__

__all__ = ["boxes", "cli", "concepts", "dataset", "explain", "large", "main", "networks", "publish", "train"]


def main() -> None:
    """Run the command line. For an error that a user can correct, print one sentence and exit with status 1."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal may have no letter for a class name
    with _end_on_sigterm():
        try:
            cli()
        except InspectorError as error:
            print_error(str(error))
        except MemoryError:
            print_error("There is not enough memory for this. Use a smaller --size, or a smaller network.")
        except OSError as error:
            # What is left here is about files of libraries.
            reason = f"{summarize_reason(error)}{f': {error.filename}' if error.filename else ''}"
            hint = " Set TMPDIR to a folder that can be written." if "temporary directory" in reason else ""
            print_error(f"{reason}.{hint}")
    sys.exit(ExitStatus.ERROR)


@contextmanager
def _end_on_sigterm() -> Iterator[None]:
    """End like an error when the process is asked to end, so that no unfinished files stay."""

    def end(number: int, _: object) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@command
def app(
    port: Annotated[int, Option(help="Port to serve on.")] = 8501,
    address: Annotated[
        str, Option(help="Address to serve on. The default is reachable from this machine only.")
    ] = "localhost",
) -> None:
    """Start the app and open it in the browser. Folders that you type in it are relative to the current one."""
    package = Path(__file__).parent.parent
    script = package / "app.py" if (package / "app.py").is_file() else package.parent / "app.py"
    streamlit = [sys.executable, "-P", "-m", "streamlit", "run", str(script), f"--server.port={port}"]
    streamlit.append(f"--server.address={address}")
    if os.name == "nt":  # no process takes the place of another there
        sys.exit(subprocess.call(streamlit))
    sys.stdout.flush()
    # Streamlit takes the place of this process, so it gets the signals, and its exit status is this one's.
    os.execv(sys.executable, streamlit)


@cli.callback(invoke_without_command=True)
def print_version(
    show_version: Annotated[bool, Option("--version", help="Show the version and exit.", is_eager=True)] = False,
) -> None:
    if show_version:
        screen.print(f"inspector {__version__}")
        raise typer.Exit
