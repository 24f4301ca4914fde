"""Try in another process, with limits, what native code makes of a file of others, before this process reads it.

    file -> its hash is known: nothing to do
         -> trial in a child process: it ends well, raises one of our errors, crashes, or exceeds a limit

A hostile file can make a library divide by zero, fill the memory or never end. No exception tells of a crash, and a
server would be gone for all its visitors. What a trial survives, this process then does once more by itself.
"""

import hashlib
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from inspector.entries import parse_json
from inspector.errors import InspectorError, NetworkError, summarize_reason
from inspector.files import find_cache_folder, write_atomic
from inspector.version import __version__

if sys.platform != "win32":
    import resource

# Limits of a trial. Memory is what the libraries take once they are imported, and this much more.
CPU_SECONDS = 120
SECONDS = 300
BYTES = 2_000_000_000
BYTES_PER_BYTE_OF_FILE = 10

SWITCH = "INSPECTOR_ISOLATION"  # environment variable; "off": no trials

_LIBRARIES = ("torch", "onnx", "onnxruntime", "keras", "h5py")
_CODE = "from inspector.networks.isolation import answer_request; answer_request()"
_WORDS_FOR_NO_MEMORY = ("bad_alloc", "bad allocation", "failed to allocate", "cannot allocate", "can't allocate")

_two_at_a_time = threading.BoundedSemaphore(2)
_passed: dict[str, dict[str, str]] = {}  # key of a trial -> (name of a further file -> its hash)

Trial = Callable[..., Iterable[str] | None]


def try_in_child(trial: Trial, path: Path, *arguments: Any, library: str, remember: bool = True) -> None:
    """Call ``trial(path, *arguments)`` in another process, unless the same file has passed the same trial before.

    Args:
        trial: function of a module of Inspector. It returns the names of further files beside ``path`` that it read.
        path: the file.
        arguments: further arguments, which can be pickled.
        library: whose native code reads the file, for the error message.
        remember: keep the hash of a file that passes in the cache folder, too, for later processes.

    Raises:
        InspectorError: the error that the trial raised, or NetworkError if it crashed or exceeded a limit.
    """
    if os.environ.get(SWITCH) == "off" or not path.is_file():
        return
    key = _make_key(trial, path, arguments)
    record = find_cache_folder() / "tried" / f"{key}.json"
    with _two_at_a_time:
        if _has_passed(key, record, path):
            return
        further = _run(trial, path, arguments, library)
    _passed[key] = {name: _hash_file(path.with_name(name)) for name in further}
    if remember:
        with suppress(OSError):  # the cache cannot be written, so the file is tried again next time
            record.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(record, json.dumps(_passed[key]).encode(), many_writers=True)


def _make_key(trial: Trial, path: Path, arguments: tuple[Any, ...]) -> str:
    found = [__version__]
    for library in _LIBRARIES:
        with suppress(PackageNotFoundError):
            found.append(version(library))
    parts = trial.__qualname__, path.suffix, _hash_file(path), arguments, found
    return hashlib.sha256(repr(parts).encode(errors="surrogatepass")).hexdigest()


def _hash_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise NetworkError(f"Cannot read {path}: {summarize_reason(error)}.") from error


def _has_passed(key: str, record: Path, path: Path) -> bool:
    with suppress(OSError, ValueError, AttributeError, NetworkError):
        further = _passed[key] if key in _passed else parse_json(record.read_bytes(), object)
        return all(_hash_file(path.with_name(name)) == known for name, known in further.items())
    return False


def _run(trial: Trial, path: Path, arguments: tuple[Any, ...], library: str) -> list[str]:
    """Run the child. Return the names of further files that it read; raise InspectorError for everything else."""
    allowance = BYTES + BYTES_PER_BYTE_OF_FILE * path.stat().st_size
    request = pickle.dumps((trial, path, arguments, allowance, CPU_SECONDS))
    folders = os.pathsep.join(str(Path(folder).absolute()) for folder in sys.path)
    settings = {"PYTHONPATH": folders, "PYTHONDONTWRITEBYTECODE": "1", "CUDA_VISIBLE_DEVICES": ""}
    # Every thread reserves address space, which counts towards the limit.
    settings |= {"MALLOC_ARENA_MAX": "2", "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", _CODE],
        env=os.environ | settings,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as child:
        try:
            answer, _ = child.communicate(request, timeout=SECONDS)
        except subprocess.TimeoutExpired as error:
            raise NetworkError(_describe_end(path, library, f"took more than {SECONDS} seconds")) from error
        finally:
            child.kill()
    with suppress(ValueError):
        content = parse_json(answer.splitlines()[-1] if answer else b"", object)
        if "memory" in content:
            raise NetworkError(_describe_end(path, library, f"needed more than {allowance / 1e9:.1f} GB of memory"))
        if "error" in content:
            kinds = {kind.__name__: kind for kind in InspectorError.__subclasses__()}
            raise kinds.get(content["error"], NetworkError)(content["message"])
        return list(content["further"])
    raise NetworkError(_describe_end(path, library, _describe_exit(child.returncode)))


def _describe_end(path: Path, library: str, event: str) -> str:
    hint = "It is broken, far too large, or made to do harm: export or copy it again"
    return f"{path.name} is not loaded: a trial of it by {library} in a separate process {event}. {hint}."


def _describe_exit(code: int) -> str:
    try:
        name = signal.Signals(-code).name
    except ValueError:
        return f"crashed (exit code {code})"
    if name == "SIGXCPU":
        return f"took more than {CPU_SECONDS} seconds of processor time"
    return f"was ended by the system ({name}), as when memory runs out" if name == "SIGKILL" else f"crashed ({name})"


def answer_request() -> None:
    """Run a trial. This is what the child process does: it reads the request from its input and prints the answer."""
    # What libraries print must not mix with the answer.
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    trial, path, arguments, allowance, cpu_seconds = pickle.load(sys.stdin.buffer)
    _set_limits(allowance, cpu_seconds)
    try:
        content: dict[str, Any] = {"further": list(trial(path, *arguments) or ())}
    except BaseException as error:
        content = {"error": type(error).__name__, "message": str(error)[:4000]}
        if not isinstance(error, InspectorError):
            reason = f"{type(error).__name__}: {summarize_reason(error)}"
            content = {"error": "NetworkError", "message": f"{path} cannot be read ({reason})."}
        if ran_out_of_memory(error):
            content = {"memory": True}
    answer.write(json.dumps(content) + "\n")
    answer.flush()
    os._exit(0)  # without tidying up, in which a library may crash although its work is done


def ran_out_of_memory(error: BaseException | None) -> bool:
    """Return whether an error, or one of those that led to it, says that there is not enough memory."""
    while error is not None:
        text = str(error).lower()
        if isinstance(error, MemoryError) or any(words in text for words in _WORDS_FOR_NO_MEMORY):
            return True
        error = error.__cause__ or error.__context__
    return False


def _set_limits(allowance: int, cpu_seconds: int) -> None:
    if sys.platform == "win32":
        return  # the limit of time, and the exit code, remain
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would hold the file of a visitor
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 5))
    with suppress(OSError, ValueError):  # macOS has neither /proc nor a limit of memory
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + allowance, used + allowance))
