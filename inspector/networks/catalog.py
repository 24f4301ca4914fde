"""List the networks in models/: one folder each, with a model.json that describes how to build and use it.

This module reads only the descriptions and does not import torch, so it can list the networks without delay.
"""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

from inspector.errors import NetworkError, translate_errors
from inspector.explain.kinds import OutputActivation
from inspector.images.preprocessing import Interpolation, Preprocessing, as_pair

DEFAULT = "efficientnet_lite0"

_ALLOWED = {"interpolation": get_args(Interpolation), "probability": get_args(OutputActivation)}


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
    about: Mapping[str, Any] = field(default_factory=dict)  # entries source, licence, training, scores, as in the file


def models_folder() -> Path:
    """Return the folder models/: $INSPECTOR_MODELS, or inside the package, or beside the package (in a checkout)."""
    if chosen := os.environ.get("INSPECTOR_MODELS"):
        return Path(chosen)
    package = Path(__file__).parent.parent
    return package / "models" if (package / "models").is_dir() else package.parent / "models"


def list_models() -> dict[str, ModelCard]:
    """List the cards of all networks by name, the default network first."""
    folders = (path.parent for path in models_folder().glob("*/model.json"))
    names = sorted(folders, key=lambda folder: (folder.name != DEFAULT, folder.name))
    return {folder.name: read_model_card(folder) for folder in names}


def find_model_card(name: str) -> ModelCard:
    """Find the card of a network by its name in models/, or by the path of its folder.

    Raises:
        NetworkError: no network has this name. The message lists the nearest names.
    """
    for folder in (models_folder() / name, Path(name)):
        # Checking the path raises OSError if the name is too long for a path.
        with suppress(OSError):
            if (folder / "model.json").is_file():
                return read_model_card(folder)
    known = [path.parent.name for path in models_folder().glob("*/model.json")]
    nearest = get_close_matches(name, known, n=3, cutoff=0.4) or sorted(known)
    raise NetworkError(f"No network {name!r}. Nearest names: {', '.join(nearest) or 'none, models/ is empty'}.")


def read_model_card(folder: Path) -> ModelCard:
    """Read the card in a folder.

    Raises:
        NetworkError: the model.json is broken or an entry is missing.
    """
    path = folder / "model.json"
    broken, incomplete = f"{path} cannot be read: {{reason}}.", f"{path} lacks the entry {{reason}}."
    with translate_errors(NetworkError, broken, {KeyError: incomplete}):
        card = json.loads(path.read_text(encoding="utf-8"))
        for entry, allowed in _ALLOWED.items():
            if card[entry] not in allowed:
                raise ValueError(f"expected {entry} {' or '.join(map(repr, allowed))}, got {card[entry]!r}")
        if not isinstance(card["architecture"], dict):
            raise TypeError("architecture must be an object with a factory")
        size, resize = as_pair(card["size"]), None if card["resize"] is None else as_pair(card["resize"])
        usual = Preprocessing(size, tuple(card["mean"]), tuple(card["std"]), resize, card["interpolation"])
        return ModelCard(
            name=folder.name,
            folder=folder,
            **{key: card[key] for key in ("title", "architecture", "weights", "probability", "examples")},
            classes=tuple(card["classes"]),
            preprocessing=usual,
            output=card.get("output"),
            cell_center=tuple(card["centre"]) if "centre" in card else None,
            about={key: card[key] for key in ("source", "licence", "training", "scores") if key in card},
        )
