"""Which graphs are run: those whose operators cannot crash, run for ever or fill the memory."""

from pathlib import Path

import hostile_onnx
import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
import torchvision
from hostile_onnx import add_mean_of, divide, double_channels, loop, make_model
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from inspector.errors import NetworkError
from inspector.networks.onnx_graph import read_graph
from inspector.networks.onnx_operators import check_operators


def refuse(model: onnx.ModelProto, match: str) -> None:
    with pytest.raises(NetworkError, match=match) as caught:
        check_operators(model, "a.onnx")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("from_image", [True, False])
@pytest.mark.parametrize("kind", [np.int32, np.int64])
@pytest.mark.parametrize("operator", ["Div", "Mod"])
@pytest.mark.parametrize("divisor", [-1, 0])
def test_integers_are_divided_neither_by_constants_that_crash_nor_by_numbers_from_pixels(
    operator: str, kind: type[np.signedinteger], from_image: bool, divisor: int
) -> None:
    refuse(divide(operator, kind, from_image, divisor), f"its operator {operator} may divide integers by 0 or -1")
    if not from_image:
        check_operators(divide(operator, kind, False, 7), "a.onnx")


@pytest.mark.parametrize("operator", ["Div", "Mod"])
@pytest.mark.parametrize("kind", [np.int32, np.int64])
@pytest.mark.parametrize(("divisor", "expected"), [(3, {"Div": 32 // 3, "Mod": 32 % 3}), (-1, {"Div": -32, "Mod": 0})])
def test_a_division_of_sizes_is_guarded_and_has_the_same_result(
    operator: str, kind: type[np.signedinteger], divisor: int, expected: dict[str, int]
) -> None:
    number = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    # The height, and the divisor as the height plus a constant, so that it is -1 for some size only.
    nodes: list[hostile_onnx.Node] = [
        ("Shape", ["c"], "shape", {"start": 2, "end": 3}),
        ("Cast", ["shape"], "height", {"to": number}),
        ("Add", ["height", "offset"], "divisor", {}),
        (operator, ["height", "divisor"], "quotient", {}),
        ("Cast", ["quotient"], "float", {"to": TensorProto.FLOAT}),
        ("Add", ["flat", "float"], "sum", {}),
    ]
    model = make_model(behind=nodes, constants={"offset": np.array([divisor - 32], kind)}, pooled="sum")
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("quotient", number, None))
    check_operators(model, "a.onnx")
    assert "Where" in [node.op_type for node in model.graph.node]
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {"x": np.zeros((1, 3, 32, 32), np.float32)})
    assert np.asarray(result).tolist() == [expected[operator]]


def test_the_smallest_integer_divided_by_a_size_that_is_minus_one_does_not_crash() -> None:
    nodes: list[hostile_onnx.Node] = [
        ("Shape", ["c"], "height", {"start": 2, "end": 3}),
        ("Add", ["height", "offset"], "minus", {}),
        ("Add", ["minus", "lowest"], "above", {}),
        ("Div", ["above", "minus"], "quotient", {}),
        ("Cast", ["quotient"], "float", {"to": TensorProto.FLOAT}),
        ("Add", ["flat", "float"], "sum", {}),
    ]
    constants = {"offset": np.array([-33]), "lowest": np.array([np.iinfo(np.int64).min + 1])}
    model = make_model(behind=nodes, constants=constants, pooled="sum")
    check_operators(model, "a.onnx")
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    session.run(None, {"x": np.zeros((1, 3, 32, 32), np.float32)})


@pytest.mark.parametrize(
    ("nodes", "constants"),
    [
        ([("Div", ["c", "c"], "maps", {})], {}),
        ([("Mod", ["c", "zero"], "maps", {"fmod": 1})], {}),
        ([("Gelu", ["c"], "g", {}), ("Div", ["g", "g"], "maps", {})], {}),
        (
            [
                ("Shape", ["c"], "shape", {}),
                ("Gather", ["shape", "two"], "height", {}),
                ("Div", ["height", "height"], "one", {}),
                ("Unsqueeze", ["one", "none"], "ones", {}),
                ("Cast", ["ones"], "float", {"to": TensorProto.FLOAT}),
                ("Mul", ["c", "float"], "maps", {}),
            ],
            {"two": np.array(2), "none": np.array([0])},
        ),
    ],
)
def test_floats_and_shapes_are_divided(nodes: list[hostile_onnx.Node], constants: dict[str, np.ndarray]) -> None:
    model = make_model(nodes, constants=constants, maps="maps", domains=["com.microsoft"])
    for node in model.graph.node:
        node.domain = "com.microsoft" if node.op_type == "Gelu" else ""
    check_operators(model, "a.onnx")


@pytest.mark.parametrize("batch", [1, "N"])
@pytest.mark.parametrize(
    ("nodes", "constants"),
    [
        ([("ConstantOfShape", ["n"], "big", {})], {"n": np.array([3_000_000_000])}),
        ([("Expand", ["flat", "n"], "big", {})], {"n": np.array([800_000_000, 1, 4])}),
        ([("Tile", ["flat", "n"], "big", {})], {"n": np.array([1, 800_000_000])}),
        ([("Range", ["a", "n", "b"], "big", {})], {"a": np.array(0.0), "n": np.array(3e9), "b": np.array(1.0)}),
        (
            [("ArgMax", ["flat"], "place", {}), ("OneHot", ["place", "n", "off_on"], "big", {})],
            {"n": np.array(3_000_000_000), "off_on": np.array([0.0, 1.0], np.float32)},
        ),
        ([("Pad", ["flat", "n"], "big", {})], {"n": np.array([0, 0, 0, 3_000_000_000])}),
    ],
)
def test_a_tensor_that_is_too_large_is_refused(
    nodes: list[hostile_onnx.Node], constants: dict[str, np.ndarray], batch: int | str
) -> None:
    model = add_mean_of(nodes, "big", **constants)
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 32, 32]))
    refuse(model, r"makes a tensor of [\d,]+ values, and at most 134,217,728 are possible")


