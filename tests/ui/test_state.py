"""What the pages share: no torch before the bar is drawn, and no key of the session that is written twice."""

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import inspector.ui
from inspector.ui.state import keys

UI = Path(inspector.ui.__file__).parent
# Two pages, of which Streamlit forgets the one that is left; both are in links.
SHARED_VALUES = {"average"}


@pytest.mark.parametrize("library", ["torch", "matplotlib", "altair", "captum"])
def test_the_app_draws_its_bar_without_the_slow_libraries(library: str) -> None:
    modules = [
        node for node in ast.parse((UI.parents[1] / "app.py").read_text()).body if isinstance(node, ast.ImportFrom)
    ]
    statements = "\n".join(ast.unparse(node) for node in modules)
    code = f"import sys\n{statements}\nprint({library!r} in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def list_bare_keys(tree: ast.AST) -> list[str]:
    """List the keys of widgets, of the session and of links that are written as strings."""
    bare = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            places = [keyword.value for keyword in node.keywords if keyword.arg == "key"]
            if isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) in STATES:
                places += node.args[:1]
        elif isinstance(node, ast.Subscript) and ast.unparse(node.value) in STATES:
            places = [node.slice]
        else:
            continue
        bare += [place.value for place in places if isinstance(place, ast.Constant) and isinstance(place.value, str)]
    return bare


STATES = ("st.session_state", "st.query_params")


@pytest.mark.parametrize("path", sorted(UI.rglob("*.py")), ids=lambda path: path.relative_to(UI).as_posix())
def test_keys_stand_in_one_module(path: Path) -> None:
    assert list_bare_keys(ast.parse(path.read_text())) == []


def test_bare_keys_are_found() -> None:
    code = "st.toggle('a', key='b')\nst.session_state['c'] = st.query_params.get('d')\nst.toggle('e', key=keys.F)"
    assert sorted(list_bare_keys(ast.parse(code))) == ["b", "c", "d"]


def test_no_two_widgets_have_one_key() -> None:
    values = Counter(value for name, value in vars(keys).items() if name.isupper() and isinstance(value, str))
    assert {value for value, count in values.items() if count > 1} == SHARED_VALUES
