"""Folders of photos: read, skipped, split, described."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_photos import write_photos

from inspector.errors import TrainingError
from inspector.images.preprocessing import Preprocessing
from inspector.training import data
from inspector.training.data import DataSet, Images, read_photos

CPU = torch.device("cpu")
PLAIN = Preprocessing((16, 16), (0.5, 0.25, 0.0), (0.5, 0.25, 1.0), (18, 18))


def read(folder: Path) -> DataSet:
    return read_photos(folder, PLAIN, CPU)


def all_files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*.png")}


def test_photos_come_as_the_network_sees_them_with_their_folder_s_class(tmp_path: Path) -> None:
    for name, colour in (("left", (255, 0, 0)), ("right, too", (0, 51, 0))):
        (tmp_path / name).mkdir()
        for number in range(2):
            Image.new("RGB", (40, 20), colour).save(tmp_path / name / f"{number}.png")
    data = read(tmp_path)
    assert data.classes == ("left", "right, too")
    assert (len(data.training), len(data.test)) == (2, 2)
    assert data.test.labels.tolist() == [0, 1]
    assert [Path(file).parent.name for file in data.files] == ["left", "right, too"]
    inputs = data.test.inputs(slice(None))
    assert inputs.shape == (2, 3, 16, 16)
    # (1 - 0.5) / 0.5, (0 - 0.25) / 0.25, 0 / 1, and 51 is 0.2 of 255.
    torch.testing.assert_close(inputs[:, :, 3, 5], torch.tensor([[1, -1, 0], [-1, -0.2, 0]]))


def test_of_eight_photos_one_tests_and_seven_train_in_every_class(tmp_path: Path) -> None:
    data = read(write_photos(tmp_path, {"a": 24, "b": 8, "c": 2}))
    assert torch.bincount(data.training.labels).tolist() == [21, 7, 1]
    assert torch.bincount(data.test.labels).tolist() == [3, 1, 1]


def test_training_and_test_photos_are_all_and_none_is_both(tmp_path: Path) -> None:
    data = read(write_photos(tmp_path, {"a": 9, "b": 8}))
    photos = {file: np.asarray(Image.open(tmp_path / file)) for file in all_files(tmp_path)}
    # Of 18 x 20 the middle 16 x 16 are seen, unscaled.
    seen = {file: pixels[1:17, 2:18].tobytes() for file, pixels in photos.items()}
    tests = {one.permute(1, 2, 0).contiguous().numpy().tobytes() for one in data.test.pixels}
    training = {one.permute(1, 2, 0).contiguous().numpy().tobytes() for one in data.training.pixels}
    assert tests == {seen[file] for file in data.files}
    assert training == {seen[file] for file in photos.keys() - set(data.files)}
    assert len(tests) + len(training) == 17


def test_the_split_is_the_same_whatever_the_seed_and_leaves_the_random_numbers(tmp_path: Path) -> None:
    write_photos(tmp_path, {"a": 24, "b": 24})
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        found.append(read(tmp_path))
        assert torch.equal(torch.get_rng_state(), before)
    assert found[0].files == found[1].files
    assert found[0].digest == found[1].digest
    # By chance, and not the first of each class.
    assert set(found[0].files) != {f"{name}/0{number}.png" for name in "ab" for number in range(3)}


def test_a_photo_more_is_another_set(tmp_path: Path) -> None:
    write_photos(tmp_path, {"a": 8, "b": 8})
    before = read(tmp_path).digest
    shutil.copy(tmp_path / "a" / "00.png", tmp_path / "a" / "08.png")
    assert read(tmp_path).digest != before


def test_files_that_are_no_photos_are_skipped_and_reported_but_hidden_files_are_ignored(tmp_path: Path) -> None:
    write_photos(tmp_path, {"a": 4, "b": 4})
    whole = (tmp_path / "a" / "00.png").read_bytes()
    (tmp_path / "a" / "empty.jpg").write_bytes(b"")
    (tmp_path / "b" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "b" / "sub").mkdir()
    (tmp_path / "b" / "sub" / "notes.txt").write_text("not a photo")
    for hidden in ("a/.DS_Store", ".git/00.png", "b/.thumbnails/00.png"):
        (tmp_path / hidden).parent.mkdir(exist_ok=True)
        (tmp_path / hidden).write_bytes(whole)
    (tmp_path / "beside.png").write_bytes(whole)
    data = read(tmp_path)
    assert data.classes == ("a", "b")
    assert len(data.training) + len(data.test) == 8
    assert [sentence.partition(": ")[0] for sentence in data.skipped] == ["a/empty.jpg", "b/cut.png", "b/sub/notes.txt"]
    assert data.skipped[0] == "a/empty.jpg: empty.jpg is empty (0 bytes). Choose a photo, for example a JPEG or a PNG."


def test_photos_in_folders_within_a_class_folder_are_read(tmp_path: Path) -> None:
    write_photos(tmp_path / "a", {"deep": 2})
    write_photos(tmp_path, {"b": 2})
    data = read(tmp_path)
    assert data.classes == ("a", "b")
    assert data.files[0].startswith("a/deep/")


# Balance


def test_an_even_set_says_how_many_there_are_of_each(tmp_path: Path) -> None:
    data = read(write_photos(tmp_path, {"a": 8, "b": 8}))
    assert data.describe_balance() == "2 classes, 14 training and 2 test images: 7 and 1 of each class."


def test_an_uneven_set_says_what_it_is_worth_to_guess(tmp_path: Path) -> None:
    data = read(write_photos(tmp_path, {"a": 24, "b": 8}))
    # 3 of the 4 test photos are of class a.
    assert data.describe_balance() == (
        "2 classes, 28 training and 4 test images: from 7 (b) to 21 (a) training images per class. Always predicting a "
        "gives top-1 0.750."
    )


def test_test_images_alone_may_be_uneven(tmp_path: Path) -> None:
    # round(12 / 8) is 2 and round(11 / 8) is 1: 10 and 10 train.
    data = read(write_photos(tmp_path, {"a": 12, "b": 11}))
    assert "of each class" not in data.describe_balance()
    assert "20 training and 3 test images" in data.describe_balance()


# Refusals


def test_folders_that_hold_no_photos_of_classes_get_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"No folder .*nowhere\. Use a folder that has one folder"):
        read(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(TrainingError, match="empty holds no class folders"):
        read(tmp_path / "empty")
    (tmp_path / "empty" / ".hidden").mkdir()
    with pytest.raises(TrainingError, match=r"empty holds no class folders\. Use at least two folders"):
        read(tmp_path / "empty")
    with pytest.raises(TrainingError, match=r"one holds only one class folder, a\. Use at least two folders"):
        read(write_photos(tmp_path / "one", {"a": 3}))


def test_classes_with_too_few_photos_are_named(tmp_path: Path) -> None:
    write_photos(tmp_path, {"a": 3, "b": 1, "c": 0, "d": 2})
    (tmp_path / "b" / "broken.png").write_bytes(b"junk")
    with pytest.raises(TrainingError, match=r"Too few readable photos in .* for b, c: a class needs at least one tra"):
        read(tmp_path)


def test_photos_that_fill_the_memory_are_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # 4 photos of 3 * 16 * 16 bytes are 3072.
    write_photos(tmp_path, {"a": 2, "b": 2})
    monkeypatch.setattr(data, "MAX_MEMORY", 3072)
    assert len(read(tmp_path).test) == 2
    monkeypatch.setattr(data, "MAX_MEMORY", 3071)
    monkeypatch.setattr(data, "read_image", lambda path: pytest.fail("read"))
    with pytest.raises(TrainingError, match=r"The 4 photos in .* take 0 GB at 16x16, but at most 0 GB are kept"):
        read(tmp_path)


def test_images_in_memory_are_taken_as_they_are() -> None:
    images = Images(torch.arange(6.0).view(3, 1, 1, 2), torch.tensor([2, 0, 1]))
    assert len(images) == 3
    assert images.inputs(torch.tensor([2, 0])).flatten().tolist() == [4, 5, 0, 1]
