"""Load networks that are programs: files of torch.export (.pt2) and TorchScript, which run the code in them."""

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from inspector.errors import NetworkError
from inspector.explain.tracing.forward import match_parameters
from inspector.networks.checkpoint import Kind, make_printable

_SILENCE = threading.Lock()


def read_torch_program(path: Path, kind: Kind, example_shape: tuple[int, int, int], trust: bool) -> nn.Module:
    """Load the network in such a file as a module whose calls of tensor functions are visible.

    A TorchScript program is converted to an exported program first, because its interpreter shows no calls.

    Args:
        path: the file.
        kind: "torch.export" or "TorchScript".
        example_shape: (channels, H, W) of an input, for the conversion.
        trust: loading may run code of the file; without trust it is refused.

    Raises:
        NetworkError: no trust, or the file cannot be loaded or converted.
    """
    if not trust:
        problem = f"{path} is a program ({kind}), and to load it may run code that is in it"
        hint = "say so with --trust (trust=True in Python); a state dict or an ONNX file needs no trust"
        raise NetworkError(f"{problem}. If you trust whoever made it, {hint}.")
    try:
        with _silence("torch.export", "torch._export"):
            if kind == "torch.export":
                return torch.export.load(path).module()
            return _convert_script(torch.jit.load(path, map_location="cpu"), example_shape)
    except Exception as error:  # anything, because the file's own code may run
        raise NetworkError(f"{path} cannot be loaded as {kind}: {_describe_reason(error)}.") from error


@contextmanager
def _silence(*names: str) -> Iterator[None]:
    """Silence torch's deprecation warnings, and loggers that would print whole tracebacks."""
    # Warnings and levels are process-wide: two threads would restore each other's.
    with _SILENCE, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        levels = {logger: logger.level for logger in map(logging.getLogger, names)}
        try:
            for logger in levels:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in levels.items():
                logger.setLevel(level)


def _convert_script(script: Any, example_shape: tuple[int, int, int]) -> nn.Module:
    from torch._export.converter import TS2EPConverter

    script.eval()
    # Two images, because the exporter makes a constant of the batch size 1.
    converter: Any = TS2EPConverter(script, (match_parameters(script, torch.zeros(2, *example_shape)),))
    network: nn.Module = converter.convert().module()
    # The converter turns parameters into buffers; without parameters a network has no dtype and no device.
    modules = dict(network.named_modules(remove_duplicate=False))
    for name, parameter in script.named_parameters():
        owner, _, last = name.rpartition(".")
        module = modules.get(owner)  # None: an unused module, which the converter leaves out
        if module is not None and last in module._buffers:
            delattr(module, last)
            module.register_parameter(last, nn.Parameter(parameter.detach(), parameter.requires_grad))
    return network


def _describe_reason(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    if "warnings above" in text:  # the warnings are silenced
        return "it is broken, made by another version of torch, or calls operators that are not there"
    return make_printable(text.splitlines()[0], 160).rstrip(".: ")
