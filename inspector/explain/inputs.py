"""Make the network's input of what users have: photos, tensors, transforms, and batches of data loaders.

A photo goes through the classifier's preprocessing. A tensor of floats is an input already, and is fed as it is; so is
what a transform makes of a photo. What is shown is then the input itself, with mean and std undone.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from inspector.errors import ImageError, translate_errors
from inspector.explain.classifier import Classifier
from inspector.explain.tracing.forward import match_parameters
from inspector.images.photo import ImageSource, Photo, make_shown_photo, read_image
from inspector.images.photo_size import find_photo_size
from inspector.images.preprocessing import (
    Preprocessing,
    View,
    make_view,
    make_whole_view,
)
from inspector.images.values import find_window, scale_to_pixels

Transform = Callable[[Any], Any]  # of a PIL image, as those of torchvision and timm; returns a tensor (channels, H, W)

_MARGIN = 0.25  # how far values may lie outside 0-1: interpolation overshoots
_IMAGE_KEYS = ("pixel_values", "image", "images", "img", "x", "input", "inputs")
_FED = "It was given as a tensor and fed as it is. The picture is this tensor, with mean and std undone."
_TRANSFORMED = "It was fed as the transform made it. Where its crop lies is unknown, so the picture is its result."


def make_input(
    classifier: Classifier, image: ImageSource | Photo, size: Any = None, transform: Transform | None = None
) -> tuple[Classifier, Tensor, View]:
    """Make the input of one image.

    Args:
        classifier: the network, with its preprocessing.
        image: anything that `class_maps` takes for one image.
        size: input size (height, width); "whole", "whole:288" or "native" as in `class_maps`. Default: the
            classifier's.
        transform: makes the input of a PIL image, in place of the preprocessing.

    Returns:
        The classifier at the size of the input; the input (1, channels, H, W); and the view of the photo.

    Raises:
        ImageError: the image cannot be read, or the tensor is no input of this network.
    """
    if is_input(image):
        classifier, inputs = _fit_tensor(classifier, image, size, "tensor")
        return classifier, inputs, make_input_view(classifier.preprocessing, inputs[0])
    photo = image if isinstance(image, Photo) else read_image(image)
    if transform is not None:
        with translate_errors(ImageError, f"The transform fails on {photo.name}: {{reason}}."):
            made = transform(Image.fromarray(photo.pixels))
        if not is_input(made):
            kind = f"a tensor of {made.dtype}" if isinstance(made, Tensor) else type(made).__name__
            raise ImageError(
                f"The transform returns {kind}. Expected a tensor of floats: end it with ToTensor() and Normalize(...)."
            )
        classifier, inputs = _fit_tensor(classifier, made, size, "transform")
        view = make_input_view(classifier.preprocessing, inputs[0], photo.name, (*photo.notes, _TRANSFORMED))
        return classifier, inputs, view
    if isinstance(size, str):
        classifier = classifier.resized(find_photo_size(size, photo.size, classifier.preprocessing.size), crop=False)
    elif size is not None:
        classifier = classifier.resized(size)
    view = make_view(photo, classifier.preprocessing)
    return classifier, classifier.inputs(view), view


def is_input(image: object) -> bool:
    """Return whether an image is an input already: a tensor of floats. Tensors of integers are photos, as arrays."""
    return isinstance(image, Tensor) and image.is_floating_point()


def _fit_tensor(classifier: Classifier, tensor: Any, size: object, name: str) -> tuple[Classifier, Tensor]:
    """Return the classifier at the size of a tensor (channels, H, W) or (1, channels, H, W), and the input."""
    if size is not None:
        raise ImageError(f"The {name} decides the input size. Leave out size, which is {size!r}.")
    batch, channels = tensor[None] if tensor.ndim == 3 else tensor, len(classifier.preprocessing.mean)
    check_batch(batch, channels, tensor.shape)
    if len(batch) != 1:
        raise ImageError(f"Expected one image, got {len(batch)} in a {name} of shape {tuple(tensor.shape)}.")
    height, width = batch.shape[2:]
    if (height, width) != classifier.preprocessing.size:
        classifier = classifier.resized((height, width), crop=False)
    return classifier, match_parameters(classifier.network, batch.detach())


def check_batch(batch: Tensor, channels: int, shape: Sequence[int]) -> None:
    """Raise ImageError if a batch is not (N, channels, H, W)."""
    if batch.ndim != 4 or batch.shape[1] != channels or batch.numel() == 0:
        raise ImageError(
            f"Expected a tensor ({channels}, H, W) or (N, {channels}, H, W) of normalized values, got {tuple(shape)}. "
            "For pixels of 0-255, use a tensor or array of uint8."
        )


def make_input_view(
    preprocessing: Preprocessing, tensor: Tensor, name: str = "tensor", notes: tuple[str, ...] = (_FED,)
) -> View:
    """Return the view of an input (channels, H, W): the input itself, with mean and std undone.

    If the result is not within 0 to 1, because mean and std are not those of the transform, it is scaled to be seen.
    """
    mean, std = (np.array(numbers, np.float32) for numbers in (preprocessing.mean, preprocessing.std))
    values: NDArray[np.float32] = tensor.detach().float().numpy(force=True).transpose(1, 2, 0) * std + mean
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    if low >= -_MARGIN and high <= 1 + _MARGIN:
        shown = scale_to_pixels(values, (0, 1))
    else:
        shown = scale_to_pixels(values, find_window(values))
        scaled = f"its values are {low:.3g} to {high:.3g}, and not 0 to 1, so the picture is scaled"
        notes = (*notes, f"With mean and std undone, {scaled}. They may be those of another transform.")
    photo = make_shown_photo(shown, name, values, notes, preprocessing.display)
    pixels = photo.pixels[..., 0] if values.shape[2] == 1 else photo.pixels
    return make_whole_view(photo, pixels, values)


def is_iterable_of_images(image: object) -> bool:
    """Return whether an object is a data loader or another iterable of images, and not one image."""
    one_image = (str, bytes, bytearray, memoryview, os.PathLike, Image.Image, Photo)
    if isinstance(image, one_image) or hasattr(image, "read") or hasattr(image, "__array__"):
        return False
    return isinstance(image, Iterable)


def find_batch(batch: object) -> object:
    """Return the images in what a data loader yields: alone, with labels after them, or in a mapping."""
    if isinstance(batch, Mapping):
        named = [batch[key] for key in _IMAGE_KEYS if key in batch]
        images = named or [value for value in batch.values() if isinstance(value, Tensor) and value.ndim == 4]
        if not images:
            raise ImageError(
                f"No images in a batch with the entries {', '.join(map(str, batch))}. Pass the images alone."
            )
        return images[0]
    if isinstance(batch, list | tuple) and batch and isinstance(batch[0], Tensor) and batch[0].ndim == 4:
        return batch[0]
    if isinstance(batch, tuple) and len(batch) == 2 and _is_label(batch[1]):  # a sample of a data set
        return batch[0]
    return batch


def _is_label(value: object) -> bool:
    return isinstance(value, int | np.integer) or (isinstance(value, Tensor) and value.ndim == 0)
