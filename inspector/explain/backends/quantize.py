"""Quantize an ONNX graph to 8-bit integers with example inputs (post-training static quantization).

Weights have one scale per output channel, activations one scale per tensor, from the least and the largest value on the
example inputs (Jacob et al., CVPR 2018). The work is done by ONNX Runtime's quantizer; OpenVINO reads the same file.
"""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inspector.errors import NetworkError, require, translate_errors
from inspector.explain.backends.sessions import import_runtime
from inspector.explain.backends.split_onnx import join_parts, split_at_feature_maps

_INPUT = "inputs"  # name of the graph's input
# Operators that are quantized, by their names in ONNX. Others run in float32 between them, such as normalizations.
_QUANTIZED = [
    *("Conv", "MatMul", "Gemm", "Add", "Mul", "Concat", "Relu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish"),
    *("MaxPool", "AveragePool", "GlobalAveragePool", "ReduceMean"),
]


def quantize_graph(file: Path, inputs: Iterable[NDArray[np.float32]], quantized: Path) -> None:
    """Quantize all operators of an ONNX file that have an implementation in 8-bit integers.

    Args:
        file: ONNX file with one input.
        inputs: examples (1, channels, H, W), which decide the range of each activation.
        quantized: the file to write.

    Raises:
        NetworkError: the graph cannot be quantized.
        InspectorError: onnxruntime is not installed.
    """
    names = ("onnxruntime.quantization", "onnxruntime.quantization.shape_inference")
    tool = require(*names, extra="quick", purpose="Quantizing a network")
    examples = ({_INPUT: one} for one in inputs)

    class _Examples(tool.CalibrationDataReader):  # type: ignore[misc, name-defined]
        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            return next(examples, None)

    prepared = quantized.with_suffix(".prepared.onnx")
    problem = "The network cannot be quantized to int8: {reason}. Use float32."
    with translate_errors(NetworkError, problem), _without_root_logging():
        tool.shape_inference.quant_pre_process(
            str(file), str(prepared), skip_optimization=True, skip_symbolic_shape=True
        )
        tool.quantize_static(
            str(prepared),
            str(quantized),
            _Examples(),
            op_types_to_quantize=_QUANTIZED,
            quant_format=tool.QuantFormat.QDQ,
            per_channel=True,
            activation_type=tool.QuantType.QUInt8,
            weight_type=tool.QuantType.QInt8,
        )
    prepared.unlink(missing_ok=True)


def quantize_before_pooling(file: Path, inputs: Iterable[NDArray[np.float32]]) -> None:
    """Quantize an ONNX file of `feature_graph` up to its feature maps, in place. What follows stays in float32.

    Args:
        file: the ONNX file.
        inputs: examples (1, channels, H, W).

    Raises:
        NetworkError: the graph cannot be quantized, or its logits depend on more than the feature maps.
    """
    onnx = import_runtime("onnx")
    model = onnx.load(file)
    before, after = split_at_feature_maps(model)
    unquantized, quantized = (file.with_name(f"{file.stem}.{name}.onnx") for name in ("float32", "int8"))
    onnx.save(before, unquantized)
    quantize_graph(unquantized, inputs, quantized)
    joined = join_parts(onnx.load(quantized), after)
    onnx.helper.set_model_props(joined, {one.key: one.value for one in model.metadata_props})
    onnx.save(joined, file)
    for temporary in (unquantized, quantized):
        temporary.unlink()


@contextmanager
def _without_root_logging() -> Iterator[None]:
    """Leave the root logger as it is: the quantizer reports its progress there, which would set up a handler."""
    root = logging.getLogger()
    handlers, disabled = list(root.handlers), root.disabled
    root.disabled = True
    try:
        yield
    finally:
        root.disabled = disabled
        root.handlers[:] = handlers
