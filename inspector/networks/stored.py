"""Explain photos by a network that was built for ONNX Runtime or OpenVINO, without torch, which takes long to import.

    keep_network(files, classifier, backend, graph)      after the backend is verified, see accelerate.py
    open_network(files, backend)  ->  StoredNetwork      at the next start
    StoredNetwork.explain(photo)  ->  MapArrays          the numbers of `class_maps`, with the same check of the sums

What the graph does not hold is kept beside it in the cache folder: bias, receptive fields, verdict, output activation.
The file has the name of a hash of all that these follow from: model.json, weights, versions of libraries and
Inspector's own code. If one of them changes, no file has that name, and the network is loaded in the usual way. A file
that is broken is not used either.

Networks whose code or weights are not part of that hash are not kept: uploads, downloads, files with code of their own.
"""

import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

import numpy as np
from numpy.typing import NDArray

from inspector.entries import Entries, parse_json
from inspector.errors import NetworkError
from inspector.explain.backends.sessions import Session, open_once
from inspector.explain.kinds import VERDICTS, OutputActivation, OutputMeaning, Verdict
from inspector.explain.map_arrays import (
    ChannelArrays,
    Floats,
    MapArrays,
    NetworkFacts,
    compare_sums,
    compute_probabilities,
    count_maxima,
    shows_scores,
)
from inspector.explain.receptive_field import Axis, ReceptiveField
from inspector.files import find_cache_folder, write_atomic
from inspector.images.photo import Photo
from inspector.images.preprocessing import Preprocessing, make_view, normalize_view
from inspector.networks.catalog import (
    CARD,
    LIBRARIES,
    ModelCard,
    find_cell_center,
    find_model_folder,
    find_weight_files,
    read_model_card,
)

if TYPE_CHECKING:
    from inspector.explain.classifier import Classifier

_CODE = ("images", "explain", "networks")  # folders of inspector/ whose code decides the numbers
_LIBRARIES = (
    *("torch", "torchvision", "timm", "efficientnet_lite_pytorch", "numpy", "pillow"),
    *("onnx", "onnxscript", "onnxruntime", "openvino"),
)
_POOLINGS = ("average", "max", "flatten")  # whose class maps the graph computes


@dataclass(frozen=True, eq=False)
class NetworkFiles:
    """The files of a network with a name, as they were when they were read."""

    card: ModelCard
    sha256: str  # of their contents, and of versions and code
    stamps: tuple[tuple[Path, tuple[int, int]], ...]  # each file with its time of change and size

    def are_unchanged(self) -> bool:
        """Return whether the files are still the same, as far as their times and sizes show."""
        try:
            return all(_read_stamp(path) == stamp for path, stamp in self.stamps)
        except OSError:
            return False


@dataclass(frozen=True, eq=False)
class StoredNetwork:
    """A network that explains photos of its own input size without torch. Several threads may use it at once."""

    files: NetworkFiles
    facts: NetworkFacts
    preprocessing: Preprocessing
    verdict: Verdict  # what the sums are, if they are the network's logits
    tolerance: float  # residual that rounding explains, relative to the sum of all absolute summands
    bias: Floats  # (K,)
    weight: Floats | None  # (K, P), of the pooled values; None if each feature map is the class map of one class
    backend: str
    run: Session  # returns logits (N, K), feature maps (N, C, h, w) and class maps (N, K, h, w)

    def explain(self, photo: Photo) -> MapArrays | None:
        """Compute the class maps of a photo.

        Returns:
            The maps. None if their sums differ from the logits by more than rounding of the sums over cells explains:
            `class_maps` then looks for other causes, and gives the verdict.

        Raises:
            ImageError: the photo cannot be an input of this network.
        """
        view = make_view(photo, self.preprocessing)
        logits, feature_maps, values = (one[0] for one in self.run(normalize_view(view, self.preprocessing)))
        residual, differing = compare_sums(values, self.bias, logits, self.tolerance)
        if differing:
            return None
        probabilities = compute_probabilities(self.facts.meaning, logits)
        scores = self._score_cells(feature_maps, values) if shows_scores(self.facts) else None
        maxima = count_maxima(feature_maps) if self.facts.pooling == "max" else None
        outputs = (values, self.bias, logits, probabilities, residual, self.verdict, scores, maxima)
        return MapArrays(self.facts, view, *outputs, self.backend, ChannelArrays(feature_maps, self.weight))

    def _score_cells(self, feature_maps: Floats, values: Floats) -> Floats:
        """Compute the score of each cell as if it alone were pooled, (K, h, w)."""
        if self.facts.pooling == "average":
            return values * np.float32(values[0].size)
        return feature_maps if self.weight is None else np.tensordot(self.weight, feature_maps, 1)


def read_files(name: str) -> NetworkFiles | None:
    """Read the files of a network; None if it has no name in models/, or is not kept."""
    with suppress(NetworkError, OSError):
        folder = find_model_folder(name)
        if folder is not None and _has_known_code(card := read_model_card(folder)):
            paths = [folder / CARD, *find_weight_files(card)]
            stamps = tuple((path, _read_stamp(path)) for path in paths)  # before the contents
            # A measured center may be in the card of the backbone, which is none of these files.
            center = card.cell_center or find_cell_center(
                card.architecture["factory"], card.architecture.get("arguments")
            )
            return NetworkFiles(card, _hash_files(paths, center), stamps)
    return None


