"""Private names of other libraries that we use: if an update removes one, a test names the place to mend."""

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "inspector"


@dataclass(frozen=True)
class PrivateName:
    """A private name, or a module of private code that a name is imported from."""

    name: str  # as it stands in our code
    library: str
    exists: Callable[[], bool]


def has(module: str, *names: str) -> Callable[[], bool]:
    """Check that a module can be imported and has these names; dots lead into classes."""

    def exists() -> bool:
        found = import_module(module)
        for name in names:
            owner = found
            for part in name.split("."):
                if not hasattr(owner, part):
                    return False
                owner = getattr(owner, part)
        return True

    return exists


def instance_has(make: Callable[[], object], *names: str) -> Callable[[], bool]:
    """Check that an object has these attributes."""
    return lambda: all(hasattr(make(), name) for name in names)


def make_layer() -> object:
    from torch import nn

    return nn.Linear(1, 1)


def make_tensor() -> object:
    import torch

    return torch.zeros(1)


def make_state() -> object:
    return make_layer().state_dict()  # type: ignore[attr-defined]


def make_efficientnet() -> object:
    from efficientnet_lite_pytorch import EfficientNet

    return EfficientNet.from_name("efficientnet-lite0")


def make_message_queue() -> object:
    from streamlit.runtime.forward_msg_queue import ForwardMsgQueue

    return ForwardMsgQueue()


def make_file_manager() -> object:
    from streamlit.runtime.media_file_manager import MediaFileManager
    from streamlit.runtime.memory_media_file_storage import MemoryMediaFileStorage

    return MediaFileManager(MemoryMediaFileStorage("/media"))


# fmt: off
PRIVATE_NAMES = (
    PrivateName("captum.attr._core.deep_lift", "captum",
                has("captum.attr._core.deep_lift", "SUPPORTED_NON_LINEAR", "nonlinear")),
    PrivateName("captum.attr._core.lrp", "captum", has("captum.attr._core.lrp", "SUPPORTED_NON_LINEAR_LAYERS")),
    PrivateName("captum.attr._utils.lrp_rules", "captum", has("captum.attr._utils.lrp_rules", "EpsilonRule")),
    PrivateName("torch.utils._pytree", "torch",
                has("torch.utils._pytree", "tree_flatten", "tree_leaves", "tree_map", "tree_unflatten")),
    PrivateName("torch._export.converter", "torch", has("torch._export.converter", "TS2EPConverter.convert")),
    PrivateName("_native_batch_norm_legit_no_training", "torch",
                has("torch", "ops.aten._native_batch_norm_legit_no_training")),
    PrivateName("_parameters", "torch", instance_has(make_layer, "_parameters")),
    PrivateName("_buffers", "torch", instance_has(make_layer, "_buffers")),
    PrivateName("_base", "torch", instance_has(make_tensor, "_base")),
    PrivateName("_version", "torch", instance_has(make_tensor, "_version")),
    PrivateName("_metadata", "torch", instance_has(make_state, "_metadata")),
    PrivateName("_compat_pickle", "Python", has("_compat_pickle", "IMPORT_MAPPING", "NAME_MAPPING")),
    PrivateName("_get_all_tensors", "onnx", has("onnx.external_data_helper", "_get_all_tensors")),
    PrivateName("_avg_pooling", "efficientnet_lite_pytorch", instance_has(make_efficientnet, "_avg_pooling")),
    PrivateName("_dropout", "efficientnet_lite_pytorch", instance_has(make_efficientnet, "_dropout")),
    PrivateName("_fc", "efficientnet_lite_pytorch", instance_has(make_efficientnet, "_fc", "extract_features")),
    PrivateName("_queue", "streamlit", instance_has(make_message_queue, "_queue")),
    PrivateName("_use_warning_has_been_displayed", "streamlit",
                has("streamlit.delta_generator", "_use_warning_has_been_displayed")),
    PrivateName("_get_async_objs", "streamlit",
                has("streamlit.runtime", "Runtime._get_async_objs", "Runtime.close_session")),
    PrivateName("_deferred_callables", "streamlit", instance_has(make_file_manager, "_deferred_callables")),
    PrivateName("_files_by_session_and_coord", "streamlit",
                instance_has(make_file_manager, "_files_by_session_and_coord")),
    PrivateName("_remove_orphaned_deferred_callables", "streamlit",
                instance_has(make_file_manager, "_remove_orphaned_deferred_callables")),
)
# fmt: on

