"""Feature maps of every layer for one photo, with statistics and contributions per channel.

A layer is one run of one module, which may be a block. The contributions of its channels to a logit are exact only if
nothing but the pooling and the head follows. For all other layers they are a first-order estimate, gradient x
activation (Shrikumar et al., "Not just a black box", 2016):

    contribution[c] = sum over y, x of  F[c, y, x] * d logit / d F[c, y, x]

This is how much the logit would drop without channel c if the logit were linear in F. The estimates of different layers
do not agree with each other, and do not sum to the logit.
"""

import math
from contextlib import suppress
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from inspector.errors import NetworkError
from inspector.explain.class_maps import ClassMaps
from inspector.explain.classifier import Classifier, check_classifier
from inspector.explain.inputs import make_input
from inspector.explain.pooling import Reduction, global_depth
from inspector.explain.receptive_field import ReceptiveField, make_even_field
from inspector.explain.tracing.layer_trace import Layer, trace_layers
from inspector.explain.tracing.layouts import FeatureLayout
from inspector.explain.tracing.module_hooks import ModuleOutput, hook_modules, output_and_gradient
from inspector.images.photo import ImageSource, Photo
from inspector.images.preprocessing import View

ContributionKind: TypeAlias = Literal["exact", "exact for this image", "first order"]

# A value counts as saturated from this fraction of the activation's upper limit: a sigmoid reaches 1 only by rounding.
_SATURATED = 0.999


class _LayerReached(BaseException):
    """Ends a forward pass at the layer that is asked for: what follows is not needed."""


@dataclass(frozen=True, eq=False)
class LayerMaps:
    """Feature maps of one layer for one photo."""

    layer: Layer
    maps: Tensor  # (C, h, w)
    receptive_field: ReceptiveField
    view: View

    @property
    def has_negatives(self) -> bool:
        """Tell whether any value is below zero."""
        return bool((self.maps < 0).any())

    def pool_channels(self, reduction: Reduction) -> Tensor:
        """Pool the feature maps over the channels, in every cell.

        Args:
            reduction: "average" or "max".

        Returns:
            (h, w), in the unit of the feature maps.
        """
        return global_depth(self.maps[None], reduction)[0, 0]

    def _repr_html_(self) -> str:
        """Return the channels with the largest values as pictures, which notebooks show."""
        from inspector.output.notebook import render_layer_maps

        return render_layer_maps(self)


@dataclass(frozen=True, eq=False)
class ChannelStatistics:
    """Statistics of each channel of a layer for one photo. Each tensor is (C,)."""

    mean: Tensor
    highest: Tensor
    zeros: Tensor  # share of the cells that are exactly 0, 0-1
    saturated: Tensor  # share of the cells at the upper limit of the activation function, 0-1; 0 if it has no limit

    @property
    def dead(self) -> Tensor:
        """Return which channels are 0 in every cell, (C,) bool."""
        return self.zeros == 1


@dataclass(frozen=True, eq=False)
class LayerContributions:
    """Contributions of the channels of a layer to one logit."""

    values: Tensor  # (C,), in logits
    kind: ContributionKind


def list_layers(classifier: Classifier) -> tuple[Layer, ...]:
    """List every run of every module for one input of the classifier's size, in the order in which the runs start."""
    check_classifier(classifier)
    return trace_layers(classifier.network, classifier.noise_input()).layers


def find_pooled_layer(classifier: Classifier, layers: tuple[Layer, ...]) -> Layer:
    """Find the layer whose output the head pools.

    Args:
        classifier: any classifier.
        layers: layers of the classifier, from `list_layers`.

    Returns:
        The last layer to end that has the grid and the number of channels of the pooled feature maps. If there is none,
        the last layer with this grid; without such a layer, the last one with feature maps.

    Raises:
        NetworkError: no module returns feature maps.
    """
    finest = classifier.head.finest_branch
    with_maps = sorted((layer for layer in layers if layer.size is not None), key=lambda layer: layer.ended)
    if not with_maps:
        raise NetworkError(
            f"No module of {classifier.name} returns feature maps (1, C, h, w). Layers that are called as functions "
            "cannot be shown."
        )
    on_grid = [layer for layer in with_maps if layer.size is not None and layer.size[1:] == finest.grid]
    same_width = [layer for layer in on_grid if layer.size is not None and layer.size[0] == finest.width]
    return (same_width or on_grid or with_maps)[-1]


