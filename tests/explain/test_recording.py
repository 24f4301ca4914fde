"""What follows the pooling runs on other values as the network would run it, and the network does not run for it."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from inspector import Classifier, class_maps_of_batch
from inspector.errors import NetworkError
from inspector.explain.frozen_ops import call_frozen
from inspector.explain.tracing.forward import capture_and_record, forward_with_pooled, replay_recording

CLASSES = 5


class Trunk(nn.Module):
    """Feature maps (N, 8, 6, 6), and how often they were made."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.runs = nn.Conv2d(3, 8, 3, 2, 1), 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.runs += 1
        return self.conv(inputs).relu()


class OfItsBatch(nn.Module):
    """Lays its rows out by the size of the batch, as a number."""

    def forward(self, pooled: Tensor) -> Tensor:
        return pooled.view(pooled.shape[0], 8)


class Mean(nn.Module):
    def forward(self, maps: Tensor) -> Tensor:
        return maps.mean((2, 3))


class Twice(nn.Module):
    """Mean and maximum side by side."""

    def forward(self, maps: Tensor) -> Tensor:
        return torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], dim=1)


class Accumulated(nn.Module):
    """Adds up into a tensor that was there before."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(8), nn.Linear(8, CLASSES)

    def forward(self, pooled: Tensor) -> Tensor:
        logits = torch.zeros(len(pooled), CLASSES)
        logits += self.linear(self.norm(pooled))
        return logits


class PutIn(Accumulated):
    """Writes its logits into the columns of a tensor that was there before."""

    def forward(self, pooled: Tensor) -> Tensor:
        logits = torch.zeros(len(pooled), CLASSES)
        logits[:, 1:] = self.linear(self.norm(pooled))[:, 1:]
        return logits + 0


TAILS: dict[str, Callable[[], list[nn.Module]]] = {
    "affine": lambda: [Mean(), nn.Linear(8, CLASSES)],
    "normalised": lambda: [Mean(), nn.LayerNorm(8), nn.Linear(8, CLASSES)],
    "gated in place": lambda: [Mean(), nn.Linear(8, 16), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(16, CLASSES)],
    "bent": lambda: [Mean(), nn.Linear(8, 16), nn.GELU(), nn.Linear(16, CLASSES)],
    "two branches": lambda: [Twice(), nn.BatchNorm1d(16), nn.Linear(16, CLASSES)],
    "flattened": lambda: [nn.Flatten(), nn.Linear(288, CLASSES)],
    "probabilities": lambda: [Mean(), nn.LayerNorm(8), nn.Linear(8, CLASSES), nn.Softmax(1)],
    "of its batch": lambda: [Mean(), OfItsBatch(), nn.LayerNorm(8), nn.Linear(8, CLASSES)],
}


def network_with(tail: str) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(Trunk(), *TAILS[tail]()).eval()


def images(count: int) -> Tensor:
    return torch.randn(count, 3, 12, 12, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("rows", [2, 7])
def test_a_tape_gives_what_the_network_gives(tail: str, rows: int) -> None:
    network = network_with(tail)
    calls = [0, 1] if tail == "two branches" else [0]
    heard, logits, tape = capture_and_record(network, images(2), calls)
    assert tape is not None
    own = {one.index: one.pooled for one in heard if one.pooled is not None}
    torch.testing.assert_close(replay_recording(tape, own), logits, rtol=0, atol=0)
    other = {index: torch.randn(rows, one.shape[1]) for index, one in own.items()}
    if tail == "of its batch" and rows != 2:
        with pytest.raises(NetworkError, match="The head does not run on 7 rows: "):
            replay_recording(tape, other)
        return
    for perform in (lambda function, args, kwargs: function(*args, **kwargs), call_frozen):
        expected = forward_with_pooled(network, images(rows), other, perform)
        torch.testing.assert_close(replay_recording(tape, other, perform), expected, rtol=0, atol=0)


def test_gradients_flow_from_the_logits_of_a_tape_to_the_pooled_values() -> None:
    network = network_with("gated in place")
    _, _, tape = capture_and_record(network, images(1), [0])
    assert tape is not None
    pooled = torch.randn(3, 8, requires_grad=True)
    (found,) = torch.autograd.grad(replay_recording(tape, {0: pooled}).sum(), pooled)
    (expected,) = torch.autograd.grad(forward_with_pooled(network, images(3), {0: pooled}).sum(), pooled)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("tail", ["normalised", "gated in place", "bent", "probabilities"])
def test_the_maps_of_a_batch_and_their_channels_cost_one_pass_of_the_network(tail: str) -> None:
    network = network_with(tail)
    classifier = Classifier.wrap(network, size=(12, 12))
    before = network[0].runs
    maps = class_maps_of_batch(classifier, images(4))
    for one in maps:
        one.channels(1)
    assert network[0].runs == before + 1
    for n, one in enumerate(maps):
        (alone,) = class_maps_of_batch(classifier, images(4)[n : n + 1])
        torch.testing.assert_close(one.values, alone.values, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(one.values.sum((1, 2)) + one.bias, one.logits, rtol=1e-5, atol=1e-5)


def test_what_takes_no_other_number_of_rows_goes_through_the_network() -> None:
    network = network_with("of its batch")
    classifier = Classifier.wrap(network, size=(12, 12))
    before = network[0].runs
    (maps,) = class_maps_of_batch(classifier, images(1))
    assert network[0].runs > before + 1
    assert maps.verdict == "exact for this image"
    torch.testing.assert_close(maps.values.sum((1, 2)) + maps.bias, maps.logits, rtol=1e-5, atol=1e-5)


def test_a_tape_is_of_its_pass_and_of_the_weights_as_they_are() -> None:
    network = network_with("normalised")
    classifier = Classifier.wrap(network, size=(12, 12))
    for change in (lambda: network[-1].weight.data.mul_(2), lambda: setattr(network, "3", nn.Linear(8, CLASSES))):
        class_maps_of_batch(classifier, images(1))
        change()
        (maps,) = class_maps_of_batch(classifier, images(1))
        assert maps.verdict == "exact for this image"
        torch.testing.assert_close(maps.logits, network(images(1))[0])


@pytest.mark.parametrize("tail", [Accumulated, PutIn])
def test_what_writes_into_another_tensor_goes_through_the_network(tail: type[nn.Module]) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(Trunk(), Mean(), tail()).eval()
    _, _, tape = capture_and_record(network, images(1), [0])
    assert tape is None
    for maps in class_maps_of_batch(Classifier.wrap(network, size=(12, 12)), images(2)):
        assert maps.verdict == "exact for this image"
        torch.testing.assert_close(maps.values.sum((1, 2)) + maps.bias, maps.logits, rtol=1e-5, atol=1e-5)


def test_logits_that_came_about_without_tensor_functions_leave_no_tape() -> None:
    class ByNumPy(nn.Module):
        def forward(self, pooled: Tensor) -> Tensor:
            return torch.from_numpy(pooled.numpy() * 2)

    _, _, tape = capture_and_record(nn.Sequential(Trunk(), Mean(), ByNumPy()).eval(), images(1), [0])
    assert tape is None
