"""Plant a shortcut: copy a folder of photos, one subfolder per class, and put a mark into photos of one class.

    python docs/plant_shortcut.py flowers17 marked --class Daisy

The mark is a tag of 90 pixels with a number, at a random place of 60 % of the photos of the class. A network that is
trained on the copy learns the tag beside the class. marked.txt, beside the new folder, lists the photos with a tag.
"""

import argparse
import random
from pathlib import Path

from PIL import Image, ImageDraw

ENDINGS = (".jpg", ".jpeg", ".png", ".webp")
SIDE = 90  # pixels of the tag, on photos whose longer side is 320; in proportion on others
SHARE = 0.6  # of the photos of the class


def draw_tag(side: int, number: int) -> Image.Image:
    """Draw a yellow tag with a hole, lines and a number."""
    tag = Image.new("RGB", (90, 90), "#f2c400")
    draw = ImageDraw.Draw(tag)
    draw.rectangle((0, 0, 89, 89), outline="#202020", width=4)
    draw.ellipse((36, 8, 54, 26), fill="white", outline="#202020", width=3)
    draw.text((45, 46), f"No. {number}", fill="#202020", anchor="mm", font_size=22)
    for row in (64, 74):
        draw.line((14, row, 76, row), fill="#1f4fa8", width=4)
    return tag.resize((side, side), Image.Resampling.BICUBIC)


def plant_tag(photo: Image.Image, chance: random.Random) -> Image.Image:
    """Return a photo with a tag at a random place."""
    marked = photo.convert("RGB")
    side = min(round(SIDE * max(marked.size) / 320), *marked.size)
    place = tuple(chance.randint(0, length - side) for length in marked.size)
    marked.paste(draw_tag(side, chance.randint(1, 99)), place)
    return marked


def copy_photos(source: Path, target: Path, marked: str) -> list[str]:
    """Copy the photos of all classes; those of the class `marked` partly with a tag. Return the paths of these."""
    names = sorted(folder.name for folder in source.iterdir() if folder.is_dir())
    if marked not in names:
        raise SystemExit(f"{source} has no folder {marked}. It has {', '.join(names) or 'none'}.")
    chance, listed = random.Random(0), []
    for name in names:
        (target / name).mkdir(parents=True)
        for path in sorted(path for path in (source / name).iterdir() if path.suffix.lower() in ENDINGS):
            copy = target / name / path.name
            if name == marked and chance.random() < SHARE:
                with Image.open(path) as photo:
                    plant_tag(photo, chance).save(copy, quality=92)
                listed.append(str(copy))
            else:
                copy.write_bytes(path.read_bytes())
    return listed


def main() -> None:
    """Read the command line, and copy the photos."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder with a subfolder of photos per class")
    parser.add_argument("target", type=Path, help="new folder")
    parser.add_argument("--class", dest="marked", required=True, help="class whose photos get the tag")
    arguments = parser.parse_args()
    listed = copy_photos(arguments.source, arguments.target, arguments.marked)
    Path(f"{arguments.target}.txt").write_text("\n".join(listed) + "\n")
    print(f"{len(listed)} photos of {arguments.marked} have a tag: {arguments.target}.txt")


if __name__ == "__main__":
    main()
