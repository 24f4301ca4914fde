"""Resize and crop a photo to the network's input, and remember where the crop lies on the photo.

    Photo -> View: the pixels that the network sees, and the Crop: their place on the photo

Points are (x, y) and sizes are (height, width), in pixels. The outer edge of the first pixel has the coordinate 0.
"""

import math
from collections.abc import Sequence, Sized
from dataclasses import dataclass, replace
from operator import index
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inspector.errors import ImageError, NetworkError
from inspector.images.decode import MAX_PIXELS, Pixels
from inspector.images.photo import Photo, apply_settings
from inspector.images.photo_size import MAX_SIDE
from inspector.images.values import Display, Window, check_display, check_window, scale_values

Box: TypeAlias = tuple[float, float, float, float]  # left, top, right, bottom in pixels of the photo
Interpolation = Literal["bilinear", "bicubic"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_LEAST_CROPPED = 128  # pixels of the shorter side of an input; smaller inputs are usually not cropped
_LARGEST_UNIT = 5  # of mean and std, for pixels of 0-1; larger ones are for pixels of 0-255


@dataclass(frozen=True)
class Preprocessing:
    """How a photo becomes the network's input.

    Three steps: scale the photo until it covers `resize`, crop its center to `size`, compute (x / 255 - mean) / std.
    """

    size: tuple[int, int]  # (height, width) of the network's input
    mean: tuple[float, ...]  # one value per channel, 0-1; one: the network takes gray images; three: RGB
    std: tuple[float, ...]  # one value per channel, in the same unit as `mean`
    resize: tuple[int, int] | None  # not smaller than `size`; None: squeeze the whole photo to `size`, without a crop
    interpolation: Interpolation = "bilinear"
    window: Window | None = None  # values that become 0 and 1 in images of more than 8 bits; None: see `read_image`
    display: Display | None = None  # channels shown as red, green and blue, of images of more than 3; None: the first 3

    def describe(self) -> str:
        """Return in words how a photo becomes the network's input."""
        colors = {1: "in gray", 3: "as RGB"}.get(len(self.mean), f"with {len(self.mean)} channels")
        height, width = self.size
        if self.resize is None or self.resize == self.size:
            resized = f"resized to {'' if self.resize is None else 'cover '}{height} x {width} ({self.interpolation})"
        else:
            resized = f"resized to cover {self.resize[0]} x {self.resize[1]} ({self.interpolation})"
        cropped = [] if self.resize is None else [f"cropped to the center {height} x {width}"]
        return "; ".join([colors, resized, *cropped, self.describe_values()])

    def describe_values(self) -> str:
        """Return in words how the values of pixels become the network's input."""
        window = "" if self.window is None else f"values {self.window[0]:g} to {self.window[1]:g} "
        steps = [f"{window}scaled to {'0-255' if self._feeds_pixels() else '0-1'}"]
        if not self._feeds_pixels() and (set(self.mean) != {0.0} or set(self.std) != {1.0}):
            mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (self.mean, self.std))
            steps.append(f"mean {mean} subtracted, divided by std {std}")
        return "; ".join(steps)

    def summarize(self) -> str:
        """Return input size and normalization in a few words, such as "input 224x224, ImageNet mean and std"."""
        colors = {1: " gray", 3: ""}.get(len(self.mean), f", {len(self.mean)} channels")
        return f"input {self.size[0]}x{self.size[1]}{colors}, {self._name_normalization()}"

    def _name_normalization(self) -> str:
        if (self.mean, self.std) == (IMAGENET_MEAN, IMAGENET_STD):
            return "ImageNet mean and std"
        if self._feeds_pixels():
            return "pixels 0 to 255"
        one_each = len(set(self.mean)) == len(set(self.std)) == 1
        known = {(0.0, 1.0): "pixels 0 to 1", (0.5, 0.5): "pixels -1 to 1"}
        if one_each and (self.mean[0], self.std[0]) in known:
            return known[self.mean[0], self.std[0]]
        mean, std = (
            ", ".join(f"{value:.4g}" for value in (values[:1] if one_each else values))
            for values in (self.mean, self.std)
        )
        return f"mean {mean} and std {std}"

    def _feeds_pixels(self) -> bool:
        """Return whether the network gets pixels of 0 to 255 as they are."""
        return set(self.mean) == {0.0} and all(abs(255 * value - 1) < 1e-6 for value in self.std)


