"""Measure the time of all class maps of an image, relative to the forward pass that they need in any case.

One round times the following, in turn and on the same network and input (224x224 noise):

- the bare forward pass, in torch.inference_mode and in torch.no_grad; the faster of the two is the baseline,
- inspector.class_maps_of_batch: maps, probabilities and verdicts of all classes of every image,
- with --peers, at batch 1, one map of one class by other packages, each on its own copy of the network, because their
  hooks stay on it. torchcam's CAM runs in inference_mode; Grad-CAM needs a backward pass.

The table has medians over the rounds, their ratio to the baseline, and the median of the ratios within a round, which
other work on the machine disturbs least. The target is a ratio of at most 1.05.

    python benchmarks/class_maps.py --peers
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from statistics import median
from typing import Annotated, Any

import torch
import torchvision
import typer
from report import format_table, time_interleaved, write_results
from torch import Tensor, nn

import inspector

# Network -> its last layer before the pooling and the layer after it, which the other packages need. All blocks of
# EfficientNet share one ReLU6 module, whose calls hooks cannot distinguish, so the layer before the last ReLU6 is used.
NETWORKS = {"efficientnet_lite0": ("_bn1", "_fc"), "resnet18": ("layer4", "fc"), "resnet50": ("layer4", "fc")}
BARE = ("forward pass, inference_mode", "forward pass, no_grad")
OURS = "inspector, all 1000 classes"
HEADER = ("network", "batch", "computation", "rounds", "median ms", "ratio of medians", "median of paired ratios")
CLASS = 281


def main(
    peers: Annotated[bool, typer.Option("--peers", help="Also time other packages, one class at batch 1.")] = False,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds at batch 1.")] = 40,
    batch_rounds: Annotated[int, typer.Option(min=1, help="Rounds at batch 32.")] = 8,
    threads: Annotated[int, typer.Option(min=0, help="Threads of torch; 0: its default.")] = 0,
) -> None:
    """Time all class maps against the bare forward pass, and write results/class_maps.md."""
    if threads:
        torch.set_num_threads(threads)
    rows: list[tuple[object, ...]] = []
    for name, (target, head) in NETWORKS.items():
        classifier = load_classifier(name)
        for batch, repeats in ((1, rounds), (32, batch_rounds)):
            inputs = torch.randn(batch, 3, 224, 224, generator=torch.Generator().manual_seed(0))
            contestants = make_inspector_calls(classifier, inputs)
            if peers and batch == 1:
                contestants |= make_peer_calls(classifier.network, inputs, target, head)
            rows += compare_times(name, batch, time_interleaved(contestants, repeats))
    command = f"python benchmarks/class_maps.py --rounds {rounds} --batch-rounds {batch_rounds} --threads {threads}"
    write_results("class_maps", command + " --peers" * peers, format_table(HEADER, rows))


def load_classifier(name: str) -> inspector.Classifier:
    if name == "efficientnet_lite0":
        return inspector.load(name)
    # Random weights do not change the timing.
    return inspector.Classifier.wrap(torchvision.models.get_model(name).eval(), name=name)


def make_inspector_calls(classifier: inspector.Classifier, inputs: Tensor) -> dict[str, Callable[[], Any]]:
    forward = classifier.network
    return {
        BARE[0]: lambda: torch.inference_mode()(forward)(inputs),
        BARE[1]: lambda: torch.no_grad()(forward)(inputs),
        OURS: lambda: inspector.class_maps_of_batch(classifier, inputs),
    }


def make_peer_calls(network: nn.Module, inputs: Tensor, target: str, head: str) -> dict[str, Callable[[], Any]]:
    """Make the calls of other packages: one map of one class."""
    import captum.attr
    import pytorch_grad_cam
    import torchcam.methods
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    with_cam, with_gradients, with_hooks, with_captum = (deepcopy(network) for _ in range(4))
    cam = torchcam.methods.CAM(with_cam, target, head)
    gradients = torchcam.methods.GradCAM(with_gradients, target)
    hooks = pytorch_grad_cam.GradCAM(with_hooks, [with_hooks.get_submodule(target)])
    layer = captum.attr.LayerGradCam(with_captum, with_captum.get_submodule(target))

    def torchcam_cam() -> None:
        with torch.inference_mode():
            with_cam(inputs)
            cam(CLASS)

    return {
        "torchcam 0.5 CAM, one class": torchcam_cam,
        "torchcam 0.5 GradCAM, one class": lambda: gradients(CLASS, with_gradients(inputs)),
        "grad-cam 1.5.7 GradCAM, one class": lambda: hooks(inputs, [ClassifierOutputTarget(CLASS)]),
        "captum 0.9 LayerGradCam, one class": lambda: layer.attribute(inputs, target=CLASS),
    }


def compare_times(
    name: str, batch: int, times: dict[str, list[float]], bare: Sequence[str] = BARE
) -> list[tuple[object, ...]]:
    baseline = min((times[variant] for variant in bare), key=median)
    return [
        (
            name,
            batch,
            what,
            len(values),
            f"{median(values):.2f}",
            f"{median(values) / median(baseline):.3f}",
            f"{median(time / base for time, base in zip(values, baseline, strict=True)):.3f}",
        )
        for what, values in times.items()
    ]


if __name__ == "__main__":
    typer.run(main)
