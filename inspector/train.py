"""Train the networks of experiments/: one recipe, several seeds, a folder each that the inspector can open.

The loop is torch's own and not Lightning's: networks this small take 1.17 times as long a batch in Lightning's, without
its logger, checkpoints and bar (benchmarks/training.py), and a run that is to go on after a kill as if nothing had been
needs the state of the random numbers after each epoch, which Lightning's checkpoints have not. The weights after the
last epoch are kept: the test images choose nothing.
"""

import inspect
import math
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_accuracy

from inspector.data_sets import DATA, Images, read_images
from inspector.errors import TrainingError
from inspector.networks import FACTORIES
from inspector.recipe import Loss, Optimizer, Recipe
from inspector.run_folder import Training, check_finished, keep, make_folder, resume, write_results

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["float32", "bfloat16"]

OPTIMIZERS: dict[Optimizer, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "rmsprop": torch.optim.RMSprop,
    "sgd": torch.optim.SGD,
}


def train(
    recipe: Recipe,
    data: Path,
    out: Path = Path("runs"),
    seeds: tuple[int, ...] = (),
    device: Device = "auto",
    precision: Precision = "float32",
) -> list[Path]:
    """The folders <out>/<experiment>/<run>/seed<N>; finished runs are left as they are, broken off ones go on."""
    place = find_device(device)
    training, test = (read_images(recipe.data, data, part, place) for part in (True, False))
    folders = []
    told = TextColumn("{task.fields[told]}")
    with Progress(TextColumn("{task.description}"), BarColumn(12), told, TimeRemainingColumn()) as progress:
        for seed in seeds or recipe.seeds:
            task = progress.add_task(f"{recipe.experiment}/{recipe.run} seed {seed}", total=None, told="")

            def tell(done: int, total: int, told: str, task: Any = task) -> None:
                progress.update(task, completed=done, total=total, told=told)

            folders.append(out / recipe.experiment / recipe.run / f"seed{seed}")
            train_seed(recipe, seed, training, test, folders[-1], precision, tell)
    return folders


def train_seed(
    recipe: Recipe,
    seed: int,
    training: Images,
    test: Images,
    folder: Path,
    precision: Precision = "float32",
    tell: Callable[[int, int, str], None] = lambda done, total, told: None,
) -> None:
    """Train one network and write its folder, or go on after the last epoch that its checkpoint there has."""
    device = training.pixels.device
    settings: dict[str, Any] = recipe.settings() | {"seed": seed, "precision": precision}
    if check_finished(folder, settings):
        tell(1, 1, "is finished")
        return
    with torch.random.fork_rng(range(torch.cuda.device_count()) if device.type == "cuda" else ()):
        torch.manual_seed(seed)
        # Channels last: on one core an epoch of fashion_convnet takes 14 s in place of 21.
        network = build(recipe).to(device).to(memory_format=torch.channels_last)
        _check_fits(network, recipe, training)
        make_folder(folder)
        run = Training(network, OPTIMIZERS[recipe.optimizer](network.parameters(), lr=recipe.rate), [], [])
        resume(run, folder / "checkpoint.pt", settings)
        for epoch in range(len(run.history) + 1, recipe.epochs + 1):
            train_epoch(run, recipe, epoch, training, test, precision, tell)
            keep(run, folder, settings)
    write_results(run, recipe, settings, folder, device)


