"""Check the operators of an ONNX graph before ONNX Runtime runs them.

ONNX Runtime limits neither the time of a loop nor the memory of a tensor, and some divisions of integers end the whole
process. So only the operators of a list are run, and of these only with arguments that cannot do harm. Nothing is run
here.
"""

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from inspector.errors import NetworkError
from inspector.printable import make_printable

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

# Left out: control flow (If, Loop, Scan, SequenceMap), sequences, texts, random numbers, signals, decoders and losses.
_OPERATORS = {
    "Abs", "Acos", "Acosh", "Add", "And", "ArgMax", "ArgMin", "Asin", "Asinh", "Atan", "Atanh", "Attention",
    "AveragePool", "BatchNormalization", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "Cast", "CastLike",
    "Ceil", "Celu", "CenterCropPad", "Clip", "Compress", "Concat", "Constant", "ConstantOfShape", "Conv",
    "ConvInteger", "ConvTranspose", "Cos", "Cosh", "CumSum", "DepthToSpace", "DequantizeLinear", "Div", "Dropout",
    "DynamicQuantizeLinear", "Einsum", "Elu", "Equal", "Erf", "Exp", "Expand", "EyeLike", "Flatten", "Floor", "GRU",
    "Gather", "GatherElements", "GatherND", "Gelu", "Gemm", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool",
    "Greater", "GreaterOrEqual", "GridSample", "GroupNormalization", "HardSigmoid", "HardSwish", "Hardmax",
    "Identity", "InstanceNormalization", "IsInf", "IsNaN", "LRN", "LSTM", "LayerNormalization", "LeakyRelu", "Less",
    "LessOrEqual", "Log", "LogSoftmax", "LpNormalization", "LpPool", "MatMul", "MatMulInteger", "Max", "MaxPool",
    "Mean", "MeanVarianceNormalization", "Min", "Mish", "Mod", "Mul", "Neg", "NonZero", "Not", "OneHot", "Or",
    "PRelu", "Pad", "Pow", "QLinearConv", "QLinearMatMul", "QuantizeLinear", "RMSNormalization", "RNN", "Range",
    "Reciprocal", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin",
    "ReduceProd", "ReduceSum", "ReduceSumSquare", "Relu", "Reshape", "Resize", "ReverseSequence", "RotaryEmbedding",
    "Round", "ScatterElements", "ScatterND", "Selu", "Shape", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Size",
    "Slice", "Softmax", "Softplus", "Softsign", "SpaceToDepth", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "SwiGLU",
    "Swish", "Tan", "Tanh", "ThresholdedRelu", "Tile", "TopK", "Transpose", "Trilu", "Unsqueeze", "Upsample",
    "Where", "Xor",
}  # fmt: skip
# Operators of ONNX Runtime itself, which it writes when it optimizes or quantizes a network.
_OPERATORS_OF_ONNX_RUNTIME = {
    "BiasGelu", "DequantizeLinear", "FastGelu", "FusedConv", "FusedGemm", "FusedMatMul", "Gelu", "NhwcMaxPool",
    "QLinearAdd", "QLinearAveragePool", "QLinearConcat", "QLinearGlobalAveragePool", "QLinearLeakyRelu",
    "QLinearMul", "QLinearSigmoid", "QLinearSoftmax", "QuantizeLinear", "QuickGelu", "SkipLayerNormalization",
}  # fmt: skip
# Of these, inference does not know that they make numbers in float32.
_MAKE_FLOATS = {
    "BiasGelu", "DequantizeLinear", "FastGelu", "FusedConv", "FusedGemm", "FusedMatMul", "Gelu", "QuickGelu",
}  # fmt: skip
_STANDARD = ("", "ai.onnx")
_KNOWN = {**dict.fromkeys(_STANDARD, _OPERATORS), "com.microsoft": _OPERATORS_OF_ONNX_RUNTIME}

# Types of attributes that are possible, by their numbers in AttributeProto: FLOAT, INT, STRING, TENSOR, FLOATS, INTS.
# The others hold graphs, sparse tensors and the like.
_PLAIN = (1, 2, 3, 4, 6, 7)
# Types by their numbers in TensorProto: FLOAT, FLOAT16, DOUBLE, BFLOAT16; INT32, INT64.
_FLOATS, _GUARDED = (1, 10, 11, 16), (6, 7)

# Attributes that count something, with the largest value of any sensible network; 0 makes some operators divide by it.
_COUNTS = {"group": 1 << 16, "num_groups": 1 << 16, "blocksize": 64, "num_outputs": 1 << 16, "num_heads": 1 << 12}
_WINDOWS = ("kernel_shape", "strides", "dilations")
_MARGINS = ("pads", "output_padding", "output_shape")
_MAX_SIDE = 1 << 16

