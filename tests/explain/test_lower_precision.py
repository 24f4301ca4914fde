"""A network in int8 or bfloat16 is another network: its maps sum to its own logits, and its loss is measured."""

import json
import logging
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache as keep
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import inspector
from inspector import Classifier, class_maps_of_batch
from inspector.errors import ExportError, InspectorError, NetworkError
from inspector.explain.backends import runtimes
from inspector.explain.backends.accelerate import accelerate, with_backend
from inspector.explain.backends.export_graph import feature_graph
from inspector.explain.backends.export_network import export_network
from inspector.explain.backends.lower_precision import (
    Calibration,
    CalibrationInputs,
    PrecisionLoss,
    check_loss,
    measure_loss,
)
from inspector.explain.backends.sessions import chain_openvino, open_openvino
from inspector.explain.backends.split_onnx import join_parts, split_at_feature_maps
from inspector.explain.class_maps import FigureContent
from inspector.networks.catalog import shipped_models
from inspector.output.manifest import make_manifest
from inspector.output.report import make_report

LOWER = [("onnxruntime", "int8"), ("openvino", "int8"), ("openvino", "bfloat16")]
SHIPPED = sorted(path.parent.name for path in shipped_models().glob("*/model.json"))
TORCHVISION = [
    "mnasnet0_5",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "resnet18",
    "resnet34",
    "shufflenet_v2_x0_5",
    "squeezenet1_0",
    "squeezenet1_1",
]
ANY = 0.0  # least agreement: networks with random weights may predict anything


def has_bfloat16() -> bool:
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def skip_without_instructions(dtype: str) -> None:
    if dtype == "bfloat16" and not has_bfloat16():
        pytest.skip("This processor has no bfloat16 instructions.")


def small(pooling: Callable[[], nn.Module] = lambda: nn.AdaptiveAvgPool2d(1), classes: int = 5) -> Classifier:
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU6(),
        nn.Conv2d(8, 16, 3),
        nn.ReLU(),
        pooling(),
        nn.Flatten(),
    ]
    return Classifier.wrap(nn.Sequential(*layers, nn.Linear(16, classes)).eval(), size=(12, 10))


def make_photos(count: int = 6, seed: int = 1) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.integers(0, 256, (20, 24, 3), dtype=np.uint8) for _ in range(count)]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def assert_sums(maps: inspector.ClassMaps) -> None:
    """Compare the sums with the logits by a way of its own: in float64, relative to what is added."""
    values, bias = maps.values.double(), maps.bias.double()
    sums, added = values.sum((1, 2)) + bias, values.abs().sum((1, 2)) + bias.abs()
    assert ((sums - maps.logits.double()).abs() <= 1e-5 * added + 1e-6).all()


@keep
def load_shipped(name: str) -> Classifier:
    return inspector.load(name)


@keep
def make_torchvision(name: str) -> Classifier:
    torch.manual_seed(0)
    network = torchvision.models.get_model(
        name, weights=None, **({"init_weights": True} if name == "googlenet" else {})
    )
    return Classifier.wrap(network.eval(), name=name, size=64)


@pytest.mark.parametrize("name", SHIPPED + TORCHVISION)
def test_maps_in_lower_precision_sum_to_their_own_logits(name: str, cache: Path) -> None:
    classifier = load_shipped(name) if name in SHIPPED else make_torchvision(name)
    gray = len(classifier.preprocessing.mean) == 1
    photos = [photo[..., 0] if gray else photo for photo in make_photos(4)]
    calibration = Calibration(photos, least_agreement=ANY)
    # The graph in float32, which bfloat16 writes first, is quantized afterwards.
    kinds = [("openvino", "bfloat16")] * has_bfloat16() + [("onnxruntime", "int8")]
    kinds += [("openvino", "int8")] * (name in ("fashion_gap", "resnet18"))
    for backend, dtype in kinds:
        lower = accelerate(classifier, backend, cache, dtype, calibration=calibration)
        check_sums(lower, f"{backend} {dtype}")


def check_sums(lower: Classifier, backend: str) -> None:
    shape = (len(lower.preprocessing.mean), *lower.preprocessing.size)

    @settings(max_examples=4, deadline=None)
    @given(seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([0.1, 1.0, 30.0]), count=st.integers(1, 2))
    def check(seed: int, scale: float, count: int) -> None:
        inputs = scale * torch.randn((count, *shape), generator=torch.Generator().manual_seed(seed))
        for maps in class_maps_of_batch(lower, inputs):
            assert maps.backend == backend
            assert maps.verdict != "not exact"
            assert_sums(maps)

    check()


@pytest.mark.parametrize(("backend", "dtype"), LOWER)
def test_the_loss_is_that_of_the_photos_that_did_not_calibrate(backend: str, dtype: str, cache: Path) -> None:
    skip_without_instructions(dtype)
    classifier, photos = small(), make_photos(10)
    labels = [0, 1, 2, 3, 4] * 2
    lower = accelerate(classifier, backend, cache, dtype, calibration=Calibration(photos, labels, ANY))
    (loss,) = [lower.capture.accelerated.loss]  # type: ignore[union-attr]
    pairs = [(inspector.class_maps(classifier, photo), inspector.class_maps(lower, photo)) for photo in photos[1::2]]
    changes = [float((exact.logits - other.logits).abs().max()) for exact, other in pairs]
    assert isinstance(loss, PrecisionLoss)
    assert loss.photos == 5
    assert loss.largest_change == pytest.approx(max(changes))
    assert loss.largest_change > 0  # it is another network
    tops = [(int(exact.logits.argmax()), int(other.logits.argmax())) for exact, other in pairs]
    assert loss.same_class == sum(one == other for one, other in tops)
    expected = [sum(top[n] == k for top, k in zip(tops, labels[1::2], strict=True)) for n in (0, 1)]
    assert loss.right == tuple(expected)


def test_the_loss_stands_wherever_the_maps_are_described(cache: Path) -> None:
    photo = make_photos()[0]
    lower = accelerate(
        small(), "onnxruntime", cache, "int8", calibration=Calibration(make_photos(), least_agreement=ANY)
    )
    maps = inspector.class_maps(lower, photo)
    sentence = lower.precision_notes[0]
    assert sentence.startswith("Computed in int8. Compared with float32 on 3 photos: the same top-1 class in ")
    shown = FigureContent((0,), None, False, True, 0.6)
    manifest = make_manifest(maps, shown)
    for text in (str(maps), lower.backend_status, make_report(maps, shown), json.dumps(manifest)):
        assert sentence in text


def test_what_follows_the_pooling_is_not_quantized(tmp_path: Path, cache: Path) -> None:
    classifier, built = small(), list[Path]()
    accelerate(
        classifier, "onnxruntime", cache, "int8", on_built=lambda _, file: built.append(file),
        calibration=Calibration(make_photos(), least_agreement=ANY),
    )  # fmt: skip
    model = onnx.load(built[0])
    weights = {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}
    kept = [values for values in weights.values() if values.dtype == np.float32 and values.size == 5 * 16]
    expected = classifier.head.affine[0].numpy()
    assert kept
    assert all(np.array_equal(values.reshape(5, 16), expected) for values in kept)
    assert sum(values.dtype == np.int8 for values in weights.values()) >= 2  # the weights of both convolutions


