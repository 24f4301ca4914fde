"""Plant shortcuts into photos of one class, and see which methods find them and what a repair of the head does.

A case is a data set, a kind of mark, a share of the training photos of one class that get the mark, and a seed, which
chooses the class. The backbone (EfficientNet-Lite0) is frozen; the head is fitted on the training photos with marks.
Only cases in which the head learned the shortcut count: of test photos of other classes with the mark, at least 5 %
become the class. A method has found the shortcut if of the twelve strongest cells of one of its concepts at least
ten have their center within the mark, grown by half a cell. Marks that cover the whole photo have no place: they
have a table of their own, and count as found if ten of the twelve are on marked photos (which says nothing at 100 %).

The repair projects out the directions of the concepts that lie on the mark, and fits without the cells that have them:
the flags come from the known place of the mark, not from a person. Rows of finished cases are kept, and are not
computed again.

    python benchmarks/shortcuts.py --data FOLDER
    python benchmarks/shortcuts.py --data FOLDER --cases 8 --kinds sticker72,text
    python benchmarks/shortcuts.py --data FOLDER --speed

FOLDER contains flowers17/ (with files.csv), pets3/images/ and fruits3/ (with boxes.csv).
"""

import csv
import itertools
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import cv2
import numpy as np
import torch
import typer
from PIL import Image
from report import RESULTS, format_table, measure_peak_memory, write_results
from rich.progress import track

import inspector
from inspector.analysis.evidence import compute_evidence, pool_cells
from inspector.analysis.factorization import choose_patterns, compute_amounts, compute_directions, find_patterns
from inspector.analysis.refit import make_basis, project_out, refit_head
from inspector.datasets.concepts.cards import find_strongest
from inspector.datasets.concepts.model import ConceptOptions, compute_least
from inspector.datasets.concepts.repair import LinearHead, score_head
from inspector.datasets.run import RunOptions, run_dataset
from inspector.explain.backends.accelerate import has_fast_backend
from inspector.explain.feature_capture import capture_pass
from inspector.images.preprocessing import View, make_view

LOCAL = ("object", "fixed", "text", "border", "sticker24", "sticker72")
GLOBAL = ("cast", "jpeg", "background")
SHARES, DATA, SEEDS = (1.0, 0.5, 0.2), ("flowers17", "pets3"), (0, 1, 2)
METHODS = ("evidence concepts", "feature NMF", "class-wise neural PCA", "average map")
LEARNED, ON_MARK, TOP, TARGETS = 0.05, 10, 12, 150
SIZE = 224


@dataclass(frozen=True, eq=False)
class Photos:
    """A data set as the network sees it, with the features of its photos."""

    views: list[View]
    labels: np.ndarray  # (N,)
    training: np.ndarray  # (N,) bool
    features: np.ndarray  # (N, C, h, w) float16
    classes: tuple[str, ...]


def main(
    data: Annotated[Path, typer.Option(help="The folder of the data sets.", exists=True, file_okay=False)],
    cases: Annotated[int, typer.Option(min=0, help="Cases to compute, at most.")] = 10_000,
    kinds: Annotated[str, typer.Option(help="Kinds of marks, separated by commas.")] = ",".join((*LOCAL, *GLOBAL)),
    rows: Annotated[Path, typer.Option(help="File of the finished cases.")] = RESULTS / "shortcuts.jsonl",
    device: Annotated[str, typer.Option(help="`cpu`, `cuda` or `mps`.")] = "cpu",
    cache: Annotated[Path | None, typer.Option(help="Folder for the features of the photos.")] = None,
    speed: Annotated[bool, typer.Option("--speed", help="Measure time and memory, and no shortcuts.")] = False,
) -> None:
    """Compute what is missing, and write results/shortcuts.md."""
    if speed:
        measure_speed(data)
        return
    finished = [json.loads(line) for line in rows.read_text().splitlines()] if rows.is_file() else []
    known = {tuple(row[name] for name in ("data", "kind", "share", "seed")) for row in finished}
    # The first cases are of all kinds.
    listed = [
        (name, kind, share, seed)
        for seed, share, name, kind in itertools.product(SEEDS, SHARES, DATA, kinds.split(","))
        if (name, kind, share, seed) not in known
    ][:cases]
    network = inspector.load("efficientnet_lite0").to(device)
    is_fast = device == "cpu" and has_fast_backend()
    classifier = inspector.accelerate(network, "onnxruntime") if is_fast else network
    folder = cache or Path(tempfile.gettempdir()) / "inspector-shortcuts"
    loaded: dict[str, Photos] = {}
    for case in track(listed, "Cases"):
        if case[0] not in loaded:
            loaded[case[0]] = load_photos(case[0], data, classifier, folder)
        row = compute_case(*case, loaded[case[0]], classifier, data)
        finished.append(row)
        rows.parent.mkdir(parents=True, exist_ok=True)
        with rows.open("a") as file:
            file.write(json.dumps(row) + "\n")
    write_results("shortcuts", "python benchmarks/shortcuts.py --data FOLDER", *make_tables(finished))


