"""Verify what was found out about a head, on other values than those it was computed from."""

from collections.abc import Sequence

import torch
from torch import Tensor

from inspector.errors import HeadError, NetworkError
from inspector.explain.branches import HeadBranch, TrialPass, compute_remainder
from inspector.explain.head_function import FrozenHead, HeadFunction
from inspector.explain.kinds import Verdict
from inspector.explain.precision import TOLERANCE, find_product_type, find_tolerance, find_widest, relative_error, widen

_SCALES = (1, -10, 100)  # of random pooled values; nonlinearities often show only at large values
_STEP = 1e-4  # step of the local test, relative to the root mean square of the pooled values


def refuse_other_paths(function: HeadFunction, passes: Sequence[TrialPass]) -> None:
    """Raise HeadError if what was recorded on one image gives other logits than the network on others."""
    for one in passes:
        tolerance = max(1e-4, find_tolerance({find_product_type(one.logits)}))
        for compute in (function.logits, lambda pooled: function.record(pooled)[1]):
            # Where the recording differs, the network may have branched on the pooled values. Then it gives the same
            # logits for the same pooled values on another image.
            found = compute(one.pooled)
            scale = float(one.logits.abs().max())
            if torch.allclose(found, one.logits, rtol=tolerance, atol=tolerance * scale):
                break
        else:
            raise HeadError(
                "The logits depend on more than the pooled feature maps (another branch of the network reaches them), "
                "so class maps of this pooling alone would not sum to the logits."
            )


def find_affine(
    function: HeadFunction, wide: HeadFunction, pooled: Sequence[Tensor], logits: Sequence[Tensor], tolerance: float
) -> tuple[Tensor, Tensor] | None:
    """Return weight (K, P) and bias (K,) of a head that is affine for all pooled values; None if it is not.

    Args:
        function: what follows the pooling.
        wide: the same with its constants in the widest type.
        pooled: the pooled values (1, P) of several images; the Jacobian is computed at the first.
        logits: the network's logits (1, K) for them.
        tolerance: residual that rounding explains in these logits.
    """
    first = widen(pooled[0])
    widest = find_widest(first.device)
    trials = torch.cat([_make_trials(first.to(widest), _SCALES), *(one.to(widest) for one in pooled)])
    expected = is_affine(wide, trials)
    if expected is None:
        return None
    weight, bias = function.jacobian(first), expected[0].to(first.dtype)
    exact = (weight.to(widest), bias.to(widest))
    # In the network's own logits rounding is larger than in the trials.
    found = _predicts(*exact, trials, expected[1:], TOLERANCE) and all(
        _predicts(*exact, values.to(widest), own.to(widest), tolerance)
        for values, own in zip(pooled, logits, strict=True)
    )
    return (weight, bias) if found else None


def is_affine(function: HeadFunction | FrozenHead, trials: Tensor) -> Tensor | None:
    """Return the logits (1 + R, K) at zero and at trials (R, P) if a head is affine, else None.

    An affine function f maps sums to sums: f(a + b) - f(0) = (f(a) - f(0)) + (f(b) - f(0)), for any a and b.
    """
    rows = torch.cat([torch.zeros_like(trials[:1]), trials, trials.sum(0, keepdim=True)])
    try:
        evaluate = function.widened_logits if isinstance(function, HeadFunction) else function.logits
        logits = evaluate(rows)
    except NetworkError:
        return None
    zero, changes = logits[0], logits[1:] - logits[:1]
    # Part of a head may compute in a less precise type, for example in another library.
    rounding = 1e3 * torch.finfo(logits.dtype).eps
    allowed = max(1e-9, rounding) * changes.abs().max() + rounding * zero.abs().max()
    error = (changes[-1] - changes[:-1].sum(0)).abs().max()
    return logits[:-1] if bool(error <= allowed) else None


