"""List the networks that have a name: one folder each, with a model.json that describes how to build and use it.

Networks come with the package, and users add their own in a folder beside them. This module reads only the descriptions
and does not import torch, so it can list the networks without delay.
"""

import importlib.util
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, cast, get_args

from inspector.entries import Entries, parse_json
from inspector.errors import NetworkError, translate_errors
from inspector.explain.kinds import OutputActivation
from inspector.files import find_data_folder
from inspector.images.preprocessing import Interpolation, Preprocessing
from inspector.images.values import Display, Window
from inspector.networks.size_accuracy import SizeAccuracies, read_size_accuracies
from inspector.printable import make_printable

DEFAULT = "efficientnet_lite0"
CARD = "model.json"
LIBRARIES = ("torchvision:", "timm:")  # beginnings of the names of their networks


@dataclass(frozen=True)
class ModelCard:
    """The description of a network: the content of its model.json."""

    name: str
    folder: Path
    title: str
    architecture: Mapping[str, Any]  # {"factory": a name for `build`, "onnx" or "keras", "arguments": {...}}
    # A file in the folder; or a file in an installed package, {"package": ..., "file": ...}; or a list of such entries.
    # In a list, an entry {"into": PART, ...} holds the weights of this part of the network.
    weights: str | Mapping[str, str] | Sequence[str | Mapping[str, str]]
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    probability: OutputActivation
    examples: str  # kind of example images for the network, as in images/examples.py
    cell_center: tuple[float, float] | None = None  # (y, x) of the center of cell (0, 0), if it was measured
    output: str | None = None  # name of the output that holds the logits, if the network returns several
    unit: str | None = None  # of the output, if `probability` is "none"
    sizes: SizeAccuracies | None = None  # the accuracy at several input sizes, if it was measured
    about: Mapping[str, Any] = field(default_factory=dict)  # entries source, licence, training, scores, as in the file


@dataclass(frozen=True)
class BrokenModel:
    """A folder of a network whose model.json cannot be used."""

    name: str
    reason: str  # one sentence, with the path of the file


def shipped_models() -> Path:
    """Return the folder of the networks that come with Inspector: in the package, or beside it in a checkout."""
    package = Path(__file__).parent.parent
    return package / "models" if (package / "models").is_dir() else package.parent / "models"


def user_models() -> Path:
    """Return the folder of the user's networks: $INSPECTOR_MODELS, else ~/.local/share/inspector/models.

    It may not exist. $XDG_DATA_HOME takes the place of ~/.local/share.
    """
    if chosen := os.environ.get("INSPECTOR_MODELS"):
        return Path(chosen)
    return find_data_folder() / "models"


def find_cell_center(architecture: object, arguments: Mapping[str, Any] | None = None) -> tuple[float, float] | None:
    """Return the center (y, x) of cell (0, 0) that was measured for a shipped network of this architecture, or None.

    Training moves the centers away from those of the receptive fields. A new head, and weights that were trained
    further, keep the cells of the network that they started from.

    Args:
        architecture: a name for `build`.
        arguments: its keyword arguments. A network of the architecture "transfer" has the cells of its backbone.
    """
    name = (arguments or {}).get("backbone") if architecture == "transfer" else architecture
    known = {folder.name: folder for folder in shipped_models().glob("*/") if (folder / "model.json").is_file()}
    return read_model_card(known[name]).cell_center if isinstance(name, str) and name in known else None


def list_models() -> dict[str, ModelCard]:
    """List the cards of all networks by name, the default network first. Broken ones are left out."""
    return {card.name: card for card in _read_models() if isinstance(card, ModelCard)}


def list_broken_models() -> list[BrokenModel]:
    """List the networks that `list_models` leaves out because their model.json is broken."""
    return [model for model in _read_models() if isinstance(model, BrokenModel)]


@dataclass(frozen=True)
class Suggestion:
    """Names that a user may have meant."""

    same: tuple[str, ...] = ()  # the same name, as it is spelled
    near: tuple[str, ...] = ()  # names that look alike


