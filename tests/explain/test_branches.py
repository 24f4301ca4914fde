"""Poolings are found in every spelling and layout, and their maps are checked by changing one cell."""

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inspector import Classifier, class_maps_of_batch
from inspector.errors import HeadError
from inspector.explain.class_maps import ClassMaps

SIZE = (10, 14)
GRID = (5, 7)
CLASSES = 3
Pool = Callable[[Tensor], Tensor]


class Network(nn.Module):
    """Positive feature maps (N, C, h, w), a pooling, and a linear layer."""

    def __init__(self, pool: Pool, channels: int = 6, stride: int = 2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, channels, 3, stride, 1)
        self.fc = nn.LazyLinear(CLASSES)
        self.pool = pool

    def features(self, images: Tensor) -> Tensor:
        return self.conv(images).relu() + 0.1

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.pool(self.features(images)))


def network_of(pool: Pool, channels: int = 6, stride: int = 2, size: tuple[int, int] = SIZE) -> Network:
    network = Network(pool, channels, stride).eval()
    with torch.no_grad():
        network(torch.zeros(1, 3, *size))
    return network


def image(size: tuple[int, int] = SIZE, seed: int = 5) -> Tensor:
    return torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(seed))


def maps_of(network: nn.Module, size: tuple[int, int] = SIZE) -> ClassMaps:
    (maps,) = class_maps_of_batch(Classifier.wrap(network, size=size), image(size))
    return maps


def assert_right(network: Network, maps: ClassMaps, size: tuple[int, int] = SIZE, linear: bool = True) -> None:
    """Assert that the maps are those before the pooling, sum to the logits, and are what each cell contributes."""
    with torch.no_grad():
        x = network.features(image(size))
        logits = network(image(size))[0]
        torch.testing.assert_close(maps.feature_maps, x[0].repeat(len(maps.classifier.head.branches), 1, 1))
        torch.testing.assert_close(maps.logits, logits)
        torch.testing.assert_close(maps.values.sum((1, 2)) + maps.bias, logits, rtol=1e-4, atol=1e-5)
        for y, column in [(0, 0), (1, 3), (x.shape[2] - 1, x.shape[3] - 1)] if linear else []:
            without = x.clone()
            without[:, :, y, column] = 0
            change = logits - network.fc(network.pool(without))[0]
            torch.testing.assert_close(maps.values[:, y, column], change, rtol=1e-3, atol=1e-5)


def deciding_map(network: Network) -> Tensor:
    """Compute the class maps of global max pooling by hand."""
    with torch.no_grad():
        x = network.features(image())[0].flatten(1)
        at = torch.zeros_like(x).scatter_(1, x.argmax(1, keepdim=True), x.amax(1, keepdim=True))
        return (network.fc.weight @ at).unflatten(1, GRID)


MAXIMA: dict[str, Pool] = {
    "max of flattened cells": lambda x: x.flatten(2).max(2)[0],
    "values of max": lambda x: x.view(len(x), x.shape[1], -1).max(-1).values,
    "torch.max with a keyword": lambda x: torch.max(x.flatten(2), dim=-1)[0],
    "max of max": lambda x: x.max(3)[0].max(2)[0],
    "max of max, the other axis first": lambda x: x.max(2).values.max(2).values,
    "max kept, then amax": lambda x: x.max(3, keepdim=True)[0].amax(2).flatten(1),
    "topk(1)": lambda x: x.flatten(2).topk(1, 2).values.squeeze(2),
    "sorted": lambda x: x.flatten(2).sort(2, descending=True)[0][..., 0],
    "adaptive, with indices": lambda x: F.adaptive_max_pool2d(x, 1, return_indices=True)[0].flatten(1),
    "a window, with indices": lambda x: F.max_pool2d(x, GRID, return_indices=True)[0].flatten(1),
    "channels last": lambda x: x.permute(0, 2, 3, 1).flatten(1, 2).max(1)[0],
    "kthvalue": lambda x: x.flatten(2).kthvalue(35, 2).values,
}


@pytest.mark.parametrize("case", MAXIMA)
def test_a_maximum_is_found_however_it_is_written(case: str) -> None:
    network = network_of(MAXIMA[case])
    maps = maps_of(network)
    assert (maps.verdict, maps.classifier.head.pooling) == ("exact", "max")
    assert_right(network, maps, linear=False)
    torch.testing.assert_close(maps.values, deciding_map(network))


