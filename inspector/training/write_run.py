"""What a run leaves in its folder: a checkpoint while it runs, then its histories, weights and what it was made of."""

import csv
import io
import json
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from inspector.errors import TrainingError
from inspector.training.backbone import Backbone, transfer_arguments
from inspector.training.data import DataSet
from inspector.training.recipe import HEADS, Recipe, recipe_for_photos


@dataclass(frozen=True)
class Training:
    """What a checkpoint keeps: all that the next epoch depends on, and what was measured."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    history: list[dict[str, float]]  # a row an epoch
    batches: list[dict[str, float]]  # up to 100 rows an epoch


def parameter_counts(network: nn.Module) -> dict[str, int]:
    """All weights, and those of the head: the network's part of that name, or else its last layer that has weights."""
    weighted = [layer for layer in network.modules() if not list(layer.children()) and list(layer.parameters())]
    head = getattr(network, "head", weighted[-1])
    return {name: sum(p.numel() for p in part.parameters()) for name, part in (("head", head), ("all", network))}


def save_checkpoint(run: Training, folder: Path, settings: Mapping[str, Any]) -> None:
    """Write the checkpoint, then the histories in it as CSV."""
    buffer = io.BytesIO()  # torch.save into a full disk raises another error than a plain write
    device = next(run.network.parameters()).device
    torch.save(
        {
            "settings": settings,
            "network": run.network.state_dict(),
            "optimizer": run.optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
            "history": run.history,
            "batches": run.batches,
        },
        buffer,
    )
    finished = len(run.history) - 1
    write_file(folder / "checkpoint.pt", buffer.getvalue(), finished)
    write_file(folder / "history.csv", csv_bytes(run.history), finished + 1)
    write_file(folder / "batches.csv", csv_bytes(run.batches), finished + 1)


