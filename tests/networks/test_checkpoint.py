import ast
import codecs
import json
import os
import pickle
import random
import struct
import warnings
import zipfile
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from inspector import NetworkError
from inspector.networks import checkpoint, pickle_names
from inspector.networks.checkpoint import detect_kind, read_states
from inspector.networks.fit_state import choose_usual, find_fit
from inspector.networks.state_dict import count_classes, load_weights

Make = Callable[[Path], object]


def make_network(classes: int = 3, width: int = 4) -> nn.Sequential:
    torch.manual_seed(0)
    normed = (nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU())
    return nn.Sequential(*normed, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)).eval()


STATE = make_network().state_dict()


def read_state(path: Path, **options: int) -> dict[str, Tensor]:
    """The weights in a file, by the usual keys."""
    states = read_states(path, **options)
    return states[choose_usual(states)]


def is_same(state: dict[str, Tensor], other: dict[str, Tensor] = STATE) -> bool:
    return state.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in state.items())


def assert_one_sentence(error: BaseException) -> None:
    assert "\n" not in str(error)
    assert len(str(error)) < 400


class Calls:
    """What calls a function when it is unpickled."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.called = (function, arguments)

    def __reduce__(self) -> tuple:
        return self.called


class NotOurs(nn.Module):
    """A network of a user, pickled whole."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = make_network()


def make_legacy(content: object) -> Make:
    return lambda path: torch.save(content, path, _use_new_zipfile_serialization=False)


def make_zipped(content: object) -> Make:
    return lambda path: torch.save(content, path)


def make_file(content: bytes) -> Make:
    return lambda path: path.write_bytes(content)


def safetensors(header: object, data: bytes = b"", length: int | None = None) -> Make:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return make_file(struct.pack("<Q", len(text) if length is None else length) + text + data)