def find_model_folder(name: str) -> Path | None:
    """Return the folder of the network of this name; None if there is none, as for a path."""
    for models in (shipped_models(), user_models()):
        # Checking the path raises OSError if the name is too long for a path, ValueError if it holds a null character.
        with suppress(OSError, ValueError):
            if Path(name).name == name and (models / name / CARD).is_file():  # a name, and no path out of the folder
                return models / name
    return None


def is_trusted(folder: Path) -> bool:
    """Return whether a folder is one of the networks with a name: their code is trusted like installed code."""
    return folder.resolve().parent in (shipped_models().resolve(), user_models().resolve())


def find_model_card(name: str, suggest: Callable[[str], Suggestion] = lambda name: Suggestion()) -> ModelCard:
    """Find the card of a network by its name, or by the path of its folder.

    Args:
        name: the name or path.
        suggest: finds names of libraries that mean the same as an unknown name, or nearly.

    Raises:
        NetworkError: no network has this name, or its card is broken. The message lists the nearest names.
    """
    folder = find_model_folder(name)
    with suppress(OSError, ValueError):
        folder = folder or (Path(name) if (Path(name) / CARD).is_file() else None)
    if folder is not None:
        return read_model_card(folder)
    known = {simplify_name(folder.name): folder.name for folder in _list_folders()}
    suggestion = Suggestion((known[simplify_name(name)],)) if simplify_name(name) in known else suggest(name)
    if suggestion.same:
        raise NetworkError(f"No network {name!r}. Use {' or '.join(suggestion.same)}.")
    nearest = [known[key] for key in get_close_matches(simplify_name(name), known, n=3, cutoff=0.5)]
    nearest = [*nearest, *suggestion.near] or sorted(known.values())
    shown = make_printable(repr(name), 100)
    raise NetworkError(f"No network {shown}. Nearest names: {', '.join(nearest) or 'none, models/ is empty'}.")


def simplify_name(name: str) -> str:
    """Return the letters and digits of a name, in lower case: people spell the rest in many ways."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def read_model_card(folder: Path) -> ModelCard:
    """Read the card in a folder.

    Raises:
        NetworkError: the model.json is broken, an entry is missing, or an entry has another type than it should.
    """
    path = folder / CARD
    broken, incomplete = f"{path} cannot be read: {{reason}}.", f"{path} lacks the entry {{reason}}."
    with translate_errors(NetworkError, broken, {KeyError: incomplete}):
        card = Entries(parse_json(path.read_bytes()))
        preprocessing = _read_preprocessing(card)
        sizes = read_size_accuracies(card.object("sizes"), preprocessing.size) if card.has("sizes") else None
        return ModelCard(
            name=make_printable(_find_name(folder)),
            folder=folder,
            title=make_printable(card.text("title"), 200),
            architecture=_read_architecture(card.object("architecture")),
            weights=_read_weights(card),
            classes=tuple(map(make_printable, card.texts("classes"))),
            preprocessing=preprocessing,
            sizes=sizes,
            probability=cast(OutputActivation, card.choice("probability", get_args(OutputActivation))),
            examples=make_printable(card.text("examples")),
            output=card.text("output") if card.has("output") else None,
            unit=card.text("unit") if card.has("unit") else None,
            cell_center=cast(tuple[float, float], card.numbers("centre", (2,))) if card.has("centre") else None,
            about=_read_about(card),
        )


def list_weight_parts(card: ModelCard) -> list[str | Mapping[str, str]]:
    """List the entries of a card's weights: one, or those of its list."""
    weights = card.weights
    return list(weights) if isinstance(weights, Sequence) and not isinstance(weights, str) else [weights]


def find_weight_files(card: ModelCard) -> list[Path]:
    """List the files with the weights of a network, in the order of their entries.

    Raises:
        NetworkError: a package that holds weights is not installed.
    """
    return [
        card.folder / part if isinstance(part, str) else find_packaged_file(part) for part in list_weight_parts(card)
    ]


