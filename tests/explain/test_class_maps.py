import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

from inspector import Classifier, InspectorError, class_maps, class_maps_of_batch, load, read_image
from inspector.errors import ClassError, NetworkError
from inspector.explain.class_maps import AVERAGE, ClassMap, FigureContent

# Red, green and blue of a 2 x 2 image; feature maps of the networks made by hand are red, and green less blue.
IMAGE = torch.tensor([[[1.0, 2], [3, 4]], [[0, 4], [0, 0]], [[1, 0], [0, 3]]])[None]
RED, GREEN_LESS_BLUE = [[1, 2], [3, 4]], [[-1, 4], [0, -3]]
BIAS = [0.5, -0.25, 0]
NAMES = ("red", "green", "neither")

# Means 2.5 and 0, maxima 4 at (1, 1) and 4 at (0, 1); weights (1, 0), (0, 2) and (-1, 1/2).
VALUES = {
    "average": [[[0.25, 0.5], [0.75, 1]], [[-0.5, 2], [0, -1.5]], [[-0.375, 0], [-0.75, -1.375]]],
    "max": [[[0, 0], [0, 4]], [[0, 8], [0, 0]], [[0, 2], [0, -4]]],
}
LOGITS = {"average": [3, -0.25, -2.5], "max": [4.5, 7.75, -2]}
DENSE = [RED, [[-2, 8], [0, -6]], [[-1.5, 0], [-3, -5.5]]]


@pytest.fixture(params=["average", "max"])
def pooling(request) -> str:
    return request.param


@pytest.fixture
def classifier(pooling, hand_made_gap, hand_made_gmp) -> Classifier:
    network = hand_made_gap if pooling == "average" else hand_made_gmp
    return Classifier.wrap(network, NAMES, size=2, mean=(0.0,) * 3, std=(1.0,) * 3)


@pytest.fixture
def maps(classifier):
    (maps,) = class_maps_of_batch(classifier, IMAGE)
    return maps


def flattened() -> Classifier:
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    with torch.no_grad():
        network[1].weight.copy_(torch.arange(24.0).view(2, 12))
        network[1].bias.copy_(torch.tensor([1.0, -2]))
    return Classifier.wrap(network, ("a", "b"), size=2, mean=(0.0,) * 3, std=(1.0,) * 3)


def test_class_maps_are_those_worked_out_by_hand(maps, pooling):
    assert maps.values.tolist() == VALUES[pooling]
    assert maps.bias.tolist() == BIAS
    assert maps.logits.tolist() == LOGITS[pooling]
    assert maps.residual == 0
    assert maps.verdict == "exact"
    assert maps.feature_maps.tolist() == [RED, GREEN_LESS_BLUE]
    assert maps.view.is_input


def test_class_maps_need_no_gradient_and_share_no_memory_with_the_network(maps, classifier):
    for tensor in (maps.values, maps.bias, maps.logits, maps.probabilities, maps.feature_maps):
        assert not tensor.requires_grad
    before = [tensor.clone() for tensor in classifier.network.state_dict().values()]
    for tensor in (maps.values, maps.logits, maps.feature_maps):
        tensor.add_(1)
    assert all(torch.equal(one, two) for one, two in zip(before, classifier.network.state_dict().values(), strict=True))


def test_the_top_classes_come_highest_first_with_their_probabilities(maps, pooling):
    order = [0, 1, 2] if pooling == "average" else [1, 0, 2]
    total = sum(math.exp(logit) for logit in LOGITS[pooling])
    top = maps.top(2)
    assert [(k, name) for k, name, _ in top] == [(k, NAMES[k]) for k in order[:2]]
    assert [p for _, _, p in top] == pytest.approx([math.exp(LOGITS[pooling][k]) / total for k in order[:2]])
    assert len(maps.top()) == len(maps.top(99)) == 3


def test_of_equal_logits_the_first_class_comes_first():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    nn.init.ones_(network[0].weight)
    nn.init.zeros_(network[0].bias)
    (maps,) = class_maps_of_batch(Classifier.wrap(network, size=2), IMAGE)
    assert [k for k, _, _ in maps.top(4)] == [0, 1, 2, 3]


