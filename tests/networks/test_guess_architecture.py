"""The architectures that the weights in a file fit are found by their names and shapes, and never chosen silently."""

import pytest
import torch
from safetensors.torch import save_file

from inspector import NetworkError, load
from inspector.networks import guess_architecture
from inspector.networks.build import build
from inspector.networks.checkpoint import read_states
from inspector.networks.guess_architecture import describe_missing_architecture, guess_architectures

LONG = 60.0  # seconds of processor time: a slow machine must find the same as a quick one


def make_state(name: str, classes: int | None = 7, prefix: str = "") -> dict[str, torch.Tensor]:
    return {prefix + key: tensor for key, tensor in build(name, classes).state_dict().items()}


@pytest.mark.parametrize(
    "name",
    [
        "cifar_resnet",
        "efficientnet_lite0",
        "torchvision:resnet18",
        "torchvision:squeezenet1_1",
        "torchvision:mobilenet_v2",
        "torchvision:mobilenet_v3_small",
        "torchvision:shufflenet_v2_x0_5",
        "torchvision:efficientnet_b0",
        "torchvision:densenet121",
        "torchvision:googlenet",
        "torchvision:mnasnet0_5",
        "torchvision:regnet_y_400mf",
    ],
)
def test_an_architecture_is_found_with_another_number_of_classes(name: str) -> None:
    assert guess_architectures({"": make_state(name)}, LONG) == (name,)


@pytest.mark.parametrize("name", ["timm:test_resnet", "timm:test_efficientnet", "timm:test_convnext"])
def test_an_architecture_of_timm_is_found_where_torchvision_has_none(name: str) -> None:
    assert name in guess_architectures({"": make_state(name)}, LONG)


def test_all_that_fit_are_offered_because_their_weights_do_not_tell_them_apart() -> None:
    # These two differ in the padding of their convolutions.
    assert guess_architectures({"": make_state("timm:mixnet_s")}, LONG) == ("timm:mixnet_s", "timm:tf_mixnet_s")


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "network.backbone."])
@pytest.mark.parametrize("place", ["", "state_dict", "checkpoint.model"])
def test_wrapped_weights_are_found(prefix: str, place: str) -> None:
    state = make_state("cifar_resnet", 3, prefix) | {"criterion.weight": torch.ones(3)}
    assert guess_architectures({place: state}, LONG) == ("cifar_resnet",)


def test_old_checkpoints_and_other_input_channels_are_found(tmp_path) -> None:
    state = {key: one for key, one in make_state("torchvision:resnet18", 2).items() if "num_batches" not in key}
    state["conv1.weight"] = torch.zeros(64, 1, 7, 7)
    assert guess_architectures({"": state}, LONG) == ("torchvision:resnet18",)
    path = tmp_path / "gray.safetensors"
    save_file(state, path)
    assert len(load(path, arch="torchvision:resnet18").preprocessing.mean) == 1


def test_a_head_of_dropout_and_linear_is_found() -> None:
    state = make_state("torchvision:resnet18", 4)
    for part in ("weight", "bias"):
        state[f"fc.1.{part}"] = state.pop(f"fc.{part}")
    assert guess_architectures({"": state}, LONG) == ("torchvision:resnet18",)


@pytest.mark.parametrize(
    "state",
    [
        {"weight": torch.zeros(1)},
        {"layer1.0.conv1.weight": torch.zeros(64, 64, 3, 3)},  # one weight of resnet18
        {f"layer{number}.weight": torch.zeros(2, 2) for number in range(2000)},
        {"": torch.zeros(2)},
        {"a" * 100_000 + ".weight": torch.zeros(2, 2)},
        {"\ud800\0.fc.weight": torch.zeros(2, 2)},
    ],
)
def test_weights_of_nothing_fit_nothing(state: dict[str, torch.Tensor]) -> None:
    assert guess_architectures({"": state}, 0.5) == ()


@pytest.mark.parametrize("change", ["lacks", "has more", "has another shape", "is deeper"])
def test_weights_that_would_not_load_are_not_said_to_fit(change: str) -> None:
    state = make_state("torchvision:resnet18")
    if change == "lacks":
        del state["layer3.1.conv2.weight"]
    elif change == "has more":
        state["layer3.1.attention.weight"] = torch.ones(4, 4)
    elif change == "has another shape":
        state["layer3.1.conv2.weight"] = torch.zeros(256, 256, 1, 1)
    else:
        state |= {key.replace("layer4.1", "layer4.2"): one for key, one in state.items() if "layer4.1" in key}
    assert "torchvision:resnet18" not in guess_architectures({"": state}, 0.5)


def test_the_time_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr(guess_architecture.time, "thread_time", lambda: next(clock))
    tried: list[str] = []
    monkeypatch.setattr(guess_architecture, "_fits", lambda states, name: tried.append(name))
    assert guess_architectures({"": make_state("torchvision:resnet18")}, 5.0) == ()
    assert len([name for name in tried if name.startswith("torchvision:")]) <= 5


def test_an_error_names_what_fits_and_the_named_one_loads(tmp_path) -> None:
    path = tmp_path / "mine.pth"
    torch.save({"state_dict": make_state("torchvision:resnet18", 3, "module.")}, path)
    message = (
        r"mine\.pth holds weights and no architecture\. It fits torchvision:resnet18; use --arch torchvision:resnet18 "
        r"\(arch=\.\.\. in Python\)\.$"
    )
    with pytest.raises(NetworkError, match=message):
        load(path)
    assert load(path, arch=guess_architectures(read_states(path), LONG)[0]).head.classes == 3


def test_several_are_listed(tmp_path) -> None:
    message = describe_missing_architecture(tmp_path, ("timm:a", "timm:b", "timm:c"))
    assert "It fits timm:a, timm:b and timm:c; use --arch timm:a " in message
