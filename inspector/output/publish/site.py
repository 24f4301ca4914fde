"""Publish a network as a page without a server: a folder of files that any static host serves."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from inspector.entries import Entries, parse_json
from inspector.errors import ExportError, NetworkError
from inspector.explain.backends.accelerate import accelerate
from inspector.explain.backends.export_graph import USE_EAGER, ClassMapHead
from inspector.explain.classifier import Classifier, check_classifier
from inspector.explain.tracing.chosen_output import original_network
from inspector.files import check_new_folder, json_bytes, new_folder
from inspector.output.frontend import bundle_javascript, read_frontend
from inspector.output.publish.example_photos import copy_photos, list_photos
from inspector.output.publish.network_facts import describe_network, read_head_weight
from inspector.output.publish.runtime import FILES, fetch_runtime

_PAGE = Path(__file__).parent / "page"
_MAX_BYTES = 500_000_000  # of a network's numbers: a tab of a browser holds them twice while it opens the graph
_MODULES, _SERVICE_WORKER = ("page.js", "worker.js"), "sw.js"
_NAMES = {
    *("index.html", "page.css", "icon.png", "network.json", "network.onnx", "weights.bin"),
    *(*_MODULES, _SERVICE_WORKER, *FILES, "onnxruntime-LICENSE.txt"),
}


def publish(
    classifier: Classifier,
    folder: str | Path,
    photos: str | Path | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a page that explains photos by a network in the browser, without a server.

    The page's network is an ONNX graph that ONNX Runtime has compared with the network. Photos are resized and cropped
    in the browser exactly as in Python, and never leave it.

    Args:
        classifier: network with a head of fixed weights after one average pooling, max pooling or flattening, which
            takes images of 1 or 3 channels.
        folder: new folder. Any static host can serve it, at any address.
        photos: folder of example photos. Default: those that come with Inspector, if they fit the network.
        overwrite: replace an earlier page in this folder, once the new one is complete.

    Returns:
        Path of the folder.

    Raises:
        NetworkError, HeadError: the network cannot run in a browser, or its graph differs from it; the message says
            why.
        ExportError: the folder cannot be written, the network is too large or has several poolings, or npm cannot
            fetch onnxruntime-web.
        ImageError: an example photo cannot be read.
    """
    check_classifier(classifier)
    folder = Path(folder)
    is_ours = check_target(folder, overwrite)
    check_publishable(classifier)
    classifier = accelerate(classifier, "eager")  # another backend computes other logits than the page
    examples = list_photos(classifier.preprocessing, photos)
    runtime = fetch_runtime()
    with new_folder(folder, is_ours=is_ours) as unfinished:
        facts = describe_network(classifier) | {"photos": copy_photos(examples, unfinished)}
        facts["head"]["weight"] = _write_network(classifier, unfinished)
        facts["bytes"] = sum(path.stat().st_size for path in unfinished.iterdir() if path.suffix in (".onnx", ".bin"))
        (unfinished / "network.json").write_bytes(json_bytes(facts))
        _write_page(unfinished, runtime)
        _write_service_worker(unfinished)
    return folder


def check_target(folder: Path, overwrite: bool = False) -> Callable[[str], bool] | None:
    """Check that a page can be written to a folder; call it before the network is loaded.

    Returns:
        What decides whether a file there may be replaced, as for `new_folder`.

    Raises:
        ExportError: it cannot.
    """
    is_ours = _find_own_files(folder) if overwrite else None
    check_new_folder(folder, is_ours=is_ours)
    return is_ours


def _find_own_files(folder: Path) -> Callable[[str], bool]:
    """Return what decides by its name if all of a file or folder was written here: an earlier page lists its photos."""
    try:
        facts = Entries(parse_json((folder / "network.json").read_bytes()))
        facts.text("runtime")  # a network.json of others has none
        written = _NAMES.union(photo.text("file") for photo in facts.objects("photos"))
    except (OSError, ValueError, KeyError):
        written = set()

    def is_ours(name: str) -> bool:
        path = folder / name
        inner = [one for one in path.rglob("*") if not one.is_dir()] if path.is_dir() else [path]
        return all(one.relative_to(folder).as_posix() in written for one in inner)

    return is_ours


