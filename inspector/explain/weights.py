"""Whether the weights of a network are still what they were when something was made of them."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from inspector.explain.feature_capture import FeatureCapture


@dataclass(frozen=True, eq=False)
class WeightFingerprint:
    """A parameter or buffer as it was."""

    values: dict[str, Any]  # where the network keeps it
    name: str
    tensor: Tensor | None
    version: int  # torch counts what is written into it
    place: int  # in memory
    sample: Any  # its first value where it lies: what is written to `parameter.data` is not counted
    first: float

    def is_unchanged(self) -> bool:
        """A microsecond: it is asked of every weight in every pass."""
        tensor = self.values.get(self.name)
        if tensor is not self.tensor:
            return False
        same = tensor is None or (_version(tensor) == self.version and tensor.data_ptr() == self.place)
        return same and (self.sample is None or self.sample[0] == self.first)


def fingerprint_weights(tap: FeatureCapture) -> list[WeightFingerprint]:
    """All parameters and buffers of the network at a tap, as they are now."""
    return [_weight(*place) for place in tap.state]


def _weight(values: dict[str, Any], name: str, tensor: Tensor | None) -> WeightFingerprint:
    if tensor is None:
        return WeightFingerprint(values, name, None, 0, 0, None, 0)
    sample, first = None, 0.0
    if tensor.device.type == "cpu" and tensor.dtype == torch.float32 and tensor.numel():
        # A view of one value, which NumPy reads in a fiftieth of torch's time.
        sample = tensor.detach().as_strided((1,), (1,)).numpy()
        first = float(sample[0])
    return WeightFingerprint(values, name, tensor, _version(tensor), tensor.data_ptr(), sample, first)


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version
