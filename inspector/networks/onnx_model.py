"""Load an ONNX file as a torch network whose pooling is visible to torch.

    image -> trunk (ONNX Runtime) -> feature maps -> pooling (torch) -> pooled values -> head (ONNX Runtime) -> logits

The graph is cut at its last pooling, and the two parts together must give the logits of the whole graph. ONNX Runtime
computes no gradients, so the head's Jacobian is measured with unit vectors. This is exact for an affine head; other
heads are refused.
"""

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot
from torch.overrides import handle_torch_function, has_torch_function_unary

from inspector.errors import HeadError, NetworkError, translate_errors
from inspector.explain.pooling import GlobalAveragePooling, GlobalMaxPooling
from inspector.explain.receptive_field import ReceptiveField
from inspector.networks.onnx_cut import Cut, find_cut, find_frozen_shapes, record_tensors
from inspector.networks.onnx_export import add_class_maps
from inspector.networks.onnx_graph import MAX_BYTES, Graph, Tensors, find_receptive_field, read_graph
from inspector.networks.onnx_parts import OnnxPart, Values, extract_batched_part, make_part

_POOLINGS = {"average": GlobalAveragePooling, "max": GlobalMaxPooling, "flatten": nn.Flatten}
_NOISE_SCALES = (1, -10, 100)  # scales of the noise images on which the parts are compared with the whole graph
_ROWS = 256  # unit vectors per run of the head, to measure its Jacobian


