"""Class maps of random networks are exact, for every kind of affine head."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from inspector import Classifier, class_maps_of_batch

TOLERANCE = 1e-5

many = settings(derandomize=True, deadline=None, max_examples=20)


class Call(nn.Module):
    def __init__(self, name: str, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.name, self.function = name, function

    def forward(self, inputs: Tensor) -> Tensor:
        return self.function(inputs)


LINEAR_HEADS: dict[str, Callable[[], nn.Module]] = {
    "average module": lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    "average method": lambda: Call("average", lambda x: x.mean((2, 3))),
    "average kept dimensions": lambda: Call("average", lambda x: x.mean([-1, -2], keepdim=True).flatten(1)),
    "average function": lambda: Call(
        "average", lambda x: torch.flatten(nn.functional.adaptive_avg_pool2d(x, (1, 1)), 1)
    ),
    "average of the whole window": lambda: Call(
        "average", lambda x: nn.functional.avg_pool2d(x, x.shape[2:])[:, :, 0, 0]
    ),
    "max module": lambda: nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten()),
    "max method": lambda: Call("max", lambda x: x.amax((2, 3))),
}
CLASS_MAP_HEADS: dict[str, Callable[[], nn.Module]] = {
    "average": lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    "average method": lambda: Call("average", lambda x: x.mean((2, 3))),
    "max": lambda: nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten()),
    "max method": lambda: Call("max", lambda x: x.amax((2, 3))),
}


@st.composite
def setups(draw: st.DrawFn) -> dict:
    return {
        "seed": draw(st.integers(0, 2**16)),
        "size": (draw(st.integers(3, 12)), draw(st.integers(3, 12))),
        "channels": draw(st.integers(1, 6)),
        "classes": draw(st.integers(1, 6)),
        "images": draw(st.integers(1, 4)),
        "dtype": draw(st.sampled_from([torch.float32, torch.float64])),
        "inplace": draw(st.booleans()),
        "stride": draw(st.integers(1, 2)),
    }


def body(channels: int, inplace: bool, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(3, channels, 3, stride=stride, padding=1), nn.ReLU(inplace)]


def randomize_statistics(network: nn.Module) -> nn.Module:
    """Set running statistics other than 0 and 1."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return network


def assert_exact(trunk: nn.Module, head: nn.Module, setup: dict) -> None:
    """Assert everything that a class map promises; `trunk` returns the feature maps that `head` pools."""
    network = nn.Sequential(trunk, head).to(setup["dtype"]).eval()
    inputs = torch.randn(setup["images"], 3, *setup["size"], dtype=setup["dtype"])
    classifier = Classifier.wrap(network, size=setup["size"], mean=(0.0,) * 3, std=(1.0,) * 3)
    found = class_maps_of_batch(classifier, inputs)
    assert len(found) == setup["images"]

    feature_maps = trunk(inputs.clone()).detach().requires_grad_()
    for module in head.modules():
        if isinstance(module, Call) and module.name.startswith("max"):
            # The module passes the gradient to the first of equal maxima, amax a share to each.
            module.function = lambda x: nn.functional.adaptive_max_pool2d(x, 1).flatten(1)
    logits = head(feature_maps)
    for n, maps in enumerate(found):
        assert maps.verdict == "exact"
        assert maps.values.dtype == setup["dtype"]
        torch.testing.assert_close(maps.logits, logits[n].detach())
        sums = maps.values.sum((1, 2)) + maps.bias
        total = maps.values.abs().sum((1, 2)) + maps.bias.abs() + 1
        room = TOLERANCE * total
        assert ((sums - maps.logits).abs() <= room).all()
        rounding = 8 * torch.finfo(setup["dtype"]).eps * float(total.max())  # of sums in another order
        assert maps.residual == pytest.approx(float((sums - maps.logits).abs().max()), rel=1e-3, abs=rounding)
        torch.testing.assert_close(maps.feature_maps, feature_maps[n].detach())
        for k in range(len(maps.logits)):
            (gradient,) = torch.autograd.grad(logits[n, k], feature_maps, retain_graph=True)
            by_gradient = (gradient * feature_maps).detach()[n].sum(0)
            assert ((maps.values[k] - by_gradient).abs() <= room[k]).all()
            assert ((maps.parts(k).sum(0) - by_gradient).abs() <= room[k]).all()


@pytest.mark.parametrize("pooling", LINEAR_HEADS)
@given(setup=setups(), norm=st.booleans(), dropout=st.booleans())
@many
def test_parts_and_bias_sum_to_the_logit_of_pooling_and_linear(pooling, setup, norm, dropout):
    torch.manual_seed(setup["seed"])
    trunk = nn.Sequential(*body(setup["channels"], setup["inplace"], setup["stride"]))
    between = [nn.BatchNorm1d(setup["channels"])] * norm + [nn.Dropout(0.5, setup["inplace"])] * dropout
    head = nn.Sequential(LINEAR_HEADS[pooling](), *between, nn.Linear(setup["channels"], setup["classes"]))
    assert_exact(trunk, randomize_statistics(head), setup)


@pytest.mark.parametrize("pooling", CLASS_MAP_HEADS)
@given(setup=setups(), relu=st.booleans())
@many
def test_parts_sum_to_the_logit_if_the_feature_maps_are_the_class_maps(pooling, setup, relu):
    torch.manual_seed(setup["seed"])
    layers = body(setup["channels"], setup["inplace"], setup["stride"])
    layers += [nn.Conv2d(setup["channels"], setup["classes"], 1)] + [nn.ReLU(setup["inplace"])] * relu
    assert_exact(nn.Sequential(*layers), CLASS_MAP_HEADS[pooling](), setup)


@given(setup=setups(), norm=st.booleans(), dropout=st.booleans())
@many
def test_parts_and_bias_sum_to_the_logit_of_flatten_and_linear(setup, norm, dropout):
    torch.manual_seed(setup["seed"])
    trunk = nn.Sequential(*body(setup["channels"], setup["inplace"], setup["stride"]))
    height, width = (-(-length // setup["stride"]) for length in setup["size"])
    values = setup["channels"] * height * width
    between = [nn.BatchNorm1d(values)] * norm + [nn.Dropout(0.5)] * dropout
    assert_exact(
        trunk, randomize_statistics(nn.Sequential(nn.Flatten(), *between, nn.Linear(values, setup["classes"]))), setup
    )


@given(setup=setups(), maximum=st.booleans())
@many
def test_parts_and_bias_sum_to_the_logit_of_a_1x1_convolution_after_pooling(setup, maximum):
    torch.manual_seed(setup["seed"])
    trunk = nn.Sequential(*body(setup["channels"], setup["inplace"], setup["stride"]))
    pool = nn.AdaptiveMaxPool2d(1) if maximum else nn.AdaptiveAvgPool2d(1)
    head = nn.Sequential(pool, nn.Conv2d(setup["channels"], setup["classes"], 1), nn.Flatten())
    assert_exact(trunk, head, setup)
