"""A changed network is noticed: by its own pass, and by a fingerprint where another implementation runs."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from inspector import Classifier, class_maps_of_batch
from inspector.explain.fingerprint import NetworkFingerprint

SIZE = (10, 12)


class Network(nn.Module):
    """Reads attributes of many kinds, and counts its passes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(4, 3)
        self.scale, self.scales, self.table = 1.0, [1.0, [1.0]], {"scale": 1.0}
        self.options, self.passes, self.kept = SimpleNamespace(scale=1.0), 0, {}
        self.tensor = torch.ones(1)
        closed_over = {"scale": 1.0}
        self.closed_over, self.function = closed_over, lambda x: x * closed_over["scale"]

    def forward(self, images: Tensor) -> Tensor:
        self.passes += 1
        self.kept["last"] = images
        logits = (
            self.fc(self.pool(self.body(images)).flatten(1))
            * self.scale
            * self.scales[0]
            * self.scales[1][0]
            * self.table["scale"]
        )
        return self.function(logits * self.options.scale * self.tensor)


def write_data(network: Network) -> None:
    network.fc.weight.data.mul_(2)


def multiply(tensor: Tensor) -> None:
    with torch.no_grad():
        tensor.mul_(2)


CHANGES: dict[str, Callable[[Network], object]] = {
    "a layer": lambda n: setattr(n, "fc", nn.Linear(4, 3)),
    "a layer in a Sequential": lambda n: n.body.__setitem__(2, nn.GELU()),
    "a layer that is appended": lambda n: n.body.append(nn.Tanh()),
    "a parameter": lambda n: setattr(n.fc, "weight", nn.Parameter(torch.zeros(3, 4))),
    "a parameter in place": lambda n: multiply(n.fc.weight),
    "data of a parameter": write_data,
    "a buffer in place": lambda n: n.body[1].running_mean.add_(1),
    "an attribute": lambda n: setattr(n, "scale", 3.0),
    "a list": lambda n: n.scales.__setitem__(0, 3.0),
    "a list in a list": lambda n: n.scales[1].__setitem__(0, 3.0),
    "a dict": lambda n: n.table.update(scale=3.0),
    "an object": lambda n: setattr(n.options, "scale", 3.0),
    "a tensor": lambda n: n.tensor.mul_(3),
    "a closure": lambda n: n.closed_over.update(scale=3.0),
    "a forward hook": lambda n: n.body.register_forward_hook(lambda module, given, output: output * 0.5),
    "a pre-hook": lambda n: n.fc.register_forward_pre_hook(lambda module, given: (given[0] * 0.5,)),
    "a forward of its own": lambda n: setattr(n, "forward", lambda images: Network.forward(n, images) * 2),
}


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_fingerprint_notices_a_change(change: str, mode: str) -> None:
    network = Network().eval()
    fingerprint = NetworkFingerprint(network, torch.zeros(1, 3, *SIZE))
    network(torch.ones(1, 3, *SIZE))
    network.train(mode == "train")
    network.requires_grad_(False)
    assert fingerprint.is_unchanged()
    CHANGES[change](network)
    assert not fingerprint.is_unchanged()


def test_a_fingerprint_compares_a_first_value_that_is_not_a_number() -> None:
    network = Network().eval()
    with torch.no_grad():
        network.fc.weight[0, 0] = torch.nan
    fingerprint = NetworkFingerprint(network, torch.zeros(1, 3, *SIZE))
    assert fingerprint.is_unchanged()
    network.fc.weight.data[0, 0] = 1
    assert not fingerprint.is_unchanged()


def test_a_fingerprint_of_tensors_without_a_count_of_writes() -> None:
    with torch.inference_mode():
        network = Network().eval()
        fingerprint = NetworkFingerprint(network, torch.zeros(1, 3, *SIZE))
        assert fingerprint.is_unchanged()
        network.fc.weight.mul_(2)
    assert not fingerprint.is_unchanged()


@pytest.mark.parametrize("change", CHANGES)
def test_logits_are_those_of_the_changed_network(change: str) -> None:
    network = Network().eval()
    classifier = Classifier.wrap(network, size=SIZE)
    image = classifier.noise_input(1, seed=4)
    class_maps_of_batch(classifier, image)
    CHANGES[change](network)
    (maps,) = class_maps_of_batch(classifier, image)
    expected = network(image)[0].detach()
    torch.testing.assert_close(maps.logits, expected)
    is_right = torch.allclose(maps.values.sum((1, 2)) + maps.bias, expected, rtol=1e-4, atol=1e-5)
    assert maps.verdict == ("exact" if is_right else "not exact")


def test_another_pooling_is_noticed() -> None:
    network = Network().eval()
    classifier = Classifier.wrap(network, size=SIZE)
    network.pool = nn.AdaptiveMaxPool2d(1)
    (maps,) = class_maps_of_batch(classifier, classifier.noise_input(1, seed=4))
    assert maps.verdict == "not exact"
    torch.testing.assert_close(maps.logits, network(classifier.noise_input(1, seed=4))[0].detach())
