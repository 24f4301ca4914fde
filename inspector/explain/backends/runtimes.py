"""Run the graph of a network by an inference runtime: one function per backend, which returns a function to run it.

    inputs (N, channels, H, W) -> the outputs of the graph, each a tensor of its own

Several threads may call what is returned at once. Nothing here writes into the graph that it is given.
"""

import os
import shutil
import threading
import warnings
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from inspector.errors import ExportError, NetworkError, require, translate_errors
from inspector.explain.backends.export_graph import LogitsAndMaps, export_program, one_trace_at_a_time
from inspector.explain.backends.fold_batchnorm import fold_batchnorm

Run: TypeAlias = Callable[[Tensor], list[Tensor]]
K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_CACHED_SHAPES = 4  # number of input shapes for which a compiled network is kept; each holds the memory of a pass
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
            cuda_graph = _get_or_make(recorded, tuple(inputs.shape), lambda: _record_cuda_graph(folded, inputs))
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
    onnxruntime = import_runtime("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(inputs: Tensor) -> list[Tensor]:
        return [torch.from_numpy(one) for one in session.run(None, {name: inputs.detach().contiguous().numpy()})]

    return run


def run_openvino(file: Path) -> Run:
    """Run an ONNX or OpenVINO file by OpenVINO on the CPU, in float32, with as many threads as torch has."""
    openvino = import_runtime("openvino")
    settings = {
        # By default OpenVINO computes in bfloat16 if the processor supports it, which changes logits by up to 1.
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    core = openvino.Core()
    model = core.read_model(str(file))
    # Compile once for each batch size (0.1 s): this runs faster than one network for all sizes.
    compiled: dict[int, tuple[Any, list[Any]]] = {}  # batch size -> network and its idle requests
    lock = threading.Lock()

    def compile_for(shape: torch.Size) -> tuple[Any, list[Any]]:
        fixed = model.clone()
        fixed.reshape(list(shape))
        return core.compile_model(fixed, "CPU", settings), []

    def run(inputs: Tensor) -> list[Tensor]:
        with lock:
            network, idle = _get_or_make(compiled, len(inputs), lambda: compile_for(inputs.shape))
        # A request holds the tensors of one pass, so threads that run at the same time need one each.
        try:
            request = idle.pop()
        except IndexError:
            request = network.create_infer_request()
        # Inputs are not copied; outputs are, because the next pass overwrites them.
        results = request.infer([inputs.detach().contiguous().numpy()], share_inputs=True, share_outputs=False)
        idle.append(request)
        return [torch.from_numpy(results[n]) for n in range(len(network.outputs))]

    return run


def _get_or_make(cache: dict[K, V], key: K, make: Callable[[], V]) -> V:
    """Return the value of a key; a missing one is made and takes the place of the oldest if the cache is full."""
    if key not in cache:
        if len(cache) == _CACHED_SHAPES:
            del cache[next(iter(cache))]
        cache[key] = make()
    return cache[key]


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
    program = export_program(graph, inputs)
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


def import_runtime(library: str) -> Any:
    """Import onnxruntime, openvino or onnxscript.

    Raises:
        InspectorError: it is not installed.
    """
    purpose = "Writing ONNX" if library == "onnxscript" else f"The backend {library!r}"
    return require(library, extra="quick", purpose=purpose)
