"""What concepts are: parts of the evidence for a class, each with the positions where it is strongest. No torch."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from inspector.errors import ClassError, InspectorError
from inspector.images.preprocessing import Box

MOST_CONCEPTS = 100  # per class
_STRONG = 0.5  # a cell has a concept if it is at least this share as strong as the listed ones in the median


@dataclass(frozen=True)
class ConceptOptions:
    """How concepts are found.

    Raises:
        InspectorError: a number is out of its range.
    """

    rank: int | None = None  # concepts per class; None: 6 to 10, chosen by what the rest still holds
    seed: int = 0  # of the factorization and of the choice of held-out photos
    seeds: int = 3  # factorizations that are compared for the stability of the concepts; 1: it is not measured
    held_out: float = 0.25  # share of each class's photos that are kept for repair to be measured on
    top: int = 12  # positions listed per concept

    def __post_init__(self) -> None:
        if self.rank is not None and not 1 <= self.rank <= MOST_CONCEPTS:
            raise InspectorError(f"Expected rank of 1 to {MOST_CONCEPTS}, got {self.rank}.")
        for name, least in (("seeds", 1), ("top", 1), ("seed", 0)):
            if not least <= (value := getattr(self, name)) < 2**31:
                raise InspectorError(f"Expected {name} of {least} or more, got {value}.")
        if not 0 <= self.held_out <= 0.5:
            raise InspectorError(f"Expected held_out of 0 to 0.5, got {self.held_out}.")


@dataclass(frozen=True)
class ConceptPosition:
    """A cell of a photo where a concept is strong."""

    photo: int  # index in the list of the run
    path: str
    cell: tuple[int, int]  # (row, column)
    value: float  # what the concept adds to the logit there
    box: Box  # three cells around it, no more than its receptive field: left, top, right, bottom in pixels of the photo


@dataclass(frozen=True)
class ConceptCard:
    """One concept of a class: a part of the evidence of positions that comes in one pattern of channels."""

    k: int  # number of the class
    number: int  # of the concept within its class, from 1; those with the largest contribution first
    contribution: float  # mean contribution over the photos of the class, in logits
    photos: int  # photos that have it: their strongest cell is at least half as strong as the listed ones in the median
    of_photos: int
    positions: tuple[ConceptPosition, ...]  # the strongest, one per photo as long as there are enough photos
    stability: float | None  # mean over other seeds of the highest cosine with one of their patterns, 0-1
    inside: float | None  # mean share of its map inside the objects of the photos, 0-1; None: no object is known

    @property
    def least(self) -> float:
        """What a cell needs to have the concept, in logits: half of the median of the listed positions."""
        return compute_least([position.value for position in self.positions])

    @property
    def key(self) -> str:
        """The name of the concept in links and files, such as "3.1": class, then concept."""
        return f"{self.k}.{self.number}"


def compute_least(values: Sequence[float]) -> float:
    """Return what a cell needs to have a concept whose strongest cells have these values; infinity without any."""
    return _STRONG * float(np.median(values)) if values else math.inf


@dataclass(frozen=True)
class LogitTerms:
    """The terms of a logit, or their means over photos. They sum to the logit."""

    concepts: float
    left: float  # evidence for the class that the factorization leaves
    against: float  # evidence against the class
    common: float  # what the mean weights of all classes give
    bias: float

    @property
    def rest(self) -> float:
        """What no concept has: left, against and common."""
        return self.left + self.against + self.common

    @property
    def logit(self) -> float:
        """The logit."""
        return self.concepts + self.rest + self.bias


@dataclass(frozen=True, eq=False)
class ClassConcepts:
    """The concepts of one class."""

    k: int
    name: str
    photos: tuple[int, ...]  # indices of the photos that they were found on
    held_out: tuple[int, ...]  # indices of the photos of the class that are kept for measurements
    cards: tuple[ConceptCard, ...]
    patterns: NDArray[np.float64]  # (r, C), each with the sum 1: what an amount of 1 logit is made of, by channel
    directions: NDArray[np.float64]  # (r, C): features at the concept's cells less those of all cells, of length 1
    left: float  # squared error of the factorization as a share of the evidence's sum of squares, 0-1
    terms: LogitTerms  # means over the photos
    difference: float | None  # largest difference from the network's own logit, which float16 causes; None: not stored


@dataclass(frozen=True, eq=False)
class Concepts:
    """The concepts of all classes with enough photos."""

    network: str
    network_sha256: str
    by_label: bool  # whether the photos of a class are those with its label; else those predicted as it
    options: ConceptOptions
    classes: tuple[ClassConcepts, ...]
    skipped: tuple[str, ...] = ()  # one sentence per class with too few photos

    def find_class(self, k: int) -> ClassConcepts:
        """Return the concepts of a class.

        Raises:
            ClassError: the class has none.
        """
        found = next((one for one in self.classes if one.k == k), None)
        if found is None:
            names = ", ".join(one.name for one in self.classes[:5]) + (", ..." if len(self.classes) > 5 else "")
            raise ClassError(f"Class {k} has no concepts. There are some of {names}.")
        return found

    def find_card(self, key: str) -> ConceptCard:
        """Return the card with a key, such as "3.1".

        Raises:
            ClassError: there is none.
        """
        found = next((card for card in self.cards() if card.key == key), None)
        if found is None:
            raise ClassError(f"No concept {key!r:.40}. Use class and concept, such as {next(self.cards()).key}.")
        return found

    def cards(self) -> Iterator[ConceptCard]:
        """Iterate over the cards of all classes."""
        return (card for one in self.classes for card in one.cards)

    @cached_property
    def sha256(self) -> str:
        """Hash of the network and of all patterns: flags belong to these concepts and to no others."""
        digest = hashlib.sha256(self.network_sha256.encode())
        for one in self.classes:
            digest.update(f"{one.k} {one.patterns.shape}".encode())
            digest.update(np.ascontiguousarray(one.patterns, "<f8").tobytes())
        return digest.hexdigest()