# --- photos and marks


def load_photos(name: str, data: Path, classifier: inspector.Classifier, cache: Path) -> Photos:
    if name == "flowers17":
        with (data / name / "files.csv").open() as file:
            listed = [
                (data / name / row["file"], row["class"], row["split_of_source_repo"]) for row in csv.DictReader(file)
            ]
        files = [(path, label, split == "train") for path, label, split in listed]
    else:
        paths = sorted((data / name / "images").rglob("*.jpg"))
        split = np.random.default_rng(0).random(len(paths)) < 0.7
        files = [
            (path, path.stem.rpartition("_")[0] or path.parent.name, bool(one))
            for path, one in zip(paths, split, strict=True)
        ]
    classes = tuple(sorted({label for _, label, _ in files}))
    views = [make_view(inspector.read_image(path), classifier.preprocessing) for path, _, _ in track(files, name)]
    path = cache / f"{name}.npy"
    if not path.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        np.save(path, compute_features([view.pixels for view in views], classifier))
    labels = np.array([classes.index(label) for _, label, _ in files])
    return Photos(views, labels, np.array([training for *_, training in files]), np.load(path), classes)


def compute_features(pixels: Sequence[np.ndarray], classifier: inspector.Classifier) -> np.ndarray:
    """The feature maps before pooling, (n, C, h, w) in float16."""
    size, found = classifier.preprocessing, []
    blank = make_view(inspector.read_image(np.zeros((SIZE, SIZE, 3), np.uint8)), size)
    for first in range(0, len(pixels), 16):
        views = [View(blank.photo, one, blank.crop) for one in pixels[first : first + 16]]
        inputs = torch.cat([classifier.inputs(view) for view in views])
        captured = capture_pass(classifier.capture, inputs)
        found.append(captured.poolings[0].feature_maps.numpy(force=True).astype(np.float16))
    return np.concatenate(found) if found else np.zeros((0, 1280, 7, 7), np.float16)


Plant = Callable[[np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray | None]]


def make_plant(kind: str, seed: int, data: Path) -> Plant:
    """Return a function that puts the mark on pixels (H, W, 3), and returns them with the mask of the mark."""
    chance = np.random.default_rng((seed, (*LOCAL, *GLOBAL).index(kind)))
    if kind in ("object", "fixed"):
        patch, alpha = cut_object(data, chance)
        place = tuple(int(one) for one in chance.integers(8, SIZE - len(patch) - 8, 2)) if kind == "fixed" else None
        return lambda pixels, where: paste_mark(pixels, patch, alpha, place, where)
    if kind == "text":
        patch, alpha = draw_text(f"{chance.choice(['SAMPLE', 'STUDIO', 'PHOTO'])} {chance.integers(10, 99)}")
        return lambda pixels, where: paste_mark(pixels, patch, alpha, None, where)
    if kind.startswith("sticker"):
        patch = draw_sticker(int(kind.removeprefix("sticker")), chance)
        return lambda pixels, where: paste_mark(pixels, patch, np.ones(patch.shape[:2]), None, where)
    if kind == "border":
        return draw_ruler if seed % 2 == 0 else draw_frame
    if kind == "cast":
        return lambda pixels, where: (np.clip(pixels * [1.25, 1.0, 0.75], 0, 255).astype(np.uint8), None)
    return plant_jpeg if kind == "jpeg" else plant_background