def load_checkpoint(run: Training, checkpoint: Path, settings: Mapping[str, Any]) -> None:
    """Bring a new run to where its checkpoint is, if there is one."""
    if not checkpoint.exists():
        return
    device = next(run.network.parameters()).device
    try:
        kept = torch.load(checkpoint, map_location=device, weights_only=True)
        found = kept["settings"]
    except Exception as error:  # over junk, torch's unpickler stumbles in many ways
        raise TrainingError(f"{checkpoint} is broken; remove it to begin this run again.") from error
    _check_same(settings, found, checkpoint.parent)
    run.network.load_state_dict(kept["network"])
    run.optimizer.load_state_dict(kept["optimizer"])
    torch.set_rng_state(kept["random"].cpu())
    if kept["random_cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(kept["random_cuda"].cpu(), device)
    run.history.extend(kept["history"])
    run.batches.extend(kept["batches"])


def check_finished(folder: Path, settings: Mapping[str, Any]) -> bool:
    """Whether the run in a folder is finished; TrainingError if it is one of another recipe."""
    path = folder / "run.json"
    if not path.exists():
        return False
    try:
        found = json.loads(path.read_text())["settings"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{path} is broken; remove its folder to begin this run again.") from error
    _check_same(settings, found, folder)
    return True


def _check_same(settings: Mapping[str, Any], found: Mapping[str, Any], folder: Path) -> None:
    if found.get("photos") != settings.get("photos") and found == {**settings, "photos": found.get("photos")}:
        raise TrainingError(
            f"{folder} holds a run on other photos (some were added, removed or renamed since): name another --out, or "
            "remove it."
        )
    if differing := [
        f"{key} {found.get(key)!r} there, {value!r} here" for key, value in settings.items() if found.get(key) != value
    ]:
        raise TrainingError(
            f"{folder} holds a run of another recipe ({'; '.join(differing)}): name another --out, or remove it."
        )


def write_network(
    network: nn.Module,
    last: Mapping[str, float],
    recipe: Recipe,
    seed: int,
    data: DataSet,
    backbone: Backbone | None,
    folder: Path,
) -> None:
    """Write the weights and a model.json that the inspector opens."""
    state = {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}
    card = describe_network(recipe, seed, last, data, backbone)
    if not isinstance(card["weights"], str):  # the trunk's come from their package
        state = {name: tensor for name, tensor in state.items() if name.startswith("head.")}
    write_file(folder / "weights.safetensors", save(state), recipe.epochs)
    write_file(folder / "model.json", _json(card), recipe.epochs)


def write_results(
    run: Training,
    network: nn.Module,
    title: str,
    settings: Mapping[str, Any],
    examined: Mapping[str, Any],
    folder: Path,
    device: torch.device,
) -> None:
    """Write the histories and, last, run.json, which says that the run is finished."""
    epochs = len(run.history)
    about = {
        "title": title,
        "settings": settings,
        "parameters": parameter_counts(network),
        "final": {key: value for key, value in run.history[-1].items() if key != "seconds"},
        "best": {key: max(run.history, key=lambda row: row["top1"])[key] for key in ("epoch", "top1", "top2")},
        "seconds_an_epoch": round(statistics.median(row["seconds"] for row in run.history), 2),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("inspector", "torch", "torchvision")},
        **examined,
    }
    write_file(folder / "history.csv", csv_bytes(run.history), epochs)
    write_file(folder / "batches.csv", csv_bytes(run.batches), epochs)
    write_file(folder / "run.json", _json(about), epochs)
    (folder / "checkpoint.pt").unlink(missing_ok=True)


def describe_network(
    recipe: Recipe, seed: int, last: Mapping[str, float], data: DataSet, backbone: Backbone | None
) -> dict[str, Any]:
    """A model.json: how to build, feed and read the network."""
    feeding = asdict(data.preprocessing)
    architecture: dict[str, Any] = {"factory": recipe.factory, "arguments": dict(recipe.arguments)}
    weights: object = "weights.safetensors"
    source = f"Trained here on {data.source}"
    if backbone is not None:
        arguments = transfer_arguments(backbone, recipe.arguments["head"])
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
        **{key: feeding[key] for key in ("size", "resize", "interpolation", "mean", "std")},
        "examples": data.examples,
        "source": source,
        "training": f"inspector train {_recipe_said(recipe)} --seed {seed}",
        "scores": {"data": f"{len(data.test):,} test images"} | {key: round(last[key], 4) for key in ("top1", "top2")},
    }


def _recipe_said(recipe: Recipe) -> str:
    """How the command line is told of a recipe: by options if they make it, else by its file."""
    size = recipe.input.get("size")
    for head in HEADS if recipe.data == "folder" else ():
        backbone = recipe.arguments["backbone"]
        # The folder that gave the recipe its title was named as the experiment is.
        made = recipe_for_photos(Path(recipe.experiment), backbone, head, recipe.frozen, recipe.epochs, size=size)
        if made.settings() == recipe.settings():
            options = f"--images FOLDER --backbone {backbone} --head {head} --epochs {recipe.epochs}"
            options += f" --size {size[0]}x{size[1]}" if size else ""
            return options if recipe.frozen else f"{options} --finetune"
    return f"experiments/{recipe.experiment}/{recipe.run}.toml --data FOLDER"


def make_folder(folder: Path) -> None:
    """Make the folder of a run before hours are spent on what goes into it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(f"Cannot write {folder}: {error.strerror}; another --out would do.") from error


def write_file(path: Path, content: bytes, finished: int) -> None:
    """Write beside and rename, so that a file is old or new whenever the run is killed."""
    unfinished = path.with_name(f".{path.name}.part")
    try:
        unfinished.write_bytes(content)
        unfinished.replace(path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        kept = f"epochs up to {finished} are kept" if finished else "no epoch is kept"
        raise TrainingError(f"Cannot write {path}: {error.strerror}; {kept}.") from error


def csv_bytes(rows: Sequence[Mapping[str, object]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _json(content: object) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()
