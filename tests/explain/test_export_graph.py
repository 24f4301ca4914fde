"""One graph gives the logits and class maps that class_maps_of_batch gives."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from inspector import Classifier, class_maps_of_batch
from inspector.errors import ExportError, HeadError, InspectorError, NetworkError
from inspector.explain.backends.export_graph import class_map_graph, feature_graph
from inspector.explain.backends.export_network import export_network


def noise(classifier: Classifier, images: int) -> Tensor:
    return classifier.noise_input(images, seed=3)


class Net(nn.Module):
    """Convolution, BatchNorm and a ReLU that writes into its input, then any head."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), head
        nn.init.uniform_(self.norm.running_mean, -0.5, 0.5)
        nn.init.uniform_(self.norm.running_var, 0.5, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(nn.functional.relu_(self.norm(self.conv(images))))


class Branches(nn.Module):
    """Average and maximum pooling side by side, on different grids."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 3)

    def forward(self, maps: Tensor) -> Tensor:
        coarse = nn.functional.avg_pool2d(maps, 2)
        return self.linear(torch.cat([maps.mean((2, 3)), coarse.amax((2, 3))], 1))


class ChannelsLast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, maps: Tensor) -> Tensor:
        return self.linear(maps.permute(0, 2, 3, 1).square().mean((1, 2)))


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, maps: Tensor) -> Tensor:
        return self.linear((maps.flatten(2).transpose(1, 2) * 2).mean(1))


class BranchesOnValues(nn.Module):
    """Its control flow depends on the image: no graph can hold that."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, maps: Tensor) -> Tensor:
        return self.linear((maps * 2 if maps.sum() > 0 else maps).mean((2, 3)))


def average() -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(4, 3))


def maximum() -> nn.Module:
    return nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(4, 3))


def flattened() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(4 * 6 * 7, 3))


