"""Where networks run: `device=`, `Classifier.to` and --device."""

import numpy as np
import pytest
import torch
from torch import nn

from inspector import Classifier, NetworkError, class_maps, load
from inspector.errors import InspectorError, TrainingError
from inspector.explain.device import find_device


@pytest.mark.parametrize(
    ("name", "there", "sentence"),
    [
        ("cuda", 0, "The device is 'cuda', but torch finds no GPU on this machine. Use cpu or auto"),
        ("cuda:2", 2, "The device is 'cuda:2', but torch finds 2 GPUs on this machine"),
        (torch.device("cuda", 3), 2, "The device is 'cuda:3', but torch finds 2 GPUs on this machine"),
        ("gpu", 0, "Expected auto, cpu, cuda, cuda:1 or mps as device, got 'gpu'"),
        ("cuda:1", 1, "The device is 'cuda:1', but torch finds one GPU on this machine"),
        ("cuda:", 1, "Expected auto, .* got 'cuda:'"),
        ("cuda:one", 2, "Expected auto, .* got 'cuda:one'"),
        ("cpu:0", 0, "Expected auto, .* got 'cpu:0'"),
        ("meta", 0, "Expected auto, .* got 'meta'"),
        (0, 1, "Expected auto, .* got '0'"),
        ("mps", 0, "The device is 'mps', but torch finds no GPU of Apple"),
    ],
)
@pytest.mark.parametrize("error", [NetworkError, TrainingError])
def test_a_device_that_is_not_there_is_reported(name, there, sentence, error, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(error, match=f"^{sentence}"):
        find_device(name, error)


def test_auto_takes_a_gpu_where_there_is_one(monkeypatch):
    for there, kind in ((False, "cpu"), (True, "cuda")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert find_device("auto") == torch.device(kind)


def make_network(norm: bool = False) -> nn.Module:
    torch.manual_seed(0)
    head = [nn.LayerNorm(8)] if norm else []
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), *head, nn.Linear(8, 4)
    )


def test_a_missing_device_is_reported_before_anything_is_done(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(NetworkError, match="torch finds no GPU"):
        Classifier.wrap(make_network(), size=16, device="cuda")
    with pytest.raises(NetworkError, match="torch finds no GPU"):
        load("fashion_gap", device="cuda")
    with pytest.raises(NetworkError, match="torch finds no GPU"):
        Classifier.wrap(make_network(), size=16).to("cuda")


@pytest.mark.parametrize("norm", [False, True])
def test_a_moved_classifier_gives_the_same_maps(norm):
    photo = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
    classifier = Classifier.wrap(
        make_network(norm), list("abcd"), 16, (0.4,) * 3, (0.3,) * 3, 18, "bicubic", "mine", "sigmoid", device="cpu"
    )
    moved = classifier.to("cpu")
    assert moved.preprocessing == classifier.preprocessing
    assert moved.class_names == classifier.class_names
    assert (moved.name, moved.probability, moved.head.verdict) == ("mine", "sigmoid", classifier.head.verdict)
    assert moved.receptive_field == classifier.receptive_field
    one, other = class_maps(classifier, photo), class_maps(moved, photo)
    torch.testing.assert_close(one.values, other.values)
    assert one.verdict == other.verdict


class MovedNetwork(nn.Module):
    """A network that cannot run elsewhere, as those of ONNX Runtime."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.moved = make_network(), False

    def to(self, *args, **kwargs):
        self.moved = True
        return self

    def forward(self, images):
        assert not self.moved, "it runs on the CPU only"
        return self.body(images)


def test_a_network_that_cannot_be_moved_is_reported():
    classifier = Classifier.wrap(MovedNetwork(), size=16)
    with pytest.raises(InspectorError, match="it runs on the CPU only"):
        classifier.to("cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("norm", [False, True])
def test_maps_of_a_gpu_are_those_of_the_cpu(norm):
    photo = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
    expected = class_maps(Classifier.wrap(make_network(norm), size=16), photo)
    for classifier in (
        Classifier.wrap(make_network(norm), size=16, device="cuda"),
        Classifier.wrap(make_network(norm), size=16).to("cuda"),
    ):
        maps = class_maps(classifier, photo)
        assert maps.values.is_cuda
        assert maps.verdict == expected.verdict
        torch.testing.assert_close(maps.values.cpu(), expected.values, atol=1e-3, rtol=1e-3)
        assert maps.figure(classes=2) is not None