def compute_layer_maps(classifier: Classifier, image: ImageSource | Photo | View, layer: str | Layer) -> LayerMaps:
    """Compute the feature maps of a layer in one forward pass, which ends there.

    Args:
        classifier: any classifier.
        image: a photo, or anything that `class_maps` takes for one image.
        layer: a layer from `list_layers`, or its label. A name without a run, such as "layer4.1.relu", means the first
            run; "layer4.1.relu (run 2)" means the second.

    Returns:
        Feature maps (C, h, w) with their receptive fields.

    Raises:
        NetworkError: no layer has that name, or it does not return feature maps.
    """
    if isinstance(layer, str):
        layer = find_layer(list_layers(classifier), layer)
    if not isinstance(image, View):
        classifier, _, image = make_input(classifier, image)
    captured: list[Tensor] = []

    def capture(returned: ModuleOutput) -> None:
        if (returned.name, returned.run) == (layer.name, layer.run):
            # Keep a copy: the pass ends here, but the network may keep the output, too, and change it in its next pass.
            captured.append(returned.output.clone())
            raise _LayerReached

    with torch.no_grad(), suppress(_LayerReached):
        hook_modules(classifier.network, classifier.inputs(image), capture)
    if not captured:
        raise NetworkError(f"The layer {layer.label} does not run at the input size {classifier.preprocessing.size}.")
    (maps,) = _lay_out_maps(layer, captured[0], classifier)
    field = layer.field or make_even_field(classifier.preprocessing.size, maps.shape[1:])
    # Only the pooled feature maps were measured. If their place is unknown, that of the other layers is too.
    field = replace(field, misplaced=classifier.receptive_field.misplaced)
    return LayerMaps(layer, maps, field, image)


def find_layer(layers: tuple[Layer, ...], label: str) -> Layer:
    """Find a layer by its label. The name of a module, without a run, means its first run.

    Raises:
        NetworkError: no layer has this label. The message lists the most similar names.
    """
    for layer in layers:
        if label == layer.label or (label == layer.name and layer.run == 0):
            return layer
    labels = list(dict.fromkeys(layer.name for layer in layers))
    nearest = get_close_matches(label, labels, n=3, cutoff=0.3)
    raise NetworkError(f"No layer {label!r}." + (f" Nearest names: {', '.join(nearest)}." if nearest else ""))


def compute_channel_statistics(layer_maps: LayerMaps) -> ChannelStatistics:
    """Compute the mean, the maximum, and the shares of zero and of saturated cells of each channel."""
    maps, ceiling = layer_maps.maps, layer_maps.layer.ceiling
    saturated = torch.zeros_like(maps) if ceiling is None else (maps >= _SATURATED * ceiling).to(maps)
    zeros = (maps == 0).to(maps).mean((1, 2))
    return ChannelStatistics(maps.mean((1, 2)), maps.amax((1, 2)), zeros, saturated.mean((1, 2)))


def compute_layer_contributions(maps: ClassMaps, layer_maps: LayerMaps, k: int) -> LayerContributions:
    """Compute the contributions of the channels of a layer to one logit.

    The contributions are exact if the head pools the feature maps of this layer and the class maps are exact. Otherwise
    they are gradient x activation, which takes one more forward and backward pass.

    Args:
        maps: class maps of the photo.
        layer_maps: feature maps of the layer for the same photo.
        k: index of the class.

    Returns:
        Contributions (C,) in logits.
    """
    if is_pooled(maps, layer_maps) and maps.verdict in ("exact", "exact for this image"):
        return LayerContributions(maps.channels(k), maps.verdict)
    layer, classifier = layer_maps.layer, maps.classifier
    inputs = classifier.inputs(layer_maps.view)
    output, gradient = output_and_gradient(classifier.network, inputs, layer.name, layer.run, k)
    (products,) = _lay_out_maps(layer, output * gradient, classifier)
    return LayerContributions(products.sum((1, 2)), "first order")


def is_pooled(maps: ClassMaps, layer_maps: LayerMaps) -> bool:
    """Tell whether these feature maps are the only ones that the head pools; they may differ by rounding."""
    values, pooled = layer_maps.maps, maps.feature_maps
    if len(maps.decomposition.branches) > 1 or values.shape != pooled.shape:
        return False
    return torch.allclose(values, pooled, rtol=1e-5, atol=1e-6 * float(pooled.abs().max()))


def _lay_out_maps(layer: Layer, output: Tensor, classifier: Classifier) -> Tensor:
    """Return the output of a layer, for an input of the classifier's size, as feature maps (1, C, h, w)."""
    layout = layer.layout
    if layout is None:
        shape = "no tensor" if layer.shape is None else f"a tensor {layer.shape}"
        raise NetworkError(f"The layer {layer.label} returns {shape}. Expected feature maps (1, C, h, w).")
    if layout.tokens:
        layout = replace(layout, grid=_find_token_grid(layout, output, classifier.preprocessing.size))
    return layout.feature_maps(output)


def _find_token_grid(layout: FeatureLayout, output: Tensor, size: tuple[int, int]) -> tuple[int, int]:
    """Find the grid (h, w) of the tokens: the one with the aspect ratio nearest to the input's aspect ratio."""
    assert layout.grid is not None
    cells = output.shape[1] if layout.channels == "last" else output.shape[2]
    if cells == math.prod(layout.grid):
        return layout.grid
    ideal = math.sqrt(cells * size[0] / size[1])
    rows = min((rows for rows in range(1, cells + 1) if cells % rows == 0), key=lambda rows: abs(rows - ideal))
    return rows, cells // rows
