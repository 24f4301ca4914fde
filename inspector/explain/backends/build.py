"""Build a network for another inference runtime, and verify it before it is used.

On seeded noise, its logits and feature maps are compared with those of the network in PyTorch, and NetworkError states
the error if it exceeds the tolerance.
"""

import hashlib
import math
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import Tensor

from inspector.errors import NetworkError
from inspector.explain.backends import runtimes
from inspector.explain.backends.export_graph import compare_outputs, feature_graph
from inspector.explain.backends.lower_precision import CalibrationInputs
from inspector.explain.backends.quantize import quantize_before_pooling
from inspector.explain.backends.runtimes import Run
from inspector.explain.backends.sessions import OPEN, import_runtime
from inspector.explain.classifier import Classifier
from inspector.explain.decomposition import decompose
from inspector.explain.feature_capture import CapturedPass
from inspector.explain.pooling import POOL
from inspector.explain.precision import allows_tf32
from inspector.explain.tracing.forward import CapturedPooling, capture_poolings
from inspector.files import write_atomic
from inspector.version import __version__

# Largest allowed error of logits and feature maps on noise, relative to their largest absolute value.
TOLERANCES = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1, "int8": math.inf}
_TF32 = 5e-3  # allowed error in float32 on a GPU where torch computes convolutions in TF32 (ten bits)
_OUTPUTS = "logits, feature maps, class maps"  # of a cached graph; part of its cache key
_SEED = 3  # seed of the noise on which backends are verified

_RUN_GRAPH = {"folded": runtimes.run_folded, "compiled": runtimes.run_compiled, "cuda": runtimes.run_cuda}
_RUN_FILE = {
    ("onnxruntime", "float32"): runtimes.run_onnxruntime,
    ("onnxruntime", "int8"): runtimes.run_onnxruntime,
    ("openvino", "float32"): runtimes.run_openvino,
    ("openvino", "int8"): runtimes.run_openvino_int8,
    ("openvino", "bfloat16"): runtimes.run_openvino_bfloat16,
}


def split_outputs(classifier: Classifier, outputs: Sequence[Tensor]) -> CapturedPass:
    """Return the outputs of a backend as a pass in PyTorch would have captured them."""
    head = classifier.head
    logits, *maps = outputs
    feature_maps, class_maps = maps[: len(head.branches)], maps[len(head.branches) :]
    poolings = [
        CapturedPooling(branch.call, one, POOL[branch.pooling](one) if head.needs_pooled else None)
        for branch, one in zip(head.branches, feature_maps, strict=True)
    ]
    return CapturedPass(poolings, logits, class_maps=class_maps[0] if class_maps else None)


def build_backend(
    classifier: Classifier,
    backend: str,
    dtype: str,
    cache: Path,
    inputs: CalibrationInputs | None,
    in_batches: bool = False,
) -> tuple[Run, Path | None]:
    """Build and verify a backend, from the cache if it is there. Return it, and its file in the cache if it has one."""
    if backend in _RUN_GRAPH:
        run = _RUN_GRAPH[backend](feature_graph(classifier), getattr(torch, dtype))
        return _verify(classifier, run, backend, dtype), None
    import_runtime(backend)
    run_file = _RUN_FILE[backend, dtype]
    if in_batches and run_file is runtimes.run_onnxruntime:
        run_file = runtimes.run_onnxruntime_in_batches
    examples = inputs.sha256 if inputs is not None and dtype == "int8" else ""
    cached = cache / f"{_cache_key(classifier, examples)}.onnx"
    if cached.is_file():
        with suppress(
            Exception
        ):  # the file is broken, or belongs to another network with the same weights: build it again
            return _verify(classifier, run_file(cached), backend, dtype), cached
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        file = Path(folder) / "network.onnx"
        in_float32 = cache / f"{_cache_key(classifier)}.onnx"
        if examples and in_float32.is_file():
            shutil.copyfile(in_float32, file)
        else:
            runtimes.write_onnx(feature_graph(classifier), classifier.noise_input(2, _SEED), file, {})
        if inputs is not None and dtype == "int8":
            quantize_before_pooling(file, inputs.iterate_calibrating())
        run = _verify(classifier, run_file(file), backend, dtype)
        content = file.read_bytes()
    with suppress(OSError):  # the cache cannot be written, so the backend is built again next time
        cache.mkdir(parents=True, exist_ok=True)
        write_atomic(cached, content, many_writers=True)
        return run, cached
    return run, None


