"""Run a classifier's network through a faster inference runtime.

    accelerated = accelerate(classifier, "openvino")
    maps = inspector.class_maps(accelerated, "cat.jpg")

A backend is verified when it is built, see build.py. It serves inputs of the size that it was built for, as long as the
network is not changed; everything else runs on PyTorch. Class maps are computed and checked on every image as before,
against the logits of the backend itself.
"""

import importlib.util
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from inspector.errors import NetworkError, summarize_reason
from inspector.explain.backends.build import (
    TOLERANCES,
    build_backend,
    check_supported,
    is_measured,
    split_outputs,
)
from inspector.explain.backends.export_graph import one_trace_at_a_time
from inspector.explain.backends.lower_precision import (
    Calibration,
    CalibrationInputs,
    PrecisionLoss,
    check_loss,
    measure_loss,
)
from inspector.explain.backends.runtimes import Run
from inspector.explain.backends.sessions import find_installed_runtime
from inspector.explain.class_maps import class_maps_of_batch
from inspector.explain.classifier import Classifier, check_classifier
from inspector.explain.feature_capture import CapturedPass
from inspector.explain.fingerprint import NetworkFingerprint
from inspector.files import find_cache_folder

OnBuilt: TypeAlias = Callable[[str, Path], object]  # takes the name of a backend, and its file in the cache

BACKENDS = ("auto", "eager", "folded", "compiled", "onnxruntime", "openvino", "cuda")


def accelerate(
    classifier: Classifier,
    backend: str = "auto",
    cache: str | Path | None = None,
    dtype: torch.dtype | str = "float32",
    delay: float = 0,
    on_built: OnBuilt = lambda backend, file: None,
    calibration: Calibration | None = None,
    in_batches: bool = False,
) -> Classifier:
    """Return the classifier with another backend; the classifier given stays as it is.

    Args:
        classifier: classifier whose network is in float32.
        backend: one of BACKENDS. "auto" builds "onnxruntime", else "openvino", else "folded" ("cuda" on a GPU) in a
            thread; until it is ready, and if that fails, PyTorch runs the network. Every other backend is built before
            this function returns, in seconds ("compiled": half a minute). "eager" is PyTorch itself.
        cache: folder for the ONNX files of "onnxruntime" and "openvino", named by the hash of the weights. Default:
            $INSPECTOR_CACHE, else ~/.cache/inspector.
        dtype: precision of everything before the pooling: "float32"; for "folded", "compiled" and "cuda" also "float16"
            and "bfloat16", for "openvino" "bfloat16" and "int8", and for "onnxruntime" "int8". torch.float16 and so on
            are accepted, too. What follows the pooling runs in float32, so that class maps still sum to the logits.
            These differ from those in float32: by how much is measured on photos for "onnxruntime" and "openvino", and
            limited by TOLERANCES for the others.
        delay: seconds that "auto" waits before it builds.
        on_built: called when "onnxruntime" or "openvino" is verified, with its name and its file in the cache.
        calibration: photos like those that the network will see, for int8 and for bfloat16 of OpenVINO. Default: the
            example images.
        in_batches: passes will be of many images, beside threads that decode the next ones. The threads of
            "onnxruntime" then sleep while they wait for each other; a pass of one image takes a tenth longer.

    Returns:
        Classifier that runs on the backend. ``backend_status`` says in one sentence what runs it.

    Raises:
        NetworkError: there is no such backend, it cannot be built, it exceeds its tolerance, or the top-1 class changes
            in more photos than `calibration` allows.
        InspectorError: the library of the backend is not installed.
    """
    check_classifier(classifier)
    if backend not in BACKENDS:
        raise NetworkError(f"No backend {backend!r}. Use one of {', '.join(BACKENDS)}.")
    dtype = str(dtype).removeprefix("torch.")
    if dtype not in TOLERANCES:
        raise NetworkError(f"No backend runs in {dtype}. Use one of {', '.join(TOLERANCES)}.")
    if backend == "eager" and dtype != "float32":
        raise NetworkError(
            f'The backend "eager" runs the network as it is; got {dtype}. Use "onnxruntime" or "openvino" for int8, '
            '"openvino" or "folded" for bfloat16.'
        )
    if backend == "auto" and dtype == "int8":
        raise NetworkError('"auto" does not build in int8. Name a backend: "onnxruntime" or "openvino".')
    eager = _set_accelerated(classifier, None)
    if backend == "eager":
        return eager
    chosen = _choose_backend(classifier) if backend == "auto" else backend
    folder = Path(cache) if cache is not None else find_cache_folder()
    accelerated = AcceleratedNetwork(eager, chosen, dtype, folder, on_built, calibration, in_batches)
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
    backend, _, dtype = name.partition(" ")
    return accelerate(classifier, backend, dtype=dtype or "float32")


