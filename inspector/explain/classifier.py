"""A classifier: a network with its head, its preprocessing and its class names."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from inspector.errors import NetworkError
from inspector.explain.class_names import AnyClassNames, ClassNames, find_class_index, list_class_names
from inspector.explain.device import find_device
from inspector.explain.feature_capture import FeatureCapture, make_feature_capture
from inspector.explain.fingerprint import hash_weights
from inspector.explain.head import Head, find_head, read_weight_again
from inspector.explain.kinds import OutputActivation, OutputMeaning
from inspector.explain.map_arrays import NetworkFacts
from inspector.explain.placement import join_fields, move_branches, place_branches_again, place_head
from inspector.explain.receptive_field import ReceptiveField
from inspector.explain.tracing.chosen_output import choose_output, find_chosen_output, original_network
from inspector.explain.tracing.forward import match_parameters, noise_input
from inspector.explain.tracing.output_activation import find_logits
from inspector.explain.tracing.preserve import preserve_state
from inspector.explain.tracing.unwrap import unwrap
from inspector.images.preprocessing import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Interpolation,
    Preprocessing,
    PreprocessingOverrides,
    View,
    as_pair,
    find_usual_resize,
    list_suspicions,
    normalize_view,
)
from inspector.printable import make_printable


@dataclass(frozen=True, eq=False)
class LoadedNetwork:
    """A network and what is known about it, before its head is read."""

    name: str
    network: nn.Module
    preprocessing: Preprocessing
    class_names: AnyClassNames | None = None  # K names; None: class 0, class 1, ...
    # None: the activation that the network ends in; if it ends in none, softmax, or sigmoid for a single logit.
    output_activation: OutputActivation | None = None
    receptive_field: ReceptiveField | None = None  # None: computed from the network's operations
    # Measured center (y, x) of cell (0, 0) in input pixels; None if it was not measured.
    cell_center: tuple[float, float] | None = None
    trained_size: tuple[int, int] | None = None  # input size at which the head is read; None: that of preprocessing
    output: str | int | None = None  # name or index of the output that holds the logits; None: the only one that can
    notes: tuple[str, ...] = ()  # sentences on how it was read from its file, for the user
    unit: str | None = None  # of the output, if the output activation is "none"


@dataclass(frozen=True, eq=False, repr=False)
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
    unit: str | None = None  # of the output, if `probability` is "none"
    # (y, x) from the center of a receptive field to the measured center of its cell, in pixels of the input
    cell_shift: tuple[float, float] = field(default=(0.0, 0.0), repr=False)

    @staticmethod
    def wrap(
        network: nn.Module,
        class_names: AnyClassNames | None = None,
        size: int | Sequence[int] = 224,
        mean: float | Sequence[float] = IMAGENET_MEAN,
        std: float | Sequence[float] = IMAGENET_STD,
        resize: int | Sequence[int] | str | None = None,
        interpolation: Interpolation = "bilinear",
        name: str = "network",
        probability: OutputActivation | None = None,
        output: str | int | None = None,
        window: Sequence[float] | None = None,
        display: Sequence[int] | None = None,
        device: str | torch.device | None = None,
        unit: str | None = None,
    ) -> "Classifier":
        """Make a classifier of a network, which is not changed, except that `device` moves it.

        The head is read now. After training the network further, `reread` it.

        Args:
            network: a module that returns logits (N, K) or probabilities. It ends in global pooling and any head, or in
                flatten and Linear.
            class_names: K names, also as {0: "a", 1: "b"} (id2label) or {"a": 0, "b": 1} (class_to_idx). Default:
                "class 0", "class 1", ...
            size: input size in pixels, (height, width) or one number for both.
            mean: three values (RGB) or one (gray); the input is ``(pixels / 255 - mean) / std``. Any other number: the
                input has so many channels, as arrays and TIFF files have them, see `images.values.scale_values`. A
                number without a sequence is for each channel.
            std: as many values as `mean`.
            resize: a photo is scaled until it just covers this (height, width), then cropped to `size` around its
                center; "squeeze": the whole photo is resized to `size`. Default: as in usual evaluations, 256 for a
                size of 224, and no crop for sizes below 128; see `find_usual_resize`.
            interpolation: how a photo is scaled.
            name: shown in figures and reports.
            probability: what turns the output into probabilities: "softmax"; "sigmoid", independent for each class;
                "identity", if the output is probabilities; "none" for other values, as in regression. Default: what the
                network ends in; if it ends in neither, softmax, or sigmoid for a single logit.
            output: which output holds the logits, if the network returns several: an index or a key, or a dotted path
                such as "heads.age". Default: the only output that can hold them. Outputs from which another output is
                computed are features.
            window: the values that become 0 and 1 in images of more than 8 bits. Default: the range that an image uses.
            display: which channels of images of more than three are shown as red, green and blue, counted from 0.
            device: where the network runs, see `to`. Default: where it is.
            unit: unit of the values, such as "years", with probability="none".

        Raises:
            NetworkError: the network does not support inputs of this size, the number of names is wrong, or several
                outputs may hold the logits.
            HeadError: no pooling reaches the logits.
        """
        if not isinstance(network, nn.Module):
            hint = " Load these weights into their network first." if isinstance(network, Mapping) else ""
            raise NetworkError(f"Expected a network, a torch.nn.Module; got {type(network).__name__}.{hint}")
        height_width = as_pair(size)
        channels = next((layer.in_channels for layer in network.modules() if isinstance(layer, nn.Conv2d)), 3)
        plain = Preprocessing(height_width, (0.0,) * channels, (1.0,) * channels, find_usual_resize(height_width))
        overrides = PreprocessingOverrides(None, mean, std, resize, interpolation, window, display)
        preprocessing = overrides.apply_to(plain)
        loaded = LoadedNetwork(name, network, preprocessing, class_names, probability, output=output, unit=unit)
        return Classifier.from_network(replace(loaded, notes=list_suspicions(preprocessing)), device)

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
        unwrapped = unwrap(loaded.network)
        example = noise_input(unwrapped, (1, channels, *size))
        network = choose_output(unwrapped, example, loaded.output)
        network, activation = find_logits(network, example, loaded.output_activation)
        head = find_head(network, example)
        names = ClassNames(tuple(f"class {k}" for k in range(head.classes)))
        if loaded.class_names is not None:
            names = list_class_names(loaded.class_names)
            names.check(head.classes)
        head, shift = place_head(network, example, head, loaded.receptive_field), (0.0, 0.0)
        if loaded.cell_center is not None:
            field = join_fields(head.branches)
            shift = loaded.cell_center[0] - field.y.centre, loaded.cell_center[1] - field.x.centre
            head = replace(head, branches=move_branches(head.branches, shift))
        classifier = Classifier(
            name=make_printable(loaded.name),
            network=network,
            preprocessing=replace(preprocessing, size=size),
            class_names=names.names,
            head=head,
            receptive_field=join_fields(head.branches),
            cell_shift=shift,
            probability=activation or ("sigmoid" if head.classes == 1 else "softmax"),
            notes=loaded.notes,
            unit=loaded.unit,
            capture=make_feature_capture(network, example, head.calls, head.needs_pooled, head.needs_derivative),
        )
        if size == preprocessing.size:
            return classifier
        return replace(classifier.resized(preprocessing.size), preprocessing=preprocessing)

    def __repr__(self) -> str:
        """Return network, classes, head and preprocessing, in five lines."""
        names = ", ".join(self.class_names[:3]) + (", ..." if len(self.class_names) > 3 else "")
        return "\n".join(
            (
                f"Classifier {self.name}",
                f"  {'1 class' if len(self.class_names) == 1 else f'{len(self.class_names)} classes'}: {names}",
                f"  head: {self.head.pooling} pooling, class maps {self.head.verdict}",
                f"  fed {self.preprocessing.describe()}",
                f"  {self.meaning.sentence(len(self.class_names))}",
                *(f"  {note}" for note in self.notes),
            )
        )

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
        example = match_parameters(self.network, torch.zeros(1, len(preprocessing.mean), *size))
        head = replace(
            self.head, branches=place_branches_again(self.network, example, self.head.branches, self.cell_shift)
        )
        preprocessing = replace(preprocessing, size=size, resize=resize)
        return replace(self, preprocessing=preprocessing, head=head, receptive_field=join_fields(head.branches))

    def to(self, device: str | torch.device) -> "Classifier":
        """Return the same classifier on another device. Its head is read again there.

        As in torch, the network itself is moved: do not use this classifier any more.

        Args:
            device: "cpu", "cuda", "cuda:1", "mps", or "auto" for a CUDA GPU if there is one.

        Raises:
            NetworkError: there is no such device, or the network does not run there.
        """
        network = original_network(self.network)
        center = (self.receptive_field.y.centre, self.receptive_field.x.centre) if any(self.cell_shift) else None
        known = (self.probability, getattr(network, "receptive_field", None), center)
        loaded = LoadedNetwork(self.name, network, self.preprocessing, self.class_names, *known)
        loaded = replace(loaded, output=self.output, notes=self.notes, unit=self.unit)
        return Classifier.from_network(loaded, device)

    def reread(self) -> "Classifier":
        """Return the same classifier with its head read anew, after the weights of its network changed, as in training.

        Poolings and the places of cells stay as they were found, so this takes about as long as two passes. If the head
        no longer has the same form, all of it is found anew.

        Raises:
            NetworkError, HeadError: as in `wrap`.
        """
        example = self.noise_input()
        with preserve_state(self.network):
            head = read_weight_again(self.network, example, self.head)
        if head is None:
            return self.to(example.device)
        return replace(self, head=head, capture=replace(self.capture, accelerated=None))

    def inputs(self, view: View) -> Tensor:
        """Return a photo as normalized input (1, channels, H, W), in the network's dtype and on its device."""
        return match_parameters(self.network, torch.from_numpy(normalize_view(view, self.preprocessing)))

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
        """Compute class probabilities (..., K) from logits (..., K) as the network does; NaN where there are none."""
        if self.probability == "softmax":
            return logits.softmax(-1)
        if self.probability == "sigmoid":
            return logits.sigmoid()
        return logits if self.probability == "identity" else torch.full_like(logits, math.nan)

    def scores(self, logits: Tensor) -> Tensor:
        """Return the probabilities (..., K) of logits (..., K), or the values themselves where there are none."""
        return self.probabilities(logits) if self.meaning.has_probabilities else logits

    @property
    def meaning(self) -> OutputMeaning:
        """What the values are that class maps add up to."""
        return OutputMeaning(self.probability, self.unit)

    @property
    def facts(self) -> NetworkFacts:
        """What a viewer needs to know of the network, without torch."""
        return NetworkFacts(
            self.name,
            self.class_names,
            self.preprocessing.size,
            self.receptive_field,
            self.meaning,
            self.head.pooling,
            self.head.per_class,
            self.head.has_position_scores,
        )

    @property
    def output(self) -> str | None:
        """Name of the output that holds the logits; None if the network's output shows which it is."""
        return find_chosen_output(self.network)

    @property
    def place(self) -> str:
        """One sentence: whether the cells were measured to respond at their places, and why not."""
        return self.receptive_field.description

    @property
    def backend_status(self) -> str:
        """One sentence on which backend runs the network, and why."""
        accelerated = self.capture.accelerated
        return "Running on PyTorch." if accelerated is None else accelerated.status

    @property
    def precision_notes(self) -> tuple[str, ...]:
        """Sentences on how the results of a backend in lower precision differ from those in float32; () in float32."""
        accelerated = self.capture.accelerated
        return () if accelerated is None else accelerated.list_notes()

    def sha256(self) -> str:
        """Return the SHA-256 hash, in hexadecimal, of the names and values of all parameters and buffers."""
        return hash_weights(original_network(self.network))


def check_classifier(value: object) -> None:
    """Raise NetworkError if this is no classifier, but a network or its name."""
    if isinstance(value, Classifier):
        return
    how = "load it: inspector.load(...)"
    if not isinstance(value, str):
        how = "wrap it: inspector.Classifier.wrap(network, ...)"
    raise NetworkError(f"A classifier is needed, not an object of type {type(value).__name__}. First {how}.")
