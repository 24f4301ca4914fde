"""Checkpoints as people have them: the weights are found wherever they lie, and whatever lies beside them."""

import collections
import datetime
import decimal
import enum
import functools
import json
import pathlib
import re
import resource
import sys
import types
import zipfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from inspector import NetworkError, load
from inspector.networks.build import build
from inspector.networks.checkpoint import read_states
from inspector.networks.fit_state import find_fit
from inspector.networks.load import resolve
from inspector.networks.load_checkpoint import build_without_memory
from inspector.networks.state_dict import check_fit, describe_fit

State = dict[str, Tensor]


class Net(nn.Module):
    """Named layers and a head, as small as can be."""

    def __init__(self, classes: int = 4, channels: int = 3, head: Callable[[int], nn.Module] | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 6, 3)
        self.bn = nn.BatchNorm2d(6)
        self.fc = head(classes) if head else nn.Linear(6, classes)


def make_state(seed: int = 0, **options: object) -> State:
    torch.manual_seed(seed)
    return Net(**options).state_dict()


def add_prefix(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def fit_file(path: Path, content: object, expected: State | None = None) -> tuple[State, tuple[str, ...]]:
    torch.save(content, path)
    expected = make_state(1) if expected is None else expected
    fit = find_fit(read_states(path), expected)
    check_fit(fit, expected, "mine", path)
    return fit.state, describe_fit(fit)


def assert_same(state: State, expected: State) -> None:
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())


STATE = make_state()


class Color(enum.Enum):
    RED = 1


class Settings(dict):  # as EasyDict, yacs and mmengine have them
    pass


class Items(list):
    pass


class Config:
    def __init__(self) -> None:
        self.rate, self.path = 0.1, Path("runs")


BESIDE = {
    "numpy scalar": np.float64(0.9),
    "numpy float32": np.float32(0.9),
    "numpy integer": np.int64(3),
    "numpy array": np.arange(5.0),
    "numpy dtype": np.dtype("float32"),
    "path": pathlib.Path("runs") / "a",
    "pure path": pathlib.PureWindowsPath("C:/runs"),
    "date": datetime.datetime(2024, 1, 2, 3, 4, 5, tzinfo=datetime.UTC),
    "time delta": datetime.timedelta(seconds=3),
    "decimal": decimal.Decimal("0.5"),
    "enum": Color.RED,
    "namespace": Namespace(lr=0.1, device=torch.device("cpu"), out=Path("a")),
    "simple namespace": types.SimpleNamespace(lr=0.1),
    "ordered dict": collections.OrderedDict(a=1),
    "default dict": collections.defaultdict(list, {"a": [1]}),
    "deque": collections.deque([1, 2]),
    "counter": collections.Counter("abca"),
    "frozen set": frozenset((1, 2)),
    "set": {1, 2},
    "complex": 1 + 2j,
    "bytes": b"\x00\xffabc",
    "range": range(3),
    "partial": functools.partial(nn.Linear, 3),
    "own dict": Settings(a=1, b=Settings(c=2)),
    "own list": Items([1, 2]),
    "own class": Config(),
    "own type": Config,
    "loss module": nn.CrossEntropyLoss(torch.ones(4)),
    "dtype": torch.float16,
    "size": torch.Size([1, 2]),
}


# The old format stores the source of modules too, which torch never reads.
WITH_SOURCE = ("loss module", "partial")


@pytest.mark.parametrize(
    ("kind", "legacy"),
    [(kind, legacy) for legacy in (False, True) for kind in BESIDE if not (legacy and kind in WITH_SOURCE)],
)
def test_whatever_lies_beside_the_weights_they_are_read(tmp_path, kind, legacy):
    content = {"state_dict": STATE, "beside": BESIDE[kind], "nested": {"deep": [BESIDE[kind]]}}
    torch.save(content, tmp_path / "a.ckpt", _use_new_zipfile_serialization=not legacy)
    assert_same(find_fit(read_states(tmp_path / "a.ckpt"), STATE).state, STATE)


def test_nothing_that_a_file_names_is_imported_or_run(tmp_path, monkeypatch):
    (tmp_path / "hostile_module.py").write_text("class Thing:\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import hostile_module

    torch.save({"state_dict": STATE, "thing": hostile_module.Thing()}, tmp_path / "a.pth")
    monkeypatch.delitem(sys.modules, "hostile_module")
    (tmp_path / "hostile_module.py").write_text("raise SystemExit('imported')\n")
    assert_same(find_fit(read_states(tmp_path / "a.pth"), STATE).state, STATE)


@pytest.mark.parametrize(
    "place",
    [
        ["params"], ["model_state"], ["encoder"], ["net"], ["weights"], ["my_own_key"], ["model", "module"],
        ["checkpoint", "nets", "classifier"],
    ],
)  # fmt: skip
def test_the_weights_are_found_under_any_key(tmp_path, place):
    content: object = STATE
    for key in reversed(place):
        content = {"epoch": 3, key: content, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}}
    assert_same(fit_file(tmp_path / "a.pth", content)[0], STATE)


