"""Make an export again from its manifest: the same network, photo and settings give the same figure.

The network, the class names and the photo must have the same hashes as in the manifest. If the version of a library has
changed, the result says so.
"""

import json
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from inspector.errors import InspectorError, translate_errors
from inspector.explain.backends.accelerate import with_backend
from inspector.explain.class_maps import AVERAGE, FigureContent, class_maps
from inspector.explain.classifier import Classifier
from inspector.images.photo import MAX_BYTES, Photo, read_image
from inspector.images.preprocessing import PreprocessingOverrides
from inspector.networks.load import resolve
from inspector.output.export import save_class_maps
from inspector.output.manifest import find_version, hash_names, hash_pixels
from inspector.output.style import FigureStyle

_MANIFEST, _PHOTO, _FIGURE = "manifest.json", "photo.png", "figure.png"


@dataclass(frozen=True)
class RebuildResult:
    """The result of making an export again."""

    folder: Path
    versions: tuple[str, ...]  # one sentence for each library whose version has changed
    equal: bool | None  # new and old figure.png have equal bytes; None: there is no old figure.png


def rebuild(
    manifest: Path,
    folder: Path,
    photo: Path | None = None,
    model: str | None = None,
    arch: str | None = None,
    class_names: Sequence[str] | None = None,
    trust: bool = False,
) -> RebuildResult:
    """Make an export again from its manifest.

    The network runs on the backend that the manifest names, because results of other backends differ by rounding.

    Args:
        manifest: a manifest.json, or a folder or ZIP file that contains a manifest.json.
        folder: the new folder to write.
        photo: file of the photo. Default: photo.png beside the manifest.
        model: name or file of the network, as for `inspector.load`. Default: the name in the manifest.
        arch: architecture for a file of weights, as for `inspector.load`.
        class_names: one name per class, as for `inspector.load`.
        trust: allow code of the architecture or the file to run, as for `inspector.load`.

    Raises:
        InspectorError: the manifest cannot be read, or the network, the class names or the photo differ from it.
        ExportError: the folder is not empty, or cannot be written.
    """
    files = _read_files(manifest)
    with _translate_broken_manifest(manifest):
        settings = json.loads(files[_MANIFEST] or b"")
        if not isinstance(settings, dict):
            raise ValueError("it is not a JSON object")
        content, style, overrides = _parse_content(settings), _parse_style(settings), _parse_preprocessing(settings)
        name, network_hash = settings["network"]["name"], settings["network"]["sha256"]
        # Older manifests have no hash of the class names and no backend.
        names_hash = settings["class_names"]["sha256"] if settings.get("class_names") else None
        backend = str(settings["network"].get("backend", "eager"))
        output = settings.get("output")
        versions = {"inspector": settings["inspector"]} | settings["versions"]
        original = _find_photo(settings["photo"], photo, files[_PHOTO], manifest)
    loaded = resolve(model or name, arch, class_names, overrides, settings.get("probability"), trust, output=output)
    classifier = Classifier.from_network(loaded)
    _check_network(classifier, name, network_hash, names_hash)
    maps = class_maps(with_backend(replace(classifier, name=name), backend), original)
    # Check that the network has these classes: this was not possible before it was loaded.
    maps.figure_content(content.classes, content.against)
    save_class_maps(maps, folder, content, style)
    figure = files[_FIGURE]
    equal = None if figure is None else (folder / _FIGURE).read_bytes() == figure
    return RebuildResult(folder, tuple(_compare_versions(versions)), equal)


def _read_files(path: Path) -> dict[str, bytes | None]:
    """Read the manifest, the photo and the figure; the value for a file that does not exist is None."""
    with translate_errors(InspectorError, f"Cannot read {path}: {{reason}}."):
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return {name: _unpack(archive, name) for name in (_MANIFEST, _PHOTO, _FIGURE)}
        path = path / _MANIFEST if path.is_dir() else path
        beside = {name: path.with_name(name) for name in (_PHOTO, _FIGURE)}
        found = {name: file.read_bytes() if file.is_file() else None for name, file in beside.items()}
        if path.stat().st_size > MAX_BYTES:
            raise ValueError("it is too large")
        return found | {_MANIFEST: path.read_bytes()}


