"""Find what follows the pooling, and verify it numerically.

With the results p of the poolings (branches.py) as free variables, the rest of the network is a function from p to the
logits. If that function is affine,

    logit[k] = bias[k] + sum over j of  weight[k, j] * p[j]

then its Jacobian is the weight and its value at p = 0 is the bias. If it is affine only while the statistics and ReLU
masks of an image are frozen (head_function.py), weight and bias are computed for every image. All of this, and that
nothing else of the image reaches the logits, is verified on other inputs than those it was computed from. Names and
types of layers play no role.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from inspector.errors import HeadError
from inspector.explain.branches import (
    TOLERANCE,
    HeadBranch,
    TrialPass,
    compute_remainder,
    find_branches,
    make_scaled_noise,
)
from inspector.explain.head_function import HeadFunction
from inspector.explain.kinds import Verdict
from inspector.explain.tracing.recording import OpRecording

_STEP = 1e-5  # step of the curvature test, relative to the root mean square of the pooled values
_CURVATURE = 1e-7  # largest deviation from linear, relative to the change; curvature exceeds it, rounding does not


@dataclass(frozen=True, eq=False)
class Head:
    """How logits are computed from feature maps: the pooling, and the affine map that follows if there is one."""

    branches: tuple[HeadBranch, ...]
    weight: Tensor | None  # (K, P), P = C, or C * h * w if flattened; None if it depends on the image
    bias: Tensor | None  # (K,)
    classes: int  # K
    verdict: Verdict  # the best verdict that its class maps can get
    per_class: bool  # the weight is the identity, so each feature map is a class map

    @property
    def pooling(self) -> str:
        """The kind of pooling, or the kinds of all branches, such as "average + max"."""
        return " + ".join(dict.fromkeys(branch.pooling for branch in self.branches))

    @property
    def calls(self) -> tuple[int, ...]:
        """The index of each branch's pooling call."""
        return tuple(branch.call for branch in self.branches)

    @property
    def widths(self) -> tuple[int, ...]:
        """The number of pooled values of each branch."""
        return tuple(branch.width for branch in self.branches)

    @property
    def affine(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of a head that has them for every image."""
        assert self.weight is not None
        assert self.bias is not None
        return self.weight, self.bias

    @property
    def has_position_scores(self) -> bool:
        """Whether each cell has a score of its own, as if it alone were pooled."""
        return self.pooling in ("average", "max") and len(self.branches) == 1

    @property
    def finest_branch(self) -> HeadBranch:
        """The branch whose grid the class maps have."""
        return max(self.branches, key=lambda branch: branch.grid[0] * branch.grid[1])

    @property
    def needs_pooled(self) -> bool:
        """Whether the decomposition needs the pooled values besides the feature maps."""
        return self.weight is None or self.needs_derivative

    @property
    def needs_derivative(self) -> bool:
        """Whether the decomposition needs the derivative of the pooling."""
        return any(branch.pooling in ("linear", "other") for branch in self.branches)

    def head_function(self, network: nn.Module, inputs: Tensor, recording: OpRecording | None = None) -> HeadFunction:
        """Return the head as a function from pooled values to logits, for one input (1, channels, H, W)."""
        return HeadFunction(network, inputs, self.calls, self.widths, recording)


def find_head(network: nn.Module, example: Tensor) -> Head:
    """Find the head of a network.

    Args:
        network: any classifier; no name or type of a layer is used.
        example: an input (1, channels, H, W).

    Returns:
        The head, with a weight if what follows the pooling is affine for every image.

    Raises:
        HeadError: no pooling reaches the logits, or something besides the pooled values does.
    """
    branches, passes = find_branches(network, example)
    calls, widths = tuple(branch.call for branch in branches), tuple(branch.width for branch in branches)
    function = HeadFunction(network, example, calls, widths)
    if all(branch.pooling != "other" for branch in branches):
        head = affine_head(function, branches, [one.pooled for one in passes], [one.logits for one in passes])
        if head is not None:
            return head
    _refuse_other_paths(function, passes[0].pooled)
    verdict = _find_verdict_per_image(function, branches, passes)
    return Head(branches, None, None, passes[0].logits.shape[1], verdict, False)


def relative_error(predicted: Tensor, logits: Tensor, total: Tensor) -> Tensor:
    """Compute the error of sums relative to what rounding explains: above 1 the sum is wrong.

    Args:
        predicted: sums (..., K), bias included.
        logits: the network's logits (..., K).
        total: sums of the absolute values of all summands (..., K), bias included.

    Returns:
        Tensor (..., K), without unit.
    """
    return (predicted - logits).abs() / (TOLERANCE * (total + 1))


def affine_head(
    function: HeadFunction, branches: tuple[HeadBranch, ...], pooled: Sequence[Tensor], logits: Sequence[Tensor]
) -> Head | None:
    """Return the head with a weight and a bias for every image; None if what follows the pooling is not affine.

    Args:
        function: what follows the pooling.
        branches: its poolings.
        pooled: pooled values (1, P) of several images; the Jacobian is computed at the first.
        logits: the network's logits (1, K) of the same images.

    Raises:
        HeadError: what follows the pooling is affine, but does not explain the logits of all images.
    """
    trials = torch.cat(make_scaled_noise(pooled[0]))
    zero, expected = function.logits(torch.zeros_like(pooled[0])), function.logits(trials)
    # An affine function maps sums to sums. This test is much faster than the Jacobian of a flattened head.
    sums = function.logits(trials.sum(0, keepdim=True)) - zero
    if (sums - (expected - zero).sum(0)).abs().max() > 1e-3 * (expected.abs().max() + 1):
        return None
    weight, bias = function.jacobian(pooled[0]), zero[0]
    if not _predicts(weight, bias, trials, expected):
        return None
    if not all(_predicts(weight, bias, values, own) for values, own in zip(pooled, logits, strict=True)):
        raise _other_paths_error()
    identity = torch.eye(len(weight), dtype=weight.dtype, device=weight.device)
    per_class = len(branches) == 1 and weight.shape == identity.shape and torch.equal(weight, identity)
    return Head(branches, weight, bias, len(bias), "exact", per_class)


def _predicts(weight: Tensor, bias: Tensor, pooled: Tensor, logits: Tensor) -> bool:
    """Tell whether weight and bias give these logits up to rounding."""
    total = pooled.abs() @ weight.abs().T + bias.abs()
    return bool((relative_error(pooled @ weight.T + bias, logits, total) <= 1).all())


def _other_paths_error() -> HeadError:
    return HeadError(
        "The logits depend on more than the pooled feature maps (another branch of the network reaches them), so class "
        "maps of this pooling alone would not sum to the logits."
    )


def _refuse_other_paths(function: HeadFunction, pooled: Tensor) -> None:
    """Raise HeadError if the same pooled values give other logits with another image."""
    expected = function.logits(pooled)
    for image in make_scaled_noise(function.inputs):
        logits = HeadFunction(function.network, image, function.calls, function.widths).logits(pooled)
        if not torch.allclose(logits, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max())):
            raise _other_paths_error()


def _find_verdict_per_image(
    function: HeadFunction, branches: Sequence[HeadBranch], passes: Sequence[TrialPass]
) -> Verdict:
    """Test whether, with statistics and ReLU masks frozen, the logits of all these images are exact sums."""
    for one in passes:
        for branch, captured in zip(branches, one.poolings, strict=True):
            tolerance = TOLERANCE * (captured.pooled_values.abs().max() + 1)
            if branch.pooling == "other" and compute_remainder(captured).abs().max() > tolerance:
                return "not unique"
    # Test at the example, at the noise with the largest values, and at random pooled values. The test runs in double
    # precision, which is slow, so there are no more points.
    points = [passes[0].pooled, passes[-1].pooled]
    points += make_scaled_noise(points[0])[:1]
    return "exact for this image" if all(is_locally_affine(function, point) for point in points) else "not unique"


def is_locally_affine(function: HeadFunction, pooled: Tensor) -> bool:
    """Test whether the head f is affine near pooled values p, with the statistics frozen.

    For a step d in a random direction, with J d computed by differentiation, the condition is

        max over k of |f(p + d) - f(p) - J d|  <=  1e-7 * max over k of |J d|

    The test passes if this holds in at least one of four random directions. A curved function fails in all of them. A
    piecewise affine function may fail in some of them, where a ReLU mask changes on the way.

    Args:
        function: the head f.
        pooled: the pooled values p (1, P).
    """
    # In double precision curvature and rounding differ by orders of magnitude. Apple's GPUs have single precision only:
    # there an affine head may be missed, but a curved one is never accepted.
    pooled = pooled if pooled.device.type == "mps" else pooled.double()
    directions = torch.randn(4, pooled.shape[1], generator=torch.Generator().manual_seed(2)).to(pooled)
    steps = _STEP * pooled.square().mean().sqrt() * directions
    # The first four rows give f(p) and J d, the last four f(p + d).
    points = torch.cat([pooled.expand_as(steps), pooled + steps])
    logits, changes = function.frozen_jvp(points, torch.cat([steps, torch.zeros_like(steps)]))
    start, end, expected = logits[:4], logits[4:], changes[:4]
    errors = (end - start - expected).abs().amax(1)
    return bool((errors <= _CURVATURE * expected.abs().amax(1)).any())