def has_fast_backend() -> bool:
    """Return whether onnxruntime or openvino is installed, and onnxscript, which writes networks for them."""
    return find_installed_runtime() is not None and importlib.util.find_spec("onnxscript") is not None


class AcceleratedNetwork:
    """A network built for another backend, for inputs of one size.

    Attributes:
        status: what runs the network, in one sentence.
        loss: how its logits and class maps differ from those in float32; None if that was not measured on photos.
    """

    def __init__(
        self,
        classifier: Classifier,
        backend: str,
        dtype: str,
        cache: Path,
        on_built: OnBuilt,
        calibration: Calibration | None = None,
        in_batches: bool = False,
    ) -> None:
        self.loss: PrecisionLoss | None = None
        self.status = f"Running on PyTorch while {backend} is being built."
        self._classifier, self._backend, self._dtype, self._cache = classifier, backend, dtype, cache
        self._on_built, self._calibration, self._in_batches = on_built, calibration, in_batches
        self._shape = (len(classifier.preprocessing.mean), *classifier.preprocessing.size)
        self._fingerprint = NetworkFingerprint(classifier.network, classifier.noise_input())
        self._run: Run | None = None
        self._thread: threading.Thread | None = None

    @property
    def name(self) -> str:
        """Name of the backend, with its dtype if that is not float32; "eager" until it is built, or if that failed."""
        if self._run is None:
            return "eager"
        return self._backend if self._dtype == "float32" else f"{self._backend} {self._dtype}"

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
        captured = split_outputs(self._classifier, run(inputs))
        return captured._replace(backend=self.name)

    def build(self) -> None:
        """Build and verify the backend.

        Raises:
            NetworkError, InspectorError: as `accelerate`.
        """
        # Besides, builds in parallel would take the processors away from whoever waits for class maps.
        with one_trace_at_a_time:
            check_supported(self._classifier, self._backend, self._dtype)
            inputs = None
            if is_measured(self._backend, self._dtype):
                inputs = CalibrationInputs(self._classifier, self._calibration)
            run, file = build_backend(
                self._classifier, self._backend, self._dtype, self._cache, inputs, self._in_batches
            )
            if inputs is not None:
                self.loss = self._measure_loss(run, inputs)
        self._run, self.status = run, " ".join([f"Running on {self._backend}.", *self.list_notes()])
        if file is not None:
            self._on_built(self._backend, file)

    def list_notes(self) -> tuple[str, ...]:
        """Return one sentence on the loss of lower precision, if it was measured."""
        return () if self.loss is None else (self.loss.describe(),)

    def _measure_loss(self, run: Run, inputs: CalibrationInputs) -> PrecisionLoss:
        built = AcceleratedNetwork(self._classifier, self._backend, self._dtype, self._cache, self._on_built)
        built._run = run
        lower = _set_accelerated(self._classifier, built)

        def run_maps(batch: Tensor) -> list[tuple[Tensor, Tensor]]:
            return [(maps.logits, maps.values) for maps in class_maps_of_batch(lower, batch)]

        loss = measure_loss(self._classifier, run_maps, self._dtype, inputs)
        check_loss(loss, inputs.least_agreement)
        return loss

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
