"""Measure the time and memory of all class maps through each backend, relative to the bare eager forward pass.

One round times the following, in turn and on the same network and input (224x224 noise; random weights for all networks
but the first):

- the bare forward pass, in torch.inference_mode and in torch.no_grad; the faster of the two is the baseline,
- inspector.class_maps_of_batch: maps, probabilities and verdicts of all classes of every image, with the network itself
  and with each backend, also in lower precision ("openvino int8"),
- with --peers, at batch 1, other packages: one class, and all 1000 classes, extrapolated from the time of five.

Before each timed call the same function runs once untimed: torch's threads spin for milliseconds after a pass, and
would slow down the next function. The table has medians, their ratio to the baseline, and the median of the ratios
within a round.

The row "the same products as one matrix product" is a reference: the time of as many multiplications as the pass and
all class maps have, at the rate at which torch multiplies two 2048 x 2048 matrices in the same round. A backend that
computes every convolution directly can hardly be faster on this processor.

Memory is the peak resident memory above the resident memory after loading and building, for two calls; each computation
runs in a process of its own (Linux only).

By default glibc returns freed memory to the system and requests it again in every pass, which triples the time of a
batch. Everything therefore runs with $MALLOC_TRIM_THRESHOLD_ and $MALLOC_MMAP_THRESHOLD_ at 1 GB, in a process that
this script starts.

    python benchmarks/backends.py --peers
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from statistics import median
from typing import Annotated, Any

import torch
import torchvision
import typer
from report import format_table, measure_peak_memory, time_interleaved, write_results
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import inspector
from inspector.explain.backends.accelerate import accelerate

TUNED = {"MALLOC_TRIM_THRESHOLD_": "1000000000", "MALLOC_MMAP_THRESHOLD_": "1000000000"}
# Network -> its last layer before the pooling and the layer after it, which the other packages need.
NETWORKS = {
    "efficientnet_lite0": ("_bn1", "_fc"),
    "resnet18": ("layer4", "fc"),
    "resnet50": ("layer4", "fc"),
    "squeezenet1_1": ("features", "classifier.1"),
    "densenet121": ("features", "classifier"),
    "mobilenet_v2": ("features", "classifier.1"),
    "convnext_tiny": ("features", "classifier.2"),
}
BARE = ("forward pass, inference_mode", "forward pass, no_grad")
BACKENDS = ("eager", "folded", "compiled", "onnxruntime", "openvino")
LOWER = ("onnxruntime int8", "openvino int8", "openvino bfloat16")
HEADER = ("network", "batch", "computation", "rounds", "median ms", "ratio of medians", "median of paired ratios")
MATRICES, SQUARE = "the same products as one matrix product", 2048
CLASS, FEW, CLASSES = 281, 5, 1000

Contestants = dict[str, Callable[[], Any]]


def main(
    networks: Annotated[str, typer.Option(help="Names, separated by commas.")] = ",".join(NETWORKS),
    backends: Annotated[str, typer.Option(help="Names, separated by commas.")] = ",".join((*BACKENDS, *LOWER)),
    peers: Annotated[bool, typer.Option("--peers", help="Also time other packages.")] = False,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds at batch 1.")] = 40,
    batch_rounds: Annotated[int, typer.Option(min=0, help="Rounds at batch 32; 0: none.")] = 8,
    memory: Annotated[
        str, typer.Option(help="Networks whose peak memory at batch 32 is measured; '': none.")
    ] = "efficientnet_lite0,resnet18,resnet50",
    results: Annotated[str, typer.Option(help="Name of the table in results/.")] = "backends",
    only: Annotated[str | None, typer.Option(hidden=True, help="Print the memory of this contestant.")] = None,
) -> None:
    """Time all class maps through each backend, and write results/backends.md."""
    if any(os.environ.get(name) != value for name, value in TUNED.items()):
        sys.exit(subprocess.call([sys.executable, *sys.argv], env=os.environ | TUNED))
    names, chosen = networks.split(","), backends.split(",")
    if only is not None:
        print(measure_peak(names[0], only))
        return
    rows: list[tuple[object, ...]] = []
    peaks: list[tuple[object, ...]] = []
    for name in names:
        classifier = load_classifier(name)
        accelerated = build_backends(classifier, chosen)
        for batch, repeats in ((1, rounds), (32, batch_rounds)):
            if repeats:
                inputs = torch.randn(batch, 3, 224, 224, generator=torch.Generator().manual_seed(0))
                contestants = make_inspector_calls(classifier, accelerated, inputs)
                if peers and batch == 1:
                    contestants |= make_peer_calls(name, inputs)
                times = time_interleaved(contestants, repeats, warm_up=1, untimed_call_first=True)
                rows += compare_times(name, batch, times, count_matrix_products(classifier, inputs))
                print(format_table(HEADER, rows[-len(contestants) :]), flush=True)
        if name in memory.split(","):
            computations = [BARE[0], *(f"inspector, {backend}" for backend in chosen), *(PEERS if peers else ())]
            peaks += [(name, 32, what, measure_peak_in_process(name, what)) for what in computations]
    command = f"python benchmarks/backends.py --networks {networks} --backends {backends} --rounds {rounds}"
    command += f" --batch-rounds {batch_rounds} --memory {memory or repr('')}" + " --peers" * peers
    command += f" --results {results}" * (results != "backends")
    parts = [format_table(HEADER, rows)]
    if peaks:
        parts.append(format_table(("network", "batch", "computation", "peak memory above baseline, MB"), peaks))
    write_results(results, command, *parts)


def load_classifier(name: str) -> inspector.Classifier:
    if name == "efficientnet_lite0":
        return inspector.load(name)
    # Random weights do not change the timing.
    torch.manual_seed(0)
    return inspector.Classifier.wrap(torchvision.models.get_model(name).eval(), name=name)


def build_backends(classifier: inspector.Classifier, backends: Iterable[str]) -> dict[str, inspector.Classifier]:
    """Build the classifier with each backend; print why a backend cannot be built, and skip it."""
    accelerated = {}
    for backend in backends:
        name, _, dtype = backend.partition(" ")
        start = time.perf_counter()
        try:
            accelerated[backend] = accelerate(classifier, name, dtype=dtype or "float32")
        except inspector.InspectorError as error:
            print(f"{classifier.name}, {backend}: {error}", file=sys.stderr)
            continue
        print(f"{classifier.name}, {backend}: built in {time.perf_counter() - start:.1f} s", file=sys.stderr)
    return accelerated


def make_inspector_calls(
    classifier: inspector.Classifier, accelerated: Mapping[str, inspector.Classifier], inputs: Tensor
) -> Contestants:
    """Make the bare forward passes, all class maps with each backend, and a product of two matrices."""
    forward = classifier.network
    square = torch.randn(SQUARE, SQUARE, generator=torch.Generator().manual_seed(0)).to(inputs.device)
    contestants: Contestants = {
        BARE[0]: lambda: torch.inference_mode()(forward)(inputs),
        BARE[1]: lambda: torch.no_grad()(forward)(inputs),
        MATRICES: lambda: square @ square,
    }
    for backend, one in accelerated.items():
        contestants[f"inspector, {backend}"] = lambda one=one: inspector.class_maps_of_batch(one, inputs)
    return contestants


def count_matrix_products(classifier: inspector.Classifier, inputs: Tensor) -> float:
    """Count the multiplications of a pass and of all class maps of a batch, in products of two matrices."""
    example = inputs[:1]
    (maps,) = inspector.class_maps_of_batch(classifier, example)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        classifier.network(example)
    # The counter counts a multiplication and its addition as two.
    each = counter.get_total_flops() / 2 + maps.feature_maps.numel() * len(maps.logits)
    return len(inputs) * each / SQUARE**3


def make_peer_calls(name: str, inputs: Tensor) -> Contestants:
    """Make the calls of other packages, for one class and for five; print errors, and skip packages that fail."""
    contestants: Contestants = {}
    for peer, make in PEERS.items():
        target, head = NETWORKS[name]
        try:
            explain = make(deepcopy(load_classifier(name).network), inputs, target, head)
            explain([CLASS])
        except Exception as error:  # other packages may raise anything
            print(f"{name}, {peer}: {type(error).__name__}: {error}", file=sys.stderr)
            continue
        contestants[f"{peer}, one class"] = lambda explain=explain: explain([CLASS])
        contestants[f"{peer}, {FEW} classes"] = lambda explain=explain: explain(range(FEW))
    return contestants


def prepare_torchcam_cam(network: nn.Module, inputs: Tensor, target: str, head: str) -> Callable[[Iterable[int]], None]:
    import torchcam.methods

    cam = torchcam.methods.CAM(network, target, head)

    def explain(classes: Iterable[int]) -> None:
        with torch.inference_mode():
            network(inputs)
            for k in classes:
                cam([k] * len(inputs) if len(inputs) > 1 else k)

    return explain


def prepare_torchcam_gradcam(
    network: nn.Module, inputs: Tensor, target: str, _: str
) -> Callable[[Iterable[int]], None]:
    import torchcam.methods

    gradients = torchcam.methods.GradCAM(network, target)

    def explain(classes: Iterable[int]) -> None:
        scores, classes = network(inputs), list(classes)
        for k in classes:
            gradients([k] * len(inputs) if len(inputs) > 1 else k, scores, retain_graph=len(classes) > 1)

    return explain


def prepare_pytorch_gradcam(network: nn.Module, inputs: Tensor, target: str, _: str) -> Callable[[Iterable[int]], None]:
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    hooks = pytorch_grad_cam.GradCAM(network, [network.get_submodule(target)])

    def explain(classes: Iterable[int]) -> None:
        for k in classes:
            hooks(inputs, [ClassifierOutputTarget(k)] * len(inputs))

    return explain


def prepare_captum_gradcam(network: nn.Module, inputs: Tensor, target: str, _: str) -> Callable[[Iterable[int]], None]:
    import captum.attr

    layer = captum.attr.LayerGradCam(network, network.get_submodule(target))

    def explain(classes: Iterable[int]) -> None:
        for k in classes:
            layer.attribute(inputs, target=k)

    return explain


PEERS = {
    "torchcam CAM": prepare_torchcam_cam,
    "torchcam GradCAM": prepare_torchcam_gradcam,
    "grad-cam GradCAM": prepare_pytorch_gradcam,
    "captum LayerGradCam": prepare_captum_gradcam,
}


def compare_times(name: str, batch: int, times: dict[str, list[float]], products: float) -> list[tuple[object, ...]]:
    bare = min((times[variant] for variant in BARE), key=median)
    rows: list[tuple[object, ...]] = []
    for what, values in times.items():
        if what == MATRICES:
            values = [value * products for value in values]
        if what.endswith(f", {FEW} classes"):
            # The time of one class includes what is done once for all classes.
            one = times[what.replace(f"{FEW} classes", "one class")]
            # Not below zero: if a class takes only microseconds, the noise is larger than that.
            each = [max(0, few - single) / (FEW - 1) for few, single in zip(values, one, strict=True)]
            values = [single + (CLASSES - 1) * more for single, more in zip(one, each, strict=True)]
            what = what.replace(f"{FEW} classes", f"all {CLASSES} classes, extrapolated from {FEW}")
        ratio = median(value / base for value, base in zip(values, bare, strict=True))
        cells = (f"{median(values):.2f}", f"{median(values) / median(bare):.3f}", f"{ratio:.3f}")
        rows.append((name, batch, what, len(values), *cells))
    return rows


def measure_peak_in_process(name: str, what: str) -> str:
    """Run `measure_peak` in a process of its own; return "fails" if that fails."""
    command = [sys.executable, __file__, "--networks", name, "--only", what]
    finished = subprocess.run(command, env=os.environ | TUNED, capture_output=True, text=True, check=False)
    return finished.stdout.split()[-1] if finished.returncode == 0 and finished.stdout.split() else "fails"


def measure_peak(name: str, what: str) -> int:
    """Measure the peak resident memory of two calls at batch 32, in MB above the resident memory before them."""
    inputs = torch.randn(32, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    if what in PEERS:
        explain = PEERS[what](load_classifier(name).network, inputs, *NETWORKS[name])
        call: Callable[[], Any] = lambda: explain([CLASS])  # noqa: E731
    else:
        classifier = load_classifier(name)
        accelerated = build_backends(classifier, [what.removeprefix("inspector, ")] if what not in BARE else [])
        call = make_inspector_calls(classifier, accelerated, inputs)[what]
    return measure_peak_memory(lambda: (call(), call()))


if __name__ == "__main__":
    typer.run(main)