class OnnxNetwork(nn.Module):
    """A network in ONNX Runtime: images (N, channels, H, W) -> logits (N, K), for any channel order in the file.

    Gradients flow back from the logits to the feature maps, but not through the trunk, which ONNX Runtime runs.

    Attributes:
        channels: channels of the input, 1 or 3.
        size: (height, width) of the input; None if the file accepts any size.
        output_activation: the activation that follows the logits in the file; it is cut off.
        output: name of the output that holds the logits, if the file has several outputs; the network returns it by
            its name then.
        other_files: names of the files beside the file that hold some of its weights.
        receptive_field: receptive field of the feature maps; None if the graph has an unknown operator.
        pooling: torch module that replaces the pooling of the file.
    """

    def __init__(
        self, graph: Graph, cut: Cut, trunk: OnnxPart, head: OnnxPart | None, field: ReceptiveField | None
    ) -> None:
        super().__init__()
        first = graph.channel_order == "channels first"
        channels, height, width = graph.shape if first else (graph.shape[2], *graph.shape[:2])
        self.channels = channels or 3
        self.size = (height, width) if height and width else None
        self.output_activation = graph.output_activation
        self.output = graph.output
        self.receptive_field = field
        self.other_files = graph.other_files
        self.pooling = _POOLINGS[cut.pooling]()
        self._graph = graph
        self._cut = cut
        self._trunk = trunk
        self._head = head
        digest = hashlib.sha256((trunk.sha256 + (head.sha256 if head else "")).encode()).digest()
        # torch does not see the weights in ONNX Runtime. This buffer makes state dicts of different networks differ.
        self.register_buffer("sha256", torch.frombuffer(bytearray(digest), dtype=torch.uint8))

    def forward(self, inputs: Tensor) -> Tensor | dict[str, Tensor]:
        """Compute the logits (N, K) of images (N, channels, H, W); by name where the file has several outputs."""
        if self.size and tuple(inputs.shape[2:]) != self.size:
            raise NetworkError(
                f"The ONNX file takes images of {self.size[0]} x {self.size[1]} pixels (height x width) only; got "
                f"{inputs.shape[2]} x {inputs.shape[3]}. Use size={self.size}, or export it with dynamic axes."
            )
        logits = self.compute_logits(self.pooling(run_onnx_trunk(inputs, self)))
        return logits if self.output is None else {self.output: logits}

    def compute_feature_maps(self, inputs: Tensor) -> Tensor:
        """Compute the feature maps before pooling, (N, C, h, w)."""
        images = _as_array(inputs)
        images = images if self._graph.channel_order == "channels first" else images.transpose(0, 2, 3, 1)
        result = torch.from_numpy(self._trunk.run(np.ascontiguousarray(images)))
        maps = result.reshape(len(inputs), *result.shape[-3:])
        return (maps if self._cut.channel_order == "channels first" else maps.permute(0, 3, 1, 2)).contiguous()

    def make_class_map_model(self, weight: Tensor, bias: Tensor) -> Any:
        """Make an ONNX model that returns logits and class maps, for any number of images.

        Args:
            weight: (K, P) of what follows the pooling.
            bias: (K,).

        Returns:
            onnx.ModelProto: "inputs" (N, channels, H, W) -> "logits" (N, K), "maps" (N, K, h, w).

        Raises:
            NetworkError: the file takes one image at a time.
        """
        if not self._trunk.batched:
            raise NetworkError("The ONNX file takes one image at a time. Export it again with a dynamic batch axis.")
        graph, cut = self._graph, self._cut
        trunk = extract_batched_part(graph.model, graph.start, graph.shape, cut.feature_maps, {})
        last = cut.channel_order == "channels last"
        height, width, channels = cut.maps_shape if last else (*cut.maps_shape[1:], cut.maps_shape[0])
        order = graph.channel_order == "channels last", last
        arrays = _as_array(weight), _as_array(bias)
        return add_class_maps(trunk, order, cut.pooling, (channels, height, width), *arrays)

    def compute_logits(self, pooled: Tensor) -> Tensor:
        """Compute the logits (N, K) from pooled values (N, P)."""
        if self._head is None:
            return pooled
        return cast(Tensor, _HeadFunction.apply(pooled, self))

    def run_head(self, pooled: Tensor) -> Tensor:
        """Run the head in ONNX Runtime, without gradients: pooled values (N, P) -> logits (N, K)."""
        assert self._head is not None
        values = _as_array(pooled)
        if self._cut.pooling == "flatten" and self._cut.channel_order == "channels last":
            # torch flattened with the channels first: bring the values into the file's order.
            height, width, channels = self._cut.maps_shape
            values = values.reshape(-1, channels, height, width).transpose(0, 2, 3, 1)
        result = self._head.run(np.ascontiguousarray(values.reshape(-1, *self._cut.pooled_shape)))
        return torch.from_numpy(result.reshape(len(pooled), -1))

    @cached_property
    def jacobian(self) -> Tensor:
        """The derivative of the logits with respect to the pooled values, (K, P).

        Raises:
            HeadError: the head is not affine.
        """
        count = int(np.prod(self._cut.pooled_shape))
        # Check this first: for VGG's head, which is not affine, the Jacobian would take minutes and be useless.
        self._check_head_is_affine(count)
        bias = self.run_head(torch.zeros(1, count))
        # Not 1: with a large bias, small weights would lose digits to rounding.
        unit = 2.0**20
        rows = [self.run_head(unit * one_hot(part, count)) - bias for part in torch.arange(count).split(_ROWS)]
        return (torch.cat(rows) / unit).T.contiguous()

    def _check_head_is_affine(self, count: int) -> None:
        """Raise HeadError unless the head f has f(x) + f(-x) = 2 f(0) for noise x of several scales, as affine f do."""
        generator = torch.Generator().manual_seed(0)
        for scale in _NOISE_SCALES:
            point = scale * torch.randn(1, count, generator=generator)
            plus, minus, zero = (self.run_head(rows) for rows in (point, -point, torch.zeros_like(point)))
            if not torch.allclose(plus + minus, 2 * zero, rtol=0, atol=1e-4 * float((plus - zero).abs().max())):
                problem = "is not affine (an activation, a normalization or several layers)"
                consequence = "its logits do not split exactly over cells"
                raise HeadError(f"What follows the pooling in the ONNX file {problem}: {consequence}.")


