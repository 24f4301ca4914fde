"""The recipe of a run: a small TOML file, experiments/<experiment>/<run>.toml. Imports no torch."""

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_args

from inspector.errors import TrainingError

Data = Literal["fashion_mnist", "mnist"]
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

    def settings(self) -> dict[str, Any]:
        """What two runs must share to be runs of one recipe: all but the title and the seeds."""
        settings = asdict(self)
        del settings["title"], settings["seeds"]
        return settings


# What stands in the file: the fields of a Recipe but its two names, the last two within [architecture].
_ARCHITECTURE = ("factory", "arguments")
_KEYS = tuple(f.name for f in fields(Recipe) if f.name not in ("experiment", "run", *_ARCHITECTURE))


def read_recipe(path: Path) -> Recipe:
    """The recipe in a TOML file; TrainingError with one sentence if it is not one."""
    try:
        text = tomllib.loads(path.read_text())
    except OSError as error:
        raise TrainingError(f"Cannot read {path}: {error.strerror}.") from error
    except ValueError as error:  # UnicodeDecodeError and TOMLDecodeError
        raise TrainingError(f"{path} is not TOML: {error}.") from error
    _check_keys(text, (*_KEYS, "architecture"), str(path))
    if not isinstance(text["architecture"], dict):
        raise TrainingError(f"{path}: architecture is {text['architecture']!r}; a table with a factory would do.")
    architecture = {"arguments": {}} | text.pop("architecture")
    _check_keys(architecture, _ARCHITECTURE, f"{path}, [architecture]")
    entries = text | architecture
    for key, (fits, would_do) in _CHECKS.items():
        if not fits(entries[key]):
            raise TrainingError(f"{path}: {key} is {entries[key]!r}; {would_do} would do.")
    place = path.resolve()
    return Recipe(
        place.parent.name, place.stem, **entries | {"rate": float(entries["rate"]), "seeds": tuple(entries["seeds"])}
    )


def _check_keys(table: Mapping[str, Any], keys: tuple[str, ...], where: str) -> None:
    for key in table:
        if key not in keys:
            nearest = get_close_matches(key, keys, n=1) or keys
            raise TrainingError(f"{where} has an unknown key {key!r}. Nearest keys: {', '.join(nearest)}.")
    if missing := [key for key in keys if key not in table]:
        raise TrainingError(f"{where} lacks {', '.join(missing)}.")


def _is_whole(value: object, least: int) -> bool:
    return type(value) is int and value >= least  # a bool is an int too


_CHECKS: dict[str, tuple[Any, str]] = {
    **{key: (names.__contains__, " or ".join(map(repr, names))) for key, names in _ALLOWED.items()},
    "title": (lambda value: isinstance(value, str) and value.strip(), "one line of text"),
    "factory": (lambda value: isinstance(value, str), "the name of a network"),
    "arguments": (lambda value: isinstance(value, dict), "a table"),
    "epochs": (lambda value: _is_whole(value, 1), "a whole number from 1 on"),
    "batch": (lambda value: _is_whole(value, 1), "a whole number from 1 on"),
    "rate": (lambda value: type(value) in (int, float) and 0 < value < float("inf"), "a number above 0"),
    "seeds": (
        lambda value: isinstance(value, list) and value and all(_is_whole(seed, 0) for seed in value),
        "a list of whole numbers from 0 on",
    ),
}
