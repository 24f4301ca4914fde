"""Build a network from a name: one of ours, torchvision:NAME, timm:NAME, or package.module:factory of the user's own.

torchvision and timm are imported where they are needed: both take seconds, and our own networks do without.
"""

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

from torch import nn

from inspector.errors import NetworkError
from inspector.images.preprocessing import Interpolation, Preprocessing, as_pair
from inspector.networks.builtin import FACTORIES
from inspector.networks.checkpoint import summarize_error
from inspector.networks.transfer import HeadKind, add_head

# Arguments of torchvision and timm that fetch or read weights: `build` does neither.
_WEIGHTS = {"weights", "pretrained", "pretrained_cfg", "checkpoint_path"}

# Their own initialisation takes minutes, and their side heads only train.
_WITHOUT_EXTRAS = {"init_weights": False, "aux_logits": False}


def build(
    name: str, classes: int | None = None, arguments: Mapping[str, Any] | None = None, trust: bool = False
) -> nn.Module:
    """The network of a name with random weights, in evaluation mode; `classes` None leaves its own number.

    package.module:factory is imported and called, which runs its code: only with `trust`.
    """
    given = dict(arguments or {})
    library, _, wanted = name.partition(":") if isinstance(name, str) else ("", "", "")
    if library in ("torchvision", "timm") and wanted:
        network = _build_from_library(name, classes, given)
    elif wanted:
        network = _build_from_path(name, classes, given, trust)
    else:
        if name not in OURS:
            known = f"{', '.join(OURS)}, torchvision:NAME, timm:NAME and package.module:factory"
            raise NetworkError(f"No architecture {name!r}. There are {known}.")
        network = _called(name, OURS[name], classes, given)
    return network.eval()


