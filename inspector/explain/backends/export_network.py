"""Write a network as one file that returns logits and class maps, for products that serve them without us.

    inputs (N, channels, H, W) -> logits (N, K), maps (N, K, h, w)        maps.sum((2, 3)) + bias == logits

What is needed besides, class names, preprocessing and bias, lies in the file's own metadata. A file is read back by the
runtime that will serve it and compared with the network itself before it gets its name.
"""

import json
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from inspector.errors import ExportError
from inspector.explain.backends.export_graph import LogitsAndMaps, class_map_graph, export_program, noise
from inspector.explain.backends.runtimes import import_runtime, run_onnxruntime, run_openvino, write_onnx
from inspector.explain.class_maps import class_maps_of_batch
from inspector.explain.classifier import Classifier

# Writes a network and what is to be known of it.
_Writer: TypeAlias = Callable[[LogitsAndMaps, Tensor, Path, dict[str, str]], None]

_ENDINGS: dict[str, str] = {"onnx": ".onnx", "openvino": ".xml", "pt2": ".pt2"}
_TOLERANCE = 1e-4  # of the largest logit, or the largest value of a class map
_ABOUT = "inspector.json"  # inside a .pt2 file


def export_network(classifier: Classifier, file: str | Path, format: str = "onnx") -> Path:
    """Write the graph of logits and class maps to a new file: .onnx, .xml (and .bin beside it) or .pt2.

    It takes any number of inputs of the classifier's size. Raises ExportError for a file that is there already or
    cannot be written, or that does not give what the network gives; HeadError for a head that one graph cannot hold.
    """
    file = Path(file)
    if format not in _ENDINGS:
        raise ExportError(f"No format {format!r}; there are {', '.join(_ENDINGS)}.")
    if file.suffix != _ENDINGS[format]:
        raise ExportError(f"A network in the format {format} needs a name that ends in {_ENDINGS[format]}; got {file}.")
    names = [file, file.with_suffix(".bin")] if format == "openvino" else [file]
    there = next((one for one in names if one.exists()), None)
    if there is not None:
        raise ExportError(f"{there} is there already; another name would do.")
    graph, inputs = class_map_graph(classifier), noise(classifier, 2)
    if format != "pt2":
        import_runtime("onnxruntime" if format == "onnx" else "openvino")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # Beside it, so that it gets its name in one step.
        with tempfile.TemporaryDirectory(dir=file.parent, prefix=".inspector-") as folder:
            fresh = [Path(folder) / one.name for one in names]
            _WRITERS[format](graph, inputs, fresh[0], describe_export(classifier))
            _check(classifier, _READERS[format](fresh[0]))
            # What is read first comes last: who sees it finds the rest.
            for new, name in reversed(list(zip(fresh, names, strict=True))):
                new.replace(name)
    except OSError as error:
        raise ExportError(f"{file} cannot be written: {error.strerror or error}.") from error
    return file


def describe_export(classifier: Classifier) -> dict[str, str]:
    """What whoever serves the network needs to know of it: everything but names is JSON."""
    bias = classifier.head.bias
    values = {
        "class_names": list(classifier.class_names),
        "preprocessing": asdict(classifier.preprocessing),
        "probability": classifier.probability,
        "bias": [] if bias is None else bias.tolist(),
        "sum": "maps.sum((2, 3)) + bias == logits",
        "pooling": classifier.head.pooling,
        "sha256": classifier.sha256(),
        "inspector": version("inspector"),
    }
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}


def _write_onnx(graph: LogitsAndMaps, inputs: Tensor, file: Path, said: dict[str, str]) -> None:
    write_onnx(graph, inputs, file, said)


def _write_openvino(graph: LogitsAndMaps, inputs: Tensor, file: Path, said: dict[str, str]) -> None:
    openvino = import_runtime("openvino")
    model = openvino.convert_model(export_program(graph, inputs))
    for output, name in zip(model.outputs, ("logits", "maps"), strict=True):
        output.get_tensor().set_names({name})
    for name, value in said.items():
        model.set_rt_info(value, ["inspector", name])
    # Halved weights would move the logits.
    openvino.save_model(model, str(file), compress_to_fp16=False)


def _write_pt2(graph: LogitsAndMaps, inputs: Tensor, file: Path, said: dict[str, str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(export_program(graph, inputs), file, extra_files={_ABOUT: json.dumps(said)})


def _read_pt2(file: Path) -> Callable[[Tensor], Sequence[Tensor]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.load(file).module()

    def run(inputs: Tensor) -> Sequence[Tensor]:
        with torch.no_grad():
            outputs: Sequence[Tensor] = program(inputs)
            return outputs

    return run


_WRITERS: dict[str, _Writer] = {"onnx": _write_onnx, "openvino": _write_openvino, "pt2": _write_pt2}
_READERS: dict[str, Callable[[Path], Callable[[Tensor], Sequence[Tensor]]]] = {
    "onnx": run_onnxruntime,
    "openvino": run_openvino,
    "pt2": _read_pt2,
}


def _check(classifier: Classifier, run: Callable[[Tensor], Sequence[Tensor]]) -> None:
    """ExportError with the figure where the file gives other logits or maps than the network."""
    for images in (1, 3):
        inputs = noise(classifier, images)
        expected = class_maps_of_batch(classifier, inputs)
        wanted = {
            "logits": torch.stack([one.logits for one in expected]),
            "class maps": torch.stack([one.values for one in expected]),
        }
        for (what, own), given in zip(wanted.items(), run(inputs), strict=True):
            miss = float((given - own).abs().max()) if given.shape == own.shape else float("inf")
            allowed = _TOLERANCE * float(own.abs().max())
            # Not >: what is not a number is wrong too.
            if not miss <= allowed:
                raise ExportError(
                    f"Nothing was written: the file's {what} miss the network's own by {miss:.2g} for {images} "
                    f"image{'s' * (images > 1)}, where {allowed:.2g} is allowed."
                )
