"""What the sessions share, bounded: loaded networks, decoded photos and class maps, each under the hash of its content.

The heavy imports stand inside the functions, so that the page is there before torch is.
"""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st

from inspector.image import Photo, read_image

if TYPE_CHECKING:
    from inspector.anatomy import Anatomy
    from inspector.classifier import Classifier
    from inspector.maps import ClassMaps


@st.cache_resource(max_entries=4, show_spinner=False)
def network(name: str) -> "Classifier":
    from inspector.loading import load

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
    from inspector.maps import class_maps

    classifier = _load()
    if scale is None:
        return class_maps(classifier, _photo, "native")
    height, width = (round(scale * side) for side in classifier.preprocessing.size)
    return class_maps(classifier, _photo, None if scale == 1 else (height, width))


@st.cache_resource(max_entries=8, show_spinner=False)
def anatomy_of(network_key: str, _load: "Callable[[], Classifier]") -> "Anatomy":
    from inspector.anatomy import describe

    return describe(_load())
