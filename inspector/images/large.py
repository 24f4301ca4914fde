"""Read images that are too large to process in one piece, window by window.

Sliceable arrays, .npy files and uncompressed TIFF files are never read as a whole. Pillow decodes any other file as a
whole, if it has at most MAX_DECODED pixels (3 bytes each).
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import tifffile
from PIL import Image, UnidentifiedImageError

from inspector.errors import ImageError, translate_errors
from inspector.files import open_regular
from inspector.images.decode import (
    FORMATS,
    MAX_BYTES,
    MAX_PIXELS,
    TIFF_STARTS,
    Pixels,
    convert_to_rgb,
    find_orientation,
    reserve_memory,
    turn_upright,
)
from inspector.images.photo import read_image

MAX_DECODED = 500_000_000  # largest number of pixels that Pillow decodes as a whole: 1.5 GB of RGB

_RGB_MODES = ("1", "L", "P", "RGB", "CMYK", "YCbCr", "LAB", "HSV")  # modes that convert("RGB") converts correctly
_pillow_limit = threading.Lock()  # Pillow's limit is a global variable: one thread at a time may change it


class Sliceable(Protocol):
    """An array from which windows can be sliced: a numpy array or memmap, an h5py or zarr data set, and so on."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the image: (H, W, 3) for RGB or (H, W) for gray."""

    @property
    def dtype(self) -> Any:
        """Data type of the pixels; it must compare equal to `numpy.uint8`."""

    def __getitem__(self, key: Any, /) -> Any: ...


LargeSource: TypeAlias = str | Path | Sliceable


@dataclass(frozen=True, eq=False)
class LargeImage:
    """An image that is read window by window."""

    name: str
    size: tuple[int, int]  # (height, width)
    read: Callable[[slice, slice], Pixels]  # reads a window: rows, columns -> RGB pixels (h, w, 3)

    def preview(self, side: int = 2000) -> tuple[Pixels, int]:
        """Shrink the whole image by the smallest integer factor for which no side is longer than `side` pixels.

        Returns:
            The pixels (h, w, 3) and the factor. Each pixel is the mean of a square of factor x factor pixels; squares
            at the right and lower edge may be cut off.
        """
        height, width = self.size
        factor = max(1, -(-max(self.size) // side))
        # Rows per strip, a multiple of the factor: a strip has about 2 megapixels (6 MB).
        rows = factor * max(1, 2_000_000 // (width * factor))
        strips = (self.read(slice(top, min(top + rows, height)), slice(0, width)) for top in range(0, height, rows))
        return np.concatenate([np.asarray(Image.fromarray(strip).reduce(factor)) for strip in strips]), factor


def open_large_image(source: LargeSource) -> LargeImage:
    """Open an image so that it can be read window by window.

    Args:
        source: a file, or a sliceable uint8 array (H, W, 3) in RGB or (H, W) in gray.

    Raises:
        ImageError: the source cannot be read or is not such an image; or it must be decoded as a whole and has more
            than MAX_DECODED pixels.
    """
    if not isinstance(source, str | Path):
        return _make_large_image("array", lambda: source)
    path = Path(source)
    with translate_errors(ImageError, f"Cannot read {path!s}: {{reason}}."), open_regular(path) as file:
        is_tiff = file.read(4).startswith(TIFF_STARTS)
    # Memory-map the file anew for every window: pages that were read stay in memory until the memory map is closed.
    with _translate_reader_errors(path.name):
        if path.suffix.lower() == ".npy":
            return _make_large_image(path.name, partial(np.load, path, mmap_mode="r", allow_pickle=False))
        if is_tiff and _can_be_mapped(path):
            return _make_large_image(path.name, partial(tifffile.memmap, path, page=0, mode="r"))
    pixels = _decode_whole(path)
    return _make_large_image(path.name, lambda: pixels)


def _can_be_mapped(path: Path) -> bool:
    """Return whether the first image in a TIFF is uncompressed, upright, and in gray or RGB."""
    with tifffile.TiffFile(path) as file:
        page = file.pages.first  # `file.series` would read all pages
        plain = page.photometric in (tifffile.PHOTOMETRIC.RGB, tifffile.PHOTOMETRIC.MINISBLACK)
        rotated = "Orientation" in page.tags and page.tags["Orientation"].value != 1
        return page.is_contiguous and page.is_memmappable and plain and not rotated


def _make_large_image(name: str, reopen: Callable[[], Sliceable]) -> LargeImage:
    array = reopen()
    shape = tuple(array.shape)
    if array.dtype != np.uint8 or len(shape) not in (2, 3) or shape[2:] not in ((), (3,)) or 0 in shape:
        raise ImageError(f"{name} must be (H, W, 3) or (H, W) of uint8 in 0-255, got {shape} of {array.dtype}.")

    def read(rows: slice, columns: slice) -> Pixels:
        window: Pixels = np.array(reopen()[rows, columns], np.uint8)
        return np.repeat(window[..., None], 3, axis=2) if window.ndim == 2 else window

    return LargeImage(name, (shape[0], shape[1]), read)


def _decode_whole(path: Path) -> Pixels:
    """Decode a whole file to upright RGB pixels (H, W, 3)."""
    with _translate_reader_errors(path.name), _without_pillow_limit(), Image.open(path, formats=FORMATS) as image:
        width, height = image.size
        # Image.open reads only the header, so no pixel is decoded yet. This check replaces Pillow's limit.
        if width * height > MAX_DECODED:
            raise ImageError(
                f"{path.name} has {width} x {height} pixels, and at most {MAX_DECODED / 1e6:.0f} megapixels can be "
                "decoded whole. Use an uncompressed TIFF or an .npy file of uint8, which are read by windows."
            )
        if width * height > MAX_PIXELS or path.stat().st_size > MAX_BYTES:
            if image.mode not in _RGB_MODES or image.has_transparency_data:
                raise ImageError(
                    f"{path.name} has pixels of the mode {image.mode}, which are read up to {MAX_PIXELS / 1e6:.0f} "
                    "megapixels only. Use 8 bits per channel without transparency."
                )
            with reserve_memory(image):
                image.load()
                pixels, _ = convert_to_rgb(image)
                return turn_upright(pixels, find_orientation(image))
    # The file is small enough for the reader of photos, which handles all modes and transparency.
    return read_image(path).pixels


def _translate_reader_errors(name: str) -> AbstractContextManager[None]:
    return translate_errors(
        ImageError,
        f"{name} is broken or cut off ({{reason}}). Save it again or choose another.",
        {
            UnidentifiedImageError: f"{name} is not an image that can be read. JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF "
            "and .npy can."
        },
    )


@contextmanager
def _without_pillow_limit() -> Iterator[None]:
    """Switch off Pillow's limit on the number of pixels inside the `with` block.

    The limit is global, so it is also off for other threads that read photos at the same time. This is safe:
    `read_image` checks its own, lower limit MAX_PIXELS before it decodes.
    """
    with _pillow_limit:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit
