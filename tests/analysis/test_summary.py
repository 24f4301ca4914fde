import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision import models

from inspector import Classifier, NetworkError, describe

SIZE = (20, 30)


class HandMade(nn.Module):
    """Two convolutions of which one runs twice, a BatchNorm, a pooling, Linear."""

    def __init__(self, pool: nn.Module | None = None) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)  # the first to be made and the last to run
        self.stem = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.body = nn.ModuleDict({"conv": nn.Conv2d(4, 4, 3, padding=1, bias=False), "norm": nn.BatchNorm2d(4)})
        self.pool = pool

    def forward(self, inputs: Tensor) -> Tensor:
        maps = self.stem(inputs)
        maps = self.body["conv"](self.body["conv"](maps))
        maps = self.body["norm"](maps).relu()
        return self.linear(maps.mean((2, 3)) if self.pool is None else self.pool(maps).flatten(1))


def build_network(build: object, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build().eval()


def test_layers_are_listed_in_the_order_of_their_runs_with_shapes_and_parameters():
    summary = describe(build_network(HandMade), SIZE)
    assert [(layer.label, layer.kind, layer.shape, layer.parameters, layer.runs) for layer in summary.layers] == [
        ("stem", "Conv2d", (1, 4, 10, 15), 3 * 4 * 9 + 4, 1),
        ("body.conv (run 1)", "Conv2d", (1, 4, 10, 15), 4 * 4 * 9, 2),
        ("body.conv (run 2)", "Conv2d", (1, 4, 10, 15), 4 * 4 * 9, 2),
        ("body.norm", "BatchNorm2d", (1, 4, 10, 15), 2 * 4, 1),
        ("linear", "Linear", (1, 3), 4 * 3 + 3, 1),
    ]
    # A convolution that runs twice is one layer.
    assert dict(summary.lines())["network"] == "HandMade, 4 layers, 279 parameters"
    assert summary.parameters == 112 + 144 + 8 + 15
    assert (summary.name, summary.input, summary.output) == ("HandMade", (1, 3, 20, 30), (1, 3))
    assert describe(build_network(HandMade), SIZE, name="mine").name == "mine"


@pytest.mark.parametrize("pool", [None, nn.AdaptiveAvgPool2d(1), nn.AdaptiveMaxPool2d(1)])
def test_the_pooling_stands_between_the_layers_before_and_after_it(pool):
    summary = describe(build_network(lambda: HandMade(pool)), SIZE)
    kind = "max" if isinstance(pool, nn.AdaptiveMaxPool2d) else "average"
    assert summary.pooled_after == 4
    assert summary.layers[summary.pooled_after - 1].name == "body.norm"
    assert summary.layers[summary.pooled_after].name == ("linear" if pool is None else "pool")
    assert summary.after == ("linear",)
    assert (summary.verdict, summary.pooling) == ("exact", f"{kind} over 10 x 15 cells")


def test_both_of_two_poolings_are_named_and_the_later_one_counts():
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 2, stride=2)
            self.linear = nn.Linear(8, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            maps = self.first(inputs)
            early = maps.amax((2, 3))
            return self.linear(torch.cat([early, self.second(maps).mean((2, 3))], 1))

    summary = describe(build_network(Both), (6, 8), sizes=[(10, 12)])
    assert summary.pooling == "max over 6 x 8 cells and average over 3 x 4 cells"
    assert summary.pooled_after == 2
    assert summary.after == ("cat", "linear")
    assert summary.grids == (((6, 8), (6, 8)), ((10, 12), (10, 12)))


@pytest.mark.parametrize(
    ("head", "after", "verdict", "says"),
    [
        ([nn.Linear(4, 3)], ("linear",), "exact", "on every image"),
        (
            [nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)],
            ("linear", "relu", "linear"),
            "exact for this image",
            "ReLU masks",
        ),
        ([nn.LayerNorm(4), nn.Linear(4, 3)], ("layer_norm", "linear"), "exact for this image", "statistics"),
        (
            [nn.Linear(4, 8), nn.Hardswish(), nn.Linear(8, 3)],
            ("linear", "hardswish", "linear"),
            "not unique",
            "nonlinear",
        ),
        ([nn.Dropout(0.5), nn.Linear(4, 3), nn.Softmax(1)], ("linear", "softmax"), "exact", "on every image"),
    ],
)
def test_the_functions_after_the_pooling_and_the_verdict_are_listed(head, after, verdict, says):
    network = build_network(
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), *head)
    )
    summary = describe(network, SIZE, sizes=())
    assert (summary.after, summary.verdict) == (after, verdict)
    assert says in summary.reason


