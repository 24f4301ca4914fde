"""What the app says about the accuracy at several input sizes."""

from inspector.entries import Entries
from inspector.networks.size_accuracy import SizeAccuracies, read_size_accuracies
from inspector.ui.state.networks import NetworkChoice
from inspector.ui.state.size_choice import describe_far_size, summarize_accuracies

COUNTS = {
    "64": (80, 0, 0),
    "128": (75, 5, 10),
    "whole:64": (79, 3, 4),
    "whole:80": (82, 6, 4),
    "whole:128": (71, 1, 10),
}


def make_known(**more: tuple[int, int, int]) -> SizeAccuracies:
    counts = {
        size: {"right": right, "gained": gained, "lost": lost}
        for size, (right, gained, lost) in (COUNTS | more).items()
    }
    entry = {"data": "100 photos", "photos": 100, "accuracy": counts}
    return read_size_accuracies(Entries(entry), (64, 64))


def test_the_choices_are_summarized_with_the_best_whole_size() -> None:
    assert summarize_accuracies(make_known()) == "right of 100 photos: crop 80, whole 82"
    assert summarize_accuracies(make_known(native=(60, 0, 20))) == "right of 100 photos: crop 80, whole 82, full 60"


def test_the_whole_photo_is_seen_at_the_size_that_is_most_accurate() -> None:
    def load() -> None:
        raise AssertionError("loaded")

    assert NetworkChoice("a", "a", "", "photos", load, make_known()).whole == "whole:80"  # type: ignore[arg-type]
    assert NetworkChoice("a", "a", "", "photos", load).whole == "whole"  # type: ignore[arg-type]


def test_a_size_far_from_the_training_is_named_with_the_nearest_accuracy_that_is_known() -> None:
    assert describe_far_size((80, 120), (64, 64), make_known()) is None
    warning = (
        "The network sees 140 x 200 pixels (height x width), but it was trained on 64 x 64: its predictions may be "
        "much worse."
    )
    assert describe_far_size((140, 200), (64, 64), None) == warning
    assert describe_far_size((140, 200), (64, 64), make_known()) == (
        f"{warning} Of 100 photos it has 80 right with the center crop 64, and 71 with the whole photo 128, the "
        "nearest size that was measured."
    )
