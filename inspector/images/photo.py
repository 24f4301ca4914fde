"""Read an image safely: upright RGB pixels from a file, encoded bytes, a PIL image or an array."""

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from inspector.errors import ImageError

Pixels: TypeAlias = NDArray[np.uint8]
ImageSource: TypeAlias = str | Path | bytes | Image.Image | Pixels

MAX_BYTES = 50_000_000
MAX_PIXELS = 80_000_000  # below the size at which Pillow itself begins to warn


@dataclass(frozen=True, eq=False)
class Photo:
    """An upright image."""

    pixels: Pixels  # (H, W, 3)
    name: str
    sha256: str  # of the file, or of the pixels when there was no file
    notes: tuple[str, ...] = ()  # what was done to it that a user should know, a sentence each

    @property
    def size(self) -> tuple[int, int]:
        return self.pixels.shape[0], self.pixels.shape[1]


def read_image(source: ImageSource, name: str | None = None) -> Photo:
    """The photo in a path, a file's bytes, a PIL image or an (H, W, 3) or (H, W) uint8 array.

    Turned upright by EXIF, first frame of an animation, transparency on white, 16-bit grey scaled to 8.
    Raises ImageError for what is no image, broken, or larger than MAX_BYTES or MAX_PIXELS.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source, name or "array")
    if isinstance(source, Image.Image):
        with _readable(name or "image"):
            pixels, notes = _upright_rgb(source, name or "image")
        return Photo(pixels, name or "image", hashlib.sha256(pixels.tobytes()).hexdigest(), notes)
    if isinstance(source, str | Path):
        name = name or Path(source).name
        source = _file_bytes(Path(source))
    name = name or "image"
    if not source:
        raise ImageError(f"{name} is empty (0 bytes). Choose a photo, for example a JPEG or a PNG.")
    if len(source) > MAX_BYTES:
        raise ImageError(f"{name} has {len(source) / 1e6:.0f} MB; at most {MAX_BYTES / 1e6:.0f} MB are read.")
    pixels, notes = _decode(source, name)
    return Photo(pixels, name, hashlib.sha256(source).hexdigest(), notes)


def _file_bytes(path: Path) -> bytes:
    try:
        # Before reading: a file of many GB is refused by its size, not by running out of memory.
        if path.stat().st_size > MAX_BYTES:
            raise ImageError(
                f"{path.name} has {path.stat().st_size / 1e6:.0f} MB; at most {MAX_BYTES / 1e6:.0f} MB are read."
            )
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise ImageError(f"Cannot read {path!s}: {getattr(error, 'strerror', error)}.") from error


def _from_array(pixels: Pixels, name: str) -> Photo:
    grey = pixels.ndim == 2
    if pixels.dtype != np.uint8 or not (grey or (pixels.ndim == 3 and pixels.shape[2] == 3)) or pixels.size == 0:
        raise ImageError(
            f"An array must be (H, W, 3) or (H, W) of uint8 in 0-255; this one is {pixels.shape} of {pixels.dtype}."
        )
    pixels = np.repeat(pixels[..., None], 3, axis=2) if grey else pixels.copy()
    return Photo(pixels, name, hashlib.sha256(pixels.tobytes()).hexdigest())


def _decode(data: bytes, name: str) -> tuple[Pixels, tuple[str, ...]]:
    with _readable(name), Image.open(io.BytesIO(data)) as image:
        return _upright_rgb(image, name)


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """Whatever Pillow raises inside becomes an ImageError."""
    try:
        yield
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(f"{name} is not an image that can be read. JPEG, PNG, WebP, GIF, BMP and TIFF can.") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name} has too many pixels; at most {MAX_PIXELS / 1e6:.0f} megapixels are read.") from error
    # Pillow's decoders raise OSError, ValueError, TypeError, SyntaxError, NotImplementedError, ... on bad files.
    except Exception as error:
        raise ImageError(f"{name} is broken or cut off ({error}). Save it again or choose another.") from error


def _upright_rgb(image: Image.Image, name: str) -> tuple[Pixels, tuple[str, ...]]:
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(
            f"{name} has {image.width} x {image.height} pixels; at most {MAX_PIXELS / 1e6:.0f} megapixels are read."
        )
    notes: list[str] = []
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        notes.append(f"The first of {frames} frames is shown.")
    image.load()
    try:
        image = ImageOps.exif_transpose(image)
    except Exception:  # a broken EXIF block breaks no picture
        notes.append("Its EXIF block is broken, so it was not turned.")
    return np.asarray(_to_rgb(image, name, notes)), tuple(notes)


def _to_rgb(image: Image.Image, name: str, notes: list[str]) -> Image.Image:
    if image.mode.startswith("I"):
        # convert("RGB") would clip: every value above 255 would turn white.
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ImageError(f"{name} has 32-bit pixels, whose white is unknown. Save it with 8 or 16 bits a channel.")
        notes.append("Its 16 bits a pixel were scaled to 8.")
        return Image.fromarray((values // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ImageError(f"{name} has float pixels, whose white is unknown. Save it with 8 or 16 bits a channel.")
    if image.has_transparency_data:
        notes.append("Its transparent parts were laid on white.")
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")
