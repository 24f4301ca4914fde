"""What a network returns: logits, probabilities in any spelling, or other values; and what is shown of it."""

import json
import re
from collections.abc import Callable
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inspector import Classifier, class_maps, class_maps_of_batch
from inspector.errors import NetworkError
from inspector.explain.backends.accelerate import accelerate
from inspector.explain.kinds import OutputMeaning
from inspector.output.export import make_file

SIZE = (7, 9)
Ending = Callable[[Tensor], Tensor]


class Network(nn.Module):
    """A convolution, its average and a linear layer; `ending` turns the logits into the output."""

    def __init__(self, ending: Ending, classes: int = 4, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc, self.ending = nn.Conv2d(3, 6, 3), nn.Linear(6, classes), ending
        self.to(dtype)

    def forward(self, inputs: Tensor) -> Tensor:
        # Logits of some size: softmax and sigmoid are saturated for the larger noise images of the search.
        return self.ending(self.fc(self.conv(inputs).relu().mean((2, 3))) * 5)

    def logits(self, inputs: Tensor) -> Tensor:
        return (self.fc(self.conv(inputs).relu().mean((2, 3))) * 5).detach()


def write_over(z: Tensor) -> Tensor:
    z -= z.amax(1, keepdim=True)
    z.exp_()
    z /= z.sum(1, keepdim=True)
    return z


def shift_and_divide(z: Tensor) -> Tensor:
    exponentials = (z - z.max(1, keepdim=True).values).exp()
    return exponentials / exponentials.sum(1, keepdim=True)


SOFTMAX: dict[str, Ending] = {
    "softmax": lambda z: z.softmax(1),
    "a module": nn.Softmax(dim=-1),
    "in double precision": lambda z: torch.softmax(z, 1, dtype=torch.float64).float(),
    "exp by sum": lambda z: z.exp() / z.exp().sum(1, keepdim=True),
    "the highest subtracted": shift_and_divide,
    "in place": write_over,
    "log-softmax": lambda z: F.log_softmax(z, 1),
    "log-softmax by hand": lambda z: z - z.logsumexp(1, keepdim=True),
    "exp of log-softmax": lambda z: z.log_softmax(1).exp(),
    "normalized to one": lambda z: F.normalize(z.exp(), p=1.0, dim=1),
}
SIGMOID: dict[str, Ending] = {
    "sigmoid": torch.sigmoid,
    "in place": lambda z: z.sigmoid_(),
    "expit": torch.special.expit,
    "one by one plus exp": lambda z: 1 / (1 + torch.exp(-z)),
    "reciprocal": lambda z: (1 + (-z).exp()).reciprocal(),
    "power": lambda z: (1 + (-z).exp()) ** -1,
    "tanh": lambda z: 0.5 * (1 + torch.tanh(z / 2)),
    "exp by one plus exp": lambda z: z.exp() / (1 + z.exp()),
    "clamped": lambda z: z.sigmoid().clamp(1e-6, 1 - 1e-6),
}


@pytest.mark.parametrize(
    ("activation", "case"), [("softmax", case) for case in SOFTMAX] + [("sigmoid", case) for case in SIGMOID]
)
def test_probabilities_are_traced_back_to_logits_however_they_are_spelled(activation, case):
    network = Network({"softmax": SOFTMAX, "sigmoid": SIGMOID}[activation][case])
    classifier = Classifier.wrap(network, size=SIZE)
    assert classifier.probability == activation
    inputs = classifier.noise_input(2, 3)
    logits = network.logits(inputs)
    expected = logits.softmax(1) if activation == "softmax" else logits.sigmoid()
    for n, maps in enumerate(class_maps_of_batch(classifier, inputs)):
        assert maps.verdict == "exact"
        torch.testing.assert_close(maps.logits, logits[n])
        torch.testing.assert_close(maps.values.sum((1, 2)) + maps.bias, logits[n], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(maps.probabilities, expected[n])


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_sigmoid_by_hand_is_found_for_any_number_of_classes_and_dtype(classes, dtype):
    network = Network(SIGMOID["one by one plus exp"], classes, dtype)
    classifier = Classifier.wrap(network, size=SIZE)
    assert (classifier.probability, classifier.head.classes) == ("sigmoid", classes)
    inputs = classifier.noise_input(1, 3)
    logits = class_maps_of_batch(classifier, inputs)[0].logits
    torch.testing.assert_close(logits.to(dtype), network.logits(inputs)[0])


@pytest.mark.parametrize("order", [1, -1])
def test_two_classes_of_one_sigmoid_are_the_softmax_of_zero_and_its_logit(order):
    network = Network(lambda z: torch.cat([1 - z.sigmoid(), z.sigmoid()][::order], 1), 1)
    classifier = Classifier.wrap(network, size=SIZE)
    inputs = classifier.noise_input(1, 3)
    (maps,) = class_maps_of_batch(classifier, inputs)
    z = float(network.logits(inputs))
    assert (classifier.probability, maps.verdict) == ("softmax", "exact")
    assert maps.logits.tolist() == pytest.approx([0, z][::order])
    torch.testing.assert_close(maps.probabilities, network(inputs)[0].detach())


def test_the_softmax_of_scaled_logits_has_the_scaled_logits():
    network = Network(lambda z: shift_and_divide(z / 3))
    classifier = Classifier.wrap(network, size=SIZE)
    inputs = classifier.noise_input(1, 3)
    torch.testing.assert_close(class_maps_of_batch(classifier, inputs)[0].logits, network.logits(inputs)[0] / 3)


IDENTITY: dict[str, Ending] = {
    "the mean of two softmaxes": lambda z: (z.softmax(1) + (2 * z).softmax(1)) / 2,
    "the mean of two sigmoids": lambda z: (z.sigmoid() + (2 * z).sigmoid()) / 2,
    "smoothed": lambda z: 0.98 * z.softmax(1) + 0.005,
    "sigmoids divided by their sum": lambda z: z.sigmoid() / z.sigmoid().sum(1, keepdim=True),
    "hard sigmoid": F.hardsigmoid,
}


@pytest.mark.parametrize("case", IDENTITY)
def test_other_probabilities_are_shown_as_they_are(case):
    network = Network(IDENTITY[case])
    classifier = Classifier.wrap(network, size=SIZE)
    inputs = classifier.noise_input(1, 3)
    (maps,) = class_maps_of_batch(classifier, inputs)
    assert (classifier.probability, classifier.meaning.quantity) == ("identity", "probability")
    torch.testing.assert_close(maps.probabilities, network(inputs)[0].detach())
    torch.testing.assert_close(maps.values.sum((1, 2)) + maps.bias, maps.probabilities, rtol=1e-4, atol=1e-5)
    assert maps.describe_reading() == "contribution per cell (sums to the probability)"
    with pytest.raises(NetworkError, match=r"returns probabilities already, .* probability='softmax' needs\. Use"):
        Classifier.wrap(network, size=SIZE, probability="softmax")


LOGITS: dict[str, Ending] = {
    "plain": lambda z: z,
    "zero": lambda z: 0 * z,
    "scaled down": lambda z: z / 1000 + 0.5,
    "positive": torch.relu,
    "tanh": torch.tanh,
    "normalized": lambda z: F.normalize(z, dim=1),
    "of a class that sums to one": lambda z: torch.cat([z[:, :3], 1 - z[:, :3].sum(1, keepdim=True)], 1),
}


@pytest.mark.parametrize("case", LOGITS)
def test_values_that_are_no_probabilities_are_logits(case):
    classifier = Classifier.wrap(Network(LOGITS[case]), size=SIZE)
    assert (classifier.probability, classifier.meaning.quantity) == ("softmax", "logit")


@pytest.mark.parametrize("ending", [lambda z: z * 10 + 40, torch.sigmoid, SIGMOID["one by one plus exp"]])
def test_other_values_are_explained_as_the_network_returns_them(ending):
    network = Network(ending, 1)
    classifier = Classifier.wrap(network, ["age"], size=SIZE, probability="none", unit="years")
    photo = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    maps = class_maps(classifier, photo)
    expected = float(network(classifier.inputs(maps.view)).detach())
    assert float(maps.logits) == pytest.approx(expected, rel=1e-5)
    assert float(maps.values.sum() + maps.bias) == pytest.approx(expected, rel=1e-4)
    assert bool(maps.probabilities.isnan().all())
    assert maps.outcome(0) == f"{expected:.4g} years".replace("-", "\N{MINUS SIGN}")
    content = maps.figure_content(1)
    assert make_file("logits.csv", maps, content).decode().splitlines()[1].startswith("0,age,,")
    manifest = json.loads(make_file("manifest.json", maps, content))
    assert (manifest["probability"], manifest["unit"]) == ("none", "years")
    assert manifest["top"] == [{"class": 0, "name": "age", "value": pytest.approx(expected, rel=1e-5)}]
    report = make_file("report.html", maps, content).decode()
    assert f"({maps.outcome(0)})" in report
    assert "contribution per cell (sums to the value), in years; the same scale" in report
    shown = re.sub("<script.*?</script>", "", report, flags=re.DOTALL)
    assert "%" not in shown.split("</style>")[-1].split("<h2>Settings")[0].replace("100%", "")
    texts = [text.get_text() for axis in maps.figure().axes for text in (axis.title, axis.yaxis.label)]
    assert any(maps.outcome(0) in text for text in texts)
    assert "contribution per cell (sums to the value), in years" in " ".join(" ".join(texts).split())


def test_independent_probabilities_are_named_so():
    classifier = Classifier.wrap(Network(lambda z: z), size=SIZE, probability="sigmoid")
    (maps,) = class_maps_of_batch(classifier, classifier.noise_input())
    torch.testing.assert_close(maps.probabilities, maps.logits.sigmoid())
    assert classifier.meaning.sentence(4).endswith("are independent, and do not sum to 1.")
    assert "independent" not in classifier.meaning.sentence(1)


@pytest.mark.parametrize("word", ["Softmax", "multilabel", ""])
def test_another_word_for_the_probabilities_is_an_error(word):
    with pytest.raises(NetworkError, match=f"probability is '{word}'. Use one of softmax, sigmoid, identity, none."):
        Classifier.wrap(Network(lambda z: z), size=SIZE, probability=word)


@pytest.mark.parametrize(
    ("meaning", "text"),
    [
        (OutputMeaning("softmax"), "12.3%"),
        (OutputMeaning("identity"), "12.3%"),
        (OutputMeaning("none", "years"), "\N{MINUS SIGN}41.35 years"),
        (OutputMeaning("none"), "\N{MINUS SIGN}41.35"),
    ],
)
def test_an_outcome_is_a_percentage_or_a_value_with_its_unit(meaning, text):
    assert meaning.describe(-41.349, 0.1234) == text


def test_a_traced_network_can_be_copied_and_accelerated():
    classifier = Classifier.wrap(Network(SOFTMAX["in place"]), size=SIZE)
    inputs = classifier.noise_input(2, 3)
    maps, fast = (class_maps_of_batch(one, inputs)[0] for one in (classifier, accelerate(classifier, "folded")))
    assert fast.backend == "folded"
    torch.testing.assert_close(fast.values, maps.values)
    torch.testing.assert_close(deepcopy(classifier.network)(inputs), classifier.network(inputs))
