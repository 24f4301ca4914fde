"""A verdict can be withdrawn on every image, and one function gets one verdict however it is written."""

import dataclasses
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inspector import Classifier, ClassMaps, class_maps_of_batch, describe
from inspector.errors import HeadError, NetworkError
from inspector.explain import decomposition

SIZE, CHANNELS, CLASSES = (8, 12), 6, 5
Head = Callable[[nn.ModuleDict, Tensor], Tensor]


class Network(nn.Module):
    """A convolution with ReLU, an average, and a head; `extra` adds to the logits."""

    def __init__(self, head: Head, extra: Callable[[Tensor], Tensor] | None = None, classes: int = CLASSES) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, CHANNELS, 3, 2, 1)
        self.layers = nn.ModuleDict({"fc": nn.Linear(CHANNELS, classes), "hidden": nn.Linear(CHANNELS, CHANNELS)})
        self.head, self.extra = head, extra
        self.eval()

    def forward(self, inputs: Tensor) -> Tensor:
        logits = self.head(self.layers, self.conv(inputs).relu().mean((2, 3)))
        return logits if self.extra is None else logits + self.extra(inputs)


def image(shift: float = 0, seed: int = 5) -> Tensor:
    return torch.randn(1, 3, *SIZE, generator=torch.Generator().manual_seed(seed)) + shift


def wrap(head: Head, *args: object, **kwargs: object) -> Classifier:
    return Classifier.wrap(Network(head, *args, **kwargs), size=SIZE)


def maps_of(classifier: Classifier, inputs: Tensor | None = None) -> ClassMaps:
    return class_maps_of_batch(classifier, image() if inputs is None else inputs)[0]


EVERY_VERDICT: dict[str, Head] = {
    "exact": lambda m, p: m["fc"](p),
    "exact for this image": lambda m, p: m["fc"](F.relu(m["hidden"](p))),
    "not unique": lambda m, p: m["fc"](F.gelu(m["hidden"](p))),
}


@pytest.mark.parametrize("verdict", EVERY_VERDICT)
@pytest.mark.parametrize("wrong", ["one cell", "two cells", "bias", "logit"])
def test_a_wrong_map_or_bias_withdraws_every_verdict(verdict, wrong):
    maps = maps_of(wrap(EVERY_VERDICT[verdict]))
    assert maps.verdict == verdict
    values, bias, logits = maps.values.clone(), maps.bias.clone(), maps.logits.clone()
    step = 1e-3 * float(values[2].abs().sum() + bias[2].abs())
    if wrong == "one cell":
        values[2, 1, 1] += step
    elif wrong == "two cells":
        values[2, 1:3, 1] += step
    elif wrong == "bias":
        bias[2] += step
    else:
        logits[2] += step
    split = dataclasses.replace(maps.decomposition, values=values, bias=bias)
    residual, is_exact = split.compare_with_logits(logits)
    assert not is_exact
    assert residual == pytest.approx(2 * step if wrong == "two cells" else step, rel=1e-2)


@pytest.mark.parametrize("verdict", EVERY_VERDICT)
def test_a_contribution_that_was_computed_wrongly_withdraws_the_word(verdict, monkeypatch):
    classifier = wrap(EVERY_VERDICT[verdict])
    rows = decomposition.stack_position_rows
    monkeypatch.setattr(decomposition, "stack_position_rows", lambda *args: 1.01 * rows(*args))
    contributions = decomposition.position_contributions
    monkeypatch.setattr(decomposition, "position_contributions", lambda *args: 1.01 * contributions(*args))
    found = maps_of(classifier).verdict
    # A first-order split of other shares is a first-order split too: its bias takes up the rest.
    assert found == ("not unique" if verdict == "not unique" else "not exact")


def wakes_in_the_bright(inputs: Tensor) -> Tensor:
    return F.relu(inputs.mean((1, 2, 3))[:, None] - 3) * torch.arange(1.0, CLASSES + 1)


@pytest.mark.parametrize("verdict", EVERY_VERDICT)
def test_a_branch_that_only_some_images_wake_withdraws_the_word_for_them(verdict):
    classifier = wrap(EVERY_VERDICT[verdict], wakes_in_the_bright)
    assert maps_of(classifier).verdict == verdict
    bright = maps_of(classifier, image(5))
    assert bright.verdict == "not exact"
    assert bright.residual == pytest.approx(5 * (float(image(5).mean()) - 3), rel=1e-3)
    assert maps_of(classifier).verdict == verdict


def bends_above(m: nn.ModuleDict, p: Tensor) -> Tensor:
    hidden = F.relu(m["hidden"](p))
    return m["fc"](torch.where(hidden.sum(1, keepdim=True) > 3, hidden.exp() / 1e2, hidden))


def goes_another_way_above(m: nn.ModuleDict, p: Tensor) -> Tensor:
    hidden = F.relu(m["hidden"](p))
    return m["fc"](hidden) if hidden.sum() < 3 else m["fc"](2 * hidden) + 1


def test_a_function_that_is_nonlinear_for_some_images_is_not_unique_for_them():
    classifier = wrap(bends_above)
    assert maps_of(classifier).verdict == "exact for this image"
    large = maps_of(classifier, 100 * image())
    assert large.verdict == "not unique"
    torch.testing.assert_close(large.values.sum((1, 2)) + large.bias, large.logits, rtol=1e-4, atol=1e-4)


def test_a_network_that_branches_on_its_pooled_values_keeps_its_verdict():
    classifier = wrap(goes_another_way_above)
    for factor in (1, 100, 1):
        maps = maps_of(classifier, factor * image())
        assert maps.verdict == "exact for this image"
        hidden = F.relu(classifier.network.layers["hidden"](maps.feature_maps.mean((1, 2))))
        assert (hidden.sum() > 3) == (factor == 100)
        torch.testing.assert_close(maps.values.sum((1, 2)) + maps.bias, maps.logits, rtol=1e-4, atol=1e-4)


def test_the_bias_is_the_frozen_head_at_zero():
    classifier = wrap(lambda m, p: m["fc"](F.relu(m["hidden"](p))))
    hidden, fc = classifier.network.layers["hidden"], classifier.network.layers["fc"]
    maps = maps_of(classifier)
    mask = (hidden(maps.feature_maps.mean((1, 2))) > 0).float()
    torch.testing.assert_close(maps.bias, (fc.weight @ (mask * hidden.bias) + fc.bias).detach())
    weight = (fc.weight * mask) @ hidden.weight
    expected = torch.einsum("kc,chw->khw", weight, maps.feature_maps) / maps.feature_maps[0].numel()
    torch.testing.assert_close(maps.values, expected.detach(), rtol=1e-4, atol=1e-6)


class LayerNorm32(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.to(torch.float32), self.normalized_shape).to(x.dtype)


def e2_less_e_squared(p: Tensor) -> Tensor:
    variance = p.pow(2).mean(1, keepdim=True) - p.mean(1, keepdim=True) ** 2
    return (p - p.mean(1, keepdim=True)) * (variance + 1e-5) ** -0.5


def in_place(p: Tensor) -> Tensor:
    centered = p - p.mean(1, keepdim=True)
    result = centered.clone()
    result /= (centered.square().mean(1, keepdim=True) + 1e-5).sqrt()
    return result


