"""A classifier: a network with its head, its preprocessing and its class names."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from inspector.errors import ClassError, NetworkError
from inspector.explain.device import find_device
from inspector.explain.feature_capture import FeatureCapture, make_feature_capture
from inspector.explain.head import Head, find_head
from inspector.explain.kinds import OutputActivation
from inspector.explain.tracing.chosen_output import ChosenOutput, choose_output, original_network
from inspector.explain.tracing.forward import find_output_activation, match_parameters, noise_input
from inspector.explain.tracing.preserve import preserve_state
from inspector.explain.tracing.receptive_field import ReceptiveField, find_receptive_field
from inspector.images.preprocessing import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Interpolation,
    Preprocessing,
    PreprocessingOverrides,
    View,
    as_pair,
)
from inspector.printable import make_printable


@dataclass(frozen=True, eq=False)
class LoadedNetwork:
    """A network and what is known about it, before its head is read."""

    name: str
    network: nn.Module
    preprocessing: Preprocessing
    class_names: Sequence[str] | None = None  # (K,); None: class 0, class 1, ...
    # None: the activation that the network ends in; if it ends in none, softmax, or sigmoid for a single logit.
    output_activation: OutputActivation | None = None
    receptive_field: ReceptiveField | None = None  # None: computed from the network's operations
    # Measured center (y, x) of cell (0, 0) in input pixels; None if it was not measured.
    cell_center: tuple[float, float] | None = None
    trained_size: tuple[int, int] | None = None  # input size at which the head is read; None: that of preprocessing
    output: str | int | None = None  # name or index of the output that holds the logits; None: the only one that can
    notes: tuple[str, ...] = ()  # sentences on how it was read from its file, for the user


@dataclass(frozen=True, eq=False)
class Classifier:
    """A network with all that is needed to compute class maps. Use `load` or `Classifier.wrap` to make one."""

    name: str
    network: nn.Module = field(repr=False)  # returns the logits; see `original_network`
    preprocessing: Preprocessing
    class_names: tuple[str, ...] = field(repr=False)  # (K,)
    head: Head = field(repr=False)
    receptive_field: ReceptiveField  # of the feature maps before pooling
    probability: OutputActivation
    capture: FeatureCapture = field(repr=False)  # how the feature maps before pooling are captured
    notes: tuple[str, ...] = field(default=(), repr=False)  # sentences on how the network was read from its file

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
        output: str | int | None = None,
        window: Sequence[float] | None = None,
        display: Sequence[int] | None = None,
        device: str | torch.device | None = None,
    ) -> "Classifier":
        """Make a classifier of a network, which is not changed, except that `device` moves it.

        The head is read now. Wrap again after training the network further.

        Args:
            network: a module that returns logits (N, K) or probabilities. It ends in global pooling and any head, or in
                flatten and Linear.
            class_names: K names. Default: "class 0", "class 1", ...
            size: input size in pixels, (height, width) or one number for both.
            mean: three values (RGB) or one (gray); the input is ``(pixels / 255 - mean) / std``. Any other number: the
                input has so many channels, as arrays and TIFF files have them, see `images.values.scale_values`.
            std: as many values as `mean`.
            resize: a photo is scaled until it just covers this (height, width), then cropped to `size` around its
                center. Default: `size`.
            interpolation: how a photo is scaled.
            name: shown in figures and reports.
            probability: "softmax" or "sigmoid". Default: what the network ends in; if it ends in neither, softmax, or
                sigmoid for a single logit.
            output: which output holds the logits, if the network returns several: an index or a key, or a dotted path
                such as "heads.age". Default: the only output that can hold them. Outputs from which another output is
                computed are features.
            window: the values that become 0 and 1 in images of more than 8 bits. Default: the range that an image uses.
            display: which channels of images of more than three are shown as red, green and blue, counted from 0.
            device: where the network runs, see `to`. Default: where it is.

        Raises:
            NetworkError: the network does not support inputs of this size, the number of names is wrong, or several
                outputs may hold the logits.
            HeadError: no pooling reaches the logits.
        """
        if not isinstance(network, nn.Module):
            hint = " Load these weights into their network first." if isinstance(network, Mapping) else ""
            raise NetworkError(f"Expected a network, a torch.nn.Module; got {type(network).__name__}.{hint}")
        height_width = as_pair(size)
        cover = height_width if resize is None else as_pair(resize)
        plain = Preprocessing(height_width, IMAGENET_MEAN, IMAGENET_STD, cover, interpolation)
        preprocessing = PreprocessingOverrides(mean=mean, std=std, window=window, display=display).apply_to(plain)
        loaded = LoadedNetwork(name, network, preprocessing, class_names, probability, output=output)
        return Classifier.from_network(loaded, device)

    @staticmethod
    def from_network(loaded: LoadedNetwork, device: str | torch.device | None = None) -> "Classifier":
        """Read the head of a network and make a classifier of it; `device` moves the network first.

        Raises:
            NetworkError: the network does not run on inputs of its size, or the class names do not fit.
            HeadError: no pooling reaches its logits.
        """
        if device is not None:
            loaded = replace(loaded, network=loaded.network.to(find_device(device)))
        with preserve_state(loaded.network):
            return Classifier._read_network(loaded)

    @staticmethod
    def _read_network(loaded: LoadedNetwork) -> "Classifier":
        preprocessing = loaded.preprocessing
        channels, size = len(preprocessing.mean), loaded.trained_size or preprocessing.size
        if channels != len(preprocessing.std) or channels == 0:
            raise NetworkError(
                "mean and std must both have one value per channel of the network's input; got "
                f"{channels} and {len(preprocessing.std)}."
            )
        example = noise_input(loaded.network, (1, channels, *size))
        network = choose_output(loaded.network, example, loaded.output)
        head = find_head(network, example)
        names = loaded.class_names
        names = [f"class {k}" for k in range(head.classes)] if names is None else names
        if len(names) != head.classes:
            raise NetworkError(f"The network has {head.classes} classes, but {len(names)} names were given.")
        activation = loaded.output_activation or find_output_activation(network, example)
        field = loaded.receptive_field or find_receptive_field(network, example, head.finest_branch.call)
        if loaded.cell_center is not None:
            y, x = loaded.cell_center
            field = replace(field, y=replace(field.y, centre=y), x=replace(field.x, centre=x))
        classifier = Classifier(
            name=make_printable(loaded.name),
            network=network,
            preprocessing=replace(preprocessing, size=size),
            class_names=tuple(make_printable(str(name)) for name in names),
            head=head,
            receptive_field=field,
            probability=activation or ("sigmoid" if head.classes == 1 else "softmax"),
            notes=loaded.notes,
            capture=make_feature_capture(network, example, head.calls, head.needs_pooled, head.needs_derivative),
        )
        if size == preprocessing.size:
            return classifier
        return replace(classifier.resized(preprocessing.size), preprocessing=preprocessing)

    def class_index(self, name_or_number: str | int) -> int:
        """Return the index of a class; see `find_class_index`."""
        return find_class_index(self.class_names, name_or_number)

    def resized(self, size: int | Sequence[int], crop: bool = True) -> "Classifier":
        """Return the same classifier for another input size. Larger inputs give finer maps.

        Whether the network supports the size shows when it runs.

        Args:
            size: (height, width) in pixels, or one number for both.
            crop: crop the same share of a photo as before. False: scale the whole photo to `size`.
        """
        size, preprocessing = as_pair(size), self.preprocessing
        resize = None
        if crop and preprocessing.resize is not None:
            sides = zip(preprocessing.resize, size, preprocessing.size, strict=True)
            height, width = (round(side * new / old) for side, new, old in sides)
            resize = (height, width)
        receptive_field = self.receptive_field
        if math.isinf(receptive_field.y.size):
            # Cells that see the whole image divide the new input evenly. Other cells keep their stride and center.
            example = match_parameters(self.network, torch.zeros(1, len(preprocessing.mean), *size))
            receptive_field = find_receptive_field(self.network, example, self.head.finest_branch.call)
        preprocessing = replace(preprocessing, size=size, resize=resize)
        return replace(self, preprocessing=preprocessing, receptive_field=receptive_field)

    def to(self, device: str | torch.device) -> "Classifier":
        """Return the same classifier on another device. Its head is read again there.

        As in torch, the network itself is moved: do not use this classifier any more.

        Args:
            device: "cpu", "cuda", "cuda:1", "mps", or "auto" for a CUDA GPU if there is one.

        Raises:
            NetworkError: there is no such device, or the network does not run there.
        """
        loaded = LoadedNetwork(
            self.name,
            original_network(self.network),
            self.preprocessing,
            self.class_names,
            self.probability,
            self.receptive_field,
            output=self.output,
            notes=self.notes,
        )
        return Classifier.from_network(loaded, device)

    def inputs(self, view: View) -> Tensor:
        """Return a photo as normalized input (1, channels, H, W), in the network's dtype and on its device."""
        # NumPy, because torch's worker threads would busy-wait for longer than a fast network runs. Channels first, so
        # that every step runs over contiguous memory.
        values, white = (view.pixels, 255) if view.values is None else (view.values, 1)
        planes = values.reshape(*self.preprocessing.size, -1).transpose(2, 0, 1)
        normalized: NDArray[np.float32] = np.divide(planes, white, dtype=np.float32, order="C")
        mean, std = (np.array(values, np.float32) for values in (self.preprocessing.mean, self.preprocessing.std))
        normalized -= mean[:, None, None]
        normalized /= std[:, None, None]
        return match_parameters(self.network, torch.from_numpy(normalized)[None])

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
    def output(self) -> str | None:
        """Name of the output that holds the logits; None if the network's output shows which it is."""
        return self.network.output if isinstance(self.network, ChosenOutput) else None

    @property
    def backend_status(self) -> str:
        """One sentence on which backend runs the network, and why."""
        accelerated = self.capture.accelerated
        return "Running on PyTorch." if accelerated is None else accelerated.status

    def sha256(self) -> str:
        """Return the SHA-256 hash, in hexadecimal, of the names and values of all parameters and buffers."""
        digest = hashlib.sha256()
        for name, tensor in sorted(original_network(self.network).state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def find_class_index(class_names: Sequence[str], name_or_number: str | int) -> int:
    """Find a class by its index, its name, or a part of its name that no other name has.

    Args:
        class_names: (K,).
        name_or_number: an index from 0, or text; upper and lower case are the same.

    Returns:
        The index of the class.

    Raises:
        ClassError: no class or several classes match; the message has the nearest names.
    """
    if not isinstance(name_or_number, str):
        if 0 <= name_or_number < len(class_names):
            return int(name_or_number)  # int(...) because NumPy integers are accepted too
        raise ClassError(f"No class {name_or_number}; they are numbered 0 to {len(class_names) - 1}.")
    query = name_or_number.strip().lower()
    lower = [name.lower() for name in class_names]
    matches = [k for k, name in enumerate(lower) if name == query]
    if not matches and query.isdecimal():
        return find_class_index(class_names, int(query))
    if not matches:
        matches = [k for k, name in enumerate(lower) if query and query in name]
    if len(matches) == 1:
        return matches[0]
    if matches:
        listed = ", ".join(class_names[k] for k in matches[:8]) + (", ..." if len(matches) > 8 else "")
        raise ClassError(
            f"{name_or_number!r} may mean {len(matches)} classes: {listed}. Give the whole name, or the number."
        )
    nearest = [class_names[lower.index(name)] for name in get_close_matches(query, lower, n=3, cutoff=0.5)]
    raise ClassError(f"No class {name_or_number!r}." + (f" Nearest names: {', '.join(nearest)}." if nearest else ""))


def list_top_classes(
    class_names: Sequence[str], logits: Tensor, probabilities: Tensor, count: int
) -> list[tuple[int, str, float]]:
    """Return (index, name, probability) of the `count` classes with the highest logits, highest first."""
    order = logits.argsort(descending=True, stable=True)[:count].tolist()
    return [(k, class_names[k], float(probabilities[k])) for k in order]
