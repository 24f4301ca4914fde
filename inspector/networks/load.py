"""Load a classifier: by name, from a folder of models/, or from a file of any kind that users have.

name or file -> network -> weights -> preprocessing and class names -> Classifier
"""

import importlib.util
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from inspector.errors import NetworkError
from inspector.explain.classifier import Classifier, wrap
from inspector.explain.kinds import OutputActivation
from inspector.images.preprocessing import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Interpolation,
    Preprocessing,
    PreprocessingOverrides,
)
from inspector.networks.build import build, build_pretrained, find_preprocessing
from inspector.networks.builtin import FACTORIES
from inspector.networks.catalog import ModelCard, find_model_card, models_folder
from inspector.networks.checkpoint import MAX_BYTES, count_classes, detect_kind, load_weights, read_state
from inspector.networks.keras_model import read_keras
from inspector.networks.onnx_model import OnnxNetwork, read_onnx
from inspector.networks.torch_program import read_torch_program

_LIBRARIES = ("torchvision:", "timm:")
KERAS, ONNX = (".keras", ".h5", ".hdf5"), (".onnx",)
FILES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".tar", ".pt2", ".ts", ".torchscript", *KERAS, *ONNX)


def load(
    name: str | Path,
    arch: str | None = None,
    class_names: Sequence[str] | None = None,
    size: int | Sequence[int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    resize: int | Sequence[int] | str | None = None,
    interpolation: Interpolation | None = None,
    probability: OutputActivation | None = None,
    trust: bool = False,
) -> Classifier:
    """A classifier from

    * a name in models/, or a folder that holds a model.json;
    * "torchvision:resnet18", "timm:resnet18.a1_in1k" and such, with their weights (fetched when they are not there),
      their own preprocessing and class names;
    * a checkpoint (.safetensors, .pt, .pth, .bin) with its architecture: arch="torchvision:resnet18", "timm:...", or
      with trust=True "package.module:factory" of your own;
    * .onnx, .keras, .h5; with trust=True also .pt2 (torch.export) and TorchScript, which run code in the file.

    `size`, `mean`, `std`, `resize` ("squeeze" for no crop) and `interpolation` say how photos are fed, as for
    Classifier.wrap; what is not said is as the architecture expects it. Raises NetworkError for an unknown name or
    files that do not fit or cannot be had, HeadError for a network in which no pooling reaches the logits.
    """
    return load_fed(
        name, arch, class_names, PreprocessingOverrides(size, mean, std, resize, interpolation), probability, trust
    )


def load_fed(
    name: str | Path,
    arch: str | None,
    class_names: Sequence[str] | None,
    feeding: PreprocessingOverrides,
    probability: OutputActivation | None,
    trust: bool,
) -> Classifier:
    """`load` with all that is said of the input in one piece."""
    name = str(name)
    if name.startswith(_LIBRARIES):
        network, usual, names = build_pretrained(name)
        return wrap(network, feeding.apply_to(usual), class_names or names, name, probability)
    path = Path(name)
    if _is_file(path):
        network, usual = read_network(path, arch, class_names, feeding, trust)
        return wrap_read(network, feeding.apply_to(usual), class_names, path.stem, probability)
    card = find_model_card(name)
    fed, usual = feeding.apply_to(card.preprocessing), card.preprocessing
    # Its head is read at its own size.
    said = replace(fed, size=usual.size, resize=usual.resize)
    names, probability = tuple(class_names or card.classes), probability or card.probability
    classifier = load_card(replace(card, preprocessing=said, classes=names, probability=probability), trust)
    return classifier if fed == said else replace(classifier.with_input_size(fed.size), preprocessing=fed)


def _is_file(path: Path) -> bool:
    """Whether a name is a file's: by its ending, or because one is there and no network in models/ is called so."""
    return path.suffix.lower() in FILES or (path.is_file() and not (models_folder() / path / "model.json").is_file())


def load_untrained(
    name: str, arch: str | None, feeding: PreprocessingOverrides, trust: bool
) -> tuple[nn.Module, Preprocessing]:
    """A network to describe, by any name that `load` takes or by an architecture's: of a library without weights."""
    path, plain = Path(name), Preprocessing((224, 224), IMAGENET_MEAN, IMAGENET_STD, (224, 224))
    ours = name in FACTORIES and not (models_folder() / name).is_dir()
    if name.startswith(_LIBRARIES) or ours or (":" in name and not path.exists()):
        return build(name, trust=trust), feeding.apply_to(find_preprocessing(name) or plain)
    if _is_file(path):
        network, usual = read_network(path, arch, None, feeding, trust)
        return network, feeding.apply_to(usual)
    card = find_model_card(name)
    return _network_of(card, _trusted(card, trust)), feeding.apply_to(card.preprocessing)


def read_network(
    path: Path,
    arch: str | None,
    class_names: Sequence[str] | None,
    feeding: PreprocessingOverrides,
    trust: bool,
    limit: int = MAX_BYTES,
) -> tuple[nn.Module, Preprocessing]:
    """The network in a file of at most `limit` bytes, and what its photos usually go through."""
    # What it is cropped from is said of the size that the network turns out to have.
    plain = replace(feeding, resize=None).apply_to(Preprocessing((224, 224), IMAGENET_MEAN, IMAGENET_STD, (224, 224)))
    suffix = path.suffix.lower()
    if suffix in ONNX:
        onnx = read_onnx(path, plain.size, limit)
        return onnx, replace(plain, size=onnx.size or plain.size, resize=onnx.size or plain.size)
    if suffix in KERAS:
        keras = read_keras(path, max_bytes=limit)
        return keras, replace(plain, size=keras.size or plain.size, resize=keras.size or plain.size)
    kind = detect_kind(path)
    if kind in ("TorchScript", "torch.export"):
        return read_torch_program(path, kind, (len(plain.mean), *plain.size), trust), plain
    state = read_state(path, limit=limit)
    if arch is None:
        raise NetworkError(
            f"{path} holds weights and no architecture. Name it with --arch (arch=... in Python): "
            "torchvision:resnet18, timm:resnet18, or package.module:factory of your own."
        )
    classes = len(class_names) if class_names is not None else count_classes(state)
    network = build(arch, classes, trust=trust)
    load_weights(state, network, arch, path)
    return network, find_preprocessing(arch) or plain


def wrap_read(
    network: nn.Module,
    preprocessing: Preprocessing,
    class_names: Sequence[str] | None,
    name: str,
    probability: OutputActivation | None,
) -> Classifier:
    """`classifier.wrap` for a network that was read from a file."""
    onnx = network if isinstance(network, OnnxNetwork) else None
    classifier = wrap(network, preprocessing, class_names, name, probability or (onnx.ending if onnx else None))
    if onnx is None or onnx.receptive_field is None:
        return classifier
    # No call in ONNX Runtime is seen: the receptive field is the graph's.
    return replace(classifier, receptive_field=onnx.receptive_field)


def load_card(card: ModelCard, trust: bool = False) -> Classifier:
    """The classifier that a model.json describes."""
    network = _network_of(card, _trusted(card, trust))
    classifier = wrap_read(network, card.preprocessing, card.classes, card.name, card.probability)
    if card.centre is None:
        return classifier
    # Some networks learn to look beside the middle of their receptive field: benchmarks/cell_centres.py measures it.
    field, (y, x) = classifier.receptive_field, card.centre
    measured = replace(field, y=replace(field.y, centre=y), x=replace(field.x, centre=x))
    return replace(classifier, receptive_field=measured)


def _trusted(card: ModelCard, trust: bool) -> bool:
    # What lies in models/ was put there to be run; what a downloaded folder names was not.
    return trust or card.folder.resolve().parent == models_folder().resolve()


def _network_of(card: ModelCard, trust: bool) -> nn.Module:
    factory: Any = card.architecture.get("factory")
    arguments = card.architecture.get("arguments", {})
    files = card.weights if isinstance(card.weights, Sequence) and not isinstance(card.weights, str) else [card.weights]
    paths = [card.folder / one if isinstance(one, str) else _packaged_file(one) for one in files]
    if factory in ("onnx", "keras"):
        feeding = PreprocessingOverrides(card.preprocessing.size)
        return read_network(paths[0], None, card.classes, feeding, trust=False)[0]
    states = [read_state(path) for path in paths]
    network = build(factory, card.architecture.get("classes"), arguments, trust)
    if len(states) == 1:
        load_weights(states[0], network, card.name, paths[0])
    else:
        own, whole = network.state_dict(), dict[str, Tensor]()
        for one, state in zip(files, states, strict=True):
            within = f"{one['into']}." if isinstance(one, Mapping) and "into" in one else ""
            # A backbone's package brings the head too that it had.
            whole |= {within + key: tensor for key, tensor in state.items() if not within or within + key in own}
        load_weights(whole, network, card.name, card.folder)
    return network


def read_labels(path: Path) -> tuple[str, ...]:
    """The class names in a text file, one a line, or in a JSON file: a list, or names by number."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise NetworkError(f"The labels in {path} cannot be read: {error}.") from error
    return parse_labels(text, path.name)


def parse_labels(text: str, name: str) -> tuple[str, ...]:
    """`read_labels` for the text of a file of that name."""
    if not name.lower().endswith(".json"):
        names = [line.strip() for line in text.splitlines() if line.strip()]
    else:
        names = _labels_of_json(text, name)
    if not names:
        raise NetworkError(f"The labels in {name} are none: one name a line would do, or a JSON list.")
    return tuple(names)


def _labels_of_json(text: str, name: str) -> list[str]:
    try:
        content: Any = json.loads(text)
        if isinstance(content, dict):
            content = [content[str(number)] for number in range(len(content))]
        # ImageNet's list gives each class its synset and its name.
        return [str(label[-1]) if isinstance(label, list) else str(label) for label in content]
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise NetworkError(
            f"The labels in {name} are not a JSON list of names, nor names by number from 0 on ({error})."
        ) from error


def _packaged_file(weights: Mapping[str, str]) -> Path:
    try:
        package, file = weights["package"], weights["file"]
    except KeyError as error:
        raise NetworkError(f"An entry of packaged weights lacks {error}.") from error
    # find_spec of a name without dots imports nothing: no code of the package runs.
    spec = importlib.util.find_spec(package) if "." not in package else None
    if spec is None or spec.origin is None:
        raise NetworkError(f"The weights are in the package {package.replace('_', '-')}, which is not installed.")
    return Path(spec.origin).parent / file
