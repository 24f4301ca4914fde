"""Write and read concepts and their flags, beside the results. This module does not import torch.

RESULTS/concepts/concepts.json          the cards, for people and programs
RESULTS/concepts/concepts.safetensors   patterns and directions by class
RESULTS/concepts/flags.json             what a user says about concepts; `inspector concepts` never writes it
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
from safetensors.numpy import load, save

from inspector.datasets.concepts.model import (
    MOST_CONCEPTS,
    ClassConcepts,
    ConceptCard,
    ConceptOptions,
    ConceptPosition,
    Concepts,
    LogitTerms,
)
from inspector.datasets.features import StoredFeatures
from inspector.entries import Entries, parse_json
from inspector.errors import ExportError, InspectorError, translate_errors
from inspector.files import json_bytes, lock_folder, open_regular, write_atomic
from inspector.printable import make_printable
from inspector.version import __version__

FOLDER, CARDS, ARRAYS, FLAGS_FILE = "concepts", "concepts.json", "concepts.safetensors", "flags.json"
Flag = Literal["object", "context", "shortcut", "unclear"]
FLAGS: tuple[Flag, ...] = get_args(Flag)
_MOST_BYTES = 1_000_000_000  # of a file
MISSING = "it lacks {reason}"


@dataclass(frozen=True)
class ConceptFlag:
    """What a user says about a concept."""

    flag: Flag | None = None
    name: str = ""


def describe_concepts(found: Concepts) -> dict[str, Any]:
    """Return the content of concepts.json, but without the hash of the arrays."""
    return {
        "version": __version__,
        "network": found.network,
        "network_sha256": found.network_sha256,
        "concepts_sha256": found.sha256,
        "by_label": found.by_label,
        "options": asdict(found.options),
        "skipped": list(found.skipped),
        "classes": [_describe_class(one) for one in found.classes],
    }


def write_concepts(folder: str | Path, found: Concepts) -> Path:
    """Write concepts into a folder, such as RESULTS/concepts, beside flags that may be there.

    Returns:
        The path of concepts.json.

    Raises:
        ExportError: the folder cannot be written.
    """
    folder = Path(folder)
    arrays = {f"{name}.{one.k}": getattr(one, name) for one in found.classes for name in ("patterns", "directions")}
    content = save({name: np.ascontiguousarray(values) for name, values in arrays.items()})
    about = describe_concepts(found) | {"arrays_sha256": hashlib.sha256(content).hexdigest()}
    with translate_errors(ExportError, f"Cannot write {folder}: {{reason}}."):
        folder.mkdir(parents=True, exist_ok=True)
        with lock_folder(folder):  # two visitors of the app may write or read at the same time
            write_atomic(folder / ARRAYS, content)
            write_atomic(folder / CARDS, json_bytes(about, ascii_only=False))
    return folder / CARDS


def read_concepts(folder: str | Path) -> Concepts:
    """Read the concepts in a folder, such as RESULTS/concepts.

    Raises:
        InspectorError: there are none, or a file is damaged.
    """
    folder = Path(folder)
    if not (folder / CARDS).is_file():
        raise InspectorError(f"No concepts in {folder}. Use `inspector concepts RESULTS`.")
    problem = f"Cannot read the concepts in {folder} ({{reason}}). Use `inspector concepts RESULTS` to make them again."
    with translate_errors(InspectorError, problem, {KeyError: problem.replace("{reason}", MISSING)}):
        with lock_folder(folder):
            about = Entries(parse_json(read_bounded(folder / CARDS)))
            content = read_bounded(folder / ARRAYS)
        if hashlib.sha256(content).hexdigest() != about.text("arrays_sha256"):
            raise ValueError(f"{ARRAYS} is not the file that belongs to {CARDS}")
        arrays = load(content)
        options = _parse_options(about.object("options"))
        classes = tuple(_parse_class(one, arrays) for one in about.objects("classes"))
        if not classes or len({one.patterns.shape[1] for one in classes}) != 1:
            raise ValueError("its classes have no concepts, or other numbers of channels")
        skipped = tuple(map(make_printable, about.texts("skipped")))
        network, sha256 = make_printable(about.text("network")), about.text("network_sha256")
        found = Concepts(network, sha256, about.flag("by_label"), options, classes, skipped)
        if found.sha256 != about.text("concepts_sha256"):
            raise ValueError(f"{CARDS} is of other concepts than {ARRAYS}")
        return found


def check_concepts(found: Concepts, stored: StoredFeatures) -> None:
    """Check that concepts are of these results.

    Raises:
        InspectorError: they are of another network, or of other photos.
    """
    names, channels = stored.results.class_names, stored.shape[0]
    photos = {index for one in found.classes for index in (*one.photos, *one.held_out)}
    fits = (
        found.network_sha256 == stored.results.about["network_sha256"]
        and all(one.k < len(names) and one.patterns.shape[1] == channels for one in found.classes)
        and photos <= stored.by_index.keys()
        and all(_is_position(one, stored) for card in found.cards() for one in card.positions)
    )
    if not fits:
        raise InspectorError(
            f"The concepts in {stored.results.folder} are of another network or of other photos than the results. Find "
            "them again: `inspector concepts RESULTS`."
        )


def _is_position(position: ConceptPosition, stored: StoredFeatures) -> bool:
    """Return whether a position is a cell of a photo of the results, and its box a part of that photo."""
    photo = stored.by_index.get(position.photo)
    if photo is None or photo.path != position.path:
        return False
    (row, column), (left, top, right, bottom) = position.cell, position.box
    (_, rows, columns), (height, width) = stored.shape, photo.size
    is_inside = -1 <= left <= right <= width + 1 and -1 <= top <= bottom <= height + 1  # but for rounding
    return row < rows and column < columns and is_inside


def read_flags(path: str | Path, found: Concepts) -> dict[str, ConceptFlag]:
    """Read what a user said about concepts, by the keys of their cards; empty if there is no such file.

    Args:
        path: a flags.json.
        found: the concepts that the flags are about.

    Raises:
        InspectorError: the file is damaged, or its flags are of another network or of other concepts.
    """
    path = Path(path)
    if not path.exists():
        return {}
    problem = f"Cannot read the flags in {path} ({{reason}}). Correct the file, or remove it."
    with translate_errors(InspectorError, problem, {KeyError: problem.replace("{reason}", MISSING)}):
        about = Entries(parse_json(read_bounded(path)))
        if about.text("network_sha256") != found.network_sha256:
            name = make_printable(about.text("network"), 60)
            raise InspectorError(
                f"The flags in {path} are of another network ({name}), these results of {found.network}. Use flags of "
                "these results."
            )
        if about.text("concepts_sha256") != found.sha256:
            raise InspectorError(
                f"The flags in {path} are of other concepts of this network, found with other photos or options. Find "
                "these concepts again, or flag the new ones."
            )
        keys = {card.key for card in found.cards()}
        flags = {}
        for one in about.objects("flags"):
            key = f"{one.whole('class')}.{one.whole('concept', 1)}"
            if key not in keys:
                raise ValueError(f"there is no concept {key}")
            flag = cast(Flag, one.choice("flag", FLAGS)) if one.has("flag") else None
            flags[key] = ConceptFlag(flag, make_printable(one.text("name"), 200) if one.has("name") else "")
        return flags


def write_flags(path: str | Path, found: Concepts, flags: Mapping[str, ConceptFlag]) -> None:
    """Write what a user says about concepts; concepts without flag and name are left out.

    Args:
        path: a flags.json. An earlier one is replaced.
        found: the concepts.
        flags: by the keys of the cards.

    Raises:
        ExportError: the file cannot be written.
        ClassError: there is no concept with such a key.
    """
    cards = sorted((card.k, card.number, key) for key in flags for card in [found.find_card(key)])
    listed = [
        {"class": k, "concept": number, "flag": flags[key].flag, "name": flags[key].name}
        for k, number, key in cards
        if flags[key] != ConceptFlag()
    ]
    about = {"network": found.network, "network_sha256": found.network_sha256, "concepts_sha256": found.sha256}
    with translate_errors(ExportError, f"Cannot write {path}: {{reason}}."):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(Path(path), json_bytes(about | {"flags": listed}, ascii_only=False))


def change_flag(
    path: str | Path, found: Concepts, key: str, flag: Flag | None = None, name: str | None = None
) -> dict[str, ConceptFlag]:
    """Set the flag of a concept in a file of flags (None removes it), and its name if one is given.

    Returns:
        All flags, as `read_flags`.

    Raises:
        InspectorError: the flag does not exist, or as for `read_flags` and `write_flags`.
    """
    if flag not in (None, *FLAGS):
        raise InspectorError(f"No flag {flag!r:.40}. Use one of {', '.join(FLAGS)}.")
    key = found.find_card(key).key
    path = Path(path)
    with translate_errors(ExportError, f"Cannot write {path}: {{reason}}."):
        path.parent.mkdir(exist_ok=True)  # not its parents: results may have been moved meanwhile
        with lock_folder(path.parent):  # two visitors of the app may flag at the same time
            flags = read_flags(path, found)
            before = flags.get(key, ConceptFlag())
            after = replace(before, flag=flag, name=before.name if name is None else make_printable(name, 200))
            flags = {**flags, key: after}
            write_flags(path, found, flags)
    return {key: one for key, one in flags.items() if one != ConceptFlag()}


def _describe_class(one: ClassConcepts) -> dict[str, Any]:
    cards = [{name: value for name, value in asdict(card).items() if name != "k"} for card in one.cards]
    terms = {**asdict(one.terms), "rest": one.terms.rest, "logit": one.terms.logit}
    lists = {"photos": list(one.photos), "held_out": list(one.held_out)}
    numbers = {"left": one.left, "difference": one.difference, "terms": terms}
    return {"class": one.k, "name": one.name, **lists, **numbers, "cards": cards}


def _parse_options(entries: Entries) -> ConceptOptions:
    if not 0 <= entries.number("held_out") <= 0.5:
        entries.refuse("held_out", "0 to 0.5")
    rank = entries.whole("rank", 1) if entries.has("rank") else None
    if rank is not None and rank > MOST_CONCEPTS:
        entries.refuse("rank", f"1 to {MOST_CONCEPTS}")
    seed, seeds, top = entries.whole("seed"), entries.whole("seeds", 1), entries.whole("top", 1)
    return ConceptOptions(rank, seed, seeds, entries.number("held_out"), top)


def _parse_class(entries: Entries, arrays: Mapping[str, Any]) -> ClassConcepts:
    k = entries.whole("class")
    cards = tuple(_parse_card(k, one) for one in entries.objects("cards"))
    patterns, directions = (_take(arrays, f"{name}.{k}", len(cards)) for name in ("patterns", "directions"))
    if patterns.shape != directions.shape or [card.number for card in cards] != list(range(1, len(cards) + 1)):
        raise ValueError(f"the concepts of class {k} and their arrays do not fit")
    photos, held_out = entries.wholes("photos"), entries.wholes("held_out")
    if not set(photos).isdisjoint(held_out):
        raise ValueError(f"class {k} has photos that are held out and are not")
    terms = entries.object("terms")
    return ClassConcepts(
        k=k,
        name=make_printable(entries.text("name")),
        photos=photos,
        held_out=held_out,
        cards=cards,
        patterns=patterns,
        directions=directions,
        left=entries.number("left"),
        terms=LogitTerms(*(terms.number(name) for name in ("concepts", "left", "against", "common", "bias"))),
        difference=entries.number("difference") if entries.has("difference") else None,
    )


def _parse_card(k: int, entries: Entries) -> ConceptCard:
    def optional(name: str) -> float | None:
        return entries.number(name) if entries.has(name) else None

    return ConceptCard(
        k=k,
        number=entries.whole("number", 1),
        contribution=entries.number("contribution"),
        photos=entries.whole("photos"),
        of_photos=entries.whole("of_photos"),
        positions=tuple(map(_parse_position, entries.objects("positions"))),
        stability=optional("stability"),
        inside=optional("inside"),
    )


def _parse_position(entries: Entries) -> ConceptPosition:
    cell = cast(Sequence[int], entries.wholes("cell"))
    if len(cell) != 2:
        entries.refuse("cell", "row and column")
    left, top, right, bottom = entries.numbers("box", (4,))
    return ConceptPosition(
        entries.whole("photo"),
        entries.text("path"),
        (cell[0], cell[1]),
        entries.number("value"),
        (left, top, right, bottom),
    )


def _take(arrays: Mapping[str, Any], name: str, rows: int) -> Any:
    values = arrays[name]
    if values.dtype != np.float64 or values.ndim != 2 or len(values) != rows or not np.isfinite(values).all():
        raise ValueError(f"{name} is not what it should be")
    return values


def read_bounded(path: Path) -> bytes:
    """Read a file of concepts.

    Raises:
        ValueError: it is larger than such files are.
        OSError: it cannot be read.
    """
    with open_regular(path) as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise ValueError(f"{path.name} has more than {_MOST_BYTES / 1e6:.0f} MB")
    return content
