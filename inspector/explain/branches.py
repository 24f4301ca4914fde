"""Find the poolings of a head, and what kind each is, numerically.

The poolings are the calls that reduce every channel to one value, and whose results reach the logits through no other
such call. Their kinds are found from the feature maps and pooled values of several images. Names and types of layers
play no role.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from inspector.errors import HeadError
from inspector.explain.kinds import Pooling
from inspector.explain.pooling import identify_pooling, position_shares
from inspector.explain.precision import TOLERANCE
from inspector.explain.tracing.forward import CapturedPooling, capture_poolings, find_poolings_reaching_logits


@dataclass(frozen=True)
class HeadBranch:
    """One of the pooling calls whose results, concatenated, are the pooled values."""

    call: int  # index of the pooling call among all pooling calls of a pass
    pooling: Pooling
    width: int  # number of pooled values
    grid: tuple[int, int]  # (h, w) of the feature maps of the example


@dataclass(frozen=True, eq=False)
class TrialPass:
    """What was captured for one of the images on which a head is tried."""

    poolings: list[CapturedPooling]  # one per branch
    logits: Tensor  # (1, K)

    @property
    def pooled(self) -> Tensor:
        """The pooled values of all branches, (1, P)."""
        return torch.cat([one.pooled_values for one in self.poolings], 1)


def find_branches(network: nn.Module, example: Tensor) -> tuple[tuple[HeadBranch, ...], list[TrialPass]]:
    """Find the poolings of a network's head.

    Args:
        network: any classifier.
        example: an input (1, channels, H, W).

    Returns:
        The branches in the order of their calls, and passes of several images: first the example, then noise.

    Raises:
        HeadError: no pooling reaches the logits, or one of another kind.
    """
    calls = find_poolings_reaching_logits(network, example)
    if not calls:
        raise HeadError(
            "No pooling was found: no operation on the way to the logits reduces each channel of a feature map to one "
            "value. Use a network that ends in global average or global max pooling, or in flatten and Linear."
        )
    images = [example, *make_trial_images(example)]
    passes = [TrialPass(*capture_poolings(network, image, calls)) for image in images]
    _refuse_infinite(passes[0])
    _refuse_tokens(passes[0].poolings)
    if any(len(_find_candidates(captured)) > 1 for captured in _by_call(passes)):
        # All poolings agree on constant maps, as a ReLU makes them where an image does not wake it. What the network
        # keeps of these unusual images is restored by whoever calls this.
        images += [100 * images[1], -100 * images[1]]
        passes += [TrialPass(*capture_poolings(network, image, calls)) for image in images[-2:]]
    poolings = [_identify_from_values(captured) for captured in _by_call(passes)]
    if None in poolings:
        # Few poolings need derivatives, which take time to compute.
        passes = [TrialPass(*capture_poolings(network, image, calls, needs_derivative=True)) for image in images]
        by_call = zip(poolings, _by_call(passes), strict=True)
        poolings = [pooling or _identify_from_derivatives(captured) for pooling, captured in by_call]
    branches = tuple(
        HeadBranch(captured.index, pooling, captured.pooled_values.shape[1], captured.grid)
        for captured, pooling in zip(passes[0].poolings, poolings, strict=True)
        if pooling is not None
    )
    return branches, passes


def make_trial_images(example: Tensor) -> list[Tensor]:
    """Return seeded inputs like an example: noise, and smooth images, dark and bright, as photos are in part.

    None is larger than a normalized photo, because a network may keep statistics of what it sees.
    """
    generator = torch.Generator().manual_seed(1)
    noise, smooth = torch.randn(2, *example.shape, generator=generator).to(example)
    height, width = example.shape[2:]
    coarse = smooth[:, :, : max(2, height // 16), : max(2, width // 16)]
    smooth = torch.nn.functional.interpolate(coarse.float(), (height, width), mode="bilinear").to(example)
    return [noise, 1.5 * smooth - 1, -1.5 * smooth + 1]


def compute_remainder(captured: CapturedPooling) -> Tensor:
    """Return the pooled values minus the sums of their first-order shares: (N, C)."""
    shares = position_shares("other", captured.feature_maps, captured.derivative)
    return captured.pooled_values - shares.sum((2, 3))


def _by_call(passes: Sequence[TrialPass]) -> list[tuple[CapturedPooling, ...]]:
    """Return, for each pooling call, what was captured for all images."""
    return list(zip(*(one.poolings for one in passes), strict=True))


def _refuse_infinite(one: TrialPass) -> None:
    for what, tensor in (("pooled feature maps", one.pooled), ("logits", one.logits)):
        if not tensor.isfinite().all():
            raise HeadError(
                f"The network gives NaN or infinite {what}, so they cannot be split. Look for NaN or infinite weights: "
                "a training may have diverged."
            )


def _refuse_tokens(poolings: Sequence[CapturedPooling]) -> None:
    for captured in poolings:
        if captured.layout is None or not captured.layout.tokens:
            continue
        tokens = captured.feature_maps[0, 0].numel()
        takes_first = torch.equal(captured.feature_maps[:, :, 0, 0], captured.pooled_values)
        if takes_first and not identify_pooling(captured.feature_maps, captured.pooled_values):
            raise HeadError(
                f"No spatial map reaches the logits: they are read from one of {tokens} tokens (a class token), and "
                "all that other tokens contribute to it went through attention. Use a network that pools all tokens."
            )
        if captured.layout.grid is None:
            raise HeadError(
                f"No spatial map reaches the logits: the {tokens} tokens that are pooled form no grid of cells."
            )


def _find_candidates(images: Sequence[CapturedPooling]) -> list[Pooling]:
    """Return the poolings that explain the pooled values of several images."""
    first, *others = [identify_pooling(captured.feature_maps, captured.pooled_values) for captured in images]
    return [pooling for pooling in first if all(pooling in other for other in others)]


def _identify_from_values(images: Sequence[CapturedPooling]) -> Pooling | None:
    """Return the pooling that explains the pooled values of several images; None if no known one does."""
    return next(iter(_find_candidates(images)), None)


def _identify_from_derivatives(images: Sequence[CapturedPooling]) -> Pooling:
    """Return "linear" if derivative and constant are the same for several images, else "other"."""
    derivatives = [captured.derivative for captured in images if captured.derivative is not None]
    if len(derivatives) < len(images):
        shape = tuple(images[0].feature_maps.shape[1:])
        raise HeadError(
            f"The last feature maps {shape} are not pooled by average, max or flatten, nor by one function of each "
            "channel, so their class maps would not be exact."
        )
    first, tolerance = derivatives[0], TOLERANCE * float(derivatives[0].abs().max())
    if not all(torch.allclose(derivative, first, rtol=TOLERANCE, atol=tolerance) for derivative in derivatives):
        return "other"
    constants = [compute_remainder(captured) for captured in images]
    # For an image with large values, rounding is larger than the constant, so the tolerance grows with the values.
    scales = [float(captured.pooled_values.abs().max()) for captured in images]
    same_constant = all(
        float((constant - constants[0]).abs().max()) <= TOLERANCE * (1 + scale + scales[0])
        for constant, scale in zip(constants, scales, strict=True)
    )
    return "linear" if same_constant else "other"
