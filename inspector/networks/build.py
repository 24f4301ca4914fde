"""Build a network from a name: one of ours, torchvision:NAME, timm:NAME, or the user's package.module:factory.

torchvision and timm each take seconds to import, and our own networks do not need them. So they are imported inside the
functions that use them, not at the top of this module.
"""

import importlib.util
import inspect
import re
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
from inspector.networks.catalog import LIBRARIES, Suggestion, simplify_name
from inspector.networks.transfer import HeadKind, add_head

# Arguments of torchvision and timm that load weights. `build` refuses them, because its networks have random weights.
_WEIGHTS = {"weights", "pretrained", "pretrained_cfg", "checkpoint_path"}

# Arguments for GoogLeNet and Inception: initialization would take minutes; auxiliary heads only serve training.
_WITHOUT_EXTRAS = {"init_weights": False, "aux_logits": False}


def build(
    name: str, classes: int | None = None, arguments: Mapping[str, Any] | None = None, trust: bool = False
) -> nn.Module:
    """Build the network with a given name, with random weights, in evaluation mode.

    Args:
        name: one of our architectures, "torchvision:NAME", "timm:NAME" or "package.module:factory".
        classes: number of logits; None keeps the default of the architecture.
        arguments: further keyword arguments of the architecture.
        trust: allow package.module:factory, which runs the code of that module.

    Raises:
        NetworkError: the name is unknown, the arguments do not fit, or the name needs ``trust``.
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


def runs_users_code(name: str) -> bool:
    """Return whether a name of an architecture means a function of the user: package.module:factory."""
    return ":" in name and not name.startswith(LIBRARIES)


def transfer(
    backbone: str,
    head: HeadKind,
    classes: int,
    size: Sequence[int] = (224, 224),
    options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Build an architecture and replace its head by a new one, as `transfer.add_head` does.

    Args:
        backbone: name of the architecture, as for `build`.
        head: kind of head: "average", "max" or "connected".
        classes: number of logits.
        size: (height, width) of the input.
        options: keyword arguments of the backbone.
    """
    # These two were trained with transform_input=True, which a state dict does not record.
    inception = backbone.lower() in ("torchvision:googlenet", "torchvision:inception_v3")
    defaults = {"transform_input": True} if inception else {}
    return add_head(build(backbone, None, defaults | dict(options or {})), head, classes, size)


# Architectures that a model.json or a recipe names without a library: no "torchvision:" or "timm:" before the name.
OURS: dict[str, Callable[..., nn.Module]] = FACTORIES | {"transfer": transfer}


def find_preprocessing(name: str) -> Preprocessing | None:
    """Find the preprocessing of torchvision:NAME or timm:NAME.

    Returns:
        The preprocessing; None for other names, and if the library has none that Preprocessing can express.

    Raises:
        NetworkError: the library does not know the name.
    """
    library, _, wanted = name.partition(":")
    if library == "torchvision":
        models, wanted = find_in_torchvision(wanted)
        return _read_torchvision_transforms(models.get_model_weights(wanted)["DEFAULT"].transforms())
    if library == "timm":
        timm = find_in_timm(wanted)
        config = timm.get_pretrained_cfg(wanted)
        return _read_timm_config(timm.data.resolve_data_config(pretrained_cfg=config.to_dict())) if config else None
    return None


