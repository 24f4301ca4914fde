import copy
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torchvision
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from inspector import Classifier, class_maps_of_batch, load
from inspector.errors import HeadError, InspectorError, NetworkError
from inspector.networks.onnx_model import OnnxNetwork, read_onnx

HEIGHT, WIDTH = 5, 6


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


CONV, LINEAR, BIAS = noise(4, 3, 3, 3, seed=2), noise(3, 4, seed=3), noise(3, seed=4)
LINEAR_OF_ALL = noise(3, 4 * HEIGHT * WIDTH, seed=5)
CONSTANTS = {
    "conv": CONV,
    "linear": LINEAR,
    "linear_t": LINEAR.T,
    "linear_1x1": LINEAR[:, :, None, None],
    "linear_of_all": LINEAR_OF_ALL,
    # The same for maps that are flattened with the channels last.
    "linear_of_all_last": LINEAR_OF_ALL.view(3, 4, HEIGHT, WIDTH).permute(0, 2, 3, 1).flatten(1),
    "bias": BIAS,
    "hidden": noise(4, 4, seed=6),
    "zeros": torch.zeros(4),
}

Node = tuple  # operator, inputs, output, attributes


class Twin(nn.Module):
    """The network that the graphs here describe, in torch."""

    def __init__(self, kind: str = "average", activation: str | None = None) -> None:
        super().__init__()
        self.kind, self.activation = kind, activation

    def forward(self, inputs: Tensor) -> Tensor:
        maps = nn.functional.conv2d(inputs, CONV, padding=1).relu()
        if self.kind == "flatten":
            return maps.flatten(1) @ LINEAR_OF_ALL.T + BIAS
        pooled = maps.mean((2, 3)) if self.kind == "average" else maps.amax((2, 3))
        return pooled @ LINEAR.T + BIAS


TRUNK: list[Node] = [("Conv", ["x", "conv"], "c", {"pads": [1, 1, 1, 1]}), ("Relu", ["c"], "maps", {})]
TRUNK_LAST: list[Node] = [
    ("Transpose", ["x"], "nchw", {"perm": [0, 3, 1, 2]}),
    ("Conv", ["nchw", "conv"], "c", {"pads": [1, 1, 1, 1]}),
    ("Transpose", ["c"], "nhwc", {"perm": [0, 2, 3, 1]}),
    ("Relu", ["nhwc"], "maps", {}),
]
AVERAGE: list[Node] = [("GlobalAveragePool", ["maps"], "p", {})]
GEMM: list[Node] = [("Flatten", ["p"], "f", {}), ("Gemm", ["f", "linear", "bias"], "y", {"transB": 1})]
NCHW, NHWC = ("N", 3, HEIGHT, WIDTH), ("N", HEIGHT, WIDTH, 3)


def make_reduction(operator: str, opset: int, axes: Sequence[int], keepdims: int) -> Node:
    """ReduceMean and ReduceMax take their axes as an input from opset 18 on."""
    if opset >= 18:
        return operator, ["maps", f"axes_{'_'.join(map(str, axes))}"], "p", {"keepdims": keepdims}
    return operator, ["maps"], "p", {"axes": list(axes), "keepdims": keepdims}


