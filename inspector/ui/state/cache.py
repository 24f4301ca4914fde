"""What the sessions share, bounded: loaded networks, decoded photos and class maps, each under the hash of its content.

The heavy imports stand inside the functions, so that the page is there before torch is.
"""

import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import streamlit as st

from inspector.errors import InspectorError
from inspector.images.photo import Photo, read_image
from inspector.training.read_run import Run, TestPhoto, read_test_photos

if TYPE_CHECKING:
    from streamlit.runtime.uploaded_file_manager import UploadedFile

    from inspector.analysis.channels import PhotoChannels
    from inspector.analysis.layers import LayerContributions, LayerMaps
    from inspector.analysis.masking import MaskedOutcome, PixelChange
    from inspector.analysis.summary import NetworkSummary
    from inspector.explain.class_maps import ClassMaps, FigureContent
    from inspector.explain.classifier import Classifier
    from inspector.explain.tracing.layer_trace import Layer
    from inspector.output.style import FigureStyle
    from inspector.ui.state.jobs import Task

_DELAY = 10  # seconds
BACKEND = "INSPECTOR_BACKEND"  # names a backend in place of "auto", where the libraries for it are there

# Class maps are those of a network, a photo's hash and name, and a scale of the input size.
MapsKey: TypeAlias = tuple[str, str, str, float | None]


# As many as the laboratory compares at once, and two: with fewer, each photo there would load them all again.
@st.cache_resource(max_entries=16, show_spinner=False)
def network(name: str, changed: int = 0) -> "Classifier":
    from inspector.networks.load import load

    classifier = load(name)
    # Streamlit collects garbage after every run; what lives as long as the server need not be walked each time.
    gc.collect()
    gc.freeze()
    return classifier


@st.cache_resource(max_entries=32, show_spinner=False)
def uploaded_photo(file_id: str, name: str, _data: bytes) -> Photo:
    return read_image(_data, name)


@st.cache_resource(max_entries=32, show_spinner=False)
def example_photo(path: Path) -> Photo:
    return read_image(path)


# Few: each is a second copy of the weights.
@st.cache_resource(max_entries=4, show_spinner=False)
def accelerated_network(network_key: str, _load: "Callable[[], Classifier]") -> "Classifier":
    """The network itself at first, and heard through the quickest backend as soon as that is built."""
    from inspector.explain.backends.accelerate import accelerate, has_fast_backend

    # Building takes seconds of Python's one lock: not while the first photo is on its way.
    return accelerate(_load(), os.environ.get(BACKEND) or ("auto" if has_fast_backend() else "eager"), delay=_DELAY)


@st.cache_resource(max_entries=32, show_spinner=False)
def class_maps_of(
    network_key: str,
    photo_sha256: str,
    photo_name: str,
    scale: float | None,
    _photo: Photo,
    _load: "Callable[[], Classifier]",
) -> "ClassMaps":
    """At the network's own input size times `scale`; None: at the photo's own size."""
    # The name is part of the key: whoever sends the same bytes under another name does not see the first one's.
    from inspector.explain.class_maps import class_maps

    classifier = accelerated_network(network_key, _load)
    if scale is None:
        return class_maps(classifier, _photo, "native")
    height, width = (round(scale * side) for side in classifier.preprocessing.size)
    return class_maps(classifier, _photo, None if scale == 1 else (height, width))


@st.cache_resource(max_entries=32, show_spinner=False)
def what_if_of(
    key: MapsKey, masked: tuple[tuple[int, int], ...], change: "PixelChange", _maps: "ClassMaps"
) -> "MaskedOutcome":
    """Of the network run on the photo with the cells (row, column) of some positions changed."""
    from inspector.analysis.masking import make_mask, mask_in_photo

    return mask_in_photo(_maps, make_mask(_maps, masked), change)


@st.cache_resource(max_entries=8, show_spinner=False)
def summary_of(network_key: str, _load: "Callable[[], Classifier]") -> "NetworkSummary":
    from inspector.analysis.summary import describe

    return describe(_load())


@st.cache_resource(max_entries=8, show_spinner=False)
def layers_of(network_key: str, _load: "Callable[[], Classifier]") -> "tuple[Layer, ...]":
    from inspector.analysis.layers import list_layers

    return list_layers(_load())


# Few: those of an early layer on a large photo are 70 MB.
@st.cache_resource(max_entries=8, show_spinner=False)
def layer_maps_of(key: MapsKey, label: str, _maps: "ClassMaps", _layer: "Layer") -> "LayerMaps":
    from inspector.analysis.layers import compute_layer_maps

    assert _maps.view is not None, "the app shows photos only"
    return compute_layer_maps(_maps.classifier, _maps.view, _layer)


@st.cache_resource(max_entries=64, show_spinner=False)
def contributions_of(key: MapsKey, label: str, k: int, _maps: "ClassMaps", _of: "LayerMaps") -> "LayerContributions":
    from inspector.analysis.layers import compute_layer_contributions

    return compute_layer_contributions(_maps, _of, k)


@st.cache_resource(max_entries=400, show_spinner=False)
def photo_channels_of(
    network_key: str, file_id: str, name: str, _upload: "UploadedFile", _load: "Callable[[], Classifier]"
) -> "PhotoChannels | str":
    """What the channels make of a photo; a sentence where it cannot be used."""
    from inspector.analysis.channels import read_photo_channels

    try:
        return read_photo_channels(_load(), read_image(_upload.getvalue(), name))
    except InspectorError as error:
        return str(error)


# Few: a map of every pixel of a large photo is 4 MB, and there are many methods.
@st.cache_resource(max_entries=8, show_spinner=False)
def methods_of(key: MapsKey, k: int) -> "dict[Task, Any]":
    """What the page of methods found out so far of one class; empty at first, and filled as it comes."""
    return {}


@st.cache_resource(max_entries=64, show_spinner=False)
def tested(folder: Path, changed: int, _run: Run) -> tuple[TestPhoto, ...]:
    return read_test_photos(_run)


@st.cache_data(max_entries=32, show_spinner=False)
def figure_preview(
    key: str, _maps: "ClassMaps", _shown: "FigureContent", _style: "FigureStyle", dpi: int
) -> tuple[bytes, tuple[float, float]]:
    """The figure as a small PNG, and its (width, height) in inches; InspectorError where at `dpi` it has no room."""
    from inspector.output.export import figure_bytes
    from inspector.output.figure import class_map_figure, fits

    figure = class_map_figure(_maps, _shown, _style)
    width, height = figure.get_size_inches()
    fits(width, height, dpi)
    return figure_bytes(figure, "png", _style.dpi), (float(width), float(height))


def changed(path: Path) -> int:
    """When a file was last written, in nanoseconds, 0 where there is none: part of a key, a new file is read anew."""
    return path.stat().st_mtime_ns if path.is_file() else 0
