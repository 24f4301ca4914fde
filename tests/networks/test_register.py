import errno
import importlib
import json
import os
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from inspector import Classifier, HeadError, NetworkError, class_maps_of_batch, describe, load
from inspector.errors import ExportError
from inspector.explain.kinds import OutputChoice
from inspector.images.preprocessing import PreprocessingOverrides
from inspector.networks.build import build
from inspector.networks.catalog import list_models, read_model_card, shipped_models
from inspector.networks.keras_model import import_keras
from inspector.networks.register import add_model

SIZE = (64, 64)
ABC = ("a", "b", "c")

MODULE = """
from torch import nn

def build(classes):
    layers = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes)
    return nn.Sequential(*layers)

def bent():
    return nn.Sequential(nn.Conv2d(3, 3, 3), nn.Flatten(0))
"""


@pytest.fixture
def models(tmp_path, monkeypatch) -> Path:
    """A models/ folder that does not exist yet."""
    folder = tmp_path / "models"
    monkeypatch.setenv("INSPECTOR_MODELS", str(folder))
    return folder


@pytest.fixture
def own_module(tmp_path, monkeypatch) -> str:
    """The name of a module of the user's own."""
    (tmp_path / "my_networks_to_add.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "my_networks_to_add"


def build_network(arch: str, classes: int | None = 3) -> nn.Module:
    torch.manual_seed(0)
    return build(arch, classes)


def save_state(network: nn.Module, path: Path, prefix: str = "") -> Path:
    torch.save({f"{prefix}{name}": tensor for name, tensor in network.state_dict().items()}, path)
    return path


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def assert_added(folder: Path, name: str, network: nn.Module, shape: tuple[int, ...]) -> Classifier:
    """Check that it is listed and, loaded by its name, gives the logits of the added network; return the classifier."""
    assert folder.name == name
    assert name in list_models()
    names = {path.name for path in folder.parent.iterdir()}
    assert names == set(list_models()) - {path.name for path in shipped_models().iterdir()}, "nothing half finished"
    classifier = load(name)
    inputs = noise(2, *shape)
    with torch.no_grad():
        expected = network(inputs)
    for maps, logits in zip(class_maps_of_batch(classifier, inputs), expected, strict=True):
        torch.testing.assert_close(maps.logits, logits)
    return classifier


def assert_nothing_is_left(models: Path) -> None:
    assert not models.exists() or list(models.iterdir()) == []


@pytest.mark.parametrize("arch", ["torchvision:squeezenet1_1", "timm:test_resnet"])
def test_a_state_dict_is_added_and_loads_by_its_name(models, tmp_path, arch):
    network = build_network(arch)
    folder, added = add_model(
        save_state(network, tmp_path / "mine.pth"), "mine", arch, ABC, PreprocessingOverrides(SIZE)
    )
    classifier = assert_added(folder, "mine", network, (3, *SIZE))
    assert (classifier.name, classifier.class_names, classifier.head.verdict) == ("mine", ABC, "exact")
    assert classifier.preprocessing == added.preprocessing
    assert classifier.sha256() == added.sha256()
    assert sorted(path.name for path in folder.iterdir()) == ["model.json", "weights.safetensors"]
    assert folder.stat().st_mode & 0o777 == 0o755
    assert list_models()["mine"].title == f"mine.pth, {arch}"


def test_a_training_checkpoint_of_a_parallel_network_is_added_as_plain_weights(models, tmp_path):
    network = build_network("timm:test_resnet")
    state = {f"module.{name}": tensor for name, tensor in network.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state, "optimizer": {}}, tmp_path / "last.ckpt")
    # The number of classes is that of the weights.
    folder, added = add_model(
        tmp_path / "last.ckpt", "mine", "timm:test_resnet", overrides=PreprocessingOverrides(SIZE), title="Mine"
    )
    classifier = assert_added(folder, "mine", network, (3, *SIZE))
    assert classifier.class_names == added.class_names == ("class 0", "class 1", "class 2")
    assert list_models()["mine"].title == "Mine"


