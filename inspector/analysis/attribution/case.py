"""The input and the result of an attribution method."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from inspector.explain.class_maps import ClassMaps, class_maps_of_batch
from inspector.explain.classifier import Classifier
from inspector.explain.tracing.forward import forward_logits
from inspector.explain.tracing.receptive_field import ReceptiveField

OnProgress = Callable[[float], None]  # gets the part that is done, 0-1
ShouldStop = Callable[[], bool]

CHUNK = 4  # images per pass; more are not faster on a CPU, take more memory, and stop later


@dataclass(frozen=True)
class Completeness:
    """Whether the sum of a map is what its method claims, in logits."""

    sum: float
    target: float
    target_name: str  # as in "logit minus bias"

    @property
    def error(self) -> float:
        """Return the absolute difference of sum and target, in logits."""
        return abs(self.sum - self.target)

    @property
    def holds(self) -> bool:
        """Tell whether the error is at most 1 % of the target, or 0.01 logits."""
        return self.error <= max(0.01, 0.01 * abs(self.target))


@dataclass(frozen=True, eq=False)
class Attribution:
    """Attribution map of one method for one class of one image."""

    name: str  # of the method, in METHODS
    values: Tensor  # (h, w), signed, in `unit`
    unit: str
    seconds: float
    completeness: Completeness | None  # None if the method does not claim that the values sum to anything
    note: str  # to be shown with the map; may be empty
    field: ReceptiveField  # of the cells, in pixels of the input


@dataclass(frozen=True, eq=False)
class Case:
    """One image and one class, as every method gets them."""

    classifier: Classifier
    network: nn.Module  # its parameters require no gradients
    inputs: Tensor  # (1, channels, H, W), normalized: 0 is the mean color, which is the baseline
    k: int  # index of the class
    count_images: Callable[[int], None]  # is called with the number of images before each pass; raises Cancelled

    def compute_logits(self, images: Tensor) -> Tensor:
        """Compute the logits (N,) of the class for images (N, channels, H, W)."""
        self.count_images(len(images))
        return forward_logits(self.network, images)[:, self.k]

    def compute_gradients(self, images: Tensor) -> Tensor:
        """Compute d logit / d image, (N, channels, H, W)."""
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
    target: float | None = None  # what the values should sum to, if the method claims it
    note: str = ""  # to be shown with the map


@dataclass(frozen=True)
class Method:
    """One row of the table of methods."""

    compute: Callable[[Case], MethodResult]
    grid: Literal["cells", "pixels"]  # grid of the class maps, or of the input
    unit: str
    target: str | None  # what the values claim to sum to, in words; None if nothing
    paper: str
    images: int  # approximate number of images that pass through the network, for the progress
    summary: str  # one sentence
