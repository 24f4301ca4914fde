"""Write a network as one file that returns logits and class maps, for products that serve them without Inspector.

    inputs (N, channels, H, W) -> logits (N, K), maps (N, K, h, w)        maps.sum((2, 3)) + bias == logits

Class names, preprocessing and bias are in the file's own metadata. The file is read back by the runtime that will serve
it, and its outputs are compared with the network's, before the file is renamed to its final name.
"""

import io
import json
import warnings
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from inspector.errors import ExportError, HeadError, translate_errors
from inspector.explain.backends.export_finer import finer_graph
from inspector.explain.backends.export_graph import (
    can_export_class_maps,
    class_map_graph,
    compare_outputs,
    one_trace_at_a_time,
    trace_program,
)
from inspector.explain.backends.lower_precision import (
    Calibration,
    CalibrationInputs,
    PrecisionLoss,
    check_loss,
    measure_loss,
)
from inspector.explain.backends.quantize import quantize_before_pooling
from inspector.explain.backends.runtimes import Run, run_onnxruntime, run_openvino, run_openvino_int8, write_onnx
from inspector.explain.backends.sessions import import_runtime
from inspector.explain.backends.split_onnx import drop_outputs
from inspector.explain.class_maps import class_maps_of_batch
from inspector.explain.classifier import Classifier
from inspector.explain.tracing.chosen_output import original_network
from inspector.files import temporary_folder
from inspector.version import __version__

OnMeasured: TypeAlias = Callable[[PrecisionLoss], object]

_SUFFIXES: dict[str, str] = {"onnx": ".onnx", "openvino": ".xml", "pt2": ".pt2"}
_TOLERANCE = 1e-4  # largest allowed error, relative to the largest logit or the largest value of a class map
_SUM_TOLERANCE = 1e-5  # largest residual of a quantized file, relative to the largest sum of absolute values of a map
_DTYPES = ("float32", "int8")
_METADATA = "inspector.json"  # name of the metadata inside a .pt2 file
_SEED = 3  # seed of the noise on which the file is verified


def export_network(
    classifier: Classifier,
    file: str | Path,
    format: str = "onnx",
    overwrite: bool = False,
    finer: int = 1,
    dtype: str = "float32",
    calibration: Calibration | None = None,
    on_measured: OnMeasured = lambda loss: None,
) -> Path:
    """Write the graph of logits and class maps to a new file, for any number of inputs of the classifier's size.

    Args:
        classifier: classifier to write.
        file: a name that ends in .onnx, .xml (a .bin is written beside it) or .pt2.
        format: "onnx", "openvino" or "pt2".
        overwrite: replace an earlier file of this name, once the new one is verified.
        finer: 2 or 4 writes the class maps on a finer grid, see `FinerMaps`.
        dtype: "float32", or "int8": the network up to its feature maps is quantized, and what follows stays in float32,
            so that the class maps still sum to the logits. How much the logits and class maps differ from those in
            float32 is measured on photos, and kept in the file's metadata.
        calibration: photos like those that the network will see, for int8. Default: the example images.
        on_measured: called with how the int8 network differs from float32.

    Returns:
        Path of the file.

    Raises:
        ExportError: the file exists or cannot be written, its outputs differ from the network's, or there is no int8 in
            this format.
        NetworkError: in int8 the top-1 class changes in more photos than `calibration` allows.
        HeadError: the head has no weight that holds for every image.
        InspectorError: there is no finer map, as in `class_maps`.
    """
    names = check_target(file, format, overwrite)
    file = names[0]
    write = _make_writer(classifier, format, finer, dtype, calibration, on_measured)
    if format != "pt2":
        import_runtime("onnxruntime" if format == "onnx" else "openvino")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # The temporary folder is in the same folder as the file, so that renaming is a single step.
        with temporary_folder(file.parent) as folder:
            unfinished = [folder / one.name for one in names]
            write(unfinished[0], describe_export(classifier, finer))
            run = _READERS[format](unfinished[0])
            if dtype == "float32":
                _verify(classifier, run, finer)
            else:
                _verify_sums(classifier, run)
            # Rename the file that users open last (.xml after .bin), so that both exist once it is visible.
            for temporary, name in reversed(list(zip(unfinished, names, strict=True))):
                temporary.replace(name)
    except OSError as error:
        raise ExportError(f"Cannot write {file}: {error.strerror or error}.") from error
    return file


