"""A recording computes the same logits as the network, without running it."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from inspector import Classifier, class_maps_of_batch
from inspector.explain.head_function import HeadFunction
from inspector.explain.tracing.forward import capture_and_record, forward_with_pooled
from inspector.explain.tracing.recording import OpRecording

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


def record(network: nn.Module, calls: list[int]) -> tuple[HeadFunction, Tensor, Tensor]:
    """Return the head function recorded on one image, and the pooled values and logits of that image."""
    captured, logits, ops = capture_and_record(network, images(1), calls)
    pooled = torch.cat([call.pooled_values for call in captured], 1)
    widths = tuple(call.pooled_values.shape[1] for call in captured)
    return HeadFunction(network, (3, 12, 12), tuple(calls), widths).with_ops(ops, pooled), pooled, logits


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("rows", [1, 2, 7])
def test_a_recording_computes_the_logits_of_the_network(head: str, rows: int) -> None:
    network = network_with(head)
    calls = [0, 1] if head == "two branches" else [0]
    function, pooled, logits = record(network, calls)
    assert isinstance(function.recorded.ops, OpRecording)
    torch.testing.assert_close(function.logits(pooled), logits, rtol=0, atol=0)
    other = torch.randn(rows, pooled.shape[1])
    by_call = dict(zip(calls, other.split(function.widths, 1), strict=True))
    before = network[0].runs
    found, wide = function.logits(other), function.widened_logits(other.double())
    assert network[0].runs == before
    expected = forward_with_pooled(network, images(rows), by_call)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(wide, expected.double(), rtol=1e-4, atol=1e-5)


def test_the_widened_head_computes_in_double_precision() -> None:
    network = network_with("nonlinear")
    function, _, _ = record(network, [0])
    other = torch.randn(5, 8, dtype=torch.float64)
    wide = function.widened_logits(other)
    torch.testing.assert_close(wide, network[2:].double()(other).detach(), rtol=1e-14, atol=1e-14)


def test_gradients_flow_through_a_recording() -> None:
    network = network_with("in-place ReLU")
    function, _, _ = record(network, [0])
    pooled = torch.randn(3, 8, requires_grad=True)
    (found,) = torch.autograd.grad(function.evaluate(pooled).sum(), pooled)
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


@pytest.mark.parametrize("head", ["fixed batch", "probabilities"])
def test_a_head_with_a_fixed_batch_size_runs_row_by_row_and_the_network_once(head: str) -> None:
    network = network_with(head)
    classifier = Classifier.wrap(network, size=(12, 12))
    before = network[0].runs
    (maps,) = class_maps_of_batch(classifier, images(1))
    assert network[0].runs == before + 1
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


class Viewed(Accumulated):
    """Writes its logits through views of a tensor that was created in the pass, and reads an earlier view."""

    def forward(self, pooled: Tensor) -> Tensor:
        logits = torch.zeros(len(pooled), CLASSES)
        first, both = logits[:, :2], logits.view(-1)
        both[:] = self.linear(self.norm(pooled)).flatten()
        first *= 3
        return torch.cat([first, logits[:, 2:]], 1)


class Scattered(Accumulated):
    def forward(self, pooled: Tensor) -> Tensor:
        order = torch.arange(CLASSES - 1, -1, -1).expand(len(pooled), CLASSES)
        return torch.zeros(len(pooled), CLASSES).scatter(1, order, self.linear(self.norm(pooled)))


class Masked(Accumulated):
    """Writes where a mask of the values says so."""

    def forward(self, pooled: Tensor) -> Tensor:
        values = self.linear(self.norm(pooled))
        logits, low = torch.empty(values.shape).fill_(0.5), values < 0
        logits[low] = values[low] / 10
        logits[~low] = values[~low] * 2
        return logits


class Out(Accumulated):
    def forward(self, pooled: Tensor) -> Tensor:
        logits = torch.empty(len(pooled), CLASSES)
        torch.add(self.linear(self.norm(pooled)), 1, out=logits)
        return logits.copy_(2 * logits)


@pytest.mark.parametrize("head", [Accumulated, Written, Viewed, Scattered, Masked, Out])
def test_a_head_that_writes_into_another_tensor_is_recorded(head: type[nn.Module]) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(Trunk(), Mean(), head()).eval()
    function, pooled, logits = record(network, [0])
    assert function.recorded.ops is not None
    other = torch.cat([torch.randn(4, 8), pooled])
    with torch.no_grad():
        expected = torch.cat([network[2](row) for row in other.split(1)])
    torch.testing.assert_close(function.logits(other), expected)
    torch.testing.assert_close(function.logits(other)[-1:], logits)
    if head in (Viewed, Out):
        return  # torch does not differentiate these, so no pooling is found
    for maps in class_maps_of_batch(Classifier.wrap(network, size=(12, 12)), images(2)):
        assert maps.verdict == "exact for this image"
        torch.testing.assert_close(maps.values.sum((1, 2)) + maps.bias, maps.logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_recurrent_layer_after_the_pooling_runs_row_by_row(kind: type[nn.Module]) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.linear = kind(8, 6, batch_first=True), nn.Linear(6, CLASSES)

        def forward(self, pooled: Tensor) -> Tensor:
            return self.linear(self.layer(pooled[:, None])[0][:, 0])

    torch.manual_seed(0)
    network = nn.Sequential(Trunk(), Mean(), Recurrent()).eval()
    (maps,) = class_maps_of_batch(Classifier.wrap(network, size=(12, 12)), images(1))
    assert maps.verdict == "not unique"
    torch.testing.assert_close(maps.logits, network(images(1))[0].detach())


def test_logits_that_are_no_result_of_a_tensor_function_have_no_recording() -> None:
    class ByNumPy(nn.Module):
        def forward(self, pooled: Tensor) -> Tensor:
            return torch.from_numpy(pooled.numpy() * 2)

    _, _, recording = capture_and_record(nn.Sequential(Trunk(), Mean(), ByNumPy()).eval(), images(1), [0])
    assert recording is None
