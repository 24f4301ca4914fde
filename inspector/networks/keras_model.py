"""Load a Keras file with Keras's torch backend, so that its pooling is a call of a torch function.

Keras may run code that is in a file. So the configuration in the file is read first. Keras loads the file only if the
configuration names nothing but Keras's own objects, such as layers, activations and initializers.
"""

import inspect
import os
import re
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from inspector.entries import parse_json
from inspector.errors import NetworkError, require, translate_errors
from inspector.images.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from inspector.networks.checkpoint import check_size

MAX_BYTES = 2_000_000_000
_MAX_CONFIG_BYTES = 20_000_000
_LARGEST_SCALE_OF_PIXELS = 0.1  # 1/255 and 1/127.5 are for pixels of 0-255, 2 for pixels of 0-1
_LARGEST_MEAN_OF_SHARES = 2.0  # of pixels of 0-1, also if they are scaled to -1 to 1
_SPARE_BYTES = 1_000_000  # by which a file that is compressed may be smaller than its parameters

_KERAS_MODULES = re.compile(
    r"keras(\.(src\.)?(layers|models|initializers|regularizers|constraints|activations|applications|dtype_policies"
    r"|quantizers|random|ops)(\.\w+)*)?"
)
# These are Keras's own, too, but they run code that is in the file, or open other files.
_REFUSED = {
    "Lambda", "__lambda__", "function", "__typespec__", "TorchModuleWrapper", "FlaxLayer", "JaxLayer", "TFSMLayer",
    "TextVectorization", "StringLookup", "IntegerLookup",
}  # fmt: skip

# Options of old layers with the value that means nothing; and options that every layer takes, though it lists none.
_NEUTRAL = (("groups", 1), ("data_format", "channels_last"), ("implementation", 2), ("fused", True))
_KNOWN_TO_ALL = {"batch_input_shape", "batch_shape", "input_shape", "input_dtype", "dtype", "name", "trainable"}

PreprocessingMode = Literal["tf", "torch", "caffe", "raw"]


class KerasNetwork(nn.Module):
    """A Keras model of any data format as a torch network: RGB images (N, channels, H, W) -> output of the model.

    Attributes:
        channels: channels of the input.
        size: (height, width) of the input; None if the model leaves it open.
        input_range: 255 or 1, the value of a white pixel that the model's own first layers expect; None if they scale
            nothing.
        bgr: whether the model expects the channels in the order blue, green, red.
    """

    def __init__(self, model: Any, channels_first: bool, bgr: bool) -> None:
        super().__init__()
        self.model = model
        self.bgr = bgr
        self.channels_first = channels_first
        _, first, second, third = model.input_shape
        channels, height, width = (first, second, third) if channels_first else (third, first, second)
        self.channels: int = channels or 3
        self.size: tuple[int, int] | None = (height, width) if height and width else None
        self.input_range = _find_input_range(model)
        # Layers that may flatten maps (N, h, w, C). With channels first, only Flatten does: it moves the channels last.
        flattening = {"Flatten"} if channels_first else {"Flatten", "Reshape"}
        self._flattens = any(type(layer).__name__ in flattening for layer in _list_layers(model))

    def forward(self, inputs: Tensor) -> Tensor:
        """Compute the model's output, with its layers in inference mode."""
        images = inputs.flip(1) if self.bgr else inputs
        images = images if self.channels_first else images.permute(0, 2, 3, 1)
        with _ChannelsFirstFlatten() if self._flattens else nullcontext():
            return cast(Tensor, self.model(images, training=False))

    def __deepcopy__(self, memo: dict[int, Any]) -> "KerasNetwork":
        # deepcopy makes Keras serialize the model, so the copy would not share its parameters.
        raise TypeError("A Keras network cannot be copied together with its parameters.")


