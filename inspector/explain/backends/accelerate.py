"""Run a classifier's network through a faster inference runtime.

    accelerated = accelerate(classifier, "openvino")
    maps = inspector.class_maps(accelerated, "cat.jpg")

A backend is verified when it is built: on seeded noise, its logits and feature maps are compared with those of the
network in PyTorch, and NetworkError states the error if it exceeds the tolerance. It serves inputs of the size that it
was built for, as long as the network is not changed; everything else runs on PyTorch. Class maps are computed and
checked on every image as before, against the logits of the backend itself.
"""

import hashlib
import importlib.util
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from inspector.errors import NetworkError, summarize_reason
from inspector.explain.backends import runtimes
from inspector.explain.backends.export_graph import compare_outputs, feature_graph, one_trace_at_a_time
from inspector.explain.backends.runtimes import Run
from inspector.explain.backends.sessions import find_installed_runtime, import_runtime
from inspector.explain.classifier import Classifier, check_classifier
from inspector.explain.decomposition import decompose
from inspector.explain.feature_capture import CapturedPass
from inspector.explain.fingerprint import NetworkFingerprint
from inspector.explain.pooling import POOL
from inspector.explain.precision import allows_tf32
from inspector.explain.tracing.forward import CapturedPooling, capture_poolings
from inspector.files import find_cache_folder, write_atomic
from inspector.version import __version__

OnBuilt: TypeAlias = Callable[[str, Path], object]  # takes the name of a backend, and its file in the cache

BACKENDS = ("auto", "eager", "folded", "compiled", "onnxruntime", "openvino", "cuda")

# Largest allowed error of logits and feature maps, relative to their largest absolute value.
TOLERANCES = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
_TF32 = 5e-3  # allowed error in float32 on a GPU where torch computes convolutions in TF32 (ten bits)
_DTYPE_NAMES = {dtype: str(dtype).removeprefix("torch.") for dtype in TOLERANCES}
_OUTPUTS = "logits, feature maps, class maps"  # of a cached graph; part of its cache key
_SEED = 3  # seed of the noise on which backends are verified

_RUN_GRAPH = {"folded": runtimes.run_folded, "compiled": runtimes.run_compiled, "cuda": runtimes.run_cuda}
_RUN_FILE = {"onnxruntime": runtimes.run_onnxruntime, "openvino": runtimes.run_openvino}


def accelerate(
    classifier: Classifier,
    backend: str = "auto",
    cache: str | Path | None = None,
    dtype: torch.dtype = torch.float32,
    delay: float = 0,
    on_built: OnBuilt = lambda backend, file: None,
) -> Classifier:
    """Return the classifier with another backend; the classifier given stays as it is.

    Args:
        classifier: classifier whose network is in float32.
        backend: one of BACKENDS. "auto" builds "onnxruntime", else "openvino", else "folded" ("cuda" on a GPU) in a
            thread; until it is ready, and if that fails, PyTorch runs the network. Every other backend is built before
            this function returns, in seconds ("compiled": half a minute). "eager" is PyTorch itself.
        cache: folder for the ONNX files of "onnxruntime" and "openvino", named by the hash of the weights. Default:
            $INSPECTOR_CACHE, else ~/.cache/inspector.
        dtype: precision of everything before the pooling: torch.float32, or for "folded", "compiled" and "cuda" also
            torch.float16 and torch.bfloat16. What follows the pooling runs in float32, so that class maps still sum to
            the logits. TOLERANCES states how far the logits may move.
        delay: seconds that "auto" waits before it builds.
        on_built: called when "onnxruntime" or "openvino" is verified, with its name and its file in the cache.

    Returns:
        Classifier that runs on the backend. ``backend_status`` says in one sentence what runs it.

    Raises:
        NetworkError: there is no such backend, it cannot be built, or it exceeds its tolerance.
        InspectorError: the library of the backend is not installed.
    """
    check_classifier(classifier)
    if backend not in BACKENDS:
        raise NetworkError(f"No backend {backend!r}. Use one of {', '.join(BACKENDS)}.")
    if dtype not in TOLERANCES:
        raise NetworkError(f"No backend runs in {dtype}. Use torch.float32, torch.float16 or torch.bfloat16.")
    eager = _set_accelerated(classifier, None)
    if backend == "eager":
        return eager
    chosen = _choose_backend(classifier) if backend == "auto" else backend
    folder = Path(cache) if cache is not None else find_cache_folder()
    accelerated = AcceleratedNetwork(eager, chosen, dtype, folder, on_built)
    if backend == "auto":
        accelerated.build_in_background(delay)
    else:
        accelerated.build()
    return _set_accelerated(eager, accelerated)


