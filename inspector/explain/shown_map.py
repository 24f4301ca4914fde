"""One map to show, and the choice of maps that a figure shows. Imports no torch: maps are tensors or NumPy arrays."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from inspector.explain.class_names import find_class_index

AVERAGE: Literal["average"] = "average"  # contrasts a class with the average class


@dataclass(frozen=True, eq=False)
class ClassMap:
    """One map to show: of a class, or of its contrast with another class or with the average class."""

    title: str
    values: Any  # (h, w) in logits; a Tensor, or a NumPy array of MapArrays
    bias: float
    total: float | None  # values.sum() + bias, a logit or a difference of logits; None for class scores

    def equation(self) -> str:
        """Return how the map sums to the logit, as text."""
        if self.total is None:
            line = f"highest score {float(self.values.max()):.4f}"
        else:
            line = f"map {float(self.values.sum()):.4f} + bias {self.bias:.4f} = {self.total:.4f}"
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


@dataclass(frozen=True)
class FigureContent:
    """What a figure shows: together with the photo and the network, enough to draw it again."""

    classes: tuple[int, ...]
    against: str | int | None  # the class to contrast with, or "average"; None for no contrast
    dense: bool  # position scores instead of contributions to the logit
    smooth: bool  # interpolate between the centers of the cells
    opacity: float  # of the strongest color, 0-1
