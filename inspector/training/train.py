"""Train networks from recipes: one run per seed, each in a folder that Inspector can open.

The training loop is plain PyTorch, not Lightning, for two reasons. First, with networks this small Lightning takes
1.11 times as long per batch, even without its logger, checkpoints and progress bar (benchmarks/training.py). Second, a
killed run must continue exactly as if it had not stopped. That needs the random state after each epoch, which
Lightning's checkpoints do not contain.

A run keeps its weights after the last epoch, not after the best one, so the test images do not select the weights.
"""

import inspect
import math
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_accuracy

from inspector.analysis.localization import Regions
from inspector.errors import TrainingError
from inspector.images.preprocessing import PreprocessingOverrides
from inspector.networks.build import OURS
from inspector.training.backbone import Backbone, build_with_head, load_backbone
from inspector.training.data import MAX_MEMORY, DataSet, Images, read_photos, read_torchvision_data
from inspector.training.devices import average_losses, is_first, join_processes, parallelize, split_batch
from inspector.training.evaluate import check_objects, evaluate_run
from inspector.training.recipe import Loss, Optimizer, Recipe
from inspector.training.write_run import (
    TrainingState,
    check_finished,
    describe_network,
    load_checkpoint,
    make_folder,
    save_checkpoint,
    write_network,
    write_results,
)

Precision = Literal["float32", "bfloat16"]
OnProgress = Callable[[int, int, str], None]  # (done, total, text)

OPTIMIZERS: dict[Optimizer, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "rmsprop": torch.optim.RMSprop,
    "sgd": torch.optim.SGD,
}
_BATCH = 32  # photos per batch in evaluation, and smallest batch there


@dataclass(frozen=True)
class TrainingData:
    """Data and backbone that all runs of a recipe share, because they do not depend on the seed."""

    data: DataSet
    backbone: Backbone | None  # the trained network in transfer learning, else None
    training: Images  # images, or for a frozen trunk its feature maps
    test: Images
    regions: Regions | None  # boxes or masks of the objects in the photos


def train(
    recipes: Recipe | Sequence[Recipe],
    data: Path,
    out: Path = Path("runs"),
    seeds: tuple[int, ...] = (),
    device: str = "auto",
    precision: Precision = "float32",
    weights: Path | None = None,
    regions: Regions | None = None,
) -> list[Path]:
    """Train every seed of the recipes. Finished runs are skipped, interrupted runs continue.

    Args:
        recipes: one recipe or several.
        data: folder of the data set, or folder with one folder of photos per class.
        out: folder into which all run folders are written.
        seeds: seeds to train. Default: the seeds in each recipe.
        device: "auto", "cpu", "cuda" or "cuda:1".
        precision: "bfloat16" trains under autocast.
        weights: file with weights for the backbone. Default: its pretrained weights.
        regions: boxes or masks of the objects in the photos. If given, the share of the contributions inside the
            objects is measured.

    Returns:
        The run folders <out>/<experiment>/<run>/seed<N>.

    Raises:
        TrainingError: a recipe does not fit the data, or the loss is not finite.
        NetworkError: the backbone cannot be loaded.
        LocalizationError: ``regions`` do not fit the photos.
    """
    folders: list[Path] = []
    loaded: tuple[Recipe, TrainingData] | None = None
    # No markup: rich would read brackets in a folder's name as formatting.
    name, text = TextColumn("{task.description}", markup=False), TextColumn("{task.fields[text]}")
    progress = Progress(name, BarColumn(12), text, TimeRemainingColumn(), disable=not is_first())
    # Loading a network first builds it with random weights; fork_rng keeps the caller's random state unchanged.
    with join_processes(device) as place, torch.random.fork_rng(()), progress:
        for recipe in [recipes] if isinstance(recipes, Recipe) else recipes:
            if recipe.data == "folder" and (out / recipe.experiment).resolve().is_relative_to(data.resolve()):
                raise TrainingError(f"Runs in {out / recipe.experiment} would be among the photos. Use another --out.")
            if recipe.data != "folder" and (weights or regions):
                raise TrainingError(
                    f"--weights and --objects apply only to photos, but {recipe.run} trains on {recipe.data}."
                )
            if loaded is None or not recipe.shares_training_data_with(loaded[0]):
                task = progress.add_task(f"{recipe.experiment}/{recipe.run}: reading", total=None, text="")
                loaded = None  # free the data of the previous recipe before the next are read
                loaded = recipe, prepare_training_data(recipe, data, weights, regions, place)
                progress.remove_task(task)
                if is_first():
                    _print_data(loaded[1].data, progress.console)
                if regions is not None and loaded[1].data.folder is not None:
                    check_objects(loaded[1].data, regions)
            for seed in seeds or recipe.seeds:
                task = progress.add_task(f"{recipe.experiment}/{recipe.run} seed {seed}", total=None, text="")

                def show_progress(done: int, total: int, text: str, task: Any = task) -> None:
                    progress.update(task, completed=done, total=total, text=text)

                folders.append(out / recipe.experiment / recipe.run / f"seed{seed}")
                train_seed(recipe, seed, loaded[1], folders[-1], precision, show_progress)
    return folders


