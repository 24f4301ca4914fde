"""Class names as people have them: files of many kinds, and what libraries keep them in."""

import importlib
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from inspector import Classifier, NetworkError, load
from inspector.cli.options import parse_classes
from inspector.explain.class_names import list_class_names
from inspector.networks.label_presets import PRESETS, find_preset
from inspector.networks.labels import parse_labels, read_labels

NAMES = ("cat", "dog", "crane, bird", "hen")

FILES: dict[str, str] = {
    "lines.txt": "cat\ndog\ncrane, bird\nhen\n",
    "lines": "cat\r\n  dog\r\ncrane, bird\r\nhen\r\n\r\n",
    "marked.txt": "\ufeffcat\ndog\ncrane, bird\nhen",
    "numbered.txt": "0 cat\n1 dog\n2 crane, bird\n3 hen\n",
    "from_one.txt": "1: cat\n2: dog\n3: crane, bird\n4: hen\n",
    "out_of_order.txt": "2,crane, bird\n0,cat\n3,hen\n1,dog\n",
    "tabs.txt": "0\tcat\n1\tdog\n2\tcrane, bird\n3\then\n",
    "heading.csv": 'id,name\n0,cat\n1,dog\n2,"crane, bird"\n3,hen\n',
    "no_heading.csv": '0,cat\n1,dog\n2,"crane, bird"\n3,hen\n',
    "name_first.csv": 'name,index\ncat,0\ndog,1\n"crane, bird",2\nhen,3\n',
    "shuffled.csv": 'index,label\n3,hen\n0,cat\n2,"crane, bird"\n1,dog\n',
    "from_one.csv": "id;label\n1;cat\n2;dog\n3;crane, bird\n4;hen\n",
    "own_heading.csv": 'Nummer,Tier\n0,cat\n1,dog\n2,"crane, bird"\n3,hen\n',
    "more_columns.csv": 'id,wordnet,name\n0,n1,cat\n1,n2,dog\n2,n3,"crane, bird"\n3,n4,hen\n',
    "one_column.csv": 'class\ncat\ndog\n"crane, bird"\nhen\n',
    "commas_inside.csv": "cat\ndog\ncrane, bird\nhen\n",
    "table.tsv": "id\tname\n0\tcat\n1\tdog\n2\tcrane, bird\n3\then\n",
    "empty_lines.csv": 'id,name\n\n0,cat\n1,dog\n\n2,"crane, bird"\n3,hen\n\n',
    "list.json": json.dumps(NAMES),
    "id2label.json": json.dumps(dict(enumerate(NAMES))),
    "class_to_idx.json": json.dumps({name: n for n, name in enumerate(NAMES)}),
    "config.json": json.dumps({"model_type": "resnet", "id2label": dict(enumerate(NAMES)), "label2id": {"cat": 0}}),
    "only_label2id.json": json.dumps({"label2id": {name: n for n, name in enumerate(NAMES)}}),
    "classes.json": json.dumps({"classes": NAMES, "version": 3}),
    "synsets.json": json.dumps({str(n): [f"n0{n}", name] for n, name in enumerate(NAMES)}),
    "dict.txt": "{0: 'cat',\n 1: 'dog',\n 2: 'crane, bird',\n 3: 'hen'}",
    "inverse.txt": "{'hen': 3, 'cat': 0, 'dog': 1, 'crane, bird': 2}",
    "list.txt": "['cat', 'dog', 'crane, bird', 'hen']",
    "json.txt": json.dumps(NAMES),
    "python.json": str(list(NAMES)),
}


@pytest.mark.parametrize("file", FILES)
def test_class_names_are_read_from_the_files_that_people_have(file):
    names = parse_labels(FILES[file].encode(), file)
    assert (names.names, names.source) == (NAMES, file)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_the_mark_of_an_encoding_is_understood(encoding):
    assert parse_labels("Käse\nBröt".encode(encoding), "labels.txt").names == ("Käse", "Bröt")


def test_digits_may_be_names():
    digits = tuple(str(n) for n in range(12))
    assert parse_labels("\n".join(digits).encode(), "digits.txt").names == digits
    assert list_class_names({name: n for n, name in enumerate(sorted(digits))}).names == tuple(sorted(digits))
    assert parse_labels(b"7 series\n3 series\n", "cars.txt").names == ("7 series", "3 series")
    assert parse_labels(b"[unk] thing\ncat\n", "brackets.txt").names == ("[unk] thing", "cat")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("a.csv", "id,name\n0,cat\n1,crane, bird\n2,hen\n", r"^Row 3 of a\.csv has 3 columns, and other rows have 2\."),
        ("a.csv", "english,german\ncat,Katze\ndog,Hund\n", r"not clear which column of a\.csv .*: english, german\."),
        ("a.txt", "{0: 'cat', 2: 'dog'}", r"^a\.txt must map the numbers 0 to 1 to names, .*; got the keys 0, 2\."),
        ("a.json", '{"1": "cat", "2": "dog"}', r"^a\.json must map the numbers 0 to 1 .* got the keys '1', '2'\."),
        ("a.json", '{"cat": 0, "dog": 0}', r"^a\.json must map the numbers 0 to 1"),
        ("a.json", "[null, 3]", r"^a\.json must hold names; got None\."),
        ("a.json", '{"num_labels": 4}', r"^a\.json must map .* got the keys 'num_labels'\."),
        ("a.txt", "{0: open('x')}", r"^a\.txt holds no class names: it is not JSON"),
        ("a.json", "", r"^a\.json holds no class names: it is empty\."),
        ("a.txt", "\n\n", r"^There are no class names in a\.txt\."),
        ("a.csv", "id,name\n", r"^There are no class names in a\.csv\."),
        ("a.csv", "", r"^There are no class names in a\.csv\."),
    ],
)
def test_a_file_that_holds_no_clear_names_is_a_sentence_that_names_it(file, content, message):
    with pytest.raises(NetworkError, match=message):
        parse_labels(content.encode(), file)