NORMALIZES: dict[str, Callable[[Tensor], Tensor]] = {
    "layer_norm": lambda p: F.layer_norm(p, (CHANNELS,)),
    "layer_norm in float32": LayerNorm32(CHANNELS),
    "group_norm": lambda p: F.group_norm(p, 2),
    "instance_norm": lambda p: F.instance_norm(p[:, None]).squeeze(1),
    "rms_norm": lambda p: F.rms_norm(p, (CHANNELS,)),
    "E[x^2] - E[x]^2": e2_less_e_squared,
    "in place": in_place,
    "over (N, 1, 1, C)": lambda p: e2_less_e_squared(p[:, :, None, None].permute(0, 2, 3, 1).flatten(1)),
    "std": lambda p: (p - p.mean(1, keepdim=True)) / p.std(1, keepdim=True),
    "var_mean": lambda p: (p - torch.var_mean(p, 1, keepdim=True)[1]) * torch.var_mean(p, 1, keepdim=True)[0].rsqrt(),
    "1 / norm": lambda p: p * (1 / p.norm(dim=1, keepdim=True)),
    "reciprocal": lambda p: p * torch.linalg.vector_norm(p, dim=1, keepdim=True).reciprocal(),
    "norm by einsum": lambda p: p / torch.einsum("nc,nc->n", p, p).sqrt()[:, None].expand_as(p),
    "norm by sum": lambda p: p / torch.sqrt((p * p).sum(1, keepdim=True)).clamp(min=1e-6),
    "normalize": F.normalize,
    "divided by the largest": lambda p: p / p.amax(1, keepdim=True),
    "divided by the sum": lambda p: p.relu() / (p.relu().sum(1, keepdim=True) + 1e-6),
}


@pytest.mark.parametrize("spelling", NORMALIZES)
def test_a_statistic_that_normalizes_is_frozen_however_it_is_written(spelling):
    maps = maps_of(wrap(lambda m, p: m["fc"](NORMALIZES[spelling](m["hidden"](p)))))
    assert maps.verdict == "exact for this image"
    assert maps.values.abs().sum() > 1e-3


COSINES: dict[str, Head] = {
    "normalize": lambda m, p: F.linear(F.normalize(p), F.normalize(m["fc"].weight)),
    "cosine_similarity": lambda m, p: F.cosine_similarity(p[:, None], m["fc"].weight, 2),
    "division by both lengths": lambda m, p: (
        (p @ m["fc"].weight.T) / (p.norm(dim=1, keepdim=True) * m["fc"].weight.norm(dim=1))
    ),
}


@pytest.mark.parametrize("spelling", COSINES)
def test_cosine_classifiers_have_one_map(spelling):
    maps, first = maps_of(wrap(COSINES[spelling])), maps_of(wrap(COSINES["normalize"]))
    assert maps.verdict == "exact for this image"
    torch.testing.assert_close(maps.values, first.values, rtol=1e-4, atol=1e-6)


NONLINEAR: dict[str, Head] = {
    "length of a capsule": lambda m, p: m["hidden"](p).view(-1, 3, 2).norm(dim=2),
    "distance from a prototype": lambda m, p: -(p[:, None] - m["fc"].weight).norm(dim=2),
    "squared distance": lambda m, p: -((p[:, None] - m["fc"].weight) ** 2).sum(2),
    "cdist": lambda m, p: -torch.cdist(p, m["fc"].weight),
    "square": lambda m, p: m["fc"](p**2),
    "square by product": lambda m, p: m["fc"](p * p),
    "squared ReLU": lambda m, p: m["fc"](F.relu(m["hidden"](p)) ** 2),
    "length added": lambda m, p: m["fc"](p) + p.norm(dim=1, keepdim=True),
    "times the standard deviation": lambda m, p: m["fc"](p) * p.std(1, keepdim=True),
    "times a power of the mean": lambda m, p: m["fc"](p) * p.mean(1, keepdim=True).pow(0.5),
    "tanh by hand": lambda m, p: 2 / (1 + torch.exp(-m["fc"](p))) - 1,
    "softsign by hand": lambda m, p: m["fc"](p) / (1 + m["fc"](p).abs()),
    "SiLU by hand": lambda m, p: m["fc"](p / (1 + torch.exp(-p))),
    "a gate of one value": lambda m, p: m["fc"](p) / (1 + torch.exp(-m["hidden"](p)[:, :1])),
    "a gate of one value by sum": lambda m, p: (
        m["fc"](p) / (1 + torch.exp(-(p * m["hidden"].weight[0]).sum(1, keepdim=True)))
    ),
    "attention over the pooled features": lambda m, p: m["fc"](m["hidden"](p).softmax(1) * p),
    "softmax by hand": lambda m, p: m["fc"](p.exp() / p.exp().sum(1, keepdim=True)),
    "soft cap": lambda m, p: 30 * torch.tanh(m["fc"](F.layer_norm(p, (CHANNELS,))) / 30),
    "root": lambda m, p: m["fc"]((p + 0.1).sqrt()),
    "signed root": lambda m, p: m["fc"](m["hidden"](p).sign() * m["hidden"](p).abs().pow(0.5)),
    "tiny GELU": lambda m, p: 1e-8 * m["fc"](F.gelu(p)),
    "huge GELU": lambda m, p: 1e11 * m["fc"](F.gelu(p)),
    "signs": lambda m, p: m["fc"]((m["hidden"](p)).sign()),
}


