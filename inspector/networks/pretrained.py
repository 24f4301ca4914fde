"""Weights of torchvision and timm: which networks have some, which lie on this machine, and how to download the others.

    torchvision:NAME, or a network of timm without a place at Hugging Face -> a file in torch's hub folder
    timm:NAME -> a file in the cache of huggingface_hub

Both libraries find a file there when they build the network, see `build.build_pretrained`.
"""

import hashlib
import importlib.util
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import torch

from inspector.errors import NetworkError, summarize_reason
from inspector.files import temporary_folder
from inspector.networks.build import find_in_timm, find_in_torchvision

OnProgress = Callable[[float], object]  # called with the share of the file that is there, 0-1

_CHUNK = 1 << 20  # bytes
_TIMEOUT = 30.0  # seconds without an answer
_HASH = re.compile(r"-([a-f0-9]{8,})\.")  # in the name of a file: the beginning of its SHA-256
_FILES = ("model.safetensors", "pytorch_model.bin")  # in a repository of Hugging Face, in timm's order


@dataclass(frozen=True)
class _Place:
    """Where the weights of a network are: at an address, or in a repository of Hugging Face."""

    address: str | None
    repository: str = ""
    file: str | None = None  # in the repository; None: one of the usual names


def list_pretrained() -> dict[str, bool]:
    """List the networks of torchvision and, if it is installed, timm that have weights.

    Returns:
        Name -> whether the weights lie on this machine. These come first.
    """
    from torchvision import models

    names = [f"torchvision:{name}" for name in models.list_models(module=models)]
    if importlib.util.find_spec("timm") is not None:
        import timm

        names += [f"timm:{name}" for name in timm.list_models(pretrained=True, include_tags=False)]
    found = {name: has_weights(name) for name in names}
    return dict(sorted(found.items(), key=lambda item: not item[1]))


def has_weights(name: str) -> bool:
    """Return whether the weights of torchvision:NAME or timm:NAME lie on this machine.

    Raises:
        NetworkError: the library does not know the name.
    """
    place = _find_place(name)
    if place.address is not None:
        return _find_hub_file(place.address).is_file()
    from huggingface_hub import try_to_load_from_cache

    files = _FILES if place.file is None else (place.file,)
    return any(isinstance(try_to_load_from_cache(place.repository, file), str) for file in files)


def download_weights(name: str, on_progress: OnProgress = lambda done: None) -> None:
    """Download the weights of torchvision:NAME or timm:NAME, completely or not at all, unless they are there.

    Args:
        name: name of the network.
        on_progress: called with the share of the file that has arrived. It may raise an exception to stop.

    Raises:
        NetworkError: the library does not know the name, or the weights cannot be downloaded.
    """
    if has_weights(name):
        return
    place = _find_place(name)
    try:
        if place.address is not None:
            _download_file(place.address, _find_hub_file(place.address), on_progress)
        else:
            _download_from_huggingface(place, on_progress)
    # Catch every exception of the libraries: those of huggingface_hub share no base class with Python's.
    except Exception as error:
        reason = summarize_reason(getattr(error, "reason", None) or error)
        raise NetworkError(
            f"The weights of {name} could not be downloaded ({reason}). Connect this machine to the internet, or load "
            "the weights from a file."
        ) from error


def _find_place(name: str) -> _Place:
    library, _, wanted = name.partition(":")
    if library == "torchvision":
        models, wanted = find_in_torchvision(wanted)
        return _Place(models.get_model_weights(wanted)["DEFAULT"].url)
    if library != "timm":
        raise NetworkError(f"There are no pretrained weights of {name!r}. Use torchvision:NAME or timm:NAME.")
    config = find_in_timm(wanted).get_pretrained_cfg(wanted)
    if config is None or not (config.hf_hub_id or config.url):
        raise NetworkError(f"timm has no weights of {wanted}. Choose another network.")
    # timm prefers Hugging Face.
    return _Place(None if config.hf_hub_id else config.url, config.hf_hub_id or "", config.hf_hub_filename)


def _find_hub_file(address: str) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(urlsplit(address).path).name


def _download_file(address: str, path: Path, on_progress: OnProgress) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    expected = _HASH.search(path.name)
    request = Request(address, headers={"User-Agent": "torch.hub"})
    with temporary_folder(path.parent) as folder, urlopen(request, timeout=_TIMEOUT) as source:
        part, digest = folder / path.name, hashlib.sha256()
        total, done = int(source.headers.get("Content-Length") or 0), 0
        with part.open("wb") as file:
            while chunk := source.read(_CHUNK):
                file.write(chunk)
                digest.update(chunk)
                done += len(chunk)
                on_progress(done / max(total, done))
        if done < total:
            raise NetworkError(f"only {done} of {total} bytes arrived")
        if expected is not None and not digest.hexdigest().startswith(expected[1]):
            raise NetworkError(f"the file at {address} is not the one that its name says")
        part.replace(path)


def _download_from_huggingface(place: _Place, on_progress: OnProgress) -> None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
    from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

    class Bar(tqdm):
        """Reports the progress instead of printing it."""

        def __init__(self, *args: Any, **settings: Any) -> None:
            super().__init__(*args, **settings | {"file": io.StringIO()})  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> bool | None:
            updated: bool | None = super().update(n)
            if self.total:
                on_progress(min(1.0, self.n / self.total))
            return updated

    *others, last = _FILES if place.file is None else (place.file,)
    for file in others:
        try:
            hf_hub_download(place.repository, file, tqdm_class=Bar)
            return
        except LocalEntryNotFoundError:  # the machine is offline
            raise
        except EntryNotFoundError:
            continue
    hf_hub_download(place.repository, last, tqdm_class=Bar)