def check_target(file: str | Path, format: str, overwrite: bool = False) -> list[Path]:
    """Check that a network can be written under a name; call it before the network is loaded.

    Returns:
        The paths of the files that are written, the one that users name first.

    Raises:
        ExportError: there is no such format, the name has another ending, or a file exists and is not to be replaced.
    """
    file = Path(file)
    if format not in _SUFFIXES:
        raise ExportError(f"No format {format!r}. Use one of {', '.join(_SUFFIXES)}.")
    if file.suffix != _SUFFIXES[format]:
        raise ExportError(
            f"A network in the format {format} needs a name that ends in {_SUFFIXES[format]}; got {file}."
        )
    names = [file, file.with_suffix(".bin")] if format == "openvino" else [file]
    for one in names:
        if one.exists() and not (overwrite and one.is_file()):
            raise ExportError(f"{one} exists already. Use another name, or --overwrite to replace it.")
    return names


def describe_export(classifier: Classifier, finer: int = 1) -> dict[str, str]:
    """Return the metadata of an exported file: class names, preprocessing, bias, pooling, hash.

    Values that are not text are JSON.
    """
    own = "maps" if finer == 1 else f"maps[:, :, ::{finer}, ::{finer}]"
    bias = classifier.head.bias
    values = {
        "class_names": list(classifier.class_names),
        "preprocessing": asdict(classifier.preprocessing),
        "probability": classifier.probability,
        "bias": [] if bias is None else bias.tolist(),
        "sum": f"{own}.sum((2, 3)) + bias == logits",
        "pooling": classifier.head.pooling,
        "sha256": classifier.sha256(),
        "inspector": __version__,
    }
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}


def _make_writer(
    classifier: Classifier,
    format: str,
    finer: int,
    dtype: str,
    calibration: Calibration | None,
    on_measured: OnMeasured,
) -> Callable[[Path, dict[str, str]], None]:
    """Return a function that writes the graph of logits and class maps to a file, with metadata."""
    if dtype not in _DTYPES:
        raise ExportError(f"No file is written in {dtype}. Use {' or '.join(_DTYPES)}.")
    is_quantized = dtype == "int8"
    if is_quantized and format == "pt2":
        raise ExportError('A network in int8 cannot be written as "pt2". Use the format onnx or openvino.')
    if is_quantized and finer > 1:
        raise ExportError("A network in int8 is written with maps on its own grid. Leave out finer.")
    # A network that came from an ONNX file runs there: torch cannot write it, but the file's own graph can be extended.
    make_onnx = getattr(original_network(classifier.network), "make_class_map_model", None)
    if is_quantized and make_onnx is not None:
        raise ExportError("A network from an ONNX file is written in the precision of that file. Leave out dtype.")
    if is_quantized:
        return partial(_write_quantized, classifier, format, CalibrationInputs(classifier, calibration), on_measured)
    if make_onnx is None:
        graph = class_map_graph(classifier) if finer == 1 else finer_graph(classifier, finer)
        inputs = classifier.noise_input(2, _SEED)
        return partial(_WRITERS[format], graph, inputs)
    if finer > 1:
        raise ExportError("A network from an ONNX file is written with maps on its own grid. Leave out finer.")
    if format == "pt2":
        raise ExportError('A network from an ONNX file cannot be written as "pt2". Use the format onnx or openvino.')
    if not can_export_class_maps(classifier.head):
        raise HeadError(f"The class maps of this head are {classifier.head.verdict}, which one graph cannot compute.")
    model = make_onnx(*classifier.head.affine)
    return partial(_write_extended_onnx if format == "onnx" else _write_openvino_of_onnx, model)


def _write_quantized(
    classifier: Classifier,
    format: str,
    inputs: CalibrationInputs,
    on_measured: OnMeasured,
    file: Path,
    metadata: dict[str, str],
) -> None:
    onnx, source = import_runtime("onnx"), file.with_suffix(".quantized.onnx")
    write_onnx(class_map_graph(classifier, feature_maps=True), classifier.noise_input(2, _SEED), source, {})
    quantize_before_pooling(source, inputs.iterate_calibrating())
    model = drop_outputs(onnx.load(source), ("logits", "maps"))
    onnx.save(model, source)
    run = (run_onnxruntime if format == "onnx" else run_openvino_int8)(source)
    loss = measure_loss(classifier, lambda batch: zip(*run(batch), strict=True), "int8", inputs)
    check_loss(loss, inputs.least_agreement)
    on_measured(loss)
    source.unlink()
    write = _write_extended_onnx if format == "onnx" else _write_openvino_of_onnx
    write(model, file, metadata | {"dtype": "int8", "difference_from_float32": loss.to_json()})


