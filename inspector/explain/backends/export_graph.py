"""One graph of a network that returns its logits and its class maps, for torch.compile, torch.export and ONNX.

    inputs (N, channels, H, W) -> logits (N, K), maps (N, K, h, w)        maps.sum((2, 3)) + bias == logits

torch.export writes the network down as a graph of tensor functions. Which of their results are the feature maps before
pooling, and which the logits, is told by number: those that equal what our own pass heard, on four noise images. No
name of a layer is asked for. The graph is a copy: a network that is trained further leaves it as it was.
"""

import math
import warnings
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.functional import conv2d

from inspector.errors import HeadError, NetworkError, summarize_reason
from inspector.explain.classifier import Classifier
from inspector.explain.head import Head
from inspector.explain.pooling import resample_conserving
from inspector.explain.tracing.forward import capture_chosen_poolings, copy_sharing_parameters

# A clamp that is idle on one image is not on another.
_STRETCHES = (1, -1, 10, -100)
_ROUNDING = 1e-4  # of an image's largest value: the graph adds up in another order at most


@dataclass(frozen=True)
class _Place:
    """A result inside the graph that holds what was looked for."""

    node: fx.Node
    channels_first: bool  # False: (N, h, w, C), or tokens (N, h * w, C)


class ClassMapsOf(nn.Module):
    """Feature maps of each branch, (N, C, h, w), -> class maps (N, K, h, w) in logits, for a head of a fixed weight."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        _refuse_without_weight(head)
        assert head.weight is not None
        self.poolings = [branch.pooling for branch in head.branches]
        columns = head.weight.detach().split([branch.width for branch in head.branches], 1)
        for n, column in enumerate(columns):
            self.register_buffer(f"weight_{n}", None if head.per_class else column.clone())

    def forward(self, feature_maps: Sequence[Tensor]) -> Tensor:
        finest = max(((one.shape[2], one.shape[3]) for one in feature_maps), key=math.prod)
        maps = []
        for n, (pooling, one) in enumerate(zip(self.poolings, feature_maps, strict=True)):
            own = _split(pooling, one, getattr(self, f"weight_{n}"))
            maps.append(own if own.shape[2:] == finest else resample_conserving(own, finest))
        return sum(maps[1:], start=maps[0])


class LogitsAndMaps(nn.Module):
    """(N, channels, H, W) -> logits (N, K), then the feature maps of each branch and the class maps, as asked for."""

    def __init__(
        self, network: fx.GraphModule, layouts: Sequence[tuple[bool, Sequence[int]]], class_maps: nn.Module | None,
        feature_maps: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.network = network  # logits, then the feature maps as they lie in it
        self.layouts = [(first, tuple(shape)) for first, shape in layouts]  # channels first; (C, h, w)
        self.class_maps = class_maps
        self.feature_maps = feature_maps

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        logits, *heard = self.network(inputs)
        maps = [_lay(one, first, shape) for one, (first, shape) in zip(heard, self.layouts, strict=True)]
        outputs = (logits.reshape(inputs.shape[0], -1), *(maps if self.feature_maps else ()))
        return outputs if self.class_maps is None else (*outputs, self.class_maps(maps))


def class_map_graph(classifier: Classifier) -> LogitsAndMaps:
    """The module whose forward takes inputs (N, channels, H, W) to (logits (N, K), maps (N, K, h, w)).

    `maps.sum((2, 3)) + classifier.head.bias == logits`. For inputs of the classifier's own size, any N. Raises
    HeadError where the head has no weight that holds for every image, NetworkError where torch.export fails.
    """
    _refuse_without_weight(classifier.head)
    return _graph(classifier, ClassMapsOf(classifier.head), feature_maps=False)


def feature_graph(classifier: Classifier) -> LogitsAndMaps:
    """The same for every head, with the feature maps of each branch, (N, C, h, w), after the logits.

    The class maps follow where there is one branch and a weight that holds for every image.
    """
    head = classifier.head
    inside = can_export_class_maps(head) and len(head.branches) == 1
    return _graph(classifier, ClassMapsOf(head) if inside else None, feature_maps=True)


def export_program(module: nn.Module, inputs: Tensor) -> torch.export.ExportedProgram:
    """The module as torch.export writes it down, for any N, in functional ATen; `inputs` (2, channels, H, W)."""
    with warnings.catch_warnings(), torch.no_grad():
        # Of torch's own making, and nothing that a user could change.
        warnings.simplefilter("ignore")
        try:
            any_number = ({0: torch.export.Dim.DYNAMIC},)
            written: torch.export.ExportedProgram = torch.export.export(module, (inputs,), dynamic_shapes=any_number)
            functional: torch.export.ExportedProgram = written.run_decompositions({})
        except Exception as error:  # whatever a network does that cannot be traced
            raise NetworkError(
                f"torch.export cannot write this network down as one graph: {summarize_reason(error)}. "
                'The backend "eager" serves every network.'
            ) from error
        return functional


def noise(classifier: Classifier, images: int) -> Tensor:
    """Seeded noise in the place of images, (images, channels, H, W)."""
    return classifier.noise_input(images, seed=3)


def _graph(classifier: Classifier, class_maps: nn.Module | None, feature_maps: bool) -> LogitsAndMaps:
    network, head = classifier.network, classifier.head
    copy = copy_sharing_parameters(network)
    if copy is None:
        raise NetworkError(
            "The network holds something that cannot be copied, so no graph can be made of it. "
            'The backend "eager" serves every network.'
        )
    images = noise(classifier, len(_STRETCHES)) * noise(classifier, 1).new_tensor(_STRETCHES).view(-1, 1, 1, 1)
    heard, logits = capture_chosen_poolings(network, images, head.calls)
    graph = _without_guards(export_program(copy, images[:2]))
    with torch.no_grad():
        seen = _Matches(graph, [logits, *(one.feature_maps for one in heard)])
        seen.run(images)
    if None in seen.places:
        raise NetworkError(
            "What torch.export wrote down of this network gives other feature maps or logits than the network does. "
            'The backend "eager" serves every network.'
        )
    places = [place for place in seen.places if place is not None]
    (output,) = graph.graph.find_nodes(op="output")
    output.args = (tuple(place.node for place in places),)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    layouts = [(place.channels_first, one.feature_maps.shape[1:]) for place, one in zip(places[1:], heard, strict=True)]
    made = LogitsAndMaps(deepcopy(graph), layouts, class_maps, feature_maps)
    made.training = False  # without eval(): exported graphs refuse it
    return made.requires_grad_(False)


def _without_guards(program: torch.export.ExportedProgram) -> fx.GraphModule:
    """A plain module: the graph takes one tensor and gives what its output node says."""
    graph = program.module()
    for node in graph.graph.find_nodes(op="call_module", target="_guards_fn"):
        graph.graph.erase_node(node)
    graph.graph.set_codegen(fx.graph.CodeGen())
    return fx.GraphModule(graph, graph.graph)


class _Matches(fx.Interpreter):
    """Runs a graph once, and notes where each of the tensors looked for came up last."""

    def __init__(self, graph: fx.GraphModule, wanted: Sequence[Tensor]) -> None:
        super().__init__(graph)
        self.wanted = wanted  # each (N, ...)
        self.places: list[_Place | None] = [None] * len(wanted)

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.op == "call_function" and isinstance(value, Tensor) and value.is_floating_point():
            for k, wanted in enumerate(self.wanted):
                first = _layout(value, wanted)
                if first is not None:
                    self.places[k] = _Place(n, first)
        return value


def _lay(value: Tensor, channels_first: bool, shape: Sequence[int]) -> Tensor:
    """A tensor as it lies in the graph as feature maps (N, C, h, w); `shape` (C, h, w)."""
    rows: Tensor = value if channels_first else value.reshape(value.shape[0], -1, shape[0]).transpose(1, 2)
    return rows.reshape(-1, *shape)


def _layout(value: Tensor, wanted: Tensor) -> bool | None:
    """Whether a tensor holds what is looked for with its channels first, or last (False); None where it does not."""
    if value.numel() != wanted.numel() or value.shape[:1] != wanted.shape[:1]:
        return None
    if _same(value.reshape(wanted.shape), wanted):
        return True
    if wanted.ndim == 4 and value.shape[-1] == wanted.shape[1]:
        return False if _same(_lay(value, False, wanted.shape[1:]), wanted) else None
    return None


def _same(value: Tensor, wanted: Tensor) -> bool:
    miss = (value - wanted).abs().flatten(1).amax(1)
    return bool((miss <= _ROUNDING * wanted.abs().flatten(1).amax(1)).all())


def can_export_class_maps(head: Head) -> bool:
    """Whether one graph can hold what makes the class maps of every image."""
    return head.weight is not None and {branch.pooling for branch in head.branches} <= {"average", "max", "flatten"}


def _refuse_without_weight(head: Head) -> None:
    if can_export_class_maps(head):
        return
    why = (
        f"of this head are {head.verdict}: its weight changes with the image"
        if head.weight is None
        else f"of {head.pooling} pooling need its derivative"
    )
    raise HeadError(
        f"The class maps {why}, which one graph cannot hold. A network that ends in average or maximum pooling, or "
        "flatten, with nothing but affine layers behind it would do."
    )


def _split(pooling: str, feature_maps: Tensor, weight: Tensor | None) -> Tensor:
    """`pooling.split` in functions that every exporter knows, for any N."""
    channels, height, width = feature_maps.shape[1:]
    if pooling == "flatten":
        if weight is None:
            return feature_maps
        # Every position has columns of its own: (h * w, N, C) by (h * w, C, K).
        own = weight.view(-1, channels, height * width).permute(2, 1, 0)
        rows = feature_maps.flatten(2).permute(2, 0, 1)
        return (rows @ own).permute(1, 2, 0).reshape(-1, own.shape[2], height, width)
    if pooling == "max":
        rows = feature_maps.flatten(2)
        highest = rows == rows.amax(2, keepdim=True)
        first = highest & (highest.to(rows.dtype).cumsum(2) == 1)
        feature_maps = torch.where(first, rows, torch.zeros_like(rows)).view_as(feature_maps)
    # A convolution and no product of matrices: whoever builds a network packs its weight beforehand, in half the time.
    maps = feature_maps if weight is None else conv2d(feature_maps, weight[:, :, None, None])
    return maps / (height * width) if pooling == "average" else maps
