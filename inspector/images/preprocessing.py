"""Resize and crop a photo to the network's input, and remember where the crop lies on the photo.

    Photo -> View: the pixels that the network sees, and the Crop: their place on the photo

Points are (x, y) and sizes are (height, width), in pixels. The outer edge of the first pixel has the coordinate 0.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from PIL import Image

from inspector.errors import ImageError, NetworkError
from inspector.images.photo import MAX_PIXELS, Photo, Pixels

Box: TypeAlias = tuple[float, float, float, float]  # left, top, right, bottom in pixels of the photo
Interpolation = Literal["bilinear", "bicubic"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_MAX_NATIVE = 1024  # pixels of the longer side; for larger inputs, the feature maps may not fit in memory


@dataclass(frozen=True)
class Preprocessing:
    """How a photo becomes the network's input.

    Three steps: scale the photo until it covers `resize`, crop its center to `size`, compute (x / 255 - mean) / std.
    """

    size: tuple[int, int]  # (height, width) of the network's input
    mean: tuple[float, ...]  # one value per channel, 0-1; a single value: the network takes gray images
    std: tuple[float, ...]  # one value per channel, in the same unit as `mean`
    resize: tuple[int, int] | None  # not smaller than `size`; None: squeeze the whole photo to `size`, without a crop
    interpolation: Interpolation = "bilinear"


@dataclass(frozen=True)
class PreprocessingOverrides:
    """Settings that replace settings of a default preprocessing; None keeps the default."""

    size: int | Sequence[int] | None = None  # (height, width) of the network's input
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    resize: int | Sequence[int] | str | None = None  # size that the photo covers before the crop; "squeeze": no crop
    interpolation: Interpolation | None = None

    def apply_to(self, default: Preprocessing) -> Preprocessing:
        """Return the default preprocessing with these settings in place of its own.

        If `size` changes but `resize` is not given, `resize` changes in proportion: the crop keeps the same part of
        the photo.

        Raises:
            NetworkError: `resize` is smaller than the input, `mean` or `std` is not finite, or `std` is not positive.
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
        mean, std = self.mean or default.mean, self.std or default.std
        if not all(map(math.isfinite, (*mean, *std))) or min(std) <= 0:
            raise NetworkError(f"mean and std must be numbers, std above 0; got {tuple(mean)} and {tuple(std)}.")
        return Preprocessing(size, tuple(mean), tuple(std), resize, self.interpolation or default.interpolation)


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

    @property
    def box(self) -> Box:
        """The crop on the photo: left, top, right, bottom in pixels of the photo."""
        return self.crop.box


def make_view(photo: Photo, preprocessing: Preprocessing) -> View:
    """Resize and crop a photo to the network's input size. Sizes are rounded as in torchvision.

    Raises:
        ImageError: the photo is so thin that, resized to cover `resize`, it would have more than MAX_PIXELS.
    """
    height, width = photo.size
    out_height, out_width = preprocessing.size
    resized_height, resized_width = _compute_resized(photo.size, preprocessing)
    if resized_height * resized_width > MAX_PIXELS:
        raise ImageError(f"{photo.name} is too thin for this network: {width} x {height} pixels. Crop it first.")
    top = round((resized_height - out_height) / 2)
    left = round((resized_width - out_width) / 2)
    image = Image.fromarray(photo.pixels)
    if len(preprocessing.mean) == 1:
        image = image.convert("L")
    image = image.resize((resized_width, resized_height), Image.Resampling[preprocessing.interpolation.upper()])
    image = image.crop((left, top, left + out_width, top + out_height))
    across, down = width / resized_width, height / resized_height
    box = (left * across, top * down, (left + out_width) * across, (top + out_height) * down)
    return View(photo, np.asarray(image), Crop(photo.size, box, preprocessing.size))


def make_whole_view(photo: Photo, pixels: Pixels) -> View:
    """Return a View of the whole photo, without resize or crop; `pixels` are RGB (H, W, 3) or gray (H, W)."""
    height, width = size = (pixels.shape[0], pixels.shape[1])
    return View(photo, pixels, Crop(size, (0, 0, width, height), size))


def _compute_resized(size: tuple[int, int], preprocessing: Preprocessing) -> tuple[int, int]:
    if preprocessing.resize is None:
        return preprocessing.size
    (height, width), (cover_height, cover_width) = size, preprocessing.resize
    if cover_height * width >= cover_width * height:
        return cover_height, int(cover_height * width / height)
    return int(cover_width * height / width), cover_width


def find_native_size(photo_size: tuple[int, int]) -> tuple[int, int]:
    """Return the photo's own (height, width), scaled down if its longer side has more than 1024 pixels."""
    scale = min(1, _MAX_NATIVE / max(photo_size))
    return round(photo_size[0] * scale), round(photo_size[1] * scale)


def as_pair(size: int | Sequence[int]) -> tuple[int, int]:
    """Return (height, width): one number gives a square, two numbers are taken as they are."""
    height, width = (size, size) if isinstance(size, int) else size
    return height, width
