"""Read the numbers of files that Pillow would cut to 8 bits or to three channels: PNG of 16-bit color, and TIFF.

Every other file is left to Pillow, as are TIFF files of 8 bits or of 16-bit gray, which it reads without loss.
"""

import io
import logging
import math
import re
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from inspector.entries import parse_json
from inspector.errors import ImageError
from inspector.images.decode import (
    TIFF_STARTS,
    check_pixels,
    decoding_memory,
    find_orientation,
    open_image,
    turn_upright,
)
from inspector.images.values import Values, find_channel_axis

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

_PNG, _GRAY_WITH_ALPHA = b"\x89PNG\r\n\x1a\n", 4
_COLOR_TYPES = (2, _GRAY_WITH_ALPHA, 6)  # of PNG: RGB, gray with alpha, RGB with alpha
_MAX_VALUES = 640_000_000  # bytes: 80 megapixels of 16-bit RGBA
_MAX_SEGMENTS, _MAX_PAGES = 300_000, 4096
_UNCOMPRESSED, _DEFLATE = 1, (8, 32946)
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = 0, 1, 2  # values of the tag PhotometricInterpretation
_ALPHA = (1, 2)  # values of the tag ExtraSamples
_ORIENTATION, _PROFILE = 274, 34675  # tags


def read_scientific(data: bytes, name: str) -> tuple[Values, object] | None:
    """Read the numbers of an encoded image that Pillow would not read without loss; None for all other files.

    Returns:
        The upright values (H, W) or (H, W, C), and the color profile as bytes, or None.

    Raises:
        ImageError: the file has too many pixels or bytes, or it is a TIFF of a kind that cannot be read.
    """
    if data.startswith(_PNG) and len(data) > 26 and data[24] == 16 and data[25] in _COLOR_TYPES:
        return _read_png(data, name)
    return _read_tiff(data, name) if data.startswith(TIFF_STARTS) else None


def _read_png(data: bytes, name: str) -> tuple[Values, object] | None:
    with open_image(data) as image:
        check_pixels(name, *image.size)
        profile, orientation = image.info.get("icc_profile"), find_orientation(image)
        with decoding_memory.reserve(image.width * image.height * 16):
            values = _drop_opaque_alpha(_decode_with_opencv(data))
    if values.shape[2] == 4 and (values[..., :3] > 16383).any():
        return None  # all 16 bits are used: Pillow's 8 bits and its transparency are right
    values = values[..., [0, 3][: values.shape[2] - 2]] if data[25] == _GRAY_WITH_ALPHA else values
    return turn_upright(values, orientation), profile


def _decode_with_opencv(data: bytes) -> Values:
    import cv2  # here, as tifffile below, because it takes long to import and few files need it

    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # OpenCV prints about every unusual file
    try:
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    finally:
        cv2.utils.logging.setLogLevel(level)
    if decoded is None or decoded.ndim != 3:
        raise ValueError("OpenCV cannot decode it")
    decoded[..., :3] = decoded[..., 2::-1]  # OpenCV has blue first
    return decoded


def _drop_opaque_alpha(values: Values) -> Values:
    opaque = values.shape[2] == 4 and (values[..., 3] == np.iinfo(values.dtype).max).all()
    return values[..., :3] if opaque else values


def _read_tiff(data: bytes, name: str) -> tuple[Values, object] | None:
    import tifffile

    # Without these flags, tifffile would read further files or all pages of files of some microscopes.
    flags: Any = {f"is_{flag}": False for flag in tifffile.TIFF.FILE_FLAGS}
    with _without_log(), tifffile.TiffFile(io.BytesIO(data), name=name, **flags) as file:
        page = file.pages.first
        shape = _find_stack_shape(page)
        if _is_plain(page) and shape is None:
            return None
        check_pixels(name, page.imagewidth, page.imagelength)
        dtype, size = page.dtype, math.prod(shape or page.shape)
        if dtype is None or dtype.kind not in "uifb":
            raise ImageError(f"{name} has pixels of a kind that cannot be read. Use integers or floats.")
        if size * dtype.itemsize > _MAX_VALUES:
            raise ImageError(
                f"{name} takes {size * dtype.itemsize / 1e6:.0f} MB when it is decoded; at most "
                f"{_MAX_VALUES / 1e6:.0f} MB are read."
            )
        with decoding_memory.reserve(3 * size * dtype.itemsize):
            profile = page.tags.get(_PROFILE)
            values = _arrange(_read_stack(file, shape, data, name), page, name)
            return values, None if profile is None else profile.value


@contextmanager
def _without_log() -> Iterator[None]:
    """Drop the messages of tifffile of this thread: it logs every strange tag of a broken file."""
    logger, thread = logging.getLogger("tifffile"), threading.get_ident()

    def is_of_another_thread(record: logging.LogRecord) -> bool:
        return record.thread != thread

    logger.addFilter(is_of_another_thread)
    try:
        yield
    finally:
        logger.removeFilter(is_of_another_thread)


