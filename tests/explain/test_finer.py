import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from inspector import Classifier, InspectorError, class_maps, class_maps_of_batch
from inspector.errors import NetworkError, PlaceError
from inspector.explain import finer as finer_module
from inspector.explain.backends.accelerate import accelerate
from inspector.explain.dilation import capture_dilated, capture_planned
from inspector.explain.finer import shift_inputs
from inspector.explain.receptive_field import Axis, ReceptiveField

SHORT = ReceptiveField(Axis(0.5, 8, 1), Axis(0.5, 8, 1))


def set_statistics(network: nn.Module, size: int = 48) -> nn.Module:
    """Give batch normalization the statistics of noise, so that deep maps differ from cell to cell."""
    network.train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        network(torch.randn(4, 3, size, size))
    return network.eval()


class Functional(nn.Module):
    """Strides in functions, modules and slices: residual blocks of four kinds, with a stride of 16 in all."""

    def __init__(self, pooling: str = "average") -> None:
        super().__init__()
        self.pooling = pooling
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(4))
        self.weights = nn.ParameterList(torch.randn(8, 8, 3, 3) / 8 for _ in range(3))
        self.depthwise = nn.Parameter(torch.randn(8, 1, 3, 3) / 2)
        self.grouped = nn.Conv2d(8, 8, 3, padding="same", groups=2)
        self.linear = nn.Linear(8, 3)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        x = self.norms[0](self.stem(inputs)).relu_()
        main = functional.conv2d(x, self.weights[0], stride=2, padding=1)
        x = self.norms[1](main + functional.avg_pool2d(x, 2, 2)).relu()
        main = functional.conv2d(functional.pad(x, (0, 1, 0, 1)), self.depthwise, stride=(2, 2), groups=8)
        x = functional.relu(self.norms[2](main) + x[:, :, ::2, ::2], inplace=True)
        main = functional.conv2d(x, self.weights[1], None, 2, 2, 2)
        x = self.norms[3](main + functional.max_pool2d(x, 3, 2, padding=1))
        x = self.grouped(x.relu()).view(x.shape[0], 2, 4, *x.shape[2:]).transpose(1, 2).reshape(x.shape)
        x += functional.conv2d(x, self.weights[2], padding=1)
        pooled = x.mean((2, 3)) if self.pooling == "average" else x.amax((2, 3))
        return self.linear(pooled)