def make_entry(shape: list[int], start: int, end: int, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def change_zip(change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED) -> Make:
    """A state dict whose zip was written again."""

    def make(path: Path) -> None:
        torch.save({"a": torch.arange(3.0)}, path)
        with zipfile.ZipFile(path) as archive:
            files = {name: change(name, archive.read(name)) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w", compression) as archive:
            for name, data in files.items():
                archive.writestr(name, data)

    return make


def cut_end(make: Make, kept: int) -> Make:
    def cut_off(path: Path) -> None:
        make(path)
        path.write_bytes(path.read_bytes()[:kept])

    return cut_off


def enlarge_shape(name: str, data: bytes) -> bytes:
    """The shape (3,) of a tensor that three values back becomes (10**9,)."""
    if not name.endswith("data.pkl"):
        return data
    place = data.rindex(b"K\x03\x85")
    return data[:place] + b"J" + struct.pack("<i", 10**9) + data[place + 2 :]


def write_torchscript(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that TorchScript grows old; users' files do not go away
        torch.jit.save(torch.jit.trace(make_network(), torch.zeros(1, 3, 8, 8)), path)


def write_exported(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own code
        program = torch.export.export(make_network(), (torch.zeros(1, 3, 8, 8),))
        torch.export.save(program, path.with_suffix(".pt2"))
    path.with_suffix(".pt2").rename(path)


def write_exported_before_2_7(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("serialized_exported_program.json", "serialized_state_dict.pt", "version"):
            archive.writestr(name, b"{}")


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt", ".tar", ""])
@pytest.mark.parametrize(
    "make",
    [lambda path: save_file(STATE, path), make_zipped(STATE), make_legacy(STATE)],
    ids=["safetensors", "zipped pickle", "pickle"],
)
def test_a_state_dict_is_read_whatever_its_file_is_called(tmp_path, make, suffix):
    path = tmp_path / f"weights{suffix}"
    make(path)
    state = read_state(path)
    assert type(state) is dict
    assert is_same(state)


def test_torch_files_that_are_called_safetensors_are_reported(tmp_path):
    torch.save(STATE, tmp_path / "a.safetensors")
    with pytest.raises(NetworkError, match=r"not what its name says, but a file of torch\.save: rename it to \.pth\.$"):
        read_state(tmp_path / "a.safetensors")


def test_parameters_are_read_as_tensors(tmp_path):
    torch.save(dict(make_network().named_parameters()), tmp_path / "a.pth")
    state = read_state(tmp_path / "a.pth")
    assert all(type(tensor) is Tensor and not tensor.requires_grad for tensor in state.values())


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda path: save_file(STATE, path), "safetensors"),
        (make_zipped(STATE), "zipped pickle"),
        (make_legacy(STATE), "pickle"),
        (write_torchscript, "TorchScript"),
        (write_exported, "torch.export"),
        (write_exported_before_2_7, "torch.export"),
        (make_file(b""), "other"),
        (make_file(b"\x08\x0bonnx" * 100), "other"),
        (change_zip(lambda name, data: b""), "zipped pickle"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_kind_of_a_file_is_detected_from_its_content(tmp_path, make, kind):
    make(tmp_path / "file")
    assert detect_kind(tmp_path / "file") == kind


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "net", "network", "weights"])
def test_the_state_dict_in_a_checkpoint_is_found_and_the_rest_ignored(tmp_path, key):
    beside = {"epoch": 3, "args": Namespace(lr=0.1), "optimizer": {"state": {0: torch.ones(3)}}, "best": None}
    torch.save({**beside, key: STATE}, tmp_path / "a.ckpt")
    assert is_same(read_state(tmp_path / "a.ckpt"))


def test_a_nested_checkpoint_is_found(tmp_path):
    torch.save({"model": {"state_dict": STATE, "epoch": 3}}, tmp_path / "a.ckpt")
    assert is_same(read_state(tmp_path / "a.ckpt"))


@pytest.mark.parametrize("key", ["state_dict_ema", "model_ema", "ema_state_dict", "ema"])
def test_the_moving_average_is_read_if_alone_and_named_if_not(tmp_path, key):
    averaged = {name: tensor + 1 for name, tensor in STATE.items()}
    torch.save({key: averaged, "state_dict": STATE}, tmp_path / "both.pth")
    torch.save({key: averaged}, tmp_path / "alone.pth")
    assert is_same(read_state(tmp_path / "both.pth"))
    fit = find_fit(read_states(tmp_path / "both.pth"), STATE)
    assert is_same(fit.state)
    assert (fit.place, fit.copies) == ("state_dict", (key,))
    assert is_same(read_state(tmp_path / "alone.pth"), averaged)
    assert is_same(find_fit(read_states(tmp_path / "alone.pth"), STATE).state, averaged)


def test_classes_that_are_allowed_for_reading_are_not_allowed_afterwards(tmp_path):
    torch.save({"state_dict": STATE, "args": Namespace(lr=0.1)}, tmp_path / "a.pth")
    before = set(torch.serialization.get_safe_globals())
    read_state(tmp_path / "a.pth")
    assert set(torch.serialization.get_safe_globals()) == before


def make_recursive_state() -> dict[str, object]:
    content: dict[str, object] = {}
    content["model"] = content
    return content


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (make_file(b""), r"it is empty \(0 bytes\)\.$"),
        (
            make_file(b"\n<!DOCTYPE html><html>Not found</html>"),
            r"it is a web page, so the download went wrong: download it again",
        ),
        (make_file(b"\xef\xbb\xbf<html>"), r"it is a web page"),
        (
            make_file(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
            r"git-lfs pointer.*: run git lfs pull",
        ),
        (make_file(b"0.9 0.1\n"), r"it is a text file\.$"),
        (make_file(b"\x1f\x8b\x08" + bytes(99)), r"it is an archive: unpack it"),
        (make_file(b"\x89HDF\r\n\x1a\n"), r"it is an HDF5 file, as Keras writes\.$"),
        (make_file(bytes(range(256))), r"it is neither safetensors nor what torch\.save writes\.$"),
        (lambda path: path.mkdir(), r"it is a folder\.$"),
        (os.mkfifo, r"it is not a file\.$"),
        (write_exported, r"a torch\.export archive, which holds a program .* load it by its path with --trust\.$"),
        (write_torchscript, r"a TorchScript archive, which holds a program .* load it by its path with --trust\.$"),
        (lambda path: zipfile.ZipFile(path, "w").close(), r"it is neither safetensors nor"),
        (
            make_zipped(make_network()),
            r"it holds a whole pickled network, which would run code: save model\.state_dict\(\) inst",
        ),
        (make_zipped({"model": NotOurs(), "epoch": 3}), r"it holds a whole pickled network"),
        (make_zipped([1, 2]), r"must be tensors by name; the file holds a list\.$"),
        (make_zipped({}), r"must be tensors by name; the file holds a dict of nothing\.$"),
        (make_zipped({0: torch.zeros(3)}), r"must be tensors by name; the file holds a dict of 0\.$"),
        (make_zipped(make_recursive_state()), r"must be tensors by name; the file holds a dict of model\.$"),
        (
            make_zipped({"epoch": 3, "optimizer": {"state": {}}}),
            r"must be tensors by name; .* a dict of epoch, optimizer\.$",
        ),
        (make_zipped({"x" * 10**6: 3}), r"must be tensors by name; the file holds a dict of x+\.\.\.\.$"),
        (make_zipped({"a\n\x1b": 3}), r"must be tensors by name; the file holds a dict of a \\x1b\.$"),
        (
            safetensors(b"{}", length=2**40),
            r"it is cut off or broken \(header too large\); copy or download it again\.$",
        ),
        (safetensors(b"{}", length=90_000_000), r"it is cut off or broken \(invalid header length\)"),
        (
            safetensors(b"{" + b" " * 100_000_001),
            r"it is cut off or broken \(header too large\); copy or download it again\.$",
        ),
        (safetensors({"a": make_entry([2], 0, 8)}, bytes(4)), r"incomplete metadata, file not fully covered\)"),
        (safetensors({"a": make_entry([2], 0, 8)}, bytes(12)), r"incomplete metadata, file not fully covered\)"),
        (
            safetensors({"a": make_entry([2], 0, 8), "b": make_entry([2], 4, 12)}, bytes(12)),
            r"invalid offset for tensor `b`\)",
        ),
        (
            safetensors({"a": make_entry([2], 0, 8), "b": make_entry([2], 0, 8)}, bytes(8)),
            r"invalid offset for tensor `[ab]`\)",
        ),
        (
            safetensors({"a": make_entry([2], 0, 8), "b": make_entry([1], 12, 16)}, bytes(16)),
            r"invalid offset for tensor `b`\)",
        ),
        (
            safetensors({"a": make_entry([10**6, 10**6], 0, 8)}, bytes(8)),
            r"invalid shape, data type, or offset for tensor",
        ),
        (safetensors({"a": make_entry([2**32, 2**32], 0, 0)}), r"overflow computing buffer size"),
        (
            make_zipped({"a": torch.zeros(1).expand(10**6, 10**6)}),
            r"a claims the shape \(1000000, 1000000\), but only 4 bytes",
        ),
        (
            make_legacy({"a": torch.zeros(1).expand(10**6, 10**6)}),
            r"a claims the shape \(1000000, 1000000\), but only 4 byte",
        ),
        (change_zip(enlarge_shape), r"broken \(Trying to resize storage that is not resizable\)"),
        (
            change_zip(lambda name, data: data, zipfile.ZIP_DEFLATED),
            r"its entries are compressed, which torch\.save never",
        ),
        (
            change_zip(lambda name, data: b"" if name.endswith("data.pkl") else data),
            r"pickle exhausted before seeing STOP",
        ),
        (
            cut_end(make_zipped(STATE), 1000),
            r"it is cut off or broken \(File is not a zip file\); copy or download it again\.$",
        ),
        (cut_end(make_legacy(STATE), 300), r"cannot be read: .+"),
        (cut_end(make_legacy(STATE), -10), r"cannot be read: .+"),
        (
            lambda path: torch.save(STATE, path, pickle_protocol=4),
            r"pickled with protocol 4; expected 2, as torch\.save writes it",
        ),
        (make_file(pickle.dumps(STATE, protocol=2)), r"nothing was run\. It asks for .*\. Save a plain state dict"),
    ],
)
def test_a_file_that_cannot_be_read_is_reported_in_one_sentence(tmp_path, make, message):
    path = tmp_path / "weights"
    make(path)
    with pytest.raises(NetworkError, match=rf"^The weights at .*weights .*{message}") as raised:
        read_state(path)
    assert_one_sentence(raised.value)


def test_missing_weights_are_named(tmp_path):
    for use in (detect_kind, read_state):
        with pytest.raises(NetworkError, match=r"^No weights at .*absent\.pth\.$"):
            use(tmp_path / "absent.pth")


def test_weights_that_must_not_be_read_are_reported(tmp_path, monkeypatch):
    # The tests may run as root, who may read all.
    def refuse_access(*args: object) -> None:
        raise PermissionError(13, "Permission denied", "weights.pth")

    (tmp_path / "weights.pth").touch()
    monkeypatch.setattr(Path, "open", refuse_access)
    with pytest.raises(NetworkError, match=r"^The weights at .*weights\.pth cannot be read: Permission denied\.$"):
        read_state(tmp_path / "weights.pth")


def test_a_large_file_is_refused_unread(tmp_path, monkeypatch):
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.zeros(10**6)}, path)
    assert read_state(path)["a"].shape == (10**6,)
    monkeypatch.setattr(torch, "load", None)
    with pytest.raises(NetworkError, match=r"cannot be read: it has 4\.0 MB, and at most 1\.0 MB are read\.$"):
        read_state(path, max_bytes=10**6)
    with path.open("r+b") as file:
        file.truncate(checkpoint.MAX_BYTES + 1)  # a sparse file: it takes no room
        file.write(bytes(10))
    with pytest.raises(NetworkError, match=r"cannot be read: it has 8000\.0 MB, and at most 8000\.0 MB are read\.$"):
        read_state(path)


