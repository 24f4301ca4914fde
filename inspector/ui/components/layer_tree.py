"""The modules of a network as a tree. A click or the arrow keys choose a layer. Groups open in the browser."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import streamlit as st

from inspector.explain.tracing.layer_trace import Layer
from inspector.ui.components.assets import make_component
from inspector.ui.state import keys

_show = make_component("layer_tree")


@dataclass(frozen=True)
class TreeNode:
    """A row of the tree. All texts are plain text, not HTML."""

    label: str  # label of the layer; of a group that does not run itself, its name and a dot
    name: str  # last part of the label
    kind: str  # class name of the module
    size: str  # of the feature maps, as "320 x 7 x 7"; "" if there are none
    note: str  # the tooltip
    level: int  # number of nodes that contain this one
    selectable: bool  # whether it has feature maps


def make_tree(layers: Sequence[Layer]) -> list[TreeNode]:
    """Arrange the layers of a network as a tree, each node before the nodes that it contains.

    A layer lies in the latest run of the module that contains it. A module that contains layers and does not run, such
    as a ModuleList, becomes a group.
    """
    children: dict[str, list[str]] = {"": []}  # label of a node -> labels of the nodes in it; "": the network
    nodes: dict[str, TreeNode] = {}
    latest: dict[str, str] = {"": ""}  # name of a module -> label of its latest run

    def add(node: TreeNode, module: str) -> None:
        nodes[node.label], children[node.label], latest[module] = node, [], node.label
        children[latest[module.rpartition(".")[0]]].append(node.label)

    for layer in layers:
        parts = layer.name.split(".")
        for depth in range(1, len(parts)):
            group = ".".join(parts[:depth])
            if group not in latest:
                # No layer has a label that ends in a dot.
                add(TreeNode(f"{group}.", parts[depth - 1], "", "", "", depth - 1, False), group)
        name = parts[-1] + layer.label.removeprefix(layer.name)
        size = "" if layer.size is None else " x ".join(map(str, layer.size))
        note = f"{layer.label}: {layer.kind}{_describe_output(layer)}"
        add(TreeNode(layer.label, name, layer.kind, size, note, layer.depth, layer.size is not None), layer.name)

    def list_nodes(label: str) -> list[TreeNode]:
        return [node for child in children[label] for node in (nodes[child], *list_nodes(child))]

    return list_nodes("")


def _describe_output(layer: Layer) -> str:
    if layer.shape is None:
        return ""
    text = f", output {' x '.join(map(str, layer.shape))}"
    if layer.size is None:
        return text
    if layer.field is None or layer.field.y.size == float("inf"):
        return f"{text}, receptive field: the whole input"
    return f"{text}, receptive field {layer.field.y.size:.0f} x {layer.field.x.size:.0f} pixels of the input"


def show_layer_tree(network: str, layers: Sequence[Layer], chosen: str, on_choice: Callable[[str], None]) -> None:
    """Show the tree, with the chosen layer visible and marked.

    Args:
        network: key of the network; for another one, the open groups are forgotten.
        layers: the layers, in the order in which they start.
        chosen: label of the chosen layer.
        on_choice: called with the label of the layer that the user chooses, before the page runs again.
    """
    nodes = make_tree(layers)
    labels = {node.label for node in nodes if node.selectable}

    def report() -> None:
        # The browser may report a layer of the network before.
        if (label := st.session_state[keys.LAYER_TREE]["chosen"]) in labels:
            on_choice(label)

    data = {"network": network, "nodes": [asdict(node) for node in nodes], "chosen": chosen}
    _show(key=keys.LAYER_TREE, data=data, on_chosen_change=report)
