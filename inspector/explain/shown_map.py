"""One map to show, and the choice of maps that a figure shows."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

AVERAGE: Literal["average"] = "average"  # contrasts a class with the average class


@dataclass(frozen=True, eq=False)
class ClassMap:
    """One map to show: of a class, or of its contrast with another class or with the average class."""

    title: str
    values: Tensor  # (h, w) in logits
    bias: float
    total: float | None  # own.sum() + bias, a logit or a difference of logits; None for class scores
    factor: int = 1  # cells per cell of the network's own grid, down and across
    mean_total: float | None = None  # mean of the totals of all shifts, if the map is finer than the network's own

    @property
    def own(self) -> Tensor:
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


@dataclass(frozen=True)
class FigureContent:
    """What a figure shows: together with the photo and the network, enough to draw it again."""

    classes: tuple[int, ...]
    against: str | int | None  # the class to contrast with, or "average"; None for no contrast
    dense: bool  # position scores instead of contributions to the logit
    smooth: bool  # interpolate between the centers of the cells
    opacity: float  # of the strongest color, 0-1
    finer: int = 1  # how many times finer than the network's own grid, down and across