@dataclass(frozen=True)
class PreprocessingOverrides:
    """Settings that replace settings of a default preprocessing; None keeps the default."""

    size: int | Sequence[int] | None = None  # (height, width) of the network's input
    mean: float | Sequence[float] | None = None  # one number: the same for each channel
    std: float | Sequence[float] | None = None
    resize: int | Sequence[int] | str | None = None  # size that the photo covers before the crop; "squeeze": no crop
    interpolation: Interpolation | None = None
    window: Sequence[float] | None = None  # values that become 0 and 1 in images of more than 8 bits
    display: Sequence[int] | None = None  # channels shown as red, green and blue, in images of more than three

    def apply_to(self, default: Preprocessing) -> Preprocessing:
        """Return the default preprocessing with these settings in place of its own.

        If `size` changes but `resize` is not given, `resize` changes in proportion: the crop keeps the same part of
        the photo.

        Raises:
            NetworkError: `resize` is smaller than the input, `mean` or `std` is not finite, or `std` is not positive.
            ImageError: `window` or `display` has other numbers than it needs.
        """
        size = default.size if self.size is None else as_pair(self.size)
        resize = default.resize
        if self.resize is not None:
            resize = None if self.resize == "squeeze" else as_pair(self.resize)  # type: ignore[arg-type]
            if resize is not None and (resize[0] < size[0] or resize[1] < size[1]):
                raise NetworkError(
                    f"A photo that is scaled to {resize[0]}x{resize[1]} cannot be cropped to {size[0]}x{size[1]}. "
                    'Use that size or a larger one for resize, or "squeeze".'
                )
        elif resize is not None and size != default.size:
            resize = (round(resize[0] * size[0] / default.size[0]), round(resize[1] * size[1] / default.size[1]))
        counts = [len(given) for given in (self.mean, self.std) if _has_length(given)]  # type: ignore[arg-type]
        channels = counts[0] if counts else len(default.mean)
        mean = default.mean if self.mean is None else _as_channel_values("mean", self.mean, channels)
        std = default.std if self.std is None else _as_channel_values("std", self.std, channels)
        if not all(map(math.isfinite, (*mean, *std))) or min(std, default=1) <= 0:
            raise NetworkError(f"mean and std must be numbers, std above 0; got {mean} and {std}.")
        _refuse_pixel_values(mean, std)
        return Preprocessing(
            size,
            mean,
            std,
            resize,
            self.interpolation or default.interpolation,
            default.window if self.window is None else check_window(self.window),
            default.display if self.display is None else check_display(self.display),
        )


@dataclass(frozen=True)
class Crop:
    """Where the network's input lies on the photo. Nothing else is needed to draw a map over the photo."""

    photo_size: tuple[int, int]  # (height, width)
    box: Box  # the crop, in pixels of the photo; it may extend beyond the photo
    input_size: tuple[int, int]  # (height, width) of the network's input


@dataclass(frozen=True, eq=False)
class View:
    """The pixels that the network sees of a photo."""

    photo: Photo
    pixels: Pixels  # (H, W, 3), or (H, W) if the network takes gray images
    crop: Crop
    # (H, W, channels) in the unit of mean and std: what the network gets where `pixels` cannot hold it, as they have
    # 8 bits in 1 or 3 channels. None: it gets `pixels`.
    values: NDArray[np.float32] | None = None
    is_input: bool = False  # the photo is the network's input itself, which came as a tensor

    @property
    def box(self) -> Box:
        """The crop on the photo: left, top, right, bottom in pixels of the photo."""
        return self.crop.box


