"""Measure what class maps and their checks cost, for heads of every verdict, relative to the forward pass.

A head that is affine for every image has one weight: its maps are one product, and the check compares sums with logits.
A head that is affine for one image runs on one row per cell, with the statistics and gates of the image frozen, and is
checked by its own sums. A nonlinear head is differentiated twice. One round times, in turn and on the same input
(224x224 noise): the bare forward pass in torch.inference_mode, and inspector.class_maps_of_batch, which gives the maps
and verdicts of all 1000 classes. Finding the head, once per network, is timed in rounds of its own.

    python benchmarks/verdicts.py
"""

from typing import Annotated

import torch
import torchvision
import typer
from class_maps import compare_times
from report import format_table, time_interleaved, write_results

import inspector

# Weights are random: they do not change the times. MobileNetV3's head is nonlinear, VGG's has 120 million weights.
NETWORKS = ("resnet50", "convnext_tiny", "swin_t", "mobilenet_v3_large", "vgg11")
BARE, OURS, FIND = "forward pass, inference_mode", "inspector, all 1000 classes", "finding the head"
HEADER = (
    "network, verdict",
    "batch",
    "computation",
    "rounds",
    "median ms",
    "ratio of medians",
    "median of paired ratios",
)


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Rounds for each network.")] = 20,
    batch: Annotated[int, typer.Option(min=1, help="Images per pass.")] = 1,
    threads: Annotated[int, typer.Option(min=0, help="Threads of torch; 0: its default.")] = 0,
) -> None:
    """Time class maps of heads of every verdict, and write results/verdicts.md."""
    if threads:
        torch.set_num_threads(threads)
    rows: list[tuple[object, ...]] = []
    for name in NETWORKS:
        torch.manual_seed(0)
        network = torchvision.models.get_model(name).eval()
        classifier = inspector.Classifier.wrap(network, name=name)
        inputs = classifier.noise_input(batch)
        title = f"{name}, {classifier.head.verdict}"
        contestants = {
            BARE: lambda network=network, inputs=inputs: torch.inference_mode()(network)(inputs),
            OURS: lambda c=classifier, inputs=inputs: inspector.class_maps_of_batch(c, inputs),
        }
        rows += compare_times(title, batch, time_interleaved(contestants, rounds), [BARE])
        contestants = {BARE: contestants[BARE], FIND: lambda network=network: inspector.Classifier.wrap(network)}
        rows += compare_times(title, batch, time_interleaved(contestants, max(1, rounds // 10), warm_up=0), [BARE])[1:]
    command = f"python benchmarks/verdicts.py --rounds {rounds} --batch {batch} --threads {threads}"
    write_results("verdicts", command, format_table(HEADER, rows))


if __name__ == "__main__":
    typer.run(main)
