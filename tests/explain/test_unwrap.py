"""Networks in torch's wrappers are explained as the networks themselves, and the wrappers work on as before."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed
from torch import Tensor, nn

from inspector import Classifier, class_maps_of_batch, describe
from inspector.errors import NetworkError
from inspector.explain.tracing.unwrap import run_uncompiled, unwrap, uses_compiler

SIZE = (10, 12)


def plain() -> nn.Sequential:
    torch.manual_seed(0)
    body = (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()


def compiled(network: nn.Module) -> nn.Module:
    return torch.compile(network, backend="eager")


def compiled_in_place() -> nn.Module:
    network = plain()
    network.compile(backend="eager")
    return network


@torch.compile(backend="eager")
def double(values: Tensor) -> Tensor:
    return values * 2


class Inside(nn.Module):
    """A compiled part, and a compiled function behind it."""

    def __init__(self, function: Callable[[Tensor], Tensor] = lambda values: values) -> None:
        super().__init__()
        self.body, self.function = compiled(plain()), function

    def forward(self, images: Tensor) -> Tensor:
        return self.function(self.body(images))


class Function(nn.Module):
    """Calls compiled functions."""

    def __init__(self) -> None:
        super().__init__()
        self.body = plain()

    def forward(self, images: Tensor) -> Tensor:
        return double(self.body(double(images)))


def assert_explained(network: nn.Module) -> Classifier:
    classifier = Classifier.wrap(network, size=SIZE)
    image = classifier.noise_input(1, seed=4)
    (maps,) = class_maps_of_batch(classifier, image)
    assert (maps.verdict, maps.classifier.head.pooling) == ("exact", "average")
    with torch.no_grad():
        torch.testing.assert_close(maps.logits, network.eval()(image)[0])
    torch.testing.assert_close(maps.values.sum((1, 2)) + maps.bias, maps.logits, rtol=1e-4, atol=1e-5)
    assert describe(network, size=SIZE, sizes=()).verdict == "exact"
    return classifier


WRAPPED: dict[str, Callable[[], nn.Module]] = {
    "compiled": lambda: compiled(plain()),
    "compiled in place": compiled_in_place,
    "a compiled part": Inside,
    "a compiled part and a compiled function": lambda: Inside(double),
    "a compiled function": lambda: Function(),
    "data parallel": lambda: nn.DataParallel(plain()),
    "compiled data parallel": lambda: nn.DataParallel(compiled(plain())),
}


@pytest.mark.parametrize("case", WRAPPED)
def test_a_wrapped_network_is_explained(case: str) -> None:
    network = WRAPPED[case]()
    with torch.no_grad():
        network(torch.zeros(1, 3, *SIZE))  # compiled as it is used
    assert_explained(network)


def test_torch_names_its_compiled_backends_as_we_look_them_up() -> None:
    from torch._dynamo import eval_frame

    compiled(plain())
    assert eval_frame.cached_backends
    assert uses_compiler()


def test_the_classifier_holds_the_network_itself() -> None:
    network = plain()
    assert unwrap(nn.DataParallel(compiled(network))) is network
    assert unwrap(network) is network
    assert Classifier.wrap(compiled(network), size=SIZE).network is network


def test_compiled_functions_compile_again_after_the_last_thread_leaves() -> None:
    calls: list[object] = []

    def backend(graph: torch.fx.GraphModule, example: list[Tensor]) -> Callable[..., object]:
        calls.append(graph)
        return graph.forward

    function = torch.compile(lambda values: values + 1, backend=backend)
    with run_uncompiled():
        with run_uncompiled():
            function(torch.ones(2))
        function(torch.ones(2))
    assert calls == []
    function(torch.ones(2))
    assert len(calls) == 1


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("one_process")
def test_distributed_training_goes_on_as_before() -> None:
    network, alone = nn.parallel.DistributedDataParallel(plain().train()), plain().train()

    def train(one: nn.Module) -> None:
        one.train()
        one(torch.ones(2, 3, *SIZE)).square().sum().backward()

    train(network)
    assert_explained(network)
    network.zero_grad()
    train(network)
    train(alone)
    alone.zero_grad()
    train(alone)
    for one, other in zip(network.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_parameters_made_in_inference_mode_are_supported() -> None:
    with torch.inference_mode():
        network = plain()
    assert_explained(network)
    with torch.inference_mode():
        network = nn.Sequential(*list(plain())[:-1], nn.LayerNorm(4), nn.Linear(4, 3)).eval()
    (maps,) = class_maps_of_batch(Classifier.wrap(network, size=SIZE), torch.ones(1, 3, *SIZE))
    assert maps.verdict == "exact for this image"


def test_parameters_without_values_are_named() -> None:
    with pytest.raises(NetworkError, match=r"^Parameter '1.weight' has no shape yet. Run the network once"):
        Classifier.wrap(nn.Sequential(nn.Flatten(), nn.LazyLinear(3)), size=SIZE)
    with pytest.raises(NetworkError, match=r"^Parameter '0.weight' has no values: it is on the meta device"):
        Classifier.wrap(plain().to("meta"), size=SIZE)
