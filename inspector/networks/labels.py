"""Read class names from a text or JSON file."""

from pathlib import Path
from typing import Any

from inspector.entries import parse_json
from inspector.errors import NetworkError, translate_errors


def read_labels(path: Path) -> tuple[str, ...]:
    """Read class names from a text file (one per line) or a JSON file (a list, or an object with keys 0, 1, ...).

    Raises:
        NetworkError: the file cannot be read, or contains no names.
    """
    with translate_errors(NetworkError, f"The labels in {path} cannot be read: {{reason}}."):
        return parse_labels(path.read_text(encoding="utf-8-sig"), path.name)


def parse_labels(text: str, name: str) -> tuple[str, ...]:
    """Parse the text of a labels file; `name`, the file's name, decides between JSON and one name per line."""
    names = [line.strip() for line in text.splitlines() if line.strip()]
    if name.lower().endswith(".json"):
        problem = "neither a JSON list of names nor an object with the keys 0, 1, ... ({reason})"
        with translate_errors(NetworkError, f"The labels in {name} are {problem}."):
            content: Any = parse_json(text, kind=object)
            if isinstance(content, dict):
                content = [content[str(number)] for number in range(len(content))]
            # In ImageNet's JSON file each class is a list [synset, name]: take the name.
            names = [str(label[-1]) if isinstance(label, list) else str(label) for label in content]
    if not names:
        raise NetworkError(f"There are no class names in {name}. Use one name per line, or a JSON list.")
    return tuple(names)
