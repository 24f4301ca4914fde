"""Caches that all sessions share: networks by their number, photos and results by the memory that they take.

Streamlit makes the key of an entry from all arguments whose names do not begin with an underscore. Modules that need
torch are imported inside the functions, so that the bar is on the screen before torch is imported.
"""

import gc
import os
from collections.abc import Callable
from functools import partial, update_wrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeAlias, TypeVar

import streamlit as st

from inspector.errors import NetworkError
from inspector.explain.memory import give_back_freed_memory
from inspector.images.photo import Photo, read_image
from inspector.networks.stored import StoredNetwork, read_files
from inspector.training.read_run import Run, TestPhoto, read_test_photos
from inspector.ui.state import sessions, sized_cache, stored_networks
from inspector.ui.state.sized_cache import SizedCache, keep_results

if TYPE_CHECKING:
    from inspector.analysis.layers import LayerContributions, LayerMaps
    from inspector.analysis.masking import MaskedOutcome
    from inspector.analysis.summary import NetworkSummary
    from inspector.explain.class_maps import ClassMaps, FigureContent
    from inspector.explain.classifier import Classifier
    from inspector.explain.kinds import PixelChange
    from inspector.explain.map_arrays import FinerArrays, MapArrays
    from inspector.explain.tracing.layer_trace import Layer
    from inspector.images.preprocessing import View
    from inspector.output.style import FigureStyle
    from inspector.ui.state.jobs import Task

_DELAY = 10  # seconds that accelerate_network waits before it builds a backend
BACKEND = "INSPECTOR_BACKEND"  # environment variable with the name of a backend, see accelerate_network

PRIVATE = "private "  # beginning of the keys of networks that only one session may use

P = ParamSpec("P")
R = TypeVar("R")

# Factor of the network's input size, or "whole", "whole:288" or "native" as in `class_maps`.
Scale: TypeAlias = float | str
# Key of the network, SHA-256 and name of the photo, scale. These four values determine the class maps.
MapsKey: TypeAlias = tuple[str, str, str, Scale]


class CachedResults(Generic[P, R]):
    """A function whose results are kept for all sessions; those of private networks only for their session.

    The first argument of the function is the key of a network, or a MapsKey.
    """

    def __init__(self, function: Callable[P, R], max_entries: int) -> None:
        make = partial(st.cache_resource, max_entries=max_entries, show_spinner=False)
        self._shared: Any = make()(function)
        self._private: Any = make(scope="session")(function)
        update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Return the result that is kept, or call the function."""
        key: Any = args[0]
        is_private = (key if isinstance(key, str) else key[0]).startswith(PRIVATE)
        result: R = (self._private if is_private else self._shared)(*args, **kwargs)
        return result

    def clear(self) -> None:
        """Forget all results that are shared."""
        self._shared.clear()

    def clear_private(self) -> None:
        """Forget all results of private networks of this session."""
        self._private.clear()


def cache_results(max_entries: int) -> Callable[[Callable[P, R]], CachedResults[P, R]]:
    """Decorate a function as CachedResults."""
    return lambda function: CachedResults(function, max_entries)


def _drop_with_session(key: Any, kept: SizedCache) -> None:
    """Drop a result when the session of this thread has ended."""
    sessions.at_session_end(lambda: kept.drop(lambda other: other == key))


def drop_if_private(key: Any, kept: SizedCache) -> None:
    """Drop a result of a private network when the session has ended. Its network's key, or a MapsKey, comes first."""
    if (key[1] if isinstance(key[1], str) else key[1][0]).startswith(PRIVATE):
        _drop_with_session(key, kept)


# The page Training runs shows a photo by up to 14 networks (MAX_RUNS in components/charts.py). With fewer entries than
# that, every new photo would load all of these networks again.
@st.cache_resource(max_entries=16, show_spinner=False)
def load_network(name: str, changed: int = 0) -> "Classifier":
    """Load a network by name or path. `changed` is the time of its file, so that a changed file is loaded again."""
    from inspector.networks.load import load

    files = read_files(name)
    classifier = load(name)
    stored_networks.note_source(classifier, files)
    # Streamlit collects garbage after every run of a page. This takes 160 ms, because torch and the networks have
    # 270,000 objects. The collector skips frozen objects. A frozen network is still freed when the cache drops it,
    # because networks are in no reference cycle.
    gc.collect()
    gc.freeze()
    return classifier


