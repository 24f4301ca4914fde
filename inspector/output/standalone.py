"""The viewer of class maps where no server answers: in a report and in a notebook, from one value.

The browser computes what the app asks its server for, so it gets more than the app's viewer does (`ViewerData`):

- the maps of all classes. They are 32-bit floats, as everywhere, so every map plus its bias is its logit up to the
  rounding of a float. Of a network whose maps would take more than LIMIT bytes, the top classes and those asked for;
- ``channels``: what each cell adds to each pooled value, and the weights of the listed classes. Their product is what
  each channel adds to the logit in that cell (`Decomposition.parts`);
- ``masked_at_head``: how the logits without some cells follow from the maps, where they do so exactly (`mask_at_head`).
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from inspector.explain.class_maps import AVERAGE, ClassMaps, FigureContent
from inspector.explain.class_names import label_names
from inspector.output.frontend import bundle_javascript, read_frontend
from inspector.output.overlay import dimmed_photo, needs_lossless
from inspector.output.picture import encode_url
from inspector.output.style import DEFAULT_STYLE, FigureStyle
from inspector.output.templates import render_template
from inspector.output.viewer import MEAN, encode_values, list_colormaps, list_sent, make_viewer_data

LIMIT = 2**20  # bytes of all maps, and of the channels; their base64 takes a third more
_SIDE = 800  # longer side of the photo, in pixels
_TOP = 5  # number of classes that are listed


def make_standalone_data(
    maps: ClassMaps, shown: FigureContent, style: FigureStyle = DEFAULT_STYLE, side: int = _SIDE
) -> dict[str, Any]:
    """Collect what a viewer without a server draws, in types that JSON can store.

    Args:
        maps: class maps of a photo. If they are finer than the network's own grid, the finer maps are drawn.
        shown: what is shown at first, and which classes are there besides the top classes if not all are.
        style: the color map and whether the photo is gray.
        side: longer side of the photo and of the drawing, in pixels.

    Returns:
        ``ViewerData.to_json()`` with ``state``, ``channels`` and ``masked_at_head``, see `mountViewer` in viewer.js.

    Raises:
        InspectorError: the input was no photo.
    """
    arrays, view = maps.to_numpy(), maps.view
    best = [k for k, _, _ in maps.top(_TOP)]
    listed = list_sent(best, [*shown.classes, *([shown.against] if isinstance(shown.against, int) else [])])
    sent = listed if _count_bytes(maps, arrays.scores is not None) > LIMIT else range(len(maps.logits))
    finer = None if maps.finer is None else maps.finer.to_numpy(list_sent(best, sent), arrays.scores is not None)
    pixels = dimmed_photo(view.photo, view.crop, side)
    if maps.shown_field.misplaced is not None:
        pixels = np.full_like(pixels, 255)
    photo = encode_url(pixels, needs_lossless(view.photo.size))
    data = make_viewer_data(arrays, label_names(arrays.classifier.class_names), sent, photo, side, _TOP, finer)
    return data.to_json() | {
        "colormaps": list_colormaps([style.colours]),
        "state": _make_state(shown, style, best[0], has_scores=arrays.scores is not None),
        "channels": _list_channels(maps, listed),
        "masked_at_head": find_mask_rule(maps),
    }


def _count_bytes(maps: ClassMaps, has_scores: bool) -> int:
    factor = 1 if maps.finer is None else maps.finer.factor
    return 4 * maps.values.numel() * factor**2 * (1 + has_scores)


def _make_state(shown: FigureContent, style: FigureStyle, top: int, has_scores: bool) -> dict[str, Any]:
    """Return what the viewer shows at first: the first class of a figure as the figure draws it, or the top class."""
    k, against = (*shown.classes, top)[0], MEAN if shown.against == AVERAGE else shown.against
    return {
        "k": k,
        "against": None if against == k else against,
        "number": "scores" if shown.dense and has_scores else "contributions",
        "colors": style.colours,
        "gray": style.gray,
        "smooth": shown.smooth,
        "opacity": shown.opacity,
        "cell": None,
    }


def _list_channels(maps: ClassMaps, classes: Sequence[int]) -> dict[str, Any] | None:
    """Return the shares of all cells and the weights of some classes; None if there are none, or they are too large."""
    split = maps.split
    if split is None or maps.finer is not None:
        return None
    if len(split.branches) > 1 and any(branch.pooling == "flatten" for branch in split.branches):
        return None
    size = sum(branch.feature_maps.numel() for branch in split.branches)
    width = sum(branch.width for branch in split.branches)
    if 4 * (size + len(classes) * width) > LIMIT:
        return None
    shares = torch.cat(maps.classifier.head.lay_on_finest_grid([branch.shares() for branch in split.branches]))
    weights = split.weight(classes).numpy(force=True)
    return {
        "shares": encode_values(shares.numpy(force=True)),
        "weights": {str(k): encode_values(row) for k, row in zip(classes, weights, strict=True)},
    }


def find_mask_rule(maps: ClassMaps) -> str | None:
    """Return how the logits without some cells follow from the maps, see `maskAtHead`; None if they do not."""
    split, head = maps.split, maps.classifier.head
    if split is None or head.weight is None:
        return None
    grid = maps.values.shape[1:]
    if all(b.pooling in ("average", "flatten", "linear") and b.feature_maps.shape[1:] == grid for b in split.branches):
        return "subtract"
    return "maximum" if head.per_class and head.pooling == "max" and len(split.branches) == 1 else None


def encode_data(data: dict[str, Any]) -> str:
    """Return the data of a viewer as JSON that can stand in an HTML page: no text in it ends its element."""
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")


def list_page_parts() -> dict[str, str]:
    """Return what a page with viewers needs: their style, their script, and what its security policy allows."""
    script = bundle_javascript("viewer_page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return {
        "viewer_style": read_frontend("viewer.css"),
        "viewer_script": script,
        "script_sources": f"'sha256-{digest}'",
    }


def make_viewer_page(data: dict[str, Any], title: str) -> str:
    """Return an HTML page with nothing but the viewer. It needs no other file and no network."""
    values = {"title": title, "image_sources": "data:", "viewer": encode_data(data)}
    return render_template("viewer.html", **values, **list_page_parts())
