"""The tutorials of the site run, and their outputs are stored in them."""

import json
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
TUTORIALS = sorted((DOCS / "tutorials").glob("*.ipynb"))


def test_there_are_four_tutorials_and_the_index_names_them():
    index = (DOCS / "index.md").read_text()
    assert len(TUTORIALS) == 4
    assert all(f"tutorials/{path.name}" in index and f"\ntutorials/{path.stem}\n" in index for path in TUTORIALS)


@pytest.mark.parametrize("path", sorted(DOCS.glob("*.md")), ids=lambda path: path.stem)
def test_a_page_opens_with_what_the_reader_has_at_its_end(path):
    title, empty, opening = path.read_text().split("\n", 3)[:3]
    assert title.startswith("# ")
    assert not empty
    assert path.stem == "index" or opening.startswith("At the end of this page")


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_runs(path, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    from make_tutorials import run_tutorial

    run_tutorial(path, tmp_path)


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_the_stored_outputs_are_those_of_a_run_from_top_to_bottom(path):
    cells = json.loads(path.read_text())["cells"]
    opening = "".join(cells[0]["source"])
    assert opening.startswith("# ")
    assert "At the end of this tutorial" in opening
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]
    assert sum(bool({"image/png", "text/html"} & output.get("data", {}).keys()) for output in outputs) >= 2
    assert path.stat().st_size < 1_000_000
