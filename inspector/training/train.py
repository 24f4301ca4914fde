"""Train the networks of experiments/: one recipe, several seeds, a folder each that the inspector can open.

The loop is torch's own and not Lightning's: networks this small take 1.11 times as long a batch in Lightning's, without
its logger, checkpoints and bar (benchmarks/training.py), and a run that is to go on after a kill as if nothing had been
needs the state of the random numbers after each epoch, which Lightning's checkpoints have not. The weights after the
last epoch are kept: the test images choose nothing.
"""

import inspect
import math
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
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
from inspector.training.data import MAX_MEMORY, DataSet, Images, read_known, read_photos
from inspector.training.devices import average_losses, is_first, join_processes, parallelize, share
from inspector.training.evaluate import check_objects, evaluate_run
from inspector.training.recipe import Loss, Optimizer, Recipe
from inspector.training.write_run import (
    Training,
    check_finished,
    load_checkpoint,
    make_folder,
    save_checkpoint,
    write_network,
    write_results,
)

Precision = Literal["float32", "bfloat16"]

OPTIMIZERS: dict[Optimizer, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "rmsprop": torch.optim.RMSprop,
    "sgd": torch.optim.SGD,
}
_BATCH = 32  # photos at a time where nothing is learned from them


@dataclass(frozen=True)
class Material:
    """What the runs of a recipe share, whatever their seed."""

    data: DataSet
    backbone: Backbone | None  # of transfer
    training: Images  # what is learned from: the data's images, or the feature maps of a frozen trunk
    test: Images


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
    """The folders <out>/<experiment>/<run>/seed<N>; finished runs are left as they are, broken off ones go on.

    `weights` are a backbone's own, in place of those that its library fetches; `regions` say where the objects of
    photos are, so that the evidence inside them is told too.
    """
    folders: list[Path] = []
    gathered: tuple[Recipe, Material] | None = None
    told = TextColumn("{task.fields[told]}")
    # Names of folders may look like rich's markup.
    columns = (TextColumn("{task.description}", markup=False), BarColumn(12), told, TimeRemainingColumn())
    progress = Progress(*columns, disable=not is_first())
    # Networks that are read, before and after, are built with random weights first.
    with join_processes(device) as place, torch.random.fork_rng(()), progress:
        for recipe in [recipes] if isinstance(recipes, Recipe) else recipes:
            if recipe.data == "folder" and (out / recipe.experiment).resolve().is_relative_to(data.resolve()):
                where = out / recipe.experiment
                raise TrainingError(f"Runs in {where} would be among the photos: another --out would do.")
            if recipe.data != "folder" and (weights or regions):
                raise TrainingError(
                    f"--weights and --objects are for photos, and {recipe.run} trains on {recipe.data}."
                )
            if gathered is None or not recipe.learns_from_the_same_as(gathered[0]):
                task = progress.add_task(f"{recipe.experiment}/{recipe.run}: reading", total=None, told="")
                gathered = None  # frees what the last recipe learned from
                gathered = recipe, prepare_material(recipe, data, weights, place)
                progress.remove_task(task)
                if is_first():
                    _tell_data(gathered[1].data, progress.console)
                if regions is not None and gathered[1].data.folder is not None:
                    check_objects(gathered[1].data, regions)
            for seed in seeds or recipe.seeds:
                task = progress.add_task(f"{recipe.experiment}/{recipe.run} seed {seed}", total=None, told="")

                def tell(done: int, total: int, told: str, task: Any = task) -> None:
                    progress.update(task, completed=done, total=total, told=told)

                folders.append(out / recipe.experiment / recipe.run / f"seed{seed}")
                train_seed(recipe, seed, gathered[1], folders[-1], precision, tell, regions)
    return folders


def _tell_data(data: DataSet, console: Console) -> None:
    console.print(data.balance(), markup=False, highlight=False, soft_wrap=True)
    for sentence in data.skipped:
        console.print(f"Skipped: {sentence}", markup=False, highlight=False, soft_wrap=True)


