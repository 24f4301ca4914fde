"""Networks that explain photos without torch (networks/stored.py), and the import of torch once it is needed."""

import sys
import threading
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from inspector.explain.backends.sessions import OPEN, find_installed_runtime
from inspector.explain.memory import give_back_freed_memory
from inspector.networks.stored import NetworkFiles, StoredNetwork, keep_network, open_network, read_files

if TYPE_CHECKING:
    from inspector.explain.classifier import Classifier

MAX_OPEN = 4  # networks that are open at the same time; each takes the memory of its weights
# Modules that import torch, and are needed with it.
_MODULES = ("inspector.networks.load", "inspector.explain.backends.accelerate", "inspector.explain.class_maps")

_opened: dict[str, StoredNetwork | None] = {}  # name -> the network; None if it is not kept
_sources: "WeakKeyDictionary[Classifier, NetworkFiles]" = WeakKeyDictionary()  # the files that torch loaded
_imports: list[threading.Thread] = []  # the one that imports torch
_lock = threading.Lock()


def find_stored(name: str, backend: str) -> StoredNetwork | None:
    """Return a network that explains photos without torch; None if the usual way has to be taken.

    A server opens it once. If its files change, it is not used any more, because torch may load the new ones.

    Args:
        name: name of the network.
        backend: "auto", or the name of a backend.
    """
    backend = (find_installed_runtime() or "") if backend == "auto" else backend
    if backend not in OPEN:
        return None
    with _lock:
        if name not in _opened:
            files = read_files(name)
            _keep_open(name, None if files is None else open_network(files, backend))
        found = _opened[name]
    return found if found is not None and found.backend == backend and found.files.are_unchanged() else None


def note_source(classifier: "Classifier", files: NetworkFiles | None) -> None:
    """Note from which files a network was loaded. `files` were read before; None if the network is not kept."""
    if files is not None and files.are_unchanged():
        _sources[classifier] = files


def keep_built(name: str, classifier: "Classifier", backend: str, graph: Path) -> None:
    """Keep a network whose backend was built, so that the next photos and the next start need no torch."""
    with _lock:
        opened, files = _opened.get(name), _sources.get(classifier)
        if files is not None and (opened is None or not opened.files.are_unchanged()):
            keep_network(files, classifier, backend, graph)
            _keep_open(name, open_network(files, backend, graph.parent))
    give_back_freed_memory()  # of the passes that verified the backend


def _keep_open(name: str, network: StoredNetwork | None) -> None:
    """Keep a network, and let the oldest of more than MAX_OPEN take the usual way: torch is imported by then."""
    _opened.pop(name, None)
    _opened[name] = network
    for oldest in [other for other, one in _opened.items() if one is not None][:-MAX_OPEN]:
        _opened[oldest] = None


def has_torch() -> bool:
    """Return whether torch was imported, which takes seconds and 500 MB."""
    return "torch" in sys.modules


def import_torch_in_background(load: Callable[[], object]) -> None:
    """Import torch in a thread, and load a network into it, because the user will need them next.

    This is done once for all sessions, and not if torch was imported before.
    """

    def work() -> None:
        for module in _MODULES:
            import_module(module)
        load()

    with _lock:
        if not _imports and not has_torch():
            _imports.append(thread := threading.Thread(target=work, name="import torch", daemon=True))
            thread.start()
