"""Measure the time of five overlays on a 500x375 photo, and of the figure with these five maps.

The maps are the class maps of the top five classes of efficientnet_lite0 for scikit-image's cat, resized to 500x375, on
one scale. One round times, in turn:

- inspector.output.overlay.draw_map_on_photo, five times; also with each overlay as a PNG, as reports and notebooks have
  it (a data URL), and as a WebP by Pillow (quality 90, method 0),
- matplotlib: a Figure without pyplot, imshow of the photo, imshow of the map with a colormap, savefig as PNG,
- torchcam's overlay_mask, which resizes the map to the whole photo; the map is scaled to 0-1 beforehand,
- the usual figure of Inspector, the photo and the five maps at 200 dpi, as PNG, PDF and SVG in memory.

The rounds run in several processes, with `--before COMMIT` in turn with the package of that commit. The table has the
median over the processes of the median within each, its ratio to the first row within a process, and the ratio to the
earlier package. The targets are 5 ms for the overlays, 40 ms with PNG or WebP, 300 ms for the figure as PNG, and 400 ms
as PDF and SVG.

    python benchmarks/overlays.py --before COMMIT
"""

import io
import json
from collections.abc import Callable, Sequence
from statistics import median
from typing import Annotated

import numpy as np
import typer
from before_after import BEFORE, NOW, measure_in_turn
from matplotlib.figure import Figure
from PIL import Image
from report import format_table, time_interleaved, write_results
from torchcam.utils import overlay_mask

import inspector
from inspector.images.decode import Pixels
from inspector.images.examples import list_examples
from inspector.output.export import make_file
from inspector.output.overlay import common_scale, dimmed_photo, draw_map_on_photo
from inspector.output.picture import encode_url
from inspector.output.style import FigureStyle

WIDTH, HEIGHT = 500, 375
OVERLAYS = "inspector: overlays"


def main(
    rounds: Annotated[int, typer.Option(min=1, help="How often each is timed in a process.")] = 10,
    processes: Annotated[int, typer.Option(min=1, help="How many processes time the present package.")] = 3,
    before: Annotated[str | None, typer.Option(help="Commit whose package is timed, too, in turn.")] = None,
    once: Annotated[bool, typer.Option(hidden=True, help="Time in this process, and print JSON.")] = False,
) -> None:
    """Time five overlays and their figure, and write results/overlays.md."""
    if once:
        print(json.dumps(time_once(rounds)))
        return
    times = measure_in_turn(__file__, ["--once", "--rounds", str(rounds)], processes, before)
    names = list(times[NOW][0])
    medians = {
        package: [{name: median(one[name]) for name in names} for one in runs] for package, runs in times.items()
    }
    header = ["what", "median ms", f"relative to {OVERLAYS!r}"]
    if before is not None:
        header += [f"median ms before ({before})", "relative to before"]
    rows = [describe_times(name, medians) for name in names]
    command = f"python benchmarks/overlays.py --rounds {rounds} --processes {processes}"
    write_results("overlays", command + (f" --before {before}" if before else ""), format_table(header, rows))


def describe_times(name: str, medians: dict[str, list[dict[str, float]]]) -> Sequence[object]:
    now = [one[name] for one in medians[NOW]]
    row = [name, f"{median(now):.2f}", f"{median(one[name] / one[OVERLAYS] for one in medians[NOW]):.1f}"]
    if BEFORE in medians:
        earlier = [one[name] for one in medians[BEFORE]]
        row += [f"{median(earlier):.2f}", f"{median(a / b for a, b in zip(now, earlier, strict=True)):.2f}"]
    return row


def time_once(rounds: int) -> dict[str, list[float]]:
    """Return the milliseconds of each round."""
    classifier = inspector.load("efficientnet_lite0")
    photo = Image.open(list_examples("photos")["Cat"]).resize((WIDTH, HEIGHT))
    maps = inspector.class_maps(classifier, photo)
    assert maps.view is not None
    view = maps.view
    canvas = dimmed_photo(view.photo, view.crop, WIDTH)
    top = [maps.values[k].numpy() for k, _, _ in maps.top(5)]
    scale = common_scale(top)
    masks = [Image.fromarray((values - values.min()) / np.ptp(values)) for values in top]
    content, style = maps.figure_content(5), FigureStyle()

    def draw_overlays() -> list[Pixels]:
        field = classifier.receptive_field
        return [draw_map_on_photo(canvas, view.crop, values, field, scale) for values in top]

    def encode_png() -> None:
        for image in draw_overlays():
            encode_url(image, lossless=True)

    def encode_webp() -> None:
        for image in draw_overlays():
            Image.fromarray(image).save(io.BytesIO(), "WEBP", quality=90, method=0)

    def make_figure(format: str) -> Callable[[], bytes]:
        return lambda: make_file(f"figure.{format}", maps, content, style)

    def draw_with_matplotlib() -> None:
        for values in top:
            figure = Figure(figsize=(WIDTH / 100, HEIGHT / 100), dpi=100)
            axes = figure.add_axes((0, 0, 1, 1))
            axes.set_axis_off()
            axes.imshow(photo)
            extent = (0, WIDTH, HEIGHT, 0)
            axes.imshow(values, "RdBu_r", alpha=0.5, vmin=-scale, vmax=scale, interpolation="bilinear", extent=extent)
            figure.savefig(io.BytesIO(), format="png")

    def draw_with_torchcam() -> None:
        for mask in masks:
            overlay_mask(photo, mask)

    return time_interleaved(
        {
            OVERLAYS: draw_overlays,
            "inspector: overlays + PNG": encode_png,
            "inspector: overlays + WebP": encode_webp,
            "matplotlib: imshow + PNG": draw_with_matplotlib,
            "torchcam 0.5: overlay_mask": draw_with_torchcam,
            "inspector: figure as PNG": make_figure("png"),
            "inspector: figure as PDF": make_figure("pdf"),
            "inspector: figure as SVG": make_figure("svg"),
        },
        rounds,
    )


if __name__ == "__main__":
    typer.run(main)
