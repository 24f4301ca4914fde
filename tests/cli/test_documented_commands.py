"""Every command and every Python example in README.md and docs/ is run, with small inputs, in the order of its file.

What needs the internet, a cluster or hours is named in NOT_RUN; its options are parsed all the same.
"""

import ast
import io
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
import typer
from made_up_runs import write_runs
from PIL import Image
from safetensors.torch import load_file
from tiny_photos import write_backbone
from torch import nn
from torch.utils.data import DataLoader

import inspector
from inspector.cli import cli, main
from inspector.explain.classifier import LoadedNetwork
from inspector.images.examples import list_examples
from inspector.images.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from inspector.networks.build import build
from inspector.networks.catalog import ModelCard, find_model_card, is_trusted
from inspector.networks.load import _load_card as load_card

REPOSITORY = Path(__file__).parents[2]
DOCUMENTS = sorted([REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md")])

# A part of a command -> why it is not run here.
NOT_RUN = {
    "inspector train": "it takes minutes to hours, and fetches MNIST",
    "inspector app": "it serves until it is stopped",
    "--engine ray": "it starts a cluster",
    "compare runs/": "it needs runs of several networks",
    "publish mine.pth": "it writes a large graph; the command above it writes a small one",
}
# A part of a Python example -> why it is not run here.
EXAMPLES_NOT_RUN = {
    "keras.applications": "it downloads weights",
    '(weights="DEFAULT")': "it downloads weights, and trains",
    '"openvino")': "it compiles for ten seconds; the tests of the backends run it",
}


def list_commands(document: Path) -> list[list[str]]:
    """The arguments of each `inspector` command in an indented block."""
    found = re.findall(r"^    (?:\w+=\S+ )?(inspector .*)$", document.read_text(), re.MULTILINE)
    return [shlex.split(line, comments=True) for line in found]


def list_examples_in(document: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", document.read_text(), re.MULTILINE | re.DOTALL)


def find_reason(text: str, reasons: dict[str, str]) -> str | None:
    return next((reason for part, reason in reasons.items() if part in text), None)


COMMANDS = [(document.name, arguments) for document in DOCUMENTS for arguments in list_commands(document)]
WITH_COMMANDS = sorted({name for name, _ in COMMANDS})
WITH_EXAMPLES = [document for document in DOCUMENTS if list_examples_in(document)]


class SmallNet(nn.Sequential):
    """A network for any number of classes and input channels."""

    def __init__(self, classes: int, channels: int = 3) -> None:
        torch.manual_seed(0)
        body = nn.Conv2d(channels, 8, 5, 4, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, 4, 1), nn.ReLU()
        super().__init__(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes))


def build_small(name: str) -> tuple[nn.Module, Preprocessing, tuple[str, ...]]:
    """In place of a network that would be downloaded."""
    names = find_model_card("efficientnet_lite0").classes
    return SmallNet(1000).eval(), Preprocessing((64, 64), IMAGENET_MEAN, IMAGENET_STD, (72, 72)), names


def build_untrained(name: str, *arguments: object, **options: bool) -> nn.Module:
    """In place of a large network."""
    return build_small(name)[0] if name.startswith(("torchvision:", "timm:")) else build(name, *arguments, **options)


def load_small_card(card: ModelCard, trust: bool) -> LoadedNetwork:
    """In place of EfficientNet-Lite0, also with another head, and of nothing else."""
    if card.name == "efficientnet_lite0":
        return LoadedNetwork(card.name, *build_small(card.name))
    if card.architecture["factory"] != "transfer":
        return load_card(card, trust)
    network = SmallNet(len(card.classes)).eval()
    if not is_trusted(card.folder):
        network.load_state_dict(load_file(card.folder / "weights.safetensors"))
    return LoadedNetwork(card.name, network, build_small(card.name)[1], card.classes)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with all files that the documents name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INSPECTOR_MODELS", str(tmp_path / "my-models"))
    monkeypatch.setenv("INSPECTOR_ISOLATION", "off")
    monkeypatch.setattr("inspector.networks.load.build_pretrained", build_small)
    monkeypatch.setattr("inspector.networks.load.build", build_untrained)
    monkeypatch.setattr("inspector.networks.load._load_card", load_small_card)
    monkeypatch.setattr("inspector.output.publish.site.fetch_runtime", dict)  # npm would fetch it
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlflow").as_uri())
    monkeypatch.syspath_prepend(str(tmp_path))
    cat = Image.open(list_examples("photos")["Cat"]).convert("RGB").resize((160, 120))
    for file in ("cat.jpg", "a.jpg", "b.jpg", "photos/cats/1.jpg", "photos/cats/2.jpg", "photos/dogs/3.jpg"):
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        cat.save(file)
    for number in range(10):  # two classes of flowers17_gap with five photos each
        folder = Path("flowers17", "Daisy" if number < 5 else "Dandelion")
        folder.mkdir(parents=True, exist_ok=True)
        cat.rotate(7 * number).save(folder / f"{number}.jpg")
    Path("list.csv").write_text("path,label\nphotos/cats/1.jpg,tabby\n")
    Path("boxes.csv").write_text("file,x1,y1,x2,y2\ncats/1.jpg,10,10,90,90\n")
    Path("classes.txt").write_text("forest\nfield\nwater\n")
    torch.save(build("torchvision:resnet18", 3).state_dict(), "mine.pth")
    cat.resize((400, 300)).save("slide.tif")
    np.save("orthophoto.npy", np.asarray(cat.resize((400, 300))))
    Path("mypackage").mkdir()
    Path("mypackage/networks.py").write_text("from torch import nn\nbackbone = nn.Conv2d(3, 4, 3)\n")
    write_runs(tmp_path / "invented").rename("runs")
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] == "mypackage"]:
        del sys.modules[name]


