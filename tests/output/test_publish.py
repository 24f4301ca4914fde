"""A published page: what is written, and what is refused before anything is."""

import hashlib
import io
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from tiny_networks import Tiny, make_network
from torch import nn

from inspector import Classifier, class_maps, publish
from inspector.errors import ExportError, HeadError, ImageError, InspectorError, NetworkError
from inspector.output.publish import runtime, site


@pytest.fixture
def fake_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in for onnxruntime-web, which only a browser runs."""
    monkeypatch.setattr(site, "fetch_runtime", lambda: dict.fromkeys(runtime.FILES, b"runtime"))


@pytest.fixture
def fake_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in for the graph of the network: writing and verifying one takes seconds."""

    def write(classifier: Classifier, folder: Path) -> None:
        (folder / "network.onnx").write_bytes(b"graph")

    monkeypatch.setattr(site, "_write_network", write)


def read_network(page: Path) -> dict:
    return json.loads((page / "network.json").read_text())


@pytest.mark.usefixtures("fake_runtime")
@pytest.mark.parametrize("pooling", [nn.AdaptiveAvgPool2d, None])
def test_a_page_holds_the_graph_of_the_network_and_the_weight_of_its_head(
    tmp_path: Path, pooling: type[nn.Module] | None, pixels: np.ndarray
) -> None:
    classifier = make_network(pooling)
    page = publish(classifier, tmp_path / "new" / "site")
    facts, maps = read_network(page), class_maps(classifier, pixels)
    session = onnxruntime.InferenceSession(page / "network.onnx")
    results = session.run(["logits", "maps", "feature_maps_0"], {"inputs": classifier.inputs(maps.view).numpy()})
    for found, expected in zip(results, (maps.logits, maps.values, maps.feature_maps), strict=True):
        np.testing.assert_allclose(found[0], expected.numpy(), atol=1e-5)
    place = facts["head"]["weight"]
    content = (page / place["file"]).read_bytes()[place["offset"] :]
    weight = np.frombuffer(content, "<f4", np.prod(place["shape"])).reshape(place["shape"])
    np.testing.assert_array_equal(weight, classifier.head.affine[0].numpy())
    assert facts["sha256"] == classifier.sha256()
    assert facts["viewer"]["names"] == ["a cat", "a dog (1)", "a dog (2)"]
    assert facts["bytes"] == sum((page / name).stat().st_size for name in {"network.onnx", place["file"]})
    assert not list(tmp_path.glob("**/.inspector*"))


@pytest.mark.usefixtures("fake_runtime", "fake_graph")
def test_the_service_worker_keeps_every_file_and_changes_with_any(tmp_path: Path) -> None:
    texts = []
    for names in (["a", "b", "c"], ["a", "b", "d"]):
        classifier = Classifier.wrap(make_network(nn.AdaptiveAvgPool2d).network, names, (24, 32))
        page = publish(classifier, tmp_path / "site", overwrite=True)
        texts.append((page / "sw.js").read_text().splitlines()[0])
    listed = json.loads(texts[0].removeprefix("const FILES = ").partition(", VERSION")[0])
    files = {path.relative_to(page).as_posix() for path in page.rglob("*") if path.is_file()}
    assert set(listed) == (files - {"sw.js"}) | {"./"}
    assert texts[0] != texts[1]


@pytest.mark.usefixtures("fake_runtime", "fake_graph")
def test_photos_of_ones_own_are_copied_under_numbers(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    (photos / "b").mkdir(parents=True)
    for name in ("# 1.png", "b/same.png", "same.png", "c.bmp"):
        Image.new("RGB", (9, 8), (n := len(name), 2 * n, 3 * n)).save(photos / name)
    shutil.copy(photos / "same.png", photos / "no photo.tiff")  # no browser shows TIFF
    page = publish(make_network(nn.AdaptiveAvgPool2d), tmp_path / "site", photos)
    listed = read_network(page)["photos"]
    assert [one["caption"] for one in listed] == ["# 1", "same (2)", "c", "same (4)"]
    assert [one["file"] for one in listed] == ["photos/1.png", "photos/2.png", "photos/3.bmp", "photos/4.png"]
    assert (page / "photos/2.png").read_bytes() == (photos / "b/same.png").read_bytes()


class PowerMean(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 3)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return self.linear(maps.clamp(min=1e-6).pow(3).mean((2, 3)).pow(1 / 3))


class TwoPoolings(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 3)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return self.linear(torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], 1))


class DependsOnValues(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 3)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return self.linear((maps * 2 if maps.sum() > 0 else maps).mean((2, 3)))


