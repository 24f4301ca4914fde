"""Make one graph of a network that returns its logits and finer class maps, for torch.export and ONNX.

    inputs (N, channels, H, W) -> logits (N, K), maps (N, K, f * h, f * w)

    maps[:, :, ::f, ::f].sum((2, 3)) + bias == logits

It computes what `FinerMaps` holds: by dilating the last strides of the network, or by running it once for each shift.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from inspector.explain.backends.export_graph import ClassMapHead, class_map_graph
from inspector.explain.classifier import Classifier
from inspector.explain.dilation import DilationPlan, PlannedPass
from inspector.explain.finer import find_strides, plan_dilation, shift_inputs
from inspector.explain.head import Head
from inspector.explain.tracing.forward import copy_sharing_parameters
from inspector.explain.tracing.tensor_calls import TensorCallMode


def finer_graph(classifier: Classifier, factor: int) -> nn.Module:
    """Make a module whose forward takes inputs (N, channels, H, W) to (logits (N, K), maps (N, K, f * h, f * w)).

    Args:
        classifier: the network, at its input size.
        factor: 2 or 4.

    Raises:
        HeadError: the head has no weight that holds for every image.
        NetworkError: torch.export fails.
        InspectorError: as in `compute_finer`.
    """
    plan, copy = plan_dilation(classifier, factor), copy_sharing_parameters(classifier.network)
    if isinstance(plan, str) or copy is None:
        graph: nn.Module = _ShiftedGraph(class_map_graph(classifier), find_strides(classifier, factor), factor)
    else:
        graph = _DilatedGraph(copy, classifier.head, plan, factor)
    graph.training = False  # exported graphs do not support eval()
    return graph


class _DilatedGraph(nn.Module):
    """A network whose last strides are dilated as a plan says."""

    names = ("logits", "maps")

    def __init__(self, network: nn.Module, head: Head, plan: DilationPlan, factor: int) -> None:
        super().__init__()
        self.network, self.head, self.calls = network, ClassMapHead(head), head.calls
        self.plan, self.factor = plan, factor

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Run the network, and its last calls for all shifts."""
        followed, poolings = PlannedPass(inputs, self.plan), self.plan.poolings or {}
        maps: dict[int, Tensor] = {}

        def capture(function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
            if (pooling := poolings.get(followed.count + 1)) is not None:
                source = pytree.tree_leaves((tuple(args), kwargs))[pooling.source]
                maps[pooling.index] = pooling.layout.feature_maps(torch.cat([source, followed.require(source)]))
            return followed.handle(function, args, kwargs)

        with TensorCallMode(capture):
            logits = self.network(inputs)
        return logits.reshape(inputs.shape[0], -1), _interleave(self.head([maps[n] for n in self.calls]), self.factor)


class _ShiftedGraph(nn.Module):
    """A network that runs once for each shift of its input."""

    names = ("logits", "maps")

    def __init__(self, own: nn.Module, strides: tuple[int, int], factor: int) -> None:
        super().__init__()
        self.own, self.strides, self.factor = own, strides, factor

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Run the network on all shifts of all images as one batch."""
        (down, across), factor = self.strides, range(self.factor)
        shifts = [shift_inputs(inputs, p * down, q * across) for p in factor for q in factor]
        logits, maps = self.own(torch.cat(shifts))
        return logits[: inputs.shape[0]], _interleave(maps, self.factor)


def _interleave(maps: Tensor, factor: int) -> Tensor:
    """Lay the maps (shifts * N, K, h, w) of all shifts on the finer grid: (N, K, factor * h, factor * w)."""
    classes, height, width = maps.shape[1:]
    shifts = maps.reshape(factor, factor, -1, classes, height, width)
    return shifts.permute(2, 3, 4, 0, 5, 1).reshape(-1, classes, factor * height, factor * width)