class _ChannelsFirstFlatten(TorchFunctionMode):
    """Flatten maps (N, h, w, C) with the channels first, then bring the values into the order that Keras expects.

    The code that captures poolings expects (N, C, h, w). Without this mode it would treat the rows as channels.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        source = args[0] if args else None
        reshaping = getattr(func, "__name__", "") == "reshape" and len(args) > 1
        if not reshaping or not isinstance(source, Tensor) or source.ndim != 4:
            return func(*args, **(kwargs or {}))
        _, height, width, channels = source.shape
        values = height * width * channels
        shape = args[1] if isinstance(args[1], Sequence) else args[1:]
        if tuple(shape[1:]) not in ((values,), (-1,)):
            return func(*args, **(kwargs or {}))
        order = torch.arange(values, device=source.device).view(channels, height, width).permute(1, 2, 0).flatten()
        return source.permute(0, 3, 1, 2).flatten(1)[:, order]


def read_keras(path: Path, bgr: bool = False, max_bytes: int = MAX_BYTES) -> KerasNetwork:
    """Read the network in a .keras or .h5 file, without running code of the file.

    Args:
        path: the file.
        bgr: the network expects channels in the order blue, green, red, as VGG and ResNet of keras.applications.
        max_bytes: the file is refused if its size, or its size when unpacked, is larger.

    Raises:
        NetworkError: the file is not a complete Keras model, or the model uses other objects than Keras's own.
    """
    config = _read_config(path, max_bytes)
    _check_config(path, config)
    keras = import_keras(path.name)
    _check_parameters(path, config, keras)
    with _translate_reading(path):
        if path.suffix != ".keras" and _drop_neutral_options(config, keras):
            kind = keras.Sequential if config["class_name"] == "Sequential" else keras.Model
            model = kind.from_config(config["config"])
            model.load_weights(str(path.absolute()))
        else:
            model = keras.saving.load_model(str(path.absolute()), compile=False, safe_mode=True)
    return wrap_keras(model, bgr=bgr)


def wrap_keras(model: Any, channels_first: bool | None = None, bgr: bool = False) -> KerasNetwork:
    """Wrap a Keras model as a torch network.

    Args:
        model: a model on Keras's torch backend, with one image input.
        channels_first: whether its data format is channels first. None: read it from the layers.
        bgr: the network expects channels in the order blue, green, red.

    Raises:
        NetworkError: the input is not one batch of images, or Keras runs on another backend.
    """
    keras = import_keras("a Keras model")
    inputs = getattr(model, "inputs", None) or []
    if len(inputs) != 1 or len(inputs[0].shape) != 4:
        shapes = ", ".join(str(tuple(value.shape)) for value in inputs) or "unknown: call it once, or build it"
        raise NetworkError(f"A Keras model must have one input, a batch of images; its inputs are {shapes}.")
    if channels_first is None:
        formats = [layer.data_format for layer in _list_layers(model) if hasattr(layer, "data_format")]
        channels_first = (formats or [keras.config.image_data_format()])[0] == "channels_first"
    return KerasNetwork(model, channels_first, bgr)


def make_keras_preprocessing(mode: PreprocessingMode, size: tuple[int, int]) -> Preprocessing:
    """Return a preprocessing of keras.applications, for use with `Classifier.wrap` and `load`.

    Args:
        mode: as in Keras's preprocess_input: "tf" scales to -1..1; "torch" uses the mean and std of ImageNet; "caffe"
            subtracts the mean only, for networks with bgr=True. "raw" keeps 0..255, for networks that scale themselves.
        size: (height, width) of the input.
    """
    caffe = (123.68 / 255, 116.779 / 255, 103.939 / 255)
    mean, std = {
        "tf": ((0.5,) * 3, (0.5,) * 3),
        "torch": (IMAGENET_MEAN, IMAGENET_STD),
        "caffe": (caffe, (1 / 255,) * 3),
        "raw": ((0.0,) * 3, (1 / 255,) * 3),
    }[mode]
    return Preprocessing(size, mean, std, resize=None)


def import_keras(source: str) -> Any:
    """Import Keras with its torch backend. The first import in a process fixes the backend.

    Args:
        source: what Keras is needed to read, for the error message.

    Raises:
        NetworkError: Keras is not installed, or was imported with another backend.
    """
    if "keras" not in sys.modules:
        os.environ["KERAS_BACKEND"] = "torch"
    keras = require("keras", extra="keras", purpose=f"Reading {source}", error=NetworkError)
    if keras.config.backend() != "torch":
        problem = f"Keras was imported with its {keras.config.backend()} backend; class maps need torch"
        raise NetworkError(f"{problem}. Set KERAS_BACKEND=torch before Keras is imported.")
    return keras


def _list_layers(model: Any) -> Iterator[Any]:
    """Yield all layers of a model, including the layers of nested models."""
    for layer in getattr(model, "layers", []):
        yield layer
        yield from _list_layers(layer)


def _find_input_range(model: Any) -> int | None:
    """Find the value of a white pixel that layers before the first convolution scale; None if there are none."""
    for layer in _list_layers(model):
        kind = type(layer).__name__
        if kind == "Rescaling":
            return 255 if float(torch.as_tensor(layer.scale).abs().max()) < _LARGEST_SCALE_OF_PIXELS else 1
        if kind in ("Normalization", "BatchNormalization"):
            mean = getattr(layer, "mean" if kind == "Normalization" else "moving_mean", None)
            largest = 0.0 if mean is None else float(torch.as_tensor(getattr(mean, "value", mean)).abs().max())
            if largest > _LARGEST_MEAN_OF_SHARES:
                return 255
            return 1 if kind == "Normalization" and mean is not None else None
        if getattr(layer, "weights", None) and not hasattr(layer, "layers"):
            return None
    return None


def _translate_reading(path: Path) -> AbstractContextManager[None]:
    problem = "is no Keras model, or is broken, cut off or of a version that the installed Keras cannot read ({reason})"
    return translate_errors(NetworkError, f"{path.name} {problem}: save it again with model.save('model.keras').")


def _read_config(path: Path, max_bytes: int) -> Any:
    """Read the configuration in the file, from which Keras builds the model."""
    with translate_errors(NetworkError, f"Cannot read {path}: {{reason}}."):
        check_size(path, path.stat().st_size, max_bytes)
    if path.suffix not in (".keras", ".h5", ".hdf5"):
        raise NetworkError(f"{path.name} must be a .keras or .h5 file: save the model with model.save('model.keras').")
    with _translate_reading(path):
        text = _read_config_in_zip(path, max_bytes) if path.suffix == ".keras" else _read_config_in_hdf5(path)
        if text is None:
            hint = "save the whole model with model.save('model.keras')"
            raise NetworkError(f"{path.name} holds weights only, not the layers they belong to: {hint}.")
        return parse_json(text)


def _read_config_in_zip(path: Path, max_bytes: int) -> bytes | None:
    with zipfile.ZipFile(path) as archive:
        # Check the unpacked size, too: a small archive may unpack to a very large file.
        check_size(path, sum(entry.file_size for entry in archive.infolist()), max_bytes)
        if "config.json" not in archive.namelist():
            return None if "model.weights.h5" in archive.namelist() else b""
        if archive.getinfo("config.json").file_size > _MAX_CONFIG_BYTES:
            raise ValueError("its config.json is too large")
        return archive.read("config.json")


def _read_config_in_hdf5(path: Path) -> str | bytes | None:
    import h5py

    with h5py.File(path, "r") as file:
        return cast(str | bytes | None, file.attrs.get("model_config"))


def _walk_objects(config: Any) -> Iterator[dict[str, Any]]:
    """Yield every object in a JSON value. What an object holds is listed before it is yielded."""
    waiting = [config]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
        elif isinstance(value, dict):
            waiting += value.values()
            yield value


def _check_config(path: Path, config: Any) -> None:
    if isinstance(config, dict):
        # Skip the settings of training: nothing here uses them, and they often name the user's own functions.
        config = config | {"compile_config": None}
    for value in _walk_objects(config):
        if (foreign := _find_foreign(value)) is not None:
            reason = f"asks for {foreign}, which is not one of Keras's own layers and may run any code"
            hint = "Build the model with Keras's own layers, or load it yourself and wrap it"
            raise NetworkError(f"{path.name} {reason}: nothing was run. {hint}.")


def _check_parameters(path: Path, config: Any, keras: Any) -> None:
    """Refuse a model that needs more parameters than the file has bytes, before memory is allocated for them."""
    count = 0
    # Configurations of earlier versions cannot be read so. Keras itself reads them, or says why not.
    with suppress(Exception), keras.device("meta"):
        count = keras.saving.deserialize_keras_object(config).count_params()
    size = path.stat().st_size
    if path.suffix == ".keras":
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
    if count > size + _SPARE_BYTES:
        problem = f"needs {count:,} parameters, but only {size:,} bytes are in it"
        raise NetworkError(f"{path.name} {problem}: it is broken. Save it again with model.save('model.keras').")


def _drop_neutral_options(config: Any, keras: Any) -> bool:
    """Drop options of layers that Keras 3 no longer has, where their value means nothing; return if any was dropped.

    Keras before 3 (TensorFlow up to 2.15) writes such options: groups=1 of DepthwiseConv2D, for instance.
    """
    changed = False
    for value in _walk_objects(config):
        layer, options = getattr(keras.layers, str(value.get("class_name")), None), value.get("config")
        if not isinstance(layer, type) or not isinstance(options, dict):
            continue
        signatures = [inspect.signature(base.__init__) for base in layer.__mro__]  # type: ignore[misc]
        known = {name for signature in signatures for name in signature.parameters}
        for name in set(options) - known - _KNOWN_TO_ALL:
            if options[name] in (None, False) or (name, options[name]) in _NEUTRAL:
                del options[name]
                changed = True
        if layer.__name__ == "BatchNormalization" and isinstance(options.get("axis"), list):
            (options["axis"],) = options["axis"]
            changed = True
    return changed


def _find_foreign(value: dict[str, Any]) -> str | None:
    """Return the name of the object if it is not Keras's own or may run code, otherwise None."""
    name, module, registered = (value.get(key) for key in ("class_name", "module", "registered_name"))
    if name in _REFUSED:
        return str(name)
    if isinstance(module, str) and not _KERAS_MODULES.fullmatch(module):
        return f"{module}.{name}"
    if isinstance(registered, str) and ">" in registered:
        return registered
    return None