def make_view(photo: Photo, preprocessing: Preprocessing) -> View:
    """Resize and crop a photo to the network's input size. Sizes are rounded as in torchvision.

    A network of three channels gets the channels that are shown, and one of a single channel gets them in gray. Any
    other network gets all channels of the image, which must be as many.

    Raises:
        ImageError: the image has another number of channels than the network; or it is so thin that, resized to cover
            `resize`, it would have more than MAX_PIXELS.
    """
    photo = apply_settings(photo, preprocessing.window, preprocessing.display)
    height, width = photo.size
    out_height, out_width = preprocessing.size
    resized_height, resized_width = _compute_resized(photo.size, preprocessing)
    if resized_height * resized_width > MAX_PIXELS:
        raise ImageError(f"{photo.name} is too thin for this network: {width} x {height} pixels. Crop it first.")
    top = round((resized_height - out_height) / 2)
    left = round((resized_width - out_width) / 2)

    def resize_and_crop(image: Image.Image) -> NDArray[Any]:
        resampling = Image.Resampling[preprocessing.interpolation.upper()]
        image = image.resize((resized_width, resized_height), resampling)
        return np.asarray(image.crop((left, top, left + out_width, top + out_height)))

    channels, values = len(preprocessing.mean), None
    if channels not in (1, 3):
        scaled, note = _scale_channels(photo, channels, preprocessing)
        values = np.stack([resize_and_crop(Image.fromarray(scaled[..., c])) for c in range(channels)], axis=2)
        photo = replace(photo, notes=(*photo.notes, note))
    image = Image.fromarray(photo.pixels)
    pixels = resize_and_crop(image.convert("L") if channels == 1 else image)
    across, down = width / resized_width, height / resized_height
    box = (left * across, top * down, (left + out_width) * across, (top + out_height) * down)
    return View(photo, pixels, Crop(photo.size, box, preprocessing.size), values)


