import math

import pytest
import torch
from torch import nn

from inspector.explain.pooling import GlobalAveragePooling, GlobalMaxPooling
from inspector.networks.builtin import FACTORIES, cifar_resnet, fashion_convnet

# 3x3 kernels times channels in, and a bias, times filters; then the 1x1 convolution.
PARAMETERS = (
    8 * (9 + 1) + 8 * (72 + 1) + 16 * (72 + 1) + 16 * (144 + 1) + 32 * (144 + 1) + 32 * (288 + 1) + 10 * (32 + 1)
)


@pytest.fixture(params=["average", "max"])
def network(request) -> nn.Sequential:
    torch.manual_seed(0)
    return fashion_convnet(request.param)


def test_the_convnet_has_the_parameters_counted_by_hand(network):
    assert sum(parameter.numel() for parameter in network.parameters()) == PARAMETERS == 18_370


def test_the_convnet_maps_28_pixels_to_3x3_class_maps_and_10_logits(network):
    images = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    shapes = []
    for layer in network:
        images = layer(images)
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d):
            shapes.append(tuple(images.shape[1:]))
    assert shapes == [
        *((8, 28, 28), (8, 28, 28), (8, 14, 14)),
        *((16, 14, 14), (16, 14, 14), (16, 7, 7)),
        *((32, 7, 7), (32, 7, 7), (32, 3, 3)),
        (10, 3, 3),
    ]
    assert images.shape == (2, 10)


@pytest.mark.parametrize(("pooling", "layer"), [("average", GlobalAveragePooling), ("max", GlobalMaxPooling)])
def test_the_convnet_ends_in_the_requested_pooling(pooling, layer):
    assert isinstance(fashion_convnet(pooling)[-1], layer)


def test_initial_weights_are_xaviers_and_biases_a_hundredth(network):
    convolutions = [layer for layer in network if isinstance(layer, nn.Conv2d)]
    assert len(convolutions) == 7
    for layer in convolutions:
        area = layer.kernel_size[0] * layer.kernel_size[1]
        bound = math.sqrt(6 / (area * (layer.in_channels + layer.out_channels)))
        assert (layer.bias == 0.01).all()
        assert layer.weight.abs().max() <= bound
        assert layer.weight.abs().max() > 0.9 * bound


def test_the_number_of_classes_can_be_chosen():
    assert fashion_convnet("max", classes=3)(torch.zeros(1, 1, 28, 28)).shape == (1, 3)


@pytest.mark.parametrize(("depth", "parameters"), [(20, 269_722), (32, 464_154), (44, 658_586)])
def test_a_cifar_resnet_has_as_many_parameters_as_published(depth, parameters):
    # He et al. (CVPR 2016), table 6: 0.27M, 0.46M and 0.66M.
    network = cifar_resnet(depth)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_every_factory_is_listed_under_its_own_name():
    assert {name: factory.__name__ for name, factory in FACTORIES.items()} == {name: name for name in FACTORIES}
    assert "fashion_convnet" in FACTORIES
