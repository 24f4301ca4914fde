"""Find out, without running a pickle, which classes and functions it would call, and what may stand in their place.

Checkpoints hold more than tensors: numpy scalars, paths, dates, settings of other libraries. Only tensors are wanted,
so a class that is not needed for them is replaced by a placeholder that ignores whatever it gets. Nothing that a file
names is imported or called. What no training writes, such as `os.system`, is refused all the same: it tells that a file
is hostile.
"""

import pickletools
import re
import sys
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import IO, Any

MAX_PICKLE_BYTES = 100_000_000  # limit for a pickle without its tensors; safetensors limits its header to the same size

# Classes and functions that a pickle may name and that are called: they make tensors and containers. torch's own list
# is longer and not safe: a pickle could fill the memory by bytearray(10**11), or by torch.FloatTensor of any size.
_CALLED = re.compile(
    r"collections\.(OrderedDict|Counter)|builtins\.(set|complex)"
    r"|torch\._utils\._rebuild_(tensor(_v[23])?|parameter)|torch\.nn\.parameter\.Parameter"
    r"|torch\.(Size|device|(storage\.)?\w*Storage|(b?float|u?int|complex)\d\w*|bool|half|double|long|short)"
)
_ENCODE = "_codecs.encode"  # how protocol 2 writes bytes; called for texts of the file only
# Names of the standard library that stand beside weights, such as in the settings of a training.
_HARMLESS = re.compile(
    r"argparse\.Namespace|types\.SimpleNamespace|collections\.(defaultdict|deque)|functools\.partial|array\.array"
    r"|(pathlib(\._local)?|datetime|decimal|fractions|uuid|enum|zoneinfo|typing|dataclasses)\.\w+|copyreg\._reconstructor"
    r"|builtins\.(frozenset|slice|range|list|dict|tuple|int|float|str|bytes|bool|object|type|NoneType)"
)
# Parts of torch that stand beside weights: layers, optimizers. Not what makes tensors: its size may be any.
_TORCH_HARMLESS = re.compile(r"torch\.(nn|optim|utils|distributions|distributed|amp|quantization|ao)\..+")


class PickleRefusedError(Exception):
    """A pickle that no version of torch.save writes."""


class Inert:
    """Stands for any class or function. It keeps nothing and does nothing."""

    def __new__(cls, *args: object, **kwargs: object) -> "Inert":
        """Ignore all arguments."""
        return super().__new__(cls)

    def __init__(self, *args: object, **kwargs: object) -> None:
        """Ignore all arguments."""

    def __setstate__(self, state: object) -> None:
        """Ignore the state."""


class InertDict:
    """Stands for a class whose instances get items, as subclasses of dict do."""

    def __new__(cls, *args: object, **kwargs: object) -> Any:
        """Return a plain OrderedDict: torch sets items of no other class."""
        return OrderedDict()


class InertList:
    """Stands for a class whose instances get appended to, as subclasses of list do."""

    def __new__(cls, *args: object, **kwargs: object) -> Any:
        """Return a plain list: torch appends to no other class."""
        return []


@dataclass(frozen=True)
class _Made:
    """In place of an object on the stack: which class of the pickle made it."""

    name: str


# What `_follow` keeps on its stack: a text, a tuple, an object of a class, None for anything else, or a mark.
_MARK = object()


@dataclass
class PickleNames:
    """What one or more pickles name."""

    called: set[str] = field(default_factory=set)  # as `module.name`, in the spelling of Python 3
    item_targets: set[str] = field(default_factory=set)  # those whose instances get items
    list_targets: set[str] = field(default_factory=set)  # those whose instances get appended to
    encoded: int = 0  # characters that `_codecs.encode` would encode
    encodes_other: bool = False  # `_codecs.encode` would encode something that is no text of the file

    def find_forbidden(self) -> str | None:
        """Return the first name that no checkpoint needs; None if there is none."""
        if self.encodes_other or self.encoded > MAX_PICKLE_BYTES:
            return _ENCODE
        return next((name for name in sorted(self.called) if not _may_stand(name)), None)

    def list_placeholders(self) -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
        """Return the placeholder for each name that is not called, as `torch.serialization.safe_globals` takes it."""
        return [
            (InertDict if name in self.item_targets else InertList if name in self.list_targets else Inert, name)
            for name in self.called
            if not _CALLED.fullmatch(name) and name != _ENCODE
        ]


def _may_stand(name: str) -> bool:
    root = name.partition(".")[0]
    if root == "torch" or root in sys.stdlib_module_names:
        return name == _ENCODE or any(known.fullmatch(name) for known in (_CALLED, _HARMLESS, _TORCH_HARMLESS))
    return True


