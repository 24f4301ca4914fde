"""Types used throughout the project: verdicts, kinds of pooling, meaning of the output. Imports no torch."""

import math
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["exact", "exact for this image", "not unique", "not exact"]
# What turns the values that class maps add up to into probabilities. "identity": they are probabilities already.
# "none": they are no logits but other values, as in regression, and there are no probabilities.
OutputActivation = Literal["softmax", "sigmoid", "identity", "none"]
Pooling = Literal["average", "max", "flatten", "linear", "other"]


@dataclass(frozen=True)
class OutputChoice:
    """What a user says about the output of a network; None: what the network itself shows."""

    name: str | int | None = None  # name or index of the output that holds the logits, if there are several
    activation: OutputActivation | None = None
    unit: str | None = None  # of the values, if the activation is "none"


@dataclass(frozen=True)
class OutputMeaning:
    """What the values are that class maps add up to, in words for users."""

    activation: OutputActivation
    unit: str | None = None  # of other values, such as "years"

    @property
    def quantity(self) -> str:
        """The word for one value: "logit", "probability" or "value"."""
        return {"identity": "probability", "none": "value"}.get(self.activation, "logit")

    @property
    def difference(self) -> str:
        """The words for what the map of a contrast sums to, such as "difference of logits"."""
        return f"difference of {'probabilities' if self.quantity == 'probability' else f'{self.quantity}s'}"

    @property
    def units(self) -> str:
        """The word behind a number: "logits", "of probability", or the unit of the values."""
        return {"identity": "of probability", "none": self.unit or "units of the output"}.get(self.activation, "logits")

    def describe_cells(self, dense: bool = False, quantity: str = "", finer: bool = False) -> str:
        """Return what the value of a cell is. These two names are the same everywhere.

        Args:
            dense: class scores before pooling, instead of contributions to the value.
            quantity: what the contributions sum to, if it is not one value, as in "logit less the average logit".
            finer: the map has cells between those of the network, which are not part of that sum.
        """
        unit = f", in {self.units}" if self.activation == "none" else ""
        if dense:
            return f"class score per cell (before pooling){unit}"
        sums = "own cells sum" if finer else "sums"
        return f"contribution per cell ({sums} to the {quantity or self.quantity}){unit}"

    @property
    def outcome(self) -> str:
        """The heading of the outcomes that `describe` returns: "probability" or "value"."""
        return "probability" if self.has_probabilities else "value"

    @property
    def has_probabilities(self) -> bool:
        """Whether there are probabilities."""
        return self.activation != "none"

    def describe(self, value: float, probability: float, digits: int = 1) -> str:
        """Return the outcome of a class as text: its probability, as in "97.3%", or its value, as in "41.3 years".

        Args:
            value: the value that the class map adds up to.
            probability: probability of the class; not used where there are none.
            digits: number of decimals of the percentage.
        """
        if self.has_probabilities and not math.isnan(probability):
            return f"{probability:.{digits}%}"
        return f"{value:.4g} {self.unit or ''}".rstrip().replace("-", "\N{MINUS SIGN}")

    def sentence(self, classes: int) -> str:
        """Return one sentence on the probabilities of a network with so many classes."""
        if self.activation == "softmax":
            return "Probabilities are the softmax of the logits: over all classes they sum to 1."
        if self.activation == "sigmoid":
            several = ": those of several classes are independent, and do not sum to 1" if classes > 1 else ""
            return f"Probabilities are the sigmoid of the logits{several}."
        if self.activation == "identity":
            return (
                "The network returns probabilities that are neither softmax nor sigmoid of any of its tensors, such as "
                "the mean of two networks. So the class maps split a probability, not a logit."
            )
        return f"The network returns values{f' in {self.unit}' if self.unit else ''}: there are no probabilities."


@dataclass(frozen=True)
class VerdictText:
    """How a verdict is explained to users."""

    sentence: str
    color: Literal["green", "orange", "red"]


# Ordered from best to worst.
VERDICTS: dict[Verdict, VerdictText] = {
    "exact": VerdictText(
        "What follows the pooling is affine, so every logit is an exact sum over cells, on every image.", "green"
    ),
    "exact for this image": VerdictText(
        "What follows the pooling is affine while the statistics that it computes from this image, or the ReLU masks "
        "of this image, are frozen. With them frozen, the sum over cells is exact.",
        "green",
    ),
    "not unique": VerdictText(
        "What follows the pooling is nonlinear, so a logit can be split over cells in more than one way. This is the "
        "first-order split; its remainder is part of the bias.",
        "orange",
    ),
    "not exact": VerdictText("The sum over cells differs from the logit: do not trust this map.", "red"),
}


def rank_verdict(verdict: str) -> int:
    """Return the place of a verdict in the order from best to worst; an unknown one, of another version, is last."""
    return next((place for place, known in enumerate(VERDICTS) if known == verdict), len(VERDICTS))


def worst_verdict(*verdicts: Verdict) -> Verdict:
    """Return the worst of some verdicts; "exact" if there are none."""
    order = list(VERDICTS)
    return max(verdicts, key=order.index, default="exact")
