from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.convnext import CNBlockConfig

from inspector import Classifier, class_maps_of_batch
from inspector.errors import HeadError
from inspector.explain.head import find_head
from inspector.explain.precision import TOLERANCE, relative_error
from inspector.explain.tracing.chosen_output import choose_output


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Network(nn.Module):
    """A 3x3 convolution to four maps, a ReLU, then any head."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.head_function = head

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head_function(self.conv(inputs).relu())


def network_with(*head: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for layer in head:
        for module in layer.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
    return Network(nn.Sequential(*head)).eval()


def linear_of(network: nn.Module) -> nn.Linear:
    return next(module for module in network.modules() if isinstance(module, nn.Linear))


class Pool(nn.Module):
    def __init__(self, function: object) -> None:
        super().__init__()
        self.function = function

    def forward(self, maps: Tensor) -> Tensor:
        return self.function(maps)


@pytest.mark.parametrize(
    ("pool", "kind", "features"),
    [
        (nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), "average", 4),
        (Pool(lambda x: x.mean((2, 3))), "average", 4),
        (nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten()), "max", 4),
        (Pool(lambda x: x.amax((2, 3))), "max", 4),
        (nn.Flatten(), "flatten", 4 * 5 * 6),
        (Pool(lambda x: x.view(len(x), -1)), "flatten", 4 * 5 * 6),
    ],
)
def test_the_head_is_the_networks_own_linear_layer(pool, kind, features):
    network = network_with(pool, nn.Linear(features, 3))
    head = find_head(network, noise(1, 3, 5, 6))
    linear = linear_of(network)
    assert head.pooling == kind
    assert not head.per_class
    torch.testing.assert_close(head.weight, linear.weight.detach())
    torch.testing.assert_close(head.bias, linear.bias.detach())


def test_batch_norm_and_two_linear_layers_fold_into_one_weight():
    norm = nn.BatchNorm1d(4)
    network = network_with(nn.AdaptiveAvgPool2d(1), nn.Flatten(), norm, nn.Linear(4, 5), nn.Dropout(), nn.Linear(5, 3))
    norm.running_mean.copy_(torch.tensor([1.0, 2, 3, 4]))
    norm.running_var.copy_(torch.tensor([1.0, 4, 9, 16]))
    head = find_head(network, noise(1, 3, 5, 6))
    first, second = network.head_function[3], network.head_function[5]
    scale = 1 / (norm.running_var + norm.eps).sqrt()
    weight = second.weight @ first.weight
    torch.testing.assert_close(head.weight, (weight * scale).detach())
    expected = weight @ (-norm.running_mean * scale) + second.weight @ first.bias + second.bias
    torch.testing.assert_close(head.bias, expected.detach())


def test_pooled_class_maps_have_the_identity_as_weight_and_no_bias():
    network = network_with(nn.Conv2d(4, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    head = find_head(network, noise(1, 3, 5, 6))
    assert head.per_class
    assert torch.equal(head.weight, torch.eye(3))
    assert torch.equal(head.bias, torch.zeros(3))


class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.gate = nn.Linear(4, 4)
        self.linear = nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        maps = self.conv(inputs)
        maps = maps * self.gate(maps.mean((2, 3))).sigmoid()[:, :, None, None]
        return self.linear(maps.mean((2, 3)))


class SideBranch(nn.Module):
    """Pools a second time, for an output other than the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.linear = nn.Linear(4, 3)
        self.side = nn.Linear(4, 2)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.conv(inputs)
        logits = self.linear(maps.mean((2, 3)))
        return logits, self.side(maps.relu().amax((2, 3)))


@pytest.mark.parametrize(("network", "call"), [(SqueezeExcite, 1), (SideBranch, 0)])
def test_other_poolings_than_the_last_before_the_logits_are_not_the_head(network, call):
    torch.manual_seed(0)
    network = network().eval()
    output = 0 if isinstance(network, SideBranch) else None  # of several outputs, the user says which holds the logits
    head = find_head(choose_output(network, noise(1, 3, 5, 6), output), noise(1, 3, 5, 6))
    assert head.calls == (call,)
    torch.testing.assert_close(head.weight, network.linear.weight.detach())
    classifier = Classifier.wrap(network, size=(5, 6), output=output)
    assert [maps.verdict for maps in class_maps_of_batch(classifier, noise(3, 3, 5, 6, seed=2))] == ["exact"] * 3


