"""Measure how close a batch run comes to the speed of its slower part, and its speed relative to a plain loop.

The photos are seeded crops of scikit-image's and the app's examples, 500x375 pixels, as JPEGs. One round times:

- decoding and resizing alone, with the threads of the run,
- the network alone: all class maps of batches that are ready,
- end to end: `inspector.datasets.run.run_dataset`, from the files to the Parquet shards,
- with --peer, a plain loop with pytorch-grad-cam: decode, resize, one map of the predicted class, same batch size.

glibc keeps freed memory in all of them. The table has medians over the rounds, and the median of the ratios within a
round: of the run to its slower part (the target is 0.9), and to the plain loop (the target is 5). If decoding and the
network share the same processors, no run can be faster than both parts one after the other; the table has that too.

    python benchmarks/batch.py --peer
    python benchmarks/batch.py --memory 100000

`--memory` compares the peak memory of runs of 1,000 images and of this many (hard links to the same photos) instead.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import skimage.data
import torch
import typer
from PIL import Image
from report import format_table, time_interleaved, write_results

import inspector
from inspector.datasets import run
from inspector.explain.backends.accelerate import accelerate
from inspector.explain.memory import keep_freed_memory
from inspector.images.examples import list_examples
from inspector.images.photo import read_image
from inspector.images.preprocessing import make_view
from inspector.images.sources import list_images

WIDTH, HEIGHT = 500, 375
# Network -> the layer before its pooling, which pytorch-grad-cam needs.
TARGETS = {"efficientnet_lite0": "_bn1", "torchvision:resnet18": "layer4", "torchvision:resnet50": "layer4"}
SKIMAGE = ("astronaut", "coffee", "chelsea", "rocket")
DECODING, NETWORK, WHOLE, LOOP = "decoding and resizing alone", "network alone", "end to end", "plain loop, grad-cam"
FEW = 1_000


def main(
    images: Annotated[int, typer.Option(min=1, help="Number of photos.")] = 1_000,
    model: Annotated[str, typer.Option(help="As for the command line.")] = "efficientnet_lite0",
    backends: Annotated[
        str, typer.Option(help="Backends that run the network, except in the plain loop; separated by commas.")
    ] = "eager,onnxruntime",
    batch_size: Annotated[int, typer.Option(min=1, help="Images per forward pass.")] = 32,
    workers: Annotated[int, typer.Option(min=1, help="Threads that decode.")] = os.cpu_count() or 1,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds.")] = 3,
    peer: Annotated[bool, typer.Option("--peer", help="Also time the plain loop with pytorch-grad-cam.")] = False,
    peer_images: Annotated[int, typer.Option(min=1, help="Photos in the plain loop.")] = 256,
    memory: Annotated[
        int, typer.Option(min=0, help="Measure peak memory at 1,000 and at this many images instead.")
    ] = 0,
    memory_model: Annotated[
        str, typer.Option(help="Network for --memory: a fast one, so that it takes minutes.")
    ] = "fashion_gap",
) -> None:
    """Time a batch run, its parts and a plain loop, and write results/batch.md (or results/batch_memory.md)."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = make_photos(Path(temporary) / "photos", images)
        if memory:
            compare_memory(folder, Path(temporary), memory, memory_model)
            return
        keep_freed_memory()
        eager = inspector.load(model)
        contestants: dict[str, Callable[[], Any]] = {}
        for backend in backends.split(","):
            contestants |= make_contestants(
                accelerate(eager, backend), backend, folder, Path(temporary), batch_size, workers
            )
        if peer:
            some = sorted(folder.glob("*.jpg"))[:peer_images]
            contestants[LOOP] = make_plain_loop(eager, some, TARGETS[model], batch_size)
        times = time_interleaved(contestants, rounds, warm_up=1)
    counts = dict.fromkeys(contestants, images) | {LOOP: peer_images}
    rates = {what: [counts[what] / one * 1e3 for one in values] for what, values in times.items()}
    command = f"python benchmarks/batch.py --images {images} --model {model} --backends {backends} --rounds {rounds}"
    command += f" --batch-size {batch_size} --workers {workers}" + f" --peer --peer-images {peer_images}" * peer
    write_results("batch", command, *(part for backend in backends.split(",") for part in report_rates(rates, backend)))


def make_photos(folder: Path, images: int) -> Path:
    """Write random crops of the examples, so that no two photos are the same."""
    folder.mkdir()
    random = np.random.default_rng(0)
    sources = [Image.fromarray(getattr(skimage.data, name)()) for name in SKIMAGE]
    sources += [Image.open(path).convert("RGB") for path in list_examples("photos").values()]
    for number in range(images):
        source = sources[number % len(sources)]
        scale = random.uniform(1.05, 1.5) * max(WIDTH / source.width, HEIGHT / source.height)
        width, height = round(source.width * scale), round(source.height * scale)
        left, top = (int(random.integers(0, room + 1)) for room in (width - WIDTH, height - HEIGHT))
        crop = source.resize((width, height)).crop((left, top, left + WIDTH, top + HEIGHT))
        crop.save(folder / f"{number:06}.jpg", quality=90)
    return folder


