"""Measure how time and memory grow with the work: 1 to 100,000 photos, 10 to 10,000 classes.

Photos: `run_dataset` with efficientnet_lite0, from the files to the Parquet shards: eager, and with OpenVINO in
float32, bfloat16 and int8; and a plain loop with pytorch-grad-cam, one class per photo, in batches of 32. The photos
are those of batch.py; beyond 1,000 they are hard links.

Classes: all class maps of one input of efficientnet_lite0, whose last layer is replaced by one with this many classes
(random weights do not change the timing); the bare forward pass; and torchcam's CAM and Captum's LayerGradCam, which
compute one class after the other. Each time is the median of five calls, or of one call if it takes over ten seconds.

Each point is measured in a process of its own, which may use one core or all (Linux only). Its time starts when
everything is loaded and built. Its memory is the peak resident memory above the resident memory at that moment, after
the memory freed during loading was returned to the system. OpenVINO compiles a network for a batch when it first meets
its size, so this is part of the time of a run. Points that would take many minutes are left out, but for 100,000 photos
in int8.

The points are stored in results/cost.json: `--work classes` measures only those again, and `--work ''` only draws the
figure again. From the photos per second of the longest runs the script computes what 100 million photos would take.

    python benchmarks/cost.py
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
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
from inspector.explain.backends.lower_precision import Calibration
from inspector.explain.memory import keep_freed_memory
from inspector.images.examples import list_examples
from inspector.images.sources import list_images

MODEL, CALLS, SLOW = "efficientnet_lite0", 5, 10  # seconds
ALL = os.cpu_count() or 1
PHOTOS, CLASSES = "photos", "classes"
AMOUNTS = {PHOTOS: (1, 10, 100, 1_000, 10_000, 100_000), CLASSES: (10, 100, 1_000, 10_000)}
LOOP, BARE, CAM, CAPTUM = "loop with pytorch-grad-cam", "bare forward pass", "torchcam CAM", "Captum LayerGradCam"
UNITS = {PHOTOS: ("seconds", 1.0), CLASSES: ("ms per photo, all classes", 1e3)}
POINTS = RESULTS / "cost.json"
PICTURE = Path(__file__).parent.parent / "docs" / "images" / "cost.png"
MANY = 100_000_000  # photos, of the estimate
LIST_KB = 0.4  # kilobytes per photo on the driver: the list, and the same again for Ray


@dataclass(frozen=True)
class Method:
    """What computes, in which precision, on how many cores."""

    name: str  # of a backend of Inspector, or of what it is compared with
    dtype: str = "float32"
    cores: int = ALL

    @property
    def label(self) -> str:
        return f"{self.name}, {self.dtype}" if self.name in ("eager", "openvino") else self.name


EAGER = Method("eager")
OPENVINO = [Method("openvino", dtype, cores) for cores in sorted({1, ALL}) for dtype in ("float32", "bfloat16", "int8")]
# The largest amount for each method.
LIMITS: dict[str, dict[Method, int]] = {
    PHOTOS: {Method(LOOP): 1_000, EAGER: 1_000}
    | {method: 10_000 if method.cores == ALL else 1_000 for method in OPENVINO}
    | {Method("openvino", "int8"): 100_000},
    CLASSES: {Method(BARE): 10_000, Method(CAPTUM): 1_000, Method(CAM): 10_000, EAGER: 10_000}
    | dict.fromkeys(OPENVINO, 10_000),
}


@dataclass(frozen=True)
class Point:
    """What one amount of work takes."""

    amount: int
    seconds: float
    memory: int  # MB
    read: float = 0  # bytes of the photos
    written: float = 0  # bytes of the Parquet shards


Line = tuple[Method, list[Point]]


def main(
    most: Annotated[int, typer.Option(min=1, help="The largest number of photos or classes.")] = 100_000,
    work: Annotated[str, typer.Option(help="What to measure: `photos`, `classes`, or both.")] = f"{PHOTOS},{CLASSES}",
    point: Annotated[str, typer.Option(help="Measure one point, given as JSON.", hidden=True)] = "",
) -> None:
    """Measure cost against work, write results/cost.md and docs/images/cost.png."""
    if point:
        task = json.loads(point)
        keep_freed_memory()
        found = MEASURE[task["work"]](Method(**task["method"]), task["amount"], Path(task["folder"]))
        print(json.dumps(asdict(found)))
        return
    measured = read_points()
    with tempfile.TemporaryDirectory() as temporary:
        for kind in filter(None, work.split(",")):
            if kind == PHOTOS:
                link_photos(
                    make_photos(Path(temporary) / "originals", min(1_000, most)), Path(temporary) / PHOTOS, most
                )
            measured[kind] = [
                (
                    method,
                    [measure_in_process(kind, method, n, temporary) for n in AMOUNTS[kind] if n <= min(limit, most)],
                )
                for method, limit in LIMITS[kind].items()
            ]
            store_points(measured)
    command = f"python benchmarks/cost.py --most {most}"
    tables = [format_points(kind, lines) for kind, lines in measured.items()]
    write_results("cost", command, *tables, *estimate_many(measured.get(PHOTOS, [])))
    draw_figure(measured)


def list_amounts(work: str, most: int) -> list[int]:
    return [amount for amount in AMOUNTS[work] if amount <= most]


def read_points() -> dict[str, list[Line]]:
    stored = json.loads(POINTS.read_text()) if POINTS.exists() else {}
    return {
        kind: [(Method(**line["method"]), [Point(**point) for point in line["points"]]) for line in lines]
        for kind, lines in stored.items()
    }


def store_points(measured: dict[str, list[Line]]) -> None:
    stored = {
        kind: [{"method": asdict(method), "points": [asdict(point) for point in points]} for method, points in lines]
        for kind, lines in measured.items()
    }
    POINTS.write_text(json.dumps(stored, indent=1) + "\n")


def link_photos(originals: Path, photos: Path, most: int) -> None:
    """Make a folder of hard links to the original photos for each amount."""
    files = sorted(originals.glob("*.jpg"))
    for amount in list_amounts(PHOTOS, most):
        folder = photos / str(amount)
        folder.mkdir(parents=True)
        for n in range(amount):
            (folder / f"{n:06}.jpg").hardlink_to(files[n % len(files)])


def measure_in_process(work: str, method: Method, amount: int, folder: str) -> Point:
    task = {"work": work, "method": asdict(method), "amount": amount, "folder": folder}
    finished = subprocess.run(
        [sys.executable, __file__, "--point", json.dumps(task)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        preexec_fn=lambda: os.sched_setaffinity(0, range(method.cores)),
    )
    point = Point(**json.loads(finished.stdout.splitlines()[-1]))
    print(work, method.label, f"{method.cores} cores", point, file=sys.stderr, flush=True)
    return point


def measure_photos(method: Method, amount: int, folder: Path) -> Point:
    photos, classifier = folder / PHOTOS / str(amount), inspector.load(MODEL)
    options = RunOptions(workers=method.cores)
    if method.name == LOOP:
        loop, items = make_plain_loop(classifier, TARGETS[MODEL], options.batch_size), list_images(photos)
        return time_calls(lambda: loop(items), amount, calls=1)
    classifier = build(classifier, method, folder)
    with tempfile.TemporaryDirectory(dir=folder) as out:
        point = time_calls(lambda: run_dataset(photos, classifier, out, options), amount, calls=1)
        written = sum(file.stat().st_size for file in Path(out).glob("*.parquet"))
    read = sum(file.stat().st_size for file in photos.iterdir())
    return Point(amount, point.seconds, point.memory, read, written)


def measure_classes(method: Method, amount: int, folder: Path) -> Point:
    torch.manual_seed(0)
    network = inspector.load(MODEL).network
    network._fc = nn.Linear(network._fc.in_features, amount)
    inputs = torch.randn(1, 3, 224, 224)
    if method.name == BARE:
        return time_calls(lambda: torch.inference_mode()(network)(inputs), amount)
    if method.name in (CAM, CAPTUM):
        explain = (prepare_torchcam_cam if method.name == CAM else prepare_captum_gradcam)(
            network, inputs, "_bn1", "_fc"
        )
        return time_calls(lambda: explain(range(amount)), amount)
    classifier = build(inspector.Classifier.wrap(network), method, folder)
    return time_calls(lambda: inspector.class_maps_of_batch(classifier, inputs), amount)


def build(classifier: inspector.Classifier, method: Method, folder: Path) -> inspector.Classifier:
    # With random weights the top-1 class may change.
    calibration = Calibration(list(list_examples("photos").values()), least_agreement=0.0)
    return accelerate(classifier, method.name, folder / "cache", method.dtype, calibration=calibration)


MEASURE: dict[str, Callable[[Method, int, Path], Point]] = {PHOTOS: measure_photos, CLASSES: measure_classes}


def time_calls(work: Callable[[], Any], amount: int, calls: int = CALLS) -> Point:
    """Return the median seconds of a call, and the peak memory of the first call."""
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
    return Point(amount, median(times), memory)


def format_points(work: str, lines: list[Line]) -> str:
    unit, scale = UNITS[work]
    rows = [
        (
            method.label,
            method.cores,
            f"{point.amount:,}",
            f"{point.seconds * scale:.3g}",
            *([f"{point.amount / point.seconds:.3g}"] if work == PHOTOS else []),
            point.memory,
        )
        for method, points in lines
        for point in points
    ]
    rate = ["photos/s"] if work == PHOTOS else []
    return format_table(("method", "cores", work, unit, *rate, "peak memory above baseline, MB"), rows)


def estimate_many(lines: list[Line]) -> list[str]:
    """Compute what 100 million photos would take, from the longest run of each method."""
    rows, last = [], None
    for method, points in lines:
        if method.name == LOOP or not points:
            continue
        last = points[-1]
        hours = last.seconds / last.amount * MANY / 3600
        rows.append(
            (
                method.label,
                method.cores,
                f"{last.amount / last.seconds:.3g}",
                f"{hours:,.0f}",
                f"{hours * method.cores:,.0f}",
                f"{hours / 24 / 100:.2g}",
            )
        )
    if last is None:
        return []
    header = ("method", "cores", "photos/s", "machine hours", "core hours", "days on 100 machines")
    read, written = (size / last.amount * MANY / 1e9 for size in (last.read, last.written))
    sizes = f"Photos read: {read:,.0f} GB. Parquet written: {written:,.0f} GB. "
    sizes += f"List on the driver: {LIST_KB * MANY / 1e6:,.0f} GB."
    return [f"Computed, not run: {MANY:,} photos.", format_table(header, rows), sizes]


def draw_figure(measured: dict[str, list[Line]]) -> None:
    mpl.use("agg")
    figure, axes = plt.subplots(2, 2, figsize=(12.5, 7.8), layout="constrained")
    labels = list(dict.fromkeys(method.label for lines in measured.values() for method, _ in lines))
    for row, (work, lines) in zip(axes, measured.items(), strict=True):
        unit, scale = UNITS[work]
        for method, points in lines:
            amounts = [point.amount for point in points]
            ours = method.label != method.name
            one = method.cores == 1 < ALL
            style = {
                "marker": "o",
                "markersize": 4,
                "label": method.label + (", one core" if one else ""),
                "linestyle": ":" if one else "-" if ours else "--",
                "color": f"C{labels.index(method.label)}",
            }
            row[0].loglog(amounts, [point.seconds * scale for point in points], **style)
            row[1].loglog(amounts, [max(1, point.memory) for point in points], **style)
        for axis, label in zip(row, (unit, "peak memory above baseline, MB"), strict=True):
            axis.set(xlabel=work, ylabel=label)
            axis.grid(which="major", alpha=0.3)
            for side in (axis.xaxis, axis.yaxis):
                side.set_major_formatter(StrMethodFormatter("{x:,g}"))
        row[1].legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(PICTURE, dpi=110)


if __name__ == "__main__":
    typer.run(main)
