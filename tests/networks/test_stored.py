"""A network that is kept for a runtime gives the numbers of `class_maps`, and is not used when anything has changed."""

import json
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from inspector import Classifier, class_maps, load
from inspector.cli import cli
from inspector.explain.backends.accelerate import accelerate
from inspector.explain.kinds import OutputMeaning
from inspector.explain.map_arrays import MapArrays, compute_probabilities
from inspector.images.examples import list_examples
from inspector.images.photo import read_image
from inspector.networks import stored
from inspector.networks.catalog import shipped_models
from inspector.networks.stored import NetworkFiles, StoredNetwork, keep_network, open_network, read_files
from inspector.output.viewer import ViewerData, make_viewer_data

BAG = list_examples("fashion_mnist")["Bag"]


def keep(name: str, cache: Path, backend: str = "onnxruntime") -> NetworkFiles:
    """Build a network for a backend, and keep it."""
    files = read_files(name)
    assert files is not None
    classifier = load(name)
    accelerate(classifier, backend, cache, on_built=partial(keep_network, files, classifier))
    return files


def open_kept(name: str, cache: Path, backend: str = "onnxruntime") -> StoredNetwork | None:
    """Open a network as a new server does."""
    files = read_files(name)
    return None if files is None else open_network(files, backend, cache)


def view(maps: MapArrays) -> ViewerData:
    return make_viewer_data(maps, maps.classifier.class_names, range(10), "", 400)


def assert_same(found: object, expected: object, where: str = "viewer") -> None:
    """Compare two values; numbers and arrays to 1e-5 of their largest value."""
    if hasattr(expected, "__dataclass_fields__"):
        assert type(found) is type(expected)
        for name in expected.__dataclass_fields__:
            if name == "verdict_sentence":  # ends with the backend
                assert getattr(found, name).startswith(getattr(expected, name))
            elif name != "residual":  # what rounding leaves
                assert_same(getattr(found, name), getattr(expected, name), f"{where}.{name}")
    elif isinstance(expected, tuple):
        assert len(found) == len(expected), where
        for n, (one, other) in enumerate(zip(found, expected, strict=True)):
            assert_same(one, other, f"{where}[{n}]")
    elif isinstance(expected, float | np.ndarray):
        largest = max(1, float(np.abs(expected).max()))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * largest, err_msg=where)
    else:
        assert found == expected, where


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder with the graphs of two networks, which take seconds to build."""
    cache = tmp_path_factory.mktemp("built")
    for name in ("fashion_gmp", "fashion_gap_sigmoid"):
        accelerate(load(name), "onnxruntime", cache)
    return cache


@pytest.fixture
def cache(built: Path, tmp_path: Path) -> Path:
    """A copy of that folder, for one test."""
    return Path(shutil.copytree(built, tmp_path / "cache"))


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a network "mine", whose files a test may change."""
    monkeypatch.setenv("INSPECTOR_MODELS", str(tmp_path / "models"))
    shutil.copytree(shipped_models() / "fashion_gmp", tmp_path / "models" / "mine")
    return tmp_path / "models" / "mine"


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("network", ["fashion_gap_sigmoid", "fashion_gmp"])
def test_a_kept_network_shows_the_same_numbers_as_torch(network: str, backend: str, cache: Path) -> None:
    keep(network, cache, backend)
    kept = open_kept(network, cache, backend)
    assert kept is not None
    found, expected = kept.explain(read_image(BAG)), class_maps(load(network), BAG).to_numpy()
    assert found is not None
    assert_same(view(found), view(expected))
    assert (found.backend, found.verdict) == (backend, "exact")
    assert found.residual < 1e-4
    assert_same(found.parts(3), class_maps(load(network), BAG).parts(3).numpy())
    assert (found.maxima is None) == (expected.maxima is None) == (network != "fashion_gmp")
    assert found.maxima is None or np.array_equal(found.maxima, expected.maxima)
    for against, dense in ((None, False), (1, False), ("average", True)):
        ours, theirs = found.class_map(3, against, dense), class_maps(load(network), BAG).class_map(3, against, dense)
        assert ours.title == theirs.title
        assert ours.total == (None if dense else pytest.approx(theirs.total, abs=1e-4))
        assert_same(ours.values, theirs.values.numpy())


def test_a_command_builds_and_keeps_a_network(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSPECTOR_CACHE", str(cache))
    result = CliRunner().invoke(cli, ["accelerate", "fashion_gmp"])
    assert result.exit_code == 0
    assert open_kept("fashion_gmp", cache) is not None
    result = CliRunner().invoke(cli, ["accelerate", "fashion_gmp", "--backend", "abacus"])
    assert str(result.exception) == "No runtime 'abacus'. Use onnxruntime or openvino."


def test_the_scores_of_max_pooling_come_from_the_weight_of_the_head(own: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 6, 3), torch.nn.ReLU(), torch.nn.AdaptiveMaxPool2d(1), torch.nn.Flatten()]
    network = torch.nn.Sequential(*layers, torch.nn.Linear(6, 4)).eval()
    classifier = Classifier.wrap(network, size=16)
    files = read_files("mine")
    card = replace(files.card, preprocessing=classifier.preprocessing, classes=classifier.class_names)
    files = replace(files, card=card)
    accelerate(classifier, "onnxruntime", tmp_path, on_built=partial(keep_network, files, classifier))
    kept = open_network(files, "onnxruntime", tmp_path)
    photo = read_image(np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8))
    found, expected = kept.explain(photo), class_maps(classifier, photo).to_numpy()
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
    assert np.array_equal(found.maxima, expected.maxima)
    assert found.maxima.sum() <= 6


