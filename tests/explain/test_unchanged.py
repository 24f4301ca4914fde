"""Networks of many families are unchanged after their analysis, also when the forward pass fails."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from inspector import Classifier, HeadError, NetworkError, class_maps_of_batch, describe
from inspector.networks.build import build


class Closure(nn.Module):
    """Calls its layers through a closure, which a copy of the network shares with the original."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.dropout, self.linear = nn.Dropout(0.5), nn.Linear(4, 3)
        self.body = lambda inputs: self.dropout(self.norm(self.conv(inputs)))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.linear(self.body(inputs).mean((2, 3)))


class NoCopy(Closure):
    """Cannot be copied, because it holds an object that cannot be."""

    def __init__(self) -> None:
        super().__init__()
        self.source = (number for number in range(3))


class Counting(Closure):
    """Counts its passes in a buffer and shares a weight between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.reapply = nn.Conv2d(4, 4, 3, padding=1)
        self.twin = nn.Conv2d(4, 4, 3, padding=1)
        self.twin.weight = self.reapply.weight

    def forward(self, inputs: Tensor) -> Tensor:
        return self.linear(self.twin(self.reapply(self.body(inputs)).relu()).amax((2, 3)))


class ClassToken(nn.Module):
    """A network without class maps."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.token = nn.Conv2d(3, 8, 2, stride=2), nn.Parameter(torch.randn(1, 1, 8))
        self.layer, self.linear = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), nn.Linear(8, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        tokens = self.patches(inputs).flatten(2).transpose(1, 2)
        return self.linear(self.layer(torch.cat([self.token.expand(len(tokens), -1, -1), tokens], 1))[:, 0])


def of(arch: str) -> Callable[[], nn.Module]:
    return lambda: build(arch, 3)


# A network, the input size, and the verdict.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, str]] = {
    "a closure": (Closure, 12, "exact"),
    "no copy": (NoCopy, 12, "exact"),
    "shared weights": (Counting, 12, "exact"),
    "a class token": (ClassToken, 8, "none"),
    "cifar_resnet": (of("cifar_resnet"), 32, "exact"),
    "squeezenet1_1": (of("torchvision:squeezenet1_1"), 64, "exact"),
    "mobilenet_v2": (of("torchvision:mobilenet_v2"), 64, "exact"),
    "mobilenet_v3_small": (of("torchvision:mobilenet_v3_small"), 64, "not unique"),
    "shufflenet_v2_x0_5": (of("torchvision:shufflenet_v2_x0_5"), 64, "exact"),
    "test_resnet": (of("timm:test_resnet"), 64, "exact"),
    "test_efficientnet": (of("timm:test_efficientnet"), 64, "exact"),
    "test_convnext": (of("timm:test_convnext"), 64, "exact for this image"),
    "test_nfnet": (of("timm:test_nfnet"), 64, "exact"),
    "test_byobnet": (of("timm:test_byobnet"), 64, "exact"),
    "test_mambaout": (of("timm:test_mambaout"), 64, "not unique"),
    "test_vit2": (of("timm:test_vit2"), 160, "exact for this image"),
    "test_vit": (of("timm:test_vit"), 160, "none"),
}


@pytest.fixture(params=NETWORKS)
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, int, str]:
    make, size, verdict = NETWORKS[request.param]
    torch.manual_seed(0)
    return add_state(make()), size, verdict


class Stop:
    """A hook of the user that fails on demand."""

    now = False

    def __call__(self, *_: object) -> None:
        if Stop.now:
            raise ValueError("stopped on purpose\nin two lines")


def add_state(network: nn.Module) -> nn.Module:
    """Add everything that an analysis could change: training mode, frozen parts, gradients, statistics, hooks."""
    modules, parameters = list(network.modules()), list(network.parameters())
    for n, module in enumerate(modules):
        module.training = n % 3 == 0
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-1, 1)
            module.num_batches_tracked.fill_(n)
    for n, parameter in enumerate(parameters):
        parameter.requires_grad = n % 4 != 1
        parameter.grad = torch.full_like(parameter, n) if n % 2 else None
    for module in modules[1::5]:
        module.register_forward_pre_hook(lambda module, inputs: None)
    last = [module for module in modules if isinstance(module, nn.Linear | nn.Conv2d)][-1]
    last.register_forward_hook(Stop())
    if isinstance(last, nn.Linear):  # torch allows no backward hook before an in-place operation
        last.register_full_backward_hook(lambda module, given, got: None)
        last.register_full_backward_pre_hook(lambda module, got: None)
    return network


