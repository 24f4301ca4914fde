"""Read the weights in a file that may be broken or malicious.

    file -> kind (from its first bytes, never from its name) -> tensors by name

No code in the file is run, and a file is refused if a tensor claims more values than the file holds.
"""

import codecs
import pickletools
import re
import threading
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from pickle import UnpicklingError
from typing import IO, Any, Literal
from zipfile import ZIP_STORED, ZipFile

import torch
from safetensors.torch import load_file
from torch import Tensor

from inspector.errors import NetworkError
from inspector.printable import make_printable

MAX_BYTES = 8_000_000_000
MAX_PICKLE_BYTES = 100_000_000  # limit for a pickle without its tensors; safetensors limits its header to the same size

Kind = Literal["safetensors", "zipped pickle", "pickle", "TorchScript", "torch.export", "other"]

_STATE_KEYS = ("state_dict", "model_state_dict", "model", "net", "network", "weights")
_EMA_KEYS = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")

# Classes and functions that a pickle may name. torch's own list is longer and not safe: a pickle could fill the memory
# by bytearray(10**11), or by torch.FloatTensor of any size.
_ALLOWED = re.compile(
    r"collections\.(OrderedDict|Counter)|argparse\.Namespace|(__builtin__|builtins)\.set"
    r"|torch\._utils\._rebuild_(tensor(_v[23])?|parameter)|torch\.nn\.parameter\.Parameter"
    r"|torch\.(Size|device|(storage\.)?\w*Storage|(b?float|u?int|complex)\d\w*|bool|half|double|long|short)"
)
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


def read_state(path: Path, *, ema: bool = False, max_bytes: int = MAX_BYTES) -> dict[str, Tensor]:
    """Read the tensors of a state dict, which may be inside a training checkpoint, without running code of the file.

    Args:
        path: a safetensors file, or a file of torch.save.
        ema: return the moving average of the weights (EMA) instead of the weights.
        max_bytes: size above which the file is refused before it is read.

    Returns:
        Tensors by parameter name.

    Raises:
        NetworkError: the file cannot be read, or holds more than tensors.
    """
    kind = detect_kind(path)
    with _translate_errors(path):
        size = path.stat().st_size
        if size > max_bytes:
            raise _make_refusal(path, f"it has {size / 1e6:.1f} MB, and at most {max_bytes / 1e6:.1f} MB are read")
        state = load_file(path) if kind == "safetensors" else _find_state(path, _unpickle(path, kind), ema)
        _check_sizes(path, state, size)
        return {name: tensor.detach() for name, tensor in state.items()}


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


def _unpickle(path: Path, kind: Kind) -> Any:
    """Load a pickle, after checking which classes and functions it would call and which sizes it claims."""
    if kind in ("TorchScript", "torch.export"):
        reason = f"it is a {kind} archive, which holds a program as well as weights, and would run it"
        raise _make_refusal(path, f"{reason}. If you trust it, load it by its path with --trust")
    if kind == "other":
        raise _make_refusal(path, _describe_other_file(_read_start(path)))
    if path.suffix == ".safetensors":  # torch.load would read it by its name, not by its content
        raise _make_refusal(path, "it is not what its name says, but a file of torch.save: rename it to .pth")
    (_check_zip if kind == "zipped pickle" else _check_file)(path)
    with _SAFE_GLOBALS, torch.serialization.safe_globals([Namespace]):
        # mmap avoids a second copy of the weights in memory beside the network's.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=kind == "zipped pickle")


def _describe_other_file(start: bytes) -> str:
    if not start:
        return "it is empty (0 bytes)"
    start = start.removeprefix(codecs.BOM_UTF8)
    reasons = (reason for sign, reason in _SIGNATURES if re.match(sign, start, re.IGNORECASE | re.DOTALL))
    return next(reasons, "it is neither safetensors nor what torch.save writes")


def _check_zip(path: Path) -> None:
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
                    _check_names(path, _list_pickle_names(path, stream))


def _check_file(path: Path) -> None:
    with path.open("rb") as file:
        # The five pickles of a file of torch.save that is not a zip: magic number, format version, system information,
        # the saved object, storage keys.
        for _ in range(5):
            _check_names(path, _list_pickle_names(path, file))


def _list_pickle_names(path: Path, stream: IO[bytes]) -> set[str]:
    """List the classes and functions that the next pickle in the stream would call, without running the pickle."""
    names, start = set(), stream.tell()
    for opcode, argument, _ in pickletools.genops(stream):
        if stream.tell() - start > MAX_PICKLE_BYTES:
            raise _make_refusal(path, f"it holds more than {MAX_PICKLE_BYTES / 1e6:.0f} MB besides its tensors")
        if opcode.name == "PROTO" and argument != 2:
            raise _make_refusal(path, f"it was pickled with protocol {argument}; expected 2, as torch.save writes it")
        if opcode.name in ("GLOBAL", "INST"):
            names.add(str(argument).replace(" ", "."))
    return names


def _check_names(path: Path, names: set[str]) -> None:
    forbidden = sorted(name for name in names if not _ALLOWED.fullmatch(name))
    if any(name.startswith("torch.nn.modules.") for name in forbidden):
        reason = "it holds a whole pickled network, which would run code: save model.state_dict() instead"
        raise _make_refusal(path, reason)
    if forbidden:
        raise _make_code_refusal(path, forbidden[0])


def _find_state(path: Path, content: Any, ema: bool) -> dict[str, Tensor]:
    """Find the state dict in unpickled content: it is the content itself, or an entry with one of the usual keys."""
    if ema and not (isinstance(content, dict) and any(key in content for key in _EMA_KEYS)):
        raise _make_refusal(path, "it holds no moving average of the weights (EMA)")
    state = content
    for _ in range(3):  # at most three levels, because a pickled dict may contain itself
        if _is_state(state) or not isinstance(state, dict):
            break
        keys = _EMA_KEYS + _STATE_KEYS if ema else _STATE_KEYS + _EMA_KEYS
        state = next((state[key] for key in keys if isinstance(state.get(key), dict)), None)
    if _is_state(state):
        return dict(state)
    kind = f"a {type(content).__name__}"
    if isinstance(content, dict):
        kind += f" of {', '.join(make_printable(str(key), 30) for key in list(content)[:5]) or 'nothing'}"
    raise NetworkError(f"The weights at {path} must be tensors by name; the file holds {kind}.")


def _is_state(content: Any) -> bool:
    entries = content.items() if isinstance(content, dict) else ()
    return bool(entries) and all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in entries)


def _check_sizes(path: Path, state: Mapping[str, Tensor], size: int) -> None:
    """Refuse tensors that claim more than the file holds: views larger than their storage, storages not in the file."""
    storages = {}
    for name, tensor in state.items():
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        if tensor.numel() * tensor.element_size() > storage.nbytes():
            claim = f"{make_printable(name, 60)} claims the shape {make_printable(str(tuple(tensor.shape)), 60)}"
            raise _make_refusal(path, f"{claim}, but only {storage.nbytes()} bytes of it are stored")
    claimed = sum(storages.values())
    if claimed > size:
        raise _make_refusal(path, f"its tensors claim {claimed / 1e6:.1f} MB, but it has {size / 1e6:.1f} MB")
