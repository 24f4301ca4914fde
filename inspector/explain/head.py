"""Find the pooling and what follows it, and prove both by number.

The calls that take every channel to one value, and whose results reach the logits through no other such call, are
the pooling. With their results p handed back as free variables, the rest of the network is a function from p to the
logits. If that function is affine,

    logit[k] = bias[k] + sum over j of  weight[k, j] * p[j]

then its Jacobian is the weight and its value at p = 0 is the bias. If it is affine only while this image's statistics
and gates are held (tail.py), weight and bias are read for every image anew. All of it, and that nothing else of the
image reaches the logits, is checked on inputs it was not read from. No name or type of a layer is asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from inspector.errors import HeadError
from inspector.explain.head_function import HeadFunction
from inspector.explain.kinds import Pooling, Verdict
from inspector.explain.pooling import identify_pooling, position_shares
from inspector.explain.tracing.forward import CapturedPooling, capture_chosen_poolings, find_poolings_reaching_logits
from inspector.explain.tracing.recording import OpRecording

TOLERANCE = 1e-5  # of the sum of all that was added up, in float32
NOISE_SCALES = (1, -10, 100)  # of the values that a head is tried with: one that bends bends somewhere far out
_STEP = 1e-5  # of the pooled values' size, to look for curvature with
_STRAIGHT = 1e-7  # of a change: what curvature leaves is as large as the step, what rounding leaves is smaller


@dataclass(frozen=True)
class HeadBranch:
    """One of the poolings whose results, side by side, are the pooled values."""

    call: int  # which of the network's reductions it is
    pooling: Pooling
    width: int  # how many pooled values it gives
    grid: tuple[int, int]  # h, w of the feature maps of the example


@dataclass(frozen=True, eq=False)
class Head:
    """How the pooled feature maps become the logits."""

    branches: tuple[HeadBranch, ...]
    weight: Tensor | None  # (K, P), P = C or C * h * w where maps are flattened; None where it changes with the image
    bias: Tensor | None  # (K,)
    classes: int  # K
    verdict: Verdict  # what its class maps can be
    per_class: bool  # the feature maps are the class maps themselves: the weight is the identity

    @property
    def pooling(self) -> str:
        """The kind of pooling, or the kinds of all branches: "average", "average + max"."""
        return " + ".join(dict.fromkeys(branch.pooling for branch in self.branches))

    @property
    def calls(self) -> tuple[int, ...]:
        return tuple(branch.call for branch in self.branches)

    @property
    def has_position_scores(self) -> bool:
        """Whether every position can be scored as if it alone were pooled."""
        return self.pooling in ("average", "max") and len(self.branches) == 1

    @property
    def finest_branch(self) -> HeadBranch:
        """The branch whose grid the class maps have."""
        return max(self.branches, key=lambda branch: branch.grid[0] * branch.grid[1])

    @property
    def needs_pooled(self) -> bool:
        """Whether the split needs the pooled values, and not the feature maps alone."""
        return self.weight is None or self.needs_derivative

    @property
    def needs_derivative(self) -> bool:
        """Whether the split needs the derivative of the pooling."""
        return any(branch.pooling in ("linear", "other") for branch in self.branches)

    def head_function(self, network: nn.Module, inputs: Tensor, tape: OpRecording | None = None) -> HeadFunction:
        return HeadFunction(network, inputs, self.calls, tuple(branch.width for branch in self.branches), tape)


def find_head(network: nn.Module, example: Tensor) -> Head:
    """The head of a network, read with one example input (1, channels, H, W).

    Raises HeadError where no pooling reaches the logits, or more than the pooled values does.
    """
    calls = find_poolings_reaching_logits(network, example)
    if not calls:
        raise HeadError(
            "No pooling was found: nothing on the way to the logits takes every channel of a feature map to one value. "
            "A network that ends in global average or global max pooling, or in flatten and Linear, would do."
        )
    images = [example, *_noise(example.shape, example)]
    passes = [capture_chosen_poolings(network, image, calls) for image in images]
    _refuse_tokens(passes[0][0])
    kinds = [_known_kind(seen) for seen in zip(*(found for found, _ in passes), strict=True)]
    if None in kinds:
        # Derivatives take their time, and few poolings need them.
        passes = [capture_chosen_poolings(network, image, calls, needs_derivative=True) for image in images]
        every = zip(*(found for found, _ in passes), strict=True)
        kinds = [kind or _kind_by_slope(seen) for kind, seen in zip(kinds, every, strict=True)]
    heard = [found for found, _ in passes]
    branches = tuple(
        HeadBranch(seen.index, kind, _pooled(seen).shape[1], _grid(seen))
        for seen, kind in zip(heard[0], kinds, strict=True)
        if kind is not None
    )
    tail = HeadFunction(network, example, tuple(calls), tuple(branch.width for branch in branches))
    pooled = [torch.cat([_pooled(one) for one in found], 1) for found in heard]
    if "other" not in kinds:
        logits = [logits for _, logits in passes]
        head = affine_head(tail, branches, pooled, logits)
        if head is not None:
            return head
    _refuse_more(tail, pooled[0])
    verdict = _verdict_of_image(tail, branches, heard)
    return Head(branches, None, None, passes[0][1].shape[1], verdict, False)


def relative_error(predicted: Tensor, logits: Tensor, total: Tensor) -> Tensor:
    """How far a sum lies from its logit in units of what may be: above 1 it is wrong. All (..., K).

    `total` is the sum of the absolute values of what was added up, bias included.
    """
    return (predicted - logits).abs() / (TOLERANCE * (total + 1))


def _noise(shape: Sequence[int], like: Tensor) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [stretch * torch.randn(tuple(shape), generator=generator).to(like) for stretch in NOISE_SCALES]


def _pooled(seen: CapturedPooling) -> Tensor:
    assert seen.pooled is not None, "captured, not only heard"
    return seen.pooled


def _grid(seen: CapturedPooling) -> tuple[int, int]:
    height, width = seen.feature_maps.shape[2:]
    return height, width


def _refuse_tokens(found: Sequence[CapturedPooling]) -> None:
    for seen in found:
        if not seen.tokens:
            continue
        tokens = seen.feature_maps[0, 0].numel()
        first = torch.equal(seen.feature_maps[:, :, 0, 0], _pooled(seen))
        if first and not identify_pooling(seen.feature_maps, _pooled(seen)):
            raise HeadError(
                f"No spatial map reaches the logits: they are read from one of {tokens} tokens (a class token), and "
                "what each position gave to it went through attention. A network that pools the tokens of all "
                "positions would do."
            )
        if not seen.on_grid:
            raise HeadError(
                f"No spatial map reaches the logits: the {tokens} tokens that are pooled lie on no grid of positions."
            )


def _known_kind(seen: Sequence[CapturedPooling]) -> Pooling | None:
    """The pooling that takes the feature maps of several images to their values, if it is one that is told by them."""
    known = [identify_pooling(one.feature_maps, _pooled(one)) for one in seen]
    # Feature maps that are the same everywhere, all silent after a ReLU say, are pooled alike by every pooling.
    return next((kind for kind in known[0] if all(kind in kinds for kinds in known)), None)


def _kind_by_slope(seen: Sequence[CapturedPooling]) -> Pooling:
    """Whether a pooling is linear, with weights of its own, or another that keeps its channels apart."""
    shape = tuple(seen[0].feature_maps.shape[1:])
    slopes = [one.derivative for one in seen]
    if any(slope is None for slope in slopes):
        raise HeadError(
            f"The last feature maps {shape} are pooled neither by average, nor by maximum, nor flattened, nor each "
            "channel by itself: their class maps would not be exact."
        )
    rests = [_pooled(one) - position_shares("other", one.feature_maps, one.derivative).sum((2, 3)) for one in seen]
    same_slope = all(_close(slope, slopes[0]) for slope in slopes if slope is not None)
    # The rest of a large image is lost in rounding.
    scales = [float(_pooled(one).abs().max()) for one in seen]
    same_rest = all(
        float((rest - rests[0]).abs().max()) <= TOLERANCE * (1 + scale + scales[0])
        for rest, scale in zip(rests, scales, strict=True)
    )
    return "linear" if same_slope and same_rest else "other"


def _close(a: Tensor | None, b: Tensor | None) -> bool:
    assert a is not None
    assert b is not None
    return torch.allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE * float(b.abs().max()))


def affine_head(
    tail: HeadFunction, branches: tuple[HeadBranch, ...], pooled: Sequence[Tensor], logits: Sequence[Tensor]
) -> Head | None:
    """The head with weight and bias that hold for every image, or None if what follows the pooling is not affine."""
    tried = torch.cat(_noise(pooled[0].shape, pooled[0]))
    zero, expected = tail.logits(torch.zeros_like(pooled[0])), tail.logits(tried)
    # Sums of inputs give sums of outputs: far quicker seen than the Jacobian of a flattened head is read.
    sums = tail.logits(tried.sum(0, keepdim=True)) - zero
    if (sums - (expected - zero).sum(0)).abs().max() > 1e-3 * (expected.abs().max() + 1):
        return None
    weight, bias = tail.jacobian(pooled[0]), zero[0]
    if not _predicts(weight, bias, tried, expected):
        return None
    if not all(_predicts(weight, bias, *one) for one in zip(pooled, logits, strict=True)):
        raise _more()
    identity = torch.eye(len(weight), dtype=weight.dtype, device=weight.device)
    per_class = len(branches) == 1 and weight.shape == identity.shape and torch.equal(weight, identity)
    return Head(branches, weight, bias, len(bias), "exact", per_class)


def _predicts(weight: Tensor, bias: Tensor, pooled: Tensor, logits: Tensor) -> bool:
    total = pooled.abs() @ weight.abs().T + bias.abs()
    return bool((relative_error(pooled @ weight.T + bias, logits, total) <= 1).all())


def _more() -> HeadError:
    return HeadError(
        "More than the pooled feature maps reaches the logits (another branch of the network does): "
        "class maps of this pooling alone would not sum to the logits."
    )


def _refuse_more(tail: HeadFunction, pooled: Tensor) -> None:
    """Raise HeadError if the same pooled values give other logits on another image."""
    expected = tail.logits(pooled)
    for image in _noise(tail.inputs.shape, tail.inputs):
        logits = HeadFunction(tail.network, image, tail.calls, tail.widths).logits(pooled)
        if not torch.allclose(logits, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max())):
            raise _more()


def _verdict_of_image(
    tail: HeadFunction, branches: Sequence[HeadBranch], seen: Sequence[list[CapturedPooling]]
) -> Verdict:
    """Whether, statistics and gates held, the logits of every image that was seen are an exact sum."""
    for found in seen:
        for branch, one in zip(branches, found, strict=True):
            if branch.pooling == "other":
                rest = _pooled(one) - position_shares("other", one.feature_maps, one.derivative).sum((2, 3))
                if rest.abs().max() > TOLERANCE * (_pooled(one).abs().max() + 1):
                    return "not unique"
    # The example, the image furthest from it, and one that is no image's: in double precision each takes its time.
    points = [torch.cat([_pooled(one) for one in found], 1) for found in (seen[0], seen[-1])]
    points += _noise(points[0].shape, points[0])[:1]
    return "exact for this image" if all(is_locally_affine(tail, point) for point in points) else "not unique"


def is_locally_affine(tail: HeadFunction, pooled: Tensor) -> bool:
    """Whether the tail, statistics held, goes straight from here in one of four random directions.

    One is enough: what bends does so in all of them, and a gate that happens to turn on the way spoils one.
    """
    generator = torch.Generator().manual_seed(2)
    # Apple's GPUs have no double precision: there it needs luck to be called straight, and it is never wrongly.
    pooled = pooled if pooled.device.type == "mps" else pooled.double()
    directions = torch.randn(4, pooled.shape[1], generator=generator).to(pooled)
    steps = _STEP * pooled.square().mean().sqrt() * directions
    # From where it is, the steps to first order; and behind them where they lead.
    points = torch.cat([pooled.expand_as(steps), pooled + steps])
    logits, changes = tail.frozen_jvp(points, torch.cat([steps, torch.zeros_like(steps)]))
    bent = (logits[4:] - logits[:4] - changes[:4]).abs().amax(1)
    return bool((bent <= _STRAIGHT * changes[:4].abs().amax(1)).any())