def prepare_material(recipe: Recipe, folder: Path, weights: Path | None, device: torch.device) -> Material:
    """Read the data set and the backbone, and make the feature maps that a frozen trunk gives."""
    if recipe.data != "folder":
        data = read_known(recipe.data, folder, device)
        return Material(data, None, data.training, data.test)
    backbone = load_backbone(recipe.arguments["backbone"], weights, PreprocessingOverrides(**recipe.input))
    data = read_photos(folder, backbone.classifier.preprocessing, device)
    if not recipe.frozen:
        return Material(data, backbone, data.training, data.test)
    trunk = build_network(recipe, data.classes, backbone).get_submodule("trunk").to(device)
    return Material(data, backbone, compute_features(trunk, data.training), compute_features(trunk, data.test))


@torch.inference_mode()
def compute_features(trunk: nn.Module, images: Images) -> Images:
    """The feature maps that a trunk gives of images, to learn a head from."""
    trunk.eval().to(memory_format=torch.channels_last)
    first = trunk(images.inputs(slice(1)))
    if (needed := len(images) * first.numel() * 4) > MAX_MEMORY:
        raise TrainingError(
            f"The feature maps of {len(images):,} photos take {needed / 1e9:.0f} GB, and at most "
            f"{MAX_MEMORY / 1e9:.0f} GB are kept in memory: a smaller input size, or no freezing, would do."
        )
    maps = first.new_empty(len(images), *first.shape[1:])
    for start in range(0, len(images), _BATCH):
        part = slice(start, start + _BATCH)
        maps[part] = trunk(images.inputs(part))
    return Images(maps, images.labels)


def train_seed(
    recipe: Recipe,
    seed: int,
    material: Material,
    folder: Path,
    precision: Precision = "float32",
    tell: Callable[[int, int, str], None] = lambda done, total, told: None,
    regions: Regions | None = None,
) -> None:
    """Train one network and write its folder, or go on after the last epoch that its checkpoint there has."""
    device = material.training.pixels.device
    settings: dict[str, Any] = recipe.settings() | {"seed": seed, "precision": precision}
    if material.backbone:
        settings["photos"] = material.data.digest
    if check_finished(folder, settings):
        tell(1, 1, "is finished")
        return
    with torch.random.fork_rng(range(torch.cuda.device_count()) if device.type == "cuda" else ()):
        torch.manual_seed(seed)
        # Channels last: on one core an epoch of fashion_convnet takes 14 s in place of 21.
        network = build_network(recipe, material.data.classes, material.backbone).to(device)
        network = network.to(memory_format=torch.channels_last)
        learner = network.get_submodule("head") if recipe.frozen else network
        _check_fits(learner, recipe, material)
        make_folder(folder)
        run = Training(learner, OPTIMIZERS[recipe.optimizer](learner.parameters(), lr=recipe.rate), [], [])
        load_checkpoint(run, folder / "checkpoint.pt", settings)
        for epoch in range(len(run.history) + 1, recipe.epochs + 1):
            train_epoch(run, recipe, epoch, material.training, material.test, precision, tell)
            if is_first():
                save_checkpoint(run, folder, settings)
    if not is_first():
        return
    finished = f"epoch {recipe.epochs}/{recipe.epochs}"
    tell(recipe.epochs, recipe.epochs, f"{finished}  splitting the logits of test images")
    write_network(network, run.history[-1], recipe, seed, material.data, material.backbone, folder)
    logits = predict_logits(learner, material.test, precision)
    about = evaluate_run(folder, material.data, logits, regions, recipe.epochs)
    write_results(run, network, recipe.title, settings, about, folder, device)
    tell(recipe.epochs, recipe.epochs, f"{finished}  top-1 {run.history[-1]['top1']:.4f}")


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
    network = parallelize(run.network)
    losses: list[Tensor] = []
    order = torch.randperm(len(training)).to(training.pixels.device).split(recipe.batch)
    chunk = math.ceil(len(order) / 100)
    for number, batch in enumerate(order, 1):
        part, weight = share(batch)
        with _precision(precision, training.pixels.device):
            loss = make_loss(network(training.inputs(part)), training.labels[part], recipe.loss) * weight
        run.optimizer.zero_grad()
        loss.backward()
        run.optimizer.step()
        losses.append(loss.detach())
        if number % chunk == 0 or number == len(order):
            speed = number * recipe.batch / (time.perf_counter() - start)
            done = (epoch - 1) * len(order) + number
            told = f"epoch {epoch}/{recipe.epochs}  loss {loss.item():.4f}  {speed:,.0f} images/s"
            tell(done, recipe.epochs * len(order), told)
    values: list[float] = average_losses(torch.stack(losses)).tolist()
    training_loss = sum(value * len(batch) for value, batch in zip(values, order, strict=True)) / len(training)
    if not math.isfinite(training_loss):
        raise TrainingError(
            f"The loss of {recipe.run} is {training_loss} in epoch {epoch}: a rate below {recipe.rate} may do."
        )
    run.batches.extend({"epoch": epoch} | row for row in thin_losses(values, chunk))
    row = {"epoch": epoch, "training_loss": training_loss} | evaluate(run.network, test, recipe.loss, precision)
    run.history.append(row | {"seconds": round(time.perf_counter() - start, 2)})


