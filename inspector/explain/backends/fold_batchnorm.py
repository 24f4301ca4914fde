"""Rewrite the graph of a network so that it runs faster: fold BatchNorm into convolutions, lower the precision."""

from collections.abc import Callable
from copy import deepcopy
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn.utils.fusion import fuse_conv_bn_weights

from inspector.explain.backends.export_graph import LogitsAndMaps

_NORMS = (torch.ops.aten._native_batch_norm_legit_no_training.default, torch.ops.aten.batch_norm.default)


def fold_batchnorm(graph: LogitsAndMaps, dtype: torch.dtype = torch.float32) -> LogitsAndMaps:
    """Return a copy with each BatchNorm folded into the convolution before it, in channels-last memory format.

    Args:
        graph: the network as `feature_graph` returns it.
        dtype: precision of everything before the pooling. What follows it stays in float32, so that class maps sum
            to the logits as exactly as before.
    """
    folded = deepcopy(graph)
    network = folded.network
    for norm in list(network.graph.nodes):
        if norm.target in _NORMS:
            _fold_into_convolution(network, norm)
    for view in network.graph.find_nodes(op="call_function", target=torch.ops.aten.view.default):
        # In channels-last memory format the values of a row may lie apart, as they do where maps are flattened.
        view.target = torch.ops.aten.reshape.default
    network.graph.eliminate_dead_code()
    network.delete_all_unused_submodules()
    if dtype != torch.float32:
        _lower_precision(network, dtype)
    network.graph.lint()
    network.recompile()
    return folded.to(memory_format=torch.channels_last).requires_grad_(False)


def _fold_into_convolution(network: fx.GraphModule, norm: fx.Node) -> None:
    """Fold a BatchNorm into the convolution before it, if nothing else reads the convolution's output."""
    convolution, *constants = norm.args[:5]
    assert isinstance(convolution, fx.Node)
    if convolution.target is not torch.ops.aten.conv2d.default or len(convolution.users) > 1:
        return
    scale, shift, mean, variance = (_find_constant(network, node) for node in constants)
    weight, bias = (_find_constant(network, node) for node in (*convolution.args[1:3], None)[:2])
    if weight is None or mean is None or variance is None:
        return
    eps = norm.args[6 if norm.target is _NORMS[0] else 7]
    fused = fuse_conv_bn_weights(weight, bias, mean, variance, eps, scale, shift)  # type: ignore[arg-type]
    names = [f"{convolution.name}_{what}_folded" for what in ("weight", "bias")]
    with network.graph.inserting_before(convolution):
        nodes = []
        for name, value in zip(names, fused, strict=True):
            network.register_buffer(name, value.detach())
            nodes.append(network.graph.get_attr(name))
    convolution.args = (convolution.args[0], *nodes, *convolution.args[3:])
    returns_one_tensor = norm.target is _NORMS[1]
    for node in [norm] if returns_one_tensor else [user for user in norm.users if user.args[1] == 0]:
        node.replace_all_uses_with(convolution)
        network.graph.erase_node(node)


def _find_constant(network: fx.GraphModule, node: Any) -> Tensor | None:
    """Return the parameter or buffer that a node reads, None if it reads none."""
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    value = attrgetter(str(node.target))(network)
    return value if isinstance(value, Tensor) else None


def _lower_precision(network: fx.GraphModule, dtype: torch.dtype) -> None:
    """Run everything that leads to the feature maps in another dtype."""
    graph = network.graph
    (output,) = graph.find_nodes(op="output")
    before: set[fx.Node] = set(output.args[0][1:])
    for node in reversed(graph.nodes):
        if node in before:
            before.update(node.all_input_nodes)
    for node in list(graph.nodes):
        value = _find_constant(network, node)
        if node in before and (node.op == "placeholder" or (value is not None and value.is_floating_point())):
            _cast(graph, node, dtype, lambda user: user in before)
        elif node in before and node.op == "call_function" and _is_tensor(node):
            _cast(graph, node, torch.float32, lambda user: user not in before)


def _is_tensor(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.is_floating_point()


def _cast(graph: fx.Graph, node: fx.Node, dtype: torch.dtype, where: Callable[[fx.Node], bool]) -> None:
    """Pass a node's value in another dtype to those of its users for which `where` is true."""
    users = [user for user in node.users if where(user)]
    if users:
        with graph.inserting_after(node):
            cast = graph.call_function(torch.ops.aten.to.dtype, (node, dtype))
        for user in users:
            user.replace_input_with(node, cast)