@pytest.mark.parametrize("maximum", [False, True])
@pytest.mark.parametrize("classes", [1, 2])
def test_a_1x1_convolution_after_pooling_is_no_pooling(classes, maximum):
    pool = nn.AdaptiveMaxPool2d(1) if maximum else nn.AdaptiveAvgPool2d(1)
    network = network_with(pool, nn.Conv2d(4, classes, 1), nn.Flatten())
    head = find_head(network, noise(1, 3, 5, 6))
    assert head.pooling == ("max" if maximum else "average")
    torch.testing.assert_close(head.weight, network.head_function[1].weight.detach().view(classes, 4))


@pytest.mark.parametrize("size", [(5, 1), (1, 5)])
def test_maps_of_one_row_or_column_are_pooled_like_others(size):
    network = network_with(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    head = find_head(network, noise(1, 3, *size))
    torch.testing.assert_close(head.weight, linear_of(network).weight.detach())


@pytest.mark.parametrize("silent", [0.0, -100.0])
def test_max_pooling_is_not_mistaken_for_average_if_the_maps_of_the_example_are_constant(silent):
    # All poolings of a constant map return the same number.
    network = network_with(nn.Conv2d(4, 2, 1), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten())
    with torch.no_grad():
        network.conv.weight.zero_()
        network.conv.weight[:, :, 1, 1] = 1.0
        network.head_function[0].weight.fill_(1.0)
        # Sums of ReLU'd noise stay below 100; only a bright image passes.
        network.head_function[0].bias.fill_(silent)
    classifier = Classifier.wrap(network, size=(5, 6))
    bright = torch.zeros(1, 3, 5, 6)
    bright[0, :, 2, 3] = 100.0
    (maps,) = class_maps_of_batch(classifier, bright)
    assert classifier.head.pooling == "max"
    assert maps.verdict == "exact"


class PastThePooling(nn.Module):
    """One pixel of the image is added to the logits directly."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.linear = nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        logits = self.linear(self.conv(inputs).relu().mean((2, 3)))
        return logits + inputs[:, :1, 1, 2]


class ChangesWithTheImage(nn.Module):
    """Average pooling for dark images, max pooling for bright ones."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        pooled = inputs.mean((2, 3)) if inputs[0, 0, 0, 0] < 0 else inputs.amax((2, 3))
        return self.linear(pooled)


POOL = (nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.mark.parametrize("read", [lambda n: find_head(n, noise(1, 3, 5, 6)), lambda n: Classifier.wrap(n, size=(5, 6))])
def test_a_path_to_the_logits_besides_the_pooling_is_refused(read):
    torch.manual_seed(0)
    with pytest.raises(HeadError, match="The logits depend on more than the pooled feature maps"):
        read(PastThePooling().eval())


def test_a_pooling_that_depends_on_the_image_is_exact_for_each_image():
    torch.manual_seed(0)
    network = ChangesWithTheImage().eval()
    classifier = Classifier.wrap(network, size=(5, 6))
    assert classifier.head.verdict == "exact for this image"
    for sign, pool in ((-1, lambda x: x.mean((1, 2))), (1, lambda x: x.amax((1, 2)))):
        image = noise(1, 3, 5, 6)
        image[0, 0, 0, 0] = sign
        (maps,) = class_maps_of_batch(classifier, image)
        assert maps.verdict == "exact for this image"
        torch.testing.assert_close(maps.logits, network.linear(pool(image[0])).detach())
        torch.testing.assert_close(maps.values.sum((1, 2)) + maps.bias, maps.logits)


def test_finding_the_head_does_not_change_the_network():
    norm = nn.BatchNorm1d(4)
    network = network_with(*POOL, norm, nn.Dropout(0.5), nn.Linear(4, 3))
    network.train()
    network.conv.eval()
    network.conv.weight.requires_grad_(False)
    linear_of(network).weight.grad = torch.ones(3, 4)
    modes = [module.training for module in network.modules()]
    values = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    Classifier.wrap(network, size=(5, 6))
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(tensor, values[name]) for name, tensor in network.state_dict().items())
    assert not network.conv.weight.requires_grad
    assert linear_of(network).weight.requires_grad
    assert torch.equal(linear_of(network).weight.grad, torch.ones(3, 4))
    assert network.conv.weight.grad is linear_of(network).bias.grad is None
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_a_frozen_network_has_a_head_too():
    network = network_with(*POOL, nn.Linear(4, 3)).requires_grad_(False)
    with torch.no_grad():
        head = find_head(network, noise(1, 3, 5, 6))
    assert torch.equal(head.weight, linear_of(network).weight)
    assert not any(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e11])
