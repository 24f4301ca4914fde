"""Read an image safely: make upright RGB pixels from a file, encoded bytes, a PIL image or an array."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inspector.errors import ImageError, translate_errors
from inspector.files import open_regular
from inspector.images.color_profile import describe_color_profile
from inspector.images.decode import (
    Pixels,
    check_bytes,
    check_pixels,
    convert_to_rgb,
    find_orientation,
    is_animated,
    open_image,
    read_limited,
    reserve_memory,
    translate_decoder_errors,
    turn_upright,
)
from inspector.images.scientific import read_scientific
from inspector.images.values import (
    Display,
    Values,
    Window,
    check_display,
    check_window,
    describe_unused_window,
    find_channel_axis,
    render_values,
)
from inspector.printable import make_printable


class _File(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Array(Protocol):
    def __array__(self) -> NDArray[Any]: ...


# _Array: a NumPy array, a tensor, and what else NumPy can read.
ImageSource: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | _File | Image.Image | _Array


@dataclass(frozen=True, eq=False)
class Photo:
    """An upright RGB image, with the numbers that it was made from if these are not 8-bit gray or RGB."""

    pixels: Pixels  # (H, W, 3)
    name: str
    sha256: str  # hash of the encoded file; of the pixels or values if the source was an array or a PIL image
    notes: tuple[str, ...] = ()  # one sentence for each change that the user should know
    values: Values | None = None  # (H, W) or (H, W, C); None if `pixels` are all that the image has
    window: Window | None = None  # values that became black and white, if `read_image` was given them
    display: Display | None = None  # channels shown as red, green and blue, if `read_image` was given them
    file_notes: tuple[str, ...] = ()  # those notes that do not depend on window and display

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]


def read_image(
    source: ImageSource,
    name: str | None = None,
    window: Sequence[float] | None = None,
    display: Sequence[int] | None = None,
) -> Photo:
    """Read an image as upright RGB pixels.

    The image is rotated as its EXIF data say. Only the first frame is read, transparent parts become white, and values
    of more than 8 bits are scaled to 8. Colors are not converted: as in the training pipelines of torchvision and timm,
    a color profile is ignored. `Photo.notes` tell what was done.

    Args:
        source: path, encoded bytes, binary file object, PIL image, or array or tensor (H, W), (H, W, C) or (C, H, W).
            Arrays are RGB; floats have white at 1, or at 255 if a value is above 1.
        name: name of the photo, for messages and results. Default: the name of the file.
        window: the values that become black and white, for images of more than 8 bits. Default: the range that the
            values use, which the notes tell.
        display: which channels are shown as red, green and blue, counted from 0. Default: the first three.

    Raises:
        ImageError: the source is not an image, is broken, or is larger than MAX_BYTES or MAX_PIXELS.
    """
    window = None if window is None else check_window(window)
    display = None if display is None else check_display(display)
    if isinstance(source, Image.Image):
        name = name or "image"
        with translate_decoder_errors(name):
            decoded = _decode_with_pillow(source, name, "Only the current frame is shown.")
        return _make_photo(decoded, name, _hash(decoded), window, display)
    if isinstance(source, str | os.PathLike):
        data, name = _read_path(source, name)
    elif isinstance(source, bytes | bytearray | memoryview):
        data, name = bytes(source), name or "image"
    elif hasattr(source, "read"):
        data, name = _read_file_object(source, name)
    elif hasattr(source, "__array__"):
        name = name or "array"
        decoded = _arrange_array(_as_array(source, name))
        return _make_photo(decoded, name, _hash(decoded), window, display)
    else:
        raise ImageError(
            f"Expected a path, bytes, a binary file object, a PIL image or an array; got {type(source).__name__}."
        )
    if not data:
        raise ImageError(f"{name} is empty (0 bytes). Choose a photo, for example a JPEG or a PNG.")
    check_bytes(name, len(data))
    with translate_decoder_errors(name):
        decoded = _decode(data, name)
    return _make_photo(decoded, name, hashlib.sha256(data).hexdigest(), window, display)


def apply_settings(photo: Photo, window: Window | None, display: Display | None) -> Photo:
    """Show a photo with the window and the channels of a network's preprocessing, where it has none of its own."""
    values = photo.values
    window = None if photo.window is not None else window
    display = None if photo.display is not None or values is None or values.ndim == 2 else display
    if window is None and display is None:
        return photo
    if display is None and (values is None or values.dtype == np.uint8):
        assert window is not None
        return replace(photo, notes=(*photo.notes, describe_unused_window(window)))
    assert values is not None
    decoded = _Decoded(values, photo.file_notes)
    shown = _make_photo(decoded, photo.name, photo.sha256, photo.window or window, photo.display or display)
    return replace(shown, window=photo.window, display=photo.display)


def make_shown_photo(
    shown: Values, name: str, values: Values, notes: tuple[str, ...], display: Display | None = None
) -> Photo:
    """Return a photo of values (H, W, C), to show an input that was not made from a photo.

    Args:
        shown: the values as they are shown.
        name: name of the photo.
        values: the values that the hash is made of.
        notes: what the user should know.
        display: channels shown as red, green and blue.
    """
    shown = shown[..., 0] if shown.shape[2] == 1 else shown
    decoded = _Decoded(shown, notes)
    return replace(_make_photo(decoded, name, _hash(_Decoded(values, ())), None, display), values=None)


