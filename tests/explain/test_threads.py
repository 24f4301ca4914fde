"""Ten threads on one network: each gets the same result as alone."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from inspector import Classifier, class_maps_of_batch, load

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
