"""The modules stand in one order and import only from those before them; who may run, draw and show what."""

import ast
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "inspector"

ORDER = (
    "errors", "memory", "image", "large_image", "catalogue", "examples", "recipe", "runs", "laboratory",
    "batch.sources", "batch.table", "batch.results", "batch.evidence", "batch.survey_index", "batch.data_survey",
    "pooling", "networks", "reductions", "tape", "capture", "tail", "tap", "head", "receptive_field",
    "classifier", "locality", "checkpoint", "transfer", "architectures", "keras_network", "onnx_graph", "onnx_network",
    "programs", "loading", "adding", "backbone", "decomposition", "maps", "tiles", "comparison",
    "weights", "graph", "folding", "quick_networks", "backends", "serving",
    "positions", "what_if", "layers", "ledger",
    "anatomy", "attribution", "faithfulness", "render", "localisation", "batch.stored_maps", "batch.survey",
    "survey", "figure", "run_figures", "batch.survey_figures", "batch.gallery", "report", "export", "rebuild",
    "batch.survey_report", "data_sets", "run_folder", "examination", "devices", "train", "batch.pipeline",
    "batch.ray_engine", "cli", "ui",
)  # fmt: skip
SHELLS = ORDER[ORDER.index("train") :]
TORCHLESS = ORDER[: ORDER.index("pooling")]

# Imports inside a function: what may be put off, and by whom. Shells may put off what they like.
PUT_OFF = {
    "quick_networks": {"onnxruntime", "openvino", "onnxscript"},
    "batch.survey_index": {"duckdb"},
    "batch.table": {"pyarrow", "pyarrow.dataset", "pyarrow.parquet"},
    "maps": {"inspector.output.figure", "inspector.output.export"},
    "networks": {"efficientnet_lite_pytorch.model"},
    "transfer": {"torchvision.models.feature_extraction"},
    "architectures": {"torchvision", "timm"},
    "programs": {"torch._export.converter"},
    "keras_network": {"keras", "h5py"},
    "onnx_network": {"onnx", "onnx.helper", "onnx.numpy_helper", "onnx.utils", "onnxruntime"},
    "onnx_graph": {"onnx", "onnx.helper", "onnx.numpy_helper", "onnxruntime"},
}

FACES = {PACKAGE / "__init__.py", PACKAGE / "batch" / "__init__.py"}  # hold no code
FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path not in FACES]


def place_of(parts: Sequence[str]) -> str:
    """The name in ORDER: a folder's own for all that lies in it, where it has a place itself."""
    return parts[0] if parts[0] in ORDER else ".".join(parts[:2])


def module_of(path: Path) -> str:
    return place_of(path.relative_to(PACKAGE).with_suffix("").parts)


CORE = [path for path in FILES if module_of(path) not in SHELLS]


def imported(nodes: list[ast.stmt], within: str = "module") -> Iterator[tuple[str, str]]:
    """(dotted name, "module" or "function") of every import that runs; those for type checkers do not."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((alias.name, within) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written out from inspector on"
            yield from _from(node, within)
        elif not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            inner = "function" if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else within
            for name in ("body", "orelse", "finalbody"):
                yield from imported(getattr(node, name, []), inner)
            for handler in getattr(node, "handlers", []):
                yield from imported(handler.body, inner)


def _from(node: ast.ImportFrom, within: str) -> Iterator[tuple[str, str]]:
    for alias in node.names:
        # `from inspector import networks` imports a module of ours.
        ours = node.module in ("inspector", "inspector.batch")
        yield (f"{node.module}.{alias.name}" if ours else str(node.module)), within


def imports_of(path: Path) -> list[tuple[str, str]]:
    return list(imported(ast.parse(path.read_text()).body))


def identify(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def test_every_module_has_its_place_in_the_order():
    assert {module_of(path) for path in FILES} <= set(ORDER)
    assert {"capture", "head", "maps", "render", "figure", "export"} <= {module_of(path) for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=identify)
def test_a_module_imports_only_from_those_before_it(path):
    own = ORDER.index(module_of(path))
    for name, where in imports_of(path):
        parts = name.split(".")
        if parts[0] != "inspector" or (where == "function" and name in PUT_OFF.get(module_of(path), ())):
            continue
        if len(parts) == 1 or place_of(parts[1:]) not in ORDER:
            # The package's public face: for shells only.
            assert module_of(path) in SHELLS, f"{path.name} imports {name}"
        elif place_of(parts[1:]) != module_of(path):
            assert ORDER.index(place_of(parts[1:])) < own, f"{path.name} imports {name}"
        else:
            assert parts[1] in ("cli", "ui"), f"{path.name} imports itself"


@pytest.mark.parametrize("path", CORE, ids=identify)
def test_imports_stand_at_the_top_but_for_those_named_here(path):
    inside = {name for name, where in imports_of(path) if where == "function"}
    assert inside <= PUT_OFF.get(module_of(path), set())


@pytest.mark.parametrize(
    ("library", "modules"),
    [
        ("matplotlib", {"figure", "run_figures", "batch.survey_figures", "export"}),
        ("streamlit", {"ui"}),
        ("captum", {"attribution"}),
        ("cv2", {"render", "ui"}),
        ("lightning", {"train"}),
        ("typer", {"cli"}),
    ],
)
def test_a_library_is_imported_only_where_it_belongs(library, modules):
    importers = {module_of(path) for path in FILES for name, _ in imports_of(path) if name.split(".")[0] == library}
    assert importers <= modules


def test_pyplot_is_imported_nowhere():
    assert not [path.name for path in FILES for name, _ in imports_of(path) if name.startswith("matplotlib.pyplot")]


def calls_a_network(tree: ast.AST) -> bool:
    # What a module does in its forward is the network, and no run of it.
    forwards = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "forward"]
    own = {inner for node in forwards for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node not in own:
            called = ast.unparse(node.func)
            if called.split(".")[-1] in ("network", "forward"):
                return True
    return False


@pytest.mark.parametrize("path", [*CORE, PACKAGE / "train.py"], ids=identify)
def test_only_capture_and_training_run_a_network(path):
    assert calls_a_network(ast.parse(path.read_text())) == (module_of(path) in ("capture", "train"))


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("network(x)", True),
        ("classifier.network(x)", True),
        ("self.network.forward(x)", True),
        ("watch(network, x)", False),
        ("network.eval()", False),
        ("def forward(self, x): self.network(x)", False),
    ],
)
def test_a_call_of_a_network_is_told_from_its_mention(code, expected):
    assert calls_a_network(ast.parse(code)) is expected


@pytest.mark.parametrize("path", [PACKAGE / f"{name.replace('.', '/')}.py" for name in TORCHLESS])
def test_descriptions_and_images_need_no_torch(path):
    assert not [name for name, _ in imports_of(path) if name.split(".")[0] in ("torch", "torchvision", "timm")]


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
def test_an_import_brings_no_library_that_it_does_not_need(statement, absent):
    code = f"import sys\n{statement}\nprint(*sorted(set({absent!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_the_public_names_are_sorted_and_all_there():
    import inspector

    assert list(inspector.__all__) == sorted(inspector.__all__)
    assert all(getattr(inspector, name) is not None for name in inspector.__all__)
