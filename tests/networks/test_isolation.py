"""Files that crash a library, fill the memory or never end cost one process of their own, and end in one sentence."""

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import hostile_onnx
import onnx
import pytest
import torch
import trials
from torch import nn

from inspector import load
from inspector.errors import HeadError, NetworkError
from inspector.networks import isolation
from inspector.networks.isolation import try_in_child
from inspector.networks.load import resolve

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="the limits of a process are those of Linux")


@pytest.fixture(autouse=True)
def switched_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(isolation.SWITCH, "on")
    monkeypatch.setenv("INSPECTOR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(isolation, "_passed", {})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "network.onnx"
    path.write_bytes(b"anything")
    return path


def refuse(trial: Callable[..., object], path: Path, *arguments: object) -> str:
    with pytest.raises(NetworkError) as caught:
        try_in_child(trial, path, *arguments, library="ONNX Runtime")  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["divide", "divide constants", "remainder", "depth to space"])
def test_a_file_that_raises_sigfpe_in_onnx_runtime_is_reported_and_this_process_lives(
    tmp_path: Path, name: str
) -> None:
    path = tmp_path / "network.onnx"
    onnx.save(hostile_onnx.MODELS[name], path)
    start = "network.onnx is not loaded: a trial of it by ONNX Runtime in a separate process crashed "
    assert refuse(trials.run_by_onnx_runtime, path).startswith(start)


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGFPE, signal.SIGABRT, signal.SIGKILL])
@linux_only
def test_every_signal_is_named(file: Path, number: signal.Signals) -> None:
    assert number.name in refuse(trials.end_by_signal, file, int(number))


def test_an_exit_without_an_answer_is_a_crash(file: Path) -> None:
    assert "crashed (exit code 3)" in refuse(trials.exit_at_once, file)


@linux_only
def test_memory_is_limited(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "needed more than 2.0 GB of memory" in refuse(trials.fill_memory, file)


@linux_only
def test_processor_time_is_limited(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "CPU_SECONDS", 1)
    assert "took more than 1 seconds of processor time" in refuse(trials.run_for_ever, file)


def test_time_is_limited(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "SECONDS", 2)
    assert "took more than 2 seconds" in refuse(trials.sleep_for_ever, file)


def test_our_own_errors_come_back_as_they_were(file: Path) -> None:
    with pytest.raises(HeadError, match=r"^No pooling\.$"):
        try_in_child(trials.raise_one_of_ours, file, library="torch")


def test_other_errors_become_one_sentence(file: Path) -> None:
    assert "network.onnx cannot be read (RecursionError: maximum recursion" in refuse(trials.raise_another, file)


def test_what_a_library_prints_is_no_answer(file: Path) -> None:
    try_in_child(trials.print_much, file, library="torch")


@pytest.mark.parametrize("remember", [True, False])
def test_a_file_that_passed_is_not_tried_again_until_it_or_a_file_beside_it_changes(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remember: bool
) -> None:
    def count() -> int:
        try_in_child(trials.count_runs, file, library="torch", remember=remember)
        return len((tmp_path / "runs").read_text())

    further = tmp_path / "further"
    further.write_text("weights")
    assert [count(), count()] == [1, 1]
    further.write_text("other weights")
    assert [count(), count()] == [2, 2]
    file.write_bytes(b"another network")
    assert [count(), count()] == [3, 3]
    # Another process knows only what is in the cache folder.
    monkeypatch.setattr(isolation, "_passed", {})
    assert count() == (3 if remember else 4)
    assert (tmp_path / "cache" / "tried").is_dir() == remember


def test_switched_off_nothing_is_tried(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(isolation.SWITCH, "off")
    try_in_child(trials.exit_at_once, file, library="torch")


def list_trials(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collect the names of the files that would be tried, and try none."""
    tried: list[str] = []
    monkeypatch.setattr(
        "inspector.networks.load.try_in_child", lambda trial, path, *arguments, **settings: tried.append(path.name)
    )
    return tried


def test_files_are_tried_and_networks_in_models_and_safetensors_and_what_is_trusted_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = list_trials(monkeypatch)
    onnx.save(hostile_onnx.MODELS["harmless"], tmp_path / "a.onnx")
    load(tmp_path / "a.onnx", size=32)
    assert tried == ["a.onnx"]
    load(tmp_path / "a.onnx", size=32, trust=True)
    load("fashion_gap")
    assert tried == ["a.onnx"]
    torch.save(nn.Linear(1, 1).state_dict(), tmp_path / "a.pth")
    with pytest.raises(NetworkError, match="do not fit"):
        resolve(tmp_path / "a.pth", "torchvision:resnet18")
    assert tried == ["a.onnx", "a.pth"]


def test_a_folder_outside_models_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = list_trials(monkeypatch)
    folder = tmp_path / "mine"
    folder.mkdir()
    onnx.save(hostile_onnx.MODELS["harmless"], folder / "network.onnx")
    card: dict[str, object] = {
        "title": "",
        "architecture": {"factory": "onnx"},
        "weights": "network.onnx",
        "classes": list("abc"),
    }
    card |= {"size": 32, "resize": 32, "interpolation": "bilinear", "mean": [0.0] * 3, "std": [1.0] * 3}
    (folder / "model.json").write_text(json.dumps(card | {"probability": "softmax", "examples": "photos"}))
    load(folder)
    assert tried == ["network.onnx"]
    monkeypatch.setenv("INSPECTOR_MODELS", str(tmp_path))
    load("mine")
    assert tried == ["network.onnx"]


def test_a_real_file_is_loaded_after_its_trial(tmp_path: Path) -> None:
    onnx.save(hostile_onnx.MODELS["harmless"], tmp_path / "a.onnx")
    assert load(tmp_path / "a.onnx", size=32).head.pooling == "average"
    onnx.save(hostile_onnx.MODELS["divide"], tmp_path / "b.onnx")
    with pytest.raises(NetworkError, match=r"^b\.onnx is not run: its operator Div may divide integers by 0 or -1"):
        load(tmp_path / "b.onnx", size=32)


@pytest.mark.parametrize("name", ["torchvision:regnet_y_128gf", "torchvision:vit_h_14"])
def test_weights_that_do_not_fit_are_refused_before_the_network_takes_memory(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = []

    def build(*arguments: object, **settings: object) -> None:
        built.append(arguments)

    monkeypatch.setattr("inspector.networks.load.build", build)
    torch.save({"fc.weight": torch.zeros(2, 3)}, tmp_path / "a.pth")
    monkeypatch.setenv(isolation.SWITCH, "off")
    with pytest.raises(NetworkError, match=r"do not fit .*: they lack"):
        resolve(tmp_path / "a.pth", name)
    assert not built