def is_measured(backend: str, dtype: str) -> bool:
    """Return whether the loss of a backend is measured on photos: in lower precision, for ONNX Runtime and OpenVINO."""
    return backend in OPEN and dtype != "float32"


def check_supported(classifier: Classifier, backend: str, dtype: str) -> None:
    """Raise NetworkError if a backend cannot run a classifier in a precision."""
    example = classifier.noise_input()
    if classifier.head.needs_derivative:
        raise NetworkError(
            f"The {classifier.head.pooling} pooling of this network is split by its derivative, which only PyTorch "
            'computes. Use the backend "eager".'
        )
    if example.dtype != torch.float32:
        raise NetworkError(
            f"Backends are built from networks in float32; this one is in {example.dtype}. Use network.float()."
        )
    if backend in OPEN and example.device.type != "cpu":
        raise NetworkError(f"The backend {backend!r} runs on the CPU; this network is on {example.device}.")
    possible = [known for one, known in _RUN_FILE if one == backend] or ["float32", "float16", "bfloat16"]
    if dtype not in possible:
        raise NetworkError(f"The backend {backend!r} does not run in {dtype}. Use {' or '.join(possible)}.")


def _verify(classifier: Classifier, run: Run, backend: str, dtype: str) -> Run:
    """Return `run`; raise NetworkError if its logits, feature maps or class maps differ from the network's."""
    # The lower precision of runtimes is measured on photos instead: on noise, activations are far from those of photos.
    head, tolerance = classifier.head, math.inf if is_measured(backend, dtype) else TOLERANCES[dtype]
    for images in (3, 1):  # a single image last: ONNX Runtime then gives back what it does not need
        inputs = classifier.noise_input(images, _SEED)
        if inputs.is_cuda and (allows_tf32(torch.backends.cudnn) or allows_tf32(torch.backends.cuda.matmul)):
            tolerance = max(tolerance, _TF32)
        captured = split_outputs(classifier, run(inputs))
        poolings, logits = capture_poolings(classifier.network, inputs, head.calls)
        pairs = [("logits", captured.logits, logits)]
        for pooling, expected in zip(captured.poolings, poolings, strict=True):
            pairs.append(("feature maps", pooling.feature_maps, expected.feature_maps))
        for what, values, exact in pairs:
            error, allowed = compare_outputs(values, exact, tolerance)
            if not error <= allowed:
                raise NetworkError(
                    f"The backend {backend!r} is refused: its {what} differ from the network's by {error:.2g}; at most "
                    f"{tolerance:.0e} of their largest value, {allowed:.2g}, is allowed in {dtype}."
                )
        if head.verdict != "not unique":
            _verify_sums(classifier, inputs, captured, backend)
    return run


def _verify_sums(classifier: Classifier, inputs: Tensor, captured: CapturedPass, backend: str) -> None:
    """Raise NetworkError if the class maps do not sum to the logits."""
    splits = decompose(classifier.network, classifier.head, inputs, captured)
    for split, logits in zip(splits, captured.logits, strict=True):
        residual, is_exact = split.compare_with_logits(logits)
        if not is_exact:
            raise NetworkError(
                f"The backend {backend!r} is refused: its class maps sum to its logits with a residual of "
                f"{residual:.2g}, more than rounding."
            )


def _cache_key(classifier: Classifier, examples: str = "") -> str:
    """Return a hash of the weights, layers, input size and library versions.

    Args:
        classifier: the network.
        examples: hash of the inputs that quantized it; "" if it is in float32.
    """
    network, size = classifier.network, classifier.preprocessing.size
    libraries = ("torch", "onnx", "onnxscript", *(["onnxruntime"] if examples else []))
    versions = [__version__, *(_find_version(name) for name in libraries), *([examples] if examples else [])]
    # repr(network) also names layers without weights: average and max pooling have the same weights.
    parts = (classifier.sha256(), repr(network), classifier.head.calls, len(classifier.preprocessing.mean), size)
    return hashlib.sha256(repr((*parts, _OUTPUTS, versions)).encode()).hexdigest()[:32]


def _find_version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return ""
