"""Decode image files within bounds: known formats, and limited bytes, pixels and memory.

Image files come from strangers. Every decoder that is not needed stays off: Pillow would give PostScript to
Ghostscript, and its decoders of rare formats need minutes or gigabytes for small files.
"""

import io
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import BinaryIO, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from inspector.errors import ImageError, translate_errors

N = TypeVar("N", bound=np.generic)
Pixels: TypeAlias = NDArray[np.uint8]

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")  # Pillow's names; JPEG includes MPO
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # first bytes of TIFF and BigTIFF files
MAX_BYTES = 50_000_000
MAX_PIXELS = 80_000_000  # lower than the number of pixels at which Pillow warns

_MAX_MEMORY = 2_000_000_000  # bytes that all decodes at the same time may use; a larger one waits until it is alone
_STRIP = 250_000  # pixels that are converted at a time: few enough for the processor's cache
# Bytes per pixel while Pillow holds an image, by its mode; other modes: 4.
_BYTES = {"1": 1, "L": 1, "P": 1, "LA": 4, "I;16": 2, "I;16L": 2, "I;16B": 2, "I;16N": 2}
_DECODER_BYTES = {"WEBP": 12, "AVIF": 8, "GIF": 8}  # bytes per pixel of decoders that hold whole frames themselves
# How to turn an image upright, by its EXIF orientation: transpose it first, then flip rows, then columns.
_ORIENTATIONS = {
    2: (False, 1, -1),
    3: (False, -1, -1),
    4: (False, -1, 1),
    5: (True, 1, 1),
    6: (True, 1, -1),
    7: (True, -1, -1),
    8: (True, -1, 1),
}
_ORIENTATION = 0x0112  # EXIF tag


class MemoryBudget:
    """A number of bytes that threads share: a reservation waits until enough of the others have ended."""

    def __init__(self, size: int) -> None:
        self._size, self._used, self._freed = size, 0, threading.Condition()

    @contextmanager
    def reserve(self, size: int) -> Iterator[None]:
        """Reserve bytes inside the `with` block. A size above the whole budget waits until it is alone."""
        with self._freed:
            self._freed.wait_for(lambda: self._used == 0 or self._used + size <= self._size)
            self._used += size
        try:
            yield
        finally:
            with self._freed:
                self._used -= size
                self._freed.notify_all()


decoding_memory = MemoryBudget(_MAX_MEMORY)


def open_image(file: bytes | BinaryIO) -> Image.Image:
    """Open an image of one of FORMATS with Pillow. Only its header is read."""
    return Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, formats=FORMATS)


def check_bytes(name: str, length: int) -> None:
    """Raise ImageError if a file has more than MAX_BYTES."""
    if length > MAX_BYTES:
        raise ImageError(f"{name} has {length / 1e6:.0f} MB; at most {MAX_BYTES / 1e6:.0f} MB are read.")


def read_limited(file: BinaryIO, name: str) -> bytes:
    """Read the rest of a binary file; raise ImageError if that is more than MAX_BYTES.

    The size that a file system or a server states need not be true: a file may grow while it is read.
    """
    data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ImageError(f"{name} has more than {MAX_BYTES / 1e6:.0f} MB; at most that are read.")
    return data


def check_pixels(name: str, width: int, height: int) -> None:
    """Raise ImageError if an image has more than MAX_PIXELS."""
    if width * height > MAX_PIXELS:
        raise ImageError(f"{name} has {width} x {height} pixels; at most {MAX_PIXELS / 1e6:.0f} megapixels are read.")


def translate_decoder_errors(name: str) -> AbstractContextManager[None]:
    """Turn the errors of decoders inside the `with` block into ImageErrors."""
    return translate_errors(
        ImageError,
        f"{name} is broken or cut off ({{reason}}). Save it again or choose another.",
        {
            UnidentifiedImageError: f"{name} is not an image that can be read. JPEG, PNG, WebP, GIF, BMP, TIFF and "
            "AVIF can.",
            Image.DecompressionBombError: f"{name} has too many pixels; at most {MAX_PIXELS / 1e6:.0f} megapixels are "
            "read.",
        },
    )


def reserve_memory(image: Image.Image) -> AbstractContextManager[None]:
    """Reserve, inside the `with` block, the memory that decoding an image takes."""
    kept = 3 + (4 if image.mode in ("RGBA", "LA") else 0)  # bytes of the result; it is held twice while it is turned
    per_pixel = _BYTES.get(image.mode, 4) + _DECODER_BYTES.get(image.format or "", 0) + 2 * kept
    return decoding_memory.reserve(image.width * image.height * per_pixel)


def is_animated(image: Image.Image) -> bool:
    """Return whether an image has a second frame. Counting all frames would read a file of thousands of pages."""
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # any error of a decoder: a broken second frame does not concern the first one
        return False


def find_orientation(image: Image.Image) -> int | None:
    """Return the EXIF orientation of a decoded image, 1 to 8; None if its EXIF block is broken."""
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # any error: a broken EXIF block does not damage the pixels
        return None
    return orientation if orientation in _ORIENTATIONS else 1


def turn_upright(values: NDArray[N], orientation: int | None) -> NDArray[N]:
    """Turn an array (H, W, ...) upright, as its EXIF orientation says."""
    transposed, down, across = _ORIENTATIONS.get(orientation or 1, (False, 1, 1))
    return np.ascontiguousarray((values.swapaxes(0, 1) if transposed else values)[::down, ::across])


def convert_to_rgb(image: Image.Image) -> tuple[Pixels, bool]:
    """Convert a decoded image with at most 8 bits per channel to RGB, strip by strip: a second copy is never held.

    Returns:
        The pixels (H, W, 3), with transparent parts on white, and whether there are transparent parts.
    """
    pixels: Pixels = np.empty((image.height, image.width, 3), np.uint8)
    rows, transparent = max(1, _STRIP // image.width), False
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        strip = image.crop((0, top, image.width, bottom))
        if strip.has_transparency_data:
            strip = strip.convert("LA" if strip.mode == "La" else strip.mode).convert("RGBA")
            transparent = transparent or strip.getchannel("A").getextrema() != (255, 255)
            strip = Image.alpha_composite(Image.new("RGBA", strip.size, "white"), strip)
        pixels[top:bottom] = np.asarray(strip.convert("RGB"))
    return pixels, transparent
