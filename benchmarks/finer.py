"""Compute finer class maps of all torchvision classifiers whose class maps are exact, and time them.

The networks are those of docs/torchvision.md. Their weights are random, which changes neither the number of operations
nor what is exact; their batch normalization has the statistics of noise, as a trained one has those of its photos.

    python benchmarks/finer.py            # 45 minutes on one core; continues where it was stopped
    python benchmarks/finer.py --again    # from the beginning
"""

import csv
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import typer
from heads import DOCS, OTHER_SIZES, SIZE, _list_torchvision
from report import format_table, time_interleaved, write_results
from rich.progress import track
from torch import nn

import inspector
from inspector.explain.finer import FinerMaps, compute_finer

HEADER = (
    "network",
    "cells",
    "finer",
    "how",
    "largest difference of own cells",
    "residual (logits)",
    "time / forward pass",
)
FACTORS = (2, 4)
PARTS = Path(__file__).parent / "results" / "finer.csv"  # rows of finished networks
_FAST = 0.2  # seconds of a forward pass; slower networks are timed fewer times


def main(again: Annotated[bool, typer.Option("--again", help="Begin from the beginning.")] = False) -> None:
    """Measure every network, and write benchmarks/results/finer.md."""
    torch.set_num_threads(1)
    _, build = _list_torchvision()
    rows = [] if again or not PARTS.exists() else [tuple(row) for row in csv.reader(PARTS.read_text().splitlines())]
    done = {row[0] for row in rows}
    for name in track([name for name in list_exact() if name not in done]):
        rows += measure_network(name, build)
        with PARTS.open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)
    dilated, refused = (sum(row[3].startswith(word) for row in rows) for word in ("dilation", "refused"))
    summary = (
        f"{len({row[0] for row in rows})} networks, 2x and 4x finer: {dilated} of {len(rows)} by dilation, "
        f"{len(rows) - dilated - refused} by shifted passes, {refused} refused. One image, one thread; time is that of "
        "the network with its feature maps on the finer grid, beside a forward pass of the network alone."
    )
    write_results("finer", "python benchmarks/finer.py", summary, format_table(HEADER, rows))


def list_exact() -> list[str]:
    """Return the names of the networks whose class maps are exact, from the table that heads.py wrote."""
    table = [line.split(" | ") for line in (DOCS / "torchvision.md").read_text().splitlines() if line.startswith("| ")]
    return [cells[0].removeprefix("| ") for cells in table if len(cells) > 4 and cells[4] == "exact"]


def measure_network(name: str, build: Callable[[str], nn.Module]) -> list[tuple[str, ...]]:
    """Return one row per factor."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = build(name)
    size = OTHER_SIZES.get(name, SIZE)
    set_statistics(network, size)
    classifier = inspector.Classifier.wrap(network, size=size)
    inputs = torch.randn(1, 3, size, size)
    (maps,) = inspector.class_maps_of_batch(classifier, inputs)
    rows = []
    for factor in FACTORS:
        cells = " x ".join(str(factor * n) for n in maps.values.shape[1:])
        try:
            _, (finer,) = compute_finer(classifier, inputs, factor)
        except inspector.InspectorError as error:
            rows.append((name, "", f"{factor}x", f"refused: {error}", "", "", ""))
            continue
        share = measure_cost(classifier, network, inputs, factor)
        numbers = f"{finer.difference:.1e}", f"{finer.residual:.1e}", f"{share:.2f}"
        rows.append((name, cells, f"{factor}x", describe(finer), *numbers))
    return rows


def set_statistics(network: nn.Module, size: int) -> None:
    """Give batch normalization the statistics of noise; leave the network in evaluation mode."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
    network.train()
    with torch.no_grad():
        if norms:
            network(torch.randn(2, 3, size, size))
    network.eval()


def describe(finer: FinerMaps) -> str:
    return "dilation" if finer.method == "dilation" else f"{finer.factor**2} passes: {finer.reason}"


def measure_cost(classifier: inspector.Classifier, network: nn.Module, inputs: torch.Tensor, factor: int) -> float:
    """Return the least time of the finer pass as a part of that of a forward pass, measured in turns."""

    def run_network() -> None:
        with torch.no_grad():
            network(inputs)

    runs = {"forward": run_network, "finer": lambda: compute_finer(classifier, inputs, factor)}
    start = time.perf_counter()
    run_network()
    rounds = 8 if time.perf_counter() - start < _FAST else 2
    times = time_interleaved(runs, rounds, warm_up=1)
    return min(times["finer"]) / min(times["forward"])


if __name__ == "__main__":
    typer.run(main)