def test_parts_are_what_each_channel_adds_in_each_cell(maps, pooling):
    if pooling == "average":
        expected = [[[-0.25, -0.5], [-0.75, -1]], [[-0.125, 0.5], [0, -0.375]]]
    else:
        expected = [[[0, 0], [0, -4]], [[0, 2], [0, 0]]]
    assert maps.parts("neither").tolist() == maps.parts(2).tolist() == expected
    for k in range(3):
        assert maps.parts(k).sum(0).tolist() == VALUES[pooling][k]


def test_channels_sum_to_the_logit_less_its_bias(maps, pooling):
    assert maps.channels("neither").tolist() == ([-2.5, 0] if pooling == "average" else [-4, 2])
    for k in range(3):
        assert float(maps.channels(k).sum()) == LOGITS[pooling][k] - BIAS[k]


def test_parts_of_a_flattened_head_have_a_weight_per_cell():
    (maps,) = class_maps_of_batch(flattened(), IMAGE)
    pixels, weight = IMAGE.flatten().tolist(), list(range(12, 24))
    assert maps.parts("b").flatten().tolist() == [w * p for w, p in zip(weight, pixels, strict=True)]
    by_position = [[weight[i] * pixels[i] for i in range(position, 12, 4)] for position in range(4)]
    assert maps.values[1].flatten().tolist() == [sum(channels) for channels in by_position]
    assert float(maps.logits[1]) == sum(map(sum, by_position)) - 2
    assert maps.verdict == "exact"


def test_an_inactive_channel_adds_nothing_in_any_cell(hand_made_gmp):
    classifier = Classifier.wrap(hand_made_gmp, size=2)
    (maps,) = class_maps_of_batch(classifier, torch.zeros(1, 3, 2, 2))
    assert maps.values.abs().max() == 0
    assert all(maps.parts(k).abs().max() == 0 for k in range(3))
    assert maps.logits.tolist() == BIAS
    assert maps.verdict == "exact"


def test_a_contrast_sums_to_the_difference_of_the_logits(maps, pooling):
    values, logits = VALUES[pooling], LOGITS[pooling]
    expected = (np.array(values[0]) - np.array(values[2])).tolist()
    assert maps.contrast("red", "neither").tolist() == maps.contrast(0, 2).tolist() == expected
    assert float(maps.contrast(0, 2).sum()) + BIAS[0] - BIAS[2] == logits[0] - logits[2]
    torch.testing.assert_close(maps.contrast(2, 0), -maps.contrast(0, 2))


def test_a_contrast_with_the_average_class_sums_to_the_logit_less_the_average(maps, pooling):
    values, logits = np.array(VALUES[pooling]), LOGITS[pooling]
    np.testing.assert_allclose(maps.contrast(1).numpy(), values[1] - values.mean(0), atol=1e-6)
    expected = logits[1] - sum(logits) / 3
    assert float(maps.contrast(1).sum()) + BIAS[1] - sum(BIAS) / 3 == pytest.approx(expected, abs=1e-5)


def test_only_contrasts_stay_when_a_vector_is_added_to_every_row_of_the_weight(hand_made_gap):
    (before,) = class_maps_of_batch(Classifier.wrap(hand_made_gap, size=2), IMAGE)
    with torch.no_grad():
        hand_made_gap.linear.weight += torch.tensor([4.0, -2])
    (after,) = class_maps_of_batch(Classifier.wrap(hand_made_gap, size=2), IMAGE)
    torch.testing.assert_close(after.probabilities, before.probabilities)
    assert not torch.allclose(after.values[0], before.values[0], atol=0.1)
    torch.testing.assert_close(after.contrast(0, 1), before.contrast(0, 1))
    torch.testing.assert_close(after.contrast(0), before.contrast(0), atol=1e-5, rtol=0)


def test_position_scores_are_the_logits_of_each_cell_alone(maps, pooling):
    assert maps.position_scores().tolist() == DENSE
    if pooling == "average":
        means = maps.position_scores().mean((1, 2)) + maps.bias
        assert means.tolist() == LOGITS["average"]


