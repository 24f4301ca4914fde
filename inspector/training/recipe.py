"""The recipe of a run: a small TOML file, experiments/<experiment>/<run>.toml, or made for photos of one's own.

Imports no torch.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_args

from inspector.errors import TrainingError
from inspector.images.photo import Interpolation, as_pair

# Folder: a folder of class folders with photos.
Data = Literal["fashion_mnist", "mnist", "folder"]
Optimizer = Literal["adam", "rmsprop", "sgd"]
# Through a sigmoid: as the article on Fashion-MNIST did, cross-entropy of the softmax of sigmoids.
Loss = Literal["cross_entropy", "sigmoid_cross_entropy"]

_ALLOWED = {"data": get_args(Data), "optimizer": get_args(Optimizer), "loss": get_args(Loss)}


@dataclass(frozen=True)
class Recipe:
    """All that a run's history depends on but its seed, the device and the precision."""

    experiment: str  # the name of the file's folder
    run: str  # the file's own name
    title: str
    data: Data
    factory: str  # a name in networks.FACTORIES
    arguments: Mapping[str, Any]
    epochs: int
    batch: int
    optimizer: Optimizer
    rate: float  # of learning
    loss: Loss
    seeds: tuple[int, ...]
    frozen: bool = False  # of transfer: train the head only, on feature maps that are computed once
    # How photos are fed where it is not as the backbone expects them: size, resize, mean, std, interpolation.
    input: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""  # that trains it, but the folder of the data and the seed

    def settings(self) -> dict[str, Any]:
        """What two runs must share to be runs of one recipe: all but the title and the seeds."""
        settings = asdict(self)
        del settings["title"], settings["seeds"], settings["command"]
        return settings if self.data == "folder" else {k: settings[k] for k in settings if k not in _OPTIONAL}

    def learns_from_the_same_as(self, other: "Recipe") -> bool:
        """Whether images, or the feature maps of a frozen backbone, that were read for one serve the other."""

        def source(recipe: Recipe) -> tuple[Any, ...]:
            return recipe.data, recipe.arguments.get("backbone"), recipe.frozen, recipe.input

        return source(self) == source(other)


# What stands in the file: the fields of a Recipe but its two names, the last two within [architecture].
_ARCHITECTURE = ("factory", "arguments")
_OPTIONAL = ("frozen", "input")
_NOT_KEYS = ("experiment", "run", "command", *_ARCHITECTURE, *_OPTIONAL)
_KEYS = tuple(f.name for f in fields(Recipe) if f.name not in _NOT_KEYS)

# The names of the heads on the command line, in the names of runs, and in the architecture.
HEADS = {"gap": "average", "gmp": "max", "fc": "connected"}
HEAD_TITLES = {"gap": "global average pooling", "gmp": "global max pooling", "fc": "fully connected"}


def recipe_for_photos(
    folder: Path,
    backbone: str,
    head: str,
    frozen: bool,
    epochs: int | None = None,
    seeds: tuple[int, ...] = (0,),
    size: int | Sequence[int] | None = None,
) -> Recipe:
    """The default recipe for a folder of class folders: `head` is a key of HEADS, `size` (height, width).

    Frozen, 50 epochs of Adam at 1e-3 on feature maps that are computed once; else 10 of Adam at 1e-4 through all.
    """
    short = backbone.split(":")[-1].split(".")[0]
    title = f"{folder.resolve().name}, {short} {'frozen' if frozen else 'fine-tuned'}, {HEAD_TITLES[head]}"
    return Recipe(
        experiment=folder.resolve().name,
        run=f"{head}_{short}" if frozen else f"{head}_{short}_finetuned",
        title=title,
        data="folder",
        factory="transfer",
        arguments={"backbone": backbone, "head": HEADS[head]},
        epochs=epochs or (50 if frozen else 10),
        batch=32,
        optimizer="adam",
        rate=1e-3 if frozen else 1e-4,
        loss="cross_entropy",
        seeds=seeds,
        frozen=frozen,
        input={} if size is None else {"size": list(as_pair(size))},  # a list, as JSON will have it
    )


