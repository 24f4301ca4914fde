"""Add a user's network to models/, so that it can be loaded by name."""

import re
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from inspector.errors import ExportError, NetworkError, translate_errors
from inspector.explain.class_names import AnyClassNames
from inspector.explain.classifier import Classifier
from inspector.explain.kinds import OutputChoice
from inspector.explain.tracing.chosen_output import original_network
from inspector.files import json_bytes, new_folder
from inspector.images.examples import choose_examples
from inspector.images.preprocessing import PreprocessingOverrides
from inspector.networks.catalog import find_model_folder, user_models
from inspector.networks.checkpoint import detect_kind
from inspector.networks.load import FILES, KERAS, ONNX, resolve
from inspector.printable import make_printable

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def add_model(
    checkpoint: Path,
    name: str,
    arch: str | None = None,
    class_names: AnyClassNames | None = None,
    overrides: PreprocessingOverrides | None = None,
    title: str | None = None,
    trust: bool = False,
    output: OutputChoice | None = None,
    device: str | None = None,
) -> tuple[Path, Classifier]:
    """Add the network in a file to models/, completely or not at all.

    Weights are written as safetensors; ONNX and Keras files are copied.

    Args:
        checkpoint: the file with the network or its weights.
        name: name of the new folder in models/.
        arch: architecture of the network if the file holds only weights, as for `load`.
        class_names: one name per class. None: numbers are the names.
        overrides: settings that replace settings of the default preprocessing.
        title: one line that describes the network in lists.
        trust: allow code of the architecture to run.
        output: which output is explained, and what it means, in place of the network's own.
        device: where the head is read and verified, as for `load`.

    Returns:
        The new folder, and the classifier.

    Raises:
        NetworkError: the name is taken or not allowed, or the file is a program or cannot be loaded.
        HeadError: the logits do not depend on a pooling of feature maps.
        ExportError: models/ cannot be written.
    """
    if not _NAME.fullmatch(name):
        hint = "Use up to 100 letters, digits, '.', '_' and '-', beginning with a letter or digit"
        raise NetworkError(f"{make_printable(name, 30)!r} cannot be a network's name. {hint}.")
    if Path(name).suffix.lower() in FILES:
        raise NetworkError(f"{name!r} cannot be a network's name, because it looks like a file. Leave out the ending.")
    folder = user_models() / name
    if taken := find_model_folder(name) or (folder if folder.exists() else None):
        raise NetworkError(f"There is a network {name!r} already, in {taken}. Choose another name, or remove it.")
    suffix = checkpoint.suffix.lower()
    is_copied = suffix in (*ONNX, *KERAS)
    if not is_copied and (kind := detect_kind(checkpoint)) in ("TorchScript", "torch.export"):
        hint = "Save its state dict, or export it to ONNX; or load it by its path each time, with --trust"
        reason = "which runs its own code, so it is not added to models/"
        raise NetworkError(f"{checkpoint} is a program ({kind}), {reason}. {hint}.")
    loaded = resolve(checkpoint, arch, class_names, overrides, output, trust)
    classifier = Classifier.from_network(loaded, device)
    card = _make_card(classifier, checkpoint, arch, title)
    with new_folder(folder) as unfinished:
        weights = unfinished / card["weights"]
        if is_copied:
            shutil.copyfile(checkpoint, weights)
            if suffix in ONNX:
                _check_copy(weights, checkpoint, loaded.output)
        else:
            # Copy the tensors: save_file refuses two names that share memory.
            state = {
                key: value.clone().contiguous()
                for key, value in original_network(classifier.network).state_dict().items()
            }
            with translate_errors(ExportError, f"Cannot write {folder}: {{reason}}. Nothing was left there."):
                save_file(state, weights)
        (unfinished / "model.json").write_bytes(json_bytes(card, ascii_only=False))
    return folder, classifier


def _check_copy(copy: Path, checkpoint: Path, output: str | int | None) -> None:
    try:
        resolve(copy, output=OutputChoice(output))
    except NetworkError as error:
        reason = "keeps its weights in other files, but in models/ a network is one file"
        hint = "Write it again with onnx.save(onnx.load(path), path), which puts them inside"
        raise NetworkError(f"{checkpoint} {reason}. {hint}.") from error


def _make_card(classifier: Classifier, checkpoint: Path, arch: str | None, title: str | None) -> dict[str, Any]:
    suffix = checkpoint.suffix.lower()
    weights: str = "weights.safetensors"
    architecture: dict[str, Any] = {"factory": arch, "classes": len(classifier.class_names)}
    if suffix in (*ONNX, *KERAS):
        weights, architecture = f"network{suffix}", {"factory": "onnx" if suffix in ONNX else "keras"}
    preprocessing = asdict(classifier.preprocessing)
    return {
        "title": title or f"{checkpoint.name}" + (f", {arch}" if arch else ""),
        "architecture": architecture,
        "weights": weights,
        "probability": classifier.probability,
        "classes": classifier.class_names,
        **{key: preprocessing[key] for key in ("size", "resize", "interpolation", "mean", "std")},
        **{key: preprocessing[key] for key in ("window", "display") if preprocessing[key] is not None},
        "source": f"Added from {checkpoint.name}",
        **{name: one for name in ("output", "unit") if (one := getattr(classifier, name)) is not None},
        "examples": choose_examples(classifier.preprocessing),
    }
