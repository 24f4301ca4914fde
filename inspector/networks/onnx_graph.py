"""Read an ONNX file safely, and search its graph.

This module runs no operators. It parses the file and reads weights that the file keeps in other files, and refuses
files that are too large.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from inspector.errors import NetworkError, require, translate_errors
from inspector.explain.kinds import OutputActivation
from inspector.explain.receptive_field import PIXELS, ReceptiveField
from inspector.explain.tracing.outputs import HOW_TO_CHOOSE, LOGITS_NAMES
from inspector.explain.tracing.receptive_field import slide_window
from inspector.networks.checkpoint import check_size
from inspector.networks.onnx_normal import normalize_model
from inspector.networks.onnx_operators import check_operators

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto

ChannelOrder = Literal["channels first", "channels last"]
Tensors = Mapping[str, Any]  # name of a tensor -> its values
Window = tuple[int, int, int, int]  # kernel, stride, padding at the start, dilation; along one axis

MAX_BYTES = 1_000_000_000  # default limit for a file; protobuf itself allows up to 2 GB

_OUTPUT_ACTIVATIONS: dict[str, OutputActivation] = {"Softmax": "softmax", "LogSoftmax": "softmax", "Sigmoid": "sigmoid"}
# Operators that keep the grid: each cell of the output depends on the same cell of the inputs.
_POINTWISE = {
    "Relu", "Clip", "LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Erf",
    "Gelu", "Mish", "Softplus", "Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Min", "Max", "Concat", "Identity",
    "Dropout", "BatchNormalization", "LRN", "Cast",
}  # fmt: skip
_WINDOWS = {"Conv", "MaxPool", "AveragePool", "LpPool"}
_RESHAPING = {"Identity", "Flatten", "Reshape", "Squeeze"}
# ONNX defines these operators with channels first.
_CHANNELS_FIRST = {"Conv", "ConvTranspose", "MaxPool", "AveragePool", "BatchNormalization"}


@dataclass(frozen=True, eq=False)
class Graph:
    """The graph of an ONNX file, up to its logits."""

    model: "ModelProto"
    start: str  # name of the input tensor
    logits: str  # name of the tensor of logits
    shape: tuple[int | None, ...]  # shape of one input image, in the graph's channel order; None: any size
    channel_order: ChannelOrder
    output_activation: OutputActivation | None
    other_files: tuple[str, ...]  # files beside this one that hold weights
    output: str | None  # name of the output that the logits lead to, if the file has several outputs

    def __deepcopy__(self, memo: dict[int, Any]) -> "Graph":
        return self  # nothing changes a graph, so copies of a network share it

    @cached_property
    def producers(self) -> "dict[str, NodeProto]":
        """The node that computes each tensor, by the name of the tensor."""
        return {name: node for node in self.model.graph.node for name in node.output if name}

    @cached_property
    def constants(self) -> "dict[str, TensorProto]":
        """All constant tensors of the graph by name: weights and the outputs of Constant nodes."""
        constants = {tensor.name: tensor for tensor in self.model.graph.initializer}
        for name, node in self.producers.items():
            if node.op_type == "Constant" and (value := read_attribute(node, "value", None)) is not None:
                constants[name] = value
        return constants

    def read_constant(self, name: str) -> Sequence[int] | None:
        """Return the values of a constant; None if there is no constant of this name."""
        from onnx.numpy_helper import to_array

        return to_array(self.constants[name]).tolist() if name in self.constants else None

    def read_constant_shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a constant; () if there is no constant of this name."""
        return tuple(self.constants[name].dims) if name in self.constants else ()

    def find_nodes_between(self, target: str, stops: Iterable[str] = ()) -> "list[NodeProto]":
        """Find all nodes needed to compute the tensor ``target`` from the tensors ``stops``, in order."""
        excluded = {"", *stops}  # "" is the name of an optional input or output that is not used
        needed, found = {target} - excluded, []
        for node in reversed(self.model.graph.node):
            if not needed.isdisjoint(node.output):
                found.append(node)
                needed.update(set(node.input) - excluded)
        return found[::-1]

    def find_tensors_after(self, start: str) -> set[str]:
        """Find the names of all tensors that depend on the tensor ``start``."""
        reached = {start}
        for node in self.model.graph.node:
            if not reached.isdisjoint(node.input):
                reached.update(node.output)
        return reached - {start}

    def find_channel_order(self, name: str) -> ChannelOrder:
        """Find the channel order of a tensor from the nearest operator before the tensor that fixes the order."""
        while name in self.producers:
            node = self.producers[name]
            if node.op_type in _CHANNELS_FIRST:
                return "channels first"
            if node.op_type == "Transpose" and len(order := read_attribute(node, "perm", ())) == 4:
                return "channels last" if list(order) == [0, 2, 3, 1] else "channels first"
            before = [other for other in node.input if other == self.start or other in self.producers]
            # Skip constants: a node may produce them, too, but such a node has no inputs.
            name = next((other for other in before if other == self.start or self.producers[other].input), "")
        return self.channel_order


