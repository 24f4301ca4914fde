"""Split an ONNX graph at its feature maps, so that what is before them runs in lower precision than what follows.

    inputs -> [network up to the feature maps] -> [pooling and head: logits, feature maps, class maps]

The second part stays in float32. So the class maps of a network in lower precision sum to its own logits as exactly as
those of the network in float32.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from inspector.errors import NetworkError
from inspector.explain.backends.sessions import Session, chain_openvino, import_runtime, open_openvino

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

# Operators that change the shape of a tensor but none of its values.
_RESHAPING = {"Reshape", "Transpose", "Identity", "Flatten", "Squeeze", "Unsqueeze"}
_FEATURE_MAPS = "feature_maps_"  # how the names of these outputs begin, see LogitsAndMaps
_CLASS_MAPS = "maps"  # name of this output


def split_at_feature_maps(model: "ModelProto") -> tuple["ModelProto", "ModelProto"]:
    """Split the ONNX graph of `feature_graph` into the network up to the feature maps, and what follows them.

    Args:
        model: graph with the outputs logits, feature_maps_0, ..., and maps if there are class maps.

    Returns:
        The part from the inputs to the feature maps, and the part from there to all outputs.

    Raises:
        NetworkError: the logits depend on more than the feature maps.
    """
    onnx = import_runtime("onnx")
    outputs = [output.name for output in model.graph.output]
    makers = {output: node for node in model.graph.node for output in node.output}
    cuts = list[str]()
    for name in outputs:
        if name.startswith(_FEATURE_MAPS):
            # Pooling may read the tensor in the network's own layout.
            while name in makers and makers[name].op_type in _RESHAPING:
                name = makers[name].input[0]
            cuts.append(name)
    cuts = list(dict.fromkeys(cuts))
    # The shapes of the tensors between both parts are needed, because they become outputs and inputs.
    extractor = onnx.utils.Extractor(onnx.shape_inference.infer_shapes(model))
    (first_input,) = [one.name for one in model.graph.input]
    body, head = extractor.extract_model([first_input], cuts), extractor.extract_model(cuts, outputs)
    for node in head.graph.node:
        # The number of images is that of the feature maps, too.
        if node.op_type == "Shape" and list(node.input) == [first_input] and _reads_batch_size(node):
            node.input[0] = cuts[0]
    if any(first_input in node.input for node in head.graph.node):
        raise NetworkError(
            "This network cannot run in lower precision: its logits depend on more than its pooled feature maps. Use "
            "float32."
        )
    return body, head


def _reads_batch_size(shape: "NodeProto") -> bool:
    return {one.name: one.i for one in shape.attribute} == {"start": 0, "end": 1}


def join_parts(body: "ModelProto", head: "ModelProto") -> "ModelProto":
    """Join the two parts to one graph with the outputs of the second."""
    onnx = import_runtime("onnx")
    for part in (body, head):
        del part.graph.value_info[:]  # shapes of tensors that both parts have are stored in both
    # Both parts may hold the same constant.
    keep = dict.fromkeys(("rename_inputs", "rename_outputs"), False)
    head = onnx.compose.add_prefix(head, "after_feature_maps/", **keep)
    body.ir_version = head.ir_version = max(body.ir_version, head.ir_version)
    _unify_versions(body, head)
    shared = [(one.name, one.name) for one in head.graph.input]
    joined: ModelProto = onnx.compose.merge_models(body, head, io_map=shared)
    return joined


def drop_outputs(model: "ModelProto", kept: tuple[str, ...]) -> "ModelProto":
    """Remove all outputs of a graph but some, with the operators that only the others need."""
    onnx = import_runtime("onnx")
    reduced: ModelProto = onnx.utils.Extractor(model).extract_model([one.name for one in model.graph.input], list(kept))
    return reduced


def _unify_versions(body: "ModelProto", head: "ModelProto") -> None:
    """Let both parts import the same operator sets. Quantizing adds sets of its own."""
    versions = {one.domain: one.version for part in (head, body) for one in part.opset_import}
    onnx = import_runtime("onnx")
    for part in (body, head):
        del part.opset_import[:]
        part.opset_import.extend(onnx.helper.make_opsetid(domain, version) for domain, version in versions.items())


def open_parts(file: str | Path, precision: str = "f32", threads: int = 0) -> Session:
    """Open both parts of an ONNX file of `feature_graph` in OpenVINO, the second in float32.

    Opened as one graph, OpenVINO may round what follows quantized feature maps, such as a LayerNorm.

    Args:
        file: the ONNX file, which may be quantized up to its feature maps.
        precision: OpenVINO's name of the precision of the first part where it is not quantized, "f32" or "bf16".
        threads: number of threads; 0: one per core.

    Raises:
        NetworkError: the logits depend on more than the feature maps.
    """
    parts = split_at_feature_maps(import_runtime("onnx").load(file))
    before, after = (part.SerializeToString() for part in parts)
    return chain_openvino([(before, precision), (after, "f32")], threads)


def open_quantized(file: str | Path, threads: int = 0) -> Session:
    """Open a quantized ONNX file of `feature_graph` in OpenVINO.

    It is opened in parts, except if it computes class maps: its head is then affine, so there is nothing to round, and
    one graph takes a tenth less time.

    Args:
        file: the ONNX file.
        threads: number of threads; 0: one per core.

    Raises:
        NetworkError: the logits depend on more than the feature maps.
    """
    has_class_maps = any(one.name == _CLASS_MAPS for one in import_runtime("onnx").load(file).graph.output)
    return open_openvino(Path(file), threads) if has_class_maps else open_parts(file, threads=threads)


def compile_quantized(file: str | Path) -> None:
    """Compile a quantized ONNX file in OpenVINO for one image, to find out whether that is possible."""
    (image,) = import_runtime("onnx").load(file).graph.input
    sides = [one.dim_value for one in image.type.tensor_type.shape.dim[1:]]
    open_quantized(file)(np.zeros([1, *sides], np.float32))