class _NormalizedHead(nn.Module):
    """A normalization and a linear layer after the pooling."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.convolution, self.norm, self.head = nn.Conv2d(3, 8, 3), norm, nn.Linear(8, 5)

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm(self.convolution(inputs).relu().mean((2, 3))))
        return logits


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.BatchNorm1d])  # the weight changes with the image, or does not
def test_openvino_does_not_round_a_normalization_after_the_pooling(norm: type[nn.Module], cache: Path) -> None:
    torch.manual_seed(0)
    classifier = Classifier.wrap(_NormalizedHead(norm(8)).eval(), size=64)
    calibration = Calibration(make_photos(4), least_agreement=ANY)
    check_sums(accelerate(classifier, "openvino", cache, "int8", calibration=calibration), "openvino int8")


def test_photos_unlike_those_of_the_calibration_are_compared_too() -> None:
    """Calibrated with black photos, a network sees no range of activations; white ones show it."""
    photos = [np.full((20, 24, 3), 255 * (n % 2) // (1 + n % 3), np.uint8) for n in range(12)]
    with pytest.raises(NetworkError, match=r"refused in int8: on 6 photos its top-1 class is that of float32 in \d"):
        accelerate(sensitive(), "onnxruntime", dtype="int8", calibration=Calibration(photos))


def sensitive() -> Classifier:
    """A network whose class is decided by brightness that quantizing with black photos cuts off."""
    convolution, head = nn.Conv2d(3, 2, 1), nn.Linear(2, 2)
    with torch.no_grad():
        convolution.weight.copy_(torch.tensor([[1.0], [0.0]]).expand(2, 3)[..., None, None])
        convolution.bias.copy_(torch.tensor([0.0, 1.0]))
        head.weight.copy_(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
        head.bias.zero_()
    layers = [convolution, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head]
    return Classifier.wrap(nn.Sequential(*layers).eval(), size=(12, 10), mean=0.0, std=1.0)


@pytest.mark.parametrize(
    ("same", "least", "is_refused"), [(9, 0.9, False), (8, 0.9, True), (7, 0.7, False), (0, 0.0, False)]
)
def test_the_bound_counts_photos(same: int, least: float, is_refused: bool) -> None:
    loss = PrecisionLoss("int8", 10, same, 1.0, 0.9)
    if is_refused:
        with pytest.raises(NetworkError, match=f"that of float32 in {same}"):
            check_loss(loss, least)
    else:
        check_loss(loss, least)


def test_a_loss_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(NetworkError, match="refused in int8"):
        check_loss(PrecisionLoss("int8", 10, 10, float("nan"), 0.9), 0)


def test_one_photo_without_a_number_is_a_loss_without_a_number() -> None:
    classifier = small()
    inputs = CalibrationInputs(classifier, Calibration(make_photos(12)))

    def run(batch: Tensor) -> list[tuple[Tensor, Tensor]]:
        found = [(maps.logits.clone(), maps.values) for maps in class_maps_of_batch(classifier, batch)]
        found[3][0][1] = torch.nan  # neither the first photo nor the last
        return found

    loss = measure_loss(classifier, run, "int8", inputs)
    assert math.isnan(loss.largest_change)


def test_without_photos_the_example_images_calibrate(cache: Path) -> None:
    lower = accelerate(load_shipped("fashion_gap"), "onnxruntime", cache, "int8")
    assert lower.capture.accelerated.loss.photos == 25  # type: ignore[union-attr]
    maps = inspector.class_maps(with_backend(load_shipped("fashion_gap"), "onnxruntime int8"), make_photos()[0])
    assert torch.equal(maps.logits, inspector.class_maps(lower, make_photos()[0]).logits)


@pytest.mark.parametrize(
    ("backend", "dtype", "message"),
    [
        ("onnxruntime", "bfloat16", "'onnxruntime' does not run in bfloat16. Use float32 or int8"),
        ("openvino", "float16", "'openvino' does not run in float16. Use float32 or int8 or bfloat16"),
        ("folded", "int8", "'folded' does not run in int8. Use float32 or float16 or bfloat16"),
        ("eager", "int8", '"eager" runs the network as it is; got int8'),
        ("auto", "int8", '"auto" does not build in int8. Name a backend'),
        ("onnxruntime", "int4", "No backend runs in int4. Use one of float32, float16, bfloat16, int8"),
    ],
)
def test_a_precision_that_a_backend_lacks_is_refused(backend: str, dtype: str, message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        accelerate(small(), backend, dtype=dtype)


def test_images_of_other_channels_need_photos_of_the_user() -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(4, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)]
    classifier = Classifier.wrap(nn.Sequential(*layers).eval(), size=(12, 10), mean=(0.5,) * 4, std=(0.5,) * 4)
    with pytest.raises(NetworkError, match="no example images of 4 channels"):
        accelerate(classifier, "onnxruntime", dtype="int8")
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (20, 24, 4), dtype=np.uint8) for _ in range(4)]
    lower = accelerate(classifier, "onnxruntime", dtype="int8", calibration=Calibration(images, least_agreement=ANY))
    assert inspector.class_maps(lower, images[0]).backend == "onnxruntime int8"


@pytest.mark.parametrize(
    ("photos", "labels", "least", "message"),
    [
        (1, None, 0.9, "at least 2 photos to build and compare; got 1"),
        (4, [0], 0.9, "one label per photo; got 1 for 4"),
        (4, None, 90, "least_agreement from 0 to 1, got 90"),
    ],
)
def test_a_wrong_calibration_is_refused(photos: int, labels: list[int] | None, least: float, message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        Calibration(make_photos(photos), labels, least)


def test_quantizing_leaves_the_root_logger_as_it_was(cache: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = list(logging.getLogger().handlers), logging.getLogger().disabled
    photos = make_photos(seed=7)
    accelerate(small(), "onnxruntime", cache, "int8", calibration=Calibration(photos, least_agreement=ANY))
    assert (list(logging.getLogger().handlers), logging.getLogger().disabled) == before
    assert capfd.readouterr() == ("", "")


def test_the_quantized_graph_is_kept_by_the_photos_that_made_it(cache: Path) -> None:
    classifier, built = small(), list[Path]()
    for seed in (1, 1, 2):
        accelerate(
            classifier, "onnxruntime", cache, "int8", on_built=lambda _, file: built.append(file),
            calibration=Calibration(make_photos(seed=seed), least_agreement=ANY),
        )  # fmt: skip
    assert built[0] == built[1] != built[2]


@pytest.mark.parametrize(("content", "event"), [(b"no network", "crashes"), (None, "needs more than 0 seconds")])
def test_a_compiler_that_crashes_or_does_not_end_is_a_refusal(
    content: bytes | None, event: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "network.onnx"
    file.write_bytes(content or b"")
    if content is None:
        monkeypatch.setattr(runtimes, "_COMPILE_SECONDS", 0)
    with pytest.raises(NetworkError, match=f"cannot run this network in int8: its compiler {event}"):
        runtimes.run_openvino_int8(file)


class _PoolChannelsLast(nn.Module):
    """Average pooling over feature maps (N, h, w, C), as transformers have it."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps.permute(0, 2, 3, 1).relu().flatten(1, 2).mean(1)


