"""Class maps side by side: by several networks, or of several photos."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text

from inspector import Classifier, InspectorError, class_maps, class_maps_of_batch, read_image
from inspector.analysis.attribution.methods import compute_attribution
from inspector.analysis.faithfulness import PatchTest
from inspector.output.comparison_figure import methods_figure, side_by_side_figure

NAMES = ("red", "green", "neither")


def panels(figure: Figure) -> list:
    return [axis for axis in figure.axes if axis.get_images()]


def texts(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(Text))


@pytest.fixture
def heads(hand_made_gap, hand_made_gmp, pixels):
    """The class maps of one photo by two heads."""
    photo = read_image(pixels, "my $photo$.png")
    return [
        class_maps(Classifier.wrap(network, NAMES, size=(20, 30)), photo) for network in (hand_made_gap, hand_made_gmp)
    ]


def test_heads_stand_side_by_side_on_one_scale_with_what_they_add_up_to(heads):
    figure = side_by_side_figure(heads, "green", ["average", "max"])
    photo, *rest = panels(figure)
    assert photo.get_title().strip() == "my $photo$.png"
    for name, maps, panel in zip(("average", "max"), heads, rest, strict=True):
        assert panel.get_title().strip() == f"{name} ({float(maps.probabilities[1]):.1%})"
        (lines,) = [text.get_text() for text in panel.texts]
        assert lines.splitlines() == [
            maps.class_map("green").equation(),
            f"verdict: exact, residual {maps.residual:.1e}",
        ]
    scale = max(float(maps.values[1].abs().max()) for maps in heads)
    bar = next(
        axis
        for axis in figure.axes
        if " ".join(axis.get_ylabel().split()) == "contribution per cell (sums to the logit)"
    )
    assert bar.get_ylim() == pytest.approx((-scale, scale))
    assert "green: its class map by each network, on one scale" in texts(figure)
    assert not np.array_equal(*(panel.get_images()[0].get_array() for panel in rest))


def test_photos_stand_side_by_side_each_with_a_class_of_its_own(heads, hand_made_gap, pixels):
    other = class_maps(heads[0].classifier, read_image(255 - pixels, "other.png"))
    figure = side_by_side_figure([heads[0], other], [0, 1], ["first", "second"], smooth=False)
    titles = [panel.get_title().strip() for panel in panels(figure)]
    names = heads[0].classifier.class_names
    assert titles == [
        f"{title}: {names[k]} ({float(maps.probabilities[k]):.1%})"
        for k, (title, maps) in enumerate((("first", heads[0]), ("second", other)))
    ]
    assert "class maps by network, on one scale" in texts(figure)


@pytest.mark.parametrize(("networks", "grid"), [(1, (1, 2)), (3, (1, 4)), (4, (2, 3)), (7, (2, 4))])
def test_many_heads_are_wrapped_evenly(heads, networks: int, grid: tuple[int, int]):
    figure = side_by_side_figure(heads[:1] * networks, "red", ["one"] * networks)
    assert len(panels(figure)) == 1 + networks
    assert panels(figure)[0].get_gridspec().get_geometry() == grid


def test_maps_of_a_tensor_are_drawn_beside_others(hand_made_gap, heads):
    (of_a_tensor,) = class_maps_of_batch(Classifier.wrap(hand_made_gap, NAMES, size=2), torch.zeros(1, 3, 2, 2))
    assert len(panels(side_by_side_figure([*heads, of_a_tensor], "red", ["one"] * (len(heads) + 1)))) > len(heads)


def test_no_maps_are_refused():
    with pytest.raises(InspectorError, match="There are no class maps to draw side by side"):
        side_by_side_figure([], "red", [])


def test_methods_stand_side_by_side_with_their_scales_sums_and_areas(heads):
    maps = heads[0]
    test = PatchTest(maps.classifier, maps.classifier.inputs(maps.view), 1)
    names = ("Exact map", "Saliency")
    attributions = [compute_attribution(maps.classifier, test.inputs, 1, name) for name in names]
    curves = {"Exact map": test.measure(attributions[0])}
    figure = methods_figure(maps, "green", attributions, curves)
    photo, exact, saliency = panels(figure)
    assert [panel.get_title().strip() for panel in (photo, exact, saliency)] == ["my $photo$.png", *names]
    total, scale = float(maps.values[1].sum()), float(maps.values[1].abs().max())
    lines = exact.texts[0].get_text().replace("\N{MINUS SIGN}", "-").splitlines()
    assert lines[0] == f"scale \N{PLUS-MINUS SIGN}{scale:.3g} logits"
    assert lines[1] == f"sum {total:.3f} of {total:.3f} claimed"
    assert lines[2] == f"insertion {curves['Exact map'].insertion.area:.3f}, " + (
        f"deletion {curves['Exact map'].deletion.area:.3f}"
    )
    assert "makes no claim about its sum" in saliency.texts[0].get_text()
    assert f"green ({maps.outcome(1)}) by " in figure.get_suptitle()
    with pytest.raises(InspectorError, match="There are no maps of methods"):
        methods_figure(maps, "green", [])
