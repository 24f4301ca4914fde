"""Leave a network and torch's random numbers as they were, after passes that only try something out."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from inspector.explain.tracing.tensor_calls import count_writes


@contextmanager
def preserve_state(network: nn.Module) -> Iterator[None]:
    """Restore the buffers and numbers that the modules of a network keep, and torch's streams of random numbers.

    Some networks count their passes or keep a running mean in evaluation mode too.
    """
    saved = [_save(values) for module in network.modules() for values in (module._buffers, vars(module))]
    parameter = next(network.parameters(), None)
    devices = [parameter.device] if parameter is not None and parameter.is_cuda else []
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            for values, before in saved:
                _restore(values, before)


_Saved = dict[str, tuple[Any, int, Tensor | None]]  # name -> value, count of writes and contents of a tensor


def _save(values: dict[str, Any]) -> tuple[dict[str, Any], _Saved]:
    kept = {name: value for name, value in values.items() if isinstance(value, Tensor | int | float)}
    return values, {
        name: (value, count_writes(value), value.detach().clone() if isinstance(value, Tensor) else None)
        for name, value in kept.items()
    }


def _restore(values: dict[str, Any], before: _Saved) -> None:
    for name, (value, writes, contents) in before.items():
        if name == "training":  # restored when the last thread leaves evaluation mode
            continue
        if contents is not None and count_writes(value) != writes:
            with torch.no_grad():
                value.copy_(contents)
        if name in values and values[name] is not value:
            values[name] = value
