"""Read the viewer of class maps: the JavaScript and CSS that the app, reports, notebooks and published pages share.

frontend/viewer.js says how it is used. A home that cannot import files gets it as one module, from `bundle_javascript`.
"""

import re
from pathlib import Path

FOLDER = Path(__file__).parent / "frontend"
_IMPORT = re.compile(r'^import \{[^}]*\} from "(?:[.\w-]+/)+([\w.]+)";\n', re.MULTILINE)


def bundle_javascript(name: str, *folders: Path) -> str:
    """Join a module of JavaScript with the modules that it imports.

    The imported modules are placed before the module, without their ``export``; the module itself keeps its own. All
    top-level names of these modules have to differ.

    Args:
        name: name of the file, such as "viewer.js".
        folders: where the modules lie, besides the folder of the viewer. File names differ between folders.

    Returns:
        A module without imports.
    """
    modules: dict[str, str] = {}

    def add(file: str) -> None:
        if file not in modules:
            text = read_frontend(file, *folders)
            for imported in _IMPORT.findall(text):
                add(imported)
            modules[file] = _IMPORT.sub("", text)

    add(name)
    *imported, entry = modules.values()
    return "\n".join([*(re.sub(r"^export ", "", text, flags=re.MULTILINE) for text in imported), entry])


def read_frontend(name: str, *folders: Path) -> str:
    """Return the text of a file of the viewer, such as "viewer.css", or of one of other folders."""
    path = next((path for folder in folders if (path := folder / name).is_file()), FOLDER / name)
    return path.read_text("utf-8")
