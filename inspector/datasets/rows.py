"""Make the row of the table for one image from its class maps."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from inspector.datasets.decoding import DecodedImage
from inspector.explain.class_maps import ClassMaps

ComputedBatch: TypeAlias = Sequence[tuple[DecodedImage, ClassMaps | None]]  # None: the image could not be read


def number_labels(class_names: Sequence[str]) -> dict[str, int | None]:
    """Map each possible label (a class name, or a class number as text) to its class number.

    A name that several classes share maps to None.
    """
    numbers: dict[str, int | None] = {str(k): k for k in range(len(class_names))}
    occurrences = Counter(class_names)
    return numbers | {name: k if occurrences[name] == 1 else None for k, name in enumerate(class_names)}


def make_rows(
    batch: ComputedBatch, top: int, class_numbers: Mapping[str, int | None], features: bool = False
) -> list[dict[str, Any]]:
    """Return the row of each image of a batch: its classes with their maps, or the error if it could not be read.

    Args:
        batch: the images with their class maps.
        top: number of classes with the highest logits whose maps are stored.
        class_numbers: from `number_labels`.
        features: add the feature maps before pooling, (C, h, w) in float16 under "features".
    """
    return [_make_row(image, maps, top, class_numbers, features) for image, maps in batch]


def _make_row(
    image: DecodedImage, maps: ClassMaps | None, top: int, class_numbers: Mapping[str, int | None], features: bool
) -> dict[str, Any]:
    row: dict[str, Any] = {"index": image.index, "path": image.item.path, "label": image.item.label}
    if maps is None or image.crop is None:
        return row | {"error": image.error}
    # As arrays, because each of the many small steps takes torch three times as long.
    logits, probabilities, bias = (one.numpy(force=True) for one in (maps.logits, maps.probabilities, maps.bias))
    order = np.argsort(-logits, kind="stable")
    label = class_numbers.get(image.item.label) if image.item.label is not None else None
    classes: list[int] = order[:top].tolist()
    map_classes = classes if label is None or label in classes else [*classes, label]
    height, width = image.crop.photo_size
    row |= {"height": height, "width": width, "sha256": image.sha256, "box": image.crop.box}
    row |= {"residual": maps.residual, "verdict": maps.verdict, "classes": classes, "map_classes": map_classes}
    values = maps.values[map_classes] if maps.finer is None else maps.finer.contributions(map_classes)
    row["maps"] = _round(values.flatten().numpy(force=True), np.float16)
    for name, numbers in (("probabilities", probabilities), ("logits", logits), ("biases", bias)):
        row[name] = _round(numbers[classes], np.float32)
    if features:
        row["features"] = _round(maps.decomposition.branches[0].feature_maps.numpy(force=True), np.float16)
    if label is not None:
        rank, probability = int(np.flatnonzero(order == label)[0]), float(probabilities[label])
        row |= {"label_class": label, "label_rank": rank, "label_probability": probability}
    return row


def _round(values: NDArray[np.floating[Any]], dtype: type[np.floating[Any]]) -> NDArray[Any]:
    # Values beyond the range of float16 become infinite, without a warning: a reader sees that they are out of range.
    with np.errstate(over="ignore"):
        return values.astype(dtype)
