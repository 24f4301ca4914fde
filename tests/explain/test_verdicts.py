"""What may follow a pooling, and the verdict on its class maps: weights worked out by hand."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inspector import Classifier, ClassMaps, class_maps_of_batch
from inspector.errors import HeadError

SIZE = (5, 6)


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Network(nn.Module):
    """A 3x3 convolution to four maps, then a function of named layers and the maps."""

    def __init__(self, function: object, **layers: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.function = function
        self.layers = nn.ModuleDict(layers)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.function(self.layers, self.conv(inputs).relu())


def network_of(function: object, **layers: tuple[type[nn.Module], tuple[object, ...]]) -> Network:
    torch.manual_seed(0)
    return Network(function, **{name: kind(*arguments) for name, (kind, arguments) in layers.items()}).eval()


LINEAR = (nn.Linear, (4, 3))


def maps_of(network: nn.Module, inputs: Tensor | None = None) -> ClassMaps:
    classifier = Classifier.wrap(network, size=SIZE)
    (maps,) = class_maps_of_batch(classifier, noise(1, 3, *SIZE, seed=5) if inputs is None else inputs)
    return maps


def features(network: Network) -> Tensor:
    """Return feature maps (4, 5, 6)."""
    return network.conv(noise(1, 3, *SIZE, seed=5)).relu()[0].detach()


def assert_sums(maps: ClassMaps, logits: Tensor) -> None:
    torch.testing.assert_close(maps.logits, logits.detach())
    torch.testing.assert_close(maps.values.sum((1, 2)) + maps.bias, logits.detach(), rtol=1e-4, atol=1e-5)
    for k in range(len(maps.logits)):
        torch.testing.assert_close(maps.parts(k).sum(0), maps.values[k], rtol=1e-4, atol=1e-5)


AVERAGES = {
    "functional pooling": lambda m, x: m["fc"](F.adaptive_avg_pool2d(x, 1).flatten(1)),
    "a window as large as the maps": lambda m, x: m["fc"](F.avg_pool2d(x, (5, 6)).flatten(1)),
    "one axis after the other": lambda m, x: m["fc"](x.mean(3).mean(2)),
    "the other axis first, kept": lambda m, x: m["fc"](x.mean(2, keepdim=True).mean(3).flatten(1)),
    "flattened cells": lambda m, x: m["fc"](x.flatten(2).mean(2)),
    "flattened cells by view": lambda m, x: m["fc"](x.view(len(x), 4, -1).mean(-1)),
    "channels last": lambda m, x: m["fc"](x.permute(0, 2, 3, 1).mean((1, 2))),
    "channels last, one axis after the other": lambda m, x: m["fc"](x.permute(0, 2, 3, 1).mean(1).mean(1)),
    "tokens": lambda m, x: m["fc"](x.flatten(2).transpose(1, 2).mean(1)),
    "tokens less a class token": lambda m, x: m["fc"](
        torch.cat([x.new_ones(len(x), 1, 4), x.flatten(2).transpose(1, 2)], 1)[:, 1:].mean(1)
    ),
    "channels-last memory": lambda m, x: m["fc"](x.contiguous(memory_format=torch.channels_last).mean((2, 3))),
    "a sum": lambda m, x: m["fc"](x.sum((2, 3)) / 30),
    "einsum": lambda m, x: m["fc"](torch.einsum("nchw->nc", x) / 30),
    "a tuple with its features": lambda m, x: (m["fc"](x.mean((2, 3))), x.mean((2, 3))),
    "a mapping": lambda m, x: {"logits": m["fc"](x.mean((2, 3))), "features": x.mean((2, 3))},
    "softmax": lambda m, x: m["fc"](x.mean((2, 3))).softmax(1),
    "log-softmax": lambda m, x: F.log_softmax(m["fc"](x.mean((2, 3))), dim=1),
    "sigmoid": lambda m, x: torch.sigmoid(m["fc"](x.mean((2, 3)))),
}


@pytest.mark.parametrize("case", AVERAGES)
def test_an_average_is_found_however_it_is_written(case):
    network = network_of(AVERAGES[case], fc=LINEAR)
    maps, linear = maps_of(network), network.layers["fc"]
    assert maps.verdict == "exact"
    assert_sums(maps, linear(features(network).mean((1, 2))))
    expected = torch.einsum("kc,chw->khw", linear.weight, features(network)) / 30
    torch.testing.assert_close(maps.values, expected.detach())
    torch.testing.assert_close(maps.feature_maps, features(network))


@pytest.mark.parametrize(
    ("case", "probability"), [("softmax", "softmax"), ("sigmoid", "sigmoid"), ("a sum", "softmax")]
)
def test_probabilities_use_the_output_activation_of_the_network(case, probability):
    network = network_of(AVERAGES[case], fc=LINEAR)
    assert Classifier.wrap(network, size=SIZE).probability == probability
    if case != "a sum":
        torch.testing.assert_close(maps_of(network).probabilities, network(noise(1, 3, *SIZE, seed=5))[0].detach())


@pytest.mark.parametrize("squeezed", [True, False])
@pytest.mark.parametrize("ending", [True, False])
def test_a_single_logit_is_a_class_with_a_sigmoid_probability(squeezed, ending):
    def function(layers: nn.ModuleDict, x: Tensor) -> Tensor:
        logit = layers["fc"](x.mean((2, 3)))
        logit = logit.sigmoid() if ending else logit
        return logit.squeeze(1) if squeezed else logit

    network = network_of(function, fc=(nn.Linear, (4, 1)))
    maps = maps_of(network)
    logit = network.layers["fc"](features(network).mean((1, 2)))
    assert maps.verdict == "exact"
    assert_sums(maps, logit)
    torch.testing.assert_close(maps.probabilities, logit.sigmoid().detach())


def test_average_plus_maximum_of_the_same_maps_is_exact():
    network = network_of(lambda m, x: m["fc"](x.mean((2, 3)) + x.amax((2, 3))), fc=LINEAR)
    maps, linear, x = maps_of(network), network.layers["fc"], features(network)
    assert (maps.verdict, maps.classifier.head.pooling) == ("exact", "average + max")
    assert_sums(maps, linear(x.mean((1, 2)) + x.amax((1, 2))))
    deciding = torch.zeros(4, 30).scatter_(1, x.flatten(1).argmax(1, keepdim=True), x.flatten(1).amax(1, keepdim=True))
    expected = linear.weight @ (x.flatten(1) / 30 + deciding)
    torch.testing.assert_close(maps.values.flatten(1), expected.detach())


def test_concatenated_branches_on_different_grids_are_exact_on_the_finest():
    network = network_of(
        lambda m, x: m["fc"](torch.cat([F.max_pool2d(x, 2).amax((2, 3)), x.mean((2, 3))], 1)), fc=(nn.Linear, (8, 3))
    )
    maps, x = maps_of(network), features(network)
    assert (maps.verdict, maps.values.shape) == ("exact", (3, 5, 6))
    assert maps.feature_maps.shape == (8, 5, 6)
    assert_sums(maps, network.layers["fc"](torch.cat([F.max_pool2d(x, 2).amax((1, 2)), x.mean((1, 2))])))


def test_the_mean_of_the_image_itself_is_a_branch():
    network = network_of(lambda m, x: None, fc=LINEAR)
    network.forward = lambda inputs: (
        network.layers["fc"](network.conv(inputs).relu().mean((2, 3))) + inputs.mean((2, 3))
    )
    maps = maps_of(network)
    assert maps.verdict == "exact"
    torch.testing.assert_close(maps.values.sum((1, 2)) + maps.bias, maps.logits)


def test_a_global_depthwise_convolution_pools_with_weights_of_its_own():
    network = network_of(
        lambda m, x: m["fc"](m["pool"](x).flatten(1)), pool=(nn.Conv2d, (4, 4, SIZE, 1, 0, 1, 4)), fc=LINEAR
    )
    maps, pool, linear, x = maps_of(network), network.layers["pool"], network.layers["fc"], features(network)
    assert (maps.verdict, maps.classifier.head.pooling) == ("exact", "linear")
    assert_sums(maps, linear(pool(x[None])[0].flatten()))
    expected = torch.einsum("kc,chw->khw", linear.weight, x * pool.weight[:, 0])
    torch.testing.assert_close(maps.values, expected.detach())
    torch.testing.assert_close(maps.bias, (linear.weight @ pool.bias + linear.bias).detach())


def test_relu_layers_are_affine_with_the_relu_masks_of_the_image_frozen():
    network = network_of(
        lambda m, x: m["b"](F.relu(m["a"](x.mean((2, 3))), inplace=True)), a=(nn.Linear, (4, 8)), b=(nn.Linear, (8, 3))
    )
    maps, a, b, x = maps_of(network), network.layers["a"], network.layers["b"], features(network)
    assert maps.verdict == "exact for this image"
    masks = (a(x.mean((1, 2))) > 0).float()
    assert 0 < masks.sum() < 8
    assert_sums(maps, b(a(x.mean((1, 2))).relu()))
    expected = torch.einsum("kc,chw->khw", b.weight * masks @ a.weight, x) / 30
    torch.testing.assert_close(maps.values, expected.detach(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(maps.bias, (b.weight @ (masks * a.bias) + b.bias).detach(), rtol=1e-4, atol=1e-6)


def layer_norm_by_hand(m: nn.ModuleDict, p: Tensor) -> Tensor:
    """Layer normalization without weights, written out."""
    centered = p - p.mean(1, keepdim=True)
    return m["fc"](centered / torch.sqrt(centered.pow(2).mean(1, keepdim=True) + 1e-5))


NORMALIZATIONS = {
    "LayerNorm": (lambda m, p: m["fc"](F.layer_norm(p, (4,))), True),
    "LayerNorm by hand": (layer_norm_by_hand, True),
    "variance": (
        lambda m, p: m["fc"]((p - p.mean(1, keepdim=True)) * (p.var(1, unbiased=False, keepdim=True) + 1e-5) ** -0.5),
        True,
    ),
    "GroupNorm": (lambda m, p: m["fc"](F.group_norm(p, 1)), True),
    "RMSNorm": (lambda m, p: m["fc"](F.rms_norm(p, (4,), eps=1e-5)), False),
    "length one": (lambda m, p: m["fc"](F.normalize(p)), False),
    "length one by hand": (lambda m, p: m["fc"](p / p.norm(dim=1, keepdim=True)), False),
}


@pytest.mark.parametrize("case", NORMALIZATIONS)
def test_normalizations_are_affine_with_the_statistics_of_the_image_frozen(case):
    function, centered = NORMALIZATIONS[case]
    network = network_of(lambda m, x: function(m, x.mean((2, 3))), fc=LINEAR)
    maps, linear, x = maps_of(network), network.layers["fc"], features(network)
    assert maps.verdict == "exact for this image"
    pooled = x.mean((1, 2))
    x = x - x.mean(0) if centered else x
    statistic = (pooled.var(unbiased=False) + 1e-5).sqrt() if centered else pooled.norm()
    if case == "RMSNorm":
        statistic = (pooled.square().mean() + 1e-5).sqrt()
    expected = torch.einsum("kc,chw->khw", linear.weight, x) / 30 / statistic
    torch.testing.assert_close(maps.values, expected.detach(), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(maps.bias, linear.bias.detach(), rtol=1e-4, atol=1e-5)
    assert_sums(maps, function(network.layers, pooled[None])[0])


def generalized_mean(m: nn.ModuleDict, x: Tensor) -> Tensor:
    return m["fc"](F.avg_pool2d(x.clamp(min=1e-6).pow(3), SIZE).pow(1 / 3).flatten(1))


def test_a_generalized_mean_is_divided_by_powers():
    network = network_of(generalized_mean, fc=LINEAR)
    maps, linear, x = maps_of(network), network.layers["fc"], features(network).clamp(min=1e-6)
    assert maps.verdict == "exact for this image"
    pooled = x.pow(3).mean((1, 2)).pow(1 / 3)
    expected = torch.einsum(
        "kc,chw->khw", linear.weight, x**3 / (x**3).sum((1, 2), keepdim=True) * pooled[:, None, None]
    )
    torch.testing.assert_close(maps.values, expected.detach(), rtol=1e-4, atol=1e-6)
    assert_sums(maps, linear(pooled))


def test_the_norm_of_a_channel_is_divided_by_squares():
    network = network_of(lambda m, x: m["fc"](x.norm(p=2, dim=(2, 3))), fc=LINEAR)
    maps, linear, x = maps_of(network), network.layers["fc"], features(network)
    assert (maps.verdict, maps.classifier.head.pooling) == ("exact for this image", "other")
    expected = torch.einsum("kc,chw->khw", linear.weight, x**2 / x.norm(dim=(1, 2))[:, None, None])
    torch.testing.assert_close(maps.values, expected.detach(), rtol=1e-4, atol=1e-6)


NONLINEAR = {
    "log-sum-exp pooling": lambda m, x: m["fc"](x.logsumexp((2, 3))),
    "log-sum-exp of flattened cells": lambda m, x: m["fc"](torch.logsumexp(5 * x.flatten(2), 2) / 5),
    "tanh": lambda m, x: m["fc"](x.mean((2, 3)).tanh()),
    "hard-swish": lambda m, x: m["fc"](F.hardswish(x.mean((2, 3)))),
    "gelu": lambda m, x: m["fc"](F.gelu(x.mean((2, 3)))),
    "square": lambda m, x: m["fc"](x.mean((2, 3)) * x.mean((2, 3))),
    "LayerNorm and gelu": lambda m, x: m["fc"](F.gelu(F.layer_norm(x.mean((2, 3)), (4,)))),
    "products of channels": lambda m, x: m["fc"](x.mean((2, 3)) * x.amax((2, 3))),
}


@pytest.mark.parametrize("case", NONLINEAR)
def test_a_nonlinear_head_gets_a_first_order_decomposition_and_the_verdict_not_unique(case):
    network = network_of(NONLINEAR[case], fc=LINEAR)
    maps = maps_of(network)
    assert maps.verdict == "not unique"
    assert_sums(maps, network(noise(1, 3, *SIZE, seed=5))[0])


def test_the_first_order_decomposition_is_gradient_times_feature_maps():
    network = network_of(NONLINEAR["tanh"], fc=LINEAR)
    x = features(network)[None].requires_grad_()
    logits = network.function(network.layers, x)[0]
    expected = [(torch.autograd.grad(logits[k], x, retain_graph=True)[0] * x).sum(1)[0] for k in range(3)]
    torch.testing.assert_close(maps_of(network).values, torch.stack(expected).detach(), rtol=1e-4, atol=1e-6)


class ClassToken(nn.Module):
    """A patch embedding, a class token, attention, and a linear layer on `read(tokens)`."""

    def __init__(self, read: object) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 2, stride=2)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.fc = nn.Linear(8, 3)
        self.read = read

    def forward(self, inputs: Tensor) -> Tensor:
        tokens = self.patches(inputs).flatten(2).transpose(1, 2)
        return self.fc(self.read(self.layer(torch.cat([self.token.expand(len(tokens), -1, -1), tokens], 1))))


def test_a_class_token_has_no_spatial_map_and_pooled_tokens_have_one():
    torch.manual_seed(0)
    with pytest.raises(HeadError, match=r"^No spatial map reaches the logits: .* one of 13 tokens \(a class token\)"):
        Classifier.wrap(ClassToken(lambda x: x[:, 0]), size=(6, 8))
    classifier = Classifier.wrap(ClassToken(lambda x: x[:, 1:].mean(1)), size=(6, 8))
    (maps,) = class_maps_of_batch(classifier, noise(1, 3, 6, 8))
    assert (maps.verdict, maps.values.shape) == ("exact", (3, 3, 4))
    with pytest.raises(HeadError, match=r"^No spatial map reaches the logits: the 13 tokens that are pooled form no"):
        Classifier.wrap(ClassToken(lambda x: x.mean(1)), size=(6, 8))
    with pytest.raises(HeadError, match=r"^No spatial map reaches the logits: .* \(a class token\)"):
        Classifier.wrap(ClassToken(lambda x: x[:, 0] + x[:, 1:].mean(1)), size=(6, 8))


def test_a_network_without_pooling_is_an_error():
    network = network_of(
        lambda m, x: m["fc"](m["rnn"](x.flatten(2).transpose(1, 2))[1][0]), rnn=(nn.GRU, (4, 4)), fc=LINEAR
    )
    network.layers["rnn"].batch_first = True
    with pytest.raises(
        HeadError, match=r"^No pooling was found.*Use a network that ends in global average or global max pooling"
    ):
        Classifier.wrap(network, size=SIZE)


def test_maps_of_a_batch_are_those_of_its_images_if_the_weight_depends_on_the_image():
    network = network_of(lambda m, x: m["fc"](F.layer_norm(x.mean((2, 3)), (4,))), fc=LINEAR)
    classifier = Classifier.wrap(network, size=SIZE)
    inputs = noise(3, 3, *SIZE)
    for n, maps in enumerate(class_maps_of_batch(classifier, inputs)):
        (alone,) = class_maps_of_batch(classifier, inputs[n : n + 1])
        torch.testing.assert_close(maps.values, alone.values)
        torch.testing.assert_close(maps.bias, alone.bias)


def test_a_head_that_reshapes_to_the_batch_size_of_its_input_is_supported():
    class Reshaping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.fc(F.layer_norm(self.conv(inputs).mean((2, 3)).view(inputs.size(0), -1), (4,)))

    torch.manual_seed(0)
    network = Reshaping().eval()
    maps = maps_of(network)
    assert maps.verdict == "exact for this image"
    assert_sums(maps, network(noise(1, 3, *SIZE, seed=5))[0])


def test_an_activation_without_forward_mode_is_supported():
    class Gate(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x.clamp(min=0)

        @staticmethod
        def backward(ctx: object, gradient: Tensor) -> Tensor:
            return gradient * (ctx.saved_tensors[0] > 0)

    network = network_of(
        lambda m, x: m["b"](Gate.apply(m["a"](x.mean((2, 3))))), a=(nn.Linear, (4, 8)), b=(nn.Linear, (8, 3))
    )
    maps = maps_of(network)
    assert maps.verdict == "exact for this image"
    assert_sums(maps, network(noise(1, 3, *SIZE, seed=5))[0])


def test_an_earlier_reduction_of_one_axis_is_not_half_of_a_pooling():
    def function(m: nn.ModuleDict, x: Tensor) -> Tensor:
        columns = x.amax(2)  # (N, 4, 6), as Hiera pools between its stages
        return m["fc"](F.relu(m["mix"](columns.transpose(1, 2))).mean(1))

    network = network_of(function, mix=(nn.Linear, (4, 4)), fc=LINEAR)
    with pytest.raises(HeadError, match=r"the 6 tokens that are pooled form no grid"):
        Classifier.wrap(network, size=SIZE)


def test_a_class_token_from_attention_with_one_query_is_an_error():
    def function(m: nn.ModuleDict, x: Tensor) -> Tensor:
        tokens = torch.cat([x.new_ones(len(x), 1, 4), x.flatten(2).transpose(1, 2)], 1)
        # One row of 31 weights, which is not a grid.
        weights = (tokens[:, None, :1] @ tokens[:, None].transpose(2, 3)).softmax(3)
        return m["fc"](torch.cat([tokens[:, :1] + (weights @ tokens[:, None])[:, 0], tokens[:, 1:]], 1)[:, 0])

    with pytest.raises(HeadError, match=r"one of 31 tokens \(a class token\)"):
        Classifier.wrap(network_of(function, fc=LINEAR), size=SIZE)


class Embedded(nn.Module):
    """A convolution, a position embedding that is resized for other input sizes, and a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 2, stride=2), nn.Linear(4, 3)
        self.positions = nn.Parameter(torch.randn(1, 7, 4))

    def forward(self, inputs: Tensor) -> Tensor:
        maps = self.conv(inputs)
        embedding = self.positions[:, 1:]
        if maps.shape[2:] != (2, 3):
            token, embedding = self.positions[:, 0], self.positions[:, 1:].unflatten(1, (2, 3)).permute(0, 3, 1, 2)
            embedding = F.interpolate(embedding, maps.shape[2:]).flatten(2).transpose(1, 2) + 0 * token[:, None]
        return self.fc((maps.flatten(2).transpose(1, 2) + embedding).mean(1))


def test_tensors_of_parameters_only_are_not_poolings_at_any_size():
    torch.manual_seed(0)
    classifier = Classifier.wrap(Embedded().eval(), size=(4, 6)).resized((8, 6))
    (maps,) = class_maps_of_batch(classifier, noise(1, 3, 8, 6))
    assert (maps.verdict, maps.values.shape) == ("exact", (3, 4, 3))
