"""The photos that a visitor has uploaded. All pages show them, and they are there again after a reload of the page.

They belong to a browser tab: the server makes a random name for each tab, which the tab keeps and reports to the next
session. Photos are dropped when no session of the tab is left, as all that a session keeps.
"""

import hashlib
import re
import secrets
import threading
from dataclasses import dataclass
from functools import cached_property, partial

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from inspector.errors import ImageError
from inspector.printable import make_printable
from inspector.ui.state import keys, sessions
from inspector.ui.state.uploads import clean_name

MAX_PHOTOS = 60  # of one tab
MAX_TAB, MAX_SERVER = 400_000_000, 4_000_000_000  # bytes of all photos together
_REFERENCE = re.compile(r"([0-9a-f]{12})-(.*)", re.DOTALL)


@dataclass(frozen=True, eq=False)
class OwnPhoto:
    """An uploaded photo, encoded as it came."""

    name: str
    data: bytes

    @cached_property
    def reference(self) -> str:
        """What names the photo in links: the beginning of its SHA-256, and its name."""
        return f"{hashlib.sha256(self.data).hexdigest()[:12]}-{self.name}"


@dataclass(eq=False)
class _Tab:
    photos: dict[str, OwnPhoto]  # reference -> photo, in the order of uploads
    sessions: set[str]


_tabs: dict[str, _Tab] = {}  # name of a tab -> what it keeps
_lock = threading.Lock()


def find_tab() -> str:
    """Return the name of the tab of this session. A new session gets a new one."""
    if keys.TAB not in st.session_state:
        _enter(secrets.token_hex(16))
    name: str = st.session_state[keys.TAB]
    return name


def enter_tab(name: str) -> None:
    """Take over the photos of a tab that an earlier session of the same browser tab had.

    Args:
        name: the name that the browser kept. A name that this server does not know is ignored.
    """
    with _lock:
        known = name in _tabs
    if known:
        _enter(name)


def _enter(name: str) -> None:
    context = get_script_run_ctx()
    session = context.session_id if context is not None else ""
    with _lock:
        _tabs.setdefault(name, _Tab({}, set())).sessions.add(session)
    sessions.at_session_end(partial(_leave, name, session))
    st.session_state[keys.TAB] = name


def _leave(name: str, session: str) -> None:
    with _lock:
        if (tab := _tabs.get(name)) is not None:
            tab.sessions.discard(session)
            if not tab.sessions:
                del _tabs[name]


def list_photos() -> dict[str, OwnPhoto]:
    """Return the photos of this tab by their references, in the order of their uploads."""
    name = find_tab()
    with _lock:
        # The server may have forgotten a tab whose computer slept.
        return dict(_tabs.setdefault(name, _Tab({}, set())).photos)


def add_photo(name: str, data: bytes) -> OwnPhoto:
    """Keep a photo. The same file with the same name is kept once.

    Raises:
        ImageError: there is no room for it.
    """
    photo, tab = OwnPhoto(clean_name(name), data), find_tab()
    reference = photo.reference
    with _lock:
        photos = _tabs.setdefault(tab, _Tab({}, set())).photos
        if reference in photos:
            return photos[reference]
        own = sum(len(other.data) for other in photos.values())
        total = sum(len(other.data) for one in _tabs.values() for other in one.photos.values())
        if len(photos) >= MAX_PHOTOS or own + len(data) > MAX_TAB:
            limit = f"{MAX_PHOTOS} photos and {MAX_TAB // 1_000_000} MB"
            raise ImageError(f"{photo.name} was not added: up to {limit} are kept at a time. Remove some first.")
        if total + len(data) > MAX_SERVER:
            raise ImageError(f"{photo.name} was not added: this server is full of photos of its visitors. Try later.")
        photos[reference] = photo
    return photo


def remove_photo(reference: str) -> None:
    """Drop a photo of this tab."""
    name = find_tab()
    with _lock:
        if (tab := _tabs.get(name)) is not None:
            tab.photos.pop(reference, None)


def describe_reference(reference: str) -> str:
    """Return which photo a link was made with, as text.

    Args:
        reference: a value of a link, which may hold anything.
    """
    found = _REFERENCE.fullmatch(reference)
    if found is None:
        return f"a photo that it names {make_printable(reference, 40)!r}"
    return f"{make_printable(found[2], 80)} (SHA-256 {found[1]}...)"
