"""Summarize a network: its layers, the pooling, what follows the pooling, and how exact its class maps are."""

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from inspector.errors import HeadError, NetworkError
from inspector.explain.classifier import Classifier, check_classifier
from inspector.explain.head import Head, find_head
from inspector.explain.kinds import VERDICTS, Verdict
from inspector.explain.placement import join_fields, place_head
from inspector.explain.receptive_field import ReceptiveField
from inspector.explain.tracing.chosen_output import choose_output
from inspector.explain.tracing.forward import capture_poolings, eval_mode, noise_input, run_network
from inspector.explain.tracing.layer_trace import Layer, trace_layers
from inspector.explain.tracing.unwrap import unwrap
from inspector.images.preprocessing import as_pair

SIZES = ((208, 208), (104, 208), (256, 408))  # (height, width); some sides are multiples of 32, others only of 16 or 8


@dataclass(frozen=True)
class NetworkSummary:
    """Summary of a network at one input size."""

    name: str
    input: tuple[int, ...]  # (1, channels, H, W)
    output: tuple[int, ...]  # shape of the output; () if the output is not a tensor
    layers: tuple[Layer, ...]  # every run of every module; a block stands before the modules inside it
    parameters: int  # number of values
    head: Head | None  # None if the network has no class maps
    pooled_after: int | None  # number of layers before the pooling; None if there is no pooling
    after: tuple[str, ...]  # names of the tensor functions after the pooling
    verdict: Verdict | Literal["none"]
    reason: str  # why the class maps are exact, or are not
    place: str  # whether the cells respond at their places, in one sentence; "" without class maps
    # (input size, grid of the class maps or of a backbone's feature maps). The grid is None if this size does not run.
    grids: tuple[tuple[tuple[int, int], tuple[int, int] | None], ...]
    channels: int  # axis of the channels in the output, if the output is feature maps
    fed: str | None = None  # how a photo becomes the input; None if a network without preprocessing was described

    @property
    def pooling(self) -> str:
        """Return the poolings with their grids, as text."""
        if self.head is None:
            return "none"
        branches = [f"{branch.pooling} over {branch.grid[0]} x {branch.grid[1]} cells" for branch in self.head.branches]
        return " and ".join(dict.fromkeys(branches))

    def lines(self) -> list[tuple[str, str]]:
        """Return the summary without the list of layers, as pairs (subject, sentence)."""
        layers = len({layer.name for layer in self.layers if not layer.is_block})
        accepted = [f"{h} x {w} -> {grid[0]} x {grid[1]}" for (h, w), grid in self.grids if grid is not None]
        refused = [f"{h} x {w}" for (h, w), grid in self.grids if grid is None]
        rows = [
            ("network", f"{self.name}, {layers} layers, {self.parameters:,} parameters"),
            ("input and output", f"{self.input} -> {self.output}"),
            ("pooling", self.pooling),
            ("what follows it", ", ".join(self.after) or "nothing"),
            ("class maps", f"{self.verdict}: {self.reason}"),
            *([("place of the cells", self.place)] if self.place else []),
            ("pooling to add", self.pooling_advice),
        ]
        if accepted:
            kind = "feature" if self.head is None else "class"
            rows.append((f"input size -> grid of the {kind} maps", "; ".join(accepted)))
        if accepted and refused:
            rows.append(("unsupported input sizes", ", ".join(refused)))
        if self.fed is not None:
            rows.append(("a photo is fed", self.fed))
        return rows

    @property
    def pooling_advice(self) -> str:
        """Return one sentence of advice: the network already pools, needs global pooling, or has nothing to pool."""
        if len(self.output) == 4 and sum(side > 1 for side in self.output[1:]) > 1:
            return (
                f"It does not pool: it returns feature maps {self.output}. Add global average pooling and a Linear "
                f"layer from {self.output[self.channels]} features to the classes."
            )
        if len(self.output) == 3:
            return f"It does not pool: it returns tokens {self.output}. Add their mean and a Linear layer."
        if self.head is not None and self.head.per_class:
            return (
                f"It already pools: it returns its pooled feature maps, {self.output}. If these are features and not "
                "classes, add a Linear layer and no other pooling."
            )
        if self.head is not None:
            logits = "1 logit" if self.head.classes == 1 else f"{self.head.classes} logits"
            return f"It already pools and returns {logits}. No pooling is needed."
        if not self.output:
            return "It returns neither logits nor feature maps, so there is nothing to pool."
        return "It returns one value per class, but does not pool feature maps."


Anatomy = NetworkSummary  # public name in the first version, kept for existing code


