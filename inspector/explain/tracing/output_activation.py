"""Find the logits of a network that returns probabilities, however it computes them.

`forward.py` sees softmax and sigmoid where they are called by their names. Other spellings, such as
`1 / (1 + exp(-x))` or `x.exp() / x.exp().sum(1)`, are found by number: the outputs are probabilities, and softmax or
sigmoid of a tensor that the network computed before gives the same numbers on several noise images.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args

import torch
from torch import Tensor, nn

from inspector.errors import NetworkError
from inspector.explain.kinds import OutputActivation
from inspector.explain.tracing.chosen_output import OutputAdapter
from inspector.explain.tracing.forward import eval_mode, find_output_activation, forward
from inspector.explain.tracing.tensor_calls import TensorCallMode, count_writes, op_name

_SCALES = (1.0, 0.1, -1.0, 10.0, -100.0, 0.0)  # of the noise images; large ones often saturate softmax and sigmoid
_UNSATURATED = 0.01  # probabilities nearer to 0 or 1 do not show which tensor is the logits: 2 z fits as well as z
# Functions whose results lie in 0-1 by construction.
_BOUNDED = {"softmax", "sigmoid", "sigmoid_", "special_expit", "hardsigmoid", "clamp", "clip", "clamp_", "hardtanh"}


@dataclass(frozen=True)
class _Rule:
    """How logits follow from a tensor z of the network."""

    activation: OutputActivation
    logits: Callable[[Tensor], Tensor]  # z (N, K) or (N, 1) -> logits (N, K)


def _keep(z: Tensor) -> Tensor:
    return z


def _put_zero_before(z: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(z), z], 1)


def _put_zero_after(z: Tensor) -> Tensor:
    return torch.cat([z, torch.zeros_like(z)], 1)


# A network of two classes may return 1 - p and p of one sigmoid: these are the softmax of 0 and z.
_RULES = (
    _Rule("softmax", _keep),
    _Rule("softmax", _put_zero_before),
    _Rule("softmax", _put_zero_after),
    _Rule("sigmoid", _keep),
    _Rule("sigmoid", torch.neg),
)
_ACTIVATIONS: Mapping[OutputActivation, Callable[[Tensor], Tensor]] = {
    "softmax": partial(torch.softmax, dim=1),
    "sigmoid": torch.sigmoid,
}

_Key = tuple[torch.Size, int]  # shape without the number of images; number of earlier results of this shape in the pass


class TracedLogits(OutputAdapter):
    """A network that returns probabilities, as a module that returns the logits that they are computed from."""

    def __init__(self, network: nn.Module, key: _Key, rule: _Rule, is_overwritten: bool) -> None:
        super().__init__(network)
        self._key, self._rule, self._is_overwritten = key, rule, is_overwritten

    def forward(self, inputs: Tensor) -> Tensor:
        """Run the network and return its logits (N, K)."""
        found: list[Tensor] = []

        def keep(key: _Key, name: str, result: Tensor) -> None:
            if key == self._key:
                # A clone where the network writes into this tensor later, as in `logits.exp_()`.
                found.append(result.clone() if self._is_overwritten else result)

        with TensorCallMode(_ResultCounter(keep)):
            self.network(inputs)
        if not found:
            raise NetworkError(
                f"The logits before the network's probabilities were not found for inputs of shape "
                f"{tuple(inputs.shape)}."
            )
        return self._rule.logits(found[0].flatten(1) if found[0].ndim > 1 else found[0].reshape(-1, 1))


class _ResultCounter:
    """A handler that passes every floating-point result of a pass on, with its key."""

    def __init__(self, on_result: Callable[[_Key, str, Tensor], None]) -> None:
        self._on_result = on_result
        self._counts: dict[torch.Size, int] = {}

    def __call__(self, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        result = function(*args, **kwargs)
        if isinstance(result, Tensor) and result.is_floating_point() and result.ndim:
            shape = result.shape[1:]
            self._counts[shape] = self._counts.get(shape, 0) + 1
            self._on_result((shape, self._counts[shape]), op_name(function), result)
        return result


@dataclass(frozen=True, eq=False)
class _Pass:
    """The output of one noise image, and all results that may be its logits."""

    output: Tensor  # (1, K), in double precision
    results: dict[_Key, Tensor]  # (1, K) or (1, 1), in double precision, in the order of the calls
    overwritten: set[_Key]  # results that the network changed later
    bounded: bool  # whether a result of this size lies in 0-1 by construction


class UnchangedOutput(OutputAdapter):
    """A network that ends in softmax or sigmoid, whose output is explained and not the logits before it."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Run the network and return its output, as the result of one more operation."""
        output: Tensor = self.network(inputs)
        return output + 0


