"""Find the architectures that the weights in a file fit, by the names and shapes of the weights alone.

    state dicts of a file -> modules of torchvision and timm whose source has these names, best match first
    -> their architectures, built without memory -> those that the weights fit, as `load_checkpoint` loads them

Nothing in the file is run, and no architecture is chosen: that is for the user, because some architectures have equal
weights and compute different things (`efficientnet_b0` and `tf_efficientnet_b0` of timm).
"""

import importlib.util
import re
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from itertools import islice
from pathlib import Path

from torch import Tensor

from inspector.errors import NetworkError
from inspector.networks.build import build
from inspector.networks.builtin import FACTORIES
from inspector.networks.checkpoint import State
from inspector.networks.fit_state import choose_usual, find_fit
from inspector.networks.load_checkpoint import (
    Architecture,
    BuildStoppedError,
    build_without_memory,
    count_values,
    fit_without_memory,
)
from inspector.networks.state_dict import check_fit, count_classes

SECONDS = 2.0  # of processor time, in which each library is searched
MOST = 4  # architectures that are returned

_MISSING = 5  # weights that may have other names or shapes at first: those of the head and of the first layer
_LIKELY = 0.6  # share of the words in the file that the source of an architecture has to have
_OF_LAYERS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")  # names in layers of torch
_WORD = re.compile(r"[A-Za-z_][A-Za-z_0-9]*")
_IMPORTED = re.compile(r"^from (?:timm\.models)?\.(\w+) import", re.MULTILINE)
_ASSIGNED = re.compile(r"self\.(\w+) *[=:]|[\"'](\w+?)_?[{%]")  # self.layer1 = ...; f"layer{number}"


@dataclass(frozen=True)
class _Module:
    """A module of a library, and the names of its architectures."""

    words: frozenset[str]  # all words of its source and of the sources that it imports, without numbers at their ends
    layers: frozenset[str]  # those that may name a layer of its own
    names: tuple[str, ...]


def guess_architectures(states: Mapping[str, State], seconds: float = SECONDS) -> tuple[str, ...]:
    """Find the architectures that the weights in a file fit: ours and torchvision's, or if there is none, timm's.

    Args:
        states: state dicts by their place in the file, as `read_states` returns them.
        seconds: processor time for each library, without that of its import. What is not reached by then is not found.

    Returns:
        Names for `build`, best match first, at most MOST. The weights of the file can be loaded into each of them,
        with another number of classes or input channels than its own, too.
    """
    if ours := tuple(name for name in FACTORIES if _fits(states, name)):
        return ours
    if not (words := _list_words(states)):
        return ()
    # No two architectures of torchvision have equal weights; many of timm do.
    for list_modules, most in ((_list_torchvision, 1), (_list_timm, MOST)):
        modules = _rank(list_modules(), words)
        end = time.thread_time() + seconds
        if found := tuple(islice(_find_fitting(states, modules, end), most)):
            return found
    return ()


def describe_missing_architecture(path: Path, fitting: Sequence[str]) -> str:
    """Say that a file holds weights and no architecture, and which architectures they fit."""
    problem = f"{path} holds weights and no architecture"
    if not fitting:
        hint = "torchvision:resnet18, timm:resnet18, or package.module:factory of your own"
        return f"{problem}. Name it with --arch (arch=... in Python): {hint}."
    *others, last = fitting
    listed = f"{', '.join(others)} and {last}" if others else last
    return f"{problem}. It fits {listed}; use --arch {fitting[0]} (arch=... in Python)."


def _rank(modules: tuple[_Module, ...], words: frozenset[str]) -> list[_Module]:
    """Return the modules whose source has most of the words, best match first: one that has all, and few others."""

    def score(module: _Module) -> tuple[int, float]:
        return len(words & module.words), len(words & module.layers) / len(words | module.layers)

    likely = [module for module in modules if len(words & module.words) >= _LIKELY * len(words)]
    return sorted(likely, key=score, reverse=True)


