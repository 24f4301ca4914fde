"""Measure how well the class maps of a network locate the objects on the photos of a folder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from inspector.analysis.annotations import Annotations, PhotoObjects, find_photo_objects
from inspector.analysis.localization_protocol import Contours
from inspector.analysis.localization_scores import (
    CaseMeasures,
    LocalizationScores,
    Tuned,
    measure_case,
    score_cases,
    split_photos,
    tune_thresholds,
)
from inspector.datasets.accelerated import accelerate_for_dataset
from inspector.datasets.located import MappedPhoto, PassOptions, check_contrast, map_photos, name_files
from inspector.datasets.run import OnProgress
from inspector.errors import ClassError, LocalizationError
from inspector.explain.classifier import Classifier
from inspector.explain.grid import require_place
from inspector.explain.kinds import Verdict, worst_verdict
from inspector.images.sources import Item, list_images

TOP1 = "top1"  # in place of a class: the one with the highest logit on each photo


@dataclass(frozen=True)
class LocalizeOptions:
    """What is measured."""

    k: str | None = None  # class whose map is measured, or "top1"; None: the map of each object's own class
    against: str | int | None = None  # class to contrast with, or "average"
    aliases: Mapping[str, str] = field(default_factory=dict)  # class of the objects -> class of the network
    contours: Contours = "all"
    tune: float = 0.5  # share of the photos on which thresholds are tuned; the scores are of the others
    seed: int = 0


@dataclass(frozen=True)
class LocalizationResult:
    """The scores of a network on the photos of a folder."""

    scores: tuple[LocalizationScores, ...]  # of each class, and in all
    tuned: Tuned | None  # thresholds of the photos for tuning; None if there were none
    photos: int
    unreadable: int
    tuning_photos: int
    worst_verdict: str | None
    precision: str = ""  # how the maps differ from those in float32, if another precision computed them


def list_photos(folder: Path, objects: Path) -> list[Item]:
    """List the photos of a folder; of the folder "images" in it, if there is one. Masks among them are left out.

    Raises:
        ImageError: there is no image.
        LocalizationError: the folder does not exist.
    """
    if not folder.is_dir():
        raise LocalizationError(f"{folder} is not a folder. Use the folder of the photos.")
    masks = f"{objects.resolve().as_posix()}/"
    return [item for item in list_images(folder) if not Path(item.path).resolve().as_posix().startswith(masks)]


def localize(
    folder: Path,
    items: Sequence[Item],
    annotations: Annotations,
    classifier: Classifier,
    options: LocalizeOptions,
    how: PassOptions,
    on_progress: OnProgress = lambda done, photos: None,
) -> LocalizationResult:
    """Measure how well the class maps of a network locate objects.

    A photo without an object of a class counts as one: a box on it is an error.

    Args:
        folder: the folder of the photos, whose first subfolders are the classes of the objects that name none.
        items: its photos.
        annotations: the objects on them.
        classifier: the network.
        options: classes, contours and tuning.
        how: batch size, threads, input size and grid.
        on_progress: called with the numbers of finished photos and of all.

    Raises:
        ClassError: a class of the objects is none of the network.
        LocalizationError: no photo has an object, an object has no class, or objects do not fit their photo.
        NetworkError, InspectorError: as `accelerate_for_dataset`.
        PlaceError: the place of the cells on the photos is unknown.
    """
    require_place(classifier.receptive_field)
    check_contrast(classifier, options.against)
    files = name_files(items, folder)
    classes = _find_classes(annotations, files, items, classifier, options)
    if options.k is None and not classes:
        raise _refuse_without_objects(folder, files)
    classifier = accelerate_for_dataset(classifier, how.backend, how.dtype, items)
    cases: list[CaseMeasures] = []
    verdicts, unreadable = set[Verdict](), 0
    for done, photo in enumerate(map_photos(list(enumerate(items)), classifier, how), 1):
        if photo.maps is None:
            unreadable += 1
        else:
            verdicts.add(photo.maps.verdict)
            cases += _measure_photo(photo, files[photo.index], annotations, classes, options)
        on_progress(done, len(items))
    if not any(case.has_object for case in cases):
        raise _refuse_without_objects(folder, files)
    tuning, testing = split_photos(cases, options.tune, options.seed)
    tuned = tune_thresholds([cases[n] for n in tuning])
    scores = score_cases([cases[n] for n in testing], tuned, seed=options.seed)
    tuning_photos = len({cases[n].photo for n in tuning})
    worst = worst_verdict(*verdicts) if verdicts else None
    precision = " ".join(classifier.precision_notes)
    return LocalizationResult(tuple(scores), tuned, len(items), unreadable, tuning_photos, worst, precision)


def _refuse_without_objects(folder: Path, files: Sequence[str]) -> LocalizationError:
    return LocalizationError(
        f"No object of the annotations is on a photo that could be read in {folder}. Use the paths of the photos "
        f"relative to that folder, such as {files[0]}."
    )


def _find_classes(
    annotations: Annotations,
    files: Sequence[str],
    items: Sequence[Item],
    classifier: Classifier,
    options: LocalizeOptions,
) -> dict[str, int]:
    """Return the classes of the objects with their numbers in the network; empty if one map is measured per photo."""
    if options.k is not None:
        if options.k != TOP1:
            classifier.class_index(options.k)
        return {}
    names = set[str]()
    for file, item in zip(files, items, strict=True):
        if annotations.masks is not None:
            found = [item.label] if (annotations.masks / file).with_suffix(".png").is_file() else []
        else:
            found = [one.name or item.label for one in annotations.objects.get(file, ())]
        if None in found:
            raise LocalizationError(
                f"The object on {file} has no class. Use photos in folders named as the classes, a column `class` in "
                "the CSV, or --class for one class of the network."
            )
        names.update(name for name in found if name is not None)
    numbers = {}
    for name in sorted(names):
        try:
            numbers[name] = classifier.class_index(options.aliases.get(name, name))
        except ClassError as error:
            raise ClassError(
                f"{error} Use --alias '{name}=CLASS OF THE NETWORK', or --class top1 for the class with the highest "
                "logit on each photo."
            ) from None
    return numbers


def _measure_photo(
    photo: MappedPhoto, file: str, annotations: Annotations, classes: Mapping[str, int], options: LocalizeOptions
) -> list[CaseMeasures]:
    maps, crop = photo.maps, photo.crop
    assert maps is not None
    assert crop is not None
    objects = find_photo_objects(annotations, file, crop.photo_size, photo.item.label)
    wanted: list[tuple[str, int, PhotoObjects | None]]
    if classes:
        wanted = [(name, k, objects.get(name)) for name, k in classes.items()]
    else:
        k = int(maps.logits.argmax()) if options.k == TOP1 else maps.classifier.class_index(str(options.k))
        name = photo.item.label or next((name for name in objects if name is not None), "")
        wanted = [(name, k, _join(list(objects.values())))]
    return [
        measure_case(file, name, photo.compute_values(k, options.against), crop, photo.field, found, options.contours)
        for name, k, found in wanted
    ]


def _join(objects: Sequence[PhotoObjects]) -> PhotoObjects | None:
    """Return objects of several classes as those of one."""
    if len(objects) < 2:
        return objects[0] if objects else None
    mask = np.logical_or.reduce([one.mask for one in objects])
    return PhotoObjects(
        tuple(box for one in objects for box in one.boxes), mask, all(one.is_outlined for one in objects)
    )
