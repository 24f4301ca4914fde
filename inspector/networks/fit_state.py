"""Find, among the state dicts in a file, the weights of a network, and rename them to the network's names.

Trainings wrap networks: in a Lightning module beside its loss, metrics and an average of the weights, in DataParallel,
in a dict of their own. So the weights are searched for by the names and shapes of the network, wherever they lie:

    {"state_dict": {"model.conv1.weight": ..., "model.fc.1.weight": ..., "criterion.weight": ...}}
    -> {"conv1.weight": ..., "fc.weight": ...}     found at "state_dict, model.*", beside it criterion.weight
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from inspector.networks.checkpoint import State

# Entries that only training needs: auxiliary heads of GoogLeNet and Inception, the counter of an averaged model.
_TRAINING_ONLY = ("aux1.", "aux2.", "AuxLogits.", "n_averaged")
# Names of parts that stand beside a network and do not change its logits.
_BESIDE = re.compile(
    r"(.*[._])?\w*(loss|criteri|metric|accuracy|auroc|precision|recall|conf(usion)?_?mat|teacher|momentum|averag|shadow"
    r"|discriminator|perceptual|lpips|augment|optim)\w*([._].*)?|(.*[._])?(acc|auc|f1|ema|swa)([._].*)?",
    re.IGNORECASE,
)
_OF_LAYERS = ("weight", "bias", "running_mean", "running_var")  # names of vectors that layers have
# The usual keys of weights, and of their moving averages, in the order in which they are preferred.
_USUAL = ("state_dict", "model_state_dict", "model", "net", "network", "weights")
_AVERAGE = re.compile(r"(^|[._])(ema|n?averaged?|avg|swa|teacher|shadow|momentum)([._]|$)", re.IGNORECASE)
# torchvision's DenseNet named its layers norm.1 before version 0.3, and norm1 since.
_OLD_DENSENET = re.compile(r"(.*denselayer\d+\.(?:norm|relu|conv))\.((?:[12])\.\w+)")


@dataclass(frozen=True)
class Fit:
    """The weights of a network, as far as they were found."""

    state: State  # under the network's own names where they were recognized
    place: str  # where in the file they lie; "" if they are all that the file holds
    ignored: tuple[str, ...] = ()  # names beside them that cannot change the logits
    copies: tuple[str, ...] = ()  # places of further weights that fit as well


@dataclass(frozen=True)
class _Candidate:
    place: str
    prefix: str
    matches: int  # entries of the network that are there with the right shape

    def describe(self) -> str:
        parts = ([self.place] if self.place else []) + ([f"{self.prefix}*"] if self.prefix else [])
        return ", ".join(parts)

    def is_average(self) -> bool:
        return bool(_AVERAGE.search(self.place) or _AVERAGE.search(self.prefix))


def find_fit(states: Mapping[str, State], expected: Mapping[str, Tensor]) -> Fit:
    """Find the weights that fit a network best: the state dict, and the prefix of the names in it.

    Weights are preferred to their moving average, and the first of several that fit equally.

    Args:
        states: state dicts by their place in the file, as `read_states` returns them; not empty.
        expected: the network's own state dict; only names and shapes matter.

    Returns:
        The best fit. Whether it is complete is for `load_weights` to say.
    """
    states = {place: _rename_old_layers(state, expected) for place, state in states.items()}
    candidates = [
        _Candidate(place, prefix, _count_matches(state, prefix, expected))
        for place, state in states.items()
        for prefix in _list_prefixes(state, expected)
    ]
    best = max(candidates, key=lambda one: (one.matches, not one.is_average()), default=None)
    if best is None or not best.matches:
        place = choose_usual(states)
        return Fit(_drop_training_parts(states[place], expected), place)
    state = states[best.place]
    own = {name.removeprefix(best.prefix): one for name, one in state.items() if name.startswith(best.prefix)}
    own = _rename_head(_drop_training_parts(own, expected), expected)
    beside = {name: one for name, one in state.items() if not name.startswith(best.prefix)}
    copies = [one for one in candidates if one is not best and one.matches == best.matches]
    in_copies = tuple(one.prefix for one in candidates if one.place == best.place and 2 * one.matches > best.matches)
    tops = {name.partition(".")[0] for name in expected}
    foreign = {name: own.pop(name) for name in list(own) if name not in expected and name.partition(".")[0] not in tops}
    ignored = [name for name, one in (beside | foreign).items() if _may_be_ignored(name, one, best.prefix, in_copies)]
    kept = {name: one for name, one in (beside | foreign).items() if name not in ignored}
    place = best.describe() if beside or len(states) > 1 or best.place else ""
    return Fit(own | kept, place, tuple(ignored), tuple(one.describe() for one in copies))


def choose_usual(states: Mapping[str, State]) -> str:
    """Return the place of the weights by the usual keys alone, for when nothing is known of the network."""

    def rank(place: str) -> tuple[bool, int, int]:
        last = place.rpartition(".")[2]
        known = _USUAL.index(last) if last in _USUAL else len(_USUAL)
        return bool(_AVERAGE.search(place)), known if place else -1, -len(states[place])

    return min(states, key=rank)


def _list_prefixes(state: State, expected: Mapping[str, Tensor]) -> Sequence[str]:
    """Return the prefixes after which names of the network follow, the most frequent first."""
    counts: Counter[str] = Counter()
    for name in state:
        parts = name.split(".")
        for cut in range(len(parts)):
            if ".".join(parts[cut:]) in expected:
                counts[".".join(parts[:cut]) + "." * (cut > 0)] += 1
    return [prefix for prefix, _ in counts.most_common(8)]


def _count_matches(state: State, prefix: str, expected: Mapping[str, Tensor]) -> int:
    return sum(
        prefix + name in state and state[prefix + name].shape == tensor.shape for name, tensor in expected.items()
    )


def _may_be_ignored(name: str, tensor: Tensor, prefix: str, copies: Sequence[str]) -> bool:
    """Return whether a tensor beside the network's cannot belong to a layer that changes the logits."""
    is_copy = any(name.startswith(other) for other in copies if other and other != prefix)
    is_vector = bool(prefix) and tensor.ndim < 2 and name.rpartition(".")[2] not in _OF_LAYERS
    return is_vector or is_copy or bool(_BESIDE.fullmatch(name))


