"""What images a folder, a glob, a CSV or tar shards hold, and in which order."""

import io
import json
import os
import pickle
import tarfile
from pathlib import Path

import fsspec
import numpy as np
import pytest
import webdataset
from PIL import Image
from tiny_photos import write_photos

from inspector.errors import ImageError
from inspector.images.photo import read_image
from inspector.images.sources import Item, hash_items, list_images, read_item


def jpeg(seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (10, 12, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def write_tar(file: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, mode) as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return file


def listed(*sources: str | Path) -> list[tuple[str, str | None]]:
    return [(item.path, item.label) for item in list_images(sources)]


# --- folders and globs


def test_a_folder_is_listed_by_path_and_labeled_by_its_first_level(tmp_path: Path) -> None:
    folder = write_photos(tmp_path / "photos", {"dog": 2, "cat/old": 1})
    Image.new("RGB", (4, 4)).save(folder / "alone.JPG", "JPEG")
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.png").write_bytes(b"")
    (folder / ".thumbnails").mkdir()
    (folder / ".thumbnails" / "00.png").write_bytes(b"")
    assert listed(folder) == [
        (f"{folder}/alone.JPG", None),
        (f"{folder}/cat/old/00.png", "cat"),
        (f"{folder}/dog/00.png", "dog"),
        (f"{folder}/dog/01.png", "dog"),
    ]


def test_linked_class_folders_are_read_and_a_link_to_a_folder_above_is_not_followed_without_end(tmp_path: Path) -> None:
    elsewhere = write_photos(tmp_path / "elsewhere", {"cat": 1})
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "kitten").symlink_to(elsewhere / "cat")
    (folder / "round").symlink_to(folder)
    assert listed(folder) == [(f"{folder}/kitten/00.png", "kitten")]


def test_a_glob_is_sorted_and_has_no_labels(tmp_path: Path) -> None:
    folder = write_photos(tmp_path / "photos", {"dog": 1, "cat": 1})
    (folder / "cat" / "00.txt").write_text("no image")
    assert listed(f"{folder}/*/*") == [(f"{folder}/cat/00.png", None), (f"{folder}/dog/00.png", None)]
    assert listed(f"{folder}/**/*.png") == listed(f"{folder}/*/*")


def test_several_sources_follow_each_other_as_they_were_named(tmp_path: Path) -> None:
    folder = write_photos(tmp_path / "photos", {"dog": 1, "cat": 1})
    assert listed(folder / "dog" / "00.png", folder / "cat") == [
        (f"{folder}/dog/00.png", None),
        (f"{folder}/cat/00.png", None),
    ]


@pytest.mark.skipif(os.name == "nt", reason="names are Unicode there")
def test_a_name_that_is_not_utf8_is_listed_with_escapes(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    try:
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    except OSError:
        pytest.skip("This file system takes no such name.")
    (item,) = list_images(tmp_path)
    assert item.path == f"{tmp_path}/caf\\udce9.png"
    assert read_item(item).size == (4, 4)


# --- lists


def test_a_csv_names_files_beside_it_and_their_labels(tmp_path: Path) -> None:
    file = tmp_path / "list.csv"
    file.write_text('label,path\ncat,"a, b.jpg"\n,/far/b.png\n', encoding="utf-8-sig")
    assert listed(file) == [(f"{tmp_path}/a, b.jpg", "cat"), ("/far/b.png", None)]


@pytest.mark.parametrize("text", ["a.jpg\nb.jpg\n", "file,size\na.jpg,3\nb.jpg,4\n"], ids=["bare", "header"])
def test_without_a_column_path_the_first_is_taken(tmp_path: Path, text: str) -> None:
    file = tmp_path / "list.csv"
    file.write_text(text)
    assert listed(file) == [(f"{tmp_path}/a.jpg", None), (f"{tmp_path}/b.jpg", None)]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"label,path\ncat,\n", r"Row 2 of .*list.csv names no file\. Expected a path in column 2\."),
        (b"path\n\xff\xfe\n", r"The list .*list.csv cannot be read: 'utf-8' codec"),
        (b"", "No images in .*list.csv\\. Expected files that end in .jpg, "),
        (b"path,label\n", "No images in .*list.csv\\. Expected files that end in .jpg, "),
    ],
    ids=["no path", "no text", "empty", "header only"],
)
def test_a_broken_list_is_refused(tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / "list.csv").write_bytes(content)
    with pytest.raises(ImageError, match=sentence):
        list_images(tmp_path / "list.csv")


def test_a_source_that_does_not_exist_is_refused_with_what_to_use(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"No images at nowhere\. Use a folder, a glob in quotes "):
        list_images("nowhere")
    with pytest.raises(ImageError, match=r"The list .*no.csv cannot be read: .*No such file"):
        list_images(tmp_path / "no.csv")
    with pytest.raises(ImageError, match=r"The shard .*no.tar cannot be read as an uncompressed tar: .*No such file"):
        list_images(tmp_path / "no.tar")
    with pytest.raises(ImageError, match=r"No images in .*\. Expected files that end in .jpg"):
        list_images(tmp_path)


# --- tar shards