def tensors_of(network: nn.Module) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]


@contextmanager
def unchanged(network: nn.Module) -> Iterator[None]:
    """Assert that the code inside changes nothing in the network or in torch."""

    def snapshot() -> dict[str, object]:
        modules = list(network.modules())
        kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
        return {
            "modules": modules,
            "modes": [module.training for module in modules],
            "hooks": [list(getattr(module, kind).items()) for module in modules for kind in kinds],
            "attributes": [sorted(vars(module)) for module in modules],
            "forward": [vars(module).get("forward") for module in modules],
            "which tensors": [id(tensor) for tensor in tensors_of(network)],
            "writes": [tensor._version for tensor in tensors_of(network)],
            "requires_grad": [parameter.requires_grad for parameter in network.parameters()],
            "which gradients": [id(parameter.grad) for parameter in network.parameters()],
            "torch": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_dtype()),
        }

    def values() -> dict[str, list[Tensor]]:
        gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
        return {
            "values": [tensor.detach().clone() for tensor in tensors_of(network)],
            "gradients": [gradient.clone() for gradient in gradients],
            "seed": [torch.get_rng_state()],
        }

    before, values_before = snapshot(), values()
    yield
    for name, after in snapshot().items():
        assert after == before[name], name
    for name, tensors in values().items():
        for one, other in zip(tensors, values_before[name], strict=True):
            assert torch.equal(one, other), name


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def wrapped(network: nn.Module, size: int, verdict: str) -> Classifier | None:
    if verdict == "none":
        with pytest.raises(HeadError, match=r"^No spatial map reaches the logits"):
            Classifier.wrap(network, size=size)
        return None
    return Classifier.wrap(network, size=size)


def test_a_network_is_unchanged(case):
    network, size, verdict = case
    inputs = noise(2, 3, size, size)
    kept = inputs.clone()
    with unchanged(network):
        classifier = wrapped(network, size, verdict)
        assert describe(network, size, sizes=()).verdict == verdict
    if classifier is not None:
        with unchanged(network):
            found = class_maps_of_batch(classifier, inputs)
        assert [maps.verdict for maps in found] == [verdict] * 2
    assert torch.equal(inputs, kept)


def test_a_network_is_unchanged_when_its_forward_pass_fails(case, monkeypatch):
    network, size, verdict = case
    classifier = wrapped(network, size, verdict)
    inputs = noise(1, 3, size, size)
    monkeypatch.setattr(Stop, "now", True)
    message = rf"^The network cannot run on an input of shape \(1, 3, {size}, {size}\): stopped on purpose$"
    for look in (
        lambda: Classifier.wrap(network, size=size),
        lambda: describe(network, size),
        lambda: class_maps_of_batch(classifier, inputs) if classifier else describe(network, size),
    ):
        with unchanged(network), pytest.raises(NetworkError, match=message):
            look()


def test_a_network_can_be_trained_after_its_analysis():
    torch.manual_seed(0)
    looked_at, other = Closure().train(), Closure().train()
    other.load_state_dict(looked_at.state_dict())
    for step in range(3):
        class_maps_of_batch(Classifier.wrap(looked_at, size=12), noise(2, 3, 12, 12))
        for network in (looked_at, other):
            torch.manual_seed(step)
            network(noise(4, 3, 12, 12)).square().sum().backward()
            with torch.no_grad():
                for parameter in network.parameters():
                    parameter -= 0.01 * parameter.grad
    for one, same in zip(looked_at.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(one, same)


@pytest.mark.parametrize("make", [Closure, NoCopy, of("torchvision:squeezenet1_1"), of("timm:test_resnet")])
@pytest.mark.parametrize("training", [False, True])
def test_hooks_of_the_user_run_once_per_batch_as_in_a_plain_pass(make, training):
    torch.manual_seed(0)
    network, inputs = make().train(training), noise(3, 3, 64, 64)
    forward, backward = [], []
    for name, module in network.named_modules():
        module.register_forward_hook(lambda module, _, out, name=name: forward.append((name, tuple(out.shape))))
        if isinstance(module, nn.Linear):
            module.register_full_backward_hook(lambda *_, name=name: backward.append(name))
    classifier = Classifier.wrap(network, size=64)
    forward.clear()
    backward.clear()
    class_maps_of_batch(classifier, inputs)
    with_class_maps = list(forward)
    forward.clear()
    with torch.no_grad():
        network.eval()(inputs)
    assert with_class_maps == forward
    assert backward == []
    assert forward
