"""One picture with its title and color bar, as it is saved; pictures as PNG. Imports no torch, no matplotlib."""

import base64
import io
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import cv2
from PIL import Image

from inspector.images.decode import Pixels

# Half the time of Pillow at the same size, because every row has the same filter.
_PNG_SETTINGS = (
    *(cv2.IMWRITE_PNG_COMPRESSION, 2),
    *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_DEFAULT),
    *(cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP),
)
_PNG_HEADER = 33  # bytes of a PNG before its second chunk


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


def encode_png(pixels: Pixels, chunks: Mapping[bytes, bytes] | None = None) -> bytes:
    """Encode an image as PNG, quickly and without loss.

    Args:
        pixels: RGB (H, W, 3) or RGBA (H, W, 4).
        chunks: further chunks of the file, such as its resolution (b"pHYs"), by their types.
    """
    order = cv2.COLOR_RGB2BGR if pixels.shape[2] == 3 else cv2.COLOR_RGBA2BGRA
    png = cv2.imencode(".png", cv2.cvtColor(pixels, order), _PNG_SETTINGS)[1].tobytes()
    further = b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in (chunks or {}).items()
    )
    return png[:_PNG_HEADER] + further + png[_PNG_HEADER:]


def make_png_url(image: bytes) -> str:
    """Return a PNG as a data URL."""
    return f"data:image/png;base64,{base64.b64encode(image).decode()}"


def encode_url(pixels: Pixels, lossless: bool) -> str:
    """Encode an image as a data URL: a PNG if `lossless`, otherwise a JPEG, which is a tenth as large."""
    if lossless:
        return make_png_url(encode_png(pixels))
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
