import sys
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from inspector import NetworkError
from inspector.images.photo import read_image
from inspector.images.preprocessing import Preprocessing, make_view
from inspector.networks.build import build, build_pretrained, find_preprocessing
from inspector.networks.state_dict import count_classes

MODULE = """
from torch import nn

def small(num_classes: int, width: int = 2) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, width, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes))

def text() -> str:
    return "no network"

def broken(classes: int) -> nn.Module:
    raise RuntimeError(f"no {classes} today")

made = small(5)
number = 3
"""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The working folder, in which the module `mine_of_tests` lies."""
    (tmp_path / "mine_of_tests.py").write_text(MODULE)
    (tmp_path / "raises_of_tests.py").write_text("raise ValueError('not on this machine')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path
    for name in ("mine_of_tests", "raises_of_tests"):
        sys.modules.pop(name, None)


def assert_one_sentence(error: Exception) -> None:
    assert "\n" not in str(error)
    assert len(str(error)) < 400


def count_outputs(network: nn.Module, size: int = 64) -> int:
    with torch.no_grad():
        return network(torch.zeros(1, 3, size, size)).shape[1]


def test_our_architectures_are_built_with_their_arguments_and_number_of_classes():
    network = build("fashion_convnet", 4, {"pooling": "max"})
    assert not network.training
    assert count_classes(network.state_dict()) == 4


def test_an_architecture_without_a_parameter_for_classes_keeps_its_own_number():
    assert count_classes(build("efficientnet_lite0", 7).state_dict()) == 1000


@pytest.mark.parametrize("name", ["torchvision:squeezenet1_1", "torchvision:ResNet18", "timm:resnet18.a1_in1k"])
def test_a_library_network_is_built_with_the_number_of_classes(name):
    network = build(name, 7)
    assert not network.training
    assert count_outputs(network) == 7


def test_the_arguments_reach_the_library():
    network = build("timm:resnet18", 3, {"global_pool": "max", "in_chans": 1})
    with torch.no_grad():
        assert network(torch.zeros(1, 1, 32, 32)).shape == (1, 3)
    assert network.global_pool.pool_type == "max"


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_auxiliary_heads_are_left_out_unless_they_are_requested(name):
    names = build(f"torchvision:{name}", 7).state_dict().keys()
    assert not any(key.startswith(("aux", "Aux")) for key in names)
    names = build(f"torchvision:{name}", 7, {"aux_logits": True}).state_dict().keys()
    assert any(key.startswith(("aux", "Aux")) for key in names)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (None, r"^No architecture None\. There are .*fashion_convnet, .*torchvision:NAME, timm:NAME"),
        ("resnet18", r"^No architecture 'resnet18'\. There are .*fashion_convnet"),
        ("torchvision:", r"^No architecture 'torchvision:'"),
        ("torchvision:resnet19", r"^torchvision has no classifier 'resnet19'\. Nearest names: resnet18"),
        ("torchvision:fcn_resnet50", r"^torchvision has no classifier 'fcn_resnet50'\."),
        ("torchvision:fasterrcnn_resnet50_fpn", r"^torchvision has no classifier 'fasterrcnn_resnet50_fpn'\."),
        ("torchvision:r3d_18", r"^torchvision has no classifier 'r3d_18'\."),
        ("timm:resnet19", r"^timm has no classifier 'resnet19'\. Nearest names: resnet18"),
        ("timm:resnet18.a1_in2k", r"^timm has no classifier 'resnet18\.a1_in2k'\. Nearest names: resnet18\.a1_in1k"),
        ("timm:hf-hub:someone/something", r"^timm has no classifier 'hf-hub:someone/something'\."),
        ("timm:local-dir:models", r"^timm has no classifier 'local-dir:models'\."),
    ],
)
def test_an_unknown_name_is_reported_with_the_nearest(name, message):
    with pytest.raises(NetworkError, match=message) as raised:
        build(name, 7)
    assert_one_sentence(raised.value)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        (
            "fashion_convnet",
            {},
            r"^The arguments of fashion_convnet do not fit: missing a required argument: 'pooling'",
        ),
        ("fashion_convnet", {"pooling": "max", "colour": 1}, r"do not fit: got an unexpected .* 'colour'\.$"),
        ("torchvision:resnet18", {"colour": 1}, r"^torchvision:resnet18 cannot be built .*TypeError: .*'colour'\)\.$"),
        (
            "timm:resnet18",
            {"colour": 1},
            r"^timm:resnet18 cannot be built with these arguments \(TypeError: .*'colour'",
        ),
        ("timm:resnet18", {"global_pool": "none"}, r"^timm:resnet18 cannot be built with these arguments \(Asser"),
        ("torchvision:resnet18", {"weights": "DEFAULT"}, r"must not name weights: leave out weights\.$"),
        ("torchvision:resnet18", {"pretrained": True}, r"must not name weights: leave out pretrained\.$"),
        (
            "timm:resnet18",
            {"checkpoint_path": "a.pth", "pretrained": True},
            r"leave out checkpoint_path, pretrained\.$",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_reported(name, arguments, message):
    with pytest.raises(NetworkError, match=message) as raised:
        build(name, 7, arguments)
    assert_one_sentence(raised.value)


def test_timm_is_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    for use in (lambda name: build(name, 7), find_preprocessing, build_pretrained):
        with pytest.raises(
            NetworkError,
            match=r"^A network of timm needs timm \(.*\)\. Use pip install 'class-map-inspector\[timm\]'\.$",
        ):
            use("timm:resnet18")


def test_a_network_from_the_working_folder_is_built_when_it_is_trusted(folder):
    before = list(sys.path)
    network = build("mine_of_tests:small", 3, {"width": 4}, trust=True)
    assert count_outputs(network) == 3
    assert not network.training
    assert sys.path == before


def test_a_network_instance_in_a_module_is_used_unchanged(folder):
    assert count_outputs(build("mine_of_tests:made", 3, trust=True)) == 5


def test_no_module_is_imported_without_trust(folder):
    (folder / "leaves_of_tests.py").write_text("from pathlib import Path\nPath('ran').touch()")
    with pytest.raises(NetworkError, match=r"^'leaves_of_tests:f' would run the code of .* with --trust \(trust=True"):
        build("leaves_of_tests:f", 3)
    assert not (folder / "ran").exists()
    with pytest.raises(NetworkError, match="has no function"):
        build("leaves_of_tests:f", 3, trust=True)
    assert (folder / "ran").exists(), "it would have run"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent_of_tests:small", r"^The module absent_of_tests cannot be imported \(ModuleNotFoundError: No module"),
        (
            "raises_of_tests:small",
            r"^The module raises_of_tests cannot be imported \(ValueError: not on this machine\)",
        ),
        ("mine_of_tests:smal", r"^The module mine_of_tests has no function or class 'smal'\. Nearest names: small\.$"),
        ("mine_of_tests:number", r"^The module mine_of_tests has no function or class 'number'\."),
        ("mine_of_tests:text", r"^mine_of_tests:text must return a torch\.nn\.Module; it returned a str\.$"),
        ("mine_of_tests:broken", r"^mine_of_tests:broken cannot be built .*\(RuntimeError: no 3 today\)\.$"),
    ],
)
def test_a_module_that_cannot_be_used_is_reported(folder, name, message):
    with pytest.raises(NetworkError, match=message) as raised:
        build(name, 3, trust=True)
    assert_one_sentence(raised.value)


def test_wrong_arguments_of_a_factory_are_reported_by_name(folder):
    with pytest.raises(NetworkError, match=r"^The arguments of mine_of_tests:small do not fit: .*'colour'\.$"):
        build("mine_of_tests:small", 3, {"colour": 1}, trust=True)
    with pytest.raises(NetworkError, match=r"^The arguments of mine_of_tests:small do not fit: .*'num_classes'\.$"):
        build("mine_of_tests:small", None, trust=True)


def make_input(image: Image.Image, preprocessing: Preprocessing) -> torch.Tensor:
    """The input as our own chain makes it: (3, H, W)."""
    pixels = torch.from_numpy(make_view(read_image(image), preprocessing).pixels.copy()).permute(2, 0, 1) / 255
    return (pixels - torch.tensor(preprocessing.mean)[:, None, None]) / torch.tensor(preprocessing.std)[:, None, None]


@pytest.fixture
def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (301, 417, 3), np.uint8))


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b1", "inception_v3", "swin_v2_t"])
def test_preprocessing_agrees_with_that_of_torchvision(image, name):
    from torchvision import models

    expected = models.get_model_weights(name)["DEFAULT"].transforms()(image)
    assert torch.allclose(make_input(image, find_preprocessing(f"torchvision:{name}")), expected, atol=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",  # bicubic
        "resnet18.tv_in1k",  # bilinear
        "inception_v3.tf_in1k",  # its own mean and std
        "efficientnet_b0.ra_in1k",
        "convnext_tiny.fb_in22k_ft_in1k_384",  # squeezed
    ],
)
def test_preprocessing_agrees_with_that_of_timm(image, name):
    import timm

    about = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    expected = timm.data.create_transform(**about, is_training=False)(image)
    assert torch.allclose(make_input(image, find_preprocessing(f"timm:{name}")), expected, atol=1e-5)


def test_a_squeezed_photo_is_not_cropped():
    assert find_preprocessing("timm:convnext_tiny.fb_in22k_ft_in1k_384").resize is None


@pytest.mark.parametrize("name", ["fashion_convnet", "mine_of_tests:small"])
def test_unknown_preprocessing_is_none(name):
    assert find_preprocessing(name) is None


@pytest.mark.parametrize(
    "changes",
    [{"crop_mode": "border"}, {"crop_mode": "squash", "crop_pct": 0.9}, {"interpolation": "lanczos"}],
    ids=str,
)
def test_preprocessing_that_cannot_be_expressed_is_not_approximated(monkeypatch, changes):
    import timm

    about = timm.get_pretrained_cfg("resnet18").to_dict() | changes
    monkeypatch.setattr(timm, "get_pretrained_cfg", lambda name: timm.models.PretrainedCfg(**about))
    assert find_preprocessing("timm:resnet18") is None
    create_model = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: create_model(name, pretrained_cfg=about))
    with pytest.raises(
        NetworkError, match=r"^timm:resnet18 needs a preprocessing of photos that is not available here: .*\.$"
    ):
        build_pretrained("timm:resnet18")


def test_torchvision_networks_come_with_weights_preprocessing_and_class_names(tmp_path, monkeypatch):
    from torchvision import models

    # Weights that are there already are not fetched: random ones stand where torch.hub keeps the real ones.
    url = models.SqueezeNet1_1_Weights.DEFAULT.url
    checkpoints = tmp_path / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    state = models.squeezenet1_1().state_dict()
    torch.save(state, checkpoints / Path(url).name)
    network, preprocessing, names = build_pretrained("torchvision:SqueezeNet1_1")
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
    assert not network.training
    assert preprocessing == find_preprocessing("torchvision:squeezenet1_1")
    assert (len(names), names[281]) == (1000, "tabby")


def test_timm_networks_come_with_weights_preprocessing_and_class_names(monkeypatch):
    import timm

    create_model, asked = timm.create_model, []
    monkeypatch.setattr(timm, "create_model", lambda name, **given: asked.append(given) or create_model(name))
    network, preprocessing, names = build_pretrained("timm:mobilenetv3_small_050.lamb_in1k")
    assert asked == [{"pretrained": True}]
    assert not network.training
    assert preprocessing == find_preprocessing("timm:mobilenetv3_small_050.lamb_in1k")
    assert (len(names), names[281]) == (1000, "tabby, tabby cat")


def set_number_of_classes(monkeypatch, classes: int) -> None:
    """timm's next pretrained network has random weights and this many classes."""
    import timm

    create_model = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: create_model(name, num_classes=classes))