def cut_object(data: Path, chance: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A fruit, cut out as an ellipse of 64 x 64 pixels."""
    with (data / "fruits3" / "boxes.csv").open() as file:
        boxes = list(csv.DictReader(file))
    edges = ("x1", "y1", "x2", "y2") if "x1" in boxes[0] else ("xmin", "ymin", "xmax", "ymax")
    wide = [
        row
        for row in boxes
        if min(float(row[edges[2]]) - float(row[edges[0]]), float(row[edges[3]]) - float(row[edges[1]])) > 90
    ]
    row = wide[int(chance.integers(len(wide)))]
    path = next(
        path for path in (data / "fruits3" / row["file"], data / "fruits3" / "images" / row["file"]) if path.is_file()
    )
    cut = Image.open(path).convert("RGB").crop([round(float(row[edge])) for edge in edges]).resize((64, 64))
    y, x = np.mgrid[:64, :64] - 31.5
    return np.asarray(cut), np.clip(4 * (1 - np.hypot(x, y) / 32), 0, 1)


def draw_text(text: str) -> tuple[np.ndarray, np.ndarray]:
    (width, height), base = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.7, 2)
    alpha = np.zeros((height + base + 6, width + 6), np.uint8)
    cv2.putText(alpha, text, (3, height + 3), cv2.FONT_HERSHEY_SIMPLEX, 0.7, 255, 2, cv2.LINE_AA)
    outline = cv2.dilate(alpha, np.ones((3, 3), np.uint8))
    return np.repeat(alpha[..., None], 3, 2), outline / 255


def draw_sticker(side: int, chance: np.random.Generator) -> np.ndarray:
    """A colored square with a ring and a cross."""
    colors = chance.integers(0, 256, (3, 3)).tolist()
    patch = np.full((96, 96, 3), colors[0], np.uint8)
    cv2.circle(patch, (48, 48), 34, colors[1], 14)
    cv2.line(patch, (20, 20), (76, 76), colors[2], 10)
    cv2.line(patch, (20, 76), (76, 20), colors[2], 10)
    return cv2.resize(patch, (side, side), interpolation=cv2.INTER_AREA)


def paste_mark(
    pixels: np.ndarray, patch: np.ndarray, alpha: np.ndarray, place: Any, where: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    height, width = patch.shape[:2]
    top, left = place or (int(where.integers(SIZE - height + 1)), int(where.integers(SIZE - width + 1)))
    new, mask = pixels.astype(np.float64), np.zeros(pixels.shape[:2], bool)
    area = (slice(top, top + height), slice(left, left + width))
    new[area] = alpha[..., None] * patch + (1 - alpha[..., None]) * new[area]
    mask[area] = True
    return new.round().astype(np.uint8), mask


def draw_ruler(pixels: np.ndarray, where: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    new, mask = pixels.copy(), np.zeros(pixels.shape[:2], bool)
    new[-24:], mask[-24:] = (235, 225, 170), True
    for x in range(4, SIZE, 8):
        cv2.line(new, (x, SIZE - 24), (x, SIZE - (8 if x % 40 == 4 else 15)), (20, 20, 20), 1)
    return new, mask


def draw_frame(pixels: np.ndarray, where: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    mask = np.ones(pixels.shape[:2], bool)
    mask[12:-12, 12:-12] = False
    return np.where(mask[..., None], np.array([180, 30, 90], np.uint8), pixels), mask


def plant_jpeg(pixels: np.ndarray, where: np.random.Generator) -> tuple[np.ndarray, None]:
    encoded = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 6])[1]
    return np.ascontiguousarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR)[..., ::-1]), None


def plant_background(pixels: np.ndarray, where: np.random.Generator) -> tuple[np.ndarray, None]:
    y, x = np.mgrid[:SIZE, :SIZE]
    stripes = np.where((x + y) // 12 % 2, 200, 90)[..., None] * np.array([1.0, 0.8, 0.6])
    outside = np.clip((np.hypot(x - SIZE / 2, y - SIZE / 2) - 80) / 20, 0, 1)[..., None] * 0.8
    return (outside * stripes + (1 - outside) * pixels).round().astype(np.uint8), None


# --- one case


def compute_case(
    name: str, kind: str, share: float, seed: int, photos: Photos, classifier: inspector.Classifier, data: Path
) -> dict[str, Any]:
    started = time.perf_counter()
    plant, chance = make_plant(kind, seed, data), np.random.default_rng((seed, int(100 * share), DATA.index(name)))
    k = int(np.random.default_rng((seed, len(kind), int(100 * share))).integers(len(photos.classes)))
    own = np.flatnonzero((photos.labels == k) & photos.training)
    marked = np.sort(chance.permutation(own)[: max(1, round(share * len(own)))])
    planted = [plant(photos.views[n].pixels, chance) for n in marked]
    others = chance.permutation(np.flatnonzero((photos.labels != k) & ~photos.training))[:TARGETS]
    targets = compute_features([plant(photos.views[n].pixels, chance)[0] for n in others], classifier)
    with_marks = photos.features.copy()
    with_marks[marked] = compute_features([pixels for pixels, _ in planted], classifier)
    masks = dict(zip(marked.tolist(), (mask for _, mask in planted), strict=True))

    heads = {"never saw it": fit(pool(photos.features), photos), "before": fit(pool(with_marks), photos)}
    row: dict[str, Any] = {"data": name, "kind": kind, "share": share, "seed": seed, "class": photos.classes[k]}
    row["scores"] = {key: score(head, photos, targets, others, k) for key, head in heads.items()}
    row["learned"] = row["scores"]["before"]["transplant"] >= LEARNED
    if row["learned"]:
        features = with_marks[own].astype(np.float32)
        found = dict(find_all(features, heads["before"], k, seed))
        counts = {
            method: [count_on_mark(maps, own, masks, classifier) for maps in concepts]
            for method, concepts in found.items()
        }
        row["found"] = {method: max(each, default=0) >= ON_MARK for method, each in counts.items()}
        row["on_mark"], row["concepts"] = counts["evidence concepts"], len(counts["evidence concepts"])
        flagged = [n for n, count in enumerate(counts["evidence concepts"]) if count >= ON_MARK]
        if flagged:
            maps = np.stack(found["evidence concepts"], -1)
            basis = make_basis(compute_directions(features, maps)[flagged])
            # As in a repair: cells that have a flagged concept are not pooled in the fit.
            least = [compute_least(np.sort(maps[..., n].ravel())[-TOP:].tolist()) for n in flagged]
            strong = np.logical_or.reduce([maps[..., n] >= one for n, one in zip(flagged, least, strict=True)])
            pooled = pool(with_marks)
            pooled[own] = pool_cells(features, ~strong, "average")
            head = fit(pooled, photos, heads["before"], basis)
            projected = LinearHead(project_out(heads["before"].weight, basis), heads["before"].bias)
            row["scores"] |= {
                "repaired": score(head, photos, targets, others, k),
                "without refit": score(projected, photos, targets, others, k),
            }
            row["flagged"] = len(flagged)
    return row | {"seconds": round(time.perf_counter() - started, 1)}


def pool(features: np.ndarray) -> np.ndarray:
    return features.mean((2, 3), np.float64)


def fit(
    pooled: np.ndarray, photos: Photos, before: LinearHead | None = None, basis: np.ndarray | None = None
) -> LinearHead:
    pooled, labels = pooled[photos.training], photos.labels[photos.training]
    if before is None:
        start = np.zeros((len(photos.classes), pooled.shape[1])), np.zeros(len(photos.classes))
        return LinearHead(*refit_head(pooled, labels, *start, np.zeros((0, pooled.shape[1])), from_zero=True))
    assert basis is not None
    return LinearHead(*refit_head(pooled, labels, before.weight, before.bias, basis))


def score(head: LinearHead, photos: Photos, targets: np.ndarray, others: np.ndarray, k: int) -> dict[str, float]:
    """Clean accuracy, recall of the class, and the share of other photos that become the class with the mark."""
    test = ~photos.training
    scores = score_head(head, pool(photos.features[test]), photos.labels[test])
    plain, pasted = head.classify(pool(photos.features[others])), head.classify(pool(targets))
    changed = float((pasted[plain != k] == k).mean()) if (plain != k).any() else 0.0
    return {"accuracy": scores.accuracy.share, "recall": scores.recall[k].share, "transplant": changed}


def find_all(features: np.ndarray, head: LinearHead, k: int, seed: int) -> Iterator[tuple[str, list[np.ndarray]]]:
    """The concepts of each method, as maps (n, h, w) of the photos of the class."""
    weight, grid = head.weight.astype(np.float32), features.shape[2:]
    positions = compute_evidence(features, weight, k, "average").positive.reshape(-1, features.shape[1])
    patterns = choose_patterns(positions, seed)
    amounts = compute_amounts(positions, patterns).reshape(len(features), *grid, -1)
    yield METHODS[0], list(np.moveaxis(amounts, -1, 0))
    cells = features.transpose(0, 2, 3, 1).reshape(-1, features.shape[1])
    plain = find_patterns(cells, len(patterns), seed)
    yield METHODS[1], list(np.moveaxis(compute_amounts(cells, plain).reshape(len(features), *grid, -1), -1, 0))
    yield METHODS[2], find_principal_components(features, weight[k], len(patterns))
    yield METHODS[3], [np.tensordot(features, weight[k] - weight.mean(0), ([1], [0])).clip(0)]


def find_principal_components(features: np.ndarray, weight: np.ndarray, number: int) -> list[np.ndarray]:
    """Class-wise neural PCA (Neuhaus et al., ICCV 2023): components of the pooled contributions of the class's photos.

    A photo's strongest cell counts as much as the photo's score: maps are scaled to it.
    """
    contributions = pool(features) * weight
    centered = contributions - contributions.mean(0)
    components = np.linalg.svd(centered, full_matrices=False)[2][:number]
    maps = []
    for component in components:
        component = component * (1 if component.sum() >= 0 else -1)
        scores = centered @ component
        own = np.tensordot(features, component * weight, ([1], [0]))
        order = own / np.maximum(own.max((1, 2), keepdims=True), 1e-12)
        # In each photo, the map decides the cell, and the score decides the order of the photos.
        maps.append(np.maximum(scores, 0)[:, None, None] * np.maximum(order, 0))
    return maps


def count_on_mark(
    maps: np.ndarray, own: np.ndarray, masks: dict[int, np.ndarray | None], classifier: inspector.Classifier
) -> int:
    """Of the twelve strongest cells, count those whose center is within the mark, grown by half a cell."""
    field, count = classifier.receptive_field, 0
    for n, row, column in find_strongest(maps.astype(np.float64), TOP):
        if int(own[n]) not in masks:
            continue
        mask = masks[int(own[n])]
        if mask is None:
            count += 1
            continue
        half = round(field.y.stride / 2)
        grown = cv2.dilate(mask.astype(np.uint8), np.ones((2 * half + 1, 2 * half + 1), np.uint8))
        y, x = (
            min(max(int(axis.centre + place * axis.stride), 0), SIZE - 1)
            for axis, place in ((field.y, row), (field.x, column))
        )
        count += int(grown[y, x])
    return count


# --- tables


def make_tables(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    learned = [row for row in rows if row["learned"]]
    yield f"{len(rows)} cases, of which the head learned the shortcut in {len(learned)}."
    lines = []
    for kind in (*LOCAL, "all local kinds", *GLOBAL):
        of_kind = [row for row in learned if row["kind"] == kind or (kind.startswith("all") and row["kind"] in LOCAL)]
        if of_kind:
            counts = (sum(row["found"][method] for row in of_kind) for method in METHODS)
            lines.append((kind, len(of_kind), *(f"{count} ({count / len(of_kind):.0%})" for count in counts)))
    yield "Found, by kind; of cast, jpeg and background: on marked photos."
    yield format_table(("kind", "cases", *METHODS), lines)
    shares = []
    for share in SHARES:
        own = [row for row in learned if row["kind"] in LOCAL and row["share"] == share]
        if own:
            shares.append(
                (
                    f"{share:.0%}",
                    len(own),
                    *(f"{sum(row['found'][method] for row in own) / len(own):.0%}" for method in METHODS),
                )
            )
    yield "Found, local kinds, by the share of the class's photos with the mark:"
    yield format_table(("share", "cases", *METHODS), shares)
    repaired = [row for row in learned if row["kind"] in LOCAL and "repaired" in row["scores"]]
    if repaired:
        yield (
            f"Heads, over the {len(repaired)} local cases that evidence concepts found (median, mean). The flags come "
            "from the known place of the mark."
        )
        names = ("before", "repaired", "without refit", "never saw it")
        yield format_table(
            ("head", "become the class with the mark", "clean accuracy", "recall of the class"),
            [
                (
                    name,
                    *(
                        describe([row["scores"][name][key] for row in repaired])
                        for key in ("transplant", "accuracy", "recall")
                    ),
                )
                for name in names
            ],
        )


def describe(values: Sequence[float]) -> str:
    return f"{median(values):.1%}, {np.mean(values):.1%}"


# --- speed


def measure_speed(data: Path) -> None:
    """Measure the concepts of all 17 classes of flowers17, and scoring a head on 10,000 stored photos."""
    classifier = inspector.load("flowers17_gap")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "results"
        run_dataset(data / "flowers17", classifier, out, RunOptions(features=True))
        started = time.perf_counter()
        memory = measure_peak_memory(lambda: inspector.concepts(out, options=ConceptOptions(seeds=1)))
        seconds = time.perf_counter() - started
    chance = np.random.default_rng(0)
    head = LinearHead(chance.normal(size=(17, 1280)), chance.normal(size=17))
    pooled, labels = chance.random((10_000, 1280)), chance.integers(0, 17, 10_000)
    score_head(head, pooled, labels)
    started = time.perf_counter()
    score_head(head, pooled, labels)
    scoring = time.perf_counter() - started
    table = format_table(
        ("what", "seconds", "MB"),
        [
            ("concepts of 17 classes, 1,360 photos", f"{seconds:.1f}", memory),
            ("score a head on 10,000 photos", f"{scoring:.3f}", ""),
        ],
    )
    write_results("shortcuts_speed", "python benchmarks/shortcuts.py --data FOLDER --speed", table)


if __name__ == "__main__":
    typer.run(main)
