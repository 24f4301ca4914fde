"""Extract parts of an ONNX graph and run them in ONNX Runtime."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from inspector.errors import summarize_reason
from inspector.networks.onnx_graph import Tensors, read_attribute

if TYPE_CHECKING:
    from onnx import ModelProto

Values: TypeAlias = NDArray[np.float32]

THREADS = 2


@dataclass(frozen=True, eq=False)
class OnnxPart:
    """A part of an ONNX graph, from one tensor to another, loaded into ONNX Runtime."""

    session: Any
    batched: bool  # True: it takes any number of images; False: it takes one image at a time
    sha256: str

    def run(self, values: Values) -> Values:
        """Run the part: (N, ...) -> (N, ...). If it takes one image at a time, the result is (N, 1, ...)."""
        name = self.session.get_inputs()[0].name
        try:
            if self.batched:
                return cast(Values, self.session.run(None, {name: values})[0])
            return np.stack([self.session.run(None, {name: image[None]})[0] for image in values])
        except Exception as error:  # the exceptions of ONNX Runtime share no narrower base class
            raise RuntimeError(summarize_reason(error)) from error

    def __deepcopy__(self, memo: dict[int, Any]) -> "OnnxPart":
        return self  # a session cannot be copied, and need not be: it has no state that changes


def make_part(
    model: "ModelProto", start: str, shape: Sequence[int | None], end: str, frozen: Tensors, records: Sequence[Tensors]
) -> OnnxPart:
    """Make the part from ``start`` to ``end`` for any number of images.

    If such a part fails or does not give the recorded values, make the part for one image at a time.

    Args:
        model: the whole graph.
        start: name of the tensor that is the part's input.
        shape: shape of that tensor for one image; None for an axis of any size.
        end: name of the tensor that is the part's output.
        frozen: shapes of tensors outside the part by name; they become constants.
        records: recorded values of ``start`` and ``end``, one mapping per image.
    """
    images, expected = (np.concatenate([record[name].ravel() for record in records]) for name in (start, end))
    free = extract_batched_part(model, start, shape, end, frozen)
    try:
        part = load_part(free, batched=True)
        result = part.run(images.reshape(len(records), *records[0][start].shape[1:])).ravel()
        if np.allclose(result, expected, rtol=1e-3, atol=1e-5 * float(np.abs(expected).max())):
            return part
    except Exception:  # whatever ONNX Runtime raises, try the part for one image
        pass
    return load_part(extract_part(model, start, [1, *shape], [end], frozen), batched=False)


def extract_batched_part(
    model: "ModelProto", start: str, shape: Sequence[int | None], end: str, frozen: Tensors
) -> "ModelProto":
    """Extract a part as `extract_part` does, for any number of images."""
    free_shapes = {name: _free_batch_size(values) for name, values in frozen.items()}
    free = extract_part(model, start, ["N", *shape], [end], free_shapes)
    _free_reshapes(free)
    return free


def extract_part(
    model: "ModelProto", start: str, shape: Sequence[int | str | None], ends: Sequence[str], frozen: Tensors
) -> "ModelProto":
    """Extract the part from the tensor ``start`` to the tensors ``ends``. The tensors ``frozen`` become constants."""
    from onnx import TensorProto, ValueInfoProto
    from onnx.helper import make_tensor_value_info
    from onnx.numpy_helper import from_array
    from onnx.utils import Extractor

    extractor = Extractor(model)
    # Leave the shapes of intermediate tensors empty: ONNX Runtime infers them, and those in the file are for the file's
    # own batch size.
    extractor.value_infos = {name: ValueInfoProto(name=name) for name in (*ends, *frozen)}
    extractor.value_infos[start] = make_tensor_value_info(start, TensorProto.FLOAT, list(shape))
    part = extractor.extract_model([start, *frozen], list(ends))
    del part.graph.input[1:], part.graph.value_info[:]
    part.graph.initializer.extend(from_array(values, name) for name, values in frozen.items())
    # Version 4 allows constants that are not inputs. Version 11 is the highest that our oldest ONNX Runtime reads.
    part.ir_version = min(max(part.ir_version, 4), 11)
    return part


def load_part(model: "ModelProto", batched: bool) -> OnnxPart:
    """Load a part into ONNX Runtime, on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.log_severity_level = 4  # print nothing but fatal errors: errors are raised anyway
    # Without enable_fallback=False, a failure would print a message and be tried again in the same way.
    data = model.SerializeToString(deterministic=True)
    session = onnxruntime.InferenceSession(data, options, ["CPUExecutionProvider"], enable_fallback=False)
    return OnnxPart(session, batched, hashlib.sha256(data).hexdigest())


def _free_batch_size(shape: NDArray[np.int64]) -> NDArray[np.int64]:
    # In the shape of a Reshape, 0 means: keep the size of this axis.
    return np.concatenate([[0], shape[1:]]).astype(np.int64)


def _free_reshapes(part: "ModelProto") -> None:
    """Change Reshape nodes fixed to batch size 1, as exporters write them, to keep the batch size of their input."""
    from onnx.numpy_helper import from_array, to_array

    constants = {tensor.name: tensor for tensor in part.graph.initializer}
    constants |= {node.output[0]: read_attribute(node, "value", None) for node in part.graph.node if not node.input}
    reached = {part.graph.input[0].name}
    for node in part.graph.node:
        if reached.isdisjoint(node.input):
            continue
        reached.update(node.output)
        if node.op_type == "Reshape" and constants.get(node.input[1]) is not None:
            shape = to_array(constants[node.input[1]])
            if len(shape) > 1 and shape[0] == 1:
                node.input[1] = f"{node.output[0]}/free_shape"
                part.graph.initializer.append(from_array(_free_batch_size(shape), node.input[1]))
