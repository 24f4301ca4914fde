"""Make a report on concepts as one HTML file, which opens offline: cards with their crops, tests, repair, settings."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from inspector.datasets.concepts.files import ConceptFlag
from inspector.datasets.concepts.model import ClassConcepts, ConceptCard, ConceptPosition, Concepts
from inspector.datasets.concepts.repair import ChangedPhoto, Repair
from inspector.datasets.concepts.trials import ConceptTrial, Rate
from inspector.datasets.features import StoredFeatures
from inspector.errors import ImageError
from inspector.images.decode import Pixels
from inspector.images.photo import read_image
from inspector.output.report import encode_url
from inspector.output.templates import render_template
from inspector.version import __version__

_SIDE = 112  # pixels of a crop
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
        trials=[(one.key, *map(str, (one.added, one.added_random, one.removed, one.removed_random))) for one in trials],
        classes=[_make_class(one, flags) for one in shown],
        settings=json.dumps(settings, indent=2),
    )


def read_crop(position: ConceptPosition, side: int = _SIDE) -> Pixels | None:
    """Read the part of a photo that a card shows for a position, as a square of `side` pixels; None if it is not there.

    Parts that the edge of the photo cuts off keep their aspect ratio, up to 1 pixel.
    """
    return next(_read_crops([position], side))


def _make_class(one: ClassConcepts, flags: Mapping[str, ConceptFlag]) -> dict[str, Any]:
    terms = one.terms
    equation = (
        f"{len(one.photos)} photos; mean logit {terms.logit:.2f} = concepts {terms.concepts:.2f} "
        f"+ left {terms.left:.2f} + against {terms.against:.2f} + common {terms.common:.2f} + bias {terms.bias:.2f}"
    )
    return {"name": one.name, "equation": equation, "cards": [_make_card(card, flags) for card in one.cards]}


def _make_card(card: ConceptCard, flags: Mapping[str, ConceptFlag]) -> dict[str, Any]:
    flag = flags.get(card.key, ConceptFlag())
    parts = [f"{card.contribution:+.2f} logits in the mean", f"{card.photos} of {card.of_photos} photos have it"]
    parts += [] if card.stability is None else [f"stability {card.stability:.2f}"]
    parts += [] if card.inside is None else [f"{card.inside:.0%} inside the objects"]
    crops = [
        {
            "url": encode_url(pixels, lossless=False),
            "text": f"{position.path}, cell {position.cell}, {position.value:+.3f}",
        }
        for position, pixels in zip(card.positions, _read_crops(card.positions, _SIDE), strict=True)
        if pixels is not None
    ]
    return {"key": card.key, "name": flag.name, "flag": flag.flag, "line": "; ".join(parts), "crops": crops}


def _read_crops(positions: Sequence[ConceptPosition], side: int) -> Iterator[Pixels | None]:
    for position in positions:
        try:
            photo = read_image(position.path) if Path(position.path).is_file() else None
        except ImageError:
            photo = None
        if photo is None:
            yield None
            continue
        cut = Image.fromarray(photo.pixels).crop(tuple(map(round, position.box)))  # type: ignore[arg-type]
        yield np.asarray(cut.resize((side, side), Image.Resampling.BICUBIC))


def _make_repair(repair: Repair, names: Sequence[str]) -> dict[str, Any]:
    scores, keys = repair.scores, repair.flagged
    classes = list(scores["before"].recall)
    return {
        "flagged": keys,
        "held_out": repair.held_out,
        "fitted": repair.fitted,
        "heading": ("head", "accuracy", "mean recall", *(f"become the class with {key}" for key in keys)),
        "rows": [
            (name, str(one.accuracy), f"{one.mean_recall:.1%}", *(str(one.added[key]) for key in keys))
            for name, one in scores.items()
        ],
        "recall_heading": ("class", *scores),
        "recalls": [(names[k], *(_count(one.recall[k]) for one in scores.values())) for k in classes],
        "changed": [_describe_changed(one, names) for one in repair.changed[:_MOST_CHANGED]],
        "more": max(len(repair.changed) - _MOST_CHANGED, 0),
    }


def _count(rate: Rate) -> str:
    return f"{rate.count} of {rate.trials} ({rate.share:.0%})"


def _describe_changed(one: ChangedPhoto, names: Sequence[str]) -> tuple[str, ...]:
    label = "" if one.label is None else names[one.label]
    return one.path, label, names[one.before], names[one.after], "yes" if one.held_out else ""
