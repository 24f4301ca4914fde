"""Measure how well class maps and other methods locate objects, by the protocol of the field, on two data sets.

pets3: photos of cats and dogs with outlines; the map of the network's top-1 class. fruits3: photos of bananas, oranges
and apples with boxes; the map of each fruit's class. Every row of the table is one network, data set and way to make
the map. The scores are those of all photos, with 95 % intervals of a bootstrap over photos; those named "tuned" are of
half of the photos, with the thresholds that were the best on the other half (analysis/localization_scores.py).

    exact map                   the network's own grid and crop
    exact map, 2x or 4x finer   the same prediction, with `finer`
    exact map, whole photo      the whole photo, uncropped, with its shorter side at 288 or 448 pixels
    a method's name             inspector/analysis/attribution, on the same crop
    torchcam, grad-cam          other packages' maps by their own code, enlarged as they do it, on the same crop

Every finished row is a line of JSON in a file, and is not computed again.

    python benchmarks/localization.py --data FOLDER

FOLDER contains weights/, pets3/ (images/, trimaps/) and fruits3/ (images/, boxes.csv).
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from imagenet_networks import NETWORKS, make_sequential
from numpy.typing import NDArray
from PIL import Image
from report import RESULTS, format_table, write_results
from rich.progress import track

import inspector
from inspector.analysis.annotations import Annotations, PhotoObjects, find_photo_objects, read_annotations
from inspector.analysis.attribution.methods import METHODS, compute_attribution
from inspector.analysis.localization_scores import (
    CaseMeasures,
    measure_case,
    score_cases,
    split_photos,
    tune_thresholds,
)
from inspector.errors import InspectorError
from inspector.explain.receptive_field import PIXELS, ReceptiveField
from inspector.images.photo import Photo
from inspector.images.preprocessing import Crop, make_view
from inspector.images.sources import Item, list_images

ALIASES = {"apple": "Granny Smith"}
SCORES = {
    "max_box_acc_v2": "MaxBoxAccV2", "box_acc_v2": "BoxAccV2, tuned", "px_ap": "PxAP", "mask_iou": "mask IoU, tuned",
    "max_mask_iou": "mask IoU, best", "energy": "evidence inside", "pointing": "pointing",
    "pointing_15": "pointing, 15 px",
}  # fmt: skip
TUNED = ("box_acc_v2", "mask_iou")
HEADER = ("way", "maps", *SCORES.values())

# A map (h, w), where it lies on the photo, and its class.
PlacedValues = tuple[NDArray[np.float32], Crop, ReceptiveField]


@dataclass(frozen=True, eq=False)
class Case:
    """One photo, and the class of the network whose map is measured."""

    file: str
    photo: Photo
    name: str  # class of the object
    k: int
    objects: PhotoObjects


Way = Callable[[inspector.Classifier, Case], PlacedValues]


def main(
    data: Annotated[Path, typer.Option(help="The folder of weights and photos.", exists=True, file_okay=False)],
    photos: Annotated[int, typer.Option(min=4, help="Photos per data set, the same number of each class.")] = 90,
    networks: Annotated[str, typer.Option(help="Names, separated by commas.")] = ",".join(NETWORKS),
    sets: Annotated[str, typer.Option(help="Names, separated by commas.")] = "pets3,fruits3",
    ways: Annotated[
        str, typer.Option(help="`exact`, `methods` and `peers`, separated by commas.")
    ] = "exact,methods,peers",
    finer: Annotated[str, typer.Option(help="Factors of finer grids, separated by commas; '': none.")] = "2,4",
    sizes: Annotated[str, typer.Option(help="Shorter sides of whole photos, separated by commas.")] = "224,288,448",
    device: Annotated[str, typer.Option(help="`cpu`, `cuda` or `mps`.")] = "cpu",
    rows: Annotated[Path, typer.Option(help="File of the finished rows.")] = RESULTS / "localization.jsonl",
) -> None:
    """Score every way to make a map, and write results/localization.md."""
    finished = [json.loads(line) for line in rows.read_text().splitlines()] if rows.is_file() else []
    tables = []
    for name in networks.split(","):
        classifier = NETWORKS[name].load(data).to(device)
        for dataset in sets.split(","):
            cases: list[Case] = []
            table = []
            for way, make in list_ways(name, ways.split(","), finer, sizes):
                key = {"network": name, "set": dataset, "way": way, "photos": photos}
                row = next((one for one in finished if all(one[part] == key[part] for part in key)), None)
                if row is None:
                    cases = cases or list(list_cases(data, dataset, classifier, photos))
                    row = key | score_way(make, classifier, cases, f"{name}, {dataset}, {way}")
                    rows.parent.mkdir(parents=True, exist_ok=True)
                    with rows.open("a") as file:
                        file.write(json.dumps(row) + "\n")
                table.append(make_row(row))
            tables += [f"{name}, {dataset}:", format_table(HEADER, table)]
    command = f"python benchmarks/localization.py --data FOLDER --photos {photos} --networks {networks} --sets {sets}"
    command += f" --ways {ways} --finer {finer or repr('')} --sizes {sizes}"
    write_results("localization", command, *tables)


def list_cases(data: Path, dataset: str, classifier: inspector.Classifier, count: int) -> Iterator[Case]:
    folder = data / dataset / "images"
    annotations = read_annotations(data / dataset / ("trimaps" if dataset == "pets3" else "boxes.csv"))
    items = [item for item in list_images(folder) if _is_annotated(annotations, item, folder)]
    labels = sorted({item.label for item in items if item.label is not None})
    by_label = [[item for item in items if item.label == label] for label in labels]
    for group in by_label:
        each = -(-count // len(labels))
        # Evenly spread over the list.
        for i in np.linspace(0, len(group) - 1, min(each, len(group))).astype(int):
            file = _relative(group[i], folder)
            photo = inspector.read_image(group[i].path)
            objects = find_photo_objects(annotations, file, photo.size, group[i].label)
            for name, one in objects.items():
                k = (
                    _top1(classifier, photo)
                    if dataset == "pets3"
                    else classifier.class_index(ALIASES.get(str(name), str(name)))
                )
                yield Case(file, photo, str(name), k, one)


def _relative(item: Item, folder: Path) -> str:
    return Path(item.path).relative_to(folder).as_posix()


def _is_annotated(annotations: Annotations, item: Item, folder: Path) -> bool:
    file = _relative(item, folder)
    if annotations.masks is not None:
        return (annotations.masks / file).with_suffix(".png").is_file()
    return file in annotations.objects


def _top1(classifier: inspector.Classifier, photo: Photo) -> int:
    return int(inspector.class_maps(classifier, photo).logits.argmax())


def list_ways(network: str, ways: Sequence[str], finer: str, sizes: str) -> Iterator[tuple[str, Way]]:
    if "exact" in ways:
        yield "exact map", lambda classifier, case: place(inspector.class_maps(classifier, case.photo), case.k)
        for factor in finer.split(",") if finer else ():
            yield f"exact map, {factor}x finer", _make_finer(int(factor))
        for size in sizes.split(",") if sizes else ():
            yield f"exact map, whole photo, {size}", _make_whole(int(size))
            for factor in finer.split(",") if finer and size == "288" else ():
                yield f"exact map, whole photo, {size}, {factor}x finer", _make_whole(int(size), int(factor))
    if "methods" in ways:
        for method in METHODS:
            if method != "Exact map":
                yield method, _make_method(method)
    if "peers" in ways:
        for peer, method in PEERS:
            yield f"{peer} {method}", _make_peer(network, peer, method)


def place(maps: inspector.ClassMaps, k: int) -> PlacedValues:
    """Return the map of a class with its place: on the finer grid, if it was computed."""
    return maps.class_map(k, finer=True).values.float().numpy(force=True), maps.view.crop, maps.shown_field


def _make_finer(factor: int) -> Way:
    return lambda classifier, case: place(_class_maps(classifier, case.photo, finer=factor), case.k)


def _class_maps(classifier: inspector.Classifier, photo: Photo, **options: Any) -> inspector.ClassMaps:
    return inspector.class_maps(classifier, photo, **options)


def _make_whole(size: int, factor: int = 1) -> Way:
    options: dict[str, Any] = {"size": f"whole:{size}"} | ({} if factor == 1 else {"finer": factor})
    return lambda classifier, case: place(_class_maps(classifier, case.photo, **options), case.k)


def _make_method(method: str) -> Way:
    def compute(classifier: inspector.Classifier, case: Case) -> PlacedValues:
        view = make_view(case.photo, classifier.preprocessing)
        attribution = compute_attribution(classifier, classifier.inputs(view), case.k, method)
        return attribution.values.float().numpy(force=True), view.crop, attribution.field

    return compute


PEERS = [
    *(("torchcam", method) for method in ("CAM", "GradCAM", "GradCAMpp", "XGradCAM", "LayerCAM")),
    *(
        ("grad-cam", method)
        for method in ("GradCAM", "GradCAMPlusPlus", "HiResCAM", "XGradCAM", "LayerCAM", "EigenCAM")
    ),
]


def _make_peer(network: str, peer: str, method: str) -> Way:
    """Return how another package makes a map of the size of the input."""
    explain: Callable[[torch.Tensor, int], NDArray[np.float32]] | None = None

    def compute(classifier: inspector.Classifier, case: Case) -> PlacedValues:
        nonlocal explain
        if explain is None:
            make = _make_torchcam if peer == "torchcam" else _make_grad_cam
            explain = make(make_sequential(network, classifier.network), method)
        view = make_view(case.photo, classifier.preprocessing)
        return explain(classifier.inputs(view), case.k), view.crop, PIXELS

    return compute


def _make_torchcam(network: torch.nn.Sequential, method: str) -> Callable[[torch.Tensor, int], NDArray[np.float32]]:
    import torchcam.methods

    options = {"fc_layer": "linear"} if method == "CAM" else {}
    extractor = getattr(torchcam.methods, method)(network, "features", **options)

    def explain(inputs: torch.Tensor, k: int) -> NDArray[np.float32]:
        with torch.enable_grad():
            scores = network(inputs.clone().requires_grad_())
            (values,) = extractor(k, scores)
        # Enlarged as by torchcam.utils.overlay_mask.
        image = Image.fromarray(values[0].numpy(force=True).astype(np.float32))
        return np.asarray(image.resize(inputs.shape[:1:-1], Image.Resampling.BICUBIC))

    return explain


def _make_grad_cam(network: torch.nn.Sequential, method: str) -> Callable[[torch.Tensor, int], NDArray[np.float32]]:
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    extractor = getattr(pytorch_grad_cam, method)(network, [network.get_submodule("features")])

    def explain(inputs: torch.Tensor, k: int) -> NDArray[np.float32]:
        values: NDArray[np.float32] = extractor(inputs, [ClassifierOutputTarget(k)])[0]
        return values

    return explain


def score_way(make: Way, classifier: inspector.Classifier, cases: Sequence[Case], title: str) -> dict[str, Any]:
    """Return the scores of one way to make maps, with the seconds per map; or why it cannot make them."""
    measured: list[CaseMeasures] = []
    seconds = 0.0
    for case in track(cases, title):
        start = time.perf_counter()
        try:
            placed = make(classifier, case)
        except InspectorError as error:
            return {"error": str(error)}
        seconds += time.perf_counter() - start
        measured.append(measure_case(case.file, case.name, *placed, case.objects))
    tuning, testing = split_photos(measured, 0.5)
    tuned = tune_thresholds([measured[n] for n in tuning])
    overall, half = score_cases(measured)[-1], score_cases([measured[n] for n in testing], tuned)[-1]
    found = {key: one for key, one in half.scores.items() if key in TUNED} | dict(overall.scores)
    scores = {key: [one.value, one.low, one.high] for key, one in found.items()}
    return {"maps": overall.photos, "seconds": seconds / len(cases), "scores": scores}


def make_row(row: dict[str, Any]) -> tuple[object, ...]:
    if "error" in row:
        return (row["way"], row["error"], *("" for _ in SCORES))
    cells = []
    for key in SCORES:
        score = row["scores"].get(key)
        cells.append("" if score is None else f"{score[0]:.3f} ({score[1]:.3f}-{score[2]:.3f})")
    return (row["way"], row["maps"], *cells)


if __name__ == "__main__":
    typer.run(main)
