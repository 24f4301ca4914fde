"""Does the network use what the methods point at, and do our insertion and deletion agree with another's?

The example photos, the likeliest class of efficientnet_lite0, every method. First table, means over the photos:

- seconds of a map; how far it misses what it should add up to, in percent of that,
- insertion and deletion by patches of 16 x 16 pixels in 16 steps, and how often they are better than the mean of four
  random maps on the same grid,
- the rank correlation with the map of the network with all weights shuffled, of the first photo.

Second table: the areas of pixel-wise insertion and deletion of the first photo's maps, ours and those of torchcam's
DeletionInsertionMetric, a second implementation, on the same pixel-wise maps and baselines.

    python benchmarks/faithfulness.py
"""

from contextlib import nullcontext
from dataclasses import replace
from statistics import mean
from typing import Annotated, Any

import torch
import typer
from report import table, write
from torch import Tensor
from torchcam.metrics import DeletionInsertionMetric

import inspector
from inspector.analysis.attribution.case import Attribution
from inspector.analysis.attribution.methods import METHODS, compute_attribution
from inspector.analysis.faithfulness import STEPS, PatchTest, blur_inputs, resample_on_input
from inspector.analysis.randomization import measure_randomization, shuffle_weights
from inspector.errors import AttributionError
from inspector.explain.tracing.receptive_field import PIXELS
from inspector.images.examples import list_examples
from inspector.images.photo import read_image
from inspector.images.preprocessing import make_view

NETWORK = "efficientnet_lite0"
SCORES = (
    "method", "seconds", "misses its sum by", "insertion", "above chance", "deletion", "below chance", "shuffled",
)  # fmt: skip
AGREEMENT = ("method", "insertion, ours", "torchcam", "deletion, ours", "torchcam")


class Given:
    """What torchcam takes for an extractor of maps, with a map in hand."""

    def __init__(self, network: torch.nn.Module, values: Tensor) -> None:
        self.model, self.values = network, values

    def __call__(self, *_: Any, **__: Any) -> list[Tensor]:
        return [self.values[None]]

    def fuse_cams(self, cams: list[Tensor]) -> Tensor:
        return cams[0]

    def _hooks_off(self) -> nullcontext[None]:
        return nullcontext()


def main(photos: Annotated[int, typer.Option(min=1, max=6, help="How many of the example photos.")] = 6) -> None:
    """Score every method, and write results/faithfulness.md."""
    classifier = inspector.load(NETWORK)
    network = classifier.network.eval()
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in METHODS}
    agreement: list[tuple[object, ...]] = []
    for number, path in enumerate(list(list_examples("photos").values())[:photos]):
        inputs = classifier.inputs(make_view(read_image(path), classifier.preprocessing))
        k = int(inspector.class_maps_of_batch(classifier, inputs)[0].logits.argmax())
        made = dict(maps_of(classifier, inputs, k))
        test = PatchTest(classifier, inputs, k)
        luck = {
            grid: test.measure_random_maps(next(one for one in made.values() if METHODS[one.name].grid == grid))
            for grid in ("cells", "pixels")
        }
        other = shuffle_weights(classifier, inputs) if number == 0 else None
        for name, one in made.items():
            curves, random = test.measure(one), luck[METHODS[name].grid]
            told = one.completeness
            row = {
                "seconds": one.seconds,
                "insertion": curves.insertion.area,
                "above": float(curves.insertion.area > random.insertion[0]),
                "deletion": curves.deletion.area,
                "below": float(curves.deletion.area < random.deletion[0]),
            }
            if told is not None:
                row["miss"] = told.error / abs(told.target)
            if other is not None:
                correlation = measure_randomization(other, inputs, k, one).correlation
                row |= {} if correlation is None else {"shuffled": correlation}
                agreement.append(compared(classifier, network, inputs, k, one))
            rows[name].append(row)
    parts = [table(SCORES, [line(name, some) for name, some in rows.items()]), table(AGREEMENT, agreement)]
    largest = max(abs(float(a) - float(b)) for row in agreement for a, b in (row[1:3], row[3:5]))  # type: ignore[arg-type]
    write(
        "faithfulness",
        f"python benchmarks/faithfulness.py --photos {photos}",
        *parts,
        f"Largest difference in six digits: {largest:.1e}.",
    )


def maps_of(classifier: inspector.Classifier, inputs: Tensor, k: int) -> Any:
    for name in METHODS:
        try:
            yield name, compute_attribution(classifier, inputs, k, name)
        except AttributionError as error:
            print(error)


def line(name: str, rows: list[dict[str, float]]) -> tuple[object, ...]:
    def of(key: str, form: str) -> str:
        values = [row[key] for row in rows if key in row]
        return format(mean(values), form) if values else ""

    def often(key: str) -> str:
        return f"{sum(row[key] for row in rows):.0f} of {len(rows)}"

    return (
        name, of("seconds", ".2f"), of("miss", ".1%"), of("insertion", ".3f"), often("above"), of("deletion", ".3f"),
        often("below"), of("shuffled", ".2f"),
    )  # fmt: skip


def compared(
    classifier: inspector.Classifier, network: torch.nn.Module, inputs: Tensor, k: int, one: Attribution
) -> tuple[object, ...]:
    values = resample_on_input(one, inputs.shape[2:])
    # 224 x 224 pixels in 16 steps: both take as many in each.
    ours = PatchTest(classifier, inputs, k, patch=1).measure(replace(one, values=values, field=PIXELS))
    cells: list[object] = [one.name]
    for kind, baseline in (("insertion", blur_inputs(inputs)), ("deletion", None)):
        metric = DeletionInsertionMetric(
            Given(network, values), lambda logits: logits.softmax(1), steps=STEPS, baseline=baseline, batch_size=8
        )
        metric.update(inputs, k)
        cells += [f"{getattr(ours, kind).area:.6f}", f"{metric.summary()[f'{kind}_auc']:.6f}"]
    return tuple(cells)


if __name__ == "__main__":
    typer.run(main)
