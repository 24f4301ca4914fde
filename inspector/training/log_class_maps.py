"""Write class maps of fixed photos during a training, so that one sees where the evidence moves."""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from inspector.errors import ClassError, InspectorError, NetworkError, summarize_reason
from inspector.explain.class_maps import ClassMaps, class_maps
from inspector.explain.classifier import Classifier, check_classifier
from inspector.explain.inputs import find_batch, is_input
from inspector.explain.tracing.preserve import preserve_state
from inspector.images.photo import Photo, read_image
from inspector.training.devices import is_first
from inspector.training.figures import draw_step
from inspector.training.log_writers import LogWriter, find_writer, make_tag

_LOGIT = 20.0  # whose even spread over all cells gives the strongest color
_FEW_CELLS = 4  # over which it is spread with max pooling, where each channel contributes in one cell
_SHARDED = ("FullyShardedDataParallel", "FSDPModule", "DTensor")


@dataclass(frozen=True)
class LogOptions:
    """What is shown at every step; the fields are arguments of `log_class_maps`."""

    classes: str | Sequence[str | int] | int = 3
    against: str | int | None = None
    scale: float | None = None
    size: Any = None
    smooth: bool = True
    side: int = 200
    tag: str = "class_maps"
    strict: bool = False

    def check(self, classifier: Classifier) -> None:
        """Raise ClassError if a class does not exist, and InspectorError if the scale is missing or cannot be used."""
        if isinstance(self.classes, int):
            if self.classes < 1:
                raise ClassError(f"A log shows at least one class; got {self.classes}. For the last class, use [-1].")
        else:
            for name in [self.classes] if isinstance(self.classes, str) else self.classes:
                classifier.class_index(name)
        if self.scale is None and classifier.meaning.activation == "none":
            unit = classifier.meaning.units
            raise InspectorError(
                "The values of this network have no usual size, so there is no default scale. Give scale, the "
                f"contribution of a cell with the strongest color, in {unit}."
            )
        if self.scale is not None and not (self.scale > 0 and math.isfinite(self.scale)):
            raise InspectorError(f"The scale is the contribution with the strongest color, above 0; got {self.scale}.")

    def find_scale(self, maps: ClassMaps) -> float:
        """Return the contribution of a cell that gets the strongest color; it is the same at every step."""
        if self.scale is not None:
            return self.scale
        total = 1.0 if maps.classifier.meaning.activation == "identity" else _LOGIT
        return total / (_FEW_CELLS if "max" in maps.classifier.head.pooling else maps.values[0].numel())


def log_class_maps(
    classifier: Classifier,
    photos: Any,
    writer: Any,
    step: int,
    classes: str | Sequence[str | int] | int = 3,
    against: str | int | None = None,
    scale: float | None = None,
    size: Any = None,
    smooth: bool = True,
    side: int = 200,
    tag: str = "class_maps",
    strict: bool = False,
) -> list[ClassMaps]:
    """Write class maps of photos at one step of a training, to TensorBoard, MLflow or a function.

    Every photo gives one picture: the photo and the chosen class maps, on a scale that is the same at every step, with
    logit, probability and verdict. The numbers are written as such, too.

    The head of the network is read anew, as its weights have changed. The network is left as it was: modes, buffers,
    gradients, random numbers. It runs in evaluation mode, in the type of its parameters, without autocast. In
    distributed training the first process writes, and the others return at once.

    What fails does not end the training: it becomes a warning, and nothing is written. Only what is wrong at every step
    is raised: no classifier, no such class, no such writer, no scale.

    Args:
        classifier: made once, before the training, by `Classifier.wrap(network, ...)`.
        photos: one photo, or a list or tensor of several, as `class_maps` takes them; or a mapping {name: photo}.
        writer: a SummaryWriter of TensorBoard; `mlflow`, a run of it, or (MlflowClient, run id); or a function that is
            called with a tag, a picture (H, W, 3) of uint8, and the step.
        step: number of the step or epoch.
        classes: names or indices of classes, or how many of those with the highest logits at this step; 1 shows the
            predicted class.
        against: name or index of a class to contrast with, or "average" for the average of all classes.
        scale: contribution of a cell with the strongest color, in logits. Default: that of every cell where a logit of
            20 is spread evenly over all cells; with max pooling, over four cells.
        size: input size, as in `class_maps`.
        smooth: interpolate between the centers of the cells.
        side: longer side of each panel, in pixels.
        tag: first part of the tags, as in "class_maps/cat.jpg".
        strict: raise every error.

    Returns:
        The class maps of the photos, in their order. Empty after a failure, and in other processes than the first.

    Raises:
        NetworkError: this is no classifier.
        ClassError: there is no such class.
        InspectorError: nothing can be written to this writer, or the scale is missing or not above 0.

    Example:
        >>> classifier = inspector.Classifier.wrap(network, class_names=names, size=224)
        >>> for epoch in range(10):
        ...     train_one_epoch(network)
        ...     inspector.log_class_maps(classifier, ["cat.jpg", "dog.jpg"], SummaryWriter(), epoch)
    """
    check_classifier(classifier)
    options = LogOptions(classes, against, scale, size, smooth, side, tag, strict)
    options.check(classifier)
    target = find_writer(writer)
    if not is_first():
        return []
    try:
        named = name_photos(photos)
        results = _compute(classifier, list(named.values()), size)
        for name, maps in zip(named, results, strict=True):
            _write(maps, name, target, step, options)
        return results
    except Exception as error:  # of the network, the photos or the library that writes
        if strict:
            raise
        reason = (
            str(error) if isinstance(error, InspectorError) else f"{type(error).__name__}, {summarize_reason(error)}"
        )
        warnings.warn(f"Class maps are not written, and the training goes on: {reason}", RuntimeWarning, stacklevel=2)
        return []