def test_a_tar_gives_its_images_in_its_order_with_their_labels(tmp_path: Path) -> None:
    tar = write_tar(
        tmp_path / "a.tar",
        {
            "z/1.jpg": jpeg(1),
            "z/1.cls": b"7\n",
            "z/1.txt": b"a caption",
            "2.json": json.dumps({"label": "cat", "width": 3}).encode(),
            "2.seg.jpg": jpeg(2),
            "3.jpg": jpeg(3),
            "3.txt": b"tench, Tinca\nmore",
            "4.jpg": jpeg(4),
            "4.json": b"{broken",
            "5.jpg": jpeg(5),
        },
    )
    labels = ["7", "cat", "tench, Tinca", None, None]
    names = ["z/1.jpg", "2.seg.jpg", "3.jpg", "4.jpg", "5.jpg"]
    items = list_images(tar)
    assert [(item.path, item.label) for item in items] == [
        (f"{tar}/{name}", label) for name, label in zip(names, labels, strict=True)
    ]
    for seed, item in enumerate(items, 1):
        photo = read_item(item)
        assert photo.sha256 == read_image(jpeg(seed)).sha256
        assert photo.name == names[seed - 1].rsplit("/", 1)[-1]


class Harm:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("harm",)


def test_a_pickle_in_a_tar_is_never_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    bad = pickle.dumps(Harm())
    members = {"1.jpg": jpeg(), "1.pyd": bad, "1.pickle": bad, "1.cls": bad, "2.jpg": bad}
    items = list_images(write_tar(tmp_path / "a.tar", members))
    with pytest.raises(ImageError, match="is not an image"):
        read_item(items[1])
    assert not (tmp_path / "harm").exists()


def test_braces_and_globs_name_many_tars(tmp_path: Path) -> None:
    for number in range(8, 12):
        write_tar(tmp_path / f"s-{number:03}.tar", {f"{number}.jpg": jpeg(number)})

    def names(pattern: str) -> list[str]:
        return [path.rsplit("/", 1)[-1] for path, _ in listed(f"{tmp_path}/{pattern}")]

    assert names("s-{008..011}.tar") == ["8.jpg", "9.jpg", "10.jpg", "11.jpg"]
    assert names("s-{011,009}.tar") == ["11.jpg", "9.jpg"]
    assert names("s-*.tar") == ["8.jpg", "9.jpg", "10.jpg", "11.jpg"]


@pytest.mark.parametrize("kind", ["cut off", "compressed", "no tar"])
def test_a_broken_or_compressed_tar_is_refused_before_any_image_is_read(tmp_path: Path, kind: str) -> None:
    tar = write_tar(tmp_path / "a.tar", {"1.jpg": jpeg(), "2.jpg": jpeg()}, "w:gz" if kind == "compressed" else "w")
    if kind == "cut off":
        tar.write_bytes(tar.read_bytes()[:700])
    if kind == "no tar":
        tar.write_bytes(b"no tar" * 500)
    with pytest.raises(ImageError, match=r"The shard .*a.tar cannot be read as an uncompressed tar: "):
        list_images(tar)


def test_shards_that_webdataset_wrote_are_read(tmp_path: Path) -> None:
    with webdataset.TarWriter(str(tmp_path / "a.tar")) as writer:
        for number in range(3):
            writer.write({"__key__": f"n/{number}", "jpg": jpeg(number), "cls": number, "json": {"label": "no"}})
    assert listed(tmp_path / "a.tar") == [(f"{tmp_path}/a.tar/n/{n}.jpg", str(n)) for n in range(3)]


# --- reading


def test_lists_and_tars_may_be_remote(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", {"1.jpg": jpeg(1), "1.cls": b"3"})
    system = fsspec.filesystem("memory")
    system.pipe_file("/sources/a.tar", tar.read_bytes())
    system.pipe_file("/sources/b.jpg", jpeg(2))
    system.pipe_file("/sources/list.csv", b"path,label\nb.jpg,cat\nmemory://sources/no.jpg,\n")
    items = list_images(["memory://sources/a.tar", "memory://sources/list.csv"])
    assert [(item.path, item.label) for item in items] == [
        ("memory://sources/a.tar/1.jpg", "3"),
        ("memory://sources/b.jpg", "cat"),
        ("memory://sources/no.jpg", None),
    ]
    assert read_item(items[0]).sha256 == read_image(jpeg(1)).sha256
    assert read_item(items[1]).sha256 == read_image(jpeg(2)).sha256
    with pytest.raises(ImageError, match=r"Cannot read memory://sources/no.jpg: "):
        read_item(items[2])


def test_an_error_names_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"Cannot read .*no.jpg: No such file or directory."):
        read_item(Item("no.jpg", None, str(tmp_path / "no.jpg")))
    with pytest.raises(ImageError, match=r"Cannot read a.tar/1.jpg: .*No such file"):
        read_item(Item("a.tar/1.jpg", None, str(tmp_path / "a.tar"), 512, 10))
    with pytest.raises(ImageError, match=r"1.jpg has 60 MB; at most 50 MB are read."):
        read_item(Item("a.tar/1.jpg", None, str(tmp_path / "a.tar"), 512, 60_000_000))


def test_the_hash_depends_on_order_labels_and_positions() -> None:
    a, b = Item("a.jpg", None, "a.jpg"), Item("b.jpg", "cat", "b.jpg")
    lists = [[a, b], [b, a], [a], [a, Item("b.jpg", "dog", "b.jpg")], [a, Item("b.jpg", "cat", "b.jpg", 5)]]
    assert len({hash_items(items) for items in lists}) == len(lists)
    assert hash_items([a, b]) == hash_items(copied([a, b]))


def copied(items: list[Item]) -> list[Item]:
    return [Item(item.path, item.label, item.file, item.start, item.length) for item in items]
