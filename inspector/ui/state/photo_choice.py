"""The choice of the photo in the bar: uploads of this visitor, and examples that fit the network.

A link names an upload by the beginning of its hash and its name, and an example by its caption.
"""

import base64
import hashlib
import io
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import streamlit as st
from PIL import Image

from inspector.errors import ImageError, InspectorError
from inspector.explain.class_names import label_names
from inspector.files import find_cache_folder, write_atomic
from inspector.images.examples import list_examples
from inspector.images.photo import Photo
from inspector.ui.components.controls import upload_photos
from inspector.ui.components.markdown import plain
from inspector.ui.components.photo_strip import StripPhoto, show_photo_strip
from inspector.ui.state import cache, keys, links, photos

_THUMBNAIL = 104  # pixels: twice the size on the page
_EXAMPLE, _OWN = "example ", "own "  # beginnings of the names of photos in the browser and in the session state


def draw_uploader() -> None:
    """Show the field for uploads. A photo that arrives is kept for all pages, and chosen."""
    number = st.session_state.setdefault(keys.UPLOADS, 0)
    with st.container(key=keys.UPLOADER, width=215):
        arrived = upload_photos(
            "Your photos", key=f"{keys.UPLOADED_PHOTO} {number}", several=True, label_visibility="collapsed"
        )
    if not arrived:
        return
    for file in arrived:
        try:
            _choose(_OWN + photos.add_photo(file.name, file.getvalue()).reference)
        except ImageError as error:
            links.add_note(keys.UPLOADED_PHOTO, str(error))
    # An empty field takes the place of this one, and its copies of the files are freed.
    st.session_state[keys.UPLOADS] = number + 1
    st.rerun()


def draw_strip(examples: str) -> None:
    """Show the photos as small pictures, of which one is chosen.

    Args:
        examples: kind of the example photos, see `list_examples`.
    """
    own, offered = photos.list_photos(), list_examples(examples)
    items = [
        StripPhoto(_OWN + reference, photo.name, _make_own_thumbnail(photo), own=True)
        for reference, photo in own.items()
    ]
    items += [
        StripPhoto(_EXAMPLE + caption, caption, _make_thumbnail_of_file(path), own=False)
        for caption, path in offered.items()
    ]
    named = st.query_params.get(keys.UPLOAD)
    asked = named is not None and named not in own
    show_photo_strip(items, find_chosen(examples), photos.find_tab(), asked, _take_choice, _take_removal, _take_tab)
    if asked and keys.TAB_REPORTED not in st.session_state:
        # The browser reports in a moment which tab this is: the photo may be here from before a reload of the page.
        st.caption("Looking for the photo of this link ...")
        st.stop()
    _write_link(examples)


def _take_choice(chosen: str) -> None:
    links.drop_note(keys.UPLOAD)
    links.drop_note(keys.EXAMPLE)
    _choose(chosen)


def _take_removal(removed: str) -> None:
    photos.remove_photo(removed.removeprefix(_OWN))
    if st.session_state.get(keys.CHOSEN_PHOTO) == removed:
        _choose(None)


def _take_tab(name: str) -> None:
    photos.enter_tab(name)
    st.session_state[keys.TAB_REPORTED] = True


def _choose(photo: str | None) -> None:
    st.session_state[keys.CHOSEN_PHOTO] = photo
    for key in (keys.UPLOAD, keys.EXAMPLE):
        st.query_params.pop(key, None)


def find_chosen(examples: str) -> str:
    """Return the name of the chosen photo, with its beginning; "" if there is none to choose."""
    own, offered = photos.list_photos(), list_examples(examples)
    named_own, named_example = st.query_params.get(keys.UPLOAD), st.query_params.get(keys.EXAMPLE)
    if named_own is not None:
        if named_own in own:
            st.session_state[keys.CHOSEN_PHOTO] = _OWN + named_own
            links.drop_note(keys.UPLOAD)
        elif _OWN + named_own != st.session_state.get(keys.CHOSEN_PHOTO):
            made_with = photos.describe_reference(named_own)
            links.add_note(
                keys.UPLOAD,
                f"This link was made with {made_with}, which is not here. Add that photo, and open the link again.",
            )
    elif named_example is not None:
        if named_example in offered:
            st.session_state[keys.CHOSEN_PHOTO] = _EXAMPLE + named_example
        else:
            links.note_unknown(keys.EXAMPLE, offered, "example")
    chosen: str | None = st.session_state.get(keys.CHOSEN_PHOTO)
    names = [_OWN + reference for reference in own] + [_EXAMPLE + caption for caption in offered]
    if chosen in names:
        return chosen
    return next((name for name in names if name.startswith(_EXAMPLE)), names[0] if names else "")