def test_the_weights_are_found_in_a_list(tmp_path):
    assert_same(fit_file(tmp_path / "a.pth", [3, STATE])[0], STATE)


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "backbone.", "net.", "module.model._orig_mod."])
def test_the_weights_are_found_behind_any_prefix_of_some_names(tmp_path, prefix):
    content = {"state_dict": add_prefix(prefix, STATE) | {"criterion.weight": torch.ones(4)}}
    state, notes = fit_file(tmp_path / "a.ckpt", content)
    assert_same(state, STATE)
    assert notes == (
        f"The weights were found at state_dict, {prefix}*.",
        "Not part of the network: criterion.weight.",
    )


@pytest.mark.parametrize(
    "beside",
    [
        {"criterion.weight": torch.ones(4)},
        {"loss_fn.pos_weight": torch.ones(4), "val_acc.tp": torch.zeros(4)},
        {"train_metrics.ConfusionMatrix.confmat": torch.zeros(4, 4)},
        {"normalize.mean": torch.zeros(3)},
        {"perceptual_loss.net.conv.weight": torch.zeros(2, 3, 3, 3)},
    ],
    ids=lambda beside: next(iter(beside)),
)
def test_losses_and_metrics_beside_the_network_are_ignored_and_named(tmp_path, beside):
    state, notes = fit_file(tmp_path / "a.ckpt", {"state_dict": add_prefix("model.", STATE) | beside})
    assert_same(state, STATE)
    assert notes[-1] == f"Not part of the network: {', '.join(beside)}."


@pytest.mark.parametrize("average", ["ema_model.", "ema.", "teacher.", "model_ema.module."])
@pytest.mark.parametrize("first", [False, True])
def test_weights_are_preferred_to_their_average_and_both_are_named(tmp_path, average, first):
    both = [add_prefix("model.", STATE), add_prefix(average, make_state(7))]
    both = both[::-1] if first else both
    state, notes = fit_file(tmp_path / "a.ckpt", {"state_dict": both[0] | both[1]})
    assert_same(state, STATE)
    assert notes == (
        "The weights were found at state_dict, model.*.",
        f"Weights that fit as well were not used: state_dict, {average}*.",
    )


def test_a_layer_beside_the_network_is_not_ignored(tmp_path):
    """A backbone with all its layers, and a head on top of it: the backbone alone would give other logits."""
    content = {"state_dict": add_prefix("backbone.", STATE) | {"head.weight": torch.ones(2, 4)}}
    with pytest.raises(NetworkError, match=r"\(state_dict, backbone\.\*\) do not fit mine's .* they also have head\.w"):
        fit_file(tmp_path / "a.ckpt", content)


def test_a_head_of_another_name_is_not_guessed(tmp_path):
    state = {name.replace("fc.", "classifier."): tensor for name, tensor in STATE.items()}
    with pytest.raises(NetworkError, match=r"they lack fc\.bias, fc\.weight\.$"):
        fit_file(tmp_path / "a.pth", state)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (lambda k: nn.Sequential(nn.Dropout(), nn.Linear(6, k)), None),
        (lambda k: nn.Sequential(nn.Linear(6, k)), None),
        (None, lambda k: nn.Sequential(nn.Dropout(), nn.Linear(6, k))),
        (lambda k: nn.Sequential(nn.Linear(6, k)), lambda k: nn.Sequential(nn.Dropout(), nn.Linear(6, k))),
        (lambda k: nn.Sequential(nn.Sequential(nn.Flatten(), nn.Linear(6, k))), None),
    ],
)
def test_a_linear_layer_with_dropout_before_it_is_the_same_head(tmp_path, theirs, ours):
    state, _ = fit_file(tmp_path / "a.pth", make_state(head=theirs), make_state(1, head=ours))
    assert state.keys() == make_state(head=ours).keys()
    torch.testing.assert_close(list(state.values()), list(make_state(head=theirs).values()))


def test_a_head_of_two_layers_is_not_guessed(tmp_path):
    """What stands between them, a ReLU or nothing, is not in the file."""
    state = make_state(head=lambda k: nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, k)))
    with pytest.raises(NetworkError, match=r"do not fit mine's architecture: they lack fc\.bias, fc\.weight\.$"):
        fit_file(tmp_path / "a.pth", state)


def test_the_old_names_of_densenet_are_known(tmp_path):
    network = build("torchvision:densenet121", 3)
    old = {re.sub(r"(norm|conv)([12])\.", r"\1.\2.", name): one for name, one in network.state_dict().items()}
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(old, tmp_path / "a.pth")
    classifier = resolve(tmp_path / "a.pth", "torchvision:densenet121")
    assert_same(classifier.network.state_dict(), network.state_dict())


