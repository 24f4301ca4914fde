"""An image too large to process in one piece, read window by window.

Arrays that can be sliced, .npy files and uncompressed TIFF are never read whole. Any other file is decoded whole by
Pillow, up to MAX_DECODED pixels at three bytes each.
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
from PIL import Image, ImageOps, UnidentifiedImageError

from inspector.errors import ImageError, translate_errors
from inspector.images.photo import MAX_BYTES, MAX_PIXELS, Pixels, read_image

MAX_DECODED = 500_000_000  # pixels of a file that Pillow must decode whole: 1.5 GB

_RGB_MODES = ("1", "L", "P", "RGB", "CMYK", "YCbCr", "LAB", "HSV")  # modes that convert("RGB") converts correctly
_pillow_limit = threading.Lock()  # Pillow's limit belongs to the whole process


class Sliceable(Protocol):
    """An array that can be cut into windows: a numpy array or memmap, an h5py or zarr data set, ..."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(H, W, 3) or (H, W)."""

    @property
    def dtype(self) -> Any:
        """It must equal numpy's uint8."""

    def __getitem__(self, key: Any, /) -> Any: ...


LargeSource: TypeAlias = str | Path | Sliceable


@dataclass(frozen=True, eq=False)
class LargeImage:
    """An image that is read window by window."""

    name: str
    size: tuple[int, int]  # (height, width)
    read: Callable[[slice, slice], Pixels]  # rows and columns -> (h, w, 3)

    def preview(self, side: int = 2000) -> tuple[Pixels, int]:
        """Reduce the whole image by the smallest integer factor that leaves neither side above `side` pixels.

        Returns:
            Pixels (h, w, 3), each the mean of a square (at the right and lower edge, of what is left of one), and the
            factor.
        """
        height, width = self.size
        factor = max(1, -(-max(self.size) // side))
        rows = factor * max(1, 2_000_000 // (width * factor))  # a few megabytes at a time
        strips = (self.read(slice(top, min(top + rows, height)), slice(0, width)) for top in range(0, height, rows))
        return np.concatenate([np.asarray(Image.fromarray(strip).reduce(factor)) for strip in strips]), factor


def open_large_image(source: LargeSource) -> LargeImage:
    """Open an image to be read window by window.

    Args:
        source: a file, or an array (H, W, 3) or (H, W) of uint8 that can be sliced.

    Raises:
        ImageError: the source is no such image, or can only be decoded whole and has more than MAX_DECODED pixels.
    """
    if not isinstance(source, str | Path):
        return _make_large_image(source, "array", lambda: source)
    path = Path(source)
    with translate_errors(ImageError, f"Cannot read {path!s}: {{reason}}."), path.open("rb"):
        pass
    # The file is mapped again for every window: what was read stays in memory as long as its mapping.
    if path.suffix.lower() == ".npy":
        with _translate_reader_errors(path.name):
            return _make_large_image(_map_npy(path), path.name, partial(_map_npy, path))
    if path.suffix.lower() in (".tif", ".tiff"):
        with _translate_reader_errors(path.name):
            if _can_be_mapped(path):
                return _make_large_image(_map_tiff(path), path.name, partial(_map_tiff, path))
    pixels = _decode_whole(path)
    return _make_large_image(pixels, path.name, lambda: pixels)


def _map_npy(path: Path) -> Sliceable:
    mapped: Sliceable = np.load(path, mmap_mode="r", allow_pickle=False)
    return mapped


def _map_tiff(path: Path) -> Sliceable:
    mapped: Sliceable = tifffile.memmap(path, mode="r")
    return mapped


def _can_be_mapped(path: Path) -> bool:
    """Return whether the first page of a TIFF is upright and uncompressed, in gray or RGB."""
    with tifffile.TiffFile(path) as file:
        page = file.series[0].keyframe
        plain = page.photometric in (tifffile.PHOTOMETRIC.RGB, tifffile.PHOTOMETRIC.MINISBLACK)
        rotated = "Orientation" in page.tags and page.tags["Orientation"].value != 1
        return file.series[0].dataoffset is not None and page.is_memmappable and plain and not rotated


def _make_large_image(array: Sliceable, name: str, reopen: Callable[[], Sliceable]) -> LargeImage:
    shape = tuple(array.shape)
    if array.dtype != np.uint8 or len(shape) not in (2, 3) or shape[2:] not in ((), (3,)) or 0 in shape:
        raise ImageError(f"{name} must be (H, W, 3) or (H, W) of uint8 in 0-255, got {shape} of {array.dtype}.")

    def read(rows: slice, columns: slice) -> Pixels:
        window: Pixels = np.array(reopen()[rows, columns], np.uint8)
        return np.repeat(window[..., None], 3, axis=2) if window.ndim == 2 else window

    return LargeImage(name, (shape[0], shape[1]), read)


def _decode_whole(path: Path) -> Pixels:
    """Decode a file to upright pixels (H, W, 3)."""
    with _translate_reader_errors(path.name), _without_pillow_limit(), Image.open(path) as image:
        width, height = image.size
        # Image.open reads the header only. This check before any pixel is decoded takes the place of Pillow's limit.
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
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    # Small enough to be read like any other photo.
    return read_image(path).pixels


def _translate_reader_errors(name: str) -> AbstractContextManager[None]:
    return translate_errors(
        ImageError,
        f"{name} is broken or cut off ({{reason}}). Save it again or choose another.",
        {UnidentifiedImageError: f"{name} is not an image that can be read. JPEG, PNG, TIFF and .npy can."},
    )


@contextmanager
def _without_pillow_limit() -> Iterator[None]:
    """Lift Pillow's limit on pixels.

    It belongs to the whole process, and other threads may be reading photos meanwhile. That is safe because
    `read_image` checks MAX_PIXELS, a lower limit, itself before it decodes.
    """
    with _pillow_limit:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit
