"""Read the weights in a file that may be broken or hostile, and fit them to a network.

    file -> kind (told by its first bytes, never by its name) -> tensors by name -> network

No code in the file runs, and no tensor may claim more values than the file holds.
"""

import codecs
import pickletools
import re
import threading
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from pickle import UnpicklingError
from typing import IO, Any, Literal
from zipfile import ZIP_STORED, ZipFile

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from inspector.errors import NetworkError

MAX_BYTES = 8_000_000_000
MAX_PICKLE_BYTES = 100_000_000  # what a pickle has beside its tensors; safetensors draws the line there too

Kind = Literal["safetensors", "zipped pickle", "pickle", "TorchScript", "torch.export", "other"]

_STATE_KEYS = ("state_dict", "model_state_dict", "model", "net", "network", "weights")
_EMA_KEYS = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")

# What a pickle may name. torch's own list is longer: of it, bytearray(10**11) fills the memory, and torch.FloatTensor
# takes as much as it says.
_ALLOWED = re.compile(
    r"collections\.(OrderedDict|Counter)|argparse\.Namespace|(__builtin__|builtins)\.set"
    r"|torch\._utils\._rebuild_(tensor(_v[23])?|parameter)|torch\.nn\.parameter\.Parameter"
    r"|torch\.(Size|device|(storage\.)?\w*Storage|(b?float|u?int|complex)\d\w*|bool|half|double|long|short)"
)
# torch keeps the classes that it admits in a global.
_SAFE_GLOBALS = threading.Lock()

_SIGNATURES = (
    (rb"\s*<(!doctype|html|head|\?xml)", "it is a web page, so a download went wrong: fetch it again"),
    (rb"version https://git-lfs", "it is a git-lfs pointer and not the file itself: run git lfs pull"),
    (rb"(\x1f\x8b|BZh|\xfd7zXZ|.{257}ustar)", "it is an archive: unpack it, and give the file inside"),
    (rb"PK\x03\x04", "it is a zip archive without weights in it, as torch.save writes them"),
    (rb"\x89HDF", "it is an HDF5 file, as Keras writes"),
    (rb"[\s\x20-\x7e]+\Z", "it is a text file"),
)

# Parts that only training needs: the side heads of GoogLeNet and Inception, and the counter of an averaged model.
_TRAINING_ONLY = ("aux1.", "aux2.", "AuxLogits.", "n_averaged")
_HEAD = re.compile(r"_?(last_)?(fc|classif(ier)?|heads?|linear|logits?|out|output|cls|predictions?)_?\d*")


def detect_kind(path: Path) -> Kind:
    """What a file of weights is, told by its first bytes and, of a zip, by the list of its files."""
    with _translate_errors(path):
        start = _read_start(path)
        if start[7:9] == b"\0{":  # the length of the header, in eight bytes of which the last is 0, and the header
            return "safetensors"
        if start.startswith(b"PK\x03\x04"):
            return _detect_zip_kind(path)
        return "pickle" if start.startswith(b"\x80") else "other"


def read_state(path: Path, *, ema: bool = False, max_bytes: int = MAX_BYTES) -> dict[str, Tensor]:
    """The tensors of a state dict by name, also from inside a training checkpoint; no code in the file is run.

    Where weights and their moving average (EMA) both stand, the weights, unless `ema`. Files above `max_bytes` bytes are
    refused unread.
    """
    kind = detect_kind(path)
    with _translate_errors(path):
        size = path.stat().st_size
        if size > max_bytes:
            raise _make_refusal(path, f"it has {size / 1e6:.1f} MB, and at most {max_bytes / 1e6:.1f} MB are read")
        state = load_file(path) if kind == "safetensors" else _find_state(path, _unpickle(path, kind), ema)
        _check_sizes(path, state, size)
        return {name: tensor.detach() for name, tensor in state.items()}


def count_classes(state: Mapping[str, Tensor]) -> int | None:
    """The rows of what is, by its name and place, the last affine layer: a first guess, which `fit` proves."""
    names = [name for name, tensor in state.items() if _is_matrix(name, tensor)]
    if names == sorted(names):  # safetensors keeps the order of the alphabet, not that of the layers
        names.sort(key=lambda name: [part.zfill(6) if part.isdigit() else part for part in name.split(".")])
    depths = {name: depth for name in names if (depth := _find_head_depth(name)) is not None}
    heads = [name for name, depth in depths.items() if depth == min(depths.values())]
    # Beside a linear layer, a 1x1 convolution is not the last: it stands before the pooling.
    chosen = [name for name in heads if state[name].ndim == 2] or heads or names
    return state[chosen[-1]].shape[0] if chosen else None


