import copy
import math
import re

import numpy as np
import pytest
import torch
from torch import nn

from inspector import ClassError, Classifier, NetworkError, class_maps
from inspector.explain.class_names import find_class_index
from inspector.images.photo import read_image
from inspector.images.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing, make_view


def test_wrap_uses_the_usual_preprocessing_by_default(hand_made_gap):
    classifier = Classifier.wrap(hand_made_gap, size=(6, 8))
    assert classifier.preprocessing == Preprocessing((6, 8), IMAGENET_MEAN, IMAGENET_STD, (6, 8), "bilinear")
    assert classifier.class_names == ("class 0", "class 1", "class 2")
    assert classifier.network is hand_made_gap
    assert (classifier.name, classifier.probability) == ("network", "softmax")


def test_wrap_keeps_its_arguments(hand_made_gap):
    classifier = Classifier.wrap(
        hand_made_gap, ["a", "b", "c"], 8, (0, 0.5, 1), (1, 2, 3), (9, 10), "bicubic", "mine", "sigmoid"
    )
    assert classifier.preprocessing == Preprocessing((8, 8), (0, 0.5, 1), (1, 2, 3), (9, 10), "bicubic")
    assert classifier.class_names == ("a", "b", "c")
    assert (classifier.name, classifier.probability) == ("mine", "sigmoid")


@pytest.mark.parametrize("names", [[], ["a", "b"], ["a", "b", "c", "d"]])
def test_a_wrong_number_of_names_is_refused(hand_made_gap, names):
    with pytest.raises(NetworkError, match=rf"^class_names has {len(names)} names, the network 3 classes\. "):
        Classifier.wrap(hand_made_gap, names, size=8)


@pytest.mark.parametrize(("mean", "std"), [((0, 0, 0), (1,)), ((0,), (1, 1, 1)), ((0, 0), (1, 1, 1)), ((), ())])
def test_mean_and_std_of_another_length_are_refused(hand_made_gap, mean, std):
    channels = f"got {len(mean)} and {len(std)}"
    message = rf"^mean and std must both have one value per channel of the network's input; {channels}\.$"
    with pytest.raises(NetworkError, match=message):
        Classifier.wrap(hand_made_gap, size=8, mean=mean, std=std)


def test_an_unsupported_number_of_channels_is_refused(hand_made_gap):
    with pytest.raises(NetworkError, match=r"cannot run on an input of shape \(1, 1, 8, 8\): .*channels"):
        Classifier.wrap(hand_made_gap, size=8, mean=(0,), std=(1,))


@pytest.mark.parametrize("mean", ["half", (0.5, "a", 0.5), [[0.5], [0.5, 0.5]]])
def test_a_mean_that_is_no_sequence_of_numbers_is_refused(hand_made_gap, mean):
    for settings in ({"mean": mean}, {"std": mean}):
        with pytest.raises(NetworkError, match=r"^Expected (mean|std) as a sequence of one number per channel"):
            Classifier.wrap(hand_made_gap, size=8, **settings)


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_mean_and_std_may_be_any_sequence(hand_made_gap, kind):
    mean, std = [0.25, 0.5, 0.75], [0.5, 0.25, 0.125]
    classifier = Classifier.wrap(hand_made_gap, size=8, mean=kind(mean), std=kind(std))
    assert (classifier.preprocessing.mean, classifier.preprocessing.std) == (tuple(mean), tuple(std))


def test_weights_in_place_of_a_network_are_refused(hand_made_gap):
    message = r"^Expected a network, a torch.nn.Module; got OrderedDict. Load these weights into their network first"
    with pytest.raises(NetworkError, match=message):
        Classifier.wrap(hand_made_gap.state_dict(), size=8)
    with pytest.raises(NetworkError, match=r"got str\.$"):
        Classifier.wrap("resnet18", size=8)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 6, 13])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_network_of_any_number_of_channels_is_fed_normalized_values(channels, dtype):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(channels, 8, 3, 2), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    mean, std = np.linspace(0.2, 0.6, channels), np.linspace(0.3, 0.5, channels)
    classifier = Classifier.wrap(network, size=16, mean=mean, std=std)
    white = np.iinfo(dtype).max if dtype != np.float32 else 1
    values = (np.random.default_rng(0).random((16, 16, channels)) * white).astype(dtype)
    maps = class_maps(classifier, values)
    assert maps.verdict == "exact"
    expected = (torch.from_numpy(values / white) - torch.tensor(mean)) / torch.tensor(std)
    inputs = classifier.inputs(maps.view)
    # Networks of one and three channels are fed 8 bits.
    tolerance = 1e-5 if channels not in (1, 3) else 0.02
    torch.testing.assert_close(inputs[0], expected.permute(2, 0, 1).float(), atol=tolerance, rtol=0)
    with torch.no_grad():
        torch.testing.assert_close(maps.logits, network(inputs)[0])
    assert maps.figure(classes=2) is not None


def test_an_unsupported_size_is_refused():
    network = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Flatten(), nn.Linear(2 * 16, 3))
    with pytest.raises(NetworkError, match=r"cannot run on an input of shape \(1, 3, 5, 5\)"):
        Classifier.wrap(network, size=5)


def test_inputs_are_normalized_per_channel(hand_made_gap, pixels):
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)
    classifier = Classifier.wrap(hand_made_gap, size=(20, 30), mean=mean, std=std)
    inputs = classifier.inputs(make_view(read_image(pixels), classifier.preprocessing))
    assert inputs.shape == (1, 3, 20, 30)
    assert inputs.dtype == torch.float32
    for y, x, channel in [(0, 0, 0), (3, 17, 1), (19, 29, 2)]:
        expected = (int(pixels[y, x, channel]) / 255 - mean[channel]) / std[channel]
        assert float(inputs[0, channel, y, x]) == pytest.approx(expected, abs=1e-6)