def read_graph(path: Path, max_bytes: int, output: str | int | None = None) -> Graph:
    """Read the graph in an ONNX file, including weights that the file keeps in other files.

    Args:
        path: the file.
        max_bytes: limit for the total size of these files.
        output: name or index of the output that holds the logits. Default: the only one that can. An output from which
            another one is computed holds features, not logits.

    Raises:
        NetworkError: the file is not an ONNX file or is too large, its input is not one batch of images, it has no such
            output, or several may hold the logits.
    """
    model, other_files = _parse(path, max_bytes)
    with translate_errors(NetworkError, f"{path.name} is no ONNX file, or is broken ({{reason}}). Export it again."):
        normalize_model(model)
    check_operators(model, path.name)
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs[:5]) or "none"
        raise NetworkError(f"{path.name} must have one input, a batch of images; it has {len(inputs)}: {names}.")
    shape = _read_image_shape(path.name, inputs[0])
    # The last axis has 1 or 3 entries and the first does not, so the channels are last, as in TensorFlow.
    last = shape[2] in (1, 3) and shape[0] not in (1, 3)
    name = _choose_output(model, path.name, output)
    logits, activation = _find_logits(model, name)
    return Graph(
        model,
        inputs[0].name,
        logits,
        shape,
        "channels last" if last else "channels first",
        activation,
        other_files,
        name if len(model.graph.output) > 1 else None,
    )


def _choose_output(model: "ModelProto", file: str, wanted: str | int | None) -> str:
    """Return the name of the output that holds the logits, or what an output activation makes of them."""
    outputs: dict[str, Any] = {value.name: value for value in model.graph.output}
    names, text = list(outputs), str(wanted)
    listed = ", ".join(map(repr, names))
    if wanted is not None:
        if text not in outputs and text.lstrip("-").isdecimal() and -len(names) <= int(text) < len(names):
            return names[int(text)]
        if text not in outputs:
            raise NetworkError(f"No output {text!r}. {file} returns {listed}. {HOW_TO_CHOOSE}.")
        return text
    possible = [name for name, value in outputs.items() if _may_be_logits(value)]
    needed: set[str] = set()  # by other outputs that may hold the logits
    for name in possible:
        needed |= _find_tensors_before(model, name)
    final = [name for name in possible if name not in needed]
    named = [name for name in LOGITS_NAMES if name in final]
    if len(final) > 1 and not named:
        raise NetworkError(f"Several outputs of {file} may hold the logits: {', '.join(final)}. {HOW_TO_CHOOSE}.")
    return (named or final or names)[0]


def _may_be_logits(value: "ValueInfoProto") -> bool:
    """Tell whether an output may have the shape (N, K), (N, K, 1, 1) or (N,), as far as the file states its shape."""
    from onnx import TensorProto

    tensor = value.type.tensor_type
    if tensor.elem_type not in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE):
        return False
    sides = [side.dim_value if side.HasField("dim_value") else None for side in tensor.shape.dim]
    return not tensor.HasField("shape") or (len(sides) > 0 and all(side in (None, 1) for side in sides[2:]))


