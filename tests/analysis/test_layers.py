"""The list of layers, their feature maps, and the contributions of channels to a logit."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from changeable_network import Mixed
from torch import Tensor, nn

from inspector import Classifier, class_maps, load
from inspector.analysis.channels import (
    compute_channel_contributions,
    compute_pooled_values,
    find_classes_with_highest_weight,
)
from inspector.analysis.layers import (
    LayerMaps,
    compute_channel_statistics,
    compute_layer_contributions,
    compute_layer_maps,
    find_layer,
    find_pooled_layer,
    is_pooled,
    list_layers,
)
from inspector.errors import NetworkError
from inspector.explain.tracing.module_hooks import output_and_gradient
from inspector.images.photo import read_image
from inspector.images.preprocessing import make_view


class Twice(nn.Module):
    """A ReLU6 that runs twice, in place, once inside a block; then average pooling and Linear. By hand throughout."""

    def __init__(self, pooling: nn.Module | None = None) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 2, 1, bias=False)
        self.act = nn.ReLU6(inplace=True)
        self.block = nn.Sequential(nn.Conv2d(2, 2, 2, stride=2, bias=False))
        self.pooling = pooling or nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(2, 3)
        with torch.no_grad():
            # Red ten times, and never anything: less than no green.
            self.stem.weight.copy_(torch.tensor([[10.0, 0, 0], [0, -1, 0]]).view(2, 3, 1, 1))
            self.block[0].weight.copy_(torch.tensor([[0.25, 0], [-0.5, 0]])[..., None, None].expand(2, 2, 2, 2))
            self.linear.weight.copy_(torch.tensor([[1.0, 2], [0, -1], [3, 0.5]]))
            self.linear.bias.copy_(torch.tensor([0.5, 0, -1]))

    def forward(self, inputs: Tensor) -> Tensor:
        maps = self.block(self.act(self.stem(inputs)))
        return self.linear(self.pooling(self.act(maps)).flatten(1))


@pytest.fixture
def photo() -> np.ndarray:
    """Red 1 at the top left corner, 0.2 in the rest of the top half, none below; green everywhere."""
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[..., 1] = 255
    pixels[:2, :, 0] = 51
    pixels[0, 0, 0] = 255
    return pixels


def wrap(network: nn.Module, size: int = 4) -> Classifier:
    return Classifier.wrap(network.eval(), size=size, mean=(0.0,) * 3, std=(1.0,) * 3)


def test_layers_are_listed_with_blocks_before_what_is_inside_and_every_run():
    layers = list_layers(wrap(Twice()))
    assert [layer.label for layer in layers] == [
        "stem", "act (run 1)", "block", "block.0", "act (run 2)", "pooling", "linear",
    ]  # fmt: skip
    assert [layer.size for layer in layers] == [
        (2, 4, 4), (2, 4, 4), (2, 2, 2), (2, 2, 2), (2, 2, 2), (2, 1, 1), None,
    ]  # fmt: skip
    assert [layer.kind for layer in layers[:3]] == ["Conv2d", "ReLU6", "Sequential"]
    assert [layer.ceiling for layer in layers[:3]] == [None, 6.0, None]
    block = layers[2].field
    assert (block.y.centre, block.y.stride, block.y.size) == (1, 2, 2)


def test_a_layer_is_captured_in_the_requested_run_before_an_in_place_op_changes_it(photo):
    classifier = wrap(Twice())
    stem = compute_layer_maps(classifier, photo, "stem").maps
    assert torch.allclose(stem[0, 0], torch.tensor([10.0, 2, 2, 2]))  # above 6: the ReLU6 in place came later
    assert torch.equal(stem[1], torch.full((4, 4), -1.0))
    first = compute_layer_maps(classifier, photo, "act").maps
    assert torch.allclose(first[0, 0], torch.tensor([6.0, 2, 2, 2]))
    assert torch.allclose(compute_layer_maps(classifier, photo, "block").maps[0, 0], torch.tensor([3.0, 2]))
    assert torch.allclose(compute_layer_maps(classifier, photo, "act (run 2)").maps[1], torch.zeros(2, 2))


def test_dead_and_saturated_channels_are_counted(photo):
    statistics = compute_channel_statistics(compute_layer_maps(wrap(Twice()), photo, "act"))
    assert statistics.dead.tolist() == [False, True]
    assert statistics.saturated.tolist() == [1 / 16, 0]
    assert statistics.zeros.tolist() == [0.5, 1]
    assert statistics.highest.tolist() == [6, 0]
    assert statistics.mean.tolist() == pytest.approx([(6 + 7 * 2) / 16, 0])


def test_depth_pooling_is_the_mean_and_the_highest_over_the_channels(photo):
    layer_maps = compute_layer_maps(wrap(Twice()), photo, "stem")
    assert torch.allclose(layer_maps.pool_channels("average")[0], torch.tensor([4.5, 0.5, 0.5, 0.5]))
    assert torch.allclose(layer_maps.pool_channels("max")[3], torch.zeros(4))
    assert layer_maps.has_negatives


def test_the_pooled_layer_is_found_by_its_shape_and_its_contributions_are_exact(photo):
    classifier = wrap(Twice())
    maps, layers = class_maps(classifier, photo), list_layers(classifier)
    layer_maps = compute_layer_maps(classifier, photo, find_pooled_layer(classifier, layers))
    assert layer_maps.layer.label == "act (run 2)"
    assert is_pooled(maps, layer_maps)
    contributions = compute_layer_contributions(maps, layer_maps, 2)
    # Mean of 3, 2, 0, 0 times the weight 3; the other channel is dead.
    assert contributions.kind == "exact"
    assert contributions.values.tolist() == pytest.approx([3.75, 0])
    assert float(contributions.values.sum()) == pytest.approx(float(maps.logits[2] - maps.bias[2]))


def test_elsewhere_contributions_are_gradient_times_activation(photo):
    classifier = wrap(Twice())
    maps = class_maps(classifier, photo)
    contributions = compute_layer_contributions(maps, compute_layer_maps(classifier, photo, "act"), 0)
    # Each cell adds to one of four pooled cells with weight 0.25, and each of these to the logit with 1 / 4.
    assert contributions.kind == "first order"
    assert contributions.values.tolist() == pytest.approx([(6 + 7 * 2) * 0.25 / 4, 0])
    # The stem's corner is cut off at 6: it moves nothing.
    stem = compute_layer_contributions(maps, compute_layer_maps(classifier, photo, "stem"), 0)
    assert stem.values.tolist() == pytest.approx([7 * 2 * 0.25 / 4, 0])


@pytest.mark.parametrize("name", ["fashion_gap", "fashion_gmp"])
def test_before_the_pooling_gradient_times_activation_is_the_exact_contribution(name):
    classifier = load(name)
    photo = np.random.default_rng(0).integers(0, 256, (28, 28, 3), dtype=np.uint8)
    maps = class_maps(classifier, photo)
    layer_maps = compute_layer_maps(classifier, photo, find_pooled_layer(classifier, list_layers(classifier)))
    exact = compute_layer_contributions(maps, layer_maps, 3)
    output, gradient = output_and_gradient(
        classifier.network, classifier.inputs(maps.view), layer_maps.layer.name, layer_maps.layer.run, 3
    )
    assert exact.kind == "exact"
    assert torch.allclose((output * gradient)[0].sum((1, 2)), exact.values, atol=1e-5)


def test_a_gradient_agrees_with_finite_differences(photo):
    classifier = wrap(Twice())
    inputs = classifier.inputs(make_view(read_image(photo), classifier.preprocessing))
    _, gradient = output_and_gradient(classifier.network, inputs, "stem", 0, 1)
    weight, step = classifier.network.stem.weight, 1e-2
    slopes = []
    for sign in (1, -1):
        with torch.no_grad():
            weight[0, 0] += sign * step
            slopes.append(float(classifier.network(inputs)[0, 1]))
            weight[0, 0] -= sign * step
    # Moving the red weight moves the first map by the red of each cell.
    expected = (slopes[0] - slopes[1]) / (2 * step)
    assert float((gradient[0, 0] * inputs[0, 0]).sum()) == pytest.approx(expected, rel=1e-3)


class ChannelsLast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 5, 2, stride=2)
        self.norm = nn.LayerNorm(5)
        self.tokens = nn.Flatten(1, 2)
        self.mix = nn.Linear(5, 7)
        self.head = nn.Linear(7, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        maps = self.norm(self.patches(inputs).permute(0, 2, 3, 1))
        return self.head(self.mix(self.tokens(maps)).mean(1))


def test_channels_last_and_tokens_are_laid_out_as_maps():
    torch.manual_seed(0)
    classifier = Classifier.wrap(ChannelsLast().eval(), size=(8, 12))
    layers = list_layers(classifier)
    assert [layer.size for layer in layers] == [(5, 4, 6), (5, 4, 6), (5, 4, 6), (7, 4, 6), None]
    image = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    norm, tokens = (compute_layer_maps(classifier, image, name).maps for name in ("norm", "tokens"))
    patches = compute_layer_maps(classifier, image, "patches").maps
    by_hand = torch.layer_norm(patches.permute(1, 2, 0), (5,)).permute(2, 0, 1)
    assert torch.allclose(norm, by_hand, atol=1e-5)
    assert torch.equal(tokens, norm)
    # At another size the tokens lie on another grid, of which only their number is known.
    larger = compute_layer_maps(classifier.resized((12, 18)), image, find_layer(layers, "tokens"))
    assert larger.maps.shape == (5, 6, 9)
    layer_maps = compute_layer_maps(classifier, image, "mix")
    maps = class_maps(classifier, image)
    assert torch.allclose(compute_layer_contributions(maps, layer_maps, 1).values, maps.channels(1))


def test_a_layer_that_does_not_exist_or_has_no_maps_is_refused(photo):
    classifier = wrap(Twice())
    with pytest.raises(NetworkError, match=r"No layer 'stam'\. Nearest names: stem"):
        compute_layer_maps(classifier, photo, "stam")
    with pytest.raises(NetworkError, match=r"linear returns a tensor \(1, 3\). Expected feature maps"):
        compute_layer_maps(classifier, photo, "linear")
    with pytest.raises(NetworkError, match="Layer 'act' returned no floating-point tensor in run 3"):
        output_and_gradient(classifier.network, torch.zeros(1, 3, 4, 4), "act", 2, 0)


def read_state(network: nn.Module) -> list[object]:
    """All that a pass could leave behind."""
    tensors = [*network.parameters(), *network.buffers()]
    return [
        [module.training for module in network.modules()],
        [(len(m._forward_hooks), len(m._forward_pre_hooks), set(vars(m))) for m in network.modules()],
        [(tensor.tolist(), tensor._version, tensor.requires_grad) for tensor in tensors],
        [None if tensor.grad is None else tensor.grad.tolist() for tensor in tensors],
    ]


def test_the_network_comes_back_as_it_was_also_after_an_error(pixels):
    network = Mixed()
    classifier = Classifier.wrap(network, size=8)
    before = read_state(network)
    layers = list_layers(classifier)
    maps = class_maps(classifier, pixels)
    for layer in layers:
        if layer.size is not None:
            compute_layer_contributions(maps, compute_layer_maps(classifier, pixels, layer), 1)
    assert read_state(network) == before
    network.break_it = True
    before = read_state(network)
    compute_layer_maps(classifier, pixels, layers[0])  # the pass ends before anything breaks
    assert read_state(network) == before
    with pytest.raises(NetworkError, match="broken on purpose"):
        compute_layer_maps(classifier, pixels, layers[-1])
    with pytest.raises(NetworkError, match="broken on purpose"):
        output_and_gradient(network, classifier.inputs(maps.view), "conv", 0, 0)
    assert read_state(network) == before
    assert torch.is_grad_enabled()


class NotCopyable(Twice):
    def __deepcopy__(self, memo: object) -> nn.Module:
        raise TypeError("not to be copied")


@pytest.mark.parametrize("network", [Twice, NotCopyable])
def test_threads_on_one_network_capture_only_their_own_pass(network):
    classifier = wrap(network())
    layers = list_layers(classifier)
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (4, 4, 3), dtype=np.uint8) for _ in range(12)]
    wanted = [find_layer(layers, label) for label in ("stem", "act (run 1)", "block", "act (run 2)")]

    def work(n: int) -> tuple[Tensor, Tensor]:
        torch.set_num_threads(1)
        layer_maps = compute_layer_maps(classifier, images[n % 12], wanted[n % 4])
        return layer_maps.maps, compute_layer_contributions(
            class_maps(classifier, images[n % 12]), layer_maps, n % 3
        ).values

    alone = [work(n) for n in range(12)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(work, range(240)))
    for n, found in enumerate(together):
        for one, expected in zip(found, alone[n % 12], strict=True):
            assert torch.equal(one, expected)


def test_rows_of_channel_contributions_sum_to_the_logit(photo):
    maps = class_maps(wrap(Twice()), photo)
    contributions = compute_channel_contributions(maps, 2)
    assert [(line.text, line.channel) for line in contributions.list_rows(1)] == [
        ("bias", None), ("channel 0", 0), ("1 other channel", None),
    ]  # fmt: skip
    assert [line.value for line in contributions.list_rows(1)] == pytest.approx([-1, 3.75, 0])
    assert [line.after for line in contributions.list_rows(1)] == pytest.approx([-1, 2.75, 2.75])
    assert contributions.total == pytest.approx(float(maps.logits[2]))
    assert torch.allclose(contributions.weight * contributions.pooled, contributions.parts)
    assert [line.text for line in contributions.list_rows(5)] == ["bias", "channel 0", "channel 1"]


@pytest.mark.parametrize("pooling", [nn.AdaptiveAvgPool2d(1), nn.AdaptiveMaxPool2d(1), nn.Flatten()])
@pytest.mark.parametrize("against", [None, 2, "average"])
def test_channel_contributions_sum_to_their_total_for_every_pooling(pooling, against, photo):
    network = Twice(pooling)
    if isinstance(pooling, nn.Flatten):
        torch.manual_seed(0)
        network.linear = nn.Linear(8, 3)
    maps = class_maps(wrap(network), photo)
    contributions = compute_channel_contributions(maps, 1, against)
    logits = maps.logits.tolist()
    other = {None: 0, 2: logits[2], "average": sum(logits) / 3}[against]
    assert contributions.total == pytest.approx(logits[1] - other, abs=1e-5)
    assert contributions.list_rows(1)[-1].after == pytest.approx(contributions.total, abs=1e-5)
    assert (contributions.weight is None) == isinstance(pooling, nn.Flatten)
    if isinstance(pooling, nn.AdaptiveMaxPool2d):
        assert compute_pooled_values(maps).tolist() == pytest.approx([3, 0])


def test_the_classes_with_the_highest_weight_for_a_channel_are_listed(photo):
    maps = class_maps(wrap(Twice()), photo)
    assert find_classes_with_highest_weight(maps, 0, 2) == [(2, "class 2", 3.0), (0, "class 0", 1.0)]


def test_without_a_known_receptive_field_the_cells_divide_inputs_of_every_size():
    torch.manual_seed(0)

    class Lost(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.Upsample(scale_factor=0.5)
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.conv(self.up(inputs)).mean((2, 3))

    classifier = wrap(Lost(), 8)
    image = np.zeros((16, 16, 3), np.uint8)

    def centres(layer_maps: LayerMaps) -> tuple[float, float]:
        return layer_maps.receptive_field.y.centre, layer_maps.receptive_field.y.stride

    assert centres(compute_layer_maps(classifier, image, "conv")) == (1, 2)
    assert centres(compute_layer_maps(classifier.resized(16), image, "conv")) == (1, 2)
    assert compute_layer_maps(classifier.resized(16), image, "conv").maps.shape == (4, 8, 8)
