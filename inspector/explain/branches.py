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
from inspector.explain.places import PlaceCheck, capture_feature_maps, check_places
from inspector.explain.pooling import identify_pooling, position_shares
from inspector.explain.precision import TOLERANCE, find_product_type, find_tolerance
from inspector.explain.receptive_field import ReceptiveField
from inspector.explain.refusals import explain_missing_pooling
from inspector.explain.tracing.forward import CapturedPooling, PoolingNotReachedError, capture_poolings
from inspector.explain.tracing.layouts import have_one_stride, measure_disproportion
from inspector.explain.tracing.reaching import find_poolings_reaching_logits
from inspector.explain.tracing.receptive_field import find_receptive_field


@dataclass(frozen=True)
class HeadBranch:
    """One of the pooling calls whose results, concatenated, are the pooled values."""

    call: int  # index of the pooling call among all pooling calls of a pass
    pooling: Pooling
    width: int  # number of pooled values
    grid: tuple[int, int]  # (h, w) of the feature maps of the example
    field: ReceptiveField | None = None  # of its cells; None until the classifier has placed them


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
    candidates, logits = find_poolings_reaching_logits(network, example)
    if not candidates:
        raise HeadError(explain_missing_pooling(network, example))
    indices = [index for call in candidates for index in call]
    trials = [example, *make_trial_images(example)]
    passes = _capture_trial_passes(network, trials, indices)
    _refuse_infinite(passes[0])
    _refuse_random(passes[0].logits, logits)
    if any(len(_find_candidates(_select(passes, index))) > 1 for index in indices):
        # All poolings agree on constant maps, as a ReLU makes them where an image does not wake it. What the network
        # keeps of these unusual images is restored by whoever calls this.
        trials += [100 * trials[1], -100 * trials[1]]
        passes += _capture_trial_passes(network, trials[-2:], indices)
    found = [_choose_layout(network, [_select(passes, index) for index in call], trials) for call in candidates]
    varying = [one for one in found if not _is_constant(one)]
    # A branch whose feature maps are the same for every image, such as a second image that the network stores, belongs
    # to no place of the photo: what it adds is part of the bias.
    chosen = varying or found
    branches = tuple(
        HeadBranch(one.images[0].index, one.pooling, one.images[0].pooled_values.shape[1], one.images[0].grid)
        for one in chosen
    )
    poolings = zip(*(one.images for one in chosen), strict=True)
    return branches, [TrialPass(list(row), one.logits) for row, one in zip(poolings, passes, strict=True)]


@dataclass(frozen=True, eq=False)
class _FoundPooling:
    """A pooling and its kind."""

    pooling: Pooling
    images: Sequence[CapturedPooling]  # what was captured for each trial image, with derivatives if its kind needs them


def _capture_trial_passes(
    network: nn.Module, images: Sequence[Tensor], calls: Sequence[int], needs_derivative: bool = False
) -> list[TrialPass]:
    """Capture pooling calls for some images."""
    try:
        return [TrialPass(*capture_poolings(network, image, calls, needs_derivative)) for image in images]
    except PoolingNotReachedError as error:
        raise HeadError(
            "The network takes other ways for other images, as with an early exit: a pooling that one image reached "
            "was not reached by another. Class maps need one way for all images."
        ) from error


def _select(passes: Sequence[TrialPass], index: int) -> list[CapturedPooling]:
    """Return what was captured of one pooling, for each image."""
    return [next(captured for captured in one.poolings if captured.index == index) for one in passes]


def _is_constant(found: _FoundPooling) -> bool:
    first, *others = found.images
    # Maps that are the same in every cell are those of a dead layer, not of an image.
    is_flat = bool((first.feature_maps == first.feature_maps[..., :1, :1]).all())
    return not is_flat and all(torch.equal(one.feature_maps, first.feature_maps) for one in others)


def _choose_layout(
    network: nn.Module, candidates: Sequence[list[CapturedPooling]], trials: Sequence[Tensor]
) -> _FoundPooling:
    """Find the kind of a pooling, in the layout that explains its values for all images.

    Args:
        network: any classifier.
        candidates: for each layout that the shapes of the call allow, what was captured for each image.
        trials: the images, (1, channels, H, W) each.
    """
    example = trials[0]
    for first, *_ in candidates:
        _refuse_several_images(first, len(example))
    found = [(images, _identify_from_values(images)) for images in candidates]
    fitting = [_FoundPooling(pooling, images) for images, pooling in found if pooling is not None]
    if len(fitting) > 1:  # all numbers fit if maps were flattened
        return _choose_by_place(network, fitting, example)
    _refuse_tokens(network, (fitting[0].images if fitting else candidates[0])[0], example)
    if fitting:
        return fitting[0]
    # Few poolings need derivatives, which take time to compute.
    calls = [images[0].index for images in candidates]
    passes = _capture_trial_passes(network, trials, calls, needs_derivative=True)
    for index in calls:
        images = _select(passes, index)
        if all(captured.derivative is not None for captured in images):
            return _FoundPooling(_identify_from_derivatives(images), images)
    shape = tuple(candidates[0][0].feature_maps.shape[1:])
    raise HeadError(
        f"The last feature maps {shape} are not pooled by average, max or flatten, nor by one function of each "
        "channel, so their class maps would not be exact."
    )


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