def _write_extended_onnx(model: Any, file: Path, metadata: dict[str, str]) -> None:
    onnx = import_runtime("onnx")
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, file)


def _write_openvino_of_onnx(model: Any, file: Path, metadata: dict[str, str]) -> None:
    source = file.with_suffix(".onnx")
    _write_extended_onnx(model, source, metadata)
    _save_openvino(import_runtime("openvino").convert_model(str(source)), file, metadata)
    source.unlink()


def _write_openvino(graph: nn.Module, inputs: Tensor, file: Path, metadata: dict[str, str]) -> None:
    _save_openvino(
        import_runtime("openvino").convert_model(trace_program(graph, inputs, functional=True)), file, metadata
    )


def _save_openvino(model: Any, file: Path, metadata: dict[str, str]) -> None:
    openvino = import_runtime("openvino")
    for output, name in zip(model.outputs, ("logits", "maps"), strict=True):
        output.get_tensor().set_names({name})
    for name, value in metadata.items():
        model.set_rt_info(value, ["inspector", name])
    # OpenVINO raises RuntimeError if the disk is full.
    problem = f"Cannot write {file.name}: {{reason}}. Nothing was left there; is there room on the disk?"
    with translate_errors(ExportError, problem):
        # Weights in half precision would change the logits.
        openvino.save_model(model, str(file), compress_to_fp16=False)


def _write_pt2(graph: nn.Module, inputs: Tensor, file: Path, metadata: dict[str, str]) -> None:
    with one_trace_at_a_time, warnings.catch_warnings(action="ignore"):
        # Into memory first: if the disk is full, the writer of torch ends the whole process.
        content = io.BytesIO()
        torch.export.save(
            trace_program(graph, inputs, functional=True), content, extra_files={_METADATA: json.dumps(metadata)}
        )
    file.write_bytes(content.getbuffer())


def _read_pt2(file: Path) -> Run:
    with one_trace_at_a_time, warnings.catch_warnings(action="ignore"):
        program = torch.export.load(file).module()

    def run(inputs: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return list(program(inputs))

    return run


_WRITERS = {"onnx": write_onnx, "openvino": _write_openvino, "pt2": _write_pt2}
_READERS = {"onnx": run_onnxruntime, "openvino": run_openvino, "pt2": _read_pt2}


def _verify(classifier: Classifier, run: Run, finer: int) -> None:
    """Raise ExportError if the logits or class maps of the file differ from the network's."""
    for images in (1, 3):
        inputs = classifier.noise_input(images, _SEED)
        expected = class_maps_of_batch(classifier, inputs, finer=finer)
        values = [one.values if one.finer is None else one.finer.values for one in expected]
        pairs = {"logits": [one.logits for one in expected], "class maps": values}
        for (what, exact), written in zip(pairs.items(), run(inputs), strict=True):
            error, allowed = compare_outputs(written, torch.stack(exact), _TOLERANCE)
            if not error <= allowed:
                raise ExportError(
                    f"Nothing was written: the file's {what} differ from the network's by {error:.2g} for {images} "
                    f"image{'s' * (images > 1)}; at most {allowed:.2g} is allowed."
                )


def _verify_sums(classifier: Classifier, run: Run) -> None:
    """Raise ExportError if the class maps of the file do not sum to its own logits."""
    bias = classifier.head.affine[1]
    for images in (1, 3):
        logits, maps = run(classifier.noise_input(images, _SEED))
        parts = maps.double().flatten(2)
        sums = parts.sum(2) if bias is None else parts.sum(2) + bias.double()
        error, allowed = float((sums - logits).abs().max()), _SUM_TOLERANCE * float(parts.abs().sum(2).max())
        if not error <= allowed:
            raise ExportError(
                f"Nothing was written: the file's class maps sum to its logits with a residual of {error:.2g}; at most "
                f"{allowed:.2g} is allowed."
            )