def normalize_view(
    view: View, preprocessing: Preprocessing, out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Return what the network sees of a photo as its normalized input (1, channels, H, W), written into `out` if given.

    Args:
        view: the photo, resized and cropped.
        preprocessing: that of the network.
        out: C-contiguous array (1, channels, H, W), such as a row of a batch.
    """
    # NumPy, because torch's worker threads would busy-wait for longer than a fast network runs. Channels first, so that
    # every step runs over contiguous memory.
    values, white = (view.pixels, 255) if view.values is None else (view.values, 1)
    planes = values.reshape(*preprocessing.size, -1).transpose(2, 0, 1)[None]
    normalized = np.empty(planes.shape, np.float32) if out is None else out
    np.divide(planes, white, out=normalized, dtype=np.float32)
    normalized -= np.array(preprocessing.mean, np.float32)[:, None, None]
    normalized /= np.array(preprocessing.std, np.float32)[:, None, None]
    return normalized


def _scale_channels(photo: Photo, channels: int, preprocessing: Preprocessing) -> tuple[NDArray[np.float32], str]:
    """Return all channels of an image in the unit of mean and std, (H, W, C), and a note on how they were scaled."""
    values = photo.pixels if photo.values is None else np.atleast_3d(photo.values)
    if values.shape[2] != channels:
        raise ImageError(
            f"{photo.name} has {values.shape[2]} channels, and the network takes {channels}. Use an array (H, W, "
            f"{channels}) or a TIFF file with {channels} channels."
        )
    return scale_values(values, photo.window or preprocessing.window)


def make_whole_view(photo: Photo, pixels: Pixels, values: NDArray[np.float32] | None = None) -> View:
    """Return a View of the whole photo, without resize or crop.

    Args:
        photo: the photo.
        pixels: RGB (H, W, 3) or gray (H, W).
        values: the input (H, W, channels) in the unit of mean and std, if it came as a tensor.
    """
    height, width = size = (pixels.shape[0], pixels.shape[1])
    return View(photo, pixels, Crop(size, (0, 0, width, height), size), values, is_input=values is not None)


def _compute_resized(size: tuple[int, int], preprocessing: Preprocessing) -> tuple[int, int]:
    if preprocessing.resize is None:
        return preprocessing.size
    (height, width), (cover_height, cover_width) = size, preprocessing.resize
    if cover_height * width >= cover_width * height:
        return cover_height, int(cover_height * width / height)
    return int(cover_width * height / width), cover_width


def find_usual_resize(size: Sequence[int]) -> tuple[int, int]:
    """Return the (height, width) that a photo covers before it is cropped to an input size, as in usual evaluations.

    These crop 7/8 of a photo, such as 224 of 256 pixels (He et al., CVPR 2016, and torchvision). Networks with small
    inputs, such as those for CIFAR and MNIST, are evaluated on whole images.
    """
    height, width = (round(side * 8 / 7) if min(size) >= _LEAST_CROPPED else side for side in size)
    return height, width


def list_suspicions(preprocessing: Preprocessing) -> tuple[str, ...]:
    """Return a sentence on each setting that is probably a mistake."""
    mean = preprocessing.mean
    if len(mean) == 3 and _is_close(mean[::-1], IMAGENET_MEAN) and not _is_close(mean, IMAGENET_MEAN):
        listed = ", ".join(f"{value:g}" for value in mean)
        return (
            f"mean {listed} is that of ImageNet in the order blue, green, red, but photos are fed as red, green, blue. "
            "Reverse mean and std, or flip the channels inside the network if it was trained on BGR.",
        )
    return ()


def _is_close(values: Sequence[float], expected: Sequence[float], tolerance: float = 0.01) -> bool:
    return all(abs(value - other) <= tolerance for value, other in zip(values, expected, strict=True))


def _refuse_pixel_values(mean: Sequence[float], std: Sequence[float]) -> None:
    """Raise NetworkError if mean and std look like pixel values from 0 to 255."""
    if max(map(abs, (*mean, *std)), default=0) <= _LARGEST_UNIT:
        return
    mean_text, std_text = (", ".join(f"{value:g}" for value in values) for values in (mean, std))
    shares = [value / 255 for value in mean]
    is_bgr = len(mean) == 3 and _is_close(shares[::-1], IMAGENET_MEAN, 0.02) and not _is_close(shares, IMAGENET_MEAN)
    order = " in BGR order" if is_bgr else ""
    reverse = ", and reverse their order, because photos are fed as red, green, blue" if is_bgr else ""
    raise NetworkError(
        f"mean {mean_text} and std {std_text} look like pixel values 0 to 255{order}, but they apply to pixels of 0 to "
        f"1. Divide both by 255{reverse}."
    )


def _has_length(values: object) -> bool:
    """Tell whether values are a sequence; a number, also of NumPy or torch, is none."""
    return isinstance(values, Sized) and getattr(values, "ndim", 1) > 0


def _as_channel_values(name: str, values: float | Sequence[float], channels: int) -> tuple[float, ...]:
    try:
        if not _has_length(values):
            return (float(values),) * channels  # type: ignore[arg-type]
        return tuple(map(float, values))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise NetworkError(
            f"Expected {name} as a sequence of one number per channel, such as (0.5, 0.5, 0.5); got {values!r}."
        ) from None


def as_pair(size: int | Sequence[int]) -> tuple[int, int]:
    """Return (height, width): one number gives a square, two numbers are taken as they are.

    Raises:
        NetworkError: these are not whole numbers of pixels from 1 to 8192.
    """
    try:
        height, width = (index(side) for side in (size if isinstance(size, Sequence) else (size, size)))
    except (TypeError, ValueError):
        height = width = 0
    if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE):
        raise NetworkError(
            f"Expected a size in pixels, one number or (height, width), each from 1 to {MAX_SIDE}; got {size!r}."
        )
    return height, width