def test_class_maps_may_be_pooled_by_max() -> None:
    network = nn.Sequential(nn.Conv2d(3, CLASSES, 3, 2, 1)).eval()
    network.forward = lambda images: network[0](images).flatten(2).max(2)[0]
    maps = maps_of(network)
    assert (maps.verdict, maps.classifier.head.per_class) == ("exact", True)


PER_CHANNEL: dict[str, Pool] = {
    "mean, then amax": lambda x: x.mean(3).amax(2),
    "amax, then mean": lambda x: x.amax(2).mean(2),
    "max and mean of a mean": lambda x: (lambda y: y.max(2)[0] + y.mean(2))(x.mean(3)),
    "topk mean": lambda x: x.flatten(2).topk(5, 2).values.mean(2),
    "topk and lowest k": lambda x: (
        x.flatten(2).topk(3, 2)[0].mean(2) + 0.6 * x.flatten(2).topk(3, 2, largest=False)[0].mean(2)
    ),
    "sorted, narrowed": lambda x: x.flatten(2).sort(2, descending=True)[0].narrow(2, 0, 4).sum(2).div(4),
    "median": lambda x: x.flatten(2).median(2).values,
    "attention": lambda x: (x.mean(1).flatten(1).softmax(1)[:, None] @ x.flatten(2).transpose(1, 2)).squeeze(1),
}


@pytest.mark.parametrize("case", PER_CHANNEL)
def test_a_function_of_each_channel_is_split_by_its_derivative(case: str) -> None:
    network = network_of(PER_CHANNEL[case])
    maps = maps_of(network)
    assert maps.verdict == "exact for this image"
    assert_right(network, maps, linear=False)
    x = network.features(image()).detach().requires_grad_()
    pooled = x.mean(1).flatten(1).softmax(1).detach()[:, None] if case == "attention" else None
    logits = network.fc(network.pool(x) if pooled is None else (pooled @ x.flatten(2).transpose(1, 2)).squeeze(1))[0]
    expected = [(torch.autograd.grad(logits[k], x, retain_graph=True)[0] * x).sum(1)[0] for k in range(CLASSES)]
    torch.testing.assert_close(maps.values, torch.stack(expected).detach(), rtol=1e-4, atol=1e-6)


POWERS: dict[str, Pool] = {
    "pow": lambda x: x.pow(3).mean((2, 3)).pow(1 / 3),
    "**": lambda x: (x**3).mean((2, 3)) ** (1 / 3),
    "avg_pool2d": lambda x: F.avg_pool2d(x.pow(3), x.shape[2:]).pow(1 / 3).flatten(1),
    "flattened first": lambda x: F.adaptive_avg_pool2d(x.pow(3), 1).flatten(1).pow(1 / 3),
    "products": lambda x: (x * x * x).mean((2, 3)).pow(1 / 3),
    "one axis after the other": lambda x: x.pow(3).mean(3).mean(2).pow(1 / 3),
    "by logarithms": lambda x: ((3 * x.log()).exp().mean((2, 3)).log() / 3).exp(),
}


@pytest.mark.parametrize("case", POWERS)
def test_a_generalized_mean_is_one_pooling_in_every_spelling(case: str) -> None:
    network = network_of(POWERS[case])
    maps = maps_of(network)
    assert (maps.verdict, maps.classifier.head.pooling) == ("exact for this image", "other")
    assert_right(network, maps, linear=False)
    with torch.no_grad():
        x = network.features(image())[0]
        shares = x**3 / (x**3).sum((1, 2), keepdim=True) * (x**3).mean((1, 2), keepdim=True) ** (1 / 3)
        expected = torch.einsum("kc,chw->khw", network.fc.weight, shares)
    torch.testing.assert_close(maps.values, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "pool",
    [lambda x: x.square().mean((2, 3)).sqrt(), lambda x: (x * x).mean((2, 3)).sqrt(), lambda x: x.norm(dim=(2, 3))],
)
def test_a_root_mean_square_is_a_generalized_mean(pool: Pool) -> None:
    network = network_of(pool)
    maps = maps_of(network)
    assert (maps.verdict, maps.classifier.head.pooling) == ("exact for this image", "other")
    assert_right(network, maps, linear=False)


def nhwc(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1)