def make_model(
    nodes: list[Node], shape: Sequence[int | str] = NCHW, opset: int = 18, inputs: Sequence[str] = ("x",),
    kind: int = TensorProto.FLOAT,
) -> onnx.ModelProto:  # fmt: skip
    made = [helper.make_node(op, ins, [out], name=out, **attributes) for op, ins, out, attributes in nodes]
    used = {name for _, ins, _, _ in nodes for name in ins}
    constants = {name: tensor.contiguous().numpy() for name, tensor in CONSTANTS.items()}
    numbers = {name: np.array(name.split("_")[1:], np.int64) for name in used if name.startswith(("axes_", "shape_"))}
    graph = helper.make_graph(
        made,
        "graph",
        [helper.make_tensor_value_info(name, kind, list(shape)) for name in inputs],
        [helper.make_tensor_value_info(nodes[-1][2], TensorProto.FLOAT, None)],
        [numpy_helper.from_array(values, name) for name, values in (constants | numbers).items() if name in used],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


@pytest.fixture
def write(tmp_path):
    def write(*args, **kwargs) -> Path:
        path = tmp_path / "network.onnx"
        onnx.save(make_model(*args, **kwargs), path)
        return path

    return write


def assert_same_maps(network: OnnxNetwork, twin: nn.Module, size: tuple[int, int] = (HEIGHT, WIDTH)) -> None:
    images = noise(3, 3, *size, seed=9)
    ours, theirs = (class_maps_of_batch(Classifier.wrap(one.eval(), size=size), images) for one in (network, twin))
    for got, expected in zip(ours, theirs, strict=True):
        assert got.verdict == "exact"
        torch.testing.assert_close(got.values, expected.values, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(got.bias, expected.bias, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(got.logits, expected.logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("opset", [11, 13, 18, 21, 23])
@pytest.mark.parametrize(("operator", "kind"), [("ReduceMean", "average"), ("ReduceMax", "max")])
def test_maps_are_those_of_the_same_torch_network_in_every_opset(write, opset, operator, kind):
    path = write([*TRUNK, make_reduction(operator, opset, (2, 3), 1), *GEMM], opset=opset)
    assert_same_maps(read_onnx(path), Twin(kind))


WHOLE = {"kernel_shape": [HEIGHT, WIDTH]}


@pytest.mark.parametrize(
    ("nodes", "kind"),
    [
        ([*AVERAGE, *GEMM], "average"),
        ([("GlobalMaxPool", ["maps"], "p", {}), *GEMM], "max"),
        ([("AveragePool", ["maps"], "p", WHOLE), *GEMM], "average"),
        ([("MaxPool", ["maps"], "p", WHOLE), *GEMM], "max"),
        ([("Flatten", ["maps"], "f", {}), ("Gemm", ["f", "linear_of_all", "bias"], "y", {"transB": 1})], "flatten"),
        (
            [("Reshape", ["maps", "shape_1_-1"], "f", {}),
             ("Gemm", ["f", "linear_of_all", "bias"], "y", {"transB": 1})],
            "flatten",
        ),
        (
            [*AVERAGE, ("Squeeze", ["p", "axes_2_3"], "f", {}), ("MatMul", ["f", "linear_t"], "m", {}),
             ("Add", ["bias", "m"], "y", {})],
            "average",
        ),
        ([*AVERAGE, ("Conv", ["p", "linear_1x1", "bias"], "z", {}), ("Flatten", ["z"], "y", {})], "average"),
        ([*AVERAGE, ("Reshape", ["p", "shape_1_4"], "f", {}), ("Gemm", ["f", "linear", "bias"], "y", {"transB": 1})],
         "average"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("batch", [1, "N"])
def test_every_pooling_and_head_gives_the_maps_of_the_same_torch_network(write, nodes, kind, batch):
    if batch == "N" and any("shape_1" in name for _, ins, _, _ in nodes for name in ins):
        batch = 1  # such a graph takes one image only
    network = read_onnx(write([*TRUNK, *nodes], (batch, 3, HEIGHT, WIDTH)))
    assert (network.size, network.channels, network.output_activation) == ((HEIGHT, WIDTH), 3, None)
    assert_same_maps(network, Twin(kind))


def test_pooled_class_maps_are_the_class_maps(write):
    class_maps = ("Conv", ["maps", "linear_1x1", "bias"], "k", {})
    network = read_onnx(write([*TRUNK, class_maps, ("GlobalAveragePool", ["k"], "y", {})]))
    classifier = Classifier.wrap(network, size=(HEIGHT, WIDTH))
    assert classifier.head.per_class
    image = noise(1, 3, HEIGHT, WIDTH)
    maps = nn.functional.conv2d(nn.functional.conv2d(image, CONV, padding=1).relu(), LINEAR[:, :, None, None], BIAS)
    (ours,) = class_maps_of_batch(classifier, image)
    torch.testing.assert_close(ours.values, maps[0] / (HEIGHT * WIDTH))


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (
            [make_reduction("ReduceMean", 18, (1, 2), 0), ("Gemm", ["p", "linear", "bias"], "y", {"transB": 1})],
            "average",
        ),
        ([make_reduction("ReduceMax", 18, (1, 2), 1), ("Reshape", ["p", "shape_-1_4"], "f", {}), GEMM[1]], "max"),
        (
            [("Reshape", ["maps", "shape_-1_120"], "f", {}),
             ("Gemm", ["f", "linear_of_all_last", "bias"], "y", {"transB": 1})],
            "flatten",
        ),
    ],
)  # fmt: skip
def test_a_graph_with_the_channels_last_has_inputs_and_maps_with_the_channels_first(write, head, kind):
    network = read_onnx(write([*TRUNK_LAST, *head], NHWC))
    assert (network.size, network.channels) == ((HEIGHT, WIDTH), 3)
    assert_same_maps(network, Twin(kind))


@pytest.mark.parametrize(
    ("operator", "activation"), [("Softmax", "softmax"), ("LogSoftmax", "softmax"), ("Sigmoid", "sigmoid")]
)
def test_the_output_activation_is_cut_off_and_recorded(write, operator, activation):
    network = read_onnx(write([*TRUNK, *AVERAGE, *GEMM, (operator, ["y"], "probabilities", {})]))
    assert network.output_activation == activation
    assert_same_maps(network, Twin())


def test_constants_may_be_reshaped_in_the_graph(write):
    reshaped = ("Reshape", ["bias", "shape_1_3_1_1"], "b", {})
    last = [("Conv", ["p", "linear_1x1"], "z", {}), ("Add", ["z", "b"], "s", {}), ("Flatten", ["s"], "y", {})]
    network = read_onnx(write([reshaped, *TRUNK, *AVERAGE, *last], (1, 3, HEIGHT, WIDTH)))
    assert_same_maps(network, Twin())


def test_height_and_width_may_be_dynamic(write):
    network = read_onnx(write([*TRUNK, *AVERAGE, *GEMM], ("N", 3, "H", "W")), size=(8, 8))
    assert network.size is None
    assert_same_maps(network, Twin(), size=(7, 9))


@pytest.mark.parametrize("stiff", [False, True])
def test_a_file_made_for_one_image_takes_a_batch(write, stiff):
    # Cells as rows: a batch would have more rows than the file declares.
    rows = [("Reshape", ["maps", "shape_4_30"], "rows", {}), ("Reshape", ["rows", "shape_1_4_5_6"], "again", {})]
    pooling = [*rows, ("GlobalAveragePool", ["again"], "p", {})] if stiff else AVERAGE
    network = read_onnx(write([*TRUNK, *pooling, *GEMM], (1, 3, HEIGHT, WIDTH)))
    images = noise(4, 3, HEIGHT, WIDTH)
    torch.testing.assert_close(network(images), Twin()(images), rtol=1e-4, atol=1e-5)
    assert_same_maps(network, Twin())


def test_the_graph_may_read_the_number_of_images_from_its_input(write):
    asking = [
        ("Shape", ["x"], "all", {"end": 1}),
        ("Concat", ["all", "axes_4"], "to", {"axis": 0}),
        ("Reshape", ["p", "to"], "f", {}),
    ]
    assert_same_maps(read_onnx(write([*TRUNK, *AVERAGE, *asking, GEMM[1]])), Twin())
    # Other uses of the shape are not analyzed: the size stays that of the examples.
    assert read_onnx(write([*TRUNK, *AVERAGE, *asking, GEMM[1]], ("N", 3, "H", "W")), size=(8, 9)).size == (8, 9)


def test_small_weights_beside_a_large_bias_keep_their_digits(write, monkeypatch):
    monkeypatch.setitem(CONSTANTS, "linear", LINEAR / 1000)
    monkeypatch.setitem(CONSTANTS, "bias", BIAS * 1000)
    network = read_onnx(write([*TRUNK, *AVERAGE, *GEMM]))
    torch.testing.assert_close(network.jacobian, LINEAR / 1000, rtol=1e-5, atol=0)


def test_gradients_flow_from_the_logits_to_the_pooled_values(write):
    network = read_onnx(write([*TRUNK, *AVERAGE, *GEMM]))
    pooled = noise(2, 4).requires_grad_()
    network.pooling.forward = lambda maps: pooled
    logits = network(noise(2, 3, HEIGHT, WIDTH))
    torch.testing.assert_close(logits, pooled @ LINEAR.T + BIAS)
    (gradient,) = torch.autograd.grad(logits[:, 1].sum(), pooled)
    torch.testing.assert_close(gradient, LINEAR[1].expand(2, 4))


# torch's newer exporter needs another package.
@pytest.mark.filterwarnings("ignore:You are using the legacy TorchScript-based ONNX export:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The feature will be removed:DeprecationWarning")
@pytest.mark.parametrize("name", ["resnet", "squeezenet1_1", "mobilenet_v2"])
def test_maps_and_receptive_fields_of_torchvisions_networks_survive_their_export(tmp_path, name):
    torch.manual_seed(0)
    if name == "resnet":
        twin = torchvision.models.ResNet(BasicBlock, [1, 1, 1, 1], num_classes=4).eval()
    else:
        twin = torchvision.models.get_model(name, num_classes=4).eval()
    torch.onnx.export(twin, noise(1, 3, 64, 64), str(tmp_path / "network.onnx"), dynamo=False)
    network = read_onnx(tmp_path / "network.onnx")
    assert_same_maps(network, twin, (64, 64))
    own = Classifier.wrap(twin, size=64)
    assert network.receptive_field == own.receptive_field
    if name != "resnet":
        return
    inputs, exported = noise(1, 3, 64, 64), load(tmp_path / "network.onnx", size=64)
    (maps,), (expected,) = (class_maps_of_batch(one, inputs, finer=2) for one in (exported, own))
    assert (maps.finer.method, expected.finer.method) == ("shifts", "dilation")
    assert "a function that is not followed" in maps.finer.reason
    assert maps.finer.values.shape == expected.finer.values.shape
    torch.testing.assert_close(maps.finer.values[:, ::2, ::2], expected.values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("rule", "start"),
    [
        (
            {"auto_pad": "SAME_UPPER"},
            1.5,
        ),  # on 6 pixels a kernel of 3 starts at 0, 2, 4: one pixel padded at the end
        ({"auto_pad": "SAME_LOWER"}, 0.5),
        ({"auto_pad": "VALID"}, 1.5),
        ({"pads": [1, 1, 0, 0]}, 0.5),
    ],
)
def test_padding_moves_the_receptive_field(write, rule, start):
    network = read_onnx(write([("Conv", ["x", "conv"], "maps", {"strides": [2, 2], **rule}), *AVERAGE, *GEMM]))
    field = network.receptive_field
    assert (field.x.centre, field.x.stride, field.x.size) == (start, 2, 3)


def test_padding_of_maps_with_the_channels_last_moves_the_receptive_field(write):
    nodes = [("Pad", ["x", "axes_0_2_1_0_0_0_0_0"], "padded", {})]
    nodes += [(op, ["padded" if name == "x" else name for name in ins], *rest) for op, ins, *rest in TRUNK_LAST]
    network = read_onnx(write([*nodes, make_reduction("ReduceMean", 18, (1, 2), 1), *GEMM], NHWC))
    field = network.receptive_field
    assert (field.y.centre, field.x.centre) == (0.5 - 2, 0.5 - 1)


def test_squeeze_and_excitation_sees_all_cells_but_keeps_the_grid(write):
    squeeze = [("AveragePool", ["maps"], "q", WHOLE), ("Sigmoid", ["q"], "g", {}), ("Mul", ["g", "maps"], "m", {})]
    network = read_onnx(write([*TRUNK, *squeeze, ("GlobalAveragePool", ["m"], "p", {}), *GEMM]))
    field = network.receptive_field
    assert (field.x.centre, field.x.stride, field.x.size) == (0.5, 1, 3 + WIDTH - 1)


def test_weights_that_are_not_finite_are_refused(write, monkeypatch):
    monkeypatch.setitem(CONSTANTS, "bias", BIAS * float("nan"))
    assert_refused(write([*TRUNK, *AVERAGE, *GEMM]), "not finite")


def test_networks_with_other_weights_have_other_hashes(write, monkeypatch):
    nodes = [*TRUNK, *AVERAGE, *GEMM]
    first, again = read_onnx(write(nodes)), read_onnx(write(nodes))
    monkeypatch.setitem(CONSTANTS, "bias", BIAS + 1)
    other = read_onnx(write(nodes))
    one, same, another = (Classifier.wrap(n, size=(HEIGHT, WIDTH)).sha256() for n in (first, again, other))
    assert one == same != another


def test_a_copy_of_the_network_shares_its_sessions(write):
    network = read_onnx(write([*TRUNK, *AVERAGE, *GEMM]))
    image = noise(1, 3, HEIGHT, WIDTH)
    assert torch.equal(copy.deepcopy(network)(image), network(image))


def assert_refused(path: Path, match: str, error: type[InspectorError] = NetworkError, **kwargs: object) -> None:
    with pytest.raises(error, match=match) as caught:
        read_onnx(path, **kwargs)
    assert "\n" not in str(caught.value)


def test_two_layers_with_a_relu_between_have_no_exact_maps(write):
    hidden = [("Gemm", ["f", "hidden", "zeros"], "h", {}), ("Relu", ["h"], "r", {})]
    last = ("Gemm", ["r", "linear", "bias"], "y", {"transB": 1})
    network = read_onnx(write([*TRUNK, *AVERAGE, GEMM[0], *hidden, last]))
    with pytest.raises(HeadError, match="not affine"):
        Classifier.wrap(network, size=(HEIGHT, WIDTH))


def test_a_branch_beside_the_pooling_is_refused(write):
    beside = [("GlobalMaxPool", ["maps"], "q", {}), ("Add", ["p", "q"], "s", {}), ("Flatten", ["s"], "f", {}), GEMM[1]]
    assert_refused(
        write([*TRUNK, *AVERAGE, *beside]), "the logits depend on more than the pooled feature maps", HeadError
    )


def test_a_pooling_that_is_no_average_and_no_maximum_is_refused(write):
    # The center of the maps, times the share of the kernel that is inside them.
    odd = {"kernel_shape": [3, 3], "strides": [5, 5], "pads": [0, 0, 0, 0]}
    assert_refused(write([*TRUNK, ("AveragePool", ["maps"], "p", odd), *GEMM]), "neither by average", HeadError)


def test_a_graph_without_a_pooling_is_refused(write):
    assert_refused(
        write([("Conv", ["x", "conv"], "y", {"strides": [9, 9], "pads": [1] * 4})]), "No pooling was", HeadError
    )


def test_a_foreign_operator_is_refused_and_not_run(write):
    assert_refused(
        write([*TRUNK, ("Foreign", ["maps"], "p", {}), *GEMM]), "is not run: its operator Foreign is not one of"
    )


def test_an_opset_of_the_future_is_refused(tmp_path):
    model = make_model([*TRUNK, *AVERAGE, *GEMM])
    model.opset_import[0].version = 999
    onnx.save(model, tmp_path / "network.onnx")
    assert_refused(tmp_path / "network.onnx", "cannot be run by ONNX Runtime .*opset")


@pytest.mark.parametrize(
    ("how", "match"),
    [
        ({"inputs": ("x", "other")}, "must have one input, a batch of images; it has 2: x, other"),
        ({"kind": TensorProto.UINT8}, "must take floating-point images of 4 axes.* 4 axes of UINT8"),
        ({"shape": ("N", 3 * HEIGHT * WIDTH)}, "must take floating-point images of 4 axes.* 2 axes of FLOAT"),
        ({"shape": (8, 3, HEIGHT, WIDTH)}, "takes batches of exactly 8 images"),
    ],
)
def test_an_input_that_is_no_batch_of_images_is_refused(write, how, match):
    assert_refused(write([*TRUNK, *AVERAGE, *GEMM], **how), match)


def test_an_image_of_another_size_than_the_files_is_refused(write):
    with pytest.raises(NetworkError, match=r"images of 5 x 6 pixels .* got 32 x 32. Use size=\(5, 6\)"):
        Classifier.wrap(read_onnx(write([*TRUNK, *AVERAGE, *GEMM])), size=32)


def test_a_file_that_is_no_onnx_is_refused(tmp_path):
    whole = make_model([*TRUNK, *AVERAGE, *GEMM]).SerializeToString()
    for content in (b"", b"no network at all", whole[: len(whole) // 2], whole[:-3]):
        (tmp_path / "network.onnx").write_bytes(content)
        assert_refused(tmp_path / "network.onnx", "network.onnx is no ONNX file, or is broken or cut off")
    assert_refused(tmp_path / "absent.onnx", "Cannot read .*absent.onnx: No such file")


def test_a_file_that_is_too_large_is_refused_before_it_is_read(write):
    assert_refused(write([*TRUNK, *AVERAGE, *GEMM]), r"network.onnx has 0.0 MB; at most 0.0 MB are read", max_bytes=100)


def write_with_external_data(folder: Path) -> Path:
    """Write a model whose constants are in weights.bin."""
    path = folder / "network.onnx"
    onnx.save(
        make_model([*TRUNK, *AVERAGE, *GEMM]), path, save_as_external_data=True, location="weights.bin",
        size_threshold=0,
    )  # fmt: skip
    return path


def test_weights_in_a_file_beside_are_read(tmp_path):
    assert_same_maps(read_onnx(write_with_external_data(tmp_path)), Twin())


def test_weights_in_a_file_beside_count_towards_the_limit(tmp_path):
    path = write_with_external_data(tmp_path)
    assert_refused(path, "MB are read", max_bytes=path.stat().st_size + 100)


@pytest.mark.parametrize("way", ["above", "absolute", "link", "absent"])
def test_weights_are_read_from_nowhere_but_beside_the_file(tmp_path, way):
    folder = tmp_path / "folder"
    folder.mkdir()
    path = write_with_external_data(folder)
    secret = tmp_path / "secret.bin"
    (folder / "weights.bin").rename(secret)
    location = {"above": "../secret.bin", "absolute": str(secret), "link": "link.bin", "absent": "weights.bin"}[way]
    (folder / "link.bin").symlink_to(secret)
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        next(entry for entry in tensor.external_data if entry.key == "location").value = location
    path.write_bytes(model.SerializeToString())
    assert_refused(path, "keeps in other files cannot be read .* must be in the same folder")


def test_without_onnx_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert_refused(tmp_path / "network.onnx", r"pip install 'class-map-inspector\[onnx\]'")