# Operator -> its inputs that decide on the size of its result.
_SIZE_INPUTS = {
    "CenterCropPad": (1,), "ConstantOfShape": (0,), "Expand": (1,), "OneHot": (1,), "Pad": (1,), "Range": (0, 1, 2),
    "Resize": (2, 3), "Tile": (1,), "Upsample": (1,),
}  # fmt: skip
MAX_ELEMENTS = 1 << 27  # of one tensor: 512 MB in float32
_CONSTANTS_OF_GUARD = {"-1": -1, "0": 0, "1": 1}
_PARTS_OF_GUARD = (*_CONSTANTS_OF_GUARD, "is -1", "is 0", "is unsafe", "negative", "dividend", "divisor")
_SMALL = 1024  # values of a constant that may be a size or a divisor


def check_operators(model: "ModelProto", name: str) -> None:
    """Raise NetworkError if a graph has an operator that is not on the list, or one with arguments that may do harm.

    Divisions of sizes, as in networks that divide their input into windows, are guarded: their results stay the same.

    Args:
        model: the parsed file, without functions of its own.
        name: name of the file, for the error message.

    Raises:
        NetworkError: one sentence names the operator and the reason.
    """
    if model.graph.sparse_initializer:
        raise NetworkError(f"{name} is not run: it holds sparse weights. Export it with dense ones.")
    for node in model.graph.node:
        if (reason := _find_reason(node)) is not None:
            raise _make_refusal(name, node, reason)
    known = _infer_tensors(model)
    for node in model.graph.node:
        if (reason := _find_unsafe_values(node, known)) is not None:
            raise _make_refusal(name, node, reason)
    _guard_divisions(model.graph, known)


def _make_refusal(name: str, node: "NodeProto", reason: str) -> NetworkError:
    operator = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
    return NetworkError(f"{name} is not run: its operator {make_printable(operator)} {reason}.")


def _find_reason(node: "NodeProto") -> str | None:
    """Return why a node is refused whatever its inputs are; None if it is not."""
    if node.op_type not in _KNOWN.get(node.domain, ()):
        hint = "export the network for inference, with standard operators and without control flow"
        return f"is not one of those that are run; {hint}"
    for attribute in node.attribute:
        if attribute.type not in _PLAIN:
            return f"has the attribute {make_printable(attribute.name)}, which is no number, text or tensor"
        values = list(attribute.ints) or [attribute.i]
        limit = _COUNTS.get(attribute.name, _MAX_SIDE if attribute.name in _WINDOWS else None)
        if limit is not None and not all(1 <= value <= limit for value in values):
            return f"has {attribute.name} {_shorten(values)}, and 1 to {limit} are possible"
        if attribute.name in _MARGINS and not all(abs(value) <= _MAX_SIDE for value in values):
            return f"has {attribute.name} {_shorten(values)}, and at most {_MAX_SIDE} are possible"
    return None


def _shorten(values: list[int]) -> str:
    return ", ".join(map(str, values[:4]))


@dataclass(frozen=True)
class _Known:
    """What is known of the tensors of a graph without running it."""

    kinds: Mapping[str, int]  # name -> number of its type in TensorProto
    sizes: Mapping[str, int]  # name -> number of elements, at least
    constants: Mapping[str, Any]  # name -> values of a small constant
    of_pixels: Container[str]  # names of the tensors that depend on the values of the image

    def find_kind(self, node: "NodeProto") -> int | None:
        """Return the type of an operator whose inputs all have the same type; None if it is not known."""
        return next((self.kinds[name] for name in node.input if self.kinds.get(name)), None)


def _find_unsafe_values(node: "NodeProto", known: _Known) -> str | None:
    """Return why a node is refused because of its inputs; None if it is not."""
    for name in node.output:
        if known.sizes.get(name, 0) > MAX_ELEMENTS:
            return f"makes a tensor of {known.sizes[name]:,} values, and at most {MAX_ELEMENTS:,} are possible"
    if _is_unproven_division(node, known):
        divisor = node.input[1]
        if divisor in known.of_pixels or divisor in known.constants or known.find_kind(node) not in _GUARDED:
            return "may divide integers by 0 or -1, which crashes ONNX Runtime"
    for place in _SIZE_INPUTS.get(node.op_type, ()):
        if place < len(node.input) and node.input[place] in known.of_pixels:
            return "makes tensors whose size depends on the pixels, so they may be of any size"
    return None


def _is_unproven_division(node: "NodeProto", known: _Known) -> bool:
    """Return whether a node divides integers, and its divisor is not a constant without 0 and -1."""
    if node.op_type not in ("Div", "Mod") or known.find_kind(node) in _FLOATS:
        return False
    divisor = known.constants.get(node.input[1])
    return divisor is None or bool(np.isin(divisor, (0, -1)).any())


