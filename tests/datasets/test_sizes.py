"""The accuracy at several input sizes, measured on labeled photos."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import nn

from inspector.datasets.sizes import label_items, list_usual_sizes, measure_sizes
from inspector.errors import InspectorError
from inspector.explain.classifier import Classifier
from inspector.images.photo import read_image
from inspector.images.sources import list_images


@pytest.fixture
def classifier() -> Classifier:
    """Tell red photos from green ones: the logits are the mean red and the mean green."""
    body = nn.Conv2d(3, 2, 1, bias=False)
    body.weight.data[:] = 0
    body.weight.data[0, 0] = body.weight.data[1, 1] = 1
    network = nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Classifier.wrap(network, class_names=("red", "green"), size=8, resize=8, mean=[0] * 3, std=[1] * 3)


def make_photo(center: int, borders: int) -> np.ndarray:
    """Make a photo of 16 x 48 pixels whose middle third has another color than the rest: channel 0, 1 or 2."""
    pixels = np.zeros((16, 48, 3), np.uint8)
    pixels[..., borders] = 200
    pixels[:, 16:32] = 0
    pixels[:, 16:32, center] = 255
    return pixels


def test_sizes_are_compared_photo_by_photo(classifier: Classifier) -> None:
    # The crop sees the middle only, the whole photo mostly the borders.
    photos = [(0, 0, 0), (0, 1, 0), (0, 1, 1), (1, 0, 0), (0, 1, 0)]
    labeled = [(read_image(make_photo(center, borders)), label) for center, borders, label in photos]
    result = measure_sizes(classifier, labeled, ["8", "whole:8", "8x16", "native"], "five photos")
    assert (result.accuracies.photos, result.accuracies.trained, result.accuracies.data) == (5, "8", "five photos")
    counts = {size: (one.right, one.gained, one.lost) for size, one in result.accuracies.sizes.items()}
    assert counts["8"] == (3, 0, 0)
    assert counts["whole:8"] == counts["native"] == (3, 2, 2)
    assert [one.grid for one in result.measured] == [(8, 8), (8, 24), (8, 16), (16, 48)]
    assert all(one.milliseconds > 0 for one in result.measured)
    assert (result.refused, result.unreadable) == ({}, 0)


def test_a_size_that_the_network_does_not_take_is_named_with_the_reason() -> None:
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))

    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, images):  # type: ignore[no-untyped-def]
            return self.network(images.reshape(-1, 3, 8, 8))

    fixed = Classifier.wrap(Fixed(), class_names=("a", "b"), size=8)
    result = measure_sizes(fixed, [(read_image(make_photo(0, 0)), 0)], ["8", "whole:10"], "one photo")
    assert list(result.accuracies.sizes) == ["8"]
    assert result.refused["whole:10"].startswith("The network cannot run on an input of shape (1, 3, 10, 30)")


def test_photos_without_a_class_and_broken_ones_are_left_out(classifier: Classifier, tmp_path: Path) -> None:
    for name in ("red/a.png", "red/b.png", "blue/c.png", "d.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(make_photo(0, 0)).save(tmp_path / name)
    (tmp_path / "red" / "b.png").write_bytes(b"no image")
    labeled = label_items(classifier, list_images(tmp_path), "the folder")
    assert [(Path(item.path).name, k) for item, k in labeled] == [("a.png", 0), ("b.png", 0)]
    done = []
    result = measure_sizes(classifier, labeled, ["8", "16"], "", lambda: done.append(1))
    assert (result.accuracies.photos, result.unreadable, len(done)) == (1, 1, 2)
    with pytest.raises(InspectorError, match=r"^None of the 1 photos can be used\. The first: .*b\.png"):
        measure_sizes(classifier, labeled[1:], ["8"], "")


def test_labels_that_are_no_classes_are_named(classifier: Classifier, tmp_path: Path) -> None:
    (tmp_path / "blue").mkdir()
    Image.fromarray(make_photo(0, 0)).save(tmp_path / "blue" / "c.png")
    message = r"^No label in blues is a class of .*: the labels are blue; the classes are red, green\. Labels are"
    with pytest.raises(InspectorError, match=message):
        label_items(classifier, list_images(tmp_path), "blues")
    with pytest.raises(InspectorError, match=r"^The photos in blues have no labels\. Use a folder with one folder per"):
        label_items(classifier, list_images(tmp_path / "blue"), "blues")


def test_the_usual_sizes_begin_with_that_of_the_training() -> None:
    whole = ["whole:224", "whole:256", "whole:288", "whole:320", "whole:448"]
    assert list_usual_sizes((224, 224)) == ["224", "256", "288", "320", "448", *whole, "native"]
    assert list_usual_sizes((64, 128))[0] == "64x128"