# Public names that no documentation promises.
UNDOCUMENTED_NAMES = (
    ("onnx.utils", "Extractor"),
    ("onnx.external_data_helper", "ExternalDataInfo"),
    ("onnx.external_data_helper", "load_external_data_for_model"),
    ("onnx.external_data_helper", "uses_external_data"),
    ("starlette.formparsers", "SpooledTemporaryFile"),
    ("streamlit.runtime.forward_msg_queue", "ForwardMsgQueue"),
)


# Public in spite of the underscore: methods of named tuples, and os._exit.
DOCUMENTED = {"_asdict", "_fields", "_make", "_replace", "_exit"}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in DOCUMENTED


def find_own_names(tree: ast.Module) -> set[str]:
    """The names that a module defines itself: functions, classes, fields, and attributes that it assigns to self."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            if isinstance(node, ast.Name):
                names.add(node.id)
            elif ast.unparse(node.value) == "self":
                names.add(node.attr)
    return names


def find_private_names(tree: ast.Module) -> Iterator[str]:
    """The private attributes and modules of others that a module uses, and all that are listed here."""
    own = find_own_names(tree) - {private.name for private in PRIVATE_NAMES}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in own:
            yield node.attr
        elif isinstance(node, ast.ImportFrom) and node.module and not node.module.startswith("inspector"):
            paths = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names if is_private(alias.name))]
            yield from (path for path in paths if any(map(is_private, path.split("."))))
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr", "setattr"):
            text = node.args[1]
            if isinstance(text, ast.Constant) and is_private(str(text.value)) and text.value not in own:
                yield str(text.value)


@cache
def find_uses() -> dict[str, set[str]]:
    """Each private name with our modules that use it."""
    uses: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        for name in find_private_names(ast.parse(path.read_text())):
            uses.setdefault(name, set()).add(f"inspector/{path.relative_to(PACKAGE).as_posix()}")
    return uses


def assert_there(library: str, name: str, exists: Callable[[], bool], places: list[str]) -> None:
    if find_spec(library) is None:
        pytest.skip(f"{library}, whose private names are checked, is not installed")
    try:
        found = exists()
    except ImportError:
        found = False
    assert found, f"This version of {library} has no {name} any more: mend {' and '.join(places)}."


@pytest.mark.parametrize("private", PRIVATE_NAMES, ids=lambda private: private.name)
def test_a_private_name_of_another_library_is_still_there(private):
    assert_there(private.library, private.name, private.exists, sorted(find_uses().get(private.name, ())))


@pytest.mark.parametrize(("module", "name"), UNDOCUMENTED_NAMES)
def test_an_undocumented_name_of_another_library_is_still_there(module, name):
    paths = (path for path in PACKAGE.rglob("*.py") if name in path.read_text())
    places = sorted(f"inspector/{path.relative_to(PACKAGE).as_posix()}" for path in paths)
    assert places, f"{module}.{name} is not used any more: take it off this list."
    assert_there(module.split(".")[0], f"{module}.{name}", has(module, name), places)


def test_all_private_names_that_we_use_are_listed_here_and_no_others():
    uses = find_uses()
    listed = {private.name for private in PRIVATE_NAMES}
    assert uses.keys() == listed, {name: uses.get(name, "no longer used") for name in uses.keys() ^ listed}


def test_a_name_that_is_gone_fails_with_the_place_to_mend():
    with pytest.raises(
        AssertionError, match=r"^This version of torch has no _gone any more: mend inspector/a\.py and "
    ):
        assert_there("torch", "_gone", has("torch", "_gone"), ["inspector/a.py", "inspector/b.py"])
    with pytest.raises(AssertionError, match=r"has no torch\._gone any more"):
        assert_there("torch", "torch._gone", has("torch._gone", "name"), ["inspector/a.py"])


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("tensor._version", ["_version"]),
        ("getattr(state, '_metadata', {})", ["_metadata"]),
        ("from torch._export.converter import TS2EPConverter", ["torch._export.converter"]),
        ("from torch.utils import _pytree as pytree", ["torch.utils._pytree"]),
        ("class A:\n    def __init__(self): self._version = other._version", ["_version", "_version"]),
        ("tensor.shape, tensor.__class__", []),
        ("class A:\n    def f(self): self._mine = 1\nA()._mine", []),
        ("def _f(): pass\nmodule._f", []),
        ("from inspector.networks._x import y", []),
    ],
)
def test_private_names_are_found_however_they_are_written(code, expected):
    assert list(find_private_names(ast.parse(code))) == expected
