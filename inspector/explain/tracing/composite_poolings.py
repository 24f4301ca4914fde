"""Follow poolings that take several calls, as one function of the feature maps before the first.

    partial    x.mean(3).amax(2), x.max(3)[0].max(2)[0], x.flatten(2).topk(5).values.mean(2)
    powers     x.clamp(min=eps).pow(p).mean((2, 3)).pow(1 / p): generalized mean, in any spelling of its powers

In a partial pooling, no single call takes feature maps to one value per channel. A generalized mean is an average of
powers followed by a root. Split as one function of x it has shares that sum to its value, since it is homogeneous; the
root alone, in the head, would be nonlinear.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from inspector.explain.tracing.tensor_calls import TensorNotes, count_writes, has_indices, leave_inference_mode, op_name

_POWERS = ("pow", "__pow__", "pow_", "float_power", "square", "sqrt", "sqrt_", "exp", "log")
_PRODUCTS = ("mul", "__mul__", "multiply")
_MOST_STEPS = 12


@dataclass(frozen=True, eq=False)
class Composite:
    """A tensor as a function of feature maps."""

    maps: Tensor
    writes: int  # count of the writes into the maps when they were first read
    apply: Callable[[Tensor], Tensor]  # maps of this shape -> tensor
    steps: int = 1

    @property
    def is_valid(self) -> bool:
        """Whether the maps still have the values that were read."""
        return count_writes(self.maps) == self.writes


class CompositePoolings:
    """Follows, in one pass, what is computed from feature maps in several calls."""

    def __init__(self) -> None:
        self._partial = TensorNotes[Composite]()
        self._powers = TensorNotes[Composite]()

    def find(self, call: "TensorCall", is_pooled: bool) -> list[Composite]:
        """Return the functions of feature maps that a call may complete: several calls first, then the call alone."""
        if is_pooled:
            # A root of what was pooled completes a generalized mean.
            composed = call.compose(self._powers) if op_name(call.function) in _POWERS else None
            return [composed] if composed is not None and composed.is_valid else []
        found = []
        composed = call.compose(self._partial)
        if composed is not None and composed.is_valid:
            found.append(composed)
        return found + [call.as_function_of(tensor) for tensor in call.variable if tensor.ndim in (3, 4)]

    def note(self, call: "TensorCall", result: Tensor, is_pooled: bool, is_pooling: bool) -> None:
        """Note what was computed from feature maps by a call, if it is part of a pooling."""
        (*_, source) = call.variable
        powers = call.compose(self._powers)
        if powers is None and not is_pooled and source.ndim in (3, 4) and call.is_power():
            powers = call.as_function_of(source)
        if powers is not None and powers.steps <= _MOST_STEPS:
            self._powers[result] = powers
        if is_pooled or is_pooling:
            return
        partial = None if call.has_weights and result.shape[-1] > 1 else call.compose(self._partial)
        if partial is None and call.is_of_one_tensor and _may_be_partial(source, result, has_indices(call.output)):
            partial = call.as_function_of(source)
        if partial is not None and partial.steps <= _MOST_STEPS:
            self._partial[result] = partial


@dataclass(frozen=True, eq=False)
class TensorCall:
    """One call of a tensor function, and what it returned."""

    function: Callable[..., Any]
    args: Sequence[Any]
    kwargs: dict[str, Any]
    output: Any
    variable: Sequence[Tensor]  # the arguments that depend on the image; at least one

    @property
    def is_of_one_tensor(self) -> bool:
        """Whether no more than one tensor that depends on the image is an argument."""
        return all(tensor is self.variable[0] for tensor in self.variable)

    @property
    def has_weights(self) -> bool:
        """Whether it has a matrix of parameters, as linear layers have: then it may mix channels."""
        return any(isinstance(one, nn.Parameter) and one.ndim > 1 for one in (*self.args, *self.kwargs.values()))

    def is_power(self) -> bool:
        """Tell whether this is a power of one tensor, such as x ** 2 or x * x."""
        name = op_name(self.function)
        is_square = name in _PRODUCTS and len(self.variable) == 2
        return self.is_of_one_tensor and (name in _POWERS or is_square)

    def as_function_of(self, tensor: Tensor) -> Composite:
        """Return the result as a function of one argument; all other arguments are constant."""
        return Composite(tensor, count_writes(tensor), self._as_function({id(tensor): lambda maps: maps}))

    def compose(self, notes: TensorNotes[Composite]) -> Composite | None:
        """Return the result as a function of the maps that its arguments are noted to be functions of.

        None if the arguments are functions of other things too. Of several arguments all must have one shape: a
        product with a statistic of the same maps is no power.
        """
        noted = [notes.get(tensor) for tensor in self.variable]
        first = next((one for one in noted if one is not None), None)
        if first is None or (not self.is_of_one_tensor and op_name(self.function) not in _PRODUCTS):
            return None
        functions: dict[int, Callable[[Tensor], Tensor]] = {}
        for tensor, one in zip(self.variable, noted, strict=True):
            if tensor.shape != self.variable[0].shape:
                return None
            if tensor is first.maps:
                functions[id(tensor)] = lambda maps: maps
            elif one is None or one.maps is not first.maps:
                return None
            else:
                functions[id(tensor)] = one.apply
        steps = 1 + max(one.steps for one in noted if one is not None)
        return Composite(first.maps, first.writes, self._as_function(functions), steps)

    def _as_function(self, functions: dict[int, Callable[[Tensor], Tensor]]) -> Callable[[Tensor], Tensor]:
        leaves, spec = pytree.tree_flatten((tuple(self.args), self.kwargs))
        # Without the tensors that are replaced, which therefore need not be kept.
        replaced = [functions.get(id(leaf)) for leaf in leaves]
        constants = [leaf if one is None else None for leaf, one in zip(leaves, replaced, strict=True)]
        function = self.function

        def apply(maps: Tensor) -> Tensor:
            values = [
                leave_inference_mode(c) if one is None else one(maps)
                for c, one in zip(constants, replaced, strict=True)
            ]
            args, kwargs = pytree.tree_unflatten(values, spec)
            output = function(*args, **kwargs)
            result: Tensor = output if isinstance(output, Tensor) else output[0]
            return result

        return apply


def _may_be_partial(source: Tensor, result: Tensor, with_indices: bool) -> bool:
    """Tell whether maps (N, a, b, c) were reduced along one axis, or their cells were chosen or sorted along one."""
    before, after = source.shape, result.shape
    if before[:1] != after[:1] or source.ndim not in (3, 4):
        return False
    if with_indices and len(before) == len(after):
        # Of sorted cells, or of the largest k, at most one axis has another length. Max pooling changes two.
        return sum(one != other for one, other in zip(before, after, strict=True)) <= 1
    if source.ndim != 4 or result.numel() >= source.numel():
        return False
    a, b, c = before[1:]
    return tuple(after[1:]) in ((a, b), (a, c), (b, c), (a, b, 1), (a, 1, c))