def load_local_network(name: str) -> "Classifier":
    """Load torchvision:NAME or timm:NAME without a download.

    Raises:
        NetworkError: the weights are not on this machine.
    """
    from inspector.networks.pretrained import has_weights

    if not has_weights(name):
        raise NetworkError(f"The weights of {name} are not on this machine. Load it on the page Model.")
    return load_network(name)


@keep_results(_drop_with_session)
def read_upload(file_id: str, name: str, _data: bytes) -> Photo:
    """Read an uploaded photo. Raises ImageError if it cannot be read."""
    return read_image(_data, name)


@keep_results()
def read_example(path: Path) -> Photo:
    """Read a photo from a file of the server. Raises ImageError if it cannot be read."""
    return read_image(path)


# Only 4 entries: each holds a second copy of the weights.
@cache_results(max_entries=4)
def accelerate_network(network_key: str, _load: "Callable[[], Classifier]") -> "Classifier":
    """Return the network with the backend that $INSPECTOR_BACKEND names.

    Without the variable, the fastest backend is built in a thread; until it is ready, PyTorch runs the network. Private
    networks always run on PyTorch, because backends are built from files on the disk.
    """
    from inspector.explain.backends.accelerate import accelerate, has_fast_backend

    classifier = _load()
    if network_key.startswith(PRIVATE):
        return accelerate(classifier, "eager")
    backend = os.environ.get(BACKEND) or ("auto" if has_fast_backend() else "eager")
    keep = partial(stored_networks.keep_built, network_key, classifier)
    # The build blocks all Python threads for seconds. The delay lets the page explain the first photo before that.
    accelerated = accelerate(classifier, backend, delay=_DELAY, on_built=keep)
    give_back_freed_memory()  # of the files that were read, and of the passes that found the head
    return accelerated


@keep_results(drop_if_private)
def compute_class_maps(
    network_key: str,
    photo_sha256: str,
    photo_name: str,
    scale: Scale,
    _photo: Photo,
    _load: "Callable[[], Classifier]",
) -> "ClassMaps":
    """Compute the class maps of a photo.

    Args:
        network_key: key of the network. It and the next three arguments form a MapsKey.
        photo_sha256: hash of the photo.
        photo_name: name of the photo. It is part of the key, so that a user who uploads the same bytes under another
            name does not see the name that the first user chose.
        scale: factor of the network's input size, or "whole", "whole:288" or "native".
    """
    return _explain(network_key, scale, _photo, _load)


def _explain(
    network_key: str, scale: Scale, photo: Photo, load: "Callable[[], Classifier]", finer: int = 1
) -> "ClassMaps":
    from inspector.explain.class_maps import class_maps

    classifier = accelerate_network(network_key, load)
    if isinstance(scale, str):
        return class_maps(classifier, photo, scale, finer=finer)
    height, width = (round(scale * side) for side in classifier.preprocessing.size)
    return class_maps(classifier, photo, None if scale == 1 else (height, width), finer=finer)


@keep_results(drop_if_private)
def compute_finer_maps(key: MapsKey, finer: int, _photo: Photo, _load: "Callable[[], Classifier]") -> "ClassMaps":
    """Compute the class maps of a photo with the cells between the network's own.

    Raises:
        InspectorError: there is no finer grid; the error says why.
    """
    return _explain(key[0], key[3], _photo, _load, finer)


@keep_results(drop_if_private)
def list_finer_arrays(key: MapsKey, finer: int, classes: tuple[int, ...], _maps: "ClassMaps") -> "FinerArrays":
    """Return the finer maps of some classes as arrays."""
    from inspector.explain.map_arrays import shows_scores

    assert _maps.finer is not None, "from compute_finer_maps"
    return _maps.finer.to_numpy(classes, shows_scores(_maps.classifier.facts))


def find_stored(network_key: str, scale: Scale) -> StoredNetwork | None:
    """Return the network if it explains photos at this scale at once, without torch; otherwise None."""
    return stored_networks.find_stored(network_key, os.environ.get(BACKEND) or "auto") if scale == 1 else None


