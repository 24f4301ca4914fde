"""Build a network from a name: one of ours, torchvision:NAME, timm:NAME, or the user's package.module:factory.

torchvision and timm are imported only where they are needed: both take seconds, and our own networks use neither.
"""

import importlib
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, cast, get_args

from torch import nn

from inspector.errors import NetworkError, require, translate_errors
from inspector.images.preprocessing import Interpolation, Preprocessing, as_pair
from inspector.networks.builtin import FACTORIES
from inspector.networks.transfer import HeadKind, add_head

# Arguments of torchvision and timm that download or read weights: `build` does neither.
_WEIGHTS = {"weights", "pretrained", "pretrained_cfg", "checkpoint_path"}

# GoogLeNet and Inception: their initialization takes minutes, and their auxiliary heads are for training only.
_WITHOUT_EXTRAS = {"init_weights": False, "aux_logits": False}


def build(
    name: str, classes: int | None = None, arguments: Mapping[str, Any] | None = None, trust: bool = False
) -> nn.Module:
    """Build the network of a name with random weights, in evaluation mode.

    Args:
        name: one of our architectures, "torchvision:NAME", "timm:NAME" or "package.module:factory".
        classes: number of logits; None keeps the default of the architecture.
        arguments: further keyword arguments of the architecture.
        trust: allow package.module:factory, whose code is run.

    Raises:
        NetworkError: unknown name, arguments that do not fit, or code that needs ``trust``.
    """
    options = dict(arguments or {})
    library, _, wanted = name.partition(":") if isinstance(name, str) else ("", "", "")
    if library in ("torchvision", "timm") and wanted:
        network = _build_from_library(name, classes, options)
    elif wanted:
        network = _build_from_path(name, classes, options, trust)
    elif name in OURS:
        network = _call_factory(name, OURS[name], classes, options)
    else:
        known = f"{', '.join(OURS)}, torchvision:NAME, timm:NAME and package.module:factory"
        raise NetworkError(f"No architecture {name!r}. There are {known}.")
    return network.eval()


