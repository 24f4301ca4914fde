"""What the first page shows of masked cells: the logits without them, at the head and on the photo."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from inspector.analysis.masking import MaskedOutcome, make_mask, mask_at_head
from inspector.errors import InspectorError
from inspector.explain.class_maps import ClassMaps
from inspector.explain.kinds import PixelChange
from inspector.output.text import format_number
from inspector.output.viewer import ViewerData
from inspector.ui.components import html
from inspector.ui.state import cache
from inspector.ui.state.view_state import ViewState

_CHANGED: dict[PixelChange, str] = {"blur": "blurred", "grey": "gray"}


def answer_mask(maps: ClassMaps, key: cache.MapsKey, data: ViewerData, state: ViewState) -> dict[str, Any] | None:
    """Return the logits without the masked cells, as a table; None if no cell is masked or the mask is not shown."""
    if state.view != "what if" or not state.masked:
        return None
    outcomes: dict[str, ClassMaps | MaskedOutcome] = {"original": maps}
    error, picture = "", None
    try:
        outcomes["head"] = mask_at_head(maps, make_mask(maps, state.masked))
    except InspectorError as caught:
        error = str(caught)
    try:
        outcomes["photo"] = photo = cache.mask_photo(key, tuple(sorted(state.masked)), state.change, maps)
        assert photo.pixels is not None, "the network ran on them"
        shown = photo.pixels if photo.pixels.ndim == 3 else np.repeat(photo.pixels[..., None], 3, 2)
        picture = html.make_data_url(html.encode_image(shown, exact=True))
    except InspectorError as caught:
        error = f"{error} {caught}".strip()
    rows = list(_list_outcomes(maps, data.top if state.k in data.top else (*data.top, state.k), outcomes))
    return {
        "of": [state.masked, state.change],
        "picture": picture,
        "error": error,
        "head": [maps.classifier.meaning.quantity, *outcomes],
        "rows": rows,
        "note": "Head: the masked cells are left out of the pooling, and nothing else changes; this is exact. Photo: "
        f"the network runs on the photo with these cells {_CHANGED[state.change]}. The two differ because receptive "
        "fields overlap: every cell that sees a masked pixel changes too.",
    }


def _list_outcomes(
    maps: ClassMaps, listed: Sequence[int], outcomes: Mapping[str, ClassMaps | MaskedOutcome]
) -> list[list[str]]:
    """Return a row for each listed class and each outcome's top-1 class: its name, and its logit in each outcome."""
    classes = dict.fromkeys([*listed, *(int(outcome.logits.argmax()) for outcome in outcomes.values())])
    return [
        [
            maps.classifier.class_names[j],
            *(format_number(float(outcome.logits[j]), ".3f") for outcome in outcomes.values()),
        ]
        for j in classes
    ]
