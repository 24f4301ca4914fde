"""Load a classifier by name, from a folder of models/, or from a file.

name or file -> LoadedNetwork (network, weights, preprocessing, class names) -> Classifier
"""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from inspector.errors import InspectorError, NetworkError
from inspector.explain.class_names import AnyClassNames, ClassNames, list_class_names
from inspector.explain.classifier import Classifier, LoadedNetwork
from inspector.explain.device import find_device
from inspector.explain.kinds import OutputActivation, OutputChoice
from inspector.images.preprocessing import (
    Interpolation,
    Preprocessing,
    PreprocessingOverrides,
    list_suspicions,
)
from inspector.networks.build import build, build_pretrained, find_preprocessing, suggest_library_names
from inspector.networks.builtin import FACTORIES
from inspector.networks.catalog import (
    CARD,
    LIBRARIES,
    ModelCard,
    find_cell_center,
    find_model_card,
    find_model_folder,
    find_weight_files,
    is_trusted,
    list_weight_parts,
)
from inspector.networks.checkpoint import MAX_BYTES, State, detect_kind, is_small_safetensors, read_states
from inspector.networks.guess_architecture import describe_missing_architecture, guess_architectures
from inspector.networks.huggingface import is_huggingface_folder, list_weight_files, read_huggingface
from inspector.networks.isolation import ran_out_of_memory, try_in_child
from inspector.networks.keras_model import read_keras
from inspector.networks.load_checkpoint import Architecture, LoadedCheckpoint, join_states, load_checkpoint
from inspector.networks.onnx_model import OnnxNetwork, read_onnx
from inspector.networks.torch_program import read_torch_program
from inspector.networks.usual_preprocessing import (
    DEFAULT,
    feed_range,
    match_channels,
    name_default,
    replace_size,
    replace_usual_size,
)

KERAS, ONNX = (".keras", ".h5", ".hdf5"), (".onnx",)
FILES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".tar", ".pt2", ".ts", ".torchscript", *KERAS, *ONNX)


def load(
    name: str | Path,
    arch: str | None = None,
    class_names: AnyClassNames | None = None,
    size: int | Sequence[int] | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    resize: int | Sequence[int] | str | None = None,
    interpolation: Interpolation | None = None,
    probability: OutputActivation | None = None,
    trust: bool = False,
    output: str | int | None = None,
    window: Sequence[float] | None = None,
    display: Sequence[int] | None = None,
    device: str | torch.device | None = None,
    unit: str | None = None,
) -> Classifier:
    """Load a classifier.

    Args:
        name: one of
            a name in models/, or a folder with a model.json;
            a folder of Hugging Face's transformers (config.json and weights);
            "torchvision:resnet18", "timm:resnet18.a1_in1k" and so on, with their weights (downloaded if they are not
            cached), preprocessing and class names;
            a checkpoint (.safetensors, .pt, .pth, .bin) together with ``arch``;
            an .onnx, .keras or .h5 file; with ``trust`` also .pt2 (torch.export) and TorchScript, which run code in
            the file.
        arch: architecture of a checkpoint: "torchvision:resnet18", "timm:...", one of ours, or with ``trust`` your own
            "package.module:factory".
        class_names: one per class, in place of those that come with the network; also as {0: "a"} (id2label) or
            {"a": 0} (class_to_idx).
        size: input size in pixels, one number or (height, width). Default, as for the next four: the network's own.
        mean: one value per channel, 0-1; a single value for a network that takes gray images; neither one nor three for
            a network that takes all channels of arrays and TIFF files.
        std: one value per channel, in the same unit as ``mean``.
        resize: size that the photo covers before the center crop, one number or (height, width); "squeeze": no crop.
        interpolation: "bilinear" or "bicubic".
        probability: what turns the output into probabilities: "softmax", "sigmoid", "identity" if they are
            probabilities, "none" for other values, as in regression. Default: the network's own output activation.
        trust: allow code of the architecture or the file to run.
        output: which output holds the logits, if the network returns several: an index, a key, or a dotted path.
            Default: the only one that can hold them.
        window: the values that become 0 and 1 in images of more than 8 bits. Default: the range that an image uses.
        display: which channels of images of more than three are shown as red, green and blue, counted from 0.
        device: where the network runs: "cpu", "cuda", "cuda:1", "mps", or "auto" for a CUDA GPU if there is one.
            Default: "cpu".
        unit: unit of the values, such as "years", with probability="none".

    Returns:
        The classifier; its head has been read and verified.

    Raises:
        NetworkError: unknown name, or files that do not fit or cannot be read or downloaded.
        HeadError: the logits do not depend on a pooling of feature maps.

    Example:
        >>> load("mine.pth", arch="torchvision:resnet18", class_names=["cat", "dog"])
    """
    if not isinstance(name, (str, os.PathLike)):
        raise NetworkError(
            f"A name or a file is needed, not an object of type {type(name).__name__}. "
            "A network that is in memory is taken by Classifier.wrap."
        )
    overrides = PreprocessingOverrides(size, mean, std, resize, interpolation, window, display)
    if device is not None:
        device = find_device(device)  # before the network is read, which takes longer
    loaded = resolve(name, arch, class_names, overrides, OutputChoice(output, probability, unit), trust)
    return Classifier.from_network(loaded, device)