def _print_data(data: DataSet, console: Console) -> None:
    for sentence in (data.describe_balance(), *(f"Skipped: {reason}" for reason in data.skipped)):
        console.print(sentence, markup=False, highlight=False, soft_wrap=True)


def prepare_training_data(
    recipe: Recipe, folder: Path, weights: Path | None, regions: Regions | None, device: torch.device
) -> TrainingData:
    """Read the data set and the backbone, and compute the feature maps of a frozen trunk once.

    Raises:
        TrainingError: the data cannot be read.
        NetworkError: the backbone cannot be loaded.
    """
    if recipe.data != "folder":
        data = read_torchvision_data(recipe.data, folder, device)
        return TrainingData(data, None, data.training, data.test, regions)
    backbone = load_backbone(recipe.arguments["backbone"], weights, PreprocessingOverrides(**recipe.input))
    data = read_photos(folder, backbone.classifier.preprocessing, device)
    shared = TrainingData(data, backbone, data.training, data.test, regions)
    if not recipe.frozen:
        return shared
    trunk = build_network(recipe, data.classes, backbone).get_submodule("trunk").to(device)
    return replace(shared, training=compute_features(trunk, data.training), test=compute_features(trunk, data.test))


@torch.inference_mode()
def compute_features(trunk: nn.Module, images: Images) -> Images:
    """Compute the feature maps of all images once; the head is then trained on these maps.

    Raises:
        TrainingError: the feature maps would not fit in memory.
    """
    trunk.eval().to(memory_format=torch.channels_last)
    first = trunk(images.inputs(slice(1)))
    if (needed := len(images) * first.numel() * 4) > MAX_MEMORY:
        raise TrainingError(
            f"The feature maps of {len(images):,} photos take {needed / 1e9:.0f} GB, and at most "
            f"{MAX_MEMORY / 1e9:.0f} GB are kept in memory. Use a smaller input size, or --finetune."
        )
    maps = first.new_empty(len(images), *first.shape[1:])
    for start in range(0, len(images), _BATCH):
        part = slice(start, start + _BATCH)
        maps[part] = trunk(images.inputs(part))
    return Images(maps, images.labels)


def train_seed(
    recipe: Recipe, seed: int, shared: TrainingData, folder: Path, precision: Precision, on_progress: OnProgress
) -> None:
    """Train one network and write its run folder. If the folder has a checkpoint, continue after its last epoch."""
    device = shared.training.pixels.device
    settings: dict[str, Any] = recipe.settings() | {"seed": seed, "precision": precision}
    if shared.backbone:
        settings["photos"] = shared.data.digest
    if check_finished(folder, settings):
        on_progress(1, 1, "finished")
        return
    with torch.random.fork_rng(range(torch.cuda.device_count()) if device.type == "cuda" else ()):
        torch.manual_seed(seed)
        # Channels-last is faster: on one core an epoch of fashion_convnet takes 14 s instead of 21 s.
        network = build_network(recipe, shared.data.classes, shared.backbone).to(device)
        network = network.to(memory_format=torch.channels_last)
        trained = network.get_submodule("head") if recipe.frozen else network
        _check_shapes(trained, recipe, shared)
        make_folder(folder)
        run = TrainingState(trained, OPTIMIZERS[recipe.optimizer](trained.parameters(), lr=recipe.rate), settings)
        load_checkpoint(run, folder / "checkpoint.pt")
        for epoch in range(len(run.history) + 1, recipe.epochs + 1):
            train_epoch(run, recipe, epoch, shared, precision, on_progress)
            if is_first():
                save_checkpoint(run, folder)
    if not is_first():
        return
    finished = f"epoch {recipe.epochs}/{recipe.epochs}"
    on_progress(recipe.epochs, recipe.epochs, f"{finished}  class maps of the test images")
    card = describe_network(recipe, seed, run.history[-1], shared.data, shared.backbone)
    write_network(network, card, folder, recipe.epochs)
    logits = predict_logits(trained, shared.test, precision)
    evaluation = evaluate_run(folder, shared.data, logits, shared.regions, recipe.epochs)
    write_results(run, network, recipe.title, evaluation, folder)
    on_progress(recipe.epochs, recipe.epochs, f"{finished}  top-1 {run.history[-1]['top1']:.4f}")


