"""A recording computes the same logits as the network, without running it."""

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
    """Returns feature maps (N, 8, 6, 6) and counts its runs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.runs = nn.Conv2d(3, 8, 3, 2, 1), 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.runs += 1
        return self.conv(inputs).relu()


class FixedBatch(nn.Module):
    """Reshapes to the batch size as a Python number, which a recording fixes."""

    def forward(self, pooled: Tensor) -> Tensor:
        return pooled.view(pooled.shape[0], 8)


class Mean(nn.Module):
    def forward(self, maps: Tensor) -> Tensor:
        return maps.mean((2, 3))


class Twice(nn.Module):
    """Concatenates mean and maximum."""

    def forward(self, maps: Tensor) -> Tensor:
        return torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], dim=1)


class Accumulated(nn.Module):
    """Adds in place to a tensor that was created in the pass."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(8), nn.Linear(8, CLASSES)

    def forward(self, pooled: Tensor) -> Tensor:
        logits = torch.zeros(len(pooled), CLASSES)
        logits += self.linear(self.norm(pooled))
        return logits


class Written(Accumulated):
    """Writes its logits into columns of a tensor that was created in the pass."""

    def forward(self, pooled: Tensor) -> Tensor:
        logits = torch.zeros(len(pooled), CLASSES)
        logits[:, 1:] = self.linear(self.norm(pooled))[:, 1:]
        return logits + 0


HEADS: dict[str, Callable[[], list[nn.Module]]] = {
    "affine": lambda: [Mean(), nn.Linear(8, CLASSES)],
    "normalized": lambda: [Mean(), nn.LayerNorm(8), nn.Linear(8, CLASSES)],
    "in-place ReLU": lambda: [Mean(), nn.Linear(8, 16), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(16, CLASSES)],
    "nonlinear": lambda: [Mean(), nn.Linear(8, 16), nn.GELU(), nn.Linear(16, CLASSES)],
    "two branches": lambda: [Twice(), nn.BatchNorm1d(16), nn.Linear(16, CLASSES)],
    "flattened": lambda: [nn.Flatten(), nn.Linear(288, CLASSES)],
    "probabilities": lambda: [Mean(), nn.LayerNorm(8), nn.Linear(8, CLASSES), nn.Softmax(1)],
    "fixed batch": lambda: [Mean(), FixedBatch(), nn.LayerNorm(8), nn.Linear(8, CLASSES)],
}


def network_with(head: str) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(Trunk(), *HEADS[head]()).eval()


def images(count: int) -> Tensor:
    return torch.randn(count, 3, 12, 12, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("rows", [2, 7])
def test_a_recording_computes_the_logits_of_the_network(head: str, rows: int) -> None:
    network = network_with(head)
    calls = [0, 1] if head == "two branches" else [0]
    captured, logits, recording = capture_and_record(network, images(2), calls)
    assert recording is not None
    pooled = {call.index: call.pooled for call in captured if call.pooled is not None}
    torch.testing.assert_close(replay_recording(recording, pooled), logits, rtol=0, atol=0)
    other = {index: torch.randn(rows, one.shape[1]) for index, one in pooled.items()}
    if head == "fixed batch" and rows != 2:
        with pytest.raises(NetworkError, match="The head does not run on 7 rows: "):
            replay_recording(recording, other)
        return
    for handler in (lambda function, args, kwargs: function(*args, **kwargs), call_frozen):
        expected = forward_with_pooled(network, images(rows), other, handler)
        torch.testing.assert_close(replay_recording(recording, other, handler), expected, rtol=0, atol=0)


def test_gradients_flow_through_a_recording() -> None:
    network = network_with("in-place ReLU")
    _, _, recording = capture_and_record(network, images(1), [0])
    assert recording is not None
    pooled = torch.randn(3, 8, requires_grad=True)
    (found,) = torch.autograd.grad(replay_recording(recording, {0: pooled}).sum(), pooled)
    (expected,) = torch.autograd.grad(forward_with_pooled(network, images(3), {0: pooled}).sum(), pooled)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("head", ["normalized", "in-place ReLU", "nonlinear", "probabilities"])
def test_the_maps_of_a_batch_and_their_channels_cost_one_pass_of_the_network(head: str) -> None:
    network = network_with(head)
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


def test_a_head_with_a_fixed_batch_size_runs_the_network() -> None:
    network = network_with("fixed batch")
    classifier = Classifier.wrap(network, size=(12, 12))
    before = network[0].runs
    (maps,) = class_maps_of_batch(classifier, images(1))
    assert network[0].runs > before + 1
    assert maps.verdict == "exact for this image"
    torch.testing.assert_close(maps.values.sum((1, 2)) + maps.bias, maps.logits, rtol=1e-5, atol=1e-5)


def test_a_recording_uses_the_current_weights() -> None:
    network = network_with("normalized")
    classifier = Classifier.wrap(network, size=(12, 12))
    for change in (lambda: network[-1].weight.data.mul_(2), lambda: setattr(network, "3", nn.Linear(8, CLASSES))):
        class_maps_of_batch(classifier, images(1))
        change()
        (maps,) = class_maps_of_batch(classifier, images(1))
        assert maps.verdict == "exact for this image"
        torch.testing.assert_close(maps.logits, network(images(1))[0])


@pytest.mark.parametrize("head", [Accumulated, Written])
def test_a_head_that_writes_into_another_tensor_runs_the_network(head: type[nn.Module]) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(Trunk(), Mean(), head()).eval()
    _, _, recording = capture_and_record(network, images(1), [0])
    assert recording is None
    for maps in class_maps_of_batch(Classifier.wrap(network, size=(12, 12)), images(2)):
        assert maps.verdict == "exact for this image"
        torch.testing.assert_close(maps.values.sum((1, 2)) + maps.bias, maps.logits, rtol=1e-5, atol=1e-5)


def test_logits_that_are_no_result_of_a_tensor_function_have_no_recording() -> None:
    class ByNumPy(nn.Module):
        def forward(self, pooled: Tensor) -> Tensor:
            return torch.from_numpy(pooled.numpy() * 2)

    _, _, recording = capture_and_record(nn.Sequential(Trunk(), Mean(), ByNumPy()).eval(), images(1), [0])
    assert recording is None
