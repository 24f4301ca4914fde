"""Which folders of its machine the app reads. All pages ask here, so that there is one rule.

On your own machine you may type any folder. An app that others can reach never turns what a visitor types, in a box or
in the address, into a path: the text is compared with the names of a list that the server made itself.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import streamlit as st

from inspector.errors import InspectorError
from inspector.files import find_data_folder
from inspector.printable import make_printable

DATA = "INSPECTOR_DATA"  # environment variable: the folders that every visitor may read, separated as in PATH
RESULTS = "INSPECTOR_RESULTS"  # environment variable: the folder into which the app writes results
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
# Beginnings of the names of headers that proxies add.
_FORWARDING = ("forwarded", "via", "x-forwarded", "x-real-ip", "x-client-ip", "cf-", "true-client-ip")


def is_open() -> bool:
    """Return whether the visitor may type any folder: only this machine reaches the app, and no list is set."""
    return (
        os.environ.get(DATA) is None and st.get_option("server.address") in _LOOPBACK and _is_local(st.context.headers)
    )


def _is_local(headers: Mapping[str, str]) -> bool:
    """Return whether a browser on this machine opened the page, as far as its request shows.

    A proxy usually names itself or the visitor, or passes on the address in the visitor's browser. A request that names
    no address is not known to be local. Without any headers there is no request, as in tests.
    """
    if not headers:
        return True
    if any(name.lower().startswith(_FORWARDING) for name in headers):
        return False
    addresses = [urlsplit(headers.get("Origin") or "").hostname, urlsplit(f"//{headers.get('Host') or ''}").hostname]
    return all(address in _LOOPBACK for address in addresses)


def results_folder() -> Path:
    """Return the folder for results of the app: $INSPECTOR_RESULTS, else ~/.local/share/inspector/results."""
    return Path(os.environ.get(RESULTS) or find_data_folder() / "results")


def listed_folders() -> list[Path]:
    """Return the folders that $INSPECTOR_DATA lists. Every visitor may read them."""
    return [Path(name) for name in os.environ.get(DATA, "").split(os.pathsep) if name]


def may_read(path: Path, open_app: bool | None = None) -> bool:
    """Return whether the app may read a path that a file of the server names, such as a photo of stored results.

    Args:
        path: the path.
        open_app: what `is_open` returned for the visitor, as in a job, which has none to ask about. None: ask now.
    """
    return not _is_address(str(path)) and ((is_open() if open_app is None else open_app) or is_listed(path))


def is_listed(path: Path) -> bool:
    """Return whether a path lies, after links are followed, in a folder of the list or in the folder of results."""
    try:
        resolved = path.resolve()
        return any(resolved.is_relative_to(folder.resolve()) for folder in (*listed_folders(), results_folder()))
    except (OSError, ValueError, RuntimeError):
        return False


def name_folder(folder: Path) -> str:
    """Return the name of a folder in lists and links: its path, in the folder of results without that of the latter."""
    root = results_folder()
    return folder.relative_to(root).as_posix() if root in folder.parents else str(folder)


def find_typed(text: str, offered: Iterable[Path]) -> Path:
    """Return the folder that a visitor named.

    Args:
        text: what the visitor typed, or what the address holds: the name or the path of an offered folder.
        offered: the folders that the server lists.

    Raises:
        InspectorError: no offered folder has this name, and the app is not open; or the text is an address.
    """
    offered = list(offered)
    names = {str(folder): folder for folder in offered} | {name_folder(folder): folder for folder in offered}
    if text in names:
        return names[text]
    shown = make_printable(text, 100)
    if not is_open():
        raise InspectorError(
            f"No folder {shown} in the list of this app. Choose one of the list; who runs the app adds folders with "
            f"${DATA}."
        )
    if _is_address(text):
        raise InspectorError(f"{shown} is an address. Expected a folder on this machine.")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:  # ~name of a user that does not exist
        raise InspectorError(f"No folder {shown} on this machine. Check its name.") from error


def _is_address(text: str) -> bool:
    r"""Return whether a text is an address. Windows sends the user's name to the host of \\host\share."""
    return "://" in text or text.lower().startswith("file:") or text[:2] in ("//", "\\\\", "\\/", "/\\")