class _Decoded(NamedTuple):
    """An upright image before its values are scaled."""

    values: Values  # (H, W) or (H, W, C)
    notes: tuple[str, ...]  # one sentence for each change that the user should know
    pixels: Pixels | None = None  # (H, W, 3), if Pillow converted the values to RGB


def _make_photo(decoded: _Decoded, name: str, sha256: str, window: Window | None, display: Display | None) -> Photo:
    values, notes, pixels = decoded
    if pixels is None or display is not None:
        with translate_errors(ImageError, f"{name}: {{reason}}."):
            pixels, more = render_values(values, window, display)
    else:
        more = () if window is None else (describe_unused_window(window),)
    plain = values.dtype in (np.uint8, np.bool_) and (values.ndim == 2 or values.shape[2] == 3)
    return Photo(pixels, make_printable(name), sha256, notes + more, None if plain else values, window, display, notes)


def _hash(decoded: _Decoded) -> str:
    values = decoded.values if decoded.pixels is None else decoded.pixels
    if values.ndim == 2 and values.dtype == np.uint8:  # equal to the hash of the RGB pixels
        values = np.repeat(values[..., None], 3, axis=2)
    return hashlib.sha256(values.tobytes()).hexdigest()


def _read_path(source: str | os.PathLike[str], name: str | None) -> tuple[bytes, str]:
    path = Path(source)
    name = name or path.name
    with translate_errors(ImageError, f"Cannot read {path!s}: {{reason}}."), open_regular(path) as file:
        # Check the size before reading, so that a file of many GB gets a clear message with its size.
        check_bytes(name, os.fstat(file.fileno()).st_size)
        return read_limited(file, name), name


def _read_file_object(file: Any, name: str | None) -> tuple[bytes, str]:
    """Read a whole binary file object from its start, and leave its position as it was."""
    stated = getattr(file, "name", None)
    name = name or (Path(stated).name if isinstance(stated, str) else "image")
    with translate_errors(ImageError, f"Cannot read {name}: {{reason}}."):
        seekable = bool(getattr(file, "seekable", lambda: hasattr(file, "seek"))())
        position = file.tell() if seekable else 0
        if seekable:
            file.seek(0)
        try:
            data = read_limited(file, name)
        finally:
            if seekable:
                file.seek(position)
    if not isinstance(data, bytes | bytearray | memoryview):
        raise ImageError(f"{name} is open as text. Open it as a binary file, with mode 'rb'.")
    return bytes(data), name


def _as_array(source: Any, name: str) -> NDArray[Any]:
    with translate_errors(ImageError, f"{name} is not an array of numbers ({{reason}})."):
        if hasattr(source, "detach"):  # a tensor, perhaps on a GPU, or of a type that NumPy does not have
            source = source.detach().cpu()
            source = source.float() if "bfloat16" in str(source.dtype) else source
        array = np.asarray(source)
    return np.ma.getdata(array)


def _arrange_array(array: NDArray[Any]) -> _Decoded:
    """Return a copy of an array of any layout as (H, W) or (H, W, C)."""
    values = array[0] if array.ndim == 4 and len(array) == 1 else array
    axis = find_channel_axis(values.shape) if values.ndim == 3 and values.size else 2
    if values.ndim not in (2, 3) or axis is None or values.dtype.kind not in "buif" or values.size == 0:
        raise ImageError(
            f"Expected an array (H, W), (H, W, C) or (C, H, W) of numbers, got {array.shape} of {array.dtype}."
        )
    notes = (f"Its {len(values)} channels are on the first axis.",) if axis == 0 else ()
    values = values if values.ndim == 2 else np.moveaxis(values, axis, 2)
    values = values[..., 0] if values.shape[2:] == (1,) else values
    return _Decoded(np.array(values, values.dtype.newbyteorder("="), order="C"), notes)


def _decode(data: bytes, name: str) -> _Decoded:
    numbers = read_scientific(data, name)
    if numbers is not None:
        values, profile = numbers
        return _Decoded(values, _describe_profile(profile))
    with open_image(data) as image:
        return _decode_with_pillow(image, name, "Only the first frame is shown.")


def _decode_with_pillow(image: Image.Image, name: str, frame_note: str) -> _Decoded:
    check_pixels(name, *image.size)
    notes, pixels = [], None
    with reserve_memory(image):
        image.load()
        orientation = find_orientation(image)
        if orientation is None:
            notes.append("The EXIF block is broken, so the photo was not rotated.")
        if image.mode.startswith("I") or image.mode == "F":
            # Keep the values: convert("RGB") would clip them, so every value above 255 would become white.
            values: Values = np.asarray(image)
            # Older versions of Pillow hold a PNG of 16 bits as 32 bits.
            values = values.astype(np.uint16 if image.format == "PNG" else values.dtype.newbyteorder("="))
            values = turn_upright(values, orientation)
        else:
            rgb, transparent = convert_to_rgb(image)
            notes += ["Transparent parts are shown on white."] if transparent else []
            values = pixels = turn_upright(rgb, orientation)
            if image.mode in ("RGBA", "LA"):  # a network of so many channels is fed these, and not what is shown
                values = turn_upright(np.asarray(image), orientation)
    if is_animated(image):
        notes.insert(0, frame_note)
    return _Decoded(values, (*notes, *_describe_profile(image.info.get("icc_profile"))), pixels)


def _describe_profile(profile: object) -> tuple[str, ...]:
    if not isinstance(profile, bytes) or not profile:
        return ()
    name = describe_color_profile(profile)
    if name is None:
        return ()
    return (f'Its color profile is "{name}", not sRGB. Colors were not converted, as in training pipelines.',)
