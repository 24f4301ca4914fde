"""Notice, in some microseconds, that a network was changed: what was built from it must then not be used."""

import hashlib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from logging import Logger
from types import FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from inspector.explain.tracing.forward import forward
from inspector.explain.tracing.tensor_calls import count_writes

_DEPTH = 2  # of objects inside objects that are no modules
_SKIPPED = (type, ModuleType, Logger)  # they hold what belongs to no network


@dataclass(frozen=True, eq=False)
class _TensorState:
    """A tensor as it was: its count of in-place writes, its memory and its first value."""

    tensor: Tensor
    state: tuple[int, int]  # count of in-place writes, and address in memory
    first_value: Any  # a NumPy view of the first value in memory; None if it is not float32 on the CPU
    expected: float | None

    def is_unchanged(self) -> bool:
        if _read_state(self.tensor) != self.state:
            return False
        return self.first_value is None or bool(self.first_value[0] == self.expected)


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
        self._tensors: list[_TensorState] = []
        self._visit(network, 0, {})
        forward(network, example)
        stable = [state.without_changed_keys() for state in self._containers]
        self._containers = [state for state in stable if state is not None]
        self._cells = [(cell, content) for cell, content in self._cells if cell.cell_contents is content]
        self._tensors = [state for state in self._tensors if state.is_unchanged()]

    def is_unchanged(self) -> bool:
        """Tell whether the network is the same, as far as can be seen."""
        return (
            all(state.is_unchanged() for state in self._tensors)
            and all(state.is_unchanged() for state in self._containers)
            and all(cell.cell_contents is content for cell, content in self._cells)
        )

    def _visit(self, value: Any, depth: int, visited: dict[int, Any]) -> None:
        if id(value) in visited or isinstance(value, _SKIPPED):
            return
        visited[id(value)] = value  # keeps the value alive, and so its id its own
        if isinstance(value, Tensor):
            self._tensors.append(_read_tensor(value))
            return
        inside: Iterable[Any] = ()
        if isinstance(value, list | dict | set):
            mode = frozenset(["training"] if isinstance(value, dict) and "training" in value else ())
            self._containers.append(_ContainerState(value, value.copy(), mode))
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
            self._visit(one, depth, visited)


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


def _read_tensor(tensor: Tensor) -> _TensorState:
    first_value, expected = None, None
    if (
        tensor.device.type == "cpu"
        and tensor.dtype == torch.float32
        and tensor.layout == torch.strided
        and tensor.numel()
    ):
        # NumPy reads one value 50 times as fast as torch.
        first_value = tensor.detach().as_strided((1,), (1,)).numpy()
        expected = float(first_value[0])
    return _TensorState(tensor, _read_state(tensor), first_value, expected)


def _read_state(tensor: Tensor) -> tuple[int, int]:
    """Return torch's count of the writes into a tensor, and its address."""
    return count_writes(tensor), tensor.data_ptr()


def hash_weights(network: nn.Module) -> str:
    """Return the SHA-256 hash, in hexadecimal, of the names and values of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
