"""What a trained network does with the test images: which classes it takes for which, and where it sees them."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from inspector.analysis.averages import AverageClassMaps, average_class_maps
from inspector.analysis.localization import Mask, Regions, average_inside, find_object_mask
from inspector.errors import HeadError, LocalizationError
from inspector.explain.class_maps import ClassMaps, class_maps, class_maps_of_batch
from inspector.explain.classifier import Classifier
from inspector.images.photo import read_image
from inspector.networks.load import load
from inspector.training.data import DataSet
from inspector.training.write_run import csv_bytes, write_file

MOST = 1000  # test images whose class maps are made: the first of each class, as many of each
_BATCH = 50


def evaluate_run(folder: Path, data: DataSet, logits: Tensor, regions: Regions | None, finished: int) -> dict[str, Any]:
    """Write confusion.csv, average_maps.safetensors and, of photos, test.csv; return what run.json tells of them.

    `logits` (N, K) are the test images'. The class maps are those of the folder's network as the inspector opens it.
    """
    labels = data.test.labels.cpu()
    probabilities, predicted = (one.cpu() for one in logits.softmax(1).max(1))
    write_file(folder / "confusion.csv", _confusion(labels, predicted, data.classes), finished)
    which = _first_of_each(labels, len(data.classes))
    found = _survey(str(folder), data, which, regions)
    about: dict[str, Any] = {"class_maps": None}
    if found is not None:
        write_file(folder / "average_maps.safetensors", save({"average_maps": found.average_maps}), finished)
        about["class_maps"] = {
            "verdict": found.verdict,
            "residual": found.residual,
            "images": found.images,
            "inside": average_inside(found.inside),
        }
    if data.folder is None:
        return about
    shares: dict[int, float | None] = {}
    if found is not None:
        shares = {n: one.share for n, one in zip(which, found.inside, strict=True) if one is not None}
    rows = [
        {
            "file": file,
            "label": data.classes[int(labels[n])],
            "predicted": data.classes[int(predicted[n])],
            "probability": round(float(probabilities[n]), 4),
            "inside": "" if shares.get(n) is None else f"{shares[n]:.4f}",
        }
        for n, file in enumerate(data.files)
    ]
    write_file(folder / "test.csv", csv_bytes(rows), finished)
    photos = {"training": len(data.training), "test": len(data.test), "skipped": list(data.skipped)}
    return {"images": str(data.folder), "photos": photos, **about}


def check_objects(data: DataSet, regions: Regions) -> None:
    """Before hours of training: whether the objects of the test photos can be read; LocalisationError if not."""
    assert data.folder is not None
    masks = [find_object_mask(regions, file, read_image(data.folder / file).size) is not None for file in data.files]
    if not any(masks):
        raise LocalizationError(
            f"No object is known of any of the {len(masks)} test photos; names relative to {data.folder}, like "
            f"{data.files[0]}, would do."
        )


def _confusion(labels: Tensor, predicted: Tensor, classes: tuple[str, ...]) -> bytes:
    """A row a true class, a column a predicted one."""
    k = len(classes)
    text = io.StringIO(newline="")
    counts = torch.bincount(labels * k + predicted, minlength=k * k).view(k, k)
    csv.writer(text, lineterminator="\n").writerows([classes, *counts.tolist()])
    return text.getvalue().encode()


def _first_of_each(labels: Tensor, classes: int) -> list[int]:
    """At most MOST images, by number."""
    each = max(1, MOST // classes)
    return sorted(int(n) for k in range(classes) for n in (labels == k).nonzero().flatten()[:each])


def _survey(name: str, data: DataSet, which: list[int], regions: Regions | None) -> AverageClassMaps | None:
    try:
        classifier = load(name)
    except HeadError:
        return None  # no class maps: the run is a run all the same
    return average_class_maps(
        _of_photos(classifier, data, which, regions) if data.folder else _of_tensors(classifier, data, which)
    )


def _of_tensors(classifier: Classifier, data: DataSet, which: list[int]) -> Iterator[tuple[ClassMaps, int, None]]:
    for chosen in torch.tensor(which).split(_BATCH):
        inputs = data.test.inputs(chosen.to(data.test.pixels.device)).cpu()
        for maps, n in zip(class_maps_of_batch(classifier, inputs), chosen, strict=True):
            yield maps, int(data.test.labels[n]), None


def _of_photos(
    classifier: Classifier, data: DataSet, which: list[int], regions: Regions | None
) -> Iterator[tuple[ClassMaps, int, Mask | None]]:
    assert data.folder is not None
    for n in which:
        photo = read_image(data.folder / data.files[n])
        mask = find_object_mask(regions, data.files[n], photo.size) if regions else None
        yield class_maps(classifier, photo), int(data.test.labels[n]), mask