def replace_head(head: nn.Module, channels: int = 3) -> Classifier:
    network = Tiny(head, channels).eval()
    return Classifier.wrap(network, size=(24, 32), mean=[0.5] * channels, std=[0.5] * channels)


def make_double() -> Classifier:
    return Classifier.wrap(make_network(nn.AdaptiveAvgPool2d).network.double(), size=(24, 32))


def linear(channels: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 3))


@pytest.mark.usefixtures("fake_runtime")
@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: replace_head(PowerMean()), HeadError, "its weight changes with the image"),
        (lambda: replace_head(TwoPoolings()), ExportError, r"2 poolings \(average \+ max\)"),
        (lambda: replace_head(DependsOnValues()), NetworkError, "cannot run in a browser. torch.export cannot write"),
        (lambda: replace_head(linear(8), channels=5), ExportError, "this network takes 5 channels"),
        (make_double, ExportError, r"in torch\.float64 on cpu"),
        (lambda: "efficientnet_lite0", NetworkError, "A classifier is needed"),
    ],
)
def test_a_network_that_cannot_be_published_is_refused_with_the_reason(
    tmp_path: Path, make: Callable[[], Classifier], error: type[InspectorError], message: str
) -> None:
    with pytest.raises(error, match=message) as refusal:
        publish(make(), tmp_path / "site")
    assert "backend" not in str(refusal.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("fake_runtime")
def test_a_network_of_an_onnx_file_or_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = make_network(nn.AdaptiveAvgPool2d)
    monkeypatch.setattr(site, "_MAX_BYTES", 1_000)
    with pytest.raises(ExportError, match="MB of weights, and a page can hold 0 MB"):
        publish(classifier, tmp_path / "site")
    monkeypatch.setattr(type(classifier.network), "make_class_map_model", None, raising=False)
    with pytest.raises(ExportError, match="from an ONNX file"):
        publish(classifier, tmp_path / "site")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("fake_runtime", "fake_graph")
def test_a_folder_with_files_of_others_is_never_replaced(tmp_path: Path) -> None:
    classifier = make_network(nn.AdaptiveAvgPool2d)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "mine.txt").write_text("mine")
    for overwrite, message in ((False, "is not empty"), (True, "holds mine.txt")):
        with pytest.raises(ExportError, match=message):
            publish(classifier, tmp_path / "site", overwrite=overwrite)
    assert [path.name for path in (tmp_path / "site").iterdir()] == ["mine.txt"]


@pytest.mark.usefixtures("fake_runtime", "fake_graph")
@pytest.mark.parametrize("added", ["photos/mine.png", "photos/deep/1.png", "photos/1.txt", "mine.html"])
def test_a_page_with_a_file_of_others_is_never_replaced(tmp_path: Path, added: str) -> None:
    classifier, page = make_network(nn.AdaptiveAvgPool2d), tmp_path / "site"
    publish(classifier, page)
    publish(classifier, page, photos=page / "photos", overwrite=True)
    (page / added).parent.mkdir(exist_ok=True)
    (page / added).write_bytes(b"mine")
    with pytest.raises(ExportError, match=f"holds {added.split('/')[0]}, which Inspector did not write"):
        publish(classifier, page, overwrite=True)
    assert (page / added).read_bytes() == b"mine"


@pytest.mark.usefixtures("fake_runtime", "fake_graph")
@pytest.mark.parametrize("names", [["photos/1.png"], ["index.html"], ["index.html", "network.json", "photos/1.jpg"]])
def test_a_folder_of_others_with_the_names_of_a_page_is_never_replaced(tmp_path: Path, names: list[str]) -> None:
    (tmp_path / "photos").mkdir()
    for name in names:
        (tmp_path / name).write_text('{"photos": [{"file": "photos/1.jpg"}]}')
    with pytest.raises(ExportError, match="which Inspector did not write"):
        publish(make_network(nn.AdaptiveAvgPool2d), tmp_path, overwrite=True)
    assert all((tmp_path / name).exists() for name in names)


@pytest.mark.usefixtures("fake_runtime", "fake_graph")
@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_nothing_is_left_if_writing_ends_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: BaseException
) -> None:
    def fail(*_: object) -> None:
        raise stop

    monkeypatch.setattr(site, "_write_service_worker", fail)
    with pytest.raises((KeyboardInterrupt, ExportError)):
        publish(make_network(nn.AdaptiveAvgPool2d), tmp_path / "site")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("fake_runtime")
