"""The head as a function from the pooled values to the logits, and the same function with an image's statistics frozen.

Where the head f is not affine, it often is for one image: a normalization layer divides by a number that it computes
from the image, and a ReLU masks values by their sign. With the statistics and the gates of the image frozen, this is a
function g with

    g[k](p) = g[k](0) + sum over j of  weight[k, j] * p[j]        for all p, and g = f at the image

so its value at 0 is the bias, and its values at the shares of the cells give the class maps. Nothing is differentiated.
Where g is not affine, its Jacobian gives a first-order split.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from inspector.errors import NetworkError, translate_errors
from inspector.explain.frozen_ops import FrozenOps
from inspector.explain.precision import call_widened, widen
from inspector.explain.tracing.forward import forward_with_pooled, match_parameters, noise_input
from inspector.explain.tracing.outputs import as_logits
from inspector.explain.tracing.recording import OpRecorder, OpRecording
from inspector.explain.tracing.tensor_calls import Handler, call_unchanged

_SEED = 4  # seed of the noise image on which the network runs where its pooled values are replaced
_MakeHandler = Callable[[], Handler]


@dataclass(frozen=True, eq=False)
class RecordedHead:
    """What a pass of the network called between the pooling and the logits."""

    ops: OpRecording | None  # None: it cannot be repeated without the network
    takes_rows: bool  # whether it computes each of several rows as if it were alone


class HeadRecording:
    """The last recording of a head. It is renewed where it no longer gives the network's logits."""

    def __init__(self, current: RecordedHead | None = None) -> None:
        self.current = current

    def __reduce__(self) -> tuple[type["HeadRecording"], tuple[()]]:
        # A copy of a recording would hold other parameters than the copy of the network, so a copy starts without.
        return HeadRecording, ()


@dataclass(frozen=True, eq=False)
class HeadFunction:
    """What a network computes from pooled values, those of all branches in one row. It does not depend on an image."""

    network: nn.Module
    shape: tuple[int, ...]  # (channels, H, W) of the images
    calls: tuple[int, ...]  # indices of the pooling calls, one per branch
    widths: tuple[int, ...]  # number of pooled values of each branch
    recorded: RecordedHead | None = None  # with it the network need not run again

    @cached_property
    def image(self) -> Tensor:
        """Noise (1, channels, H, W), on which the network runs where its pooled values are replaced."""
        return noise_input(self.network, (1, *self.shape), _SEED)

    def record(self, pooled: Tensor) -> tuple["HeadFunction", Tensor]:
        """Run the network with these pooled values (1, P) in place of its own, and record what follows the pooling.

        Returns:
            The function, and the logits (1, K).
        """
        recorder, parameter = OpRecorder(), match_parameters(self.network, pooled)
        with torch.no_grad():
            logits = forward_with_pooled(self.network, self.image, self._split_by_call(parameter), recorder=recorder)
        return self.with_ops(recorder.recording(logits), pooled), logits

    def with_ops(self, ops: OpRecording | None, pooled: Tensor) -> "HeadFunction":
        """Return the function with other recorded ops; `pooled` (1, P) are values on which to try them."""
        if ops is None or ops.has_fixed_rows:
            return replace(self, recorded=RecordedHead(ops, takes_rows=ops is None))
        function = replace(self, recorded=RecordedHead(ops, takes_rows=True))
        # Some heads take the number of rows from the recorded pass, where it is one.
        rows = widen(pooled) * torch.tensor([1.0, 1.25, 0.75], device=pooled.device)[:, None]
        try:
            together = function.widened_logits(rows)
            alone = torch.cat([function.widened_logits(row) for row in rows.split(1)])
            takes_rows = torch.allclose(together, alone, rtol=1e-3, atol=1e-4 * float(alone.abs().max()))
        except NetworkError:
            takes_rows = False
        return replace(self, recorded=RecordedHead(ops, takes_rows))

    def evaluate(self, pooled: Tensor, make_handler: _MakeHandler = lambda: call_unchanged) -> Tensor:
        """Compute the logits (R, K) of pooled values (R, P), with gradients.

        Args:
            pooled: (R, P).
            make_handler: makes the handler that calls each tensor function of a pass.
        """
        if self.recorded is not None and self.recorded.ops is not None:
            if self.recorded.takes_rows or len(pooled) == 1:
                return self._replay(self.recorded.ops, pooled, make_handler())
            return torch.cat([self._replay(self.recorded.ops, row, make_handler()) for row in pooled.split(1)])
        try:
            logits = self._run_network(pooled, self.image, make_handler())
            if len(logits) == len(pooled):
                return logits
        except NetworkError:
            if len(pooled) == 1:
                raise
        # The network reshapes to the batch size of its input, so its input needs one image per row.
        return self._run_network(pooled, self.image.expand(len(pooled), *self.shape), make_handler())

    def _replay(self, ops: OpRecording, pooled: Tensor, handler: Handler) -> Tensor:
        with translate_errors(NetworkError, f"The head does not run on {len(pooled)} rows: {{reason}}."):
            return as_logits(ops.replay(self._split_by_call(pooled), handler), len(pooled))

    def _run_network(self, pooled: Tensor, inputs: Tensor, handler: Handler) -> Tensor:
        return forward_with_pooled(self.network, inputs, self._split_by_call(pooled), handler)

    def _split_by_call(self, pooled: Tensor) -> dict[int, Tensor]:
        return dict(zip(self.calls, pooled.split(self.widths, 1), strict=True))

    def logits(self, pooled: Tensor) -> Tensor:
        """Compute the logits (R, K) of pooled values (R, P), without gradients and as the network does."""
        with torch.no_grad():
            return self.evaluate(pooled)

    def widened_logits(self, pooled: Tensor) -> Tensor:
        """Compute the logits (R, K) of pooled values (R, P) in the type of the pooled values, without gradients."""
        with torch.no_grad():
            return self.evaluate_widened(pooled)

    def evaluate_widened(self, pooled: Tensor) -> Tensor:
        """Compute the logits (R, K) of pooled values (R, P) in the type of the pooled values, with gradients.

        A head that runs in another library may take its own type only, and returns logits of that type.
        """
        try:
            return self.evaluate(pooled, lambda: call_widened)
        except NetworkError:
            if self.recorded is not None and self.recorded.ops is not None:
                raise
            return self.evaluate(match_parameters(self.network, pooled.float()))

    def convert_constants(self, dtype: torch.dtype) -> "HeadFunction":
        """Return the function with its parameters in a floating-point type, for many evaluations in this type."""
        if self.recorded is None or self.recorded.ops is None:
            return self
        return replace(self, recorded=replace(self.recorded, ops=self.recorded.ops.convert_constants(dtype)))

    def jacobian(self, pooled: Tensor) -> Tensor:
        """Compute d logits / d pooled, (K, P), at pooled values (1, P), in their type and with nothing frozen."""
        classes = self.widened_logits(pooled).shape[1]
        return FrozenHead(self, pooled, None).jacobian(range(classes))

    def freeze(self, pooled: Tensor) -> "FrozenHead":
        """Return the head with the statistics and gates of pooled values (1, P) frozen, in the type of the values.

        Without a recording nothing can be frozen.
        """
        pooled = pooled.detach()
        if self.recorded is None or self.recorded.ops is None:
            return FrozenHead(self, pooled, None)
        first = FrozenOps()
        try:
            with torch.no_grad():
                self.evaluate(pooled, lambda: first)
        except NetworkError:  # a function is called in a way that is not known
            return FrozenHead(self, pooled, None)
        return FrozenHead(self, pooled, first)


