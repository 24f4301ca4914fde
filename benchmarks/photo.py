"""Measure the time from the bytes of a photo to the maps of its top five classes on a web page, and by the usual way.

The photo is a JPEG of 500x375 pixels (scikit-image's cat), the network efficientnet_lite0; all maps have one scale. One
round times, in turn:

- the usual way: Pillow, torchvision's transforms, the eager network, pytorch-grad-cam's Grad-CAM for each of the top
  five classes, its overlay, one PNG each,
- inspector with the eager network, five overlays as PNG,
- the same with each backend,
- what the app sends: the photo as one JPEG and the five grids, which the browser combines; eager and with each backend.

Each runs once untimed before it is timed. The times include decoding, resizing and encoding, but not the drawing in the
browser (5 ms, benchmarks/app.py). The table has medians, and medians of the ratios to the usual way within a round. The
target is 15 ms for what the app sends, after the first calls.

    python benchmarks/photo.py
"""

import io
from collections.abc import Callable
from copy import deepcopy
from statistics import median
from typing import Annotated, Any

import cv2
import numpy as np
import torch
import typer
from PIL import Image
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.image import show_cam_on_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from report import format_table, time_interleaved, write_results
from torchvision.transforms import v2

import inspector
from inspector.explain.backends.accelerate import accelerate
from inspector.explain.class_maps import ClassMaps
from inspector.images.examples import list_examples
from inspector.images.preprocessing import View
from inspector.output.overlay import common_scale, dimmed_photo, draw_map_on_photo
from inspector.ui.components.html import encode_image, make_data_url
from inspector.ui.components.map_canvas import encode_cells

WIDTH, HEIGHT = 500, 375
BACKENDS = ("onnxruntime", "openvino")


def main(rounds: Annotated[int, typer.Option(min=1, help="How often each is timed.")] = 40) -> None:
    """Time a photo to five overlays, and write results/photo.md."""
    buffer = io.BytesIO()
    Image.open(list_examples("photos")["Cat"]).convert("RGB").resize((WIDTH, HEIGHT)).save(buffer, "JPEG", quality=92)
    jpeg = buffer.getvalue()
    eager = inspector.load("efficientnet_lite0")
    backends = {"eager": eager} | {name: accelerate(eager, name) for name in BACKENDS}
    contestants: dict[str, Callable[[], Any]] = {"the usual way, 5 Grad-CAM, PNG": make_usual_way(eager, jpeg)}
    for name, classifier in backends.items():
        contestants[f"inspector, {name}, 5 overlays as PNG"] = lambda c=classifier: draw_png_overlays(c, jpeg)
    for name, classifier in backends.items():
        contestants[f"inspector, {name}, photo and 5 grids"] = lambda c=classifier: encode_grids(c, jpeg)
    times = time_interleaved(contestants, rounds, untimed_call_first=True)
    baseline, *_ = times.values()
    rows = [
        (
            what,
            rounds,
            f"{median(values):.1f}",
            f"{median(a / b for a, b in zip(values, baseline, strict=True)):.3f}",
        )
        for what, values in times.items()
    ]
    header = ("from a photo's bytes to five class maps", "rounds", "median ms", "median of paired ratios")
    write_results("photo", f"python benchmarks/photo.py --rounds {rounds}", format_table(header, rows))


def make_usual_way(classifier: inspector.Classifier, jpeg: bytes) -> Callable[[], Any]:
    preprocessing = classifier.preprocessing
    assert preprocessing.resize is not None
    prepare = v2.Compose(
        [
            v2.PILToTensor(), v2.Resize(preprocessing.resize[0], v2.InterpolationMode.BICUBIC),
            v2.CenterCrop(preprocessing.size), v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(preprocessing.mean, preprocessing.std),
        ]
    )  # fmt: skip
    network = deepcopy(classifier.network)
    method = GradCAM(network, [network._bn1])

    def run() -> list[bytes]:
        inputs = prepare(Image.open(io.BytesIO(jpeg)).convert("RGB"))[None]
        with torch.inference_mode():
            top = network(inputs)[0].topk(5).indices.tolist()
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (preprocessing.mean, preprocessing.std))
        shown = (inputs[0] * std + mean).clamp(0, 1).permute(1, 2, 0).numpy().astype(np.float32)
        images = []
        for k in top:
            (cam,) = method(inputs, [ClassifierOutputTarget(k)])
            png = io.BytesIO()
            Image.fromarray(show_cam_on_image(shown, cam, use_rgb=True)).save(png, "PNG")
            images.append(png.getvalue())
        return images

    return run


def explain_photo(classifier: inspector.Classifier, jpeg: bytes) -> tuple[ClassMaps, View, list[Any], float]:
    maps = inspector.class_maps(classifier, jpeg)
    assert maps.view is not None
    top = [maps.values[k].numpy() for k, _, _ in maps.top(5)]
    return maps, maps.view, top, common_scale(top)


def draw_png_overlays(classifier: inspector.Classifier, jpeg: bytes) -> list[bytes]:
    _, view, top, scale = explain_photo(classifier, jpeg)
    canvas = dimmed_photo(view.photo, view.crop, WIDTH)
    field = classifier.receptive_field
    drawn = (draw_map_on_photo(canvas, view.crop, values, field, scale) for values in top)
    return [cv2.imencode(".png", image[..., ::-1])[1].tobytes() for image in drawn]


def encode_grids(classifier: inspector.Classifier, jpeg: bytes) -> tuple[str, list[str]]:
    _, view, top, scale = explain_photo(classifier, jpeg)
    return make_data_url(encode_image(dimmed_photo(view.photo, view.crop, WIDTH), exact=False)), [
        encode_cells(values, scale) for values in top
    ]


if __name__ == "__main__":
    typer.run(main)