def resolve(
    source: str | Path,
    arch: str | None = None,
    class_names: AnyClassNames | None = None,
    overrides: PreprocessingOverrides | None = None,
    output: OutputChoice | None = None,
    trust: bool = False,
    allow_untrained: bool = False,
    max_bytes: int = MAX_BYTES,
    remember: bool = True,
) -> LoadedNetwork:
    """Find, build and load a network by its name or file.

    Without ``trust``, a file is tried in a separate process first, see `isolation.try_in_child`.

    Args:
        source: as ``name`` in `load`; with ``allow_untrained`` also one of our architectures or package.module:factory.
        arch: architecture of a checkpoint.
        class_names: names that replace the network's own.
        overrides: settings that replace settings of the default preprocessing.
        output: which output is explained, and what it means, in place of the network's own.
        trust: allow code of the architecture or the file to run.
        allow_untrained: build architectures with random weights, and download nothing.
        max_bytes: size above which a file is refused.
        remember: keep the hash of a file that can be read in the cache folder, so that it is tried only once.

    Returns:
        The network, for `Classifier.from_network`.

    Raises:
        NetworkError: unknown name, or files that do not fit or cannot be read or downloaded.
    """
    name, path = str(source), Path(source)
    overrides, output = overrides or PreprocessingOverrides(), output or OutputChoice()
    names = None if class_names is None else list_class_names(class_names)
    from_library = name.startswith(LIBRARIES)
    if allow_untrained and (from_library or _is_architecture(name)):
        usual = find_preprocessing(name) or replace_usual_size(DEFAULT, name)
        loaded = LoadedNetwork(name, build(name, trust=trust), usual)
    elif from_library:
        loaded = LoadedNetwork(name, *build_pretrained(name))
    elif _is_file(path):
        # Apply `resize` only below: the network's input size must be known for it.
        plain = replace_size(replace(overrides, resize=None).apply_to(DEFAULT))
        if not trust:
            _try_file(path, plain, max_bytes, remember, output.name)
        loaded = _read_file(path, arch, names, plain, trust, max_bytes, output.name)
        is_known = arch is not None and find_preprocessing(arch) is not None
        if not is_known and (overrides.mean is None or overrides.std is None):
            loaded = name_default(loaded, path)
    elif is_huggingface_folder(path) and find_model_folder(name) is None:
        if not trust:
            for file in list_weight_files(path):
                _try_file(file, DEFAULT, max_bytes, remember)
        loaded = read_huggingface(path, max_bytes)
    else:
        loaded = _load_card(find_model_card(name, suggest_library_names), trust)
    preprocessing = overrides.apply_to(loaded.preprocessing)
    if output.activation in ("identity", "none") and getattr(loaded.network, "output_activation", None) is not None:
        raise NetworkError(
            f"{name} ends in {loaded.output_activation}, which is cut off, so that its logits are explained. Leave out "
            f"probability={output.activation!r}."
        )
    return replace(
        loaded,
        preprocessing=preprocessing,
        class_names=loaded.class_names if names is None else names,
        output_activation=output.activation or loaded.output_activation,
        # An ONNX file was read for its output.
        output=loaded.output if output.name is None or isinstance(loaded.network, OnnxNetwork) else output.name,
        unit=output.unit or loaded.unit,
        notes=(*loaded.notes, *list_suspicions(preprocessing)),
    )


def find_architectures(path: Path, max_bytes: int = MAX_BYTES, remember: bool = True) -> tuple[str, ...]:
    """Find the architectures that the weights in a file fit, see `guess_architectures`.

    Args:
        path: a checkpoint, which is tried in a separate process first, as in `resolve`.
        max_bytes: size above which the file is refused.
        remember: as in `resolve`.

    Raises:
        NetworkError: the file cannot be read.
    """
    _try_file(path, DEFAULT, max_bytes, remember)
    return guess_architectures(read_states(path, max_bytes=max_bytes))


def _is_architecture(name: str) -> bool:
    ours = name in FACTORIES and find_model_folder(name) is None
    return ours or (":" in name and not os.path.exists(name))  # noqa: PTH110 - as below


def _is_file(path: Path) -> bool:
    """Return whether a name means a file: it has a known ending, or exists and no network in models/ has this name."""
    # Of os.path, because a Path raises an error for a name that is too long or has a null character.
    exists = os.path.isfile(path)  # noqa: PTH113
    return path.suffix.lower() in FILES or (exists and find_model_folder(str(path)) is None)


def _try_file(
    path: Path,
    plain: Preprocessing,
    max_bytes: int = MAX_BYTES,
    remember: bool = True,
    output: str | int | None = None,
) -> None:
    """Try in a separate process whether a file crashes the library that reads it or exceeds the limits."""
    suffix = path.suffix.lower()
    if suffix in ONNX:
        try_in_child(_try_network, path, plain, max_bytes, output, library="ONNX Runtime", remember=remember)
    elif suffix in KERAS:
        try_in_child(_try_network, path, plain, max_bytes, library="Keras", remember=remember)
    elif not is_small_safetensors(path):
        try_in_child(_try_weights, path, max_bytes, library="torch", remember=remember)


