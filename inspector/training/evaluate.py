"""Evaluate a trained network on its test images: confusion matrix, average class maps, predictions."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from inspector.analysis.averages import AverageClassMaps, average_class_maps
from inspector.analysis.localization import Mask, Regions, average_evidence_inside, find_object_mask
from inspector.errors import HeadError, LocalizationError
from inspector.explain.class_maps import ClassMaps, class_maps, class_maps_of_batch
from inspector.explain.classifier import Classifier
from inspector.files import csv_bytes
from inspector.images.photo import read_image
from inspector.networks.load import load
from inspector.training.data import DataSet
from inspector.training.write_run import write_file

MAX_CLASS_MAPS = 1000  # largest number of test images whose class maps are computed; equally many per class
_BATCH = 50  # images per pass


def evaluate_run(folder: Path, data: DataSet, logits: Tensor, regions: Regions | None, finished: int) -> dict[str, Any]:
    """Evaluate a run: write confusion.csv, average_maps.safetensors and, for photos, test.csv.

    The class maps are computed with the network in the run folder, loaded in the same way as users load it.

    Args:
        folder: run folder, with weights and model.json.
        data: data set of the run.
        logits: logits of the test images, (N, K).
        regions: boxes or masks of the objects in the photos, or None.
        finished: number of finished epochs, for error messages.

    Returns:
        The entries of run.json about the evaluation.
    """
    classes, labels = data.classes, data.test.labels.cpu()
    probabilities, predicted = (one.cpu() for one in logits.softmax(1).max(1))
    write_file(folder / "confusion.csv", _confusion_bytes(labels, predicted, classes), finished)
    indices = _first_of_each_class(labels, len(classes))
    averages = _average_class_maps(folder, data, indices, regions)
    about: dict[str, Any] = {"class_maps": None}
    shares: dict[int, str] = {}
    if averages is not None:
        write_file(folder / "average_maps.safetensors", save({"average_maps": averages.average_maps}), finished)
        about["class_maps"] = {name: getattr(averages, name) for name in ("verdict", "residual", "images")}
        about["class_maps"]["inside"] = average_evidence_inside(averages.inside)
        objects = zip(indices, averages.inside, strict=True)
        shares = {n: f"{one.share:.4f}" for n, one in objects if one is not None and one.share is not None}
    if data.folder is None:
        return about
    rows = (
        (file, classes[labels[n]], classes[predicted[n]], round(float(probabilities[n]), 4), shares.get(n, ""))
        for n, file in enumerate(data.files)
    )
    write_file(folder / "test.csv", csv_bytes(("file", "label", "predicted", "probability", "inside"), rows), finished)
    photos = {"training": len(data.training), "test": len(data.test), "skipped": list(data.skipped)}
    return {"images": str(data.folder), "photos": photos, **about}


def check_objects(data: DataSet, regions: Regions) -> None:
    """Check that the masks of the test photos can be read, so that an error comes before hours of training.

    Raises:
        LocalizationError: the data set has no photos, a mask cannot be read, or no test photo has a known object.
    """
    if data.folder is None:
        raise LocalizationError(
            "This data set is no folder of photos, so no object in it is known. Leave out --objects."
        )
    masks = [find_object_mask(regions, file, read_image(data.folder / file).size) is not None for file in data.files]
    if not any(masks):
        raise LocalizationError(
            f"No object is known for any of the {len(masks)} test photos. Use file names relative to {data.folder}, "
            f"such as {data.files[0]}."
        )


def _confusion_bytes(labels: Tensor, predicted: Tensor, classes: tuple[str, ...]) -> bytes:
    """Make confusion.csv: one row per true class, one column per predicted class."""
    k = len(classes)
    counts = torch.bincount(labels * k + predicted, minlength=k * k).view(k, k)
    return csv_bytes(classes, counts.tolist())


def _first_of_each_class(labels: Tensor, classes: int) -> list[int]:
    """Return the indices of the first images of each class: MAX_CLASS_MAPS / classes images per class, at least one."""
    each = max(1, MAX_CLASS_MAPS // classes)
    return sorted(int(n) for k in range(classes) for n in (labels == k).nonzero().flatten()[:each])


def _average_class_maps(
    folder: Path, data: DataSet, indices: list[int], regions: Regions | None
) -> AverageClassMaps | None:
    try:
        classifier = load(str(folder))
    except HeadError:
        return None  # the network has no class maps; its other results are still written
    if classifier.receptive_field.misplaced is not None:
        regions = None  # nothing can be measured inside objects
    if data.folder:
        return average_class_maps(_explain_photos(classifier, data, indices, regions))
    return average_class_maps(_explain_tensors(classifier, data, indices))


def _explain_tensors(
    classifier: Classifier, data: DataSet, indices: list[int]
) -> Iterator[tuple[ClassMaps, int, None]]:
    for chosen in torch.tensor(indices).split(_BATCH):
        inputs = data.test.inputs(chosen.to(data.test.pixels.device)).cpu()
        for maps, n in zip(class_maps_of_batch(classifier, inputs), chosen, strict=True):
            yield maps, int(data.test.labels[n]), None


def _explain_photos(
    classifier: Classifier, data: DataSet, indices: list[int], regions: Regions | None
) -> Iterator[tuple[ClassMaps, int, Mask | None]]:
    assert data.folder is not None
    for n in indices:
        photo = read_image(data.folder / data.files[n])
        mask = find_object_mask(regions, data.files[n], photo.size) if regions else None
        yield class_maps(classifier, photo), int(data.test.labels[n]), mask
