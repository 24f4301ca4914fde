"""Load files of torch.export (.pt2) and TorchScript. They are programs, so loading or using them runs their code."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from inspector.errors import NetworkError
from inspector.explain.backends.export_graph import one_trace_at_a_time
from inspector.explain.tracing.forward import match_parameters
from inspector.networks.checkpoint import Kind
from inspector.printable import make_printable


def read_torch_program(path: Path, kind: Kind, example_shape: tuple[int, int, int], trust: bool) -> nn.Module:
    """Load the network in a program file as a module that calls torch functions.

    Inspector traces these calls. The interpreter of TorchScript hides them, so a TorchScript program is converted to an
    exported program.

    Args:
        path: the file.
        kind: "torch.export" or "TorchScript".
        example_shape: (channels, H, W) of an input; the conversion needs an example.
        trust: allow code in the file to run.

    Raises:
        NetworkError: ``trust`` is False, or the file cannot be loaded or converted.
    """
    if not trust:
        problem = f"{path} is a program ({kind}), and to load it may run code that is in it"
        hint = "say so with --trust (trust=True in Python); a state dict or an ONNX file needs no trust"
        raise NetworkError(f"{problem}. If you trust whoever made it, {hint}.")
    try:
        with silence("torch.export", "torch._export"):
            if kind == "torch.export":
                return torch.export.load(path).module()
            return _convert_script(torch.jit.load(path, map_location="cpu"), example_shape)
    except Exception as error:  # every exception, because code in the file may run and raise anything
        raise NetworkError(f"{path} cannot be loaded as {kind}: {_describe_reason(error)}.") from error


@contextmanager
def silence(*names: str) -> Iterator[None]:
    """Silence warnings, such as torch's deprecations, and these loggers, which would print whole tracebacks."""
    # Use a lock: warning filters and log levels are global, and two threads would restore each other's settings.
    with one_trace_at_a_time, warnings.catch_warnings():
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
    # Use two images: the converter would treat a batch size of 1 as a constant.
    converter: Any = TS2EPConverter(script, (match_parameters(script, torch.zeros(2, *example_shape)),))
    network: nn.Module = converter.convert().module()
    # The converter turns parameters into buffers. Turn them back: dtype and device are read from the parameters.
    modules = dict(network.named_modules(remove_duplicate=False))
    for name, parameter in script.named_parameters():
        owner, _, last = name.rpartition(".")
        module = modules.get(owner)  # None: the converter leaves out modules that are not used
        if module is not None and last in module._buffers:
            delattr(module, last)
            module.register_parameter(last, nn.Parameter(parameter.detach(), parameter.requires_grad))
    return network


def _describe_reason(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    if "warnings above" in text:  # the message refers to warnings that `silence` hides
        return "it is broken, made by another version of torch, or calls operators that are not there"
    return make_printable(text.splitlines()[0], 160).rstrip(".: ")
