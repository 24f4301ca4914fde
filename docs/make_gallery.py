"""Make the pictures of docs/gallery.md from the lines of Python on that page.

python docs/make_gallery.py
"""

import os
import re
from pathlib import Path

DOCS = Path(__file__).resolve().parent


def main() -> None:
    """Run the lines of the page in the folder of its pictures."""
    page = (DOCS / "gallery.md").read_text(encoding="utf-8")
    folder = DOCS / "images" / "gallery"
    folder.mkdir(exist_ok=True)
    os.chdir(folder)
    lines = "\n".join(re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL))
    exec(compile(lines, "gallery.md", "exec"), {})


if __name__ == "__main__":
    main()
