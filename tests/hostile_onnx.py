"""ONNX files of one kilobyte: a harmless one, and those that crash ONNX Runtime, fill the memory or never end."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_RANDOM = np.random.default_rng(0)
_CONV = _RANDOM.standard_normal((4, 3, 1, 1), np.float32)
_SQUARE = _RANDOM.standard_normal((4, 4, 1, 1), np.float32)
_LINEAR = _RANDOM.standard_normal((4, 3), np.float32)

Node = tuple[str, list[str], str, dict[str, Any]]  # operator, inputs, output, attributes


def make_model(
    before: Sequence[Node] = (),
    behind: Sequence[Node] = (),
    constants: dict[str, np.ndarray] | None = None,
    maps: str = "c",
    pooled: str = "flat",
    batch: int | str = 1,
    domains: Sequence[str] = (),
) -> onnx.ModelProto:
    """Make a convolution, `before` on its maps "c", average pooling, `behind` on the pooled values "flat", a MatMul."""
    nodes: list[Node] = [
        ("Conv", ["x", "conv"], "c", {}),
        *before,
        ("GlobalAveragePool", [maps], "p", {}),
        ("Flatten", ["p"], "flat", {}),
        *behind,
        ("MatMul", [pooled, "linear"], "y", {}),
    ]
    weights = {"conv": _CONV, "linear": _LINEAR, "square": _SQUARE, "zero": np.zeros(1, np.float32)}
    used = {name for _, inputs, _, _ in nodes for name in inputs}
    graph = helper.make_graph(
        [helper.make_node(operator, inputs, [out], **attributes) for operator, inputs, out, attributes in nodes],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 32, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(v, name) for name, v in (weights | (constants or {})).items() if name in used],
    )
    opsets = [helper.make_opsetid("", 17), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def divide(operator: str, kind: type[np.signedinteger], from_image: bool, divisor: int = -1) -> onnx.ModelProto:
    """Divide the smallest integer by -1, as constants, or as numbers that are computed from the image."""
    number = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    constants = {
        "lowest": np.array([np.iinfo(kind).min], kind),
        "minus": np.array([divisor], kind),
        "none": np.zeros(1, kind),
    }
    nodes: list[Node] = [
        ("ArgMax", ["flat"], "am", {"axis": 1}),
        ("Cast", ["am"], "place", {"to": number}),
        ("Mul", ["place", "none"], "nothing", {}),
        ("Add", ["nothing", "lowest"], "above", {}),
        ("Add", ["nothing", "minus"], "below", {}),
    ]
    last: list[Node] = [
        (operator, ["above", "below"] if from_image else ["lowest", "minus"], "quotient", {}),
        ("Cast", ["quotient"], "float", {"to": TensorProto.FLOAT}),
        ("Mul", ["float", "zero"], "product", {}),
        ("Add", ["flat", "product"], "sum", {}),
    ]
    return make_model(behind=[*(nodes if from_image else []), *last], constants=constants, pooled="sum")


def add_mean_of(nodes: Sequence[Node], big: str, **constants: np.ndarray) -> onnx.ModelProto:
    """Add the mean of a big tensor to the pooled values."""
    mean: Node = ("ReduceMean", [big], "mean", {"keepdims": 0})
    return make_model(behind=[*nodes, mean, ("Add", ["flat", "mean"], "sum", {})], constants=constants, pooled="sum")


def double_channels(times: int) -> onnx.ModelProto:
    nodes: list[Node] = [("Concat", [f"c{n - 1}" if n else "c", f"c{n - 1}" if n else "c"], f"c{n}", {"axis": 1})
                         for n in range(times)]  # fmt: skip
    mean: Node = ("ReduceMean", [f"c{times - 1}"], "mean", {"axes": [1]})
    return make_model([*nodes, mean, ("Mul", ["c", "mean"], "maps", {})], maps="maps", batch="N")


def loop() -> onnx.ModelProto:
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["on"], ["on_out"]), helper.make_node("Add", ["v", "v"], ["v_out"])],
        "body",
        [value("n", TensorProto.INT64, []), value("on", TensorProto.BOOL, []), value("v", TensorProto.FLOAT, None)],
        [value("on_out", TensorProto.BOOL, []), value("v_out", TensorProto.FLOAT, None)],
    )
    constants = {"times": np.array(2**62), "yes": np.array(True)}
    nodes: list[Node] = [("Loop", ["times", "yes", "flat"], "looped", {"body": body})]
    return make_model(behind=nodes, constants=constants, pooled="looped")


MODELS = {
    "harmless": make_model(),
    "divide": divide("Div", np.int64, from_image=True),
    "divide constants": divide("Div", np.int32, from_image=False),
    "remainder": divide("Mod", np.int32, from_image=True),
    "depth to space": make_model([("DepthToSpace", ["c"], "maps", {"blocksize": 2**40})], maps="maps"),
}
