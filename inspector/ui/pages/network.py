"""The page Model: how exact the class maps of a network are, its preprocessing, its layers, and how to load others."""

import streamlit as st

from inspector.analysis.summary import NetworkSummary
from inspector.explain.classifier import Classifier
from inspector.networks.catalog import list_broken_models
from inspector.ui.components.controls import WIDE_TEXT, show_errors, show_table, verdict_badge
from inspector.ui.components.markdown import plain
from inspector.ui.pages.network_file import show_file_form
from inspector.ui.pages.network_name import show_folder_form, show_name_form
from inspector.ui.state import cache, folders, keys, networks
from inspector.ui.state.networks import NetworkChoice

FILE, NAME, FOLDER = "File", "torchvision or timm", "Folder"


def show(network: NetworkChoice) -> None:
    """Draw the page."""
    for broken in list_broken_models():
        st.warning(plain(f"{broken.name} is left out: {broken.reason}"), icon=":material/warning:")
    summary: NetworkSummary | None = None
    with show_errors():
        with st.spinner(f"Analyzing {plain(network.name)} ..."):
            summary, classifier = cache.summarize_network(network.key, network.load), network.load()
        _show_summary(summary, classifier)
    _show_own_networks(network)
    _show_form()
    if summary is not None:
        _show_layers(summary)


def _show_summary(summary: NetworkSummary, classifier: Classifier) -> None:
    st.subheader(plain(summary.name), anchor=False)
    fed = classifier.preprocessing
    st.markdown(f"{verdict_badge(summary.verdict)} {plain(fed.summarize())}")
    st.markdown(f"{plain(summary.reason.rstrip('.'))}.")
    for note in classifier.notes:
        st.info(plain(note), icon=":material/info:")
    wide, narrow = st.columns([3, 2], gap="large")
    with wide:
        # The badge above and the table beside show the contents of the other lines.
        lines = [line for line in summary.lines() if not line[0].startswith(("class maps", "input size", "sizes"))]
        st.markdown("\n".join(f"- **{subject.capitalize()}**: {plain(text)}" for subject, text in lines))
    with narrow:
        if any(grid for _, grid in summary.grids):
            st.markdown("**Input sizes** (height x width) and the grid of their class maps")
            rows = [
                {"input": f"{h} x {w}", "class maps": f"{grid[0]} x {grid[1]}" if grid else "not supported"}
                for (h, w), grid in summary.grids
            ]
            show_table(rows, "Input sizes and the grids of their class maps", width="content")


def _show_layers(summary: NetworkSummary) -> None:
    st.subheader("Layers", anchor=False)
    st.caption("In the order in which they run.")
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


def _show_own_networks(chosen: NetworkChoice) -> None:
    """List the networks of this session, with buttons to choose and to remove them."""
    own = networks.list_own()
    if not own:
        return
    st.subheader("Networks of this session", anchor=False)
    if (note := st.session_state.pop(keys.NOTE, None)) is not None:
        st.success(plain(note), icon=":material/check:")
    for name, network in own.items():
        with st.container(horizontal=True, vertical_alignment="center"):
            loaded_from = f", {network.title}" if network.title != name else ""
            st.markdown(f"**{plain(name)}**{plain(loaded_from)}", width="stretch")
            if st.button("Use", key=f"use {name}", disabled=name == chosen.name):
                networks.select(name)
                st.rerun()
            if st.button("Remove", key=f"remove {name}", icon=":material/delete:", help="Gives its memory back."):
                networks.remove(name)
                st.rerun()


@st.fragment
def _show_form() -> None:
    """Show the fields to load a network. What they load is chosen for all pages."""
    st.subheader("Load a network", anchor=False)
    # Only an app that nobody else reaches reads the folders that are typed.
    sources = [FILE, NAME, FOLDER] if folders.is_open() else [FILE, NAME]
    source = st.segmented_control("From", sources, default=FILE, required=True, key=keys.LOAD_FROM)
    show_fields = {FILE: show_file_form, NAME: show_name_form, FOLDER: show_folder_form}[source]
    with st.container(border=True), show_errors():
        show_fields()
