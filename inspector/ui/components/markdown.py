"""Show foreign text as it is: Streamlit reads almost every text as Markdown."""

import re

from inspector.printable import make_printable

# Characters that mean something wherever they stand: code, emphasis, links, images, HTML, formulas, colors, icons.
_ACTIVE = re.compile(r"[\\`*\[\]<>$~:&|]")
_UNDERSCORE = re.compile(r"(?<![^\W_])_|_(?![^\W_])")  # between letters, it is only a letter
_FIRST = re.compile(r"^(\s*)(#|\+|-|=|\d+(?=[.)]))")  # headings and lists


def plain(text: object) -> str:
    r"""Escape foreign text so that Markdown shows it unchanged, in one line.

    Foreign are names of files, networks, classes, layers and runs, everything in a file or a link, and error messages,
    which quote them. The browser of everybody who sees it would fetch an image in Markdown (``![](http://...)``).
    """
    line = _ACTIVE.sub(r"\\\g<0>", make_printable(str(text)))
    line = _UNDERSCORE.sub(r"\\_", line)
    found = _FIRST.match(line)
    if found is None:
        return line
    start, mark = found.groups()
    mark = f"{mark}\\" if mark.isdigit() else f"\\{mark}"
    return f"{start}{mark}{line[found.end() :]}"
