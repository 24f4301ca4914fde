"""Measure the faithfulness of all methods, and compare insertion and deletion with a second implementation.

The inputs are the example photos and the top-1 class of efficientnet_lite0, with every method. First table, means over
the photos:

- seconds per map; the error of its sum relative to the value that the sum should have, in percent,
- insertion and deletion by patches of 16 x 16 pixels in 16 steps, and how often they are better than the mean of four
  random maps on the same grid,
- the rank correlation with the map of the network with all weights shuffled, for the first photo.

Second table: the areas of pixel-wise insertion and deletion of the first photo's maps, by Inspector and by torchcam's
DeletionInsertionMetric, on the same pixel-wise maps and baselines.

    python benchmarks/faithfulness.py
"""

from contextlib import nullcontext
from dataclasses import replace
from statistics import mean
from typing import Annotated, Any

import torch
import typer
from report import format_table, write_results
from torch import Tensor
from torchcam.metrics import DeletionInsertionMetric

import inspector
from inspector.analysis.attribution.case import Attribution
from inspector.analysis.attribution.methods import METHODS, compute_attribution
from inspector.analysis.faithfulness import STEPS, PatchTest, blur_inputs, resample_on_input
from inspector.analysis.randomization import measure_randomization, shuffle_weights
from inspector.errors import AttributionError
from inspector.explain.receptive_field import PIXELS
from inspector.images.examples import list_examples
from inspector.images.photo import read_image
from inspector.images.preprocessing import make_view

NETWORK = "efficientnet_lite0"
SCORES = (
    "method", "seconds", "error of the sum", "insertion", "above chance", "deletion", "below chance",
    "correlation, shuffled weights",
)  # fmt: skip
AGREEMENT = ("method", "insertion, Inspector", "insertion, torchcam", "deletion, Inspector", "deletion, torchcam")


class FixedExtractor:
    """A map extractor for torchcam that always returns the same map."""

    def __init__(self, network: torch.nn.Module, values: Tensor) -> None:
        self.model, self.values = network, values

    def __call__(self, *_: Any, **__: Any) -> list[Tensor]:
        return [self.values[None]]

    def fuse_cams(self, cams: list[Tensor]) -> Tensor:
        return cams[0]

    def _hooks_off(self) -> nullcontext[None]:
        return nullcontext()


def main(photos: Annotated[int, typer.Option(min=1, max=6, help="How many of the example photos.")] = 6) -> None:
    """Score every method and write results/faithfulness.md."""
    classifier = inspector.load(NETWORK)
    network = classifier.network.eval()
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in METHODS}
    agreement: list[tuple[object, ...]] = []
    for number, path in enumerate(list(list_examples("photos").values())[:photos]):
        inputs = classifier.inputs(make_view(read_image(path), classifier.preprocessing))
        k = int(inspector.class_maps_of_batch(classifier, inputs)[0].logits.argmax())
        attributions = dict(compute_maps(classifier, inputs, k))
        test = PatchTest(classifier, inputs, k)
        random_baselines = {
            grid: test.measure_random_maps(next(a for a in attributions.values() if METHODS[a.name].grid == grid))
            for grid in ("cells", "pixels")
        }
        shuffled = shuffle_weights(classifier, inputs) if number == 0 else None
        for name, attribution in attributions.items():
            curves, random = test.measure(attribution), random_baselines[METHODS[name].grid]
            completeness = attribution.completeness
            row = {
                "seconds": attribution.seconds,
                "insertion": curves.insertion.area,
                "above": float(curves.insertion.area > random.insertion[0]),
                "deletion": curves.deletion.area,
                "below": float(curves.deletion.area < random.deletion[0]),
            }
            if completeness is not None:
                row["error"] = completeness.error / abs(completeness.target)
            if shuffled is not None:
                correlation = measure_randomization(shuffled, inputs, k, attribution).correlation
                row |= {} if correlation is None else {"correlation": correlation}
                agreement.append(compare_with_torchcam(classifier, network, inputs, k, attribution))
            rows[name].append(row)
    parts = [
        format_table(SCORES, [make_row(name, some) for name, some in rows.items()]),
        format_table(AGREEMENT, agreement),
    ]
    largest = max(abs(float(a) - float(b)) for row in agreement for a, b in (row[1:3], row[3:5]))  # type: ignore[arg-type]
    write_results(
        "faithfulness",
        f"python benchmarks/faithfulness.py --photos {photos}",
        *parts,
        f"Largest difference in six digits: {largest:.1e}.",
    )


def compute_maps(classifier: inspector.Classifier, inputs: Tensor, k: int) -> Any:
    for name in METHODS:
        try:
            yield name, compute_attribution(classifier, inputs, k, name)
        except AttributionError as error:
            print(error)


def make_row(name: str, rows: list[dict[str, float]]) -> tuple[object, ...]:
    def format_mean(key: str, form: str) -> str:
        values = [row[key] for row in rows if key in row]
        return format(mean(values), form) if values else ""

    def format_count(key: str) -> str:
        return f"{sum(row[key] for row in rows):.0f} of {len(rows)}"

    return (
        name, format_mean("seconds", ".2f"), format_mean("error", ".1%"), format_mean("insertion", ".3f"),
        format_count("above"), format_mean("deletion", ".3f"), format_count("below"), format_mean("correlation", ".2f"),
    )  # fmt: skip


def compare_with_torchcam(
    classifier: inspector.Classifier, network: torch.nn.Module, inputs: Tensor, k: int, attribution: Attribution
) -> tuple[object, ...]:
    values = resample_on_input(attribution, inputs.shape[2:])
    # 224 x 224 pixels in 16 steps: both implementations change the same number of pixels per step.
    ours = PatchTest(classifier, inputs, k, patch=1).measure(replace(attribution, values=values, field=PIXELS))
    cells: list[object] = [attribution.name]
    for kind, baseline in (("insertion", blur_inputs(inputs)), ("deletion", None)):
        metric = DeletionInsertionMetric(
            FixedExtractor(network, values),
            lambda logits: logits.softmax(1),
            steps=STEPS,
            baseline=baseline,
            batch_size=8,
        )
        metric.update(inputs, k)
        cells += [f"{getattr(ours, kind).area:.6f}", f"{metric.summary()[f'{kind}_auc']:.6f}"]
    return tuple(cells)


if __name__ == "__main__":
    typer.run(main)
