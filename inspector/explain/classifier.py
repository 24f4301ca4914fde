"""A classifier: a network with its head, its preprocessing and its class names."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from inspector.errors import ClassError, NetworkError
from inspector.explain.feature_capture import FeatureCapture, make_feature_capture
from inspector.explain.head import Head, find_head
from inspector.explain.kinds import OutputActivation
from inspector.explain.tracing.forward import find_output_activation, match_parameters, noise_input
from inspector.explain.tracing.receptive_field import ReceptiveField, find_receptive_field
from inspector.images.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Interpolation, Preprocessing, View, as_pair


@dataclass(frozen=True, eq=False)
class LoadedNetwork:
    """A network and what is known about it, before its head is read."""

    name: str
    network: nn.Module
    preprocessing: Preprocessing
    class_names: Sequence[str] | None = None  # (K,); None: class 0, class 1, ...
    output_activation: OutputActivation | None = None  # None: the network's own, else softmax (sigmoid of one logit)
    receptive_field: ReceptiveField | None = None  # None: followed through the network's operations
    cell_center: tuple[float, float] | None = None  # (y, x) of the center of cell (0, 0), where it was measured
    trained_size: tuple[int, int] | None = None  # input size at which the head is read; None: that of preprocessing


@dataclass(frozen=True, eq=False)
class Classifier:
    """A network that ends in global pooling, or in flatten and Linear, ready to be asked about images."""

    name: str
    network: nn.Module = field(repr=False)
    preprocessing: Preprocessing
    class_names: tuple[str, ...] = field(repr=False)  # (K,)
    head: Head = field(repr=False)
    receptive_field: ReceptiveField  # of the feature maps before pooling
    probability: OutputActivation
    capture: FeatureCapture = field(repr=False)  # where the feature maps before pooling are heard

    @staticmethod
    def wrap(
        network: nn.Module,
        class_names: Sequence[str] | None = None,
        size: int | Sequence[int] = 224,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        resize: int | Sequence[int] | None = None,
        interpolation: Interpolation = "bilinear",
        name: str = "network",
        probability: OutputActivation | None = None,
    ) -> "Classifier":
        """A classifier from a network in hand, which comes back unchanged.

        `size` is the (height, width) of the input. A photo is scaled until it just covers `resize` (`size`, unless
        said otherwise) and cropped to `size` around its centre; then (x / 255 - mean) / std with one value a channel,
        a single one for grey. Unless said, probabilities are made as the network itself ends, by softmax or sigmoid; by
        softmax if it ends in neither, by sigmoid of a single logit. The head is read now: wrap again when the network
        was trained further. Raises NetworkError if the network does not run on such an input, HeadError if no pooling
        reaches its logits.
        """
        height_width = as_pair(size)
        cover = height_width if resize is None else as_pair(resize)
        preprocessing = Preprocessing(height_width, tuple(mean), tuple(std), cover, interpolation)
        return Classifier.from_network(LoadedNetwork(name, network, preprocessing, class_names, probability))

    @staticmethod
    def from_network(loaded: LoadedNetwork) -> "Classifier":
        """Read the head of a network and make a classifier of it.

        Raises:
            NetworkError: the network does not run on inputs of its size, or the class names do not fit.
            HeadError: no pooling reaches its logits.
        """
        network, preprocessing = loaded.network, loaded.preprocessing
        channels, size = len(preprocessing.mean), loaded.trained_size or preprocessing.size
        if channels != len(preprocessing.std) or channels not in (1, 3):
            raise NetworkError(
                "mean and std must both have one value (grey) or three (RGB); got "
                f"{channels} and {len(preprocessing.std)}."
            )
        example = noise_input(network, (1, channels, *size))
        head = find_head(network, example)
        names = loaded.class_names
        names = tuple(f"class {k}" for k in range(head.classes)) if names is None else tuple(names)
        if len(names) != head.classes:
            raise NetworkError(f"The network has {head.classes} classes, but {len(names)} names were given.")
        activation = loaded.output_activation or find_output_activation(network, example)
        field = loaded.receptive_field or find_receptive_field(network, example, head.finest_branch.call)
        if loaded.cell_center is not None:
            y, x = loaded.cell_center
            field = replace(field, y=replace(field.y, centre=y), x=replace(field.x, centre=x))
        classifier = Classifier(
            name=loaded.name,
            network=network,
            preprocessing=replace(preprocessing, size=size),
            class_names=names,
            head=head,
            receptive_field=field,
            probability=activation or ("sigmoid" if head.classes == 1 else "softmax"),
            capture=make_feature_capture(network, example, head.calls, head.needs_pooled, head.needs_derivative),
        )
        if size == preprocessing.size:
            return classifier
        return replace(classifier.with_input_size(preprocessing.size), preprocessing=preprocessing)

    def class_index(self, name_or_number: str | int) -> int:
        return find_class_index(self.class_names, name_or_number)

    def with_input_size(self, size: int | Sequence[int], crop: bool = True) -> "Classifier":
        """The same for inputs of another (height, width), which global pooling allows: larger ones give finer maps.

        The share of the photo that is cropped away stays; without `crop` the whole photo is squeezed into the size.
        Whether the network runs on such an input shows when it does.
        """
        size, usual = as_pair(size), self.preprocessing
        resize = None
        if crop and usual.resize is not None:
            height, width = (round(r * new / old) for r, new, old in zip(usual.resize, size, usual.size, strict=True))
            resize = (height, width)
        seen = self.receptive_field
        if math.isinf(seen.y.size):
            # Where every position sees all, the cells divide the new input; else they lie as they did.
            example = match_parameters(self.network, torch.zeros(1, len(usual.mean), *size))
            seen = find_receptive_field(self.network, example, self.head.finest_branch.call)
        return replace(self, preprocessing=replace(usual, size=size, resize=resize), receptive_field=seen)

    def inputs(self, view: View) -> Tensor:
        """The normalised input, (1, channels, H, W), in the network's own dtype and on its device."""
        # By NumPy: torch's threads would spin on for longer than a quick network runs. Planes first, so that no step
        # jumps through memory.
        planes = view.pixels.reshape(*self.preprocessing.size, -1).transpose(2, 0, 1)
        normalised: NDArray[np.float32] = np.divide(planes, 255, dtype=np.float32, order="C")
        mean, std = (np.array(values, np.float32) for values in (self.preprocessing.mean, self.preprocessing.std))
        normalised -= mean[:, None, None]
        normalised /= std[:, None, None]
        return match_parameters(self.network, torch.from_numpy(normalised)[None])

    def noise_input(self, images: int = 1, seed: int = 0, size: Sequence[int] | None = None) -> Tensor:
        """Return seeded standard normal noise in place of normalized images.

        Args:
            images: number of images N.
            seed: seed of the random numbers.
            size: (height, width) in pixels. Default: the input size of the classifier.

        Returns:
            Tensor (N, channels, H, W) in the network's dtype and on its device.
        """
        pixels = self.preprocessing
        return noise_input(self.network, (images, len(pixels.mean), *(size or pixels.size)), seed)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Compute class probabilities (..., K) from logits (..., K), by softmax or sigmoid as the network does."""
        return logits.softmax(-1) if self.probability == "softmax" else logits.sigmoid()

    @property
    def backend_status(self) -> str:
        """Say in one sentence which backend runs the network, and why."""
        accelerated = self.capture.accelerated
        return "The network itself runs (eager)." if accelerated is None else accelerated.status

    def sha256(self) -> str:
        """Of the names and values of all parameters and buffers."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.network.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def find_class_index(class_names: Sequence[str], name_or_number: str | int) -> int:
    """The number of a class from its number, its name, or a part of its name that no other name has.

    Raises ClassError with the nearest names otherwise.
    """
    if not isinstance(name_or_number, str):
        if 0 <= name_or_number < len(class_names):
            return int(name_or_number)  # numpy's integers too
        raise ClassError(f"No class {name_or_number}; they are numbered 0 to {len(class_names) - 1}.")
    wanted = name_or_number.strip().lower()
    lower = [name.lower() for name in class_names]
    holding = [k for k, name in enumerate(lower) if name == wanted]
    if not holding and wanted.isdecimal():
        return find_class_index(class_names, int(wanted))
    if not holding:
        holding = [k for k, name in enumerate(lower) if wanted and wanted in name]
    if len(holding) == 1:
        return holding[0]
    if holding:
        some = ", ".join(class_names[k] for k in holding[:8]) + (", ..." if len(holding) > 8 else "")
        raise ClassError(
            f"{name_or_number!r} may mean {len(holding)} classes: {some}. Give the whole name, or the number."
        )
    nearest = [class_names[lower.index(name)] for name in get_close_matches(wanted, lower, n=3, cutoff=0.5)]
    raise ClassError(f"No class {name_or_number!r}." + (f" Nearest names: {', '.join(nearest)}." if nearest else ""))
