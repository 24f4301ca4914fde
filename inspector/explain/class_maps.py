"""Class maps: every logit of an image as a sum over cells and channels.

    logit[k] = bias[k] + sum over y, x of  values[k, y, x]

One forward pass, no gradients. Zhou et al. (CVPR 2016) introduced them for global average pooling; here they are
signed, in logits, for all classes at once, and verified against the network's own logits on every image.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeAlias, overload

import torch
from torch import Tensor

from inspector.explain.classifier import Classifier, check_classifier
from inspector.explain.decomposition import decompose
from inspector.explain.feature_capture import CapturedPass, capture_pass
from inspector.explain.finer import compute_finer, count_images
from inspector.explain.image_maps import ClassMaps
from inspector.explain.inputs import (
    Transform,
    check_batch,
    find_batch,
    is_input,
    is_iterable_of_images,
    make_input,
)
from inspector.explain.precision import widen
from inspector.explain.shown_map import AVERAGE, ClassMap, FigureContent
from inspector.explain.tracing.forward import capture_poolings, match_parameters
from inspector.images.photo import ImageSource, Photo
from inspector.images.preprocessing import View

__all__ = ["AVERAGE", "ClassMap", "ClassMaps", "FigureContent", "class_maps", "class_maps_of_batch"]

Size: TypeAlias = int | Sequence[int] | str  # a text is "whole", "whole:288" or "native"


@overload
def class_maps(
    classifier: Classifier,
    image: ImageSource | Photo,
    size: Size | None = None,
    transform: Transform | None = None,
    finer: int = 1,
) -> ClassMaps: ...


@overload
def class_maps(
    classifier: Classifier,
    image: list[ImageSource | Photo] | tuple[ImageSource | Photo, ...],
    size: Size | None = None,
    transform: Transform | None = None,
    finer: int = 1,
) -> list[ClassMaps]: ...


@overload
def class_maps(
    classifier: Classifier,
    image: Iterable[Any],
    size: Size | None = None,
    transform: Transform | None = None,
    finer: int = 1,
) -> Iterator[ClassMaps]: ...


def class_maps(
    classifier: Classifier,
    image: Any,
    size: Size | None = None,
    transform: Transform | None = None,
    finer: int = 1,
) -> ClassMaps | list[ClassMaps] | Iterator[ClassMaps]:
    """Compute the class map of every class for one image, or for several.

    Args:
        classifier: a classifier from `load` or `Classifier.wrap`.
        image: path, encoded bytes, file object, PIL image, array (H, W, 3) in RGB, or what else `read_image` takes; or
            a tensor of floats (channels, H, W) or (1, channels, H, W), which is normalized already and fed as it is.
            Several images: a list of these, a tensor (N, channels, H, W), or a DataLoader or another iterable of
            batches, whose class maps are computed one batch after the other.
        size: input size (height, width) of the network; "whole" for the whole photo, with its shorter side as long as
            that of the training, so that nothing is cropped; "whole:288" for the whole photo with a shorter side of
            288 pixels; or "native" for the whole photo at its own resolution, up to 1024 pixels. Default: the crop of
            the size that the network was trained with. Another size changes the grid of the maps, and the logits.
        transform: makes the input (channels, H, W) of a PIL image, in place of the classifier's preprocessing, as
            transforms of torchvision do. Where its crop lies is unknown, so the maps are drawn on its result.
        finer: 2 or 4 computes the cells between the network's own too, see `FinerMaps`. They are the attribute
            ``finer``, and what is drawn; everything else stays the network's own.

    Returns:
        ClassMaps with ``values`` (K, h, w) in logits; ``values.sum((1, 2)) + bias`` equals ``logits``. For a list or a
        tensor of several images a list of them, for another iterable an iterator.

    Raises:
        ImageError: the image cannot be decoded, or the tensor is no input of this network.
        NetworkError: the network does not support this size.
        InspectorError: a finer grid does not exist, or nothing is known to lie between the cells.

    Example:
        >>> for maps in class_maps(classifier, DataLoader(dataset, batch_size=32)):
        ...     print(maps.top(1))
    """
    check_classifier(classifier)
    image = find_batch(image)
    if is_input(image) and image.ndim == 4 and len(image) > 1:
        check_batch(image, len(classifier.preprocessing.mean), image.shape)
        classifier, _, _ = make_input(classifier, image[:1], size)
        return class_maps_of_batch(classifier, match_parameters(classifier.network, image.detach()), finer=finer)
    if isinstance(image, Tensor) and image.ndim == 4 and len(image) > 1:
        image = list(image)
    if isinstance(image, list | tuple):
        return [one for several in image for one in _as_list(class_maps(classifier, several, size, transform, finer))]
    if is_iterable_of_images(image):
        batches = (class_maps(classifier, batch, size, transform, finer) for batch in image)
        return (maps for batch in batches for maps in _as_list(batch))
    classifier, inputs, view = make_input(classifier, image, size, transform)
    (maps,) = class_maps_of_batch(classifier, inputs, [view], finer)
    return maps


def _as_list(maps: Any) -> Iterable[ClassMaps]:
    return (maps,) if isinstance(maps, ClassMaps) else maps


def class_maps_of_batch(
    classifier: Classifier, inputs: Tensor, views: Sequence[View] | None = None, finer: int = 1
) -> list[ClassMaps]:
    """Compute the class maps of each image of a batch.

    Args:
        classifier: a classifier from `load` or `Classifier.wrap`.
        inputs: normalized images (N, channels, H, W), in the network's dtype and on its device.
        views: the photos of the batch, for figures. Default: the inputs themselves are shown.
        finer: as in `class_maps`.

    Returns:
        N ClassMaps.

    Raises:
        NetworkError: the network does not support these inputs.
        InspectorError: as in `class_maps`.
    """
    check_classifier(classifier)
    sources: Sequence[View | Tensor] = inputs if views is None else views  # type: ignore[assignment]
    if finer == 1:
        return _explain_pass(classifier, inputs, sources, capture_pass(classifier.capture, inputs))
    results, images = [], count_images(finer)
    for n in range(0, len(inputs), images):
        some = inputs[n : n + images]
        captured, finer_maps = compute_finer(classifier, some, finer)
        own = _explain_pass(classifier, some, sources[n : n + images], captured)
        results += [
            replace(one, finer=two.with_own(one.decomposition)) for one, two in zip(own, finer_maps, strict=True)
        ]
    return results


def _explain_pass(
    classifier: Classifier, inputs: Tensor, sources: Sequence[View | Tensor], captured: CapturedPass
) -> list[ClassMaps]:
    """Compute the class maps of each image of a pass."""
    head, results = classifier.head, []
    probabilities = classifier.probabilities(widen(captured.logits))
    for n, split in enumerate(decompose(classifier.network, head, inputs, captured)):
        residual, is_exact = split.compare_with_logits(captured.logits[n])
        if not is_exact and split.frozen is None:
            # Only here it matters how the network rounded its pooled values, which a hook does not see.
            pooled = _pool_again(classifier, inputs[n : n + 1])
            residual, is_exact = split.compare_with_logits(captured.logits[n], pooled)
        logits, verdict = widen(captured.logits[n]), split.verdict if is_exact else "not exact"
        outputs = (split.values, split.bias, logits, probabilities[n], residual, verdict)
        one = ClassMaps(*outputs, split=split, classifier=classifier, source=sources[n], backend=captured.backend)
        results.append(one)
    return results


def _pool_again(classifier: Classifier, inputs: Tensor) -> Tensor:
    """Return the network's own pooled values (1, P) of one image."""
    captured, _ = capture_poolings(classifier.network, inputs, classifier.head.calls)
    return torch.cat([one.pooled_values for one in captured], 1)