def keep_network(files: NetworkFiles, classifier: "Classifier", backend: str, graph: Path) -> None:
    """Keep beside the graph of a network what `open_network` needs. If it cannot be kept, nothing is written.

    Args:
        files: the files from which the network was loaded, as they were before.
        classifier: the network.
        backend: "onnxruntime" or "openvino", which is verified.
        graph: the file of this backend, as `accelerate` builds it.
    """
    head, card, field = classifier.head, files.card, classifier.receptive_field
    is_as_in_card = (classifier.preprocessing, classifier.class_names) == (card.preprocessing, card.classes)
    if head.weight is None or len(head.branches) > 1 or head.pooling not in _POOLINGS or not is_as_in_card:
        return
    with suppress(OSError):
        values = {
            "graph": graph.name,
            "graph_sha256": _hash_file(graph),
            "pooling": head.pooling,
            "per_class": head.per_class,
            "has_scores": head.has_position_scores,
            "verdict": head.verdict,
            "tolerance": head.tolerance,
            "activation": classifier.probability,
            "unit": classifier.unit,
            "misplaced": field.misplaced,
        }
        content = io.BytesIO()
        np.savez(
            content,
            text=np.array(json.dumps(values)),
            bias=head.affine[1].numpy(force=True),
            weight=np.zeros((0, 0), np.float32) if head.per_class else head.affine[0].numpy(force=True),
            axes=np.array([[axis.centre, axis.stride, axis.size] for axis in (field.y, field.x)]),
        )
        write_atomic(_name_file(files, backend, graph.parent), content.getvalue(), many_writers=True)


def open_network(files: NetworkFiles, backend: str, folder: Path | None = None) -> StoredNetwork | None:
    """Open what was kept of a network; None if there is nothing, or it is broken.

    Args:
        files: the files of the network, as they are now.
        backend: "onnxruntime" or "openvino".
        folder: where it was kept. Default: the cache folder.
    """
    file = _name_file(files, backend, folder or find_cache_folder())
    # A broken file may raise any error. The usual way then builds it again.
    with suppress(Exception), file.open("rb") as content, np.load(content, allow_pickle=False) as arrays:
        entries = Entries(parse_json(str(arrays["text"][()])))
        graph = file.with_name(Path(entries.text("graph")).name)
        bias, weight = _read_floats(arrays, "bias", 1), _read_floats(arrays, "weight", 2)
        if _hash_file(graph) == entries.text("graph_sha256") and len(bias) == len(files.card.classes):
            return StoredNetwork(
                files,
                _read_facts(files.card, entries, arrays["axes"]),
                files.card.preprocessing,
                cast(Verdict, entries.choice("verdict", tuple(VERDICTS))),
                entries.number("tolerance"),
                bias,
                weight if weight.size else None,
                backend,
                open_once(backend, graph, _count_threads()),
            )
    return None


def _read_facts(card: ModelCard, entries: Entries, axes: NDArray[np.float64]) -> NetworkFacts:
    y, x = (Axis(*(float(value) for value in axis)) for axis in axes)
    unit, misplaced = (entries.text(key) if entries.has(key) else None for key in ("unit", "misplaced"))
    activation = cast(OutputActivation, entries.choice("activation", get_args(OutputActivation)))
    return NetworkFacts(
        card.name,
        card.classes,
        card.preprocessing.size,
        ReceptiveField(y, x, misplaced),
        OutputMeaning(activation, unit),
        entries.choice("pooling", _POOLINGS),
        entries.flag("per_class"),
        entries.flag("has_scores"),
    )


def _read_floats(arrays: Any, key: str, dimensions: int) -> Floats:
    values: NDArray[Any] = arrays[key]
    if values.dtype != np.float32 or values.ndim != dimensions:
        raise ValueError(f"expected {key} as {dimensions}-dimensional float32, got {values.dtype} {values.shape}")
    return values


def _has_known_code(card: ModelCard) -> bool:
    """Return whether the hash of a network holds all code and weights: no code of the user, no further files."""

    def list_texts(value: Any) -> Iterator[str]:
        if isinstance(value, str):
            yield value
        for inner in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
            yield from list_texts(inner)

    texts = list(list_texts(dict(card.architecture)))
    own_code = any(":" in text and not text.startswith(LIBRARIES) for text in texts)
    return not own_code and card.architecture["factory"] not in ("onnx", "keras") and card.output is None


def _name_file(files: NetworkFiles, backend: str, folder: Path) -> Path:
    return folder / f"{files.sha256[:32]}-{backend}.npz"


def _read_stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size


def _hash_files(paths: list[Path], center: tuple[float, float] | None) -> str:
    digest = hashlib.sha256(f"{_describe_code()} {center}".encode())
    for path in paths:
        digest.update(_hash_file(path).encode())
    return digest.hexdigest()


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def _describe_code() -> str:
    """Return the versions of all libraries that decide the numbers, and a hash of our own code."""
    versions = []
    for library in _LIBRARIES:
        with suppress(PackageNotFoundError):
            versions.append(f"{library} {version(library)}")
    package, digest = Path(__file__).parent.parent, hashlib.sha256()
    for path in sorted(path for folder in _CODE for path in (package / folder).rglob("*.py")):
        digest.update(path.read_bytes())
    return f"{versions} {digest.hexdigest()}"


def _count_threads() -> int:
    """Return how many threads a runtime uses: $OMP_NUM_THREADS, as torch does; 0, one per core, if it is not set."""
    number = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    return int(number) if number.isdecimal() else 0