def test_example_photos_that_a_page_cannot_take_are_refused(tmp_path: Path) -> None:
    classifier, photos = make_network(nn.AdaptiveAvgPool2d), tmp_path / "photos"
    photos.mkdir()
    (photos / "a.tiff").write_bytes(b"")
    with pytest.raises(ExportError, match="has 0 photos that browsers can show"):
        publish(classifier, tmp_path / "site", photos)
    for number in range(25):
        Image.new("L", (2, 2)).save(photos / f"{number}.png")
    with pytest.raises(ExportError, match="has 25 photos"):
        publish(classifier, tmp_path / "site", photos)
    for number in range(1, 25):
        (photos / f"{number}.png").unlink()
    (photos / "0.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"0\.png is not an image"):
        publish(classifier, tmp_path / "site", photos)
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


@pytest.mark.usefixtures("fake_runtime")
def test_example_photos_that_the_page_would_refuse_are_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 65_536, (20, 30, 3), np.uint16)
    made = {
        "deep.png": (cv2.imencode(".png", noise)[1].tobytes(), ExportError, "more than 8 bits per channel"),
        "gray.png": (encode(Image.fromarray(noise[..., 0])), ExportError, "more than 8 bits per channel"),
        "print.jpg": (encode(Image.new("CMYK", (20, 30)), "JPEG"), ExportError, "colors of a print"),
        "other.jpg": (encode(Image.new("RGB", (20, 30)), "TIFF"), ExportError, "of type TIFF"),
        "thin.png": (encode(Image.new("L", (1, 65_000))), ImageError, "too thin"),
    }
    classifier, photos = make_network(nn.AdaptiveAvgPool2d), tmp_path / "photos"
    photos.mkdir()
    for name, (content, error, message) in made.items():
        (photos / name).write_bytes(content)
        with pytest.raises(error, match=rf"{name} .*{message}"):
            publish(classifier, tmp_path / "site", photos)
        (photos / name).unlink()


def encode(image: Image.Image, format: str = "PNG") -> bytes:
    content = io.BytesIO()
    image.save(content, format)
    return content.getvalue()


def write_npm(folder: Path, script: str) -> None:
    """A program with the name of npm that only runs a line of Python, with the folder for the package as `where`."""
    folder.mkdir(exist_ok=True)
    npm = folder / "npm"
    where = "where = sys.argv[sys.argv.index('--pack-destination') + 1]"
    npm.write_text(f"#!/usr/bin/env python3\nimport sys\n{where}\n{script}\n")
    npm.chmod(0o755)


def test_without_npm_or_its_registry_one_sentence_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSPECTOR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ExportError, match="npm is needed once, to fetch onnxruntime-web"):
        runtime.fetch_runtime()
    monkeypatch.setattr(shutil, "which", lambda name: str(tmp_path / "bin" / name))
    write_npm(tmp_path / "bin", "sys.exit('npm error code ENOTFOUND\\nnpm error network no answer.')")
    with pytest.raises(ExportError, match=r"could not fetch onnxruntime-web .*: network no answer\. Publish again"):
        runtime.fetch_runtime()
    write_npm(tmp_path / "bin", "open(where + '/x.tgz', 'w').write('other')")
    with pytest.raises(ExportError, match="npm gave another onnxruntime-web"):
        runtime.fetch_runtime()
    monkeypatch.setattr(shutil, "which", lambda name: str(tmp_path / "nowhere"))
    with pytest.raises(ExportError, match="No such file or directory"):
        runtime.fetch_runtime()
    assert not (tmp_path / "cache").exists()


def test_what_the_cache_holds_is_used_if_its_hash_is_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSPECTOR_CACHE", str(tmp_path))
    monkeypatch.setattr(runtime, "FILES", {"a.js": hashlib.sha256(b"right").hexdigest()})
    monkeypatch.setattr(runtime, "_download", lambda: b"packed")
    monkeypatch.setattr(runtime, "_extract", lambda packed: {"a.js": b"right"})
    cached = tmp_path / f"onnxruntime-web-{runtime.VERSION}" / "a.js"
    assert runtime.fetch_runtime() == {"a.js": b"right"}
    assert cached.read_bytes() == b"right"
    monkeypatch.setattr(runtime, "_download", lambda: subprocess.run("no program", check=True))
    assert runtime.fetch_runtime() == {"a.js": b"right"}
    cached.write_bytes(b"wrong")
    monkeypatch.setattr(runtime, "_download", lambda: b"packed")
    assert runtime.fetch_runtime() == {"a.js": b"right"}
    assert cached.read_bytes() == b"right"
