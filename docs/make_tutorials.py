"""Run the tutorials, and store their outputs in them: the pictures and numbers that the site shows.

python docs/make_tutorials.py                 # all of them
python docs/make_tutorials.py my_resnet       # one
"""

import shutil
import tempfile
from pathlib import Path
from typing import Annotated

import nbformat
import typer
from nbclient import NotebookClient

TUTORIALS = Path(__file__).resolve().parent / "tutorials"


def list_tutorials() -> list[Path]:
    """Return the notebooks, in the order of their names."""
    return sorted(TUTORIALS.glob("*.ipynb"))


def run_tutorial(path: Path, folder: Path) -> nbformat.NotebookNode:
    """Run a notebook in a folder, in which it may write files; return it with its outputs.

    Raises:
        CellExecutionError: a cell fails.
    """
    shutil.copy(TUTORIALS / "fruits.py", folder)
    notebook = nbformat.read(path, as_version=4)
    place = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=120, resources=place, store_widget_state=False).execute()
    return notebook


def _keep_one_picture(data: dict[str, str]) -> None:
    """Leave out what is never shown: a widget without its state, and a picture that HTML holds, too."""
    data.pop("application/vnd.jupyter.widget-view+json", None)
    if "text/html" in data:
        data.pop("image/png", None)


def main(names: Annotated[list[str] | None, typer.Argument(help="Names of tutorials. Default: all.")] = None) -> None:
    """Run the tutorials, and write them with their outputs."""
    for path in list_tutorials():
        if names and path.stem not in names:
            continue
        with tempfile.TemporaryDirectory() as folder:
            notebook = run_tutorial(path, Path(folder))
        for cell in notebook.cells:
            cell.metadata.pop("execution", None)  # the times of the run
            for output in cell.get("outputs", []):
                _keep_one_picture(output.get("data", {}))
        nbformat.write(notebook, path)
        typer.echo(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    typer.run(main)