def _find_tensors_before(model: "ModelProto", name: str) -> set[str]:
    """Find the names of all tensors that the tensor ``name`` is computed from."""
    needed = {name}
    for node in reversed(model.graph.node):
        if not needed.isdisjoint(node.output):
            needed.update(node.input)
    return needed - {name}


def _read_image_shape(name: str, value: "ValueInfoProto") -> tuple[int | None, ...]:
    from onnx import TensorProto

    tensor = value.type.tensor_type
    kind = TensorProto.DataType.Name(tensor.elem_type)
    batch, *shape = [d.dim_value if d.dim_value > 0 else None for d in tensor.shape.dim] or [None]
    if len(shape) != 3 or tensor.elem_type != TensorProto.FLOAT:
        axes = len(shape) + 1 if tensor.shape.dim else "unknown"
        expected = "must take floating-point images of 4 axes, (N, C, H, W) or (N, H, W, C)"
        raise NetworkError(f"{name} {expected}; its input {value.name} has {axes} axes of {kind}.")
    if batch not in (None, 1):
        hint = "Export it for batches of 1 or of any size"
        raise NetworkError(f"{name} takes batches of exactly {batch} images. {hint}.")
    return tuple(shape)


def _parse(path: Path, max_bytes: int) -> "tuple[ModelProto, tuple[str, ...]]":
    """Parse the file, and load weights that it keeps in other files. Return the model and the names of these files."""
    onnx = require(
        "onnx", "onnx.inliner", "onnxruntime", extra="onnx", purpose=f"Reading {path.name}", error=NetworkError
    )
    broken = f"{path.name} is no ONNX file, or is broken or cut off ({{reason}}). Export or copy it again."
    with translate_errors(NetworkError, broken, {OSError: f"Cannot read {path}: {{reason}}."}):
        size = path.stat().st_size
        check_size(path, size, max_bytes)
        model: ModelProto = onnx.load_model_from_string(path.read_bytes())
        if not model.ir_version or not model.graph.node or not model.graph.output:
            raise ValueError("it holds no graph")
        if model.functions:
            model = onnx.inliner.inline_local_functions(model)
    return model, _load_external_data(path, model, max_bytes - size)


def _load_external_data(path: Path, model: "ModelProto", limit: int) -> tuple[str, ...]:
    from onnx import external_data_helper as external

    hint = "they must be in the same folder, under the names they were exported with"
    unreadable = f"The weights that {path.name} keeps in other files cannot be read ({{reason}}): {hint}."
    with translate_errors(NetworkError, unreadable):  # onnx raises an error for links and for files in other folders
        outside = [tensor for tensor in external._get_all_tensors(model) if external.uses_external_data(tensor)]
        infos = [external.ExternalDataInfo(tensor) for tensor in outside]
        # Add the sizes of all tensors: several may name the same file, and each then gets a copy.
        sizes = [info.length or (path.parent / info.location).stat().st_size for info in infos]
        check_size(path, sum(sizes), limit)
        external.load_external_data_for_model(model, str(path.parent))
    return tuple(sorted({info.location for info in infos}))


def _find_logits(model: "ModelProto", output: str) -> tuple[str, OutputActivation | None]:
    """Find the name of the tensor of logits, and the output activation that follows it (None if there is none)."""
    producers = {name: node for node in model.graph.node for name in node.output}
    name = output
    for _ in model.graph.node:
        node = producers.get(name)
        if node is None or not node.input:
            break
        if node.op_type in _OUTPUT_ACTIVATIONS and read_attribute(node, "axis", 1) != 0:
            return node.input[0], _OUTPUT_ACTIVATIONS[node.op_type]
        if node.op_type not in _RESHAPING:
            break
        name = node.input[0]
    return output, None


def read_attribute(node: "NodeProto", name: str, default: Any) -> Any:
    """Return the value of a node's attribute, or the default if the node does not have it."""
    from onnx.helper import get_attribute_value

    return next((get_attribute_value(attribute) for attribute in node.attribute if attribute.name == name), default)