def check_publishable(classifier: Classifier) -> None:
    """Check that a network can run in a browser.

    Raises:
        HeadError, ExportError: it cannot; the message says why.
    """
    channels, head = len(classifier.preprocessing.mean), classifier.head
    if channels not in (1, 3):
        raise ExportError(
            f"A page shows photos in gray or RGB, and this network takes {channels} channels. Use `inspector app`."
        )
    example = classifier.noise_input()
    if example.dtype != torch.float32 or example.device.type != "cpu":
        raise ExportError(
            f"A page is made of a network in torch.float32 on the CPU; this one is in {example.dtype} on "
            f'{example.device}. Use Classifier.wrap(network.float(), ..., device="cpu").'
        )
    ClassMapHead(head)  # raises HeadError
    if hasattr(original_network(classifier.network), "make_class_map_model"):
        raise ExportError(
            "A network from an ONNX file cannot be written again with its feature maps, which a page needs. Publish "
            "the network that the file was made of, or use `inspector app`."
        )
    if len(head.branches) > 1:
        raise ExportError(
            f"This network has {len(head.branches)} poolings ({head.pooling}), and a page has the channels of one. Use "
            "`inspector app`."
        )
    size = sum(tensor.nbytes for tensor in (*classifier.network.parameters(), *classifier.network.buffers()))
    if size > _MAX_BYTES:
        raise ExportError(
            f"This network has {size / 1e6:.0f} MB of weights, and a page can hold {_MAX_BYTES / 1e6:.0f} MB. Use a "
            "smaller network, or `inspector app`."
        )


def _write_network(classifier: Classifier, folder: Path) -> dict[str, Any] | None:
    """Write the verified graph. Return in which file the weight of the head lies, and where it begins in it."""
    built: list[Path] = []
    try:
        accelerate(classifier, "onnxruntime", cache=folder, on_built=lambda _, file: built.append(file))
    except NetworkError as error:
        reason = str(error).removesuffix(USE_EAGER).strip()
        raise NetworkError(f"This network cannot run in a browser. {reason} Use `inspector app`.") from error
    if not built:  # the folder cannot be written, and the reason is known to the system only
        raise ExportError(f"Cannot write the network in {folder.parent}. Is there room on the disk?")
    graph = built[0].rename(folder / "network.onnx")
    weight = read_head_weight(classifier)
    if weight is None:
        return None
    # The graph holds it already, unless the exporter changed its layout. A second copy would be a large part of a page.
    content, offset = weight.tobytes(), graph.read_bytes().find(weight.tobytes())
    if offset < 0:
        (folder / "weights.bin").write_bytes(content)
    name = "network.onnx" if offset >= 0 else "weights.bin"
    return {"file": name, "offset": max(offset, 0), "shape": weight.shape}


def _write_page(folder: Path, runtime: dict[str, bytes]) -> None:
    """Write the page and the worker, each as one module, and the runtime with its licence."""
    for name in _MODULES:
        (folder / name).write_text(bundle_javascript(name, _PAGE), "utf-8")
    styles = [read_frontend(name, _PAGE) for name in ("page.css", "viewer.css")]
    (folder / "page.css").write_text("\n".join(styles), "utf-8")
    for name in ("index.html", "onnxruntime-LICENSE.txt", "icon.png"):
        shutil.copyfile(_PAGE / name, folder / name)
    for name, content in runtime.items():
        (folder / name).write_bytes(content)


def _write_service_worker(folder: Path) -> None:
    """Write the service worker, which keeps all files of the page; its own text changes when one of them does."""
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    digest = hashlib.sha256()
    for name in files:
        digest.update(name.encode() + hashlib.sha256((folder / name).read_bytes()).digest())
    listed = f"const FILES = {json.dumps(['./', *files])}, VERSION = {json.dumps(digest.hexdigest()[:16])};\n"
    (folder / _SERVICE_WORKER).write_text(listed + read_frontend(_SERVICE_WORKER, _PAGE), "utf-8")
