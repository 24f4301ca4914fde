"""An image too large to work on in one piece, read window by window.

What can be mapped is never read whole: arrays that can be sliced, .npy files and uncompressed TIFF. Any other file is
decoded whole by Pillow, up to MAX_DECODED pixels at three bytes each.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import tifffile
from PIL import Image, ImageOps, UnidentifiedImageError

from inspector.errors import ImageError, summarize_reason
from inspector.images.photo import MAX_BYTES, MAX_PIXELS, Pixels, read_image

MAX_DECODED = 500_000_000  # pixels of a file that Pillow must decode whole: 1.5 GB

_PLAIN = ("1", "L", "P", "RGB", "CMYK", "YCbCr", "LAB", "HSV")  # modes whose pixels are RGB by convert("RGB")
_limit = threading.Lock()  # Pillow's own limit belongs to the whole process


class Sliceable(Protocol):
    """What can be cut into windows: a numpy array or memmap, an h5py or zarr data set, ..."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> Any: ...

    def __getitem__(self, key: Any, /) -> Any: ...


LargeSource: TypeAlias = str | Path | Sliceable


@dataclass(frozen=True, eq=False)
class LargeImage:
    """An image that is read window by window."""

    name: str
    size: tuple[int, int]  # H, W
    read: Callable[[slice, slice], Pixels]  # rows and columns -> (h, w, 3)

    def preview(self, side: int = 2000) -> tuple[Pixels, int]:
        """The whole image, each side divided by the smallest number that leaves none above `side`, and that number.

        Every pixel is the mean of a square; those at the right and lower edge of what is left of one.
        """
        height, width = self.size
        factor = max(1, -(-max(self.size) // side))
        rows = factor * max(1, 2_000_000 // (width * factor))  # a few megabytes at a time
        strips = (self.read(slice(top, min(top + rows, height)), slice(0, width)) for top in range(0, height, rows))
        return np.concatenate([np.asarray(Image.fromarray(strip).reduce(factor)) for strip in strips]), factor


def open_large_image(source: LargeSource) -> LargeImage:
    """A file, or an (H, W, 3) or (H, W) array of uint8 that can be sliced, to be read window by window.

    Raises ImageError for what is no such image, or can only be read whole and is larger than MAX_DECODED.
    """
    if not isinstance(source, str | Path):
        return _sliced(source, "array", lambda: source)
    path = Path(source)
    try:
        with path.open("rb"):
            pass
    except (OSError, ValueError) as error:
        raise ImageError(f"Cannot read {path!s}: {getattr(error, 'strerror', error)}.") from error
    # Mapped anew for every window: what was read stays in memory as long as its mapping.
    if path.suffix.lower() == ".npy":
        with _told(path.name):
            return _sliced(_mapped(path), path.name, lambda: _mapped(path))
    if path.suffix.lower() in (".tif", ".tiff"):
        with _told(path.name):
            if _can_be_mapped(path):
                return _sliced(_mapped_tiff(path), path.name, lambda: _mapped_tiff(path))
    pixels = _decoded(path)
    return _sliced(pixels, path.name, lambda: pixels)


def _mapped(path: Path) -> Sliceable:
    mapped: Sliceable = np.load(path, mmap_mode="r", allow_pickle=False)
    return mapped


def _mapped_tiff(path: Path) -> Sliceable:
    mapped: Sliceable = tifffile.memmap(path, mode="r")
    return mapped


def _can_be_mapped(path: Path) -> bool:
    """Whether the first page lies upright and uncompressed in the file, as grey or RGB."""
    with tifffile.TiffFile(path) as file:
        page = file.series[0].keyframe
        plain = page.photometric in (tifffile.PHOTOMETRIC.RGB, tifffile.PHOTOMETRIC.MINISBLACK)
        turned = "Orientation" in page.tags and page.tags["Orientation"].value != 1
        return file.series[0].dataoffset is not None and page.is_memmappable and plain and not turned


def _sliced(array: Sliceable, name: str, opened: Callable[[], Sliceable]) -> LargeImage:
    shape = tuple(array.shape)
    if array.dtype != np.uint8 or len(shape) not in (2, 3) or shape[2:] not in ((), (3,)) or 0 in shape:
        raise ImageError(f"{name} must be (H, W, 3) or (H, W) of uint8 in 0-255; it is {shape} of {array.dtype}.")

    def read(rows: slice, columns: slice) -> Pixels:
        window: Pixels = np.array(opened()[rows, columns], np.uint8)
        return np.repeat(window[..., None], 3, axis=2) if window.ndim == 2 else window

    return LargeImage(name, (shape[0], shape[1]), read)


def _decoded(path: Path) -> Pixels:
    """(H, W, 3), upright, decoded whole."""
    with _told(path.name), _without_limit(), Image.open(path) as image:
        width, height = image.size
        if width * height > MAX_DECODED:
            raise ImageError(
                f"{path.name} has {width} x {height} pixels, and at most {MAX_DECODED / 1e6:.0f} megapixels can be "
                "decoded whole: an uncompressed TIFF or an .npy file of uint8 would do, which are read by windows."
            )
        if width * height > MAX_PIXELS or path.stat().st_size > MAX_BYTES:
            if image.mode not in _PLAIN or image.has_transparency_data:
                raise ImageError(
                    f"{path.name} has pixels of the kind {image.mode}, which are read up to {MAX_PIXELS / 1e6:.0f} "
                    "megapixels only: 8 bits a channel without transparency would do."
                )
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    # Small enough to be read as any other photo is.
    return read_image(path).pixels


@contextmanager
def _told(name: str) -> Iterator[None]:
    """Whatever a reader raises inside becomes an ImageError."""
    try:
        yield
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(f"{name} is not an image that can be read. JPEG, PNG, TIFF and .npy can.") from error
    except Exception as error:  # readers raise all kinds on bad files
        raise ImageError(
            f"{name} is broken or cut off ({summarize_reason(error)}). Save it again or choose another."
        ) from error


@contextmanager
def _without_limit() -> Iterator[None]:
    """Pillow's own limit on pixels lifted inside: ours is checked before a pixel is decoded."""
    with _limit:
        usual, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = usual