def check_intervals(**intervals: int | None) -> None:
    """Raise InspectorError if a number of epochs or steps between two pictures is below 1."""
    for name, value in intervals.items():
        if value is not None and value < 1:
            raise InspectorError(f"{name} is a number of 1 or more; got {value}.")


def name_photos(photos: Any) -> dict[str, Photo | Tensor]:
    """Read photos, and name them: by their files, by the keys of a mapping, or "photo 1", "photo 2", ...

    Raises:
        ImageError: a photo cannot be read.
    """
    if isinstance(photos, Mapping):
        return {str(name): _read(one) for name, one in photos.items()}
    photos = find_batch(photos)
    if isinstance(photos, Tensor) and photos.ndim == 4:
        photos = list(photos)
    named: dict[str, Photo | Tensor] = {}
    for number, one in enumerate(photos if isinstance(photos, list | tuple) else [photos], 1):
        read = _read(one)
        name = read.name if isinstance(read, Photo) else f"photo {number}"
        named[f"{name} {number}" if name in named else name] = read
    return named


def _read(photo: Any) -> Photo | Tensor:
    image: Any = find_batch(photo)
    return image if isinstance(image, Photo) or is_input(image) else read_image(image)


def _compute(classifier: Classifier, photos: Sequence[Photo | Tensor], size: Any) -> list[ClassMaps]:
    network = classifier.network
    parts = (*network.modules(), *network.parameters())
    if any(type(one).__name__ in _SHARDED or hasattr(one, "ds_id") for one in parts):  # ds_id: of DeepSpeed
        raise NetworkError(
            "The parameters of this network are divided among processes, so no single one can run it. Log class maps "
            "from a checkpoint of all parameters."
        )
    device = next((one.device.type for one in network.parameters()), "cpu")
    with preserve_state(network), torch.inference_mode(False), torch.autocast(device, enabled=False):
        current = classifier.reread()
        return [class_maps(current, photo, size) for photo in photos]


def _write(maps: ClassMaps, name: str, writer: LogWriter, step: int, options: LogOptions) -> None:
    shown = maps.figure_content(options.classes, options.against, smooth=options.smooth)
    picture = draw_step(maps, name, shown, options.find_scale(maps), options.side)
    writer.write_picture(make_tag(options.tag, name), picture, step)
    meaning = maps.classifier.meaning
    for k in shown.classes:
        class_name = maps.classifier.class_names[k]
        writer.write_number(make_tag(options.tag, name, meaning.quantity, class_name), float(maps.logits[k]), step)
        if meaning.has_probabilities:
            tag = make_tag(options.tag, name, "probability", class_name)
            writer.write_number(tag, float(maps.probabilities[k]), step)
    writer.write_number(make_tag(options.tag, name, "residual"), maps.residual, step)
