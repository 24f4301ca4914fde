"""Make the row of the table for one image from its class maps."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from inspector.datasets.decoding import DecodedImage
from inspector.explain.class_maps import ClassMaps


def number_labels(class_names: Sequence[str]) -> dict[str, int | None]:
    """Map each possible label (a class name, or a class number as text) to its class number.

    A name that several classes share maps to None.
    """
    numbers: dict[str, int | None] = {str(k): k for k in range(len(class_names))}
    occurrences = Counter(class_names)
    return numbers | {name: k if occurrences[name] == 1 else None for k, name in enumerate(class_names)}


def make_row(
    image: DecodedImage,
    maps: ClassMaps | None,
    top: int,
    class_numbers: Mapping[str, int | None],
    features: bool = False,
) -> dict[str, Any]:
    """Return the row of an image: its `top` classes with their maps, or the error if `maps` is None.

    `features` adds the feature maps before pooling, (C, h, w) in float16 under "features".
    """
    row: dict[str, Any] = {"index": image.index, "path": image.item.path, "label": image.item.label}
    if maps is None or image.crop is None:
        return row | {"error": image.error}
    order = maps.logits.argsort(descending=True, stable=True).tolist()
    label = class_numbers.get(image.item.label) if image.item.label is not None else None
    classes = order[:top]
    map_classes = classes if label is None or label in classes else [*classes, label]
    height, width = image.crop.photo_size
    row |= {"height": height, "width": width, "sha256": image.sha256, "box": image.crop.box}
    row |= {"residual": maps.residual, "verdict": maps.verdict, "classes": classes, "map_classes": map_classes}
    values = maps.values[map_classes] if maps.finer is None else maps.finer.contributions(map_classes)
    row["maps"] = round_to_numpy(values.flatten(), np.float16)
    for name, numbers in (("probabilities", maps.probabilities), ("logits", maps.logits), ("biases", maps.bias)):
        row[name] = round_to_numpy(numbers[classes], np.float32)
    if features:
        row["features"] = round_to_numpy(maps.decomposition.branches[0].feature_maps, np.float16)
    if label is not None:
        probability = float(maps.probabilities[label])
        row |= {"label_class": label, "label_rank": order.index(label), "label_probability": probability}
    return row


def round_to_numpy(values: torch.Tensor, dtype: type[np.floating[Any]]) -> NDArray[Any]:
    """Round a tensor to an array of another type."""
    # Values beyond the range of float16 become infinite, without a warning: a reader sees that they are out of range.
    with np.errstate(over="ignore"):
        return values.numpy(force=True).astype(dtype)
