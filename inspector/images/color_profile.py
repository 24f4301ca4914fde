"""Tell whether an image's color profile (ICC) is another than sRGB.

The pixels are never converted: the training pipelines of torchvision and timm do not convert them either, so a network
has seen such photos as they are.
"""

import io
import re
from functools import lru_cache
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from PIL import ImageCms

_UNUSUAL = re.compile(r"[^\w .,:()/+-]")
_MAX_BYTES = 4_000_000  # profiles of printers have up to 2 MB
# Colors by which a profile is compared with sRGB: grays, and dark and bright primaries.
_COLORS = [(v, v, v) for v in (0, 32, 64, 128, 192, 255)] + [
    tuple(level if k == channel else 0 for k in range(3)) for channel in range(3) for level in (128, 255)
]
_SAME = 3  # of 255: the difference that rounding makes, for instance in profiles with tables of few entries


@lru_cache(maxsize=64)
def describe_color_profile(profile: bytes) -> str | None:
    """Return the name of an ICC profile; None for sRGB, which is what networks expect.

    A profile is sRGB if it changes no color noticeably, whatever its name.
    """
    from PIL import ImageCms  # here, because a Pillow without LittleCMS can read photos too

    if len(profile) > _MAX_BYTES:
        return "unnamed"
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        # Only what cannot be markup where the note is shown: the name comes from a file of anybody.
        name = _UNUSUAL.sub("", ImageCms.getProfileDescription(opened)).strip()[:80]
        if opened.profile.xcolor_space.strip() == "RGB" and _is_srgb(opened):
            return None
    except Exception:  # any error of LittleCMS: the profile is broken, which does not damage the pixels
        return "unnamed"
    return name or "unnamed"


def _is_srgb(profile: "ImageCms.ImageCmsProfile") -> bool:
    from PIL import ImageCms

    image = Image.new("RGB", (len(_COLORS), 1))
    image.putdata(_COLORS)
    transform = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), "RGB", "RGB")
    after = ImageCms.applyTransform(image, transform)
    assert after is not None, "only a conversion in place returns None"
    return max(abs(a - b) for a, b in zip(image.tobytes(), after.tobytes(), strict=True)) <= _SAME
