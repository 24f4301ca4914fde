"""The recipe of a training run: a TOML file experiments/<experiment>/<run>.toml, or the default for a photo folder.

This module does not import torch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_args

from inspector.entries import parse_toml
from inspector.errors import TrainingError, translate_errors
from inspector.images.preprocessing import Interpolation, as_pair

# "folder": a folder with one folder of photos per class.
Data = Literal["fashion_mnist", "mnist", "folder"]
Optimizer = Literal["adam", "rmsprop", "sgd"]
# "sigmoid_cross_entropy": cross-entropy loss computed on sigmoid(logit) instead of the logit.
Loss = Literal["cross_entropy", "sigmoid_cross_entropy"]

_ALLOWED = {"data": get_args(Data), "optimizer": get_args(Optimizer), "loss": get_args(Loss)}


@dataclass(frozen=True)
class Recipe:
    """All settings that determine a training run, except seed, device and precision."""

    experiment: str  # name of the folder of the TOML file
    run: str  # name of the TOML file, without .toml
    title: str
    data: Data
    factory: str  # a name in networks.builtin.FACTORIES, or "transfer"
    arguments: Mapping[str, Any]  # keyword arguments of the factory
    epochs: int
    batch: int  # images per batch
    optimizer: Optimizer
    rate: float  # learning rate
    loss: Loss
    seeds: tuple[int, ...]
    frozen: bool = False  # transfer learning: train only the head, on feature maps that are computed once
    # Settings that replace the backbone's preprocessing; keys: size, resize, mean, std, interpolation.
    input: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""  # command line of the training, without the data folder and the seed

    def settings(self) -> dict[str, Any]:
        """Return the settings that are equal in all runs of a recipe: all fields except title, seeds and command.

        Only recipes for a folder of photos include `frozen` and `input`.
        """
        settings = asdict(self)
        del settings["title"], settings["seeds"], settings["command"]
        return settings if self.data == "folder" else {k: settings[k] for k in settings if k not in _OPTIONAL}

    def shares_training_data_with(self, other: "Recipe") -> bool:
        """Return whether both recipes train on the same images, or on the same feature maps of a frozen backbone."""
        here, there = ((r.data, r.arguments.get("backbone"), r.frozen, r.input) for r in (self, other))
        return here == there


# Keys of the TOML file. Those in _ARCHITECTURE are in the table [architecture]; the others are at the top level.
_ARCHITECTURE = ("factory", "arguments")
_OPTIONAL = ("frozen", "input")
_NOT_KEYS = ("experiment", "run", "command", *_ARCHITECTURE, *_OPTIONAL)
_KEYS = tuple(f.name for f in fields(Recipe) if f.name not in _NOT_KEYS)

# Head names on the command line and in run names -> the values of the factory's argument `head`.
HEADS = {"gap": "average", "gmp": "max", "fc": "connected"}
# Settings that all default recipes for photos share.
_FOR_PHOTOS: Any = {"data": "folder", "factory": "transfer", "batch": 32, "optimizer": "adam", "loss": "cross_entropy"}
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
    """Make the default recipe for a folder of photos.

    If `frozen`, only the head is trained, with Adam for 50 epochs at a learning rate of 1e-3. Otherwise all
    weights are trained, with Adam for 10 epochs at 1e-4.

    Args:
        folder: a folder with one folder of photos per class.
        backbone: name of a network in models/, or "torchvision:NAME", "timm:NAME".
        head: a key of ``HEADS``.
        frozen: train only the head.
        epochs: number of epochs. Default: 50 or 10, as above.
        seeds: seeds to train; each gives one run.
        size: network input size, one number or (height, width). Default: the input size of the backbone.
    """
    short = backbone.split(":")[-1].split(".")[0]
    title = f"{folder.resolve().name}, {short} {'frozen' if frozen else 'fine-tuned'}, {HEAD_TITLES[head]}"
    return Recipe(
        experiment=folder.resolve().name,
        run=f"{head}_{short}" if frozen else f"{head}_{short}_finetuned",
        title=title,
        arguments={"backbone": backbone, "head": HEADS[head]},
        epochs=epochs or (50 if frozen else 10),
        rate=1e-3 if frozen else 1e-4,
        seeds=seeds,
        frozen=frozen,
        input={} if size is None else {"size": list(as_pair(size))},  # a list, because run.json is compared with it
        **_FOR_PHOTOS,
    )


def read_recipe(path: Path) -> Recipe:
    """Read a recipe from a TOML file.

    Raises:
        TrainingError: the file cannot be read or is not TOML, or an entry is unknown, missing or wrong.
    """
    unreadable: dict[type[BaseException], str] = {OSError: f"Cannot read {path}: {{reason}}."}
    with translate_errors(TrainingError, f"{path} is not TOML: {{reason}}.", unreadable):
        table = parse_toml(path.read_text(encoding="utf-8"))
    _check_keys(table, (*_KEYS, "architecture"), str(path), _OPTIONAL)
    if not isinstance(table["architecture"], dict):
        raise TrainingError(f"{path}: expected a table with a factory for architecture, got {table['architecture']!r}.")
    architecture = {"arguments": {}} | table.pop("architecture")
    _check_keys(architecture, _ARCHITECTURE, f"{path}, [architecture]")
    entries = table | architecture
    _check_values(entries, _CHECKS, str(path))
    if (entries["data"] == "folder") != (entries["factory"] == "transfer"):
        raise TrainingError(
            f'{path}: data is {entries["data"]!r} and factory is {entries["factory"]!r}. Use data = "folder" together '
            'with factory = "transfer".'
        )
    if entries["data"] == "folder":
        _check_keys(entries["arguments"], ("backbone", "head"), f"{path}, arguments")
    elif photos_only := [key for key in _OPTIONAL if key in entries]:
        raise TrainingError(
            f'{path}: {photos_only[0]} applies only to photos (data = "folder"), got data = {entries["data"]!r}.'
        )
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
        raise TrainingError(f"{where} has no {', '.join(missing)}. Add the missing entries.")


def _check_values(table: Mapping[str, Any], checks: Mapping[str, tuple[Any, str]], where: str) -> None:
    for key, (is_valid, expected) in checks.items():
        if key in table and not is_valid(table[key]):
            raise TrainingError(f"{where}: expected {expected} for {key}, got {table[key]!r}.")


def _is_size(value: object) -> bool:
    return _is_whole(value, 1) or (isinstance(value, list) and len(value) == 2 and all(_is_whole(v, 1) for v in value))


def _is_color(value: object) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(type(v) in (int, float) for v in value)


def _are_seeds(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(_is_whole(seed, 0) for seed in value)


def _is_whole(value: object, least: int) -> bool:
    return type(value) is int and value >= least  # not isinstance: True and False are ints too


_CHECKS: dict[str, tuple[Any, str]] = {
    **{key: (names.__contains__, " or ".join(map(repr, names))) for key, names in _ALLOWED.items()},
    "title": (lambda value: isinstance(value, str) and value.strip(), "one line of text"),
    "factory": (lambda value: isinstance(value, str), "the name of a network"),
    **dict.fromkeys(("arguments", "input"), (lambda value: isinstance(value, dict), "a table")),
    **dict.fromkeys(("epochs", "batch"), (lambda value: _is_whole(value, 1), "a whole number of at least 1")),
    "frozen": (lambda value: isinstance(value, bool), "true or false"),
    "rate": (lambda value: type(value) in (int, float) and 0 < value < float("inf"), "a number above 0"),
    "seeds": (_are_seeds, "a list of whole numbers of at least 0"),
}

_INPUT_CHECKS: dict[str, tuple[Any, str]] = {
    "size": (_is_size, "224 or [224, 224] (height, width)"),
    "resize": (lambda value: value == "squeeze" or _is_size(value), '256, [256, 256] or "squeeze"'),
    **dict.fromkeys(("mean", "std"), (_is_color, "a list of three numbers")),
    "interpolation": (get_args(Interpolation).__contains__, " or ".join(map(repr, get_args(Interpolation)))),
}
