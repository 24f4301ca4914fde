"""Networks that are programs: files of torch.export (.pt2) and TorchScript, which run the code that is in them."""

import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from inspector.errors import NetworkError
from inspector.explain.tracing.forward import match_parameters
from inspector.networks.checkpoint import Kind, make_printable


def read_torch_program(path: Path, kind: Kind, example_shape: tuple[int, int, int], trust: bool) -> nn.Module:
    """The network in such a file, as a module whose calls of tensor functions are seen.

    Loading it may run code that the file brings along: only with `trust`. A TorchScript file is first made into an
    exported program with an example of this shape (channels, H, W), for its interpreter shows no calls.
    """
    if not trust:
        raise NetworkError(
            f"{path} is a program ({kind}), and to load it may run code that is in it. If you trust whoever made it, "
            "say so with --trust (trust=True in Python); a state dict or an ONNX file needs no trust."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what torch itself uses and calls deprecated
            if kind == "torch.export":
                logging.getLogger("torch.export").setLevel(logging.ERROR)  # it warns with whole tracebacks
                return torch.export.load(path).module()
            return _exported(torch.jit.load(path, map_location="cpu"), example_shape)
    except Exception as error:  # anything, for it is the file's own code
        raise NetworkError(f"{path} cannot be loaded as {kind}: {_reason(error)}.") from error


def _exported(script: Any, example_shape: tuple[int, int, int]) -> nn.Module:
    from torch._export.converter import TS2EPConverter

    logging.getLogger("torch._export").setLevel(logging.ERROR)
    script.eval()
    # Two images: of one the exporter would make a constant.
    converter: Any = TS2EPConverter(script, (match_parameters(script, torch.zeros(2, *example_shape)),))
    network: nn.Module = converter.convert().module()
    # The converter makes buffers of the parameters, and a network without any has no dtype and no device.
    for name, parameter in script.named_parameters():
        place, _, last = name.rpartition(".")
        try:
            module = network.get_submodule(place)
        except AttributeError:  # unused, so it was left out
            continue
        if last in module._buffers:
            delattr(module, last)
            module.register_parameter(last, nn.Parameter(parameter.detach(), parameter.requires_grad))
    return network


def _reason(error: Exception) -> str:
    said = str(error).strip() or type(error).__name__
    if "warnings above" in said:  # which are not shown
        return "it is broken, made by another version of torch, or calls operators that are not there"
    return make_printable(said.splitlines()[0], 160).rstrip(".: ")
