"""Published weights, from a file to exact class maps."""

import csv
from pathlib import Path

import pytest

from inspector import class_maps, load
from inspector.networks.register import add_model


@pytest.mark.shared
def test_squeezenets_published_weights_predict_the_photo_with_exact_class_maps(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INSPECTOR_MODELS", str(tmp_path / "models"))
    with (shared / "imagenet_classes.tsv").open(newline="") as file:
        names = [name for _, _, name in csv.reader(file, delimiter="\t")]
    weights = shared / "weights" / "squeezenet1_0_deepcompression_torchvision.safetensors"
    add_model(weights, "squeezenet", "torchvision:squeezenet1_0", names)
    classifier = load("squeezenet")
    # torchvision's recipe for it.
    assert (classifier.preprocessing.size, classifier.preprocessing.resize) == ((224, 224), (256, 256))
    assert classifier.head.per_class, "a 1x1 convolution makes a map a class, which is pooled and nothing else"

    maps = class_maps(classifier, shared / "demo" / "coral_hot_dog.jpg")
    assert maps.top(1)[0][:2] == (934, "hotdog")
    # 224 pixels by a 7x7 convolution and three 3x3 poolings of stride 2, the poolings rounded up: 109, 54, 27, 13.
    assert maps.values.shape == (1000, 13, 13)
    assert maps.verdict == "exact"
    sums = maps.values.double().sum((1, 2)) + maps.bias
    total = maps.values.double().abs().sum((1, 2)) + maps.bias.abs()
    assert ((sums - maps.logits).abs() <= 1e-6 * (total + 1)).all()
    # The class map is the output of a ReLU, which includes the bias.
    assert (maps.values >= 0).all()
    assert (maps.bias == 0).all()
