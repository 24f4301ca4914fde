"""Build the graph of a network anew for speed: a function for each backend, which returns a function to run it.

    inputs (N, channels, H, W) -> the outputs of the graph, each a tensor of its own

What is returned may be called by several threads at once. Nothing here writes into the graph that it is given.
"""

import os
import shutil
import threading
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from inspector.errors import InspectorError, NetworkError, summarize_reason
from inspector.explain.backends.export_graph import LogitsAndMaps, export_program
from inspector.explain.backends.fold_batchnorm import fold_batchnorm

Run: TypeAlias = Callable[[Tensor], list[Tensor]]

_KEPT = 4  # numbers of images that a network stays built for: each holds the memory of a pass
_LARGEST = 2**31 - 1  # bytes of an ONNX file that has its weights inside


def run_folded(graph: LogitsAndMaps, dtype: torch.dtype = torch.float32) -> Run:
    """BatchNorm inside the convolutions, channels last; `dtype` is that of all before pooling."""
    quick = fold_batchnorm(graph, dtype)

    def run(inputs: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return [one.contiguous() for one in quick(inputs.contiguous(memory_format=torch.channels_last))]

    return run


def run_compiled(graph: LogitsAndMaps, dtype: torch.dtype = torch.float32) -> Run:
    """torch.compile of the folded graph with its weights frozen; NetworkError where there is no C++ compiler."""
    if not any(shutil.which(name) for name in (os.environ.get("CXX", ""), "c++", "g++", "clang++") if name):
        raise NetworkError(
            'The backend "compiled" needs a C++ compiler, and none was found: install g++ or clang++, name it in $CXX, '
            'or take the backend "openvino".'
        )
    made = torch.compile(fold_batchnorm(graph, dtype), dynamic=True, options={"freezing": True})
    alone = threading.Lock()  # of what torch compiles, the first call of each kind of shape compiles more

    def run(inputs: Tensor) -> list[Tensor]:
        with alone, torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return [one.clone() for one in made(inputs.contiguous(memory_format=torch.channels_last))]

    return run


def run_cuda(graph: LogitsAndMaps, dtype: torch.dtype = torch.float32) -> Run:
    """The folded graph on the GPU, played back as a CUDA graph for each shape; NetworkError without a GPU."""
    if not torch.cuda.is_available():
        raise NetworkError(
            'The backend "cuda" needs an NVIDIA GPU and a torch that can use it, and there is none: "openvino" would '
            "do on a CPU."
        )
    if any(not tensor.is_cuda for tensor in graph.parameters()):
        raise NetworkError('The backend "cuda" takes a network that is on the GPU: wrap network.cuda().')
    quick = fold_batchnorm(graph, dtype)
    recorded: dict[tuple[int, ...], tuple[Any, Tensor, tuple[Tensor, ...]]] = {}
    alone = threading.Lock()  # a CUDA graph has one place for its inputs

    def record(inputs: Tensor) -> tuple[Any, Tensor, tuple[Tensor, ...]]:
        place = inputs.clone(memory_format=torch.channels_last)
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        # Libraries choose their kernels in the first passes, which no graph may hold.
        with torch.cuda.stream(aside):
            for _ in range(3):
                quick(place)
        torch.cuda.current_stream().wait_stream(aside)
        played = torch.cuda.CUDAGraph()
        with torch.cuda.graph(played):
            outputs = quick(place)
        return played, place, outputs

    def run(inputs: Tensor) -> list[Tensor]:
        shape = tuple(inputs.shape)
        with alone, torch.no_grad():
            if shape not in recorded:
                if len(recorded) == _KEPT:
                    del recorded[next(iter(recorded))]
                recorded[shape] = record(inputs)
            played, place, outputs = recorded[shape]
            place.copy_(inputs)
            played.replay()
            copies = [one.contiguous().clone() for one in outputs]
            # Another thread may be on another stream.
            torch.cuda.current_stream().synchronize()
        return copies

    return run


def run_onnxruntime(file: Path) -> Run:
    """ONNX Runtime on the CPU, with as many threads as torch has."""
    runtime = import_runtime("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(inputs: Tensor) -> list[Tensor]:
        return [torch.from_numpy(one) for one in session.run(None, {name: inputs.detach().contiguous().numpy()})]

    return run


def run_openvino(file: Path) -> Run:
    """OpenVINO on the CPU, in float32, with as many threads as torch has."""
    openvino = import_runtime("openvino")
    settings = {
        # Left alone it takes bfloat16 where the processor has it, and logits are then off by up to 1.
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    core = openvino.Core()
    model = core.read_model(str(file))
    # For each number of images a network of its own, made in a tenth of a second: quicker than one for any number.
    compiled: dict[int, tuple[Any, list[Any]]] = {}
    alone = threading.Lock()

    def compiled_for(inputs: Tensor) -> tuple[Any, list[Any]]:
        images = inputs.shape[0]
        with alone:
            if images not in compiled:
                if len(compiled) == _KEPT:
                    del compiled[next(iter(compiled))]
                fixed = model.clone()
                fixed.reshape(list(inputs.shape))
                compiled[images] = core.compile_model(fixed, "CPU", settings), []
            return compiled[images]

    def run(inputs: Tensor) -> list[Tensor]:
        network, idle = compiled_for(inputs)
        # A request holds what goes through one pass: whoever runs at the same time takes another.
        try:
            request = idle.pop()
        except IndexError:
            request = network.create_infer_request()
        # Inputs are read where they lie; outputs are copied, for the next pass writes over them.
        found = request.infer([inputs.detach().contiguous().numpy()], share_inputs=True, share_outputs=False)
        idle.append(request)
        return [torch.from_numpy(found[n]) for n in range(len(network.outputs))]

    return run


def write_onnx(graph: LogitsAndMaps, inputs: Tensor, file: Path, about: Mapping[str, str]) -> None:
    """Write the graph as an ONNX file for any N, weights inside and `about` in its metadata; `inputs` is an example.

    NetworkError where the network cannot be written so.
    """
    import_runtime("onnxscript")
    if sum(tensor.nbytes for tensor in (*graph.parameters(), *graph.buffers())) > _LARGEST:
        raise NetworkError("The network is larger than the 2 GB that an ONNX file can hold; pt2 would do.")
    names = ["logits", *(f"feature_maps_{n}" for n in range(len(graph.layouts) * graph.feature_maps))]
    names += ["maps"] * (graph.class_maps is not None)
    program = export_program(graph, inputs)
    try:
        # It warns of its own innards, and prints.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            written = torch.onnx.export(
                program, dynamo=True, input_names=["inputs"], output_names=names, verbose=False, optimize=True
            )
        assert written is not None
        written.model.metadata_props.update(about)
        written.save(file, external_data=False)
    except Exception as error:  # torch.onnx and onnxscript raise what they like
        raise NetworkError(
            f"The network cannot be written as ONNX: {summarize_reason(error)}; pt2 would do."
        ) from error


def import_runtime(library: str) -> Any:
    """A library of the extra `quick`; InspectorError where it is not installed."""
    try:
        if library == "onnxruntime":
            import onnxruntime

            return onnxruntime
        if library == "openvino":
            import openvino

            return openvino
        import onnxscript

        return onnxscript
    except ImportError as error:
        raise InspectorError(f"This needs {library}: pip install 'inspector[quick]'.") from error
