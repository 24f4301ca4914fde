import gzip
import json
import os
import pickle
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from inspector import NetworkError, class_maps, load
from inspector.catalogue import available
from inspector.examples import examples
from inspector.image import make_view, read_image
from inspector.networks import fashion_convnet

CARD = {
    "title": "A network",
    "architecture": {"factory": "fashion_convnet", "arguments": {"pooling": "max", "classes": 3}},
    "weights": "weights.safetensors",
    "classes": ["a", "b", "c"],
    "size": 28,
    "resize": 28,
    "interpolation": "bilinear",
    "mean": [0.0],
    "std": [1.0],
    "probability": "softmax",
    "examples": "fashion_mnist",
}


def network(classes: int = 3) -> torch.nn.Module:
    torch.manual_seed(0)
    return fashion_convnet("max", classes)


@pytest.fixture
def mine(tmp_path, monkeypatch) -> Path:
    """The folder of a network called mine that loads."""
    monkeypatch.setenv("INSPECTOR_MODELS", str(tmp_path))
    folder = tmp_path / "mine"
    folder.mkdir()
    describe(folder)
    save_file(network().state_dict(), folder / "weights.safetensors")
    return folder


def describe(folder: Path, **changes: object) -> None:
    (folder / "model.json").write_text(json.dumps(CARD | changes))


def assert_one_sentence(error: Exception) -> None:
    assert "\n" not in str(error)
    assert len(str(error)) < 600


@pytest.mark.parametrize("file", ["weights.safetensors", "weights.pth"])
def test_a_network_is_loaded_with_its_weights(mine, file):
    describe(mine, weights=file)
    if file.endswith(".pth"):
        torch.save(network().state_dict(), mine / file)
    classifier = load("mine")
    expected = network().state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in classifier.network.state_dict().items())
    assert not classifier.network.training
    assert (classifier.name, classifier.class_names, classifier.head.pooling) == ("mine", ("a", "b", "c"), "max")


def test_a_network_is_loaded_by_the_path_of_its_folder(mine, monkeypatch):
    monkeypatch.setenv("INSPECTOR_MODELS", str(mine))
    assert load(str(mine)).sha256() == load(str(mine)).sha256()
    assert load(str(mine)).name == "mine"


def test_missing_weights_are_named(mine):
    (mine / "weights.safetensors").unlink()
    with pytest.raises(NetworkError, match=r"^No weights at .*mine.weights\.safetensors\.$"):
        load("mine")


@pytest.mark.parametrize("file", ["weights.safetensors", "weights.pth"])
@pytest.mark.parametrize("kept", [0, 5, 1000, -100])
def test_weights_that_were_cut_off_are_named(mine, file, kept):
    describe(mine, weights=file)
    if file.endswith(".pth"):
        torch.save(network().state_dict(), mine / file)
    data = (mine / file).read_bytes()
    (mine / file).write_bytes(data[:kept])
    with pytest.raises(
        NetworkError, match=r"^The weights at .*mine.weights\.(safetensors|pth) cannot be read: "
    ) as raised:
        load("mine")
    assert_one_sentence(raised.value)


@pytest.mark.parametrize("kind", ["in another shape", "lack", "have too"])
def test_weights_that_do_not_fit_are_told_in_one_sentence(mine, kind):
    state = network(4 if kind == "in another shape" else 3).state_dict()
    if kind == "lack":
        del state["0.bias"]
    if kind == "have too":
        state["99.bias"] = torch.zeros(3)
    save_file(state, mine / "weights.safetensors")
    with pytest.raises(
        NetworkError, match=rf"^The weights at .* do not fit mine's architecture: they .*{kind}"
    ) as raised:
        load("mine")
    assert_one_sentence(raised.value)


@pytest.mark.parametrize("content", [[1, 2, 3], {"0.weight": "text"}, torch.zeros(3)], ids=["list", "text", "tensor"])
def test_a_checkpoint_that_holds_no_weights_is_refused(mine, content):
    describe(mine, weights="weights.pth")
    torch.save(content, mine / "weights.pth")
    with pytest.raises(NetworkError, match=r"[Ww]eights") as raised:
        load("mine")
    assert_one_sentence(raised.value)


