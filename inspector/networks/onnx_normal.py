"""Bring an ONNX model to one form: nodes in topological order, numbers in float32.

ONNX Runtime sorts the nodes itself, and some converters leave them in another order. It computes half precision on the
CPU in float32 as well, node by node; here the whole model is in float32, which is at least as precise.
"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto


def normalize_model(model: "ModelProto") -> None:
    """Sort the nodes of a model and turn its half-precision numbers into float32, in place.

    Raises:
        ValueError: nodes need each other's results in a circle.
    """
    _sort_nodes(model.graph)
    _widen(model.graph)


def _sort_nodes(graph: "GraphProto") -> None:
    nodes = list(graph.node)
    known = {"", *(value.name for value in graph.input), *(tensor.name for tensor in graph.initializer)}
    known |= {tensor.values.name for tensor in graph.sparse_initializer}
    for node in nodes:
        if not known.issuperset(node.input):
            break
        known.update(node.output)
    else:
        return
    producers = {name: k for k, node in enumerate(nodes) for name in node.output if name}
    users: dict[int, list[int]] = {k: [] for k in range(len(nodes))}
    waiting = {k: {producers[name] for name in node.input if name in producers} for k, node in enumerate(nodes)}
    for k, needed in waiting.items():
        for other in needed:
            users[other].append(k)
    ready = [k for k, needed in waiting.items() if not needed][::-1]
    order: list[int] = []
    while ready:
        order.append(ready.pop())
        for k in users[order[-1]]:
            waiting[k].discard(order[-1])
            if not waiting[k]:
                ready.append(k)
    if len(order) < len(nodes):
        raise ValueError("its operators need each other's results in a circle")
    del graph.node[:]
    graph.node.extend(nodes[k] for k in order)


def _widen(graph: "GraphProto") -> None:
    from onnx import AttributeProto, TensorProto

    for tensor in (*graph.initializer, *_list_attribute_tensors(graph.node)):
        _widen_tensor(tensor)
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16):
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for node in graph.node:
        for attribute in node.attribute:
            # The type that Cast, ConstantOfShape and others make.
            named = attribute.name in ("to", "dtype", "output_dtype") and attribute.type == AttributeProto.INT
            if named and attribute.i in (TensorProto.FLOAT16, TensorProto.BFLOAT16):
                attribute.i = TensorProto.FLOAT


def _list_attribute_tensors(nodes: "Iterable[NodeProto]") -> "Iterator[TensorProto]":
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def _widen_tensor(tensor: "TensorProto") -> None:
    import numpy as np
    from onnx import TensorProto
    from onnx.numpy_helper import from_array, to_array

    if tensor.data_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16):
        tensor.CopyFrom(from_array(to_array(tensor).astype(np.float32), tensor.name))
