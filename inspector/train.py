"""Train the Fashion-MNIST networks in models/: `python -m inspector.train fashion_gap --data FOLDER`.

Four runs, one recipe (60 epochs, Adam 3e-4, batches of 64, cross-entropy, no augmentation): global average or global
max pooling, with or without a sigmoid between the logits and the cross-entropy. The weights after the last epoch are
kept, so that the test images choose nothing.
"""

import csv
import json
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer
from rich.progress import Progress
from safetensors.torch import save_file
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_accuracy
from torchvision.datasets import FashionMNIST

from inspector.networks import fashion_convnet

EPOCHS = 60
LEARNING_RATE = 3e-4
BATCH = 64

RUNS: dict[str, tuple[Literal["average", "max"], bool]] = {  # name -> pooling, sigmoid before the cross-entropy
    "fashion_gap": ("average", False),
    "fashion_gmp": ("max", False),
    "fashion_gap_sigmoid": ("average", True),
    "fashion_gmp_sigmoid": ("max", True),
}


def main(
    run: Annotated[str, typer.Argument(help=f"One of {', '.join(RUNS)}.")],
    data: Annotated[Path, typer.Option(help="Where torchvision keeps Fashion-MNIST; fetched when it is not there.")],
    models: Annotated[Path, typer.Option(help="The folder that receives <run>/.")] = Path("models"),
    epochs: Annotated[int, typer.Option(min=1, help="How many epochs.")] = EPOCHS,
    seed: Annotated[int, typer.Option(help="Seed of the weights and of the order of the images.")] = 0,
) -> None:
    """Train one network on Fashion-MNIST and write models/<run>/."""
    if run not in RUNS:
        raise typer.BadParameter(f"no run {run!r}. There are {', '.join(RUNS)}.")
    pooling, sigmoid = RUNS[run]
    training, test = (images_and_labels(data, train) for train in (True, False))

    torch.manual_seed(seed)
    # Channels last: an epoch on one core takes 14 s in place of 21.
    network = fashion_convnet(pooling).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    history: list[dict[str, Any]] = []
    with Progress() as progress:
        task = progress.add_task(run, total=epochs)
        for epoch in range(1, epochs + 1):
            start = time.perf_counter()
            training_loss = train_epoch(network, optimizer, *training, sigmoid=sigmoid)
            history.append(
                {"epoch": epoch, "training_loss": training_loss}
                | evaluate(network, *test, sigmoid=sigmoid)
                | {"seconds": round(time.perf_counter() - start, 2)}
            )
            progress.update(task, advance=1, description=f"{run}: top-1 {history[-1]['top1']:.4f}")
    write(models / run, run, network, history, seed)


def images_and_labels(data: Path, train: bool) -> tuple[Tensor, Tensor]:
    """All images in memory, (N, 1, 28, 28) in 0-1, and their labels (N,)."""
    dataset = FashionMNIST(data, train=train, download=True)
    images = dataset.data[:, None] / 255
    return images.to(memory_format=torch.channels_last), dataset.targets


def loss_of(logits: Tensor, labels: Tensor, sigmoid: bool) -> Tensor:
    return nn.functional.cross_entropy(logits.sigmoid() if sigmoid else logits, labels)


def train_epoch(
    network: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor, sigmoid: bool
) -> float:
    """The mean training loss of one epoch, in nats."""
    network.train()
    total = 0.0
    for batch in torch.randperm(len(images)).split(BATCH):
        loss = loss_of(network(images[batch]), labels[batch], sigmoid)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(batch)
    return total / len(images)


@torch.inference_mode()
def evaluate(network: nn.Module, images: Tensor, labels: Tensor, sigmoid: bool) -> dict[str, float]:
    network.eval()
    logits = torch.cat([network(batch) for batch in images.split(1000)])
    top1, top2 = (multiclass_accuracy(logits, labels, logits.shape[1], "micro", top_k=k).item() for k in (1, 2))
    return {"validation_loss": loss_of(logits, labels, sigmoid).item(), "top1": top1, "top2": top2}


def write(folder: Path, run: str, network: nn.Module, history: list[dict[str, Any]], seed: int) -> None:
    pooling, sigmoid = RUNS[run]
    last = history[-1]
    description = {
        "title": f"Fashion-MNIST, global {pooling} pooling" + (", trained through a sigmoid" if sigmoid else ""),
        "architecture": {"factory": "fashion_convnet", "arguments": {"pooling": pooling, "classes": 10}},
        "weights": "weights.safetensors",
        "probability": "sigmoid" if sigmoid else "softmax",
        "classes": [
            "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
        ],
        "size": [28, 28],
        "resize": [28, 28],
        "interpolation": "bilinear",
        "mean": [0.0],
        "std": [1.0],
        "examples": "fashion_mnist",
        "source": "Trained for this project on Fashion-MNIST (Xiao, Rasul, Vollgraf 2017), 60,000 training images.",
        "licence": "Apache-2.0 (weights), MIT (data)",
        "training": f"python -m inspector.train {run} --epochs {len(history)} --seed {seed} --data FOLDER",
        "scores": {"data": "10,000 test images", "top1": round(last["top1"], 4), "top2": round(last["top2"], 4)},
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: tensor.contiguous() for name, tensor in network.state_dict().items()}, folder / "weights.safetensors"
    )
    with (folder / "history.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(last))
        writer.writeheader()
        writer.writerows(history)
    (folder / "model.json").write_text(json.dumps(description, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