def transfer(
    backbone: str,
    head: HeadKind,
    classes: int,
    size: Sequence[int] = (224, 224),
    options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Another architecture, built with its own `options`, under a new head: see transfer.with_head."""
    # Trained weights of these two want it, and a state dict does not tell.
    fed = {"transform_input": True} if backbone.lower() in ("torchvision:googlenet", "torchvision:inception_v3") else {}
    return add_head(build(backbone, None, fed | dict(options or {})), head, classes, size)


# What a model.json or a recipe may name without a library before it.
OURS: dict[str, Callable[..., nn.Module]] = FACTORIES | {"transfer": transfer}


def find_preprocessing(name: str) -> Preprocessing | None:
    """How torchvision:NAME or timm:NAME wants its photos; None where that is not known or we cannot do it."""
    library, _, wanted = name.partition(":")
    if library == "torchvision":
        return _recipe_of_torchvision(_torchvision_weights(wanted).transforms())
    if library == "timm":
        timm = _timm()
        _check_timm_name(timm, wanted)
        about = timm.get_pretrained_cfg(wanted)
        return _recipe_of_timm(timm.data.resolve_data_config(pretrained_cfg=about.to_dict())) if about else None
    return None


def build_pretrained(name: str) -> tuple[nn.Module, Preprocessing, tuple[str, ...] | None]:
    """torchvision:NAME or timm:NAME with its best weights, which are fetched when they are not there.

    The class names are None where the library does not tell them.
    """
    library, _, wanted = name.partition(":")
    if library == "torchvision":
        return _pretrained_of_torchvision(name, wanted.lower())
    if library == "timm":
        return _pretrained_of_timm(name, wanted)
    raise NetworkError(f"No weights are known for {name!r}; torchvision:NAME and timm:NAME bring theirs.")


def _build_from_library(name: str, classes: int | None, arguments: dict[str, Any]) -> nn.Module:
    library, _, wanted = name.partition(":")
    if fetching := sorted(_WEIGHTS & arguments.keys()):
        raise NetworkError(f"The arguments of {name} must not name weights: leave out {', '.join(fetching)}.")
    if classes is not None:
        arguments = {"num_classes": classes} | arguments
    if library == "timm":
        timm = _timm()
        _check_timm_name(timm, wanted)
        make = partial(timm.create_model, wanted, pretrained=False)
    else:
        models, wanted = _torchvision(), wanted.lower()
        _check_name("torchvision", wanted, models.list_models(module=models))
        extras = _WITHOUT_EXTRAS if wanted in ("googlenet", "inception_v3") else {}
        make = partial(models.get_model, wanted, weights=None, **extras)
    with _told(name):
        network: nn.Module = make(**arguments)
    return network


def _build_from_path(name: str, classes: int | None, arguments: dict[str, Any], trust: bool) -> nn.Module:
    module, _, attribute = name.partition(":")
    if not trust:
        hint = "If you trust it, say so with --trust (trust=True in Python)"
        raise NetworkError(f"{name!r} would run the code of the module {module}. {hint}.")
    with _working_folder_first():
        found = _attribute_of(module, attribute)
        # Called, a network would want an image.
        network = found if isinstance(found, nn.Module) else _called(name, found, classes, arguments)
    if not isinstance(network, nn.Module):
        raise NetworkError(f"{name} must return a torch.nn.Module; it returned a {type(network).__name__}.")
    return network


def _attribute_of(module_name: str, attribute: str) -> Callable[..., Any]:
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # the module's own code ran
        reason = f"{type(error).__name__}: {summarize_error(error)}"
        raise NetworkError(f"The module {module_name} cannot be imported ({reason}).") from error
    found: Any = getattr(module, attribute, None)
    if not callable(found):
        nearest = get_close_matches(attribute, vars(module), n=3)
        hint = f" Nearest names: {', '.join(nearest)}." if nearest else ""
        raise NetworkError(f"The module {module_name} has no function or class {attribute!r}.{hint}")
    return found  # type: ignore[no-any-return]


def _called(name: str, factory: Callable[..., Any], classes: int | None, arguments: dict[str, Any]) -> Any:
    """What the factory makes, told the number of classes if it asks for it."""
    with _told(name):
        asked = inspect.signature(factory)
        for parameter in ("classes", "num_classes"):
            if classes is not None and parameter in asked.parameters:
                arguments = {parameter: classes} | arguments
        try:
            asked.bind_partial(**arguments)  # names the argument that is too many, before those that lack
            asked.bind(**arguments)
        except TypeError as error:
            raise NetworkError(f"The arguments of {name} do not fit: {summarize_error(error)}.") from error
        return factory(**arguments)


@contextmanager
def _told(name: str) -> Iterator[None]:
    """Whatever building raises inside becomes a NetworkError: the code is not ours, and arguments may be anything."""
    try:
        yield
    except NetworkError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {summarize_error(error)}"
        raise NetworkError(f"{name} cannot be built with these arguments ({reason}).") from error


@contextmanager
def _working_folder_first() -> Iterator[None]:
    """Modules in the working folder can be imported, as with python -m."""
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _torchvision() -> ModuleType:
    from torchvision import models

    return models


def _timm() -> ModuleType:
    try:
        import timm
    except ImportError as error:
        raise NetworkError("timm is an extra: pip install 'inspector[timm]'.") from error
    return timm


def _check_name(library: str, wanted: str, known: list[str]) -> None:
    if wanted not in known:
        nearest = get_close_matches(wanted, known, n=3)
        hint = f" Nearest names: {', '.join(nearest)}." if nearest else ""
        raise NetworkError(f"{library} has no classifier {wanted!r}.{hint}")


def _check_timm_name(timm: ModuleType, wanted: str) -> None:
    # A name may go on with the tag of its weights: resnet18.a1_in1k. timm also knows names that it no longer lists.
    base, _, tag = wanted.partition(".")
    if ":" in wanted or not timm.is_model(base):
        _check_name("timm", base, timm.list_models())
    if tag:
        _check_name("timm", wanted, timm.list_pretrained(f"{base}.*"))


def _torchvision_weights(wanted: str) -> Any:
    models = _torchvision()
    _check_name("torchvision", wanted.lower(), models.list_models(module=models))
    return models.get_model_weights(wanted.lower())["DEFAULT"]


def _recipe_of_torchvision(recipe: Any) -> Preprocessing:
    return Preprocessing(
        size=as_pair(recipe.crop_size[0]),
        resize=as_pair(recipe.resize_size[0]),
        mean=tuple(recipe.mean),
        std=tuple(recipe.std),
        interpolation=recipe.interpolation.value,
    )


def _recipe_of_timm(recipe: Mapping[str, Any]) -> Preprocessing | None:
    """None for what Preprocessing cannot say: black borders, squeezing and then cropping, other interpolations."""
    size = as_pair(recipe["input_size"][1:])
    squeezed = recipe["crop_mode"] == "squash" and recipe["crop_pct"] == 1
    if recipe["interpolation"] not in get_args(Interpolation) or not (squeezed or recipe["crop_mode"] == "center"):
        return None
    height, width = (int(side / recipe["crop_pct"]) for side in size)
    return Preprocessing(
        size=size,
        resize=None if squeezed else (height, width),
        mean=tuple(recipe["mean"]),
        std=tuple(recipe["std"]),
        interpolation=recipe["interpolation"],
    )


def _pretrained_of_torchvision(name: str, wanted: str) -> tuple[nn.Module, Preprocessing, tuple[str, ...] | None]:
    weights = _torchvision_weights(wanted)
    with _fetched(name):
        network = _torchvision().get_model(wanted, weights=weights)
    return network.eval(), _recipe_of_torchvision(weights.transforms()), tuple(weights.meta["categories"])


def _pretrained_of_timm(name: str, wanted: str) -> tuple[nn.Module, Preprocessing, tuple[str, ...] | None]:
    timm = _timm()
    _check_timm_name(timm, wanted)
    with _fetched(name):
        network = timm.create_model(wanted, pretrained=True)
    if not network.num_classes:
        raise NetworkError(f"{name} was trained without classes: it has no logits to split.")
    preprocessing = _recipe_of_timm(timm.data.resolve_model_data_config(network))
    if preprocessing is None:
        reason = "squeezed and then cropped, framed, or resized in a way of its own"
        raise NetworkError(f"{name} wants its photos {reason}, which is not known here.")
    # timm tells ImageNet and its larger kin by the number of classes.
    subset = timm.data.infer_imagenet_subset(network)
    names = tuple(timm.data.ImageNetInfo(subset).label_descriptions()) if subset else None
    return network.eval(), preprocessing, names


@contextmanager
def _fetched(name: str) -> Iterator[None]:
    """Whatever is raised inside becomes a NetworkError: huggingface's errors have no base in common with Python's."""
    try:
        yield
    except Exception as error:
        raise NetworkError(f"The weights of {name} could not be fetched: {summarize_error(error)}.") from error
