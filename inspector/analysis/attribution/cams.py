"""Class activation maps: weighted sums of the feature maps F before the pooling, (C, h, w).

Most weights are functions of the gradient g = d logit / d F. If the head is affine, the sum over c of g[c] * F[c] is
the exact map: this is HiResCAM. With average pooling, g is weight / (h * w) in every cell, so that Grad-CAM is the
exact map too, apart from its ReLU.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from inspector.analysis.attribution.case import CHUNK, Case, MethodResult
from inspector.errors import AttributionError
from inspector.explain.tracing.forward import capture_poolings, forward, forward_logits
from inspector.explain.tracing.pooling_calls import PoolingCall, PoolingCallDetector

SCORED_CHANNELS = 128  # most channels that Score-CAM uses: each takes a pass, and an EfficientNet has 1280
_ROWS = 256  # rows of pooled values per run of the head


def compute_exact_map(case: Case) -> MethodResult:
    """Compute the exact class map (Zhou et al., CVPR 2016; here signed and in logits)."""
    maps = case.compute_class_maps()
    note = "" if maps.verdict == "exact" else f"Verdict: {maps.verdict}."
    return MethodResult(maps.values[case.k], float(maps.logits[case.k] - maps.bias[case.k]), note)


def sum_weighted_maps(case: Case, weigh: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Weight the feature maps before each pooling, and sum them over all channels and poolings.

    Args:
        case: image and class.
        weigh: takes feature maps F and gradient g, both (C, h, w), and returns weighted maps of the same shape.

    Returns:
        (h, w), on the finest grid of all poolings.
    """
    poolings: dict[int, PoolingCall] = {}

    def keep(call: PoolingCall) -> Tensor:
        if call.index in case.classifier.head.calls:
            poolings[call.index] = call
        return call.result

    case.count_images(1)
    logits = forward_logits(case.network, case.inputs.clone().requires_grad_(), PoolingCallDetector(keep))
    gradients = torch.autograd.grad(logits[0, case.k], [call.source for call in poolings.values()])
    maps = [
        weigh(*(call.layout.feature_maps(tensor.detach())[0] for tensor in (call.source, gradient))).sum(0)
        for call, gradient in zip(poolings.values(), gradients, strict=True)
    ]
    return sum_on_finest_grid(case, maps)


def sum_on_finest_grid(case: Case, maps: Sequence[Tensor]) -> Tensor:
    """Lay the map (h, w) of each branch on the finest of their grids, keeping its total, and return their sum."""
    return torch.stack(case.classifier.head.lay_on_finest_grid(maps)).sum(0)


def compute_grad_cam(case: Case) -> MethodResult:
    """Compute Grad-CAM: relu(sum over c of mean(g[c]) * F[c]) (Selvaraju et al., ICCV 2017)."""
    values = sum_weighted_maps(case, lambda maps, gradient: gradient.mean((1, 2), keepdim=True) * maps).relu()
    head = case.classifier.head
    if head.pooling == "average" and head.verdict == "exact":
        return MethodResult(values, note="With average pooling, this is the exact map without its negative values.")
    return MethodResult(values)


def compute_hires_cam(case: Case) -> MethodResult:
    """Compute HiResCAM: sum over c of g[c] * F[c] (Draelos and Carin, arXiv 2011.08891, 2020)."""
    values = sum_weighted_maps(case, lambda maps, gradient: gradient * maps)
    head = case.classifier.head
    # For other heads, HiResCAM makes no claim about the sum of its map.
    if head.verdict == "exact" and head.pooling in ("average", "max", "flatten"):
        return MethodResult(values, compute_exact_map(case).target, "The head is affine, so this is the exact map.")
    return MethodResult(values)


def compute_grad_cam_plus_plus(case: Case) -> MethodResult:
    """Compute Grad-CAM++ (Chattopadhay et al., WACV 2018).

    weight[c] = sum over cells of alpha * relu(g[c]),  alpha = g[c]^2 / (2 g[c]^2 + sum(F[c]) * g[c]^3)
    """

    def weigh(maps: Tensor, gradient: Tensor) -> Tensor:
        denominator = 2 * gradient**2 + maps.sum((1, 2), keepdim=True) * gradient**3
        alpha = torch.where(denominator == 0, 0, gradient**2 / denominator)
        return (alpha * gradient.relu()).sum((1, 2), keepdim=True) * maps

    return MethodResult(sum_weighted_maps(case, weigh).relu())


def compute_layer_cam(case: Case) -> MethodResult:
    """Compute LayerCAM: relu(sum over c of relu(g[c]) * F[c]) (Jiang et al., TIP 2021)."""
    return MethodResult(sum_weighted_maps(case, lambda maps, gradient: gradient.relu() * maps).relu())


def compute_ablation_cam(case: Case) -> MethodResult:
    """Compute Ablation-CAM: weight[c] is the drop of the logit without channel c (Desai and Ramaswamy, WACV 2020).

    For each channel, only the head runs again, with the pooled values of this channel set to zero.
    """
    head = case.classifier.head
    if not {branch.pooling for branch in head.branches} <= {"average", "max", "flatten"}:
        raise AttributionError(
            f"Ablation-CAM removes a channel by setting its pooled values to zero. With {head.pooling} pooling, "
            "this does not remove the channel."
        )
    captured, logits = capture_poolings(case.network, case.inputs, head.calls)
    case.count_images(1)
    head_function, start, maps = head.head_function(case.network, case.inputs), 0, []
    pooled = torch.cat([pooling.pooled for pooling in captured if pooling.pooled is not None], 1)
    for branch, pooling in zip(head.branches, captured, strict=True):
        channels = pooling.feature_maps.shape[1]
        masks = torch.eye(channels, dtype=torch.bool).repeat_interleave(branch.width // channels, 1).to(pooled.device)
        ablated = functional.pad(masks, (start, pooled.shape[1] - start - branch.width))  # (C, P)
        lower = [head_function.widened_logits(pooled.where(~rows, 0))[:, case.k] for rows in ablated.split(_ROWS)]
        drops = logits[0, case.k] - torch.cat(lower)
        maps.append((drops[:, None, None] * pooling.feature_maps[0]).sum(0))
        start += branch.width
    return MethodResult(sum_on_finest_grid(case, maps).relu())


def compute_score_cam(case: Case) -> MethodResult:
    """Compute Score-CAM: weight[c] is the class probability of the photo multiplied by F[c] scaled to 0-1.

    Wang et al., CVPR Workshops 2020. Only the channels with the largest standard deviation are used.
    """
    feature_maps = case.compute_class_maps().feature_maps
    most_varied = feature_maps.flatten(1).std(1, correction=0).argsort(descending=True, stable=True)
    maps = feature_maps[most_varied[:SCORED_CHANNELS]]
    lowest, highest = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    # The mask of a constant channel is 0 everywhere, in place of 0 / 0: it hides the whole photo.
    masks = torch.where(highest > lowest, (maps - lowest) / (highest - lowest), 0)[:, None]
    masks = functional.interpolate(masks, case.inputs.shape[2:], mode="bilinear").to(case.inputs)
    scores = []
    for chunk in masks.split(CHUNK):
        case.count_images(len(chunk))
        logits = forward(case.network, chunk * case.inputs)
        scores.append(case.classifier.scores(logits)[:, case.k])
    values = (torch.cat(scores)[:, None, None] * maps).sum(0).relu()
    note = f"Only the {SCORED_CHANNELS} most varied of {len(feature_maps)} channels, because each takes a forward pass."
    return MethodResult(values, note=note if len(feature_maps) > SCORED_CHANNELS else "")
