"""Nine stages in one order: each imports only from those before it. Who may run networks, draw and show them."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "inspector"

# Each stage with those that it may import from. Modules beside the stages are the floor: every stage may use them.
STAGES = {
    "images": (),
    "explain": ("images",),
    "networks": ("images", "explain"),
    "analysis": ("images", "explain"),
    "output": ("images", "explain", "networks", "analysis"),
    "datasets": ("images", "explain", "networks", "analysis", "output"),
    "training": ("images", "explain", "networks", "analysis", "output", "datasets"),
    "cli": ("images", "explain", "networks", "analysis", "output", "datasets", "training"),
    "ui": ("images", "explain", "networks", "analysis", "output", "datasets", "training"),
}
FLOOR = {"entries": (), "errors": (), "files": ("errors",), "printable": (), "version": ()}
# The calls of the public face that look up: ClassMaps.figure, overlay, save, locate, widget and what notebooks show.
FACADE = {
    "explain/image_maps.py": {
        "inspector.analysis.location", "inspector.output.figure", "inspector.output.figure_file",
        "inspector.output.export", "inspector.output.style", "inspector.output.notebook",
    },
    "analysis/layers.py": {"inspector.output.notebook"},
}  # fmt: skip

# What works without torch: the command line's help and the app's first paint are quick.
TORCH_FREE = (
    "entries.py", "errors.py", "files.py", "printable.py", "version.py",
    "images", "explain/kinds.py", "explain/memory.py", "explain/class_names.py", "explain/receptive_field.py",
    "explain/grid.py", "explain/shown_map.py", "explain/map_arrays.py", "explain/backends/sessions.py",
    "networks/catalog.py", "networks/size_accuracy.py", "networks/stored.py",
    "output/text.py", "output/style.py", "output/colormaps.py", "output/picture.py", "output/templates.py",
    "output/overlay.py", "output/viewer.py", "output/frontend.py", "output/figure_file.py", "output/figure_text.py",
    "output/picture_figure.py", "output/figure.py", "output/class_map_files.py",
    "datasets/table.py", "datasets/shard_schema.py", "datasets/results.py", "datasets/statistics.py",
    "datasets/index.py", "datasets/summary.py", "datasets/feature_files.py", "datasets/features.py",
    "analysis/evidence.py", "analysis/factorization.py", "analysis/transplant.py",
    "analysis/localization.py", "analysis/location.py", "analysis/positions.py",
    "datasets/concepts/model.py", "datasets/concepts/files.py", "datasets/concepts/outcomes.py",
    "datasets/concepts/photo.py", "datasets/concepts/crops.py",
    "training/recipe.py", "training/read_run.py", "training/compare_runs.py",
)  # fmt: skip

FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py" or path.parent.name == "cli")


def identify(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def stage_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(nodes: list[ast.stmt], within: str = "module") -> Iterator[tuple[str, str]]:
    """(dotted module, "module" or "function") of every import that runs; those for type checkers do not."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((alias.name, within) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written out from inspector on"
            yield str(node.module), within
        elif not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            inner = "function" if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else within
            for name in ("body", "orelse", "finalbody"):
                yield from imports(getattr(node, name, []), inner)
            for handler in getattr(node, "handlers", []):
                yield from imports(handler.body, inner)


def imports_of(path: Path) -> list[tuple[str, str]]:
    return list(imports(ast.parse(path.read_text()).body))


def test_the_package_has_these_stages_and_no_other_modules():
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    assert folders == set(STAGES)
    assert {path.stem for path in PACKAGE.glob("*.py")} == {"__init__", *FLOOR}


@pytest.mark.parametrize("path", FILES, ids=identify)
def test_a_stage_imports_only_from_those_before_it(path):
    stage = stage_of(path)
    allowed = {stage, *FLOOR, *STAGES[stage]} if stage in STAGES else set(FLOOR[stage])
    for name, where in imports_of(path):
        parts = name.split(".")
        if parts[0] != "inspector" or (where == "function" and name in FACADE.get(identify(path), ())):
            continue
        if len(parts) == 1:
            assert stage in ("cli", "ui"), f"{identify(path)} imports the public face"
        else:
            assert parts[1] in allowed, f"{identify(path)} imports {name}"


def test_no_modules_import_each_other_in_a_circle():
    modules = {"inspector." + ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in FILES}
    before = {
        module: {name for name, where in imports_of(path) if name in modules and where == "module"}
        for module, path in modules.items()
    }
    while free := [module for module, needed in before.items() if not needed & before.keys()]:
        for module in free:
            del before[module]
    assert not before


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*/**/__init__.py")), ids=identify)
def test_the_init_of_a_folder_holds_no_code(path):
    body = ast.parse(path.read_text()).body
    documented = [node for node in body if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))]
    assert stage_of(path) == "cli" or not documented


