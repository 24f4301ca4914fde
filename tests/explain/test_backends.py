"""A backend gives what the network gives, is refused if it does not, and runs only the inputs it was built for."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from inspector import Classifier, class_maps_of_batch
from inspector.errors import InspectorError, NetworkError
from inspector.explain.backends import accelerate as accelerate_module
from inspector.explain.backends import build, runtimes, sessions
from inspector.explain.backends.accelerate import accelerate, find_cache_folder, with_backend
from inspector.explain.backends.export_graph import feature_graph

SIZE = (10, 12)


def noise(classifier: Classifier, images: int) -> Tensor:
    return classifier.noise_input(images, seed=3)


def network(head: nn.Module) -> nn.Module:
    """Two convolutions with BatchNorm, one of them grouped, and a ReLU6 that clamps."""
    torch.manual_seed(0)
    first, second = nn.Conv2d(3, 8, 3, bias=False), nn.Conv2d(8, 8, 3, groups=8)
    norms = [nn.BatchNorm2d(8), nn.BatchNorm2d(8, affine=False)]
    for norm in norms:
        nn.init.uniform_(norm.running_mean, -0.5, 0.5)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    return nn.Sequential(first, norms[0], nn.ReLU6(inplace=True), second, norms[1], nn.ReLU(inplace=True), head).eval()


def classifier_of(head: nn.Module) -> Classifier:
    return Classifier.wrap(network(head), size=SIZE)


def average() -> Classifier:
    return classifier_of(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)))


def maximum() -> Classifier:
    return classifier_of(nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(8, 5)))


def normalized() -> Classifier:
    return classifier_of(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(8), nn.Linear(8, 5)))


def assert_same_maps(accelerated: Classifier, original: Classifier, inputs: Tensor, rtol: float = 1e-4) -> None:
    for ours, expected in zip(
        class_maps_of_batch(accelerated, inputs), class_maps_of_batch(original, inputs), strict=True
    ):
        atol = rtol * float(expected.values.abs().max())
        torch.testing.assert_close(ours.values, expected.values, rtol=rtol, atol=atol)
        torch.testing.assert_close(ours.logits, expected.logits, rtol=rtol, atol=rtol)
        assert ours.verdict == expected.verdict != "not exact"


def runs_on_backend(classifier: Classifier, inputs: Tensor) -> bool:
    """Whether the backend runs these inputs."""
    assert classifier.capture.accelerated is not None
    return classifier.capture.accelerated(inputs) is not None


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("make", [average, maximum, normalized])
def test_a_folded_network_gives_the_same_maps_and_leaves_the_network_alone(make: Callable[[], Classifier]) -> None:
    classifier = make()
    before = {name: value.clone() for name, value in classifier.network.state_dict().items()}
    accelerated = accelerate(classifier, "folded")
    for images in (1, 2, 5):
        inputs = noise(classifier, images)
        assert runs_on_backend(accelerated, inputs)
        assert_same_maps(accelerated, classifier, inputs)
    assert classifier.capture.accelerated is None
    assert all(torch.equal(value, before[name]) for name, value in classifier.network.state_dict().items())


def test_folding_leaves_no_batch_norm_and_puts_the_channels_last() -> None:
    graph = runtimes.fold_batchnorm(feature_graph(average()))
    assert not [node for node in graph.network.graph.nodes if "batch_norm" in str(node.target)]
    weights = [value for value in graph.state_dict().values() if value.ndim == 4 and value.shape[1] > 1]
    assert weights
    assert all(value.is_contiguous(memory_format=torch.channels_last) for value in weights)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_other_runtimes_give_the_same_maps_to_several_threads_at_once(backend: str, cache: Path) -> None:
    classifier = average()
    accelerated = accelerate(classifier, backend, cache)
    assert accelerated.capture.accelerated.status == f"Running on {backend}."
    batches = [noise(classifier, 1 + n % 3) * (1 + n) for n in range(12)]
    expected = [class_maps_of_batch(accelerated, inputs) for inputs in batches]
    for inputs in batches[:3]:
        assert_same_maps(accelerated, classifier, inputs)
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda n: class_maps_of_batch(accelerated, batches[n % 12]), range(120)))
    for n, found in enumerate(together):
        for one, alone in zip(found, expected[n % 12], strict=True):
            assert torch.equal(one.values, alone.values)
            assert torch.equal(one.logits, alone.logits)


def test_a_head_whose_weight_depends_on_the_image_is_split_on_feature_maps_of_openvino(cache: Path) -> None:
    classifier = normalized()
    assert_same_maps(accelerate(classifier, "openvino", cache), classifier, noise(classifier, 2))


def test_a_compiled_network_gives_the_same_maps() -> None:
    # A very small network: it is compiled twice, for one image and for any number.
    torch.manual_seed(0)
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3))
    classifier = Classifier.wrap(nn.Sequential(nn.Conv2d(3, 2, 1), *head).eval(), size=SIZE)
    accelerated = accelerate(classifier, "compiled")
    assert_same_maps(accelerated, classifier, noise(classifier, 4))


def test_in_lower_precision_maps_still_sum_to_the_logits_which_change_little() -> None:
    classifier = average()
    accelerated = accelerate(classifier, "folded", dtype=torch.bfloat16)
    inputs = noise(classifier, 3)
    for ours, expected in zip(
        class_maps_of_batch(accelerated, inputs), class_maps_of_batch(classifier, inputs), strict=True
    ):
        assert ours.values.dtype == ours.logits.dtype == torch.float32
        assert ours.verdict == "exact"
        assert 0 < float((ours.logits - expected.logits).abs().max()) < 0.1 * float(expected.logits.abs().max())


@pytest.mark.parametrize("change", ["in place", "data", "replaced", "loaded", "statistics"])
def test_a_network_that_was_changed_runs_on_pytorch(change: str) -> None:
    classifier = average()
    accelerated, inputs = accelerate(classifier, "folded"), noise(classifier, 2)
    convolution = classifier.network[0]
    with torch.no_grad():
        if change == "in place":
            convolution.weight.mul_(2)
        elif change == "data":
            convolution.weight.data.mul_(2)
        elif change == "replaced":
            convolution.weight = nn.Parameter(convolution.weight * 2)
        elif change == "loaded":
            state = {name: value * 2 for name, value in classifier.network.state_dict().items()}
            classifier.network.load_state_dict(state)
        else:
            classifier.network[1].running_mean.add_(1)
    assert not runs_on_backend(accelerated, inputs)
    assert "was changed after folded was built" in accelerated.capture.accelerated.status


def test_another_size_runs_on_pytorch() -> None:
    classifier = average()
    accelerated = accelerate(classifier, "folded").resized((14, 16))
    inputs = noise(accelerated, 2)
    assert not runs_on_backend(accelerated, inputs)
    assert_same_maps(accelerated, classifier.resized((14, 16)), inputs, 1e-6)
    assert runs_on_backend(accelerate(accelerated, "folded"), inputs)


def test_a_backend_with_other_logits_is_refused_with_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def with_error(graph: nn.Module, dtype: torch.dtype) -> runtimes.Run:
        run = runtimes.run_folded(graph, dtype)
        return lambda inputs: [one * 1.001 for one in run(inputs)]

    monkeypatch.setitem(build._RUN_GRAPH, "folded", with_error)
    with pytest.raises(NetworkError, match=r"is refused: its logits differ from the network's by [\d.e-]+; at most"):
        accelerate(average(), "folded")


def test_a_backend_whose_logits_are_not_those_of_its_maps_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def with_error(graph: nn.Module, dtype: torch.dtype) -> runtimes.Run:
        run = runtimes.run_folded(graph, dtype)
        return lambda inputs: [one + 5e-5 * one.abs().max() * (n == 0) for n, one in enumerate(run(inputs))]

    monkeypatch.setitem(build._RUN_GRAPH, "folded", with_error)
    with pytest.raises(NetworkError, match=r"its class maps sum to its logits with a residual of [\d.e-]+, more"):
        accelerate(average(), "folded")


def test_built_networks_are_cached_and_broken_files_are_built_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier, built = average(), []
    write = runtimes.write_onnx
    monkeypatch.setattr(runtimes, "write_onnx", lambda *args: (built.append(1), write(*args)))
    accelerate(classifier, "onnxruntime", tmp_path)
    (file,) = tmp_path.iterdir()
    accelerate(average(), "onnxruntime", tmp_path)
    assert len(built) == 1
    # Another network with equal weights.
    assert build._cache_key(maximum()) != build._cache_key(classifier)
    file.write_bytes(b"half of a fi")
    assert_same_maps(accelerate(classifier, "onnxruntime", tmp_path), classifier, noise(classifier, 2))
    assert len(built) == 2
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_a_cache_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    classifier = average()
    assert_same_maps(
        accelerate(classifier, "onnxruntime", tmp_path / "file" / "cache"), classifier, noise(classifier, 1)
    )


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("INSPECTOR_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert find_cache_folder() == tmp_path / "inspector"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert find_cache_folder() == Path.home() / ".cache" / "inspector"
    monkeypatch.setenv("INSPECTOR_CACHE", str(tmp_path / "own"))
    assert find_cache_folder() == tmp_path / "own"


def test_auto_runs_on_pytorch_until_the_backend_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    ready = threading.Event()

    def wait_and_run(graph: nn.Module, dtype: torch.dtype) -> runtimes.Run:
        assert ready.wait(60)
        return runtimes.run_folded(graph, dtype)

    monkeypatch.setitem(build._RUN_GRAPH, "folded", wait_and_run)
    monkeypatch.setattr(accelerate_module.importlib.util, "find_spec", lambda name: None)
    classifier = average()
    accelerated, inputs = accelerate(classifier), noise(classifier, 2)
    assert not runs_on_backend(accelerated, inputs)
    assert_same_maps(accelerated, classifier, inputs, 1e-6)
    assert accelerated.capture.accelerated.status == "Running on PyTorch while folded is being built."
    ready.set()
    assert accelerated.capture.accelerated.wait(60)
    assert runs_on_backend(accelerated, inputs)
    assert_same_maps(accelerated, classifier, inputs)
    assert accelerated.capture.accelerated.status == "Running on folded."


def test_auto_builds_after_its_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerate_module.importlib.util, "find_spec", lambda name: None)
    classifier = average()
    accelerated, never = (accelerate(classifier, delay=delay) for delay in (0.2, 1000))
    assert not accelerated.capture.accelerated.wait(0)
    deadline = time.monotonic() + 60
    while not accelerated.capture.accelerated.wait(0) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert runs_on_backend(accelerated, noise(classifier, 1))
    assert not never.capture.accelerated.wait(0)


class Undecided(nn.Module):
    """What it computes depends on the values of the image, which torch.export does not follow."""

    def __init__(self, own: nn.Module) -> None:
        super().__init__()
        self.own = own

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.own(inputs) if inputs.isfinite().all() else inputs.flatten(1)
        return logits


def test_auto_stays_on_pytorch_if_nothing_can_be_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerate_module.importlib.util, "find_spec", lambda name: None)
    classifier = Classifier.wrap(Undecided(average().network), size=SIZE)
    accelerated = accelerate(classifier)
    assert not accelerated.capture.accelerated.wait(60)
    assert_same_maps(accelerated, classifier, noise(classifier, 1), 1e-6)
    status = accelerated.capture.accelerated.status
    assert status.startswith("Running on PyTorch, because folded could not be built: "), status


def test_class_maps_name_their_backend(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSPECTOR_CACHE", str(cache))
    classifier = average()
    inputs = noise(classifier, 1)

    def backend_of(one: Classifier) -> str:
        return class_maps_of_batch(one, inputs)[0].backend

    assert backend_of(classifier) == "eager"
    for accelerated in (
        accelerate(classifier, "onnxruntime", cache),
        accelerate(classifier, "folded", dtype=torch.bfloat16),
    ):
        (maps,) = class_maps_of_batch(accelerated, inputs)
        again = with_backend(classifier, maps.backend)
        assert backend_of(again) == maps.backend
        assert torch.equal(class_maps_of_batch(again, inputs)[0].values, maps.values)
    assert maps.backend == "folded bfloat16"
    assert backend_of(with_backend(accelerated, "eager")) == "eager"
    (other,) = class_maps_of_batch(accelerated, noise(classifier.resized(48), 1))
    assert other.backend == "eager"
    with pytest.raises(NetworkError, match="No backend runs in float8"):
        with_backend(classifier, "folded float8")


def test_the_oldest_input_shape_is_dropped_when_a_fifth_comes() -> None:
    cache: dict[int, int] = {}
    built: list[int] = []

    def get(key: int) -> int:
        return sessions.get_or_make(cache, key, lambda: built.append(key) or -key)  # type: ignore[func-returns-value]

    assert [get(key) for key in (1, 2, 3, 4, 1, 5, 2, 1)] == [-1, -2, -3, -4, -1, -5, -2, -1]
    assert built == [1, 2, 3, 4, 5, 1]


def test_eager_removes_the_backend() -> None:
    assert accelerate(accelerate(average(), "folded"), "eager").capture.accelerated is None


class Sum(nn.Module):
    def forward(self, maps: Tensor) -> Tensor:
        return maps.sum((2, 3))


@pytest.mark.parametrize(
    ("backend", "dtype", "message"),
    [
        ("tensorflow", torch.float32, "No backend 'tensorflow'. Use one of auto, eager, folded"),
        ("folded", torch.int16, "No backend runs in int16"),
        ("openvino", torch.float16, "'openvino' does not run in float16. Use float32 or int8 or bfloat16"),
    ],
)
def test_an_unknown_backend_or_dtype_is_refused(backend: str, dtype: torch.dtype, message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        accelerate(average(), backend, dtype=dtype)


def test_without_a_gpu_cuda_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(NetworkError, match=r'"cuda" needs an NVIDIA GPU .* Use "openvino" on a CPU'):
        accelerate(average(), "cuda")


def test_without_a_compiler_compiled_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes.shutil, "which", lambda name: None)
    with pytest.raises(NetworkError, match=r'"compiled" needs a C\+\+ compiler, and none was found'):
        accelerate(average(), "compiled")


def test_without_its_library_a_backend_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with pytest.raises(InspectorError, match=r"needs openvino .* pip install 'class-map-inspector\[quick\]'"):
        accelerate(average(), "openvino", tmp_path)


def test_a_pooling_with_a_derivative_and_a_network_in_double_are_refused() -> None:
    with pytest.raises(NetworkError, match="linear pooling of this network is split by its derivative"):
        accelerate(classifier_of(nn.Sequential(Sum(), nn.Linear(8, 5))), "folded")
    classifier = average()
    double = Classifier.wrap(classifier.network.double(), size=SIZE)
    with pytest.raises(NetworkError, match=r"networks in float32; this one is in torch.float64"):
        accelerate(replace(double), "folded")


@pytest.mark.parametrize("backend", ["folded", "onnxruntime"])
def test_a_flattened_head_runs_on_a_backend(backend, tmp_path):
    original = classifier_of(nn.Sequential(nn.Flatten(), nn.Linear(8 * 6 * 8, 5)))
    accelerated = accelerate(original, backend, tmp_path)
    inputs = original.noise_input(2)
    assert runs_on_backend(accelerated, inputs)
    assert_same_maps(accelerated, original, inputs)
