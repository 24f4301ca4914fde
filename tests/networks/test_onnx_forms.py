"""ONNX files as converters write them: nodes in any order, half precision, old opsets, poolings in several steps."""

import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from test_onnx_model import (
    AVERAGE,
    GEMM,
    HEIGHT,
    NCHW,
    NHWC,
    TRUNK,
    TRUNK_LAST,
    WIDTH,
    Twin,
    assert_same_maps,
    make_model,
)

from inspector import class_maps_of_batch, load
from inspector.errors import NetworkError
from inspector.explain.kinds import OutputChoice
from inspector.networks.onnx_model import read_onnx
from inspector.networks.register import add_model


def save(model: onnx.ModelProto, tmp_path) -> object:
    onnx.save(model, tmp_path / "network.onnx")
    return tmp_path / "network.onnx"


@pytest.mark.parametrize("order", ["reversed", "rotated", "shuffled"])
def test_nodes_may_stand_in_any_order(tmp_path, order):
    model = make_model([*TRUNK, *AVERAGE, *GEMM])
    nodes = list(model.graph.node)
    changed = {
        "reversed": nodes[::-1],
        "rotated": nodes[2:] + nodes[:2],
        "shuffled": [nodes[k] for k in (3, 0, 4, 2, 1)],
    }
    del model.graph.node[:]
    model.graph.node.extend(changed[order])
    assert_same_maps(read_onnx(save(model, tmp_path)), Twin())


def test_nodes_in_a_circle_are_refused(tmp_path):
    model = make_model([*TRUNK, *AVERAGE, *GEMM])
    model.graph.node[0].input[0] = "maps"
    with pytest.raises(NetworkError, match=r"its operators need each other's results in a circle"):
        read_onnx(save(model, tmp_path))


def halve(model: onnx.ModelProto, keep_io: bool, constant_nodes: bool = False) -> onnx.ModelProto:
    """The model in half precision; with casts at both ends, as ONNX Runtime writes it, if these stay in float32."""
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype("float16"), tensor.name))
    if constant_nodes:
        for tensor in list(model.graph.initializer):
            model.graph.initializer.remove(tensor)
            model.graph.node.insert(0, helper.make_node("Constant", [], [tensor.name], value=tensor))
    if keep_io:
        first, last = model.graph.input[0].name, model.graph.output[0].name
        for node in model.graph.node:
            node.input[:] = ["half_in" if name == first else name for name in node.input]
            node.output[:] = ["half_out" if name == last else name for name in node.output]
        cast = helper.make_node("Cast", [first], ["half_in"], to=TensorProto.FLOAT16)
        # At the end of the file, as the converter does it.
        model.graph.node.extend([helper.make_node("Cast", ["half_out"], [last], to=TensorProto.FLOAT), cast])
    else:
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.elem_type = TensorProto.FLOAT16
    return model


@pytest.mark.parametrize("keep_io", [False, True])
@pytest.mark.parametrize("constant_nodes", [False, True])
@pytest.mark.parametrize("last", [False, True])
def test_half_precision_gives_the_maps_of_the_rounded_weights(tmp_path, keep_io, constant_nodes, last, monkeypatch):
    pool = [("ReduceMean", ["maps", "axes_1_2" if last else "axes_2_3"], "p", {"keepdims": 1})]
    model = make_model([*(TRUNK_LAST if last else TRUNK), *pool, *GEMM], NHWC if last else NCHW)
    network = read_onnx(save(halve(model, keep_io, constant_nodes), tmp_path))
    for name in ("CONV", "LINEAR", "BIAS"):
        import test_onnx_model

        monkeypatch.setattr(test_onnx_model, name, getattr(test_onnx_model, name).half().float())
    assert_same_maps(network, Twin())


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 17, 18, 20])
def test_old_and_new_opsets_are_read(tmp_path, opset):
    assert_same_maps(read_onnx(save(make_model([*TRUNK, *AVERAGE, *GEMM], opset=opset), tmp_path)), Twin())


