"""Write the files of a training run: during training checkpoints and histories, then weights, model.json, run.json."""

import io
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from inspector.entries import Entries, parse_json
from inspector.errors import TrainingError, translate_errors
from inspector.files import csv_bytes, json_bytes, write_atomic
from inspector.training.backbone import Backbone, make_transfer_arguments
from inspector.training.data import DataSet
from inspector.training.recipe import HEADS, Recipe, recipe_for_photos
from inspector.version import __version__


@dataclass(frozen=True)
class TrainingState:
    """State of a run between two epochs: network, optimizer, settings, and the measurements so far.

    A checkpoint stores this state and the random state, so that a run can continue from it.
    """

    network: nn.Module
    optimizer: torch.optim.Optimizer
    settings: Mapping[str, Any]  # recipe, seed, precision; only a run with equal settings can continue
    history: list[dict[str, float]] = field(default_factory=list)  # one row per epoch
    batches: list[dict[str, float]] = field(default_factory=list)  # training losses, up to 100 rows per epoch


def count_parameters(network: nn.Module) -> dict[str, int]:
    """Count the parameters of the whole network and of its head.

    The head is the module named "head". If there is no such module, it is the last layer with parameters.
    """
    weighted = [layer for layer in network.modules() if not list(layer.children()) and list(layer.parameters())]
    head = getattr(network, "head", weighted[-1])
    return {name: sum(p.numel() for p in part.parameters()) for name, part in (("head", head), ("all", network))}


def save_checkpoint(run: TrainingState, folder: Path) -> None:
    """Write the checkpoint, then the histories of epochs and batches as CSV files.

    Raises:
        TrainingError: a file cannot be written.
    """
    buffer = io.BytesIO()  # in memory, so that `write_file` does the writing and reports a full disk
    device = next(run.network.parameters()).device
    state = {
        "settings": run.settings,
        "network": run.network.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "random": torch.get_rng_state(),
        "random_cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "history": run.history,
        "batches": run.batches,
    }
    torch.save(state, buffer)
    finished = len(run.history) - 1
    write_file(folder / "checkpoint.pt", buffer.getvalue(), finished)
    write_file(folder / "history.csv", table_bytes(run.history), finished + 1)
    write_file(folder / "batches.csv", table_bytes(run.batches), finished + 1)


def load_checkpoint(run: TrainingState, checkpoint: Path) -> None:
    """Restore a run from its checkpoint; without a checkpoint do nothing.

    Raises:
        TrainingError: the checkpoint is broken, or its run has other settings.
    """
    if not checkpoint.exists():
        return
    device = next(run.network.parameters()).device
    try:
        stored = torch.load(checkpoint, map_location=device, weights_only=True)
        found = stored["settings"]
    except Exception as error:  # torch.load raises many kinds of errors for broken files
        raise TrainingError(f"{checkpoint} is broken. Remove it to start this run again.") from error
    _check_settings(run.settings, found, checkpoint.parent)
    run.network.load_state_dict(stored["network"])
    run.optimizer.load_state_dict(stored["optimizer"])
    torch.set_rng_state(stored["random"].cpu())
    if stored["random_cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(stored["random_cuda"].cpu(), device)
    run.history.extend(stored["history"])
    run.batches.extend(stored["batches"])


def check_finished(folder: Path, settings: Mapping[str, Any]) -> bool:
    """Return whether the run in a folder is finished.

    Raises:
        TrainingError: run.json is broken, or its run has other settings.
    """
    path = folder / "run.json"
    if not path.exists():
        return False
    with translate_errors(TrainingError, f"{path} is broken. Remove its folder to start this run again."):
        found = Entries(parse_json(path.read_bytes())).object("settings").values
    _check_settings(settings, found, folder)
    return True


def _check_settings(settings: Mapping[str, Any], found: Mapping[str, Any], folder: Path) -> None:
    if found.get("photos") != settings.get("photos") and found == {**settings, "photos": found.get("photos")}:
        raise TrainingError(
            f"{folder} holds a run on other photos (some were added, removed or renamed since). Use another --out, or "
            "remove it."
        )
    if differing := [
        f"{key} {found.get(key)!r} there, {value!r} here" for key, value in settings.items() if found.get(key) != value
    ]:
        raise TrainingError(
            f"{folder} holds a run of another recipe ({'; '.join(differing)}). Use another --out, or remove it."
        )


def write_network(network: nn.Module, card: Mapping[str, Any], folder: Path, finished: int) -> None:
    """Write weights.safetensors and model.json, so that ``inspector.load`` can open the folder.

    Args:
        network: the trained network.
        card: content of model.json, from `describe_network`.
        folder: run folder.
        finished: number of finished epochs, for error messages.
    """
    state = {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}
    # Save the head only if the weights of the trunk are in an installed package.
    if not isinstance(card["weights"], str):
        state = {name: tensor for name, tensor in state.items() if name.startswith("head.")}
    write_file(folder / "weights.safetensors", save(state), finished)
    write_file(folder / "model.json", json_bytes(card), finished)


def write_results(
    run: TrainingState, network: nn.Module, title: str, evaluation: Mapping[str, Any], folder: Path
) -> None:
    """Write the histories, and at the end run.json: this file marks the run as finished. Remove the checkpoint."""
    epochs, device = len(run.history), next(network.parameters()).device
    about = {
        "title": title,
        "settings": run.settings,
        "parameters": count_parameters(network),
        "final": {key: value for key, value in run.history[-1].items() if key != "seconds"},
        "best": {key: max(run.history, key=lambda row: row["top1"])[key] for key in ("epoch", "top1", "top2")},
        "seconds_an_epoch": round(statistics.median(row["seconds"] for row in run.history), 2),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version()}
        | {"inspector": __version__}
        | {name: version(name) for name in ("torch", "torchvision")},
        **evaluation,
    }
    write_file(folder / "history.csv", table_bytes(run.history), epochs)
    write_file(folder / "batches.csv", table_bytes(run.batches), epochs)
    write_file(folder / "run.json", json_bytes(about), epochs)
    (folder / "checkpoint.pt").unlink(missing_ok=True)