def load_weights(state: Mapping[str, Tensor], network: nn.Module, name: str, path: Path | None = None) -> None:
    """Write the state into the network. Nothing is written when a tensor lacks, is too many or does not fit.

    First parts that all names share (module., model., ...) are cut where the network's own names ask for it.
    """
    expected = network.state_dict()
    state = _strip_prefixes(expected, state)
    weights = f"The weights at {path}" if path else "The weights"
    for problem, names in _find_misfits(expected, state).items():
        if names:
            misfit = f"they {problem} {_list_some(names)}{_describe_shapes(expected, state, names[0])}"
            raise NetworkError(f"{weights} do not fit {name}'s architecture: {misfit}.")
    # Old checkpoints do not count batches, and inference does not ask.
    complete = OrderedDict((key, state.get(key, tensor).to(tensor.dtype)) for key, tensor in expected.items())
    # Some networks keep an infinite mask.
    broken = [key for key, tensor in complete.items() if not _is_finite(tensor) and _is_finite(expected[key])]
    if broken:
        hint = "The training diverged: take an earlier checkpoint."
        raise NetworkError(f"{weights} hold values that are NaN or infinite, in {_list_some(broken)}. {hint}")
    # Some layers ask which version of them wrote the weights, which safetensors does not tell: shapes agree, so ours.
    complete._metadata = getattr(expected, "_metadata", {})  # type: ignore[attr-defined]
    network.load_state_dict(complete)


def _summarize_error(error: BaseException) -> str:
    """What an error of another library says, as the end of a sentence of ours."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    if isinstance(error, LookupError):  # says but the key
        text = f"{type(error).__name__} {text}"
    return make_printable((text.splitlines() or [""])[0], 160).rstrip(".") or type(error).__name__


def make_printable(text: str, max_length: int = 60) -> str:
    """Text from a file, short enough for a sentence."""
    clean = "".join(letter if letter.isprintable() else "?" for letter in text[: max_length + 1])
    return clean if len(clean) <= max_length else clean[: max_length - 3] + "..."


@contextmanager
def _translate_errors(path: Path) -> Iterator[None]:
    """Whatever is raised inside becomes a NetworkError."""
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
    # Bad files make torch raise RuntimeError, KeyError, AttributeError, AssertionError, struct.error and more.
    except Exception as error:
        reason = _summarize_error(error).removeprefix("Error while deserializing header: ")
        raise _make_refusal(path, f"it is cut off or broken ({reason}); copy or fetch it again") from error


def _make_refusal(path: Path, reason: str) -> NetworkError:
    return NetworkError(f"The weights at {path} cannot be read: {reason}.")


def _make_code_refusal(path: Path, named: str = "") -> NetworkError:
    request = f" It asks for {make_printable(named)}." if named else ""
    hint = "Save a plain state dict, best as safetensors."
    return NetworkError(
        f"The weights at {path} hold more than tensors, or are broken: nothing was run.{request} {hint}"
    )


def _read_start(path: Path) -> bytes:
    # A pipe would be waited for, and a device never ends.
    if path.exists() and not path.is_file():
        raise _make_refusal(path, "it is a folder" if path.is_dir() else "it is not a file")
    with path.open("rb") as file:
        return file.read(512)


def _detect_zip_kind(path: Path) -> Kind:
    with ZipFile(path) as archive:
        names = {PurePosixPath(name).name for name in archive.namelist()}
    if "constants.pkl" in names:
        return "TorchScript"
    # The second is how torch wrote them before 2.7.
    if names & {"archive_format", "serialized_exported_program.json"}:
        return "torch.export"
    return "zipped pickle" if "data.pkl" in names else "other"


def _unpickle(path: Path, kind: Kind) -> Any:
    """What the pickle holds, after a look at what it would call and how large it says that it is."""
    if kind in ("TorchScript", "torch.export"):
        reason = f"it is a {kind} archive, which holds a program and not only weights, and would run it"
        raise _make_refusal(path, f"{reason}. If you trust it, load it by its path with --trust")
    if kind == "other":
        raise _make_refusal(path, _describe_other_file(_read_start(path)))
    if path.suffix == ".safetensors":  # torch would go by its name
        raise _make_refusal(path, "it is not what its name says, but a file of torch.save: rename it to .pth")
    (_check_zip if kind == "zipped pickle" else _check_file)(path)
    with _SAFE_GLOBALS, torch.serialization.safe_globals([Namespace]):
        # Mapped, the weights are in memory once: in the network.
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
        # A zip bomb needs them, torch.save never writes them, and torch would map their bytes as if they were weights.
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
        for _ in range(5):  # what marks torch's files, the format, the machine, the content, the names of the tensors
            _check_names(path, _list_pickle_names(path, file))


def _list_pickle_names(path: Path, stream: IO[bytes]) -> set[str]:
    """The classes and functions that the stream's next pickle would call; it is read, not run."""
    names, start = set(), stream.tell()
    for opcode, argument, _ in pickletools.genops(stream):
        if stream.tell() - start > MAX_PICKLE_BYTES:
            raise _make_refusal(path, f"it holds more than {MAX_PICKLE_BYTES / 1e6:.0f} MB beside its tensors")
        if opcode.name == "PROTO" and argument != 2:
            raise _make_refusal(path, f"it was pickled with protocol {argument}; torch.save's own, 2, would do")
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
    """The state dict in what was unpickled: itself, or what stands under one of the usual names."""
    if ema and not (isinstance(content, dict) and any(key in content for key in _EMA_KEYS)):
        raise _make_refusal(path, "it holds no moving average of the weights (EMA)")
    state = content
    for _ in range(3):  # not for ever: a pickled dict may hold itself
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
    return (
        isinstance(content, dict)
        and bool(content)
        and all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in content.items())
    )


