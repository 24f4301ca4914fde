"""Types used throughout the project: verdicts, kinds of pooling, output activations. Imports no torch."""

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["exact", "exact for this image", "not unique", "not exact"]
OutputActivation = Literal["softmax", "sigmoid"]
Pooling = Literal["average", "max", "flatten", "linear", "other"]


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
