"""Measure how close a batch run comes to the time of its parts, and its speed relative to a plain loop.

The photos are seeded crops of scikit-image's and the app's examples, 500x375 pixels, as JPEGs. One round, in a process
of its own, times:

- decoding and resizing alone, with the threads of the run,
- the network alone: all class maps of batches that are ready, on a backend that is built,
- end to end: `inspector.datasets.run.run_items`, from the files to the Parquet shards, with the same backend,
- with --peer, a plain loop with pytorch-grad-cam: decode, resize, one map of the predicted class, same batch size.

glibc keeps freed memory in all of them. In the first table decoding and the network share all cores, so no run can be
faster than both parts back to back, one after the other. In the second one the network has one core and one thread, and
decoding has the other cores; no run can be faster than the slower part. The tables have medians over the rounds, and
the median of the ratios within a round (the targets are 0.95).

    python benchmarks/batch.py --before 9d5b685
    python benchmarks/batch.py --peer
    python benchmarks/batch.py --memory 100000

`--before` also times the package of an earlier commit, in turn with the present one. `--memory` compares the peak
memory of runs of 1,000 images and of this many (hard links to the same photos) instead.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import skimage.data
import torch
import typer
from before_after import NOW, measure_in_turn
from PIL import Image
from report import format_table, write_results

import inspector
from inspector.datasets import run
from inspector.explain.memory import keep_freed_memory
from inspector.images.examples import list_examples
from inspector.images.photo import read_image
from inspector.images.preprocessing import make_view
from inspector.images.sources import Item, list_images, read_item

WIDTH, HEIGHT = 500, 375
# Network -> the layer before its pooling, which pytorch-grad-cam needs.
TARGETS = {"efficientnet_lite0": "_bn1", "torchvision:resnet18": "layer4", "torchvision:resnet50": "layer4"}
SKIMAGE = ("astronaut", "coffee", "chelsea", "rocket")
DECODING, NETWORK, WHOLE, LOOP = "decoding alone", "network alone", "end to end", "plain loop"
FEW = 1_000
PEER_IMAGES = 256
CORES = sorted(os.sched_getaffinity(0))


def main(
    images: Annotated[int, typer.Option(min=1, help="Number of photos.")] = 1_000,
    model: Annotated[str, typer.Option(help="As for the command line.")] = "efficientnet_lite0",
    backends: Annotated[
        str, typer.Option(help="Backends that run the network, some with their dtype; separated by commas.")
    ] = "eager,onnxruntime,openvino,onnxruntime int8,openvino int8",
    batch_size: Annotated[int, typer.Option(min=1, help="Images per forward pass.")] = 32,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds.")] = 3,
    before: Annotated[str | None, typer.Option(help="Commit whose package is timed in turn with this one.")] = None,
    peer: Annotated[bool, typer.Option("--peer", help="Also time the plain loop with pytorch-grad-cam.")] = False,
    memory: Annotated[
        int, typer.Option(min=0, help="Measure peak memory at 1,000 and at this many images instead.")
    ] = 0,
    memory_model: Annotated[
        str, typer.Option(help="Network for --memory: a fast one, so that it takes minutes.")
    ] = "fashion_gap",
) -> None:
    """Time a batch run and its parts, and write results/batch.md (or results/batch_memory.md)."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = make_photos(Path(temporary) / "photos", images)
        if memory:
            compare_memory(folder, Path(temporary), memory, memory_model)
            return
        shared, apart = (
            {
                backend: measure_in_turn(
                    __file__,
                    ["--measure", str(folder), model, backend, str(batch_size), str(own), str(peer)],
                    rounds,
                    before,
                )
                for backend in backends.split(",")
            }
            for own in (False, True)
        )
    command = f'python benchmarks/batch.py --images {images} --model {model} --backends "{backends}" --rounds {rounds}'
    command += f" --batch-size {batch_size}" + f" --before {before}" * (before is not None) + " --peer" * peer
    parts = [
        "Images/s. Decoding and the network share all cores:",
        format_rates(shared, "back to back", lambda one: 1 / (1 / one[DECODING] + 1 / one[NETWORK])),
        "The network on one core, decoding on the others:",
        format_rates(apart, "slower part", lambda one: min(one[DECODING], one[NETWORK])),
    ]
    if peer:
        parts.append(f"A plain loop with pytorch-grad-cam, one class: {compare_with_loop(shared)}.")
    write_results("batch", command, *parts)


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


