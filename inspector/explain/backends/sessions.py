"""Run ONNX files by ONNX Runtime or OpenVINO on the CPU, from NumPy arrays to NumPy arrays. Imports no torch.

    inputs (N, channels, H, W) -> the outputs of the graph, each an array of its own

Several threads may call what is returned at once.
"""

import importlib.util
import threading
from collections.abc import Callable, Hashable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias, TypeVar
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from inspector.errors import require
from inspector.explain.memory import give_back_freed_memory

# Takes the input of the graph and returns its outputs.
Session: TypeAlias = Callable[[NDArray[np.float32]], list[NDArray[np.float32]]]
K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_CACHED_SHAPES = 4  # number of input shapes for which a compiled network is kept; each holds the memory of a pass


def open_onnxruntime(file: Path, threads: int = 0, waits_busily: bool = True) -> Session:
    """Open a file in ONNX Runtime.

    Args:
        file: path of an ONNX file.
        threads: number of threads; 0: one per core.
        waits_busily: let its threads wait for each other without sleeping. A pass of one image is then a tenth faster;
            one of a batch is not, and its threads take the cores from those that decode the next photos.

    Raises:
        InspectorError: onnxruntime is not installed.
    """
    onnxruntime = import_runtime("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(waits_busily)))
    # After a pass its threads would go on waiting for the next one.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    give_back_freed_memory()  # it has read the file, and has its weights in the layout of this processor
    name = session.get_inputs()[0].name
    # ONNX Runtime keeps the memory of the largest batch for the next one. After a single image it gives back what that
    # does not need, which takes no time.
    shrink = onnxruntime.RunOptions()
    shrink.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")

    def run(inputs: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        outputs: list[NDArray[np.float32]] = session.run(None, {name: inputs}, shrink if len(inputs) == 1 else None)
        return outputs

    return run


def open_openvino(file: Path, threads: int = 0) -> Session:
    """Open an ONNX or OpenVINO file in OpenVINO, in float32. `threads` is the number of threads; 0: one per core.

    Raises:
        InspectorError: openvino is not installed.
    """
    return chain_openvino([(file, "f32")], threads)


def chain_openvino(parts: Sequence[tuple[Path | bytes, str]], threads: int = 0) -> Session:
    """Open graphs in OpenVINO that run one after the other.

    Args:
        parts: the graphs, each as the path or the content of a file, with OpenVINO's name of the precision of operators
            that are not quantized, "f32" or "bf16". The first has one input; the inputs of each other one are the
            outputs of the one before.
        threads: number of threads; 0: one per core.

    Raises:
        InspectorError: openvino is not installed.
    """
    openvino = import_runtime("openvino")
    core = openvino.Core()
    models = [core.read_model(one if isinstance(one, bytes) else str(one)) for one, _ in parts]
    settings = [
        # By default OpenVINO computes in bfloat16 if the processor supports it, which changes logits by up to 1.
        {"INFERENCE_PRECISION_HINT": one, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
        for _, one in parts
    ]
    # Compile once for each batch size (0.1 s): this runs faster than one network for all sizes.
    compiled: dict[int, tuple[list[Any], list[Any]]] = {}  # batch size -> networks and their idle requests
    lock = threading.Lock()

    def compile_for(shape: Sequence[int]) -> tuple[list[Any], list[Any]]:
        networks, shapes = list[Any](), [list(shape)]
        for model, setting in zip(models, settings, strict=True):
            fixed = model.clone()
            fixed.reshape(dict(enumerate(shapes)))
            networks.append(core.compile_model(fixed, "CPU", setting))
            shapes = [list(one.shape) for one in networks[-1].outputs]
        return networks, []

    def run(inputs: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        with lock:
            networks, idle = get_or_make(compiled, len(inputs), lambda: compile_for(inputs.shape))
        # A request holds the tensors of one pass, so threads that run at the same time need one each.
        try:
            requests = idle.pop()
        except IndexError:
            requests = _link_requests(networks)
        results = requests[0].infer(inputs, share_inputs=True, share_outputs=True)
        for request in requests[1:]:
            results = request.infer(share_outputs=True)
        # Copied, because the next pass overwrites them.
        outputs = [one.copy() for one in results.to_tuple()]
        idle.append(requests)
        return outputs

    return run


def _link_requests(networks: Sequence[Any]) -> list[Any]:
    """Create a request for each network. Each reads the memory into which the one before writes."""
    requests = [network.create_infer_request() for network in networks]
    for before, after in pairwise(requests):
        for n, tensor in enumerate(before.output_tensors):
            after.set_input_tensor(n, tensor)
    return requests


# Runtimes by the names of their backends, the preferred one first.
OPEN: dict[str, Callable[[Path, int], Session]] = {"onnxruntime": open_onnxruntime, "openvino": open_openvino}

# Backend, file with its time and size, and number of threads -> what is open.
_open: "WeakValueDictionary[tuple[str, Path, tuple[int, int], int], Session]" = WeakValueDictionary()
_lock = threading.Lock()


def open_once(backend: str, file: Path, threads: int = 0) -> Session:
    """Open a file in a runtime. If it is open there already, return the same session, which has the memory of one.

    Args:
        backend: one of OPEN.
        file: the file. If it has changed since, it is opened again.
        threads: number of threads; 0: one per core, or as many as the open session has.

    Raises:
        InspectorError: the runtime is not installed.
    """
    found = file.stat()
    key = backend, file.resolve(), (found.st_mtime_ns, found.st_size)
    with _lock:
        for (*other, count), session in list(_open.items()):
            if tuple(other) == key and (count == threads or 0 in (count, threads)):
                return session
        session = _open[(*key, threads)] = OPEN[backend](file, threads)
        return session


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