def per_class() -> nn.Module:
    return nn.Sequential(nn.Conv2d(4, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def softmaxed() -> nn.Module:
    return nn.Sequential(average(), nn.Softmax(1))


def normalized() -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(4), nn.Linear(4, 3))


def classifier_of(head: Callable[[], nn.Module]) -> Classifier:
    torch.manual_seed(0)
    return Classifier.wrap(Net(head()).eval(), size=(8, 9), class_names=("a", "b", "c"))


@pytest.mark.parametrize("head", [average, maximum, flattened, per_class, softmaxed, Branches, ChannelsLast, Tokens])
def test_the_maps_of_the_graph_equal_class_maps_and_sum_to_its_logits(head: Callable[[], nn.Module]) -> None:
    classifier = classifier_of(head)
    inputs = noise(classifier, 5)
    logits, maps = class_map_graph(classifier)(inputs)
    expected = class_maps_of_batch(classifier, inputs)
    torch.testing.assert_close(logits, torch.stack([one.logits for one in expected]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(maps, torch.stack([one.values for one in expected]), rtol=1e-5, atol=1e-6)
    assert classifier.head.bias is not None
    torch.testing.assert_close(maps.sum((2, 3)) + classifier.head.bias, logits, rtol=1e-5, atol=1e-5)


def test_of_equal_maxima_the_first_cell_gets_the_whole_contribution(hand_made_gmp: nn.Module) -> None:
    classifier = Classifier.wrap(hand_made_gmp, size=(2, 3))
    _, maps = class_map_graph(classifier)(torch.ones(1, 3, 2, 3))
    # Red is 1 everywhere: class 0 has weight 1 on it, class 2 has -1.
    assert maps[0, 0].tolist() == [[1, 0, 0], [0, 0, 0]]
    assert maps[0, 2].tolist() == [[-1, 0, 0], [0, 0, 0]]


def test_the_graph_is_a_copy_and_the_network_comes_back_unchanged() -> None:
    classifier = classifier_of(average)
    network = classifier.network.train()
    modes = [module.training for module in network.modules()]
    state = {name: value.clone() for name, value in network.state_dict().items()}
    graph, inputs = class_map_graph(classifier), noise(classifier, 2)
    before = graph(inputs)[0].clone()
    assert [module.training for module in network.modules()] == modes
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    with torch.no_grad():
        network.conv.weight.mul_(2)
    assert torch.equal(graph(inputs)[0], before)


def test_torch_exports_the_graph_for_any_number_of_images() -> None:
    classifier = classifier_of(maximum)
    graph = class_map_graph(classifier)
    program = torch.export.export(
        graph, (noise(classifier, 2),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
    ).module()
    for images in (1, 4):
        inputs = noise(classifier, images)
        for ours, again in zip(graph(inputs), program(inputs), strict=True):
            torch.testing.assert_close(ours, again)


def test_a_head_whose_weight_changes_with_the_image_gives_feature_maps_but_no_class_maps() -> None:
    classifier = classifier_of(normalized)
    assert classifier.head.verdict == "exact for this image"
    with pytest.raises(HeadError, match="exact for this image: its weight changes with the image"):
        class_map_graph(classifier)
    inputs = noise(classifier, 3)
    logits, feature_maps = feature_graph(classifier)(inputs)
    expected = class_maps_of_batch(classifier, inputs)
    torch.testing.assert_close(logits, torch.stack([one.logits for one in expected]))
    torch.testing.assert_close(feature_maps, torch.stack([one.feature_maps for one in expected]))


def test_a_pooling_that_needs_its_derivative_has_no_graph_of_maps() -> None:
    class Sum(nn.Module):
        def forward(self, maps: Tensor) -> Tensor:
            return maps.sum((2, 3))

    classifier = classifier_of(lambda: nn.Sequential(Sum(), nn.Linear(4, 3)))
    with pytest.raises(HeadError, match="of linear pooling need its derivative"):
        class_map_graph(classifier)


def test_a_network_that_torch_cannot_export_is_refused_in_one_sentence() -> None:
    with pytest.raises(NetworkError, match=r'^torch.export cannot write this network as .* "eager", which runs every'):
        class_map_graph(classifier_of(BranchesOnValues))


def test_a_network_that_cannot_be_copied_is_exported_itself_and_stays_as_it_is() -> None:
    classifier = classifier_of(average)
    inputs = noise(classifier, 2)
    with torch.no_grad():
        expected = class_map_graph(classifier)(inputs)
    classifier.network.source = (number for number in range(3))
    classifier.network.train()
    graph = class_map_graph(classifier)
    assert all(module.training for module in classifier.network.modules())
    with torch.no_grad():
        torch.testing.assert_close(graph(inputs), expected)
        next(classifier.network.parameters()).zero_()
        torch.testing.assert_close(graph(inputs), expected)


@pytest.mark.parametrize(("format", "name"), [("onnx", "net.onnx"), ("openvino", "net.xml"), ("pt2", "net.pt2")])
def test_a_written_file_serves_logits_and_maps_by_its_own_runtime(format: str, name: str, tmp_path: Path) -> None:
    classifier = classifier_of(maximum)
    file = export_network(classifier, tmp_path / name, format)
    inputs = noise(classifier, 4)
    (logits, maps), metadata = READERS[format](file, inputs)
    expected = class_maps_of_batch(classifier, inputs)
    np.testing.assert_allclose(logits, torch.stack([one.logits for one in expected]), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(maps, torch.stack([one.values for one in expected]), rtol=1e-4, atol=1e-5)
    assert json.loads(metadata["class_names"]) == ["a", "b", "c"]
    assert json.loads(metadata["preprocessing"])["size"] == [8, 9]
    np.testing.assert_allclose(maps.sum((2, 3)) + json.loads(metadata["bias"]), logits, rtol=1e-4, atol=1e-5)
    assert metadata["sha256"] == classifier.sha256()
    # No unfinished file is left beside it.
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({name, *(["net.bin"] * (format == "openvino"))})


def strided(gate: bool) -> Classifier:
    """A network of two strides; with a gate that sees the whole photo, it is not dilated."""

    class Strided(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(6, 6, 3, 2, 1, groups=2)
            self.linear = nn.Linear(6, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            x = self.first(inputs).relu()
            x = x * x.mean((2, 3), keepdim=True).sigmoid() if gate else x
            x = self.last(x).relu_()
            return self.linear(x.view(x.shape[0], 2, 3, *x.shape[2:]).transpose(1, 2).reshape(x.shape).mean((2, 3)))

    torch.manual_seed(0)
    return Classifier.wrap(Strided(), ["a", "b", "c"], size=(16, 20))


@pytest.mark.parametrize("gate", [False, True])
@pytest.mark.parametrize(("format", "name"), [("onnx", "net.onnx"), ("pt2", "net.pt2"), ("openvino", "net.xml")])
def test_a_written_file_serves_finer_maps(format: str, name: str, gate: bool, tmp_path: Path) -> None:
    classifier = strided(gate)
    requires_grad = [one.requires_grad for one in classifier.network.parameters()]
    file = export_network(classifier, tmp_path / name, format, finer=2)
    inputs = noise(classifier, 4)
    (logits, maps), metadata = READERS[format](file, inputs)
    expected = class_maps_of_batch(classifier, inputs, finer=2)
    assert expected[0].finer.method == ("shifts" if gate else "dilation")
    assert maps.shape == (4, 3, 8, 10)
    np.testing.assert_allclose(logits, torch.stack([one.logits for one in expected]), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(maps, torch.stack([one.finer.values for one in expected]), rtol=1e-4, atol=1e-5)
    assert metadata["sum"] == "maps[:, :, ::2, ::2].sum((2, 3)) + bias == logits"
    own = maps[:, :, ::2, ::2].sum((2, 3)) + json.loads(metadata["bias"])
    np.testing.assert_allclose(own, logits, rtol=1e-4, atol=1e-5)
    assert [one.requires_grad for one in classifier.network.parameters()] == requires_grad


def by_onnxruntime(file: Path, inputs: Tensor) -> tuple[list[np.ndarray], dict[str, str]]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file))
    return session.run(["logits", "maps"], {"inputs": inputs.numpy()}), session.get_modelmeta().custom_metadata_map


def by_openvino(file: Path, inputs: Tensor) -> tuple[list[np.ndarray], dict[str, str]]:
    import openvino

    model = openvino.Core().read_model(str(file))
    # By default it computes in bfloat16 where the processor can.
    found = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(inputs.numpy())
    metadata = {name: value.astype(str) for name, value in model.get_rt_info("inspector").astype(dict).items()}
    return [found["logits"], found["maps"]], metadata


def by_torch(file: Path, inputs: Tensor) -> tuple[list[np.ndarray], dict[str, str]]:
    extra = {"inspector.json": ""}
    program = torch.export.load(file, extra_files=extra).module()
    return [one.detach().numpy() for one in program(inputs)], json.loads(extra["inspector.json"])


READERS = {"onnx": by_onnxruntime, "openvino": by_openvino, "pt2": by_torch}


def test_a_file_that_gives_other_numbers_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from inspector.explain.backends import export_network as export_module

    monkeypatch.setitem(
        export_module._READERS,
        "pt2",
        lambda file: lambda inputs: [torch.ones(len(inputs), 3), torch.zeros(len(inputs), 3, 6, 7)],
    )
    with pytest.raises(
        ExportError, match=r"Nothing was written: the file's logits differ from the network's by [\d.]+ for 1 image;"
    ):
        export_network(classifier_of(average), tmp_path / "net.pt2", "pt2")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "format", "message"),
    [
        ("net.onnx", "tflite", "No format 'tflite'. Use one of onnx, openvino, pt2"),
        ("net.bin", "onnx", r"ends in \.onnx"),
        ("there.onnx", "onnx", "exists already. Use another name"),
    ],
)
def test_an_unknown_format_or_a_wrong_name_is_refused(name: str, format: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "there.onnx").touch()
    with pytest.raises(ExportError, match=message):
        export_network(classifier_of(average), tmp_path / name, format)


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ExportError, match="Cannot write"):
        export_network(classifier_of(average), tmp_path / "file" / "net.pt2", "pt2")


def test_the_command_states_inputs_and_outputs_of_the_file(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    import inspector.cli.networks  # noqa: F401
    from inspector.cli.options import cli

    result = CliRunner().invoke(
        cli, ["export-network", "fashion_gmp", "--format", "pt2", "-o", str(tmp_path / "gmp.pt2")]
    )
    assert result.exit_code == 0, result.output
    assert "inputs (N, 1, 28, 28) -> logits (N, 10) and maps, equal to the network's own" in result.output
    assert (tmp_path / "gmp.pt2").is_file()


def test_the_command_takes_one_size_only(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    import inspector.cli.networks  # noqa: F401
    from inspector.cli.options import cli

    result = CliRunner().invoke(cli, ["export-network", "fashion_gmp", "--size", "native", "-o", str(tmp_path / "x")])
    assert isinstance(result.exception, InspectorError)
    assert "a file takes images of one size" in str(result.exception)
