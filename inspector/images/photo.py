"""Read an image safely: make upright RGB pixels from a file, encoded bytes, a PIL image or an array."""

import hashlib
import io
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from inspector.errors import ImageError, translate_errors

Pixels: TypeAlias = NDArray[np.uint8]
ImageSource: TypeAlias = str | Path | bytes | Image.Image | Pixels

MAX_BYTES = 50_000_000
MAX_PIXELS = 80_000_000  # lower than the number of pixels at which Pillow warns


@dataclass(frozen=True, eq=False)
class Photo:
    """An upright RGB image."""

    pixels: Pixels  # (H, W, 3)
    name: str
    sha256: str  # hash of the encoded file; of the pixels if the source was an array or a PIL image
    notes: tuple[str, ...] = ()  # one sentence for each change that the user should know

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]


def read_image(source: ImageSource, name: str | None = None) -> Photo:
    """Read an image as upright RGB pixels.

    The image is rotated as its EXIF data say. Only the first frame is read, transparent parts become white, and 16-bit
    gray is scaled to 8 bits.

    Args:
        source: path, encoded bytes, PIL image or uint8 array (H, W, 3) in RGB or (H, W) in gray.
        name: name of the photo, for messages and results. Default: the name of the file.

    Raises:
        ImageError: the source is not an image, is broken, or is larger than MAX_BYTES or MAX_PIXELS.
    """
    if isinstance(source, str | Path):
        name = name or Path(source).name
        source = _read_bytes(Path(source))
    if isinstance(source, np.ndarray):
        return _read_array(source, name or "array")
    name = name or "image"
    if isinstance(source, Image.Image):
        with _translate_decoder_errors(name):
            pixels, notes = _decode_upright(source, name)
        return Photo(pixels, name, hashlib.sha256(pixels.tobytes()).hexdigest(), notes)
    if not source:
        raise ImageError(f"{name} is empty (0 bytes). Choose a photo, for example a JPEG or a PNG.")
    check_bytes(name, len(source))
    with _translate_decoder_errors(name), Image.open(io.BytesIO(source)) as image:
        pixels, notes = _decode_upright(image, name)
    return Photo(pixels, name, hashlib.sha256(source).hexdigest(), notes)


def check_bytes(name: str, length: int) -> None:
    """Raise ImageError if a file has more than MAX_BYTES."""
    if length > MAX_BYTES:
        raise ImageError(f"{name} has {length / 1e6:.0f} MB; at most {MAX_BYTES / 1e6:.0f} MB are read.")


def _read_bytes(path: Path) -> bytes:
    with translate_errors(ImageError, f"Cannot read {path!s}: {{reason}}."):
        # Check the size before reading, so that a file of many GB gets a clear message before memory runs out.
        check_bytes(path.name, path.stat().st_size)
        return path.read_bytes()


def _read_array(pixels: Pixels, name: str) -> Photo:
    gray = pixels.ndim == 2
    if pixels.dtype != np.uint8 or not (gray or (pixels.ndim == 3 and pixels.shape[2] == 3)) or pixels.size == 0:
        raise ImageError(
            f"Expected an array (H, W, 3) or (H, W) of uint8 in 0-255, got {pixels.shape} of {pixels.dtype}."
        )
    pixels = np.repeat(pixels[..., None], 3, axis=2) if gray else pixels.copy()
    return Photo(pixels, name, hashlib.sha256(pixels.tobytes()).hexdigest())


def _translate_decoder_errors(name: str) -> AbstractContextManager[None]:
    too_many = f"{name} has too many pixels; at most {MAX_PIXELS / 1e6:.0f} megapixels are read."
    return translate_errors(
        ImageError,
        f"{name} is broken or cut off ({{reason}}). Save it again or choose another.",
        {
            UnidentifiedImageError: f"{name} is not an image that can be read. JPEG, PNG, WebP, GIF, BMP and TIFF can.",
            Image.DecompressionBombError: too_many,
        },
    )


def _decode_upright(image: Image.Image, name: str) -> tuple[Pixels, tuple[str, ...]]:
    """Return the upright RGB pixels, and one sentence per change that the user should know."""
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(
            f"{name} has {image.width} x {image.height} pixels; at most {MAX_PIXELS / 1e6:.0f} megapixels are read."
        )
    frames = getattr(image, "n_frames", 1)
    notes = [f"The first of {frames} frames is shown."] if frames > 1 else []
    image.load()
    try:
        image = ImageOps.exif_transpose(image)
    except Exception:  # a broken EXIF block does not damage the pixels, so go on
        notes.append("The EXIF block is broken, so the photo was not rotated.")
    return np.asarray(_convert_to_rgb(image, name, notes)), tuple(notes)


def _convert_to_rgb(image: Image.Image, name: str, notes: list[str]) -> Image.Image:
    unknown = "pixels, so it is unknown which value is white. Save it with 8 or 16 bits per channel."
    if image.mode.startswith("I"):
        # Scale the values here: convert("RGB") would clip them, so every value above 255 would become white.
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ImageError(f"{name} has 32-bit {unknown}")
        notes.append("16 bits per pixel were scaled to 8.")
        return Image.fromarray((values // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ImageError(f"{name} has float {unknown}")
    if image.has_transparency_data:
        notes.append("Transparent parts are shown on white.")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")
