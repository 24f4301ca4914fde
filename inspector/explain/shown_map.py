"""One map to show, and the choice of maps that a figure shows. Imports no torch: maps are tensors or NumPy arrays."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from inspector.errors import InspectorError
from inspector.explain.class_names import find_class_index

AVERAGE: Literal["average"] = "average"  # contrasts a class with the average class


@dataclass(frozen=True, eq=False)
class ClassMap:
    """One map to show: of a class, or of its contrast with another class or with the average class."""

    title: str
    values: Any  # (h, w) in logits; a Tensor, or a NumPy array of MapArrays
    bias: float
    total: float | None  # own.sum() + bias, a logit or a difference of logits; None for class scores
    factor: int = 1  # cells per cell of the network's own grid, down and across
    mean_total: float | None = None  # mean of the totals of all shifts, if the map is finer than the network's own

    @property
    def own(self) -> Any:
        """The cells of the network's own grid: (h, w) in logits. All cells, unless the map is finer."""
        return self.values[:: self.factor, :: self.factor]

    def equation(self) -> str:
        """Return how the map sums to the logit, as text."""
        if self.total is None:
            line = f"highest score {float(self.values.max()):.4f}"
        else:
            cells = "map" if self.factor == 1 else "own cells"
            line = f"{cells} {float(self.own.sum()):.4f} + bias {self.bias:.4f} = {self.total:.4f}"
            if self.mean_total is not None:
                line += f"; mean of {self.factor**2} shifts {self.mean_total:.4f}"
        return line.replace("-", "\N{MINUS SIGN}")


def make_class_map(
    class_names: Sequence[str],
    select: Callable[[list[int]], tuple[Any, Any, Any]],
    k: str | int,
    against: str | int | None = None,
    dense: bool = False,
) -> ClassMap:
    """Make one map to show, with its title.

    Args:
        class_names: (K,).
        select: returns the maps (n, h, w), biases (n,) and logits (n,) of n classes.
        k: name or index of the class.
        against: name or index of a class to contrast with, or "average" for the average of all classes.
        dense: the maps are position scores, which sum to no logit.

    Raises:
        ClassError: there is no such class.
    """
    k = find_class_index(class_names, k)
    name, others = class_names[k], []
    title = name
    if against == AVERAGE:
        title, others = f"{name} against the average class", list(range(len(class_names)))
    elif against is not None:
        others = [find_class_index(class_names, against)]
        title = f"{name} against {class_names[others[0]]}"
    # Select before scoring, so that only the scores that are needed are computed.
    values, bias, logit = (rows[0] - rows[1:].mean(0) if others else rows[0] for rows in select([k, *others]))
    return ClassMap(title, values, float(bias), None if dense else float(logit))


def choose_contrast(classes: Sequence[int], top: Sequence[int]) -> tuple[int, int | None]:
    """Return the two classes of a contrast: the first of `classes`, and the second or the other of the two top classes.

    Raises:
        InspectorError: there is no second class.
    """
    if not classes or len(top) < 2:
        raise InspectorError("A contrast needs two classes. Show one more class.")
    first, *others = classes
    return first, next((k for k in (*others, *top) if k != first), None)


@dataclass(frozen=True)
class FigureContent:
    """What a figure shows: together with the photo and the network, enough to draw it again."""

    classes: tuple[int, ...]
    against: str | int | None  # the class to contrast with, or "average"; None for no contrast
    dense: bool  # position scores instead of contributions to the logit
    smooth: bool  # interpolate between the centers of the cells
    opacity: float  # of the strongest color, 0-1
    finer: int = 1  # how many times finer than the network's own grid, down and across
