"""Take a network out of what torch wraps around it: compiled, parallel and distributed modules."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from inspector.errors import NetworkError

_lock = threading.Lock()
_stances: list[Any] = []  # for each pass without torch.compile in progress, the first one's setting


def unwrap(network: nn.Module) -> nn.Module:
    """Return the network itself, of a compiled, data-parallel or distributed one.

    The wrappers compute the same from the same parameters. A pass through them would compile, or start a step of
    distributed training.

    Raises:
        NetworkError: the network has parameters without values yet.
    """
    while (inner := _find_inner(network)) is not None:
        network = inner
    for name, parameter in (*network.named_parameters(), *network.named_buffers()):
        if is_lazy(parameter):
            raise NetworkError(
                f"Parameter {name!r} has no shape yet. Run the network once on an input of its size before Inspector."
            )
        if parameter.is_meta:
            raise NetworkError(
                f"Parameter {name!r} has no values: it is on the meta device. Load the weights before Inspector."
            )
    return network


def _find_inner(network: nn.Module) -> nn.Module | None:
    if isinstance(network, nn.DataParallel | nn.parallel.DistributedDataParallel):
        inner: nn.Module = network.module
        return inner
    # By its name, because an import of the compiler takes a second.
    return next(network.children()) if type(network).__name__ == "OptimizedModule" else None


@contextmanager
def run_uncompiled() -> Iterator[None]:
    """Run compiled functions as they were written, inside the ``with`` block, so that their calls can be followed.

    torch has one such setting for all threads. The last thread that leaves restores it.
    """
    with _lock:
        if not _stances:
            _stances.append(torch.compiler.set_stance("force_eager"))
        else:
            _stances.append(_stances[0])
    try:
        yield
    finally:
        with _lock:
            stance = _stances.pop()
            if not _stances:
                stance.__exit__(None, None, None)


def uses_compiler() -> bool:
    """Tell whether anything was compiled by torch.compile: the network, a module or a function that it calls."""
    # Looked up, because an import of the compiler takes a second.
    compiler = sys.modules.get("torch._dynamo.eval_frame")
    return bool(getattr(compiler, "cached_backends", ()))
