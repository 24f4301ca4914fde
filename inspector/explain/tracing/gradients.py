"""Keep gradients through a network that disables them, as frozen backbones do."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from inspector.explain.tracing.tensor_calls import Handler, is_detaching, leave_inference_mode, op_name


class GradientKeeper:
    """Computes gradients of what follows inserted values, also where the network says no_grad, detach or .data.

    Whether gradients are wanted is decided where the keeper is made, not by the network.
    """

    def __init__(self, handler: Handler, inserted: bool = False) -> None:
        self._handler = handler
        self._enabled = torch.is_grad_enabled()
        self._inserted = inserted

    def insert(self, make: Callable[[], Tensor]) -> Tensor:
        """Return values to continue with, as a clone: an op in place may not write into a leaf that needs gradients."""
        self._inserted = True
        with torch.inference_mode(False), torch.set_grad_enabled(self._enabled):
            return make().clone()

    def handle(self, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Call the function; after the insertion with gradients, if they are wanted."""
        if op_name(function) == "_set_grad_enabled":
            return self._handler(function, args, kwargs)
        if not self._inserted:
            with torch.no_grad():  # gradients would only cost memory
                return self._handler(function, args, kwargs)
        if is_detaching(function):
            return args[0]
        args, kwargs = pytree.tree_map(leave_inference_mode, (tuple(args), kwargs))
        with torch.inference_mode(False), torch.set_grad_enabled(self._enabled):
            return self._handler(function, args, kwargs)