def test_relative_error_is_in_units_of_the_tolerance_whatever_the_size_of_the_logits(scale):
    predicted = scale * torch.tensor([1.0, 2.0, 0.0], dtype=torch.float64)
    logits = scale * torch.tensor([1.0, 2.1, 0.0], dtype=torch.float64)
    total = scale * torch.tensor([5.0, 4.0, 0.0], dtype=torch.float64)
    assert TOLERANCE == 1e-5
    assert relative_error(predicted, logits, total).tolist() == pytest.approx([0.0, 0.1 / (1e-5 * 4), 0.0])


SMALL: dict[str, Callable[[], nn.Module]] = {  # fewer layers than torchvision's smallest of the family
    "densenet": lambda: models.DenseNet(8, (2, 2, 2, 2), 16, num_classes=20),
    "convnext": lambda: models.ConvNeXt([CNBlockConfig(16, 32, 1), CNBlockConfig(32, None, 1)], num_classes=20),
    "vit": lambda: models.VisionTransformer(64, 32, 2, 2, 32, 64, num_classes=20),
}


def torchvision_network(name: str, size: int, **arguments: object) -> nn.Module:
    """Build with random weights, and with running statistics that keep the signal from vanishing."""
    torch.manual_seed(0)
    network = SMALL[name]() if name in SMALL else models.get_model(name, weights=None, num_classes=20, **arguments)
    network.train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        network(noise(4, 3, size, size, seed=3))
    return network.eval()


TORCHVISION = {  # name -> (input size, arguments)
    "densenet": (64, {}),
    "resnet18": (64, {}),
    "mobilenet_v2": (64, {}),
    "shufflenet_v2_x0_5": (64, {}),
    "squeezenet1_1": (64, {}),
    "googlenet": (64, {"init_weights": True}),
    "efficientnet_b0": (64, {}),
    "mnasnet0_5": (64, {}),
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvisions_networks_are_exact(name):
    size, arguments = TORCHVISION[name]
    network = torchvision_network(name, size, **arguments)
    classifier = Classifier.wrap(network, size=size)
    inputs = noise(2, 3, size, size)
    with torch.no_grad():
        logits = network(inputs)
    for n, maps in enumerate(class_maps_of_batch(classifier, inputs)):
        assert maps.verdict == "exact"
        assert maps.values.shape[0] == 20
        assert maps.logits.abs().max() > 0.01
        torch.testing.assert_close(maps.logits, logits[n])
        room = 1e-5 * (maps.values.abs().sum((1, 2)) + maps.bias.abs() + 1)
        assert ((maps.values.sum((1, 2)) + maps.bias - logits[n]).abs() <= room).all()


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("alexnet", "exact for this image"),
        ("convnext", "exact for this image"),
        ("mobilenet_v3_small", "not unique"),
    ],
)
def test_torchvisions_networks_with_nonlinear_heads_get_another_verdict(name, verdict):
    network = torchvision_network(name, 64)
    classifier = Classifier.wrap(network, size=64)
    (maps,) = class_maps_of_batch(classifier, noise(1, 3, 64, 64))
    assert maps.verdict == classifier.head.verdict == verdict
    torch.testing.assert_close(maps.values.sum((1, 2)) + maps.bias, maps.logits, rtol=1e-4, atol=1e-5)


def test_torchvisions_vision_transformer_has_no_spatial_map():
    with pytest.raises(HeadError, match=r"^No spatial map reaches the logits: .* one of 5 tokens \(a class token\)"):
        Classifier.wrap(torchvision_network("vit", 64), size=64)


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("classes", [1, 2, 5])
def test_a_network_may_reshape_to_the_batch_size_of_its_input(classes, relu):
    class Reshaping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, classes, 1)

        def forward(self, inputs: Tensor) -> Tensor:
            maps = self.conv(inputs)
            return nn.functional.adaptive_avg_pool2d(maps.relu() if relu else maps, 1).view(inputs.size(0), -1)

    torch.manual_seed(0)
    network = Reshaping().eval()
    classifier = Classifier.wrap(network, size=(5, 6))
    inputs = noise(2, 3, 5, 6)
    assert torch.equal(classifier.head.weight, torch.eye(classes))
    for maps, logits in zip(class_maps_of_batch(classifier, inputs), network(inputs), strict=True):
        assert maps.verdict == "exact"
        torch.testing.assert_close(maps.values.sum((1, 2)), logits.detach())