def test_doubling_is_refused_at_the_size_that_is_too_large() -> None:
    check_operators(double_channels(10), "a.onnx")
    refuse(double_channels(16), "Concat makes a tensor of 268,435,456 values")


@pytest.mark.parametrize("operator", ["ConstantOfShape", "Expand", "Tile"])
def test_sizes_do_not_depend_on_pixels(operator: str) -> None:
    size: list[hostile_onnx.Node] = [
        ("ReduceMax", ["flat"], "highest", {"axes": [0, 1], "keepdims": 0}),
        ("Cast", ["highest"], "number", {"to": TensorProto.INT64}),
        ("Reshape", ["number", "one"], "size", {}),
        (operator, ["size"] if operator == "ConstantOfShape" else ["zero", "size"], "big", {}),
    ]
    refuse(add_mean_of(size, "big", one=np.array([1])), f"{operator} makes tensors whose size depends on the pixels")


@pytest.mark.parametrize(
    ("node", "match"),
    [
        (("ConvTranspose", ["c", "square"], "maps", {"group": 0}), "has group 0, and 1 to 65536 are possible"),
        (("Conv", ["c", "square"], "maps", {"group": -1}), "has group -1"),
        (("Conv", ["c", "square"], "maps", {"strides": [0, 1]}), "has strides 0, 1"),
        (("Conv", ["c", "square"], "maps", {"pads": [0, 0, 1 << 40, 0]}), "has pads 0, 0, 1099511627776, 0"),
        (("MaxPool", ["c"], "maps", {"kernel_shape": [1, 1 << 40]}), "has kernel_shape 1, 1099511627776"),
        (("DepthToSpace", ["c"], "maps", {"blocksize": 0}), "has blocksize 0"),
        (("DepthToSpace", ["c"], "maps", {"blocksize": 1 << 40}), "has blocksize 1099511627776"),
        (("SpaceToDepth", ["c"], "maps", {"blocksize": -1}), "has blocksize -1"),
    ],
)
def test_counts_and_windows_are_bounded(node: hostile_onnx.Node, match: str) -> None:
    refuse(make_model([node], maps="maps"), match)


@pytest.mark.parametrize("operator", ["RandomNormalLike", "ImageDecoder", "SequenceConstruct", "NonMaxSuppression"])
def test_operators_that_are_not_on_the_list_are_refused(operator: str) -> None:
    refuse(make_model([(operator, ["c"], "maps", {})], maps="maps"), f"its operator {operator} is not one of those")


def test_control_flow_is_refused() -> None:
    refuse(loop(), "its operator Loop is not one of those that are run; export the network for inference")


def test_operators_of_other_domains_are_refused_by_their_full_name() -> None:
    model = make_model([("Evil\n", ["c"], "maps", {})], maps="maps")
    model.graph.node[1].domain = "com.evil"
    refuse(model, r"its operator com\.evil\.Evil  is not one of")


def test_functions_in_the_file_are_searched_too(tmp_path: Path) -> None:
    model = make_model([("Hidden", ["c"], "maps", {})], maps="maps", domains=["own"])
    model.graph.node[1].domain = "own"
    body = [helper.make_node("RandomNormalLike", ["a"], ["b"])]
    model.functions.append(helper.make_function("own", "Hidden", ["a"], ["b"], body, [helper.make_opsetid("", 17)]))
    onnx.save(model, tmp_path / "a.onnx")
    with pytest.raises(NetworkError, match="its operator RandomNormalLike is not one of"):
        read_graph(tmp_path / "a.onnx", 10**9)


def test_sparse_weights_are_refused() -> None:
    model = make_model()
    values, places = (
        numpy_helper.from_array(np.ones(1, np.float32), "w"),
        numpy_helper.from_array(np.zeros(1, np.int64)),
    )
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [1 << 40]))
    refuse(model, "holds sparse weights")


class Windows(nn.Module):
    """Reshapes by a division of the input's sides, as Swin and its relatives export it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 4, 1), nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        maps = self.conv(inputs)
        n, c, height, width = maps.shape
        windows = maps.view(n, c, height // 4, 4, width // 4, 4).permute(0, 1, 2, 4, 3, 5)
        back = windows.permute(0, 1, 2, 4, 3, 5).reshape(n, c, height, width)
        logits: Tensor = self.linear(back.mean((2, 3)))
        return logits


def build_network(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name == "swin":
        return torchvision.models.SwinTransformer([4, 4], 8, [2], [2], [7, 7], num_classes=3).eval()
    if name.startswith("timm:"):
        return timm.create_model(name.removeprefix("timm:"), num_classes=3).eval()
    return Windows().eval() if name == "windows" else torchvision.models.get_model(name, num_classes=3).eval()


# torch's newer exporter needs another package.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("name", ["windows", "mobilenet_v3_small", "shufflenet_v2_x0_5", "swin", "timm:test_convnext"])
def test_graphs_that_torch_exports_pass(tmp_path: Path, name: str, dynamic: bool) -> None:
    axes = {"x": {0: "N", 2: "H", 3: "W"}} if dynamic else None
    torch.onnx.export(
        build_network(name), (torch.zeros(1, 3, 64, 64),), str(tmp_path / "a.onnx"), dynamo=False, input_names=["x"],
        dynamic_axes=axes,
    )  # fmt: skip
    read_graph(tmp_path / "a.onnx", 10**9)
