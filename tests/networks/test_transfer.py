"""Compare trunks of networks of every library with the networks, and new heads with sums by hand."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer, vgg19

from inspector import Classifier, HeadError, NetworkError, load
from inspector.networks.build import build
from inspector.networks.catalog import find_cell_center
from inspector.networks.transfer import add_head, extract_trunk


def build_network(name: str, **arguments: object) -> nn.Module:
    torch.manual_seed(0)
    return build(name, 3, arguments)


def noise(*size: int) -> Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
def run(network: nn.Module, images: Tensor) -> Tensor:
    return network.eval()(images)


@pytest.mark.parametrize(
    ("name", "classify", "size"),
    [
        ("torchvision:resnet18", "fc", (64, 64)),
        ("torchvision:mobilenet_v2", "classifier", (64, 96)),
        ("torchvision:densenet121", "classifier", (64, 64)),
        ("timm:resnet18", "fc", (64, 96)),
        ("cifar_resnet", "linear", (8, 12)),
    ],
)
def test_the_old_head_on_the_pooled_trunk_gives_the_logits(name, classify, size):
    network = build_network(name)
    classifier = copy.deepcopy(network.get_submodule(classify))
    expected = run(network, noise(*size))
    maps = run(extract_trunk(network, noise(*size)), noise(*size))
    assert maps.shape[2:] == tuple(side // (4 if name == "cifar_resnet" else 32) for side in size)
    torch.testing.assert_close(run(classifier, maps.mean((2, 3))), expected, rtol=1e-4, atol=1e-6)


def test_the_trunk_of_efficientnet_lite0_is_without_its_head():
    network = build_network("efficientnet_lite0")
    network.load_state_dict({name: 10 * value for name, value in network.state_dict().items()})
    classifier = copy.deepcopy(network._fc)
    expected = run(network, noise(64, 64))
    trunk = extract_trunk(network, noise(64, 64))
    assert not any("_fc" in name for name in trunk.state_dict())
    torch.testing.assert_close(run(classifier, run(trunk, noise(64, 64)).mean((2, 3))), expected)


@pytest.mark.parametrize("side", [64, 160])
def test_vgg19_is_cut_before_the_pooling_to_a_fixed_grid(side):
    # Its fully connected head has 500 MB and is cut off anyway.
    with torch.device("meta"):
        network = vgg19(init_weights=False)
    network.classifier = nn.Linear(512 * 7 * 7, 3)
    network.features.to_empty(device="cpu")
    torch.manual_seed(0)
    for parameter in network.features.parameters():
        nn.init.normal_(parameter, std=0.05)
    images = noise(side, side)[:1]
    expected = run(network.features, images)
    assert expected.shape == (1, 512, side // 32, side // 32)
    assert torch.equal(run(extract_trunk(network, images), images), expected)


def test_inception_v3_keeps_the_input_transform_of_its_trained_weights():
    # A model.json shows it only by the name.
    made = build("transfer", 3, {"backbone": "torchvision:inception_v3", "head": "average", "size": [139, 139]})
    trained = build("torchvision:inception_v3", 3, {"transform_input": True})
    images = noise(139, 139)[:1]
    trained.load_state_dict(made.get_submodule("trunk.network").state_dict(), strict=False)
    maps = run(made.get_submodule("trunk"), images)
    assert maps.shape == (1, 2048, 3, 3)
    trained.fc = nn.Identity()
    torch.testing.assert_close(maps.mean((2, 3)), run(trained, images))


def test_a_trunk_trains_and_is_evaluated_as_its_network():
    trunk = extract_trunk(build_network("torchvision:mobilenet_v2"), noise(64, 64))
    before = trunk.state_dict()["network.features.0.1.running_mean"].clone()
    assert torch.equal(run(trunk, noise(64, 64)), run(trunk, noise(64, 64)))
    assert torch.equal(trunk.state_dict()["network.features.0.1.running_mean"], before)
    trunk.train()(noise(64, 64))
    assert not torch.equal(trunk.state_dict()["network.features.0.1.running_mean"], before)


# Heads


def build_trunk_by_hand() -> nn.Module:
    """Build a network whose feature maps are red, and green minus blue, then global pooling and Linear."""
    convolution = nn.Conv2d(3, 2, 1, bias=False)
    with torch.no_grad():
        convolution.weight.copy_(torch.tensor([[1.0, 0, 0], [0, 1, -1]]).view(2, 3, 1, 1))
    return nn.Sequential(convolution, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3))


@pytest.mark.parametrize(("head", "pooled"), [("average", [0.5, -1.0]), ("max", [2.0, 0.0])])
def test_a_pooled_head_is_linear_on_the_pooled_maps(head, pooled):
    network = add_head(build_trunk_by_hand(), head, 4, (2, 2))
    image = torch.zeros(1, 3, 2, 2)
    image[0, 0, 0, 0], image[0, 2, 1, 1] = 2, 4
    linear = network.get_submodule("head")[1]
    assert (linear.in_features, linear.out_features) == (2, 4)
    torch.testing.assert_close(run(network, image), run(linear, torch.tensor([pooled])))


def test_a_connected_head_is_two_layers_on_every_value_of_the_maps():
    network = add_head(build_trunk_by_hand(), "connected", 4, (2, 3))
    hidden, last = (layer for layer in network.get_submodule("head") if isinstance(layer, nn.Linear))
    assert (hidden.in_features, hidden.out_features, last.out_features) == (2 * 2 * 3, 512, 4)
    image = noise(2, 3)[:1]
    maps = torch.cat([image[0, 0], image[0, 1] - image[0, 2]]).flatten()
    torch.testing.assert_close(run(network, image), run(last, run(hidden, maps[None]).relu()))


# Refusals


@pytest.mark.parametrize("name", ["torchvision:resnet18", "timm:resnet18", "efficientnet_lite0"])
def test_an_image_too_small_for_a_map_is_refused_and_no_earlier_layer_used(name):
    with pytest.raises(NetworkError, match=r"last feature maps of .* are 1x1 at 32x32\. Use a larger input size"):
        extract_trunk(build_network(name), noise(32, 32))


@pytest.mark.parametrize(
    ("name", "shape"),
    [("timm:vit_tiny_patch16_224", r"\(197, 192\)"), ("timm:swin_tiny_patch4_window7_224", r"\(7, 7, 768\)")],
)
def test_transformers_of_timm_are_no_backbones(name, shape):
    with pytest.raises(
        NetworkError, match=rf"are {shape}, not channels x height x width\. Use a convolutional network"
    ):
        extract_trunk(build_network(name), noise(224, 224))


def test_a_transformer_of_torchvision_has_no_maps_to_begin_with():
    network = VisionTransformer(32, 8, num_layers=1, num_heads=1, hidden_dim=8, mlp_dim=8, num_classes=3)
    nn.init.normal_(network.heads.head.weight)
    with pytest.raises(HeadError, match="No spatial map reaches the logits: they are read from one of 17 tokens"):
        Classifier.wrap(network.eval(), size=32)


class Asking(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images if images.sum() > 0 else -images


@pytest.mark.parametrize(
    ("network", "reason"), [(Asking(), "TraceError"), (nn.Sequential(nn.Flatten(), nn.Linear(3, 2)), ".*Error")]
)
def test_a_network_that_cannot_be_cut_is_reported_in_one_sentence(network, reason):
    with pytest.raises(
        NetworkError, match=rf"cannot be cut before its head \({reason}\)\. Use a network of torchvision or timm"
    ):
        add_head(network, "average", 2, (8, 8))


def test_heads_on_a_backbone_and_checkpoints_of_its_architecture_keep_its_measured_cell_centers(tmp_path):
    backbone = load("efficientnet_lite0")
    torch.save(backbone.network.state_dict(), tmp_path / "mine.pth")
    for one in (backbone, load("flowers17_gmp"), load(tmp_path / "mine.pth", arch="efficientnet_lite0")):
        assert (one.receptive_field.y.centre, one.receptive_field.x.centre) == (20, 19)


@pytest.mark.parametrize(
    ("architecture", "arguments"),
    [("transfer", {}), ("transfer", {"backbone": "../x"}), ("torchvision:resnet18", None), (None, None), ("", {})],
)
def test_other_architectures_have_no_measured_cell_center(architecture, arguments):
    assert find_cell_center(architecture, arguments) is None
