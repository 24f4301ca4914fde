"""The JavaScript of the published page: tests/frontend/publish/ run by node, against the numbers of Python."""

import base64
import io
import json
import os
import shutil
import struct
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_networks import IMAGENET, make_network
from torch import nn

from inspector import Classifier, class_maps
from inspector.errors import ImageError
from inspector.explain.class_names import label_names
from inspector.explain.grid import fit_size
from inspector.images.decode import turn_upright
from inspector.images.photo import read_image
from inspector.images.preprocessing import Crop, Interpolation, Preprocessing, make_view, normalize_view
from inspector.output.overlay import dimmed_photo
from inspector.output.publish.network_facts import SIDE, describe_network, read_head_weight
from inspector.output.viewer import make_viewer_data

TESTS = sorted((Path(__file__).parents[1] / "frontend" / "publish").glob("*.test.mjs"))


def encode(values: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()


def draw_noise(size: tuple[int, int], seed: int) -> np.ndarray:
    """Noise with black and white areas: where a bicubic filter overshoots, its result is clipped."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (*size, 3), np.uint8)
    pixels[: size[0] // 3] = rng.choice(np.array([0, 255], np.uint8), (size[0] // 3, size[1], 3))
    return pixels


def make_case(
    seed: int,
    photo: tuple[int, int],
    size: tuple[int, int],
    resize: tuple[int, int] | None,
    interpolation: Interpolation,
    values: tuple[tuple[float, ...], tuple[float, ...]],
) -> dict[str, Any]:
    preprocessing = Preprocessing(size, *values, resize, interpolation)
    pixels = draw_noise(photo, seed)
    view = make_view(read_image(pixels), preprocessing)
    return {
        "photo": encode(pixels),
        "size": photo,
        "preprocessing": asdict(preprocessing),
        "pixels": encode(view.pixels),
        "box": view.box,
        "input": encode(normalize_view(view, preprocessing)),
    }


def list_cases() -> list[dict[str, Any]]:
    """Odd, thin, tiny, large and enlarged photos, gray networks, squeezed photos, and every kind of mean and std."""
    pixels, halves = ((0.0,) * 3, (1 / 255,) * 3), ((0.5,), (0.25,))
    cases: list[tuple[Any, ...]] = [
        ((37, 53), (16, 16), (18, 18), "bilinear", IMAGENET),
        ((53, 37), (16, 16), (18, 18), "bicubic", IMAGENET),
        ((101, 99), (32, 24), (37, 27), "bicubic", pixels),
        ((1, 1), (8, 8), (9, 9), "bicubic", IMAGENET),
        ((2, 300), (12, 12), (14, 14), "bilinear", IMAGENET),
        ((300, 1), (12, 12), (13, 13), "bicubic", IMAGENET),
        ((20, 20), (20, 20), (20, 20), "bilinear", IMAGENET),
        ((20, 31), (20, 20), (20, 20), "bilinear", IMAGENET),
        ((31, 20), (20, 20), (20, 20), "bicubic", halves),
        ((28, 28), (28, 28), (28, 28), "bilinear", halves),
        ((64, 48), (28, 28), (32, 32), "bilinear", halves),
        ((45, 80), (24, 32), None, "bilinear", IMAGENET),
        ((45, 80), (45, 32), None, "bicubic", ((0.1307,), (0.3081,))),
        ((45, 80), (24, 80), None, "bicubic", ((0.0,) * 3, (1.0,) * 3)),
        ((15, 11), (48, 48), (55, 55), "bicubic", IMAGENET),
        ((15, 11), (48, 48), (55, 55), "bilinear", IMAGENET),
        ((640, 427), (224, 224), (256, 256), "bilinear", IMAGENET),
        ((427, 640), (224, 224), (256, 256), "bicubic", IMAGENET),
        ((1203, 901), (64, 64), (73, 73), "bicubic", IMAGENET),
    ]
    rng, names = np.random.default_rng(0), ("bilinear", "bicubic")
    for n in range(30):
        height, width, low, high = (int(value) for value in rng.integers(1, 130, 4))
        size = (low, high)
        resize = None if n % 5 == 0 else (low + int(rng.integers(0, 9)), high + int(rng.integers(0, 9)))
        cases.append(((height, width), size, resize, names[n % 2], IMAGENET if n % 3 else halves))
    return [make_case(seed, *case) for seed, case in enumerate(cases)]


def draw_photo(seed: int, photo: tuple[int, int], side: int) -> dict[str, Any]:
    pixels = draw_noise(photo, seed)
    whole = Crop(photo, (0, 0, photo[1], photo[0]), photo)
    drawn = dimmed_photo(read_image(pixels), whole, side)
    return {"photo": encode(pixels), "size": photo, "side": fit_size(photo, side), "drawn": encode(drawn)}


def refuse_thin() -> dict[str, Any]:
    preprocessing, size = Preprocessing((224, 224), *IMAGENET, (256, 256)), (1, 2000)
    with pytest.raises(ImageError) as refusal:
        make_view(read_image(np.zeros((*size, 3), np.uint8), "thin.png"), preprocessing)
    return {"size": size, "preprocessing": asdict(preprocessing), "message": str(refusal.value)}


def make_viewer(classifier: Classifier, seed: int) -> dict[str, Any]:
    """The data of a viewer, and the outputs of the network that it is made of."""
    pixels = draw_noise((70, 61), seed)
    maps = class_maps(classifier, pixels)
    arrays, names, weight = maps.to_numpy(), label_names(classifier.class_names), read_head_weight(classifier)
    data = make_viewer_data(arrays, names, range(3), "", SIDE)
    outputs = {"logits": maps.logits, "maps": maps.values, "features": maps.feature_maps}
    return {
        "title": classifier.name,
        "pixels": encode(pixels),
        "crop": asdict(maps.view.crop),
        "side": SIDE,
        "network": describe_network(classifier),
        "weight": None if weight is None else encode(weight),
        "outcome": {name: encode(one.numpy()) for name, one in outputs.items()} | {"grid": maps.values.shape[1:]},
        "data": data.to_json(),
        "parts": [maps.parts(k).sum((1, 2)).tolist() for k in range(3)],
    }


def list_viewers() -> list[dict[str, Any]]:
    average, maximum = nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d
    networks = [
        make_network(average),
        make_network(maximum, probability="sigmoid"),
        make_network(average, maps=3, probability="none", unit="years"),
        make_network(maximum, maps=3),
        make_network(None),
        make_network(average, channels=1),
    ]
    return [make_viewer(network, seed) for seed, network in enumerate(networks)]


def list_rare_files() -> list[dict[str, Any]]:
    """A BMP with the header of OS/2, and a GIF whose first picture is smaller than its screen."""
    bmp = b"BM" + struct.pack("<IHHI4sHHHH", 50, 0, 0, 26, struct.pack("<I", 12), 4, 2, 1, 24) + bytes(24)
    gif = io.BytesIO()
    Image.new("P", (4, 2)).save(gif, "GIF")
    part = gif.getvalue()[:6] + struct.pack("<HH", 6, 3) + gif.getvalue()[10:]
    reason = "part.gif is a GIF whose first picture does not fill it, and nothing says with what. Save it as PNG."
    listed = [("os2.bmp", bmp, (4, 2), None), ("part.gif", part, (6, 3), reason)]
    for _, content, size, _ in listed:
        with Image.open(io.BytesIO(content)) as image:
            assert image.size == size
    return [
        {"name": name, "content": encode(np.frombuffer(content, np.uint8)), "message": message}
        | {"width": size[0], "height": size[1]}
        for name, content, size, message in listed
    ]


def list_files() -> list[dict[str, Any]]:
    """Image files of every format that browsers read, with their size, and why some are refused."""
    rgb, rng = Image.new("RGB", (23, 17), "teal"), np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (300, 200, 3), np.uint8))
    wide = Image.fromarray(rng.integers(0, 65536, (3, 5)).astype(np.uint16))
    exif = Image.Exif()
    exif[0x010E] = "a long description " * 300
    images: list[tuple[str, Image.Image, dict[str, Any], str | None]] = [
        ("a.png", rgb, {}, None),
        ("a.gif", rgb, {}, None),
        ("a.bmp", rgb, {}, None),
        ("lossy.webp", noise, {"quality": 50}, None),
        ("lossless.webp", noise, {"lossless": True}, None),
        ("extended.webp", noise.convert("RGBA"), {"exif": exif}, None),
        ("a.jpeg", noise, {"exif": exif}, None),
        ("progressive.jpeg", noise.convert("L"), {"progressive": True}, None),
        (
            "deep.png",
            wide,
            {},
            "has 16 bits per channel, and this page reads 8. Save it with 8, or use Inspector itself.",
        ),
        (
            "print.jpeg",
            noise.convert("CMYK"),
            {},
            "has the colors of a print, CMYK, and this page reads RGB. Save it as RGB.",
        ),
        ("animated.gif", rgb, {"save_all": True, "append_images": [rgb.rotate(90)]}, None),
        ("bomb.gif", Image.new("L", (9000, 9000)), {}, "has 9000 x 9000 pixels; at most 80 megapixels are read."),
    ]
    files = list_rare_files()
    for name, image, settings, reason in images:
        content = io.BytesIO()
        image.save(content, name.split(".")[1].upper(), **settings)
        message = None if reason is None else f"{name} {reason}"
        size = {"width": image.width, "height": image.height}
        files.append(
            {"name": name, "content": encode(np.frombuffer(content.getvalue(), np.uint8)), "message": message} | size
        )
    return files


def list_turns() -> list[dict[str, Any]]:
    """A photo with each EXIF orientation, as a WebP file and as Python turns it upright."""
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 4), np.uint8)
    turns = []
    for orientation in range(1, 9):
        exif, content = Image.Exif(), io.BytesIO()
        exif[0x0112] = orientation
        Image.fromarray(pixels).save(content, "WEBP", lossless=True, exif=exif)
        upright = turn_upright(pixels, orientation)
        turns.append(
            {
                "orientation": orientation,
                "webp": encode(np.frombuffer(content.getvalue(), np.uint8)),
                "photo": encode(pixels),
                "size": pixels.shape[:2],
                "upright": encode(upright),
                "upright_size": upright.shape[:2],
            }
        )
    return turns


@pytest.mark.skipif(
    shutil.which("node") is None, reason="Node.js, which runs the unit tests of the JavaScript, is not installed"
)
def test_the_modules_of_the_page_give_the_numbers_of_python(tmp_path: Path) -> None:
    expected = tmp_path / "expected.json"
    numbers = {
        "views": list_cases(),
        "drawings": [draw_photo(n, *one) for n, one in enumerate([((60, 90), 45), ((61, 83), 40), ((9, 12), 50)])],
        "thin": refuse_thin(),
        "viewers": list_viewers(),
        "files": list_files(),
        "turns": list_turns(),
        "sizes": [
            {"photo": photo, "side": side, "size": fit_size(photo, side)}
            for photo, side in (((3, 1000), 800), ((1001, 333), 500), ((7, 7), 800), ((480, 640), 800))
        ],
    }
    expected.write_text(json.dumps(numbers))
    command = ["node", "--test", "--test-reporter=tap", *map(str, TESTS)]
    environment = os.environ | {"INSPECTOR_EXPECTED": str(expected)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "# skipped 0" in done.stdout
