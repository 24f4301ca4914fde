"""The example photos of a published page: those of a folder, or of Inspector, that the page can read."""

import shutil
from pathlib import Path

import numpy as np

from inspector.errors import ExportError
from inspector.images.decode import open_image
from inspector.images.examples import choose_examples, list_examples
from inspector.images.photo import read_image
from inspector.images.preprocessing import Preprocessing, make_view
from inspector.images.sources import list_images

_MAX_PHOTOS = 24
_TYPES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".avif")  # which browsers can show
_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "AVIF")  # the same, as Pillow names what is in the file


def list_photos(preprocessing: Preprocessing, source: str | Path | None) -> dict[str, Path]:
    """Return the example photos by their captions.

    Raises:
        ExportError: there are none, or too many, or the page cannot read one.
        ImageError: one cannot be read here.
    """
    if source is None:
        return list_examples(choose_examples(preprocessing))
    files = [Path(item.file) for item in list_images(Path(source)) if Path(item.file).suffix.lower() in _TYPES]
    if not files or len(files) > _MAX_PHOTOS:
        raise ExportError(
            f"{source} has {len(files)} photos that browsers can show ({', '.join(_TYPES)}); a page takes 1 to "
            f"{_MAX_PHOTOS}. Use another folder."
        )
    for file in files:
        _check_photo(file, preprocessing)
    return {_name_photo(n, file, files): file for n, file in enumerate(files)}


def _check_photo(file: Path, preprocessing: Preprocessing) -> None:
    """Raise ExportError for a photo that the page refuses, see page/decode.js; ImageError for a broken one."""
    photo = read_image(file)
    make_view(photo, preprocessing)
    with file.open("rb") as opened, open_image(opened) as image:
        format, mode = image.format, image.mode
    if format not in _FORMATS:
        problem = f"is a file of type {format}, which browsers do not show. Save it as JPEG or PNG"
    elif photo.values is not None and photo.values.dtype != np.uint8:
        problem = "has more than 8 bits per channel, and a page reads 8. Save it with 8"
    elif mode == "CMYK":
        problem = "has the colors of a print, CMYK, and a page reads RGB. Save it as RGB"
    else:
        return
    raise ExportError(f"{file} {problem}, or leave it out.")


def _name_photo(n: int, file: Path, files: list[Path]) -> str:
    is_unique = [other.stem for other in files].count(file.stem) == 1
    return file.stem if is_unique else f"{file.stem} ({n + 1})"


def copy_photos(examples: dict[str, Path], folder: Path) -> list[dict[str, str]]:
    """Copy the photos under numbers, because not every host serves every name. Return their captions and files."""
    listed = []
    (folder / "photos").mkdir()
    for n, (caption, file) in enumerate(examples.items(), start=1):
        name = f"photos/{n}{file.suffix.lower()}"
        shutil.copyfile(file, folder / name)
        listed.append({"caption": caption, "name": file.name, "file": name})
    return listed
