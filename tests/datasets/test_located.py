"""Boxes of many photos: classes, thresholds, and a stopped search that continues."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import inspector
from inspector.analysis.annotations import read_annotations
from inspector.datasets import located
from inspector.datasets.localize import LocalizeOptions, list_photos, localize
from inspector.datasets.located import BoxOptions, PassOptions, find_boxes, name_files
from inspector.errors import ClassError, ExportError, LocalizationError
from inspector.images.sources import Item, list_images
from inspector.output.box_files import decode_runs

NAMES = ("red", "green", "neither")
RED, GREEN = (255, 0, 0), (0, 255, 0)


@pytest.fixture
def classifier(hand_made_gap) -> inspector.Classifier:
    return inspector.Classifier.wrap(hand_made_gap, NAMES, size=8, mean=(0.0,) * 3, std=(1.0,) * 3, resize="squeeze")


@pytest.fixture
def photos(tmp_path):
    """A red corner, a green corner, both, and a file that is no photo: in the folders red, green and mixed."""
    for name, red, green in (("red/a", True, False), ("green/b", False, True), ("mixed/c", True, True)):
        pixels = np.zeros((16, 16, 3), np.uint8)
        if red:
            pixels[:4, :4] = RED
        if green:
            pixels[4:, 4:] = GREEN
        path = tmp_path / f"photos/{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    (tmp_path / "photos/mixed/d.png").write_bytes(b"no photo")
    return tmp_path / "photos"


TOP1, TWO_AT_ONCE = BoxOptions(), PassOptions(batch_size=2, workers=1)


def search(photos, classifier, options=TOP1, how=TWO_AT_ONCE, format="coco", **more):
    items = list_images(photos)
    return find_boxes(items, classifier, options, how, format, name_files(items, photos), **more)


def test_the_top_1_class_of_each_photo_has_boxes_and_broken_photos_are_counted(photos, classifier):
    found, about, counts = search(photos, classifier)
    assert [photo.file for photo in found] == ["green/b.png", "mixed/c.png", "mixed/d.png", "red/a.png"]
    assert [[one.k for one in photo.objects] for photo in found] == [[1], [1], [], [0]]
    green = found[0].objects[0]
    left, top, right, bottom = green.box
    assert left in (3, 4)
    assert (right, bottom) == (16, 16)
    assert green.area == decode_runs(green.runs, (16, 16)).sum() <= (right - left) * (bottom - top)
    assert (counts.photos, counts.unreadable, counts.boxes, counts.without) == (4, 1, 3, 0)
    assert counts.worst_verdict == "exact"
    assert about["classes"] == "top-1"


def test_chosen_classes_are_looked_for_on_every_photo(photos, classifier):
    found, about, counts = search(photos, classifier, BoxOptions(("red", 1), largest_only=True), format="csv")
    assert [[one.k for one in photo.objects] for photo in found] == [[1], [0, 1], [], [0]]
    assert set(found[0].probabilities) == {0, 1}
    assert found[0].objects[0].runs == ()  # a CSV has no masks
    assert about["classes"] == ["red", "green"]
    assert counts.without == 0


def test_a_threshold_in_logits_leaves_photos_without_a_box(photos, classifier):
    _, _, counts = search(photos, classifier, BoxOptions(("red",), threshold=0.01, unit="logits"))
    assert (counts.boxes, counts.without) == (2, 1)


def test_whole_photos_are_located_one_by_one(photos, classifier):
    found, about, _ = search(photos, classifier, how=PassOptions(size="whole"))
    assert [[one.k for one in photo.objects] for photo in found] == [[1], [1], [], [0]]
    assert about["size"] == "whole"


@pytest.fixture
def strided() -> inspector.Classifier:
    """Return a classifier whose cells are single pixels, every second one of a row and column."""
    layer = torch.nn.Conv2d(3, 3, 1, stride=2, bias=False)
    layer.weight.data = torch.eye(3)[..., None, None]
    network = torch.nn.Sequential(layer, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 3))
    network[-1].weight.data, network[-1].bias.data = torch.eye(3), torch.zeros(3)
    return inspector.Classifier.wrap(network.eval(), NAMES, size=16, mean=(0.0,) * 3, std=(1.0,) * 3, resize="squeeze")


@pytest.mark.parametrize("size", [None, "whole"])
def test_finer_maps_have_the_boxes_of_class_maps_of_the_same_grid(photos, strided, size):
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:3, :3] = RED
    Image.fromarray(pixels).save(photos / "red/a.png")
    maps = inspector.class_maps(strided, photos / "red/a.png", size, finer=2)
    found, about, _ = search(photos, strided, BoxOptions(("red",)), PassOptions(size=size, finer=2))
    location, own = (inspector.locate_class(one, "red") for one in (maps, replace(maps, finer=None)))
    assert [one.box for one in found[3].objects] == [region.box for region in location.regions]
    assert [region.box for region in location.regions] != [region.box for region in own.regions]
    assert about["finer"] == 2
    assert about["fed"].endswith("on a grid 2 times as fine as the network's own")


def test_a_class_that_does_not_exist_is_refused_before_anything_runs(photos, classifier, monkeypatch):
    monkeypatch.setattr(located, "map_photos", None)
    with pytest.raises(ClassError, match="No class 'blue'"):
        search(photos, classifier, BoxOptions(("blue",)))
    with pytest.raises(ClassError, match="No class 'blue'"):
        search(photos, classifier, BoxOptions(against="blue"))


class Stop(Exception):
    """In place of Ctrl-C."""


def test_a_stopped_search_continues_without_computing_a_photo_again(photos, classifier, tmp_path, monkeypatch):
    partial, expected = tmp_path / ".out", search(photos, classifier)

    def stop(done, photos):
        if done == 2:
            raise Stop

    with pytest.raises(Stop):
        search(photos, classifier, partial=partial, on_progress=stop)
    text = partial.read_text()
    partial.write_text(text + '{"index": 3, "fi')  # killed while it wrote the next line
    asked = []
    original = located.map_photos
    monkeypatch.setattr(located, "map_photos", lambda missing, *more: asked.extend(missing) or original(missing, *more))
    found = search(photos, classifier, partial=partial, resume=True)
    assert [index for index, _ in asked] == [2, 3]
    assert found == expected


def test_a_search_with_other_options_does_not_continue(photos, classifier, tmp_path):
    partial = tmp_path / ".out"
    search(photos, classifier, partial=partial)
    with pytest.raises(ExportError, match=r"differs in threshold\. Use --resume with the command that began it"):
        search(photos, classifier, BoxOptions(threshold=0.5), partial=partial, resume=True)
    partial.write_text("{}[")
    with pytest.raises(ExportError, match=r"Cannot read .* Use --overwrite to begin again"):
        search(photos, classifier, partial=partial, resume=True)


def test_files_are_named_below_the_folder_of_all_photos():
    items = [Item(path, None, path) for path in ("p/cats/a.jpg", "p/cats/deep/b.jpg")]
    assert name_files(items) == ["a.jpg", "deep/b.jpg"]
    assert name_files(items, "p") == ["cats/a.jpg", "cats/deep/b.jpg"]
    items = [Item(path, None, path) for path in ("/x/a.jpg", "https://host/shard.tar/c.jpg", "../d.jpg")]
    assert name_files(items) == ["x/a.jpg", "host/shard.tar/c.jpg", "d.jpg"]


# Localization


@pytest.fixture
def objects(tmp_path):
    path = tmp_path / "boxes.csv"
    lines = ["file,class,x1,y1,x2,y2", "red/a.png,red,0,0,4,4", "green/b.png,green,4,4,16,16"]
    lines += ["mixed/c.png,red,0,0,4,4", "mixed/c.png,leaf,4,4,16,16"]
    path.write_text("\n".join(lines))
    return path


def measure(photos, objects, classifier, **options):
    items = list_photos(photos, objects)
    wanted = LocalizeOptions(**{"tune": 0} | options)
    return localize(photos, items, read_annotations(objects), classifier, wanted, PassOptions(workers=1))


def test_every_class_is_measured_on_every_photo(photos, objects, classifier):
    result = measure(photos, objects, classifier, aliases={"leaf": "green"})
    assert [(one.name, one.photos, one.empty) for one in result.scores] == [
        ("green", 1, 2), ("leaf", 1, 2), ("red", 2, 1), ("all", 4, 5),
    ]  # fmt: skip
    overall = result.scores[-1].scores
    assert overall["pointing"].value == 1
    assert overall["max_box_acc_v2"].value > 0.6
    assert "px_ap" not in overall  # there are no outlines
    assert (result.photos, result.unreadable, result.worst_verdict) == (4, 1, "exact")


def test_the_top_1_class_is_measured_against_all_objects(photos, objects, classifier):
    result = measure(photos, objects, classifier, k="top1")
    assert [(one.name, one.photos) for one in result.scores] == [("green", 1), ("mixed", 1), ("red", 1), ("all", 3)]
    assert result.scores[-1].scores["pointing"].value == 1


def test_finer_maps_are_measured(photos, objects, strided):
    items, annotations = list_photos(photos, objects), read_annotations(objects)
    (own, finer) = (
        localize(photos, items, annotations, strided, LocalizeOptions("top1"), PassOptions(finer=factor))
        for factor in (1, 2)
    )
    scores = [one.scores[-1].scores["energy"].value for one in (own, finer)]
    assert scores[1] != scores[0]


def test_tuned_thresholds_are_reported(photos, objects, classifier):
    result = measure(photos, objects, classifier, k="top1", tune=0.5, seed=1)
    assert result.tuning_photos + result.scores[-1].photos + result.scores[-1].empty >= 3


def test_a_class_of_the_objects_that_the_network_lacks_is_refused_with_the_way_out(photos, objects, classifier):
    with pytest.raises(ClassError, match=r"No class 'leaf'.* Use --alias 'leaf=CLASS OF THE NETWORK', or --class top1"):
        measure(photos, objects, classifier)
    with pytest.raises(ClassError, match="No class 'blue'"):
        measure(photos, objects, classifier, k="blue")


def test_objects_of_other_photos_are_refused(photos, objects, classifier):
    objects.write_text("file,x1,y1,x2,y2\nother.png,0,0,4,4\n")
    with pytest.raises(LocalizationError, match=r"No object .* such as green/b.png"):
        measure(photos, objects, classifier)


def test_masks_among_the_photos_are_no_photos(photos, classifier):
    mask = np.zeros((16, 16), np.uint8)
    mask[:4, :4] = 1
    (photos / "masks/red").mkdir(parents=True)
    Image.fromarray(mask).save(photos / "masks/red/a.png")
    result = measure(photos, photos / "masks", classifier)
    assert result.photos == 4
    assert result.scores[-1].scores["px_ap"].value > 0.8
    assert result.scores[-1].empty == 2
