import logging
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from inspector import NetworkError, class_maps_of_batch, describe, load
from inspector.networks.torch_program import read_torch_program

SIZE = (5, 6)
KINDS = {"exported": "torch.export", "exported for any batch": "torch.export", "traced": "TorchScript",
         "traced on two": "TorchScript", "scripted": "TorchScript"}  # fmt: skip


class Small(nn.Module):
    """A convolution with BatchNorm, a pooling by a method, Linear; dropout, and a branch that a trace skips."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.dropout, self.linear = nn.Dropout(0.5), nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        maps = torch.relu(self.norm(self.conv(inputs)))
        return self.linear(self.dropout(maps.mean((2, 3))))


def make_network() -> nn.Module:
    torch.manual_seed(0)
    network = Small()
    network.norm.running_mean.uniform_(-1, 1)
    network.norm.running_var.uniform_(0.5, 2)
    return network.eval()


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def write_program(network: nn.Module, how: str, path: Path) -> Path:
    if how.startswith("exported"):
        inputs = noise(2, 3, *SIZE)
        dynamic = ({0: torch.export.Dim("n")},) if how.endswith("any batch") else None
        program = torch.export.export(network, (inputs if dynamic else inputs[:1],), dynamic_shapes=dynamic)
        torch.export.save(program, path)
        return path
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", FutureWarning)
        if how == "scripted":
            script = torch.jit.script(network)
        else:
            script = torch.jit.trace(network, noise(2 if how.endswith("two") else 1, 3, *SIZE))
        script.save(str(path))
    return path


@pytest.fixture(params=KINDS)
def program(request, tmp_path) -> tuple[Path, str]:
    """A file of the network, and the name of its kind; the file name does not show the kind."""
    return write_program(make_network(), request.param, tmp_path / "network.pt"), KINDS[request.param]


def test_without_trust_a_program_is_refused_and_not_loaded(program, monkeypatch):
    def loaded(*args: object, **kwargs: object) -> None:
        raise AssertionError("it was loaded")

    path, kind = program
    for name in ("torch.jit.load", "torch.export.load", "torch.load"):
        monkeypatch.setattr(name, loaded)
    with pytest.raises(
        NetworkError, match=rf"network\.pt is a program \({kind}\), and to load it may run code .* with --trust"
    ) as raised:
        load(path, size=SIZE)
    assert "\n" not in str(raised.value)
    with pytest.raises(NetworkError, match=r"a state dict or an ONNX file needs no trust\.$"):
        read_torch_program(path, kind, (3, *SIZE), trust=False)


def test_a_program_that_is_trusted_has_the_logits_and_the_class_maps_of_its_network(program):
    path, _ = program
    network, image = make_network(), noise(1, 3, *SIZE)
    classifier = load(path, size=SIZE, class_names=["a", "b", "c"], trust=True)
    (maps,) = class_maps_of_batch(classifier, image)
    features = network.norm(network.conv(image)).relu()[0].detach()
    weight, bias = network.linear.weight.detach(), network.linear.bias.detach()
    assert (maps.verdict, classifier.head.pooling, classifier.class_names) == ("exact", "average", ("a", "b", "c"))
    torch.testing.assert_close(maps.logits, network(image)[0].detach())
    torch.testing.assert_close(maps.values, torch.einsum("kc,chw->khw", weight, features) / 30)
    torch.testing.assert_close(maps.bias, bias)


def test_a_program_is_described_with_its_parameters_and_what_follows_its_pooling(program):
    path, _ = program
    description = describe(load(path, size=SIZE, trust=True), sizes=())
    assert description.parameters == sum(parameter.numel() for parameter in make_network().parameters())
    assert (description.after, description.pooling, description.verdict) == (
        ("linear",),
        "average over 5 x 6 cells",
        "exact",
    )


@pytest.mark.parametrize("how", ["traced", "scripted"])
def test_torchscript_of_one_image_takes_a_batch_and_other_sizes(tmp_path, how):
    network, images = make_network(), noise(3, 3, 8, 9)
    classifier = load(write_program(network, how, tmp_path / "network.pt"), size=SIZE, trust=True)
    for maps, logits in zip(class_maps_of_batch(classifier, images), network(images), strict=True):
        torch.testing.assert_close(maps.logits, logits.detach())
        assert (maps.verdict, maps.values.shape) == ("exact", (3, 8, 9))


def test_a_program_of_a_fixed_size_reports_another_size(tmp_path):
    path = write_program(make_network(), "exported", tmp_path / "network.pt2")
    with pytest.raises(NetworkError, match=r"^The network cannot run on an input of shape \(1, 3, 224, 224\): Guard"):
        load(path, trust=True)


def test_frozen_and_double_precision_parameters_of_torchscript_are_kept(tmp_path):
    network = make_network().double()
    network.conv.weight.requires_grad_(False)
    path = tmp_path / "network.pt"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", FutureWarning)
        torch.jit.script(network).save(str(path))
    parameters = dict(read_torch_program(path, "TorchScript", (3, *SIZE), trust=True).named_parameters())
    assert {name: p.requires_grad for name, p in parameters.items()} == {
        name: p.requires_grad for name, p in network.named_parameters()
    }
    for name, parameter in network.named_parameters():
        assert torch.equal(parameters[name], parameter)


def replace_bytes(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))


def test_a_program_that_is_cut_off_is_reported_in_one_sentence(program):
    path, _ = program
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(NetworkError, match=r"^The weights at .*network\.pt cannot be read: it is cut off or") as raised:
        load(path, size=SIZE, trust=True)
    assert "\n" not in str(raised.value)


def test_a_program_that_calls_a_missing_operator_is_reported_in_one_sentence(program, caplog, capfd):
    path, kind = program
    replace_bytes(path, b"conv", b"cnov")
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(NetworkError, match=rf"^.*network\.pt cannot be loaded as {kind}: \w.*\w\W?\.$") as raised,
    ):
        load(path, size=SIZE, trust=True)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 600
    assert "Traceback" not in caplog.text + "".join(capfd.readouterr())


def test_the_reason_is_torchs_own_if_it_gives_one(tmp_path):
    path = write_program(make_network(), "scripted", tmp_path / "network.pt")
    replace_bytes(path, b"conv", b"cnov")
    # Its own message begins with an empty line.
    with pytest.raises(NetworkError, match=r"cannot be loaded as TorchScript: Unknown \w+.*\.$"):
        load(path, size=SIZE, trust=True)


def test_torchscript_that_runs_on_no_such_image_is_reported_in_one_sentence(tmp_path):
    path = write_program(make_network(), "scripted", tmp_path / "network.pt")
    with pytest.raises(NetworkError, match=r"^.* cannot be loaded as TorchScript: .*channels.*\.$") as raised:
        load(path, size=SIZE, mean=[0.5], std=[0.5], trust=True)
    assert "\n" not in str(raised.value)


def test_the_content_of_a_program_has_precedence_over_its_name(tmp_path):
    path = write_program(make_network(), "traced", tmp_path / "network.bin")
    with pytest.raises(NetworkError, match=r"network\.bin is a program \(TorchScript\)"):
        load(path)
    path.rename(tmp_path / "network")
    with pytest.raises(NetworkError, match=r"network is a program \(TorchScript\)"):
        load(tmp_path / "network")


def test_loggers_and_warnings_are_left_as_they_were(program):
    path, _ = program
    loggers = [logging.getLogger(name) for name in ("torch.export", "torch._export")]
    levels, filters = [logger.level for logger in loggers], list(warnings.filters)
    load(path, size=SIZE, trust=True)
    assert [logger.level for logger in loggers] == levels
    path.write_bytes(b"PK\x03\x04 constants.pkl")
    with pytest.raises(NetworkError):
        load(path, size=SIZE, trust=True)
    assert [logger.level for logger in loggers] == levels
    assert warnings.filters == filters
