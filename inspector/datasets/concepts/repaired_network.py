"""Write a network with a repaired head into a folder that `inspector.load`, the app and `export-network` take."""

from collections.abc import Mapping
from contextlib import suppress
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from inspector.analysis.linear_head import LinearHead, read_linear_head
from inspector.datasets.concepts.files import read_bounded
from inspector.datasets.concepts.model import Concepts
from inspector.entries import Entries, parse_json
from inspector.errors import ExportError, NetworkError, translate_errors
from inspector.explain.classifier import Classifier
from inspector.explain.tracing.chosen_output import original_network
from inspector.files import json_bytes, new_folder
from inspector.images.examples import choose_examples
from inspector.networks.catalog import CARD, LIBRARIES, find_model_card, find_model_folder, list_weight_parts
from inspector.networks.keras_model import KerasNetwork
from inspector.networks.load import load
from inspector.networks.onnx_model import OnnxNetwork

WEIGHTS, REPORT = "weights.safetensors", "repair.json"


def write_repaired_network(
    folder: str | Path,
    classifier: Classifier,
    source: str,
    head: LinearHead,
    about: Mapping[str, Any],
    arch: str | None = None,
    files: Mapping[str, bytes] | None = None,
    is_ours: Any = None,
) -> Path:
    """Write the network with another head, and load it again to check that it has this head.

    Args:
        folder: new folder.
        classifier: the network with the head before.
        source: by what name or path it was loaded.
        head: the head to write.
        about: what was done, for repair.json.
        arch: architecture of a checkpoint.
        files: further files by name.
        is_ours: as for `new_folder`.

    Returns:
        The folder.

    Raises:
        NetworkError: the network is a file of ONNX or Keras or a program, or no layer holds the weights of the head.
        ExportError: the folder cannot be written.
    """
    network = original_network(classifier.network)
    state = replace_head(network, classifier, head)
    architecture, weights = _describe_architecture(classifier, source, arch, state)
    card = _make_card(classifier, source, architecture, weights)
    with new_folder(Path(folder), is_ours=is_ours) as unfinished:
        with translate_errors(ExportError, f"Cannot write {folder}: {{reason}}. Nothing was left there."):
            save_file(state, unfinished / WEIGHTS)
            (unfinished / CARD).write_bytes(json_bytes(card, ascii_only=False))
            (unfinished / REPORT).write_bytes(json_bytes(about, ascii_only=False))
            for name, content in (files or {}).items():
                (unfinished / name).write_bytes(content)
        _check(load(unfinished), head)
    return Path(folder)


def list_repaired(parent: Path, found: Concepts) -> list[Path]:
    """List the folders below another one that hold networks repaired with these concepts, the newest first."""
    folders = []
    for path in parent.glob(f"[!.]*/{REPORT}"):
        with suppress(OSError, ValueError, KeyError):
            if Entries(parse_json(read_bounded(path))).text("concepts_sha256") == found.sha256:
                folders.append((path.stat().st_mtime, path.parent))
    return [folder for _, folder in sorted(folders, reverse=True)]


def replace_head(network: nn.Module, classifier: Classifier, head: LinearHead) -> dict[str, Tensor]:
    """Return the weights of a network with another head, as a state dict.

    The layer of the head is the one with the weights that were found to follow the pooling.

    Raises:
        NetworkError: no layer has these weights, or several have.
    """
    if isinstance(network, OnnxNetwork | KerasNetwork):
        raise NetworkError(
            f"{classifier.name} is a file of ONNX or Keras, whose head is not rewritten. Use a checkpoint."
        )
    weight, bias = read_linear_head(classifier)
    state = {name: value.detach().cpu().clone().contiguous() for name, value in deepcopy(network.state_dict()).items()}
    found = [name for name, value in state.items() if _is_same(value, weight)]
    offsets = [name for name in (f"{one.rpartition('.')[0]}.bias".removeprefix(".") for one in found) if name in state]
    if len(found) != 1 or len(offsets) != 1 or not _is_same(state[offsets[0]], bias):
        raise NetworkError(
            f"No single layer of {classifier.name} holds the weights and the bias of its head, so the head cannot be "
            "replaced. Expected a linear layer with a bias right after the pooling."
        )
    for name, values in ((found[0], head.weight), (offsets[0], head.bias)):
        state[name] = torch.from_numpy(np.ascontiguousarray(values)).to(state[name].dtype).view_as(state[name])
    return state


def _is_same(value: Tensor, expected: Any) -> bool:
    if (
        value.ndim == 0
        or value.numel() != expected.size
        or value.shape[0] != len(expected)
        or not value.is_floating_point()
    ):
        return False
    return bool(torch.allclose(value.double().view(expected.shape), torch.from_numpy(expected).double(), 1e-5, 1e-7))


def _describe_architecture(
    classifier: Classifier, source: str, arch: str | None, state: dict[str, Tensor]
) -> tuple[dict[str, Any], Any]:
    """Return the entries "architecture" and "weights" of model.json; what a package has is taken out of the state."""
    is_named = find_model_folder(source) is not None or (Path(source) / CARD).is_file()
    if is_named:
        card = find_model_card(source)
        packaged = [part for part in list_weight_parts(card) if not isinstance(part, str) and "into" in part]
        for part in packaged:
            for key in [key for key in state if key.startswith(f"{part['into']}.")]:
                del state[key]
        return dict(card.architecture), [WEIGHTS, *packaged] if packaged else WEIGHTS
    name = source if source.startswith(LIBRARIES) else arch
    if name is None:
        raise NetworkError(f"The architecture of {source} is not known. Name it with --arch.")
    return {"factory": name, "classes": len(classifier.class_names)}, WEIGHTS


def _make_card(classifier: Classifier, source: str, architecture: dict[str, Any], weights: Any) -> dict[str, Any]:
    preprocessing, field = asdict(classifier.preprocessing), classifier.receptive_field
    return {
        "title": f"{classifier.name}, repaired",
        "architecture": architecture,
        "weights": weights,
        "probability": classifier.probability,
        "classes": list(classifier.class_names),
        **{key: preprocessing[key] for key in ("size", "resize", "interpolation", "mean", "std")},
        **{key: preprocessing[key] for key in ("window", "display") if preprocessing[key] is not None},
        "source": f"Repaired from {Path(source).name}",
        **{name: one for name in ("output", "unit") if (one := getattr(classifier, name)) is not None},
        **({"centre": [field.y.centre, field.x.centre]} if any(classifier.cell_shift) else {}),
        "examples": choose_examples(classifier.preprocessing),
    }


def _check(written: Classifier, head: LinearHead) -> None:
    weight, bias = read_linear_head(written)
    scale = float(np.abs(head.weight).max())
    if not (np.allclose(weight, head.weight, 1e-3, 1e-3 * scale) and np.allclose(bias, head.bias, 1e-3, 1e-2)):
        raise NetworkError(f"The network that was written has another head than {written.name} should have.")
