"""Record the ops between the pooling and the logits of one pass, to run them again on other pooled values.

Only a few ops follow the pooling. Without a recording, each evaluation of the head runs the whole network again and
replaces the pooling's result.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from operator import attrgetter
from types import GetSetDescriptorType
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from inspector.explain.precision import find_product_type
from inspector.explain.tracing.layouts import PooledLayout
from inspector.explain.tracing.pooling_calls import PoolingCall
from inspector.explain.tracing.tensor_calls import (
    Handler,
    TensorNotes,
    call_unchanged,
    count_writes,
    is_detaching,
    is_writing,
    leave_inference_mode,
    op_name,
)

# Their initial states have as many rows as the recorded pass. Called with more rows they write past the end of memory:
# the check is in torch.nn.LSTM and not in the function.
_FIXED_ROWS = ("lstm", "gru", "rnn_tanh", "rnn_relu")


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
    shapes: list[torch.Size]  # of each leaf of the result

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"function": _encode_function(self.function)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state | {"function": _decode_function(state["function"])})


@dataclass(frozen=True)
class _NamedFunction:
    """A function that pickle cannot find by itself: an attribute of tensors, as in `x.T`, or an ATen operator."""

    owner: str  # "Tensor" or "ops"
    name: str


def _encode_function(function: Callable[..., Any]) -> Any:
    descriptor = getattr(function, "__self__", None)
    if isinstance(descriptor, GetSetDescriptorType):
        return _NamedFunction("Tensor", descriptor.__name__)
    return _NamedFunction("ops", str(function)) if type(function).__name__ == "OpOverload" else function


def _decode_function(function: Any) -> Callable[..., Any]:
    if not isinstance(function, _NamedFunction):
        known: Callable[..., Any] = function
        return known
    found: Any = attrgetter(function.name)(torch.ops if function.owner == "ops" else Tensor)
    return found if function.owner == "ops" else found.__get__  # type: ignore[no-any-return]


@dataclass(frozen=True, eq=False)
class OpRecording:
    """The ops from the pooled values to the logits. They hold the network's own parameters, not copies."""

    # Index of the pooling call -> reference number, layout of its result in the recorded pass.
    pooled: dict[int, tuple[int, PooledLayout]]
    # Reference number -> contents of a tensor that was created before, when the first op wrote into it.
    written: dict[int, Tensor]
    ops: list[_RecordedOp]
    logits: int  # reference number of the logits
    dtypes: frozenset[torch.dtype]  # floating-point types of the results, and of products that are rounded more

    @property
    def has_fixed_rows(self) -> bool:
        """Whether an op must not be called with another number of rows than in the recorded pass."""
        return any(op_name(op.function) in _FIXED_ROWS for op in self.ops)

    @property
    def numbers(self) -> list[int]:
        """The reference numbers of all results, in order."""
        return list(dict.fromkeys(number for op in self.ops for number in op.results if number is not None))

    def split(self, number: int) -> tuple["OpRecording", "OpRecording"] | None:
        """Split at the result with a number: the ops up to it, and the ops from it to the logits.

        None if these use another tensor that was computed before it, or one that was written into.
        """
        last = max((n for n, op in enumerate(self.ops) if number in op.results), default=None)
        if last is None or self.written or len(self.pooled) != 1:
            return None
        rest: list[_RecordedOp] = []
        needed = {self.logits}
        for op in reversed(self.ops[last + 1 :]):
            if needed & set(op.results):
                rest.append(op)
                needed |= {leaf.number for leaf in op.leaves if isinstance(leaf, _TensorRef)}
        if needed - {number, *(result for op in rest for result in op.results)}:
            return None
        (call,) = self.pooled
        shape = self.ops[last].shapes[self.ops[last].results.index(number)]
        return (
            replace(self, ops=self.ops[: last + 1], logits=number),
            replace(self, ops=rest[::-1], pooled={call: (number, PooledLayout(shape))}),
        )

    def convert_constants(self, dtype: torch.dtype) -> "OpRecording":
        """Return the recording with all its parameters and other constants in a floating-point type, as copies.

        A replay in this type then need not convert them each time.
        """
        copies: dict[int, Tensor] = {}

        def convert(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor) or not leaf.is_floating_point():
                return leaf
            if id(leaf) not in copies:
                copies[id(leaf)] = leaf.detach().to(dtype)
            return copies[id(leaf)]

        return replace(self, ops=[replace(op, leaves=[convert(leaf) for leaf in op.leaves]) for op in self.ops])

    def replay(self, pooled: Mapping[int, Tensor], handler: Handler = call_unchanged) -> Any:
        """Run the recorded ops on new pooled values.

        Args:
            pooled: new values (R, P) by the index of their pooling call.
            handler: calls each op, and the clone of the pooled values with which the recording begins.

        Returns:
            The output in place of the logits, usually a Tensor (R, K). Errors of torch propagate if an op does not
            support R rows.
        """
        # A clone, because an in-place op that follows may not write into a leaf that requires gradients.
        values = {
            number: handler(Tensor.clone, (layout.restore(pooled[n]),), {})
            for n, (number, layout) in self.pooled.items()
        }
        dtype = next(iter(values.values())).dtype
        values |= {number: _clone_in(contents, dtype) for number, contents in self.written.items()}
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
        self._pooled: dict[int, tuple[int, PooledLayout]] = {}
        self._written: dict[int, Tensor] = {}
        self._ops: list[_RecordedOp] = []
        self._dtypes: set[torch.dtype] = set()
        self._is_complete = True  # False: an op wrote into a tensor in a way that the recording cannot repeat

    def handle(self, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Call the function, and record the call if an argument was computed from the pooled values."""
        if not self._pooled:
            return function(*args, **kwargs)
        leaves, spec = pytree.tree_flatten((tuple(args), kwargs))
        for leaf in leaves:
            self._note_view(leaf)
        if all(self._numbers.get(leaf) is None for leaf in leaves):
            return function(*args, **kwargs)
        if is_detaching(function):
            return self._pass_on(args[0], function(*args, **kwargs))
        if is_writing(function, kwargs):
            target = kwargs["out"] if isinstance(kwargs.get("out"), Tensor) else args[0]
            self._note_written(target)
        numbers = [self._numbers.get(leaf) for leaf in leaves]
        pairs = zip(leaves, numbers, strict=True)
        recorded = [leave_inference_mode(leaf) if n is None else _TensorRef(n) for leaf, n in pairs]
        versions = [count_writes(leaf) for leaf in recorded]
        result = function(*args, **kwargs)
        # An op may write into a tensor that was created earlier, although its name does not say so.
        self._is_complete &= versions == [count_writes(leaf) for leaf in recorded]
        # Reading a shape or a number gives no tensor; the recording keeps what the network made of it.
        if is_writing(function, kwargs) or any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(result)):
            self._append(function, recorded, spec, result)
        return result

    def note_pooling(self, call: PoolingCall) -> None:
        """Start to record at the result of this pooling call."""
        self._pooled[call.index] = self._assign_number(call.result), call.pooled_layout

    def recording(self, logits: Tensor) -> OpRecording | None:
        """Return the recording up to the logits; None if they were computed in a way that it cannot repeat."""
        number = self._numbers.get(logits)
        if number is None or not self._is_complete:
            return None
        return OpRecording(self._pooled, self._written, self._ops, number, frozenset(self._dtypes))

    def _pass_on(self, source: Tensor, result: Tensor) -> Tensor:
        """Note that a tensor has the values of another: a recording may be differentiated where the network is not."""
        number = self._numbers.get(source)
        if number is not None and self._numbers.get(result) is None:
            self._numbers[result] = number
        return result

    def _append(self, function: Callable[..., Any], leaves: list[Any], spec: pytree.TreeSpec, result: Any) -> None:
        results = pytree.tree_leaves(result)
        floats = [leaf for leaf in results if isinstance(leaf, Tensor) and leaf.is_floating_point()]
        self._dtypes |= {find_product_type(leaf, function) for leaf in floats}
        assigned = [self._assign_number(leaf) if isinstance(leaf, Tensor) else None for leaf in results]
        shapes = [leaf.shape if isinstance(leaf, Tensor) else torch.Size() for leaf in results]
        self._ops.append(_RecordedOp(function, leaves, spec, assigned, shapes))

    def _note_written(self, target: Tensor) -> None:
        """Keep the contents of a tensor that was created before, as in `logits[:, :5] = ...`, at the first write."""
        if self._numbers.get(target) is None:
            base = _base_of(target)
            base = target if base is None else base
            self._written[self._assign_number(base)] = base.detach().clone()
            self._note_view(target)

    def _note_view(self, leaf: Any) -> None:
        """Record how a tensor that is a view of another is made of it, if the other has been written into."""
        base = _base_of(leaf)
        number = None if base is None else self._numbers.get(base)
        if number is None or self._numbers.get(leaf) is not None:
            return
        args = _TensorRef(number), leaf.shape, leaf.stride(), leaf.storage_offset()
        no_kwargs: dict[str, Any] = {}
        self._append(torch.as_strided, *pytree.tree_flatten((args, no_kwargs)), leaf)

    def _assign_number(self, tensor: Tensor) -> int:
        number = self._numbers.get(tensor)
        if number is None:
            number = self._numbers[tensor] = next(self._next_number)
        return number


def _base_of(leaf: Any) -> Tensor | None:
    """Return the tensor that a tensor is a view of."""
    return leaf._base if isinstance(leaf, Tensor) and not leaf.is_inference() else None


def _clone_in(contents: Tensor, dtype: torch.dtype) -> Tensor:
    """Clone a tensor; floating-point numbers in a type that holds values of `dtype`."""
    wide = torch.promote_types(contents.dtype, dtype) if contents.is_floating_point() else contents.dtype
    return contents.to(wide, copy=True)