def _write_link(examples: str) -> None:
    """Write the choice into the link. The first example is the default, which needs no entry."""
    chosen = find_chosen(examples)
    wanted: dict[str, str | None] = {keys.UPLOAD: None, keys.EXAMPLE: None}
    if chosen.startswith(_OWN):
        wanted[keys.UPLOAD] = chosen.removeprefix(_OWN)
    elif st.session_state.get(keys.CHOSEN_PHOTO) == chosen:
        wanted[keys.EXAMPLE] = chosen.removeprefix(_EXAMPLE)
    for key, value in wanted.items():
        if value is not None and st.query_params.get(key) != value:
            st.query_params[key] = value


def read_photo(examples: str) -> Photo:
    """Read the chosen photo.

    Raises:
        ImageError: it cannot be read, or there is none.
    """
    chosen = find_chosen(examples)
    if chosen.startswith(_OWN):
        return _read_own(photos.list_photos()[chosen.removeprefix(_OWN)])
    if chosen:
        return cache.read_example(list_examples(examples)[chosen.removeprefix(_EXAMPLE)])
    raise ImageError("There is no example photo for this network. Add a photo of your own.")


def list_offered(examples: str) -> dict[str, photos.OwnPhoto | Path]:
    """Return the photos that a page may choose from, those of this visitor first, by names that are all different."""
    own = list(photos.list_photos().values())
    named = dict(zip(label_names([photo.name for photo in own]), own, strict=True))
    return named | {caption: path for caption, path in list_examples(examples).items() if caption not in named}


def choose_photos(
    label: str, offered: Mapping[str, photos.OwnPhoto | Path], default: Sequence[str], *, key: str, bind: bool = True
) -> list[str]:
    """Show photos of the bar side by side. Any number of them can be chosen; a photo that is added later is chosen.

    Args:
        label: text above them.
        offered: name -> photo.
        default: names that are chosen at first.
        key: key of the widget.
        bind: whether the link has the choice.
    """
    known_key = f"{key} offered"
    known: list[str] | None = st.session_state.get(known_key)
    before: list[str] | None = st.session_state.get(key)
    if before is not None and known is not None:
        added = [name for name in offered if name not in known and isinstance(offered[name], photos.OwnPhoto)]
        now = [name for name in [*before, *added] if name in offered]
        if now != before:
            st.session_state[key] = now
    st.session_state[known_key] = list(offered)
    if bind:
        links.note_unknown(key, offered, "photo")
    settings: dict[str, Any] = {"bind": "query-params"} if bind else {}
    chosen: list[str] = st.pills(
        label, list(offered), default=list(default), selection_mode="multi", key=key, format_func=plain, **settings
    )
    return chosen


def read_offered(photo: photos.OwnPhoto | Path) -> Photo:
    """Read a photo of `list_offered`.

    Raises:
        ImageError: it cannot be read.
    """
    return cache.read_example(photo) if isinstance(photo, Path) else _read_own(photo)


def _read_own(photo: photos.OwnPhoto) -> Photo:
    # The name of the tab is a part of the key: photos of one visitor are dropped with the visitor's session.
    return cache.read_upload(f"{photos.find_tab()} {photo.reference}", photo.name, photo.data)


def _make_own_thumbnail(photo: photos.OwnPhoto) -> str:
    thumbnails: dict[str, str] = st.session_state.setdefault(keys.THUMBNAILS, {})
    if photo.reference not in thumbnails:
        try:
            thumbnails[photo.reference] = _make_url(_encode_thumbnail(_read_own(photo)))
        except InspectorError:  # the page says why, when the photo is chosen
            thumbnails[photo.reference] = ""
    return thumbnails[photo.reference]


@st.cache_data(max_entries=100, show_spinner=False)
def _make_thumbnail_of_file(path: Path) -> str:
    """Return a small picture of an example. It is kept in the cache folder: the first page waits for all examples."""
    found = path.stat()
    name = hashlib.sha256(f"{path} {found.st_mtime_ns} {found.st_size} {_THUMBNAIL}".encode()).hexdigest()[:32]
    kept = find_cache_folder() / "thumbnails" / f"{name}.jpg"
    with suppress(OSError):
        return _make_url(kept.read_bytes())
    encoded = _encode_thumbnail(cache.read_example(path))
    with suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(kept, encoded, many_writers=True)
    return _make_url(encoded)


def _make_url(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def _encode_thumbnail(photo: Photo) -> bytes:
    """Return a small picture of a photo as JPEG."""
    step = max(1, min(photo.size) // (2 * _THUMBNAIL))
    image: Any = Image.fromarray(photo.pixels[::step, ::step])
    image.thumbnail((3 * _THUMBNAIL, _THUMBNAIL))
    encoded = io.BytesIO()
    image.convert("RGB").save(encoded, "JPEG", quality=80)
    return encoded.getvalue()
