"""Load a classifier from a folder as `save_pretrained` of Hugging Face's transformers writes it.

    config.json, model.safetensors or pytorch_model.bin, preprocessor_config.json -> network, preprocessing, class names

The library builds the network from config.json. The weights are read here, by the same code as other checkpoints, and
no code in the folder is run.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import nn

from inspector.entries import Entries, parse_json
from inspector.errors import NetworkError, require, translate_errors
from inspector.explain.classifier import LoadedNetwork
from inspector.explain.kinds import OutputActivation
from inspector.images.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Interpolation, Preprocessing
from inspector.networks.checkpoint import State, check_size, read_states
from inspector.networks.load_checkpoint import build_without_memory, count_values
from inspector.networks.state_dict import list_some
from inspector.networks.torch_program import silence
from inspector.printable import make_printable

CONFIG, _PROCESSOR = "config.json", "preprocessor_config.json"
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # in the order in which they are preferred
_INTERPOLATIONS: dict[int, Interpolation] = {2: "bilinear", 3: "bicubic"}  # by Pillow's numbers


@dataclass(frozen=True)
class _Folder:
    path: Path
    config: Entries
    weights: tuple[Path, ...]  # several if they are sharded


def is_huggingface_folder(path: Path) -> bool:
    """Return whether a folder holds a config.json, and no model.json of ours."""
    try:
        return (path / CONFIG).is_file() and not (path / "model.json").is_file()
    except (OSError, ValueError):  # the name is too long for a path, or holds a null character
        return False


def list_weight_files(folder: Path) -> tuple[Path, ...]:
    """Return the files of weights in a folder: one, or several if they are sharded.

    Raises:
        NetworkError: there are none.
    """
    for name in _WEIGHTS:
        if (folder / name).is_file():
            return (folder / name,)
        if shards := sorted(folder.glob(f"{Path(name).stem}-*-of-*{Path(name).suffix}")):
            return tuple(shards)
    raise NetworkError(f"{folder} has a {CONFIG} and no weights. Expected {' or '.join(_WEIGHTS)}.")


def read_huggingface(folder: Path, max_bytes: int) -> LoadedNetwork:
    """Load the classifier in a folder of Hugging Face's transformers.

    Args:
        folder: the folder that `save_pretrained` wrote, with the config of the image processor if there is one.
        max_bytes: size of the weights above which they are refused.

    Raises:
        NetworkError: the folder is incomplete or broken, needs code of its own, or is no image classifier.
    """
    opened = _open_folder(folder)
    transformers = require("transformers", extra="transformers", purpose=f"Reading {folder.name}", error=NetworkError)
    state = _read_weights(opened, max_bytes)
    unknown = f"{folder / CONFIG} describes no image classifier of transformers ({{type}}: {{reason}})."
    with translate_errors(NetworkError, unknown), silence("transformers"):
        config = transformers.AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)

        def build() -> nn.Module:
            automatic = transformers.AutoModelForImageClassification
            return cast(nn.Module, automatic.from_config(config, trust_remote_code=False))

        shapes = build_without_memory(build, count_values({"": state}))
        _check_memory(opened, shapes, state)
        network = _load(opened, type(shapes), config, state)
    usual, notes = _read_preprocessing(folder, opened.config)
    multilabel = opened.config.values.get("problem_type") == "multi_label_classification"
    activation: OutputActivation | None = "sigmoid" if multilabel else None
    return LoadedNetwork(folder.name, network, usual, _read_class_names(opened), activation, notes=notes)


def _open_folder(folder: Path) -> _Folder:
    path = folder / CONFIG
    with translate_errors(NetworkError, f"{path} cannot be read: {{reason}}."):
        config = Entries(parse_json(path.read_bytes()))
    if config.has("architecture") and not config.has("model_type"):
        name = make_printable(str(config.values["architecture"]), 60)
        weights = list_weight_files(folder)[0]
        raise NetworkError(f"{folder} is a network of timm. Load its weights: {weights} with --arch timm:{name}.")
    if not config.has("model_type"):
        raise NetworkError(f"{path} lacks the entry 'model_type'. Expected a folder that save_pretrained wrote.")
    if config.has("auto_map"):
        raise NetworkError(
            f"{folder} needs code of its own (auto_map in {CONFIG}), which is not run. Export it to ONNX."
        )
    return _Folder(folder, config, list_weight_files(folder))


def _read_weights(folder: _Folder, max_bytes: int) -> State:
    check_size(folder.path, sum(file.stat().st_size for file in folder.weights), max_bytes)
    state: State = {}
    for file in folder.weights:
        for tensors in read_states(file, max_bytes=max_bytes).values():
            state |= tensors
    return state


def _check_memory(folder: _Folder, shapes: nn.Module, state: State) -> None:
    needed = sum(parameter.numel() for parameter in shapes.parameters())
    stored = sum(tensor.numel() for tensor in state.values())
    if needed > 1.5 * stored + 100_000:
        problem = f"the network of {CONFIG} has {needed:,} parameters, and the weights {stored:,}"
        raise NetworkError(f"{folder.path}: {problem}. They do not belong together.")


def _load(folder: _Folder, kind: Any, config: Any, state: State) -> nn.Module:
    network, info = kind.from_pretrained(None, config=config, state_dict=state, output_loading_info=True)
    for problem, key in (("lack", "missing_keys"), ("have another shape for", "mismatched_keys")):
        if names := sorted(str(one[0] if isinstance(one, tuple) else one) for one in info.get(key) or ()):
            raise NetworkError(
                f"The weights in {folder.path} do not fit its {CONFIG}: they {problem} {list_some(names)}."
            )
    return cast(nn.Module, network.eval())


def _read_class_names(folder: _Folder) -> tuple[str, ...] | None:
    """Return the names in id2label, in the order of their numbers."""
    if not folder.config.has("id2label"):
        return None
    with translate_errors(NetworkError, f"id2label in {folder.path / CONFIG} cannot be read: {{reason}}."):
        labels = folder.config.object("id2label")
        if set(labels.values) != {str(number) for number in range(len(labels.values))}:
            raise ValueError(f"expected the numbers 0 to {len(labels.values) - 1}")
        return tuple(make_printable(labels.text(str(number))) for number in range(len(labels.values)))


def _read_preprocessing(folder: Path, config: Entries) -> tuple[Preprocessing, tuple[str, ...]]:
    """Read the settings of the image processor. Without one, guess, and say so."""
    path = folder / _PROCESSOR
    if not path.is_file():
        side = config.values.get("image_size")
        size = (side, side) if type(side) is int and 0 < side <= 8192 else (224, 224)
        note = f"The folder has no {_PROCESSOR}: mean and std are those of ImageNet, the size {size[0]} x {size[1]}."
        return Preprocessing(size, IMAGENET_MEAN, IMAGENET_STD, size), (note,)
    with translate_errors(NetworkError, f"{path} cannot be read: {{reason}}.", {KeyError: f"{path} lacks {{reason}}."}):
        return _parse_processor(Entries(parse_json(path.read_bytes())))


def _parse_processor(entries: Entries) -> tuple[Preprocessing, tuple[str, ...]]:
    cover, is_edge = _read_size(entries, "size")
    size = _read_size(entries, "crop_size")[0] if _is_on(entries, "do_center_crop", False) else cover
    resize: tuple[int, int] | None = cover if is_edge or size != cover else None
    if is_edge and entries.has("crop_pct"):  # ConvNeXt: a larger resize before the crop; large inputs are squeezed
        side = int(cover[0] / entries.number("crop_pct"))
        size, resize = cover, (side, side) if cover[0] < 384 else None
    if resize is not None and (resize[0] < size[0] or resize[1] < size[1]):
        raise ValueError(f"expected a size of at least the crop {size[0]} x {size[1]}, got {resize[0]} x {resize[1]}")
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if _is_on(entries, "do_normalize", True):
        mean = cast(
            tuple[float, float, float], entries.numbers("image_mean") if entries.has("image_mean") else IMAGENET_MEAN
        )
        std = cast(
            tuple[float, float, float], entries.numbers("image_std") if entries.has("image_std") else IMAGENET_STD
        )
    # The processor multiplies pixels 0-255 by a factor before it normalizes; here pixels are 0-1.
    factor = entries.number("rescale_factor") * 255 if entries.has("rescale_factor") else 1.0
    factor = factor if _is_on(entries, "do_rescale", True) else 255.0
    if abs(factor - 1) > 1e-6:
        mean, std = (tuple(value / factor for value in values) for values in (mean, std))  # type: ignore[assignment]
    resample = entries.values.get("resample", 2)
    notes: tuple[str, ...] = ()
    if resample not in _INTERPOLATIONS:
        notes = (f"The image processor resizes by Pillow's method {resample}; bilinear is used.",)
    return Preprocessing(size, mean, std, resize, _INTERPOLATIONS.get(resample, "bilinear")), notes


def _read_size(entries: Entries, key: str) -> tuple[tuple[int, int], bool]:
    """Return (height, width), and whether it is the length of the shorter edge."""
    value = entries.values[key]
    if not isinstance(value, Mapping):
        return entries.size(key), False
    sides = entries.object(key)
    if sides.has("shortest_edge"):
        return sides.size("shortest_edge"), True
    return (sides.size("height")[0], sides.size("width")[0]), False


def _is_on(entries: Entries, key: str, default: bool) -> bool:
    return entries.flag(key) if entries.has(key) else default