def _make_trials(pooled: Tensor, scales: Sequence[float]) -> Tensor:
    """Return random pooled values (2 * len(scales), P), at scales of their own and relative to an image's (1, P).

    Where the values of an image are small, a nonlinearity shows at larger ones only, and the other way round.
    """
    sizes = pooled.new_tensor([scale * size for scale in scales for size in (1, float(pooled.square().mean().sqrt()))])
    generator = torch.Generator().manual_seed(1)
    return torch.randn(len(sizes), pooled.shape[1], generator=generator).to(pooled) * sizes[:, None]


def _predicts(weight: Tensor, bias: Tensor, pooled: Tensor, logits: Tensor, tolerance: float) -> bool:
    """Tell whether weight and bias give these logits up to rounding."""
    total = pooled.abs() @ weight.abs().T + bias.abs()
    return bool((relative_error(pooled @ weight.T + bias, logits, total, tolerance) <= 1).all())


def find_verdict_per_image(
    function: HeadFunction, branches: Sequence[HeadBranch], passes: Sequence[TrialPass]
) -> Verdict:
    """Test whether, with statistics and gates frozen, the logits of all these images are exact sums."""
    for one in passes:
        for branch, captured in zip(branches, one.poolings, strict=True):
            tolerance = TOLERANCE * captured.pooled_values.abs().max()
            if branch.pooling == "other" and compute_remainder(captured).abs().max() > tolerance:
                return "not unique"
    # The test runs in the widest type, which is slow for large heads, so there are few points.
    widest = find_widest(passes[0].pooled.device)
    points = [passes[0].pooled.to(widest), passes[-1].pooled.to(widest)]
    points.append(_make_trials(points[0], (1,))[:1])
    return "exact for this image" if are_frozen_affine(function, points) else "not unique"


def are_frozen_affine(function: HeadFunction, points: Sequence[Tensor]) -> bool:
    """Test whether a head is affine with the statistics and gates of each of several pooled values (1, P) frozen."""
    try:
        values, slopes = function.widened_logits(torch.cat(list(points))), []
        for point, value in zip(points, values, strict=True):
            # The image itself is among the trials: there the frozen head has to be the head.
            found = is_affine(function.freeze(point), torch.cat([_make_trials(point, (1, -30)), point]))
            if found is not None and torch.allclose(found[-1], value, rtol=1e-6, atol=1e-9 * float(value.abs().max())):
                slopes.append((found[1:] - found[:1]).abs().max())
            elif not is_locally_affine(function, point):
                return False
    except (NetworkError, RuntimeError):
        return False
    # A step function is constant around every image. Maps of zeros would not say how it depends on the pooled values.
    is_flat = len(slopes) == len(points) and not any(slopes)
    return not is_flat or all(torch.equal(value, values[0]) for value in values)


def is_locally_affine(function: HeadFunction, pooled: Tensor) -> bool:
    """Test whether the head f is affine near pooled values p, with the statistics frozen that are known to be.

    For a step d in a random direction, with the Jacobian J, the condition is

        max over k of |f(p + d) - f(p) - J d|  <=  1e-9 * max over k of |J d|  +  rounding of f

    The test passes if this holds in at least one of four random directions. A curved function fails in all of them. A
    piecewise affine function may fail in some of them, where a gate that is not known changes on the way.

    Args:
        function: the head f.
        pooled: the pooled values p (1, P), in the widest type of their device.
    """
    try:
        frozen = function.freeze(pooled)
        directions = torch.randn(4, pooled.shape[1], generator=torch.Generator().manual_seed(2)).to(pooled)
        steps = _STEP * pooled.square().mean().sqrt() * directions
        start, end, expected = frozen.logits(pooled), frozen.logits(pooled + steps), frozen.products(steps)
    except (NetworkError, RuntimeError):
        return False
    errors = (end - start - expected).abs().amax(1)
    # In double precision curvature and rounding differ by orders of magnitude. In single precision (Apple's GPUs) an
    # affine head may be missed, but a curved one is never accepted.
    rounding = 1e2 * torch.finfo(start.dtype).eps * start.abs().max() if start.dtype == torch.float64 else 0
    return bool((errors <= 1e-9 * expected.abs().amax(1) + rounding).any())