class Gated(nn.Module):
    """Squeeze-and-excitation before the last stride."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(6, 6, 3, 2, 1)
        self.gate, self.linear = nn.Conv2d(6, 6, 1), nn.Linear(6, 3)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        x = self.first(inputs).relu()
        x = x * self.gate(x.mean((2, 3), keepdim=True)).sigmoid()
        return self.linear(self.last(x).relu().mean((2, 3)))


@pytest.fixture(scope="module", params=["average", "max"])
def classifier(request) -> Classifier:
    torch.manual_seed(0)
    return Classifier.wrap(set_statistics(Functional(request.param)), size=48).resized((240, 208), crop=False)


@pytest.fixture(scope="module")
def gated() -> Classifier:
    torch.manual_seed(0)
    return Classifier.wrap(Gated().eval(), size=32)


def noise(classifier: Classifier, images: int = 1) -> torch.Tensor:
    return classifier.noise_input(images, seed=5)


def explain_shifts(classifier: Classifier, inputs: torch.Tensor, factor: int) -> list[list[list]]:
    """Run the network itself on each shifted photo: [down][across] -> ClassMaps of each image."""
    step = round(classifier.receptive_field.y.stride / factor)
    return [
        [class_maps_of_batch(classifier, shift_inputs(inputs, p * step, q * step)) for q in range(factor)]
        for p in range(factor)
    ]


@pytest.mark.parametrize("factor", [2, 4])
def test_every_cell_is_that_of_the_network_on_the_shifted_photo(classifier, factor):
    inputs = noise(classifier, 2)
    shifts = explain_shifts(classifier, inputs, factor)
    edge = round(classifier.receptive_field.y.size / classifier.receptive_field.y.stride / 2) + 1
    inner = slice(edge, -edge)
    for _ in range(2):  # the second time by the plan
        results = class_maps_of_batch(classifier, inputs, finer=factor)
        for n, maps in enumerate(results):
            assert maps.finer.method == "dilation"
            for p in range(factor):
                for q in range(factor):
                    # Scores are what the cells hold before they are pooled, also for max pooling.
                    between = maps.finer.scores([0, 1, 2])[:, p::factor, q::factor]
                    exact = shifts[p][q][n].position_scores()
                    assert between.shape == exact.shape
                    between, exact = between[:, inner, inner], exact[:, inner, inner]
                    assert exact.numel() >= 3 * 4 * 3
                    torch.testing.assert_close(between, exact, rtol=1e-4, atol=1e-5 * float(exact.abs().max()))


@pytest.mark.parametrize("factor", [2, 4])
def test_own_cells_are_the_networks_and_all_cells_average_over_the_shifts(classifier, factor):
    inputs = noise(classifier)
    (maps,), (own,) = (class_maps_of_batch(classifier, inputs, finer=one) for one in (factor, 1))
    finer = maps.finer
    assert torch.equal(finer.values[:, ::factor, ::factor], maps.values)
    torch.testing.assert_close(maps.values, own.values, rtol=0, atol=1e-5 * float(own.values.abs().max()))
    torch.testing.assert_close(maps.logits, own.logits, rtol=1e-5, atol=1e-5)
    assert finer.logits.shape == (factor**2, 3)
    torch.testing.assert_close(finer.logits[0], maps.logits)
    torch.testing.assert_close(finer.values.sum((1, 2)) / factor**2 + finer.bias, finer.mean_logits)
    assert 0 <= finer.difference <= 1e-5
    assert finer.verdict == "exact"
    assert finer.field.y.stride * factor == classifier.receptive_field.y.stride
    assert finer.field.y.centre == classifier.receptive_field.y.centre


def test_position_scores_of_max_pooling_are_finer_too(classifier):
    (maps,) = class_maps_of_batch(classifier, noise(classifier), finer=2)
    torch.testing.assert_close(maps.finer.scores([1])[:, ::2, ::2], maps.position_scores([1]))


def test_dilation_is_proved_on_the_own_cells_and_then_planned(classifier):
    inputs, network = noise(classifier, 2), classifier.network
    _, _, plan = capture_dilated(network, inputs, classifier.head.calls, (8, 8))
    assert 0 <= plan.difference <= 1e-5
    assert len(plan.calls) == 2  # the convolution and the pooling beside it
    assert {name for name, _ in plan.calls.values()} == {"conv2d", "max_pool2d"}
    other = noise(classifier, 2) * 0.5
    expected = capture_dilated(network, other, classifier.head.calls, (8, 8))
    planned = capture_planned(network, other, classifier.head.calls, plan)
    for one, two in zip(expected, planned, strict=False):
        torch.testing.assert_close(one.logits, two.logits)
        torch.testing.assert_close(one.poolings[0].feature_maps, two.poolings[0].feature_maps)
        torch.testing.assert_close(one.poolings[0].pooled, two.poolings[0].pooled)
    assert capture_planned(network, other, classifier.head.calls, replace(plan, calls={3: ("tanh", (2, 2))})) is None


def test_squeeze_and_excitation_runs_once_per_shift_and_says_so(gated):
    inputs = noise(gated, 3)
    shifts = explain_shifts(gated, inputs, 2)
    for n, maps in enumerate(class_maps_of_batch(gated, inputs, finer=2)):
        assert maps.finer.method == "shifts"
        for p in range(2):
            for q in range(2):
                torch.testing.assert_close(maps.finer.values[:, p::2, q::2], shifts[p][q][n].values)
    assert maps.finer.describe() == (
        "2x finer by 4 passes of the shifted photo, because its cells may see the whole photo."
    )
    assert maps.finer.describe() in repr(maps)


class Resized(nn.Module):
    """Adds features that are resized to the last grid by a function with no stride."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.linear = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1), nn.Linear(4, 3)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        x = self.first(inputs).relu()
        last = self.last(x).relu()
        return self.linear((last + functional.adaptive_avg_pool2d(x, last.shape[2:])).mean((2, 3)))


