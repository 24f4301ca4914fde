"""The exact class map beside other methods that attribute a logit to positions: the only module that imports Captum.

Two families: class activation maps weigh the feature maps F before pooling, (C, h, w), by something, mostly by the
gradient g = d logit / d F; the others give every pixel of the input a value. Some claim that the values add up:

    exact map, HiResCAM                          sum = logit - bias
    integrated gradients, DeepLIFT, SHAP         sum = logit - logit of the baseline
    LRP                                          sum = logit, less what the biases take

and whether they do is said with every map. Two must coincide where the head is affine: with average pooling Grad-CAM
before its ReLU, and with every pooling HiResCAM, are the exact map, because g is weight / (h * w) there.

Captum reads a network through hooks on its modules, which misses what is a function, in place or used twice. So its
hooks get modules of their own, one for each call of the pass; the caller's network has no part in it.
"""

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from captum.attr import LRP, DeepLift, GuidedBackprop, InputXGradient, IntegratedGradients, Occlusion, Saliency
from captum.attr._core.deep_lift import SUPPORTED_NON_LINEAR, nonlinear
from captum.attr._core.lrp import SUPPORTED_NON_LINEAR_LAYERS
from captum.attr._utils.lrp_rules import EpsilonRule
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from inspector.errors import AttributionError, Cancelled, InspectorError, summarize_reason
from inspector.explain.class_maps import ClassMaps, class_maps_of_batch
from inspector.explain.classifier import Classifier
from inspector.explain.pooling import resample_conserving
from inspector.explain.tracing.forward import (
    capture_chosen_poolings,
    copy_sharing_parameters,
    eval_mode,
    forward,
    forward_logits,
)
from inspector.explain.tracing.pooling_calls import PoolingCall, on_pooling_calls, op_name
from inspector.explain.tracing.receptive_field import Axis, ReceptiveField

OnProgress = Callable[[float], None]  # how much is done, 0-1
ShouldStop = Callable[[], bool]  # whether to stop

STEPS = 50  # of integrated gradients, as Captum does by default
DRAWS = 33  # of gradient SHAP, which takes three baselines in turn, and SmoothGrad
SCORED = 128  # channels of Score-CAM: of an EfficientNet's 1280 each takes a pass
WINDOWS = 7  # of occlusion side by side; each is moved by half its side
_ROWS = 256  # of pooled values at a time
_CHUNK = 4  # images at a time: more are no quicker on a CPU, take more memory, and stop later
_PIXEL = Axis(centre=0.5, stride=1, size=1)
PIXELS = ReceptiveField(_PIXEL, _PIXEL)  # of a map that has a value a pixel of the input


@dataclass(frozen=True)
class Completeness:
    """Whether a map adds up to what its method says that it does, in logits."""

    sum: float
    target: float
    what: str  # the target in words: "logit less bias"

    @property
    def miss(self) -> float:
        return abs(self.sum - self.target)

    @property
    def holds(self) -> bool:
        """To 1 % of the target, or 0.01 logits."""
        return self.miss <= max(0.01, 0.01 * abs(self.target))


@dataclass(frozen=True, eq=False)
class Attribution:
    """What one method says about one class of one image."""

    name: str  # in METHODS
    values: Tensor  # (h, w), signed, in its own unit
    unit: str
    seconds: float
    completeness: Completeness | None  # None: the method makes no such claim
    note: str  # what a reader of this map should know, or nothing
    field: ReceptiveField  # where its cells lie on the input