def _as_array(tensor: Tensor) -> Values:
    """Return a tensor as a float32 array, in one call: while gradients are kept, detach() changes nothing."""
    return cast(Values, tensor.float().numpy(force=True))


class _HeadFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pooled: Tensor, network: OnnxNetwork) -> Tensor:
        ctx.network = network
        return network.run_head(pooled)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] @ ctx.network.jacobian, None


def run_onnx_trunk(inputs: Tensor, network: OnnxNetwork) -> Tensor:
    """Compute the feature maps (N, C, h, w). A TorchFunctionMode sees this call as one operation."""
    if has_torch_function_unary(inputs):
        maps: Tensor = handle_torch_function(run_onnx_trunk, (inputs,), inputs, network)
        return maps
    return network.compute_feature_maps(inputs)


def read_onnx(
    path: Path, size: tuple[int, int] = (224, 224), max_bytes: int = MAX_BYTES, output: str | int | None = None
) -> OnnxNetwork:
    """Read the network in an ONNX file. Only operators of ONNX Runtime are run, and no code that is in the file.

    Args:
        path: the file.
        size: (height, width) of the noise images for the comparison, if the file accepts any size.
        max_bytes: limit for the size of the file together with weights that it keeps in other files.
        output: name or index of the output that holds the logits, if the file has several outputs. Default: the only
            one that can.

    Raises:
        NetworkError: the file cannot be read or run, its input is not one batch of images, or several outputs may hold
            the logits.
        HeadError: the logits are not a function of one pooling's result.
    """
    hint = "Export it again, with standard operators and an opset that the installed onnxruntime knows"
    not_run = f"{path.name} cannot be run by ONNX Runtime ({{reason}}). {hint}."
    with translate_errors(NetworkError, not_run):
        graph = read_graph(path, max_bytes, output)
        examples = list(_make_examples(graph, size))
        records = record_tensors(graph, examples)
        cut = find_cut(graph, records)
        frozen = find_frozen_shapes(graph, cut, records[0])
        trunk = make_part(graph.model, graph.start, graph.shape, cut.feature_maps, {}, records)
        head = None
        if cut.pooled != graph.logits:
            head = make_part(graph.model, cut.pooled, cut.pooled_shape, graph.logits, frozen, records)
        field = find_receptive_field(graph, cut.feature_maps, records[0])
        network = OnnxNetwork(graph, cut, trunk, head, field).eval()
        _verify_parts(network, graph, examples, records)
        if frozen:
            # The frozen shapes are correct for this input size only.
            network.size = network.size or size
    return network


def _make_examples(graph: Graph, size: tuple[int, int]) -> Iterator[Values]:
    """Make one noise image, in the graph's channel order, for each of several scales."""
    generator = torch.Generator().manual_seed(0)
    default = (3, *size) if graph.channel_order == "channels first" else (*size, 3)
    shape = [known or other for known, other in zip(graph.shape, default, strict=True)]
    for scale in _NOISE_SCALES:
        yield (scale * torch.randn(1, *shape, generator=generator)).numpy()


def _verify_parts(network: OnnxNetwork, graph: Graph, examples: Sequence[Values], records: Sequence[Tensors]) -> None:
    """Raise NetworkError unless the parts together give the logits of the whole graph."""
    for example, record in zip(examples, records, strict=True):
        image = torch.from_numpy(example)
        image = image if graph.channel_order == "channels first" else image.permute(0, 3, 1, 2)
        logits = network.compute_logits(network.pooling(network.compute_feature_maps(image)))
        expected = torch.from_numpy(record[graph.logits]).reshape(1, -1)
        largest = float(expected.abs().max())
        if logits.shape != expected.shape or not torch.allclose(logits, expected, rtol=0, atol=1e-4 * (largest + 1)):
            reason = "the parts do not give the logits of the whole"
            raise NetworkError(f"The ONNX file could not be cut at its last pooling: {reason}.")