def _refuse_several_images(captured: CapturedPooling, images: int) -> None:
    made = len(captured.feature_maps)
    if made != images:
        raise HeadError(
            f"The network makes {made} images of one, such as crops or mirrored copies in one batch, and combines what "
            "it finds in them. Their cells lie at different places. Give Inspector the network for a single image."
        )


def _refuse_infinite(one: TrialPass) -> None:
    for what, tensor in (("pooled feature maps", one.pooled), ("logits", one.logits)):
        if not tensor.isfinite().all():
            raise HeadError(
                f"The network gives NaN or infinite {what}, so they cannot be split. Look for NaN or infinite weights: "
                "a training may have diverged."
            )


def _choose_by_place(network: nn.Module, fitting: Sequence[_FoundPooling], example: Tensor) -> _FoundPooling:
    """Choose the layout whose grid the network used before, has the proportions of the image, and is in place."""
    size = example.shape[2:]
    used = [one for one in fitting if one.images[0].layout is not None and not one.images[0].layout.is_guess]
    in_proportion = [one for one in used or fitting if have_one_stride(size, one.images[0].grid)]
    fitting = in_proportion or used or fitting
    fitting = sorted(fitting, key=lambda one: measure_disproportion(one.images[0].grid, size))
    if len(fitting) == 1:
        return fitting[0]
    checks = _check_places(network, [one.images[0] for one in fitting], example)
    # Of equally good ones, the first.
    best = max(range(len(fitting)), key=lambda n: (checks[n].misplaced is None, checks[n].order, -n))
    return fitting[best]


def _check_places(network: nn.Module, poolings: Sequence[CapturedPooling], example: Tensor) -> list[PlaceCheck]:
    """Measure if the cells of some feature maps respond at their places."""
    calls = [captured.index for captured in poolings]
    fields = [find_receptive_field(network, example, index) for index in calls]
    return check_places(lambda image: capture_feature_maps(network, image, calls), example, fields)


def _refuse_random(logits: Tensor, others: Tensor) -> None:
    """Refuse a network that gives different logits for the same image."""
    tolerance = max(1e-3, find_tolerance({find_product_type(logits)})) * float(others.abs().max())
    if not torch.allclose(logits, others, rtol=0, atol=tolerance):
        raise HeadError(
            "The network's output is random: the same input gives different logits (dropout in evaluation mode, "
            "for example). Class maps explain networks whose output depends on the input only."
        )


def _refuse_tokens(network: nn.Module, captured: CapturedPooling, example: Tensor) -> None:
    if captured.layout is None or not captured.layout.tokens:
        return
    maps, pooled = captured.feature_maps.flatten(2), captured.pooled_values
    tokens = maps.shape[2]
    is_one = maps.shape[1] == pooled.shape[1] and bool((maps == pooled[..., None]).all(1).any())
    if is_one and not identify_pooling(captured.feature_maps, pooled):
        raise HeadError(
            f"No spatial map reaches the logits: they are read from one of {tokens} tokens (a class token), and "
            "all that other tokens contribute to it went through attention. Use a network that pools all tokens."
        )
    (check,) = _check_places(network, [captured], example) if captured.layout.is_guess else (None,)
    # Where tokens respond to all parts of the image alike, their grid is the one that their number and the proportions
    # of the image let expect. Their place is unknown then.
    is_elsewhere = check is not None and check.misplaced is not None and not check.prefers_no_part
    if captured.layout.grid is None or is_elsewhere:
        raise HeadError(
            f"No spatial map reaches the logits: the {tokens} tokens that are pooled form no grid of cells. "
            "A class token or registers, which belong to no cell, may be among them."
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
    if not same_constant:
        return "other"
    # A sum that adds one value after the other, as nn.AvgPool2d does, may round by more than a pairwise one.
    is_average = torch.allclose(first, torch.full_like(first, 1 / first[0, 0].numel()), rtol=TOLERANCE)
    has_constant = any(
        float(one.abs().max()) > 1e-3 * (1 + scale) for one, scale in zip(constants, scales, strict=True)
    )
    return "average" if is_average and not has_constant else "linear"