@dataclass(frozen=True, eq=False)
class Case:
    """One image and one class, as every method gets them."""

    classifier: Classifier
    network: nn.Module  # the classifier's own, or a copy on its parameters that needs no gradients of them
    inputs: Tensor  # (1, channels, H, W), normalised: 0 is the mean colour, which is the baseline
    k: int
    step: Callable[[int], None]  # told of so many images that pass; raises Cancelled

    def logits(self, images: Tensor) -> Tensor:
        """The class's logits (N,) of images (N, channels, H, W)."""
        self.step(len(images))
        return forward_logits(self.network, images)[:, self.k]

    def gradients(self, images: Tensor) -> Tensor:
        """d logit / d input, (N, channels, H, W)."""
        leaf = images.detach().clone().requires_grad_()
        return torch.autograd.grad(self.logits(leaf).sum(), leaf)[0]

    def maps(self) -> ClassMaps:
        (maps,) = class_maps_of_batch(self.classifier, self.inputs)
        self.step(1)
        return maps


@dataclass(frozen=True, eq=False)
class MethodResult:
    """What a method made of a case."""

    values: Tensor  # (h, w)
    target: float | None = None  # what their sum should be, where the method says so
    note: str = ""


@dataclass(frozen=True)
class Method:
    """A line of the table."""

    compute: Callable[[Case], MethodResult]
    grid: Literal["cells", "pixels"]  # the grid of the class maps, or that of the input
    unit: str
    target: str | None  # what the values add up to, in words
    line: str  # what it does, in one line
    paper: str
    images: int  # about how many pass through the network, for the progress


def compute_attribution(
    classifier: Classifier,
    inputs: Tensor,
    k: str | int,
    name: str,
    tell: OnProgress = lambda done: None,
    cancelled: ShouldStop = lambda: False,
) -> Attribution:
    """What the method of this name says about class k of an input (1, channels, H, W).

    Random steps have fixed seeds. Raises AttributionError where the method does not apply, Cancelled when told to stop.
    """
    if name not in METHODS:
        raise AttributionError(f"No method {name!r}; there are {', '.join(METHODS)}.")
    method, passed = METHODS[name], 0

    def step(images: int) -> None:
        nonlocal passed
        if cancelled():
            raise Cancelled(f"{name} was stopped.")
        passed += images
        tell(min(1.0, passed / method.images))

    start = time.perf_counter()
    # Ordinary tensors: those of an inference mode know no gradients.
    with torch.inference_mode(False), torch.enable_grad(), eval_mode(classifier.network):
        case = Case(classifier, _frozen(classifier.network), inputs.clone(), classifier.class_index(k), step)
        try:
            drawn = method.compute(case)
        except InspectorError:
            raise
        # Captum asserts, and what it cannot hook fails in many ways.
        except (RuntimeError, AssertionError, TypeError, ValueError, AttributeError, KeyError, IndexError) as error:
            raise AttributionError(f"{name} does not apply to {classifier.name}: {summarize_reason(error)}.") from error
    values, completeness = drawn.values.detach(), None
    if drawn.target is not None and method.target is not None:
        completeness = Completeness(float(values.double().sum()), drawn.target, method.target)
    note = drawn.note if values.any() else "It is zero everywhere: nothing is left after its ReLU."
    field = classifier.receptive_field if method.grid == "cells" else PIXELS
    return Attribution(name, values, method.unit, time.perf_counter() - start, completeness, note, field)


def _frozen(network: nn.Module) -> nn.Module:
    """A copy on the same values that keeps nothing for gradients of its parameters; the network where none can be."""
    copy = copy_sharing_parameters(network)
    for module in () if copy is None else copy.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(parameter.data, requires_grad=False)
    return network if copy is None else copy


# Class activation maps


def _exact(case: Case) -> MethodResult:
    maps = case.maps()
    note = "" if maps.verdict == "exact" else f"The verdict on this map is: {maps.verdict}."
    return MethodResult(maps.values[case.k], float(maps.logits[case.k] - maps.bias[case.k]), note)