LAYOUTS: dict[str, tuple[Pool, int, tuple[int, int]]] = {
    "channels last, C == h": (lambda x: nhwc(x).mean((1, 2)), 5, (10, 14)),
    "channels last, C == w": (lambda x: nhwc(x).mean((1, 2)), 7, (10, 14)),
    "channels last, C == h == w": (lambda x: nhwc(x).mean((1, 2)), 6, (12, 12)),
    "channels last, C == h == w, one axis after the other": (lambda x: nhwc(x).mean(1).mean(1), 6, (12, 12)),
    "channels first, C == h == w": (lambda x: x.mean((2, 3)), 6, (12, 12)),
    "cells on one axis, C == h * w": (lambda x: x.flatten(2).mean(2), 36, (12, 12)),
    "tokens, C == h * w": (lambda x: x.flatten(2).transpose(1, 2).mean(1), 36, (12, 12)),
    "flattened": (lambda x: x.flatten(1), 6, (10, 14)),
    "flattened, C == h": (lambda x: x.flatten(1), 5, (10, 14)),
    "flattened with the channels last": (lambda x: nhwc(x).flatten(1), 6, (10, 14)),
    "flattened with the channels last, C == w": (lambda x: nhwc(x).reshape(len(x), -1), 7, (10, 14)),
    "flattened tokens": (lambda x: x.flatten(2).transpose(1, 2).flatten(1), 6, (10, 14)),
    "flattened cells": (lambda x: x.flatten(2).flatten(1), 6, (10, 14)),
    "einsum with the weights first": (lambda x: torch.einsum("hw,nchw->nc", torch.ones(5, 7), x), 6, (10, 14)),
}


@pytest.mark.parametrize("case", LAYOUTS)
def test_a_layout_is_the_one_that_explains_the_numbers(case: str) -> None:
    pool, channels, size = LAYOUTS[case]
    network = network_of(pool, channels, size=size)
    maps = maps_of(network, size)
    assert maps.verdict == "exact"
    assert_right(network, maps, size)


def test_flattened_maps_with_the_channels_last_are_split_for_a_head_that_depends_on_the_image() -> None:
    network = network_of(lambda x: nhwc(x).flatten(1))
    network.fc = nn.Sequential(nn.LayerNorm(210), nn.Linear(210, CLASSES)).eval()
    maps = maps_of(network)
    assert maps.verdict == "exact for this image"
    torch.testing.assert_close(maps.values.sum((1, 2)) + maps.bias, network(image())[0].detach(), rtol=1e-4, atol=1e-5)
    for k in range(CLASSES):
        torch.testing.assert_close(maps.parts(k).sum(0), maps.values[k], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pool", [lambda x: F.adaptive_avg_pool2d(x, 1).flatten(1), lambda x: x.amax((2, 3))])
def test_maps_of_one_cell_are_maps(pool: Pool) -> None:
    network = network_of(pool, stride=16)
    maps = maps_of(network)
    assert (maps.verdict, maps.values.shape) == ("exact", (CLASSES, 1, 1))
    torch.testing.assert_close(maps.values[:, 0, 0], network.fc.weight @ network.features(image())[0, :, 0, 0])


def normalize_by_hand(x: Tensor) -> Tensor:
    """LayerNorm over (N, 1, 1, C), which is no map of 1 x C cells."""
    x = nhwc(F.adaptive_avg_pool2d(x, 1))
    centered = x - x.mean(-1, keepdim=True)
    return (centered / (centered.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()).flatten(1)


@pytest.mark.parametrize("channels", [6, 35, 36])
def test_a_norm_of_pooled_values_is_no_pooling(channels: int) -> None:
    network = network_of(normalize_by_hand, channels)
    maps = maps_of(network)
    assert maps.values.shape == (CLASSES, *GRID)
    assert maps.classifier.head.pooling == "average"
    torch.testing.assert_close(maps.values.sum((1, 2)) + maps.bias, network(image())[0].detach(), rtol=1e-4, atol=1e-4)


def test_pooled_values_that_are_concatenated_are_no_maps_of_one_cell() -> None:
    network = network_of(lambda x: torch.cat([F.adaptive_avg_pool2d(x, 1), F.adaptive_max_pool2d(x, 1)], 1).flatten(1))
    maps = maps_of(network)
    assert (maps.verdict, maps.classifier.head.pooling) == ("exact", "average + max")


STORED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "subtracted": lambda x, mean: (F.adaptive_avg_pool2d(x, 1) - mean).flatten(1),
    "divided": lambda x, mean: (F.adaptive_avg_pool2d(x, 1) / (mean + 2)).flatten(1),
    "batch norm": lambda x, mean: F.batch_norm(F.adaptive_avg_pool2d(x, 1), mean.flatten(), mean.flatten() + 1).flatten(
        1
    ),
    "scaled by a number": lambda x, mean: (F.adaptive_avg_pool2d(x, 1) * mean[:, :1]).flatten(1),
}


@pytest.mark.parametrize("case", STORED)
def test_pooled_values_that_are_normalized_by_buffers_are_no_maps_of_one_cell(case: str) -> None:
    stored = torch.rand(1, 6, 1, 1, generator=torch.Generator().manual_seed(1))
    network = network_of(lambda x: STORED[case](x, stored))
    maps = maps_of(network)
    assert (maps.verdict, maps.values.shape) == ("exact", (CLASSES, *GRID))
    torch.testing.assert_close(maps.values.sum((1, 2)) + maps.bias, network(image())[0].detach(), rtol=1e-4, atol=1e-5)


def test_the_exponent_of_a_generalized_mean_may_be_a_buffer() -> None:
    exponent = torch.tensor(3.0)
    network = network_of(lambda x: x.pow(exponent).mean((2, 3)).pow(1 / exponent))
    maps = maps_of(network)
    assert (maps.verdict, maps.classifier.head.pooling) == ("exact for this image", "other")


# --- frozen backbones


class Frozen(Network):
    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            pooled = self.pool(self.features(images))
        return self.fc(pooled)


class Detached(Network):
    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.pool(self.features(images)).detach())


