"""Results are kept up to a number of bytes, whatever their number."""

import io
import threading
import time
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pytest
import torch
from PIL import Image

from inspector import Classifier, class_maps
from inspector.images.photo import read_image
from inspector.ui.state import cache, sized_cache
from inspector.ui.state.sized_cache import KeptResults, SizedCache, find_memory


def array(size: int) -> np.ndarray:
    return np.zeros(size, np.uint8)


def bytes_of(value: object) -> int:
    return sum(dict(find_memory(value)).values())


@dataclass(frozen=True)
class Held:
    first: object
    second: object = None

    @cached_property
    def third(self) -> np.ndarray:
        return array(7)


def test_the_bytes_of_arrays_tensors_and_containers_are_counted_once():
    pixels, tensor = array(100), torch.zeros(10, dtype=torch.float32)
    assert bytes_of(pixels) == 100
    assert bytes_of([pixels, pixels[:10], pixels.reshape(10, 10).T]) == 100
    assert bytes_of({"a": tensor, "b": (tensor[2:], tensor.numpy().copy())}) == 80
    held = Held(pixels, [Held(tensor), b"12345"])
    assert bytes_of(held) == 145
    assert len(held.third) == 7
    assert bytes_of(held) == 152


def test_class_maps_are_counted_with_their_photo_and_without_their_network(hand_made_gap):
    photo = read_image(np.zeros((50, 40, 3), np.uint8))
    maps = class_maps(Classifier.wrap(hand_made_gap, size=8), photo)
    blocks = dict(find_memory(maps))
    assert blocks[id(photo.pixels)] == 6000
    weights = {("storage", tensor.untyped_storage().data_ptr()) for tensor in hand_made_gap.parameters()}
    assert not weights & blocks.keys()


def test_what_was_used_the_longest_time_ago_is_dropped_when_there_are_too_many_bytes():
    kept, computed = SizedCache(250), []

    def get(key: str, size: int = 100) -> None:
        kept.get(key, lambda: computed.append(key) or array(size))

    for key in ("a", "b", "a", "c", "a", "b"):
        get(key)
    assert computed == ["a", "b", "c", "b"]
    assert kept.size == 200
    get("large", 1000)
    assert kept.size == 1000
    get("large", 1000)
    assert computed[-1] == "large"
    get("a")
    assert kept.size == 100


def test_shared_memory_counts_until_the_last_value_that_holds_it_is_dropped():
    kept, photo = SizedCache(1000), array(600)
    for key in "abc":
        kept.get(key, lambda: Held(photo, array(10)))
    assert kept.size == 630
    kept.drop(lambda key: key != "c")
    assert kept.size == 610
    kept.drop(lambda key: True)
    assert kept.size == 0


def test_a_value_is_computed_once_for_all_threads_that_wait():
    kept, computed, results = SizedCache(1000), [], []

    def compute() -> np.ndarray:
        time.sleep(0.05)
        computed.append(1)
        return array(10)

    threads = [threading.Thread(target=lambda: results.append(kept.get("a", compute))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(computed) == 1
    assert all(result is results[0] for result in results)


def test_an_error_is_not_kept():
    kept, answers = SizedCache(1000), iter([ValueError("broken"), None])

    def compute() -> np.ndarray:
        if (error := next(answers)) is not None:
            raise error
        return array(3)

    with pytest.raises(ValueError, match="broken"):
        kept.get("a", compute)
    assert len(kept.get("a", compute)) == 3


def test_arguments_with_an_underscore_are_no_part_of_the_key(monkeypatch):
    monkeypatch.setattr(sized_cache, "_cache", SizedCache(1000))
    called = []

    def square(number: int, _label: str = "") -> int:
        called.append(_label)
        return number * number

    kept = KeptResults(square, lambda key, cache: None)
    assert [kept(3, "a"), kept(number=3, _label="b"), kept(4, _label="c")] == [9, 9, 16]
    assert called == ["a", "c"]
    kept.clear()
    assert kept(3, "d") == 9
    assert called[-1] == "d"


def test_uploads_and_results_of_private_networks_are_dropped_with_their_session(monkeypatch):
    dropped = []
    monkeypatch.setattr(cache.sessions, "at_session_end", dropped.append)
    kept = SizedCache(1000)
    for decide, key in (
        (cache._drop_with_session, ("read_upload", "file 1", "cat.png")),
        (cache.drop_if_private, ("maps", cache.PRIVATE + "1", "sha", "cat.png", 1)),
        (cache.drop_if_private, ("layers", (cache.PRIVATE + "1", "sha", "cat.png", 1), "layer4")),
        (cache.drop_if_private, ("maps", "fashion_gap", "sha", "cat.png", 1)),
    ):
        decide(key, kept)
        kept.get(key, lambda: array(10))
    assert len(dropped) == 3
    for drop in dropped:
        drop()
    assert kept.size == 10


def test_many_photos_of_any_size_stay_below_the_bound(monkeypatch):
    kept = SizedCache(3_000_000)
    monkeypatch.setattr(sized_cache, "_cache", kept)
    for number in range(20):
        data = np.full((500, 600, 3), number, np.uint8)  # 900 kB
        cache.read_upload(f"file {number}", "photo.png", png_of(data))
        assert kept.size <= 3_000_000
    cache.read_upload.clear()


def png_of(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