def _weighted_feature_maps(case: Case, weigh: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The sum over channels of what `weigh` makes of F and g, both (C, h, w), over all poolings: (h, w)."""
    found: dict[int, PoolingCall] = {}

    def keep(seen: PoolingCall) -> Tensor:
        if seen.index in case.classifier.head.calls:
            found[seen.index] = seen
        return seen.result

    case.step(1)
    logits = forward_logits(case.network, case.inputs.clone().requires_grad_(), on_pooling_calls(keep))
    gradients = torch.autograd.grad(logits[0, case.k], [seen.source for seen in found.values()])
    maps = [
        weigh(*(seen.layout.feature_maps(tensor.detach())[0] for tensor in (seen.source, gradient))).sum(0)
        for seen, gradient in zip(found.values(), gradients, strict=True)
    ]
    return _on_finest(maps)


def _on_finest(maps: Sequence[Tensor]) -> Tensor:
    height, width = max((one.shape for one in maps), key=lambda shape: shape.numel())
    return torch.stack([resample_conserving(one, (height, width)) for one in maps]).sum(0)


def _grad_cam(case: Case) -> MethodResult:
    values = _weighted_feature_maps(case, lambda maps, slope: slope.mean((1, 2), keepdim=True) * maps).relu()
    head = case.classifier.head
    if head.pooling == "average" and head.verdict == "exact":
        return MethodResult(values, note="With average pooling it is the exact map, cut off below zero by its ReLU.")
    return MethodResult(values)


def _hires_cam(case: Case) -> MethodResult:
    values = _weighted_feature_maps(case, lambda maps, slope: slope * maps)
    head = case.classifier.head
    # Elsewhere nobody says that it adds up.
    if head.verdict == "exact" and head.pooling in ("average", "max", "flatten"):
        maps = case.maps()
        target = float(maps.logits[case.k] - maps.bias[case.k])
        return MethodResult(values, target, "What follows the feature maps is affine, so it is the exact map.")
    return MethodResult(values)


def _grad_cam_plus_plus(case: Case) -> MethodResult:
    def weigh(maps: Tensor, slope: Tensor) -> Tensor:
        below = 2 * slope**2 + maps.sum((1, 2), keepdim=True) * slope**3
        share = torch.where(below == 0, 0, slope**2 / below)
        return (share * slope.relu()).sum((1, 2), keepdim=True) * maps

    return MethodResult(_weighted_feature_maps(case, weigh).relu())


def _layer_cam(case: Case) -> MethodResult:
    return MethodResult(_weighted_feature_maps(case, lambda maps, slope: slope.relu() * maps).relu())


def _ablation_cam(case: Case) -> MethodResult:
    """Each channel weighs what the logit loses without it; only what follows the pooling runs for that."""
    head = case.classifier.head
    if not {branch.pooling for branch in head.branches} <= {"average", "max", "flatten"}:
        raise AttributionError(
            f"Ablation-CAM takes a channel away by setting what was pooled of it to zero, and with {head.pooling} "
            "pooling that is not the same."
        )
    heard, logits = capture_chosen_poolings(case.network, case.inputs, head.calls)
    case.step(1)
    tail, start, maps = head.head_function(case.network, case.inputs), 0, []
    pooled = torch.cat([one.pooled for one in heard if one.pooled is not None], 1)
    for branch, one in zip(head.branches, heard, strict=True):
        channels = one.feature_maps.shape[1]
        own = torch.eye(channels, dtype=torch.bool).repeat_interleave(branch.width // channels, 1).to(pooled.device)
        gone = functional.pad(own, (start, pooled.shape[1] - start - branch.width))  # (C, P)
        lost = [logits[0, case.k] - tail.logits(pooled.where(~rows, 0))[:, case.k] for rows in gone.split(_ROWS)]
        maps.append((torch.cat(lost)[:, None, None] * one.feature_maps[0]).sum(0))
        start += branch.width
    return MethodResult(_on_finest(maps).relu())


def _score_cam(case: Case) -> MethodResult:
    """Each channel weighs as much as the class is probable on a photo that shows only where the channel is active."""
    feature_maps = case.maps().feature_maps
    chosen = feature_maps.flatten(1).std(1, correction=0).argsort(descending=True, stable=True)[:SCORED]
    maps = feature_maps[chosen]
    least, most = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    # A channel that is the same everywhere shows the photo nowhere.
    masks = torch.where(most > least, (maps - least) / (most - least), 0)[:, None]
    masks = functional.interpolate(masks, case.inputs.shape[2:], mode="bilinear")
    scores = []
    for some in masks.split(_CHUNK):
        case.step(len(some))
        logits = forward(case.network, some * case.inputs)
        scores.append(case.classifier.probabilities(logits)[:, case.k])
    values = (torch.cat(scores)[:, None, None] * maps).sum(0).relu()
    some_only = f"The {SCORED} most varied of {len(feature_maps)} channels: each takes a pass of the network."
    return MethodResult(values, note=some_only if len(feature_maps) > SCORED else "")


# Every pixel of the input


def _by_captum(case: Case, explain: Callable[[Tensor], Any]) -> Tensor:
    """What Captum gives every value of the input, summed over its channels: (H, W)."""
    leaf = case.inputs.clone().requires_grad_()
    # It tells of every hook that it sets.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        values: Tensor = explain(leaf).detach().sum((0, 1))
    return values


def _saliency(case: Case) -> MethodResult:
    leaf = case.inputs.clone().requires_grad_()
    return MethodResult(Saliency(case.logits).attribute(leaf).detach()[0].amax(0))


def _smooth_grad(case: Case) -> MethodResult:
    """Noise of 15 % of the input's range."""
    generator = torch.Generator().manual_seed(0)
    spread = 0.15 * float(case.inputs.max() - case.inputs.min())
    total = torch.zeros_like(case.inputs)
    for count in _chunks(DRAWS):
        noise = torch.randn(count, *case.inputs.shape[1:], generator=generator).to(case.inputs)
        total += case.gradients(case.inputs + spread * noise).sum(0, keepdim=True)
    return MethodResult((total / DRAWS)[0].abs().amax(0))


def _input_x_gradient(case: Case) -> MethodResult:
    return MethodResult(_by_captum(case, InputXGradient(case.logits).attribute))


def _integrated_gradients(case: Case) -> MethodResult:
    explainer: Any = IntegratedGradients(case.logits)
    values = _by_captum(case, lambda leaf: explainer.attribute(leaf, n_steps=STEPS, internal_batch_size=_CHUNK))
    return MethodResult(values, _above(case, torch.zeros_like(case.inputs)))


def _gradient_shap(case: Case) -> MethodResult:
    """Own code: Captum's draws from the generators of the process, which all sessions share."""
    generator = torch.Generator().manual_seed(0)
    baselines = _plain(case)
    total = torch.zeros_like(case.inputs)
    # Each baseline in turn, and one point in each part of the way: that spreads less than free draws.
    turns = torch.arange(DRAWS)
    points = (turns + torch.rand(DRAWS, generator=generator)) / DRAWS
    for turn, along in zip(turns.split(_CHUNK), points.to(case.inputs).split(_CHUNK), strict=True):
        chosen = baselines[turn % len(baselines)]
        way = case.inputs - chosen
        total += (case.gradients(chosen + along[:, None, None, None] * way) * way).sum(0, keepdim=True)
    return MethodResult((total / DRAWS).sum((0, 1)), _above(case, baselines), f"An estimate from {DRAWS} draws.")


def _plain(case: Case) -> Tensor:
    """Photos of one colour, the mean, black and white: (3, channels, H, W)."""
    usual = case.classifier.preprocessing
    colours = [[0.0] * len(usual.mean)] + [
        [(light - mean) / std for mean, std in zip(usual.mean, usual.std, strict=True)] for light in (0, 1)
    ]
    return torch.tensor(colours).to(case.inputs)[:, :, None, None].expand(-1, *case.inputs.shape[1:])


def _above(case: Case, baselines: Tensor) -> float:
    """The logit less the mean of those of the baselines."""
    with torch.no_grad():
        logits = case.logits(torch.cat([case.inputs, baselines]))
    return float(logits[0] - logits[1:].mean())


def _chunks(count: int) -> Iterator[int]:
    return (min(_CHUNK, count - start) for start in range(0, count, _CHUNK))


def _occlusion(case: Case) -> MethodResult:
    channels, *size = case.inputs.shape[1:]
    height, width = (max(1, side // WINDOWS) for side in size)
    moved = (channels, max(1, height // 2), max(1, width // 2))
    explainer: Any = Occlusion(case.logits)
    with torch.no_grad():
        window = (channels, height, width)
        values = explainer.attribute(case.inputs, window, moved, perturbations_per_eval=_CHUNK)
    # All channels of a pixel have its one value.
    return MethodResult(values[0, 0], note=f"Windows of {height} x {width} pixels.")


def _deep_lift(case: Case) -> MethodResult:
    explainer: Any = DeepLift(_modular(case, _bending))
    values = _by_captum(case, lambda leaf: explainer.attribute(leaf, torch.zeros_like(leaf), target=case.k))
    target = _above(case, torch.zeros_like(case.inputs))
    missing = not Completeness(float(values.double().sum()), target, ABOVE).holds
    note = "It has no rule for what multiplies or normalises: gates, attention, LayerNorm." if missing else ""
    return MethodResult(values, target, note)


def _guided_grad_cam(case: Case) -> MethodResult:
    modular = _modular(case, _rectifying)
    if not modular.parts:
        raise AttributionError("Guided Grad-CAM changes the gradient of ReLUs, and this network has none.")
    explainer: Any = GuidedBackprop(modular)
    guided = _by_captum(case, lambda leaf: explainer.attribute(leaf, target=case.k))
    coarse = _grad_cam(case).values[None, None]
    return MethodResult(guided * functional.interpolate(coarse, guided.shape, mode="bilinear")[0, 0])


def _lrp(case: Case) -> MethodResult:
    explainer: Any = LRP(_modular(case, _affine_or_rectifying))
    values = _by_captum(case, lambda leaf: explainer.attribute(leaf, target=case.k))
    with torch.no_grad():
        target = float(case.logits(case.inputs))
    return MethodResult(
        values, target,
        "What is missing is what biases took. Where all that bends is ReLU and max pooling, this is input x gradient "
        "(Ancona et al., ICLR 2018).",
    )  # fmt: skip


# What Captum hooks: a module for each call that it has a rule for.


class _Call(nn.Module):
    """One call of a function in a pass; what else than tensors of the pass went into it stays as it was."""

    rule: EpsilonRule  # where LRP is to go through it

    def __init__(self, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        super().__init__()
        leaves, spec = tree_flatten((tuple(args), dict(kwargs)))
        places = [n for n, leaf in enumerate(leaves) if _moves(leaf)]
        kept = [None if _moves(leaf) else leaf for leaf in leaves]

        def again(*tensors: Tensor) -> Any:
            now = list(kept)
            for place, tensor in zip(places, tensors, strict=True):
                # A copy: in place it would spoil what the hooks keep.
                now[place] = tensor.clone()
            args, kwargs = tree_unflatten(now, spec)
            return function(*args, **kwargs)

        self.reapply = again

    def forward(self, *tensors: Tensor) -> Any:
        return self.reapply(*tensors)


class _Rectifier(_Call, nn.ReLU):
    """A ReLU or ReLU6."""


class _MaxPooling(_Call):
    pass


def _moves(value: object) -> bool:
    return isinstance(value, Tensor) and value.requires_grad and not isinstance(value, nn.Parameter)


def _rule_of_max_pooling(
    module: _MaxPooling, inputs: Tensor, outputs: Tensor, given: Tensor, got: Tensor, eps: float
) -> Tensor:
    """DeepLIFT's rule: the first half of a batch is the photo, the second the baseline.

    Captum's own loses what windows that overlap share.
    """
    (photo, baseline), (high, low) = inputs.chunk(2), outputs.chunk(2)
    most = torch.maximum(high, low)
    with torch.enable_grad():
        leaf = inputs.detach().clone().requires_grad_()
        changes = torch.cat([most - low, high - most])
        (routed,) = torch.autograd.grad(module.reapply(leaf), leaf, got * changes)
    change = photo - baseline
    slope = torch.where(change.abs() < eps, given.chunk(2)[0], sum(routed.chunk(2)) / change)
    return torch.cat([slope, slope])


SUPPORTED_NON_LINEAR.update({_Call: nonlinear, _Rectifier: nonlinear, _MaxPooling: _rule_of_max_pooling})
SUPPORTED_NON_LINEAR_LAYERS.append(_Rectifier)

_RECTIFIERS = ("relu", "relu_", "relu6")
_BENDS = (
    "hardtanh", "hardtanh_", "clamp", "clamp_", "clamp_min", "clamp_max", "elu", "elu_", "selu", "celu", "leaky_relu",
    "leaky_relu_", "sigmoid", "sigmoid_", "tanh", "tanh_", "softplus", "silu", "gelu", "mish", "hardswish",
    "hardsigmoid",
)  # fmt: skip
_MAXIMA = ("max_pool2d", "adaptive_max_pool2d", "amax")
_AFFINE = (
    "conv2d", "linear", "batch_norm", "avg_pool2d", "adaptive_avg_pool2d", "mean", "add", "add_", "__add__", "iadd",
    "__iadd__", "pad", "cat",
)  # fmt: skip
_LAYS_OUT = (
    "flatten", "view", "reshape", "squeeze", "unsqueeze", "permute", "transpose", "contiguous", "clone", "to", "float",
    "dropout", "size", "dim", "__get__", "numel", "chunk", "split", "type", "is_floating_point",
)  # fmt: skip

# A module for a call, or None where there is no rule for it.
_Make = Callable[[str, Callable[..., Any], Sequence[Any], dict[str, Any]], _Call | None]


def _rectifying(name: str, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> _Call | None:
    lower = kwargs.get("min_val", kwargs.get("min", args[1] if len(args) > 1 else None))
    if name in _RECTIFIERS or (name in ("hardtanh", "hardtanh_", "clamp", "clamp_", "clamp_min") and lower == 0):
        return _Rectifier(function, args, kwargs)
    return None


def _bending(name: str, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> _Call | None:
    if name in _MAXIMA:
        return _MaxPooling(function, args, kwargs)
    rectifier = _rectifying(name, function, args, kwargs)
    return _Call(function, args, kwargs) if rectifier is None and name in _BENDS else rectifier


def _affine_or_rectifying(
    name: str, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]
) -> _Call | None:
    if name in (*_AFFINE, *_MAXIMA):
        call = _Call(function, args, kwargs)
        call.rule = EpsilonRule()
        return call
    rectifier = _rectifying(name, function, args, kwargs)
    if rectifier is None and name not in _LAYS_OUT:
        raise AttributionError(
            f"LRP has no rule for {name!r}, which this network calls: it has them for layers and ReLU."
        )
    return rectifier


class _Modular(nn.Module):
    """A network's pass in which each call that `make` makes a module for goes through a module of its own."""

    def __init__(self, network: nn.Module, make: _Make) -> None:
        super().__init__()
        self.whole = (network,)  # no child: the hooks are for the parts
        self.make = make
        self.parts = nn.ModuleList()

    def forward(self, images: Tensor) -> Tensor:
        number = 0

        def perform(function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
            nonlocal number
            tensors = [leaf for leaf in tree_leaves((args, kwargs)) if _moves(leaf)]
            made = self.make(op_name(function), function, args, kwargs) if tensors else None
            if made is None:
                return function(*args, **kwargs)
            number += 1
            if number > len(self.parts):
                self.parts.append(made)
            # Clones: of two hooks on one tensor, the earlier part's would hear what the later part's has yet to change.
            return self.parts[number - 1](*(tensor.clone() for tensor in tensors))

        return forward_logits(self.whole[0], images, perform)


def _modular(case: Case, make: _Make) -> _Modular:
    modular = _Modular(case.network, make)
    case.step(2)
    logits = modular(case.inputs.clone().requires_grad_())
    if not torch.allclose(logits, forward(case.network, case.inputs), rtol=1e-3, atol=1e-3):
        raise AttributionError("This network works in place where nobody sees it: Captum's hooks change its logits.")
    return modular


LOGITS = "logits"
ABOVE = "logit less that of the baseline"
METHODS: Mapping[str, Method] = {
    "Exact map": Method(
        _exact, "cells", LOGITS, "logit less bias",
        "Every position's part of the logit, read off the head.", "Zhou et al., CVPR 2016", 1,
    ),
    "Grad-CAM": Method(
        _grad_cam, "cells", LOGITS, None,
        "Feature maps weighed by their mean gradient, cut off below zero.", "Selvaraju et al., ICCV 2017", 1,
    ),
    "Grad-CAM++": Method(
        _grad_cam_plus_plus, "cells", "its own", None,
        "Grad-CAM with weights that favour positions with positive gradients.",
        "Chattopadhay et al., WACV 2018", 1,
    ),
    "HiResCAM": Method(
        _hires_cam, "cells", LOGITS, "logit less bias",
        "Feature maps times their gradient, position by position.", "Draelos and Carin, 2020", 2,
    ),
    "LayerCAM": Method(
        _layer_cam, "cells", LOGITS, None,
        "The same with positive gradients only.", "Jiang et al., TIP 2021", 1,
    ),
    "Ablation-CAM": Method(
        _ablation_cam, "cells", "its own", None,
        "Feature maps weighed by what the logit loses without each.", "Desai and Ramaswamy, WACV 2020", 1,
    ),
    "Score-CAM": Method(
        _score_cam, "cells", "its own", None,
        "Feature maps weighed by the probability of the photo behind each as a mask.", "Wang et al., CVPR 2020", SCORED,
    ),
    "Saliency": Method(
        _saliency, "pixels", "logits per unit of input", None,
        "How strongly the logit answers to each pixel: the size of the gradient.", "Simonyan et al., 2013", 1,
    ),
    "SmoothGrad": Method(
        _smooth_grad, "pixels", "logits per unit of input", None,
        "The gradient, averaged over photos with noise.", "Smilkov et al., 2017", DRAWS,
    ),
    "Input x gradient": Method(
        _input_x_gradient, "pixels", LOGITS, None,
        "What each pixel brings to first order.", "Shrikumar et al., 2016", 1,
    ),
    "Integrated gradients": Method(
        _integrated_gradients, "pixels", LOGITS, ABOVE,
        "The gradient along the way from a photo of the mean colour, times the way.",
        "Sundararajan et al., ICML 2017", STEPS + 2,
    ),
    "Gradient SHAP": Method(
        _gradient_shap, "pixels", LOGITS, "logit less the mean of those of the baselines",
        "The same from black, white and the mean colour, at random points of the way.",
        "Lundberg and Lee, NeurIPS 2017", DRAWS + 4,
    ),
    "DeepLIFT": Method(
        _deep_lift, "pixels", LOGITS, ABOVE,
        "Differences from the baseline, handed back layer by layer.", "Shrikumar et al., ICML 2017", 4,
    ),
    "LRP": Method(
        _lrp, "pixels", LOGITS, "logit",
        "The logit, handed back layer by layer in proportion to what came in (epsilon rule).",
        "Bach et al., PLoS ONE 2015", 3,
    ),
    "Guided Grad-CAM": Method(
        _guided_grad_cam, "pixels", "its own", None,
        "Gradients that pass ReLUs only where positive, times Grad-CAM.", "Selvaraju et al., ICCV 2017", 3,
    ),
    "Occlusion": Method(
        _occlusion, "pixels", LOGITS, None,
        "What the logit loses where a window of the mean colour lies.", "Zeiler and Fergus, ECCV 2014",
        (2 * WINDOWS) ** 2,
    ),
}  # fmt: skip
