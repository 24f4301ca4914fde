"""What is looked at: a network of models/ or of this session's own, a photo, an input size. It fills the sidebar."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import streamlit as st

from inspector.images.examples import list_examples
from inspector.images.photo import MAX_BYTES, Photo
from inspector.networks.catalog import list_models
from inspector.ui.state import cache

if TYPE_CHECKING:
    from inspector.explain.classifier import Classifier

OWN = "own networks"  # in the session's state: what was uploaded in it, by name

AS_TRAINED = "as trained"
# Where the words of the choice stand in a link: height and width are multiplied by so much.
SIZES: dict[str, float | None] = {AS_TRAINED: 1, "1.5 times": 1.5, "twice": 2, "the photo's own": None}


@dataclass(frozen=True)
class NetworkChoice:
    """A network, before it is loaded."""

    key: str  # under which it is cached for all sessions: of a session's own nobody else can know it
    name: str
    title: str
    examples: str  # which photos fit it
    load: "Callable[[], Classifier]"


def list_choices() -> dict[str, NetworkChoice]:
    """The networks of models/ and those of this session."""
    own: dict[str, NetworkChoice] = st.session_state.get(OWN, {})
    return {name: _of_card(name, card.title, card.examples) for name, card in list_models().items()} | own


def choose_network() -> NetworkChoice:
    """The network from the sidebar."""
    offered = list_choices()
    st.title("Inspector", anchor=False)
    st.caption("Which pixels brought which part of a logit, in numbers that add up.")
    # Kept, with its link, on whatever page one is.
    name = st.selectbox("Network", list(offered), key="network", bind="query-params")
    st.caption(offered[name].title)
    return offered[name]


def _of_card(name: str, title: str, kind: str) -> NetworkChoice:
    return NetworkChoice(name, name, title, kind, lambda: cache.network(name))


def choose_photo(choice: NetworkChoice) -> Photo:
    """The photo from the sidebar: an upload, or an example."""
    upload = st.file_uploader(
        "Your photo",
        type=["jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif"],
        key="photo",
        max_upload_size=MAX_BYTES // 1_000_000,
        help="It stays in this server's memory, is never written to disk, and no other session sees it.",
    )
    offered = list_examples(choice.examples)
    example = st.pills(
        "or an example", list(offered), default=next(iter(offered)), required=True, key="example",
        bind="query-params", disabled=upload is not None,
    )  # fmt: skip
    if upload is not None:
        return cache.uploaded_photo(upload.file_id, upload.name, upload.getvalue())
    return cache.example_photo(offered[example])


def choose_size() -> str:
    """One of SIZES, from the sidebar."""
    return st.selectbox(
        "Input size", list(SIZES), key="size", bind="query-params",
        help="Global pooling takes maps of any size: a larger input gives finer class maps, and other logits. "
        "Networks are at their best at the size that they were trained with.",
    )  # fmt: skip