@pytest.mark.parametrize("make", [make_zipped, make_legacy])
def test_a_pickle_that_is_long_besides_its_tensors_is_refused(tmp_path, monkeypatch, make):
    monkeypatch.setattr(pickle_names, "MAX_PICKLE_BYTES", 10**6)
    make({"state_dict": STATE, "log": list(range(10**6))})(tmp_path / "a.pth")
    with pytest.raises(NetworkError, match=r"cannot be read: it holds more than 1 MB besides its tensors\.$"):
        read_state(tmp_path / "a.pth")


def test_a_zip_that_claims_more_than_it_has_is_refused(tmp_path):
    path = tmp_path / "a.pth"
    torch.save({"a": torch.zeros(250)}, path)
    data, size = path.read_bytes(), struct.pack("<I", 1000)
    # The table at the end holds it twice: packed and unpacked.
    place = data.rindex(size + size)
    path.write_bytes(data[:place] + struct.pack("<II", 10**9, 10**9) + data[place + 8 :])
    with pytest.raises(NetworkError, match=r"cannot be read: its entries claim 1000\.0 MB, but it has 0\.0 MB\.$"):
        read_state(path)


@pytest.mark.parametrize(
    "make", [make_zipped, make_legacy, lambda content: make_file(pickle.dumps(content, protocol=2))]
)
@pytest.mark.parametrize("nested", [False, True])
def test_code_in_a_checkpoint_is_not_run(tmp_path, make, nested):
    ran = tmp_path / "ran"
    payload = Calls(os.mkdir, str(ran))
    make({"state_dict": STATE, "args": payload} if nested else payload)(tmp_path / "a.pth")
    with pytest.raises(
        NetworkError, match=r"hold more than tensors, or are broken: nothing was run\. It asks for "
    ) as e:
        read_state(tmp_path / "a.pth")
    assert_one_sentence(e.value)
    assert not ran.exists()
    pickle.loads(pickle.dumps(payload))
    assert ran.exists(), "the payload would have worked"


