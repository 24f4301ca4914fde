"""Run the graph of a network by an inference runtime: one function per backend, which returns a function to run it.

    inputs (N, channels, H, W) -> the outputs of the graph, each a tensor of its own

Several threads may call what is returned at once. Nothing here writes into the graph that it is given.
"""

import os
import shutil
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from inspector.errors import ExportError, NetworkError, translate_errors
from inspector.explain.backends.export_graph import LogitsAndMaps, one_trace_at_a_time, trace_program
from inspector.explain.backends.fold_batchnorm import fold_batchnorm
from inspector.explain.backends.sessions import (
    Session,
    get_or_make,
    import_runtime,
    open_once,
    open_onnxruntime,
)
from inspector.explain.backends.split_onnx import open_parts, open_quantized

Run: TypeAlias = Callable[[Tensor], list[Tensor]]

_COMPILE_SECONDS = 60  # that OpenVINO may take to compile a quantized network; most need two
_MAX_ONNX_BYTES = 2**31 - 1  # largest ONNX file that can hold its weights inside


def run_folded(graph: LogitsAndMaps, dtype: torch.dtype = torch.float32) -> Run:
    """Run the graph by PyTorch, with BatchNorm folded into the convolutions and channels last.

    Args:
        graph: the network as `feature_graph` returns it.
        dtype: precision of everything before the pooling.
    """
    folded = fold_batchnorm(graph, dtype)

    def run(inputs: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return [one.contiguous() for one in folded(inputs.contiguous(memory_format=torch.channels_last))]

    return run


def run_compiled(graph: LogitsAndMaps, dtype: torch.dtype = torch.float32) -> Run:
    """Run the folded graph by torch.compile, with its weights frozen.

    Raises:
        NetworkError: there is no C++ compiler.
    """
    if not any(shutil.which(name) for name in (os.environ.get("CXX", ""), "c++", "g++", "clang++") if name):
        raise NetworkError(
            'The backend "compiled" needs a C++ compiler, and none was found. Install g++ or clang++, name it in $CXX, '
            'or use the backend "openvino".'
        )
    compiled = torch.compile(fold_batchnorm(graph, dtype), dynamic=True, options={"freezing": True})
    lock = threading.Lock()  # one thread at a time, because a call with a new kind of shape compiles

    def run(inputs: Tensor) -> list[Tensor]:
        with lock, torch.no_grad(), warnings.catch_warnings(action="ignore"):
            return [one.clone() for one in compiled(inputs.contiguous(memory_format=torch.channels_last))]

    return run


def run_cuda(graph: LogitsAndMaps, dtype: torch.dtype = torch.float32) -> Run:
    """Run the folded graph on a GPU, as one CUDA graph per input shape.

    Raises:
        NetworkError: there is no GPU, or the network is not on it.
    """
    if not torch.cuda.is_available():
        raise NetworkError(
            'The backend "cuda" needs an NVIDIA GPU and a torch that can use it. Use "openvino" on a CPU.'
        )
    if any(not tensor.is_cuda for tensor in graph.parameters()):
        raise NetworkError('The backend "cuda" needs a network on the GPU. Use Classifier.wrap(network.cuda()).')
    folded = fold_batchnorm(graph, dtype)
    recorded: dict[tuple[int, ...], _CudaGraph] = {}
    lock = threading.Lock()  # one thread at a time, because a CUDA graph has one buffer for its inputs

    def run(inputs: Tensor) -> list[Tensor]:
        with lock, torch.no_grad():
            cuda_graph = get_or_make(recorded, tuple(inputs.shape), lambda: _record_cuda_graph(folded, inputs))
            cuda_graph.inputs.copy_(inputs)
            cuda_graph.graph.replay()
            outputs = [one.contiguous().clone() for one in cuda_graph.outputs]
            # Wait: the caller may use the outputs in another stream.
            torch.cuda.current_stream().synchronize()
        return outputs

    return run


@dataclass(frozen=True, eq=False)
class _CudaGraph:
    """A recorded pass for one input shape."""

    graph: Any  # torch.cuda.CUDAGraph
    inputs: Tensor  # read by the graph
    outputs: tuple[Tensor, ...]  # written by the graph


def _record_cuda_graph(module: nn.Module, example: Tensor) -> _CudaGraph:
    inputs = example.clone(memory_format=torch.channels_last)
    warm_up = torch.cuda.Stream()
    warm_up.wait_stream(torch.cuda.current_stream())
    # Libraries choose their kernels in the first passes. A CUDA graph cannot record this, so they run before.
    with torch.cuda.stream(warm_up):
        for _ in range(3):
            module(inputs)
    torch.cuda.current_stream().wait_stream(warm_up)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = module(inputs)
    return _CudaGraph(graph, inputs, outputs)


def run_onnxruntime(file: Path) -> Run:
    """Run an ONNX file by ONNX Runtime on the CPU, with as many threads as torch has."""
    return _run_session(open_once("onnxruntime", file, torch.get_num_threads()))


def run_onnxruntime_in_batches(file: Path) -> Run:
    """Run an ONNX file as `run_onnxruntime`, with many images in a pass, beside threads that decode the next ones."""
    return _run_session(open_onnxruntime(file, torch.get_num_threads(), waits_busily=False))


def run_openvino(file: Path) -> Run:
    """Run an ONNX or OpenVINO file by OpenVINO on the CPU, in float32, with as many threads as torch has."""
    return _run_session(open_once("openvino", file, torch.get_num_threads()))


def run_openvino_int8(file: Path) -> Run:
    """Run a quantized ONNX file of `feature_graph` by OpenVINO, after another process has compiled it.

    OpenVINO's compiler crashes or does not end on some quantized networks, DenseNet among them.

    Raises:
        NetworkError: the compiler crashes, or needs more than _COMPILE_SECONDS.
    """
    code = "import sys; from inspector.explain.backends import split_onnx; split_onnx.compile_quantized(sys.argv[1])"
    folders = os.pathsep.join(str(Path(folder).absolute()) for folder in sys.path)
    try:
        subprocess.run(
            [sys.executable, "-c", code, str(file)],
            env=os.environ | {"PYTHONPATH": folders},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_COMPILE_SECONDS,
            check=True,
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        took = isinstance(error, subprocess.TimeoutExpired)
        event = f"needs more than {_COMPILE_SECONDS} seconds" if took else "crashes"
        raise NetworkError(
            f'OpenVINO cannot run this network in int8: its compiler {event}. Use "onnxruntime", or bfloat16.'
        ) from error
    return _run_session(open_quantized(file, torch.get_num_threads()))


def run_openvino_bfloat16(file: Path) -> Run:
    """Run an ONNX file of `feature_graph` by OpenVINO: in bfloat16 up to the feature maps, then in float32.

    Raises:
        NetworkError: the processor has no bfloat16 instructions, or the logits depend on more than the feature maps.
    """
    capabilities = import_runtime("openvino").Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if "BF16" not in capabilities:
        raise NetworkError(
            "This processor has no bfloat16 instructions, so OpenVINO would compute in float32. Use float32 or int8."
        )
    return _run_session(open_parts(file, "bf16", torch.get_num_threads()))


def _run_session(session: Session) -> Run:
    def run(inputs: Tensor) -> list[Tensor]:
        return [torch.from_numpy(one) for one in session(inputs.detach().contiguous().numpy())]

    return run


def write_onnx(graph: nn.Module, inputs: Tensor, file: Path, metadata: Mapping[str, str]) -> None:
    """Write a graph as an ONNX file with its weights inside, for any number of images.

    Args:
        graph: the network as `feature_graph`, `class_map_graph` or `finer_graph` returns it; `names` are its outputs.
        inputs: example (2, channels, H, W).
        file: where to write.
        metadata: entries for the file's metadata_props.

    Raises:
        NetworkError: the network cannot be written as ONNX.
        ExportError: the disk has no room for the file.
        InspectorError: onnxscript is not installed.
    """
    import_runtime("onnxscript")
    if sum(tensor.nbytes for tensor in (*graph.parameters(), *graph.buffers())) > _MAX_ONNX_BYTES:
        raise NetworkError("The network is larger than the 2 GB that an ONNX file can hold. Use the format pt2.")
    names: Any = graph.names
    program = trace_program(graph, inputs)
    # torch.onnx and onnxscript raise errors of many kinds, and warn about their own code.
    with (
        one_trace_at_a_time,
        translate_errors(NetworkError, "The network cannot be written as ONNX: {reason}. Use the format pt2."),
        warnings.catch_warnings(action="ignore"),
    ):
        exported = torch.onnx.export(
            program, dynamo=True, input_names=["inputs"], output_names=list(names), verbose=False, optimize=True
        )
        assert exported is not None
        exported.model.metadata_props.update(metadata)
    with translate_errors(ExportError, f"Cannot write {file.name}: {{reason}}. Nothing was left there."):
        exported.save(file, external_data=False)
