"""The JavaScript of the components: tests/frontend/ run by node, against the numbers of Python; and the bundles."""

import base64
import json
import os
import re
import shutil
import subprocess
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inspector import class_maps, load
from inspector.analysis.masking import make_mask, mask_at_head
from inspector.analysis.positions import find_winners, inspect_cell
from inspector.explain.grid import axis_placements, interpolation_weights
from inspector.explain.receptive_field import Axis, ReceptiveField
from inspector.images.examples import list_examples
from inspector.images.photo import Photo
from inspector.images.preprocessing import Crop, View
from inspector.output import frontend
from inspector.output.colormaps import COLORMAPS, encode_colors
from inspector.output.overlay import OPACITY, draw_bar, draw_map_on_photo, make_gray
from inspector.output.standalone import make_standalone_data
from inspector.ui.components import assets
from inspector.ui.components.map_canvas import encode_cells, make_frame
from inspector.ui.pages.class_maps_panels import answer_winners
from inspector.ui.state.view_state import ViewState

TESTS = sorted((Path(__file__).parents[1] / "frontend").glob("*.test.mjs"))
PAGES = ("viewer_page", "widget")  # bundles that other homes of the viewer use
COMPONENTS = ("class_viewer", "class_strip", "map_canvas", "channel_grid", "layer_tree", "photo_strip")


def list_weights() -> list[dict[str, Any]]:
    """Weights of cells, for pixels along the sides of photos with and without a cropped border."""
    cases = []
    crops = (Crop((40, 60), (10.0, 0.0, 50.0, 40.0), (32, 32)), Crop((33, 20), (-3.0, 2.5, 24.0, 30.0), (64, 48)))
    fields = (ReceptiveField(Axis(16, 32, 99), Axis(3.5, 7, 9)), ReceptiveField(Axis(-4, 16, 40), Axis(40, 8, 1)))
    for crop, field, cells, smooth in product(crops, fields, (1, 2, 5), (True, False)):
        for placement, length in zip(axis_placements(crop, field), (23, 31), strict=True):
            places = (np.arange(length) + 0.5) / length
            weights = interpolation_weights(placement.slope * places + placement.offset, cells, smooth)
            weights[(places < placement.start) | (places > placement.end)] = 0
            ends = (placement.slope, placement.offset, placement.start, placement.end)
            cases.append(
                {"placement": ends, "cells": cells, "length": length, "smooth": smooth, "weights": weights.tolist()}
            )
    return cases


def encode_values(values: np.ndarray) -> str:
    return base64.b64encode(values.astype("<f4").tobytes()).decode()


def draw_overlay(smooth: bool, colormap: str) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    pixels, values = rng.integers(0, 256, (18, 26, 3), np.uint8), rng.normal(size=(3, 4)).astype(np.float32)
    crop = Crop((18, 26), (3.0, 0.0, 23.0, 18.0), (36, 40))
    view = View(Photo(pixels, "noise.png", "0" * 64), pixels[:, 3:23], crop)
    field, scale = ReceptiveField(Axis(6, 12, 20), Axis(5, 10, 20)), float(np.abs(values).max())
    overlay = draw_map_on_photo(pixels, crop, values, field, scale, smooth, OPACITY, colormap)
    frame = make_frame((3, 4), view, field, 26, smooth, OPACITY)
    names = ("size", "grid", "down", "across", "smooth", "opacity")
    return {
        "frame": {name: getattr(frame, name) for name in names} | {"colors": encode_colors(colormap)},
        "values": encode_values(values),
        "scale": scale,
        "canvas": pixels.flatten().tolist(),
        "overlay": overlay.flatten().tolist(),
    }


def draw_color_bar(colormap: str, opacity: float) -> dict[str, Any]:
    bar = draw_bar(colormap, opacity, 143, length=97, height=16)
    return {
        "colors": encode_colors(colormap),
        "lowest": COLORMAPS[colormap].lowest,
        "opacity": opacity,
        "gray": 143,
        "size": bar.shape[:2],
        "pixels": bar.flatten().tolist(),
    }


def draw_gray() -> dict[str, Any]:
    pixels = np.random.default_rng(1).integers(0, 256, (9, 11, 3), np.uint8)
    opaque = np.concatenate([pixels, np.full((9, 11, 1), 255, np.uint8)], 2)
    return {"photo": opaque.flatten().tolist(), "gray": make_gray(pixels)[..., 0].flatten().tolist()}


