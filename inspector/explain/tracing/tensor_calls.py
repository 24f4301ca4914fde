"""Intercept the tensor functions that a network calls, and keep notes on the tensors that pass by."""

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar
from weakref import ref

from torch import Tensor
from torch.overrides import TorchFunctionMode

# A handler gets a function with its positional and keyword arguments, calls it, and returns its result or another.
Handler = Callable[[Callable[..., Any], Sequence[Any], dict[str, Any]], Any]

Note = TypeVar("Note")


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

    def get(self, value: Any) -> Note | None:
        """Return the note on a tensor; None if there is none, or if the value is no tensor."""
        entry = self._entries.get(id(value))
        return entry[1] if entry is not None and entry[0]() is value else None