def with_backend(classifier: Classifier, name: str) -> Classifier:
    """Return the classifier with the backend that `ClassMaps.backend` names: "onnxruntime", "folded bfloat16".

    Raises:
        NetworkError, InspectorError: as `accelerate`.
    """
    backend, _, dtype_name = name.partition(" ")
    dtypes = {known: dtype for dtype, known in _DTYPE_NAMES.items()}
    if (dtype_name or "float32") not in dtypes:
        raise NetworkError(f"No backend {name!r}: its dtype is none of {', '.join(dtypes)}.")
    return accelerate(classifier, backend, dtype=dtypes[dtype_name or "float32"])


def has_fast_backend() -> bool:
    """Return whether onnxruntime or openvino is installed, and onnxscript, which writes networks for them."""
    return find_installed_runtime() is not None and importlib.util.find_spec("onnxscript") is not None


class AcceleratedNetwork:
    """A network built for another backend, for inputs of one size.

    Attributes:
        status: what runs the network, in one sentence.
    """

    def __init__(
        self, classifier: Classifier, backend: str, dtype: torch.dtype, cache: Path, on_built: OnBuilt
    ) -> None:
        self.status = f"Running on PyTorch while {backend} is being built."
        self._classifier, self._backend, self._dtype, self._cache = classifier, backend, dtype, cache
        self._on_built = on_built
        self._name = backend if dtype == torch.float32 else f"{backend} {_DTYPE_NAMES[dtype]}"
        self._shape = (len(classifier.preprocessing.mean), *classifier.preprocessing.size)
        self._fingerprint = NetworkFingerprint(classifier.network, classifier.noise_input())
        self._run: Run | None = None
        self._thread: threading.Thread | None = None

    def __call__(self, inputs: Tensor) -> CapturedPass | None:
        """Run one pass; None if the backend is not built for these inputs, or the network was changed."""
        run = self._run
        if run is None or inputs.shape[1:] != self._shape or inputs.dtype != torch.float32 or not len(inputs):
            return None
        if not self._fingerprint.is_unchanged():
            self.status = (
                f"The network was changed after {self._backend} was built, so PyTorch runs it. Call accelerate again."
            )
            return None
        captured = _split_outputs(self._classifier, run(inputs))
        return captured._replace(backend=self._name)

    def build(self) -> None:
        """Build and verify the backend.

        Raises:
            NetworkError, InspectorError: as `accelerate`.
        """
        # Besides, builds in parallel would take the processors away from whoever waits for class maps.
        with one_trace_at_a_time:
            run, file = _build(self._classifier, self._backend, self._dtype, self._cache)
        self._run, self.status = run, f"Running on {self._backend}."
        if file is not None:
            self._on_built(self._backend, file)

    def build_in_background(self, delay: float = 0) -> None:
        """Build the backend in a thread after `delay` seconds; `status` reports a failure."""
        # Not a daemon thread: the interpreter must not exit while a compiler is at work.
        self._thread = threading.Thread(target=self._build_or_report, name="inspector-backend")
        if not delay:
            self._thread.start()
            return
        timer = threading.Timer(delay, self._thread.start)
        timer.daemon = True  # the interpreter may exit: nothing is compiled yet
        timer.start()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until the backend is built or has failed, and return whether it is in use."""
        if self._thread is not None and self._thread.ident is not None:  # the thread was started
            self._thread.join(seconds)
        return self._run is not None

    def _build_or_report(self) -> None:
        try:
            self.build()
        except Exception as error:  # libraries raise errors of many kinds; PyTorch continues to run the network
            self.status = f"Running on PyTorch, because {self._backend} could not be built: {summarize_reason(error)}."


def _set_accelerated(classifier: Classifier, accelerated: AcceleratedNetwork | None) -> Classifier:
    return replace(classifier, capture=replace(classifier.capture, accelerated=accelerated))


def _choose_backend(classifier: Classifier) -> str:
    return "cuda" if classifier.noise_input().is_cuda else find_installed_runtime() or "folded"


def _split_outputs(classifier: Classifier, outputs: Sequence[Tensor]) -> CapturedPass:
    """Return the outputs of a backend as a pass in PyTorch would have captured them."""
    head = classifier.head
    logits, *maps = outputs
    feature_maps, class_maps = maps[: len(head.branches)], maps[len(head.branches) :]
    poolings = [
        CapturedPooling(branch.call, one, POOL[branch.pooling](one) if head.needs_pooled else None)
        for branch, one in zip(head.branches, feature_maps, strict=True)
    ]
    return CapturedPass(poolings, logits, class_maps=class_maps[0] if class_maps else None)


def _build(classifier: Classifier, backend: str, dtype: torch.dtype, cache: Path) -> tuple[Run, Path | None]:
    """Build and verify a backend, from the cache if it is there. Return it, and its file in the cache if it has one."""
    _check_supported(classifier, backend, dtype)
    if backend in _RUN_GRAPH:
        return _verify(classifier, _RUN_GRAPH[backend](feature_graph(classifier), dtype), backend, dtype), None
    import_runtime(backend)
    cached = cache / f"{_cache_key(classifier)}.onnx"
    if cached.is_file():
        with suppress(
            Exception
        ):  # the file is broken, or belongs to another network with the same weights: build it again
            return _verify(classifier, _RUN_FILE[backend](cached), backend, dtype), cached
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        file = Path(folder) / "network.onnx"
        runtimes.write_onnx(feature_graph(classifier), classifier.noise_input(2, _SEED), file, {})
        run = _verify(classifier, _RUN_FILE[backend](file), backend, dtype)
        content = file.read_bytes()
    with suppress(OSError):  # the cache cannot be written, so the backend is built again next time
        cache.mkdir(parents=True, exist_ok=True)
        write_atomic(cached, content, many_writers=True)
        return run, cached
    return run, None


def _check_supported(classifier: Classifier, backend: str, dtype: torch.dtype) -> None:
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
    if backend in _RUN_FILE and (example.device.type != "cpu" or dtype != torch.float32):
        raise NetworkError(f"The backend {backend!r} runs in float32 on the CPU; got {dtype} on {example.device}.")


def _verify(classifier: Classifier, run: Run, backend: str, dtype: torch.dtype) -> Run:
    """Return `run`; raise NetworkError if its logits, feature maps or class maps differ from the network's."""
    head, tolerance = classifier.head, TOLERANCES[dtype]
    for images in (1, 3):
        inputs = classifier.noise_input(images, _SEED)
        if inputs.is_cuda and (allows_tf32(torch.backends.cudnn) or allows_tf32(torch.backends.cuda.matmul)):
            tolerance = max(tolerance, _TF32)
        captured = _split_outputs(classifier, run(inputs))
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


def _cache_key(classifier: Classifier) -> str:
    """Return a hash of the weights, layers, input size and library versions."""
    network, size = classifier.network, classifier.preprocessing.size
    versions = [__version__, *(_find_version(name) for name in ("torch", "onnx", "onnxscript"))]
    # repr(network) also names layers without weights: average and max pooling have the same weights.
    parts = (classifier.sha256(), repr(network), classifier.head.calls, len(classifier.preprocessing.mean), size)
    return hashlib.sha256(repr((*parts, _OUTPUTS, versions)).encode()).hexdigest()[:32]


def _find_version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return ""
