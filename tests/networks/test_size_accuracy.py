"""The accuracy at several input sizes in a model.json, and how sizes are compared."""

from typing import Any

import pytest

from inspector.entries import Entries
from inspector.networks.catalog import list_models
from inspector.networks.size_accuracy import (
    SizeAccuracies,
    SizeAccuracy,
    compute_wilson_interval,
    make_entry,
    read_size_accuracies,
)

ACCURACY = {
    "64": {"right": 80, "gained": 0, "lost": 0},
    "whole:80": {"right": 84, "gained": 9, "lost": 5},
    "whole:64": {"right": 84, "gained": 6, "lost": 2},
    "native": {"right": 90, "gained": 11, "lost": 1},
}
ENTRY = {"data": "100 photos", "photos": 100, "measured": "by hand", "accuracy": ACCURACY}


def test_the_entry_is_read_as_it_was_written() -> None:
    known = read_size_accuracies(Entries(ENTRY), (64, 64))
    assert (known.data, known.photos, known.trained) == ("100 photos", 100, "64")
    assert make_entry(known, "by hand") == ENTRY


def test_the_best_whole_size_is_the_most_accurate_and_of_equal_ones_the_smallest() -> None:
    known = read_size_accuracies(Entries(ENTRY), (64, 64))
    best = known.find_best_whole()
    assert best is not None
    assert best.size == "whole:64"
    assert SizeAccuracies("", 100, "64", {"64": known.sizes["64"]}).find_best_whole() is None


def test_the_accuracy_is_told_of_the_crop_the_best_whole_size_and_full_resolution() -> None:
    assert read_size_accuracies(Entries(ENTRY), (64, 64)).describe() == (
        "Measured on 100 photos: center crop 64: 80 of 100 right; whole photo 64: 84 of 100 right, as accurate as the "
        "crop (6 gained, 2 lost); full resolution: 90 of 100 right, as accurate as the crop (11 gained, 1 lost)."
    )


# Probabilities of the binomial distribution with 1/2: 1/32 of 0 in 5, 1/16 of 0 in 4, 7/64 of 0 or 1 in 6.
@pytest.mark.parametrize(
    ("gained", "lost", "expected"),
    [
        (0, 0, True), (0, 4, True), (0, 5, False), (1, 5, True), (5, 0, True),
        (950, 1050, False), (990, 1010, True),  # z = -2.2 and -0.4
        (10**15, 10**15, True),
    ],
)  # fmt: skip
def test_as_accurate_is_what_the_sign_test_does_not_refute(gained: int, lost: int, expected: bool) -> None:
    assert SizeAccuracy("64", 10, gained, lost).is_as_accurate is expected


def test_the_interval_is_wilsons() -> None:
    # Agresti and Coull (1998): 0 of 10 gives 0 to 0.278; z * z / (n + z * z) = 3.8415 / 13.8415.
    assert compute_wilson_interval(0, 10) == pytest.approx((0, 0.27753), abs=1e-4)
    assert compute_wilson_interval(10, 10) == pytest.approx((1 - 0.27753, 1), abs=1e-4)
    assert compute_wilson_interval(5, 10) == pytest.approx((0.5 - 0.26340, 0.5 + 0.26340), abs=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"accuracy": {"whole:64": ACCURACY["whole:64"]}}, "expected an entry '64', the size of the training, with"),
        ({"accuracy": {"64": {"right": 80, "gained": 1, "lost": 1}}}, "expected an entry '64', the size"),
        (
            {"accuracy": ACCURACY | {"80": {"right": 81, "gained": 5, "lost": 5}}},
            "expected right to be that of '64' pl",
        ),
        ({"accuracy": ACCURACY | {"half": ACCURACY["64"]}}, "expected sizes as 224, 208x408, whole:288 or native for"),
        ({"accuracy": ACCURACY | {"9999": ACCURACY["64"]}}, "expected sizes as 224, .*got '9999'"),
        ({"accuracy": ACCURACY | {"80": 81}}, "expected an object for 80, got 81"),
        ({"photos": 85}, "expected at most 85 photos for accuracy, got 90 right at native"),
        ({"photos": 0}, "expected a whole number of at least 1 for photos, got 0"),
        ({"data": None}, "expected a text for data, got null"),
    ],
)
def test_an_entry_that_cannot_be_true_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        read_size_accuracies(Entries(ENTRY | change), (64, 64))


def test_the_shipped_networks_have_their_accuracy_at_the_size_of_the_training() -> None:
    for name, card in list_models().items():
        if "top1" in card.about.get("scores", {}) and card.sizes is not None:
            trained = card.sizes.sizes[card.sizes.trained]
            assert abs(trained.right / card.sizes.photos - card.about["scores"]["top1"]) < 0.02, name