def thin_losses(losses: list[float], chunk: int) -> list[dict[str, float]]:
    """A row a chunk of batches: the number of its last batch, and their mean."""
    chunks = [losses[first : first + chunk] for first in range(0, len(losses), chunk)]
    return [
        {"batch": min((number + 1) * chunk, len(losses)), "training_loss": statistics.fmean(some)}
        for number, some in enumerate(chunks)
    ]


def evaluate(network: nn.Module, images: Images, loss: Loss, precision: Precision) -> dict[str, float]:
    """Loss in nats, top-1 and top-2 as parts of 1."""
    logits = predict_logits(network, images, precision)
    top1, top2 = (multiclass_accuracy(logits, images.labels, logits.shape[1], "micro", top_k=k).item() for k in (1, 2))
    return {"validation_loss": make_loss(logits, images.labels, loss).item(), "top1": top1, "top2": top2}


@torch.inference_mode()
def predict_logits(network: nn.Module, images: Images, precision: Precision) -> Tensor:
    """(N, K), in evaluation mode."""
    network.eval()
    # A thousand small images at once, fewer photos.
    batch = max(_BATCH, min(1000, 5_000_000 // images.pixels[0].numel()))
    with _precision(precision, images.pixels.device):
        parts = [network(images.inputs(slice(start, start + batch))) for start in range(0, len(images), batch)]
    return torch.cat(parts).float()


def make_loss(logits: Tensor, labels: Tensor, loss: Loss) -> Tensor:
    return nn.functional.cross_entropy(logits.sigmoid() if loss == "sigmoid_cross_entropy" else logits, labels)


def _precision(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def build_network(recipe: Recipe, classes: Sequence[str], backbone: Backbone | None) -> nn.Module:
    """The network of a recipe with its first weights; TrainingError for a name or an argument that it has not."""
    if recipe.factory not in OURS:
        nearest = get_close_matches(recipe.factory, OURS) or OURS
        raise TrainingError(f"No network {recipe.factory!r}. Nearest names: {', '.join(nearest)}.")
    factory = OURS[recipe.factory]
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
    if backbone is not None:
        return build_with_head(backbone, recipe.arguments["head"], len(classes))
    try:
        return factory(**recipe.arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TrainingError(f"{recipe.factory} cannot be built with {dict(recipe.arguments)}: {error}.") from error


def _check_fits(network: nn.Module, recipe: Recipe, material: Material) -> None:
    classes = len(material.data.classes)
    network.eval()
    try:
        with torch.inference_mode():
            shape = tuple(network(material.training.inputs(slice(2))).shape[1:])
    except RuntimeError as error:
        first = str(error).splitlines()[0]
        raise TrainingError(f"{recipe.factory} cannot take the images of {recipe.data}: {first}") from error
    if shape != (classes,):
        raise TrainingError(f"{recipe.factory} gives {shape} for an image; {recipe.data} needs ({classes},).")