def test_weights_that_share_memory_are_added(models, tmp_path):
    network = build_network("timm:test_resnet")
    state = network.state_dict()
    state["bn1.bias"] = state["bn1.weight"]
    network.load_state_dict(state)
    torch.save(state, tmp_path / "tied.pth")
    folder, _ = add_model(tmp_path / "tied.pth", "tied", "timm:test_resnet", ABC, PreprocessingOverrides(SIZE))
    assert_added(folder, "tied", network, (3, *SIZE))


def test_one_of_our_own_architectures_is_added(models, tmp_path):
    network = build_network("cifar_resnet", 10)
    folder, _ = add_model(
        save_state(network, tmp_path / "resnet20.pth"), "cifar", "cifar_resnet", overrides=PreprocessingOverrides(32)
    )
    classifier = assert_added(folder, "cifar", network, (3, 32, 32))
    # Strides of 2 after the first and the second stage.
    assert classifier.head.branches[0].grid == (8, 8)
    assert classifier.head.classes == 10


def test_preprocessing_overrides_are_saved(models, tmp_path):
    network = build_network("timm:test_resnet")
    overrides = PreprocessingOverrides((64, 96), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), (80, 112), "bicubic")
    add_model(save_state(network, tmp_path / "mine.pth"), "mine", "timm:test_resnet", ABC, overrides)
    recipe = load("mine").preprocessing
    assert (recipe.size, recipe.resize, recipe.interpolation) == ((64, 96), (80, 112), "bicubic")
    assert (recipe.mean, recipe.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    add_model(
        tmp_path / "mine.pth", "squeezed", "timm:test_resnet", ABC, PreprocessingOverrides(SIZE, resize="squeeze")
    )
    assert load("squeezed").preprocessing.resize is None


def test_class_names_of_other_alphabets_are_saved(models, tmp_path):
    names = ("Kaķis", "猫", 'a "cat"\\')
    add_model(
        save_state(build_network("timm:test_resnet"), tmp_path / "mine.pth"),
        "mine",
        "timm:test_resnet",
        names,
        PreprocessingOverrides(SIZE),
    )
    assert load("mine").class_names == names


@pytest.mark.parametrize("size", [None, (5, 6)])
def test_an_onnx_file_is_copied(models, tmp_path, size):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()
    path = write_onnx(network, tmp_path / "mine.onnx")
    folder, added = add_model(path, "mine", class_names=ABC, overrides=PreprocessingOverrides(size))
    classifier = assert_added(folder, "mine", network, (3, 5, 6))
    assert (folder / "network.onnx").read_bytes() == path.read_bytes()
    assert classifier.class_names == ABC
    assert classifier.preprocessing.size == added.preprocessing.size == (5, 6)
    assert classifier.receptive_field == added.receptive_field


def write_onnx(network: nn.Sequential, path: Path, **how: object) -> Path:
    """A convolution, a global average pooling, a Linear, for images of 5 x 6."""
    helper, (conv, _, _, linear) = onnx.helper, network
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["maps"]),
        helper.make_node("GlobalAveragePool", ["maps"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "v", "c"], ["y"], transB=1),
    ]
    values = {"w": conv.weight, "b": conv.bias, "v": linear.weight, "c": linear.bias}
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 3, 5, 6])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(tensor.detach().numpy(), name) for name, tensor in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(model, path, **how)
    return path


