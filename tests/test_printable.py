"""Foreign text is safe to print, to draw and to write, and what is printable stays as it is."""

import json
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from torch import nn

import inspector
from inspector.images.sources import list_images
from inspector.output.export import make_file
from inspector.output.style import FigureStyle
from inspector.printable import make_printable


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tabby", "tabby"),
        ("Überraschung, 猫, قطة, 👩‍👧, می‌خواهم, [red], =1", "Überraschung, 猫, قطة, 👩‍👧, می‌خواهم, [red], =1"),
        ("a\nb\tc\r\nd\u2028e\x85f", "a b c  d e f"),
        ("nul\0", "nul\\x00"),
        ("\x1b[31mred\x1b]0;title\x07", "\\x1b[31mred\\x1b]0;title\\x07"),
        ("\x9b31m", "\\x9b31m"),
        ("half \ud800 of a pair", "half \\ud800 of a pair"),
        ("byte \udcff of a path", "byte \\udcff of a path"),
        ("turned \u202egpj.exe", "turned \\u202egpj.exe"),
        ("\ufffe\uffff", "\\ufffe\\uffff"),
        ("", ""),
    ],
)
def test_unprintable_characters_are_escaped_and_others_stay(text: str, expected: str) -> None:
    assert make_printable(text) == expected
    assert make_printable(expected) == expected


def test_every_result_can_be_written_as_utf_8_and_as_xml() -> None:
    everything = "".join(map(chr, range(sys.maxunicode + 1))).replace("&", "").replace("<", "")
    clean = make_printable(everything)
    assert ElementTree.fromstring(f"<a>{clean}</a>".encode()).text == clean
    assert not set(clean) & set("\0\x1b\n\x9b\ud800")


def test_a_long_text_is_shortened_to_its_length() -> None:
    assert make_printable("a" * 100, 10) == "a" * 7 + "..."
    assert make_printable("a" * 10, 10) == "a" * 10
    assert len(make_printable("\0" * 1000, 30)) == 30


def test_names_of_classes_and_networks_are_cleaned_where_they_enter(hand_made_gap: nn.Module) -> None:
    names = ["two\nlines", "esc\x1b[2J", "half \udfff"]
    classifier = inspector.Classifier.wrap(hand_made_gap, class_names=names, size=8, name="bell\a")
    assert classifier.class_names == ("two lines", "esc\\x1b[2J", "half \\udfff")
    assert classifier.name == "bell\\x07"


def test_labels_are_cleaned_where_they_enter(tmp_path: Path) -> None:
    folder = tmp_path / "photos" / "esc\x1b[2J"
    folder.mkdir(parents=True)
    (folder / "a.jpg").write_bytes(b"")
    assert [item.label for item in list_images(tmp_path / "photos")] == ["esc\\x1b[2J"]
    (tmp_path / "list.csv").write_text('path,label\na.jpg,"two\nlines"\n')
    assert [item.label for item in list_images(tmp_path / "list.csv")] == ["two lines"]


@pytest.mark.parametrize("label", ["\ud800", "nul\0", "esc\x1b"])
@pytest.mark.parametrize("ending", ["json", "txt", "cls"])
def test_labels_in_a_tar_are_cleaned_where_they_enter(tmp_path: Path, label: str, ending: str) -> None:
    import io
    import tarfile

    text = json.dumps({"label": label}) if ending == "json" else label
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for name, content in (("a.jpg", b""), (f"a.{ending}", text.encode("utf-8", "surrogatepass"))):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    (item,) = list_images(tmp_path / "shard.tar")
    assert item.label is not None
    assert item.label == make_printable(item.label)


def test_figures_of_strange_names_are_valid_xml(tmp_path: Path, hand_made_gap: nn.Module) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    photo = tmp_path / "esc\x1b[2J.png"
    Image.fromarray(pixels).save(photo, "PNG")
    classifier = inspector.Classifier.wrap(
        hand_made_gap, class_names=["nul\0", "half \ud800", "<b>&\x1b"], size=8, name="bell\a"
    )
    maps = inspector.class_maps(classifier, photo)
    assert maps.view.photo.name == "esc\\x1b[2J.png"
    for style in (FigureStyle(), FigureStyle(("photo", "classes", "contrast", "all"), title="two\nlines\0 \ud800")):
        figure = make_file("figure.svg", maps, maps.figure_content(), style)
        assert ElementTree.fromstring(figure).tag.endswith("svg")
        make_file("report.html", maps, maps.figure_content(), style).decode()
