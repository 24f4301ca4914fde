"""The preprocessing of networks in files that do not state it."""

from dataclasses import replace
from pathlib import Path

from inspector.explain.classifier import LoadedNetwork
from inspector.images.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing, find_usual_resize

DEFAULT = Preprocessing((224, 224), IMAGENET_MEAN, IMAGENET_STD, find_usual_resize((224, 224)))

_SIZES = {"cifar_resnet": (32, 32)}  # (height, width) of the input, of our architectures that are made for others


def replace_usual_size(preprocessing: Preprocessing, architecture: str) -> Preprocessing:
    """Return a preprocessing for the input size of one of our architectures, if that is not the usual one."""
    return replace_size(preprocessing, _SIZES[architecture]) if architecture in _SIZES else preprocessing


def replace_size(preprocessing: Preprocessing, size: tuple[int, int] | None = None) -> Preprocessing:
    """Return a preprocessing for another input size, with the usual crop; None keeps the size."""
    chosen = size or preprocessing.size
    return replace(preprocessing, size=chosen, resize=find_usual_resize(chosen))


def match_channels(loaded: LoadedNetwork, channels: int | None, given: Preprocessing) -> LoadedNetwork:
    """Give `mean` and `std` as many values as the network takes channels, and say so.

    Args:
        loaded: the network and its usual preprocessing.
        channels: input channels of the network; None: those of the preprocessing.
        given: the preprocessing with the user's settings, which come first.
    """
    usual = loaded.preprocessing
    if channels is None or channels == len(usual.mean):
        return loaded
    if channels == len(given.mean):
        return replace(loaded, preprocessing=replace(usual, mean=given.mean, std=given.std))
    mean, std = (round(sum(values) / len(values), 4) for values in (usual.mean, usual.std))
    images = "gray images" if channels == 1 else f"images of {channels} channels"
    note = (
        f"The network takes {images}. Unless given, mean is {mean:g} and std {std:g}, the averages of the usual three."
    )
    preprocessing = replace(usual, mean=(mean,) * channels, std=(std,) * channels)
    return replace(loaded, preprocessing=preprocessing, notes=(*loaded.notes, note))


def feed_range(loaded: LoadedNetwork, largest: int | None) -> LoadedNetwork:
    """Feed a network that scales its input itself the values that it expects, and say so.

    Args:
        loaded: the network and its usual preprocessing.
        largest: 255 or 1, the value of a white pixel that the network expects; None: it scales nothing itself.
    """
    if largest is None:
        return loaded
    channels = len(loaded.preprocessing.mean)
    preprocessing = replace(loaded.preprocessing, mean=(0.0,) * channels, std=(1 / largest,) * channels)
    note = f"The network scales pixels itself: unless given, it is fed values from 0 to {largest}."
    return replace(loaded, preprocessing=preprocessing, notes=(*loaded.notes, note))


def name_default(loaded: LoadedNetwork, path: Path) -> LoadedNetwork:
    """Say which preprocessing is used, because the file does not state it."""
    fed = loaded.preprocessing.describe()
    note = f"{path.name} does not say how photos are preprocessed. Unless given, they are fed {fed}."
    return replace(loaded, notes=(*loaded.notes, note))