def read_pickle_names(stream: IO[bytes], names: PickleNames) -> None:
    """Add what the next pickle in a stream names, without running the pickle.

    Raises:
        PickleRefusedError: the pickle is too long, or of another protocol than 2. A broken one raises anything.
    """
    start = stream.tell()
    stack: list[Any] = []
    memo: dict[Any, Any] = {}
    for opcode, argument, _ in pickletools.genops(stream):
        if stream.tell() - start > MAX_PICKLE_BYTES:
            raise PickleRefusedError(f"it holds more than {MAX_PICKLE_BYTES / 1e6:.0f} MB besides its tensors")
        if opcode.name == "PROTO" and argument != 2:
            raise PickleRefusedError(f"it was pickled with protocol {argument}; expected 2, as torch.save writes it")
        _follow(opcode, argument, stack, memo, names)


def _follow(
    opcode: pickletools.OpcodeInfo, argument: Any, stack: list[Any], memo: dict[Any, Any], names: PickleNames
) -> None:
    """Do to the stack what an instruction would do, with names in place of objects."""
    if opcode.name in ("GLOBAL", "INST"):
        names.called.add(_translate_name(str(argument)))
    match opcode.name:
        case "GLOBAL":
            stack.append(_Made(_translate_name(str(argument))))
        case "PUT" | "BINPUT" | "LONG_BINPUT":
            memo[argument] = stack[-1]
        case "GET" | "BINGET" | "LONG_BINGET":
            stack.append(memo[argument])
        case "TUPLE1" | "TUPLE2" | "TUPLE3":
            count = int(opcode.name[-1])
            stack[-count:] = [tuple(stack[-count:])]
        case "REDUCE" | "NEWOBJ":
            arguments, called = stack.pop(), stack.pop()
            if isinstance(called, _Made) and called.name == _ENCODE:
                _count_encoded(arguments, names)
            stack.append(called)  # a class stands for its instances
        case "BUILD":
            stack.pop()
        case "APPEND" | "SETITEM" | "APPENDS" | "SETITEMS":
            _pop(stack, opcode)
            if stack and isinstance(stack[-1], _Made):
                (names.list_targets if opcode.name.startswith("A") else names.item_targets).add(stack[-1].name)
        case _:
            _pop(stack, opcode, popping_target=True)
            text = argument if isinstance(argument, str) else None
            stack += [_MARK if made is pickletools.markobject else text for made in opcode.stack_after]


def _pop(stack: list[Any], opcode: pickletools.OpcodeInfo, popping_target: bool = False) -> None:
    """Pop what an instruction takes from the stack; without `popping_target` all but the lowest of it."""
    before = opcode.stack_before
    if pickletools.markobject in before:
        while stack and stack.pop() is not _MARK:
            pass
        before = before[: before.index(pickletools.markobject)]
        # What stands below the mark is the target of APPENDS and SETITEMS.
    for _ in before if popping_target else before[1:]:
        if stack:
            stack.pop()


def _count_encoded(arguments: Any, names: PickleNames) -> None:
    # Chains of encodings, each of the result of the last, could fill the memory.
    texts = isinstance(arguments, tuple) and len(arguments) == 2 and all(isinstance(one, str) for one in arguments)
    if not texts or arguments[1] not in ("latin1", "latin-1", "utf-8", "ascii"):
        names.encodes_other = True
    else:
        names.encoded += len(arguments[0])


def _translate_name(argument: str) -> str:
    """Return the name in Python 3 of a class that a pickle of protocol 2 names as in Python 2."""
    module, _, name = argument.partition(" ")
    if (module, name) in NAME_MAPPING:
        module, name = NAME_MAPPING[module, name]
    return f"{IMPORT_MAPPING.get(module, module)}.{name}"


def explain_whole_network(names: Iterable[str]) -> str | None:
    """Return what to do with a file that holds a whole pickled network; None if it holds none."""
    roots = {name.partition(".")[0] for name in names}
    if "ultralytics" in roots:
        hint = "write it as ONNX (`yolo export model=FILE format=onnx`), and load the .onnx file"
        return f"it holds a whole pickled network of ultralytics (YOLO), which would run code: {hint}"
    if "fastai" in roots:
        hint = "export learn.model as ONNX with torch.onnx.export, or save learn.model.state_dict()"
        return f"it holds a pickled learner of fastai, which would run code: in fastai, {hint}"
    if any(name.startswith("torch.nn.modules.") for name in names):
        return "it holds a whole pickled network, which would run code: save model.state_dict() instead"
    return None