@pytest.mark.parametrize("channels", [1, 2, 4])
@pytest.mark.parametrize("arch", ["timm:test_resnet", "torchvision:mobilenet_v3_small"])
def test_other_input_channels_are_read_from_the_weights(tmp_path, channels, arch):
    network = build(arch, 3)
    first = next(layer for layer in network.modules() if isinstance(layer, nn.Conv2d))
    first.weight = nn.Parameter(torch.randn(first.out_channels, channels, *first.kernel_size))
    torch.save(network.state_dict(), tmp_path / "a.pth")
    loaded = resolve(tmp_path / "a.pth", arch)
    assert_same(loaded.network.state_dict(), network.state_dict())
    assert len(loaded.preprocessing.mean) == len(loaded.preprocessing.std) == channels
    assert re.search(r"^The network takes .* Unless given, mean is 0\.\d+ and std 0\.\d+", loaded.notes[-1])
    with torch.no_grad():
        assert loaded.network(torch.randn(2, channels, 64, 64)).shape == (2, 3)


def test_a_gray_network_is_loaded_with_the_users_mean(tmp_path):
    network = build("timm:test_resnet", 3)
    first = next(layer for layer in network.modules() if isinstance(layer, nn.Conv2d))
    first.weight = nn.Parameter(torch.randn(first.out_channels, 1, *first.kernel_size))
    torch.save(network.state_dict(), tmp_path / "a.pth")
    classifier = load(tmp_path / "a.pth", "timm:test_resnet", size=64, mean=[0.5], std=[0.25])
    assert (classifier.preprocessing.mean, classifier.preprocessing.std) == ((0.5,), (0.25,))
    assert classifier.notes == ()


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["ultralytics.nn.tasks.ClassificationModel", "torch.nn.modules.conv.Conv2d"], r"YOLO.*format=onnx"),
        (["fastai.learner.Learner", "torch.nn.modules.conv.Conv2d", "os.system"], r"fastai.*learn\.model"),
        (["mine.Net", "torch.nn.modules.conv.Conv2d"], r"whole pickled network.*model\.state_dict\(\)"),
    ],
)
def test_a_whole_pickled_network_is_explained(tmp_path, names, sentence):
    # What each name is in the pickle: the class of an object with a dict of its own.
    body = b"".join(b"c" + name.rpartition(".")[0].encode() + b"\n" + name.rpartition(".")[2].encode() + b"\n)\x81}b"
                    for name in names)  # fmt: skip
    torch.save({}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        for name, data in files.items():
            archive.writestr(name, b"\x80\x02(" + body + b"l." if name.endswith("data.pkl") else data)
    with pytest.raises(
        NetworkError, match=rf"^The weights at .*a\.pt cannot be read: it holds a .*{sentence}"
    ) as raised:
        read_states(tmp_path / "a.pt")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "arch", ["torchvision:regnet_y_128gf", "torchvision:vit_h_14", "timm:vit_gigantic_patch14_224"]
)
def test_a_small_file_makes_no_large_network(tmp_path, arch):
    torch.save({"conv1.weight": torch.zeros(2, 3, 3, 3), "fc.weight": torch.zeros(3, 2)}, tmp_path / "a.pth")
    before = read_peak_memory()
    with pytest.raises(NetworkError, match=r"do not fit .*'s architecture: they lack "):
        resolve(tmp_path / "a.pth", arch)
    assert read_peak_memory() - before < 600e6


def read_peak_memory() -> float:
    """The largest memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_a_network_that_needs_values_to_be_built_is_bounded_by_its_file():
    """swinv2 computes with its masks while it is built, so it gets memory: as much as its weights have in the file."""
    made = []

    def build_with_values() -> nn.Module:
        made.append(torch.empty(200_000).new_zeros(1).item())  # raises on the device meta
        return nn.Conv2d(3, 4, 3)

    assert isinstance(build_without_memory(build_with_values, 10), nn.Conv2d)
    assert made == [0.0]

    def build_large() -> nn.Module:
        torch.empty(200_000).new_zeros(1).item()
        return nn.Linear(10_000, 10_000)

    with pytest.raises(NetworkError, match=r"many more parameters than the file has weights"):
        build_without_memory(build_large, 10)


def test_a_description_of_a_network_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("inspector.networks.load_checkpoint._MAX_TENSORS", 1000)  # of 100,000: built in seconds
    torch.save({"conv1.weight": torch.zeros(2, 3, 3, 3)}, tmp_path / "a.pth")
    card = {
        "title": "x",
        "architecture": {"factory": "cifar_resnet", "arguments": {"depth": 6 * 10**8}},
        "weights": "a.pth",
        "classes": ["a"],
        "size": 32,
        "resize": None,
        "interpolation": "bilinear",
        "mean": [0, 0, 0],
        "std": [1, 1, 1],
        "probability": "softmax",
        "examples": "photos",
    }
    (tmp_path / "model.json").write_text(json.dumps(card))
    with pytest.raises(NetworkError, match="more than 1,000 tensors"):
        resolve(str(tmp_path))


def test_an_unknown_wide_layer_of_a_description_takes_no_memory(tmp_path):
    torch.save({"conv1.weight": torch.zeros(2, 3, 3, 3)}, tmp_path / "a.pth")
    before = read_peak_memory()
    with pytest.raises(NetworkError, match="do not fit cifar_resnet's architecture"):
        resolve(tmp_path / "a.pth", "cifar_resnet", class_names=[""] * 10**6)
    assert read_peak_memory() - before < 600e6
