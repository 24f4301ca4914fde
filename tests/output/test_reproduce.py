"""`inspector rebuild`: the same figure from the manifest, byte for byte, or a sentence that says what differs."""

import io
import json
import shutil
import sys
import zipfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from inspector import FigureStyle, InspectorError, NetworkError, class_maps, load
from inspector.cli import main
from inspector.explain.backends.accelerate import accelerate
from inspector.images.examples import list_examples
from inspector.networks.build import build
from inspector.output.export import FILES, encode_zip
from inspector.output.reproduce import rebuild
from inspector.output.style import MM

BAG = list_examples("fashion_mnist")["Bag"]
STYLE = FigureStyle(
    ("photo", "classes", "contrast"), columns=2, width=4, dpi=80, colours="RdBu_r", dark=True, title="T"
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export in which every setting differs from the default."""
    folder = tmp_path_factory.mktemp("exports") / "bag"
    maps = class_maps(load("fashion_gmp"), BAG, size=(40, 44))
    return maps.save(folder, ["Bag", "Shirt"], "average", smooth=False, opacity=0.6, style=STYLE)


@pytest.fixture
def export(exported: Path, tmp_path: Path) -> Path:
    """A copy for one test."""
    return Path(shutil.copytree(exported, tmp_path / "bag"))


def changed(export: Path, change: Callable[[dict], None]) -> Path:
    settings = json.loads((export / "manifest.json").read_text())
    change(settings)
    (export / "manifest.json").write_text(json.dumps(settings))
    return export / "manifest.json"


def test_every_file_comes_back_byte_for_byte(export: Path, tmp_path: Path) -> None:
    result = rebuild(export / "manifest.json", tmp_path / "again")
    assert (result.folder, result.versions, result.equal) == (tmp_path / "again", (), True)
    for name in FILES:
        assert (result.folder / name).read_bytes() == (export / name).read_bytes(), name


def test_a_finer_figure_comes_back_byte_for_byte(tmp_path: Path) -> None:
    maps = class_maps(load("fashion_gap"), BAG, finer=2)
    export = maps.save(tmp_path / "finer", 2, style=FigureStyle(("photo", "classes"), dpi=80))
    manifest = json.loads((export / "manifest.json").read_text())
    assert manifest["shown"]["finer"] == manifest["finer"]["factor"] == 2
    assert manifest["finer"]["method"] == "dilation"
    with np.load(export / "maps.npz") as numbers:
        assert np.array_equal(numbers["finer_values"][:, ::2, ::2], numbers["values"])
        assert np.allclose(numbers["values"].sum((1, 2)) + numbers["bias"], numbers["logits"], atol=1e-4)
        assert np.allclose(numbers["finer_logits"][0], numbers["logits"])
    assert "2x finer by dilating the last strides" in (export / "report.html").read_text()
    assert rebuild(export / "manifest.json", tmp_path / "again").equal
    for name in FILES:
        assert (tmp_path / "again" / name).read_bytes() == (export / name).read_bytes(), name
    broken = changed(export, lambda settings: settings["shown"].update(finer=3))
    with pytest.raises(InspectorError, match=r"finer is 3\. Use 2 or 4"):
        rebuild(broken, tmp_path / "broken")


def test_a_figure_of_another_backend_comes_back_byte_for_byte_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INSPECTOR_CACHE", str(tmp_path / "cache"))
    maps = class_maps(accelerate(load("fashion_gap"), "onnxruntime"), BAG)
    export = maps.save(tmp_path / "bag", 1)
    settings = json.loads((export / "manifest.json").read_text())
    assert settings["network"]["backend"] == "onnxruntime"
    assert settings["versions"]["onnxruntime"] == version("onnxruntime")
    # Built again, as by another process.
    shutil.rmtree(tmp_path / "cache")
    assert rebuild(export, tmp_path / "again").equal
    for name in FILES:
        assert (tmp_path / "again" / name).read_bytes() == (export / name).read_bytes(), name


@pytest.mark.usefixtures("only_png")
def test_a_manifest_without_a_backend_is_eager_and_an_unknown_backend_is_refused(export: Path, tmp_path: Path) -> None:
    assert rebuild(changed(export, lambda settings: settings["network"].pop("backend")), tmp_path / "again").equal
    manifest = changed(export, lambda settings: settings["network"].update(backend="abacus"))
    with pytest.raises(NetworkError, match=r"No backend 'abacus'\. Use one of auto, eager,"):
        rebuild(manifest, tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.usefixtures("only_png")
def test_a_folder_or_a_zip_may_stand_for_the_manifest_in_it(export: Path, tmp_path: Path) -> None:
    figure = (export / "figure.png").read_bytes()
    assert rebuild(export, tmp_path / "folder").equal
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for name in FILES:
            archive.write(export / name, name)
    result = rebuild(tmp_path / "all.zip", tmp_path / "zip")
    assert result.equal
    assert (result.folder / "figure.png").read_bytes() == figure


@pytest.mark.usefixtures("only_png")
def test_the_photo_may_be_the_file_that_it_was(export: Path, tmp_path: Path) -> None:
    (export / "photo.png").unlink()
    with pytest.raises(InspectorError, match=r"^There is no photo\.png beside .*\. Use --photo FILE with bag\.png"):
        rebuild(export, tmp_path / "without")
    assert rebuild(export, tmp_path / "again", photo=BAG).equal
    # Under another name, and in another format, it is the same picture.
    with Image.open(BAG) as image:
        image.convert("RGB").save(tmp_path / "other.bmp")
    assert rebuild(export, tmp_path / "third", photo=tmp_path / "other.bmp").equal


def test_another_photo_is_refused(export: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InspectorError, match=r"^coat\.png is not the photo of this figure: its SHA-256 is [0-9a-f]{12}"
    ):
        rebuild(export, tmp_path / "again", photo=list_examples("fashion_mnist")["Coat"])
    shutil.copy(list_examples("fashion_mnist")["Coat"], export / "photo.png")
    with pytest.raises(
        InspectorError, match=r"^photo\.png is not the photo of this figure: .*, and that of bag\.png was"
    ):
        rebuild(export, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_another_network_is_refused(export: Path, tmp_path: Path) -> None:
    with pytest.raises(InspectorError, match=r"^fashion_gap is not the network of this figure: the SHA-256 of its wei"):
        rebuild(export, tmp_path / "again", model="fashion_gap")
    manifest = changed(export, lambda settings: settings["network"].update(name="fashion_gmp_sigmoid"))
    with pytest.raises(
        InspectorError, match=r"^fashion_gmp_sigmoid is not the network .* that of fashion_gmp_sigmoid was"
    ):
        rebuild(manifest, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_other_class_names_are_refused(export: Path, tmp_path: Path) -> None:
    names = [f"class {k}" for k in range(10)]
    with pytest.raises(InspectorError, match=r"^fashion_gmp has other class names than fashion_gmp had\. Use --labels"):
        rebuild(export, tmp_path / "again", class_names=names)


@pytest.mark.usefixtures("only_png")
def test_other_versions_are_reported(export: Path, tmp_path: Path) -> None:
    now = json.loads((export / "manifest.json").read_text())["versions"]["torch"]

    def older(settings: dict) -> None:
        settings["versions"] |= {"torch": "1.0", "abacus": "3"}

    result = rebuild(changed(export, older), tmp_path / "again")
    assert result.versions == (f"torch was 1.0 and is {now}.", "abacus was 3 and is not installed.")
    assert result.equal


@pytest.mark.usefixtures("only_png")
def test_a_figure_that_differs_is_reported(export: Path, tmp_path: Path) -> None:
    result = rebuild(changed(export, lambda settings: settings["shown"].update(opacity=0.2)), tmp_path / "again")
    assert result.equal is False
    (export / "figure.png").unlink()
    assert rebuild(export, tmp_path / "third").equal is None


@pytest.mark.usefixtures("only_png")
def test_a_manifest_without_a_style_has_the_default_style(tmp_path: Path) -> None:
    folder = class_maps(load("fashion_gap"), BAG).save(tmp_path / "bag", 2)

    def older(settings: dict) -> None:
        del settings["style"], settings["class_names"], settings["probability"], settings["photo"]["pixels_sha256"]

    manifest = changed(folder, older)
    with pytest.raises(InspectorError, match=r"photo\.png is not the photo of this figure"):
        rebuild(manifest, tmp_path / "again")
    assert rebuild(manifest, tmp_path / "again", photo=BAG).equal


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda settings: settings.pop("shown"), "it lacks the entry 'shown'"),
        (lambda settings: settings["network"].pop("sha256"), "it lacks the entry 'sha256'"),
        (
            lambda settings: settings["shown"].update(classes=["Bag"]),
            "expected a list of whole numbers of at least 0 for classes, got ['Bag']",
        ),
        (lambda settings: settings["shown"].update(opacity=7), "expected a number from 0 to 1 for opacity, got 7"),
        (lambda settings: settings["style"].update(shadow=1), "the style has an entry 'shadow'"),
        (
            lambda settings: settings["style"].update(dpi="many"),
            "expected a whole number of at least 0 for dpi, got 'many'",
        ),
        (lambda settings: settings.update(photo=None), "its input was a tensor, without a photo"),
        (lambda settings: settings.update(preprocessing=[]), "expected an object for preprocessing, got []"),
    ],
)
def test_a_manifest_that_is_broken_gets_one_sentence(export: Path, tmp_path: Path, change: Callable, why: str) -> None:
    with pytest.raises(InspectorError, match=r"manifest\.json is not a manifest of an export \(") as error:
        rebuild(changed(export, change), tmp_path / "again")
    assert why in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "again").exists()


def test_settings_that_cannot_be_drawn_are_refused_as_for_a_new_figure(export: Path, tmp_path: Path) -> None:
    with pytest.raises(InspectorError, match=r"^No colormap 'jet'\. Use one of inspector, "):
        rebuild(changed(export, lambda settings: settings["style"].update(colours="jet")), tmp_path / "again")
    manifest = changed(export, lambda settings: settings["style"].update(colours="inspector"))
    changed(export, lambda settings: settings["shown"].update(classes=[99]))
    with pytest.raises(InspectorError, match=r"^No class 99; they are numbered 0 to 9\.$"):
        rebuild(manifest, tmp_path / "again")


@pytest.mark.parametrize("content", [b"", b"[]", b"no json", b"\xff\xfe"])
def test_a_file_that_is_not_a_manifest_gets_one_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(InspectorError, match=r"is not a manifest of an export"):
        rebuild(tmp_path / "manifest.json", tmp_path / "again")
    with pytest.raises(InspectorError, match=r"^Cannot read .*nowhere\.json: No such file or directory\.$"):
        rebuild(tmp_path / "nowhere.json", tmp_path / "again")


def test_a_zip_that_unpacks_to_more_than_a_photo_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inspector.output.reproduce.MAX_BYTES", 1000)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", b" " * 100_000)
    with pytest.raises(InspectorError, match=r"bomb\.zip: manifest\.json in it has more than"):
        rebuild(tmp_path / "bomb.zip", tmp_path / "again")


# --- the command line, in this process: each start costs seconds


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["inspector", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        main()
    return int(stopped.value.code or 0)


@pytest.mark.usefixtures("only_png")
def test_the_command_makes_the_figure_of_a_users_own_network_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    torch.save(build("timm:test_resnet", 3).state_dict(), tmp_path / "mine.pth")
    (tmp_path / "labels.txt").write_text("tench\ngoldfish\ngreat white shark\n")
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    network_options = ["-m", tmp_path / "mine.pth", "--arch", "timm:test_resnet", "--labels", tmp_path / "labels.txt"]
    looks = [
        "--panels", "photo,contrast", "--width", "60mm", "--dpi", "100", "--font-size", "6", "--no-bar",
        "--opacity", "0.5", "--colours", "BrBG_r", "--dark", "--title", "", "--no-equations", "--columns", "1",
        "--size", "native",
    ]  # fmt: skip
    assert run(monkeypatch, "explain", tmp_path / "photo.png", *network_options, *looks, "-o", tmp_path / "a") == 0
    with Image.open(tmp_path / "a" / "figure.png") as figure:
        assert figure.width == 236  # 60 mm at 100 dpi
    style = json.loads((tmp_path / "a" / "manifest.json").read_text())["style"]
    assert FigureStyle(**style | {"panels": tuple(style["panels"])}) == FigureStyle(
        ("photo", "contrast"), 1, 60 * MM, 100, 6, "BrBG_r", True, "", False, False
    )
    assert run(monkeypatch, "rebuild", tmp_path / "a", "-o", tmp_path / "b") == 1
    assert "No network 'mine'" in capsys.readouterr().err
    assert run(monkeypatch, "rebuild", tmp_path / "a", *network_options, "-o", tmp_path / "b") == 0
    assert "figure.png is the same as that beside the manifest, byte for byte." in capsys.readouterr().out
    assert (tmp_path / "a" / "manifest.json").read_bytes() == (tmp_path / "b" / "manifest.json").read_bytes()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--width", "wide"], "--width is 'wide'. Use 89mm or 3.5in."),
        (["--panels", "phto"], "A figure has panels, some of photo, classes, contrast, all; got phto."),
        (["--colours", "jet"], "No colormap 'jet'"),
        (["--width", "30mm"], "has no room for"),
    ],
)
def test_a_figure_that_cannot_be_drawn_gets_one_sentence_and_leaves_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    sentence: str,
) -> None:
    assert run(monkeypatch, "explain", BAG, "-m", "fashion_gap", *options, "-o", tmp_path / "out") == 1
    assert sentence in " ".join(capsys.readouterr().err.split())
    assert list(tmp_path.iterdir()) == []


def test_the_archive_of_the_app_can_be_rebuilt(tmp_path: Path) -> None:
    maps = class_maps(load("fashion_gap"), BAG)
    archived = encode_zip(maps, maps.figure_content(1), STYLE)
    (tmp_path / "class-maps.zip").write_bytes(archived)
    result = rebuild(tmp_path / "class-maps.zip", tmp_path / "again")
    assert result.equal
    with zipfile.ZipFile(io.BytesIO(archived)) as archive:
        assert archive.read("report.html") == (result.folder / "report.html").read_bytes()
