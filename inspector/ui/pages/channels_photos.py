"""Part of the channels: the photos of the bar, or of a folder, on which a channel is most active."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import streamlit as st

from inspector.analysis import top_activations
from inspector.analysis.top_activations import TopActivations
from inspector.errors import ImageError, InspectorError
from inspector.explain.classifier import Classifier
from inspector.files import find_cache_folder
from inspector.images.decode import Pixels
from inspector.images.photo import Photo
from inspector.images.sources import Item, list_images, read_item
from inspector.output.picture import Picture
from inspector.output.text import format_number
from inspector.ui.components import html
from inspector.ui.components.controls import show_error, show_errors
from inspector.ui.components.markdown import plain
from inspector.ui.components.save import PictureToSave, show_save_menu
from inspector.ui.pages.dataset_batch import check_source, choose_folder
from inspector.ui.state import cache, folders, keys
from inspector.ui.state.jobs import Job, OnProgress, ShouldStop, catch_errors, describe_place
from inspector.ui.state.networks import NetworkChoice
from inspector.ui.state.photo_choice import list_offered
from inspector.ui.state.photos import OwnPhoto

MAX_PHOTOS = 5_000  # of a folder
OF_THE_BAR, FOLDER = "the bar", "a folder"
_TASK = ("top activations",)
_SIDE = 240  # longer side of a picture, in pixels
_FRAME = (255, 40, 70)  # of the cell


@dataclass(frozen=True)
class PhotoSource:
    """Photos to search."""

    items: tuple[Item, ...]
    key: str  # a text that other photos change
    path: Path | None  # file that keeps what is found; None: it is kept for this session only


def show_photos(network: NetworkChoice, channel: int) -> None:
    """Show the photos on which the channel has the highest activations, and start the search for them."""
    st.subheader(f"Photos with the highest activation of channel {channel}", anchor=False)
    st.caption(
        "What does a channel detect? The network runs once on each photo. Of the best ones, the receptive field of the "
        "strongest cell is shown, with the cell in a frame. What is found in a folder is kept."
    )
    has_folders = folders.is_open() or bool(folders.listed_folders())
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        kinds = [OF_THE_BAR, *([FOLDER] if has_folders else [])]
        kind = st.segmented_control("Photos from", kinds, default=kinds[0], required=True, key=keys.TOP_FROM)
        folder = choose_folder(keys.TOP_FOLDER) if kind == FOLDER else ""
    with show_errors():
        source = _list_photos(network, folder) if kind == FOLDER else _list_own(network)
        if source is not None:
            _show_source(network, source, channel)


def _list_own(network: NetworkChoice) -> PhotoSource:
    """Return the photos of the bar: those of the visitor and the examples."""
    offered = list_offered(network.examples)
    items = [
        Item(name, None, "", content=photo.data) if isinstance(photo, OwnPhoto) else Item(name, None, str(photo))
        for name, photo in offered.items()
    ]
    names = [photo.reference if isinstance(photo, OwnPhoto) else name for name, photo in offered.items()]
    return PhotoSource(tuple(items), json.dumps(names), None)


def _list_photos(network: NetworkChoice, folder: str) -> PhotoSource | None:
    """Return the photos of a folder; None if none is chosen.

    Raises:
        InspectorError: the visitor may not read it, or it has no images.
    """
    if not folder:
        st.info("Choose a folder above.", icon=":material/photo_library:")
        return None
    source = check_source(folder)
    items, key = _list_items(network.key, source, folders.is_open(), network.load)
    if len(items) > MAX_PHOTOS:
        st.info(f"Only the first {MAX_PHOTOS:,} of {len(items):,} photos are used.", icon=":material/info:")
        items = items[:MAX_PHOTOS]
    # Nothing of a private network is written to the disk.
    return PhotoSource(items, key, None if network.is_private else find_cache_folder() / "top-activations" / key)


@st.cache_data(ttl=20, max_entries=4, show_spinner="Listing the photos ...")
def _list_items(
    network_key: str, source: str, is_open: bool, _load: Callable[[], Classifier]
) -> tuple[tuple[Item, ...], str]:
    """Return the images of a source, and the name of the file for what the network finds in them."""
    listed = list_images(source)
    # A link inside a listed folder may lead out of it.
    items = tuple(listed) if is_open else tuple(item for item in listed if folders.is_listed(Path(item.file)))
    if not items:
        raise ImageError(f"No image in {source} may be read. Choose another folder.")
    return items, top_activations.name_file(Path(), _load(), items[:MAX_PHOTOS]).name


def _show_source(network: NetworkChoice, source: PhotoSource, channel: int) -> None:
    """Show what was found, or the progress of the search, or the button that starts it."""
    found = _find_kept(network, source)
    if isinstance(found, str):
        show_error(found)
    elif found is not None:
        _show_found(found, source, channel)
        return
    job: Job | None = st.session_state.get(keys.TOP_JOB)
    if job is not None and job.running and st.session_state.get(keys.TOP_SEARCHED) == (network.key, source.key):
        _show_progress(job, len(source.items))
        return
    count = len(source.items)
    label = f"Search {count:,} photos" if count != 1 else "Search 1 photo"
    if st.button(label, key=keys.TOP_START, icon=":material/search:"):
        _start(network, source, job)
        st.rerun()


def _find_kept(network: NetworkChoice, source: PhotoSource) -> TopActivations | str | None:
    """Return what was found before, on the disk or in this session; an error message; None if nothing was."""
    results: dict[Any, Any] = st.session_state.setdefault(keys.TOP_RESULTS, {})
    kept: TopActivations | str | None = results.get((network.key, source.key))
    if kept is None and source.path is not None:
        kept = top_activations.read_top_activations(source.path)
        if kept is not None:
            _keep(results, (network.key, source.key), kept)
    return kept


def _keep(results: dict[Any, Any], key: tuple[str, str], found: TopActivations | str) -> None:
    for oldest in list(results)[:-3]:
        del results[oldest]
    results[key] = found


def _start(network: NetworkChoice, source: PhotoSource, previous: Job | None) -> None:
    classifier = network.load()
    results: dict[Any, Any] = st.session_state.setdefault(keys.TOP_RESULTS, {})
    key = network.key, source.key

    def search(on_progress: OnProgress, should_stop: ShouldStop) -> TopActivations:
        found = top_activations.compute_top_activations(
            source.items, classifier, on_progress=on_progress, should_stop=should_stop
        )
        if source.path is not None:
            try:
                top_activations.write_top_activations(source.path, found)
            except OSError as error:
                raise InspectorError(f"What was found cannot be kept in {source.path.parent}: {error}.") from error
        return found

    safe = catch_errors(search)

    def work(on_progress: OnProgress, should_stop: ShouldStop) -> Any:
        found = safe(on_progress, should_stop)
        _keep(results, key, found)
        return found

    if previous is not None:
        previous.stop.set()
    st.session_state[keys.TOP_JOB] = Job({_TASK: work}, {}, previous)
    st.session_state[keys.TOP_SEARCHED] = key


def _show_progress(job: Job, count: int) -> None:
    def watch() -> None:
        job.keep_alive()
        if not job.running:
            st.rerun()
        text = describe_place(job.place) if job.place else f"{round(job.progress * count):,} of {count:,} photos"
        with st.container(horizontal=True, vertical_alignment="center"):
            st.progress(job.progress, plain(text))
            if st.button("Stop", key=keys.TOP_STOP, icon=":material/stop:"):
                job.stop.set()
                job.thread.join(5)
                st.rerun()

    st.fragment(watch, run_every=0.5)()


def _show_found(found: TopActivations, source: PhotoSource, channel: int) -> None:
    if found.skipped:
        title = "One file was skipped" if len(found.skipped) == 1 else f"{len(found.skipped)} files were skipped"
        with st.expander(title, icon=":material/warning:"):
            st.markdown("\n".join(f"- {plain(error)}" for error in found.skipped))
    if channel >= len(found.values):
        st.info("None of these photos can be read.", icon=":material/photo_library:")
        return
    items = {item.path: item for item in source.items}
    tiles, pictures = [], []
    for rank, number in enumerate(found.which[channel].tolist()):
        path = found.photos[number]
        field, cell = (tuple(map(float, place[channel, rank])) for place in (found.fields, found.cells))
        value = f"activation {format_number(float(found.values[channel, rank]))}"
        try:
            pixels = _draw_crop(*_name_state(items[path]), field, cell, items[path])
        except InspectorError as error:
            st.caption(plain(str(error)))
            continue
        name = Path(path).name
        tiles.append(html.Tile(html.encode_image(pixels, exact=False), name, [value], f"channel {channel} on {name}"))
        pictures.append(_make_picture(f"{rank + 1}. {name}", pixels, channel, value, path, (field, cell)))
    st.html(html.make_tiles(tiles))
    st.caption(f"The {len(tiles)} highest of {len(found.photos) - len(found.skipped):,} photos.")
    if pictures:
        show_save_menu(pictures, "top photo", "Save a picture")


def _name_state(item: Item) -> tuple[str, int]:
    """Return what another photo changes, for the keys of the cache of crops."""
    if item.content is not None:
        return f"{item.path} {hash(item.content)}", len(item.content)
    return f"{item.file} {item.start}", cache.read_change_time(Path(item.file))


@st.cache_data(max_entries=256, show_spinner=False)
def _draw_crop(name: str, changed: int, field: tuple[float, ...], cell: tuple[float, ...], _item: Item) -> Pixels:
    """Draw the receptive field of a cell, cut out of the photo, with the cell in a frame."""
    return draw_crop(read_item(_item), field, cell)


def draw_crop(photo: Photo, field: Sequence[float], cell: Sequence[float], side: int = _SIDE) -> Pixels:
    """Draw a receptive field, cut out of the photo, with its cell in a frame.

    Args:
        photo: the photo.
        field: left, top, right, bottom of the receptive field, in pixels of the photo.
        cell: left, top, right, bottom of the cell.
        side: longer side of the drawing, in pixels.
    """
    height, width = photo.size
    left, top = max(0, int(field[0])), max(0, int(field[1]))
    right, bottom = min(width, max(left + 1, round(field[2]))), min(height, max(top + 1, round(field[3])))
    crop = np.ascontiguousarray(photo.pixels[top:bottom, left:right])
    scale = side / max(crop.shape[:2])
    size = (max(1, round(crop.shape[1] * scale)), max(1, round(crop.shape[0] * scale)))
    drawn = cv2.resize(crop, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST)
    (x1, y1), (x2, y2) = ((round((x - left) * scale), round((y - top) * scale)) for x, y in (cell[:2], cell[2:]))
    cv2.rectangle(drawn, (x1, y1), (x2, y2), _FRAME, 2)
    return np.asarray(drawn, np.uint8)


def _make_picture(
    name: str,
    pixels: Pixels,
    channel: int,
    value: str,
    path: str,
    boxes: Sequence[tuple[float, ...]],
) -> PictureToSave:
    code = "\n".join(
        [
            "from inspector.images.photo import read_image",
            "from inspector.ui.pages.channels_photos import draw_crop",
            "",
            "# inspector.analysis.top_activations.compute_top_activations finds the places of these two boxes.",
            f"field, cell = {boxes[0]!r}, {boxes[1]!r}",
            f"pixels = draw_crop(read_image({path!r}), field, cell, 480)",
        ]
    )
    return PictureToSave(name, lambda: Picture(pixels, f"channel {channel} on {path}", (value,)), code)
