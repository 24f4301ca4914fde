"""Measure the time of five overlays on a 500x375 photo, and of the figure with these five maps.

The maps are the class maps of the top five classes of efficientnet_lite0 for scikit-image's cat, resized to 500x375, on
one scale. One round times, in turn:

- inspector.output.overlay.draw_map_on_photo, five times; also with each overlay encoded as PNG in memory,
- matplotlib: a Figure without pyplot, imshow of the photo, imshow of the map with a colormap, savefig as PNG,
- torchcam's overlay_mask, which resizes the map to the whole photo; the map is scaled to 0-1 beforehand,
- the usual figure of Inspector, the photo and the five maps at 200 dpi, as PNG, PDF and SVG in memory.

The table has medians over the rounds, and the median of the ratios to the first row within a round. The targets are
5 ms for the overlays, 40 ms with PNG, 300 ms for the figure as PNG, and 400 ms as PDF and SVG.

    python benchmarks/overlays.py
"""

import io
from collections.abc import Callable
from statistics import median
from typing import Annotated

import cv2
import numpy as np
import typer
from matplotlib.figure import Figure
from PIL import Image
from report import format_table, time_interleaved, write_results
from torchcam.utils import overlay_mask

import inspector
from inspector.images.decode import Pixels
from inspector.images.examples import list_examples
from inspector.output.export import make_file
from inspector.output.overlay import common_scale, dimmed_photo, draw_map_on_photo
from inspector.output.style import FigureStyle

WIDTH, HEIGHT = 500, 375


def main(rounds: Annotated[int, typer.Option(min=1, help="How often each is timed.")] = 50) -> None:
    """Time five overlays, and write results/overlays.md."""
    classifier = inspector.load("efficientnet_lite0")
    photo = Image.open(list_examples("photos")["Cat"]).resize((WIDTH, HEIGHT))
    maps = inspector.class_maps(classifier, photo)
    assert maps.view is not None
    view = maps.view
    canvas = dimmed_photo(view.photo, view.crop, WIDTH)
    top = [maps.values[k].numpy() for k, _, _ in maps.top(5)]
    scale = common_scale(top)
    masks = [Image.fromarray((values - values.min()) / np.ptp(values)) for values in top]

    def draw_overlays() -> list[Pixels]:
        field = classifier.receptive_field
        return [draw_map_on_photo(canvas, view.crop, values, field, scale) for values in top]

    def encode_overlays() -> None:
        for image in draw_overlays():
            cv2.imencode(".png", image[..., ::-1])

    content, style = maps.figure_content(5), FigureStyle()

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

    times = time_interleaved(
        {
            "inspector: overlays": draw_overlays,
            "inspector: overlays + PNG": encode_overlays,
            "matplotlib: imshow + PNG": draw_with_matplotlib,
            "torchcam 0.5: overlay_mask": draw_with_torchcam,
            "inspector: figure as PNG": make_figure("png"),
            "inspector: figure as PDF": make_figure("pdf"),
            "inspector: figure as SVG": make_figure("svg"),
        },
        rounds,
    )
    base = times["inspector: overlays"]
    rows = [
        (what, rounds, f"{median(values):.2f}", f"{median(a / b for a, b in zip(values, base, strict=True)):.1f}")
        for what, values in times.items()
    ]
    header = ("what", "rounds", "median ms", "median of paired ratios")
    write_results("overlays", f"python benchmarks/overlays.py --rounds {rounds}", format_table(header, rows))


if __name__ == "__main__":
    typer.run(main)
