"""Example images: a photo of two objects, photos that scikit-image ships, and ten Fashion-MNIST test images."""

import importlib.util
from pathlib import Path

from inspector.images.preprocessing import Preprocessing

# Caption -> file in skimage.data. These photos show objects that ImageNet classifiers know.
_PHOTOS = {
    "Cat": "chelsea.png",
    "Coffee": "coffee.png",
    "Motorcycle": "motorcycle_left.png",
    "Photographer": "camera.png",
    "Rocket": "rocket.jpg",
    "Astronaut": "astronaut.png",
}
_SMALL = 64  # pixels of the longer side of an input for images like those of MNIST
# Two objects of two classes: the contrast of the classes shows where each is.
_TWO_OBJECTS = "Cat and coffee", Path(__file__).parent / "example_photos" / "cat_and_coffee.jpg"
CONTRASTS = {"cat_and_coffee.jpg": ("espresso", "Egyptian cat")}  # name of an example's file -> classes of its objects
_FASHION = Path(__file__).parent / "fashion_mnist"  # the folder also holds the license and the notice of the data set


def choose_examples(preprocessing: Preprocessing) -> str:
    """Return the kind of example images that fit a network: clothes for small gray images, else photos."""
    is_small = max(preprocessing.size) <= _SMALL
    return "fashion_mnist" if len(preprocessing.mean) == 1 and is_small else "photos"


def list_examples(kind: str) -> dict[str, Path]:
    """Return the example images of a kind, "photos" or "fashion_mnist", as caption -> file; {} for any other kind."""
    if kind == "fashion_mnist":
        return {path.stem.replace("_", " ").capitalize(): path for path in sorted(_FASHION.glob("*.png"))}
    # Find the folder without importing scikit-image, which would take half a second.
    spec = importlib.util.find_spec("skimage")
    if kind != "photos":
        return {}
    if spec is None or spec.origin is None:
        return dict([_TWO_OBJECTS])
    data = Path(spec.origin).parent / "data"
    return dict([_TWO_OBJECTS]) | {name: data / file for name, file in _PHOTOS.items() if (data / file).is_file()}
