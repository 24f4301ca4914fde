"""Make one graph of a network that returns its logits and its class maps, for torch.compile, torch.export and ONNX.

    inputs (N, channels, H, W) -> logits (N, K), maps (N, K, h, w)        maps.sum((2, 3)) + bias == logits

torch.export writes the network as a graph of tensor functions. Which of their results are the feature maps before the
pooling, and which are the logits, is found by value: they equal what a pass in PyTorch captured, on four noise images.
No layer needs a certain name. The graph is a copy: training the network further does not change it.
"""

import math
import threading
import warnings
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx, nn
from torch.nn.functional import conv2d

from inspector.errors import HeadError, NetworkError, translate_errors
from inspector.explain.classifier import Classifier
from inspector.explain.head import Head
from inspector.explain.pooling import position_scores
from inspector.explain.tracing.forward import capture_poolings, copy_sharing_parameters, eval_mode

# torch.export, torch.compile and torch.onnx keep what they trace in tables of the whole process, so they run one at a
# time. Passes of networks need no lock: they do not read these tables.
one_trace_at_a_time = threading.RLock()

_SEED = 3  # seed of the noise images
_NOISE_SCALES = (
    1,
    -1,
    10,
    -100,
)  # one per noise image: a clamp may change nothing on one image, but then it does on another
USE_EAGER = 'Use the backend "eager", which runs every network.'
_ROUNDING = 1e-4  # relative to an image's largest value; the graph differs only by the order of its sums


@dataclass(frozen=True)
class _Match:
    """A node of the graph whose output equals a tensor that is searched for."""

    node: fx.Node
    channels_first: bool  # False: (N, h, w, C), or tokens (N, h * w, C)


_Layout: TypeAlias = tuple[bool, Sequence[int]]  # channels first; (C, h, w) of the feature maps


