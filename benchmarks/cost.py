"""Measure how time and memory grow with the work: 1 to 10,000 photos, 10 to 10,000 classes.

Photos: `inspector batch` with efficientnet_lite0, from the files to the Parquet shards, eager and with ONNX Runtime;
and a plain loop with pytorch-grad-cam, one class per photo, in batches of 32. The photos are those of batch.py; beyond
1,000 they are hard links.

Classes: all class maps of one input of efficientnet_lite0, whose last layer is replaced by one with this many classes
(random weights do not change the timing); the bare forward pass; and torchcam's CAM and Captum's LayerGradCam, which
compute one class after the other. Each time is the median of five calls, or of one call if it takes over ten seconds.

Each point is measured in a process of its own (Linux only). Its time starts when everything is loaded and built. Its
memory is the peak resident memory above the resident memory at that moment, after the memory freed during loading was
returned to the system. Points of other packages that would take many minutes are left out. ONNX Runtime keeps the
memory of the passes that verified it, so later passes seem to need none. The points are stored in results/cost.json:
`--work classes` measures only those again, and `--work ''` only draws the figure again.

    python benchmarks/cost.py
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import matplotlib as mpl
import torch
import typer
from backends import prepare_captum_gradcam, prepare_torchcam_cam
from batch import TARGETS, make_photos, make_plain_loop
from matplotlib import pyplot as plt
from matplotlib.ticker import StrMethodFormatter
from report import RESULTS, format_table, measure_peak_memory, write_results
from torch import nn

import inspector
from inspector.datasets.run import RunOptions, run_dataset
from inspector.explain.backends.accelerate import accelerate
from inspector.explain.memory import keep_freed_memory
from inspector.images.sources import list_images

MODEL, CALLS, SLOW = "efficientnet_lite0", 5, 10  # seconds
PHOTOS, CLASSES = "photos", "classes"
AMOUNTS = {PHOTOS: (1, 10, 100, 1_000, 10_000), CLASSES: (10, 100, 1_000, 10_000)}
EAGER, ONNX = "Inspector, eager", "Inspector, ONNX Runtime"
LOOP, BARE, CAM, CAPTUM = "loop with pytorch-grad-cam", "bare forward pass", "torchcam CAM", "Captum LayerGradCam"
# The largest amount for each method.
LIMITS = {
    PHOTOS: {EAGER: 10_000, ONNX: 10_000, LOOP: 1_000},
    CLASSES: {BARE: 10_000, EAGER: 10_000, ONNX: 10_000, CAM: 10_000, CAPTUM: 1_000},
}
UNITS = {PHOTOS: ("seconds", 1.0), CLASSES: ("ms per photo, all classes", 1e3)}
POINTS = RESULTS / "cost.json"
PICTURE = Path(__file__).parent.parent / "docs" / "images" / "cost.png"

Point = tuple[int, float, int]  # amount, seconds, MB


def main(
    most: Annotated[int, typer.Option(min=1, help="The largest number of photos or classes.")] = 10_000,
    work: Annotated[str, typer.Option(help="What to measure: `photos`, `classes`, or both.")] = f"{PHOTOS},{CLASSES}",
    point: Annotated[str, typer.Option(help="Measure one point: WORK|METHOD|AMOUNT|FOLDER.", hidden=True)] = "",
) -> None:
    """Measure cost against work, write results/cost.md and docs/images/cost.png."""
    if point:
        kind, method, amount, folder = point.split("|")
        keep_freed_memory()
        print(json.dumps(MEASURE[kind](method, int(amount), Path(folder))))
        return
    measured: dict[str, dict[str, list[Point]]] = json.loads(POINTS.read_text()) if POINTS.exists() else {}
    with tempfile.TemporaryDirectory() as temporary:
        for kind in filter(None, work.split(",")):
            if kind == PHOTOS:
                link_photos(
                    make_photos(Path(temporary) / "originals", min(1_000, most)), Path(temporary) / PHOTOS, most
                )
            measured[kind] = {
                method: [measure_in_process(kind, method, n, temporary) for n in AMOUNTS[kind] if n <= min(limit, most)]
                for method, limit in LIMITS[kind].items()
            }
    POINTS.write_text(json.dumps(measured) + "\n")
    command = f"python benchmarks/cost.py --most {most}"
    write_results("cost", command, *(format_points(kind, lines) for kind, lines in measured.items()))
    draw_figure(measured)


def link_photos(originals: Path, photos: Path, most: int) -> None:
    """Make a folder of hard links to the original photos for each amount."""
    files = sorted(originals.glob("*.jpg"))
    for amount in AMOUNTS[PHOTOS]:
        if amount <= most:
            folder = photos / str(amount)
            folder.mkdir(parents=True)
            for n in range(amount):
                (folder / f"{n:06}.jpg").hardlink_to(files[n % len(files)])


def measure_in_process(work: str, method: str, amount: int, folder: str) -> Point:
    command = [sys.executable, __file__, "--point", f"{work}|{method}|{amount}|{folder}"]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, memory = json.loads(finished.stdout.splitlines()[-1])
    print(f"{work}, {method}, {amount:,}: {seconds:.3f} s, {memory} MB", file=sys.stderr, flush=True)
    return amount, seconds, memory


def measure_photos(method: str, amount: int, folder: Path) -> tuple[float, int]:
    photos, classifier = folder / PHOTOS / str(amount), inspector.load(MODEL)
    if method == LOOP:
        loop, items = make_plain_loop(classifier, TARGETS[MODEL], RunOptions().batch_size), list_images(photos)
        return time_calls(lambda: loop(items), calls=1)
    if method == ONNX:
        classifier = accelerate(classifier, "onnxruntime")
    with tempfile.TemporaryDirectory(dir=folder) as out:
        return time_calls(lambda: run_dataset(photos, classifier, out), calls=1)


def measure_classes(method: str, amount: int, folder: Path) -> tuple[float, int]:
    torch.manual_seed(0)
    network = inspector.load(MODEL).network
    network._fc = nn.Linear(network._fc.in_features, amount)
    inputs = torch.randn(1, 3, 224, 224)
    if method == BARE:
        return time_calls(lambda: torch.inference_mode()(network)(inputs))
    if method in (CAM, CAPTUM):
        explain = (prepare_torchcam_cam if method == CAM else prepare_captum_gradcam)(network, inputs, "_bn1", "_fc")
        return time_calls(lambda: explain(range(amount)))
    classifier = inspector.Classifier.wrap(network)
    if method == ONNX:
        classifier = accelerate(classifier, "onnxruntime", folder / "cache")
    return time_calls(lambda: inspector.class_maps_of_batch(classifier, inputs))


MEASURE: dict[str, Callable[[str, int, Path], tuple[float, int]]] = {PHOTOS: measure_photos, CLASSES: measure_classes}


def time_calls(work: Callable[[], Any], calls: int = CALLS) -> tuple[float, int]:
    """Return the median seconds of a call, and the peak memory of the first call in MB."""
    times: list[float] = []

    def call() -> None:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)

    memory = measure_peak_memory(call)
    # Work that only the first of several calls does is not counted.
    if calls > 1 and times[0] < SLOW:
        times.clear()
        for _ in range(calls):
            call()
    return median(times), memory


def format_points(work: str, lines: dict[str, list[Point]]) -> str:
    unit, scale = UNITS[work]
    rows = [
        (method, f"{amount:,}", f"{seconds * scale:.3g}", memory)
        for method, points in lines.items()
        for amount, seconds, memory in points
    ]
    return format_table(("method", work, unit, "peak memory above baseline, MB"), rows)


def draw_figure(measured: dict[str, dict[str, list[Point]]]) -> None:
    mpl.use("agg")
    figure, axes = plt.subplots(2, 2, figsize=(12, 7.4), layout="constrained")
    methods = list(dict.fromkeys(method for lines in measured.values() for method in lines))
    for row, (work, lines) in zip(axes, measured.items(), strict=True):
        unit, scale = UNITS[work]
        for method, points in lines.items():
            amounts: Iterable[int] = [amount for amount, _, _ in points]
            ours = method.startswith("Inspector")
            style = {
                "marker": "o",
                "label": method,
                "linestyle": "-" if ours else "--",
                "color": f"C{methods.index(method)}",
            }
            row[0].loglog(amounts, [seconds * scale for _, seconds, _ in points], **style)
            row[1].loglog(amounts, [max(1, memory) for _, _, memory in points], **style)
        for axis, label in zip(row, (unit, "peak memory above baseline, MB"), strict=True):
            axis.set(xlabel=work, ylabel=label)
            axis.grid(which="major", alpha=0.3)
            for side in (axis.xaxis, axis.yaxis):
                side.set_major_formatter(StrMethodFormatter("{x:,g}"))
        row[1].legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(PICTURE, dpi=110)


if __name__ == "__main__":
    typer.run(main)
