"""Which output of a network holds its logits.

A network may return one tensor, or several: in a tuple, a list, a mapping, a dataclass, or one inside the other. Each
tensor has a name: its index or key, and a dotted path where containers are nested, such as "heads.age" or "1.logits".
"""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor

from inspector.errors import NetworkError

LOGITS_NAMES = ("logits", "out", "output", "preds")  # keys by which libraries name the logits, the most specific first
HOW_TO_CHOOSE = "Choose one by its name or index: output=... in Python, --output on the command line"
_DEEPEST = 8  # containers inside one another; more of them may be a circle


def list_outputs(output: Any, _depth: int = 0) -> dict[str, Tensor]:
    """Return all tensors in a network's output by their names; "" is the name of an output that is one tensor."""
    if isinstance(output, Tensor):
        return {"": output}
    found: dict[str, Tensor] = {}
    for key, part in _open_container(output).items() if _depth < _DEEPEST else ():
        found |= {f"{key}.{name}".rstrip("."): tensor for name, tensor in list_outputs(part, _depth + 1).items()}
    return found


def _open_container(value: Any) -> dict[str, Any]:
    """Return what a container holds, by key, field or index; nothing for any other value."""
    if isinstance(value, Mapping):
        return {str(key): part for key, part in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name, None) for field in fields(value)}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return dict(zip(value._fields, value, strict=True))
    if isinstance(value, tuple | list):
        return {str(n): part for n, part in enumerate(value)}
    return dict(getattr(value, "__dict__", {}))


def describe_outputs(output: Any) -> str:
    """List the tensors in a network's output with their shapes, as text: "'0' (1, 16), '1' (1, 4)"."""
    outputs = list_outputs(output)
    if not outputs or "" in outputs:
        return str(tuple(output.shape)) if isinstance(output, Tensor) else type(output).__name__
    return ", ".join(f"{name!r} {tuple(tensor.shape)}" for name, tensor in outputs.items())


def find_output_name(output: Any, wanted: str | int) -> str:
    """Find the name of an output by its name, by the container that holds it alone, or by its index.

    Raises:
        NetworkError: the network has no such output.
    """
    outputs, text = list_outputs(output), str(wanted)
    inside = [name for name in outputs if name.startswith(f"{text}.")]
    if text in outputs:
        return text
    if len(inside) == 1:
        return inside[0]
    if not inside and text.lstrip("-").isdecimal() and -len(outputs) <= int(text) < len(outputs):
        return list(outputs)[int(text)]
    problem = f"Output {text!r} of the network holds {len(inside)} tensors" if inside else f"No output {text!r}"
    raise NetworkError(f"{problem}. The network returns {describe_outputs(output)}. {HOW_TO_CHOOSE}.")


def pick_output(output: Any) -> Any:
    """Return the one tensor that can be the logits; the output as it is where there is none, or more than one."""
    outputs = list_outputs(output)
    named = [outputs[name] for name in LOGITS_NAMES if name in outputs]
    possible = [outputs[name] for name in list_possible_logits(outputs)]
    if named or len(possible) == 1:
        return (named or possible)[0]
    return next(iter(outputs.values())) if len(outputs) == 1 else output


def list_possible_logits(outputs: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the outputs that have the shape of logits."""
    return [name for name, tensor in outputs.items() if _may_be_logits(tensor)]


def _may_be_logits(tensor: Tensor) -> bool:
    """Tell whether a tensor has the shape (N, K), (N, K, 1, 1) or (N,)."""
    if not tensor.is_floating_point() or tensor.ndim == 0:
        return False
    return tensor.ndim == 1 or tensor[:1].numel() == tensor.shape[1]


def as_logits(output: Any, rows: int) -> Tensor:
    """Return a network's output as logits (rows, K).

    Raises:
        NetworkError: it is something else, or several of its tensors may be the logits.
    """
    output = pick_output(output)
    if isinstance(output, Tensor):
        # A single logit per image often comes without an axis of its own, and a single image without the first axis.
        if output.ndim == 1 and len(output) == rows:
            return output[:, None]
        if output.ndim < 2 and rows == 1:
            return output.reshape(1, -1)
        if output.ndim >= 2 and output[:1].numel() == output.shape[1] > 0 and len(output) == rows:
            return output.flatten(1)
    several = len(list_possible_logits(list_outputs(output))) > 1
    hint = f" {HOW_TO_CHOOSE}." if several else ""
    got = describe_outputs(output)
    raise NetworkError(f"A classifier returns logits of shape (N, classes); this network returned {got}.{hint}")
