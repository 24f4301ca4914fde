import pytest

from inspector import read_image
from inspector.images.examples import list_examples


@pytest.mark.parametrize(("kind", "count"), [("photos", 7), ("fashion_mnist", 10)])
def test_every_example_is_an_image_with_a_caption(kind, count):
    found = list_examples(kind)
    assert len(found) == count
    for caption, path in found.items():
        assert caption[0].isupper()
        photo = read_image(path)
        # One of the photos has a color profile, which is reported.
        assert all("color profile" in note for note in photo.notes)
        assert (photo.size == (28, 28)) == (kind == "fashion_mnist")


def test_of_an_unknown_kind_there_are_none():
    assert list_examples("nothing") == {}
