"""The choice of a folder of results, on the pages Dataset and Concepts."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import streamlit as st

from inspector.datasets.listing import ListedResults, list_results
from inspector.datasets.results import Results, read_results, read_state
from inspector.errors import InspectorError
from inspector.printable import make_printable
from inspector.ui.components.controls import show_errors
from inspector.ui.components.markdown import plain
from inspector.ui.state import batches, folders, keys


def choose_results(what: str, is_offered: Callable[[ListedResults], bool] = lambda listed: True) -> Path | None:
    """Show the choice of results, those that changed last first. Return the folder of the chosen ones.

    Args:
        what: which folders are offered, for the tooltip.
        is_offered: returns whether results are in the list.
    """
    private = folders.results_folder() / batches.PRIVATE
    listed = _list_results(_list_roots())
    own = st.session_state.get(keys.OWN_RESULTS, [])
    shown = [one for one in listed if private not in one.folder.parents or one.folder in own or folders.is_open()]
    # A link may have a value that is in no list: an older spelling, or results that are for those with the link.
    typed = st.session_state.get(keys.RESULTS) or st.query_params.get(keys.RESULTS)
    chosen = None
    if typed:
        with show_errors():
            chosen = folders.find_typed(typed.strip(), [one.folder for one in listed])
    names = [folders.name_folder(one.folder) for one in shown if is_offered(one)]
    name = None if chosen is None else folders.name_folder(chosen)
    if name is not None and name not in names:
        names.append(name)
    if typed != name:
        st.session_state[keys.RESULTS] = name
    is_open = folders.is_open()
    st.selectbox(
        "Results",
        names,
        index=None,
        key=keys.RESULTS,
        bind="query-params",
        accept_new_options=is_open,
        placeholder="Choose results, or type the name of a folder" if is_open else "Choose results",
        help=f"{plain(what)}, on the machine that runs this app{' (any of it)' if is_open else ''}.",
    )
    return chosen


def forget_list() -> None:
    """List the results again in the next run: there are new ones."""
    _list_results.clear()


def open_results(folder: Path) -> Results:
    """Open a folder of results.

    Raises:
        InspectorError: the folder holds no results.
    """
    with st.spinner("Opening the results ..."), translate_folder_errors(folder):
        return _read_results(folder, read_folder_state(folder))


def read_folder_state(folder: Path) -> list[list[Any]]:
    """Return what `read_state` does of a folder that a visitor named.

    Raises:
        InspectorError: there is no such folder, or it cannot be opened.
    """
    with translate_folder_errors(folder):
        if not folder.is_dir():
            name = make_printable(folders.name_folder(folder), 100)
            raise InspectorError(f"No folder {name} on this machine. Use one that `inspector batch` wrote.")
        return read_state(folder)


@contextmanager
def translate_folder_errors(folder: Path) -> Iterator[None]:
    """Raise InspectorError for a name that no folder can have, and for a folder that cannot be read."""
    try:
        yield
    except (OSError, ValueError) as error:
        name = make_printable(folders.name_folder(folder), 100)
        raise InspectorError(f"Cannot open {name}. Use a folder that `inspector batch` wrote.") from error


def _list_roots() -> tuple[Path, ...]:
    """Return the folders below which the pages look for results."""
    return (folders.results_folder(), *folders.listed_folders(), *([Path()] if folders.is_open() else ()))


@st.cache_data(ttl=20, show_spinner=False)
def _list_results(roots: tuple[Path, ...]) -> list[ListedResults]:
    return list_results(roots)


@st.cache_resource(max_entries=4, show_spinner=False)
def _read_results(folder: Path, state: list[list[Any]]) -> Results:
    return read_results(folder)