def plant_shortcut(folder: Path) -> None:
    """Make what the tutorial of concepts.md makes before its first command: marked photos, and a network for them."""
    script = [sys.executable, str(REPOSITORY / "docs" / "plant_shortcut.py"), "flowers17", "marked", "--class", "Daisy"]
    subprocess.run(script, cwd=folder, check=True, capture_output=True)
    shutil.copy(folder / "marked" / "Daisy" / "0.jpg", folder / "marked" / "Daisy" / "image_0848.jpg")
    names = find_model_card("flowers17_gap").classes
    write_backbone(folder / "runs" / "marked" / "gap_efficientnet_lite0", "seed0", names)


def test_documents_have_commands_and_examples():
    assert len(COMMANDS) > 30
    assert len(WITH_EXAMPLES) > 4


@pytest.mark.parametrize(("document", "arguments"), COMMANDS, ids=lambda value: value if isinstance(value, str) else "")
def test_the_options_of_a_documented_command_exist(document, arguments):
    group = typer.main.get_command(cli)
    command = group.commands[arguments[1]]
    command.make_context(arguments[1], arguments[2:], parent=None)


@pytest.mark.usefixtures("only_png")
@pytest.mark.parametrize("document", WITH_COMMANDS)
def test_documented_commands_run(document, workspace, monkeypatch, capsys):
    if document == "concepts.md":
        plant_shortcut(workspace)
    for arguments in [arguments for name, arguments in COMMANDS if name == document]:
        line = shlex.join(arguments)
        if find_reason(line, NOT_RUN):
            continue
        remove_results(workspace, arguments)
        monkeypatch.setattr(sys, "argv", arguments)
        status: object = 0
        try:
            main()
        except SystemExit as stopped:
            status = stopped.code
        assert not status, f"{line}\n{capsys.readouterr().err}"


def remove_results(workspace: Path, arguments: list[str]) -> None:
    """Make room for results of an earlier command of the document, which shows another use of the same folder."""
    if "-o" in arguments:
        shutil.rmtree(workspace / arguments[arguments.index("-o") + 1], ignore_errors=True)


def make_namespace(example: str) -> dict[str, object]:
    """What an example takes from the text around it."""
    pixels = np.random.default_rng(0).integers(0, 256, (70, 80, 13 if "means" in example else 3), dtype=np.uint8)
    channels = pixels.shape[2]
    network = SmallNet(3, channels).eval()
    statistics = {"mean": [0.5] * channels, "std": [0.25] * channels}
    dataset = [(torch.randn(3, 64, 64), 0), (torch.randn(3, 64, 64), 1)]
    if channels > 3:
        tifffile.imwrite("sentinel.tif", pixels)

    class Weights:
        @staticmethod
        def transforms():
            return lambda image: (
                torch.from_numpy(np.array(image.convert("RGB").resize((64, 64)))).permute(2, 0, 1) / 255
            )

    return {
        "inspector": inspector,
        "torch": torch,
        "np": np,
        "io": io,
        "names": ["forest", "field", "water"],
        "network": network,
        "classifier": inspector.Classifier.wrap(network, size=64, **statistics),
        "means": statistics["mean"],
        "stds": statistics["std"],
        "array": pixels,
        "tensor": torch.randn(1, channels, 64, 64),
        "inputs": torch.randn(2, 3, 64, 64),
        "weights": Weights,
        "DataLoader": DataLoader,
        "dataset": dataset,
    }


# Lightning: torch is newer, the data loader has one process, the example is short and its network in evaluation mode.
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning", "ignore:.*many workers:UserWarning")
@pytest.mark.filterwarnings(
    "ignore:The number of training batches:UserWarning", "ignore:Found .* in eval mode:UserWarning"
)
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of Keras with NumPy 2
@pytest.mark.parametrize("document", WITH_EXAMPLES, ids=lambda path: path.name)
def test_documented_examples_run(document, workspace):
    namespace: dict[str, object] = {}
    for example in list_examples_in(document):
        ast.parse(example)
        if find_reason(example, EXAMPLES_NOT_RUN):
            continue
        namespace |= make_namespace(example)
        exec(compile(example, document.name, "exec"), namespace)