def _rename_old_layers(state: State, expected: Mapping[str, Tensor]) -> State:
    if not any(".denselayer1.norm1." in name for name in expected):
        return state
    return {_OLD_DENSENET.sub(r"\1\2", name): tensor for name, tensor in state.items()}


def _rename_head(state: State, expected: Mapping[str, Tensor]) -> State:
    """Rename the only linear layer of a head, `fc.1` of Sequential(Dropout, Linear), to the network's `fc`.

    Only if this layer is all that the heads do not share: layers without weights before it, such as dropout, do not
    change what an affine head is in evaluation.
    """
    missing = [name for name in expected if name not in state]
    added = [name for name in state if name not in expected]
    if {name.rpartition(".")[2] for name in missing} - {"weight", "bias"} or len(missing) != len(added) or not missing:
        return state
    wanted, got = ({name.rpartition(".")[0] for name in names} for names in (missing, added))
    if len(wanted) != 1 or len(got) != 1 or _strip_numbers(*wanted) != _strip_numbers(*got):
        return state
    (old,), (new,) = got, wanted
    if state.get(f"{old}.weight") is None or state[f"{old}.weight"].ndim != 2:
        return state
    return {(new + name.removeprefix(old) if name in added else name): tensor for name, tensor in state.items()}


def _strip_numbers(name: str) -> str:
    return re.sub(r"(\.\d+)+$", "", name)


def _drop_training_parts(state: State, expected: Mapping[str, Tensor]) -> State:
    dropped = tuple(part for part in _TRAINING_ONLY if not any(name.startswith(part) for name in expected))
    return {name: tensor for name, tensor in state.items() if not name.startswith(dropped)}
