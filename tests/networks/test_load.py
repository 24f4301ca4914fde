import gzip
import json
import os
import pickle
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from inspector import Classifier, NetworkError, class_maps, class_maps_of_batch, load
from inspector.explain.class_names import ClassNames
from inspector.images.examples import list_examples
from inspector.images.photo import read_image
from inspector.images.preprocessing import Preprocessing, PreprocessingOverrides, make_view
from inspector.networks.build import build
from inspector.networks.builtin import fashion_convnet
from inspector.networks.catalog import list_models
from inspector.networks.labels import read_labels
from inspector.networks.load import resolve

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
    write_card(folder)
    save_file(network().state_dict(), folder / "weights.safetensors")
    return folder


def write_card(folder: Path, **changes: object) -> None:
    (folder / "model.json").write_text(json.dumps(CARD | changes))


def assert_one_sentence(error: Exception) -> None:
    assert "\n" not in str(error)
    assert len(str(error)) < 600


@pytest.mark.parametrize("file", ["weights.safetensors", "weights.pth"])
def test_a_network_is_loaded_with_its_weights(mine, file):
    write_card(mine, weights=file)
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
    write_card(mine, weights=file)
    if file.endswith(".pth"):
        torch.save(network().state_dict(), mine / file)
    data = (mine / file).read_bytes()
    (mine / file).write_bytes(data[:kept])
    with pytest.raises(
        NetworkError, match=r"^The weights at .*mine.weights\.(safetensors|pth) cannot be read: "
    ) as raised:
        load("mine")
    assert_one_sentence(raised.value)


@pytest.mark.parametrize("kind", ["another shape for", "lack", "also have"])
def test_weights_that_do_not_fit_are_reported_in_one_sentence(mine, kind):
    state = network(4 if kind == "another shape for" else 3).state_dict()
    if kind == "lack":
        del state["0.bias"]
    if kind == "also have":
        state["99.bias"] = torch.zeros(3)
    save_file(state, mine / "weights.safetensors")
    with pytest.raises(
        NetworkError, match=rf"^The weights at .* do not fit mine's architecture: they .*{kind}"
    ) as raised:
        load("mine")
    assert_one_sentence(raised.value)


@pytest.mark.parametrize("content", [[1, 2, 3], {"0.weight": "text"}, torch.zeros(3)], ids=["list", "text", "tensor"])
def test_a_checkpoint_that_holds_no_weights_is_refused(mine, content):
    write_card(mine, weights="weights.pth")
    torch.save(content, mine / "weights.pth")
    with pytest.raises(NetworkError, match=r"[Ww]eights") as raised:
        load("mine")
    assert_one_sentence(raised.value)