@pytest.mark.parametrize("path", FILES, ids=identify)
def test_no_module_is_longer_than_350_lines(path):
    assert len(path.read_text().splitlines()) <= 350


@pytest.mark.parametrize(
    "path", [path for path in FILES if stage_of(path) in (*FLOOR, *list(STAGES)[:6])], ids=identify
)
def test_our_own_modules_are_imported_at_the_top(path):
    ours = {name for name, where in imports_of(path) if where == "function" and name.startswith("inspector")}
    assert ours <= FACADE.get(identify(path), set())


@pytest.mark.parametrize(
    ("library", "places"),
    [
        (
            "matplotlib",
            {
                "output/figure.py",
                "output/figure_file.py",
                "output/figure_text.py",
                "output/comparison_figure.py",
                "datasets/figures.py",
                "training/figures.py",
            },
        ),
        ("streamlit", {"ui"}),
        ("captum", {"analysis/attribution"}),
        (
            "cv2",
            {
                "analysis/annotations.py",
                "analysis/localization_protocol.py",
                "analysis/location.py",
                "analysis/transplant.py",
                "images/scientific.py",
                "output/colormaps.py",
                "output/overlay.py",
                "output/picture.py",
                "ui",
            },
        ),
        ("jinja2", {"output/templates.py"}),
        ("typer", {"cli"}),
    ],
)
def test_a_library_is_imported_only_where_it_belongs(library, places):
    for path in FILES:
        if any(name.split(".")[0] == library for name, _ in imports_of(path)):
            assert {identify(path), *(parent.as_posix() for parent in Path(identify(path)).parents)} & places, path


def test_pyplot_is_imported_nowhere():
    assert not [path.name for path in FILES for name, _ in imports_of(path) if name.startswith("matplotlib.pyplot")]


def calls_a_network(tree: ast.AST) -> bool:
    # What a module does in its forward is the network, and no run of it.
    forwards = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "forward"]
    own = {inner for node in forwards for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node not in own:
            called = ast.unparse(node.func)
            if called.split(".")[-1] in ("network", "forward") and called != "forward":
                return True
    return False


RUNS_NETWORKS = ("explain/tracing/forward.py", "training/train.py")


@pytest.mark.parametrize("path", [path for path in FILES if stage_of(path) not in ("cli", "ui")], ids=identify)
def test_only_the_module_forward_and_training_run_a_network(path):
    assert calls_a_network(ast.parse(path.read_text())) == (identify(path) in RUNS_NETWORKS)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("network(x)", True),
        ("classifier.network(x)", True),
        ("self.network.forward(x)", True),
        ("forward(network, x)", False),
        ("network.eval()", False),
        ("def forward(self, x): self.network(x)", False),
    ],
)
def test_a_call_of_a_network_is_distinguished_from_its_mention(code, expected):
    assert calls_a_network(ast.parse(code)) is expected


@pytest.mark.parametrize(
    "path", [path for path in FILES if any(identify(path).startswith(place) for place in TORCH_FREE)], ids=identify
)
def test_descriptions_images_and_stored_results_need_no_torch(path):
    modules = [name for name, where in imports_of(path) if where == "module"]
    assert not [name for name in modules if name.split(".")[0] in ("torch", "torchvision", "timm")]
    for name in modules:
        if name.startswith("inspector."):
            place = name.removeprefix("inspector.").replace(".", "/")
            assert any(f"{place}.py".startswith(free) for free in TORCH_FREE), name


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import inspector", ("torch", "numpy")),
        (
            "import inspector.networks.catalog, inspector.images.photo, inspector.images.examples",
            ("torch", "matplotlib", "streamlit"),
        ),
        (
            "import inspector.explain.class_maps, inspector.output.overlay",
            ("matplotlib", "streamlit", "captum", "timm"),
        ),
    ],
)
def test_an_import_loads_no_library_that_it_does_not_need(statement, absent):
    code = f"import sys\n{statement}\nprint(*sorted(set({absent!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_the_public_names_are_sorted_and_all_there():
    import inspector

    assert list(inspector.__all__) == sorted(inspector.__all__)
    assert all(getattr(inspector, name) is not None for name in inspector.__all__)


def test_public_functions_check_their_input_by_errors_and_not_by_assert():
    """`python -O` leaves out every assert; in public functions only those that tell types to mypy may stand."""
    for path in FILES:
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef) and not function.name.startswith("_"):
                for node in ast.walk(function):
                    if isinstance(node, ast.Assert):
                        text = ast.unparse(node.test)
                        assert text.endswith("is not None") or text.startswith("isinstance("), f"{path}: assert {text}"