class ClassMapHead(nn.Module):
    """Feature maps of each branch, (N, C, h, w), -> class maps (N, K, h, w) in logits, for a head of fixed weight."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        if not can_export_class_maps(head):
            why = f"of {head.pooling} pooling need its derivative"
            if head.weight is None:
                why = f"of this head are {head.verdict}: its weight changes with the image"
            raise HeadError(
                f"The class maps {why}, which one graph cannot compute. Use a network that ends in average or maximum "
                "pooling, or flatten, with only affine layers after it."
            )
        self.head, self.poolings = head, [branch.pooling for branch in head.branches]
        for n, column in enumerate(head.affine[0].detach().split(head.widths, 1)):
            self.register_buffer(f"weight_{n}", None if head.per_class else column.clone())

    def forward(self, feature_maps: Sequence[Tensor]) -> Tensor:
        """Sum the contributions of all branches, on the grid of the finest."""
        maps = []
        for n, (pooling, one) in enumerate(zip(self.poolings, feature_maps, strict=True)):
            maps.append(_split_pooling(pooling, one, getattr(self, f"weight_{n}")))
        laid = self.head.lay_on_finest_grid(maps)
        return sum(laid[1:], start=laid[0])


class LogitsAndMaps(nn.Module):
    """(N, channels, H, W) -> logits (N, K), then, if asked for, the feature maps of each branch and the class maps."""

    def __init__(
        self, network: fx.GraphModule, layouts: list[_Layout], class_maps: nn.Module | None, feature_maps: bool
    ) -> None:
        super().__init__()
        self.network, self.layouts = (
            network,
            layouts,
        )  # the network returns the logits, then the feature maps in the graph's own layouts
        self.class_maps, self.feature_maps = class_maps, feature_maps

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the outputs."""
        maps = [f"feature_maps_{n}" for n in range(len(self.layouts) * self.feature_maps)]
        return ("logits", *maps, *(["maps"] if self.class_maps is not None else []))

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Run the network and bring its results to the layout of feature maps."""
        logits, *results = self.network(inputs)
        maps = [_as_feature_maps(one, first, shape) for one, (first, shape) in zip(results, self.layouts, strict=True)]
        outputs = (logits.reshape(inputs.shape[0], -1), *(maps if self.feature_maps else ()))
        return outputs if self.class_maps is None else (*outputs, self.class_maps(maps))


def class_map_graph(classifier: Classifier, feature_maps: bool = False) -> LogitsAndMaps:
    """Make a module whose forward takes inputs (N, channels, H, W) to (logits (N, K), maps (N, K, h, w)).

    `maps.sum((2, 3)) + classifier.head.bias == logits`, for inputs of the classifier's own size and any N.

    Args:
        classifier: the network.
        feature_maps: between both, also return the feature maps of each branch, (N, C, h, w).

    Raises:
        HeadError: the head has no weight that holds for every image.
        NetworkError: torch.export fails.
    """
    return _make_graph(classifier, ClassMapHead(classifier.head), feature_maps)


def feature_graph(classifier: Classifier) -> LogitsAndMaps:
    """Make a module that returns the logits and the feature maps of each branch, (N, C, h, w), for every head.

    The class maps follow if there is one branch and a weight that holds for every image.

    Raises:
        NetworkError: torch.export fails.
    """
    head = classifier.head
    has_class_maps = can_export_class_maps(head) and len(head.branches) == 1
    return _make_graph(classifier, ClassMapHead(head) if has_class_maps else None, feature_maps=True)


def trace_program(module: nn.Module, inputs: Tensor, functional: bool = False) -> torch.export.ExportedProgram:
    """Trace a module for any number of images.

    Args:
        module: network or graph.
        inputs: example (2, channels, H, W).
        functional: rewrite the operations as functional ATen, where none writes into a tensor. torch.onnx does so
            itself.

    Raises:
        NetworkError: torch.export fails.
    """
    message = "torch.export cannot write this network as one graph: {reason}. " + USE_EAGER
    # torch warns about its own code. Users cannot change that, so the warnings are hidden.
    with (
        one_trace_at_a_time,
        translate_errors(NetworkError, message),
        warnings.catch_warnings(action="ignore"),
        torch.no_grad(),
    ):
        any_number = ({0: torch.export.Dim.DYNAMIC},)
        exported: torch.export.ExportedProgram = torch.export.export(module, (inputs,), dynamic_shapes=any_number)
        return exported.run_decompositions({}) if functional else exported


def _make_graph(classifier: Classifier, class_maps: nn.Module | None, feature_maps: bool) -> LogitsAndMaps:
    network, head = classifier.network, classifier.head
    # Some networks cannot be copied, such as Keras models: they are exported themselves, which does not change them.
    copy = copy_sharing_parameters(network) or network
    images = classifier.noise_input(len(_NOISE_SCALES), _SEED)
    images = images * images.new_tensor(_NOISE_SCALES).view(-1, 1, 1, 1)
    captured, logits = capture_poolings(network, images, head.calls)
    with eval_mode(copy):
        graph = _remove_guards(trace_program(copy, images[:2], functional=True))
    with torch.no_grad():
        finder = _ValueFinder(graph, [logits, *(one.feature_maps for one in captured)])
        finder.run(images)
    matches = [match for match in finder.matches if match is not None]
    if len(matches) < len(finder.matches):
        raise NetworkError(
            "The graph that torch.export makes of this network gives other feature maps or logits than the network. "
            + USE_EAGER
        )
    (output,) = graph.graph.find_nodes(op="output")
    output.args = (tuple(match.node for match in matches),)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    pairs = zip(matches[1:], captured, strict=True)
    layouts: list[_Layout] = [(match.channels_first, tuple(one.feature_maps.shape[1:])) for match, one in pairs]
    module = LogitsAndMaps(deepcopy(graph), layouts, class_maps, feature_maps)
    module.training = False  # exported graphs do not support eval()
    return module.requires_grad_(False)


def _remove_guards(program: torch.export.ExportedProgram) -> fx.GraphModule:
    """Return a plain module, which takes one tensor and returns what its output node lists."""
    graph = program.module()
    for node in graph.graph.find_nodes(op="call_module", target="_guards_fn"):
        graph.graph.erase_node(node)
    graph.graph.set_codegen(fx.graph.CodeGen())
    return fx.GraphModule(graph, graph.graph)


class _ValueFinder(fx.Interpreter):
    """Run a graph once and note, for each target tensor, the last node that computed it."""

    def __init__(self, graph: fx.GraphModule, targets: Sequence[Tensor]) -> None:
        super().__init__(graph)
        self.targets = targets  # each (N, ...)
        self.matches: list[_Match | None] = [None] * len(targets)

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.op == "call_function" and isinstance(value, Tensor) and value.is_floating_point():
            for k, target in enumerate(self.targets):
                channels_first = _find_layout(value, target)
                if channels_first is not None:
                    self.matches[k] = _Match(n, channels_first)
        return value


def _as_feature_maps(value: Tensor, channels_first: bool, shape: Sequence[int]) -> Tensor:
    """Bring a tensor from its layout in the graph to feature maps (N, C, h, w); `shape` is (C, h, w)."""
    rows: Tensor = value if channels_first else value.reshape(value.shape[0], -1, shape[0]).transpose(1, 2)
    return rows.reshape(-1, *shape)


def _find_layout(value: Tensor, target: Tensor) -> bool | None:
    """Return True if a tensor equals the target with channels first, False with channels last, None if neither."""
    if value.numel() != target.numel() or value.shape[:1] != target.shape[:1]:
        return None
    if _is_close(value.reshape(target.shape), target):
        return True
    may_be_last = target.ndim == 4 and value.shape[-1] == target.shape[1]
    return False if may_be_last and _is_close(_as_feature_maps(value, False, target.shape[1:]), target) else None


def compare_outputs(values: Tensor, expected: Tensor, tolerance: float) -> tuple[float, float]:
    """Return the largest error of an output, and the largest that a tolerance allows.

    Test for errors by "not error <= allowed", so that NaN counts as an error too.

    Args:
        values: the output.
        expected: what it should be; the error of another shape is infinite.
        tolerance: as a part of the largest value.
    """
    error = float((values - expected).abs().max()) if values.shape == expected.shape else math.inf
    return error, tolerance * float(expected.abs().max())


def _is_close(value: Tensor, target: Tensor) -> bool:
    error = (value - target).abs().flatten(1).amax(1)
    return bool((error <= _ROUNDING * target.abs().flatten(1).amax(1)).all())


def can_export_class_maps(head: Head) -> bool:
    """Return whether one graph can compute the class maps of every image."""
    return head.weight is not None and {branch.pooling for branch in head.branches} <= {"average", "max", "flatten"}


def _split_pooling(pooling: str, feature_maps: Tensor, weight: Tensor | None) -> Tensor:
    """Compute `pooling.position_contributions` by functions that every exporter knows, for any N."""
    channels, height, width = feature_maps.shape[1:]
    if pooling == "flatten":
        if weight is None:
            return feature_maps
        # Each cell has its own columns of the weight: (h * w, N, C) @ (h * w, C, K).
        columns = weight.view(-1, channels, height * width).permute(2, 1, 0)
        rows = feature_maps.flatten(2).permute(2, 0, 1)
        return (rows @ columns).permute(1, 2, 0).reshape(-1, columns.shape[2], height, width)
    if pooling == "max":
        rows = feature_maps.flatten(2)
        highest = rows == rows.amax(2, keepdim=True)
        first = highest & (highest.to(rows.dtype).cumsum(2) == 1)
        feature_maps = torch.where(first, rows, torch.zeros_like(rows)).view_as(feature_maps)
    if weight is None:
        maps = feature_maps
    elif feature_maps.is_cuda:
        # As the eager pass computes them: by default, a convolution rounds its factors to TF32.
        maps = position_scores(feature_maps, weight)
    else:
        # Not a matrix product: runtimes pack the weight of a convolution in advance, and take half the time.
        maps = conv2d(feature_maps, weight[:, :, None, None])
    return maps / (height * width) if pooling == "average" else maps
