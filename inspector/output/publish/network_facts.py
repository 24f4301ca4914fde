"""What the published page knows of its network: network.json, and where the weights of the head lie."""

from dataclasses import asdict, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inspector.explain.class_maps import class_maps
from inspector.explain.class_names import label_names
from inspector.explain.classifier import Classifier
from inspector.explain.kinds import Verdict
from inspector.explain.map_arrays import MapArrays, shows_scores
from inspector.images.preprocessing import Preprocessing
from inspector.output.manifest import describe_field
from inspector.output.publish.runtime import VERSION as RUNTIME
from inspector.output.standalone import find_mask_rule
from inspector.output.viewer import make_viewer_data
from inspector.version import __version__

SIDE = 800  # longer side of the drawing of a photo, in pixels
_PER_PHOTO = (  # what the page computes itself: makeViewerData in page/viewer_data.js
    "photo", "photo_name", "photo_gray", "photo_size", "crop", "draw_size", "grid", "down", "across", "rows", "columns",
    "top", "classes", "residual", "verdict", "verdict_sentence", "verdict_color", "notes", "note_of", "channels",
)  # fmt: skip


def describe_network(classifier: Classifier) -> dict[str, Any]:
    """Return what a page needs to know of a network, in types that JSON can store.

    The facts that are the same for every photo are those of a viewer of a gray photo, which is explained here.
    """
    blank = class_maps(classifier, np.full((*classifier.preprocessing.size, 3), 128, np.uint8))
    arrays = blank.to_numpy()
    return {
        "name": classifier.name,
        "sha256": classifier.sha256(),
        "inspector": __version__,
        "runtime": RUNTIME,
        "place": classifier.place,
        "preprocessing": _describe_preprocessing(classifier.preprocessing),
        "fed": classifier.preprocessing.describe(),
        "activation": classifier.probability,
        "head": _describe_head(classifier),
        "receptive_field": describe_field(classifier.receptive_field),
        "shows_scores": shows_scores(classifier.facts),
        "side": SIDE,
        "viewer": {name: value for name, value in _make_viewer_facts(arrays).items() if name not in _PER_PHOTO},
        "masked_at_head": find_mask_rule(blank),
        "verdicts": {verdict: _describe_verdict(arrays, verdict) for verdict in (classifier.head.verdict, "not exact")},
    }


def read_head_weight(classifier: Classifier) -> NDArray[np.float32] | None:
    """Return the weight of the head (K, P); None if each feature map is the map of one class."""
    if classifier.head.per_class:
        return None
    return np.asarray(classifier.head.affine[0].numpy(force=True), "<f4")


def _describe_preprocessing(preprocessing: Preprocessing) -> dict[str, Any]:
    used = ("size", "mean", "std", "resize", "interpolation")
    return {name: value for name, value in asdict(preprocessing).items() if name in used}


def _describe_head(classifier: Classifier) -> dict[str, Any]:
    head = classifier.head
    return {
        "pooling": head.pooling,
        "bias": head.affine[1].tolist(),
        "tolerance": head.tolerance,
        "verdict": head.verdict,
    }


def _make_viewer_facts(maps: MapArrays) -> dict[str, Any]:
    return make_viewer_data(maps, label_names(maps.classifier.class_names), (), "", SIDE).to_json()


def _describe_verdict(maps: MapArrays, verdict: Verdict) -> dict[str, Any]:
    facts = _make_viewer_facts(replace(maps, verdict=verdict))
    return {name: facts[name] for name in ("verdict_sentence", "verdict_color")}
