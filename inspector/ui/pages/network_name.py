"""The forms of the page Model for a network of torchvision or timm, and for a folder."""

from concurrent.futures import ThreadPoolExecutor, wait

import streamlit as st

from inspector.errors import NetworkError
from inspector.explain.classifier import Classifier
from inspector.networks.build import suggest_library_names
from inspector.networks.catalog import CARD, LIBRARIES
from inspector.networks.huggingface import is_huggingface_folder
from inspector.networks.load import resolve
from inspector.networks.pretrained import download_weights, has_weights, list_pretrained
from inspector.ui.components.controls import show_error
from inspector.ui.components.markdown import plain
from inspector.ui.state import cache, folders, networks, uploads
from inspector.ui.state.networks import make_field_key

_downloads = ThreadPoolExecutor(2, "download")  # of all sessions


def show_name_form() -> None:
    """Show the choice of a network of torchvision or timm.

    Raises:
        InspectorError: there is no such network, or its weights cannot be downloaded.
    """
    with st.spinner("Listing the networks of torchvision and timm ..."):
        listed = _list_pretrained()
    here = {name for name, is_here in listed.items() if is_here}
    may_download = folders.is_open()
    if may_download:
        st.caption(
            "With their weights, preprocessing and class names. Weights that are not on this machine are downloaded."
        )
    else:
        st.caption("Those whose weights are on the machine of this app. It downloads none for its visitors.")
    name = st.selectbox(
        "Network",
        list(listed) if may_download else sorted(here),
        index=None,
        accept_new_options=True,
        format_func=lambda name: f"{name} (on this machine)" if name in here else name,
        key=make_field_key("name"),
        placeholder="torchvision:NAME or timm:NAME",
        help="Type a part of a name to search. Names of timm may end in the tag of their weights: "
        "`timm:resnet50.a1_in1k`.",
    )
    if st.button("Load", type="primary", key=make_field_key("by name"), disabled=name is None) and name is not None:
        name = _complete_name(name.strip())
        if may_download and not has_weights(name):
            _download(name)
        with st.spinner(f"Loading {plain(name)} and verifying its head ..."):
            networks.add_named(name, cache.load_local_network(name))
        _list_pretrained.clear()
        st.rerun()


@st.cache_resource(ttl=60, show_spinner=False)
def _list_pretrained() -> dict[str, bool]:
    return list_pretrained()


def _complete_name(name: str) -> str:
    """Return a name with its library, torchvision before timm. What a visitor types must not become a path.

    Raises:
        NetworkError: it is no name of their networks.
    """
    if name.startswith(LIBRARIES):
        return name
    if same := suggest_library_names(name).same:
        return same[0]
    raise NetworkError(f"{name} is no name of a network of torchvision or timm. Use torchvision:NAME or timm:NAME.")


def _download(name: str) -> None:
    """Download the weights of a network, and show how far it is.

    Raises:
        NetworkError: they cannot be downloaded.
    """
    text = f"Downloading the weights of {plain(name)} ..."
    share = 0.0

    def note(done: float) -> None:
        nonlocal share
        share = done

    bar = st.progress(share, text)
    download = _downloads.submit(download_weights, name, note)
    while not download.done():
        wait([download], timeout=0.2)
        bar.progress(share, text)
    bar.empty()
    download.result()


def show_folder_form() -> None:
    """Show the field for a folder on this machine.

    Raises:
        InspectorError: the folder holds no network that can be loaded.
    """
    st.caption(
        "On this machine, as `inspector train` or `inspector repair` wrote it, or `save_pretrained` of transformers. "
        "No code in the folder is run."
    )
    text = st.text_input("Folder", key=make_field_key("folder"), placeholder="runs/photos/gap/seed0").strip()
    if st.button("Load", type="primary", key=make_field_key("from folder")):
        if not text:
            show_error("No folder. Type the path of one first.")
            return
        folder = folders.find_typed(text, ())
        if (folder / CARD).is_file():
            with st.spinner(f"Reading {plain(folder.name)} and verifying its head ..."):
                networks.add_folder(folder)
            st.rerun()
        if not is_huggingface_folder(folder):
            raise NetworkError(
                f"{text} is no folder of a network: it has neither model.json nor config.json. Check its path."
            )
        with st.spinner(f"Reading {plain(folder.name)} and verifying its head ..."):
            classifier = Classifier.from_network(resolve(folder, max_bytes=uploads.MAX_NETWORK))
        networks.add_private(classifier, str(folder))
        st.rerun()
