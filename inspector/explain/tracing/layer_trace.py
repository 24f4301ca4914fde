"""List the layers of a network: every run of every module in one forward pass, with the shape of its output."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, nn

from inspector.explain.receptive_field import ReceptiveField
from inspector.explain.tracing.forward import LAYOUT_OPS, run_network
from inspector.explain.tracing.layouts import FeatureLayout
from inspector.explain.tracing.module_hooks import ModuleOutput, intercept_modules
from inspector.explain.tracing.pooling_calls import PoolingCall, PoolingCallDetector
from inspector.explain.tracing.receptive_field import ReceptiveFieldTracker
from inspector.explain.tracing.tensor_calls import TensorCallMode, op_name

# Functions that change no value in evaluation mode, in addition to LAYOUT_OPS.
_NO_OPS = ("dropout", "permute", "transpose", "__get__", "size", "dim", "numel", "is_floating_point")


@dataclass(frozen=True)
class Layer:
    """One run of a module in a forward pass."""

    name: str  # name of the module in the network, as in "layer4.1.relu"
    kind: str  # class name of the module, as in "ReLU"
    run: int  # number of its runs before this one
    runs: int  # number of its runs in the pass
    parameters: int  # number of its own parameters, without those of the modules inside it
    is_block: bool  # whether it has modules inside and no parameters of its own
    shape: tuple[int, ...] | None  # shape of the output, batch axis included; None if the output is no tensor
    layout: FeatureLayout | None  # layout of the feature maps in the output; None if it has none
    field: ReceptiveField | None  # receptive field of the cells; None if it is not known, or without feature maps
    ended: int  # number of runs that ended before this run; a block ends after the modules inside it
    ceiling: float | None  # upper limit of an activation function: 6 for ReLU6, 1 for sigmoid

    @property
    def label(self) -> str:
        """Return the module's name, with the number of its run if the module runs more than once in a pass."""
        return self.name if self.runs == 1 else f"{self.name} (run {self.run + 1})"

    @property
    def depth(self) -> int:
        """Return the number of modules that contain this module."""
        return self.name.count(".")

    @property
    def size(self) -> tuple[int, int, int] | None:
        """Return the shape (C, h, w) of the feature maps; None if there are none."""
        if self.layout is None or self.shape is None:
            return None
        _, channels, height, width = self.layout.feature_maps(torch.empty(self.shape, device="meta")).shape
        return channels, height, width


@dataclass(frozen=True)
class LayerTrace:
    """The layers of one pass."""

    layers: tuple[Layer, ...]  # in the order in which they start, so a block comes before the modules inside it
    output: tuple[int, ...]  # shape of the network's output; () if it is no tensor
    pooled_after: int | None  # number of layers that ended before the last chosen pooling call
    functions_after: tuple[str, ...]  # tensor functions after that call, except those that change only the layout


def trace_layers(network: nn.Module, inputs: Tensor, calls: Sequence[int] = ()) -> LayerTrace:
    """List every run of every module in one forward pass, and the functions after the last of some pooling calls.

    Args:
        network: any network; it need not return logits.
        inputs: normalized image (1, channels, H, W).
        calls: indices of the pooling calls.

    Raises:
        NetworkError: the network does not run on such an input.
    """
    size = (inputs.shape[2], inputs.shape[3])
    tracker = ReceptiveFieldTracker(inputs)
    grids: dict[int, tuple[int, int]] = {}  # last grid (h, w) of each number of cells, for tokens
    traced: list[tuple[int, Layer]] = []
    functions: list[str] = []
    ended_before: int | None = None

    def note_output(returned: ModuleOutput) -> None:
        output, module, layout, field = returned.output, returned.module, None, None
        shape = tuple(output.shape) if isinstance(output, Tensor) else None
        if shape is not None and output.is_floating_point():
            layout = _find_layout(shape, size, grids)
        if layout is not None and layout.grid is not None:
            grids[math.prod(layout.grid)] = layout.grid
            field = tracker.field_of(output, layout.grid)
        parameters = sum(parameter.numel() for parameter in module.parameters(recurse=False))
        layer = Layer(
            name=returned.name,
            kind=type(module).__name__,
            run=returned.run,
            runs=1,
            parameters=parameters,
            is_block=parameters == 0 and any(True for _ in module.children()),
            shape=shape,
            layout=layout,
            field=field,
            ended=len(traced),
            ceiling=_find_ceiling(module),
        )
        traced.append((returned.started, layer))

    def note_pooling(call: PoolingCall) -> Tensor:
        nonlocal ended_before
        if calls and call.index == max(calls):
            ended_before = len(traced)
            functions.clear()
        return call.result

    def note_function(function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        name = op_name(function)
        if name not in (*LAYOUT_OPS, *_NO_OPS):
            functions.append(name)
        return tracker.handle(function, args, kwargs)

    mode = TensorCallMode(PoolingCallDetector(note_pooling, note_function))
    with torch.no_grad(), intercept_modules(network, note_output) as hooked, mode:
        output = run_network(hooked, inputs)
    runs = Counter(layer.name for _, layer in traced)
    layers = tuple(replace(layer, runs=runs[layer.name]) for _, layer in sorted(traced, key=itemgetter(0)))
    shape = tuple(output.shape) if isinstance(output, Tensor) else ()
    if ended_before is None:
        return LayerTrace(layers, shape, None, ())
    pooled_after = max((n + 1 for n, layer in enumerate(layers) if layer.ended < ended_before), default=0)
    return LayerTrace(layers, shape, pooled_after, tuple(functions))


def _find_layout(
    shape: tuple[int, ...], size: tuple[int, int], grids: Mapping[int, tuple[int, int]]
) -> FeatureLayout | None:
    """Find the layout of the feature maps in a tensor; None if it has none.

    The grid has the aspect ratio of the input: in (1, 7, 7, 768), the axes before the last are the grid. Tokens have
    the grid of earlier feature maps with the same number of cells.
    """
    if len(shape) == 4 and shape[0] == 1:
        first, last = _measure_disproportion(shape[2:], size), _measure_disproportion(shape[1:3], size)
        if first <= last:
            return FeatureLayout("first", (shape[2], shape[3]))
        return FeatureLayout("last", (shape[1], shape[2]))
    if len(shape) == 3 and shape[0] == 1:
        if shape[1] > 1 and shape[1] in grids:
            return FeatureLayout("last", grids[shape[1]], tokens=True)
        if shape[2] > 1 and shape[2] in grids:
            return FeatureLayout("first", grids[shape[2]], tokens=True)
    return None


def _measure_disproportion(grid: tuple[int, ...], size: tuple[int, int]) -> float:
    return abs(math.log(grid[0] / grid[1]) - math.log(size[0] / size[1])) if all(grid) else math.inf


def _find_ceiling(module: nn.Module) -> float | None:
    if isinstance(module, nn.Hardtanh):  # ReLU6 is a subclass of Hardtanh
        return float(module.max_val)
    return 1.0 if isinstance(module, nn.Sigmoid | nn.Hardsigmoid | nn.Tanh | nn.Softmax) else None