def train_epoch(
    run: Training,
    recipe: Recipe,
    epoch: int,
    training: Images,
    test: Images,
    precision: Precision,
    tell: Callable[[int, int, str], None],
) -> None:
    """One pass over the training images in a new order, then the test images; adds to the run's history."""
    start = time.perf_counter()
    run.network.train()
    losses: list[Tensor] = []
    order = torch.randperm(len(training)).to(training.pixels.device).split(recipe.batch)
    chunk = math.ceil(len(order) / 100)
    for number, batch in enumerate(order, 1):
        with _precision(precision, training.pixels.device):
            loss = loss_of(run.network(training.pixels[batch]), training.labels[batch], recipe.loss)
        run.optimizer.zero_grad()
        loss.backward()
        run.optimizer.step()
        losses.append(loss.detach())
        if number % chunk == 0 or number == len(order):
            speed = number * recipe.batch / (time.perf_counter() - start)
            done = (epoch - 1) * len(order) + number
            told = f"epoch {epoch}/{recipe.epochs}  loss {loss.item():.4f}  {speed:,.0f} images/s"
            tell(done, recipe.epochs * len(order), told)
    values: list[float] = torch.stack(losses).tolist()
    training_loss = sum(value * len(batch) for value, batch in zip(values, order, strict=True)) / len(training)
    if not math.isfinite(training_loss):
        raise TrainingError(
            f"The loss of {recipe.run} is {training_loss} in epoch {epoch}: a rate below {recipe.rate} may do."
        )
    run.batches.extend({"epoch": epoch} | row for row in thinned(values, chunk))
    row = {"epoch": epoch, "training_loss": training_loss} | evaluate(run.network, test, recipe.loss, precision)
    run.history.append(row | {"seconds": round(time.perf_counter() - start, 2)})


def thinned(losses: list[float], chunk: int) -> list[dict[str, float]]:
    """A row a chunk of batches: the number of its last batch, and their mean."""
    chunks = [losses[first : first + chunk] for first in range(0, len(losses), chunk)]
    return [
        {"batch": min((number + 1) * chunk, len(losses)), "training_loss": statistics.fmean(some)}
        for number, some in enumerate(chunks)
    ]


@torch.inference_mode()
def evaluate(network: nn.Module, images: Images, loss: Loss, precision: Precision) -> dict[str, float]:
    """Loss in nats, top-1 and top-2 as parts of 1."""
    network.eval()
    with _precision(precision, images.pixels.device):
        logits = torch.cat([network(batch) for batch in images.pixels.split(1000)]).float()
    top1, top2 = (multiclass_accuracy(logits, images.labels, logits.shape[1], "micro", top_k=k).item() for k in (1, 2))
    return {"validation_loss": loss_of(logits, images.labels, loss).item(), "top1": top1, "top2": top2}


def loss_of(logits: Tensor, labels: Tensor, loss: Loss) -> Tensor:
    return nn.functional.cross_entropy(logits.sigmoid() if loss == "sigmoid_cross_entropy" else logits, labels)


def _precision(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def find_device(device: Device) -> torch.device:
    if device == "cuda" and not torch.cuda.is_available():
        raise TrainingError("--device is 'cuda', but torch sees no GPU here; cpu or auto would do.")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def build(recipe: Recipe) -> nn.Module:
    """The network of a recipe with its first weights; TrainingError for a name or an argument that it has not."""
    if recipe.factory not in FACTORIES:
        nearest = get_close_matches(recipe.factory, FACTORIES) or FACTORIES
        raise TrainingError(f"No network {recipe.factory!r}. Nearest names: {', '.join(nearest)}.")
    factory = FACTORIES[recipe.factory]
    parameters = inspect.signature(factory).parameters
    for name, value in recipe.arguments.items():
        if name not in parameters:
            would_do = ", ".join(parameters) or "none"
            raise TrainingError(f"{recipe.factory} takes no argument {name!r}; it takes {would_do}.")
        annotation = parameters[name].annotation
        allowed = get_args(annotation) if get_origin(annotation) is Literal else ()
        if allowed and value not in allowed:
            would_do = " or ".join(map(repr, allowed))
            raise TrainingError(f"{recipe.factory}: {name} is {value!r}; {would_do} would do.")
    try:
        return factory(**recipe.arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TrainingError(f"{recipe.factory} cannot be built with {dict(recipe.arguments)}: {error}.") from error


def _check_fits(network: nn.Module, recipe: Recipe, images: Images) -> None:
    classes = len(DATA[recipe.data].classes)
    network.eval()
    try:
        with torch.inference_mode():
            shape = tuple(network(images.pixels[:2]).shape[1:])
    except RuntimeError as error:
        first = str(error).splitlines()[0]
        raise TrainingError(f"{recipe.factory} cannot take the images of {recipe.data}: {first}") from error
    if shape != (classes,):
        raise TrainingError(f"{recipe.factory} gives {shape} for an image; {recipe.data} needs ({classes},).")
