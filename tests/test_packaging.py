"""What a package index and its users see: the name, the version, the lowest versions of the dependencies."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import inspector
from inspector.errors import DISTRIBUTION

REPOSITORY = Path(__file__).parent.parent
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
REQUIREMENTS = [
    Requirement(text)
    for texts in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
    for text in texts
]


def test_the_distribution_has_one_name_wherever_it_is_named():
    assert PROJECT["name"] == DISTRIBUTION
    places = [REPOSITORY / "README.md", REPOSITORY / "pyproject.toml", *(REPOSITORY / "docs").glob("*.md")]
    for path in places:
        # Another program has the name `inspector` on the index.
        assert not re.search(r"pip install '?\"?inspector\b|\"inspector\[", path.read_text()), path
    ours = {requirement.name for requirement in REQUIREMENTS if "inspector" in requirement.name}
    assert ours == {DISTRIBUTION}


def test_every_extra_that_an_error_names_is_there():
    named = set()
    for path in (REPOSITORY / "inspector").rglob("*.py"):
        named |= set(re.findall(r"extra=\"(\w+)\"", path.read_text()))
    assert named
    assert named <= set(PROJECT["optional-dependencies"])


def test_the_version_stands_in_one_place():
    assert PROJECT["dynamic"] == ["version"]
    citation = (REPOSITORY / "CITATION.cff").read_text()
    assert re.search(r"^version: (.*)$", citation, re.MULTILINE)[1] == inspector.__version__


@pytest.mark.parametrize(("library", "fixed"), [("torch", "2.10"), ("keras", "3.13.2"), ("pillow", "12.2")])
def test_versions_with_known_holes_are_not_allowed(library, fixed):
    """torch: CVE-2026-24747. keras: CVE-2026-1669. pillow: CVE-2026-40192, -42311, -25990."""
    (requirement,) = [one for one in REQUIREMENTS if one.name == library]
    assert {f"{one.operator}{one.version}" for one in requirement.specifier} == {f">={fixed}"}


def test_the_pinned_versions_are_allowed():
    pins = dict(re.findall(r"^([\w.-]+)==([\w.]+)", (REPOSITORY / "constraints.txt").read_text(), re.MULTILINE))
    assert {one.name for one in REQUIREMENTS} - pins.keys() <= {DISTRIBUTION}
    for one in REQUIREMENTS:
        assert one.name == DISTRIBUTION or one.specifier.contains(pins[one.name]), one


def test_the_image_copies_what_exists_and_what_is_not_ignored():
    lines = (REPOSITORY / "Dockerfile").read_text().splitlines()
    sources = [
        word for line in lines if line.startswith("COPY") and "--from" not in line for word in line.split()[1:-1]
    ]
    kept = {line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert set(sources) == kept
    assert all((REPOSITORY / source).exists() for source in sources)


def test_every_setting_stands_in_the_docs_on_serving():
    code = "".join(path.read_text() for path in (REPOSITORY / "inspector").rglob("*.py"))
    named = set(re.findall(r"\"(INSPECTOR_[A-Z]+)\"", code))
    assert named >= {"INSPECTOR_DATA", "INSPECTOR_LOGIN"}
    table = set(
        re.findall(r"^\| `(INSPECTOR_[A-Z]+)` \|", (REPOSITORY / "docs" / "serving.md").read_text(), re.MULTILINE)
    )
    assert table == named
