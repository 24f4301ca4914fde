"""Quick networks behind one argument: another way to hear the feature maps and the logits of one pass.

    classifier = accelerate(classifier, "openvino")        # and then inspector.class_maps(classifier, photo) as ever

A quick network is proved when it is built, against the network itself on seeded noise, and refused with its figure.
It serves inputs of the size that it was built for while the network is as it was; everything else goes the usual way.
Class maps are made and checked as ever, on every image, against the logits that the quick network itself gave.
"""

import hashlib
import importlib.util
import os
import tempfile
import threading
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import Tensor

from inspector.errors import NetworkError, summarize_reason
from inspector.explain.backends.export_graph import feature_graph, noise
from inspector.explain.backends.runtimes import (
    Run,
    import_runtime,
    run_compiled,
    run_cuda,
    run_folded,
    run_onnxruntime,
    run_openvino,
    write_onnx,
)
from inspector.explain.classifier import Classifier
from inspector.explain.decomposition import decompose
from inspector.explain.feature_capture import CapturedPass
from inspector.explain.head import relative_error
from inspector.explain.pooling import global_average, global_max
from inspector.explain.tracing.forward import CapturedPooling, capture_and_record, capture_chosen_poolings
from inspector.explain.tracing.recording import OpRecording
from inspector.explain.weights import fingerprint_weights

BACKENDS = ("auto", "eager", "folded", "compiled", "onnxruntime", "openvino", "cuda")

# How far logits and feature maps may lie from the network's own, in parts of the largest of them.
TOLERANCES = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
_DTYPES = {dtype: str(dtype).removeprefix("torch.") for dtype in TOLERANCES}
_OUTPUTS = "logits, feature maps, class maps"  # of the graphs kept: others are no use
_TF32 = 5e-3  # float32 on a GPU whose convolutions round to ten bits, as torch lets them
_aside = threading.Lock()  # held by who builds aside

_OF_GRAPH: dict[str, Callable[..., Run]] = {"folded": run_folded, "compiled": run_compiled, "cuda": run_cuda}
_OF_FILE: dict[str, Callable[[Path], Run]] = {"onnxruntime": run_onnxruntime, "openvino": run_openvino}


def accelerate(
    classifier: Classifier,
    backend: str = "auto",
    cache: str | Path | None = None,
    dtype: torch.dtype = torch.float32,
    delay: float = 0,
) -> Classifier:
    """The same classifier, heard through a quick network; the one given stays as it is.

    "auto" builds onnxruntime, else openvino, else folded ("cuda" on a GPU) in a thread of its own, `delay` seconds from
    now: until it is ready, and where that fails, the network itself is heard; `classifier.backend_status` tells. Every
    other backend is built now, in seconds (compiled: half a minute); "eager" takes a quick network away. Networks built
    for openvino and onnxruntime are kept in `cache`, $INSPECTOR_CACHE or ~/.cache/inspector, by the hash of the
    weights. `dtype` float16 or bfloat16 is for folded, compiled and cuda: all before pooling runs in it, what follows
    in float32, so that maps still add up; how far logits may then move is in TOLERANCES.

    Raises NetworkError for a backend that is unknown, cannot be built or misses its tolerance, InspectorError where
    its library is not installed.
    """
    if backend not in BACKENDS:
        raise NetworkError(f"No backend {backend!r}; there are {', '.join(BACKENDS)}.")
    if dtype not in TOLERANCES:
        raise NetworkError(f"No backend runs in {dtype}; torch.float32, torch.float16 and torch.bfloat16 would do.")
    if backend == "eager":
        return replace(classifier, capture=replace(classifier.capture, accelerated=None))
    eager = replace(classifier, capture=replace(classifier.capture, accelerated=None))
    chosen = _best(classifier) if backend == "auto" else backend
    quick = AcceleratedNetwork(eager, chosen, dtype, Path(cache) if cache is not None else find_cache_folder())
    if backend == "auto":
        quick.build_in_background(delay)
    else:
        quick.build()
    return replace(eager, capture=replace(eager.capture, accelerated=quick))


def with_backend(classifier: Classifier, told: str) -> Classifier:
    """The same classifier, heard through what `ClassMaps.backend` tells: "onnxruntime", "folded bfloat16".

    Raises as `accelerate` does.
    """
    backend, _, name = told.partition(" ")
    dtypes = {known: dtype for dtype, known in _DTYPES.items()}
    if (name or "float32") not in dtypes:
        raise NetworkError(f"No backend {told!r}: its dtype is none of {', '.join(dtypes)}.")
    return accelerate(classifier, backend, dtype=dtypes[name or "float32"])