def _check_sizes(path: Path, state: Mapping[str, Tensor], size: int) -> None:
    """Refuse tensors that would grow when they are copied: views with a stride of 0, storage that is in no file."""
    storages = {}
    for name, tensor in state.items():
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        if tensor.numel() * tensor.element_size() > storage.nbytes():
            claim = f"{make_printable(name)} claims the shape {make_printable(str(tuple(tensor.shape)))}"
            raise _make_refusal(path, f"{claim}, but only {storage.nbytes()} bytes of it are stored")
    if sum(storages.values()) > size:
        raise _make_refusal(
            path, f"its tensors claim {sum(storages.values()) / 1e6:.1f} MB, but it has {size / 1e6:.1f} MB"
        )


def _is_matrix(name: str, tensor: Tensor) -> bool:
    last = name.rpartition(".")[2]
    spare = any(part.startswith(("aux", "AuxLogits", "head_dist", "pre_")) for part in name.split("."))
    return last == "weight" and not spare and (tensor.ndim == 2 or (tensor.ndim == 4 and tensor.shape[2:] == (1, 1)))


def _find_head_depth(name: str) -> int | None:
    """At which part a parameter's name is that of a head; squeeze-and-excitation has an fc too, but deep inside."""
    return next((depth for depth, part in enumerate(name.split(".")) if _HEAD.fullmatch(part)), None)


def _strip_prefixes(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state without spare parts, and without those shared first parts of its names that the network's lack."""
    best = current = _drop_training_parts(expected, state)
    for _ in range(4):  # module._orig_mod.model.backbone. is the longest that was seen
        prefixes = {name.partition(".")[0] for name in current}
        if len(prefixes) != 1 or not all("." in name for name in current):
            break
        current = {name.partition(".")[2]: tensor for name, tensor in current.items()}
        if len(current.keys() & expected.keys()) > len(best.keys() & expected.keys()):
            best = current
    return _drop_training_parts(expected, best)


def _drop_training_parts(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    dropped = tuple(part for part in _TRAINING_ONLY if not any(name.startswith(part) for name in expected))
    return {name: tensor for name, tensor in state.items() if not name.startswith(dropped)}


def _find_misfits(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, list[str]]:
    shared = [name for name in expected if name in state]
    return {
        "lack": sorted(name for name in expected.keys() - state.keys() if not name.endswith("num_batches_tracked")),
        "have too": sorted(state.keys() - expected.keys()),
        "have in another shape": [name for name in shared if expected[name].shape != state[name].shape],
        "have in another kind of number": [
            name for name in shared if expected[name].is_floating_point() != state[name].is_floating_point()
        ],
    }


def _describe_shapes(expected: Mapping[str, Tensor], state: Mapping[str, Tensor], name: str) -> str:
    if name not in expected or name not in state or expected[name].shape == state[name].shape:
        return ""
    got, wanted = (make_printable(str(tuple(tensors[name].shape)), 30) for tensors in (state, expected))
    return f" ({make_printable(name)} is {got} and should be {wanted})"


def _is_finite(tensor: Tensor) -> bool:
    # Several times as fast as isfinite, which writes a mask as large as the tensor; NaN becomes a bound.
    return tensor.numel() == 0 or all(bound.isfinite() for bound in tensor.aminmax())


def _list_some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(map(make_printable, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