def make_contestants(
    classifier: inspector.Classifier, backend: str, folder: Path, temporary: Path, batch_size: int, workers: int
) -> dict[str, Callable[[], Any]]:
    items = list(enumerate(list_images(folder)))
    batches = run.split_into_batches(items, batch_size)
    views = [make_view(read_image(item.file), classifier.preprocessing) for _, item in items[:batch_size]]
    ready = torch.cat([classifier.inputs(view) for view in views])

    def decode() -> None:
        with ThreadPoolExecutor(workers) as pool:
            for _ in run.decode_ahead(pool, batches, workers, classifier, overlays=False):
                pass

    def explain() -> None:
        for some in batches:
            inspector.class_maps_of_batch(classifier, ready[: len(some)])

    def whole() -> None:
        with tempfile.TemporaryDirectory(dir=temporary) as out:
            counts = run.run_dataset(folder, classifier, out, run.RunOptions(batch_size=batch_size, workers=workers))
            assert counts.explained == len(items)

    return {DECODING: decode, f"{NETWORK}, {backend}": explain, f"{WHOLE}, {backend}": whole}


def make_plain_loop(
    classifier: inspector.Classifier, files: list[Path], target: str, batch_size: int
) -> Callable[[], None]:
    from pytorch_grad_cam import GradCAM

    network = classifier.network
    cam = GradCAM(network, [network.get_submodule(target)])

    def loop() -> None:
        for first in range(0, len(files), batch_size):
            some = files[first : first + batch_size]
            views = [make_view(read_image(file), classifier.preprocessing) for file in some]
            # Without targets pytorch-grad-cam takes the predicted class of each image.
            cam(torch.cat([classifier.inputs(view) for view in views]), None)

    return loop


def report_rates(rates: dict[str, list[float]], backend: str) -> list[str]:
    """Report the speed of the parts and of the whole run with one backend, in images per second."""
    network, whole = rates[f"{NETWORK}, {backend}"], rates[f"{WHOLE}, {backend}"]
    both = list(zip(rates[DECODING], network, strict=True))
    lines = {DECODING: rates[DECODING], f"{NETWORK}, {backend}": network, f"{WHOLE}, {backend}": whole}
    lines["both parts back to back"] = [1 / (1 / one + 1 / other) for one, other in both]
    if LOOP in rates:
        lines[LOOP] = rates[LOOP]
    rows = [
        (what, f"{median(values):.1f}", f"{compute_paired_ratio(values, list(map(min, both))):.2f}")
        for what, values in lines.items()
    ]
    sentences = [format_table(("step", "images/s", "ratio to the slower part"), rows)]
    if LOOP in rates:
        ratio = compute_paired_ratio(whole, rates[LOOP])
        sentences.append(
            f"End to end, all top classes: {ratio:.1f} times the images/s of the plain loop with one class."
        )
    return sentences


def compute_paired_ratio(values: list[float], others: list[float]) -> float:
    return median(one / other for one, other in zip(values, others, strict=True))


def compare_memory(folder: Path, temporary: Path, many: int, model: str) -> None:
    photos = sorted(folder.glob("*.jpg"))
    rows = []
    for images in (FEW, many):
        copies = temporary / f"copies-{images}"
        for number in range(images):
            within = copies / f"{number // 1_000:04}"
            within.mkdir(parents=True, exist_ok=True)
            (within / f"{number:07}.jpg").hardlink_to(photos[number % len(photos)])
        out = temporary / f"out-{images}"
        command = [sys.executable, __file__, "--peak-of", str(copies), str(out), model]
        peak, seconds = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        rows.append((f"{images:,}", peak, seconds))
    ratio = float(rows[1][1]) / float(rows[0][1])
    parts = [
        format_table(("images", "peak memory, MB", "seconds"), rows),
        f"Ratio of the peaks: {ratio:.3f}",
    ]
    write_results("batch_memory", f"python benchmarks/batch.py --memory {many} --memory-model {model}", *parts)


def print_peak_memory(folder: str, out: str, model: str) -> None:
    """Print the peak memory (MB) and the duration (s) of a run in this process."""
    import resource
    import time

    start = time.perf_counter()
    keep_freed_memory()
    run.run_dataset(folder, inspector.load(model), out)
    print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f}\n{time.perf_counter() - start:.0f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peak-of"]:
        print_peak_memory(*sys.argv[2:])
    else:
        typer.run(main)