def build_pretrained(name: str) -> tuple[nn.Module, Preprocessing, tuple[str, ...] | None]:
    """Build torchvision:NAME or timm:NAME with its best weights, which are downloaded if they are not cached.

    Returns:
        The network in evaluation mode, its preprocessing, and its class names (None if the library has no names).

    Raises:
        NetworkError: the name is unknown, the download failed, or Preprocessing cannot express the preprocessing.
    """
    library, _, wanted = name.partition(":")
    # Catch every exception: errors of huggingface's downloads share no base class with Python's.
    translated = translate_errors(NetworkError, f"The weights of {name} could not be fetched: {{reason}}.")
    if library == "torchvision":
        models, wanted = find_in_torchvision(wanted)
        weights = models.get_model_weights(wanted)["DEFAULT"]
        with translated:
            network = models.get_model(wanted, weights=weights)
        return network.eval(), _read_torchvision_transforms(weights.transforms()), tuple(weights.meta["categories"])
    if library != "timm":
        raise NetworkError(f"There are no pretrained weights of {name!r}. Use torchvision:NAME or timm:NAME.")
    timm = find_in_timm(wanted)
    with translated:
        network = timm.create_model(wanted, pretrained=True)
    if not network.num_classes:
        raise NetworkError(f"{name} was trained without classes: it has no logits to split.")
    preprocessing = _read_timm_config(timm.data.resolve_model_data_config(network))
    if preprocessing is None:
        unknown = "squeezing and cropping, borders, or another interpolation"
        raise NetworkError(f"{name} needs a preprocessing of photos that is not available here: {unknown}.")
    # timm has class names for ImageNet and its supersets; it recognizes them by the number of classes.
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
        construct = partial(find_in_timm(wanted).create_model, wanted, pretrained=False)
    else:
        models, wanted = find_in_torchvision(wanted)
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
    sys.path.insert(0, folder)  # so that modules in the working folder can be imported, as with python -m
    try:
        # Translate every exception: importing the module runs its own code.
        with translate_errors(NetworkError, f"The module {module} cannot be imported ({{type}}: {{reason}})."):
            imported = importlib.import_module(module)
        if not callable(found := getattr(imported, attribute, None)):
            hint = _list_nearest(attribute, vars(imported))
            raise NetworkError(f"The module {module} has no function or class {attribute!r}.{hint}")
        # A network must not be called as a factory: it is callable too, but takes images.
        network = found if isinstance(found, nn.Module) else _call_factory(name, found, classes, arguments)
    finally:
        sys.path.remove(folder)
    if not isinstance(network, nn.Module):
        raise NetworkError(f"{name} must return a torch.nn.Module; it returned a {type(network).__name__}.")
    return network


def _call_factory(name: str, factory: Callable[..., Any], classes: int | None, arguments: dict[str, Any]) -> Any:
    """Call the factory. It gets the number of classes if it has a parameter `classes` or `num_classes`."""
    with _translate_building(name):
        signature = inspect.signature(factory)
        for parameter in ("classes", "num_classes"):
            if classes is not None and parameter in signature.parameters:
                arguments = {parameter: classes} | arguments
        with translate_errors(NetworkError, f"The arguments of {name} do not fit: {{reason}}."):
            signature.bind_partial(**arguments)  # report an unknown argument before a missing one
            signature.bind(**arguments)
        return factory(**arguments)


def _translate_building(name: str) -> AbstractContextManager[None]:
    # Translate every exception: neither the code nor the arguments are ours.
    return translate_errors(NetworkError, f"{name} cannot be built with these arguments ({{type}}: {{reason}}).")


def find_in_torchvision(wanted: str) -> tuple[Any, str]:
    """Return torchvision.models and the name in lower case.

    Raises:
        NetworkError: torchvision has no classifier of this name.
    """
    from torchvision import models

    _check_name("torchvision", wanted.lower(), models.list_models(module=models))
    return models, wanted.lower()


def find_in_timm(wanted: str) -> Any:
    """Return the module timm.

    Raises:
        NetworkError: timm is not installed, or has no classifier of this name.
    """
    timm = require("timm", extra="timm", purpose="A network of timm", error=NetworkError)
    # A name may end with the tag of its weights, as in resnet18.a1_in1k. is_model also knows names that are not listed.
    base, _, tag = wanted.partition(".")
    if ":" in wanted or not timm.is_model(base):
        _check_name("timm", base, timm.list_models())
    if tag:
        _check_name("timm", wanted, timm.list_pretrained(f"{base}.*"))
    return timm


def suggest_library_names(name: str) -> Suggestion:
    """Find the networks of torchvision and timm that a name without its library means, such as "ResNet-50"."""
    from torchvision import models

    wanted = simplify_name(re.sub(r"^(torchvision(\.models\.|[/:])|((hf[_-]hub:)?timm)[/.:])", "", name))
    known = {simplify_name(one): f"torchvision:{one}" for one in models.list_models(module=models)}
    same = [known[wanted]] if wanted in known else []
    if importlib.util.find_spec("timm") is not None:
        import timm

        listed = timm.list_models() + timm.list_pretrained()
        same += [f"timm:{one}" for one in listed if simplify_name(one) == wanted]
    return Suggestion(tuple(same), tuple(known[key] for key in get_close_matches(wanted, known, n=2, cutoff=0.8)))


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
    """Convert timm's settings; None for borders, squash with crop, and interpolations that Preprocessing lacks."""
    size = as_pair(recipe["input_size"][1:])
    squashed = recipe["crop_mode"] == "squash" and recipe["crop_pct"] == 1
    if recipe["interpolation"] not in get_args(Interpolation) or not (squashed or recipe["crop_mode"] == "center"):
        return None
    resize = None if squashed else as_pair([int(side / recipe["crop_pct"]) for side in size])
    return Preprocessing(size, tuple(recipe["mean"]), tuple(recipe["std"]), resize, recipe["interpolation"])
