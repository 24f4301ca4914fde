"""What every attribution method is given, and what it returns."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from inspector.explain.class_maps import ClassMaps, class_maps_of_batch
from inspector.explain.classifier import Classifier
from inspector.explain.tracing.forward import copy_sharing_parameters, forward_logits
from inspector.explain.tracing.receptive_field import ReceptiveField

OnProgress = Callable[[float], None]  # is called with the part that is done, 0-1
ShouldStop = Callable[[], bool]

CHUNK = 4  # images per pass: more are no faster on a CPU, take more memory, and stop later


@dataclass(frozen=True)
class Completeness:
    """Whether a map adds up to what its method says that it does, in logits."""

    sum: float
    target: float
    target_name: str  # the target in words: "logit less bias"

    @property
    def error(self) -> float:
        return abs(self.sum - self.target)

    @property
    def holds(self) -> bool:
        """To 1 % of the target, or 0.01 logits."""
        return self.error <= max(0.01, 0.01 * abs(self.target))


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
    inputs: Tensor  # (1, channels, H, W), normalized: 0 is the mean color, which is the baseline
    k: int
    count_images: Callable[[int], None]  # is called before so many images pass; raises Cancelled

    def compute_logits(self, images: Tensor) -> Tensor:
        """The class's logits (N,) of images (N, channels, H, W)."""
        self.count_images(len(images))
        return forward_logits(self.network, images)[:, self.k]

    def compute_gradients(self, images: Tensor) -> Tensor:
        """D logit / d input, (N, channels, H, W)."""
        leaf = images.detach().clone().requires_grad_()
        return torch.autograd.grad(self.compute_logits(leaf).sum(), leaf)[0]

    def compute_class_maps(self) -> ClassMaps:
        (maps,) = class_maps_of_batch(self.classifier, self.inputs)
        self.count_images(1)
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
    summary: str  # what it does, in one line
    paper: str
    images: int  # about how many pass through the network, for the progress


def copy_without_gradients(network: nn.Module) -> nn.Module:
    """A copy on the same values that keeps nothing for gradients of its parameters; the network where none can be."""
    copy = copy_sharing_parameters(network)
    for module in () if copy is None else copy.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(parameter.data, requires_grad=False)
    return network if copy is None else copy