CONTAINERS = {
    "a list": list(NAMES),
    "a tuple": NAMES,
    "an array": np.array(NAMES),
    "a generator": lambda: (name for name in NAMES),
    "id2label": dict(enumerate(NAMES)),
    "id2label of JSON": {str(n): name for n, name in enumerate(NAMES)},
    "id2label in another order": {3: "hen", 0: "cat", 2: "crane, bird", 1: "dog"},
    "class_to_idx": {name: n for n, name in enumerate(NAMES)},
    "class_to_idx of NumPy": {name: np.int64(n) for n, name in enumerate(NAMES)},
    "a configuration": SimpleNamespace(id2label=dict(enumerate(NAMES)), hidden_size=3),
    "a data set": SimpleNamespace(classes=list(NAMES), class_to_idx={}),
    "features": SimpleNamespace(names=list(NAMES), num_classes=4),
}


def network(classes: int = 4) -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, classes)
    return nn.Sequential(*layers)


@pytest.mark.parametrize("case", CONTAINERS)
def test_names_are_taken_from_what_libraries_keep_them_in(case):
    given = CONTAINERS[case]
    given = given() if callable(given) else given
    assert Classifier.wrap(network(), given, size=8).class_names == NAMES


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("cat", r"^class_names must be a list of names, .*; got 'cat'\."),
        ({"cat", "dog"}, r"got a set, which has no order\."),
        ({1: "a", 2: "b", 3: "c", 4: "d"}, r"must map the numbers 0 to 3 to names, .*; got the keys 1, 2, 3, 4\."),
        (["a", "b", None, "d"], r"^class_names must hold names; got None\."),
        (["a", "b", "c"], r"^class_names has 3 names, the network 4 classes\. Give one name for each class"),
        (["a"], r"^class_names has 1 name, the network 4 classes\."),
    ],
)
def test_names_that_do_not_fit_are_one_sentence(given, message):
    with pytest.raises(NetworkError, match=message):
        Classifier.wrap(network(), given, size=8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "name\ncat\ndog\nhen\n",
            r"^a\.txt has 4 names, the network 3 classes: line 1 \('name'\) looks like a heading\.",
        ),
        ("cat\n\ndog\n", r"^a\.txt has 2 names, the network 3 classes: line 2 is empty\."),
        ("cat\n\n\ndog\n", r"^a\.txt has 2 names, the network 3 classes: 2 lines are empty\."),
        ("cat\ndog\n", r"^a\.txt has 2 names, the network 3 classes\."),
    ],
)
@pytest.mark.parametrize("arch", ["timm:test_resnet", "torchvision:squeezenet1_1"])
def test_the_number_of_names_does_not_decide_the_number_of_classes(tmp_path, content, message, arch):
    library, _, name = arch.partition(":")
    made = importlib.import_module(library)
    build = made.create_model if library == "timm" else made.models.get_model
    torch.save(build(name, num_classes=3).state_dict(), tmp_path / "m.pth")
    with pytest.raises(NetworkError, match=message):
        load(tmp_path / "m.pth", arch, parse_labels(content.encode(), "a.txt"), size=64)


@pytest.mark.parametrize(
    ("text", "classes"),
    [
        ("crane, bird", ["crane, bird"]),
        ("cat,crane, bird, hen", ["cat", "crane, bird", " hen"]),
        ("Crane, Bird,cat", ["Crane, Bird", "cat"]),
        ("cat, bird", ["cat", " bird"]),
        ("crane", ["crane"]),
        ("0,2", ["0", "2"]),
        ("top3", 3),
    ],
)
def test_commas_inside_a_name_separate_no_classes(text, classes):
    assert parse_classes(text, NAMES) == classes


@pytest.mark.parametrize(
    ("preset", "count", "first", "last"),
    [
        ("ImageNet-1k", 1000, "tench", "toilet tissue"),
        ("CIFAR-10", 10, "airplane", "truck"),
        ("CIFAR-100", 100, "apple", "worm"),
        ("Fashion-MNIST", 10, "T-shirt/top", "Ankle boot"),
        ("MNIST", 10, "0", "9"),
    ],
)
def test_the_names_of_a_data_set_are_at_hand(preset, count, first, last):
    names = find_preset(preset).names
    assert len(set(names)) == len(names)
    assert (len(names), names[0], names[-1]) == (count, first, last)
    assert read_labels(Path(preset.lower())).names == names


def test_every_preset_can_be_named_and_a_file_comes_first(tmp_path, monkeypatch):
    assert all(find_preset(name) is not None for name in PRESETS)
    assert find_preset("ImageNet-22k") is None
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mnist").write_text("a\nb\n")
    assert read_labels(Path("mnist")).names == ("a", "b")
