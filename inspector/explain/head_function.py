"""The head as a function from the pooled values to the logits.

Where this function is not affine, it often is for one image: a normalization layer divides by a number that it computes
from the image, and a ReLU masks values by their sign. With the statistics and the ReLU masks of the image frozen,

    logit[k] = bias[k] + sum over j of  weight[k, j] * p[j],    weight = d logit / d p  with the statistics frozen

The weight with frozen ReLU masks is the gradient of a piecewise affine function.
"""

import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from inspector.errors import NetworkError
from inspector.explain.frozen_ops import call_frozen
from inspector.explain.tracing.forward import forward_with_pooled, replay_recording
from inspector.explain.tracing.recording import OpRecording
from inspector.explain.tracing.tensor_calls import Handler, call_unchanged


@dataclass(frozen=True, eq=False)
class HeadFunction:
    """What a network computes from the pooled values of one image. The pooled values of all branches are one row."""

    network: nn.Module
    inputs: Tensor  # (1, channels, H, W)
    calls: tuple[int, ...]  # indices of the pooling calls, one per branch
    widths: tuple[int, ...]  # number of pooled values of each branch
    # The ops of a pass of the unchanged network; with it the network need not run again.
    recording: OpRecording | None = None

    def evaluate(self, pooled: Tensor, handler: Handler = call_unchanged) -> Tensor:
        """Compute the logits (R, K) of pooled values (R, P), with gradients; `handler` calls each tensor function."""
        if self.recording is not None:
            # Some heads only support the number of rows of the recorded pass. Then the network runs again.
            with suppress(NetworkError):
                return replay_recording(self.recording, self._split_by_call(pooled), handler)
        try:
            logits = self._run_network(pooled, self.inputs, handler)
            if len(logits) == len(pooled):
                return logits
        except NetworkError:
            if len(pooled) == 1:
                raise
        # The network reshapes to the batch size of its input, so its input needs one image per row.
        return self._run_network(pooled, self.inputs.expand(len(pooled), *self.inputs.shape[1:]), handler)

    def _run_network(self, pooled: Tensor, inputs: Tensor, handler: Handler) -> Tensor:
        return forward_with_pooled(self.network, inputs, self._split_by_call(pooled), handler)

    def _split_by_call(self, pooled: Tensor) -> dict[int, Tensor]:
        return dict(zip(self.calls, pooled.split(self.widths, 1), strict=True))

    def logits(self, pooled: Tensor) -> Tensor:
        """Compute the logits (R, K) of pooled values (R, P), without gradients."""
        with torch.no_grad():
            return self.evaluate(pooled)

    def jacobian(self, pooled: Tensor) -> Tensor:
        """Compute d logits / d pooled, (K, P), at pooled values (1, P), with nothing frozen."""
        classes = self.logits(pooled).shape[1]
        with torch.inference_mode(False), torch.enable_grad():
            # One row per class, so that one backward pass computes all gradients. (torch's own batched gradients import
            # sympy, which takes a second.)
            rows = pooled.repeat(classes, 1).requires_grad_()
            try:
                logits = self._run_network(rows, self.inputs, call_unchanged)
                if logits.shape == (classes, classes):
                    return torch.autograd.grad(logits.diagonal().sum(), rows)[0]
            except NetworkError:
                pass
        return self._compute_gradients(pooled, range(classes), call_unchanged)

    def frozen_jacobian_rows(self, pooled: Tensor, classes: Sequence[int]) -> Tensor:
        """Compute d logit / d pooled of some classes at pooled values (1, P), with the statistics frozen.

        Returns:
            Tensor (len(classes), P).
        """
        return self._compute_gradients(pooled, classes, call_frozen)

    def _compute_gradients(self, pooled: Tensor, classes: Sequence[int], handler: Handler) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            row = pooled.detach().clone().requires_grad_()
            logits = self.evaluate(row, handler)[0]
            return torch.cat([torch.autograd.grad(logits[k], row, retain_graph=True)[0] for k in classes])

    def frozen_jvp(self, pooled: Tensor, changes: Tensor) -> tuple[Tensor, Tensor]:
        """Compute logits, and Jacobian-vector products by forward-mode differentiation.

        Normalization statistics are constants (see `call_frozen`): those of the first row are used for all rows. One
        row costs one pass through the head. Everything runs in double precision if the pooled values are double.

        Args:
            pooled: pooled values (R, P).
            changes: a change of each row (R, P).

        Returns:
            The logits (R, K), and their first-order changes (R, K).
        """
        _import_forward_mode()
        try:
            with torch.inference_mode(False), torch.no_grad(), forward_ad.dual_level():
                dual = forward_ad.make_dual(pooled.clone(), changes.clone())
                logits, changed = forward_ad.unpack_dual(self.evaluate(dual, call_frozen))
                return logits.clone(), torch.zeros_like(logits) if changed is None else changed.clone()
        except NetworkError:  # for example a user's autograd.Function without forward mode
            with torch.no_grad():
                logits = self.evaluate(pooled, call_frozen)
            weight = self._compute_gradients(pooled[:1], range(logits.shape[1]), call_frozen)
            return logits, changes @ weight.T


@cache
def _import_forward_mode() -> None:
    # The first dual tensor makes torch import a module that warns of a deprecation which users can do nothing about.
    with warnings.catch_warnings(action="ignore", category=FutureWarning), forward_ad.dual_level():
        forward_ad.make_dual(torch.zeros(1), torch.zeros(1))