@pytest.mark.parametrize("pooling", [lambda: nn.AdaptiveMaxPool2d(1), _PoolChannelsLast])
def test_two_parts_of_a_graph_give_what_the_whole_gives(pooling: Callable[[], nn.Module], tmp_path: Path) -> None:
    classifier, file = small(pooling), tmp_path / "whole.onnx"
    runtimes.write_onnx(feature_graph(classifier), classifier.noise_input(2, 3), file, {})
    joined = tmp_path / "joined.onnx"
    before, after = split_at_feature_maps(onnx.load(file))
    onnx.save(join_parts(before, after), joined)
    inputs = classifier.noise_input(3, 5)
    for one, other in zip(
        runtimes.run_onnxruntime(file)(inputs), runtimes.run_onnxruntime(joined)(inputs), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_a_chain_of_graphs_gives_what_the_whole_gives_to_several_threads_at_once(tmp_path: Path) -> None:
    classifier, file = small(), tmp_path / "whole.onnx"
    runtimes.write_onnx(feature_graph(classifier), classifier.noise_input(2, 3), file, {})
    parts = [one.SerializeToString() for one in split_at_feature_maps(onnx.load(file))]
    chain = chain_openvino([(one, "f32") for one in parts])
    batches = [classifier.noise_input(1 + n % 3, n).numpy() for n in range(6)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda n: chain(batches[n % 6]), range(60)))
    whole = open_openvino(file)
    for n, outputs in enumerate(together):
        for one, other in zip(outputs, whole(batches[n % 6]), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


class _Beside(nn.Module):
    """Adds the mean of its input to the logits, beside the pooled feature maps."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.pool, self.head = nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Linear(8, 5)

    def forward(self, inputs: Tensor) -> Tensor:
        pooled: Tensor = self.head(self.pool(self.convolution(inputs)).flatten(1))
        return pooled + 0 * inputs.mean((1, 2, 3))[:, None]


def test_logits_that_depend_on_more_than_the_feature_maps_are_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    file = tmp_path / "beside.onnx"

    class _Graph(_Beside):
        def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
            maps = self.convolution(inputs)
            return self.head(self.pool(maps).flatten(1)) + inputs.mean((1, 2, 3))[:, None], maps

    program = torch.onnx.export(
        _Graph().eval(), (torch.zeros(2, 3, 12, 10),), dynamo=True, verbose=False,
        input_names=["inputs"], output_names=["logits", "feature_maps_0"],
    )  # fmt: skip
    assert program is not None
    program.save(file)
    with pytest.raises(NetworkError, match="its logits depend on more than its pooled feature maps"):
        split_at_feature_maps(onnx.load(file))


@pytest.mark.parametrize(("format", "name"), [("onnx", "int8.onnx"), ("openvino", "int8.xml")])
def test_an_exported_network_in_int8_sums_to_its_own_logits_and_keeps_its_loss(
    format: str, name: str, tmp_path: Path
) -> None:
    classifier, losses = small(), list[PrecisionLoss]()
    calibration = Calibration(make_photos(), least_agreement=ANY)
    file = export_network(
        classifier, tmp_path / name, format, dtype="int8", calibration=calibration, on_measured=losses.append
    )
    run = runtimes.run_onnxruntime if format == "onnx" else runtimes.run_openvino
    logits, maps = run(file)(classifier.noise_input(3, 9))
    torch.testing.assert_close(maps.sum((2, 3)) + classifier.head.bias, logits, rtol=1e-5, atol=1e-5)
    exact = torch.stack([one.logits for one in class_maps_of_batch(classifier, classifier.noise_input(3, 9))])
    assert 0 < float((logits - exact).abs().max()) < float(exact.abs().max())
    assert {path.suffix for path in tmp_path.iterdir()} <= {".onnx", ".xml", ".bin"}
    if format == "onnx":
        stored = {one.key: one.value for one in onnx.load(file).metadata_props}
        assert stored["dtype"] == "int8"
        assert json.loads(stored["difference_from_float32"]) == json.loads(losses[0].to_json())
        assert [one.name for one in onnx.load(file).graph.output] == ["logits", "maps"]


@pytest.mark.parametrize(
    ("format", "name", "how", "message"),
    [
        ("pt2", "net.pt2", {"dtype": "int8"}, 'int8 cannot be written as "pt2"'),
        ("onnx", "net.onnx", {"dtype": "int8", "finer": 2}, "int8 is written with maps on its own grid"),
        ("onnx", "net.onnx", {"dtype": "bfloat16"}, "No file is written in bfloat16. Use float32 or int8"),
    ],
)
def test_what_cannot_be_written_in_lower_precision_is_refused(
    format: str, name: str, how: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=message):
        export_network(small(), tmp_path / name, format, **how)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_a_refused_network_leaves_no_file(tmp_path: Path) -> None:
    photos = [np.full((20, 24, 3), 255 * (n % 2) // (1 + n % 3), np.uint8) for n in range(12)]
    with pytest.raises(InspectorError, match="refused in int8"):
        export_network(sensitive(), tmp_path / "net.onnx", dtype="int8", calibration=Calibration(photos))
    assert not list(tmp_path.iterdir())