def count_own_parameters(network: nn.Module) -> dict[str, int]:
    """How many parameters stand under each module's name, counted from the names of the state dict."""
    counts: dict[str, int] = {}
    buffers = {name for name, _ in network.named_buffers()}
    for name, tensor in network.state_dict().items():
        if name not in buffers:
            owner = name.rpartition(".")[0]
            counts[owner] = counts.get(owner, 0) + tensor.numel()
    return counts


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "squeezenet1_1"])
def test_layers_of_torchvisions_networks_are_those_that_hooks_report(name):
    network = build_network(lambda: models.get_model(name, weights=None, num_classes=3))
    summary = describe(network, 64, sizes=())
    counts, began, ended = count_own_parameters(network), [], []
    names = {module: name for name, module in network.named_modules() if name}
    for module in names:
        module.register_forward_pre_hook(lambda module, _: began.append(names[module]))
        module.register_forward_hook(lambda module, _, out: ended.append((names[module], tuple(out.shape))))
    with torch.no_grad():
        network(torch.zeros(1, 3, 64, 64))
    assert [layer.name for layer in summary.layers] == began
    # A module inside an unfinished block ends before it.
    assert [(layer.name, layer.shape) for layer in sorted(summary.layers, key=lambda layer: layer.ended)] == ended
    assert [layer.runs for layer in summary.layers] == [began.count(name) for name in began]
    assert [layer.parameters for layer in summary.layers] == [counts.get(name, 0) for name in began]
    blocks = {names[module] for module in names if list(module.children())}
    assert {layer.name for layer in summary.layers if layer.is_block} == blocks & set(began)
    assert summary.parameters == sum(counts.values())


def test_resnet18_pools_after_its_last_block():
    summary = describe(build_network(lambda: models.resnet18(num_classes=3)), 64, sizes=())
    # 20 convolutions with their BatchNorms, 17 runs of ReLUs (the stem's, and two in each of eight blocks) and the
    # stem's max pooling; four stages of two blocks each, three of them with a block that halves the grid.
    assert summary.pooled_after == 20 + 20 + 17 + 1 + 4 + 8 + 3
    assert [layer.name for layer in summary.layers[summary.pooled_after :]] == ["avgpool", "fc"]
    assert summary.after == ("linear",)


def test_a_pooling_inside_a_block_stands_before_the_block():
    layers = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    summary = describe(build_network(lambda: nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3)), layers)), SIZE, sizes=())
    assert [layer.name for layer in summary.layers] == ["0", "0.0", "1", "1.0", "1.1", "1.2"]
    assert [layer.is_block for layer in summary.layers] == [True, False, True, False, False, False]
    assert summary.pooled_after == 2
    assert dict(summary.lines())["network"] == "Sequential, 4 layers, 127 parameters"


# Halved five times, and rounded up each time: by a padded convolution of stride 2.
def test_the_grids_of_networks_with_a_stride_of_32_are_a_thirty_second_rounded_up():
    summary = describe(build_network(lambda: models.shufflenet_v2_x0_5(num_classes=3)), 64)
    assert dict(summary.grids) == {(64, 64): (2, 2), (208, 208): (7, 7), (104, 208): (4, 7), (256, 408): (8, 13)}
    line = "64 x 64 -> 2 x 2; 208 x 208 -> 7 x 7; 104 x 208 -> 4 x 7; 256 x 408 -> 8 x 13"
    assert dict(summary.lines())["input size -> grid of the class maps"] == line


