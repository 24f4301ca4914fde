"""The order in which the methods of the page Compare are computed."""

from inspector.analysis.attribution.methods import METHODS
from inspector.ui.pages.methods import _split_by_speed


def test_quick_methods_come_first_and_slow_ones_by_their_number_of_passes() -> None:
    quick, slow = _split_by_speed(["Occlusion", "Integrated gradients", "DeepLIFT", "Exact map", "Score-CAM"])
    assert quick == ["Exact map", "DeepLIFT"]
    assert slow == sorted(slow, key=lambda name: METHODS[name].images)
    assert slow[0] == "Integrated gradients"
    assert set(slow) == {"Occlusion", "Integrated gradients", "Score-CAM"}
