"""Intercept the tensor functions that a network calls, and keep notes on the tensors that pass by."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar
from weakref import ref

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

# A handler gets a function with its positional and keyword arguments, calls it, and returns its result or another.
Handler = Callable[[Callable[..., Any], Sequence[Any], dict[str, Any]], Any]

Note = TypeVar("Note")

_READ_DATA = torch.Tensor.data.__get__  # type: ignore[attr-defined]


class TensorCallMode(TorchFunctionMode):
    """Hand every tensor function that is called inside the ``with`` block, on this thread, to a handler."""

    def __init__(self, handler: Handler) -> None:
        super().__init__()
        self.handler = handler

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return self.handler(func, args, kwargs or {})


def call_unchanged(function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Call the function and return its result: the handler that changes nothing."""
    return function(*args, **kwargs)


def op_name(function: Callable[..., Any]) -> str:
    """Return the name of a tensor function: the same for torch.relu, Tensor.relu and torch.ops.aten.relu.default."""
    return str(getattr(function, "__name__", "")).split(".")[0]


class TensorNotes(Generic[Note]):
    """Notes on tensors, looked up by identity. The tensors are not kept alive.

    An id names a tensor only while the tensor lives, so each entry holds a weak reference to check it.
    torch.utils.weak.WeakTensorKeyDictionary does the same, but a look-up takes ten times as long (4 microseconds), and
    a forward pass makes thousands of them.
    """

    def __init__(self) -> None:
        self._entries: dict[int, tuple[ref[Tensor], Note]] = {}

    def __setitem__(self, tensor: Tensor, note: Note) -> None:
        self._entries[id(tensor)] = ref(tensor), note

    def __contains__(self, value: Any) -> bool:
        entry = self._entries.get(id(value))
        return entry is not None and entry[0]() is value

    def discard(self, tensor: Tensor | None) -> None:
        """Remove the note on a tensor, if there is one."""
        if tensor in self:
            del self._entries[id(tensor)]

    def get(self, value: Any) -> Note | None:
        """Return the note on a tensor; None if there is none, or if the value is no tensor."""
        entry = self._entries.get(id(value))
        return entry[1] if entry is not None and entry[0]() is value else None


def find_arguments(args: Sequence[Any], kwargs: dict[str, Any]) -> list[Tensor]:
    """Return the tensors among the arguments of a call, also those in lists, as in ``torch.cat([a, b])``."""
    tensors = []
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor):
            tensors.append(value)
        elif isinstance(value, list | tuple):
            tensors += [one for one in value if isinstance(one, Tensor)]
    return tensors


def find_values(output: Any) -> Tensor | None:
    """Return the values that a call computed: a tensor, or the first of values and indices, as topk returns them."""
    if isinstance(output, Tensor):
        return output if output.is_floating_point() else None
    if isinstance(output, tuple | list) and len(output) == 2 and all(isinstance(one, Tensor) for one in output):
        values, indices = output
        return values if values.is_floating_point() and values.shape == indices.shape and has_indices(output) else None
    return None


def has_indices(output: Any) -> bool:
    """Tell whether a call returned values and the indices where they were found."""
    return isinstance(output, tuple | list) and len(output) == 2 and output[1].dtype == torch.int64


def replace_values(output: Any, values: Tensor) -> Any:
    """Return what a call returned with other values, in a tuple of the same type."""
    if isinstance(output, Tensor):
        return values
    rest = (values, *output[1:])
    # Named tuples take their fields one by one, torch's own and all others take a sequence.
    return type(output)(*rest) if hasattr(output, "_fields") else type(output)(rest)


def count_writes(leaf: Any) -> int:
    """Return torch's count of the writes into a tensor; 0 for anything else, and where torch does not count."""
    return leaf._version if isinstance(leaf, Tensor) and not leaf.is_inference() else 0


_WRITERS = ("__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__")


def is_writing(function: Callable[..., Any], kwargs: Mapping[str, Any]) -> bool:
    """Tell whether a call writes into its first argument or into `out`, judged by its name and arguments."""
    name = op_name(function)
    in_place = name.endswith("_") and not name.endswith("__")
    return in_place or name in _WRITERS or bool(kwargs.get("inplace")) or isinstance(kwargs.get("out"), Tensor)


def is_detaching(function: Callable[..., Any]) -> bool:
    """Tell whether a function returns the same values without their gradient: detach, or reading .data."""
    return op_name(function) in ("detach", "detach_") or function == _READ_DATA


def leave_inference_mode(value: Any) -> Any:
    """Return a copy of a tensor that was made in inference mode, because it supports no gradients."""
    if not isinstance(value, Tensor) or not value.is_inference():
        return value
    with torch.inference_mode(False):
        return value.clone()
