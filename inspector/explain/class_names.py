"""Class names: in any container that libraries keep them in, and how a class is found by its name."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from inspector.errors import ClassError, NetworkError
from inspector.printable import make_printable

# Entries of an object, and attributes of a configuration, that hold the names of all classes.
_HOLDERS = ("id2label", "class_names", "class_to_idx", "label2id", "idx_to_class", "classes", "categories", "names")


@dataclass(frozen=True)
class ClassNames:
    """The names of all classes, and where they come from."""

    names: tuple[str, ...]  # (K,)
    source: str = "class_names"  # the file, for messages
    hint: str = ""  # what in the file may be no name

    def check(self, classes: int) -> None:
        """Raise NetworkError unless there is one name for each class of the network."""
        if len(self.names) != classes:
            words = "1 name" if len(self.names) == 1 else f"{len(self.names):,} names"
            hint = f": {self.hint}" if self.hint else ""
            raise NetworkError(
                f"{self.source} has {words}, the network {classes:,} class{'' if classes == 1 else 'es'}{hint}. Give "
                "one name for each class, in the order of the network's outputs."
            )


AnyClassNames: TypeAlias = ClassNames | Sequence[str] | Mapping[Any, Any]


def list_class_names(value: Any, source: str = "class_names") -> ClassNames:
    """List class names in the order of the network's outputs.

    Args:
        value: a list of names; a mapping {0: "a"} or {"0": "a"} (id2label); a mapping {"a": 0} (class_to_idx); or an
            object or mapping that holds one of these, such as the configuration of a Hugging Face model. A name may be
            a list [synset, name].
        source: where the names come from, for messages.

    Raises:
        NetworkError: the value holds no names, or the numbers of the classes are not 0, 1, ...
    """
    if isinstance(value, ClassNames):
        return value
    held = _find_holder(value)
    if held is not None:
        return list_class_names(held, source)
    if isinstance(value, Mapping):
        names = _order_mapping(value, source)
    elif isinstance(value, str | bytes | AbstractSet) or not isinstance(value, Iterable):
        got = "a set, which has no order" if isinstance(value, AbstractSet) else f"{value!r:.60}"
        raise NetworkError(f"{source} must be a list of names, or a mapping such as {{0: 'cat'}}; got {got}.")
    else:
        names = list(value)
    return ClassNames(tuple(_read_name(name, source) for name in names), source)


def _find_holder(value: Any) -> Any:
    """Return the names inside a configuration; None if the value is no configuration."""
    if isinstance(value, Mapping):
        held = [value.get(key) for key in _HOLDERS]
    else:
        held = [] if isinstance(value, Iterable) else [getattr(value, key, None) for key in _HOLDERS]
    # The words may be names of classes themselves, as in {"names": 0, "classes": 1}.
    return next((one for one in held if isinstance(one, Mapping | list | tuple) and one), None)


def _order_mapping(value: Mapping[Any, Any], source: str) -> list[Any]:
    """Return the names of a mapping from numbers to names, or from names to numbers, in the order of the numbers."""
    numbers = [_read_number(one) for one in value.values()]
    if value and all(type(one) is not str for one in value.values()) and None not in numbers:
        pairs = list(zip(numbers, value, strict=True))
    else:
        pairs = [(_read_number(key), name) for key, name in value.items()]
    if not pairs:
        return []
    ordered = {number: name for number, name in pairs if number is not None}
    if sorted(ordered) != list(range(len(pairs))):
        keys = ", ".join(repr(key) for key in list(value)[:4]) + (", ..." if len(value) > 4 else "")
        raise NetworkError(
            f"{source} must map the numbers 0 to {len(pairs) - 1} to names, or names to these numbers; got the "
            f"keys {make_printable(keys, 120)}."
        )
    return [ordered[number] for number in range(len(pairs))]


def _read_number(value: Any) -> int | None:
    if isinstance(value, str):
        return int(value) if value.strip().isdecimal() and len(value) < 10 else None
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        return None
    return int(value.__index__())


def _read_name(name: Any, source: str) -> str:
    # In ImageNet's JSON file each class is a list [synset, name].
    if isinstance(name, list | tuple) and name and isinstance(name[-1], str):
        name = name[-1]
    if isinstance(name, bytes):
        name = name.decode(errors="replace")
    if name is None or isinstance(name, Mapping | list | tuple) or name != name:
        raise NetworkError(f"{source} must hold names; got {make_printable(repr(name), 60)}.")
    return make_printable(str(name))


def find_class_index(class_names: Sequence[str], name_or_number: str | int) -> int:
    """Find a class by its index, its name, or a part of its name that no other name has.

    Args:
        class_names: (K,).
        name_or_number: an index from 0, or from -1 for the last; or text: upper and lower case are the same.

    Returns:
        The index of the class.

    Raises:
        ClassError: no class or several classes match; the message has the nearest names.
    """
    if not isinstance(name_or_number, str):
        if -len(class_names) <= name_or_number < len(class_names):
            return int(name_or_number) % len(class_names)  # int(...) because NumPy integers are accepted too
        raise ClassError(f"No class {name_or_number}; they are numbered 0 to {len(class_names) - 1}.")
    query = name_or_number.strip().lower()
    lower = [name.lower() for name in class_names]
    matches = [k for k, name in enumerate(lower) if name == query]
    if not matches and query.isdecimal():
        return find_class_index(class_names, int(query))
    if not matches:
        matches = [k for k, name in enumerate(lower) if query and query in name]
    if len(matches) == 1:
        return matches[0]
    if matches:
        listed = ", ".join(class_names[k] for k in matches[:8]) + (", ..." if len(matches) > 8 else "")
        raise ClassError(
            f"{name_or_number!r} may mean {len(matches)} classes: {listed}. Give the whole name, or the number."
        )
    nearest = [class_names[lower.index(name)] for name in get_close_matches(query, lower, n=3, cutoff=0.5)]
    raise ClassError(f"No class {name_or_number!r}." + (f" Nearest names: {', '.join(nearest)}." if nearest else ""))


def split_class_names(text: str, class_names: Sequence[str]) -> list[str]:
    """Split a list of classes at its commas, but not inside the name of a class, such as "crane, bird"."""
    known, parts, found = {_fold(name) for name in class_names}, text.split(","), list[str]()
    while parts:
        joined = (",".join(parts[:count]) for count in range(len(parts), 0, -1))
        chosen = next((one for one in joined if _fold(one) in known), parts[0])
        found.append(chosen)
        del parts[: chosen.count(",") + 1]
    return found


def _fold(name: str) -> str:
    return name.strip().lower()


def list_top_classes(
    class_names: Sequence[str], logits: NDArray[np.floating], probabilities: NDArray[np.floating], count: int
) -> list[tuple[int, str, float]]:
    """Return (index, name, probability) of the `count` classes with the highest logits, highest first."""
    order = np.argsort(-logits, kind="stable")[:count].tolist()
    return [(k, class_names[k], float(probabilities[k])) for k in order]


def label_names(names: Sequence[str]) -> list[str]:
    """Return class names for lists. A name that several classes share gets its index, as in "crane (134)"."""
    times = Counter(names)
    return [name if times[name] == 1 else f"{name} ({k})" for k, name in enumerate(names)]
