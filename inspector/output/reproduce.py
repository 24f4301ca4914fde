"""Make an export again from its manifest: the same network, the same photo, the same settings, and so the same figure.

What the manifest says is checked against what is there: a hash that differs is refused, a version that differs is told.
"""

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from inspector.errors import InspectorError
from inspector.explain.backends.accelerate import with_backend
from inspector.explain.class_maps import AVERAGE, ClassMaps, FigureContent, class_maps
from inspector.explain.classifier import Classifier
from inspector.images.photo import MAX_BYTES, Photo, read_image
from inspector.images.preprocessing import PreprocessingOverrides
from inspector.networks.load import resolve
from inspector.output.export import save_class_maps
from inspector.output.manifest import names_sha256, pixels_sha256
from inspector.output.style import FigureStyle

_MANIFEST, _PHOTO, _FIGURE = "manifest.json", "photo.png", "figure.png"


@dataclass(frozen=True)
class RebuildResult:
    """An export that was made again."""

    folder: Path
    versions: tuple[str, ...]  # what has another version now, a sentence each
    equal: bool | None  # whether its figure.png is that beside the manifest, byte for byte; None: there is none


def rebuild(
    manifest: Path,
    folder: Path,
    photo: Path | None = None,
    model: str | None = None,
    arch: str | None = None,
    class_names: Sequence[str] | None = None,
    trust: bool = False,
) -> RebuildResult:
    """Make the export of a manifest.json again, in a new folder; a folder or ZIP that holds one will do.

    The network runs through the backend that the manifest names: another gives numbers that differ by rounding.

    The photo is that beside the manifest, unless one is named; the network is loaded by the manifest's name for it,
    unless `model` and what else `load` takes say where it is. Raises InspectorError where network, class names or photo
    are not those of the manifest, ExportError where the folder cannot be written.
    """
    files = _read(manifest)
    told = _parsed(files[_MANIFEST], manifest)
    try:
        shown, style, feeding = _shown(told), _style(told), _feeding(told)
        name, network_hash, names_hash = told["network"]["name"], told["network"]["sha256"], told.get("class_names")
        picture = _photo(told["photo"], photo, files[_PHOTO], manifest)
        # Manifests that were written before there were backends name none.
        backend = str(told["network"].get("backend", "eager"))
        before = {"inspector": told["inspector"]} | told["versions"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _no_manifest(manifest, error) from error
    loaded = resolve(model or name, arch, class_names, feeding, told.get("probability"), trust)
    classifier = Classifier.from_network(loaded)
    _same_network(classifier, name, network_hash, names_hash and names_hash["sha256"])
    maps = class_maps(with_backend(replace(classifier, name=name), backend), picture)
    save_class_maps(maps, folder, _of_maps(maps, shown), style)
    figure = files[_FIGURE]
    equal = None if figure is None else (folder / _FIGURE).read_bytes() == figure
    return RebuildResult(folder, tuple(_other_versions(before)), equal)


def _read(path: Path) -> dict[str, bytes | None]:
    """The manifest and what lies beside it, None for what does not."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return {name: _unpacked(archive, name) for name in (_MANIFEST, _PHOTO, _FIGURE)}
        path = path / _MANIFEST if path.is_dir() else path
        beside = {name: path.with_name(name) for name in (_PHOTO, _FIGURE)}
        found = {name: one.read_bytes() if one.is_file() else None for name, one in beside.items()}
        if path.stat().st_size > MAX_BYTES:
            raise ValueError("it is too large")
        return found | {_MANIFEST: path.read_bytes()}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InspectorError(f"Cannot read {path}: {getattr(error, 'strerror', None) or error}.") from error


def _unpacked(archive: zipfile.ZipFile, name: str) -> bytes | None:
    if name not in archive.namelist():
        return None
    # By what comes out and not by what the entry says of itself: a bomb lies.
    with archive.open(name) as entry:
        data = entry.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"{name} in it has more than {MAX_BYTES / 1e6:.0f} MB")
    return data


def _parsed(data: bytes | None, path: Path) -> dict[str, Any]:
    try:
        told = json.loads(data or b"")
        if not isinstance(told, dict):
            raise ValueError("it is no JSON object")
    except ValueError as error:
        raise _no_manifest(path, error) from error
    return told


def _no_manifest(path: Path, error: Exception) -> InspectorError:
    why = f"it lacks the entry {error}" if isinstance(error, KeyError) else str(error)
    return InspectorError(
        f"{path} is no manifest of an export ({why}). The manifest.json that Inspector writes beside a figure would do."
    )


def _shown(told: Mapping[str, Any]) -> FigureContent:
    shown = FigureContent(**told["shown"])
    classes = tuple(shown.classes)
    numbers = [*classes, *([shown.against] if shown.against not in (None, AVERAGE) else [])]
    if not all(type(k) is int for k in numbers) or not all(type(x) is bool for x in (shown.dense, shown.smooth)):
        raise ValueError("classes are numbers, dense and smooth true or false")
    if not 0 <= shown.opacity <= 1:
        raise ValueError(f"opacity is {shown.opacity}, and not from 0 to 1")
    return replace(shown, classes=classes)


def _style(told: Mapping[str, Any]) -> FigureStyle:
    # Manifests that were written before figures had styles have none: they were drawn as usual.
    said = dict(told.get("style", {}))
    if unknown := set(said) - {field.name for field in fields(FigureStyle)}:
        raise ValueError(f"the style has an entry {min(unknown)!r} that this version does not know")
    if "panels" in said:
        said["panels"] = tuple(said["panels"])
    return FigureStyle(**said)


def _feeding(told: Mapping[str, Any]) -> PreprocessingOverrides:
    said = told["preprocessing"]
    resize = "squeeze" if said["resize"] is None else tuple(said["resize"])
    return PreprocessingOverrides(
        tuple(said["size"]), tuple(said["mean"]), tuple(said["std"]), resize, said["interpolation"]
    )


def _photo(told: Mapping[str, Any] | None, path: Path | None, beside: bytes | None, manifest: Path) -> Photo:
    """The photo under the name and the notes that it had."""
    if told is None:
        raise ValueError("it was made from a tensor, and has no photo")
    if path is None and beside is None:
        raise InspectorError(f"There is no {_PHOTO} beside {manifest}: --photo FILE would do, with {told['name']}.")
    photo = read_image(path) if path is not None else read_image(beside or b"", _PHOTO)
    # The same picture in another file has another hash of the file and the same pixels.
    if photo.sha256 != told["sha256"] and pixels_sha256(photo.pixels) != told.get("pixels_sha256"):
        raise InspectorError(
            f"{photo.name} is not the photo of this figure: its SHA-256 is {photo.sha256[:12]}..., and that of "
            f"{told['name']} was {told['sha256'][:12]}.... The same file would do, or {_PHOTO} of the export."
        )
    return replace(photo, name=told["name"], sha256=told["sha256"], notes=tuple(told["notes"]))


def _same_network(classifier: Classifier, name: str, sha256: str, names: str | None) -> None:
    if (got := classifier.sha256()) != sha256:
        raise InspectorError(
            f"{classifier.name} is not the network of this figure: the SHA-256 of its weights is {got[:12]}..., and "
            f"that of {name} was {sha256[:12]}.... --model with the same weights would do."
        )
    if names is not None and names_sha256(classifier.class_names) != names:
        raise InspectorError(f"{classifier.name} has other class names than {name} had: --labels with those would do.")


def _of_maps(maps: ClassMaps, shown: FigureContent) -> FigureContent:
    """The same, once the network is known to have such classes."""
    return maps.figure_content(shown.classes, shown.against, shown.dense, shown.smooth, shown.opacity)


def _other_versions(before: Mapping[str, str]) -> list[str]:
    told = []
    for package, was in before.items():
        try:
            now = version(package)
        except PackageNotFoundError:
            now = "not here"
        if now != was:
            told.append(f"{package} was {was} and is {now}.")
    return told