@pytest.mark.parametrize("protocol", [0, 1, 3, 4, 5])
def test_code_in_a_pickle_of_any_protocol_is_not_run(tmp_path, protocol):
    ran = tmp_path / "ran"
    (tmp_path / "a.pth").write_bytes(pickle.dumps(Calls(os.mkdir, str(ran)), protocol=protocol))
    with pytest.raises(NetworkError, match=r"^The weights at ") as raised:
        read_state(tmp_path / "a.pth")
    assert_one_sentence(raised.value)
    assert not ran.exists()


def test_torch_refuses_code_by_itself(tmp_path, monkeypatch):
    """Our look at the names stands before torch's own, not in its place."""
    monkeypatch.setattr(checkpoint, "_check_names", lambda path, names: None)
    monkeypatch.setattr(pickle_names.PickleNames, "list_placeholders", lambda names: [])
    ran = tmp_path / "ran"
    torch.save({"a": Calls(os.mkdir, str(ran))}, tmp_path / "a.pth")
    with pytest.raises(NetworkError, match=r"hold more than tensors, or are broken: nothing was run\. Save a plain"):
        read_state(tmp_path / "a.pth")
    assert not ran.exists()


@pytest.mark.parametrize(
    "payload",
    [
        Calls(bytearray, 10**10),
        Calls(torch.FloatTensor, 10**10),
        Calls(codecs.encode, Calls(codecs.encode, "a" * 99, "latin1"), "hex"),
        Calls(codecs.encode, "a" * 99, "rot13"),
    ],
    ids=["bytes", "tensor", "encodings", "encoding"],
)
def test_calls_that_torch_allows_but_fill_the_memory_are_refused(tmp_path, payload):
    torch.save({"a": payload}, tmp_path / "a.pth")
    with pytest.raises(NetworkError, match=r"nothing was run\. It asks for (builtins|torch|_codecs)\.\w+\. Save"):
        read_state(tmp_path / "a.pth")


