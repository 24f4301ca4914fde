"""Read an ONNX file safely, and walk its graph.

Nothing is run here: a file is parsed, what it keeps beside itself is read, and both are refused by their size first.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from inspector.errors import InspectorError, NetworkError, summarize_reason
from inspector.explain.kinds import OutputActivation
from inspector.explain.tracing.receptive_field import PIXELS, ReceptiveField, slide_window

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto

Layout = Literal["channels first", "channels last"]

MAX_BYTES = 1_000_000_000  # protobuf itself ends at 2 GB

_ENDINGS: dict[str, OutputActivation] = {"Softmax": "softmax", "LogSoftmax": "softmax", "Sigmoid": "sigmoid"}
# What leaves every position where it was.
_POINTWISE = {
    "Relu", "Clip", "LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Erf",
    "Gelu", "Mish", "Softplus", "Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Min", "Max", "Concat", "Identity",
    "Dropout", "BatchNormalization", "LRN", "Cast",
}  # fmt: skip
_WINDOWS = {"Conv", "MaxPool", "AveragePool", "LpPool"}
_RESHAPING = {"Identity", "Flatten", "Reshape", "Squeeze"}
_CHANNELS_FIRST = {"Conv", "ConvTranspose", "MaxPool", "AveragePool", "BatchNormalization"}  # by ONNX's own rules


@dataclass(frozen=True, eq=False)
class Graph:
    """What the file holds, less its last activation."""

    model: "ModelProto"
    start: str
    logits: str
    shape: tuple[int | None, ...]  # of one image, as it lies in the graph
    layout: Layout
    ending: OutputActivation | None

    @cached_property
    def makers(self) -> "dict[str, NodeProto]":
        """The node that each tensor comes from."""
        return {name: node for node in self.model.graph.node for name in node.output if name}

    @cached_property
    def constants(self) -> "dict[str, TensorProto]":
        made = {
            name: read_attribute(node, "value", None)
            for name, node in self.makers.items()
            if node.op_type == "Constant"
        }
        kept = {tensor.name: tensor for tensor in self.model.graph.initializer}
        return kept | {name: tensor for name, tensor in made.items() if tensor is not None}

    def constant(self, name: str) -> Sequence[int] | None:
        from onnx.numpy_helper import to_array

        return to_array(self.constants[name]).tolist() if name in self.constants else None

    def shape_of_constant(self, name: str) -> tuple[int, ...]:
        return tuple(self.constants[name].dims) if name in self.constants else ()


@contextmanager
def translate_onnx_errors(name: str) -> Iterator[None]:
    """Whatever onnx and ONNX Runtime raise inside becomes a NetworkError."""
    try:
        yield
    except (InspectorError, MemoryError):
        raise
    except Exception as error:
        raise NetworkError(
            f"{name} cannot be run by ONNX Runtime ({summarize_reason(error)}): export it again, with standard operators and "
            "an opset that the installed onnxruntime knows."
        ) from error


def read_graph(path: Path, max_bytes: int) -> Graph:
    """The graph in a file of at most `max_bytes`, what it keeps in other files included."""
    model = _parse(path, max_bytes)
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs[:5]) or "none"
        raise NetworkError(f"{path.name} must have one input, a batch of images; it has {len(inputs)}: {names}.")
    shape = _image_shape(path.name, inputs[0])
    # RGB or grey in the last place and not in the first: TensorFlow's order.
    last = shape[2] in (1, 3) and shape[0] not in (1, 3)
    logits, ending = _before_the_ending(model)
    return Graph(model, inputs[0].name, logits, shape, "channels last" if last else "channels first", ending)


def _image_shape(name: str, value: "ValueInfoProto") -> tuple[int | None, ...]:
    from onnx import TensorProto

    tensor = value.type.tensor_type
    kind = TensorProto.DataType.Name(tensor.elem_type)
    batch, *shape = [d.dim_value if d.dim_value > 0 else None for d in tensor.shape.dim] or [None]
    if len(shape) != 3 or tensor.elem_type != TensorProto.FLOAT:
        raise NetworkError(
            f"{name} must take float32 images of 4 axes, (N, C, H, W) or (N, H, W, C); its input {value.name} has "
            f"{len(shape) + 1 if tensor.shape.dim else 'unknown'} axes of {kind}."
        )
    if batch not in (None, 1):
        raise NetworkError(f"{name} takes {batch} images at once and no other number: export it for 1, or for any.")
    return tuple(shape)


def _parse(path: Path, max_bytes: int) -> "ModelProto":
    """The model with the data that lies beside it."""
    try:
        import onnx
        import onnxruntime  # noqa: F401  (that it is there)
    except ImportError as error:
        raise NetworkError(f"To read {path.name}, onnx is an extra: pip install 'inspector[onnx]'.") from error
    try:
        bytes_there = path.stat().st_size
        _refuse_size(path, bytes_there, max_bytes)
        model = onnx.load_model_from_string(path.read_bytes())
        if not model.ir_version or not model.graph.node or not model.graph.output:
            raise ValueError("it holds no graph")
    except InspectorError:
        raise
    except OSError as error:
        raise NetworkError(f"Cannot read {path}: {error.strerror}.") from error
    except Exception as error:
        raise NetworkError(
            f"{path.name} is no ONNX file, or is broken or cut off ({summarize_reason(error)}): export or copy it again."
        ) from error
    _load_external_data(path, model, max_bytes - bytes_there)
    return model


def _refuse_size(path: Path, size: int, limit: int) -> None:
    if size > limit:
        raise NetworkError(f"{path.name} has {size / 1e6:.1f} MB; at most {limit / 1e6:.1f} MB are read.")


def _load_external_data(path: Path, model: "ModelProto", limit: int) -> None:
    from onnx import external_data_helper as external

    try:
        outside = [tensor for tensor in external._get_all_tensors(model) if external.uses_external_data(tensor)]
        kept = [external.ExternalDataInfo(tensor) for tensor in outside]
        # Each tensor counts: a file may be named many times over.
        sizes = [info.length or (path.parent / info.location).stat().st_size for info in kept]
        _refuse_size(path, sum(sizes), limit)
        external.load_external_data_for_model(model, str(path.parent))
    except InspectorError:
        raise
    except Exception as error:  # onnx refuses with its own what lies elsewhere, and links
        raise NetworkError(
            f"The weights that {path.name} keeps in other files cannot be read ({summarize_reason(error)}): "
            "they must lie beside it, under the names they were exported with."
        ) from error


def _before_the_ending(model: "ModelProto") -> tuple[str, OutputActivation | None]:
    """The tensor of the logits, and the activation that follows it."""
    makers = {name: node for node in model.graph.node for name in node.output}
    output = name = model.graph.output[0].name
    for _ in model.graph.node:
        node = makers.get(name)
        if node is None or not node.input:
            break
        if node.op_type in _ENDINGS and read_attribute(node, "axis", 1) != 0:
            return node.input[0], _ENDINGS[node.op_type]
        if node.op_type not in _RESHAPING:
            break
        name = node.input[0]
    return output, None


def read_attribute(node: "NodeProto", name: str, default: Any) -> Any:
    from onnx.helper import get_attribute_value

    return next((get_attribute_value(a) for a in node.attribute if a.name == name), default)


def nodes_between(graph: Graph, target: str, stops: Iterable[str] = ()) -> "list[NodeProto]":
    """The nodes that `target` comes from, first to last; not those behind `stops`."""
    seen = set(stops)
    found: set[int] = set()
    waiting = [target]
    while waiting:
        name = waiting.pop()
        node = None if name in seen else graph.makers.get(name)
        seen.add(name)
        if node is not None:
            found.add(id(node))
            waiting += node.input
    nodes = {id(node): node for node in graph.makers.values()}
    return [node for key, node in nodes.items() if key in found]


def nodes_after(graph: Graph, start: str) -> set[str]:
    reached = {start}
    for node in graph.model.graph.node:  # in an order in which they can run
        if not reached.isdisjoint(node.input):
            reached.update(node.output)
    return reached - {start}


def find_layout(graph: Graph, name: str) -> Layout:
    """How the channels of a tensor lie, by the nearest operator before it that has a rule for them."""
    while name in graph.makers:
        node = graph.makers[name]
        if node.op_type in _CHANNELS_FIRST:
            return "channels first"
        if node.op_type == "Transpose" and len(order := read_attribute(node, "perm", ())) == 4:
            return "channels last" if list(order) == [0, 2, 3, 1] else "channels first"
        before = [other for other in node.input if other == graph.start or other in graph.makers]
        # A constant is made too, from nothing.
        name = next((other for other in before if other == graph.start or graph.makers[other].input), "")
    return graph.layout


def reads_shape(node: "NodeProto") -> bool:
    """Whether the padding of a node depends on the size of what comes in."""
    return node.op_type in _WINDOWS and read_attribute(node, "auto_pad", b"NOTSET").startswith(b"SAME")


def find_receptive_field(graph: Graph, target: str, survey: Mapping[str, Any]) -> ReceptiveField | None:
    """Of the feature maps `target`; None where something on the way moves positions by no rule that is known here.

    `survey` holds the input of each node that asks for its size.
    """
    fields: dict[str, ReceptiveField | None] = {graph.start: PIXELS}
    for node in nodes_between(graph, target):
        before = [fields[name] for name in node.input if name in fields]
        if before:
            fields |= dict.fromkeys(node.output, _behind(graph, node, before, survey))
    return fields.get(target)


def _behind(
    graph: Graph, node: "NodeProto", before: Sequence[ReceptiveField | None], survey: Mapping[str, Any]
) -> ReceptiveField | None:
    known = [field for field in before if field is not None]
    turned = node.op_type == "Transpose" and list(read_attribute(node, "perm", ())) in ([0, 2, 3, 1], [0, 3, 1, 2])
    if known and (turned or node.op_type in _POINTWISE):
        return _meeting(known, lost=len(known) < len(before))
    windows = None
    if known and node.op_type in _WINDOWS:
        windows = _window(graph, node, survey)
    if known and node.op_type == "Pad":
        windows = _padding(graph, node)
    if windows is None:
        return None
    return ReceptiveField(slide_window(known[0].y, *windows[0]), slide_window(known[0].x, *windows[1]))


def _meeting(known: Sequence[ReceptiveField], lost: bool) -> ReceptiveField:
    """Where branches meet: the finest grid, the largest size. A branch whose track was lost sees everything."""
    # Of equal strides the smallest: a window as large as the maps leaves no grid.
    finest = min(known, key=lambda field: (field.y.stride, field.y.size))
    y, x = (math.inf if lost else max(getattr(field, axis).size for field in known) for axis in "yx")
    return ReceptiveField(replace(finest.y, size=y), replace(finest.x, size=x))


Window = tuple[int, int, int, int]  # kernel, stride, padding before, dilation


def _window(graph: Graph, node: "NodeProto", survey: Mapping[str, Any]) -> tuple[Window, Window] | None:
    """Of each axis."""
    kernel = read_attribute(node, "kernel_shape", None) or graph.shape_of_constant(node.input[1])[2:]
    strides, dilations = (read_attribute(node, name, [1, 1]) for name in ("strides", "dilations"))
    pads = read_attribute(node, "pads", [0, 0, 0, 0])[:2]
    if len(kernel) != 2:
        return None
    if reads_shape(node):
        # What is odd goes behind, or in front where the rule says lower.
        upper = read_attribute(node, "auto_pad", b"") == b"SAME_UPPER"
        reaches = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
        sizes = survey[node.input[0]].shape[2:]
        sums = [max((-(-n // s) - 1) * s + r - n, 0) for n, s, r in zip(sizes, strides, reaches, strict=True)]
        pads = [total // 2 if upper else -(-total // 2) for total in sums]
    y, x = zip(kernel, strides, pads, dilations, strict=True)
    return y, x


def _padding(graph: Graph, node: "NodeProto") -> tuple[Window, Window] | None:
    pads = read_attribute(node, "pads", None) or graph.constant(node.input[1] if len(node.input) > 1 else "")
    if pads is None or len(pads) != 8:
        return None
    first = find_layout(graph, node.input[0]) == "channels first"
    top, left = (pads[2], pads[3]) if first else (pads[1], pads[2])
    return (1, 1, int(top), 1), (1, 1, int(left), 1)
