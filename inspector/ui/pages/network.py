"""The page of the network: what it is made of, how exact its class maps are; and a network of one's own."""

import tempfile
import uuid
from pathlib import Path

import streamlit as st
from streamlit.runtime.uploaded_file_manager import UploadedFile

from inspector.analysis.summary import NetworkSummary
from inspector.errors import InspectorError, NetworkError
from inspector.explain.classifier import Classifier
from inspector.images.preprocessing import PreprocessingOverrides
from inspector.networks.labels import parse_labels
from inspector.networks.load import KERAS, ONNX, resolve
from inspector.ui.components.messages import verdict_badge
from inspector.ui.state import cache
from inspector.ui.state.keys import OWN_NETWORKS
from inspector.ui.state.sidebar import NetworkChoice

MAX_UPLOAD = 500_000_000  # bytes
MAX_OWN = 3  # networks kept in a session
ARCHITECTURES = (
    "torchvision:resnet18", "torchvision:resnet50", "torchvision:mobilenet_v2", "torchvision:efficientnet_b0",
    "torchvision:densenet121", "torchvision:convnext_tiny", "torchvision:swin_t", "torchvision:vgg16", "timm:resnet50",
    "timm:convnext_nano", "cifar_resnet",
)  # fmt: skip


def show(choice: NetworkChoice) -> None:
    if (note := st.session_state.pop("note", None)) is not None:
        st.success(note, icon=":material/check:")
    try:
        with st.spinner(f"Looking into {choice.name} ..."):
            anatomy = cache.summary_of(choice.key, choice.load)
        _anatomy(anatomy)
    except InspectorError as error:
        st.error(str(error), icon=":material/error:")
    _own_network()


def _anatomy(anatomy: NetworkSummary) -> None:
    st.subheader(anatomy.name, anchor=False)
    st.markdown(f"{verdict_badge(anatomy.verdict)} {anatomy.reason.rstrip('.')}.")
    wide, narrow = st.columns([3, 2], gap="large")
    told = dict(anatomy.lines())
    with wide:
        for subject in ("network", "input and output", "pooling", "what follows it", "pooling to add"):
            st.markdown(f"**{subject.capitalize()}**: {told[subject]}")
    with narrow:
        if any(grid for _, grid in anatomy.grids):
            st.markdown("**Input sizes** (height x width) and the grid of their class maps")
            rows = [
                {"input": f"{h} x {w}", "class maps": f"{grid[0]} x {grid[1]}" if grid else "does not take it"}
                for (h, w), grid in anatomy.grids
            ]
            st.dataframe(rows, hide_index=True, width="content", alt="Input sizes and the grids of their class maps")
    st.markdown("**Layers** in the order in which they run")
    st.dataframe(
        _layers(anatomy),
        hide_index=True,
        height=380,
        column_config={"layer": st.column_config.TextColumn(width="medium")},
        alt="The layers, their outputs and parameters",
    )


def _layers(anatomy: NetworkSummary) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = []
    for number, layer in enumerate(anatomy.layers):
        if number == anatomy.pooled_after:
            rows.append({"layer": "- pooling -", "kind": anatomy.pooling, "output": "", "parameters": ""})
        shape = " x ".join(map(str, layer.shape)) if layer.shape else ""
        rows.append(
            {
                "layer": "\N{EM SPACE}" * layer.depth + layer.label,
                "kind": layer.kind,
                "output": shape,
                "parameters": f"{layer.parameters:,}" if layer.parameters else "",
            }
        )
    return rows


