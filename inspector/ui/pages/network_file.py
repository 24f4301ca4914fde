"""The form of the page Model for a network in a file: weights of an architecture, ONNX or Keras."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import streamlit as st
from streamlit.runtime.uploaded_file_manager import UploadedFile

from inspector.errors import InspectorError, NetworkError
from inspector.explain.class_names import ClassNames
from inspector.explain.classifier import Classifier
from inspector.explain.kinds import OutputActivation, OutputChoice
from inspector.images.preprocessing import IMAGENET_MEAN, IMAGENET_STD, PreprocessingOverrides
from inspector.networks.label_presets import PRESETS, find_preset
from inspector.networks.labels import parse_labels
from inspector.networks.load import KERAS, ONNX, find_architectures, resolve
from inspector.ui.components.markdown import plain
from inspector.ui.state import networks, uploads
from inspector.ui.state.memory_file import open_memory_file
from inspector.ui.state.networks import make_field_key

ARCHITECTURES = (
    "torchvision:resnet18",
    "torchvision:resnet50",
    "torchvision:mobilenet_v2",
    "torchvision:efficientnet_b0",
    "torchvision:densenet121",
    "torchvision:convnext_tiny",
    "torchvision:swin_t",
    "torchvision:vgg16",
    "timm:resnet50",
    "timm:convnext_nano",
    "cifar_resnet",
)
# Label -> mean and standard deviation of pixel values from 0 to 1; None: the values of the architecture.
_NORMALIZATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]] | None] = {
    "as the architecture expects": None,
    "ImageNet mean and std": (IMAGENET_MEAN, IMAGENET_STD),
    "-1 to 1": ((0.5,) * 3, (0.5,) * 3),
    "0 to 1": ((0.0,) * 3, (1.0,) * 3),
    "0 to 1, grayscale": ((0.0,), (1.0,)),
}
# Label -> what makes probabilities of the output; None: as the network shows.
_PROBABILITIES: dict[str, OutputActivation | None] = {
    "as the network shows": None,
    "softmax": "softmax",
    "sigmoid, independent for each class": "sigmoid",
    "the output is probabilities": "identity",
    "none: the output is other values": "none",
}
_NUMBERS, _LABEL_FILE = "numbers", "a file"  # choices of class names, beside PRESETS


T = TypeVar("T")


@dataclass(frozen=True)
class NetworkUpload:
    """The values of the form for a file."""

    checkpoint: UploadedFile
    class_names: ClassNames | None
    architecture: str | None
    size: int | None  # height and width of the input, in pixels
    normalization: str
    output: OutputChoice


def show_file_form() -> None:
    """Show the fields for a file.

    Raises:
        InspectorError: the file or the class names cannot be read.
    """
    st.caption(
        "Only this session sees it. It stays in the memory of this server, is not written to a disk, and is dropped a "
        "few minutes after you close the page. Use `inspector add` to keep a network. No code in the file is run."
    )
    checkpoint = st.file_uploader(
        "Checkpoint",
        type=uploads.NETWORKS,
        max_upload_size=uploads.MAX_NETWORK // 1_000_000,
        key=make_field_key("checkpoint"),
        help="A state dict, an ONNX file or a Keras model. Programs (.pt2, TorchScript) run code: load them on the "
        "command line, with --trust.",
    )
    if checkpoint is None:
        return
    left, right = st.columns(2)
    with left:
        architecture = None if _holds_architecture(checkpoint.name) else _choose_architecture(checkpoint)
        labels, is_missing = _choose_labels()
    with right:
        size = st.number_input(
            "Input size",
            8,
            1024,
            None,
            key=make_field_key("size"),
            placeholder="as the architecture expects",
            help="Side of a square, in px.",
        )
        normalization = st.selectbox(
            "Pixel values",
            list(_NORMALIZATIONS),
            key=make_field_key("pixels"),
            help="The range that the network was trained with. A file of weights does not say it.",
        )
    with st.expander("Output"):
        output = _choose_output()
    # A file arrives a moment after it was chosen. Before, the network would be loaded without its class names.
    help = "First choose the file of class names." if is_missing else None
    pressed = st.button("Load", type="primary", key=make_field_key("file"), disabled=is_missing, help=help)
    if pressed and not is_missing:
        upload = NetworkUpload(checkpoint, labels, architecture, size, normalization, output)
        with st.spinner(f"Reading {plain(checkpoint.name)} and verifying its head ..."):
            classifier = load_upload(upload)
        networks.add_private(classifier, architecture or checkpoint.name)
        uploads.forget_upload(checkpoint)
        st.rerun()


def _holds_architecture(name: str) -> bool:
    return Path(name).suffix.lower() in (*ONNX, *KERAS)


def _choose_architecture(checkpoint: UploadedFile) -> str | None:
    """Show the choice of architectures: those that the weights fit come first.

    Raises:
        NetworkError: the file cannot be read.
    """
    fitting = _find_architectures(checkpoint)
    others = [name for name in ARCHITECTURES if name not in fitting]
    chosen: str | None = st.selectbox(
        "Architecture",
        [*fitting, *others],
        index=0 if fitting else None,
        accept_new_options=True,
        key=make_field_key(f"architecture of {checkpoint.file_id}"),
        placeholder="torchvision:NAME or timm:NAME",
        help="A state dict does not contain it. Type any other name of torchvision or timm.",
    )
    if fitting:
        text = f"All names and shapes of the weights fit {' and '.join(fitting)}."
    else:
        text = "The weights fit no architecture of torchvision or timm that was found in two seconds."
    st.caption(plain(text))
    return chosen


def _find_architectures(checkpoint: UploadedFile) -> tuple[str, ...]:
    """Find the architectures that a file fits, once for each file."""
    key = make_field_key(f"fitting {checkpoint.file_id}")
    if key not in st.session_state:
        with st.spinner(f"Comparing {plain(checkpoint.name)} with the architectures of torchvision and timm ..."):
            st.session_state[key] = _read_in_memory(
                checkpoint, lambda path: find_architectures(path, uploads.MAX_NETWORK, remember=False)
            )
    found: tuple[str, ...] = st.session_state[key]
    return found


def _choose_labels() -> tuple[ClassNames | None, bool]:
    """Show the choice of class names. Return them, None for numbers, and whether their file is still missing.

    Raises:
        NetworkError: the file holds no names.
    """
    chosen = st.selectbox(
        "Class names",
        [_NUMBERS, *PRESETS, _LABEL_FILE],
        key=make_field_key("names"),
        help="Those of a data set in its usual order, or a file: one name per line, a CSV table, or JSON (a list, an "
        "object or a config.json).",
    )
    if chosen != _LABEL_FILE:
        return find_preset(chosen), False
    file = st.file_uploader(
        "File of class names",
        type=uploads.LABELS,
        max_upload_size=uploads.MAX_LABELS // 1_000_000,
        key=make_field_key("labels"),
    )
    return (None, True) if file is None else (parse_labels(file.getvalue(), file.name), False)


def _choose_output() -> OutputChoice:
    """Show the fields for what the network returns."""
    left, middle, right = st.columns(3)
    name = left.text_input(
        "Output (optional)",
        key=make_field_key("output"),
        placeholder="index or name",
        help="Which output holds the logits, if the network returns several: `1`, `logits`, `heads.age`.",
    )
    probability = middle.selectbox(
        "Probabilities",
        list(_PROBABILITIES),
        key=make_field_key("probability"),
        help="What makes them of the output.",
    )
    unit = right.text_input(
        "Unit (optional)",
        key=make_field_key("unit"),
        placeholder="years",
        help="Of values that are no probabilities.",
    )
    return OutputChoice(name.strip() or None, _PROBABILITIES[probability], unit.strip() or None)


def load_upload(upload: NetworkUpload) -> Classifier:
    """Load an uploaded network.

    Raises:
        NetworkError: the file cannot be read, or does not fit the architecture.
        HeadError: the logits do not depend on a pooling of feature maps.
    """
    name, architecture = upload.checkpoint.name, upload.architecture
    if architecture is None and not _holds_architecture(name):
        raise NetworkError(f"{name} contains weights but no architecture. Choose the architecture.")
    mean, std = _NORMALIZATIONS[upload.normalization] or (None, None)
    overrides = PreprocessingOverrides(upload.size, mean, std)

    def read(path: Path) -> Classifier:
        loaded = resolve(
            path,
            architecture,
            upload.class_names,
            overrides,
            upload.output,
            max_bytes=uploads.MAX_NETWORK,
            remember=False,
        )
        notes = tuple(note.replace(path.name, name) for note in loaded.notes)
        return Classifier.from_network(replace(loaded, name=Path(name).stem, notes=notes))

    return _read_in_memory(upload.checkpoint, read)


def _read_in_memory(file: UploadedFile, read: Callable[[Path], T]) -> T:
    """Call a function with a path of an uploaded file. Errors name the file as the visitor knows it."""
    with open_memory_file(file.getvalue(), file.name) as path:
        try:
            return read(path)
        except InspectorError as error:
            raise type(error)(str(error).replace(str(path), file.name).replace(path.name, file.name)) from error
