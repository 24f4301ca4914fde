"""Weights of torchvision and timm are found on this machine, and downloaded completely or not at all."""

import hashlib
import http.server
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from urllib.error import URLError

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from inspector import NetworkError
from inspector.networks import pretrained
from inspector.networks.pretrained import download_weights, has_weights, list_pretrained

WEIGHTS = bytes(range(256)) * 10_000


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub folder of torch, and no weights of timm."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda repository, file: None)
    return tmp_path / "hub" / "checkpoints"


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """The address of a server on this machine, whose files lie in tmp_path / "served"."""
    (tmp_path / "served").mkdir()
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "served"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def place_at(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setattr(pretrained, "_find_place", lambda name: pretrained._Place(address))


def test_weights_are_downloaded_with_progress_and_only_once(
    hub: Path, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"tiny-{hashlib.sha256(WEIGHTS).hexdigest()[:8]}.pth"
    (tmp_path / "served" / name).write_bytes(WEIGHTS)
    place_at(monkeypatch, f"{address}/{name}")
    shares: list[float] = []
    assert not has_weights("torchvision:tiny")
    download_weights("torchvision:tiny", shares.append)
    assert (hub / name).read_bytes() == WEIGHTS
    assert shares == sorted(shares)
    assert (len(shares) > 1, shares[-1]) == (True, 1)
    (tmp_path / "served" / name).unlink()
    download_weights("torchvision:tiny")


@pytest.mark.parametrize("fault", ["another file", "stopped", "missing"])
def test_nothing_is_left_of_a_download_that_fails(
    hub: Path, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    if fault != "missing":
        (tmp_path / "served" / "tiny-00000000.pth").write_bytes(WEIGHTS)
    place_at(monkeypatch, f"{address}/tiny-00000000.pth")

    def stop(done: float) -> None:
        if fault == "stopped":
            raise KeyboardInterrupt

    with pytest.raises((NetworkError, KeyboardInterrupt)):
        download_weights("torchvision:tiny", stop)
    assert [path for path in hub.rglob("*") if path.is_file()] == []


def test_offline_is_one_sentence(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **settings: object) -> None:
        raise URLError(OSError(-2, "Name or service not known"))

    monkeypatch.setattr(pretrained, "urlopen", refuse)
    message = (
        r"^The weights of torchvision:resnet18 could not be downloaded \(Name or service not known\)\. Connect this "
        r"machine to the internet, or load the weights from a file\.$"
    )
    with pytest.raises(NetworkError, match=message):
        download_weights("torchvision:resnet18")


def test_weights_of_timm_come_from_the_repository_that_it_names(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def download(repository: str, file: str, tqdm_class: type) -> None:
        asked.append((repository, file))
        if file == "model.safetensors":
            raise EntryNotFoundError("there is none")
        bar = tqdm_class(total=4)
        bar.update(1)
        bar.update(3)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    shares: list[float] = []
    download_weights("timm:resnet18", shares.append)
    assert asked == [("timm/resnet18.a1_in1k", file) for file in ("model.safetensors", "pytorch_model.bin")]
    assert shares == [0.25, 1]


def test_timm_offline_is_one_sentence(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **settings: object) -> None:
        raise LocalEntryNotFoundError("Please check your connection and try again.")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    with pytest.raises(NetworkError, match=r"^The weights of timm:resnet18 could not be downloaded \(Please check"):
        download_weights("timm:resnet18")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torchvision:resnet19", r"^torchvision has no classifier 'resnet19'\. Nearest names: "),
        ("timm:resnett18", r"^timm has no classifier 'resnett18'"),
        ("timm:../../etc", "^timm has no classifier"),
        ("mine.pth", r"There are no pretrained weights of 'mine\.pth'"),
    ],
)
def test_an_unknown_name_is_refused(name: str, message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        download_weights(name)


def test_networks_whose_weights_are_here_come_first(hub: Path) -> None:
    names = list_pretrained()
    assert {"torchvision:resnet18", "timm:resnet18"} <= set(names)
    hub.mkdir(parents=True)
    (hub / "vgg16-397923af.pth").write_bytes(b"")
    assert has_weights("torchvision:vgg16")
    assert next(iter(list_pretrained().items())) == ("torchvision:vgg16", True)
    assert [name for name, is_here in list_pretrained().items() if is_here] == ["torchvision:vgg16"]
    assert sorted(list_pretrained()) == sorted(names)