def answer_viewer(network: str) -> dict[str, Any]:
    """Return the data of a viewer without a server, and what Python computes where the browser has to."""
    maps = class_maps(load(network), list_examples("fashion_mnist")["Ankle boot"])
    k, masked = maps.top(1)[0][0], [(0, 0), (1, 1)]
    cell = inspect_cell(maps, 1, 1, k)
    return {
        "data": make_standalone_data(maps, maps.figure_content()),
        "k": k,
        "cell": (1, 1),
        "channels": cell.channels,
        "rest": cell.rest,
        "masked": masked,
        "without": mask_at_head(maps, make_mask(maps, masked)).logits.tolist(),
        "winners": answer_winners(maps, find_winners(maps)),
    }


@pytest.fixture
def expected(tmp_path: Path) -> Path:
    """A file with the numbers of Python that the JavaScript has to reproduce."""
    floats = np.array([[0.0, 1.5, -1e-9], [np.pi, -0.25, 3e8]], np.float32)
    numbers = {
        "encoded": {
            "cells": encode_cells([[0.0, 1.0, -1.0], [0.5, -0.25, 3.0]], 2.0),
            "values": [0, 16384, -16384, 8192, -4096, 32767],
        },
        "axes": list_weights(),
        "values": {"encoded": encode_values(floats), "values": floats.flatten().astype(float).tolist()},
        "drawings": [draw_overlay(*case) for case in product((True, False), COLORMAPS)],
        "bars": [draw_color_bar(*case) for case in product(COLORMAPS, (0.3, 0.85, 1.0))],
        "gray": draw_gray(),
        "state": ViewState(7).to_json(),
        "viewers": [answer_viewer(network) for network in ("fashion_gap", "fashion_gmp")],
    }
    file = tmp_path / "expected.json"
    file.write_text(json.dumps(numbers))
    return file


@pytest.mark.skipif(
    shutil.which("node") is None, reason="Node.js, which runs the unit tests of the JavaScript, is not installed"
)
def test_the_javascript_passes_its_own_tests(tmp_path: Path, expected: Path) -> None:
    bundles = tmp_path / "bundles"
    bundles.mkdir()
    for name in COMPONENTS:
        (bundles / f"{name}.mjs").write_text(frontend.bundle_javascript(f"{name}.js", assets.FOLDER), "utf-8")
    environment = os.environ | {"INSPECTOR_EXPECTED": str(expected), "INSPECTOR_BUNDLES": str(bundles)}
    command = ["node", "--test", "--test-reporter=tap", *map(str, TESTS)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "# skipped 0" in done.stdout


@pytest.mark.parametrize("name", COMPONENTS)
def test_a_bundle_holds_each_module_once_and_no_import(name: str) -> None:
    bundle = frontend.bundle_javascript(f"{name}.js", assets.FOLDER)
    assert not re.search(r"^import ", bundle, re.MULTILINE)
    assert re.findall(r"^export .*", bundle, re.MULTILINE)[0].startswith("export default function")
    functions = re.findall(r"^function (\w+)", bundle, re.MULTILINE)
    assert len(functions) == len(set(functions))


@pytest.mark.parametrize("name", PAGES)
def test_the_bundles_of_pages_and_notebooks_need_no_other_file(name: str) -> None:
    bundle = frontend.bundle_javascript(f"{name}.js")
    assert not re.search(r"^import ", bundle, re.MULTILINE)
    assert "</script" not in bundle
    functions = re.findall(r"^(?:function|const) (\w+)", bundle, re.MULTILINE)
    assert len(functions) == len(set(functions))


def test_every_file_of_the_front_end_is_used() -> None:
    folders = (assets.FOLDER, frontend.FOLDER)
    code = [path for folder in folders for path in (*folder.glob("*.js"), *folder.parent.glob("*.py"))]
    sources = "".join(path.read_text() for path in code)
    for path in (path for folder in folders for path in folder.iterdir()):
        named = path.stem in (*COMPONENTS, *PAGES) or path.name == "package.json" or f'"{path.name}"' in sources
        assert named or f'/{path.name}"' in sources, path.name


def test_file_names_differ_between_the_folders_of_the_front_end() -> None:
    ours, shared = ({path.name for path in folder.iterdir()} for folder in (assets.FOLDER, frontend.FOLDER))
    assert ours & shared == {"package.json"}


def test_templates_escape_every_value() -> None:
    fragment = assets.render_fragment("values.html", values=[("<script>", "a & b")])
    assert "&lt;script&gt;" in fragment
    assert "a &amp; b" in fragment
