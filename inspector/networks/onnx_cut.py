"""Find the last pooling of an ONNX graph, because the graph is cut in two there.

The tensors before and after the pooling are recorded on several noise images. Comparing them shows the kind of pooling
and which axis holds the channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch

from inspector.errors import HeadError, NetworkError
from inspector.explain.kinds import Pooling
from inspector.explain.pooling import identify_pooling
from inspector.networks.onnx_graph import ChannelOrder, Graph, Tensors, depends_on_size
from inspector.networks.onnx_parts import Values, extract_part, load_part

_MAY_POOL = {
    "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax", "AveragePool", "MaxPool", "Flatten", "Reshape",
    "TopK", "Squeeze", "Unsqueeze",
}  # fmt: skip

if TYPE_CHECKING:
    from onnx import NodeProto


@dataclass(frozen=True)
class Cut:
    """The last pooling of a graph, where the graph is cut in two."""

    feature_maps: str  # name of the tensor before the pooling
    pooled: str  # name of the tensor after the pooling
    pooling: Pooling
    channel_order: ChannelOrder
    maps_shape: tuple[int, ...]  # shape for one image, in the graph's channel order
    pooled_shape: tuple[int, ...]


def record_tensors(graph: Graph, examples: Sequence[Values]) -> list[dict[str, Any]]:
    """Run the graph on each example and return, for each, the values of some tensors by name.

    These tensors are the logits, the inputs and outputs of operators that may pool or whose padding depends on the
    input size, and the results of Shape operators.

    Raises:
        NetworkError: the logits are not finite.
    """
    from_image = graph.find_tensors_after(graph.start)
    names = {graph.logits: None}  # a dict as an ordered set
    for node in graph.find_nodes_between(graph.logits):
        if node.op_type in _MAY_POOL or depends_on_size(node):
            names |= dict.fromkeys((node.input[0], node.output[0]))
        if node.op_type == "Shape":
            names |= {node.output[0]: None}
    names = {name: None for name in names if name in from_image}
    whole = extract_part(graph.model, graph.start, [1, *graph.shape], list(names), {})
    session = load_part(whole, batched=False).session
    inputs = [{graph.start: example} for example in examples]
    records = [values | dict(zip(names, session.run(None, values), strict=True)) for values in inputs]
    if not all(np.isfinite(record[graph.logits]).all() for record in records):
        raise NetworkError("The logits of the ONNX file are not finite on noise images. Check its weights.")
    return records


def find_cut(graph: Graph, records: Sequence[Tensors]) -> Cut:
    """Find the last pooling before the logits.

    Raises:
        HeadError: the graph has no pooling, or the last one is not average pooling, max pooling or flattening.
    """
    for node in reversed(graph.find_nodes_between(graph.logits)):
        if node.op_type not in _MAY_POOL or node.input[0] not in records[0]:
            continue
        for name in _list_sources(graph, node, records[0]):
            pairs = [(record[name], record[node.output[0]]) for record in records]
            source, result = pairs[0]
            orders = _list_channel_orders(graph, name, flat=result.ndim == 2)
            orders = [order for order in orders if _is_pooled(source, result, order)]
            for order in orders:
                # On a constant map average and max pooling are equal, so keep only the kinds that fit all examples.
                kinds = [_identify_poolings(*pair, order) for pair in pairs]
                if common := [kind for kind in kinds[0] if all(kind in others for others in kinds)]:
                    return Cut(name, node.output[0], common[0], order, source.shape[1:], result.shape[1:])
        if orders:
            maps = f"The last feature maps in the ONNX file, {source.shape[1:]}, are pooled by {node.op_type}"
            problem = "neither by average nor by maximum nor flattened, so their class maps would not be exact"
            raise HeadError(f"{maps}, {problem}.")
    problem = "no operator before the logits reduces every channel of a feature map to one value"
    hint = "Use a network that ends in global average or max pooling, or in Flatten and Gemm"
    raise HeadError(f"No pooling was found in the ONNX file: {problem}. {hint}.")


def find_frozen_shapes(graph: Graph, cut: Cut, record: Tensors) -> dict[str, Any]:
    """Return, by name, the shapes of tensors outside the head that the head reads.

    Raises:
        HeadError: the head reads more than their shapes, so the logits depend on another branch of the network.
    """
    behind = {name for node in graph.find_nodes_between(graph.logits, [cut.pooled]) for name in node.output}
    within = {cut.pooled} | graph.find_tensors_after(cut.pooled)
    shapes = {name for name in behind if graph.producers[name].op_type == "Shape" and name not in within}
    head = graph.find_nodes_between(graph.logits, [cut.pooled, *shapes])
    if any(graph.start in node.input for node in head):
        problem = "depend on more than the pooled feature maps (another branch of the network reaches them)"
        consequence = "class maps of this pooling alone would not sum to the logits"
        raise HeadError(f"In the ONNX file, the logits {problem}, so {consequence}.")
    used = {name for node in head for name in node.input}
    return {name: record[name] for name in shapes & used}


def _list_sources(graph: Graph, node: "NodeProto", record: Tensors) -> list[str]:
    """Return what a node may have pooled, the earliest first: some pool one axis, then the other, or flatten first."""
    sources = [node.input[0]]
    if record[node.input[0]].size == record[node.output[0]].size:
        return sources  # it only reshapes
    while (before := graph.producers.get(sources[-1])) is not None and before.op_type in _MAY_POOL:
        if before.input[0] not in record:
            break
        sources.append(before.input[0])
    return sources[::-1]


def _list_channel_orders(graph: Graph, name: str, flat: bool) -> list[ChannelOrder]:
    """Return the channel orders to try, the most probable first. Flattened maps fit both, so try only that one."""
    probable = graph.find_channel_order(name)
    return [probable, *(order for order in get_args(ChannelOrder) if order != probable and not flat)]


def _is_pooled(source: Values, result: Values, order: ChannelOrder) -> bool:
    """Return whether `source` has several cells, and `result` has one value per channel or all values in a row."""
    if source.ndim != 4:
        return False
    _, channels, height, width = source.shape if order == "channels first" else source.transpose(0, 3, 1, 2).shape
    flattened = result.size == source.size and result.ndim == 2
    return height * width > 1 and (result.size == channels or flattened)


def _identify_poolings(source: Values, result: Values, order: ChannelOrder) -> list[Pooling]:
    maps, pooled = torch.from_numpy(source), torch.from_numpy(result).reshape(1, -1)
    if order == "channels last":
        if result.size == source.size:
            pooled = pooled.view_as(maps).permute(0, 3, 1, 2).flatten(1)
        maps = maps.permute(0, 3, 1, 2)
    return identify_pooling(maps, pooled)