def test_a_flattened_head_has_no_position_scores():
    (maps,) = class_maps_of_batch(flattened(), IMAGE)
    for read in (maps.position_scores, lambda: maps.class_map(0, dense=True)):
        with pytest.raises(
            InspectorError, match=r"^Class scores per cell need a head with one pooling, .* this head is flatten"
        ):
            read()


@pytest.mark.parametrize(
    ("against", "title"),
    [
        (None, "red"),
        ("neither", "red against neither"),
        (2, "red against neither"),
        (AVERAGE, "red against the average class"),
    ],
)
def test_a_class_map_has_a_title_and_its_sum(maps, pooling, against, title):
    values, logits = np.array(VALUES[pooling]), LOGITS[pooling]
    other = {None: (0, 0, 0), AVERAGE: (values.mean(0), sum(BIAS) / 3, sum(logits) / 3)}.get(
        against, (values[2], BIAS[2], logits[2])
    )
    read = maps.class_map("red", against)
    assert isinstance(read, ClassMap)
    assert read.title == title
    np.testing.assert_allclose(read.values.numpy(), values[0] - other[0], atol=1e-6)
    assert read.bias == pytest.approx(BIAS[0] - other[1], abs=1e-6)
    assert read.total == pytest.approx(logits[0] - other[2], abs=1e-6)
    assert float(read.values.sum()) + read.bias == pytest.approx(read.total, abs=1e-5)


def test_dense_maps_are_scores_that_sum_to_no_logit(maps):
    read = maps.class_map("green", dense=True)
    assert read.values.tolist() == DENSE[1]
    assert read.total is None
    against = maps.class_map("green", "red", dense=True)
    assert against.values.tolist() == [[-3, 6], [-3, -10]]
    assert against.total is None


@pytest.mark.parametrize("read", ["parts", "channels", "contrast", "class_map"])
def test_an_unknown_class_is_an_error(maps, read):
    with pytest.raises(ClassError, match=r"^No class 'blau'\.$"):
        getattr(maps, read)("blau")
    with pytest.raises(ClassError, match=r"^No class 3; they are numbered 0 to 2\.$"):
        getattr(maps, read)(3)


def test_figure_content_holds_class_indices(maps, pooling):
    order = (0, 1, 2) if pooling == "average" else (1, 0, 2)
    assert maps.figure_content(2) == FigureContent(order[:2], None, False, True, 0.85)
    assert maps.figure_content(["neither", 0], "green", smooth=False, opacity=0.5) == FigureContent(
        (2, 0), 1, False, False, 0.5
    )
    assert maps.figure_content(["red"], AVERAGE, dense=True) == FigureContent((0,), "average", True, True, 0.85)


@pytest.mark.parametrize("part", ["weight", "bias"])
def test_with_a_wrong_head_the_verdict_is_not_exact_and_the_residual_shows_it(classifier, part):
    head = classifier.head
    wrong = getattr(head, part).clone()
    # The mean of red is 2.5 and its maximum 4.
    wrong[(1, 0) if part == "weight" else 1] += 0.5
    broken = dataclasses.replace(classifier, head=dataclasses.replace(head, **{part: wrong}))
    (maps,) = class_maps_of_batch(broken, IMAGE)
    residual = 0.5 if part == "bias" else 0.5 * (2.5 if head.pooling == "average" else 4)
    assert maps.verdict == "not exact"
    assert maps.residual == pytest.approx(residual)


def test_in_a_batch_only_images_with_a_residual_are_not_exact(hand_made_gap):
    classifier = Classifier.wrap(hand_made_gap, size=2)
    weight = classifier.head.weight.clone()
    weight[0, 1] += 1  # the second channel, which is zero in the image without green and blue
    broken = dataclasses.replace(classifier, head=dataclasses.replace(classifier.head, weight=weight))
    images = torch.stack([torch.tensor([1.0, 0, 0]), torch.tensor([0, 1.0, 0])])[..., None, None].expand(2, 3, 2, 2)
    assert [maps.verdict for maps in class_maps_of_batch(broken, images)] == ["exact", "not exact"]


