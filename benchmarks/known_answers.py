"""Score every method on grids of photos where it is known in which photo the evidence of a class can be.

Rao, Böhle and Schiele, CVPR 2022: GridPG, DiPart and DiFull, as inspector/analysis/known_answers.py explains them. Each
grid has 2 x 2 photos of four classes that the network gets right with the highest probabilities, of 224 x 224 pixels
each. The score is the share of a map's positive values that are in the photo of its class; the table has
its mean over all grids and two classes of each, and the least score for DiFull. SqueezeNet has 27 x 27 cells for a grid
and 13 x 13 for a photo, so that only DiFull divides its cells among the photos. Finished networks are kept in a file of
JSON lines, and are not computed again.

    python benchmarks/known_answers.py --data FOLDER

FOLDER contains weights/, imagenet100/ (photos whose names start with the wnid of their class) and imagenet_classes.tsv
(index, wnid, name).
"""

import csv
import json
from pathlib import Path
from statistics import mean
from typing import Annotated

import numpy as np
import torch
import typer
from imagenet_networks import NETWORKS
from report import RESULTS, format_table, write_results
from rich.progress import track
from torch import Tensor

import inspector
from inspector.analysis.attribution.methods import METHODS, compute_attribution
from inspector.analysis.known_answers import GridNetwork, measure_share_in_cell
from inspector.errors import AttributionError
from inspector.images.preprocessing import make_view

KINDS = ("GridPG", "DiPart", "DiFull")
SIZE = 224  # pixels of a photo
GRID, ASKED = (2, 2), 2  # photos of a grid, and how many of their classes are asked for


def main(
    data: Annotated[Path, typer.Option(help="The folder of weights and photos.", exists=True, file_okay=False)],
    grids: Annotated[int, typer.Option(min=1, max=25, help="Number of grids.")] = 8,
    networks: Annotated[str, typer.Option(help="Names, separated by commas.")] = ",".join(NETWORKS),
    device: Annotated[str, typer.Option(help="`cpu`, `cuda` or `mps`.")] = "cpu",
    rows: Annotated[Path, typer.Option(help="File of the finished networks.")] = RESULTS / "known_answers.jsonl",
) -> None:
    """Score every method and write results/known_answers.md."""
    finished = [json.loads(line) for line in rows.read_text().splitlines()] if rows.is_file() else []
    tables = []
    for name in networks.split(","):
        scores = next((row["scores"] for row in finished if (row["network"], row["grids"]) == (name, grids)), None)
        if scores is None:
            scores = score_network(name, data, grids, device)
            rows.parent.mkdir(parents=True, exist_ok=True)
            with rows.open("a") as file:
                file.write(json.dumps({"network": name, "grids": grids, "scores": scores}) + "\n")
        tables += [f"{name}:", format_table(("method", *KINDS, "least of DiFull"), make_rows(scores))]
    command = f"python benchmarks/known_answers.py --data FOLDER --grids {grids} --networks {networks}"
    write_results("known_answers", command, *tables)


def score_network(name: str, data: Path, grids: int, device: str) -> dict[str, dict[str, list[float]]]:
    """Return the scores of each method, by the kind of network."""
    spec = NETWORKS[name]
    classifier = spec.load(data).to(device).resized(SIZE)
    network = classifier.network.eval()
    weight, bias = (tensor.detach() for tensor in spec.linear(network))
    features = spec.features(network)
    chosen = choose_photos(classifier, data, grids * GRID[0] * GRID[1])
    with torch.no_grad():
        feature_grid = features(chosen[0][0]).shape[2:]
        whole = features(make_grid([chosen[0][0]] * (GRID[0] * GRID[1]))).shape[2:]
    divides = whole == (GRID[0] * feature_grid[0], GRID[1] * feature_grid[1])
    scores: dict[str, dict[str, list[float]]] = {method: {kind: [] for kind in KINDS} for method in METHODS}
    for n in track(range(grids), name):
        # The n-th best with the (n + grids)-th best, and so on: every grid has more and less certain photos.
        photos = chosen[n::grids]
        inputs = make_grid([one for one, _ in photos])
        classes = [k for _, k in photos]
        for kind in KINDS if divides else ("DiFull",):
            grid_network = GridNetwork(features, weight, bias, classes, GRID, feature_grid, kind).eval()
            wrapped = inspector.Classifier.wrap(
                grid_network, size=(GRID[0] * SIZE, GRID[1] * SIZE), mean=0.5, std=0.5, resize="squeeze"
            )
            for number in range(ASKED):
                for method in METHODS:
                    try:
                        attribution = compute_attribution(wrapped, inputs, number, method)
                    except AttributionError:
                        continue
                    share = measure_share_in_cell(attribution, GRID, number)
                    scores[method][kind].append(0.0 if share is None else share)
    return scores


def choose_photos(classifier: inspector.Classifier, data: Path, count: int) -> list[tuple[Tensor, int]]:
    """Return the inputs and classes of the photos that the network gets right with the highest probabilities."""
    with (data / "imagenet_classes.tsv").open(newline="") as file:
        index = {wnid: int(number) for number, wnid, _ in csv.reader(file, delimiter="\t")}
    right = []
    for path in sorted((data / "imagenet100").iterdir()):
        inputs = classifier.inputs(make_view(inspector.read_image(path), classifier.preprocessing))
        (maps,) = inspector.class_maps_of_batch(classifier, inputs)
        k = index[path.name.split("_")[0]]
        if int(maps.logits.argmax()) == k:
            right.append((float(maps.probabilities[k]), inputs, k))
    right.sort(key=lambda one: -one[0])
    if len(right) < count:
        raise typer.BadParameter(f"Only {len(right)} photos are classified right. Use fewer --grids.")
    return [(inputs, k) for _, inputs, k in right[:count]]


def make_grid(inputs: list[Tensor]) -> Tensor:
    rows = [torch.cat(inputs[row * GRID[1] : (row + 1) * GRID[1]], 3) for row in range(GRID[0])]
    return torch.cat(rows, 2)


def make_rows(scores: dict[str, dict[str, list[float]]]) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for method, by_kind in scores.items():
        means = [f"{mean(by_kind[kind]):.3f}" if by_kind[kind] else "" for kind in KINDS]
        least = f"{np.min(by_kind['DiFull']):.6f}" if by_kind["DiFull"] else ""
        rows.append((method, *means, least))
    return rows


if __name__ == "__main__":
    typer.run(main)