def _unpack(archive: zipfile.ZipFile, name: str) -> bytes | None:
    if name not in archive.namelist():
        return None
    # Count the unpacked bytes: the size stated in the ZIP file may be false.
    with archive.open(name) as entry:
        data = entry.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"{name} in it has more than {MAX_BYTES / 1e6:.0f} MB")
    return data


def _translate_broken_manifest(path: Path) -> AbstractContextManager[None]:
    def describe(reason: str) -> str:
        return f"{path} is not a manifest of an export ({reason}). Use the manifest.json that Inspector writes."

    return translate_errors(InspectorError, describe("{reason}"), {KeyError: describe("it lacks the entry {reason}")})


def _parse_content(settings: Mapping[str, Any]) -> FigureContent:
    content = FigureContent(**settings["shown"])
    classes = tuple(content.classes)
    numbers = [*classes, *([content.against] if content.against not in (None, AVERAGE) else [])]
    if not all(type(k) is int for k in numbers) or not all(type(x) is bool for x in (content.dense, content.smooth)):
        raise ValueError("classes must be numbers, dense and smooth true or false")
    if not 0 <= content.opacity <= 1:
        raise ValueError(f"opacity must be from 0 to 1, got {content.opacity}")
    return replace(content, classes=classes)


def _parse_style(settings: Mapping[str, Any]) -> FigureStyle:
    # Older manifests have no style: their figures were drawn in the default style.
    values = dict(settings.get("style", {}))
    if unknown := set(values) - {field.name for field in fields(FigureStyle)}:
        raise ValueError(f"the style has an entry {min(unknown)!r} that this version does not know")
    if "panels" in values:
        values["panels"] = tuple(values["panels"])
    return FigureStyle(**values)


def _parse_preprocessing(settings: Mapping[str, Any]) -> PreprocessingOverrides:
    values = settings["preprocessing"]
    resize = "squeeze" if values["resize"] is None else tuple(values["resize"])
    size, mean, std = (tuple(values[name]) for name in ("size", "mean", "std"))
    return PreprocessingOverrides(size, mean, std, resize, values["interpolation"])


def _find_photo(settings: Mapping[str, Any] | None, path: Path | None, beside: bytes | None, manifest: Path) -> Photo:
    """Read the photo, check its hash, and give it the name, hash and notes that the manifest states."""
    if settings is None:
        raise ValueError("its input was a tensor, without a photo")
    if path is None and beside is None:
        raise InspectorError(f"There is no {_PHOTO} beside {manifest}. Use --photo FILE with {settings['name']}.")
    photo = read_image(path) if path is not None else read_image(beside or b"", _PHOTO)
    # Another file of the same picture, such as photo.png, has a different file hash but the same hash of the pixels.
    if photo.sha256 != settings["sha256"] and hash_pixels(photo.pixels) != settings.get("pixels_sha256"):
        raise InspectorError(
            f"{photo.name} is not the photo of this figure: its SHA-256 is {photo.sha256[:12]}..., and that of "
            f"{settings['name']} was {settings['sha256'][:12]}.... Use the same file, or {_PHOTO} of the export."
        )
    return replace(photo, name=settings["name"], sha256=settings["sha256"], notes=tuple(settings["notes"]))


def _check_network(classifier: Classifier, name: str, sha256: str, names_sha256: str | None) -> None:
    if (got := classifier.sha256()) != sha256:
        raise InspectorError(
            f"{classifier.name} is not the network of this figure: the SHA-256 of its weights is {got[:12]}..., and "
            f"that of {name} was {sha256[:12]}.... Use --model with the same weights."
        )
    if names_sha256 is not None and hash_names(classifier.class_names) != names_sha256:
        raise InspectorError(f"{classifier.name} has other class names than {name} had. Use --labels with the same.")


def _compare_versions(before: Mapping[str, str]) -> list[str]:
    found = {package: find_version(package) or "not installed" for package in before}
    return [f"{name} was {old} and is {found[name]}." for name, old in before.items() if found[name] != old]
