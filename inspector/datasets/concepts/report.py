"""Make a report on concepts as one HTML file, which opens offline: cards with their crops, tests, repair, settings."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from typing import Any

from inspector.datasets.concepts.crops import read_crops
from inspector.datasets.concepts.files import ConceptFlag
from inspector.datasets.concepts.model import ClassConcepts, ConceptCard, ConceptPosition, Concepts
from inspector.datasets.concepts.outcomes import RATES, ConceptTrial, Rate
from inspector.datasets.concepts.repair import ChangedPhoto, Repair
from inspector.datasets.features import StoredFeatures
from inspector.images.decode import Pixels
from inspector.output.picture import encode_url
from inspector.output.templates import render_template
from inspector.version import __version__

_MOST_CHANGED = 200  # photos that are listed


def make_concept_report(
    stored: StoredFeatures,
    found: Concepts,
    flags: Mapping[str, ConceptFlag],
    *,
    classes: Sequence[int] | None = None,
    trials: Sequence[ConceptTrial] = (),
    repair: Repair | None = None,
) -> str:
    """Make the report.

    Args:
        stored: the features that the concepts were found in. Photos that are not there any more are left out.
        found: the concepts.
        flags: names and flags by the keys of cards.
        classes: numbers of the classes whose cards are shown. Default: all.
        trials: tests of concepts.
        repair: a repaired head.

    Returns:
        The HTML page. Names are escaped, so they cannot change the page.
    """
    shown = [one for one in found.classes if classes is None or one.k in classes]
    settings = {"version": __version__, "network_sha256": found.network_sha256, "concepts_sha256": found.sha256}
    settings |= asdict(found.options) | ({} if repair is None else {"trials": asdict(repair.trials)})
    return render_template(
        "concepts.html",
        title=f"What {found.network} reads",
        image_sources="data:",
        network=found.network,
        source=stored.results.about.get("source") or "photos",
        repair=None if repair is None else _make_repair(repair, stored.results.class_names),
        trials=[(one.key, *(str(getattr(one, name)) for name in RATES)) for one in trials],
        classes=[_make_class(one, stored, flags) for one in shown],
        settings=json.dumps(settings, indent=2),
    )


def describe_terms(one: ClassConcepts) -> str:
    """Return the mean logit of a class as the sum of its terms, in one line."""
    terms = one.terms
    return (
        f"{len(one.photos)} photos; mean logit {terms.logit:.2f} = concepts {terms.concepts:.2f} "
        f"+ left {terms.left:.2f} + against {terms.against:.2f} + common {terms.common:.2f} + bias {terms.bias:.2f}"
    )


def describe_card(card: ConceptCard) -> str:
    """Return the numbers of a card in one line."""
    parts = [f"{card.contribution:+.2f} logits in the mean", f"{card.photos} of {card.of_photos} photos have it"]
    parts += [] if card.stability is None else [f"stability {card.stability:.2f}"]
    parts += [] if card.inside is None else [f"{card.inside:.0%} inside the objects"]
    return "; ".join(parts)


def describe_position(position: ConceptPosition) -> str:
    """Return where a concept is strong: photo, cell and value."""
    return f"{position.path}, cell {position.cell}, {position.value:+.3f}"


def _make_class(one: ClassConcepts, stored: StoredFeatures, flags: Mapping[str, ConceptFlag]) -> dict[str, Any]:
    crops = iter(read_crops(stored, [position for card in one.cards for position in card.positions]))
    cards = [_make_card(card, list(islice(crops, len(card.positions))), flags) for card in one.cards]
    return {"name": one.name, "equation": describe_terms(one), "cards": cards}


def _make_card(card: ConceptCard, crops: Sequence[Pixels | None], flags: Mapping[str, ConceptFlag]) -> dict[str, Any]:
    flag = flags.get(card.key, ConceptFlag())
    shown = [
        {"url": encode_url(pixels, lossless=False), "text": describe_position(position)}
        for position, pixels in zip(card.positions, crops, strict=True)
        if pixels is not None
    ]
    return {"key": card.key, "name": flag.name, "flag": flag.flag, "line": describe_card(card), "crops": shown}


def list_scores(repair: Repair) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return heading and rows of the table of heads: accuracy, mean recall, and what a part of each concept does."""
    keys = repair.flagged
    rows = [
        (name, str(one.accuracy), f"{one.mean_recall:.1%}", *(str(one.added[key]) for key in keys))
        for name, one in repair.scores.items()
    ]
    return ("head", "accuracy", "mean recall", *(f"become the class with {key}" for key in keys)), rows


def list_recalls(repair: Repair, names: Sequence[str]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return heading and rows of the table of recalls: a row per class, a column per head."""
    scores = repair.scores
    rows = [(names[k], *(_count(one.recall[k]) for one in scores.values())) for k in scores["before"].recall]
    return ("class", *scores), rows


def _make_repair(repair: Repair, names: Sequence[str]) -> dict[str, Any]:
    (heading, rows), (recall_heading, recalls) = list_scores(repair), list_recalls(repair, names)
    return {
        "flagged": repair.flagged,
        "held_out": repair.held_out,
        "fitted": repair.fitted,
        "heading": heading,
        "rows": rows,
        "recall_heading": recall_heading,
        "recalls": recalls,
        "changed": [_describe_changed(one, names) for one in repair.changed[:_MOST_CHANGED]],
        "more": max(len(repair.changed) - _MOST_CHANGED, 0),
    }


def _count(rate: Rate) -> str:
    return f"{rate.count} of {rate.trials} ({rate.share:.0%})"


def _describe_changed(one: ChangedPhoto, names: Sequence[str]) -> tuple[str, ...]:
    label = "" if one.label is None else names[one.label]
    return one.path, label, names[one.before], names[one.after], "yes" if one.held_out else ""
