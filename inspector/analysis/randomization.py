"""Weight randomization test: does an attribution map change when the weights of the network are shuffled?

A map that stays the same does not explain the network (Adebayo et al., "Sanity checks for saliency maps", NeurIPS
2018).
"""

from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from inspector.analysis.attribution.case import Attribution, OnProgress, ShouldStop
from inspector.analysis.attribution.methods import compute_attribution
from inspector.analysis.similarity import compute_rank_correlation
from inspector.errors import AttributionError
from inspector.explain.classifier import Classifier, LoadedNetwork
from inspector.explain.tracing.chosen_output import original_network
from inspector.explain.tracing.layer_trace import trace_layers

LAST_LAYER, ALL_LAYERS = "last layer", "all layers"


@dataclass(frozen=True, eq=False)
class RandomizationResult:
    """Attribution map of a network with shuffled weights, and its rank correlation with the original map."""

    attribution: Attribution
    correlation: float | None  # Spearman's, -1 to 1; None if one of the maps is constant


def measure_randomization(
    shuffled: Classifier,
    inputs: Tensor,
    k: int,
    attribution: Attribution,
    on_progress: OnProgress = lambda done: None,
    should_stop: ShouldStop = lambda: False,
) -> RandomizationResult:
    """Compute the map of a network with shuffled weights by the same method, and compare it with the original map.

    Args:
        shuffled: the classifier from `shuffle_weights`.
        inputs: normalized image (1, channels, H, W).
        k: index of the class.
        attribution: map of the original network.
        on_progress: is called with the share of the work that is done, 0-1.
        should_stop: is called before each pass; true stops the method.

    Raises:
        AttributionError: the method does not apply to the network.
        Cancelled: `should_stop` returned true.
    """
    recomputed = compute_attribution(shuffled, inputs, k, attribution.name, on_progress, should_stop)
    return RandomizationResult(recomputed, compute_rank_correlation(attribution.values, recomputed.values))


def shuffle_weights(classifier: Classifier, inputs: Tensor, layers: str = ALL_LAYERS, seed: int = 0) -> Classifier:
    """Return a copy of a classifier with shuffled weights.

    Each parameter tensor is permuted, not drawn anew, so that activations keep their order of magnitude.

    Args:
        classifier: the original, which stays unchanged.
        inputs: normalized image (1, channels, H, W). It sets the input size; a run with it finds the last layer.
        layers: LAST_LAYER to shuffle only the last module with parameters, or ALL_LAYERS.
        seed: seed of the permutations.

    Raises:
        AttributionError: the network cannot be copied.
    """
    try:
        network = deepcopy(original_network(classifier.network))
    except Exception as error:  # deepcopy raises whatever the objects in the network raise
        raise AttributionError("The weights cannot be shuffled, because this network cannot be copied.") from error
    chosen: nn.Module = network
    if layers == LAST_LAYER:
        first_runs = [layer for layer in trace_layers(network, inputs).layers if layer.parameters and layer.run == 0]
        if first_runs:
            chosen = network.get_submodule(max(first_runs, key=lambda layer: layer.ended).name)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in chosen.parameters():
            order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
            parameter.copy_(parameter.flatten()[order].view_as(parameter))
    usual = replace(classifier.preprocessing, size=(inputs.shape[2], inputs.shape[3]))
    loaded = LoadedNetwork(classifier.name, network, usual, classifier.class_names, classifier.probability)
    return Classifier.from_network(replace(loaded, output=classifier.output, unit=classifier.unit))
