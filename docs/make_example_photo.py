"""Make the example photo with two objects of two classes from two photos that scikit-image ships.

python docs/make_example_photo.py          # writes inspector/images/example_photos/cat_and_coffee.jpg
"""

from pathlib import Path

import typer
from PIL import Image, ImageOps

from inspector.images.examples import list_examples

OUT = Path(__file__).parents[1] / "inspector" / "images" / "example_photos" / "cat_and_coffee.jpg"
SIZE = (300, 400)  # width and height of each half, in pixels


def main() -> None:
    """Write the photo."""
    examples, photo = list_examples("photos"), Image.new("RGB", (2 * SIZE[0], SIZE[1]))
    for place, name in enumerate(("Cat", "Coffee")):
        half = Image.open(examples[name]).convert("RGB")
        photo.paste(ImageOps.fit(half, SIZE, Image.Resampling.LANCZOS), (place * SIZE[0], 0))
    photo.save(OUT, quality=92)


if __name__ == "__main__":
    typer.run(main)