def _find_fitting(states: Mapping[str, State], modules: Iterable[_Module], end: float) -> Iterator[str]:
    """Yield the architectures that the weights fit, of one module only, until the time `end` of time.thread_time."""
    for module in modules:
        fits = False
        for name in module.names:
            if time.thread_time() > end:
                return
            if _fits(states, name):
                fits = True
                yield name
        if fits:
            return


def _fits(states: Mapping[str, State], name: str) -> bool:
    """Return whether the weights of a file can be loaded into an architecture. It is built only as far as they fit."""
    classes = count_classes(states[choose_usual(states)])
    left = Counter(tensor.shape for state in states.values() for tensor in state.values())
    missing = 0

    def watch(made: Tensor) -> None:
        nonlocal missing
        left[made.shape] -= 1
        # Not the indices and coordinates that some networks compute and do not store.
        missing += made.is_floating_point() and made.ndim > 1 and made.shape[0] > 1 and left[made.shape] < 0
        if missing > _MISSING:
            raise BuildStoppedError(f"The weights of {name} are not in the file.")

    with suppress(NetworkError):
        network = build_without_memory(partial(build, name, classes), count_values(states), watch)
        expected = network.state_dict()
        fit = find_fit(states, expected)
        # A network that is a part of a deeper one has all of its weights in the file, and the file has many more.
        lacking = [key for key in expected.keys() - fit.state.keys() if not key.endswith("num_batches_tracked")]
        if max(len(lacking), len(fit.state.keys() - expected.keys())) <= _MISSING:
            if count_classes(fit.state) == classes:
                with suppress(NetworkError):
                    check_fit(fit, expected, name)
                    return True
            fit_without_memory(states, Architecture(name), name, Path())
            return True
    return False


def _list_words(states: Mapping[str, State]) -> frozenset[str]:
    """Return the words in the names of the weights, without numbers at their ends and without those of torch."""
    parts = {part for name in states[choose_usual(states)] for part in name.split(".")} - set(_OF_LAYERS)
    return frozenset(_strip_number(part) for part in parts if not part.isdigit())


def _strip_number(word: str) -> str:
    return word.rstrip("0123456789")


@cache
def _list_torchvision() -> tuple[_Module, ...]:
    """Return our architectures, and those of torchvision by module."""
    from torchvision import models

    names: dict[str, list[str]] = {}
    for name in models.list_models(module=models):
        names.setdefault(models.get_model_builder(name).__module__, []).append(f"torchvision:{name}")
    return tuple(_make_module(_read_source(module), "", found) for module, found in names.items())


@cache
def _list_timm() -> tuple[_Module, ...]:
    """Return the architectures of timm by module; none if it is not installed."""
    if importlib.util.find_spec("timm") is None:
        return ()
    import timm

    trained = {name.partition(".")[0] for name in timm.list_models(pretrained=True)}
    modules = []
    for module in timm.list_modules():
        # Architectures with weights are fine-tuned more often than others, and the main ones have the shortest names.
        names = sorted(timm.list_models(module=module), key=lambda name: (name not in trained, len(name), name))
        source = _read_source(f"timm.models.{module}")
        imported = "\n".join(_read_source(f"timm.models.{part}") for part in _IMPORTED.findall(source))
        modules.append(_make_module(source, imported, [f"timm:{name}" for name in names]))
    return tuple(modules)


def _make_module(source: str, imported: str, names: Iterable[str]) -> _Module:
    words = frozenset(map(_strip_number, _WORD.findall(source + imported)))
    layers = frozenset(_strip_number(one or other) for one, other in _ASSIGNED.findall(source))
    return _Module(words, layers, tuple(names))


def _read_source(module: str) -> str:
    """Return the source of an imported module; "" if it has none."""
    file = getattr(sys.modules.get(module), "__file__", None)
    try:
        return Path(file).read_text(encoding="utf-8") if file else ""
    except (OSError, ValueError):
        return ""