def find_logits(
    network: nn.Module, example: Tensor, declared: OutputActivation | None = None
) -> tuple[nn.Module, OutputActivation | None]:
    """Return a module that returns the logits of a network, and the activation that turns them into probabilities.

    Args:
        network: a network that returns one tensor (N, K), or a module of `choose_output`.
        example: an input (1, channels, H, W).
        declared: what the user says about the output. "identity" and "none" mean that it is explained as it is.

    Returns:
        The module and the activation: None if the network returns logits and nothing is declared, "identity" if it
        returns probabilities that are neither softmax nor sigmoid of any tensor, such as the mean of two networks.

    Raises:
        NetworkError: the output is declared as logits, but holds such probabilities; or `declared` is another word.
    """
    if declared not in (None, *get_args(OutputActivation)):
        known = ", ".join(get_args(OutputActivation))
        raise NetworkError(f"probability is {declared!r}. Use one of {known}.")
    ending = find_output_activation(network, example)
    if declared in ("identity", "none"):
        return network if ending is None else UnchangedOutput(network), declared
    if ending is not None:
        return network, declared or ending
    module, found = _trace_logits(network, example)
    if found == "identity" and declared is not None:
        raise NetworkError(
            f"The network returns probabilities already, and not the logits that probability={declared!r} needs. Use "
            "probability='identity' for probabilities, or 'none' for other values."
        )
    return module, declared or found


def _trace_logits(network: nn.Module, example: Tensor) -> tuple[nn.Module, OutputActivation | None]:
    """Return the module and the activation as `find_logits` does, where no function is called by its usual name."""
    output, tolerance = forward(network, example), _tolerance(example)
    if not _are_probabilities(_undo_logarithm(output.double(), tolerance), tolerance):
        return network, None
    with torch.no_grad(), eval_mode(network):
        passes = [_run_pass(network, scale * example, output.shape[1]) for scale in _SCALES]
    outputs = torch.cat([one.output for one in passes])
    probabilities = _undo_logarithm(outputs, tolerance)
    if not _are_probabilities(probabilities, tolerance):
        return network, None
    is_simplex = _sum_to_one(probabilities, tolerance)
    rules = [rule for rule in _RULES if (rule.activation == "softmax") == is_simplex]
    keys = [key for key in passes[0].results if all(key in one.results for one in passes)]
    matches = [
        (key, rule)
        for key in keys
        for rule in rules
        if _gives(probabilities, torch.cat([one.results[key] for one in passes]), rule, tolerance)
    ]
    if matches:
        is_clear = ((probabilities > _UNSATURATED) & (probabilities < 1 - _UNSATURATED)).any()
        key, rule = matches[0 if is_clear else -1]
        return TracedLogits(network, key, rule, any(key in one.overwritten for one in passes)), rule.activation
    # The logits of a few noise images may lie in 0-1 by chance, but they do not sum to one.
    is_identity = is_simplex or (all(one.bounded for one in passes) and len(outputs.unique(dim=0)) > 1)
    return network, "identity" if is_identity else None


def _run_pass(network: nn.Module, inputs: Tensor, classes: int) -> _Pass:
    results: dict[_Key, Tensor] = {}
    kept: dict[_Key, tuple[Tensor, int]] = {}
    names: set[str] = set()

    def keep(key: _Key, name: str, result: Tensor) -> None:
        if result.numel() in (1, classes):
            results[key] = result.detach().double().reshape(1, -1)
            kept[key] = result, count_writes(result)
            names.add(name if result.numel() == classes else "")

    with TensorCallMode(_ResultCounter(keep)):
        output = forward(network, inputs).double()
    overwritten = {key for key, (result, writes) in kept.items() if count_writes(result) != writes}
    return _Pass(output, results, overwritten, bool(names & _BOUNDED))


def _tolerance(example: Tensor) -> float:
    """Return the allowed error of a probability: a clamp to 1e-6 from 0 and 1 counts as rounding."""
    return 1e-5 if example.dtype in (torch.float32, torch.float64) else 8 * torch.finfo(example.dtype).eps


def _undo_logarithm(outputs: Tensor, tolerance: float) -> Tensor:
    """Return the probabilities if the outputs (N, K) are their logarithms; else the outputs."""
    probabilities = outputs.exp()
    return probabilities if _sum_to_one(probabilities, tolerance) else outputs


def _are_probabilities(outputs: Tensor, tolerance: float) -> bool:
    return bool(((outputs >= -tolerance) & (outputs <= 1 + tolerance)).all())


def _sum_to_one(outputs: Tensor, tolerance: float) -> bool:
    return outputs.shape[1] > 1 and bool(((outputs.sum(1) - 1).abs() <= tolerance * outputs.shape[1] ** 0.5).all())


def _gives(outputs: Tensor, z: Tensor, rule: _Rule, tolerance: float) -> bool:
    """Tell whether an activation of the logits that follow from z is the output, for every noise image."""
    logits = rule.logits(z)
    if logits.shape != outputs.shape:
        return False
    return bool(((_ACTIVATIONS[rule.activation](logits) - outputs).abs() <= tolerance).all())
