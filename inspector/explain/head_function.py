"""What follows the pooling, as a function from the pooled values to the logits.

Where it is not affine, it often is for one image: a layer that normalises divides by a number that it reads from the
image, and a ReLU opens or closes a gate. With this image's numbers and gates held, the rest adds up:

    logit[k] = bias[k] + sum over j of  weight[k, j] * p[j],    weight = d logit / d p  with the statistics held

Held statistics are what layer-wise relevance propagation does with normalisations too (Ali et al., "XAI for
transformers", ICML 2022); held gates are the gradient of a piecewise affine function.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils import _pytree as pytree

from inspector.errors import NetworkError
from inspector.explain.tracing.forward import forward_with_pooled, replay_recording
from inspector.explain.tracing.recording import OpRecording
from inspector.explain.tracing.tensor_calls import Handler, call_unchanged, op_name


@dataclass(frozen=True, eq=False)
class HeadFunction:
    """What follows the pooling of one image."""

    network: nn.Module
    inputs: Tensor  # (1, channels, H, W)
    calls: tuple[int, ...]  # the reductions whose results go into it
    widths: tuple[int, ...]  # how many pooled values each of them gives
    recording: OpRecording | None = None  # of a pass of the network as it is: it need not run again

    def evaluate(self, pooled: Tensor, perform: Handler = call_unchanged) -> Tensor:
        """The logits (R, K) of pooled values (R, P); all branches side by side."""
        if self.recording is not None:
            # Where it asks for as many rows as it was recorded with: by the network.
            with suppress(NetworkError):
                return replay_recording(self.recording, self._by_call(pooled), perform)
        try:
            logits = self._evaluate_rows(pooled, self.inputs, perform)
            if len(logits) == len(pooled):
                return logits
        except NetworkError:
            if len(pooled) == 1:
                raise
        # It reshapes to the batch size of its input: an image a row, then.
        return self._evaluate_rows(pooled, self.inputs.expand(len(pooled), *self.inputs.shape[1:]), perform)

    def _evaluate_rows(self, pooled: Tensor, inputs: Tensor, perform: Handler) -> Tensor:
        return forward_with_pooled(self.network, inputs, self._by_call(pooled), perform)

    def _by_call(self, pooled: Tensor) -> dict[int, Tensor]:
        return dict(zip(self.calls, pooled.split(self.widths, 1), strict=True))

    def logits(self, pooled: Tensor) -> Tensor:
        """The logits (R, K) of pooled values (R, P), without gradient."""
        with torch.no_grad():
            return self.evaluate(pooled)

    def jacobian(self, pooled: Tensor) -> Tensor:
        """d logits / d pooled at (1, P), nothing held: (K, P)."""
        classes = self.logits(pooled).shape[1]
        with torch.inference_mode(False), torch.enable_grad():
            # One row a class: one backward pass gives all rows. (torch's batched gradients import sympy: a second.)
            rows = pooled.repeat(classes, 1).requires_grad_()
            try:
                logits = self._evaluate_rows(rows, self.inputs, call_unchanged)
                if logits.shape == (classes, classes):
                    return torch.autograd.grad(logits.diagonal().sum(), rows)[0]
            except NetworkError:
                pass
        return self._gradients(pooled, range(classes), call_unchanged)

    def frozen_jacobian_rows(self, pooled: Tensor, classes: Sequence[int]) -> Tensor:
        """d logit / d pooled at (1, P) of some classes, with the image's statistics held: (len(classes), P)."""
        return self._gradients(pooled, classes, frozen_handler)

    def _gradients(self, pooled: Tensor, classes: Sequence[int], perform: Handler) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            row = pooled.detach().clone().requires_grad_()
            logits = self.evaluate(row, perform)[0]
            return torch.cat([torch.autograd.grad(logits[k], row, retain_graph=True)[0] for k in classes])

    def frozen_jvp(self, pooled: Tensor, changes: Tensor) -> tuple[Tensor, Tensor]:
        """The logits (R, K) of pooled values (R, P), and what changes of those, (R, P), change of them to first order.

        The statistics of the first row are held for all. By forward-mode differentiation: a row costs what a pass
        through the tail costs. In double precision if the pooled values are.
        """
        _import_forward_mode()
        try:
            with torch.inference_mode(False), torch.no_grad(), forward_ad.dual_level():
                moving = forward_ad.make_dual(pooled.clone(), changes.clone())
                logits, changed = forward_ad.unpack_dual(self.evaluate(moving, frozen_handler))
                return logits.clone(), torch.zeros_like(logits) if changed is None else changed.clone()
        except NetworkError:  # a function of the user's own, which knows backward mode only
            with torch.no_grad():
                logits = self.evaluate(pooled, frozen_handler)
            weight = self._gradients(pooled[:1], range(logits.shape[1]), frozen_handler)
            return logits, changes @ weight.T