def measure(folder: str, model: str, backend: str, batch_size: int, apart: bool, peer: bool) -> dict[str, float]:
    """Time each part of a run and the whole, in images/s; `apart`: the network has the first core and one thread."""
    keep_freed_memory()
    if apart:
        os.sched_setaffinity(0, CORES[:1])
        torch.set_num_threads(1)
    eager = inspector.load(model)
    name, _, dtype = backend.partition(" ")
    classifier, items = run.accelerate_for_dataset(eager, name, dtype or "float32"), list_images(folder)
    # The backend is built only once, before the timing.
    run.accelerate_for_dataset = lambda classifier, *_: classifier
    decoding_cores = CORES[1:] if apart else CORES
    parts: dict[str, Callable[[Sequence[Item]], Any]] = {
        DECODING: partial(decode, classifier, decoding_cores),
        NETWORK: make_network_alone(classifier, items[:batch_size]),
        WHOLE: partial(explain, classifier, batch_size, decoding_cores),
    }
    counts = dict.fromkeys(parts, len(items))
    if peer and not apart and backend == "eager":
        parts[LOOP], counts[LOOP] = make_plain_loop(eager, TARGETS[model], batch_size), PEER_IMAGES
    rates = {}
    for name, part in parts.items():
        part(items[: 2 * batch_size])
        start = time.perf_counter()
        part(items[: counts[name]])
        rates[name] = counts[name] / (time.perf_counter() - start)
    return rates


def decode(classifier: inspector.Classifier, cores: Sequence[int], items: Sequence[Item]) -> None:
    def decode_item(item: Item) -> None:
        classifier.inputs(make_view(read_item(item), classifier.preprocessing))

    with ThreadPoolExecutor(len(cores), initializer=lambda: os.sched_setaffinity(0, cores)) as pool:
        for _ in pool.map(decode_item, items):
            pass


def make_network_alone(classifier: inspector.Classifier, items: Sequence[Item]) -> Callable[[Sequence[Item]], None]:
    """Return a function that computes the class maps of as many images as there are items."""
    ready = torch.cat([classifier.inputs(make_view(read_item(item), classifier.preprocessing)) for item in items])

    def compute(items: Sequence[Item]) -> None:
        for first in range(0, len(items), len(ready)):
            inspector.class_maps_of_batch(classifier, ready[: len(items) - first])

    return compute


def explain(classifier: inspector.Classifier, batch_size: int, cores: Sequence[int], items: Sequence[Item]) -> None:
    def move_threads(done: int, images: int) -> None:
        # The threads of a run exist after its first batch.
        for thread in threading.enumerate():
            if thread is not threading.main_thread() and thread.native_id is not None:
                os.sched_setaffinity(thread.native_id, cores)

    options = run.RunOptions(batch_size=batch_size, workers=len(cores))
    with tempfile.TemporaryDirectory() as out:
        counts = run.run_items(items, classifier, out, options, source="photos", on_progress=move_threads)
    assert counts.explained == len(items)


def make_plain_loop(classifier: inspector.Classifier, target: str, batch_size: int) -> Callable[[Sequence[Item]], None]:
    from pytorch_grad_cam import GradCAM

    network = classifier.network
    cam = GradCAM(network, [network.get_submodule(target)])

    def loop(items: Sequence[Item]) -> None:
        for first in range(0, len(items), batch_size):
            some = items[first : first + batch_size]
            views = [make_view(read_image(item.file), classifier.preprocessing) for item in some]
            # Without targets pytorch-grad-cam takes the predicted class of each image.
            cam(torch.cat([classifier.inputs(view) for view in views]), None)

    return loop


Rates = Mapping[str, Mapping[str, list[dict[str, float]]]]  # backend -> package -> of each round: part -> images/s


def format_rates(rates: Rates, limit_name: str, find_limit: Callable[[dict[str, float]], float]) -> str:
    """Format the speed of the parts and of the whole run, and its ratio to a limit, as a table."""
    header = ("backend", "package", DECODING, NETWORK, limit_name, WHOLE, f"{WHOLE} / {limit_name}")
    rows = []
    for backend, packages in rates.items():
        for package, each in packages.items():
            limits = [find_limit(one) for one in each]
            ratio = median(one[WHOLE] / limit for one, limit in zip(each, limits, strict=True))
            speeds = [median(one[part] for one in each) for part in (DECODING, NETWORK)]
            speeds += [median(limits), median(one[WHOLE] for one in each)]
            rows.append((backend, package, *(f"{speed:.1f}" for speed in speeds), f"{ratio:.2f}"))
    return format_table(header, rows)


def compare_with_loop(rates: Rates) -> str:
    """Return the speed of the plain loop, and how many times as fast the runs are."""
    loop = median(one[LOOP] for one in rates["eager"][NOW])
    runs = {backend: median(one[WHOLE] for one in packages[NOW]) for backend, packages in rates.items()}
    return f"{loop:.1f} images/s; " + ", ".join(
        f"{name} {rate / loop:.1f} times as fast" for name, rate in runs.items()
    )


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

    start = time.perf_counter()
    keep_freed_memory()
    run.run_dataset(folder, inspector.load(model), out)
    print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f}\n{time.perf_counter() - start:.0f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peak-of"]:
        print_peak_memory(*sys.argv[2:])
    elif sys.argv[1:2] == ["--measure"]:
        folder, model, backend, batch_size, apart, peer = sys.argv[2:]
        print(json.dumps(measure(folder, model, backend, int(batch_size), apart == "True", peer == "True")))
    else:
        typer.run(main)
