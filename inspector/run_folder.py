"""What a run leaves in its folder: a checkpoint while it runs, then its histories, weights and what it was made of."""

import csv
import io
import json
import platform
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from inspector.data_sets import DATA
from inspector.errors import TrainingError
from inspector.recipe import Recipe


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


def keep(run: Training, folder: Path, settings: Mapping[str, Any]) -> None:
    """Write the checkpoint, then the histories in it as CSV."""
    buffer = io.BytesIO()  # torch.save into a full disk raises another error than a plain write
    on_gpu = next(run.network.parameters()).is_cuda
    torch.save(
        {
            "settings": settings,
            "network": run.network.state_dict(),
            "optimizer": run.optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state() if on_gpu else None,
            "history": run.history,
            "batches": run.batches,
        },
        buffer,
    )
    finished = len(run.history) - 1
    write_file(folder / "checkpoint.pt", buffer.getvalue(), finished)
    write_file(folder / "history.csv", _csv(run.history), finished + 1)
    write_file(folder / "batches.csv", _csv(run.batches), finished + 1)


def resume(run: Training, checkpoint: Path, settings: Mapping[str, Any]) -> None:
    """Bring a new run to where its checkpoint is, if there is one."""
    if not checkpoint.exists():
        return
    try:
        kept = torch.load(checkpoint, map_location=next(run.network.parameters()).device, weights_only=True)
        found = kept["settings"]
    except Exception as error:  # over junk, torch's unpickler stumbles in many ways
        raise TrainingError(f"{checkpoint} is broken; remove it to begin this run again.") from error
    _check_same(settings, found, checkpoint.parent)
    run.network.load_state_dict(kept["network"])
    run.optimizer.load_state_dict(kept["optimizer"])
    torch.set_rng_state(kept["random"].cpu())
    if kept["random_cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(kept["random_cuda"].cpu())
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
    if differing := [f"{key} {found.get(key)!r} there, {value!r} here" for key, value in settings.items()
                     if found.get(key) != value]:  # fmt: skip
        raise TrainingError(
            f"{folder} holds a run of another recipe ({'; '.join(differing)}): name another --out, or remove it."
        )


def write_results(
    run: Training, recipe: Recipe, settings: Mapping[str, Any], folder: Path, device: torch.device
) -> None:
    """Write the histories, the weights, a model.json that the inspector opens and, last, run.json."""
    epochs = len(run.history)
    weights = {name: tensor.cpu().contiguous() for name, tensor in run.network.state_dict().items()}
    about = {
        "title": recipe.title,
        "settings": settings,
        "parameters": parameter_counts(run.network),
        "final": {key: value for key, value in run.history[-1].items() if key != "seconds"},
        "best": {key: max(run.history, key=lambda row: row["top1"])[key] for key in ("epoch", "top1", "top2")},
        "seconds_an_epoch": round(statistics.median(row["seconds"] for row in run.history), 2),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("inspector", "torch", "torchvision")},
    }
    write_file(folder / "history.csv", _csv(run.history), epochs)
    write_file(folder / "batches.csv", _csv(run.batches), epochs)
    write_file(folder / "weights.safetensors", save(weights), epochs)
    write_file(folder / "model.json", _json(describe(recipe, settings["seed"], run.history[-1])), epochs)
    write_file(folder / "run.json", _json(about), epochs)
    (folder / "checkpoint.pt").unlink(missing_ok=True)


def describe(recipe: Recipe, seed: int, last: Mapping[str, float]) -> dict[str, Any]:
    """A model.json: how to build, feed and read the network."""
    data = DATA[recipe.data]
    return {
        "title": recipe.title,
        "architecture": {"factory": recipe.factory, "arguments": dict(recipe.arguments)},
        "weights": "weights.safetensors",
        "probability": "sigmoid" if recipe.loss == "sigmoid_cross_entropy" else "softmax",
        "classes": data.classes,
        "size": [28, 28],
        "resize": [28, 28],
        "interpolation": "bilinear",
        "mean": [0.0],
        "std": [1.0],
        "examples": data.examples,
        "source": f"Trained here on {data.source}",
        "training": f"inspector train experiments/{recipe.experiment}/{recipe.run}.toml --data FOLDER --seed {seed}",
        "scores": {"data": "10,000 test images"} | {key: round(last[key], 4) for key in ("top1", "top2")},
    }


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


def _csv(rows: list[dict[str, float]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _json(content: object) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()
