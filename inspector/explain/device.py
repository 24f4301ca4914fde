"""Find the device that a network runs on."""

import torch

from inspector.errors import InspectorError, NetworkError


def find_device(device: str | torch.device, error: type[InspectorError] = NetworkError) -> torch.device:
    """Return a device of this machine.

    Args:
        device: "cpu", "cuda", "cuda:1" for the second GPU, "mps", or "auto" for a CUDA GPU if there is one.
        error: class of the error to raise.

    Raises:
        InspectorError: the name is unknown, or this machine has no such device. The error has the class ``error``.
    """
    name = str(device)
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, colon, number = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (colon and not (kind == "cuda" and number.isdecimal())):
        raise error(f"Expected auto, cpu, cuda, cuda:1 or mps as device, got {name!r}.")
    count = torch.cuda.device_count()
    if kind == "cuda" and int(number or 0) >= count:
        found = "no GPU" if count == 0 else "one GPU" if count == 1 else f"{count} GPUs"
        raise error(f"The device is {name!r}, but torch finds {found} on this machine. Use cpu or auto.")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise error("The device is 'mps', but torch finds no GPU of Apple on this machine. Use cpu or auto.")
    return torch.device(name)