def describe_network(
    recipe: Recipe, seed: int, last: Mapping[str, float], data: DataSet, backbone: Backbone | None
) -> dict[str, Any]:
    """Make the content of model.json: how to build the network, preprocess its input and name its outputs.

    Args:
        recipe: recipe of the training.
        seed: seed of the run.
        last: row of the history for the last epoch, with top1 and top2.
        data: data set of the training.
        backbone: the trained network in transfer learning, else None.
    """
    preprocessing = asdict(data.preprocessing)
    architecture: dict[str, Any] = {"factory": recipe.factory, "arguments": dict(recipe.arguments)}
    weights: object = "weights.safetensors"
    source = f"Trained here on {data.source}"
    if backbone is not None:
        arguments = make_transfer_arguments(backbone, recipe.arguments["head"])
        architecture = {"factory": recipe.factory, "classes": len(data.classes), "arguments": arguments}
        source += f" On top of {recipe.arguments['backbone']}{', frozen' if recipe.frozen else ', all of it trained'}."
        if recipe.frozen and backbone.packaged:
            weights = [weights, {**backbone.packaged, "into": "trunk.network"}]
    return {
        "title": recipe.title,
        "architecture": architecture,
        "weights": weights,
        "probability": "sigmoid" if recipe.loss == "sigmoid_cross_entropy" else "softmax",
        "classes": data.classes,
        **{key: preprocessing[key] for key in ("size", "resize", "interpolation", "mean", "std")},
        "examples": data.examples,
        "source": source,
        "training": f"inspector train {_format_command(recipe)} --seed {seed}",
        "scores": {"data": f"{len(data.test):,} test images"} | {key: round(last[key], 4) for key in ("top1", "top2")},
    }


def _format_command(recipe: Recipe) -> str:
    """Return the arguments of `inspector train`: options if they describe the recipe fully, else the recipe's file."""
    size = recipe.input.get("size")
    for head in HEADS if recipe.data == "folder" else ():
        backbone = recipe.arguments["backbone"]
        # The experiment has the name of the photo folder, so the default recipe can be made again from it.
        default = recipe_for_photos(Path(recipe.experiment), backbone, head, recipe.frozen, recipe.epochs, size=size)
        if default.settings() == recipe.settings():
            options = f"--images FOLDER --backbone {backbone} --head {head} --epochs {recipe.epochs}"
            options += f" --size {size[0]}x{size[1]}" if size else ""
            return options if recipe.frozen else f"{options} --finetune"
    return f"experiments/{recipe.experiment}/{recipe.run}.toml --data FOLDER"


def make_folder(folder: Path) -> None:
    """Make the run folder before training, so that a path that cannot be written is reported at once.

    Raises:
        TrainingError: the folder cannot be made.
    """
    with translate_errors(TrainingError, f"Cannot write {folder}: {{reason}}. Use another --out."):
        folder.mkdir(parents=True, exist_ok=True)


def write_file(path: Path, content: bytes, finished: int) -> None:
    """Write one file of a run atomically: if the run is killed, the file has its old or its new content, never a mix.

    Args:
        path: path of the file.
        content: full content of the file.
        finished: number of epochs that are stored already; it is quoted in the error message.

    Raises:
        TrainingError: the file cannot be written.
    """
    stored = f"Epochs up to {finished} are stored." if finished else "No epoch is stored."
    with translate_errors(TrainingError, f"Cannot write {path}: {{reason}}. {stored}"):
        write_atomic(path, content)


def table_bytes(rows: Sequence[Mapping[str, object]]) -> bytes:
    """Return a CSV table of rows that all have the same keys; the keys are the header."""
    return csv_bytes(list(rows[0]), ([*row.values()] for row in rows))
