"""Add class maps to the trunk of an ONNX graph, by operators that every opset since 9 has.

inputs (N, channels, H, W) -> trunk -> feature maps (N, C, h, w) -> maps (N, K, h, w), logits (N, K)
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from inspector.explain.kinds import Pooling

if TYPE_CHECKING:
    from onnx import ModelProto

_TRANSPOSED = {"to_last": [0, 2, 3, 1], "to_first": [0, 3, 1, 2]}


def add_class_maps(
    trunk: "ModelProto",
    channels_last: tuple[bool, bool],
    pooling: Pooling,
    grid: tuple[int, int, int],
    weight: NDArray[np.float32],
    bias: NDArray[np.float32],
) -> "ModelProto":
    """Add class maps and logits to a trunk.

    Args:
        trunk: graph with one input, a batch of images, and one output, feature maps.
        channels_last: whether the channels are last in its input, and in its output.
        pooling: the pooling that follows: "average", "max" or "flatten".
        grid: (C, h, w) of the feature maps.
        weight: (K, P) of what follows the pooling.
        bias: (K,).

    Returns:
        A model with the input "inputs" and the outputs "logits" and "maps".
    """
    from onnx import TensorProto, compose, helper
    from onnx.numpy_helper import from_array

    trunk = compose.add_prefix(trunk, "network/")  # its own names may be those that are added here
    graph, (channels, height, width), classes = trunk.graph, grid, len(bias)
    cells, first, last = height * width, graph.input[0], graph.output[0].name
    constants: dict[str, NDArray[Any]] = {"bias": bias[None], "cells": np.array(cells, np.float32)}
    nodes: list[tuple[str, list[str], str, dict[str, Any]]] = []
    sides = [side.dim_value or side.dim_param or None for side in first.type.tensor_type.shape.dim]
    inputs = helper.make_tensor_value_info(
        "inputs", TensorProto.FLOAT, [sides[n] for n in _TRANSPOSED["to_first"]] if channels_last[0] else sides
    )
    before = helper.make_node("Identity", ["inputs"], [first.name])
    if channels_last[0]:
        before = helper.make_node("Transpose", ["inputs"], [first.name], perm=_TRANSPOSED["to_last"])
    features = last
    if channels_last[1]:
        nodes.append(("Transpose", [last], "class_maps/features", {"perm": _TRANSPOSED["to_first"]}))
        features = "class_maps/features"
    constants |= {"by_cell": np.array([0, channels, cells]), "by_row": np.array([0, classes, height, width])}
    if pooling == "flatten":
        # Each cell has its own columns of the weight: (h * w, N, C) @ (h * w, C, K).
        constants["weight"] = weight.reshape(classes, channels, cells).transpose(2, 1, 0)
        nodes += [
            ("Reshape", [features, "by_cell"], "cells_last", {}),
            ("Transpose", ["cells_last"], "cells_first", {"perm": [2, 0, 1]}),
            ("MatMul", ["cells_first", "weight"], "contributions", {}),
            ("Transpose", ["contributions"], "classes_first", {"perm": [1, 2, 0]}),
            ("Reshape", ["classes_first", "by_row"], "maps", {}),
        ]
    else:
        if pooling == "max":
            # Each channel counts at the first cell of its maximum only.
            constants |= {"depth": np.array([cells]), "off_on": np.array([0, 1], np.float32)}
            constants["by_grid"] = np.array([0, channels, height, width])
            nodes += [
                ("Reshape", [features, "by_cell"], "flat", {}),
                ("ArgMax", ["flat"], "highest", {"axis": 2, "keepdims": 0}),
                ("OneHot", ["highest", "depth", "off_on"], "mask", {"axis": -1}),
                ("Mul", ["flat", "mask"], "maxima", {}),
                ("Reshape", ["maxima", "by_grid"], "pooled_cells", {}),
            ]
        constants["weight"] = weight[:, :, None, None] / (cells if pooling == "average" else 1)
        nodes.append(("Conv", [features if pooling == "average" else "class_maps/pooled_cells", "weight"], "maps", {}))
    nodes += [
        ("GlobalAveragePool", ["maps"], "means", {}),
        ("Flatten", ["means"], "flat_means", {}),
        ("Mul", ["flat_means", "cells"], "sums", {}),
        ("Add", ["sums", "bias"], "logits", {}),
    ]
    made = {name for _, _, name, _ in nodes} | constants.keys()

    def rename(name: str) -> str:
        return name if name in ("logits", "maps") or name not in made else f"class_maps/{name}"

    ours = [
        helper.make_node(operator, [rename(name) for name in names], [rename(result)], **attributes)
        for operator, names, result, attributes in nodes
    ]
    used = {name for _, names, _, _ in nodes for name in names}
    theirs = list(graph.node)
    del graph.node[:], graph.input[:], graph.output[:]
    graph.node.extend([before, *theirs, *ours])
    graph.input.append(inputs)
    graph.initializer.extend(
        from_array(np.ascontiguousarray(values), rename(name)) for name, values in constants.items() if name in used
    )
    for name, shape in (("logits", [None, classes]), ("maps", [None, classes, height, width])):
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    return trunk
