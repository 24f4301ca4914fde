"""Photos to begin with: those that scikit-image ships, and ten Fashion-MNIST test images, one a class."""

import importlib.util
from pathlib import Path

# Of skimage.data, those that an ImageNet classifier has something to say about; captions are what they show.
_PHOTOS = {
    "Cat": "chelsea.png",
    "Coffee": "coffee.png",
    "Motorcycle": "motorcycle_left.png",
    "Photographer": "camera.png",
    "Rocket": "rocket.jpg",
    "Astronaut": "astronaut.png",
}
_FASHION = Path(__file__).parent / "fashion_mnist"  # with its licence and notice


def list_examples(kind: str) -> dict[str, Path]:
    """Caption -> file of the example images of a kind, "photos" or "fashion_mnist"; none for an unknown kind."""
    if kind == "fashion_mnist":
        return {path.stem.replace("_", " ").capitalize(): path for path in sorted(_FASHION.glob("*.png"))}
    # find_spec imports nothing: scikit-image takes half a second.
    spec = importlib.util.find_spec("skimage")
    if kind != "photos" or spec is None or spec.origin is None:
        return {}
    data = Path(spec.origin).parent / "data"
    return {caption: data / file for caption, file in _PHOTOS.items() if (data / file).is_file()}