def _guard_divisions(graph: "GraphProto", known: _Known) -> None:
    """Guard every division whose divisor depends on the size of the image and may become 0 or -1 for some size."""
    if not any(_is_unproven_division(node, known) for node in graph.node):
        return
    nodes: list[NodeProto] = []
    for node in graph.node:
        kind = known.find_kind(node)
        if kind is not None and _is_unproven_division(node, known):
            guarded, constants = _guard_division(node, kind)
            graph.initializer.extend(constants)
            nodes += guarded
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def _guard_division(node: "NodeProto", kind: int) -> "tuple[list[NodeProto], list[TensorProto]]":
    """Change a / b to -a / 1 where b is -1, and to a / 1 where b is 0. Return the new nodes and their constants."""
    from onnx.helper import make_node, tensor_dtype_to_np_dtype
    from onnx.numpy_helper import from_array

    dividend, divisor = node.input
    name = {part: f"{node.output[0]}/guard/{part}" for part in _PARTS_OF_GUARD}
    dtype = tensor_dtype_to_np_dtype(kind)
    constants = [from_array(np.array(value, dtype), name[part]) for part, value in _CONSTANTS_OF_GUARD.items()]
    guards = [
        make_node("Equal", [divisor, name["-1"]], [name["is -1"]]),
        make_node("Equal", [divisor, name["0"]], [name["is 0"]]),
        make_node("Or", [name["is -1"], name["is 0"]], [name["is unsafe"]]),
        make_node("Neg", [dividend], [name["negative"]]),
        make_node("Where", [name["is -1"], name["negative"], dividend], [name["dividend"]]),
        make_node("Where", [name["is unsafe"], name["1"], divisor], [name["divisor"]]),
    ]
    node.input[:] = [name["dividend"], name["divisor"]]
    return [*guards, node], constants


def _infer_tensors(model: "ModelProto") -> _Known:
    from onnx import ModelProto, shape_inference

    graph, constants = model.graph, _read_small_constants(model.graph)
    # Leave out the weights, which inference would copy: their types and shapes are enough.
    light = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    light.graph.name = "light"
    light.graph.node.extend(graph.node)
    light.graph.initializer.extend(tensor for tensor in graph.initializer if tensor.name in constants)
    weights = {tensor.name: _describe(tensor.name, tensor.data_type, tensor.dims) for tensor in graph.initializer}
    light.graph.input.extend([*(value for value in graph.input if value.name not in weights), *weights.values()])
    for node in graph.node:  # inference knows only standard operators
        if node.domain not in _STANDARD and node.op_type in _MAKE_FLOATS:
            light.graph.value_info.append(_describe(node.output[0], _FLOATS[0], None))
    try:
        inferred = shape_inference.infer_shapes(light, data_prop=True).graph
    except Exception:  # ONNX Runtime will say what is wrong with this graph
        inferred = light.graph
    values = [*inferred.value_info, *inferred.input]
    tensors = {value.name: value.type.tensor_type for value in values}
    return _Known(
        kinds={name: tensor.elem_type for name, tensor in tensors.items()},
        # An unknown side counts as 1.
        sizes={
            name: math.prod(side.dim_value if side.HasField("dim_value") else 1 for side in tensor.shape.dim)
            for name, tensor in tensors.items()
        },
        constants=constants,
        of_pixels=_find_names_of_pixels(graph, weights),
    )


def _describe(name: str, kind: int, shape: Sequence[int] | None) -> "ValueInfoProto":
    from onnx.helper import make_tensor_value_info

    return make_tensor_value_info(name, kind, shape)


def _read_small_constants(graph: "GraphProto") -> dict[str, Any]:
    """Read the constants that may be sizes or divisors, by name."""
    from onnx.helper import get_attribute_value
    from onnx.numpy_helper import to_array

    constants = {
        tensor.name: to_array(tensor)
        for tensor in graph.initializer
        if math.prod(tensor.dims) <= _SMALL and not tensor.external_data
    }
    for node in graph.node:
        for attribute in node.attribute if node.op_type == "Constant" else ():
            value = get_attribute_value(attribute)
            if attribute.name == "value" and math.prod(value.dims) <= _SMALL:
                constants[node.output[0]] = to_array(value)
            elif attribute.name in ("value_int", "value_ints", "value_float", "value_floats"):
                constants[node.output[0]] = np.asarray(value)
    return constants


def _find_names_of_pixels(graph: "GraphProto", weights: Container[str]) -> set[str]:
    """Find the tensors that depend on the values of the inputs, not only on their shape."""
    readers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input if node.op_type not in ("Shape", "Size") else ():
            readers.setdefault(name, []).append(node)
    waiting = [value.name for value in graph.input if value.name not in weights]
    found = set(waiting)
    while waiting:
        for node in readers.get(waiting.pop(), ()):
            new = {name for name in node.output if name} - found
            found |= new
            waiting += new
    return found