@pytest.mark.parametrize("case", NONLINEAR)
def test_a_nonlinear_function_is_not_unique(case):
    maps = maps_of(wrap(NONLINEAR[case]))
    assert maps.verdict == maps.classifier.head.verdict == "not unique"
    scale = float(maps.logits.abs().max())
    assert float((maps.values.sum((1, 2)) + maps.bias - maps.logits).abs().max()) <= 1e-5 * scale


GATES: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu6": lambda x: F.relu6(50 * x),
    "hardtanh": lambda x: F.hardtanh(10 * x, inplace=True),
    "leaky_relu": F.leaky_relu,
    "PReLU": nn.PReLU(init=0.3),
    "clamp": lambda x: x.clamp(-0.1, 0.1),
    "clamp_": lambda x: (2 * x).clamp_(min=0),
    "abs": abs,
    "hardsigmoid": lambda x: F.hardsigmoid(30 * x),
    "hardshrink": lambda x: F.hardshrink(x, 0.1),
    "mask by comparison": lambda x: x * (x > 0),
    "mask by float": lambda x: x * (x > 0).float(),
    "where": lambda x: torch.where(x > 0, x, 0.1 * x),
    "masked_fill": lambda x: x.masked_fill(x < 0, 0),
    "maximum": lambda x: torch.maximum(x, -0.5 * x),
    "maxout": lambda x: x.view(-1, 3, 2).amax(2).repeat(1, 2),
    "maxout with indices": lambda x: x.view(-1, 3, 2).max(2)[0].repeat(1, 2),
    "topk": lambda x: x.topk(3, 1).values.repeat(1, 2),
    "sorted": lambda x: x.sort(1, descending=True)[0],
    "max pooling": lambda x: F.max_pool1d(x[:, None], 2).squeeze(1).repeat(1, 2),
    "an autograd function": lambda x: Relu.apply(x),
}


class Relu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return gradient * (ctx.saved_tensors[0] > 0)


@pytest.mark.parametrize("gate", GATES)
def test_gates_are_frozen_however_they_are_written(gate):
    classifier = wrap(lambda m, p: m["fc"](GATES[gate](m["hidden"](p))))
    maps = maps_of(classifier)
    assert maps.verdict == "exact for this image"
    pooled = maps.feature_maps.mean((1, 2))[None].requires_grad_()
    logits = classifier.network.head(classifier.network.layers, pooled)[0]
    weight = torch.stack([torch.autograd.grad(logits[k], pooled, retain_graph=True)[0][0] for k in range(CLASSES)])
    torch.testing.assert_close(maps.decomposition.weight(range(CLASSES)), weight, rtol=1e-4, atol=1e-6)
    expected = torch.einsum("kc,chw->khw", weight, maps.feature_maps) / maps.feature_maps[0].numel()
    torch.testing.assert_close(maps.values, expected.detach(), rtol=1e-3, atol=1e-6)