def test_inputs_have_the_networks_dtype(hand_made_gap, pixels):
    classifier = Classifier.wrap(hand_made_gap.double(), size=(20, 30))
    assert classifier.inputs(make_view(read_image(pixels), classifier.preprocessing)).dtype == torch.float64


def test_a_single_mean_makes_a_gray_input():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    classifier = Classifier.wrap(network, size=4, mean=(0.5,), std=(0.5,))
    photo = read_image(np.full((4, 4, 3), (255, 0, 0), np.uint8))
    inputs = classifier.inputs(make_view(photo, classifier.preprocessing))
    assert inputs.shape == (1, 1, 4, 4)
    # Rec. 601 luma of red: 0.299 * 255 = 76 of 255.
    torch.testing.assert_close(inputs, torch.full((1, 1, 4, 4), (76 / 255 - 0.5) / 0.5))


def test_the_hash_of_a_network_depends_on_its_values_only(hand_made_gap):
    first = Classifier.wrap(hand_made_gap, size=8).sha256()
    assert re.fullmatch("[0-9a-f]{64}", first)
    again = copy.deepcopy(hand_made_gap)
    assert Classifier.wrap(again, ["x", "y", "z"], size=9).sha256() == first
    with torch.no_grad():
        again.linear.bias[2] += 1e-6
    assert Classifier.wrap(again, size=8).sha256() != first
    renamed = nn.Module()
    renamed.other = nn.Linear(1, 1)


NAMES = ("tench", "great white shark", "tiger shark", "tiger", "Tiger cat", "7", "crane", "house finch")


@pytest.mark.parametrize(
    ("given", "index"),
    [
        (0, 0),
        (7, 7),
        (-1, 7),
        (np.int64(-8), 0),
        ("tench", 0),
        (" TENCH ", 0),
        ("tiger", 3),
        ("tiger cat", 4),
        ("white", 1),
        ("FINCH", 7),
        ("7", 5),
        ("2", 2),
    ],
)
def test_a_class_is_found_by_number_name_or_part_of_a_name(given, index):
    assert find_class_index(NAMES, given) == index


def test_a_classifier_finds_its_classes(hand_made_gap):
    classifier = Classifier.wrap(hand_made_gap, ["red", "green", "blue"], size=8)
    assert classifier.class_index("gre") == classifier.class_index(1) == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (8, r"^No class 8; they are numbered 0 to 7\.$"),
        (-9, r"^No class -9; they are numbered 0 to 7\.$"),
        ("99", r"^No class 99; they are numbered 0 to 7\.$"),
        (
            "shark",
            r"^'shark' may mean 2 classes: great white shark, tiger shark\. Give the whole name, or the number\.$",
        ),
        ("tigre", r"^No class 'tigre'\. Nearest names: tiger"),
        ("tigercat", r"^No class 'tigercat'\. Nearest names: Tiger cat"),
        ("zzzz", r"^No class 'zzzz'\.$"),
        ("", r"^No class ''\.$"),
    ],
)
def test_an_unknown_class_is_an_error_with_the_nearest_names(given, message):
    with pytest.raises(ClassError, match=message):
        find_class_index(NAMES, given)


def test_of_many_matching_classes_some_are_named():
    names = tuple(f"dog {letter}" for letter in "abcdefghij")
    with pytest.raises(ClassError, match=r"may mean 10 classes: dog a, .*, dog h, \.\.\.\. Give the whole name"):
        find_class_index(names, "dog")


@pytest.mark.parametrize("given", ["crane", "Crane"])
def test_a_name_of_two_classes_is_ambiguous(given):
    # ImageNet has two: a bird and a machine.
    with pytest.raises(ClassError, match=r"may mean 2 classes"):
        find_class_index(("tench", "crane", "hen", "crane"), given)


@pytest.mark.parametrize("number", [np.int64(2), np.argmax(np.array([0, 1, 5]))])
def test_an_integer_of_numpy_is_an_index(number):
    assert find_class_index(NAMES, number) == 2


def test_probabilities_follow_the_output_activation_along_the_last_axis(hand_made_gap):
    logits = torch.tensor([[0.0, math.log(3)], [0.0, 0.0]])
    softmax, sigmoid = (Classifier.wrap(hand_made_gap, size=8, probability=p) for p in ("softmax", "sigmoid"))
    assert torch.allclose(softmax.probabilities(logits), torch.tensor([[0.25, 0.75], [0.5, 0.5]]))
    assert torch.allclose(sigmoid.probabilities(logits[0]), torch.tensor([0.5, 0.75]))


def test_noise_input_has_the_shape_of_the_input_and_depends_on_the_seed_only(hand_made_gap):
    classifier = Classifier.wrap(hand_made_gap.double(), size=(8, 6))
    noise = classifier.noise_input(2, seed=5)
    assert noise.shape == (2, 3, 8, 6)
    assert noise.dtype == torch.float64
    assert torch.equal(noise, classifier.noise_input(2, seed=5))
    assert not torch.equal(noise, classifier.noise_input(2, seed=6))
    assert classifier.noise_input(size=(4, 5)).shape == (1, 3, 4, 5)


def test_the_backend_status_of_a_plain_classifier_says_that_the_network_itself_runs(hand_made_gap):
    assert Classifier.wrap(hand_made_gap, size=8).backend_status == "Running on PyTorch."