@cache
def _import_forward_mode() -> None:
    # What torch imports with the first dual tensor warns of something deprecated, for which no user can do anything.
    with warnings.catch_warnings(), forward_ad.dual_level():
        warnings.simplefilter("ignore", FutureWarning)
        forward_ad.make_dual(torch.zeros(1), torch.zeros(1))


def frozen_handler(function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """The handler that holds the statistics of the first row, and goes on in double precision where that comes in."""
    # Curvature and rounding are told apart in double precision only, and the parameters are in single.
    if any(isinstance(leaf, Tensor) and leaf.dtype == torch.float64 for leaf in pytree.tree_leaves((args, kwargs))):
        args, kwargs = pytree.tree_map(_doubled, (tuple(args), kwargs))
    name = op_name(function)
    if name in _HELD:
        return _HELD[name](*args, **kwargs)
    result = function(*args, **kwargs)
    if name in _STATISTICS and isinstance(result, Tensor):
        return first_row_detached(result)
    if name in _POWERS and isinstance(args[0], Tensor):
        return _power(args[0], result)
    return result


def _doubled(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def first_row_detached(statistic: Tensor) -> Tensor:
    """The first row's, for all rows, and no way for a change to pass."""
    return statistic[:1].detach().expand_as(statistic)


def _power(values: Tensor, result: Tensor) -> Tensor:
    """x ** a as x times a held x ** (a - 1); where there is one value a row, a statistic.

    So each position of generalised-mean pooling gets its share, x_i ** a / sum of all x ** a.
    """
    if result[0].numel() == 1:
        return first_row_detached(result)
    factor = torch.where(values == 0, 0, result / values)
    return values * first_row_detached(factor)


def _layer_norm(
    values: Tensor, shape: Sequence[int], weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor:  # fmt: skip
    axes = tuple(range(-len(shape), 0))
    centred = values - values.mean(axes, keepdim=True)
    normed = centred * first_row_detached((centred.square().mean(axes, keepdim=True) + eps).rsqrt())
    normed = normed if weight is None else normed * weight
    return normed if bias is None else normed + bias


def _rms_norm(values: Tensor, shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None) -> Tensor:
    axes = tuple(range(-len(shape), 0))
    eps = torch.finfo(values.dtype).eps if eps is None else eps
    normed = values * first_row_detached((values.square().mean(axes, keepdim=True) + eps).rsqrt())
    return normed if weight is None else normed * weight


def _group_norm(
    values: Tensor, groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Tensor:  # fmt: skip
    rows = values.reshape(len(values), groups, -1)
    normed = _layer_norm(rows, rows.shape[2:], eps=eps).reshape(values.shape)
    channels = (1, -1, *[1] * (values.ndim - 2))
    normed = normed if weight is None else normed * weight.view(channels)
    return normed if bias is None else normed + bias.view(channels)


def _normalize(values: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: None = None) -> Tensor:
    return values / first_row_detached(torch.linalg.vector_norm(values, p, dim, keepdim=True).clamp_min(eps))


_HELD: Mapping[str, Callable[..., Tensor]] = {
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "group_norm": _group_norm,
    "normalize": _normalize,
}
_STATISTICS = ("rsqrt", "var", "std", "norm", "vector_norm", "linalg_vector_norm")
_POWERS = ("pow", "__pow__", "sqrt", "float_power")