FLOAT32: dict[str, Head] = {
    ".float()": lambda m, p: m["fc"](F.relu(m["hidden"](p)).float()),
    ".to(float32)": lambda m, p: m["fc"](F.relu(m["hidden"](p)).to(torch.float32)),
    ".to(weight)": lambda m, p: m["fc"](F.relu(m["hidden"](p)).to(m["fc"].weight)),
    ".type()": lambda m, p: m["fc"](F.relu(m["hidden"](p)).type(torch.float32)),
    ".type_as()": lambda m, p: m["fc"](F.relu(m["hidden"](p)).type_as(m["fc"].weight)),
    "dtype=": lambda m, p: m["fc"](
        F.relu(m["hidden"](p)).sum(1, keepdim=True, dtype=torch.float32).expand(-1, CHANNELS)
    ),
    ".half().float()": lambda m, p: m["fc"](F.relu(m["hidden"](p)).half().float()),
}


@pytest.mark.parametrize("cast", FLOAT32)
def test_a_cast_after_the_pooling_does_not_hide_that_a_head_is_affine(cast):
    maps = maps_of(wrap(FLOAT32[cast]))
    assert maps.verdict == "exact for this image"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("verdict", EVERY_VERDICT)
def test_maps_of_networks_in_half_precision_are_computed_in_float32(dtype, verdict):
    network = Network(EVERY_VERDICT[verdict]).to(dtype)
    classifier = Classifier.wrap(network, size=SIZE)
    assert classifier.head.verdict == verdict
    for seed in range(8):
        inputs = image(seed=seed).to(dtype)
        maps = maps_of(classifier, inputs)
        assert maps.verdict == verdict
        assert maps.values.dtype == maps.bias.dtype == maps.logits.dtype == torch.float32
        torch.testing.assert_close(maps.logits, network(inputs)[0].float().detach())
        weight = maps.decomposition.weight(range(CLASSES))
        exact = torch.einsum("kc,chw->khw", weight, maps.feature_maps) / maps.feature_maps[0].numel()
        torch.testing.assert_close(maps.values, exact.detach(), rtol=1e-4, atol=1e-6)
        total = float(maps.values.abs().sum((1, 2)).max() + maps.bias.abs().max())
        wrong = dataclasses.replace(maps.decomposition, values=maps.values + 0.2 * total / maps.values[0].numel())
        assert not wrong.compare_with_logits(network(inputs)[0].detach())[1]


@pytest.mark.parametrize("cells", [14, 112])
@pytest.mark.parametrize("relu", [True, False])
def test_a_pooling_that_adds_one_value_after_the_other_keeps_its_verdict(cells, relu):
    torch.manual_seed(0)
    head = [nn.Linear(16, 8), nn.ReLU()] if relu else []
    layers = [
        nn.Conv2d(3, 16, 1),
        nn.Softplus(),
        nn.AvgPool2d(cells),
        nn.Flatten(),
        *head,
        nn.Linear(8 if relu else 16, 4),
    ]
    network = nn.Sequential(*layers).eval()
    classifier = Classifier.wrap(network, size=(cells, cells))
    inputs = 3 + torch.randn(1, 3, cells, cells)
    maps = maps_of(classifier, inputs)
    assert maps.verdict == ("exact for this image" if relu else "exact")
    wrong = dataclasses.replace(maps.decomposition, values=maps.values * 1.001)
    pooled = torch.stack([torch.nn.functional.avg_pool2d(one[None], cells).flatten() for one in maps.feature_maps]).T
    assert not wrong.compare_with_logits(maps.logits, pooled)[1]


def test_one_logit_without_axes_is_a_class():
    for squeeze in (lambda x: x.squeeze(), lambda x: x.squeeze(1), lambda x: x.view(-1)):
        maps = maps_of(wrap(lambda m, p, squeeze=squeeze: squeeze(m["fc"](F.relu(m["hidden"](p)))), classes=1))
        assert (maps.verdict, len(maps.logits)) == ("exact for this image", 1)


def test_a_head_of_zeros_says_so():
    network = Network(lambda m, p: m["fc"](F.layer_norm(p, (CHANNELS,))))
    nn.init.zeros_(network.layers["fc"].weight)
    classifier = Classifier.wrap(network, size=SIZE)
    assert classifier.head.note.startswith("All weights of the head are zero")
    assert classifier.head.note in describe(classifier).reason
    assert describe(wrap(EVERY_VERDICT["exact"])).reason.endswith("on every image.")