class Data(Network):
    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.pool(self.features(images)).data)


class NoGrad(Network):
    forward = torch.no_grad()(Network.forward)


class Inference(Network):
    forward = torch.inference_mode()(Network.forward)


@pytest.mark.parametrize("kind", [Frozen, Detached, Data, NoGrad, Inference])
@pytest.mark.parametrize("with_norm", [False, True])
def test_a_network_may_compute_without_gradients(kind: type[Network], with_norm: bool) -> None:
    network = kind(lambda x: x.mean((2, 3))).eval()
    network.fc = nn.Sequential(nn.LayerNorm(6), nn.Linear(6, CLASSES)).eval() if with_norm else nn.Linear(6, CLASSES)
    maps = maps_of(network)
    assert maps.verdict == ("exact for this image" if with_norm else "exact")
    assert_right(network, maps, linear=not with_norm)
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


# --- branches that see no part of the image


class TwoImages(nn.Module):
    """A second image goes through layers of its own."""

    def __init__(self, second: Tensor) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(1, 4, 3, 2, 1)
        self.fc, self.image = nn.Linear(8, CLASSES), second

    def forward(self, images: Tensor) -> Tensor:
        stored = self.image.expand(len(images), -1, -1, -1)
        return self.fc(torch.cat([self.first(images).mean((2, 3)), self.second(stored).amax((2, 3))], 1))


@pytest.mark.parametrize("store", [lambda x: x, nn.Parameter, nn.Buffer])
def test_a_second_image_that_the_network_stores_is_part_of_the_bias(store: Callable[[Tensor], Tensor]) -> None:
    network = TwoImages(store(torch.rand(1, 1, *SIZE))).eval()
    maps = maps_of(network)
    assert (maps.verdict, maps.classifier.head.pooling) == ("exact", "average")
    expected = torch.einsum("kc,chw->khw", network.fc.weight[:, :4], network.first(image())[0]) / 35
    torch.testing.assert_close(maps.values, expected.detach())
    torch.testing.assert_close(maps.values.sum((1, 2)) + maps.bias, network(image())[0].detach())


# --- true reasons


