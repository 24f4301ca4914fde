"""Find the pooling and what follows it, and prove both by number.

The last call on the way to the logits that takes every channel to one value is the pooling. With its result p handed
back as a free variable, the rest of the network is a function from p to the logits. If that function is affine,

    logit[k] = bias[k] + sum over j of  weight[k, j] * p[j]

then its Jacobian is the weight and its value at p = 0 is the bias. That it is affine, and that nothing else of the
image reaches the logits, is checked on inputs it was not read from. No name or type of a layer is asked for.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from inspector.capture import Reduction, capture, reductions, substitute
from inspector.errors import HeadError, NetworkError
from inspector.pooling import Pooling, recognise

Verdict = Literal["exact", "not exact"]

TOLERANCE = 1e-5  # of the sum of all that was added up, in float32
_STRETCHES = (1, -10, 100)  # of the values that a head is tried with: one that bends bends somewhere far out


@dataclass(frozen=True, eq=False)
class Head:
    """How the pooled feature maps become the logits."""

    pooling: Pooling
    weight: Tensor  # (K, C), or (K, C * h * w) where the feature maps are flattened
    bias: Tensor  # (K,)
    call: int  # which of the network's reductions the pooling is
    per_class: bool  # the feature maps are the class maps themselves: the weight is the identity


def find_head(network: nn.Module, example: Tensor) -> Head:
    """The head of a network, read with one example input (1, channels, H, W).

    Raises HeadError where there is no pooling, the rest of the network is not affine, or more reaches the logits
    than the pooled values.
    """
    found, _ = reductions(network, example)
    pooling = _last_on_the_way(network, example, found)
    kinds = recognise(pooling.feature_maps, pooling.pooled)
    # Feature maps that are the same everywhere, all silent after a ReLU say, are pooled alike by every pooling.
    for stretch in _STRETCHES if len(kinds) > 1 else ():
        image = stretch * torch.randn(example.shape, generator=torch.Generator().manual_seed(2)).to(example)
        other, _ = capture(network, image, pooling.index)
        kinds = [kind for kind in kinds if kind in recognise(other.feature_maps, other.pooled)]
    if not kinds:
        shape = tuple(pooling.feature_maps.shape[1:])
        raise HeadError(
            f"The last feature maps {shape} are pooled neither by average, nor by maximum, nor flattened: "
            "their class maps would not be exact."
        )
    bias = _without_gradient(network, example, pooling.index, torch.zeros_like(pooling.pooled))[0]
    weight = _jacobian(network, example, pooling, len(bias))
    identity = torch.eye(len(weight), dtype=weight.dtype, device=weight.device)
    head = Head(kinds[0], weight, bias, pooling.index, weight.shape == identity.shape and torch.equal(weight, identity))
    _prove(network, example, head)
    return head


def misses(predicted: Tensor, logits: Tensor, total: Tensor) -> Tensor:
    """How far a sum lies from its logit in units of what may be: above 1 it is wrong. All (..., K).

    `total` is the sum of the absolute values of what was added up, bias included.
    """
    return (predicted - logits).abs() / (TOLERANCE * (total + 1))


def _last_on_the_way(network: nn.Module, example: Tensor, found: list[Reduction]) -> Reduction:
    for reduction in reversed(found):
        pooled = reduction.pooled.requires_grad_()
        with torch.enable_grad():
            total = substitute(network, example, reduction.index, pooled).sum()
        reached = total.requires_grad and torch.autograd.grad(total, pooled, allow_unused=True)[0] is not None
        pooled.requires_grad_(False)
        if reached:
            return reduction
    raise HeadError(
        "No pooling was found: nothing on the way to the logits takes every channel of a feature map to one value. "
        "A network that ends in global average or global max pooling, or in flatten and Linear, would do."
    )


def _without_gradient(network: nn.Module, example: Tensor, call: int, pooled: Tensor) -> Tensor:
    with torch.no_grad():
        return substitute(network, example, call, pooled)


def _jacobian(network: nn.Module, example: Tensor, pooling: Reduction, classes: int) -> Tensor:
    """d logits / d pooled at the example: (K, P)."""
    # One row a class, so that one backward pass gives all rows. (torch's batched gradients import sympy: a second.)
    rows = pooling.pooled.repeat(classes, 1).requires_grad_()
    try:
        with torch.enable_grad():
            logits = substitute(network, example, pooling.index, rows)
            if logits.shape == (classes, classes):
                return torch.autograd.grad(logits.diagonal().sum(), rows)[0]
    except NetworkError:
        pass
    # The network reshapes to the batch size of its input: a backward pass a class, then.
    row = pooling.pooled.clone().requires_grad_()
    with torch.enable_grad():
        logits = substitute(network, example, pooling.index, row)[0]
        gradients = [torch.autograd.grad(logits[k], row, retain_graph=True)[0] for k in range(classes)]
    return torch.cat(gradients)


def _prove(network: nn.Module, example: Tensor, head: Head) -> None:
    """Raise HeadError unless weight and bias predict the logits of other pooled values and of other images."""
    generator = torch.Generator().manual_seed(1)
    for stretch in _STRETCHES:
        pooled = stretch * torch.randn(1, head.weight.shape[1], generator=generator).to(example)
        if not _predicts(head, pooled, _without_gradient(network, example, head.call, pooled)):
            raise HeadError(
                "What follows the pooling is not affine (an activation, a normalisation or several layers stand "
                "there): its logits do not split exactly over positions."
            )
    for stretch in _STRETCHES:
        image = stretch * torch.randn(example.shape, generator=generator).to(example)
        other, logits = capture(network, image, head.call)
        if head.pooling not in recognise(other.feature_maps, other.pooled):
            raise HeadError(f"The pooling changes with the image: {head.pooling} for one, something else for another.")
        if not _predicts(head, other.pooled, logits):
            raise HeadError(
                "More than the pooled feature maps reaches the logits (another branch of the network does): "
                "class maps of this pooling alone would not sum to the logits."
            )


def _predicts(head: Head, pooled: Tensor, logits: Tensor) -> bool:
    total = pooled.abs() @ head.weight.abs().T + head.bias.abs()
    return bool((misses(pooled @ head.weight.T + head.bias, logits, total) <= 1).all())
