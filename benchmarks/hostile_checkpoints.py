"""Load broken and malicious weight files, and record the error messages and the memory that they cost.

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
from report import format_table, write_results
from rich.progress import track
from safetensors.torch import save_file
from torch import nn

from inspector import NetworkError
from inspector.networks.build import build
from inspector.networks.checkpoint import read_states
from inspector.networks.load_checkpoint import Architecture, load_checkpoint

HEADER = ("file", "content", "result", "increase of peak memory (MB)", "code ran")
NOTE = (
    "Peak memory is that of a process of its own, which reads the file and loads it into a network of 3 classes. Code "
    "ran if the folder exists that the malicious files would make; a plain unpickling does make it."
)
NETWORK = "fashion_convnet"


class CallOnUnpickling:
    """An object that calls a function when it is unpickled."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


def main() -> None:
    """Make each file, read it, and write results/hostile_checkpoints.md."""
    torch.manual_seed(0)
    # A process that is forked after torch used several threads can wait forever.
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        marker = Path(folder) / "ran"
        _check_that_payloads_work(marker)
        cases = [
            *make_good_files(),
            *make_malicious_files(marker),
            *make_bombs(),
            *make_broken_files(),
            *make_other_files(),
        ]
        rows = []
        for name, what, make in track(cases):
            path = Path(folder) / name
            make(path)
            result, increase = pool.apply(try_to_load, (path,))
            rows.append(
                (name, what, result.replace(f"{folder}/", ""), f"{increase:.0f}", "yes" if marker.exists() else "no")
            )
    refused = sum(row[2] != "loads" for row in rows)
    summary = f"{refused} of {len(rows)} files are refused, {sum(row[4] == 'yes' for row in rows)} ran code."
    write_results(
        "hostile_checkpoints", "python benchmarks/hostile_checkpoints.py", summary, NOTE, format_table(HEADER, rows)
    )


def try_to_load(path: Path) -> tuple[str, float]:
    """Return the result of loading, and the increase of the peak memory in MB."""
    architecture = Architecture(NETWORK, 3, {"pooling": "max"})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        load_checkpoint(read_states(path), architecture, path)
        result = "loads"
    except NetworkError as error:
        result = str(error)
    return result, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def _check_that_payloads_work(marker: Path) -> None:
    pickle.loads(pickle.dumps(CallOnUnpickling(os.mkdir, str(marker))))
    marker.rmdir()


def make_weights(classes: int = 3) -> dict[str, torch.Tensor]:
    return build(NETWORK, classes, {"pooling": "max"}).state_dict()


Case = tuple[str, str, Callable[[Path], object]]


def make_good_files() -> list[Case]:
    checkpoint = {"epoch": 3, "args": Namespace(lr=0.1), "model": {f"module.{k}": v for k, v in make_weights().items()}}
    return [
        ("good.safetensors", "a state dict", lambda path: save_file(make_weights(), path)),
        ("good.pth", "a state dict", _save_zipped(make_weights())),
        ("good_legacy.pth", "a state dict, as torch wrote before 1.6", _save_legacy(make_weights())),
        ("good.ckpt", "a training checkpoint of DataParallel with its arguments", _save_zipped(checkpoint)),
    ]


def make_malicious_files(marker: Path) -> list[Case]:
    payload = CallOnUnpickling(os.mkdir, str(marker))
    beside = {"state_dict": make_weights(), "args": payload}
    return [
        ("code.pth", "a pickle that calls a function, zipped", _save_zipped(payload)),
        ("code_beside.pth", "good weights with such a pickle", _save_zipped(beside)),
        ("code_legacy.pth", "the same, as torch wrote before 1.6", _save_legacy(beside)),
        ("code.bin", "a bare pickle that calls a function", _write_bytes(pickle.dumps(payload, protocol=2))),
        ("code_protocol_4.bin", "the same with protocol 4", _write_bytes(pickle.dumps(payload, protocol=4))),
    ]


