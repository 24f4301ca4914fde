"""The page Network: the layers of a network, how exact its class maps are, and a form to upload a network."""

import uuid
from dataclasses import dataclass, replace
from pathlib import Path

import streamlit as st
from streamlit.runtime.uploaded_file_manager import UploadedFile

from inspector.analysis.summary import NetworkSummary
from inspector.errors import InspectorError, NetworkError
from inspector.explain.classifier import Classifier
from inspector.explain.kinds import OutputActivation, OutputChoice
from inspector.images.preprocessing import PreprocessingOverrides
from inspector.networks.catalog import list_broken_models
from inspector.networks.labels import parse_labels
from inspector.networks.load import KERAS, ONNX, resolve
from inspector.ui.components.controls import WIDE_TEXT, show_error, show_errors, show_table, verdict_badge
from inspector.ui.components.markdown import plain
from inspector.ui.state import cache, keys, sessions, uploads
from inspector.ui.state.memory_file import open_memory_file
from inspector.ui.state.sidebar import NetworkChoice

MAX_NETWORKS = 3  # uploaded networks per session; a new one replaces the oldest
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
    "ImageNet mean and std": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
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


@dataclass(frozen=True)
class NetworkUpload:
    """The values of the upload form."""

    checkpoint: UploadedFile | None
    labels: UploadedFile | None
    architecture: str | None
    size: int | None  # height and width of the input, in pixels
    normalization: str
    output: OutputChoice


def show(network: NetworkChoice) -> None:
    """Draw the page."""
    if (note := st.session_state.pop(keys.NOTE, None)) is not None:
        st.success(plain(note), icon=":material/check:")
    for broken in list_broken_models():
        st.warning(plain(f"{broken.name} is left out: {broken.reason}"), icon=":material/warning:")
    with show_errors():
        with st.spinner(f"Analyzing {plain(network.name)} ..."):
            summary = cache.summarize_network(network.key, network.load)
        _show_summary(summary)
    _show_upload()


def _show_summary(summary: NetworkSummary) -> None:
    st.subheader(plain(summary.name), anchor=False)
    st.markdown(f"{verdict_badge(summary.verdict)} {plain(summary.reason.rstrip('.'))}.")
    wide, narrow = st.columns([3, 2], gap="large")
    with wide:
        for subject, text in summary.lines():
            # The badge above and the table beside show the contents of the other lines.
            if not subject.startswith(("class maps", "input size", "sizes")):
                st.markdown(f"**{subject.capitalize()}**: {plain(text)}")
    with narrow:
        if any(grid for _, grid in summary.grids):
            st.markdown("**Input sizes** (height x width) and the grid of their class maps")
            rows = [
                {"input": f"{h} x {w}", "class maps": f"{grid[0]} x {grid[1]}" if grid else "not supported"}
                for (h, w), grid in summary.grids
            ]
            show_table(rows, "Input sizes and the grids of their class maps", width="content")
    st.markdown("**Layers** in the order in which they run")
    alt = "The layers, their outputs and parameters"
    show_table(_make_rows(summary), alt, {"layer": WIDE_TEXT}, height=380)


def _make_rows(summary: NetworkSummary) -> list[dict[str, str]]:
    """Return the rows of the table of layers, with a row for the pooling where it runs."""
    rows: list[dict[str, str]] = []
    for number, layer in enumerate(summary.layers):
        if number == summary.pooled_after:
            rows.append({"layer": "- pooling -", "kind": summary.pooling, "output": "", "parameters": ""})
        rows.append(
            {
                "layer": "\N{EM SPACE}" * layer.depth + layer.label,
                "kind": layer.kind,
                "output": " x ".join(map(str, layer.shape)) if layer.shape else "",
                "parameters": f"{layer.parameters:,}" if layer.parameters else "",
            }
        )
    return rows


