"""The feature maps of every layer on the way, and what each channel of them does on one photo.

A layer is any module of the network, a block too, in one of its runs. Its channels' parts of a logit are known exactly
only where nothing but the pooling and the head follows. Elsewhere they are told to first order, gradient x activation,

    part[c] = sum over y, x of  F[c, y, x] * d logit / d F[c, y, x]

which is what the logit would lose if it went on as straight as it starts while channel c is taken away (Shrikumar et
al., "Not just a black box", 2016). Of different layers such parts do not agree, and they sum to no logit.
"""

import math
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from inspector.errors import NetworkError
from inspector.explain.class_maps import ClassMaps
from inspector.explain.classifier import Classifier
from inspector.explain.pooling import Reduction, global_depth
from inspector.explain.tracing.layer_trace import Layer, trace_layers
from inspector.explain.tracing.module_hooks import ModuleOutput, hook_modules, output_and_gradient
from inspector.explain.tracing.pooling_calls import FeatureLayout
from inspector.explain.tracing.receptive_field import ReceptiveField, make_even_field
from inspector.images.photo import ImageSource, Photo, read_image
from inspector.images.preprocessing import View, make_view

ContributionKind: TypeAlias = Literal["exact", "exact for this image", "first order"]

_SATURATED = 0.999  # of the ceiling counts as at it: a sigmoid comes to 1 only by rounding


@dataclass(frozen=True, eq=False)
class LayerMaps:
    """The feature maps of one layer on one photo."""

    layer: Layer
    maps: Tensor  # (C, h, w)
    receptive_field: ReceptiveField
    view: View

    @property
    def has_negatives(self) -> bool:
        return bool((self.maps < 0).any())

    def pool_channels(self, reduction: Reduction) -> Tensor:
        """The mean or maximum over all channels at every position: (h, w)."""
        return global_depth(self.maps[None], reduction)[0, 0]


@dataclass(frozen=True, eq=False)
class ChannelStatistics:
    """What each channel does on one photo; all (C,)."""

    mean: Tensor
    highest: Tensor
    zeros: Tensor  # the share of positions that are exactly 0
    saturated: Tensor  # the share of positions at the ceiling; 0 where there is none

    @property
    def dead(self) -> Tensor:
        """Channels that are 0 at every position: after a ReLU, never active on this photo."""
        return self.zeros == 1


@dataclass(frozen=True, eq=False)
class LayerContributions:
    """What each channel of a layer brings to one logit."""

    values: Tensor  # (C,), in logits
    kind: ContributionKind


def list_layers(classifier: Classifier) -> tuple[Layer, ...]:
    """All modules as they run on an input of the classifier's size, a block before what is inside it."""
    return trace_layers(classifier.network, classifier.noise_input()).layers


def find_pooled_layer(classifier: Classifier, layers: tuple[Layer, ...]) -> Layer:
    """Of those, the last to end that has as many channels and positions as the feature maps before pooling."""
    finest = classifier.head.finest_branch
    with_maps = sorted((layer for layer in layers if layer.size is not None), key=lambda layer: layer.ended)
    if not with_maps:
        raise NetworkError(
            f"No module of {classifier.name} returns feature maps (1, C, h, w): its layers are called as functions, "
            "and only modules can be looked at."
        )
    on_grid = [layer for layer in with_maps if layer.size is not None and layer.size[1:] == finest.grid]
    same_width = [layer for layer in on_grid if layer.size is not None and layer.size[0] == finest.width]
    return (same_width or on_grid or with_maps)[-1]


def compute_layer_maps(classifier: Classifier, image: ImageSource | Photo | View, layer: str | Layer) -> LayerMaps:
    """The feature maps of a layer, named or one of `layers`, in one pass.

    Of a module that runs several times its first run, unless the name says another: "layer4.1.relu (run 2)". Raises
    NetworkError where no module has that name, or returns no feature maps.
    """
    if isinstance(layer, str):
        layer = find_layer(list_layers(classifier), layer)
    if not isinstance(image, View):
        image = make_view(image if isinstance(image, Photo) else read_image(image), classifier.preprocessing)
    captured: list[Tensor] = []

    def capture(returned: ModuleOutput) -> None:
        if (returned.name, returned.run) == (layer.name, layer.run):
            # A copy: an in-place ReLU that follows would rewrite an alias.
            captured.append(returned.output.clone())

    with torch.no_grad():
        hook_modules(classifier.network, classifier.inputs(image), capture)
    if not captured:
        raise NetworkError(f"The layer {layer.label} did not run on an input of {classifier.preprocessing.size}.")
    (maps,) = _lay_out_maps(layer, captured[0], classifier)
    field = layer.field or make_even_field(classifier.preprocessing.size, maps.shape[1:])
    return LayerMaps(layer, maps, field, image)