def has_fast_backend() -> bool:
    """Whether a library is there with which "auto" is much quicker, and what writes networks for it."""
    return _best_installed() is not None and importlib.util.find_spec("onnxscript") is not None


def find_cache_folder() -> Path:
    """Where built networks are kept: $INSPECTOR_CACHE, else ~/.cache/inspector."""
    if chosen := os.environ.get("INSPECTOR_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "inspector"


class AcceleratedNetwork:
    """A network built anew for inputs of one size; None for whatever it does not hold for.

    `note` says in a sentence who is heard, and why.
    """

    def __init__(self, classifier: Classifier, backend: str, dtype: torch.dtype, cache: Path) -> None:
        self.status = f"The network itself is heard while {backend} is being built."
        self._classifier, self._backend, self._dtype, self._cache = classifier, backend, dtype, cache
        self._name = backend if dtype == torch.float32 else f"{backend} {_DTYPES[dtype]}"
        self._shape = (len(classifier.preprocessing.mean), *classifier.preprocessing.size)
        self._weights = fingerprint_weights(classifier.capture)
        self._run: Run | None = None
        self._tape: OpRecording | None = None  # of what follows the pooling, which no backend makes the maps of
        self._thread: threading.Thread | None = None

    def __call__(self, inputs: Tensor) -> CapturedPass | None:
        run = self._run
        if run is None or inputs.shape[1:] != self._shape or inputs.dtype != torch.float32 or not len(inputs):
            return None
        if not all(weight.is_unchanged() for weight in self._weights):
            self.status = (
                f"The network was changed after {self._backend} was built: it is heard itself. Accelerate anew."
            )
            return None
        return CapturedPass(*_reductions(self._classifier, run(inputs)), self._tape, self._name)

    def build(self) -> None:
        """Build and prove it. NetworkError or InspectorError where that fails."""
        run = _built(self._classifier, self._backend, self._dtype, self._cache)
        if self._classifier.head.needs_pooled:
            _, _, self._tape = capture_and_record(
                self._classifier.network, noise(self._classifier, 1), self._classifier.head.calls
            )
        self._run, self.status = run, f"Heard through {self._backend}."

    def build_in_background(self, delay: float = 0) -> None:
        """The same in a thread of its own, so many seconds from now; `note` tells of a failure."""
        # No daemon: the interpreter may not go away under a compiler.
        self._thread = threading.Thread(target=self._build_or_tell, name="inspector-backend")
        if not delay:
            self._thread.start()
            return
        timer = threading.Timer(delay, self._thread.start)
        timer.daemon = True  # it compiles nothing yet
        timer.start()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until it is built, or could not be; whether it is in use."""
        if self._thread is not None and self._thread.ident is not None:  # begun
            self._thread.join(seconds)
        return self._run is not None

    def _build_or_tell(self) -> None:
        try:
            # One network at a time: they would take the processors from whoever waits for class maps.
            with _aside:
                self.build()
        except Exception as error:  # of any library: the network itself serves on
            self.status = f"The network itself is heard, for {self._backend} was not built: {summarize_reason(error)}."


def _best(classifier: Classifier) -> str:
    if _device(classifier).type == "cuda":
        return "cuda"
    return _best_installed() or "folded"


def _best_installed() -> str | None:
    return next((name for name in _OF_FILE if importlib.util.find_spec(name) is not None), None)


def _device(classifier: Classifier) -> torch.device:
    return noise(classifier, 1).device


def _reductions(classifier: Classifier, outputs: list[Tensor]) -> tuple[list[CapturedPooling], Tensor]:
    """What the outputs of a quick network are, as our own pass would have heard them."""
    head = classifier.head
    logits, feature_maps, made = outputs[0], outputs[1 : 1 + len(head.branches)], outputs[1 + len(head.branches) :]
    found = [
        CapturedPooling(
            branch.call,
            maps,
            _pooled(branch.pooling, maps) if head.needs_pooled else None,
            class_maps=made[0] if made else None,
        )
        for branch, maps in zip(head.branches, feature_maps, strict=True)
    ]
    return found, logits


def _pooled(pooling: str, feature_maps: Tensor) -> Tensor:
    if pooling == "average":
        return global_average(feature_maps)
    return global_max(feature_maps) if pooling == "max" else feature_maps.flatten(1)


def _built(classifier: Classifier, backend: str, dtype: torch.dtype, cache: Path) -> Run:
    """A quick network that was proved."""
    _refuse(classifier, backend, dtype)
    if backend in _OF_GRAPH:
        run = _OF_GRAPH[backend](feature_graph(classifier), dtype)
        _prove(classifier, run, backend, dtype)
        return run
    import_runtime(backend)
    file = cache / f"{_key(classifier)}.onnx"
    if file.is_file():
        try:
            run = _OF_FILE[backend](file)
            _prove(classifier, run, backend, dtype)
            return run
        except Exception:  # a broken file, or one of another network with the same weights: built anew
            pass
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        fresh = Path(folder) / "network.onnx"
        write_onnx(feature_graph(classifier), noise(classifier, 2), fresh, {})
        run = _OF_FILE[backend](fresh)
        _prove(classifier, run, backend, dtype)
        _keep(fresh, file)
    return run


def _refuse(classifier: Classifier, backend: str, dtype: torch.dtype) -> None:
    example = noise(classifier, 1)
    if classifier.head.needs_derivative:
        raise NetworkError(
            f"The {classifier.head.pooling} pooling of this network is split by its derivative, which only the network "
            'itself tells: the backend "eager" would do.'
        )
    if example.dtype != torch.float32:
        raise NetworkError(f"Backends are built from networks in float32; this one is in {example.dtype}.")
    if backend in _OF_FILE and (example.device.type != "cpu" or dtype != torch.float32):
        raise NetworkError(f"The backend {backend!r} runs in float32 on the CPU; got {dtype} on {example.device}.")


def _prove(classifier: Classifier, run: Run, backend: str, dtype: torch.dtype) -> None:
    """NetworkError with the figure where a quick network gives other logits or feature maps than the network."""
    tolerance = TOLERANCES[dtype]
    if _device(classifier).type == "cuda" and torch.backends.cudnn.allow_tf32:
        tolerance = max(tolerance, _TF32)
    for images in (1, 3):
        inputs = noise(classifier, images)
        heard, logits = _reductions(classifier, run(inputs))
        seen, expected = capture_chosen_poolings(classifier.network, inputs, classifier.head.calls)
        pairs = [("logits", logits, expected)]
        pairs += [("feature maps", a.feature_maps, b.feature_maps) for a, b in zip(heard, seen, strict=True)]
        for what, ours, own in pairs:
            miss, scale = (float(x.abs().max()) for x in (ours - own, own)) if ours.shape == own.shape else (1.0, 0.0)
            # Not >: what is not a number is no proof either.
            if not miss <= tolerance * scale:
                raise NetworkError(
                    f"The backend {backend!r} is refused: its {what} miss the network's own by {miss:.2g}, where "
                    f"{tolerance:.0e} of their largest, {tolerance * scale:.2g}, is allowed in {dtype}."
                )
        for split, own in zip(decompose(classifier.network, classifier.head, inputs, heard), logits, strict=True):
            sums, total = split.values.sum((1, 2)) + split.bias, split.values.abs().sum((1, 2)) + split.bias.abs()
            if classifier.head.verdict != "not unique" and not bool((relative_error(sums, own, total) <= 1).all()):
                raise NetworkError(
                    f"The backend {backend!r} is refused: the class maps miss its logits by "
                    f"{float((sums - own).abs().max()):.2g}, more than rounding leaves."
                )


def _key(classifier: Classifier) -> str:
    """The same for the same weights, layers, input size and libraries."""
    network, size = classifier.network, classifier.preprocessing.size
    versions = [_installed(name) for name in ("inspector", "torch", "onnx", "onnxscript")]
    # Layers without weights too: weights alone tell no average from no maximum.
    parts = (classifier.sha256(), repr(network), classifier.head.calls, len(classifier.preprocessing.mean), size)
    return hashlib.sha256(repr((*parts, _OUTPUTS, versions)).encode()).hexdigest()[:32]


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _keep(fresh: Path, file: Path) -> None:
    """Put a built network into the cache, whole or not at all; a cache that cannot be written is none."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, suffix=".part", delete=False) as part:
            part.write(fresh.read_bytes())
        Path(part.name).replace(file)
    except OSError:
        pass