@pytest.mark.parametrize("make", [lambda path: save_file(STATE, path), make_zipped(STATE), make_legacy(STATE)])
def test_broken_bytes_are_reported_or_read_and_raise_nothing_else(tmp_path, make):
    make(tmp_path / "whole")
    data, dice = (tmp_path / "whole").read_bytes(), random.Random(0)
    for _ in range(200):
        broken = bytearray(data)
        for _ in range(dice.choice((1, 2, 8))):
            broken[dice.randrange(len(data))] = dice.randrange(256)
        (tmp_path / "broken").write_bytes(broken)
        try:
            load_weights(read_state(tmp_path / "broken"), make_network(), "mine")
        except NetworkError as error:
            assert_one_sentence(error)


def test_the_two_behaviors_of_torch_that_need_our_checks_are_still_there(tmp_path):
    """Should torch refuse these by itself one day, our checks may go."""
    torch.save({"a": torch.zeros(1).expand(10, 10)}, tmp_path / "a.pth")
    assert torch.load(tmp_path / "a.pth", weights_only=True)["a"].shape == (10, 10)
    change_zip(lambda name, data: data, zipfile.ZIP_DEFLATED)(tmp_path / "b.pth")
    garbled = torch.load(tmp_path / "b.pth", weights_only=True, mmap=True)["a"]
    assert not torch.equal(garbled, torch.arange(3.0))


