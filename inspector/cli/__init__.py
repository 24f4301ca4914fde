"""The command line `inspector`. Each module in this folder holds commands of one kind."""

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer
from typer import Option

# Importing these modules adds their commands. The help lists the commands in this order.
from inspector.cli import dataset, explain, large, networks, train
from inspector.cli.console import progress, screen
from inspector.cli.options import cli, command
from inspector.errors import InspectorError
from inspector.version import __version__

__all__ = ["cli", "dataset", "explain", "large", "main", "networks", "train"]


def main() -> None:
    """Run the command line. For an InspectorError print its message without a traceback and exit with status 1."""
    try:
        cli()
    except InspectorError as error:
        progress.print(f"Error: {error}", style="red", markup=False)
        sys.exit(1)


@command
def app(
    port: Annotated[int, Option(help="Port to serve on.")] = 8501,
    address: Annotated[
        str, Option(help="Address to serve on. The default is reachable from this machine only.")
    ] = "localhost",
) -> None:
    """Start the app and open it in the browser."""
    package = Path(__file__).parent.parent
    script = package / "app.py" if (package / "app.py").is_file() else package.parent / "app.py"
    streamlit = [sys.executable, "-m", "streamlit", "run", str(script), f"--server.port={port}"]
    sys.exit(subprocess.call([*streamlit, f"--server.address={address}"], cwd=script.parent))


@cli.callback(invoke_without_command=True)
def print_version(
    show_version: Annotated[bool, Option("--version", help="Show the version and exit.", is_eager=True)] = False,
) -> None:
    if show_version:
        screen.print(f"inspector {__version__}")
        raise typer.Exit
