"""One picture with its title and color bar, as it is saved; pictures as data URLs. Imports no torch, no matplotlib."""

import base64
import io
from dataclasses import dataclass

from PIL import Image

from inspector.images.decode import Pixels


@dataclass(frozen=True, eq=False)
class ColorBar:
    """The colors of a picture and what they mean."""

    colors: Pixels  # (rows, n, 3), from the left end to the right end
    ticks: tuple[tuple[float, str], ...]  # (place from 0, the left end, to 1, the right end; text)
    label: str


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture to save."""

    pixels: Pixels  # (H, W, 3), at twice the size on the screen
    title: str
    lines: tuple[str, ...] = ()  # small print below the title
    bar: ColorBar | None = None


def make_png_url(image: bytes) -> str:
    """Return a PNG as a data URL."""
    return f"data:image/png;base64,{base64.b64encode(image).decode()}"


def encode_url(pixels: Pixels, lossless: bool) -> str:
    """Encode an image as a data URL: a PNG if `lossless`, otherwise a JPEG, which is a tenth as large."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG" if lossless else "JPEG", quality=90)
    return f"data:image/{'png' if lossless else 'jpeg'};base64,{base64.b64encode(buffer.getvalue()).decode()}"
