"""Load a state dict into a network, wherever the weights are in it, and say what does not fit."""

import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from inspector.errors import NetworkError
from inspector.networks.fit_state import Fit, find_fit
from inspector.printable import make_printable

_HEAD = re.compile(r"_?(last_)?(fc|classif(ier)?|heads?|linear|logits?|out|output|cls|predictions?)_?\d*")


def count_classes(state: Mapping[str, Tensor]) -> int | None:
    """Guess the number of classes: the output size of the last fully connected layer, chosen by name and order.

    A wrong guess does no harm: `load_weights` raises an error if the shapes do not fit.
    """
    names = [name for name, tensor in state.items() if _is_matrix(name, tensor)]
    if names == sorted(names):  # safetensors sorts alphabetically, so bring numbered layers into order
        names.sort(key=lambda name: [part.zfill(6) if part.isdigit() else part for part in name.split(".")])
    depths = {name: depth for name in names if (depth := _find_head_depth(name)) is not None}
    heads = [name for name, depth in depths.items() if depth == min(depths.values())]
    # Prefer linear layers: if there are both, 1x1 convolutions come before the pooling and are not the last layer.
    chosen = [name for name in heads if state[name].ndim == 2] or heads or names
    return state[chosen[-1]].shape[0] if chosen else None


def load_weights(state: Mapping[str, Tensor], network: nn.Module, name: str, path: Path | None = None) -> Fit:
    """Write weights into a network. If any is missing, unexpected or of another shape, no weight is written.

    The weights are found wherever they are among the tensors, as by `find_fit`.

    Args:
        state: tensors by parameter name.
        network: the network that receives the weights.
        name: name of the architecture, for error messages.
        path: file of the weights, for error messages.

    Returns:
        Where the weights were found, and what was ignored.

    Raises:
        NetworkError: the weights do not fit, or contain values that are not finite.
    """
    fit = find_fit({"": dict(state)}, network.state_dict())
    check_fit(fit, network.state_dict(), name, path)
    write_weights(fit.state, network, path)
    return fit


def check_fit(fit: Fit, expected: Mapping[str, Tensor], name: str, path: Path | None = None) -> None:
    """Raise NetworkError if weights are missing, unexpected or of another shape.

    Args:
        fit: the weights that were found.
        expected: the network's own state dict; only names, shapes and kinds of numbers matter.
        name: name of the architecture, for error messages.
        path: file of the weights, for error messages.
    """
    for problem, names in _find_misfits(expected, fit.state).items():
        if names:
            misfit = f"they {problem} {list_some(names)}{_describe_shapes(expected, fit.state, names[0])}"
            raise NetworkError(f"{_describe_place(fit, path)} do not fit {name}'s architecture: {misfit}.")


def write_weights(state: Mapping[str, Tensor], network: nn.Module, path: Path | None = None) -> None:
    """Write weights that fit into a network.

    Raises:
        NetworkError: the weights contain values that are not finite.
    """
    expected = network.state_dict()
    # Take missing batch counters (num_batches_tracked) from the network: old checkpoints have none.
    complete = OrderedDict((key, state.get(key, tensor).to(tensor.dtype)) for key, tensor in expected.items())
    # Some networks have infinite values on purpose (a mask): report only tensors that are finite in the network itself.
    broken = [key for key, tensor in complete.items() if not _is_finite(tensor) and _is_finite(expected[key])]
    if broken:
        hint = "The training diverged: take an earlier checkpoint."
        weights = f"The weights at {path}" if path else "The weights"
        raise NetworkError(f"{weights} hold values that are NaN or infinite, in {list_some(broken)}. {hint}")
    # Some layers read their version from the weights. safetensors stores none, but the shapes agree: use the network's.
    complete._metadata = getattr(expected, "_metadata", {})  # type: ignore[attr-defined]
    network.load_state_dict(complete)


def describe_fit(fit: Fit) -> tuple[str, ...]:
    """Say in sentences where in a file the weights were found and what lies beside them; nothing if that is plain."""
    notes = []
    if fit.place and (fit.ignored or fit.copies):
        notes.append(f"The weights were found at {fit.place}.")
    if fit.copies:
        notes.append(f"Weights that fit as well were not used: {list_some(fit.copies)}.")
    if beside := [name for name in fit.ignored if not name.startswith(tuple(_list_prefixes(fit.copies)))]:
        notes.append(f"Not part of the network: {list_some(beside)}.")
    return tuple(notes)


def _list_prefixes(places: Sequence[str]) -> list[str]:
    return [place.rpartition(", ")[2].removesuffix("*") for place in places if place.endswith("*")]


def _describe_place(fit: Fit, path: Path | None) -> str:
    place = f" ({make_printable(fit.place, 80)})" if fit.place else ""
    return f"The weights at {path}{place}" if path else "The weights"


def _is_matrix(name: str, tensor: Tensor) -> bool:
    last = name.rpartition(".")[2]
    spare = any(part.startswith(("aux", "AuxLogits", "head_dist", "pre_")) for part in name.split("."))
    return last == "weight" and not spare and (tensor.ndim == 2 or (tensor.ndim == 4 and tensor.shape[2:] == (1, 1)))


def _find_head_depth(name: str) -> int | None:
    """Return the index of the first part of a dotted name that can name a head; None if there is none."""
    return next((depth for depth, part in enumerate(name.split(".")) if _HEAD.fullmatch(part)), None)


def _find_misfits(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, list[str]]:
    shared = [name for name in expected if name in state]
    kinds = {name: (expected[name].is_floating_point(), state[name].is_floating_point()) for name in shared}
    return {
        "lack": sorted(name for name in expected.keys() - state.keys() if not name.endswith("num_batches_tracked")),
        "also have": sorted(state.keys() - expected.keys()),
        "have another shape for": [name for name in shared if expected[name].shape != state[name].shape],
        "have another kind of number for": [name for name, (wanted, got) in kinds.items() if wanted != got],
    }


def _describe_shapes(expected: Mapping[str, Tensor], state: Mapping[str, Tensor], name: str) -> str:
    if name not in expected or name not in state or expected[name].shape == state[name].shape:
        return ""
    got, wanted = (make_printable(str(tuple(tensors[name].shape)), 30) for tensors in (state, expected))
    return f" ({make_printable(name, 60)} is {got} and should be {wanted})"


def _is_finite(tensor: Tensor) -> bool:
    # Faster than isfinite, which allocates a mask; aminmax returns NaN if any value is NaN.
    return tensor.numel() == 0 or all(bound.isfinite() for bound in tensor.aminmax())


def list_some(names: Sequence[str]) -> str:
    """Return the first three names of a list and the number of the others, printable."""
    return ", ".join(make_printable(name, 60) for name in names[:3]) + (
        f" and {len(names) - 3} more" if len(names) > 3 else ""
    )
