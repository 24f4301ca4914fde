"""The photos with the highest activations of each channel, found one photo at a time, and kept in a file."""

from pathlib import Path

import numpy as np
import pytest
from tiny_photos import copy_examples

from inspector import class_maps, load
from inspector.analysis.top_activations import (
    compute_top_activations,
    name_file,
    read_top_activations,
    write_top_activations,
)
from inspector.errors import Cancelled
from inspector.images.sources import list_images


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return copy_examples(tmp_path / "photos")


def test_each_channel_has_its_highest_photos_and_the_place_of_their_strongest_cell(photos: Path) -> None:
    classifier, items = load("fashion_gap"), list_images(photos)
    done: list[float] = []
    found = compute_top_activations(items, classifier, 3, done.append)
    assert done[-1] == 1
    assert len(done) == len(items) == 11
    assert [message.startswith("broken.png is not an image") for message in found.skipped] == [True]
    readable = [n for n, item in enumerate(items) if "broken" not in item.path]
    maps = {n: class_maps(classifier, items[n].file) for n in readable}
    for channel in (0, 5):
        highest = {n: float(maps[n].feature_maps[channel].max()) for n in readable}
        expected = sorted(readable, key=lambda n: -highest[n])[:3]
        np.testing.assert_allclose(found.values[channel], [highest[n] for n in expected], rtol=1e-5)
        assert found.which[channel].tolist() == expected
        row, column = np.unravel_index(int(maps[expected[0]].feature_maps[channel].argmax()), (3, 3))
        left, top, right, bottom = found.fields[channel, 0]
        field, scale = classifier.receptive_field, 28 / classifier.preprocessing.size[0]
        assert left <= scale * (field.x.centre + column * field.x.stride) <= right
        assert top <= scale * (field.y.centre + row * field.y.stride) <= bottom


def test_they_are_kept_until_a_photo_changes(photos: Path, tmp_path: Path) -> None:
    classifier, items = load("fashion_gap"), list_images(photos)
    path = name_file(tmp_path / "kept", classifier, items)
    assert read_top_activations(path) is None
    found = compute_top_activations(items[:2], classifier, 2)
    write_top_activations(path, found)
    again = read_top_activations(path)
    assert again is not None
    assert (again.photos, again.skipped) == (found.photos, found.skipped)
    for name in ("values", "which", "fields", "cells"):
        np.testing.assert_array_equal(getattr(again, name), getattr(found, name))
    assert name_file(tmp_path / "kept", classifier, list_images(photos)) == path
    assert name_file(tmp_path / "kept", load("fashion_gmp"), items) != path
    (photos / "bag.png").write_bytes((photos / "coat.png").read_bytes())
    assert name_file(tmp_path / "kept", classifier, items) != path
    path.write_bytes(b"broken")
    assert read_top_activations(path) is None


def test_photos_that_cannot_be_read_leave_nothing_and_a_stop_ends_the_work(photos: Path) -> None:
    classifier = load("fashion_gap")
    broken = [item for item in list_images(photos) if "broken" in item.path]
    assert compute_top_activations(broken, classifier).values.size == 0
    with pytest.raises(Cancelled):
        compute_top_activations(list_images(photos), classifier, should_stop=lambda: True)