def train_epoch(
    run: TrainingState, recipe: Recipe, epoch: int, shared: TrainingData, precision: Precision, on_progress: OnProgress
) -> None:
    """Train one epoch in a new random order, evaluate on the test images, and append the results to the run's history.

    Raises:
        TrainingError: the training loss is not finite.
    """
    start = time.perf_counter()
    run.network.train()
    network, training = parallelize(run.network), shared.training
    losses: list[Tensor] = []
    order = torch.randperm(len(training)).to(training.pixels.device).split(recipe.batch)
    chunk = math.ceil(len(order) / 100)
    for number, batch in enumerate(order, 1):
        part, weight = split_batch(batch)
        with _autocast(precision, training.pixels.device):
            loss = compute_loss(network(training.inputs(part)), training.labels[part], recipe.loss) * weight
        run.optimizer.zero_grad()
        loss.backward()
        run.optimizer.step()
        losses.append(loss.detach())
        if number % chunk == 0 or number == len(order):
            speed = number * recipe.batch / (time.perf_counter() - start)
            done = (epoch - 1) * len(order) + number
            text = f"epoch {epoch}/{recipe.epochs}  loss {loss.item():.4f}  {speed:,.0f} images/s"
            on_progress(done, recipe.epochs * len(order), text)
    values: list[float] = average_losses(torch.stack(losses)).tolist()
    training_loss = sum(value * len(batch) for value, batch in zip(values, order, strict=True)) / len(training)
    if not math.isfinite(training_loss):
        raise TrainingError(
            f"The loss of {recipe.run} is {training_loss} in epoch {epoch}. Use a learning rate below {recipe.rate}."
        )
    run.batches.extend({"epoch": epoch} | row for row in thin_losses(values, chunk))
    row = {"epoch": epoch, "training_loss": training_loss} | evaluate(run.network, shared.test, recipe.loss, precision)
    run.history.append(row | {"seconds": round(time.perf_counter() - start, 2)})


def thin_losses(losses: list[float], chunk: int) -> list[dict[str, float]]:
    """Average the losses over chunks of batches. Return one row per chunk, with the number of its last batch."""
    chunks = [losses[first : first + chunk] for first in range(0, len(losses), chunk)]
    return [
        {"batch": min((number + 1) * chunk, len(losses)), "training_loss": statistics.fmean(some)}
        for number, some in enumerate(chunks)
    ]


def evaluate(network: nn.Module, images: Images, loss: Loss, precision: Precision) -> dict[str, float]:
    """Evaluate a network on images. Return its validation loss in nats, and its top-1 and top-2 accuracy (0-1)."""
    logits = predict_logits(network, images, precision)
    top1, top2 = (multiclass_accuracy(logits, images.labels, logits.shape[1], "micro", top_k=k).item() for k in (1, 2))
    return {"validation_loss": compute_loss(logits, images.labels, loss).item(), "top1": top1, "top2": top2}


@torch.inference_mode()
def predict_logits(network: nn.Module, images: Images, precision: Precision) -> Tensor:
    """Compute the logits of all images, with the network in evaluation mode; return (N, K) float32."""
    network.eval()
    # Limit the values per batch to 5 million, so that memory holds 1000 small images or 33 photos of 224 x 224.
    batch = max(_BATCH, min(1000, 5_000_000 // images.pixels[0].numel()))
    with _autocast(precision, images.pixels.device):
        parts = [network(images.inputs(slice(start, start + batch))) for start in range(0, len(images), batch)]
    return torch.cat(parts).float()


def compute_loss(logits: Tensor, labels: Tensor, loss: Loss) -> Tensor:
    """Compute the mean loss in nats, for logits (N, K) and labels (N,)."""
    return nn.functional.cross_entropy(logits.sigmoid() if loss == "sigmoid_cross_entropy" else logits, labels)


def _autocast(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def build_network(recipe: Recipe, classes: Sequence[str], backbone: Backbone | None) -> nn.Module:
    """Build the network of a recipe with its initial weights.

    Raises:
        TrainingError: the factory or one of its arguments does not exist, or has a wrong value.
    """
    if recipe.factory not in OURS:
        nearest = get_close_matches(recipe.factory, OURS) or OURS
        raise TrainingError(f"No network {recipe.factory!r}. Nearest names: {', '.join(nearest)}.")
    factory = OURS[recipe.factory]
    parameters = inspect.signature(factory).parameters
    for name, value in recipe.arguments.items():
        if name not in parameters:
            known = ", ".join(parameters) or "none"
            raise TrainingError(f"{recipe.factory} has no argument {name!r}. Its arguments: {known}.")
        annotation = parameters[name].annotation
        allowed = get_args(annotation) if get_origin(annotation) is Literal else ()
        if allowed and value not in allowed:
            expected = " or ".join(map(repr, allowed))
            raise TrainingError(f"{recipe.factory}: expected {expected} for {name}, got {value!r}.")
    if backbone is not None:
        return build_with_head(backbone, recipe.arguments["head"], len(classes))
    try:
        return factory(**recipe.arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TrainingError(f"{recipe.factory} cannot be built with {dict(recipe.arguments)}: {error}.") from error


def _check_shapes(network: nn.Module, recipe: Recipe, shared: TrainingData) -> None:
    """Raise TrainingError unless the network maps the training data to one logit per class."""
    classes = len(shared.data.classes)
    network.eval()
    try:
        with torch.inference_mode():
            shape = tuple(network(shared.training.inputs(slice(2))).shape[1:])
    except RuntimeError as error:
        first = str(error).splitlines()[0]
        raise TrainingError(f"{recipe.factory} cannot take the images of {recipe.data}: {first}") from error
    if shape != (classes,):
        raise TrainingError(f"{recipe.factory} returns shape {shape} per image, but {recipe.data} needs ({classes},).")