class Payload:
    """An object that runs code when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("how", ["pickle", "torch"])
def test_code_in_a_checkpoint_is_not_run(mine, how):
    ran = mine / "ran"
    write_card(mine, weights="weights.pth")
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
        ({"architecture": {}}, r"model\.json lacks the entry 'factory'\.$"),
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
        ({"classes": ["a"]}, r"model\.json has 1 name, the network 3 classes\. "),
        ({"mean": [0, 0, 0]}, r"expected a list of 3 numbers for std, got \[1\.0\]\.$"),
        ({"mean": [0, 0, 0], "std": [1, 1, 1]}, r"cannot run on an input of shape \(1, 3, 28, 28\)"),
        ({"size": 4}, r"cannot run on an input of shape \(1, 1, 4, 4\)"),
    ],
    ids=str,
)
def test_a_description_that_does_not_fit_is_reported(mine, changes, message):
    write_card(mine, **changes)
    with pytest.raises(NetworkError, match=message) as raised:
        load("mine")
    assert_one_sentence(raised.value)


@pytest.mark.parametrize("name", list_models())
def test_every_network_that_is_shipped_is_exact_on_its_examples(name):
    classifier = load(name)
    card = list_models()[name]
    assert classifier.class_names == card.classes
    caption, path = next(iter(list_examples(card.examples).items()))
    maps = class_maps(classifier, path)
    assert maps.verdict == "exact", caption
    sums = maps.values.sum((1, 2)) + maps.bias
    room = 1e-5 * (maps.values.abs().sum((1, 2)) + maps.bias.abs() + 1)
    assert ((sums - maps.logits).abs() <= room).all()
    assert classifier.head.pooling == ("max" if "gmp" in name else "average")


@pytest.mark.parametrize("name", [name for name in list_models() if name.startswith("fashion")])
def test_the_examples_of_fashion_mnist_are_recognized(name):
    classifier = load(name)
    files = list_examples("fashion_mnist")
    hits = [class_maps(classifier, path).top(1)[0][1].replace("/top", "").lower() for path in files.values()]
    right = sum(caption.lower() == hit for caption, hit in zip(files, hits, strict=True))
    assert right >= 8


def read_idx(path: Path) -> np.ndarray:
    """The array in a gzipped file of the MNIST kind: two zeros, dtype, dimensions, then big-endian sizes."""
    data = gzip.decompress(path.read_bytes())
    assert data[:3] == b"\0\0\x08"
    sizes = np.frombuffer(data, ">i4", count=data[3], offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(sizes)


@pytest.mark.shared
@pytest.mark.parametrize("name", [name for name in list_models() if name.startswith("fashion")])
def test_the_shipped_networks_reach_the_scores_on_their_cards(shared, name):
    images = read_idx(shared / "fashion-mnist" / "t10k-images-idx3-ubyte.gz")
    labels = torch.from_numpy(read_idx(shared / "fashion-mnist" / "t10k-labels-idx1-ubyte.gz").astype(np.int64))
    network = load(name).network
    with torch.no_grad():
        batches = torch.from_numpy(images.copy())[:, None].div(255).split(1000)
        logits = torch.cat([network(batch) for batch in batches])
    order = logits.argsort(1, descending=True)
    scores = list_models()[name].about["scores"]
    assert len(images) == 10_000
    assert (order[:, 0] == labels).double().mean().item() == pytest.approx(scores["top1"], abs=1e-9)
    assert (order[:, :2] == labels[:, None]).any(1).double().mean().item() == pytest.approx(scores["top2"], abs=1e-9)


@pytest.mark.shared
def test_efficientnet_lite0_knows_what_is_on_imagenet_photos(shared, record_property):
    rows = [line.split("\t") for line in (shared / "imagenet_classes.tsv").read_text().splitlines()]
    index_of = {wnid: int(index) for index, wnid, _ in rows}
    classifier = load("efficientnet_lite0")
    # Where two classes of ImageNet have the same name, ours are more specific.
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

    # Cached weights are not downloaded: put random ones where torch.hub keeps the real ones.
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


def test_an_unknown_torchvision_network_is_reported_with_the_nearest_names():
    with pytest.raises(NetworkError, match=r"torchvision has no classifier 'resnet19'\. Nearest names: resnet18"):
        load("torchvision:resnet19")


def test_weights_that_cannot_be_downloaded_are_reported_in_one_sentence(tmp_path, monkeypatch):
    def offline(*args: object, **kwargs: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    with pytest.raises(NetworkError, match=r"^The weights of torchvision:resnet18 could not be fetched: ") as raised:
        load("torchvision:resnet18")
    assert_one_sentence(raised.value)


# --- a checkpoint with the name of its architecture


def save_checkpoint(folder: Path, arch: str, classes: int = 3, file: str = "mine.pth") -> tuple[Path, torch.nn.Module]:
    """Save random weights of an architecture; return the file and the network."""
    torch.manual_seed(0)
    built = build(arch, classes)
    torch.save(built.state_dict(), folder / file)
    return folder / file, built


@pytest.mark.parametrize(
    ("arch", "size", "mean", "resize"),
    [
        # torchvision resizes to 256 and crops to 224 for it; timm crops 160 pixels, 0.95 of the photo's shorter side.
        ("torchvision:shufflenet_v2_x0_5", 224, (0.485, 0.456, 0.406), 256),
        ("timm:test_resnet", 160, (0.5, 0.5, 0.5), 168),
    ],
)
def test_a_checkpoint_is_loaded_into_its_architecture_with_the_classes_of_its_weights(
    tmp_path, arch, size, mean, resize
):
    path, built = save_checkpoint(tmp_path, arch, 5)
    classifier = load(path, arch=arch)
    assert classifier.name == "mine"
    assert classifier.class_names == tuple(f"class {k}" for k in range(5))
    assert (classifier.preprocessing.size, classifier.preprocessing.resize) == ((size, size), (resize, resize))
    assert classifier.preprocessing.mean == mean
    inputs = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    (maps,) = class_maps_of_batch(classifier, inputs)
    torch.testing.assert_close(maps.logits, built(inputs)[0].detach())
    assert maps.verdict == "exact"


def test_a_checkpoint_without_an_architecture_is_refused_with_advice(tmp_path):
    path = tmp_path / "mine.pth"
    torch.save({"unlike.weight": torch.zeros(3, 3)}, path)
    with pytest.raises(
        NetworkError,
        match=r"mine\.pth holds weights and no architecture\. Name it with --arch \(arch=",
    ) as raised:
        load(path)
    assert_one_sentence(raised.value)


LABELS = {
    "lines.txt": "tench\n  goldfish \n\ngreat white shark\n",
    "marked.txt": "\ufefftench\r\ngoldfish\r\ngreat white shark",
    "list.json": '["tench", "goldfish", "great white shark"]',
    "numbers.json": '{"1": "goldfish", "0": "tench", "2": "great white shark"}',
    "imagenet.json": '{"0": ["n01440764", "tench"], "1": ["n01443537", "goldfish"], '
    '"2": ["n01484850", "great white shark"]}',
    "pairs.JSON": '[["n01440764", "tench"], ["n01443537", "goldfish"], ["n01484850", "great white shark"]]',
}


@pytest.mark.parametrize("file", LABELS)
def test_class_names_are_read_from_common_file_formats(tmp_path, file):
    (tmp_path / file).write_text(LABELS[file], encoding="utf-8")
    names = read_labels(tmp_path / file)
    assert names.names == ("tench", "goldfish", "great white shark")
    path, _ = save_checkpoint(tmp_path, "timm:test_resnet")
    assert load(path, "timm:test_resnet", names, size=64).class_names == names.names


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("labels.txt", b"", r"^There are no class names in labels\.txt\. Use one name per line, or a JSON list\.$"),
        ("labels.txt", b"\n \n", r"^There are no class names in "),
        ("labels.txt", b"caf\xe9\n", r"^labels\.txt is not text in UTF-8 \(byte 3 is no UTF-8\)\. Save it as UTF-8\."),
        ("labels.json", b"[]", r"^There are no class names in "),
        ("labels.json", b"{}", r"^There are no class names in "),
        ("labels.json", b"a\nb", r"^labels\.json holds no class names: it is not JSON "),
        ("labels.json", b'{"1": "a", "2": "b"}', r"must map the numbers 0 to 1 to names, .*; got the keys '1', '2'\.$"),
        ("labels.json", b'{"cat": 0, "dog": 2}', r"must map the numbers 0 to 1 to names, or names to these numbers"),
        ("labels.json", b"3", r"^labels\.json must be a list of names, .*; got 3\.$"),
        ("labels.json", b"[[]]", r"^labels\.json must hold names; got \[\]\.$"),
    ],
)
def test_a_broken_labels_file_is_reported_in_one_sentence(tmp_path, file, content, message):
    (tmp_path / file).write_bytes(content)
    with pytest.raises(NetworkError, match=message) as raised:
        read_labels(tmp_path / file)
    assert_one_sentence(raised.value)


def test_a_labels_file_that_is_not_there_is_reported(tmp_path):
    with pytest.raises(NetworkError, match=r"^The labels in .*nothing\.txt cannot be read: .*No such file"):
        read_labels(tmp_path / "nothing.txt")


def test_a_wrong_number_of_class_names_is_reported_as_such(tmp_path):
    path, _ = save_checkpoint(tmp_path, "timm:test_resnet")
    with pytest.raises(NetworkError, match=r"^class_names has 2 names, the network 3 classes\. "):
        load(path, "timm:test_resnet", ["a", "b"], size=64)


USUAL = Preprocessing((224, 320), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), (256, 400), "bicubic")


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (PreprocessingOverrides(), USUAL),
        # Half the size in both directions, so half the resize too.
        (PreprocessingOverrides((112, 160)), replace(USUAL, size=(112, 160), resize=(128, 200))),
        # 256 * 336 / 224 and 400 * 336 / 320.
        (PreprocessingOverrides(336), replace(USUAL, size=(336, 336), resize=(384, 420))),
        (PreprocessingOverrides((224, 320)), USUAL),
        (PreprocessingOverrides((112, 160), resize=(112, 161)), replace(USUAL, size=(112, 160), resize=(112, 161))),
        (PreprocessingOverrides(resize=400), replace(USUAL, resize=(400, 400))),
        (PreprocessingOverrides(resize="squeeze"), replace(USUAL, resize=None)),
        (PreprocessingOverrides(100, resize="squeeze"), replace(USUAL, size=(100, 100), resize=None)),
        (PreprocessingOverrides(mean=[0, 0, 0], std=[1, 1, 1]), replace(USUAL, mean=(0, 0, 0), std=(1, 1, 1))),
        (PreprocessingOverrides(mean=[0.5], std=[0.5]), replace(USUAL, mean=(0.5,), std=(0.5,))),
        (PreprocessingOverrides(interpolation="bilinear"), replace(USUAL, interpolation="bilinear")),
    ],
)
def test_overrides_replace_the_default_preprocessing_and_keep_the_share_of_the_crop(overrides, expected):
    assert overrides.apply_to(USUAL) == expected


def test_a_photo_that_is_squeezed_stays_so_at_another_size():
    assert PreprocessingOverrides(100).apply_to(replace(USUAL, resize=None)) == replace(
        USUAL, size=(100, 100), resize=None
    )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            PreprocessingOverrides(resize=250),
            r"^A photo that is scaled to 250x250 cannot be cropped to 224x320\. Use that size or",
        ),
        (
            PreprocessingOverrides(500, resize=(600, 499)),
            r"^A photo that is scaled to 600x499 cannot be cropped to 500x500\. ",
        ),
        (
            PreprocessingOverrides(std=(1, 0, 1)),
            r"^mean and std must be numbers, std above 0; got \(0\.1, 0\.2, 0\.3\) and \(1\.0, 0\.0, 1",
        ),
        (PreprocessingOverrides(std=(-1, 1, 1)), r"^mean and std must be numbers, std above 0; "),
        (
            PreprocessingOverrides(mean=(float("nan"), 0, 0)),
            r"^mean and std must be numbers, std above 0; got \(nan, 0\.0, 0\.0\) and ",
        ),
        (PreprocessingOverrides(std=(float("inf"), 1, 1)), r"^mean and std must be numbers, std above 0; "),
    ],
)
def test_impossible_overrides_are_reported(overrides, message):
    with pytest.raises(NetworkError, match=message) as raised:
        overrides.apply_to(USUAL)
    assert_one_sentence(raised.value)


def test_a_checkpoint_uses_the_given_preprocessing(tmp_path):
    path, _ = save_checkpoint(tmp_path, "timm:test_resnet")
    settings = {
        "size": (64, 96),
        "mean": [0, 0.5, 1],
        "std": [1, 0.5, 2],
        "resize": "squeeze",
        "interpolation": "bicubic",
    }
    classifier = load(path, "timm:test_resnet", **settings)
    assert classifier.preprocessing == Preprocessing((64, 96), (0, 0.5, 1), (1, 0.5, 2), None, "bicubic")
    # White is 1 in each channel: (1 - mean) / std.
    inputs = classifier.inputs(make_view(read_image(np.full((9, 7, 3), 255, np.uint8)), classifier.preprocessing))
    expected = torch.tensor([1.0, 1, 0]).view(3, 1, 1).expand(3, 64, 96)
    torch.testing.assert_close(inputs[0], expected)
    with pytest.raises(NetworkError, match=r"^mean and std must both have one value per channel of the"):
        load(path, "timm:test_resnet", size=64, mean=[0.5])


def test_the_resize_override_is_checked_against_the_size_of_the_architecture(tmp_path):
    path, _ = save_checkpoint(tmp_path, "timm:test_resnet")
    # timm's size for it is 160; without a size of its own it would be 224.
    assert load(path, "timm:test_resnet", resize=180).preprocessing.resize == (180, 180)
    with pytest.raises(NetworkError, match=r"^A photo that is scaled to 159x159 cannot be cropped to 160x160\. "):
        load(path, "timm:test_resnet", resize=159)


def test_a_network_in_models_uses_the_given_preprocessing_and_class_names(mine):
    settings = {"mean": [0.5], "std": [0.25], "resize": 32, "interpolation": "bicubic", "probability": "sigmoid"}
    classifier = load("mine", class_names=["x", "y", "z"], **settings)
    assert classifier.preprocessing == Preprocessing((28, 28), (0.5,), (0.25,), (32, 32), "bicubic")
    assert (classifier.class_names, classifier.probability) == (("x", "y", "z"), "sigmoid")
    # 28 is the whole photo, so 56 is too.
    assert load("mine", size=56).preprocessing == replace(load("mine").preprocessing, size=(56, 56), resize=(56, 56))
    assert load("mine", size=56, resize="squeeze").preprocessing.resize is None
    with pytest.raises(NetworkError, match=r"^class_names has 1 name, the network 3 classes\. "):
        load("mine", class_names=["x"])


def test_a_network_in_models_is_found_though_a_file_has_its_name(mine, monkeypatch, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine").write_text("a file that happens to have the name")
    monkeypatch.chdir(elsewhere)
    assert load("mine").class_names == ("a", "b", "c")


@pytest.mark.parametrize(("probability", "expected"), [(None, "sigmoid"), ("softmax", "softmax")])
def test_a_network_of_one_logit_has_probabilities_by_sigmoid_by_default(tmp_path, probability, expected):
    path, built = save_checkpoint(tmp_path, "timm:test_resnet", 1)
    classifier = load(path, "timm:test_resnet", ["cat"], size=64, probability=probability)
    assert (classifier.probability, classifier.class_names) == (expected, ("cat",))
    inputs = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    (maps,) = class_maps_of_batch(classifier, inputs)
    logit = built(inputs)[0].detach()
    torch.testing.assert_close(maps.probabilities, logit.sigmoid() if probability is None else torch.ones(1))


def test_a_network_that_ends_in_a_sigmoid_is_loaded_with_it(tmp_path, monkeypatch):
    (tmp_path / "ends_in_sigmoid.py").write_text(
        "from torch import nn\n"
        "def build(num_classes):\n"
        "    layers = nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes)\n"
        "    return nn.Sequential(*layers, nn.Sigmoid())\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    arch = "ends_in_sigmoid:build"
    torch.manual_seed(0)
    state = build(arch, 3, trust=True).state_dict()
    save_file(state, tmp_path / "mine.safetensors")
    with pytest.raises(NetworkError, match=r"^'ends_in_sigmoid:build' would run the code of the module ends_in_sig"):
        load(tmp_path / "mine.safetensors", arch)
    classifier = load(tmp_path / "mine.safetensors", arch, size=8, trust=True)
    assert (classifier.probability, len(classifier.class_names)) == ("sigmoid", 3)
    inputs = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    (maps,) = class_maps_of_batch(classifier, inputs)
    torch.testing.assert_close(maps.probabilities, classifier.network(inputs)[0].detach())
    torch.testing.assert_close(maps.logits.sigmoid(), maps.probabilities)


def test_a_timm_network_comes_with_its_own_preprocessing_and_class_names(monkeypatch):
    import timm

    torch.manual_seed(0)
    made = timm.create_model("test_resnet.r160_in1k", pretrained=False)
    asked = []

    def create(name: str, pretrained: bool) -> torch.nn.Module:
        asked.append((name, pretrained))
        return made

    monkeypatch.setattr(timm, "create_model", create)
    classifier = load("timm:test_resnet.r160_in1k")
    assert asked == [("test_resnet.r160_in1k", True)]
    assert (classifier.name, len(classifier.class_names)) == ("timm:test_resnet.r160_in1k", 1000)
    assert classifier.class_names[1].startswith("goldfish")
    assert classifier.preprocessing == Preprocessing((160, 160), (0.5,) * 3, (0.5,) * 3, (168, 168), "bilinear")
    again = load("timm:test_resnet.r160_in1k", class_names=[f"{k}" for k in range(1000)], size=80, resize="squeeze")
    assert (again.class_names[7], again.preprocessing.size, again.preprocessing.resize) == ("7", (80, 80), None)


def test_timms_weights_that_cannot_be_downloaded_are_reported_in_one_sentence(monkeypatch):
    import timm

    def offline(*args: object, **kwargs: object) -> None:
        raise RuntimeError("offline\nand more of it")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(
        NetworkError, match=r"^The weights of timm:test_resnet could not be fetched: offline and more of it\.$"
    ) as raised:
        load("timm:test_resnet")
    assert_one_sentence(raised.value)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("timm:test_resnet", "ResNet"), ("cifar_resnet", "CifarResNet"), ("mine", "Sequential")],
)
def test_a_network_to_describe_needs_no_weights_of_a_library(mine, monkeypatch, name, kind):
    monkeypatch.setattr("inspector.networks.load.build_pretrained", None)
    loaded = resolve(name, overrides=PreprocessingOverrides((32, 48)), allow_untrained=True)
    assert (type(loaded.network).__name__, loaded.preprocessing.size) == (kind, (32, 48))


def test_a_users_factory_is_described_only_with_trust(tmp_path, monkeypatch):
    (tmp_path / "my_backbone.py").write_text("from torch import nn\nbackbone = nn.Conv2d(3, 4, 3)\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NetworkError, match=r"^'my_backbone:backbone' would run the code of the module my_backbone\. "):
        resolve("my_backbone:backbone", allow_untrained=True)
    loaded = resolve("my_backbone:backbone", trust=True, allow_untrained=True)
    assert (type(loaded.network).__name__, loaded.preprocessing.size) == ("Conv2d", (224, 224))


def test_resolve_and_from_network_together_are_load(mine):
    loaded = resolve("mine", overrides=PreprocessingOverrides(56, resize="squeeze"))
    assert (loaded.name, loaded.trained_size) == ("mine", (28, 28))
    assert isinstance(loaded.class_names, ClassNames)
    assert loaded.class_names.names == ("a", "b", "c")
    two_steps, one_step = Classifier.from_network(loaded), load("mine", size=56, resize="squeeze")
    assert two_steps.preprocessing == one_step.preprocessing == loaded.preprocessing
    assert two_steps.receptive_field == one_step.receptive_field
    assert two_steps.sha256() == one_step.sha256()


def test_a_measured_cell_center_replaces_that_of_the_receptive_field_and_keeps_its_size(mine):
    loaded = resolve("mine")
    traced = Classifier.from_network(loaded).receptive_field
    measured = Classifier.from_network(replace(loaded, cell_center=(1.5, 2.5))).receptive_field
    assert (measured.y, measured.x) == (replace(traced.y, centre=1.5), replace(traced.x, centre=2.5))
