"""The grid that the first page draws: the network's own cells, or a finer grid with the cells between them, too."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from inspector.errors import InspectorError
from inspector.explain.map_arrays import FinerArrays, MapArrays
from inspector.explain.receptive_field import ReceptiveField
from inspector.explain.shown_map import ClassMap
from inspector.ui.components.controls import show_import_of_torch
from inspector.ui.state import cache
from inspector.ui.state.top_bar import PageSelection
from inspector.ui.state.view_state import ViewState

if TYPE_CHECKING:
    from inspector.explain.class_maps import ClassMaps


@dataclass(frozen=True, eq=False)
class ShownMaps:
    """The class maps that the page draws."""

    arrays: MapArrays  # on the network's own grid
    finer: "ClassMaps | None"  # with the finer grid; None if the network's own grid is drawn

    @property
    def field(self) -> ReceptiveField:
        """The receptive fields of the cells that are drawn."""
        return self.arrays.classifier.receptive_field if self.finer is None else self.finer.shown_field

    def class_map(self, k: int, against: str | int | None = None, dense: bool = False) -> ClassMap:
        """Return one map to show, as `ClassMaps.class_map` does; its values are an array."""
        if self.finer is None:
            return self.arrays.class_map(k, against, dense)
        shown = self.finer.class_map(k, against, dense, finer=True)
        return replace(shown, values=shown.values.float().numpy(force=True))


def find_shown(chosen: PageSelection, state: ViewState) -> tuple[ShownMaps, str | None]:
    """Return the class maps that the page draws, and why they are not as fine as the user asked; None if they are."""
    if state.factor == 1:
        return ShownMaps(chosen.arrays, None), None
    show_import_of_torch()
    try:
        return ShownMaps(chosen.arrays, chosen.compute_finer(state.factor)), None
    except InspectorError as error:
        return ShownMaps(chosen.arrays, None), str(error)


def list_finer(chosen: PageSelection, shown: ShownMaps, classes: Sequence[int]) -> FinerArrays | None:
    """Return the finer maps of some classes, and of the mean of all; None if the network's own grid is drawn."""
    if shown.finer is None or shown.finer.finer is None:
        return None
    return cache.list_finer_arrays(chosen.key, shown.finer.finer.factor, tuple(classes), shown.finer)