CLASSIFIERS = [
    "torchvision:alexnet", "torchvision:densenet121", "torchvision:efficientnet_b0", "torchvision:googlenet",
    "torchvision:inception_v3", "torchvision:mnasnet0_5", "torchvision:mobilenet_v2", "torchvision:mobilenet_v3_small",
    "torchvision:resnet18", "torchvision:shufflenet_v2_x0_5", "torchvision:squeezenet1_1", "torchvision:swin_t",
    "torchvision:vgg11", "torchvision:convnext_tiny", "timm:resnet18", "timm:convnext_atto", "timm:densenet121",
    "timm:dla34", "timm:dpn68", "timm:edgenext_xx_small", "timm:efficientformer_l1", "timm:efficientnet_lite0",
    "timm:efficientvit_b0", "timm:ghostnet_100", "timm:hrnet_w18_small", "timm:inception_v4", "timm:levit_128s",
    "timm:mambaout_femto", "timm:mobilenetv3_small_050", "timm:mobilevit_xxs", "timm:nfnet_l0", "timm:regnetx_002",
    "timm:caformer_s18", "timm:repvgg_a0", "timm:resnetv2_50", "timm:rexnet_100", "timm:swin_tiny_patch4_window7_224",
    "timm:tinynet_e", "timm:vgg11", "timm:vit_tiny_patch16_224", "timm:xception41", "timm:maxvit_nano_rw_256",
]  # fmt: skip


@pytest.fixture(scope="module")
def libraries() -> object:
    import timm
    from torchvision import models

    return {"torchvision": models.get_model, "timm": timm.create_model}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_number_of_classes_is_read_from_the_weights(libraries, name):
    library, _, wanted = name.partition(":")
    slow = {"init_weights": False} if wanted in ("googlenet", "inception_v3") else {}
    # Without memory for the weights: their shapes suffice.
    with torch.device("meta"):
        state = libraries[library](wanted, num_classes=7, **slow).state_dict()
    assert count_classes(state) == 7
    assert count_classes({f"module.{key}": tensor for key, tensor in state.items()}) == 7
    assert count_classes(dict(sorted(state.items()))) == 7, "as safetensors orders them"


def test_the_number_of_classes_of_a_plain_sequence_is_that_of_its_last_layer():
    layers = [layer for _ in range(5) for layer in (nn.Conv2d(4, 4, 3), nn.ReLU())]
    state = nn.Sequential(*layers, nn.Conv2d(4, 7, 1)).state_dict()
    assert count_classes(state) == count_classes(dict(sorted(state.items()))) == 7


def test_without_an_affine_layer_there_is_no_number_of_classes():
    assert count_classes(nn.Conv2d(3, 4, 3).state_dict()) is None
    assert count_classes({}) is None


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.", "module._orig_mod.model.backbone."])
def test_weights_are_loaded_without_their_shared_prefix(prefix):
    other = make_network()
    nn.init.zeros_(other[0].weight)
    load_weights({prefix + name: tensor for name, tensor in STATE.items()}, other, "mine")
    assert is_same(other.state_dict())


def test_a_prefix_that_the_network_has_too_is_kept():
    wrapped = nn.Sequential(OrderedDict(model=make_network(5)))
    state = {f"model.{name}": tensor for name, tensor in make_network(5).state_dict().items()}
    load_weights(state, wrapped, "mine")
    assert is_same(wrapped.model.state_dict(), make_network(5).state_dict())


def test_the_counter_of_an_averaged_model_is_ignored():
    averaged = torch.optim.swa_utils.AveragedModel(make_network()).state_dict()
    assert "n_averaged" in averaged
    other = make_network()
    nn.init.zeros_(other[0].weight)
    load_weights(averaged, other, "mine")
    assert is_same(other.state_dict())


@pytest.mark.parametrize("side", ["aux1.fc.weight", "aux2.conv.bias", "AuxLogits.fc.weight"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_auxiliary_heads_for_training_are_ignored(side, prefix):
    other = make_network()
    nn.init.zeros_(other[0].weight)
    load_weights({prefix + name: tensor for name, tensor in (STATE | {side: torch.zeros(3)}).items()}, other, "mine")
    assert is_same(other.state_dict())


def test_old_checkpoints_need_not_count_batches():
    other = make_network()
    other[1].num_batches_tracked += 5
    load_weights({name: tensor for name, tensor in STATE.items() if "num_batches" not in name}, other, "mine")
    assert other[1].num_batches_tracked == 5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn])
