"""Measure how much of the time of class maps is the pass of the runtime, in lower precision at batch 1.

One round times the following, in turn and on the same network and input (224x224 noise):

- the bare forward pass in PyTorch, in torch.inference_mode: the baseline,
- inspector.class_maps_of_batch with a backend: logits, the maps of all 1000 classes, and the check of their sums,
- the runtime's pass of the same file alone, from an array to arrays, with as many threads as torch and with one,
- the same pass without class maps, to logits and feature maps.

Before each timed call the same function runs once untimed. The table has medians and the medians of the ratios within a
round. Beside them stand the weights that one pass reads, in MB: up to the feature maps, and what follows in float32,
where the weight of the head is stored twice, once for the logits and once for the maps.

    python benchmarks/passes.py
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import onnx
import torch
import typer
from backends import LOWER, TUNED, load_classifier
from report import format_table, time_interleaved, write_results
from torch import Tensor

import inspector
from inspector.explain.backends import runtimes
from inspector.explain.backends.accelerate import accelerate
from inspector.explain.backends.split_onnx import drop_outputs, split_at_feature_maps

OPEN = {
    "onnxruntime int8": runtimes.run_onnxruntime,
    "openvino int8": runtimes.run_openvino,
    "openvino bfloat16": runtimes.run_openvino_bfloat16,
}
NETWORKS = ("efficientnet_lite0", "mobilenet_v2", "resnet50")
BARE, WHOLE = "forward pass in PyTorch", "inspector, all class maps"
HEADER = (
    "network",
    "backend",
    "computation",
    "median ms",
    "median of paired ratios",
    "weights, MB",
    "of the head, MB",
)


def main(
    networks: Annotated[str, typer.Option(help="Names, separated by commas.")] = ",".join(NETWORKS),
    backends: Annotated[str, typer.Option(help="Names, separated by commas.")] = ",".join(LOWER),
    rounds: Annotated[int, typer.Option(min=1, help="Rounds.")] = 40,
) -> None:
    """Time class maps and the passes that they contain, and write results/passes.md."""
    if any(os.environ.get(name) != value for name, value in TUNED.items()):
        sys.exit(subprocess.call([sys.executable, *sys.argv], env=os.environ | TUNED))
    rows: list[tuple[object, ...]] = []
    inputs = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    for name in networks.split(","):
        classifier = load_classifier(name)
        for backend in backends.split(","):
            with tempfile.TemporaryDirectory() as folder:
                calls, sizes = make_calls(classifier, backend, inputs, Path(folder))
                times = time_interleaved(calls, rounds, warm_up=2, untimed_call_first=True)
            for what, values in times.items():
                ratio = median(one / bare for one, bare in zip(values, times[BARE], strict=True))
                rows.append((name, backend, what, f"{median(values):.2f}", f"{ratio:.3f}", *sizes.get(what, ("", ""))))
            print(format_table(HEADER, rows[-len(calls) :]), flush=True)
    command = f"python benchmarks/passes.py --networks {networks} --backends {backends!r} --rounds {rounds}"
    write_results("passes", command, format_table(HEADER, rows))


def make_calls(
    classifier: inspector.Classifier, backend: str, inputs: Tensor, folder: Path
) -> tuple[dict[str, Callable[[], Any]], dict[str, tuple[str, str]]]:
    """Make what is timed, and measure the weights of the passes: MB, and MB of what follows the feature maps."""
    library, _, dtype = backend.partition(" ")
    files: list[Path] = []
    accelerated = accelerate(classifier, library, dtype=dtype, on_built=lambda _, file: files.append(file))
    file, without_maps = files[0], folder / "without_maps.onnx"
    model = onnx.load(file)
    outputs = [one.name for one in model.graph.output]
    onnx.save(drop_outputs(model, tuple(name for name in outputs if name != "maps")), without_maps)
    open_file, threads = OPEN[backend], torch.get_num_threads()
    alone, no_maps = open_file(file), open_file(without_maps)
    torch.set_num_threads(1)
    on_one_thread = open_file(file)
    torch.set_num_threads(threads)
    calls = {
        BARE: lambda: torch.inference_mode()(classifier.network)(inputs),
        WHOLE: lambda: inspector.class_maps_of_batch(accelerated, inputs),
        "the runtime's pass alone": lambda: alone(inputs),
        "the runtime's pass on one thread": lambda: on_one_thread(inputs),
        "the runtime's pass without class maps": lambda: no_maps(inputs),
    }
    sizes = {"the runtime's pass alone": measure_weights(file, dtype)}
    sizes["the runtime's pass without class maps"] = measure_weights(without_maps, dtype)
    return calls, sizes


def measure_weights(file: Path, dtype: str) -> tuple[str, str]:
    """Measure the weights that a pass reads, in MB: all, and those after the feature maps."""
    body, head = split_at_feature_maps(onnx.load(file))
    before, after = (
        sum(onnx.numpy_helper.to_array(one).nbytes for one in part.graph.initializer) / 1e6 for part in (body, head)
    )
    if dtype == "bfloat16":  # the file is in float32
        before /= 2
    return f"{before + after:.1f}", f"{after:.1f}"


if __name__ == "__main__":
    typer.run(main)
