import csv
import hashlib
import io
import json
import os
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from inspector import Classifier, ExportError, FigureStyle, class_maps, class_maps_of_batch
from inspector.errors import InspectorError
from inspector.files import read_csv
from inspector.output.export import encode_numbers, encode_zip, make_file, save_class_maps
from inspector.output.figure_file import encode_figure
from inspector.output.manifest import encode_manifest, make_manifest
from inspector.output.reproduce import rebuild

FILES = (
    "figure.png", "figure.pdf", "figure.svg", "maps.npz", "logits.csv", "contributions.csv", "report.html", "photo.png",
    "manifest.json",
)  # fmt: skip


@pytest.fixture
def photo(tmp_path, pixels) -> Path:
    path = tmp_path / "photos" / "my photo.png"
    path.parent.mkdir()
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def maps(hand_made_gap, photo):
    names = ("red & <round>", "green", "neither")
    return class_maps(Classifier.wrap(hand_made_gap, names, size=(20, 30), name="by hand"), photo)


@pytest.fixture
def shown(maps):
    return maps.figure_content(["red", 1], "average", smooth=False, opacity=0.5)


def strict(text: str | bytes) -> dict:
    """JSON as everyone reads it: without NaN and Infinity."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.usefixtures("only_png")
def test_saving_writes_the_figure_the_numbers_and_a_manifest(maps, tmp_path):
    folder = maps.save(tmp_path / "new" / "export", classes=2)
    assert folder == tmp_path / "new" / "export"
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    assert [path.name for path in folder.parent.iterdir()] == ["export"]
    assert maps.save(str(tmp_path / "another"), classes=1) == tmp_path / "another"


def test_png_pdf_and_svg_have_their_formats(maps, shown):
    figure = maps.figure(2)
    with Image.open(io.BytesIO(encode_figure(figure, "png"))) as png:
        png.load()
        assert png.format == "PNG"
        assert min(png.size) > 300
    assert encode_figure(figure, "pdf").startswith(b"%PDF-")
    assert ElementTree.fromstring(encode_figure(figure, "svg")).tag == "{http://www.w3.org/2000/svg}svg"


def test_text_in_an_svg_stays_text(maps):
    root = ElementTree.fromstring(encode_figure(maps.figure(["red"]), "svg"))
    shown = [(element.text or "").strip() for element in root.iter("{http://www.w3.org/2000/svg}text")]
    name, probability = "red & <round>", f"{maps.probabilities[0]:.1%}"
    assert f"{name} ({probability})" in shown
    assert "my photo.png" in shown


@pytest.mark.parametrize("name", FILES)
def test_equal_exports_give_equal_bytes(maps, shown, name):
    assert make_file(name, maps, shown) == make_file(name, maps, shown)


def test_equal_exports_give_equal_archives_at_any_time(maps, shown, monkeypatch):
    first = encode_zip(maps, shown)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 100_000)
    assert encode_zip(maps, shown) == first


@pytest.mark.usefixtures("only_png")
def test_an_archive_holds_the_files_of_the_folder(maps, shown, tmp_path):
    folder = save_class_maps(maps, tmp_path / "export", shown)
    with zipfile.ZipFile(io.BytesIO(encode_zip(maps, shown))) as archive:
        assert archive.testzip() is None
        assert sorted(archive.namelist()) == sorted(FILES)
        assert all(archive.read(name) == (folder / name).read_bytes() for name in FILES)


@pytest.mark.usefixtures("only_png")
def test_the_numbers_come_back_and_sum_to_the_logits(maps, shown, tmp_path):
    folder = save_class_maps(maps, tmp_path / "export", shown)
    with np.load(folder / "maps.npz", allow_pickle=False) as numbers:
        values, bias, logits = numbers["values"], numbers["bias"], numbers["logits"]
        assert values.shape == (3, 20, 30)
        np.testing.assert_allclose(values.sum((1, 2)) + bias, logits, atol=1e-5)
        np.testing.assert_array_equal(values, maps.values.numpy())
        np.testing.assert_array_equal(logits, maps.logits.numpy())
        np.testing.assert_allclose(np.exp(logits) / np.exp(logits).sum(), numbers["probabilities"], rtol=1e-5)
        assert numbers["class_names"].tolist() == ["red & <round>", "green", "neither"]
        assert strict(str(numbers["manifest"])) == strict((folder / "manifest.json").read_bytes())


def test_the_manifest_names_the_photo_the_network_and_the_settings(maps, shown, photo):
    written = strict(encode_manifest(maps, shown))
    assert written["photo"]["sha256"] == hashlib.sha256(photo.read_bytes()).hexdigest()
    assert written["photo"]["name"] == "my photo.png"
    assert written["photo"]["size"] == [20, 30]
    assert written["photo"]["seen"] == [0, 0, 30, 20]
    assert written["network"] == {"name": "by hand", "sha256": maps.classifier.sha256(), "backend": "eager"}
    assert written["shown"] == {
        "classes": [0, 1],
        "against": "average",
        "dense": False,
        "smooth": False,
        "opacity": 0.5,
    }
    assert written["head"]["pooling"] == "average"
    assert (written["head"]["verdict"], written["head"]["residual"]) == ("exact", maps.residual)
    assert written["preprocessing"]["size"] == [20, 30]
    assert written["preprocessing"]["mean"] == pytest.approx([0.485, 0.456, 0.406])
    assert torch.__version__.startswith(written["versions"]["torch"].split("+")[0])
    assert [top["class"] for top in written["top"]] == [k for k, _, _ in maps.top(5)]


def test_the_manifest_changes_with_the_network_and_the_photo(maps, shown, hand_made_gap, pixels):
    before = make_manifest(maps, shown)
    with torch.no_grad():
        hand_made_gap.linear.weight[0, 0] += 1
    again = class_maps(Classifier.wrap(hand_made_gap, size=(20, 30)), pixels[::-1].copy())
    after = make_manifest(again, shown)
    assert before["network"]["sha256"] != after["network"]["sha256"]
    assert before["photo"]["sha256"] != after["photo"]["sha256"]


def test_the_manifest_of_a_network_that_sees_everything_is_still_json(pixels):
    class SeesEverything(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 2)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            maps = inputs * inputs.mean((2, 3), keepdim=True).sigmoid()
            return self.linear(maps.mean((2, 3)))

    torch.manual_seed(0)
    maps = class_maps(Classifier.wrap(SeesEverything().eval(), size=(20, 30)), pixels)
    assert maps.verdict == "exact"
    strict(encode_manifest(maps, maps.figure_content()))
    with np.load(io.BytesIO(encode_numbers(maps, maps.figure_content()))) as numbers:
        strict(str(numbers["manifest"]))


def test_a_figure_can_be_made_again_from_its_manifest(maps, shown, photo, hand_made_gap):
    written = strict(encode_manifest(maps, shown))
    how = written["preprocessing"]
    classifier = Classifier.wrap(
        hand_made_gap, maps.classifier.class_names, how["size"], how["mean"], how["std"], how["resize"],
        how["interpolation"], written["network"]["name"],
    )  # fmt: skip
    assert classifier.sha256() == written["network"]["sha256"]
    again = class_maps(classifier, photo)
    figure = again.figure(**written["shown"])
    assert encode_figure(figure, "png") == make_file("figure.png", maps, shown)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_that_is_not_empty_is_refused_and_left_alone(maps, tmp_path):
    folder = tmp_path / "full"
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(ExportError, match=r"full exists already and is not empty: nothing was written"):
        maps.save(folder)
    assert contents(tmp_path) == before


def test_a_file_in_the_way_is_refused_and_left_alone(maps, tmp_path):
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(ExportError, match=r"taken exists already and is not a folder: nothing was written"):
        maps.save(tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "mine"


@pytest.mark.usefixtures("only_png")
def test_an_empty_folder_is_filled(maps, tmp_path):
    folder = tmp_path / "empty"
    folder.mkdir()
    maps.save(folder, classes=1)
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)


FULL = r"^Cannot write .*export: No space left on device\. Nothing was left there\.$"


@pytest.mark.usefixtures("only_png")
@pytest.mark.parametrize(
    ("error", "expected", "message"),
    [(OSError(28, "No space left on device"), ExportError, FULL), (MemoryError("too much"), MemoryError, "too much")],
)
def test_a_failure_while_writing_leaves_nothing_half_written(maps, tmp_path, monkeypatch, error, expected, message):
    write_bytes = Path.write_bytes

    def fail(path: Path, data: bytes) -> int:
        if path.name == "maps.npz":
            write_bytes(path, data[:10])
            raise error
        return write_bytes(path, data)

    parent = tmp_path / "exports"
    parent.mkdir()
    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(expected, match=message):
        maps.save(parent / "export", classes=1)
    assert list(parent.iterdir()) == []


@pytest.mark.parametrize("name", ["a file/export", "x" * 300, "bad\0name"], ids=["below a file", "too long", "null"])
def test_a_place_that_cannot_be_written_is_reported(maps, tmp_path, name):
    (tmp_path / "a file").write_text("mine")
    with pytest.raises(ExportError, match=r"^Cannot write .*: .*Nothing was left there\.$"):
        maps.save(tmp_path / name, classes=1)
    assert (tmp_path / "a file").read_text() == "mine"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_forbidden_place_is_reported(maps, tmp_path):
    parent = tmp_path / "forbidden"
    parent.mkdir(mode=0o500)
    with pytest.raises(ExportError, match=r"^Cannot write .*: Permission denied\. Nothing was left there\.$"):
        maps.save(parent / "export")


def test_threads_that_export_at_once_get_what_one_gets_alone(maps):
    choices = [maps.figure_content([k]) for k in range(3)]
    alone = [make_file("figure.svg", maps, shown) for shown in choices]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda shown: make_file("figure.svg", maps, shown), choices * 2))
    assert together == alone * 2


# --- tables, the photo, and how the figure looks


def rows_of(data: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(data.decode())))


def test_the_table_of_logits_has_every_class_and_adds_up(maps, shown):
    rows = rows_of(make_file("logits.csv", maps, shown))
    assert [(row["index"], row["name"]) for row in rows] == [("0", "red & <round>"), ("1", "green"), ("2", "neither")]
    for k, row in enumerate(rows):
        assert float(row["map_sum"]) + float(row["bias"]) == pytest.approx(float(row["logit"]), abs=1e-5)
        assert np.float32(row["logit"]) == maps.logits[k].numpy(), "to the last bit"
        assert np.float32(row["probability"]) == maps.probabilities[k].numpy()


def test_the_table_of_contributions_is_the_maps_that_are_shown(maps):
    shown = maps.figure_content([2, 0], against="green")
    rows = rows_of(make_file("contributions.csv", maps, shown))
    assert len(rows) == 2 * 20 * 30
    assert list(dict.fromkeys(row["class"] for row in rows)) == ["neither against green", "red & <round> against green"]
    values = np.zeros((3, 20, 30), np.float32)
    for row in rows:
        values[int(row["index"]), int(row["y"]), int(row["x"])] = row["contribution"]
    np.testing.assert_array_equal(values[2], (maps.values[2] - maps.values[1]).numpy())
    np.testing.assert_array_equal(values[0], (maps.values[0] - maps.values[1]).numpy())


def test_names_with_commas_and_quotes_come_back_from_a_table(hand_made_gap, photo):
    names = ('a, "b"', "=c", ";")
    maps = class_maps(Classifier.wrap(hand_made_gap, names, size=(20, 30)), photo)
    table = make_file("logits.csv", maps, maps.figure_content()).decode()
    assert [row[1] for row in read_csv(io.StringIO(table, newline=""))] == ["name", *names]
    assert "\n1,'=c," in table, "a spreadsheet would run it"


def test_the_photo_is_written_pixel_by_pixel_and_without_metadata(hand_made_gap, pixels, tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "the garden behind our house"  # its description
    Image.fromarray(pixels).save(tmp_path / "garden.png", exif=exif)
    assert b"garden" in (tmp_path / "garden.png").read_bytes()
    maps = class_maps(Classifier.wrap(hand_made_gap, size=(20, 30)), tmp_path / "garden.png")
    written = make_file("photo.png", maps, maps.figure_content())
    assert b"garden" not in written
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(written))), pixels)


def test_one_picture_in_two_files_has_one_hash_of_its_pixels(maps, shown, hand_made_gap, pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "BMP")
    again = class_maps(Classifier.wrap(hand_made_gap, size=(20, 30)), buffer.getvalue())
    one, other = make_manifest(maps, shown)["photo"], make_manifest(again, shown)["photo"]
    assert one["sha256"] != other["sha256"]
    assert one["pixels_sha256"] == other["pixels_sha256"]
    # As many bytes in another shape are another picture.
    turned = class_maps(Classifier.wrap(hand_made_gap, size=(20, 30)), pixels.reshape(30, 20, 3))
    assert make_manifest(turned, shown)["photo"]["pixels_sha256"] != one["pixels_sha256"]


def test_the_manifest_says_how_the_figure_looks(maps, shown):
    style = FigureStyle(("photo", "contrast"), columns=2, width=3.5, dpi=300, colours="PuOr_r", title="Ours")
    written = strict(encode_manifest(maps, shown, style))
    assert written["style"]["panels"] == ["photo", "contrast"]
    assert FigureStyle(**written["style"] | {"panels": ("photo", "contrast")}) == style
    assert written["class_names"]["count"] == 3
    assert strict(encode_manifest(maps, shown))["style"] != written["style"]


def test_every_file_of_an_export_follows_the_style(maps, shown):
    style = FigureStyle(width=4, dpi=100, dark=True, title="")
    with zipfile.ZipFile(io.BytesIO(encode_zip(maps, shown, style))) as archive:
        with Image.open(io.BytesIO(archive.read("figure.png"))) as png:
            assert png.width == 400
            assert np.asarray(png.convert("L"))[0, 0] < 30, "a dark page"
        assert b"contribution of each" not in archive.read("figure.svg")
        assert b"color-scheme: dark" in archive.read("report.html")
        assert strict(archive.read("manifest.json"))["style"]["dark"] is True


def test_a_file_that_is_not_part_of_an_export_is_reported(maps, shown):
    with pytest.raises(ExportError, match=r"^No file 'maps\.csv' in an export\. Use one of figure\.png, "):
        make_file("maps.csv", maps, shown)


@pytest.mark.usefixtures("only_png")
def test_maps_of_a_tensor_are_written_and_their_manifest_names_no_photo(hand_made_gap, tmp_path):
    (maps,) = class_maps_of_batch(Classifier.wrap(hand_made_gap, size=2), torch.zeros(1, 3, 2, 2))
    folder = maps.save(tmp_path / "out")
    assert strict((folder / "manifest.json").read_bytes())["photo"] is None
    with pytest.raises(InspectorError, match="its input was a tensor, without a photo"):
        rebuild(folder / "manifest.json", tmp_path / "again")