def depends_on_size(node: "NodeProto") -> bool:
    """Return whether the padding of a node depends on the size of its input, as with SAME in TensorFlow."""
    return node.op_type in _WINDOWS and read_attribute(node, "auto_pad", b"NOTSET").startswith(b"SAME")


def find_receptive_field(graph: Graph, target: str, tensors: Tensors) -> ReceptiveField | None:
    """Compute the receptive field of the feature maps ``target``.

    Args:
        graph: the graph.
        target: name of the tensor of feature maps.
        tensors: recorded values by name; needed are the inputs of nodes whose padding depends on the input size.

    Returns:
        The receptive field; None if an operator before ``target`` moves cells in a way that this module does not know.
    """
    fields: dict[str, ReceptiveField | None] = {graph.start: PIXELS}
    for node in graph.find_nodes_between(target):
        before = [fields[name] for name in node.input if name in fields]
        if before:
            fields |= dict.fromkeys(node.output, _propagate(graph, node, before, tensors))
    return fields.get(target)


def _propagate(
    graph: Graph, node: "NodeProto", before: Sequence[ReceptiveField | None], tensors: Tensors
) -> ReceptiveField | None:
    known = [field for field in before if field is not None]
    transposed = node.op_type == "Transpose" and list(read_attribute(node, "perm", ())) in ([0, 2, 3, 1], [0, 3, 1, 2])
    if known and (transposed or node.op_type in _POINTWISE):
        return _merge_branches(known, lost=len(known) < len(before))
    if not known or node.op_type not in (*_WINDOWS, "Pad"):
        return None
    windows = _read_padding(graph, node) if node.op_type == "Pad" else _read_windows(graph, node, tensors)
    return windows and ReceptiveField(slide_window(known[0].y, *windows[0]), slide_window(known[0].x, *windows[1]))


def _merge_branches(known: Sequence[ReceptiveField], lost: bool) -> ReceptiveField:
    """Merge fields of branches: take the finest grid and the largest size; an unknown field has infinite size."""
    # Of fields with equal stride take the smallest: a branch pooled over the whole map has no grid.
    finest = min(known, key=lambda field: (field.y.stride, field.y.size))
    y, x = (math.inf if lost else max(getattr(field, axis).size for field in known) for axis in "yx")
    return ReceptiveField(replace(finest.y, size=y), replace(finest.x, size=x))


def _read_windows(graph: Graph, node: "NodeProto", tensors: Tensors) -> tuple[Window, Window] | None:
    """Read a node's windows along y and x; None if it does not have two spatial axes."""
    kernel = read_attribute(node, "kernel_shape", None) or graph.read_constant_shape(node.input[1])[2:]
    strides, dilations = (read_attribute(node, name, [1, 1]) for name in ("strides", "dilations"))
    pads = read_attribute(node, "pads", [0, 0, 0, 0])[:2]
    if len(kernel) != 2:
        return None
    if depends_on_size(node):
        # If the padding is odd, the extra pixel is at the end with SAME_UPPER and at the start with SAME_LOWER.
        upper = read_attribute(node, "auto_pad", b"") == b"SAME_UPPER"
        reaches = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
        sizes = tensors[node.input[0]].shape[2:]
        sums = [max((-(-n // s) - 1) * s + r - n, 0) for n, s, r in zip(sizes, strides, reaches, strict=True)]
        pads = [total // 2 if upper else -(-total // 2) for total in sums]
    y, x = zip(kernel, strides, pads, dilations, strict=True)
    return y, x


def _read_padding(graph: Graph, node: "NodeProto") -> tuple[Window, Window] | None:
    pads = read_attribute(node, "pads", None) or graph.read_constant(node.input[1] if len(node.input) > 1 else "")
    if pads is None or len(pads) != 8:
        return None
    first = graph.find_channel_order(node.input[0]) == "channels first"
    top, left = (pads[2], pads[3]) if first else (pads[1], pads[2])
    return (1, 1, int(top), 1), (1, 1, int(left), 1)
