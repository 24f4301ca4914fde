"""Boxes on the first page: where the evidence of the map that is shown lies, as `ClassMaps.locate` finds it.

The boxes at all thresholds are sent at once, so that the browser only chooses among them.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from inspector.errors import InspectorError
from inspector.images.decode import Pixels
from inspector.output.overlay import draw_boxes
from inspector.output.text import format_number
from inspector.output.viewer import MEAN
from inspector.ui.components.save import write_class
from inspector.ui.pages.class_maps_grid import ShownMaps
from inspector.ui.state.cache import MapsKey, drop_if_private
from inspector.ui.state.sized_cache import keep_results
from inspector.ui.state.view_state import THRESHOLDS, ViewState

if TYPE_CHECKING:
    from inspector.analysis.location import Location

COLORS = ((255, 214, 10), (77, 216, 255))  # of the boxes of the class, and of the class that it is contrasted with


def has_boxes(state: ViewState) -> bool:
    """Return whether boxes are shown: those of the class map."""
    return state.boxes != "none" and state.view == "class map"


def list_located(state: ViewState) -> list[tuple[int, str | int | None]]:
    """Return the maps whose evidence is located, as class and contrast.

    Evidence against a contrast is that for its other class.
    """
    pair = state.against is not None and state.against != MEAN
    return [(state.k, state.contrast), *([(state.against, state.k)] if pair and state.against is not None else [])]


def answer_boxes(key: MapsKey, shown: ShownMaps, state: ViewState) -> dict[str, Any] | None:
    """Return the boxes and points at all thresholds, in types that JSON can store; None if none are shown.

    Args:
        key: key of the class maps in the caches.
        shown: the class maps on the grid that is drawn.
        state: the chosen class and contrast.
    """
    if not has_boxes(state):
        return None
    answer: dict[str, Any] = {"of": [state.k, state.against, state.number], "thresholds": list(THRESHOLDS)}
    try:
        classes = [
            {
                "k": k,
                "color": "#{:02x}{:02x}{:02x}".format(*color),
                "at": _locate(key, state.factor, k, against, state.number == "scores", shown),
            }
            for (k, against), color in zip(list_located(state), COLORS, strict=False)
        ]
    except InspectorError as error:
        return answer | {"error": str(error), "classes": []}
    return answer | {"error": "", "classes": classes}


@keep_results(drop_if_private)
def _locate(
    key: MapsKey, finer: int, k: int, against: str | int | None, dense: bool, _shown: ShownMaps
) -> list[dict[str, Any]]:
    """Locate the evidence of a map at all thresholds. With large photos it takes more than a second."""
    # Imported here, because scikit-image takes long to import.
    from inspector.analysis.location import locate_map_at

    values = _shown.class_map(k, against, dense).values
    found = locate_map_at(values, _shown.arrays.view.crop, _shown.field, THRESHOLDS)
    return [_encode(one) for one in found]


def _encode(found: "Location") -> dict[str, Any]:
    """Return boxes as x, y, width, height and share of the evidence, and points as x, y and value."""
    return {
        "boxes": [
            [left, top, right - left, bottom - top, region.share]
            for region in found.regions
            for left, top, right, bottom in (region.box,)
        ],
        "points": [[point.x, point.y, point.value] for point in found.points],
        "reason": found.reason,
    }


def locate_shown(shown: ShownMaps, state: ViewState) -> "Iterator[tuple[int, Location]]":
    """Yield what is shown, for each class with boxes: its index, and where its evidence lies."""
    from inspector.analysis.location import locate_map

    for k, against in list_located(state) if has_boxes(state) else ():
        values = shown.class_map(k, against, state.number == "scores").values
        yield k, locate_map(values, shown.arrays.view.crop, shown.field, state.threshold)


def draw_shown_boxes(pixels: Pixels, shown: ShownMaps, state: ViewState) -> tuple[Pixels, tuple[str, ...]]:
    """Draw the boxes that the page shows over a picture, and describe them in a line per class."""
    if shown.field.misplaced is not None:
        return pixels, ()
    lines, maps = [], shown.arrays
    for (k, found), color in zip(locate_shown(shown, state), COLORS, strict=False):
        regions = found.regions[: 1 if state.boxes == "largest" else None]
        points = [(point.x, point.y) for point in found.points] if state.points else []
        pixels = draw_boxes(pixels, found.size, [region.box for region in regions], color, points)
        listed = "; ".join(
            f"x {left:.0f}, y {top:.0f}, {right - left:.0f} x {bottom - top:.0f} pixels "
            f"({format_number(100 * region.share, '.1f')} % of the evidence)"
            for region in regions
            for left, top, right, bottom in (region.box,)
        )
        lines.append(f"{maps.classifier.class_names[k]}: {listed or found.reason}")
    return pixels, tuple(lines)


def write_boxes(shown: ShownMaps, state: ViewState) -> list[str]:
    """Return the lines of Python that find the boxes and draw them on `pixels`."""
    if not has_boxes(state) or shown.field.misplaced is not None:
        return []
    lines = ["", "from inspector.output.overlay import draw_boxes", ""]
    for (k, against), color in zip(list_located(state), COLORS, strict=False):
        settings = [write_class(shown.arrays, k)]
        if against is not None:
            settings.append(f"against={write_class(shown.arrays, against)}")
        settings.append(f"threshold={state.threshold:g}")
        if state.number == "scores":
            settings.append("dense=True")
        boxes = "found.boxes[:1]" if state.boxes == "largest" else "found.boxes"
        points = ", [(point.x, point.y) for point in found.points]" if state.points else ""
        lines += [
            f"found = maps.locate({', '.join(settings)})",
            "print(found.regions)  # box (left, top, right, bottom) in pixels of the photo, share of the evidence",
            f"pixels = draw_boxes(pixels, found.size, {boxes}, {color}{points})",
        ]
    return lines