def find_layer(layers: tuple[Layer, ...], label: str) -> Layer:
    """The layer with this label; with a name alone, in its first run."""
    for layer in layers:
        if label == layer.label or (label == layer.name and layer.run == 0):
            return layer
    labels = list(dict.fromkeys(layer.name for layer in layers))
    nearest = get_close_matches(label, labels, n=3, cutoff=0.3)
    raise NetworkError(f"No layer {label!r}." + (f" Nearest names: {', '.join(nearest)}." if nearest else ""))


def compute_channel_statistics(layer_maps: LayerMaps) -> ChannelStatistics:
    maps, ceiling = layer_maps.maps, layer_maps.layer.ceiling
    saturated = torch.zeros_like(maps) if ceiling is None else (maps >= _SATURATED * ceiling).to(maps)
    return ChannelStatistics(
        maps.mean((1, 2)), maps.amax((1, 2)), (maps == 0).to(maps).mean((1, 2)), saturated.mean((1, 2))
    )


def compute_layer_contributions(maps: ClassMaps, layer_maps: LayerMaps, k: int) -> LayerContributions:
    """What each channel of a layer brings to logit k of the same photo.

    Exact, by the head, where the layer's maps are those that are pooled; else gradient x activation, to first order,
    which takes one more pass and its gradient.
    """
    if is_pooled(maps, layer_maps) and maps.verdict in ("exact", "exact for this image"):
        return LayerContributions(maps.channels(k), maps.verdict)
    inputs = maps.classifier.inputs(layer_maps.view)
    output, gradient = output_and_gradient(
        maps.classifier.network, inputs, layer_maps.layer.name, layer_maps.layer.run, k
    )
    (products,) = _lay_out_maps(layer_maps.layer, output * gradient, maps.classifier)
    return LayerContributions(products.sum((1, 2)), "first order")


def is_pooled(maps: ClassMaps, layer_maps: LayerMaps) -> bool:
    """Whether the layer's maps are, by their numbers, the feature maps that the head pools."""
    return len(maps.decomposition.branches) == 1 and (
        layer_maps.maps.shape == maps.feature_maps.shape
        and torch.allclose(
            layer_maps.maps, maps.feature_maps, rtol=1e-5, atol=1e-6 * float(maps.feature_maps.abs().max())
        )
    )


def _lay_out_maps(layer: Layer, output: Tensor, classifier: Classifier) -> Tensor:
    """What a layer returned as (1, C, h, w), on an input of the classifier's size; that need not be the usual one."""
    layout = layer.layout
    if layout is None:
        shape = "no tensor" if layer.shape is None else f"a tensor {layer.shape}"
        raise NetworkError(
            f"The layer {layer.label} returns {shape}: no feature maps (1, C, h, w) that could be shown."
        )
    if layout.tokens:
        layout = FeatureLayout(layout.channels, _find_token_grid(layer, output, classifier), tokens=True)
    return layout.feature_maps(output)


def _find_token_grid(layer: Layer, output: Tensor, classifier: Classifier) -> tuple[int, int]:
    """(h, w) of tokens, which divide the input as evenly as they did when their layout was found."""
    assert layer.layout is not None
    assert layer.layout.grid is not None
    positions = output.shape[1] if layer.layout.channels == "last" else output.shape[2]
    if positions == math.prod(layer.layout.grid):
        return layer.layout.grid
    height, width = classifier.preprocessing.size
    rows = next(
        (rows for rows in _list_nearest(math.sqrt(positions * height / width)) if rows and positions % rows == 0), 1
    )
    return rows, positions // rows


def _list_nearest(value: float) -> list[int]:
    """Whole numbers near the middle, the nearest first."""
    return sorted(range(max(1, int(value) - 8), int(value) + 10), key=lambda number: abs(number - value))
