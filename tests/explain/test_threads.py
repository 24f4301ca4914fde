"""Many threads on one network: each gets the same result as alone."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inspector import Classifier, accelerate, class_maps_of_batch, describe, load
from inspector.analysis.attribution.methods import compute_attribution
from inspector.analysis.masking import mask_at_head
from inspector.explain.backends.export_graph import feature_graph

THREADS, CALLS, IMAGES = 10, 500, 25


def in_training() -> Classifier:
    """BatchNorm and dropout in training mode, so that evaluation mode is entered and left all the time."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.BatchNorm1d(6),
        nn.Linear(6, 4),
    )
    network[1].running_mean.normal_()
    network[6].running_var.uniform_(0.5, 2)
    return Classifier.wrap(network.train(), size=(28, 28), mean=(0.0,), std=(1.0,))


@pytest.mark.parametrize("build", [lambda: load("fashion_gap"), lambda: load("fashion_gmp"), in_training])
def test_each_of_ten_threads_gets_the_same_as_alone(build):
    classifier = build()
    modes = [module.training for module in classifier.network.modules()]
    values = {name: tensor.clone() for name, tensor in classifier.network.state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    # Sizes differ too: a tensor of another call would not fit.
    inputs = [torch.rand(1 + n % 3, 1, 28 + 2 * (n % 5), 28, generator=generator) for n in range(IMAGES)]
    alone = [class_maps_of_batch(classifier, image) for image in inputs]

    def work(call: int) -> list:
        # torch sums on one thread, so that the order of the summands, and thus the last digit, is always the same.
        torch.set_num_threads(1)
        return class_maps_of_batch(classifier, inputs[call % IMAGES])

    with ThreadPoolExecutor(THREADS) as pool:
        together = list(pool.map(work, range(CALLS)))

    assert len(together) == CALLS
    for call, batch in enumerate(together):
        for maps, expected in zip(batch, alone[call % IMAGES], strict=True):
            assert torch.equal(maps.values, expected.values)
            assert torch.equal(maps.logits, expected.logits)
            assert torch.equal(maps.feature_maps, expected.feature_maps)
            assert maps.residual == expected.residual
            assert maps.verdict == "exact"
    assert [module.training for module in classifier.network.modules()] == modes
    assert all(torch.equal(tensor, values[name]) for name, tensor in classifier.network.state_dict().items())


class Call(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, inputs: Tensor) -> Tensor:
        return self.function(inputs)


def mean(*layers: nn.Module) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), *layers]


def root_mean_of_cubes(x: Tensor) -> Tensor:
    return F.avg_pool2d(x.clamp(min=1e-6).pow(3), x.shape[2:]).pow(1 / 3).flatten(1)


MIXED: dict[str, Callable[[], list[nn.Module]]] = {
    "affine": lambda: mean(nn.Linear(6, 4)),
    "LayerNorm": lambda: mean(nn.LayerNorm(6), nn.Linear(6, 4)),
    "length by hand": lambda: mean(Call(lambda p: p / p.norm(dim=1, keepdim=True)), nn.Linear(6, 4)),
    "ReLU MLP": lambda: mean(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)),
    "hard-swish": lambda: mean(nn.Linear(6, 8), nn.Hardswish(), nn.Linear(8, 4)),
    "GELU": lambda: mean(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 4)),
    "generalized mean": lambda: [Call(root_mean_of_cubes), nn.Linear(6, 4)],
    "flatten": lambda: [nn.Flatten(), nn.Linear(6 * 48, 8), nn.ReLU(), nn.Linear(8, 4)],
}


def test_sixteen_threads_get_the_same_as_alone_whatever_follows_the_pooling_and_whatever_else_runs():
    work: dict[tuple[str, str], Callable[[], list[Tensor]]] = {}
    for head, layers in MIXED.items():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU(), *layers()).eval()
        classifier = Classifier.wrap(network, size=(12, 16))
        inputs = classifier.noise_input(2)

        def explain(classifier: Classifier = classifier, inputs: Tensor = inputs) -> list[Tensor]:
            found = class_maps_of_batch(classifier, inputs)
            assert all(maps.verdict == classifier.head.verdict for maps in found)
            return [tensor for maps in found for tensor in (maps.values, maps.bias, maps.logits, maps.channels(1))]

        work["class maps", head] = explain
        work["load", head] = lambda n=network, f=explain: f(Classifier.wrap(n, size=(12, 16)))
        work["describe", head] = lambda c=classifier: [torch.tensor(len(describe(c).layers))]
        work["method", head] = lambda c=classifier, x=inputs: [compute_attribution(c, x[:1], 1, "HiResCAM").values]
        if not classifier.head.needs_derivative:
            mask = torch.zeros(6, 8, dtype=torch.bool)
            mask[2:4, 1:5] = True
            work["masking", head] = lambda c=classifier, x=inputs, m=mask: [
                mask_at_head(class_maps_of_batch(c, x)[0], m).logits
            ]
        if head in ("LayerNorm", "ReLU MLP"):
            work["folded", head] = lambda c=classifier, f=explain: f(accelerate(c, "folded"))
            work["export", head] = lambda c=classifier, x=inputs: list(feature_graph(c)(x))
    alone = {name: call() for name, call in work.items()}
    names = [name for name in work for _ in range(2 if name[0] in ("folded", "export", "load") else 4)]
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(0)).tolist()

    def call(n: int) -> list[Tensor]:
        torch.set_num_threads(1)
        return work[names[n]]()

    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(call, order))
    for n, results in zip(order, together, strict=True):
        for result, expected in zip(results, alone[names[n]], strict=True):
            torch.testing.assert_close(
                result, expected, rtol=1e-6, atol=1e-6, msg=lambda text, n=n: f"{names[n]} {text}"
            )
