"""Folders of Hugging Face's transformers: weights, preprocessing and class names, or a sentence on what is missing."""

import importlib
import json
from pathlib import Path

import pytest
import torch

from inspector import NetworkError, class_maps_of_batch, load
from inspector.entries import Entries
from inspector.images.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from inspector.networks import huggingface
from inspector.networks.load import resolve

HALF, IMAGENET = (0.5, 0.5, 0.5), (IMAGENET_MEAN, IMAGENET_STD)


@pytest.fixture(autouse=True)
def no_trial(monkeypatch):
    """Files of our own need no process of their own."""
    monkeypatch.setenv("INSPECTOR_ISOLATION", "off")


@pytest.fixture
def transformers():
    return importlib.import_module("transformers")


def make_network(transformers, kind: str = "ResNet", classes: int = 3) -> torch.nn.Module:
    labels = dict(enumerate(["tench", "goldfish", "great white shark", "tiger shark"][:classes]))
    shape = {"hidden_sizes": [8, 16, 16, 16], "depths": [1, 1, 1, 1]}
    shape |= {"embedding_size": 8} if kind == "ResNet" else {}
    config = getattr(transformers, f"{kind}Config")(
        **shape, id2label=labels, label2id={name: k for k, name in labels.items()}
    )
    torch.manual_seed(0)
    return transformers.AutoModelForImageClassification.from_config(config).eval()


PROCESSOR = {"size": {"shortest_edge": 72}, "crop_size": {"height": 64, "width": 64}, "do_center_crop": True,
             "image_mean": HALF, "image_std": HALF, "resample": 3}  # fmt: skip


def write_folder(folder: Path, network: torch.nn.Module, processor: dict | None = None, pickled: bool = False) -> Path:
    network.save_pretrained(folder)
    if pickled:
        (folder / "model.safetensors").unlink()
        torch.save(network.state_dict(), folder / "pytorch_model.bin")
    if processor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


@pytest.mark.parametrize("kind", ["ResNet", "ConvNext"])
@pytest.mark.parametrize("pickled", [False, True])
def test_a_folder_is_loaded_with_weights_preprocessing_and_names(transformers, tmp_path, kind, pickled):
    network = make_network(transformers, kind)
    folder = write_folder(tmp_path / "mine", network, PROCESSOR, pickled)
    classifier = load(folder)
    assert classifier.preprocessing == Preprocessing((64, 64), HALF, HALF, (72, 72), "bicubic")
    assert (classifier.name, classifier.class_names) == ("mine", ("tench", "goldfish", "great white shark"))
    inputs = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = network(inputs).logits
    for maps, logits in zip(class_maps_of_batch(classifier, inputs), expected, strict=True):
        torch.testing.assert_close(maps.logits, logits)
    assert load(str(folder), class_names=["a", "b", "c"], size=96).preprocessing.size == (96, 96)


def test_sharded_weights_are_joined(transformers, tmp_path):
    network = make_network(transformers)
    folder = tmp_path / "mine"
    network.save_pretrained(folder, max_shard_size="5KB")
    assert len(huggingface.list_weight_files(folder)) > 1
    loaded = resolve(folder).network.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in network.state_dict().items())


def test_a_folder_without_a_processor_says_what_is_assumed(transformers, tmp_path):
    loaded = resolve(write_folder(tmp_path / "mine", make_network(transformers)))
    assert loaded.preprocessing == Preprocessing((224, 224), *IMAGENET, (224, 224))
    assert loaded.notes[0].startswith("The folder has no preprocessor_config.json: mean and std are those of ImageNet")


def test_weights_of_another_network_are_refused(transformers, tmp_path):
    folder = write_folder(tmp_path / "mine", make_network(transformers))
    state = make_network(transformers).state_dict()
    del state["classifier.1.weight"]
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    with pytest.raises(NetworkError, match=r"do not fit its config\.json: they lack classifier\.1\.weight\.$"):
        load(folder)


def test_a_config_of_a_large_network_takes_no_memory(transformers, tmp_path):
    folder = write_folder(tmp_path / "mine", make_network(transformers))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_sizes": [8192] * 4}))
    with pytest.raises(
        NetworkError, match=r"has [\d,]+ parameters, and the weights [\d,]+\. They do not belong together"
    ):
        load(folder)


def test_multilabel_networks_have_sigmoid(transformers, tmp_path):
    folder = write_folder(tmp_path / "mine", make_network(transformers), PROCESSOR)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"problem_type": "multi_label_classification"}))
    assert resolve(folder).output_activation == "sigmoid"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", r"config\.json cannot be read: it is not JSON"),
        ("[1]", r"config\.json cannot be read: expected an object"),
        ("{}", r"config\.json lacks the entry 'model_type'"),
        ('{"model_type": "resnet", "auto_map": {"AutoModel": "mine.py"}}', r"needs code of its own .*which is not run"),
        (
            '{"architecture": "resnet18", "num_classes": 3}',
            r"is a network of timm\. Load its weights: .* timm:resnet18",
        ),
        (
            '{"model_type": "resnet"}',
            r"has a config\.json and no weights\. Expected model\.safetensors or pytorch_model",
        ),
    ],
)
def test_a_broken_folder_is_one_sentence(tmp_path, config, message):
    (tmp_path / "config.json").write_text(config)
    if "no weights" not in message:
        torch.save({"a": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(NetworkError, match=message) as raised:
        load(tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ({"size": 224}, Preprocessing((224, 224), *IMAGENET, None)),
        ({"size": {"height": 200, "width": 300}}, Preprocessing((200, 300), *IMAGENET, None)),
        ({"size": {"shortest_edge": 256}, "crop_size": 224, "do_center_crop": True},
         Preprocessing((224, 224), *IMAGENET, (256, 256))),
        ({"size": {"shortest_edge": 224}, "crop_pct": 0.875, "resample": 3},
         Preprocessing((224, 224), *IMAGENET, (256, 256), "bicubic")),
        ({"size": {"shortest_edge": 384}, "crop_pct": 0.875}, Preprocessing((384, 384), *IMAGENET, None)),
        ({"size": 8, "image_mean": [*HALF], "image_std": [*HALF]}, Preprocessing((8, 8), HALF, HALF, None)),
        ({"size": 8, "do_normalize": False}, Preprocessing((8, 8), (0.0,) * 3, (1.0,) * 3, None)),
        ({"size": 8, "do_normalize": False, "do_rescale": False},
         Preprocessing((8, 8), (0.0,) * 3, (1 / 255,) * 3, None)),
        ({"size": 8, "image_mean": [1, 1, 1], "image_std": [2, 2, 2], "rescale_factor": 2 / 255},
         Preprocessing((8, 8), HALF, (1.0,) * 3, None)),
    ],
)  # fmt: skip
def test_the_image_processor_is_read(entries, expected):
    got, notes = huggingface._parse_processor(Entries(entries))
    assert (got.size, got.resize, got.interpolation) == (expected.size, expected.resize, expected.interpolation)
    assert got.mean == pytest.approx(expected.mean)
    assert got.std == pytest.approx(expected.std)
    assert notes == ()