def test_a_network_of_one_size_lists_the_unsupported_sizes():
    network = build_network(
        lambda: nn.Sequential(nn.Conv2d(3, 2, 3, padding=1), nn.Flatten(), nn.Linear(2 * 20 * 30, 3))
    )
    summary = describe(network, SIZE, sizes=[(208, 208), (30, 20), (10, 10)])
    # Turned, it has as many values.
    assert summary.grids == ((SIZE, SIZE), ((208, 208), None), ((30, 20), (30, 20)), ((10, 10), None))
    lines = dict(summary.lines())
    assert lines["unsupported input sizes"] == "208 x 208, 10 x 10"
    assert lines["input size -> grid of the class maps"] == "20 x 30 -> 20 x 30; 30 x 20 -> 30 x 20"
    with pytest.raises(NetworkError, match=r"^The network cannot run on an input of shape \(1, 3, 64, 64\): "):
        describe(network, 64)


def test_a_size_is_listed_once():
    sizes = [SIZE, (40, 60), (40, 60)]
    assert [size for size, _ in describe(build_network(HandMade), SIZE, sizes=sizes).grids] == [SIZE, (40, 60)]


class ClassToken(nn.Module):
    """A patch embedding, a class token, attention, Linear on the class token."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 2, stride=2)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.fc = nn.Linear(8, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        tokens = self.patches(inputs).flatten(2).transpose(1, 2)
        return self.fc(self.layer(torch.cat([self.token.expand(len(tokens), -1, -1), tokens], 1))[:, 0])


def test_a_class_token_has_no_class_maps_and_the_reason_is_given():
    network = build_network(ClassToken)
    summary = describe(network, (6, 8))
    assert (summary.verdict, summary.pooling, summary.head) == ("none", "none", None)
    assert (summary.pooled_after, summary.after) == (None, ())
    assert summary.reason.startswith("No spatial map reaches the logits: they are read from one of 13 tokens (a class")
    assert summary.grids[0] == ((6, 8), None)
    assert summary.parameters == sum(count_own_parameters(network).values())
    lines = dict(summary.lines())
    assert lines["class maps"].startswith("none: No spatial map reaches the logits: ")
    assert lines["what follows it"] == "nothing"
    assert lines["pooling to add"] == "It returns one value per class, but does not pool feature maps."
    assert "input size -> grid of the class maps" not in lines


class Returns(nn.Module):
    """What a function makes of the maps (N, 4, 5, 6) of a convolution."""

    def __init__(self, function: object) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 2, stride=2)
        self.function = function

    def forward(self, inputs: Tensor) -> object:
        return self.function(self.conv(inputs))


@pytest.mark.parametrize(
    ("function", "answer"),
    [
        (
            lambda maps: maps,
            "It does not pool: it returns feature maps (1, 4, 5, 6). Add global average pooling and a Linear layer "
            "from 4 features to the classes.",
        ),
        (
            lambda maps: maps.flatten(2).transpose(1, 2),
            "It does not pool: it returns tokens (1, 30, 4). Add their mean and a Linear layer.",
        ),
        (
            lambda maps: maps.mean((2, 3)),
            "It already pools: it returns its pooled feature maps, (1, 4). If these are features and not classes, "
            "add a Linear layer and no other pooling.",
        ),
        (
            lambda maps: functional.adaptive_max_pool2d(maps, 1),
            "It already pools: it returns its pooled feature maps, (1, 4, 1, 1). If these are features and not "
            "classes, add a Linear layer and no other pooling.",
        ),
        (
            lambda maps: maps.mean((2, 3)) @ torch.ones(4, 3),
            "It already pools and returns 3 logits. No pooling is needed.",
        ),
        (
            lambda maps: maps.mean((1, 2, 3)),
            "It returns one value per class, but does not pool feature maps.",
        ),
        (
            lambda maps: (maps.mean((2, 3)) @ torch.ones(4, 1)).squeeze(1),
            "It already pools and returns 1 logit. No pooling is needed.",
        ),
        (lambda maps: None, "It returns neither logits nor feature maps, so there is nothing to pool."),
        (lambda maps: maps.sum(), "It returns neither logits nor feature maps, so there is nothing to pool."),
    ],
)
def test_the_pooling_advice_fits_the_output(function, answer):
    summary = describe(build_network(lambda: Returns(function)), (10, 12), sizes=())
    assert summary.pooling_advice == answer
    assert dict(summary.lines())["pooling to add"] == answer


def test_the_backbone_of_resnet18_returns_maps_and_with_its_pooling_features():
    children = list(build_network(lambda: models.resnet18()).children())
    answer = describe(nn.Sequential(*children[:-2]), (64, 96), sizes=()).pooling_advice
    assert answer.startswith("It does not pool: it returns feature maps (1, 512, 2, 3). Add global average pooling")
    answer = describe(nn.Sequential(*children[:-1]), (64, 96), sizes=()).pooling_advice
    assert answer.startswith("It already pools: it returns its pooled feature maps, (1, 512, 1, 1)")


def test_a_classifier_is_described_at_its_own_size_under_its_own_name():
    classifier = Classifier.wrap(build_network(HandMade), size=(12, 16), name="mine")
    summary = describe(classifier, size=99, sizes=())
    assert (summary.name, summary.input, summary.head) == ("mine", (1, 3, 12, 16), classifier.head)
    assert summary.grids == (((12, 16), (6, 8)),)


def test_a_gray_network_is_described_with_one_channel():
    network = build_network(lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    assert describe(network, 8, channels=1, sizes=()).input == (1, 1, 8, 8)
    with pytest.raises(NetworkError, match=r"^The network cannot run on an input of shape \(1, 3, 8, 8\): .*channels"):
        describe(network, 8)


def test_double_precision_is_kept():
    summary = describe(build_network(HandMade).double(), SIZE, sizes=())
    assert summary.verdict == "exact"


class Fails(HandMade):
    def forward(self, inputs: Tensor) -> Tensor:
        super().forward(inputs)
        raise ValueError("broken on purpose\nwith a second line")


@pytest.mark.parametrize("build", [HandMade, Fails, ClassToken])
@pytest.mark.parametrize("copies", [True, False])
def test_a_network_in_training_comes_back_as_it_was(build, copies):
    torch.manual_seed(0)
    network = build().train()
    parts = list(network.modules())
    parts[1].eval()
    calls = []
    parts[1].register_forward_hook(lambda *_: calls.append("forward"))
    parts[-1].register_forward_pre_hook(lambda *_: calls.append("before"))
    first = next(network.parameters())
    first.requires_grad_(False)
    first.grad = torch.ones_like(first)
    if not copies:
        # What cannot be copied is watched itself.
        network.generator = (n for n in range(3))

    def state() -> list[object]:
        hooks = [(dict(m._forward_hooks), dict(m._forward_pre_hooks), dict(m._backward_hooks)) for m in parts]
        tensors = [*network.parameters(), *network.buffers()]
        # Above 0 where something was written to it in place.
        versions = [tensor._version for tensor in tensors]
        modes, requires_grad = [m.training for m in parts], [p.requires_grad for p in network.parameters()]
        return [modes, requires_grad, hooks, versions, [tensor.clone() for tensor in tensors], [first.grad.clone()]]

    before = state()
    if build is Fails:
        with pytest.raises(
            NetworkError, match=r"^The network cannot run on an input of shape \(1, 3, 6, 8\): broken on purpose$"
        ):
            describe(network, (6, 8))
    else:
        describe(network, (6, 8))
    after = state()
    assert after[:4] == before[:4]
    for one, other in zip([*before[4], *before[5]], [*after[4], *after[5]], strict=True):
        assert torch.equal(one, other)
    assert {"forward", "before"} >= set(calls) != set()
    assert list(network.modules()) == parts


def test_a_backbone_with_channels_last_is_recognized_by_the_axes_that_change_with_the_input_size():
    class ChannelsLast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 5, 4, stride=4)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.conv(inputs).permute(0, 2, 3, 1)

    summary = describe(ChannelsLast(), (8, 12), sizes=((16, 12), (2, 2)))
    assert summary.output == (1, 2, 3, 5)
    assert "from 5 features" in summary.pooling_advice
    assert summary.grids == (((8, 12), (2, 3)), ((16, 12), (4, 3)), ((2, 2), None))
