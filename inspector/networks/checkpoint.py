"""Read the weights in a file that may be broken or malicious.

    file -> kind (from its first bytes, never from its name) -> tensors by name

No code in the file is run, and a file is refused if a tensor claims more values than the file holds.
"""

import codecs
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from pickle import UnpicklingError
from typing import IO, Any, Literal, TypeAlias
from zipfile import ZIP_STORED, ZipFile

import torch
from safetensors.torch import load_file
from torch import Tensor

from inspector.errors import NetworkError
from inspector.networks.pickle_names import PickleNames, PickleRefusedError, explain_whole_network, read_pickle_names
from inspector.printable import make_printable

MAX_BYTES = 8_000_000_000
_MAX_LEVELS = 6  # dicts and lists around a state dict, at most

State: TypeAlias = dict[str, Tensor]  # by parameter name

Kind = Literal["safetensors", "zipped pickle", "pickle", "TorchScript", "torch.export", "other"]

# torch keeps its list of allowed classes in a global variable, so one thread at a time may extend the list.
_SAFE_GLOBALS = threading.Lock()

_SIGNATURES = (
    (rb"\s*<(!doctype|html|head|\?xml)", "it is a web page, so the download went wrong: download it again"),
    (rb"version https://git-lfs", "it is a git-lfs pointer and not the file itself: run git lfs pull"),
    (rb"(\x1f\x8b|BZh|\xfd7zXZ|.{257}ustar)", "it is an archive: unpack it, and give the file inside"),
    (rb"PK\x03\x04", "it is a zip archive without weights in it, as torch.save writes them"),
    (rb"\x89HDF", "it is an HDF5 file, as Keras writes"),
    (rb"[\s\x20-\x7e]+\Z", "it is a text file"),
)


def detect_kind(path: Path) -> Kind:
    """Detect the kind of a file of weights from its first bytes and, if it is a zip archive, from the names inside.

    Raises:
        NetworkError: there is no such file, or it cannot be read.
    """
    with _translate_errors(path):
        start = _read_start(path)
        if start[7:9] == b"\0{":  # 8 bytes hold the header's length, the last of them is 0; the header begins with {
            return "safetensors"
        if not start.startswith(b"PK\x03\x04"):
            return "pickle" if start.startswith(b"\x80") else "other"
        with ZipFile(path) as archive:
            names = {PurePosixPath(name).name for name in archive.namelist()}
        if "constants.pkl" in names:
            return "TorchScript"
        # archive_format is written by torch 2.7 and later, the other file by earlier versions.
        if names & {"archive_format", "serialized_exported_program.json"}:
            return "torch.export"
        return "zipped pickle" if "data.pkl" in names else "other"


def is_small_safetensors(path: Path) -> bool:
    """Return whether a file is in safetensors with a header of at most 1 MB: enough for 10,000 tensors, quick to parse.

    No such file crashes the reader, which checks every size, or takes long.
    """
    with _translate_errors(path):
        start = _read_start(path)
        return start[7:9] == b"\0{" and int.from_bytes(start[:8], "little") <= 1_000_000


def read_states(path: Path, *, max_bytes: int = MAX_BYTES) -> dict[str, State]:
    """Read all state dicts in a file, which may be a training checkpoint, without running code of the file.

    Args:
        path: a safetensors file, or a file of torch.save.
        max_bytes: size above which the file is refused before it is read.

    Returns:
        Tensors by parameter name, for every dict in the file that holds tensors. The keys say where it lies:
        "" for the outermost dict, "state_dict" or "model.ema" for dicts inside it, in the order of the file.

    Raises:
        NetworkError: the file cannot be read, holds code to run, or holds no tensors by name.
    """
    kind = detect_kind(path)
    with _translate_errors(path):
        size = path.stat().st_size
        if size > max_bytes:
            raise _make_refusal(path, f"it has {size / 1e6:.1f} MB, and at most {max_bytes / 1e6:.1f} MB are read")
        states = {"": load_file(path)} if kind == "safetensors" else _find_states(path, *_unpickle(path, kind))
        _check_sizes(path, states, size)
        return {place: {name: tensor.detach() for name, tensor in state.items()} for place, state in states.items()}


def check_size(path: Path, size: int, limit: int) -> None:
    """Raise NetworkError if a file, or what it holds when unpacked, is larger than the limit in bytes."""
    if size > limit:
        raise NetworkError(f"{path.name} has {size / 1e6:.1f} MB; at most {limit / 1e6:.1f} MB are read.")