@dataclass(frozen=True, eq=False)
class FrozenHead:
    """The head with the statistics and gates of one image frozen."""

    function: HeadFunction
    pooled: Tensor  # (1, P), of the image
    ops: FrozenOps | None  # what is frozen; None: nothing

    def evaluate(self, rows: Tensor) -> Tensor:
        """Compute the logits (R, K) of pooled values (R, P), with gradients."""
        ops = self.ops
        return self.function.evaluate_widened(rows) if ops is None else self.function.evaluate(rows, ops.reuse)

    def logits(self, rows: Tensor) -> Tensor:
        """Compute the logits (R, K) of pooled values (R, P), without gradients."""
        with torch.no_grad():
            return self.evaluate(rows)

    def jacobian(self, classes: Sequence[int]) -> Tensor:
        """Compute d logits / d pooled of some classes at the pooled values of the image: (len(classes), P)."""
        with torch.inference_mode(False), torch.enable_grad():
            # One row per class, so that one backward pass computes all gradients. (torch's own batched gradients import
            # sympy, which takes a second.)
            rows = self.pooled.repeat(len(classes), 1).requires_grad_()
            if self.function.recorded is None or self.function.recorded.takes_rows:
                try:
                    logits = self.evaluate(rows)
                    if len(logits) == len(classes):
                        own = torch.tensor(list(classes), device=logits.device)[:, None]
                        return _differentiate(logits.gather(1, own).sum(), rows)
                except NetworkError:
                    pass
            row = self.pooled.clone().requires_grad_()
            logits = self.evaluate(row)[0]
            return torch.cat([_differentiate(logits[k], row) for k in classes])

    def products(self, changes: Tensor) -> Tensor:
        """Compute products of the Jacobian J at the pooled values of the image with some changes of these values.

        Reverse mode is applied twice: g(u) = J^T u is linear in u, so the gradient of <g(u), change> with respect to u
        is J change. It belongs to the thread; torch's forward mode is process-wide, and fails where two threads use it.

        Args:
            changes: (R, P).

        Returns:
            Tensor (R, K).
        """
        with torch.inference_mode(False), torch.enable_grad():
            rows = self.pooled.repeat(len(changes), 1).requires_grad_()
            logits = self.evaluate(rows)
            if not logits.requires_grad:
                return torch.zeros_like(logits)
            directions = torch.zeros_like(logits, requires_grad=True)
            try:
                (gradient,) = torch.autograd.grad(logits, rows, directions, create_graph=True)
                if not gradient.requires_grad:
                    return torch.zeros_like(logits)
                (products,) = torch.autograd.grad(gradient, directions, changes.detach().clone())
                return products
            except RuntimeError:  # a function that can be differentiated once only
                return changes @ self.jacobian(range(logits.shape[1])).T


def _differentiate(value: Tensor, leaf: Tensor) -> Tensor:
    if not value.requires_grad:
        return torch.zeros_like(leaf)
    gradient = torch.autograd.grad(value, leaf, retain_graph=True, allow_unused=True)[0]
    return torch.zeros_like(leaf) if gradient is None else gradient
