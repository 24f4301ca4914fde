"""Functions that take a classifier say what to do with a network, or its name, in its place."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import inspector
from inspector.analysis.attribution.methods import compute_attribution
from inspector.analysis.layers import compute_layer_maps
from inspector.errors import NetworkError

PHOTO = torch.zeros(1, 28, 28)
CALLS: dict[str, Callable[[Any], object]] = {
    "class_maps": lambda given: inspector.class_maps(given, PHOTO),
    "class_maps of several": lambda given: inspector.class_maps(given, [PHOTO, PHOTO]),
    "class_maps_of_batch": lambda given: inspector.class_maps_of_batch(given, PHOTO[None]),
    "large_class_maps": lambda given: inspector.large_class_maps(given, "photo.png"),
    "accelerate": lambda given: inspector.accelerate(given, "onnxruntime"),
    "compute_attribution": lambda given: compute_attribution(given, PHOTO[None], 0, "Saliency"),
    "compute_layer_maps": lambda given: compute_layer_maps(given, PHOTO, "conv1"),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_network_is_asked_to_be_wrapped_first(call: Callable[[Any], object]) -> None:
    with pytest.raises(NetworkError, match=r"not an object of type Flatten\. First wrap it: inspector\.Classifier"):
        call(nn.Flatten())


@pytest.mark.parametrize("call", [*CALLS.values(), inspector.describe], ids=[*CALLS, "describe"])
def test_a_name_is_asked_to_be_loaded_first(call: Callable[[Any], object]) -> None:
    with pytest.raises(NetworkError, match=r"not an object of type str\. First load it: inspector\.load\(\.\.\.\)\."):
        call("fashion_gap")


@pytest.mark.parametrize("given", [nn.Flatten(), None, nn.Flatten], ids=["network", "nothing", "class"])
def test_load_takes_a_name_or_a_file(given: Any) -> None:
    with pytest.raises(NetworkError, match=r"^A name or a file is needed, not an object of type .* Classifier\.wrap\."):
        inspector.load(given)
