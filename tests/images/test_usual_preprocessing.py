"""How a photo is fed: usual defaults, words for it, and settings that are probably mistakes."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from inspector import Classifier, NetworkError, Preprocessing, class_maps, load
from inspector.images.examples import choose_examples
from inspector.images.preprocessing import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    PreprocessingOverrides,
    find_usual_resize,
    list_suspicions,
)
from inspector.networks.build import build
from inspector.networks.load import resolve

BGR = IMAGENET_MEAN[::-1]
PLAIN = Preprocessing((224, 224), IMAGENET_MEAN, IMAGENET_STD, (256, 256))


def network(channels: int = 3) -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    return nn.Sequential(*layers)


@pytest.mark.parametrize(
    ("size", "resize"),
    [
        ((224, 224), (256, 256)),  # torchvision's evaluation of most networks
        ((299, 299), (342, 342)),  # of Inception
        ((448, 336), (512, 384)),
        ((128, 256), (146, 293)),
        ((32, 32), (32, 32)),  # CIFAR
        ((28, 28), (28, 28)),  # MNIST
        ((96, 300), (96, 300)),
    ],
)
def test_photos_are_cropped_as_in_usual_evaluations(size, resize):
    assert find_usual_resize(size) == resize
    classifier = Classifier.wrap(network(), size=size)
    assert (classifier.preprocessing.size, classifier.preprocessing.resize) == (size, resize)


@pytest.mark.parametrize(("given", "resize"), [(224, (224, 224)), ((300, 240), (300, 240)), ("squeeze", None)])
def test_resize_replaces_the_usual_one(given, resize):
    assert Classifier.wrap(network(), resize=given).preprocessing.resize == resize


@pytest.mark.parametrize(
    ("preprocessing", "words"),
    [
        (
            PLAIN,
            "as RGB; resized to cover 256 x 256 (bilinear); cropped to the center 224 x 224; scaled to 0-1; "
            "mean 0.485, 0.456, 0.406 subtracted, divided by std 0.229, 0.224, 0.225",
        ),
        (
            Preprocessing((28, 20), (0.0,), (1.0,), None, "bicubic"),
            "in gray; resized to 28 x 20 (bicubic); scaled to 0-1",
        ),
        (
            Preprocessing((8, 8), (0.0,) * 3, (1 / 255,) * 3, (9, 9)),
            "as RGB; resized to cover 9 x 9 (bilinear); cropped to the center 8 x 8; scaled to 0-255",
        ),
        (
            Preprocessing((8, 8), (0.5,) * 4, (0.25,) * 4, None, window=(100.0, 4000.0)),
            "with 4 channels; resized to 8 x 8 (bilinear); values 100 to 4000 scaled to 0-1; "
            "mean 0.5, 0.5, 0.5, 0.5 subtracted, divided by std 0.25, 0.25, 0.25, 0.25",
        ),
    ],
)
def test_preprocessing_is_told_in_words(preprocessing, words):
    assert preprocessing.describe() == words


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        (
            (103.939, 116.779, 123.68),
            (1, 1, 1),
            r" in BGR order, .* Divide both by 255, and reverse",
        ),
        ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), r"pixel values 0 to 255, .* Divide both by 255\.$"),
        ((127.5,) * 3, (127.5,) * 3, r"pixel values 0 to 255, "),
        ((33.3,), (78.6,), r"^mean 33\.3 and std 78\.6 look like pixel values"),
        ((0.485, 0.456, 0.406), (58.395, 57.12, 57.375), r"pixel values 0 to 255, "),
    ],
)
def test_pixel_values_are_refused_with_what_to_do(mean, std, message):
    with pytest.raises(NetworkError, match=message):
        Classifier.wrap(network(len(mean)), size=32, mean=mean, std=std)


def test_the_mean_of_imagenet_in_another_order_is_suspected():
    classifier = Classifier.wrap(network(), size=32, mean=BGR, std=IMAGENET_STD[::-1])
    (note,) = classifier.notes
    assert note.startswith("mean 0.406, 0.456, 0.485 is that of ImageNet in the order blue, green, red, but photos are")
    assert note in repr(classifier)


@pytest.mark.parametrize("mean", [IMAGENET_MEAN, (0.5, 0.5, 0.5), (0.0, 0.0, 0.0), (0.4914, 0.4822, 0.4465), (0.5,)])
def test_usual_means_are_not_suspected(mean):
    assert list_suspicions(Preprocessing((32, 32), mean, (0.5,) * len(mean), None)) == ()


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("half", [0.5, np.float32(0.5), np.array(0.5), torch.tensor(0.5)])
def test_one_number_is_the_same_for_each_channel(channels, half):
    preprocessing = Classifier.wrap(network(channels), size=32, mean=half, std=half).preprocessing
    assert preprocessing.mean == preprocessing.std == (0.5,) * channels
    both = PreprocessingOverrides(mean=half, std=[0.1, 0.2, 0.3]).apply_to(PLAIN)
    assert (both.mean, both.std) == ((0.5,) * 3, (0.1, 0.2, 0.3))


def test_classifiers_say_how_photos_are_fed():
    classifier = Classifier.wrap(network(), size=32, mean=0.5, std=0.5)
    fed = classifier.preprocessing.describe()
    assert fed in repr(classifier)
    assert fed in repr(class_maps(classifier, np.zeros((40, 50, 3), np.uint8)))


def test_a_network_for_cifar_is_fed_the_size_of_cifar(tmp_path):
    path = tmp_path / "mine.safetensors"
    save_file(build("cifar_resnet", 3).state_dict(), path)
    assert load(path, arch="cifar_resnet").preprocessing.size == (32, 32)
    larger = load(path, arch="cifar_resnet", size=64).preprocessing
    assert (larger.size, larger.resize) == ((64, 64), (64, 64))
    assert resolve("cifar_resnet", allow_untrained=True).preprocessing.size == (32, 32)


@pytest.mark.parametrize(
    ("preprocessing", "words"),
    [
        (PLAIN, "input 224x224, ImageNet mean and std"),
        (Preprocessing((28, 28), (0.0,), (1.0,), None), "input 28x28 gray, pixels 0 to 1"),
        (Preprocessing((160, 224), (0.5,) * 3, (0.5,) * 3, None), "input 160x224, pixels -1 to 1"),
        (Preprocessing((32, 32), (0.0,) * 3, (1 / 255,) * 3, None), "input 32x32, pixels 0 to 255"),
        (Preprocessing((32, 32), (0.1307,), (0.3081,), None), "input 32x32 gray, mean 0.1307 and std 0.3081"),
        (Preprocessing((8, 8), (0.4,) * 5, (0.2,) * 5, None), "input 8x8, 5 channels, mean 0.4 and std 0.2"),
        (
            Preprocessing((32, 32), (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616), None),
            "input 32x32, mean 0.4914, 0.4822, 0.4465 and std 0.247, 0.2435, 0.2616",
        ),
    ],
)
def test_a_preprocessing_is_named_in_a_few_words(preprocessing, words):
    assert preprocessing.summarize() == words


@pytest.mark.parametrize(
    ("size", "channels", "kind"),
    [(28, 1, "fashion_mnist"), (32, 1, "fashion_mnist"), (224, 1, "photos"), (28, 3, "photos"), (224, 3, "photos")],
)
def test_examples_fit_the_network(size, channels, kind):
    preprocessing = Preprocessing((size, size), (0.0,) * channels, (1.0,) * channels, None)
    assert choose_examples(preprocessing) == kind