def test_an_onnx_file_with_its_weights_in_other_files_is_refused_because_it_would_not_load_again(models, tmp_path):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()
    beside = {"save_as_external_data": True, "location": "weights.bin", "size_threshold": 0}
    path = write_onnx(network, tmp_path / "mine.onnx", **beside)
    assert load(path).head.verdict == "exact"
    with pytest.raises(
        NetworkError, match=r"^.*mine\.onnx keeps its weights in other files, .*onnx\.save\(onnx\.load\(path\), path\)"
    ):
        add_model(path, "mine")
    assert_nothing_is_left(models)
    # The advice in the message works.
    onnx.save(onnx.load(path), path)
    folder, _ = add_model(path, "mine")
    assert_added(folder, "mine", network, (3, 5, 6))


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_keras_file_is_copied(models, tmp_path, suffix):
    keras = import_keras("the tests")
    keras.utils.set_random_seed(0)
    layers = keras.layers
    inside = [layers.Conv2D(4, 3, activation="relu"), layers.GlobalAveragePooling2D(), layers.Dense(3)]
    keras.Sequential([keras.Input((5, 6, 3)), *inside]).save(tmp_path / f"mine{suffix}")
    folder, added = add_model(tmp_path / f"mine{suffix}", "mine", class_names=ABC)
    classifier = assert_added(folder, "mine", added.network, (3, 5, 6))
    assert (folder / f"network{suffix}").read_bytes() == (tmp_path / f"mine{suffix}").read_bytes()
    assert (classifier.class_names, classifier.preprocessing.size) == (ABC, (5, 6))


@pytest.mark.parametrize("name", ["", ".hidden", "-x", "a/b", "..", "a b", "ä", "a\nb", "x" * 101])
def test_a_strange_name_is_refused(models, tmp_path, name):
    path = save_state(build_network("timm:test_resnet"), tmp_path / "mine.pth")
    with pytest.raises(
        NetworkError, match=r"^'.*' cannot be a network's name\. Use up to 100 letters, digits, .* digit\.$"
    ) as raised:
        add_model(path, name, "timm:test_resnet", ABC, PreprocessingOverrides(SIZE))
    assert "\n" not in str(raised.value)
    assert_nothing_is_left(models)


@pytest.mark.parametrize("name", ["mine.pth", "mine.ONNX", "v1.tar"])
def test_a_name_that_looks_like_a_file_is_refused(models, tmp_path, name):
    path = save_state(build_network("timm:test_resnet"), tmp_path / "mine.pth")
    with pytest.raises(NetworkError, match=r"cannot be a network's name, because it looks like a file\. Leave out the"):
        add_model(path, name, "timm:test_resnet", ABC, PreprocessingOverrides(SIZE))
    assert_nothing_is_left(models)


def test_a_name_in_use_is_refused_and_its_network_stays(models, tmp_path):
    path = save_state(build_network("timm:test_resnet"), tmp_path / "mine.pth")
    folder, _ = add_model(path, "mine", "timm:test_resnet", ABC, PreprocessingOverrides(SIZE))
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(NetworkError, match=r"^There is a network 'mine' already, in .*mine\. Choose another name, or"):
        add_model(path, "mine", "timm:test_resnet", ("x", "y", "z"), PreprocessingOverrides(SIZE))
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_a_network_in_models_has_precedence_over_a_file_of_the_same_name(models, tmp_path, monkeypatch):
    network = build_network("timm:test_resnet")
    folder, _ = add_model(
        save_state(network, tmp_path / "mine.pth"), "mine", "timm:test_resnet", ABC, PreprocessingOverrides(SIZE)
    )
    (tmp_path / "mine").write_text("a file that happens to lie in the working folder")
    monkeypatch.chdir(tmp_path)
    assert_added(folder, "mine", network, (3, *SIZE))


@pytest.mark.parametrize(
    ("arch", "names", "error", "message"),
    [
        (
            "timm:test_resnet",
            ("a", "b"),
            NetworkError,
            r"^class_names has 2 names, the network 3 classes\. ",
        ),
        (
            "timm:test_resnet",
            ("a",) * 4,
            NetworkError,
            r"^class_names has 4 names, the network 3 classes\. ",
        ),
        ("torchvision:resnet18", ABC, NetworkError, r"do not fit torchvision:resnet18's architecture: they lack "),
        (
            "timm:test_resnett",
            ABC,
            NetworkError,
            r"^timm has no classifier 'test_resnett'\. Nearest names: test_resne",
        ),
        (None, ABC, NetworkError, r"^.*mine\.pth holds weights and no architecture\. It fits timm:test_resnet; "),
    ],
)
def test_weights_that_do_not_fit_are_reported_and_leave_nothing(models, tmp_path, arch, names, error, message):
    path = save_state(build_network("timm:test_resnet"), tmp_path / "mine.pth")
    with pytest.raises(error, match=message):
        add_model(path, "mine", arch, names, PreprocessingOverrides(SIZE))
    assert_nothing_is_left(models)