STEPS = {
    "two axes, one after the other": [
        ("ReduceMax", ["maps", "axes_3"], "row", {"keepdims": 0}),
        ("ReduceMax", ["row", "axes_2"], "p", {"keepdims": 0}),
    ],
    "two axes that stay": [
        ("ReduceMax", ["maps", "axes_3"], "row", {"keepdims": 1}),
        ("ReduceMax", ["row", "axes_2"], "p", {"keepdims": 1}),
    ],
    "a row of all cells": [
        ("Reshape", ["maps", "shape_0_4_-1"], "row", {}),
        ("ReduceMax", ["row", "axes_2"], "p", {"keepdims": 0}),
    ],
}


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("kind", ["max", "average"])
def test_a_pooling_in_two_steps_is_found(tmp_path, steps, kind):
    operator = {"max": "ReduceMax", "average": "ReduceMean"}[kind]
    nodes = [(operator if op == "ReduceMax" else op, *rest) for op, *rest in STEPS[steps]]
    network = read_onnx(save(make_model([*TRUNK, *nodes, *GEMM]), tmp_path))
    assert network.compute_feature_maps(torch.zeros(1, 3, HEIGHT, WIDTH)).shape == (1, 4, HEIGHT, WIDTH)
    assert_same_maps(network, Twin(kind))


def test_the_highest_of_all_cells_by_top_k_is_a_maximum(tmp_path):
    model = make_model(
        [
            *TRUNK,
            ("Reshape", ["maps", "shape_0_4_-1"], "row", {}),
            ("TopK", ["row", "shape_1"], "top", {"axis": 2}),
            ("Squeeze", ["top", "axes_2"], "p", {}),
            *GEMM,
        ]
    )
    model.graph.node[3].output.append("indices")
    assert_same_maps(read_onnx(save(model, tmp_path)), Twin("max"))


# --- several outputs

TWO_HEADS = [*TRUNK, *AVERAGE, *GEMM, ("Gemm", ["f", "linear", "zeros_3"], "other", {"transB": 1})]


def name_outputs(nodes: list, *outputs: tuple[str, list[int | str] | None]) -> onnx.ModelProto:
    """A model with these outputs, each with its name and the shape that the file states."""
    model = make_model(nodes)
    if any("zeros_3" in node.input for node in model.graph.node):
        model.graph.initializer.append(numpy_helper.from_array(torch.zeros(3).numpy(), "zeros_3"))
    del model.graph.output[:]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs]
    model.graph.output.extend(values)
    return model


@pytest.mark.parametrize(
    "outputs",
    [
        [("maps", ["N", 4, HEIGHT, WIDTH]), ("y", ["N", 3])],  # feature maps beside the logits
        [("f", ["N", 4]), ("y", ["N", 3])],  # features, which are computed before
        [("f", None), ("y", None)],
        [("y", ["N", 3]), ("p", ["N", 4, 1, 1])],
    ],
)
def test_features_beside_the_logits_are_no_classes(tmp_path, outputs):
    path = save(name_outputs([*TRUNK, *AVERAGE, *GEMM], *outputs), tmp_path)
    classifier = load(path)
    assert classifier.output == "y"
    assert_same_maps(read_onnx(path), Twin())


def test_logits_beside_their_probabilities_are_explained(tmp_path):
    nodes = [*TRUNK, *AVERAGE, *GEMM, ("Softmax", ["y"], "probabilities", {})]
    for outputs in (["y", "probabilities"], ["probabilities", "y"]):
        path = save(name_outputs(nodes, *((name, ["N", 3]) for name in outputs)), tmp_path)
        assert load(path).probability == "softmax"
        assert_same_maps(read_onnx(path), Twin())


def test_of_several_heads_one_is_named(tmp_path):
    path = save(name_outputs(TWO_HEADS, ("y", ["N", 3]), ("other", ["N", 3])), tmp_path)
    with pytest.raises(NetworkError, match=r"Several outputs of network.onnx may hold the logits: y, other. Choose"):
        load(path)
    with pytest.raises(NetworkError, match=r"No output 'third'. network.onnx returns 'y', 'other'"):
        load(path, output="third")
    image = torch.randn(1, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1))
    for chosen, name, has_bias in (("y", "y", True), (0, "y", True), ("other", "other", False), ("-1", "other", False)):
        classifier = load(path, output=chosen)
        (maps,) = class_maps_of_batch(classifier, image)
        assert (classifier.output, maps.verdict, bool(maps.bias.any())) == (name, "exact", has_bias)
    with pytest.raises(NetworkError, match="No output 'third'"):
        load(save(make_model([*TRUNK, *AVERAGE, *GEMM]), tmp_path), output="third")


def test_a_file_with_several_heads_keeps_its_output_when_it_is_added(tmp_path, monkeypatch):
    monkeypatch.setenv("INSPECTOR_MODELS", str(tmp_path / "models"))
    path = save(name_outputs(TWO_HEADS, ("y", ["N", 3]), ("other", ["N", 3])), tmp_path)
    add_model(path, "two-heads", output=OutputChoice("other"))
    assert load("two-heads").output == "other"