class KeepsState(nn.Module):
    """Counts its passes, and keeps a running mean, in evaluation mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.network, self.passes = Network(EVERY_VERDICT["exact for this image"]), 0
        self.register_buffer("mean", torch.zeros(CHANNELS))
        self.register_buffer("last", torch.zeros(1))

    def forward(self, inputs: Tensor) -> Tensor:
        self.passes += 1
        with torch.no_grad():
            self.mean.mul_(0.9).add_(0.1 * self.network.conv(inputs).mean((0, 2, 3)))
            self.last = inputs.mean().reshape(1)
        return self.network(inputs)


def test_finding_the_head_leaves_what_a_network_keeps_and_the_random_numbers_as_they_were():
    network = KeepsState().eval()
    network(image())
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    torch.manual_seed(3)
    state = torch.get_rng_state()
    Classifier.wrap(network, size=SIZE)
    assert torch.equal(torch.get_rng_state(), state)
    assert network.passes == 1
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("before", [True, False])
def test_a_network_with_random_outputs_is_refused(before):
    layers = [nn.Conv2d(3, CHANNELS, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS, 3)]

    class Dropped(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(x, 0.3, training=True)

    layers.insert(1 if before else 4, Dropped())
    network = nn.Sequential(*layers).eval()
    state = torch.get_rng_state()
    with pytest.raises(HeadError, match="random"):
        Classifier.wrap(network, size=SIZE)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("place", ["conv", "fc"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_network_with_weights_that_are_no_numbers_is_refused(place, value):
    network = Network(EVERY_VERDICT["exact"])
    (network.conv if place == "conv" else network.layers["fc"]).weight.data.view(-1)[2] = value
    with pytest.raises((HeadError, NetworkError), match="NaN or infinite"):
        Classifier.wrap(network, size=SIZE)


def test_a_copied_classifier_records_its_own_head():
    classifier = wrap(EVERY_VERDICT["exact for this image"])
    expected = maps_of(classifier)
    recording = pickle.loads(pickle.dumps(classifier.head.recording))
    assert recording.current is None
    copied = dataclasses.replace(classifier, head=dataclasses.replace(classifier.head, recording=recording))
    maps = maps_of(copied)
    assert maps.verdict == "exact for this image"
    torch.testing.assert_close(maps.values, expected.values)
    assert recording.current is not None


def similarity(m: Tensor) -> Tensor:
    return torch.log((m + 1) / (m + 1e-4))


NEAREST: dict[str, Callable[[Tensor], Tensor]] = {
    "max pooling of the negative": lambda d: -F.max_pool2d(-d, d.shape[2:]).flatten(1),
    "amin": lambda d: d.amin((2, 3)),
    "min of flattened cells": lambda d: d.flatten(2).min(2)[0],
}


class Prototypes(nn.Module):
    """ProtoPNet: squared distances of prototypes from all cells, the similarity of the nearest, a linear layer."""

    def __init__(self, nearest: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc = nn.Conv2d(3, 4, 3, 2, 1), nn.Linear(10, 3, bias=False)
        self.prototypes = nn.Parameter(torch.rand(10, 4))
        self.nearest = nearest

    def distances(self, inputs: Tensor) -> Tensor:
        cells = self.conv(inputs).sigmoid()
        return (cells[:, None] - self.prototypes[:, :, None, None]).square().sum(2)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.fc(similarity(self.nearest(self.distances(inputs))))


@pytest.mark.parametrize("nearest", NEAREST)
def test_a_function_of_single_channels_after_max_pooling_belongs_to_the_maps(nearest):
    network = Prototypes(NEAREST[nearest]).eval()
    classifier = Classifier.wrap(network, size=SIZE)
    maps = maps_of(classifier)
    assert (maps.verdict, classifier.head.pooling) == ("exact for this image", "max")
    with torch.no_grad():
        similarities = similarity(network.distances(image()))[0]
    torch.testing.assert_close(maps.feature_maps, similarities)
    best = torch.zeros(10, similarities[0].numel())
    best.scatter_(1, similarities.flatten(1).argmax(1, keepdim=True), similarities.flatten(1).amax(1, keepdim=True))
    torch.testing.assert_close(maps.values.flatten(1), (network.fc.weight @ best).detach(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(maps.bias, torch.zeros(3), rtol=0, atol=1e-6)
    torch.testing.assert_close(maps.parts(1).sum(0), maps.values[1], rtol=1e-4, atol=1e-6)
    assert not dataclasses.replace(maps.decomposition, bias=maps.bias + 0.1).compare_with_logits(maps.logits)[1]


@pytest.mark.parametrize(
    ("after", "verdict"),
    [
        (lambda m, p: m["fc"](p.tanh()), "exact for this image"),
        (lambda m, p: m["fc"]((0.1 + p.square()).log()), "exact for this image"),  # p is not negative
        (lambda m, p: m["fc"](m["hidden"](p).tanh()), "not unique"),
        (lambda m, p: m["fc"](p).square(), "not unique"),
        (lambda m, p: m["fc"]((3 * p).sin()), "not unique"),  # neither increases nor decreases
        (lambda m, p: m["fc"](p * p.flip(1)), "not unique"),
    ],
)
def test_only_functions_of_single_channels_that_keep_the_order_belong_to_the_maps(after, verdict):
    network = Network(after)
    network.forward = lambda inputs: after(network.layers, 5 * network.conv(inputs).relu().amax((2, 3)))
    assert maps_of(Classifier.wrap(network, size=SIZE)).verdict == verdict


class OwnError(Exception):
    pass


@pytest.mark.parametrize(
    "error", [KeyError("mask"), AttributeError("no pixel_values"), OwnError("only 224"), OwnError()]
)
def test_whatever_a_network_raises_is_one_sentence(error):
    def raise_error(m: nn.ModuleDict, p: Tensor) -> Tensor:
        raise error

    with pytest.raises(NetworkError, match=rf"cannot run on an input of shape \(1, 3, 8, 12\): {type(error).__name__}"):
        wrap(raise_error)


def test_a_network_without_classes_is_refused():
    with pytest.raises(NetworkError, match="A classifier returns logits"):
        wrap(lambda m, p: m["fc"](p)[:, :0])


def test_the_pooling_before_a_convolutional_head_with_batch_norm_is_the_pooling():
    torch.manual_seed(0)
    head = [nn.Conv2d(6, 7, 1), nn.BatchNorm2d(7), nn.ReLU(inplace=True), nn.Conv2d(7, CLASSES, 1), nn.Flatten()]
    network = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), *head).eval()
    maps = maps_of(Classifier.wrap(network, size=SIZE))
    assert (maps.verdict, maps.values.shape) == ("exact for this image", (CLASSES, 4, 6))


@pytest.mark.parametrize("seed", range(3))
def test_a_root_mean_square_of_a_channel_that_is_zero_everywhere_has_shares(seed):
    torch.manual_seed(seed)
    network = Network(lambda m, p: None)
    network.conv.bias.data[1] = -100
    network.forward = lambda inputs: network.layers["fc"](network.conv(inputs).relu().pow(2).mean((2, 3)).sqrt())
    maps = maps_of(Classifier.wrap(network, size=SIZE))
    assert maps.verdict == "exact for this image"
    rms = maps.feature_maps.square().mean((1, 2)).sqrt()
    assert rms[1] == 0
    shares = maps.feature_maps.square() / maps.feature_maps[0].numel() / rms.clamp(min=1e-12)[:, None, None]
    expected = torch.einsum("kc,chw->khw", network.layers["fc"].weight, shares)
    torch.testing.assert_close(maps.values, expected.detach(), rtol=1e-4, atol=1e-6)
