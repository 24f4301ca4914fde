"""Find which poolings of a network reach its logits."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from inspector.explain.tracing.forward import run_to_logits
from inspector.explain.tracing.gradients import GradientKeeper
from inspector.explain.tracing.outputs import as_logits
from inspector.explain.tracing.pooling_calls import PoolingCall, PoolingCallDetector, call_number
from inspector.explain.tracing.tensor_calls import TensorNotes, count_writes


class DataFlow:
    """A handler that notes from which poolings each tensor of a pass was computed."""

    def __init__(self) -> None:
        self._origins = TensorNotes[frozenset[int]]()

    def origins(self, tensor: Tensor) -> frozenset[int]:
        """Return the numbers of the pooling calls that a tensor was computed from, the last ones on each way."""
        return self._origins.get(tensor) or frozenset()

    def note_pooling(self, result: Tensor, number: int) -> None:
        """Note the result of a pooling call: what went into the call counts no more."""
        self._origins[result] = frozenset([number])

    def handle(self, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Call the function, and note from which poolings its results were computed."""
        given = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        origins = frozenset[int]().union(*map(self.origins, given))
        if not origins:
            return function(*args, **kwargs)
        writes = [count_writes(tensor) for tensor in given]
        output = function(*args, **kwargs)
        changed = [tensor for tensor, count in zip(given, writes, strict=True) if count_writes(tensor) != count]
        # A write into a view, as in `logits[:, 1:].copy_(...)`, is one into the tensor that it is a view of.
        changed += [tensor._base for tensor in changed if tensor._base is not None]
        for tensor in (*changed, *pytree.tree_leaves(output)):
            if isinstance(tensor, Tensor):
                self._origins[tensor] = origins
        return output


def find_poolings_reaching_logits(network: nn.Module, inputs: Tensor) -> tuple[list[tuple[int, ...]], Tensor]:
    """Find the pooling calls whose results reach the logits other than through another pooling.

    They are found by following the tensors from call to call, so a network may compute them without gradients. Where a
    function cannot be followed, as one of NumPy or TorchScript, gradients may still tell.

    Args:
        network: any classifier.
        inputs: normalized images (N, channels, H, W).

    Returns:
        For each of the calls its indices, one per layout that it fits; and the logits (N, K).
    """
    leaves: dict[int, tuple[int, Tensor]] = {}
    flow = DataFlow()

    def detach(call: PoolingCall) -> Tensor:
        # Replace the result of each pooling call by a new leaf, so that only the last poolings before the logits
        # are found.
        with torch.inference_mode(False), torch.enable_grad():
            leaf = call.result.detach().clone().requires_grad_()
        result = keeper.insert(lambda: leaf)
        leaves[call.index] = call_number(call.index), leaf
        flow.note_pooling(result, call_number(call.index))
        return result

    with torch.inference_mode(False), torch.enable_grad():
        keeper = GradientKeeper(flow.handle)
        output, _ = run_to_logits(network, inputs, PoolingCallDetector(detach, keeper.handle))
        logits = as_logits(output, len(inputs))
        found = set(flow.origins(output))
        if leaves and logits.requires_grad:
            gradients = torch.autograd.grad(logits.sum(), [leaf for _, leaf in leaves.values()], allow_unused=True)
            pairs = zip(leaves.values(), gradients, strict=True)
            found |= {number for (number, _), gradient in pairs if gradient is not None}
    by_call = [tuple(index for index in leaves if call_number(index) == number) for number in sorted(found)]
    return by_call, logits.detach()