class Batched(nn.Module):
    """Mixes the images of a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.linear = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1), nn.Linear(4, 3)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        x = self.last(self.first(inputs)).relu()
        return self.linear((x + x.softmax(0)).mean((2, 3)))


class Strided(nn.Module):
    """A single stride."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 4, 3, stride, 1), nn.Linear(4, 3)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.linear(self.conv(inputs).relu().mean((2, 3)))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (Resized, "its function adaptive_avg_pool2d changes the grid"),
        (Batched, "dilation gives other values in its own cells"),
    ],
)
def test_what_cannot_be_dilated_runs_once_per_shift(make, reason):
    torch.manual_seed(0)
    classifier = Classifier.wrap(make().eval(), size=32)
    (maps,) = class_maps_of_batch(classifier, noise(classifier), finer=2)
    assert maps.finer.method == "shifts"
    assert reason in maps.finer.reason
    (again,) = class_maps_of_batch(classifier, noise(classifier), finer=2)
    assert again.finer.reason == maps.finer.reason


def test_refusals_name_their_cause():
    torch.manual_seed(0)
    classifier = Classifier.wrap(Strided(6), size=36)
    assert class_maps_of_batch(classifier, noise(classifier), finer=2)[0].finer.method == "dilation"
    with pytest.raises(InspectorError, match=r"distance in pixels 4 divides; those of network are 6 x 6 pixels apart"):
        class_maps_of_batch(classifier, noise(classifier), finer=4)
    for factor in (0, 3, 8):
        with pytest.raises(InspectorError, match=rf"finer is {factor}\. Use 2 or 4"):
            class_maps_of_batch(classifier, noise(classifier), finer=factor)
    unknown = replace(classifier, receptive_field=replace(classifier.receptive_field, misplaced="they are sorted"))
    with pytest.raises(PlaceError, match=r"no finer map where the place of the cells is unknown: they are sorted\."):
        class_maps_of_batch(unknown, noise(classifier), finer=2)


def test_an_image_a_list_and_a_batch_give_the_same_finer_maps(classifier, pixels):
    small = classifier.resized(48)
    one = class_maps(small, pixels, finer=2)
    (listed,) = class_maps(small, [pixels], finer=2)
    torch.testing.assert_close(one.finer.values, listed.finer.values)
    assert one.finer.values.shape == (3, 6, 6)
    inputs = noise(small, 20)  # more than run at once with their shifts
    batch = class_maps(small, inputs, finer=4)
    (last,) = class_maps_of_batch(small, inputs[19:], finer=4)
    torch.testing.assert_close(batch[19].finer.values, last.finer.values, rtol=1e-4, atol=1e-5)


def test_the_maps_that_are_drawn_are_the_finer_ones(classifier, pixels):
    small = classifier.resized(48)
    maps, own = class_maps(small, pixels, finer=2), class_maps(small, pixels)
    class_map = maps.class_map(1, against=0, finer=True)
    assert class_map.values.shape == (6, 6)
    torch.testing.assert_close(class_map.own, own.class_map(1, against=0).values)
    assert class_map.total == pytest.approx(float(own.logits[1] - own.logits[0]), rel=1e-4)
    mean = float(maps.finer.mean_logits[1] - maps.finer.mean_logits[0])
    assert class_map.equation().endswith(f"; mean of 4 shifts {mean:.4f}".replace("-", "\N{MINUS SIGN}"))
    assert class_map.equation().startswith("own cells ")
    assert maps.class_map(1).values.shape == (3, 3)
    assert maps.figure_content(1).finer == 2
    assert own.figure_content(1).finer == 1
    assert maps.heatmap(1).shape == own.heatmap(1).shape == (20, 30)
    assert (maps.heatmap(1) != own.heatmap(1)).any()
    assert maps.overlay(1).shape == (20, 30, 3)
    assert "own cells sum to the logit" in maps.describe_reading()


