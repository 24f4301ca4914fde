"""Measure where the cells of a network's class maps are located, in pixels of its input.

The measurement mirrors the input. The strongest region of the top class (its cells above 0.6 of the maximum) has its
centroid at x cells for an image, and at x' cells for the mirrored image. If cell 0 is at pixel c, the stride is s
pixels and the input is L pixels long, then the same object appears at c + s x and at L - (c + s x'), so

    c = (L - s (x + x')) / 2

whatever the region shows. The same holds for y, mirrored vertically. The script mirrors the input of the network and
not the photo, so that the crop is exactly the mirrored one. An image counts for an axis only if its maximum is in an
interior cell along that axis, in both images: at the border the region is cut off. The table also has the geometric
center, which is the center of the receptive field, and the center of cells that divide the input evenly.

    python benchmarks/cell_centers.py FOLDER efficientnet_lite0
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from report import format_table, write_results
from rich.progress import track

import inspector
from inspector.explain.tracing.receptive_field import find_receptive_field
from inspector.images.preprocessing import make_view

STRONG = 0.6  # of the maximum
HEADER = ("network", "axis", "geometric", "even division", "measured mean", "median", "standard error", "photos")


def main(
    folder: Annotated[
        Path, typer.Argument(help="Folder of photos, searched recursively.", exists=True, file_okay=False)
    ],
    network: Annotated[str, typer.Argument(help="Any name for inspector.load.")],
) -> None:
    """Measure the center of cell 0 by mirroring, and write results/cell_centers_<network>.md."""
    classifier = inspector.load(network)
    # Computed from the layers again, because a model.json may contain centers that this script measured.
    example = torch.zeros(1, len(classifier.preprocessing.mean), *classifier.preprocessing.size)
    field = find_receptive_field(classifier.network, example, classifier.head.finest_branch.call)
    axes = {"y": field.y, "x": field.x}
    measured: dict[str, list[float]] = {axis: [] for axis in axes}
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    for path in track(paths, "Mirroring"):
        inputs = classifier.inputs(make_view(inspector.read_image(path), classifier.preprocessing))
        batch = torch.cat([inputs, inputs.flip(2), inputs.flip(3)])
        maps, *mirrored = inspector.class_maps_of_batch(classifier, batch)
        top, _, _ = maps.top(1)[0]
        for dimension, axis in enumerate(axes):
            pair = [locate_strongest_region(one.values[top].numpy(), dimension) for one in (maps, mirrored[dimension])]
            if all(interior for _, interior in pair):
                length = classifier.preprocessing.size[dimension]
                measured[axis].append((length - axes[axis].stride * sum(centroid for centroid, _ in pair)) / 2)

    rows = []
    for dimension, axis in enumerate(axes):
        values = np.array(measured[axis])
        even = classifier.preprocessing.size[dimension] / maps.values.shape[1 + dimension] / 2
        error = values.std(ddof=1) / len(values) ** 0.5
        numbers = (axes[axis].centre, even, values.mean(), np.median(values), error)
        rows.append((classifier.name, axis, *(f"{number:.1f}" for number in numbers), len(values)))
    write_results(
        f"cell_centers_{classifier.name}",
        f"python benchmarks/cell_centers.py FOLDER {classifier.name}",
        f"The center of cell 0 in pixels of the input, from {len(paths)} photos; only those with an interior maximum "
        "count.",
        format_table(HEADER, rows),
    )


def locate_strongest_region(values: NDArray[np.float32], dimension: int) -> tuple[float, bool]:
    """Return the centroid of the strongest region along one axis of a map (h, w), and if the maximum is interior."""
    strong = np.where(values > STRONG * values.max(), values, 0).sum(1 - dimension)
    peak = np.unravel_index(values.argmax(), values.shape)[dimension]
    return float(strong @ np.arange(len(strong)) / strong.sum()), bool(0 < peak < len(strong) - 1)


if __name__ == "__main__":
    typer.run(main)
