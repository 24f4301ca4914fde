"""Does a map change when the weights of the network are shuffled?

A map that stays as it is does not explain the network (Adebayo et al., "Sanity checks for saliency maps", NeurIPS
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
from inspector.explain.tracing.layer_trace import trace_layers

LAST_LAYER, ALL_LAYERS = "last layer", "all layers"


@dataclass(frozen=True, eq=False)
class RandomizationResult:
    """A method's map of a network with shuffled weights, and how far it kept its ranks."""

    attribution: Attribution
    correlation: float | None  # Spearman's, -1 to 1; None where one of the maps is the same everywhere


def measure_randomization(
    shuffled: Classifier,
    inputs: Tensor,
    k: int,
    attribution: Attribution,
    on_progress: OnProgress = lambda done: None,
    should_stop: ShouldStop = lambda: False,
) -> RandomizationResult:
    """The map of a class by the same method when the network is `shuffled`, one with shuffled weights."""
    recomputed = compute_attribution(shuffled, inputs, k, attribution.name, on_progress, should_stop)
    return RandomizationResult(recomputed, compute_rank_correlation(attribution.values, recomputed.values))


def shuffle_weights(classifier: Classifier, inputs: Tensor, layers: str = ALL_LAYERS, seed: int = 0) -> Classifier:
    """The classifier with the weights of its last layer that has some, or of all, in random order.

    In place of new random values, so that what passes through stays about as large as it was.
    """
    try:
        network = deepcopy(classifier.network)
    except Exception as error:  # whatever a network holds that cannot be copied
        raise AttributionError("Its weights cannot be shuffled: this network cannot be copied.") from error
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
    return Classifier.from_network(loaded)