def test_sixteen_threads_share_a_network_and_leave_it_unchanged():
    torch.manual_seed(0)
    network = set_statistics(Functional())
    classifier = Classifier.wrap(network, size=64)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    inputs = [noise(classifier) * n for n in range(1, 9)]
    expected = [class_maps_of_batch(classifier, one)[0].values for one in inputs]
    finer = [class_maps_of_batch(classifier, one, finer=2)[0].finer.values for one in inputs]
    finer_module._plans.clear()
    start = threading.Barrier(16)

    def work(n: int) -> bool:
        start.wait()
        if n % 2:
            return torch.allclose(class_maps_of_batch(classifier, inputs[n // 2])[0].values, expected[n // 2])
        (maps,) = class_maps_of_batch(classifier, inputs[n // 2], finer=2)
        return torch.allclose(maps.finer.values, finer[n // 2], rtol=1e-4, atol=1e-5)

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(work, range(16)))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert network.stem.stride == (2, 2)
    assert not network._forward_hooks


def test_bfloat16_is_dilated_within_its_rounding():
    torch.manual_seed(0)
    classifier = Classifier.wrap(set_statistics(Functional()).bfloat16(), size=64)
    (maps,) = class_maps_of_batch(classifier, noise(classifier), finer=2)
    assert maps.finer.method == "dilation"
    assert maps.finer.verdict == "exact"


def test_a_network_with_a_layer_norm_in_its_head_is_exact_for_each_shift():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.GELU(), nn.Conv2d(8, 8, 2, 2), nn.GELU())
    network = nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(8), nn.Linear(8, 3)).eval()
    classifier = Classifier.wrap(network, size=64)
    (maps,) = class_maps_of_batch(classifier, noise(classifier), finer=4)
    assert (maps.finer.method, maps.finer.verdict) == ("dilation", "exact for this image")
    assert maps.finer.values.shape == (3, 32, 32)
    torch.testing.assert_close(maps.finer.values.sum((1, 2)) / 16 + maps.finer.bias, maps.finer.mean_logits)


def test_a_network_that_runs_elsewhere_runs_once_per_shift(classifier):
    class Elsewhere(nn.Module):
        """Computes its feature maps where no tensor function is seen, as an ONNX file in its runtime."""

        receptive_field = classifier.receptive_field

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4, 3))

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            maps = torch.from_numpy(inputs.numpy()[:, :, ::8, ::8] * 1.0)
            return maps.mean((2, 3)) @ self.weight.T

    elsewhere = Classifier.wrap(Elsewhere(), size=64)
    elsewhere = replace(elsewhere, receptive_field=SHORT)
    (maps,) = class_maps_of_batch(elsewhere, noise(elsewhere), finer=2)
    assert maps.finer.method == "shifts"
    assert maps.finer.reason == "its last feature maps or its logits come from a function that is not followed"
    torch.testing.assert_close(maps.finer.values[0], noise(elsewhere)[0, :, ::4, ::4].sum(0) / 64)


def test_shifts_run_on_the_backend_of_the_classifier(gated):
    folded = accelerate(gated, "folded")
    (maps,) = class_maps_of_batch(folded, noise(gated), finer=2)
    (own,) = class_maps_of_batch(gated, noise(gated), finer=2)
    assert (maps.backend, own.backend) == ("folded", "eager")
    torch.testing.assert_close(maps.finer.values, own.finer.values, rtol=1e-4, atol=1e-5)


def test_a_network_that_refuses_the_input_says_so(classifier):
    with pytest.raises(NetworkError):
        class_maps_of_batch(classifier, torch.zeros(1, 5, 48, 48), finer=2)