def _show_upload() -> None:
    """Show the form to upload a network."""
    st.subheader("Upload a network", anchor=False)
    st.caption(
        "Only this session sees it. It stays in the memory of this server, is not written to a disk, and is dropped a "
        "few minutes after you close the page. Use `inspector add` to keep a network. No code in the file is run."
    )
    with st.form(keys.NETWORK_FORM, border=True):
        left, right = st.columns(2)
        with left:
            checkpoint = st.file_uploader(
                "Checkpoint",
                type=uploads.NETWORKS,
                max_upload_size=uploads.MAX_NETWORK // 1_000_000,
                help="A state dict, an ONNX file or a Keras model. Programs (.pt2, TorchScript) run code: load them on "
                "the command line, with --trust.",
            )
            labels = st.file_uploader(
                "Class names (optional)",
                type=uploads.LABELS,
                max_upload_size=uploads.MAX_LABELS // 1_000_000,
                help="One name per line, a CSV table, or JSON: a list, an object or a config.json.",
            )
        with right:
            architecture = st.selectbox(
                "Architecture",
                ARCHITECTURES,
                index=None,
                accept_new_options=True,
                placeholder="torchvision:NAME or timm:NAME",
                help="Needed for a state dict. ONNX and Keras files contain theirs. Type any other name of torchvision "
                "or timm.",
            )
            size = st.number_input(
                "Input size", 8, 1024, None, placeholder="as the architecture expects", help="Side of a square, in px."
            )
            normalization = st.selectbox(
                "Pixel values", list(_NORMALIZATIONS), help="The range that the network was trained with."
            )
        choice = _choose_output()
        if st.form_submit_button("Load", type="primary"):
            _add_network(NetworkUpload(checkpoint, labels, architecture, size, normalization, choice))


def _choose_output() -> OutputChoice:
    """Show the fields for what the network returns."""
    left, middle, right = st.columns(3)
    name = left.text_input(
        "Output (optional)",
        placeholder="index or name",
        help="Which output holds the logits, if the network returns several: `1`, `logits`, `heads.age`.",
    )
    probability = middle.selectbox(
        "Probabilities", list(_PROBABILITIES), help="What makes probabilities of the output."
    )
    unit = right.text_input("Unit (optional)", placeholder="years", help="Of values that are no probabilities.")
    return OutputChoice(name.strip() or None, _PROBABILITIES[probability], unit.strip() or None)


def _add_network(upload: NetworkUpload) -> None:
    """Add the uploaded network to the networks of this session, and run the page again."""
    if upload.checkpoint is None:
        show_error("No checkpoint. Choose a file first.")
        return
    name = upload.checkpoint.name
    with show_errors():
        with st.spinner(f"Reading {plain(name)} and verifying its head ..."):
            classifier = _load(upload, upload.checkpoint)
        networks: dict[str, NetworkChoice] = st.session_state.setdefault(keys.OWN_NETWORKS, {})
        sessions.at_session_end(networks.clear)
        title = f"{classifier.name} (yours)"
        examples = "photos" if len(classifier.preprocessing.mean) == 3 else "fashion_mnist"
        networks[title] = NetworkChoice(
            cache.PRIVATE + uuid.uuid4().hex, title, upload.architecture or name, examples, lambda: classifier
        )
        for oldest in list(networks)[:-MAX_NETWORKS]:
            del networks[oldest]
        st.session_state[keys.NOTE] = f"{name} is loaded. Choose it as the network on any page."
        st.rerun()


def _load(upload: NetworkUpload, checkpoint: UploadedFile) -> Classifier:
    """Load the uploaded network.

    Raises:
        NetworkError: the file cannot be read, or does not fit the architecture.
    """
    name, architecture = checkpoint.name, upload.architecture
    if architecture is None and Path(name).suffix.lower() not in (*ONNX, *KERAS):
        raise NetworkError(f"{name} contains weights but no architecture. Choose the architecture.")
    class_names = None if upload.labels is None else parse_labels(upload.labels.getvalue(), upload.labels.name)
    mean, std = _NORMALIZATIONS[upload.normalization] or (None, None)
    overrides = PreprocessingOverrides(upload.size, mean, std)
    with open_memory_file(checkpoint.getvalue(), name) as path:
        try:
            loaded = resolve(
                path, architecture, class_names, overrides, upload.output, max_bytes=uploads.MAX_NETWORK, remember=False
            )
        except InspectorError as error:
            # Replace the path in the message by the name that the user knows.
            raise type(error)(str(error).replace(str(path), name).replace(path.name, name)) from error
    return Classifier.from_network(replace(loaded, name=Path(name).stem))
