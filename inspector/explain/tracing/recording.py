"""What follows the pooling in one pass, kept as the tensor functions that were called: to run on other pooled values.

A tail is a few functions behind a whole network. Without a tape the network runs again for each image whose tail is
asked something, up to a pooling whose result is thrown away.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from inspector.explain.tracing.pooling_calls import Handler, PoolingCall, call_unchanged


@dataclass(frozen=True)
class _TensorRef:
    """Stands where a tensor stood that followed from the pooled values."""

    number: int


@dataclass(frozen=True, eq=False)
class _RecordedOp:
    function: Callable[..., Any]
    leaves: list[Any]  # of (args, kwargs), with slots
    spec: pytree.TreeSpec
    results: list[int | None]  # the slots of the result's leaves; None for what is no tensor


@dataclass(frozen=True, eq=False)
class OpRecording:
    """The functions that led from pooled values to the logits. Parameters stand in it themselves, as they are now."""

    pooled: dict[int, tuple[int, torch.Size]]  # of each reduction by its index: its slot, and its shape in the pass
    calls: list[_RecordedOp]
    logits: int  # their slot

    def replay(self, pooled: Mapping[int, Tensor], perform: Handler = call_unchanged) -> Any:
        """What stands where the logits stood, for pooled values (R, P) by the index of their reduction.

        Each function goes through `perform`. Raises what torch raises where the functions do not take so many rows.
        """
        # A clone: an in-place operation that follows may not write into a leaf that asks for gradients.
        values = {slot: pooled[index].reshape(-1, *shape[1:]).clone() for index, (slot, shape) in self.pooled.items()}
        for one in self.calls:
            leaves = [values[leaf.number] if isinstance(leaf, _TensorRef) else leaf for leaf in one.leaves]
            args, kwargs = pytree.tree_unflatten(leaves, one.spec)
            results = pytree.tree_leaves(perform(one.function, args, kwargs))
            values |= {slot: result for slot, result in zip(one.results, results, strict=True) if slot is not None}
        return values[self.logits]


class OpRecorder:
    """Writes the tape of a pass: `perform` is the pass's handler, and is told of the reductions whose results count."""

    def __init__(self) -> None:
        self._slots: dict[int, int] = {}  # of tensors that follow from the pooled values, by id
        self._alive: list[Tensor] = []  # an id is a name while they live
        self._pooled: dict[int, tuple[int, torch.Size]] = {}
        self._calls: list[_RecordedOp] = []
        self._spoiled = False

    def perform(self, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        leaves, spec = pytree.tree_flatten((tuple(args), kwargs)) if self._slots else ([], None)
        slots = [self._slots.get(id(leaf)) for leaf in leaves]
        if spec is None or all(slot is None for slot in slots):
            return function(*args, **kwargs)
        kept = [leaf if slot is None else _TensorRef(slot) for leaf, slot in zip(leaves, slots, strict=True)]
        before = [_version(leaf) for leaf in kept]
        result = function(*args, **kwargs)
        # It wrote into a tensor that stands in the tape itself, as `logits[:, :5] = ...` does.
        self._spoiled |= before != [_version(leaf) for leaf in kept]
        self._calls.append(_RecordedOp(function, kept, spec, [self._slot(leaf) for leaf in pytree.tree_leaves(result)]))
        return result

    def note_pooling(self, seen: PoolingCall) -> None:
        slot = self._slot(seen.result)
        assert slot is not None
        self._pooled[seen.index] = slot, seen.result.shape

    def recording(self, logits: Tensor) -> OpRecording | None:
        """None where the logits came about in another way than by functions of tensors, or were written into one."""
        slot = self._slots.get(id(logits))
        return None if slot is None or self._spoiled else OpRecording(self._pooled, self._calls, slot)

    def _slot(self, value: Any) -> int | None:
        if not isinstance(value, Tensor):
            return None
        self._alive.append(value)
        return self._slots.setdefault(id(value), len(self._slots))


def _version(leaf: Any) -> int:
    """How often torch counted that a tensor was written into."""
    return leaf._version if isinstance(leaf, Tensor) and not leaf.is_inference() else 0