def test_class_names_that_timm_does_not_know_are_not_invented(monkeypatch):
    set_number_of_classes(monkeypatch, 10)
    assert build_pretrained("timm:resnet18")[2] is None


def test_a_timm_network_without_classes_is_refused(monkeypatch):
    set_number_of_classes(monkeypatch, 0)
    with pytest.raises(NetworkError, match=r"^timm:resnet18 was trained without classes: it has no logits to split\.$"):
        build_pretrained("timm:resnet18")


class HuggingFaceError(Exception):
    """Its errors have no base in common with Python's."""


@pytest.mark.parametrize(
    ("name", "place", "error"),
    [
        ("torchvision:resnet18", "torch.hub.download_url_to_file", URLError("no route to host")),
        ("torchvision:resnet18", "torch.hub.download_url_to_file", RuntimeError("invalid hash value\nsecond line")),
        ("timm:resnet18", "timm.create_model", OSError(113, "No route to host")),
        ("timm:resnet18", "timm.create_model", HuggingFaceError("cannot find the file\nsecond line")),
    ],
    ids=str,
)
def test_weights_that_cannot_be_downloaded_are_reported_in_one_sentence(tmp_path, monkeypatch, name, place, error):
    def offline(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(place, offline)
    with pytest.raises(NetworkError, match=rf"^The weights of {name} could not be fetched: .*[a-z>]\.$") as raised:
        build_pretrained(name)
    assert_one_sentence(raised.value)


def test_only_libraries_have_pretrained_weights():
    with pytest.raises(
        NetworkError, match=r"^There are no pretrained weights of 'fashion_convnet'\. Use torchvision:NAME or timm:"
    ):
        build_pretrained("fashion_convnet")