def test_a_wrong_number_of_labels_for_an_onnx_file_is_reported(models, tmp_path):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    with pytest.raises(NetworkError, match=r"^class_names has 2 names, the network 3 classes\. "):
        add_model(write_onnx(network, tmp_path / "mine.onnx"), "mine", class_names=("a", "b"))
    assert_nothing_is_left(models)


@pytest.mark.parametrize("path", ["nothing.pth", "nothing"])
def test_a_file_that_is_not_there_is_reported(models, tmp_path, path):
    with pytest.raises(NetworkError, match=rf"^No weights at .*{path}\.$"):
        add_model(tmp_path / path, "mine", "timm:test_resnet")
    with pytest.raises(NetworkError, match=r"^The weights at .* cannot be read: it is a folder\.$"):
        add_model(tmp_path, "mine", "timm:test_resnet")
    assert_nothing_is_left(models)


def test_a_network_without_class_maps_is_refused(models, tmp_path):
    path = save_state(build_network("timm:test_vit"), tmp_path / "vit.pth")
    with pytest.raises(HeadError, match=r"^No spatial map reaches the logits: they are read from one of 101 tokens"):
        add_model(path, "vit", "timm:test_vit", ABC, PreprocessingOverrides(160))
    assert_nothing_is_left(models)


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize("kind", ["TorchScript", "torch.export"])
def test_a_program_is_refused_with_and_without_trust(models, tmp_path, kind, trust):
    network = nn.Sequential(nn.Conv2d(3, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    path = tmp_path / "program.pt"
    if kind == "torch.export":
        torch.export.save(torch.export.export(network, (noise(1, 3, 5, 6),)), path)
    else:
        with pytest.warns(FutureWarning, match=r"`torch\.jit\.trace\w*` is deprecated"):
            torch.jit.trace(network, noise(1, 3, 5, 6)).save(str(path))
    with pytest.raises(
        NetworkError,
        match=rf"^.*program\.pt is a program \({kind}\), which runs its own code, so it is not added to",
    ):
        add_model(path, "mine", class_names=ABC, overrides=PreprocessingOverrides((5, 6)), trust=trust)
    assert_nothing_is_left(models)


@pytest.mark.parametrize(
    "call", ["inspector.networks.register.save_file", "pathlib.Path.write_bytes", "pathlib.Path.replace"]
)
def test_a_full_disk_is_reported_and_leaves_nothing(models, tmp_path, monkeypatch, call):
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = save_state(build_network("timm:test_resnet"), tmp_path / "mine.pth")
    monkeypatch.setattr(call, full)
    with pytest.raises(ExportError, match=r"^Cannot write .*mine: No space left on device\. Nothing was left there\.$"):
        add_model(path, "mine", "timm:test_resnet", ABC, PreprocessingOverrides(SIZE))
    assert_nothing_is_left(models)


def test_a_models_folder_that_is_a_file_is_reported(models, tmp_path):
    models.write_text("mine")
    path = save_state(build_network("timm:test_resnet"), tmp_path / "mine.pth")
    with pytest.raises(ExportError, match=r"^Cannot write .*mine: .*\. Nothing was left there\.$"):
        add_model(path, "mine", "timm:test_resnet", ABC, PreprocessingOverrides(SIZE))
    assert models.read_text() == "mine"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_models_folder_that_must_not_be_written_is_reported(models, tmp_path):
    models.mkdir(mode=0o500)
    path = save_state(build_network("timm:test_resnet"), tmp_path / "mine.pth")
    with pytest.raises(ExportError, match=r"^Cannot write .*mine: Permission denied\. Nothing was left there\.$"):
        add_model(path, "mine", "timm:test_resnet", ABC, PreprocessingOverrides(SIZE))
    assert list(models.iterdir()) == []


def test_a_users_factory_needs_trust_to_be_added_but_not_to_be_loaded_by_name(
    models, tmp_path, own_module, monkeypatch
):
    arch = f"{own_module}:build"
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    path = save_state(network, tmp_path / "mine.pth")
    with pytest.raises(NetworkError, match=rf"^'{arch}' would run the code of the module {own_module}\. .* --trust"):
        add_model(path, "mine", arch, ABC, PreprocessingOverrides((5, 6)))
    assert_nothing_is_left(models)
    folder, _ = add_model(path, "mine", arch, ABC, PreprocessingOverrides((5, 6)), trust=True)
    assert_added(folder, "mine", network, (3, 5, 6))

    # The same folder outside models/ is not trusted, by its path and by a path that leads out of models/.
    elsewhere = tmp_path / "downloads" / "mine"
    elsewhere.parent.mkdir()
    folder.rename(elsewhere)
    with pytest.raises(NetworkError, match=rf"^'{arch}' would run the code of the module {own_module}\. "):
        load(str(elsewhere))
    with pytest.raises(NetworkError, match=r"^No network '\.\./downloads/mine'\."):
        load("../downloads/mine")
    (models / "link").symlink_to(elsewhere)
    with pytest.raises(NetworkError, match=rf"^'{arch}' would run the code of the module {own_module}\. "):
        load("link")
    assert load(elsewhere, trust=True).class_names == ABC


def test_a_card_describes_architecture_preprocessing_and_classes(models, tmp_path):
    folder, _ = add_model(
        save_state(build_network("timm:test_resnet"), tmp_path / "mine.pth"),
        "mine",
        "timm:test_resnet",
        ABC,
        PreprocessingOverrides(SIZE),
    )
    text = json.loads((folder / "model.json").read_text())
    assert text["architecture"] == {"factory": "timm:test_resnet", "classes": 3}
    assert (text["weights"], text["classes"]) == ("weights.safetensors", ["a", "b", "c"])
    # timm crops 160 pixels, 0.95 of the photo's shorter side, for this network; 64 pixels are the same share.
    assert text["size"] == [64, 64]
    assert text["resize"] == [round(int(160 / 0.95) * 64 / 160)] * 2
    assert text["source"] == "Added from mine.pth"
    assert read_model_card(folder).probability == "softmax"


def test_a_sigmoid_is_saved_as_the_output_activation(models, tmp_path):
    path = save_state(build_network("timm:test_resnet", 1), tmp_path / "mine.pth")
    add_model(path, "one", "timm:test_resnet", ("yes",), PreprocessingOverrides(SIZE))
    assert load("one").probability == "sigmoid"
    assert describe(load("one"), sizes=()).output == (1, 1)


def test_the_chosen_output_is_saved(models, tmp_path, monkeypatch):
    (tmp_path / "two_headed_network.py").write_text(
        "import torch\nfrom torch import nn\n"
        "class Network(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.conv, self.age, self.sex = nn.Conv2d(3, 4, 3), nn.Linear(4, 3), nn.Linear(4, 2)\n"
        "    def forward(self, x):\n"
        "        pooled = self.conv(x).relu().mean((2, 3))\n"
        "        return {'age': self.age(pooled), 'sex': self.sex(pooled)}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    arch, network = "two_headed_network:Network", importlib.import_module("two_headed_network").Network()
    path = save_state(network, tmp_path / "mine.pth")
    options = {"overrides": PreprocessingOverrides((5, 6)), "trust": True}
    with pytest.raises(NetworkError, match=r"'age' \(1, 3\), 'sex' \(1, 2\)\. Choose one by its name or index"):
        add_model(path, "mine", arch, **options)
    folder, added = add_model(path, "mine", arch, **options, output=OutputChoice("sex"))
    assert json.loads((folder / "model.json").read_text())["output"] == "sex"
    assert load("mine").output == added.output == "sex"
    assert load("mine").sha256() == added.sha256() == Classifier.wrap(network, size=(5, 6), output="age").sha256()
    assert load("mine", output="age", class_names=ABC).head.classes == 3
