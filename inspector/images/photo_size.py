"""Sizes of the network's input that depend on the photo. All of the photo is scaled to them, and nothing is cropped.

    "whole"      the shorter side is as long as in the training
    "whole:288"  the shorter side has 288 pixels
    "native"     the photo's own size, up to 1024 pixels

A crop has a size in pixels: "224", or "208x408" (height x width) in texts.
"""

import re

from inspector.errors import NetworkError

MAX_SIDE = 8192  # pixels of a side of the network's input
_MAX_NATIVE = 1024  # pixels of the longer side; for larger inputs, the feature maps may not fit in memory


def is_photo_size(size: object) -> bool:
    """Return whether a size depends on the photo: "whole", "whole:288" or "native", also with a wrong number."""
    return isinstance(size, str) and size.split(":")[0] in ("whole", "native")


def find_photo_size(size: str, photo_size: tuple[int, int], trained: tuple[int, int]) -> tuple[int, int]:
    """Return the (height, width) of the network's input for a photo.

    Args:
        size: "whole", "whole:288" or "native".
        photo_size: (height, width) of the photo.
        trained: (height, width) of the input in the training.

    Raises:
        NetworkError: `size` is another text, or its number is not from 1 to 8192.
    """
    shorter = parse_photo_size(size)
    if shorter is None:
        return find_native_size(photo_size)
    return find_whole_size(photo_size, trained if shorter == 0 else (shorter, shorter))


def parse_photo_size(size: str) -> int | None:
    """Return the pixels of the shorter side; 0: as many as in the training; None: as many as the photo has.

    Raises:
        NetworkError: `size` is none of "whole", "whole:288" and "native", or its number is not from 1 to 8192.
    """
    if size == "native":
        return None
    found = re.fullmatch(r"whole(?::([1-9][0-9]{0,3}))?", size)
    if found is None or int(found[1] or 0) > MAX_SIDE:
        raise NetworkError(
            f'Expected a size as 224, (208, 408), "whole", "whole:288" or "native", with 1 to {MAX_SIDE} pixels; '
            f"got {size!r:.60}."
        )
    return int(found[1] or 0)


def find_native_size(photo_size: tuple[int, int]) -> tuple[int, int]:
    """Return the photo's own (height, width), scaled down if its longer side has more than 1024 pixels."""
    scale = min(1, _MAX_NATIVE / max(photo_size))
    return max(1, round(photo_size[0] * scale)), max(1, round(photo_size[1] * scale))


def find_whole_size(photo_size: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """Return the (height, width) of a whole photo whose shorter side is that of a network's input.

    The longer side has at most 1024 pixels, or those of the input if they are more.
    """
    longest = max(_MAX_NATIVE, *size)
    scale = min(min(size) / min(photo_size), longest / max(photo_size))
    return max(1, round(photo_size[0] * scale)), max(1, round(photo_size[1] * scale))


def format_size(size: tuple[int, int]) -> str:
    """Return (height, width) as text: "224" for a square, else "208x408"."""
    return str(size[0]) if size[0] == size[1] else f"{size[0]}x{size[1]}"


def describe_size(size: str) -> str:
    """Return in words what the network sees at a size: "center crop 224", "whole photo 288", "full resolution"."""
    if not is_photo_size(size):
        return f"center crop {size}"
    shorter = parse_photo_size(size)
    return "full resolution" if shorter is None else f"whole photo {shorter or ''}".rstrip()