def compute_arrays(key: MapsKey, photo: Photo, load: "Callable[[], Classifier]") -> "MapArrays":
    """Compute the class maps of a photo as arrays, without torch if the network was kept for that.

    The arguments are those of `compute_class_maps`.
    """
    network_key, _, _, scale = key
    stored = find_stored(network_key, scale)
    if stored is not None and (arrays := _compute_stored_arrays(*key, stored.files.sha256, photo, stored)) is not None:
        return arrays
    return compute_class_maps(*key, photo, load).to_numpy()


@keep_results()
def _compute_stored_arrays(
    network_key: str,
    photo_sha256: str,
    photo_name: str,
    scale: Scale,
    files_sha256: str,
    _photo: Photo,
    _stored: StoredNetwork,
) -> "MapArrays | None":
    return _stored.explain(_photo)


@keep_results(drop_if_private)
def mask_photo(
    key: MapsKey, masked: tuple[tuple[int, int], ...], change: "PixelChange", _maps: "ClassMaps"
) -> "MaskedOutcome":
    """Run the network on the photo with the masked cells (row, column) changed."""
    from inspector.analysis.masking import make_mask, mask_in_photo

    return mask_in_photo(_maps, make_mask(_maps, masked), change)


@cache_results(max_entries=8)
def summarize_network(network_key: str, _load: "Callable[[], Classifier]") -> "NetworkSummary":
    """Summarize a network: its layers, its head and how exact its class maps are."""
    from inspector.analysis.summary import describe

    return describe(_load())


@cache_results(max_entries=8)
def list_network_layers(network_key: str, _load: "Callable[[], Classifier]") -> "tuple[Layer, ...]":
    """List the layers of a network in the order in which they run."""
    from inspector.analysis import layers

    return layers.list_layers(_load())


@keep_results(drop_if_private)
def compute_layer_maps(key: MapsKey, label: str, _maps: "ClassMaps", _layer: "Layer") -> "LayerMaps":
    """Compute the feature maps of a layer on the photo."""
    from inspector.analysis import layers

    return layers.compute_layer_maps(_maps.classifier, get_view(_maps), _layer)


@keep_results(drop_if_private)
def compute_contributions(
    key: MapsKey, label: str, k: int, _maps: "ClassMaps", _layer_maps: "LayerMaps"
) -> "LayerContributions":
    """Compute what each channel of a layer contributes to the logit of class k."""
    from inspector.analysis import layers

    return layers.compute_layer_contributions(_maps, _layer_maps, k)


# Only 8 entries: each holds the maps of many methods, and a map with one value per pixel can take 4 MB.
@cache_results(max_entries=8)
def get_method_results(key: MapsKey, k: int) -> "dict[Task, Any]":
    """Return the results of the page Methods for class k. The dict is empty at first; a Job fills it."""
    return {}


@st.cache_resource(max_entries=64, show_spinner=False)
def read_tested_photos(folder: Path, changed: int, _run: Run) -> tuple[TestPhoto, ...]:
    """Read the list of test photos of a run. Raises InspectorError if its file cannot be read."""
    return read_test_photos(_run)


@st.cache_data(max_entries=32, show_spinner=False)
def draw_figure_preview(
    key: str, _maps: "ClassMaps", _shown: "FigureContent", _style: "FigureStyle", dpi: int
) -> tuple[bytes, tuple[float, float]]:
    """Draw a figure as a small PNG. Return the PNG, and (width, height) of the figure in inches.

    Raises:
        ExportError: the figure is too large at `dpi`.
    """
    from inspector.output.figure import check_size, class_map_figure
    from inspector.output.figure_file import encode_figure

    figure = class_map_figure(_maps, _shown, _style)
    width, height = figure.get_size_inches()
    check_size(width, height, dpi)
    return encode_figure(figure, "png", _style.dpi), (float(width), float(height))


def forget_network(network_key: str) -> None:
    """Give back the memory of a private network and of its results. Other private results are computed again."""
    for function in (accelerate_network, summarize_network, list_network_layers, get_method_results):
        function.clear_private()
    sized_cache.drop_results(lambda key: network_key in (key[1] if isinstance(key[1], tuple) else key[1:2]))
    gc.collect()


def get_view(maps: "ClassMaps") -> "View":
    """Return the view of class maps: their photo, and the crop of it that the network sees."""
    return maps.view


def read_change_time(path: Path) -> int:
    """Return when a file was last written, in nanoseconds; 0 if there is no file.

    Cache keys contain this time, so that a changed file is read again.
    """
    return path.stat().st_mtime_ns if path.is_file() else 0