def _summarize_error(error: BaseException) -> str:
    """Return the first line of a library's error message, shortened and printable, because it may quote the file."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    if isinstance(error, LookupError):  # the message of a KeyError is only the key, so add the class
        text = f"{type(error).__name__} {text}"
    return make_printable((text.splitlines() or [""])[0], 160).rstrip(".") or type(error).__name__


@contextmanager
def _translate_errors(path: Path) -> Iterator[None]:
    """Turn any exception in the `with` block into NetworkError; also MemoryError, as a file may claim any size."""
    try:
        yield
    except NetworkError:
        raise
    except FileNotFoundError as error:
        raise NetworkError(f"No weights at {path}.") from error
    except UnpicklingError as error:
        raise _make_code_refusal(path) from error
    except OSError as error:
        raise _make_refusal(path, _summarize_error(error)) from error
    # Catch every exception: on broken files torch raises RuntimeError, KeyError, AssertionError, struct.error and more.
    except Exception as error:
        reason = _summarize_error(error).removeprefix("Error while deserializing header: ")
        raise _make_refusal(path, f"it is cut off or broken ({reason}); copy or download it again") from error


def _make_refusal(path: Path, reason: str) -> NetworkError:
    return NetworkError(f"The weights at {path} cannot be read: {reason}.")


def _make_code_refusal(path: Path, named: str = "") -> NetworkError:
    request = f" It asks for {make_printable(named, 60)}." if named else ""
    result = f"The weights at {path} hold more than tensors, or are broken: nothing was run.{request}"
    return NetworkError(f"{result} Save a plain state dict, best as safetensors.")


def _read_start(path: Path) -> bytes:
    # Refuse pipes and devices: reading a pipe would block, and a device never ends.
    if path.exists() and not path.is_file():
        raise _make_refusal(path, "it is a folder" if path.is_dir() else "it is not a file")
    with path.open("rb") as file:
        return file.read(512)


def _unpickle(path: Path, kind: Kind) -> tuple[Any, PickleNames]:
    """Load a pickle, after checking which classes and functions it names and which sizes it claims."""
    if kind in ("TorchScript", "torch.export"):
        reason = f"it is a {kind} archive, which holds a program as well as weights, and would run it"
        raise _make_refusal(path, f"{reason}. If you trust it, load it by its path with --trust")
    if kind == "other":
        raise _make_refusal(path, _describe_other_file(_read_start(path)))
    if path.suffix == ".safetensors":  # torch.load would read it by its name, not by its content
        raise _make_refusal(path, "it is not what its name says, but a file of torch.save: rename it to .pth")
    names = PickleNames()
    (_check_zip if kind == "zipped pickle" else _check_file)(path, names)
    try:
        with _SAFE_GLOBALS, torch.serialization.safe_globals(names.list_placeholders()):
            # mmap avoids a second copy of the weights in memory beside the network's.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=kind == "zipped pickle"), names
    except UnpicklingError:
        _refuse_whole_network(path, names)
        raise


def _describe_other_file(start: bytes) -> str:
    if not start:
        return "it is empty (0 bytes)"
    start = start.removeprefix(codecs.BOM_UTF8)
    reasons = (reason for sign, reason in _SIGNATURES if re.match(sign, start, re.IGNORECASE | re.DOTALL))
    return next(reasons, "it is neither safetensors nor what torch.save writes")


def _check_zip(path: Path, names: PickleNames) -> None:
    with ZipFile(path) as archive:
        entries = archive.infolist()
        # Refuse compression: a zip bomb needs it, torch.save never uses it, and mmap would take its bytes for weights.
        if any(entry.compress_type != ZIP_STORED for entry in entries):
            raise _make_refusal(path, "its entries are compressed, which torch.save never does: save it again")
        claimed, size = sum(entry.file_size for entry in entries), path.stat().st_size
        if claimed > size:
            raise _make_refusal(path, f"its entries claim {claimed / 1e6:.1f} MB, but it has {size / 1e6:.1f} MB")
        for entry in entries:
            if PurePosixPath(entry.filename).name == "data.pkl":
                with archive.open(entry) as stream:
                    _read_names(path, stream, names)


def _check_file(path: Path, names: PickleNames) -> None:
    with path.open("rb") as file:
        # The five pickles of a file of torch.save that is not a zip: magic number, format version, system information,
        # the saved object, storage keys.
        for _ in range(5):
            _read_names(path, file, names)


def _read_names(path: Path, stream: IO[bytes], names: PickleNames) -> None:
    try:
        read_pickle_names(stream, names)
    except PickleRefusedError as error:
        raise _make_refusal(path, str(error)) from error
    _check_names(path, names)


def _check_names(path: Path, names: PickleNames) -> None:
    if (forbidden := names.find_forbidden()) is not None:
        _refuse_whole_network(path, names)
        raise _make_code_refusal(path, forbidden)


def _refuse_whole_network(path: Path, names: PickleNames) -> None:
    if (reason := explain_whole_network(names.called)) is not None:
        raise _make_refusal(path, reason)


def _find_states(path: Path, content: Any, names: PickleNames) -> dict[str, State]:
    """Find all dicts that hold tensors by name, at any place in unpickled content."""
    states: dict[str, State] = {}
    seen: set[int] = set()  # a pickled dict may contain itself
    level: list[tuple[tuple[str, ...], Any]] = [((), content)]
    for _ in range(_MAX_LEVELS):
        inner = []
        for place, value in level:
            if not isinstance(value, dict | list | tuple) or id(value) in seen:
                continue
            seen.add(id(value))
            entries = list(value.items() if isinstance(value, dict) else enumerate(value))
            tensors = {name: one for name, one in entries if isinstance(name, str) and isinstance(one, Tensor)}
            if tensors:
                states[".".join(place)] = tensors
            inner += [((*place, make_printable(str(key), 30)), one) for key, one in entries]
        level = inner
    if states:
        return states
    _refuse_whole_network(path, names)
    kind = f"a {type(content).__name__}"
    if isinstance(content, dict):
        kind += f" of {', '.join(make_printable(str(key), 30) for key in list(content)[:5]) or 'nothing'}"
    raise NetworkError(f"The weights at {path} must be tensors by name; the file holds {kind}.")


def _check_sizes(path: Path, states: Mapping[str, State], size: int) -> None:
    """Refuse tensors that claim more than the file holds: views larger than their storage, storages not in the file."""
    storages = {}
    for name, tensor in ((name, tensor) for state in states.values() for name, tensor in state.items()):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        if tensor.numel() * tensor.element_size() > storage.nbytes():
            claim = f"{make_printable(name, 60)} claims the shape {make_printable(str(tuple(tensor.shape)), 60)}"
            raise _make_refusal(path, f"{claim}, but only {storage.nbytes()} bytes of it are stored")
    claimed = sum(storages.values())
    if claimed > size:
        raise _make_refusal(path, f"its tensors claim {claimed / 1e6:.1f} MB, but it has {size / 1e6:.1f} MB")