def test_a_network_trained_further_is_no_longer_exact(hand_made_gap):
    classifier = Classifier.wrap(hand_made_gap, size=2)
    with torch.no_grad():
        hand_made_gap.linear.weight[0, 0] += 0.25
    (maps,) = class_maps_of_batch(classifier, IMAGE)
    assert maps.verdict == "not exact"
    assert maps.residual == 0.25 * 2.5


def test_sigmoid_probabilities_are_one_by_one(hand_made_gap):
    classifier = Classifier.wrap(hand_made_gap, size=2, probability="sigmoid")
    (maps,) = class_maps_of_batch(classifier, IMAGE)
    expected = [1 / (1 + math.exp(-logit)) for logit in LOGITS["average"]]
    assert maps.probabilities.tolist() == pytest.approx(expected)


def test_softmax_probabilities_sum_to_one(maps):
    assert float(maps.probabilities.sum()) == pytest.approx(1)


def test_the_class_maps_of_a_photo_are_those_of_its_input_crop(hand_made_gap, pixels, tmp_path):
    classifier = Classifier.wrap(hand_made_gap, NAMES, size=(20, 30), mean=(0.0,) * 3, std=(1.0,) * 3)
    maps = class_maps(classifier, pixels)
    red = pixels[..., 0] / 255
    np.testing.assert_allclose(maps.values[0].numpy(), red / 600, atol=1e-8)
    assert float(maps.logits[0]) == pytest.approx(red.mean() + 0.5, abs=1e-5)
    assert maps.view is not None
    assert np.array_equal(maps.view.pixels, pixels)
    photo = read_image(pixels, "mine")
    again = class_maps(classifier, photo)
    assert again.view is not None
    assert again.view.photo is photo
    assert torch.equal(again.values, maps.values)


def test_a_network_for_gray_images_accepts_color_photos():
    classifier = load("fashion_gap")
    color = np.zeros((40, 30, 3), np.uint8)
    color[10:30, 5:25] = (255, 128, 0)
    maps = class_maps(classifier, color)
    gray = np.asarray(np.round(color @ [0.299, 0.587, 0.114]), np.uint8)
    assert maps.values.shape == (10, 3, 3)
    assert maps.verdict == "exact"
    assert maps.view is not None
    assert maps.view.pixels.shape == (28, 28)
    torch.testing.assert_close(maps.logits, class_maps(classifier, gray).logits, atol=0.05, rtol=0)


def test_each_image_of_a_batch_gets_the_same_maps_as_alone(classifier):
    images = torch.stack([IMAGE[0], IMAGE[0].flip(2), IMAGE[0] * 2])
    for n, maps in enumerate(class_maps_of_batch(classifier, images)):
        (alone,) = class_maps_of_batch(classifier, images[n : n + 1])
        assert torch.equal(maps.values, alone.values)
        assert torch.equal(maps.logits, alone.logits)


def test_an_unsupported_input_is_an_error(classifier):
    with pytest.raises(NetworkError, match=r"cannot run on an input of shape \(1, 1, 2, 2\)"):
        class_maps_of_batch(classifier, torch.zeros(1, 1, 2, 2))


@pytest.mark.parametrize(
    ("class_map", "line"),
    [
        (ClassMap("a", torch.tensor([[1.0, 2], [0.5, 0]]), 0.25, 3.75), "map 3.5000 + bias 0.2500 = 3.7500"),
        (ClassMap("a", torch.tensor([[1.0, -2]]), -0.25, -1.25), "map −1.0000 + bias −0.2500 = −1.2500"),  # noqa: RUF001
        (ClassMap("a", torch.tensor([[1.0, 2.5]]), 0.25, None), "highest score 2.5000"),
    ],
)
def test_the_equation_says_how_a_map_adds_up(class_map, line):
    assert class_map.equation() == line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((False, None), ("contribution per cell (sums to the logit)",)),
        ((True, None), ("class score per cell (before pooling)", "does not sum")),
        ((False, "average"), ("logit less the average logit",)),
        ((False, 1), ("logit less that of green",)),
    ],
)
def test_the_reading_names_what_a_cell_holds(maps, pooling, arguments, words):
    reading = maps.describe_reading(*arguments)
    assert all(word in reading for word in words)
    assert ("with its maximum" in reading) == (pooling == "max" and not arguments[0])
