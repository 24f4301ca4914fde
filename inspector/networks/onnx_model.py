"""A network from an ONNX file, with its pooling where it can be seen.

    image -> trunk (ONNX Runtime) -> feature maps -> pooling (torch) -> pooled values -> tail (ONNX Runtime) -> logits

The graph is cut at the last pooling on the way to the logits. Which kind that is, and where its channels lie, is told
by the numbers, and the parts must give the logits of the whole. ONNX Runtime knows no gradients: the tail's is its
matrix, read from unit rows, which is right where the tail is affine.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function_unary

from inspector.errors import HeadError, NetworkError, summarize_reason
from inspector.explain.kinds import Pooling
from inspector.explain.pooling import GlobalAveragePooling, GlobalMaxPooling, identify_pooling
from inspector.explain.tracing.receptive_field import ReceptiveField
from inspector.networks.onnx_graph import (
    MAX_BYTES,
    Graph,
    Layout,
    find_layout,
    find_receptive_field,
    nodes_after,
    nodes_between,
    read_attribute,
    read_graph,
    reads_shape,
    translate_onnx_errors,
)

if TYPE_CHECKING:
    from onnx import ModelProto

Values: TypeAlias = NDArray[np.float32]

THREADS = 2

_POOLS: dict[Pooling, Callable[[], nn.Module]] = {
    "average": GlobalAveragePooling,
    "max": GlobalMaxPooling,
    "flatten": nn.Flatten,
}
_MAY_POOL = {
    "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax", "AveragePool", "MaxPool", "Flatten", "Reshape",
}  # fmt: skip
_STRETCHES = (1, -10, 100)  # of the noise that the parts are compared with the whole on
_ROWS = 256  # of the tail's matrix at a time


@dataclass(frozen=True, eq=False)
class _Part:
    """A part of the graph, from one tensor to another."""

    session: Any
    batched: bool  # False: it takes one image at a time
    sha256: str

    def run(self, values: Values) -> Values:
        """(N, ...) -> (N, ...), or (N, 1, ...) where it takes one image at a time."""
        name = self.session.get_inputs()[0].name
        try:
            if self.batched:
                result: Values = self.session.run(None, {name: values})[0]
                return result
            return np.stack([self.session.run(None, {name: image[None]})[0] for image in values])
        except Exception as error:  # ONNX Runtime's own derive from nothing else
            raise RuntimeError(summarize_reason(error)) from error

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Part":
        return self  # a session cannot be copied and need not be: it has no state


@dataclass(frozen=True)
class _Cut:
    """Where the graph is cut in two."""

    feature_maps: str  # the tensor that goes into the pooling
    pooled: str  # and the one that comes out
    pooling: Pooling
    layout: Layout
    maps_shape: tuple[int, ...]  # of one image, as they lie in the graph
    pooled_shape: tuple[int, ...]


class OnnxNetwork(nn.Module):
    """(N, channels, H, W) -> logits (N, K), whatever the layout of the file. Gradients flow from the pooled values on.

    `ending` is the activation that followed the logits in the file; it was cut off. `receptive_field` is that of the
    feature maps, None where the graph does not tell it.
    """

    def __init__(self, graph: Graph, cut: _Cut, trunk: _Part, tail: _Part | None, field: ReceptiveField | None) -> None:
        super().__init__()
        first = graph.layout == "channels first"
        channels, height, width = graph.shape if first else (graph.shape[2], *graph.shape[:2])
        self.channels = channels or 3
        self.size = (height, width) if height and width else None
        self.ending = graph.ending
        self.receptive_field = field
        self.pooling = _POOLS[cut.pooling]()
        self._layout = graph.layout
        self._cut = cut
        self._trunk = trunk
        self._tail = tail
        digest = hashlib.sha256((trunk.sha256 + (tail.sha256 if tail else "")).encode()).digest()
        # For whoever tells networks apart by their state: the weights themselves lie in ONNX Runtime.
        self.register_buffer("sha256", torch.frombuffer(bytearray(digest), dtype=torch.uint8))

    def forward(self, inputs: Tensor) -> Tensor:
        if self.size and tuple(inputs.shape[2:]) != self.size:
            raise NetworkError(
                f"The ONNX file takes images of {self.size[0]} x {self.size[1]} pixels (height x width) and no other "
                f"size; got {inputs.shape[2]} x {inputs.shape[3]}. Say size={self.size}, or export with free axes."
            )
        pooled: Tensor = self.pooling(extract_onnx_trunk(inputs, self))
        if self._tail is None:
            return pooled
        logits: Tensor = _HeadFunction.apply(pooled, self)
        return logits

    def feature_maps_of(self, inputs: Tensor) -> Tensor:
        """(N, C, h, w)."""
        values = _lay(inputs.detach().cpu().float(), self._layout)
        result = torch.from_numpy(self._trunk.run(values.contiguous().numpy()))
        maps = result.reshape(len(inputs), *result.shape[-3:])
        return (maps if self._cut.layout == "channels first" else maps.permute(0, 3, 1, 2)).contiguous()

    def logits_of(self, pooled: Tensor) -> Tensor:
        """(N, P) -> (N, K)."""
        assert self._tail is not None
        values = _in_order_of_graph(pooled.detach().cpu().float(), self._cut)
        result = self._tail.run(values.reshape(-1, *self._cut.pooled_shape).contiguous().numpy())
        return torch.from_numpy(result.reshape(len(pooled), -1))

    @cached_property
    def matrix(self) -> Tensor:
        """d logits / d pooled of an affine tail: (K, P). Raises HeadError where the tail is not."""
        count = int(np.prod(self._cut.pooled_shape))
        self._refuse_a_bent_tail(count)
        nothing = self.logits_of(torch.zeros(1, count))
        # Not 1: a large bias, added to the product, would cost small weights their last digits.
        unit = 2.0**20
        columns = []
        for first in range(0, count, _ROWS):
            rows = torch.zeros(min(_ROWS, count - first), count)
            rows[torch.arange(len(rows)), torch.arange(first, first + len(rows))] = unit
            columns.append((self.logits_of(rows) - nothing) / unit)
        return torch.cat(columns).T.contiguous()

    def _refuse_a_bent_tail(self, count: int) -> None:
        # Before its matrix is read: that of a VGG takes minutes, and is of no use.
        generator = torch.Generator().manual_seed(0)
        for stretch in _STRETCHES:
            there = stretch * torch.randn(1, count, generator=generator)
            ahead, behind, middle = (self.logits_of(rows) for rows in (there, -there, torch.zeros_like(there)))
            if not torch.allclose(ahead + behind, 2 * middle, rtol=0, atol=1e-4 * float((ahead - middle).abs().max())):
                raise HeadError(
                    "What follows the pooling in the ONNX file is not affine (an activation, a normalisation or "
                    "several layers stand there): its logits do not split exactly over positions."
                )


class _HeadFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pooled: Tensor, network: OnnxNetwork) -> Tensor:
        ctx.network = network
        return network.logits_of(pooled)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] @ ctx.network.matrix, None


def extract_onnx_trunk(inputs: Tensor, network: OnnxNetwork) -> Tensor:
    """The feature maps (N, C, h, w), by a function that a TorchFunctionMode sees: their track must not end here."""
    if has_torch_function_unary(inputs):
        maps: Tensor = handle_torch_function(extract_onnx_trunk, (inputs,), inputs, network)
        return maps
    return network.feature_maps_of(inputs)


def read_onnx(path: Path, size: tuple[int, int] = (224, 224), max_bytes: int = MAX_BYTES) -> OnnxNetwork:
    """The network in an ONNX file. Nothing in it is run but ONNX's own operators, and those of ONNX Runtime.

    `size` is the height and width that it is tried with where the file leaves them open. Raises NetworkError for what
    is no ONNX file of one image input, HeadError where the logits do not come from one pooling.
    """
    with translate_onnx_errors(path.name):
        graph = read_graph(path, max_bytes)
        examples = list(_examples(graph, size))
        surveys = _survey(graph, examples)
        cut = _find_cut(graph, surveys)
        frozen = _frozen_shapes(graph, cut, surveys[0])
        trunk = _part(graph.model, graph.start, graph.shape, cut.feature_maps, {}, surveys)
        tail = None
        if cut.pooled != graph.logits:
            tail = _part(graph.model, cut.pooled, cut.pooled_shape, graph.logits, frozen, surveys)
        field = find_receptive_field(graph, cut.feature_maps, surveys[0])
        network = OnnxNetwork(graph, cut, trunk, tail, field).eval()
        _prove(network, graph, examples, surveys)
        if frozen:
            # They are those of this size.
            network.size = network.size or size
    return network


def _examples(graph: Graph, size: tuple[int, int]) -> Iterator[Values]:
    """Noise, (1, ...) as the graph wants it, at several stretches."""
    generator = torch.Generator().manual_seed(0)
    first = graph.layout == "channels first"
    usual = (3, *size) if first else (*size, 3)
    shape = [known or other for known, other in zip(graph.shape, usual, strict=True)]
    for stretch in _STRETCHES:
        yield (stretch * torch.randn(1, *shape, generator=generator)).numpy()


def _survey(graph: Graph, examples: Sequence[Values]) -> list[dict[str, Any]]:
    """For each example, by name: the logits, what may be pooled and what came of it, and shapes that are asked for."""
    from_image = nodes_after(graph, graph.start)
    names = {graph.logits: None}  # in order, once each
    for node in nodes_between(graph, graph.logits):
        if node.op_type in _MAY_POOL or reads_shape(node):
            names |= dict.fromkeys((node.input[0], node.output[0]))
        if node.op_type == "Shape":
            names |= {node.output[0]: None}
    names = {name: None for name in names if name in from_image}
    session = _loaded(_extract(graph.model, graph.start, [1, *graph.shape], list(names), {}), batched=False).session
    surveys = [
        {graph.start: example} | dict(zip(names, session.run(None, {graph.start: example}), strict=True))
        for example in examples
    ]
    if not all(np.isfinite(survey[graph.logits]).all() for survey in surveys):
        raise NetworkError("The ONNX file gives logits for noise that are no finite numbers: its weights are broken.")
    return surveys


def _find_cut(graph: Graph, surveys: Sequence[Mapping[str, Any]]) -> _Cut:
    """The last pooling on the way to the logits."""
    for node in reversed(nodes_between(graph, graph.logits)):
        if node.op_type not in _MAY_POOL or node.input[0] not in surveys[0]:
            continue
        pairs = [(survey[node.input[0]], survey[node.output[0]]) for survey in surveys]
        source, result = pairs[0]
        layouts = [
            layout for layout in _layouts(graph, node.input[0], flat=result.ndim == 2) if _pools(source, result, layout)
        ]
        for layout in layouts:
            # Maps that are the same everywhere are pooled alike by every pooling: all examples must agree.
            kinds = [_kinds(*pair, layout) for pair in pairs]
            if common := [kind for kind in kinds[0] if all(kind in others for others in kinds)]:
                return _Cut(node.input[0], node.output[0], common[0], layout, source.shape[1:], result.shape[1:])
        if layouts:
            raise HeadError(
                f"The last feature maps in the ONNX file, {source.shape[1:]}, are pooled by {node.op_type} neither by "
                "average, nor by maximum, nor flattened: their class maps would not be exact."
            )
    raise HeadError(
        "No pooling was found in the ONNX file: no operator on the way to the logits takes every channel of a feature "
        "map to one value. A network that ends in global average or max pooling, or in flatten and Gemm, would do."
    )


def _layouts(graph: Graph, name: str, flat: bool) -> list[Layout]:
    """How the channels of a tensor may lie, the likeliest first; what is flattened gives both the same numbers."""
    likely = find_layout(graph, name)
    other: Layout = "channels last" if likely == "channels first" else "channels first"
    return [likely] if flat else [likely, other]


def _pools(source: Values, result: Values, layout: Layout) -> bool:
    """Whether `source` has several positions, and `result` one value a channel or all of them in a row."""
    if source.ndim != 4:
        return False
    _, channels, height, width = source.shape if layout == "channels first" else source.transpose(0, 3, 1, 2).shape
    flattened = result.size == source.size and result.ndim == 2
    return height * width > 1 and (result.size == channels or flattened)


def _kinds(source: Values, result: Values, layout: Layout) -> list[Pooling]:
    maps, pooled = torch.from_numpy(source), torch.from_numpy(result).reshape(1, -1)
    if layout == "channels last":
        if result.size == source.size:
            pooled = pooled.view_as(maps).permute(0, 3, 1, 2).flatten(1)
        maps = maps.permute(0, 3, 1, 2)
    return identify_pooling(maps, pooled)


def _lay(images: Tensor, layout: Layout) -> Tensor:
    return images if layout == "channels first" else images.permute(0, 2, 3, 1)


def _in_order_of_graph(pooled: Tensor, cut: _Cut) -> Tensor:
    """What torch flattened with the channels first, in the order of the graph."""
    if cut.pooling != "flatten" or cut.layout == "channels first":
        return pooled
    height, width, channels = cut.maps_shape
    return pooled.view(-1, channels, height, width).permute(0, 2, 3, 1)


def _frozen_shapes(graph: Graph, cut: _Cut, survey: Mapping[str, Any]) -> dict[str, Any]:
    """The shapes of other tensors that the tail asks for. Raises HeadError where it asks for more of them."""
    behind = {name for node in nodes_between(graph, graph.logits, [cut.pooled]) for name in node.output}
    within = {cut.pooled} | nodes_after(graph, cut.pooled)
    shapes = {name for name in behind if graph.makers[name].op_type == "Shape" and name not in within}
    tail = nodes_between(graph, graph.logits, [cut.pooled, *shapes])
    if any(graph.start in node.input for node in tail):
        raise HeadError(
            "More than the pooled feature maps reaches the logits in the ONNX file (another branch of the network "
            "does): class maps of this pooling alone would not sum to the logits."
        )
    used = {name for node in tail for name in node.input}
    return {name: survey[name] for name in shapes & used}


def _extract(
    model: "ModelProto", start: str, shape: Sequence[int | str | None], ends: Sequence[str], frozen: Mapping[str, Any]
) -> "ModelProto":
    """The part of the graph from `start`, of this shape, to `ends`, with constants in place of what is frozen."""
    from onnx import TensorProto, ValueInfoProto
    from onnx.helper import make_tensor_value_info
    from onnx.numpy_helper import from_array
    from onnx.utils import Extractor

    extractor = Extractor(model)
    # ONNX Runtime finds the types itself; those in the file are of its own number of images.
    extractor.value_infos = {name: ValueInfoProto(name=name) for name in (*ends, *frozen)}
    extractor.value_infos[start] = make_tensor_value_info(start, TensorProto.FLOAT, list(shape))
    part = extractor.extract_model([start, *frozen], list(ends))
    del part.graph.input[1:], part.graph.value_info[:]
    part.graph.initializer.extend(from_array(values, name) for name, values in frozen.items())
    # 4: constants need not be inputs. 11: what the oldest ONNX Runtime that we allow reads.
    part.ir_version = min(max(part.ir_version, 4), 11)
    return part


def _loaded(model: "ModelProto", batched: bool) -> _Part:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.log_severity_level = 4  # what goes wrong is raised, and need not be printed too
    providers = ["CPUExecutionProvider"]
    # A fallback would print, and try the same once more.
    data = model.SerializeToString(deterministic=True)
    session = onnxruntime.InferenceSession(data, options, providers, enable_fallback=False)
    return _Part(session, batched, hashlib.sha256(data).hexdigest())


def _part(
    model: "ModelProto",
    start: str,
    shape: Sequence[int | None],
    end: str,
    frozen: Mapping[str, Any],
    surveys: Sequence[Mapping[str, Any]],
) -> _Part:
    """For any number of images where that gives what each image gave by itself, else one at a time."""
    images, expected = (np.concatenate([survey[name].ravel() for survey in surveys]) for name in (start, end))
    # In a Reshape 0 means: as many as there were.
    free = _extract(model, start, ["N", *shape], [end], {name: _open(values) for name, values in frozen.items()})
    _open_reshapes(free)
    try:
        part = _loaded(free, batched=True)
        got = part.run(images.reshape(len(surveys), *surveys[0][start].shape[1:])).ravel()
        if np.allclose(got, expected, rtol=1e-3, atol=1e-5 * float(np.abs(expected).max())):
            return part
    except Exception:  # whatever ONNX Runtime makes of it
        pass
    return _loaded(_extract(model, start, [1, *shape], [end], frozen), batched=False)


def _open(shape: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([[0], shape[1:]]).astype(np.int64)


def _open_reshapes(part: "ModelProto") -> None:
    """Reshapes to one image, written into the file by an exporter, become reshapes to as many as there were."""
    from onnx.numpy_helper import from_array, to_array

    constants = {tensor.name: tensor for tensor in part.graph.initializer}
    constants |= {node.output[0]: read_attribute(node, "value", None) for node in part.graph.node if not node.input}
    reached = {part.graph.input[0].name}
    for node in part.graph.node:
        if reached.isdisjoint(node.input):
            continue
        reached.update(node.output)
        if node.op_type == "Reshape" and constants.get(node.input[1]) is not None:
            shape = to_array(constants[node.input[1]])
            if len(shape) > 1 and shape[0] == 1:
                node.input[1] = f"{node.output[0]}/free_shape"
                part.graph.initializer.append(from_array(_open(shape), node.input[1]))


def _prove(
    network: OnnxNetwork, graph: Graph, examples: Sequence[Values], surveys: Sequence[Mapping[str, Any]]
) -> None:
    """Raise NetworkError unless the parts give the logits of the whole."""
    for example, survey in zip(examples, surveys, strict=True):
        image = torch.from_numpy(example)
        maps = network.feature_maps_of(image if graph.layout == "channels first" else image.permute(0, 3, 1, 2))
        pooled = network.pooling(maps)
        logits = pooled if network._tail is None else network.logits_of(pooled)
        expected = torch.from_numpy(survey[graph.logits]).reshape(1, -1)
        largest = float(expected.abs().max())
        if logits.shape != expected.shape or not torch.allclose(logits, expected, rtol=0, atol=1e-4 * (largest + 1)):
            raise NetworkError(
                "The ONNX file could not be cut at its last pooling: the parts do not give the logits of the whole."
            )
