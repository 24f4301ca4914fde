"""The input and the result of an attribution method."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from inspector.explain.class_maps import ClassMaps, class_maps_of_batch
from inspector.explain.classifier import Classifier
from inspector.explain.receptive_field import ReceptiveField
from inspector.explain.tracing.forward import forward_logits

OnProgress = Callable[[float], None]  # is called with the share of the work that is done, 0-1
ShouldStop = Callable[[], bool]

CHUNK = 4  # images per pass; larger passes are no faster on a CPU, need more memory, and delay a stop


@dataclass(frozen=True)
class Completeness:
    """The sum of a map, and the target that its method claims for this sum, in logits."""

    sum: float
    target: float
    target_name: str  # what the target is, such as "logit minus bias"

    @property
    def error(self) -> float:
        """Return the absolute difference of sum and target, in logits."""
        return abs(self.sum - self.target)

    @property
    def holds(self) -> bool:
        """Tell whether the error is at most 1 % of the target, or at most 0.01 logits."""
        return self.error <= max(0.01, 0.01 * abs(self.target))


@dataclass(frozen=True, eq=False)
class Attribution:
    """Attribution map of one method for one class of one image."""

    name: str  # name of the method, a key of METHODS
    values: Tensor  # (h, w), signed, in `unit`
    unit: str
    seconds: float
    completeness: Completeness | None  # None if the method claims no sum
    note: str  # sentence to show with the map; may be empty
    field: ReceptiveField  # receptive fields of the cells, in pixels of the input
    grid: Literal["cells", "pixels"] = "cells"  # places of the values: cells of the class maps, or pixels of the input


@dataclass(frozen=True, eq=False)
class Case:
    """The input of every method: one image and one class."""

    classifier: Classifier
    network: nn.Module  # copy of the classifier's network without gradients of parameters, if a copy is possible
    inputs: Tensor  # (1, channels, H, W), normalized: 0 is the mean color, the usual baseline
    k: int  # index of the class
    count_images: Callable[[int], None]  # called at each pass with its number of images; may raise Cancelled

    def compute_logits(self, images: Tensor) -> Tensor:
        """Compute the logits (N,) of the class for images (N, channels, H, W)."""
        self.count_images(len(images))
        return forward_logits(self.network, images)[:, self.k]

    def compute_gradients(self, images: Tensor) -> Tensor:
        """Compute the gradient of the class's logit with respect to each image, (N, channels, H, W)."""
        leaf = images.detach().clone().requires_grad_()
        return torch.autograd.grad(self.compute_logits(leaf).sum(), leaf)[0]

    def compute_class_maps(self) -> ClassMaps:
        """Compute the exact class maps of the image."""
        (maps,) = class_maps_of_batch(self.classifier, self.inputs)
        self.count_images(1)
        return maps


@dataclass(frozen=True, eq=False)
class MethodResult:
    """Result of a method for one case."""

    values: Tensor  # (h, w), signed
    target: float | None = None  # sum that the method claims for the values; None if it claims none
    note: str = ""  # sentence to show with the map; may be empty


@dataclass(frozen=True)
class Method:
    """An attribution method, as the table METHODS lists it."""

    compute: Callable[[Case], MethodResult]
    grid: Literal["cells", "pixels"]  # places of the values: cells of the class maps, or pixels of the input
    unit: str
    target: str | None  # name of the sum that the method claims for the values; None if it claims none
    paper: str
    images: int  # approximate number of images that pass through the network, for the progress
    summary: str  # description in one sentence