def read_recipe(path: Path) -> Recipe:
    """The recipe in a TOML file; TrainingError with one sentence if it is not one."""
    try:
        text = tomllib.loads(path.read_text())
    except OSError as error:
        raise TrainingError(f"Cannot read {path}: {error.strerror}.") from error
    except ValueError as error:  # UnicodeDecodeError and TOMLDecodeError
        raise TrainingError(f"{path} is not TOML: {error}.") from error
    _check_keys(text, (*_KEYS, "architecture"), str(path), _OPTIONAL)
    if not isinstance(text["architecture"], dict):
        raise TrainingError(f"{path}: architecture is {text['architecture']!r}; a table with a factory would do.")
    architecture = {"arguments": {}} | text.pop("architecture")
    _check_keys(architecture, _ARCHITECTURE, f"{path}, [architecture]")
    entries = text | architecture
    _check_values(entries, _CHECKS, str(path))
    if (entries["data"] == "folder") != (entries["factory"] == "transfer"):
        raise TrainingError(
            f'{path}: data is {entries["data"]!r} and factory {entries["factory"]!r}; photos, "folder", go with '
            '"transfer".'
        )
    if entries["data"] == "folder":
        _check_keys(entries["arguments"], ("backbone", "head"), f"{path}, arguments")
    elif photos_only := [key for key in _OPTIONAL if key in entries]:
        raise TrainingError(f'{path}: {photos_only[0]} is for photos, data = "folder"; data is {entries["data"]!r}.')
    _check_keys(entries.get("input", {}), (), f"{path}, [input]", tuple(_INPUT_CHECKS))
    _check_values(entries.get("input", {}), _INPUT_CHECKS, f"{path}, [input]")
    place = path.resolve()
    command = f"inspector train experiments/{place.parent.name}/{place.stem}.toml --data FOLDER"
    entries |= {"rate": float(entries["rate"]), "seeds": tuple(entries["seeds"])}
    return Recipe(place.parent.name, place.stem, **entries, command=command)


def _check_keys(table: Mapping[str, Any], keys: tuple[str, ...], where: str, optional: tuple[str, ...] = ()) -> None:
    known = (*keys, *optional)
    for key in table:
        if key not in known:
            nearest = get_close_matches(key, known, n=1) or known
            raise TrainingError(f"{where} has an unknown key {key!r}. Nearest keys: {', '.join(nearest)}.")
    if missing := [key for key in keys if key not in table]:
        raise TrainingError(f"{where} lacks {', '.join(missing)}.")


def _check_values(table: Mapping[str, Any], checks: Mapping[str, tuple[Any, str]], where: str) -> None:
    for key, (fits, would_do) in checks.items():
        if key in table and not fits(table[key]):
            raise TrainingError(f"{where}: {key} is {table[key]!r}; {would_do} would do.")


def _is_size(value: object) -> bool:
    return _is_whole(value, 1) or (isinstance(value, list) and len(value) == 2 and all(_is_whole(v, 1) for v in value))


def _is_colour(value: object) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(type(v) in (int, float) for v in value)


def _is_whole(value: object, least: int) -> bool:
    return type(value) is int and value >= least  # a bool is an int too


_CHECKS: dict[str, tuple[Any, str]] = {
    **{key: (names.__contains__, " or ".join(map(repr, names))) for key, names in _ALLOWED.items()},
    "title": (lambda value: isinstance(value, str) and value.strip(), "one line of text"),
    "factory": (lambda value: isinstance(value, str), "the name of a network"),
    "arguments": (lambda value: isinstance(value, dict), "a table"),
    "frozen": (lambda value: isinstance(value, bool), "true or false"),
    "input": (lambda value: isinstance(value, dict), "a table"),
    "epochs": (lambda value: _is_whole(value, 1), "a whole number from 1 on"),
    "batch": (lambda value: _is_whole(value, 1), "a whole number from 1 on"),
    "rate": (lambda value: type(value) in (int, float) and 0 < value < float("inf"), "a number above 0"),
    "seeds": (
        lambda value: isinstance(value, list) and value and all(_is_whole(seed, 0) for seed in value),
        "a list of whole numbers from 0 on",
    ),
}

_INPUT_CHECKS: dict[str, tuple[Any, str]] = {
    "size": (_is_size, "224 or [224, 224] (height, width)"),
    "resize": (lambda value: value == "squeeze" or _is_size(value), '256, [256, 256] or "squeeze"'),
    "mean": (_is_colour, "a list of three numbers"),
    "std": (_is_colour, "a list of three numbers"),
    "interpolation": (get_args(Interpolation).__contains__, " or ".join(map(repr, get_args(Interpolation)))),
}
