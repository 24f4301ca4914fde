"""Measure the time of `inspector.log_class_maps` relative to a step of the training that it is called in.

Networks of torchvision with random weights, trained with SGD on a batch of 32 random images of 224 x 224 pixels. One
round times, in turn:

- a step: forward pass, cross-entropy, backward pass, step of the optimizer,
- reading the head anew, as `Classifier.reread` does,
- a call with four photos of 500 x 375 pixels and the three top classes, written to TensorBoard: with the head read
  anew, and with pictures and numbers.

The table has medians over the rounds, and the median of the ratios to the step within a round.

    python benchmarks/training_log.py
"""

import tempfile
from statistics import median
from typing import Annotated

import numpy as np
import torch
import torchvision
import typer
from report import format_table, time_interleaved, write_results
from torch import nn
from torch.utils.tensorboard import SummaryWriter

import inspector

NETWORKS = {"resnet18": 10, "resnet50": 1000, "convnext_tiny": 1000}  # name -> classes
BATCH, PHOTOS = 32, 4


def main(rounds: Annotated[int, typer.Option(min=1, help="How often each is timed.")] = 8) -> None:
    """Time a step and a call for each network, and write results/training_log.md."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    photos = np.random.default_rng(0).integers(0, 256, (PHOTOS, 375, 500, 3), dtype=np.uint8)
    rows = []
    for name, classes in NETWORKS.items():
        network = torchvision.models.get_model(name, num_classes=classes)
        classifier = inspector.Classifier.wrap(network)
        network.train()
        optimizer = torch.optim.SGD(network.parameters(), 0.01)
        images, labels = torch.randn(BATCH, 3, 224, 224), torch.randint(classes, (BATCH,))

        def train_step(network=network, optimizer=optimizer, images=images, labels=labels) -> None:
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images), labels).backward()
            optimizer.step()

        with tempfile.TemporaryDirectory() as folder, SummaryWriter(folder) as writer:
            contestants = {
                "step of 32 images": train_step,
                "head read anew": classifier.reread,
                "log of 4 photos": lambda classifier=classifier, writer=writer: inspector.log_class_maps(
                    classifier, {str(n): photo for n, photo in enumerate(photos)}, writer, 0, strict=True
                ),
            }
            times = time_interleaved(contestants, rounds)
        base = times["step of 32 images"]
        for what, values in times.items():
            ratio = median(a / b for a, b in zip(values, base, strict=True))
            rows.append((name, what, rounds, f"{median(values):.0f}", f"{ratio:.2f}"))
    heading = ("network", "what", "rounds", "median ms", "median of paired ratios")
    write_results("training_log", f"python benchmarks/training_log.py --rounds {rounds}", format_table(heading, rows))


if __name__ == "__main__":
    typer.run(main)