def transfer(
    backbone: str,
    head: HeadKind,
    classes: int,
    size: Sequence[int] = (224, 224),
    options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Build another architecture with a new head, see `transfer.add_head`.

    Args:
        backbone: name of the architecture, as for `build`.
        head: kind of head.
        classes: number of logits.
        size: (height, width) of the input.
        options: keyword arguments of the backbone.
    """
    # Their trained weights need it, and a state dict does not say so.
    inception = backbone.lower() in ("torchvision:googlenet", "torchvision:inception_v3")
    defaults = {"transform_input": True} if inception else {}
    return add_head(build(backbone, None, defaults | dict(options or {})), head, classes, size)


# What a model.json or a recipe may name without a library before it.
OURS: dict[str, Callable[..., nn.Module]] = FACTORIES | {"transfer": transfer}


def find_preprocessing(name: str) -> Preprocessing | None:
    """Find the preprocessing of torchvision:NAME or timm:NAME; None if it is unknown or cannot be expressed here.

    Raises:
        NetworkError: the library does not know the name.
    """
    library, _, wanted = name.partition(":")
    if library == "torchvision":
        models, wanted = _find_in_torchvision(wanted)
        return _read_torchvision_transforms(models.get_model_weights(wanted)["DEFAULT"].transforms())
    if library == "timm":
        timm = _find_in_timm(wanted)
        config = timm.get_pretrained_cfg(wanted)
        return _read_timm_config(timm.data.resolve_data_config(pretrained_cfg=config.to_dict())) if config else None
    return None


def build_pretrained(name: str) -> tuple[nn.Module, Preprocessing, tuple[str, ...] | None]:
    """Build torchvision:NAME or timm:NAME with its best weights, which are downloaded if they are not cached.

    Returns:
        The network in evaluation mode, its preprocessing, and its class names; None if the library has none.

    Raises:
        NetworkError: unknown name, failed download, or a preprocessing that cannot be expressed here.
    """
    library, _, wanted = name.partition(":")
    # huggingface's errors have no base in common with Python's.
    translated = translate_errors(NetworkError, f"The weights of {name} could not be fetched: {{reason}}.")
    if library == "torchvision":
        models, wanted = _find_in_torchvision(wanted)
        weights = models.get_model_weights(wanted)["DEFAULT"]
        with translated:
            network = models.get_model(wanted, weights=weights)
        return network.eval(), _read_torchvision_transforms(weights.transforms()), tuple(weights.meta["categories"])
    if library != "timm":
        raise NetworkError(f"There are no pretrained weights of {name!r}. Use torchvision:NAME or timm:NAME.")
    timm = _find_in_timm(wanted)
    with translated:
        network = timm.create_model(wanted, pretrained=True)
    if not network.num_classes:
        raise NetworkError(f"{name} was trained without classes: it has no logits to split.")
    preprocessing = _read_timm_config(timm.data.resolve_model_data_config(network))
    if preprocessing is None:
        unknown = "squeezing and cropping, borders, or another interpolation"
        raise NetworkError(f"{name} needs a preprocessing of photos that is not available here: {unknown}.")
    # timm recognizes ImageNet and its supersets by the number of classes.
    subset = timm.data.infer_imagenet_subset(network)
    names = tuple(timm.data.ImageNetInfo(subset).label_descriptions()) if subset else None
    return network.eval(), preprocessing, names


def _build_from_library(name: str, classes: int | None, arguments: dict[str, Any]) -> nn.Module:
    library, _, wanted = name.partition(":")
    if forbidden := sorted(_WEIGHTS & arguments.keys()):
        raise NetworkError(f"The arguments of {name} must not name weights: leave out {', '.join(forbidden)}.")
    if classes is not None:
        arguments = {"num_classes": classes} | arguments
    if library == "timm":
        construct = partial(_find_in_timm(wanted).create_model, wanted, pretrained=False)
    else:
        models, wanted = _find_in_torchvision(wanted)
        extras = _WITHOUT_EXTRAS if wanted in ("googlenet", "inception_v3") else {}
        construct = partial(models.get_model, wanted, weights=None, **extras)
    with _translate_building(name):
        return cast(nn.Module, construct(**arguments))


def _build_from_path(name: str, classes: int | None, arguments: dict[str, Any], trust: bool) -> nn.Module:
    module, _, attribute = name.partition(":")
    if not trust:
        hint = "If you trust it, say so with --trust (trust=True in Python)"
        raise NetworkError(f"{name!r} would run the code of the module {module}. {hint}.")
    folder = str(Path.cwd())
    sys.path.insert(0, folder)  # as with python -m
    try:
        # Anything may be raised, because the module's own code runs.
        with translate_errors(NetworkError, f"The module {module} cannot be imported ({{type}}: {{reason}})."):
            imported = importlib.import_module(module)
        if not callable(found := getattr(imported, attribute, None)):
            hint = _list_nearest(attribute, vars(imported))
            raise NetworkError(f"The module {module} has no function or class {attribute!r}.{hint}")
        # A network is callable too, but takes an image.
        network = found if isinstance(found, nn.Module) else _call_factory(name, found, classes, arguments)
    finally:
        sys.path.remove(folder)
    if not isinstance(network, nn.Module):
        raise NetworkError(f"{name} must return a torch.nn.Module; it returned a {type(network).__name__}.")
    return network


def _call_factory(name: str, factory: Callable[..., Any], classes: int | None, arguments: dict[str, Any]) -> Any:
    """Call the factory, with the number of classes if it has a parameter for it."""
    with _translate_building(name):
        signature = inspect.signature(factory)
        for parameter in ("classes", "num_classes"):
            if classes is not None and parameter in signature.parameters:
                arguments = {parameter: classes} | arguments
        with translate_errors(NetworkError, f"The arguments of {name} do not fit: {{reason}}."):
            signature.bind_partial(**arguments)  # an unknown argument is named before a missing one
            signature.bind(**arguments)
        return factory(**arguments)


def _translate_building(name: str) -> AbstractContextManager[None]:
    # Anything may be raised: the code is not ours, and so are the arguments.
    return translate_errors(NetworkError, f"{name} cannot be built with these arguments ({{type}}: {{reason}}).")


def _find_in_torchvision(wanted: str) -> tuple[Any, str]:
    """Return torchvision.models and the name in lower case, if it has a classifier of this name."""
    from torchvision import models

    _check_name("torchvision", wanted.lower(), models.list_models(module=models))
    return models, wanted.lower()


def _find_in_timm(wanted: str) -> Any:
    """Return timm, if it has a classifier of this name."""
    timm = require("timm", extra="timm", purpose="A network of timm", error=NetworkError)
    # A name may end with the tag of its weights: resnet18.a1_in1k. timm also knows names that it no longer lists.
    base, _, tag = wanted.partition(".")
    if ":" in wanted or not timm.is_model(base):
        _check_name("timm", base, timm.list_models())
    if tag:
        _check_name("timm", wanted, timm.list_pretrained(f"{base}.*"))
    return timm


def _check_name(library: str, wanted: str, known: list[str]) -> None:
    if wanted not in known:
        raise NetworkError(f"{library} has no classifier {wanted!r}.{_list_nearest(wanted, known)}")


def _list_nearest(wanted: str, known: Iterable[str]) -> str:
    nearest = get_close_matches(wanted, known, n=3)
    return f" Nearest names: {', '.join(nearest)}." if nearest else ""


def _read_torchvision_transforms(recipe: Any) -> Preprocessing:
    size, resize = as_pair(recipe.crop_size[0]), as_pair(recipe.resize_size[0])
    return Preprocessing(size, tuple(recipe.mean), tuple(recipe.std), resize, recipe.interpolation.value)


def _read_timm_config(recipe: Mapping[str, Any]) -> Preprocessing | None:
    """Return None for what Preprocessing cannot express: borders, squash and crop, other interpolations."""
    size = as_pair(recipe["input_size"][1:])
    squashed = recipe["crop_mode"] == "squash" and recipe["crop_pct"] == 1
    if recipe["interpolation"] not in get_args(Interpolation) or not (squashed or recipe["crop_mode"] == "center"):
        return None
    resize = None if squashed else as_pair([int(side / recipe["crop_pct"]) for side in size])
    return Preprocessing(size, tuple(recipe["mean"]), tuple(recipe["std"]), resize, recipe["interpolation"])
