"""Notice, in some microseconds, that a network was changed: what was built from it must then not be used."""

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from logging import Logger
from operator import attrgetter
from types import FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from inspector.explain.tracing.forward import forward

_MODE = frozenset({"training"})  # the attribute of a module that may change
_READ_WRITES = attrgetter("_version")  # torch's count of the writes into a tensor
_DEPTH = 2  # of objects inside objects that are no modules
_PLAIN = {list, dict, set, OrderedDict}  # containers that are true unless they are empty
_SKIPPED = (type, ModuleType, Logger)  # they hold what belongs to no network


class _TensorStates:
    """Tensors as they were: their counts of in-place writes, their addresses in memory and their first values."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.tensors = tensors
        self._counted = [tensor for tensor in tensors if not tensor.is_inference()]  # torch counts writes into these
        self._first_values = [_view_first_value(tensor) for tensor in tensors if _has_first_value(tensor)]
        self._state = self._read()

    def are_unchanged(self) -> bool:
        return self._read() == self._state

    def _read(self) -> tuple[Any, ...]:
        # Without Python code for each tensor: a network has hundreds, and they are read in every pass.
        writes, addresses = list(map(_READ_WRITES, self._counted)), list(map(Tensor.data_ptr, self.tensors))
        return writes, addresses, b"".join(self._first_values)


class NetworkFingerprint:
    """What a network was when the fingerprint was taken.

    It notices another module, layer, hook or attribute (also inside lists, dicts and objects that attributes hold, and
    in what functions close over), and a parameter or buffer that was replaced or written to. Writes to `parameter.data`
    are not counted by torch: of those, the first value is compared. What the network itself changes in a pass, such as
    a counter, is not compared, and what a function reads from global variables is not seen.

    Args:
        network: any network.
        example: an input, for the pass that shows what the network changes itself.
    """

    def __init__(self, network: nn.Module, example: Tensor) -> None:
        self._containers: list[_ContainerState] = []
        self._cells: list[tuple[Any, Any]] = []  # of closures, each with what it held
        tensors: list[Tensor] = []
        self._visit(network, 0, tensors, {})
        before = [_TensorStates([tensor]) for tensor in tensors]
        forward(network, example)
        stable = [state.without_changed_keys() for state in self._containers]
        self._containers = [state for state in stable if state is not None]
        self._cells = [(cell, content) for cell, content in self._cells if cell.cell_contents is content]
        self._tensors = _TensorStates([tensor for state in before if state.are_unchanged() for tensor in state.tensors])
        # Almost all containers keep all they hold, and most are empty, as dicts of hooks are. They are compared without
        # Python code for each, and without reading copies of empty ones: a pass displaces all this from the caches.
        self._changing = [state for state in self._containers if state.ignored - _MODE]
        kept = [state for state in self._containers if not state.ignored - _MODE]
        self._empty = [state.container for state in kept if state.is_empty()]
        full = [state for state in kept if not state.is_empty()]
        self._full = _ContainerState([state.container for state in full], [state.copy for state in full])

    def is_unchanged(self) -> bool:
        """Tell whether the network is the same, as far as can be seen."""
        return (
            not any(self._empty)
            # The lists differ, too, where only the mode of a module does.
            and (self._full.is_unchanged() or all(state.is_unchanged() for state in self._containers))
            and self._tensors.are_unchanged()
            and all(state.is_unchanged() for state in self._changing)
            and all(cell.cell_contents is content for cell, content in self._cells)
        )

    def _visit(self, value: Any, depth: int, tensors: list[Tensor], visited: dict[int, Any]) -> None:
        if id(value) in visited or isinstance(value, _SKIPPED):
            return
        visited[id(value)] = value  # keeps the value alive, and so its id its own
        if isinstance(value, Tensor):
            tensors.append(value)
            return
        inside: Iterable[Any] = ()
        if isinstance(value, list | dict | set):
            has_mode = isinstance(value, dict) and value.keys() >= _MODE
            self._containers.append(_ContainerState(value, value.copy(), _MODE if has_mode else frozenset()))
            inside = value.values() if isinstance(value, dict) else value
        elif isinstance(value, tuple):
            inside = value
        elif isinstance(value, MethodType):
            inside = (value.__func__, value.__self__)
        elif isinstance(value, FunctionType):
            with suppress(ValueError):  # a cell may be empty
                cells = [(cell, cell.cell_contents) for cell in value.__closure__ or ()]
                self._cells += cells
                inside = [content for _, content in cells]
        elif hasattr(value, "__dict__") and (depth < _DEPTH or isinstance(value, nn.Module)):
            depth = 0 if isinstance(value, nn.Module) else depth + 1
            inside = (vars(value),)
        for one in inside:
            self._visit(one, depth, tensors, visited)


@dataclass(frozen=True, eq=False)
class _ContainerState:
    """A list, dict or set as it was."""

    container: Any
    copy: Any
    ignored: frozenset[Any] = frozenset()  # keys of a dict that may change

    def is_unchanged(self) -> bool:
        try:
            # Identity is compared first, so tensors are not compared.
            if self.container == self.copy:
                return True
            return bool(self.ignored) and self._select(self.container) == self._select(self.copy)
        except Exception:  # values that cannot be compared, such as two tensors, are not the same
            return False

    def is_empty(self) -> bool:
        return type(self.container) in _PLAIN and not self.container

    def without_changed_keys(self) -> "_ContainerState | None":
        """Return the state without what has changed since; None for a list or set that has changed."""
        if self.is_unchanged():
            return self
        if not isinstance(self.container, dict):
            return None
        keys = (key for key in self.copy | self.container if not self._holds_same(key))
        return _ContainerState(self.container, self.copy, self.ignored | frozenset(keys))

    def _holds_same(self, key: Any) -> bool:
        missing = object()
        return self.container.get(key, missing) is self.copy.get(key, missing)

    def _select(self, values: dict[Any, Any]) -> dict[Any, Any]:
        return {key: value for key, value in values.items() if key not in self.ignored}


def _has_first_value(tensor: Tensor) -> bool:
    """Return whether the first value can be read without torch, which would take a hundred times as long."""
    is_readable = tensor.device.type == "cpu" and tensor.dtype == torch.float32 and tensor.layout == torch.strided
    return is_readable and tensor.numel() > 0


def _view_first_value(tensor: Tensor) -> memoryview:
    """Return a view of the bytes of the first value in memory. Unlike the value, they equal themselves if it is NaN."""
    return tensor.detach().as_strided((1,), (1,)).numpy().data


def hash_weights(network: nn.Module) -> str:
    """Return the SHA-256 hash, in hexadecimal, of the names and values of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
