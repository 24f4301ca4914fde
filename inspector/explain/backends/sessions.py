"""Run ONNX files by ONNX Runtime or OpenVINO on the CPU, from NumPy arrays to NumPy arrays. Imports no torch.

    inputs (N, channels, H, W) -> the outputs of the graph, each an array of its own

Several threads may call what is returned at once.
"""

import importlib.util
import threading
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from inspector.errors import require

# Takes the inputs of the graph, usually one, and returns its outputs.
Session: TypeAlias = Callable[..., list[NDArray[np.float32]]]
K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_CACHED_SHAPES = 4  # number of input shapes for which a compiled network is kept; each holds the memory of a pass


def open_onnxruntime(file: Path, threads: int = 0) -> Session:
    """Open a file in ONNX Runtime. `threads` is the number of threads; 0: one per core.

    Raises:
        InspectorError: onnxruntime is not installed.
    """
    onnxruntime = import_runtime("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # After a pass its threads would wait busily for the next one, on the cores that decode the next photos.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(inputs: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        outputs: list[NDArray[np.float32]] = session.run(None, {name: inputs})
        return outputs

    return run


def open_openvino(file: Path | bytes, threads: int = 0, precision: str = "f32") -> Session:
    """Open an ONNX or OpenVINO file in OpenVINO.

    Args:
        file: path, or the content of an ONNX file.
        threads: number of threads; 0: one per core.
        precision: OpenVINO's name of the precision of operators that are not quantized, "f32" or "bf16".

    Raises:
        InspectorError: openvino is not installed.
    """
    openvino = import_runtime("openvino")
    settings = {
        # By default OpenVINO computes in bfloat16 if the processor supports it, which changes logits by up to 1.
        "INFERENCE_PRECISION_HINT": precision,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
    }
    core = openvino.Core()
    model = core.read_model(file if isinstance(file, bytes) else str(file))
    # Compile once for each batch size (0.1 s): this runs faster than one network for all sizes.
    compiled: dict[int, tuple[Any, list[Any]]] = {}  # batch size -> network and its idle requests
    lock = threading.Lock()

    def compile_for(inputs: tuple[NDArray[np.float32], ...]) -> tuple[Any, list[Any]]:
        fixed = model.clone()
        fixed.reshape({n: list(one.shape) for n, one in enumerate(inputs)})
        return core.compile_model(fixed, "CPU", settings), []

    def run(*inputs: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        with lock:
            network, idle = get_or_make(compiled, len(inputs[0]), lambda: compile_for(inputs))
        # A request holds the tensors of one pass, so threads that run at the same time need one each.
        try:
            request = idle.pop()
        except IndexError:
            request = network.create_infer_request()
        # Inputs are not copied; outputs are, because the next pass overwrites them.
        results = request.infer(list(inputs), share_inputs=True, share_outputs=False)
        idle.append(request)
        return [results[n] for n in range(len(network.outputs))]

    return run


def compile_openvino(file: str | Path) -> None:
    """Compile a file in OpenVINO for one image, to find out whether that is possible."""
    model = import_runtime("openvino").Core().read_model(str(file))
    (shape,) = [one.partial_shape for one in model.inputs]
    open_openvino(Path(file))(np.zeros([1, *(shape[n].get_length() for n in range(1, len(shape)))], np.float32))


# Runtimes by the names of their backends, the preferred one first.
OPEN: dict[str, Callable[[Path, int], Session]] = {"onnxruntime": open_onnxruntime, "openvino": open_openvino}


def find_installed_runtime() -> str | None:
    """Return the name of the first runtime that is installed; None if none is."""
    return next((name for name in OPEN if importlib.util.find_spec(name) is not None), None)


def get_or_make(cache: dict[K, V], key: K, make: Callable[[], V]) -> V:
    """Return the value of a key; a missing one is made and takes the place of the oldest if the cache is full."""
    if key not in cache:
        if len(cache) == _CACHED_SHAPES:
            del cache[next(iter(cache))]
        cache[key] = make()
    return cache[key]


def import_runtime(library: str) -> Any:
    """Import onnxruntime, openvino or onnxscript.

    Raises:
        InspectorError: it is not installed.
    """
    purpose = "Writing ONNX" if library == "onnxscript" else f"The backend {library!r}"
    return require(library, extra="quick", purpose=purpose)