def test_weights_of_another_precision_are_converted(dtype):
    other = make_network()
    state = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in STATE.items()}
    load_weights(state, other, "mine")
    assert all(tensor.dtype == STATE[name].dtype for name, tensor in other.state_dict().items())
    assert is_same(other.state_dict(), {name: tensor.to(STATE[name].dtype) for name, tensor in state.items()})


def test_a_layer_that_asks_for_its_version_gets_it(tmp_path):
    """torchvision's MNASNet refuses weights without a version, and safetensors stores none."""
    from torchvision import models

    mine, other = models.mnasnet0_5(num_classes=3), models.mnasnet0_5(num_classes=3)
    save_file(mine.state_dict(), tmp_path / "a.safetensors")
    load_weights(read_state(tmp_path / "a.safetensors"), other, "mnasnet0_5")
    assert is_same(other.state_dict(), mine.state_dict())


def remove_tensor(name: str) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in STATE.items() if key != name}


INFINITE = torch.full((3,), float("inf"))


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (remove_tensor("0.bias"), r"^The weights do not fit mine's architecture: they lack 0\.bias\.$"),
        ({}, r"^The weights do not fit .* they lack 0\.bias, 0\.weight, 1\.bias and 5 more\.$"),
        (STATE | {"9.bias": torch.zeros(3)}, r"^The weights do not fit .* they also have 9\.bias\.$"),
        (STATE | {"9\n" * 10**6: torch.zeros(3)}, r"^The weights do not fit .* they also have (9 )+9?\.\.\.\.$"),
        (
            make_network(4).state_dict(),
            r"another shape for 5\.weight, 5\.bias \(5\.weight is \(4, 4\) and should be \(3, 4\)\)",
        ),
        (STATE | {"0.bias": torch.ones(4, dtype=torch.int8)}, r"they have another kind of number for 0\.bias\.$"),
        (STATE | {"0.bias": torch.ones(4, dtype=torch.complex64)}, r"they have another kind of number for 0\.bias\.$"),
        (STATE | {"5.bias": INFINITE}, r"^The weights hold values that are NaN or infinite, in 5\.bias\. .* earlier"),
        (STATE | {"5.bias": INFINITE.nan_to_num(posinf=float("nan"))}, r"NaN or infinite, in 5\.bias\. "),
        (STATE | {"1.running_var": torch.full((4,), float("nan"))}, r"NaN or infinite, in 1\.running_var\. "),
    ],
)
def test_weights_that_do_not_fit_are_reported_and_not_written(state, message):
    other = make_network()
    nn.init.ones_(other[0].weight)
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(NetworkError, match=message) as raised:
        load_weights(state, other, "mine")
    assert_one_sentence(raised.value)
    assert is_same(other.state_dict(), before)


def test_the_file_of_weights_that_do_not_fit_is_reported():
    with pytest.raises(NetworkError, match=r"^The weights at here/a\.pth do not fit mine's architecture: they lack"):
        load_weights({}, make_network(), "mine", Path("here/a.pth"))


def test_a_mask_may_be_infinite():
    masked = make_network()
    masked.register_buffer("mask", torch.full((3,), float("-inf")))
    load_weights(masked.state_dict(), masked, "mine")


def test_loading_does_not_write_into_the_state():
    state = dict(STATE)
    load_weights(state, make_network(), "mine")
    assert is_same(state)


def test_the_weights_stay_when_their_file_goes(tmp_path):
    path = tmp_path / "a.pth"
    torch.save(STATE, path)
    other = make_network()
    load_weights(read_state(path), other, "mine")
    path.write_bytes(bytes(path.stat().st_size))
    path.unlink()
    assert is_same(other.state_dict())


def test_files_are_read_without_the_rest_of_the_project():
    tree = ast.parse(Path(checkpoint.__file__).read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name for name in imported if name.startswith("inspector")} == {
        "inspector.errors",
        "inspector.printable",
        "inspector.networks.pickle_names",
    }
