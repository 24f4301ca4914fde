"""A module hook captures the same as intercepting every call, and the network is not changed."""

import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from inspector.explain.feature_capture import capture_pass, make_feature_capture
from inspector.explain.tracing.forward import capture_poolings


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return make().eval()


def trunk() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True))


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.head = trunk(), nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.trunk(images).mean((2, 3)))


class OnePoolingTwice(nn.Module):
    """The pooling module is also used in a channel gate: a hook cannot tell its two runs apart."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.pool, self.head = trunk(), nn.AdaptiveAvgPool2d(1), nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.trunk(images)
        return self.head(self.pool(maps * self.pool(maps).sigmoid()).flatten(1))


def module_pooled() -> nn.Module:
    return nn.Sequential(trunk(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))


def uncopyable() -> nn.Module:
    network = module_pooled()
    network.lock = threading.Lock()
    return network


IMAGE = torch.rand(2, 3, 8, 9, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("make", "call", "hooked"),
    [(module_pooled, 0, True), (Functional, 0, False), (OnePoolingTwice, 1, False), (uncopyable, 0, True)],
)
def test_a_hook_captures_the_same_as_intercepting_every_call(
    make: Callable[[], nn.Module], call: int, hooked: bool
) -> None:
    network = seeded(make)
    capture = make_feature_capture(network, IMAGE[:1], [call])
    assert (capture.module is not None) == hooked
    (maps,), logits, *_ = capture_pass(capture, IMAGE)
    (expected,), expected_logits = capture_poolings(network, IMAGE, [call])
    assert torch.equal(maps.feature_maps, expected.feature_maps)
    assert torch.equal(logits, expected_logits)


def test_further_training_counts() -> None:
    network = seeded(module_pooled)
    capture = make_feature_capture(network, IMAGE[:1], [0])
    (before,), *_ = capture_pass(capture, IMAGE)
    with torch.no_grad():
        network[0][0].weight.mul_(2)
    (after,), *_ = capture_pass(capture, IMAGE)
    assert not torch.equal(before.feature_maps, after.feature_maps)


def test_the_network_keeps_its_modes_and_gets_no_hooks() -> None:
    network = seeded(module_pooled)
    network.train()
    network[0][1].eval()
    modes = [module.training for module in network.modules()]
    capture_pass(make_feature_capture(network, IMAGE[:1], [0]), IMAGE)
    assert [module.training for module in network.modules()] == modes
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_tensors_that_a_user_hook_keeps_can_be_used_in_training() -> None:
    network, kept = seeded(module_pooled), []
    network[0].register_forward_hook(lambda module, inputs, output: kept.append(output))
    capture = make_feature_capture(network, IMAGE[:1], [0])
    kept.clear()
    capture_pass(capture, IMAGE)
    assert [tensor.is_inference() for tensor in kept] == [False]