class Payload:
    """What runs code when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("how", ["pickle", "torch"])
def test_code_in_a_checkpoint_is_not_run(mine, how):
    ran = mine / "ran"
    describe(mine, weights="weights.pth")
    if how == "pickle":
        (mine / "weights.pth").write_bytes(pickle.dumps(Payload(ran), protocol=2))
    else:
        torch.save({"0.weight": Payload(ran)}, mine / "weights.pth")
    with pytest.raises(
        NetworkError, match=r"^The weights at .*weights\.pth hold more than tensors, or are broken: nothing was run"
    ) as raised:
        load("mine")
    assert not ran.exists()
    assert_one_sentence(raised.value)
    pickle.loads(pickle.dumps(Payload(ran)))
    assert ran.exists(), "the payload would have worked"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": {"factory": "nothing"}}, r"^No architecture 'nothing'\. There are .*fashion_convnet"),
        ({"architecture": {}}, r"^No architecture None\. There are .*fashion_convnet"),
        ({"architecture": {"factory": "fashion_convnet", "arguments": {"colour": 1}}}, "colour"),
        ({"architecture": {"factory": "fashion_convnet"}}, "pooling"),
        (
            {"weights": {"package": "no_such_package", "file": "a"}},
            r"in the package no-such-package, which is not installed",
        ),
        (
            {"weights": {"package": "no_such.package", "file": "a"}},
            r"in the package no-such.package, which is not installed",
        ),
        ({"weights": {"package": "inspector", "file": "no.pth"}}, r"^No weights at .*no\.pth"),
        ({"weights": {"package": "inspector"}}, "file"),
        ({"classes": ["a"]}, r"^The network has 3 classes, but 1 names were given"),
        ({"mean": [0, 0, 0]}, r"^mean and std must both have"),
        ({"mean": [0, 0, 0], "std": [1, 1, 1]}, r"cannot run on an input of shape \(1, 3, 28, 28\)"),
        ({"size": 4}, r"cannot run on an input of shape \(1, 1, 4, 4\)"),
    ],
    ids=str,
)
def test_a_description_that_does_not_fit_is_told(mine, changes, message):
    describe(mine, **changes)
    with pytest.raises(NetworkError, match=message) as raised:
        load("mine")
    assert_one_sentence(raised.value)


@pytest.mark.parametrize("name", available())
def test_every_network_that_is_shipped_is_exact_on_its_examples(name):
    classifier = load(name)
    card = available()[name]
    assert classifier.class_names == card.classes
    caption, path = next(iter(examples(card.examples).items()))
    maps = class_maps(classifier, path)
    assert maps.verdict == "exact", caption
    sums = maps.values.sum((1, 2)) + maps.bias
    room = 1e-5 * (maps.values.abs().sum((1, 2)) + maps.bias.abs() + 1)
    assert ((sums - maps.logits).abs() <= room).all()
    assert classifier.head.pooling == ("max" if "gmp" in name else "average")


@pytest.mark.parametrize("name", [name for name in available() if name.startswith("fashion")])
def test_the_examples_of_fashion_mnist_are_recognised(name):
    classifier = load(name)
    files = examples("fashion_mnist")
    hits = [class_maps(classifier, path).top(1)[0][1].replace("/top", "").lower() for path in files.values()]
    right = sum(caption.lower() == hit for caption, hit in zip(files, hits, strict=True))
    assert right >= 8


def idx(path: Path) -> np.ndarray:
    """The array in a gzipped file of the MNIST kind: two zeros, dtype, dimensions, then big-endian sizes."""
    data = gzip.decompress(path.read_bytes())
    assert data[:3] == b"\0\0\x08"
    sizes = np.frombuffer(data, ">i4", count=data[3], offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(sizes)


@pytest.mark.shared
@pytest.mark.parametrize("name", [name for name in available() if name.startswith("fashion")])
def test_the_shipped_networks_reach_the_scores_on_their_cards(shared, name):
    images = idx(shared / "fashion-mnist" / "t10k-images-idx3-ubyte.gz")
    labels = torch.from_numpy(idx(shared / "fashion-mnist" / "t10k-labels-idx1-ubyte.gz").astype(np.int64))
    network = load(name).network
    with torch.no_grad():
        batches = torch.from_numpy(images.copy())[:, None].div(255).split(1000)
        logits = torch.cat([network(batch) for batch in batches])
    order = logits.argsort(1, descending=True)
    scores = available()[name].about["scores"]
    assert len(images) == 10_000
    assert (order[:, 0] == labels).double().mean().item() == pytest.approx(scores["top1"], abs=1e-9)
    assert (order[:, :2] == labels[:, None]).any(1).double().mean().item() == pytest.approx(scores["top2"], abs=1e-9)


@pytest.mark.shared
def test_efficientnet_lite0_knows_what_is_on_imagenet_photos(shared, record_property):
    rows = [line.split("\t") for line in (shared / "imagenet_classes.tsv").read_text().splitlines()]
    index_of = {wnid: int(index) for index, wnid, _ in rows}
    classifier = load("efficientnet_lite0")
    # Where ImageNet gives two classes one name, ours say more.
    assert all(name.split()[0] in ours for (_, _, name), ours in zip(rows, classifier.class_names, strict=True))
    assert len(set(classifier.class_names)) == 1000
    photos = sorted((shared / "imagenet100").glob("*.JPEG"))
    assert len(photos) == 100
    hits = 0
    with torch.no_grad():
        for path in photos:
            inputs = classifier.inputs(make_view(read_image(path), classifier.preprocessing))
            hits += int(classifier.network(inputs).argmax()) == index_of[path.name.split("_")[0]]
    record_property("top1", hits / 100)
    print(f"top-1 of efficientnet_lite0 on {len(photos)} photos: {hits}")
    assert hits >= 80


def test_a_torchvision_network_comes_with_its_own_preprocessing_and_class_names(tmp_path, monkeypatch):
    from torchvision import models

    # Weights that are there already are not fetched: random ones stand where torch.hub keeps the real ones.
    weights = models.SqueezeNet1_1_Weights.DEFAULT
    checkpoints = tmp_path / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    torch.manual_seed(0)
    torch.save(models.squeezenet1_1().state_dict(), checkpoints / Path(weights.url).name)
    classifier = load("torchvision:squeezenet1_1")
    assert classifier.class_names[281] == "tabby"
    assert classifier.preprocessing.size == (224, 224)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8))
    view = make_view(read_image(image), classifier.preprocessing)
    expected = weights.transforms()(image)[None]
    assert torch.allclose(classifier.inputs(view), expected, atol=1e-5)
    assert class_maps(classifier, image).verdict == "exact"


def test_an_unknown_torchvision_network_is_told_with_the_nearest_names():
    with pytest.raises(NetworkError, match=r"torchvision has no classifier 'resnet19'\. Nearest names: resnet18"):
        load("torchvision:resnet19")


def test_weights_that_cannot_be_fetched_are_told_in_one_sentence(tmp_path, monkeypatch):
    def offline(*args: object, **kwargs: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    with pytest.raises(NetworkError, match=r"^The weights of torchvision:resnet18 could not be fetched: ") as raised:
        load("torchvision:resnet18")
    assert_one_sentence(raised.value)
