"""What does Inspector say of files of weights that are broken or mean harm, and what do they cost?

python benchmarks/hostile_checkpoints.py
"""

import json
import os
import pickle
import resource
import struct
import tempfile
import warnings
import zipfile
from argparse import Namespace
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import torch
import typer
from report import table, write
from rich.progress import track
from safetensors.torch import save_file
from torch import nn

from inspector import NetworkError
from inspector.networks.build import build
from inspector.networks.checkpoint import read_state
from inspector.networks.state_dict import load_weights

HEADER = ("file", "what it is", "what is said", "peak memory grew by (MB)", "code ran")
NOTE = (
    "Peak memory is that of a process of its own, which reads the file and fits it to a network of 3 classes. Code ran "
    "if the folder is there that the malicious files would make; unpickled without care, they do make it."
)
NETWORK = "fashion_convnet"


class Calls:
    """What calls a function when it is unpickled."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.called = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.called


def main() -> None:
    """Make each file, read it, and write results/hostile_checkpoints.md."""
    torch.manual_seed(0)
    # A process that is forked from one that computed with several threads waits for ever.
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        marker = Path(folder) / "ran"
        _check_that_payloads_work(marker)
        cases = [*good(), *malicious(marker), *bombs(), *broken(), *other_things()]
        rows = []
        for name, what, make in track(cases):
            path = Path(folder) / name
            make(path)
            said, grown = pool.apply(attempt, (path,))
            rows.append(
                (name, what, said.replace(f"{folder}/", ""), f"{grown:.0f}", "yes" if marker.exists() else "no")
            )
    refused = sum(row[2] != "loads" for row in rows)
    summary = f"{refused} of {len(rows)} files are refused, {sum(row[4] == 'yes' for row in rows)} ran code."
    write("hostile_checkpoints", "python benchmarks/hostile_checkpoints.py", summary, NOTE, table(HEADER, rows))


def attempt(path: Path) -> tuple[str, float]:
    """What is said, and by how many MB the memory grew, at most."""
    network = build(NETWORK, 3, {"pooling": "max"})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        load_weights(read_state(path), network, NETWORK, path)
        said = "loads"
    except NetworkError as error:
        said = str(error)
    return said, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def _check_that_payloads_work(marker: Path) -> None:
    pickle.loads(pickle.dumps(Calls(os.mkdir, str(marker))))
    marker.rmdir()


def weights(classes: int = 3) -> dict[str, torch.Tensor]:
    return build(NETWORK, classes, {"pooling": "max"}).state_dict()


Case = tuple[str, str, Callable[[Path], object]]


def good() -> list[Case]:
    checkpoint = {"epoch": 3, "args": Namespace(lr=0.1), "model": {f"module.{k}": v for k, v in weights().items()}}
    return [
        ("good.safetensors", "a state dict", lambda path: save_file(weights(), path)),
        ("good.pth", "a state dict", _zipped(weights())),
        ("good_legacy.pth", "a state dict, as torch wrote before 1.6", _legacy(weights())),
        ("good.ckpt", "a training checkpoint of DataParallel with its arguments", _zipped(checkpoint)),
    ]


def malicious(marker: Path) -> list[Case]:
    payload = Calls(os.mkdir, str(marker))
    beside = {"state_dict": weights(), "args": payload}
    return [
        ("code.pth", "a pickle that calls a function, zipped", _zipped(payload)),
        ("code_beside.pth", "good weights beside such a pickle", _zipped(beside)),
        ("code_legacy.pth", "the same, as torch wrote before 1.6", _legacy(beside)),
        ("code.bin", "a bare pickle that calls a function", _written(pickle.dumps(payload, protocol=2))),
        ("code_protocol_4.bin", "the same with protocol 4", _written(pickle.dumps(payload, protocol=4))),
    ]


def bombs() -> list[Case]:
    huge = torch.zeros(1).expand(10**6, 10**6)
    return [
        (
            "allocation.pth",
            "a pickle with bytearray(10**10), which torch allows",
            _zipped(Calls(bytearray, 10**10)),
        ),
        ("tensor.pth", "a pickle with FloatTensor(10**10), which torch allows", _zipped(_new_tensor())),
        ("stride_0.pth", "a tensor of 10**12 values on the storage of one", _zipped(weights() | {"0.bias": huge})),
        ("stride_0_legacy.pth", "the same, as torch wrote before 1.6", _legacy(weights() | {"0.bias": huge})),
        ("zip_bomb.pth", "4 GB of zeros, zipped to 4 MB", _zip_bomb),
        ("header_length.safetensors", "a header that says it has 2**55 bytes", _safetensors(b"{}", length=2**55)),
        ("header_spaces.safetensors", "a header of 200 MB", _safetensors(b"{" + b" " * 200_000_000)),
        ("shape.safetensors", "a shape of 10**12 values on 8 bytes", _safetensors(_entries((0, 8), shape=10**12), 8)),
    ]


def broken() -> list[Case]:
    return [
        ("header_short.safetensors", "a header that is longer than the file", _safetensors(b"{}", length=80_000_000)),
        ("overlap.safetensors", "two tensors that share bytes", _safetensors(_entries((0, 8), (4, 12)), 12)),
        ("outside.safetensors", "a tensor behind the end", _safetensors(_entries((0, 8), (8, 16)), 8)),
        ("cut.safetensors", "a state dict, cut off", _cut(lambda path: save_file(weights(), path))),
        ("cut.pth", "a state dict, cut off", _cut(_zipped(weights()))),
        ("cut_legacy.pth", "the same, as torch wrote before 1.6", _cut(_legacy(weights()))),
        ("empty.pth", "no byte", _written(b"")),
        ("page.pth", "the web page of a download that failed", _written(b"<!DOCTYPE html>\n<html>404</html>")),
        ("pointer.safetensors", "a git-lfs pointer", _written(b"version https://git-lfs.github.com/spec/v1\noid x\n")),
        ("folder.pth", "a folder", Path.mkdir),
        ("missing.pth", "nothing", lambda path: None),
    ]


def other_things() -> list[Case]:
    diverged = weights() | {"0.bias": torch.full((8,), float("nan"))}
    optimiser = torch.optim.SGD(nn.Linear(2, 2).parameters(), momentum=0.9).state_dict()
    return [
        ("torchscript.pt", "a TorchScript archive", _torchscript),
        ("exported.pt2", "a torch.export archive", _exported),
        ("whole.pth", "torch.save(model)", _zipped(nn.Sequential(nn.Linear(2, 2)))),
        ("list.pth", "a list", _zipped([1, 2, 3])),
        ("optimiser.pth", "an optimizer's state", _zipped(optimiser)),
        ("architecture.pth", "weights of another architecture", _zipped(nn.Linear(2, 3).state_dict())),
        ("classes.pth", "weights for 10 classes", _zipped(weights(10))),
        ("nan.pth", "weights that are NaN", _zipped(diverged)),
    ]


def _zipped(content: object) -> Callable[[Path], object]:
    return lambda path: torch.save(content, path)


def _legacy(content: object) -> Callable[[Path], object]:
    return lambda path: torch.save(content, path, _use_new_zipfile_serialization=False)


def _written(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def _safetensors(header: bytes, data: int = 0, length: int | None = None) -> Callable[[Path], object]:
    return _written(struct.pack("<Q", len(header) if length is None else length) + header + bytes(data))


def _entries(*places: tuple[int, int], shape: int = 2) -> bytes:
    entries = enumerate(places)
    return json.dumps({str(i): {"dtype": "F32", "shape": [shape], "data_offsets": at} for i, at in entries}).encode()


def _cut(make: Callable[[Path], object]) -> Callable[[Path], object]:
    def cut(path: Path) -> None:
        make(path)
        os.truncate(path, path.stat().st_size // 2)

    return cut


def _new_tensor() -> dict[str, object]:
    return {"0.bias": Calls(torch.FloatTensor, 10**10)}


def _zip_bomb(path: Path) -> None:
    torch.save({"0.bias": torch.zeros(1)}, path)
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            if not name.endswith("data/0"):
                archive.writestr(name, data)
        with archive.open("zip_bomb/data/0", "w", force_zip64=True) as storage:
            for _ in range(400):
                storage.write(bytes(10**7))


def _torchscript(path: Path) -> None:
    with warnings.catch_warnings(action="ignore"):
        torch.jit.save(torch.jit.trace(nn.Linear(2, 3), torch.zeros(1, 2)), path)


def _exported(path: Path) -> None:
    torch.export.save(torch.export.export(nn.Linear(2, 3), (torch.zeros(1, 2),)), path)


if __name__ == "__main__":
    typer.run(main)
