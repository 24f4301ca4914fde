"""Measure the time of an epoch of `inspector train`, relative to a plain PyTorch loop, and the same for Lightning.

The network is LeNet with max pooling between its convolutions and average pooling in its head, trained on random images
in memory, batches of 64, with Adam. One round times, in turn, an epoch of:

- the plain loop: forward pass, cross-entropy, backward pass, step, and then the test images,
- inspector.training.train.train_epoch, with its history and progress,
- Lightning, if it is installed, without logger, checkpoints, progress bar or test images: the overhead of its loop
  alone.

The table has medians over the rounds, and the median of the ratios to the first row within a round. The target is 1.05.

    python benchmarks/training.py
"""

import importlib.util
from collections.abc import Callable, Iterator
from statistics import median
from typing import Annotated, Any

import torch
import typer
from report import format_table, time_interleaved, write_results
from torch import Tensor, nn

from inspector.images.preprocessing import Preprocessing
from inspector.networks.builtin import lenet
from inspector.training.data import DataSet, Images
from inspector.training.recipe import Recipe
from inspector.training.train import TrainingData, train_epoch
from inspector.training.write_run import TrainingState

BATCH = 64
RECIPE = Recipe(
    "benchmark", "pooling_gap", "", "mnist", "lenet", {}, 1_000_000, BATCH, "adam", 1e-3, "cross_entropy", (0,)
)  # fmt: skip


def main(
    rounds: Annotated[int, typer.Option(min=1, help="How often each is timed.")] = 10,
    batches: Annotated[int, typer.Option(min=1, help="Batches per epoch; MNIST has 938.")] = 200,
) -> None:
    """Time the loops, and write results/training.md."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    training, test = (make_random_images(count) for count in (batches * BATCH, batches * BATCH // 6))
    contestants = {"plain loop": make_plain_epoch(training, test), "inspector": make_inspector_epoch(training, test)}
    if importlib.util.find_spec("lightning"):
        contestants["Lightning, training only"] = make_lightning_epoch(training)
    times = time_interleaved(contestants, rounds)
    base = times["plain loop"]
    rows = [
        (
            what,
            rounds,
            f"{median(values) / batches:.2f}",
            f"{median(a / b for a, b in zip(values, base, strict=True)):.3f}",
        )
        for what, values in times.items()
    ]
    command = f"python benchmarks/training.py --rounds {rounds} --batches {batches}"
    write_results(
        "training", command, format_table(("loop", "rounds", "median ms per batch", "median of paired ratios"), rows)
    )


def make_random_images(count: int) -> Images:
    pixels = torch.rand(count, 1, 28, 28).to(memory_format=torch.channels_last)
    return Images(pixels, torch.randint(0, 10, (count,)))


def start_training() -> tuple[nn.Module, torch.optim.Optimizer]:
    network = lenet("pooling", "average").to(memory_format=torch.channels_last)
    return network, torch.optim.Adam(network.parameters(), lr=1e-3)


def make_plain_epoch(training: Images, test: Images) -> Callable[[], None]:
    network, optimizer = start_training()

    def run_epoch() -> None:
        network.train()
        for batch in torch.randperm(len(training)).split(BATCH):
            loss = nn.functional.cross_entropy(network(training.pixels[batch]), training.labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        network.eval()
        with torch.inference_mode():
            logits = torch.cat([network(pixels) for pixels in test.pixels.split(1000)])
            (logits.argmax(1) == test.labels).float().mean().item()

    return run_epoch


def make_inspector_epoch(training: Images, test: Images) -> Callable[[], None]:
    run = TrainingState(*start_training(), {})
    preprocessing = Preprocessing((28, 28), (0.0,), (1.0,), (28, 28))
    data = DataSet(training, test, tuple("0123456789"), preprocessing, "none", "random images")
    shared = TrainingData(data, None, training, test, None)
    return lambda: train_epoch(run, RECIPE, len(run.history) + 1, shared, "float32", lambda *progress: None)


def make_lightning_epoch(training: Images) -> Callable[[], None]:
    import logging
    import warnings

    import lightning

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")

    class Batches:
        def __len__(self) -> int:
            return -(-len(training) // BATCH)

        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            for batch in torch.randperm(len(training)).split(BATCH):
                yield training.pixels[batch], training.labels[batch]

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network, self.optimizer = start_training()

        def training_step(self, batch: Any, index: int) -> Tensor:
            loss = nn.functional.cross_entropy(self.network(batch[0]), batch[1])
            self.log("training_loss", loss, on_step=True, on_epoch=True)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return self.optimizer

    module = Module()

    def run_epoch() -> None:
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = lightning.Trainer(max_epochs=1, accelerator="cpu", enable_model_summary=False, **quiet)
        trainer.fit(module, Batches())

    return run_epoch


if __name__ == "__main__":
    typer.run(main)
