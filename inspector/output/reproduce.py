"""Make an export again from its manifest: the same network, photo and settings give the same figure.

The network, the class names and the photo must have the same hashes as in the manifest. If the version of a library has
changed, the result says so.
"""

import zipfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast, get_args

from inspector.entries import Entries, parse_json
from inspector.errors import InspectorError, NetworkError, translate_errors
from inspector.explain.backends.accelerate import with_backend
from inspector.explain.class_maps import AVERAGE, FigureContent, class_maps
from inspector.explain.class_names import AnyClassNames
from inspector.explain.classifier import Classifier
from inspector.explain.kinds import OutputActivation, OutputChoice
from inspector.files import check_new_folder
from inspector.images.decode import MAX_BYTES
from inspector.images.photo import Photo, read_image
from inspector.images.preprocessing import Interpolation, PreprocessingOverrides
from inspector.networks.catalog import LIBRARIES, find_model_folder
from inspector.networks.load import resolve
from inspector.output.export import FILES, save_class_maps
from inspector.output.manifest import find_version, hash_names, hash_pixels
from inspector.output.style import FigureStyle

_MANIFEST, _PHOTO, _FIGURE = "manifest.json", "photo.png", "figure.png"
# How each entry of a style is read.
STYLE_CHECKS: dict[str, Callable[[Entries, str], Any]] = {
    "panels": Entries.texts,
    "columns": Entries.whole,
    **dict.fromkeys(("width", "font_size"), Entries.number),
    "dpi": Entries.whole,
    **dict.fromkeys(("colours", "title"), Entries.text),
    **dict.fromkeys(("dark", "gray", "colour_bar", "equations"), Entries.flag),
}
_MAY_BE_NULL = ("columns", "width", "title")


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
    class_names: AnyClassNames | None = None,
    trust: bool = False,
    overwrite: bool = False,
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
        overwrite: replace a folder that holds only an earlier export.

    Raises:
        InspectorError: the manifest cannot be read, or the network, the class names or the photo differ from it.
        ExportError: the folder is not empty, or cannot be written.
    """
    check_new_folder(folder, is_ours=FILES.__contains__ if overwrite else None)
    files = _read_files(manifest)
    with _translate_broken_manifest(manifest):
        settings = Entries(parse_json(files[_MANIFEST] or b""))
        content, style, overrides = _parse_content(settings), _parse_style(settings), _parse_preprocessing(settings)
        network, versions = settings.object("network"), settings.object("versions")
        name, network_hash = network.text("name"), network.text("sha256")
        # Older manifests have no hash of the class names and no backend.
        names_hash = settings.object("class_names").text("sha256") if settings.has("class_names") else None
        backend = network.text("backend") if network.has("backend") else "eager"
        known = {"inspector": settings.text("inspector")} | {
            library: versions.text(library) for library in versions.values
        }
        output = _parse_output(settings)
        original = _find_photo(settings, photo, files[_PHOTO], manifest)
    if model is None and not (find_model_folder(name) or name.startswith(LIBRARIES)):
        # A manifest may come from anybody, so it must not choose which files are read.
        raise NetworkError(f"No network {name!r} here, which {manifest} names. Use --model with its file or folder.")
    loaded = resolve(model or name, arch, class_names, overrides, output, trust)
    classifier = Classifier.from_network(loaded)
    _check_network(classifier, name, network_hash, names_hash)
    maps = class_maps(with_backend(replace(classifier, name=name), backend), original, finer=content.finer)
    # Check that the network has these classes: this was not possible before it was loaded.
    maps.figure_content(content.classes, content.against)
    save_class_maps(maps, folder, content, style, overwrite)
    figure = files[_FIGURE]
    equal = None if figure is None else (folder / _FIGURE).read_bytes() == figure
    return RebuildResult(folder, tuple(_compare_versions(known)), equal)


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


def _parse_content(settings: Entries) -> FigureContent:
    shown = settings.object("shown")
    against, opacity = shown.values["against"], shown.number("opacity")
    if not 0 <= opacity <= 1:
        shown.refuse("opacity", "a number from 0 to 1")
    return FigureContent(
        classes=shown.wholes("classes"),
        against=against if against in (None, AVERAGE) else shown.whole("against"),
        dense=shown.flag("dense"),
        smooth=shown.flag("smooth"),
        opacity=opacity,
        finer=shown.whole("finer") if shown.has("finer") else 1,  # older manifests have none
    )


def _parse_output(settings: Entries) -> OutputChoice:
    # Older manifests have no probability, and most networks need no name and no unit.
    name, unit = (settings.text(entry) if settings.has(entry) else None for entry in ("output", "unit"))
    known = get_args(OutputActivation)
    activation = settings.choice("probability", known) if settings.has("probability") else None
    return OutputChoice(name, cast(OutputActivation | None, activation), unit)


def _parse_style(settings: Entries) -> FigureStyle:
    # Older manifests have no style, because their figures were drawn in the default style, or no gray photo.
    style = settings.object("style") if settings.has("style") else Entries({})
    if unknown := style.values.keys() - STYLE_CHECKS.keys():
        raise ValueError(f"the style has an entry {min(unknown)!r} that this version does not know")
    values: dict[str, Any] = {
        key: STYLE_CHECKS[key](style, key)
        for key, value in style.values.items()
        if value is not None or key not in _MAY_BE_NULL
    }
    return FigureStyle(**{"gray": False} | values)


def _parse_preprocessing(settings: Entries) -> PreprocessingOverrides:
    values = settings.object("preprocessing")
    resize = "squeeze" if values.values["resize"] is None else values.size("resize")
    mean, std, size = values.numbers("mean"), values.numbers("std"), values.size("size")
    interpolation = cast(Interpolation, values.choice("interpolation", get_args(Interpolation)))
    # Older manifests have neither window nor display.
    window = values.numbers("window", (2,)) if values.has("window") else None
    display = values.wholes("display") if values.has("display") else None
    return PreprocessingOverrides(size, mean, std, resize, interpolation, window, display)


def _find_photo(settings: Entries, path: Path | None, beside: bytes | None, manifest: Path) -> Photo:
    """Read the photo, check its hash, and give it the name, hash and notes that the manifest states."""
    if settings.values["photo"] is None:
        raise ValueError("its input was a tensor, without a photo")
    entry = settings.object("photo")
    name, sha256, notes = entry.text("name"), entry.text("sha256"), entry.texts("notes")
    if path is None and beside is None:
        raise InspectorError(f"There is no {_PHOTO} beside {manifest}. Use --photo FILE with {name}.")
    window = entry.numbers("window", (2,)) if entry.has("window") else None
    display = entry.wholes("display") if entry.has("display") else None
    # photo.png beside the manifest has the pixels that were shown.
    photo = read_image(path, None, window, display) if path is not None else read_image(beside or b"", _PHOTO)
    # Another file of the same picture, such as photo.png, has a different file hash but the same hash of the pixels.
    if photo.sha256 != sha256 and hash_pixels(photo.pixels) != entry.values.get("pixels_sha256"):
        raise InspectorError(
            f"{photo.name} is not the photo of this figure: its SHA-256 is {photo.sha256[:12]}..., and that of "
            f"{name} was {sha256[:12]}.... Use the same file, or {_PHOTO} of the export."
        )
    return replace(photo, name=name, sha256=sha256, notes=notes)


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
