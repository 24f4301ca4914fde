"""The choice "The network sees": center crop, whole photo or full resolution, with the accuracy where it is known."""

import math

import streamlit as st

from inspector.images.photo_size import describe_size
from inspector.networks.size_accuracy import SizeAccuracies
from inspector.ui.components.controls import choose_segment
from inspector.ui.components.markdown import plain
from inspector.ui.state import cache, keys
from inspector.ui.state.networks import NetworkChoice

CROP, WHOLE, NATIVE = "center crop", "whole photo", "full resolution"  # the choices, which are values in links
_MORE_SIZES: dict[str, cache.Scale] = {"1.5 times": 1.5, "twice": 2}  # only where a link names them
_NEAR = 0.6, 1.6  # of the shorter side in the training: sizes at which most networks are nearly as accurate
_HELP = (
    "Center crop: the part of the photo and the size of the training. Whole photo: nothing is cropped. Full "
    "resolution: the photo's own size, up to 1024 pixels; the class maps are finer, but most networks are less "
    "accurate far from the size of their training."
)


def choose_size(network: NetworkChoice) -> cache.Scale:
    """Show the choice, with the accuracy of each size below it. Return what was chosen, for `compute_class_maps`."""
    named = st.query_params.get(keys.INPUT_SIZE)
    sizes: dict[str, cache.Scale] = {CROP: 1, WHOLE: network.whole, NATIVE: "native"}
    sizes |= {one: scale for one, scale in _MORE_SIZES.items() if one == named}
    known = network.sizes
    help = _HELP if known is None else f"{_HELP}\n\n{plain(known.describe())}"
    chosen = choose_segment("The network sees", list(sizes), key=keys.INPUT_SIZE, width="content", help=help)
    if known is not None:
        st.caption(plain(summarize_accuracies(known)), width="content")
    return sizes[chosen]


def summarize_accuracies(known: SizeAccuracies) -> str:
    """Return the accuracy of the choices in a few words: "right of 100 photos: crop 89, whole 91, full 70"."""
    best = known.find_best_whole()
    whole = {} if best is None else {best.size: "whole"}
    names = {known.trained: "crop", **whole, "native": "full"}
    counts = [f"{name} {known.sizes[size].right:,}" for size, name in names.items() if size in known.sizes]
    return f"right of {known.photos:,} photos: {', '.join(counts)}"


def describe_far_size(size: tuple[int, int], trained: tuple[int, int], known: SizeAccuracies | None) -> str | None:
    """Return a warning if an input is far from the size of the training, with the accuracy where it is known.

    Args:
        size: (height, width) of the input.
        trained: (height, width) of the input in the training.
        known: the accuracy at several sizes, if it was measured.
    """
    if _NEAR[0] < min(size) / min(trained) < _NEAR[1]:
        return None
    warning = (
        f"The network sees {size[0]:d} x {size[1]:d} pixels (height x width), but it was trained on {trained[0]:d} x "
        f"{trained[1]:d}: its predictions may be much worse."
    )
    sides = {} if known is None else {one: side for one in known.sizes.values() if (side := one.shorter_side)}
    if known is None or len(sides) < 2:
        return warning
    # Of a crop and a whole photo of one size, the whole photo: far sizes are seldom crops.
    nearest = min(sides, key=lambda one: (abs(math.log(sides[one] / min(size))), not one.is_whole))
    own, other = known.sizes[known.trained], describe_size(nearest.size)
    return (
        f"{warning} Of {known.data} it has {own.right:,} right with the {describe_size(own.size)}, and "
        f"{nearest.right:,} with the {other}, the nearest size that was measured."
    )