def describe(
    model: Classifier | nn.Module,
    size: int | Sequence[int] = 224,
    channels: int = 3,
    sizes: Sequence[tuple[int, int]] = SIZES,
    name: str | None = None,
    output: str | int | None = None,
) -> NetworkSummary:
    """Summarize a classifier, or any network, at one input size.

    Args:
        model: a classifier, or a network that returns logits or feature maps.
        size: input size in pixels, (height, width) or one number for both. Not used for a classifier.
        channels: number of input channels. Not used for a classifier, which has its own.
        sizes: input sizes (height, width) for which the grid of the maps is listed too.
        name: name to show. Default: the name of the classifier, or the type of the network.
        output: which output holds the logits, if the network returns several. Not used for a classifier.

    Raises:
        NetworkError: the network does not run on an input of this size, or has no such output.
    """
    if isinstance(model, Classifier):
        network, default_name = model.network, model.name
        height_width, channels = model.preprocessing.size, len(model.preprocessing.mean)
    else:
        if not isinstance(model, nn.Module):
            check_classifier(model)
        model = unwrap(model)
        network, default_name, height_width = model, type(model).__name__, as_pair(size)
    example = noise_input(network, (1, channels, *height_width))
    # Put the original network into evaluation mode too: a closure in the traced copy may still call its modules.
    with eval_mode(network):
        network, head, reason = _find_head_or_reason(model, example, output)
        trace = trace_layers(network, example, () if head is None else head.calls)
        tried = list(dict.fromkeys([height_width, *sizes]))
        if head is None and len(trace.output) == 4:
            axis, grids = _find_backbone_grids(network, example, tried)
        else:
            axis, grids = 1, [None if head is None else _find_grid(network, example, pair, head) for pair in tried]
    return NetworkSummary(
        name=name or default_name,
        input=tuple(example.shape),
        output=trace.output,
        layers=trace.layers,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        head=head,
        pooled_after=trace.pooled_after,
        after=trace.functions_after,
        verdict="none" if head is None else head.verdict,
        reason=reason if head is None else f"{VERDICTS[head.verdict].sentence} {head.note}".rstrip(),
        place="" if head is None else _find_field(model, network, example, head).description,
        grids=tuple(zip(tried, grids, strict=True)),
        channels=axis,
        fed=model.preprocessing.describe() if isinstance(model, Classifier) else None,
    )


def _find_head_or_reason(
    model: Classifier | nn.Module, example: Tensor, output: str | int | None
) -> tuple[nn.Module, Head | None, str]:
    """Return the network, with its output chosen if possible, and its head or why it has none."""
    if isinstance(model, Classifier):
        return model.network, model.head, ""
    network = model
    try:
        network = choose_output(model, example, output)
        return network, find_head(network, example), ""
    except HeadError as error:
        return network, None, str(error)
    except NetworkError as error:
        if output is not None:
            raise
        # A backbone runs, but returns no logits. If the network does not run at all, the next call raises.
        _find_output_shape(network, example)
        return network, None, str(error)


def _find_field(model: Classifier | nn.Module, network: nn.Module, example: Tensor, head: Head) -> ReceptiveField:
    if isinstance(model, Classifier):
        return model.receptive_field
    known: ReceptiveField | None = getattr(model, "receptive_field", None)  # of ONNX networks
    return join_fields(place_head(network, example, head, known).branches)


def _find_output_shape(network: nn.Module, inputs: Tensor) -> tuple[int, ...]:
    with torch.no_grad():
        output = run_network(network, inputs)
    return tuple(output.shape) if isinstance(output, Tensor) else ()


def _find_grid(network: nn.Module, example: Tensor, size: tuple[int, int], head: Head) -> tuple[int, int] | None:
    """Find the grid of the class maps at another input size; None if the network does not run up to its pooling."""
    try:
        captured, _ = capture_poolings(network, example.new_zeros(*example.shape[:2], *size), head.calls)
    except NetworkError:
        return None
    return max((pooling.grid for pooling in captured), key=math.prod)


def _find_backbone_grids(
    network: nn.Module, example: Tensor, sizes: Sequence[tuple[int, int]]
) -> tuple[int, list[tuple[int, int] | None]]:
    """Find the axis of the channels of a backbone's feature maps, and their grid at each input size."""
    shapes: dict[tuple[int, int], tuple[int, ...]] = {}
    for size in sizes:
        with suppress(NetworkError):
            shapes[size] = _find_output_shape(network, example.new_zeros(*example.shape[:2], *size))
    # The number of cells changes with the input size, so if only axis 3 keeps its length, it holds the channels.
    varying = [axis for axis in (1, 2, 3) if len({shape[axis] for shape in shapes.values()}) > 1]
    axis = 3 if varying and 3 not in varying else 1
    y, x = (1, 2) if axis == 3 else (2, 3)
    return axis, [(shapes[size][y], shapes[size][x]) if size in shapes else None for size in sizes]
