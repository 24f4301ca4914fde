"""Record the ops between the pooling and the logits of one pass, to run them again on other pooled values.

Only a few ops follow the pooling. Without a recording, each evaluation of the head runs the whole network again and
replaces the pooling's result.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from inspector.explain.tracing.pooling_calls import PoolingCall
from inspector.explain.tracing.tensor_calls import Handler, TensorNotes, call_unchanged


@dataclass(frozen=True)
class _TensorRef:
    """A placeholder, in the recording, for a tensor that was computed from the pooled values."""

    number: int


@dataclass(frozen=True, eq=False)
class _RecordedOp:
    """One call of a tensor function."""

    function: Callable[..., Any]
    leaves: list[Any]  # flattened (args, kwargs); tensors that depend on the pooled values are replaced by references
    spec: pytree.TreeSpec
    results: list[int | None]  # reference number of each leaf of the result; None for a leaf that is no tensor


@dataclass(frozen=True, eq=False)
class OpRecording:
    """The ops from the pooled values to the logits. They hold the network's own parameters, not copies."""

    pooled: dict[
        int, tuple[int, torch.Size]
    ]  # index of the pooling call -> reference number, shape in the recorded pass
    ops: list[_RecordedOp]
    logits: int  # reference number of the logits

    def replay(self, pooled: Mapping[int, Tensor], handler: Handler = call_unchanged) -> Any:
        """Run the recorded ops on new pooled values.

        Args:
            pooled: new values (R, P) by the index of their pooling call.
            handler: calls each op.

        Returns:
            The output in place of the logits, usually a Tensor (R, K). Errors of torch propagate if an op does not
            support R rows.
        """
        # A clone, because an in-place op that follows may not write into a leaf that requires gradients.
        values = {number: pooled[n].reshape(-1, *shape[1:]).clone() for n, (number, shape) in self.pooled.items()}
        for op in self.ops:
            leaves = [values[leaf.number] if isinstance(leaf, _TensorRef) else leaf for leaf in op.leaves]
            args, kwargs = pytree.tree_unflatten(leaves, op.spec)
            results = pytree.tree_leaves(handler(op.function, args, kwargs))
            values |= {n: result for n, result in zip(op.results, results, strict=True) if n is not None}
        return values[self.logits]


class OpRecorder:
    """Handler that records all ops after the pooling calls passed to `note_pooling`."""

    def __init__(self) -> None:
        self._numbers = TensorNotes[int]()  # reference numbers of the tensors that were computed from the pooled values
        self._next_number = count()
        self._pooled: dict[int, tuple[int, torch.Size]] = {}
        self._ops: list[_RecordedOp] = []
        self._overwritten = False  # whether an op wrote into a tensor that the recording holds

    def handle(self, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Call the function, and record the call if an argument was computed from the pooled values."""
        leaves, spec = pytree.tree_flatten((tuple(args), kwargs)) if self._pooled else ([], None)
        numbers = [self._numbers.get(leaf) for leaf in leaves]
        if spec is None or all(number is None for number in numbers):
            return function(*args, **kwargs)
        recorded = [leaf if n is None else _TensorRef(n) for leaf, n in zip(leaves, numbers, strict=True)]
        versions = [count_writes(leaf) for leaf in recorded]
        result = function(*args, **kwargs)
        # An op may write into a tensor that was created earlier, as in `logits[:, :5] = ...`.
        self._overwritten |= versions != [count_writes(leaf) for leaf in recorded]
        results = pytree.tree_leaves(result)
        assigned = [self._assign_number(leaf) if isinstance(leaf, Tensor) else None for leaf in results]
        self._ops.append(_RecordedOp(function, recorded, spec, assigned))
        return result

    def note_pooling(self, call: PoolingCall) -> None:
        """Start to record at the result of this pooling call."""
        self._pooled[call.index] = self._assign_number(call.result), call.result.shape

    def recording(self, logits: Tensor) -> OpRecording | None:
        """Return the recording up to the logits; None if they were computed in a way that it cannot repeat."""
        number = self._numbers.get(logits)
        return None if number is None or self._overwritten else OpRecording(self._pooled, self._ops, number)

    def _assign_number(self, tensor: Tensor) -> int:
        number = self._numbers.get(tensor)
        if number is None:
            number = self._numbers[tensor] = next(self._next_number)
        return number


def count_writes(leaf: Any) -> int:
    """Return torch's count of the writes into a tensor; 0 for anything else, and where torch does not count."""
    return leaf._version if isinstance(leaf, Tensor) and not leaf.is_inference() else 0
