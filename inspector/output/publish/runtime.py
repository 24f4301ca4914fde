"""Fetch onnxruntime-web, which runs networks in a browser: once, by npm, into the cache folder.

What npm gives and what the cache folder holds are compared with the hashes here.
"""

import base64
import hashlib
import io
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from inspector.errors import ExportError
from inspector.files import find_cache_folder, write_atomic

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
# The hash by which npm's lock files name this version.
INTEGRITY = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
# The files that a page needs, with their SHA-256: the build for WebAssembly with SIMD alone, without WebGPU.
FILES = {
    "ort.wasm.bundle.min.js": "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
# Names in the package, if they are others: not every static host knows that .mjs is JavaScript.
_PACKED = {"ort.wasm.bundle.min.js": "ort.wasm.bundle.min.mjs"}
_SECONDS = 600  # that npm may take


def fetch_runtime() -> dict[str, bytes]:
    """Return the files of onnxruntime-web, from the cache folder if they are there.

    Raises:
        ExportError: npm is not installed, cannot fetch the package, or gives another one than this version.
    """
    folder = find_cache_folder() / f"{PACKAGE}-{VERSION}"
    files = _read_cached(folder)
    if files is None:
        files = _extract(_download())
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name, content in files.items():
                write_atomic(folder / name, content, many_writers=True)
        except OSError:  # the cache cannot be written, so the package is fetched again next time
            pass
    return files


def _read_cached(folder: Path) -> dict[str, bytes] | None:
    """Return the files in the cache; None if one is missing or was changed."""
    try:
        files = {name: (folder / name).read_bytes() for name in FILES}
    except OSError:
        return None
    return files if all(hashlib.sha256(content).hexdigest() == FILES[name] for name, content in files.items()) else None


def _download() -> bytes:
    """Return the package as npm packs it."""
    npm = shutil.which("npm")
    what = f"{PACKAGE} {VERSION}, which runs the network in the browser"
    if npm is None:
        raise ExportError(
            f"npm is needed once, to fetch {what}, and it was not found. Install Node.js, which has npm, and publish "
            "again."
        )
    with tempfile.TemporaryDirectory() as folder:
        command = [
            npm,
            "pack",
            f"{PACKAGE}@{VERSION}",
            "--pack-destination",
            folder,
            "--ignore-scripts",
            "--loglevel=error",
        ]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, cwd=folder, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ExportError(f"npm could not fetch {what}: {error}. Publish again when it can.") from error
        packed = list(Path(folder).glob("*.tgz"))
        if done.returncode or len(packed) != 1:
            raise ExportError(
                f"npm could not fetch {what}: {_find_reason(done)}. Publish again on a machine that reaches npm's "
                "registry; once is enough."
            )
        content = packed[0].read_bytes()
    found = f"sha512-{base64.b64encode(hashlib.sha512(content).digest()).decode()}"
    if found != INTEGRITY:
        raise ExportError(
            f"npm gave another {PACKAGE} {VERSION} than this version of Inspector expects, so it is not "
            f"used: its hash is {found}, expected {INTEGRITY}."
        )
    return content


def _find_reason(done: subprocess.CompletedProcess[str]) -> str:
    """Return the first line of npm's errors that says more than a code."""
    lines = [line.removeprefix("npm error").strip().rstrip(".") for line in done.stderr.splitlines()]
    telling = [line for line in lines if line and not line.startswith(("code ", "errno ", "syscall "))]
    return telling[0] if telling else f"exit status {done.returncode}"


def _extract(packed: bytes) -> dict[str, bytes]:
    files = {}
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        for name in FILES:
            member = archive.extractfile(f"package/dist/{_PACKED.get(name, name)}")
            assert member is not None, "its hash is known, so its files are"
            files[name] = member.read()
    return files