class Volume(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv3d(3, 4, 3, 2, 1), nn.Linear(4, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        frames = images[:, :, None].expand(-1, -1, 4, -1, -1)
        return self.fc(F.adaptive_avg_pool3d(self.conv(frames), 1).flatten(1))


class Signal(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv1d(3, 4, 3, 2, 1), nn.Linear(4, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(F.adaptive_avg_pool1d(self.conv(images[:, :, 0]), 1).flatten(1))


class EarlyExit(Network):
    """Large images leave early."""

    def forward(self, images: Tensor) -> Tensor:
        maps = self.features(images)
        return self.fc(maps.mean((2, 3))) if images.abs().max() > 50 else self.fc(maps.relu().amax((2, 3)))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 2, 2), nn.Linear(8, CLASSES)
        self.attention, self.query = nn.MultiheadAttention(8, 2), nn.Parameter(torch.randn(1, 1, 8))

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.conv(images).flatten(2).permute(2, 0, 1)
        pooled, _ = self.attention(self.query.expand(-1, len(images), -1), tokens, tokens)
        return self.fc(pooled[0])


def random_network() -> nn.Module:
    return network_of(lambda x: F.dropout(x.mean((2, 3))))


def script(network: nn.Module) -> nn.Module:
    with warnings.catch_warnings(action="ignore", category=FutureWarning):
        return torch.jit.script(network)


def two_crops() -> nn.Module:
    network = network_of(lambda x: x.mean((2, 3)))
    plain = network.forward
    network.forward = lambda images: plain(torch.cat([images, images.flip(3)])).unflatten(0, (2, -1)).mean(0)
    return network


REASONS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "a volume": (Volume, r"pools over three axes"),
    "a signal": (Signal, r"pools a sequence, whose cells lie on one axis"),
    "random": (random_network, r"^The network's output is random"),
    "two images of one": (two_crops, r"^The network makes 2 images of one"),
    "attention pooling": (Attention, r"attention takes the feature maps to the logits"),
    "TorchScript": (
        lambda: script(nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())),
        r"^No pooling was found, because the network is a TorchScript program",
    ),
}


@pytest.mark.parametrize("case", REASONS)
def test_a_refusal_names_the_true_reason(case: str) -> None:
    make, reason = REASONS[case]
    torch.manual_seed(0)
    with pytest.raises(HeadError, match=reason):
        Classifier.wrap(make().eval(), size=SIZE)


class Windows(nn.Module):
    """Tokens on a grid that no convolution made, with a mask of attention made anew in each pass, as in Swin."""

    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.pool, self.head = nn.Conv2d(3, 4, 4, 4), pool, nn.Linear(16, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        maps = self.conv(inputs).permute(0, 2, 3, 1)  # (N, 16, 16, 4)
        tokens = torch.cat([maps[:, y::2, x::2] for y in (0, 1) for x in (0, 1)], -1).flatten(1, 2)  # (N, 64, 16)
        mask = torch.zeros((1, 8, 8, 1), dtype=inputs.dtype)
        mask[:, 4:, :, :] = 1
        mask[:, :, 4:, :] = 2
        windows = mask.view(1, 2, 4, 2, 4, 1).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, 4, 1)
        windows = windows.view(-1, 16)  # (windows, 16)
        apart = (windows[:, None] - windows[:, :, None]).mean((1, 2))
        logits: Tensor = self.head(self.pool(tokens.transpose(1, 2) + apart.mean()).flatten(1))
        return logits


@pytest.mark.parametrize("pool", [nn.AdaptiveAvgPool1d(1), nn.AdaptiveMaxPool1d(1), nn.AvgPool1d(64)])
def test_a_mask_that_a_pass_makes_is_no_image_and_a_pooled_sequence_of_tokens_has_its_grid(pool):
    network = Windows(pool).eval()
    classifier = Classifier.wrap(network, size=64)
    (branch,) = classifier.head.branches
    assert (classifier.head.verdict, branch.grid) == ("exact", (8, 8))
    assert classifier.receptive_field.misplaced is None


@pytest.mark.parametrize("write", ["item", "copy_", "out", "view", "inference"])
def test_a_new_tensor_that_takes_values_of_the_image_is_no_constant(write):
    class Written(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.head = nn.Conv2d(3, 5, 4, 4), nn.Linear(5, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            with torch.inference_mode(write == "inference"), torch.no_grad():
                computed = self.conv(inputs)
                maps = torch.zeros(computed.shape)
                if write == "out":
                    torch.abs(computed, out=maps)
                elif write == "view":
                    maps[:, :].copy_(computed)
                elif write == "copy_":
                    maps.copy_(computed)
                else:
                    maps[:, 1:] = computed[:, 1:]
                pooled = maps.mean((2, 3))
            return self.head(pooled.clone())

    assert Classifier.wrap(Written().eval(), size=48).head.verdict == "exact"
