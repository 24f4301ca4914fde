"""Compute the feature maps between the cells of a network, by dilating its last strides.

A convolution of stride 2 computes every second cell of a finer map. Without the stride it computes all of them, and the
layers that follow give the same values in the same cells if they skip every second cell too: they are dilated
(Holschneider et al., "A real-time algorithm for signal analysis with the help of the wavelet transform", 1989; Long et
al., "Fully convolutional networks for semantic segmentation", CVPR 2015; Chen et al., "Semantic image segmentation with
deep convolutional nets and fully connected CRFs", ICLR 2015).

Here the finer map is divided into shifts: its cells (i, j), (i, j + 2), ... are one map in the network's own grid, that
of the photo shifted by a part of a cell. All shifts are one batch, on which the functions that follow run as they are.
So every convolution, pooling and normalization is dilated, of whatever module or function, and so is every head: each
shift has logits of its own. The network runs once, unchanged; its calls are repeated for the shifts as they pass by.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple
from weakref import ref

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from inspector.errors import translate_errors
from inspector.explain.dilated_calls import DILATE, PARAMETERS, DilationError, name_rows
from inspector.explain.feature_capture import CapturedPass
from inspector.explain.precision import find_product_type, find_tolerance, widen
from inspector.explain.tracing.forward import CapturedPooling, PoolingNotReachedError, run_to_logits
from inspector.explain.tracing.layouts import FeatureLayout, PooledLayout
from inspector.explain.tracing.outputs import as_logits
from inspector.explain.tracing.pooling_calls import PoolingCall, PoolingCallDetector
from inspector.explain.tracing.receptive_field import ReceptiveFieldTracker
from inspector.explain.tracing.tensor_calls import (
    Handler,
    TensorNotes,
    find_arguments,
    find_values,
    is_writing,
    op_name,
)

Factors = tuple[int, int]  # how many times finer than the network's own grid, down and across


@dataclass(frozen=True)
class _PlannedPooling:
    """A pooling call of the head."""

    index: int
    source: int  # number of the argument that is pooled, among all leaves of the arguments
    layout: FeatureLayout
    pooled: PooledLayout


@dataclass(frozen=True)
class DilationPlan:
    """Which calls of a pass are dilated, found in a first pass. Later passes then follow the last calls only."""

    calls: dict[int, tuple[str, Factors]]  # number of a dilated call -> its name, and the factors of its result
    poolings: dict[int, _PlannedPooling] | None  # by number of the call; None if several calls pool together
    difference: float  # of the network's own cells computed by dilation, as a part of their largest value


def capture_dilated(
    network: nn.Module, inputs: Tensor, calls: Sequence[int], strides: tuple[float, float]
) -> tuple[CapturedPass, CapturedPass, DilationPlan]:
    """Run one pass, compute the poolings of all shifts of its grid besides, and prove them on the network's own cells.

    Args:
        network: any classifier.
        inputs: normalized images (N, channels, H, W).
        calls: indices of the pooling calls of the head.
        strides: distance of the cells of the finer grid (down, across), in pixels of the input.

    Returns:
        The network's own pass; that of all shifts, whose rows are the shifts, row by row of the finer grid, of all
        images, (shifts * N, ...), without the network's own; and a plan for other images of this size.

    Raises:
        DilationError: the network computes in a way that cannot be dilated.
        NetworkError: the network does not support these inputs, or a pooling call is not reached.
    """
    traced = _TracedPass(inputs, strides)
    own: list[CapturedPooling] = []
    shifted: list[CapturedPooling] = []
    planned: dict[int, _PlannedPooling] | None = {}

    def capture(call: PoolingCall) -> Tensor:
        nonlocal planned
        if call.index in calls:
            own.append(CapturedPooling(call.index, call.feature_maps(), call.pooled(), layout=call.layout))
            copy = replace(call, source=traced.require(call.source), result=traced.require(call.result))
            shifted.append(CapturedPooling(call.index, copy.feature_maps(), copy.pooled(), layout=call.layout))
            number = next((n for n, leaf in enumerate(traced.leaves) if leaf is call.source), None)
            if number is None or planned is None:
                planned = None
            else:
                planned[traced.count] = _PlannedPooling(call.index, number, call.layout, call.pooled_layout)
        return call.result

    own_logits, rows = _run(network, inputs, traced, PoolingCallDetector(capture, traced.handle), own, calls)
    images = len(inputs)
    difference = max(_compare_own(one.feature_maps, two.feature_maps) for one, two in zip(own, shifted, strict=True))
    without_own = [
        replace(one, feature_maps=one.feature_maps[images:], pooled=one.pooled_values[images:]) for one in shifted
    ]
    plan = DilationPlan(traced.dilated, planned, difference)
    return CapturedPass(own, own_logits), CapturedPass(without_own, rows[images:]), plan


def capture_planned(
    network: nn.Module, inputs: Tensor, calls: Sequence[int], plan: DilationPlan
) -> tuple[CapturedPass, CapturedPass] | None:
    """Do the same as `capture_dilated` by its plan, in less time; None if the pass differs from that of the plan."""
    if plan.poolings is None:
        return None
    planned, followed = plan.poolings, PlannedPass(inputs, plan)
    own: list[CapturedPooling] = []
    shifted: list[CapturedPooling] = []

    def capture(function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        pooling = planned.get(followed.count + 1)
        if pooling is None:
            return followed.handle(function, args, kwargs)
        source = pytree.tree_leaves((tuple(args), kwargs))[pooling.source]
        maps = [pooling.layout.feature_maps(one).clone() for one in (source, followed.require(source))]
        result = followed.handle(function, args, kwargs)
        values = find_values(result)
        pooled = [pooling.pooled.read(one).clone() for one in (values, followed.require(values)) if one is not None]
        for captured, one, values in zip((own, shifted), maps, pooled, strict=True):
            captured.append(CapturedPooling(pooling.index, one, values, layout=pooling.layout))
        return result

    try:
        own_logits, rows = _run(network, inputs, followed, capture, own, calls)
    except DilationError:
        return None
    return CapturedPass(own, own_logits), CapturedPass(shifted, rows)


def _run(
    network: nn.Module,
    inputs: Tensor,
    followed: "_DilatedPass",
    handler: Handler,
    own: list[CapturedPooling],
    calls: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """Run a network and return its logits, and those of the shifts."""
    with torch.no_grad():
        logits, _ = run_to_logits(network, inputs, handler)
        if len(own) < len(calls):
            raise PoolingNotReachedError(inputs)
        rows = followed.require(logits)
        return as_logits(logits, len(inputs)), as_logits(rows, len(rows))


def _compare_own(exact: Tensor, rows: Tensor) -> float:
    """Return how far the dilated network's own cells are from the network's; DilationError if rounding is less."""
    error = (widen(rows[: len(exact)]) - widen(exact)).abs().max()
    difference = float(error / exact.abs().max().clamp_min(1e-30))
    if not difference <= find_tolerance({find_product_type(exact)}):
        raise DilationError(f"dilation gives other values in its own cells, by {difference:.1e} of the largest")
    return difference


class _Shifts(NamedTuple):
    """The shifts of one tensor of a pass, as one batch: down, then across, then the images."""

    values: Tensor  # (shifts * N, ...)
    factors: Factors


class _DilatedPass:
    """Repeats the calls of a pass for all shifts, from the first stride that is dilated on."""

    def __init__(self, image: Tensor, with_own: bool) -> None:
        self.count = 0  # of the calls up to now
        self._images, self._with_own = image.shape[0], with_own
        # By id, and only while the tensor lives, because the shifts are larger than the network's own tensors.
        self._shifts: dict[int, tuple[ref[Tensor], _Shifts]] = {}

    def require(self, tensor: Any) -> Tensor:
        """Return the shifts of a tensor that has to have them."""
        found = self._find(tensor)
        if found is None:
            raise DilationError("its last feature maps or its logits come from a function that is not followed")
        return found.values

    def _repeat(
        self,
        function: Callable[..., Any],
        args: Sequence[Any],
        kwargs: dict[str, Any],
        result: Any,
        factors: Factors,
    ) -> None:
        """Call a function that keeps the grid once more, for all shifts."""
        count, name = math.prod(factors) - (not self._with_own), op_name(function)
        shifted = name_rows(name, [self._replace(value) for value in args], self._images, count)
        with translate_errors(DilationError, f"its function {name} does not take the shifts as a batch"):
            repeated = function(*shifted, **{key: self._replace(value) for key, value in kwargs.items()})
        for own, one in zip(_find_tensors(result), _find_tensors(repeated), strict=True):
            if own.ndim == 0 or one.shape != (count * own.shape[0], *own.shape[1:]):
                raise DilationError(f"its function {name} mixes the images of a batch")
            self._note(own, _Shifts(one, factors))

    def _dilate(
        self, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], result: Any, wanted: Factors
    ) -> None:
        """Call a function with less of its stride, and divide its result into shifts."""
        name = op_name(function)
        own = args[0] if args else kwargs["input"]
        shifts = self._find(own)
        factors = (1, 1) if shifts is None else shifts.factors
        steps = [one // other for one, other in zip(wanted, factors, strict=True)]
        exact = all(f * step == w for f, step, w in zip(factors, steps, wanted, strict=True))
        if name not in DILATE or not isinstance(result, Tensor) or not exact:
            raise DilationError(f"its function {name} changes the grid in a way that is not known")
        values = own if shifts is None else shifts.values
        if shifts is not None and not self._with_own:
            values = torch.cat([own, values])
        given = dict(zip(PARAMETERS[name], args, strict=False)) | kwargs
        finer = DILATE[name](function, values, given, steps, tuple(result.shape[-2:]))
        if finer.shape[-2:] != (result.shape[-2] * steps[0], result.shape[-1] * steps[1]):
            raise DilationError(f"its function {name} rounds its grid in a way that is not known")
        # Cell i of shift p + r * factor is cell i * step + r of shift p here.
        rows = finer.reshape(*factors, -1, result.shape[1], result.shape[2], steps[0], result.shape[3], steps[1])
        ordered = rows.permute(5, 0, 7, 1, 2, 3, 4, 6)  # (step, factor, step, factor, N, C, h, w)
        batch = ordered.reshape(-1, *result.shape[1:])
        self._note(result, _Shifts(batch if self._with_own else batch[self._images :], wanted))

    def _replace(self, value: Any) -> Any:
        """Return an argument with the shifts of its tensors in their place."""
        if isinstance(value, Tensor):
            found = self._find(value)
            return value if found is None else found.values
        if type(value) in (list, tuple):
            return type(value)(self._replace(one) for one in value)
        return value

    def _find(self, tensor: Any) -> _Shifts | None:
        entry = self._shifts.get(id(tensor))
        return entry[1] if entry is not None and entry[0]() is tensor else None

    def _note(self, tensor: Tensor, shifts: _Shifts) -> None:
        number = id(tensor)
        self._shifts[number] = ref(tensor, lambda _: self._shifts.pop(number, None)), shifts


class _TracedPass(_DilatedPass):
    """Handler of a first pass, which finds the strides that are dilated. The shifts include the network's own grid."""

    def __init__(self, image: Tensor, strides: tuple[float, float]) -> None:
        super().__init__(image, with_own=True)
        self.dilated: dict[int, tuple[str, Factors]] = {}
        self.leaves: list[Any] = []  # of the arguments of the call in progress
        self._strides, self._tracker = strides, ReceptiveFieldTracker(image)
        self._from_image = TensorNotes[bool]()
        self._from_image[image] = True

    def handle(self, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Call the function, and call it for the shifts of its arguments too."""
        self.count += 1
        self.leaves = pytree.tree_leaves((tuple(args), kwargs))
        depending = [leaf for leaf in self.leaves if isinstance(leaf, Tensor) and leaf in self._from_image]
        if not depending:
            return function(*args, **kwargs)
        known = [one for one in map(self._find, depending) if one is not None]
        result = self._tracker.handle(function, args, kwargs)
        results, writes = _find_tensors(result), is_writing(function, kwargs)
        for tensor in results:
            self._from_image[tensor] = True
        factors = known[0].factors if known else (1, 1)
        wanted = self._find_factors(results[0], factors) if results else factors
        if wanted != factors:
            self.dilated[self.count] = op_name(function), wanted
            self._dilate(function, args, kwargs, result, wanted)
        elif known and (results or writes):
            if len(known) < len(depending) or any(one.factors != factors for one in known):
                raise DilationError("it joins feature maps of another grid")
            if writes and self._find(kwargs.get("out", args[0])) is None:
                raise DilationError("it writes feature maps into another tensor")
            self._repeat(function, args, kwargs, result, factors)
        return result

    def _find_factors(self, tensor: Tensor, factors: Factors) -> Factors:
        """Return how many times finer the cells of a tensor have to be than the network's own."""
        strides = self._tracker.strides_of(tensor)
        if strides is None:
            return factors
        wanted = [max(1.0, stride / finest) for stride, finest in zip(strides, self._strides, strict=True)]
        if any(one != round(one) for one in wanted):
            raise DilationError("one stride skips more cells at once than the finer grid has")
        return round(wanted[0]), round(wanted[1])


class PlannedPass(_DilatedPass):
    """Handler of a pass by a plan. The shifts are without the network's own grid.

    Up to the first dilated stride, calls are only counted.
    """

    def __init__(self, image: Tensor, plan: DilationPlan) -> None:
        super().__init__(image, with_own=False)
        self._plan, self._first = plan.calls, min(plan.calls)

    def handle(self, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Call the function, and from the first dilated one on call it for the shifts too."""
        self.count += 1
        result = function(*args, **kwargs)
        if self.count < self._first:
            return result
        if self.count in self._plan:
            name, wanted = self._plan[self.count]
            if name != op_name(function):
                raise DilationError("it calls other functions than in its first pass")
            self._dilate(function, args, kwargs, result, wanted)
        elif not isinstance(result, torch.Size):
            found = next((one for one in map(self._find, find_arguments(args, kwargs)) if one is not None), None)
            if found is not None:
                self._repeat(function, args, kwargs, result, found.factors)
        return result


def _find_tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):  # nearly always, and the general way takes as long as a small layer
        return [value]
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]