def find_packaged_file(weights: Mapping[str, str]) -> Path:
    """Find a file of weights in an installed package, without running code of the package.

    Args:
        weights: the entry of a model.json, {"package": ..., "file": ...}.

    Raises:
        NetworkError: the package is not installed, or the entry is incomplete.
    """
    with translate_errors(NetworkError, "An entry of packaged weights lacks {reason}."):
        package, file = weights["package"], weights["file"]
    # For a name without dots, find_spec imports nothing.
    spec = importlib.util.find_spec(package) if "." not in package else None
    if spec is None or spec.origin is None:
        raise NetworkError(f"The weights are in the package {package.replace('_', '-')}, which is not installed.")
    return Path(spec.origin).parent / file


def _find_name(folder: Path) -> str:
    """Return the name of a network: that of its folder, or for a run of `inspector train` its recipe and seed."""
    if not is_trusted(folder):
        with suppress(OSError, ValueError, KeyError):
            settings = Entries(parse_json((folder / "run.json").read_bytes())).object("settings")
            return f"{settings.text('experiment')}/{settings.text('run')} seed {settings.whole('seed')}"
    return folder.name


def _list_folders() -> Iterator[Path]:
    """Yield the folders of all networks by name, the default network first; a shipped one hides a user's namesake."""
    folders: dict[str, Path] = {}
    for models in (user_models(), shipped_models()):
        with suppress(OSError):
            # Hidden folders are unfinished: an `add` that was killed may leave one.
            folders |= {path.parent.name: path.parent for path in models.glob(f"[!.]*/{CARD}")}
    for name in sorted(folders, key=lambda name: (name != DEFAULT, name)):
        yield folders[name]


def _read_models() -> Iterator[ModelCard | BrokenModel]:
    for folder in _list_folders():
        try:
            yield read_model_card(folder)
        except NetworkError as error:
            yield BrokenModel(make_printable(folder.name), make_printable(str(error)))


def _read_architecture(entries: Entries) -> Mapping[str, Any]:
    entries.text("factory")
    if entries.has("classes"):
        entries.whole("classes", least=1)
    if entries.has("arguments"):
        entries.object("arguments")
    return {key: value for key, value in entries.values.items() if value is not None}


def _read_weights(card: Entries) -> str | Mapping[str, str] | Sequence[str | Mapping[str, str]]:
    weights = card.values["weights"]
    parts = weights if isinstance(weights, list) else [weights]
    for part in parts:
        packaged = isinstance(part, dict) and {"package", "file"} <= part.keys() <= {"package", "file", "into"}
        if not parts or not all(isinstance(text, str) for text in (part.values() if packaged else [part])):
            card.refuse("weights", "the name of a file, an object with package and file, or a list of these")
        file = part["file"] if packaged else part
        for path in (PurePosixPath(file), PureWindowsPath(file)):
            if path.is_absolute() or path.drive or ".." in path.parts or not path.parts or "\0" in file:
                card.refuse("weights", "a file inside the folder of the network or of the package")
    return cast("str | Mapping[str, str] | Sequence[str | Mapping[str, str]]", weights)


def _read_preprocessing(card: Entries) -> Preprocessing:
    size = card.size("size")
    resize = None if card.values["resize"] is None else card.size("resize")
    mean = card.numbers("mean")
    std = card.numbers("std", counts=(len(mean),))
    if not mean or min(std) <= 0:
        card.refuse("std", "numbers above 0")
    interpolation = cast(Interpolation, card.choice("interpolation", get_args(Interpolation)))
    if resize is not None and (resize[0] < size[0] or resize[1] < size[1]):
        card.refuse("resize", f"null, or at least the size {size[0]} x {size[1]}")
    window = cast(Window, card.numbers("window", (2,))) if card.has("window") else None
    if window is not None and window[0] >= window[1]:
        card.refuse("window", "the value of black and a higher one of white")
    display = cast(Display, card.wholes("display")) if card.has("display") else None
    if display is not None and len(display) != 3:
        card.refuse("display", "the numbers of three channels")
    return Preprocessing(size, mean, std, resize, interpolation, window, display)


def _read_about(card: Entries) -> Mapping[str, Any]:
    about: dict[str, Any] = {key: card.text(key) for key in ("source", "licence", "training") if card.has(key)}
    if card.has("scores"):
        scores = card.object("scores")
        about["scores"] = {key: scores.text(key) if key == "data" else scores.number(key) for key in scores.values}
    return about