def _try_network(path: Path, plain: Preprocessing, max_bytes: int, output: str | int | None = None) -> Sequence[str]:
    """Do with a file all that follows if it is loaded. Return the names of the other files that it needs."""
    loaded = _read_file(path, None, None, plain, trust=False, max_bytes=max_bytes, output=output)
    try:
        Classifier.from_network(loaded)
    except (
        InspectorError
    ) as error:  # the user's settings may help, such as another output, and `describe` needs no head
        if ran_out_of_memory(error):
            raise
    return getattr(loaded.network, "other_files", ())


def _try_weights(path: Path, max_bytes: int) -> None:
    if detect_kind(path) not in ("TorchScript", "torch.export"):  # programs are refused without being read
        read_states(path, max_bytes=max_bytes)


def _read_file(
    path: Path,
    arch: str | None,
    class_names: ClassNames | None,
    plain: Preprocessing,
    trust: bool,
    max_bytes: int,
    output: str | int | None = None,
) -> LoadedNetwork:
    """Read the network in a file. `plain` is the preprocessing for what the file and the architecture do not state."""
    suffix = path.suffix.lower()
    if suffix in ONNX:
        onnx = read_onnx(path, plain.size, max_bytes, output)
        usual = replace_size(plain, onnx.size)
        # The receptive field was computed from the graph: torch cannot trace the operations inside ONNX Runtime.
        loaded = LoadedNetwork(path.stem, onnx, usual, class_names, onnx.output_activation, onnx.receptive_field)
        loaded = replace(loaded, output=onnx.output)
        return match_channels(loaded, onnx.channels, plain)
    if suffix in KERAS:
        keras = read_keras(path, max_bytes=max_bytes)
        usual = replace(replace_size(plain, keras.size), resize=keras.size or plain.size)
        loaded = match_channels(LoadedNetwork(path.stem, keras, usual, class_names), keras.channels, plain)
        return feed_range(loaded, keras.input_range)
    kind = detect_kind(path)
    if kind in ("TorchScript", "torch.export"):
        program = read_torch_program(path, kind, (len(plain.mean), *plain.size), trust)
        return LoadedNetwork(path.stem, program, plain, class_names)
    states = read_states(path, max_bytes=max_bytes)
    if arch is None:
        raise NetworkError(describe_missing_architecture(path, guess_architectures(states)))
    checkpoint = _load_checkpoint(states, Architecture(arch, trust=trust), class_names, path)
    usual = find_preprocessing(arch) or replace_usual_size(plain, arch)
    loaded = LoadedNetwork(path.stem, checkpoint.network, usual, class_names, notes=checkpoint.notes)
    loaded = replace(loaded, cell_center=find_cell_center(arch))
    return match_channels(loaded, checkpoint.channels, plain)


def _load_checkpoint(
    states: Mapping[str, State], architecture: Architecture, class_names: ClassNames | None, path: Path
) -> LoadedCheckpoint:
    """Load the weights of a file; only where their shapes do not tell, there are as many classes as names."""
    try:
        return load_checkpoint(states, architecture, path)
    except NetworkError:
        if class_names is None:
            raise
        with suppress(NetworkError):
            return load_checkpoint(states, replace(architecture, classes=len(class_names.names)), path)
        raise


def _load_card(card: ModelCard, trust: bool) -> LoadedNetwork:
    """Load the network that a model.json describes."""
    # The code that a network in models/ names is trusted; the code that any other folder names is not.
    trust = trust or is_trusted(card.folder)
    factory: Any = card.architecture.get("factory")
    parts, paths = list_weight_parts(card), find_weight_files(card)
    usual, field = card.preprocessing, None
    if not trust:
        for path in paths:
            _try_file(path, usual, output=card.output)
    if factory in ("onnx", "keras"):
        loaded = _read_file(paths[0], None, None, usual, trust=False, max_bytes=MAX_BYTES, output=card.output)
        network, field = loaded.network, loaded.receptive_field
    else:
        architecture = Architecture(
            factory, card.architecture.get("classes"), card.architecture.get("arguments", {}), trust
        )
        states = [read_states(path) for path in paths]
        found = states[0] if len(states) == 1 else {"": join_states(parts, states)}
        # Packaged weights include the old head of a backbone, which the network does not have.
        spare = tuple(f"{part['into']}." for part in parts if isinstance(part, Mapping) and "into" in part)
        path = paths[0] if len(states) == 1 else card.folder
        network = load_checkpoint(found, architecture, path, card.name, spare).network
    # In some networks a cell responds most to pixels away from the center of its receptive field, so the card may hold
    # a center that benchmarks/cell_centers.py measured.
    names = ClassNames(card.classes, str(card.folder / CARD))
    loaded = LoadedNetwork(card.name, network, usual, names, card.probability, field)
    center = card.cell_center or find_cell_center(factory, card.architecture.get("arguments"))
    return replace(loaded, cell_center=center, trained_size=usual.size, output=card.output, unit=card.unit)