def _own_network() -> None:
    st.subheader("A network of your own", anchor=False)
    st.caption(
        "It is used in this session only: no other session sees it, and it is gone when you close the page. "
        "`inspector add` keeps one. No code in the file is run."
    )
    with st.form("own network", border=True):
        left, right = st.columns(2)
        with left:
            checkpoint = st.file_uploader(
                "Checkpoint",
                type=["safetensors", "pt", "pth", "bin", "ckpt", "onnx", "keras", "h5"],
                max_upload_size=MAX_UPLOAD // 1_000_000,
                help="A state dict, an ONNX file or a Keras model. Programs (.pt2, TorchScript) run code, and are only "
                "loaded from the command line, with --trust.",
            )
            labels = st.file_uploader(
                "Class names (optional)", type=["txt", "json"], max_upload_size=1, help="One a line, or a JSON list."
            )
        with right:
            arch = st.selectbox(
                "Architecture", ARCHITECTURES, index=None, accept_new_options=True,
                placeholder="torchvision:NAME or timm:NAME",
                help="Of a state dict. ONNX and Keras files bring theirs. Type any other name of torchvision or timm.",
            )  # fmt: skip
            size = st.number_input(
                "Input size", 8, 1024, None, placeholder="as the architecture expects", help="In pixels, a square."
            )
            scaling = st.selectbox(
                "Scaling of pixels", list(_SCALINGS), help="What the network was fed with in its training."
            )
        if st.form_submit_button("Load", type="primary"):
            _add(checkpoint, labels, arch, size, scaling)


# Label -> mean and std.
_SCALINGS: dict[str, tuple[tuple[float, ...], tuple[float, ...]] | None] = {
    "as the architecture expects": None,
    "ImageNet mean and std": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "-1 to 1": ((0.5,) * 3, (0.5,) * 3),
    "0 to 1": ((0.0,) * 3, (1.0,) * 3),
    "0 to 1, grey": ((0.0,), (1.0,)),
}


def _add(checkpoint: object, labels: object, arch: str | None, size: int | None, scaling: str) -> None:
    if not isinstance(checkpoint, UploadedFile):
        st.error("Choose a checkpoint first.", icon=":material/error:")
        return
    try:
        with st.spinner(f"Reading {checkpoint.name} and proving its head ..."):
            text = labels.getvalue().decode("utf-8-sig") if isinstance(labels, UploadedFile) else None
            name = labels.name if isinstance(labels, UploadedFile) else ""
            classifier = _loaded(checkpoint.name, checkpoint.getvalue(), arch, text, name, size, scaling)
    except UnicodeDecodeError:
        st.error("The class names are not text in UTF-8.", icon=":material/error:")
        return
    except InspectorError as error:
        st.error(str(error), icon=":material/error:")
        return
    own: dict[str, NetworkChoice] = st.session_state.setdefault(OWN_NETWORKS, {})
    name = f"{classifier.name} (yours)"
    kind = "photos" if len(classifier.preprocessing.mean) == 3 else "fashion_mnist"
    own[name] = NetworkChoice(uuid.uuid4().hex, name, arch or checkpoint.name, kind, lambda: classifier)
    for oldest in list(own)[:-MAX_OWN]:
        del own[oldest]
    st.session_state["note"] = f"{checkpoint.name} is loaded: choose it as the network on any page."
    st.rerun()


def _loaded(
    name: str, data: bytes, arch: str | None, labels: str | None, labels_name: str, size: int | None, scaling: str
) -> Classifier:
    if arch is None and Path(name).suffix.lower() not in (*ONNX, *KERAS):
        raise NetworkError(f"Choose the architecture of {name}: a checkpoint holds weights, and does not say which.")
    names = None if labels is None else parse_labels(labels, labels_name)
    mean, std = _SCALINGS[scaling] or (None, None)
    feeding = PreprocessingOverrides(size, mean, std)
    # The libraries read files. In memory, where the system has a file system there; and for as long as it takes.
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        path = Path(folder) / Path(name).name
        path.write_bytes(data)
        try:
            loaded = resolve(path, arch, names, feeding, max_bytes=MAX_UPLOAD)
        except InspectorError as error:
            raise type(error)(str(error).replace(str(path), name)) from error
    return Classifier.from_network(loaded)