def _is_plain(page: "TiffPage") -> bool:
    """Return whether Pillow reads all numbers of a page: 8 bits in 1 or 3 channels and alpha, or 16-bit gray."""
    unsigned, bits, samples = int(page.sampleformat) in (1, 4), page.bitspersample, page.samplesperpixel
    colors = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3}.get(int(page.photometric))
    if colors is None:  # a palette, CMYK, YCbCr and so on, which Pillow converts to RGB
        return True
    if bits > 8:
        return unsigned and samples == 1 and bits <= 16 and int(page.photometric) != _WHITE_IS_ZERO
    return unsigned and samples == colors + sum(int(kind) in _ALPHA for kind in page.extrasamples)


def _find_stack_shape(page: "TiffPage") -> tuple[int, ...] | None:
    """Return the shape of an image whose channels were written as pages by tifffile or ImageJ; None for other files."""
    text = page.description[:2000]
    shape: tuple[int, ...] = ()
    if text.startswith('{"shape": '):
        try:
            described = parse_json(text)["shape"]
            shape = tuple(described) if all(type(length) is int and length > 0 for length in described) else ()
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
    elif text.startswith("ImageJ=") and (found := re.search(r"^channels=(\d{1,4})$", text, re.MULTILINE)):
        images = re.search(r"^images=(\d{1,9})$", text, re.MULTILINE)
        shape = (int(found[1]), *page.shape) if images is not None and images[1] == found[1] else ()
    pages = math.prod(shape) // max(1, math.prod(page.shape)) if len(shape) == 3 else 0
    is_stack = pages > 1 and math.prod(shape) == pages * math.prod(page.shape)
    return shape if is_stack and pages <= _MAX_PAGES and find_channel_axis(shape) is not None else None


def _read_stack(file: "TiffFile", shape: tuple[int, ...] | None, data: bytes, name: str) -> Values:
    if shape is None:
        return _read_page(file.pages.first, data, name)
    pages = math.prod(shape) // math.prod(file.pages.first.shape)
    values = np.stack([_read_page(cast("TiffPage", file.pages.get(n)), data, name) for n in range(pages)])
    return values.reshape(shape)


def _read_page(page: "TiffPage", data: bytes, name: str) -> Values:
    compression = int(page.compression)
    if compression == _UNCOMPRESSED or (compression in _DEFLATE and page.predictor in (1, 2)):
        _check_segments(page, name)
        values: Values = page.asarray(maxworkers=1)
        return values
    if page.samplesperpixel == 1:
        with open_image(data) as image:
            # Pillow holds 16 and 32 bits as signed 32 bits; a conversion to the file's own type loses nothing.
            return np.asarray(image).astype(page.dtype, copy=False)
    if page.samplesperpixel in (3, 4) and page.dtype == np.uint16:
        return _decode_with_opencv(data)
    raise ImageError(
        f"{name} has {page.samplesperpixel} channels of {page.dtype} that are compressed by "
        f"{getattr(page.compression, 'name', compression)}. Save it uncompressed or with Deflate."
    )


def _check_segments(page: "TiffPage", name: str) -> None:
    """Refuse a page whose strips or tiles are too many, or inflate to more bytes than they have pixels."""
    expected = math.prod(page.chunks) * page.dtype.itemsize if page.dtype is not None else 0
    if len(page.dataoffsets) > _MAX_SEGMENTS or expected > _MAX_VALUES:
        raise ImageError(f"{name} is stored in too many or too large parts. Save it with fewer strips or tiles.")
    if int(page.compression) in _DEFLATE:
        file = page.parent.filehandle
        for offset, length in zip(page.dataoffsets, page.databytecounts, strict=False):
            file.seek(offset)
            inflated = zlib.decompressobj()
            inflated.decompress(file.read(length), expected + 1)
            if inflated.unconsumed_tail:
                raise ImageError(f"{name} is broken: a part of it inflates to more than its pixels. Save it again.")


def _arrange(values: Values, page: "TiffPage", name: str) -> Values:
    """Return the values of a page upright, with channels last and without alpha; low values are dark."""
    values = values.squeeze() if values.ndim > 3 else values
    if values.ndim == 3:
        axis = 0 if int(page.planarconfig) == 2 and page.samplesperpixel > 1 else find_channel_axis(values.shape)
        if page.samplesperpixel > 1 and int(page.planarconfig) == 1:
            axis = 2
        if axis is None:
            raise ImageError(f"{name} has {values.shape} values. Expected (height, width, channels).")
        values = np.moveaxis(values, axis, 2)
    if int(page.photometric) == _WHITE_IS_ZERO and values.dtype.kind == "u":
        values = np.iinfo(values.dtype).max - values
    if values.ndim == 3 and values.dtype.kind == "u" and [int(kind) in _ALPHA for kind in page.extrasamples] == [True]:
        values = _drop_opaque_alpha(values)
    tag = page.tags.get(_ORIENTATION)
    return turn_upright(values, int(tag.value) if tag is not None and isinstance(tag.value, int) else 1)