def change_weights(folder: Path) -> None:
    state = load_file(folder / "weights.safetensors")
    name = next(iter(state))
    save_file(state | {name: state[name] * 1.001}, folder / "weights.safetensors")


def change_card(folder: Path) -> None:
    card = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(card | {"mean": [0.4]}))


@pytest.mark.parametrize("change", [change_weights, change_card])
def test_a_network_whose_files_were_changed_is_not_used(change: Callable[[Path], None], own: Path, cache: Path) -> None:
    files = keep("mine", cache)
    assert open_kept("mine", cache) is not None
    assert files.are_unchanged()
    change(own)
    assert not files.are_unchanged()  # noticed by a server that has opened it, too
    assert open_kept("mine", cache) is None


@pytest.mark.parametrize("changed", ["version", "code"])
def test_a_network_that_other_code_built_is_not_used(
    changed: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep("fashion_gmp", cache)
    stored._describe_code.cache_clear()
    if changed == "version":
        monkeypatch.setattr(stored, "version", lambda library: "999")
    else:
        monkeypatch.setattr(stored, "_CODE", ("images",))
    assert open_kept("fashion_gmp", cache) is None
    monkeypatch.undo()
    stored._describe_code.cache_clear()
    assert open_kept("fashion_gmp", cache) is not None


@pytest.mark.parametrize("ending", ["onnx", "npz"])
@pytest.mark.parametrize("damage", ["cut", "empty", "changed", "gone"])
def test_a_broken_file_is_ignored(ending: str, damage: str, cache: Path) -> None:
    keep("fashion_gmp", cache)
    (record,) = cache.glob("*.npz")
    file = record if ending == "npz" else cache / json.loads(str(np.load(record)["text"]))["graph"]
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    broken = {"cut": content[: len(content) // 2], "empty": b"", "changed": content}
    file.unlink() if damage == "gone" else file.write_bytes(broken[damage])
    assert open_kept("fashion_gmp", cache) is None
    if ending == "npz":  # test_backends.py builds broken graphs again
        keep("fashion_gmp", cache)
        assert open_kept("fashion_gmp", cache) is not None


def test_several_servers_at_once_leave_whole_files(cache: Path) -> None:
    files, classifier = read_files("fashion_gmp"), load("fashion_gmp")
    graph = next(cache.glob("*.onnx"))
    stop, missing = threading.Event(), []

    def write() -> None:
        while not stop.is_set():
            keep_network(files, classifier, "onnxruntime", graph)

    keep_network(files, classifier, "onnxruntime", graph)
    writers = [threading.Thread(target=write) for _ in range(2)]
    for writer in writers:
        writer.start()
    missing = [n for n in range(10) if open_network(files, "onnxruntime", cache) is None]
    stop.set()
    for writer in writers:
        writer.join()
    assert missing == []
    assert {path.suffix for path in cache.iterdir()} == {".onnx", ".npz"}


def test_sums_that_differ_from_the_logits_are_not_shown(cache: Path) -> None:
    keep("fashion_gmp", cache)
    kept = open_kept("fashion_gmp", cache)

    def run_wrong(inputs: np.ndarray) -> list[np.ndarray]:
        logits, feature_maps, values = kept.run(inputs)
        return [logits + np.float32(0.01), feature_maps, values]

    assert replace(kept, run=run_wrong).explain(read_image(BAG)) is None
    assert replace(kept, run=lambda inputs: [one * np.nan for one in kept.run(inputs)]).explain(read_image(BAG)) is None


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "identity", "none"])
def test_probabilities_are_those_of_torch(activation: str) -> None:
    logits = np.array([-200, -1.5, 0, 3, 88, 120], np.float32)
    expected = {"softmax": torch.softmax, "sigmoid": lambda values, _: torch.sigmoid(values)}.get(activation)
    found = compute_probabilities(OutputMeaning(activation), logits)
    if expected is not None:
        np.testing.assert_allclose(found, expected(torch.from_numpy(logits), 0).numpy(), atol=1e-6)
    else:
        assert np.array_equal(found, logits) if activation == "identity" else np.isnan(found).all()


def test_networks_with_own_code_uploads_and_downloads_are_not_kept(own: Path) -> None:
    assert read_files("mine") is not None
    card = json.loads((own / "model.json").read_text())
    for architecture in (
        {"factory": "package.module:factory"},
        {"factory": "transfer", "arguments": {"backbone": "package.module:factory", "head": "average"}},
        {"factory": "onnx"},
    ):
        (own / "model.json").write_text(json.dumps(card | {"architecture": architecture}))
        assert read_files("mine") is None
    for name in ("torchvision:resnet18", "private 0123", str(own), "no such network"):
        assert read_files(name) is None


def test_a_head_that_is_not_affine_is_not_kept(own: Path, tmp_path: Path) -> None:
    classifier = load("fashion_gmp")
    files = read_files("fashion_gmp")
    other = replace(classifier, head=replace(classifier.head, weight=None))
    (tmp_path / "graph.onnx").write_bytes(b"graph")
    keep_network(files, other, "onnxruntime", tmp_path / "graph.onnx")
    keep_network(files, replace(classifier, class_names=("a",) * 10), "onnxruntime", tmp_path / "graph.onnx")
    assert not list(tmp_path.glob("*.npz"))