def make_bombs() -> list[Case]:
    huge = torch.zeros(1).expand(10**6, 10**6)
    return [
        (
            "allocation.pth",
            "a pickle with bytearray(10**10), which torch allows",
            _save_zipped(CallOnUnpickling(bytearray, 10**10)),
        ),
        ("tensor.pth", "a pickle with FloatTensor(10**10), which torch allows", _save_zipped(_make_allocation())),
        (
            "stride_0.pth",
            "a tensor of 10**12 values that stores one",
            _save_zipped(make_weights() | {"0.bias": huge}),
        ),
        ("stride_0_legacy.pth", "the same, as torch wrote before 1.6", _save_legacy(make_weights() | {"0.bias": huge})),
        ("zip_bomb.pth", "4 GB of zeros, zipped to 4 MB", _write_zip_bomb),
        ("header_length.safetensors", "a header that claims 2**55 bytes", _write_safetensors(b"{}", length=2**55)),
        ("header_spaces.safetensors", "a header of 200 MB", _write_safetensors(b"{" + b" " * 200_000_000)),
        (
            "shape.safetensors",
            "a shape of 10**12 values on 8 bytes",
            _write_safetensors(_make_entries((0, 8), shape=10**12), 8),
        ),
    ]


def make_broken_files() -> list[Case]:
    return [
        (
            "header_short.safetensors",
            "a header that is longer than the file",
            _write_safetensors(b"{}", length=80_000_000),
        ),
        ("overlap.safetensors", "two tensors that share bytes", _write_safetensors(_make_entries((0, 8), (4, 12)), 12)),
        (
            "outside.safetensors",
            "a tensor beyond the end of the file",
            _write_safetensors(_make_entries((0, 8), (8, 16)), 8),
        ),
        ("cut.safetensors", "a state dict, cut off", _cut_off(lambda path: save_file(make_weights(), path))),
        ("cut.pth", "a state dict, cut off", _cut_off(_save_zipped(make_weights()))),
        ("cut_legacy.pth", "the same, as torch wrote before 1.6", _cut_off(_save_legacy(make_weights()))),
        ("empty.pth", "an empty file", _write_bytes(b"")),
        ("page.pth", "the web page of a download that failed", _write_bytes(b"<!DOCTYPE html>\n<html>404</html>")),
        (
            "pointer.safetensors",
            "a git-lfs pointer",
            _write_bytes(b"version https://git-lfs.github.com/spec/v1\noid x\n"),
        ),
        ("folder.pth", "a folder", Path.mkdir),
        ("missing.pth", "no file", lambda path: None),
    ]


def make_other_files() -> list[Case]:
    diverged = make_weights() | {"0.bias": torch.full((8,), float("nan"))}
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), momentum=0.9).state_dict()
    return [
        ("torchscript.pt", "a TorchScript archive", _save_torchscript),
        ("exported.pt2", "a torch.export archive", _save_exported),
        ("whole.pth", "torch.save(model)", _save_zipped(nn.Sequential(nn.Linear(2, 2)))),
        ("list.pth", "a list", _save_zipped([1, 2, 3])),
        ("optimizer.pth", "an optimizer's state", _save_zipped(optimizer)),
        ("architecture.pth", "weights of another architecture", _save_zipped(nn.Linear(2, 3).state_dict())),
        ("classes.pth", "weights for 10 classes", _save_zipped(make_weights(10))),
        ("nan.pth", "weights that are NaN", _save_zipped(diverged)),
    ]


def _save_zipped(content: object) -> Callable[[Path], object]:
    return lambda path: torch.save(content, path)


def _save_legacy(content: object) -> Callable[[Path], object]:
    return lambda path: torch.save(content, path, _use_new_zipfile_serialization=False)


def _write_bytes(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def _write_safetensors(header: bytes, data: int = 0, length: int | None = None) -> Callable[[Path], object]:
    return _write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + bytes(data))


def _make_entries(*places: tuple[int, int], shape: int = 2) -> bytes:
    entries = enumerate(places)
    return json.dumps({str(i): {"dtype": "F32", "shape": [shape], "data_offsets": at} for i, at in entries}).encode()


def _cut_off(make: Callable[[Path], object]) -> Callable[[Path], object]:
    def cut(path: Path) -> None:
        make(path)
        os.truncate(path, path.stat().st_size // 2)

    return cut


def _make_allocation() -> dict[str, object]:
    return {"0.bias": CallOnUnpickling(torch.FloatTensor, 10**10)}


def _write_zip_bomb(path: Path) -> None:
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


def _save_torchscript(path: Path) -> None:
    with warnings.catch_warnings(action="ignore"):
        torch.jit.save(torch.jit.trace(nn.Linear(2, 3), torch.zeros(1, 2)), path)


def _save_exported(path: Path) -> None:
    torch.export.save(torch.export.export(nn.Linear(2, 3), (torch.zeros(1, 2),)), path)


if __name__ == "__main__":
    typer.run(main)
