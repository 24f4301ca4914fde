"""The form of the page Dataset that runs a batch, and its progress."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st

from inspector.analysis.linear_head import read_linear_head
from inspector.datasets.listing import ListedResults
from inspector.errors import InspectorError
from inspector.images.sources import Item
from inspector.ui.components.controls import show_errors, upload_photos
from inspector.ui.components.markdown import plain
from inspector.ui.state import batches, folders, keys
from inspector.ui.state.batches import UPLOADED, Batch, BatchRequest
from inspector.ui.state.jobs import describe_place
from inspector.ui.state.networks import NetworkChoice, find_network
from inspector.ui.state.photo_choice import choose_photos, list_offered
from inspector.ui.state.photos import OwnPhoto

if TYPE_CHECKING:
    from inspector.explain.classifier import Classifier

_FOLDER, _OF_THE_BAR, _UPLOADED_FOLDER = "a folder", "the bar", "an uploaded folder"
_MOST_FOLDERS = 500  # listed folders of photos


def show_form(network: NetworkChoice) -> None:
    """Show the form that begins a run of a network."""
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        has_folders = folders.is_open() or bool(folders.listed_folders())
        kinds = [*([_FOLDER] if has_folders else []), _OF_THE_BAR, _UPLOADED_FOLDER]
        kind = st.segmented_control("Photos from", kinds, default=kinds[0], required=True, key=keys.BATCH_FROM)
        help = "For how many classes of each photo the class maps are stored."
        top = st.number_input("Top classes", 1, 50, 5, key=keys.BATCH_TOP, width=150, help=help)
        help = (
            "Store the feature maps before pooling, too: the page Concepts needs them. They take 125 KB per photo for "
            "1,280 channels of 7 x 7 cells."
        )
        features = st.toggle("Keep feature maps", key=keys.BATCH_FEATURES, help=help)
    photos: tuple[Item, ...] = ()
    if kind == _FOLDER:
        source = choose_folder(keys.BATCH_FOLDER)
    else:
        source = UPLOADED
        photos = _choose_photos() if kind == _OF_THE_BAR else _upload_folder()
    st.caption(plain(_describe_place(source, network.key, features)))
    is_ready = bool(photos) if source == UPLOADED else bool(source)
    label = f"Start with {plain(network.name)}"
    if st.button(label, key=keys.START_BATCH, type="primary", icon=":material/play_arrow:", disabled=not is_ready):
        with show_errors():
            _start(source, photos, network, top, features)


def show_resume(listed: ListedResults) -> None:
    """Show how far a run that was stopped had come, and a button to go on with it."""
    with st.container(horizontal=True, vertical_alignment="center"):
        st.info(
            f"This run was stopped: {listed.written:,} of {listed.images:,} photos are stored.",
            icon=":material/pause_circle:",
        )
        if st.button("Resume", key=f"resume {listed.folder}", icon=":material/play_arrow:"):
            with show_errors():
                _resume(listed)


def show_progress(batch: Batch) -> None:
    """Show a run in progress, with a button to stop it. Run the page again when it has ended."""

    def watch() -> None:
        if not batch.job.running:
            st.rerun()
        with st.container(horizontal=True, vertical_alignment="center"):
            st.progress(batch.job.progress, plain(describe_progress(batch)))
            if st.button("Stop", key=keys.STOP_BATCH, icon=":material/stop:"):
                batch.job.stop.set()
                batch.job.thread.join(10)
                st.rerun()

    st.fragment(watch, run_every=0.5)()


def describe_progress(batch: Batch) -> str:
    """Return how far a run is, its speed, and its place in the queue if it waits."""
    parts = []
    if batch.images:
        parts.append(f"{batch.done:,} of {batch.images:,} photos")
        if batch.rate > 0:
            left = (batch.images - batch.done) / batch.rate
            parts += [
                f"{batch.rate:.1f} per second",
                f"{left:.0f} s left" if left < 90 else f"{left / 60:.0f} min left",
            ]
    if batch.job.place:
        parts.append(f"{describe_place(batch.job.place)}: others work first")
    return ", ".join(parts) or "Listing the photos ..."


def list_photo_folders(roots: Sequence[Path]) -> list[Path]:
    """Return the folders at most two levels below the roots, without folders of results."""
    found: list[Path] = []
    level = list(roots)
    for _ in range(3):
        level = [folder for folder in level if folders.is_listed(folder) and not (folder / "run.json").exists()]
        found += level
        level = [one for folder in level for one in _list_below(folder)][: _MOST_FOLDERS - len(found)]
    return sorted(found)


def _list_below(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return sorted(folder / entry.name for entry in entries if entry.is_dir() and entry.name[0] != ".")
    except OSError:
        return []


def choose_folder(key: str) -> str:
    """Show the choice of a folder of photos. Return it; "" for none. `key` is the key of the widget."""
    if folders.is_open():
        help = (
            "On this machine. The first subfolders are the labels. Also a list as a CSV file, tar shards, or a pattern "
            "such as `photos/*.jpg`."
        )
        return st.text_input("Folder of photos", key=key, placeholder="/home/me/photos", help=help).strip()
    offered = [str(folder) for folder in list_photo_folders(folders.listed_folders())]
    help = "The first subfolders are the labels."
    return st.selectbox("Folder of photos", offered, index=None, key=key, help=help) or ""


def _choose_photos() -> tuple[Item, ...]:
    """Show the choice among the photos that the visitor has added in the bar."""
    own = {name: photo for name, photo in list_offered("").items() if isinstance(photo, OwnPhoto)}
    if not own:
        st.info("There are no photos of yours yet: add some in the bar.", icon=":material/photo_library:")
        return ()
    names = choose_photos("Photos", own, list(own), key=keys.BATCH_PHOTOS, bind=False)
    return tuple(Item(name, None, "", content=own[name].data) for name in names)


def _upload_folder() -> tuple[Item, ...]:
    return batches.make_items(upload_photos("Folder", key=keys.BATCH_UPLOAD, several="directory"))


def _describe_place(source: str, network_key: str, features: bool) -> str:
    """Return where the results go, and who sees them."""
    stored = "names, class maps and feature maps" if features else "names and class maps"
    photos = f"The photos are not stored, only their {stored}. " if source == UPLOADED else ""
    if folders.is_open():
        return f"{photos}The results go to a new folder in {folders.results_folder()}."
    if batches.is_private(source, network_key):
        return f"{photos}Only this session lists the results; the link of the page opens them again."
    return "Everybody who reaches this app can open the results."


def _start(source: str, photos: tuple[Item, ...], network: NetworkChoice, top: int, features: bool) -> None:
    if source != UPLOADED:
        source = check_source(source)
    loaded = _load(network)
    if features:
        read_linear_head(loaded)  # a head of another kind is refused before any photo is read
    private = batches.is_private(source, network.key)
    out = batches.name_results(source, network.name, private)
    if private:
        st.session_state.setdefault(keys.OWN_RESULTS, []).append(out)
    _begin(BatchRequest(source, photos, network.key, loaded, top, out, features, is_open=folders.is_open()))


def _resume(listed: ListedResults) -> None:
    network = find_network(listed.network)
    photos: tuple[Item, ...] = ()
    source = listed.source
    if source == UPLOADED:
        previous: Batch | None = st.session_state.get(keys.BATCH)
        if previous is None or previous.request.out != listed.folder:
            raise InspectorError("The uploaded photos of this run are gone. Upload them again, and start a new run.")
        photos = previous.request.photos
    else:
        source = check_source(source)
    loaded = _load(network)
    _begin(
        BatchRequest(
            source,
            photos,
            network.key,
            loaded,
            listed.top,
            listed.folder,
            listed.has_features,
            resume=True,
            is_open=folders.is_open(),
        )
    )


def check_source(source: str) -> str:
    """Return the source that was typed or chosen, if this visitor may read it."""
    offered = [] if folders.is_open() else list_photo_folders(folders.listed_folders())
    return str(folders.find_typed(source, offered))


def _load(network: NetworkChoice) -> "Classifier":
    with st.spinner(f"Loading {plain(network.name)} ..."):
        return network.load()


def _begin(request: BatchRequest) -> None:
    st.session_state[keys.BATCH] = Batch(request)
    st.rerun()
