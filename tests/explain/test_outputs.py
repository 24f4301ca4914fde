"""Which output of a network holds its logits: the only one that can, or the one that the user names."""

from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inspector import Classifier, class_maps_of_batch, describe
from inspector.analysis.layers import list_layers
from inspector.analysis.randomization import shuffle_weights
from inspector.errors import NetworkError
from inspector.explain.backends.accelerate import accelerate
from inspector.explain.tracing.chosen_output import ChosenOutput, choose_output
from inspector.explain.tracing.forward import forward
from inspector.explain.tracing.outputs import find_output_name, list_outputs

SIZE = (6, 8)
Output = Callable[["Network", Tensor], Any]


@dataclass
class Fields:
    logits: Tensor


@dataclass
class Scores:
    score: Tensor
    features: Tensor | None = None
    loss: Tensor | None = None


Named = namedtuple("Named", ["logits", "aux_logits"])
Pair = namedtuple("Pair", ["classes", "name"])


class Network(nn.Module):
    """A convolution to five maps and their average; `output` makes the network's output of it."""

    def __init__(self, output: Output, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc, self.other = nn.Conv2d(3, 5, 3), nn.Linear(5, 4), nn.Linear(5, 2)
        self.output = output
        self.to(dtype)

    def forward(self, inputs: Tensor) -> Any:
        return self.output(self, self.conv(inputs).relu())


def pool(maps: Tensor) -> Tensor:
    return maps.mean((2, 3))


def noise(rows: int = 1) -> Tensor:
    return torch.randn(rows, 3, *SIZE, generator=torch.Generator().manual_seed(5))


def logits_of(network: Network, inputs: Tensor, layer: str = "fc") -> Tensor:
    """Return what a layer gives for the averages, computed beside the network's own forward pass."""
    result: Tensor = getattr(network, layer)(pool(network.conv(inputs).relu())).detach()
    return result


def assert_explains(network: Network, layer: str = "fc", **options: Any) -> Classifier:
    classifier = Classifier.wrap(network, size=SIZE, **options)
    inputs = noise(2)
    expected = logits_of(network, inputs, layer)
    for n, maps in enumerate(class_maps_of_batch(classifier, inputs)):
        assert maps.verdict == "exact"
        torch.testing.assert_close(maps.logits, expected[n])
        torch.testing.assert_close(maps.values.sum((1, 2)) + maps.bias, expected[n])
    return classifier


def returns_both(make: Callable[[Tensor, Tensor], Any]) -> Output:
    """Return an output made of the pooled features and the logits that are computed from them."""

    def output(network: Network, maps: Tensor) -> Any:
        features = pool(maps)
        return make(features, network.fc(features))

    return output


UNAMBIGUOUS: dict[str, Output] = {
    "a tuple of features and logits": returns_both(lambda f, z: (f, z)),
    "logits first": returns_both(lambda f, z: [z, f]),
    "a mapping": returns_both(lambda f, z: {"features": f, "y_pred": z}),
    "cls_score": lambda m, x: {"cls_score": m.fc(pool(x)), "features": x},
    "an ordered mapping": returns_both(lambda f, z: OrderedDict(pooler_output=f, score=z)),
    "a dataclass": lambda m, x: Fields(m.fc(pool(x))),
    "a dataclass with empty fields": returns_both(lambda f, z: Scores(z, f)),
    "a named tuple": lambda m, x: Named(m.fc(pool(x)), m.other(pool(x))),
    "a named tuple with text": lambda m, x: Pair(m.fc(pool(x)), "beetle"),
    "an object": returns_both(lambda f, z: SimpleNamespace(classes=z, embedding=f)),
    "nested": returns_both(lambda f, z: {"head": {"score": z}, "body": [f, None]}),
    "logits and predicted class": returns_both(lambda f, z: (z, z.argmax(1))),
    "logits and a loss": returns_both(lambda f, z: (z.sum(), z)),
    "logits and feature maps": lambda m, x: (x, m.fc(pool(x))),
    "features of another layout": lambda m, x: (pool(x)[..., None, None].flatten(1), m.fc(pool(x)), x),
    "logits and probabilities": returns_both(lambda f, z: (z, z.softmax(1))),
    "attention by multiple instances": returns_both(lambda f, z: (z, z.softmax(1), z.argmax(1), {"loss": z.sum()})),
    "the name logits": lambda m, x: {"logits": m.fc(pool(x)), "aux": m.other(pool(x))},
}


@pytest.mark.parametrize("case", UNAMBIGUOUS)
def test_the_only_output_that_can_be_the_logits_is_explained(case):
    assert_explains(Network(UNAMBIGUOUS[case]))


def test_features_before_the_logits_are_found_without_gradients():
    def output(network: Network, maps: Tensor) -> Any:
        with torch.no_grad():
            features = pool(maps)
            return features, network.fc(features)

    chosen = choose_output(Network(output), noise())
    assert isinstance(chosen, ChosenOutput)
    assert chosen.output == "1"


SEVERAL: dict[str, tuple[Output, str]] = {
    "two heads": (lambda m, x: [m.fc(pool(x)), m.other(pool(x))], r"'0' \(1, 4\), '1' \(1, 2\)"),
    "heads by name": (
        lambda m, x: {"heads": {"age": m.fc(pool(x)), "sex": m.other(pool(x))}},
        r"'heads.age' \(1, 4\), 'heads.sex' \(1, 2\)",
    ),
    "equal heads": (lambda m, x: [m.other(pool(x))] * 3, r"'0' \(1, 2\), '1' \(1, 2\), '2' \(1, 2\)"),
    "normalized features": (
        lambda m, x: (F.normalize(pool(x)), m.fc(pool(x))),
        r"'0' \(1, 5\), '1' \(1, 4\)",
    ),
    "parts of one layer": (lambda m, x: m.fc(pool(x)).chunk(2, 1), r"'0' \(1, 2\), '1' \(1, 2\)"),
}


@pytest.mark.parametrize("case", SEVERAL)
def test_several_possible_outputs_are_listed_and_the_user_is_asked(case):
    output, listed = SEVERAL[case]
    with pytest.raises(NetworkError, match=rf"{listed}\. Choose one by its name or index: output=\.\.\. in Python"):
        Classifier.wrap(Network(output), size=SIZE)


@pytest.mark.parametrize(
    ("output", "wanted", "layer"),
    [
        (lambda m, x: (m.fc(pool(x)), m.other(pool(x))), 1, "other"),
        (lambda m, x: (m.fc(pool(x)), m.other(pool(x))), "0", "fc"),
        (lambda m, x: (m.fc(pool(x)), m.other(pool(x))), -1, "other"),
        (lambda m, x: {"sex": m.other(pool(x)), "age": m.fc(pool(x))}, "age", "fc"),
        (lambda m, x: {"sex": m.other(pool(x)), "age": m.fc(pool(x))}, 0, "other"),
        (lambda m, x: {"heads": {"sex": m.other(pool(x)), "age": m.fc(pool(x))}}, "heads.sex", "other"),
        (lambda m, x: ((x, m.other(pool(x))), {"a": m.fc(pool(x))}), "1", "fc"),
        (lambda m, x: ((x, m.other(pool(x))), {"a": m.fc(pool(x))}), "0.1", "other"),
        (lambda m, x: Named(m.fc(pool(x)), m.other(pool(x))), "aux_logits", "other"),
        (lambda m, x: {"logits": m.fc(pool(x)), "aux": m.other(pool(x))}, "aux", "other"),
        (lambda m, x: {0: m.fc(pool(x)), 1: m.other(pool(x))}, 1, "other"),
    ],
)
def test_the_named_output_is_explained(output, wanted, layer):
    assert_explains(Network(output), layer, output=wanted)


def test_features_are_explained_if_the_user_asks_for_them():
    network = Network(UNAMBIGUOUS["a tuple of features and logits"])
    classifier = Classifier.wrap(network, size=SIZE, output=0)
    assert (classifier.head.classes, classifier.head.per_class, classifier.output) == (5, True, "0")


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("sex", r"No output 'sex'\. The network returns 'heads.age' \(1, 4\), 'heads.b' \(1, 2\)"),
        (2, r"No output '2'\. The network returns"),
        ("heads", r"Output 'heads' of the network holds 2 tensors\. The network returns"),
    ],
)
def test_an_output_that_does_not_exist_is_an_error_with_the_list(wanted, message):
    network = Network(lambda m, x: {"heads": {"age": m.fc(pool(x)), "b": m.other(pool(x))}})
    with pytest.raises(NetworkError, match=message):
        Classifier.wrap(network, size=SIZE, output=wanted)


def test_an_output_that_is_no_logits_is_an_error():
    network = Network(lambda m, x: (m.fc(pool(x)), x))
    with pytest.raises(NetworkError, match=r"returns logits of shape \(N, classes\); this network returned \(1, 5, 4"):
        Classifier.wrap(network, size=SIZE, output=1)


def test_one_tensor_has_no_other_output():
    network = Network(lambda m, x: m.fc(pool(x)))
    with pytest.raises(NetworkError, match=r"No output 'logits'\. The network returns \(1, 4\)\."):
        Classifier.wrap(network, size=SIZE, output="logits")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_choice_does_not_depend_on_the_dtype(dtype):
    classifier = Classifier.wrap(Network(UNAMBIGUOUS["a mapping"], dtype), size=SIZE)
    assert (classifier.head.classes, classifier.output) == (4, "y_pred")


SQUEEZED: dict[str, tuple[Output, str]] = {
    "all axes, four classes": (lambda m, x: m.fc(pool(x)).squeeze(), "fc"),
    "all axes, one logit": (lambda m, x: m.other(pool(x))[:, :1].squeeze(), "other"),
    "the last axis": (lambda m, x: m.other(pool(x))[:, :1].squeeze(1), "other"),
    "all axes after a sigmoid": (lambda m, x: m.other(pool(x))[:, :1].sigmoid().squeeze(), "other"),
    "in a tuple": (lambda m, x: (m.fc(pool(x)).squeeze(), "name"), "fc"),
}


@pytest.mark.parametrize("case", SQUEEZED)
@pytest.mark.parametrize("rows", [1, 3])
def test_logits_without_axes_of_length_one_are_logits(case, rows):
    output, layer = SQUEEZED[case]
    network, inputs = Network(output), noise(rows)
    classifier = Classifier.wrap(network, size=SIZE)
    expected = logits_of(network, inputs, layer)[:, : classifier.head.classes]
    for n, maps in enumerate(class_maps_of_batch(classifier, inputs)):
        assert maps.verdict == "exact"
        torch.testing.assert_close(maps.logits, expected[n])


def test_other_numbers_of_rows_are_no_logits():
    with pytest.raises(NetworkError, match=r"returns logits of shape \(N, classes\); this network returned \(1, 8\)\."):
        forward(Network(lambda m, x: m.fc(pool(x)).view(1, -1)), noise(2))


def test_layers_and_the_hash_of_a_network_do_not_change_with_its_output():
    network = Network(lambda m, x: (m.fc(pool(x)), m.other(pool(x))))
    first, second = (Classifier.wrap(network, size=SIZE, output=n) for n in (0, 1))
    plain = Classifier.wrap(Network(lambda m, x: m.fc(pool(x))), size=SIZE)
    assert first.sha256() == second.sha256() == plain.sha256()
    assert [layer.name for layer in list_layers(first)] == ["conv", "fc", "other"]
    assert describe(first).output == (1, 4)


def test_a_summary_takes_the_name_of_the_output():
    network = Network(SEVERAL["heads by name"][0])
    assert describe(network, SIZE, output="heads.sex").output == (1, 2)
    assert "Choose one by its name" in describe(network, SIZE).reason
    with pytest.raises(NetworkError, match="No output 'x'"):
        describe(network, SIZE, output="x")


def test_other_uses_of_a_network_keep_its_output():
    network = Network(SEVERAL["heads by name"][0])
    classifier = Classifier.wrap(network, size=SIZE, output="heads.sex")
    shuffled = shuffle_weights(classifier, noise(), "last layer")
    assert (shuffled.output, shuffled.head.classes) == ("heads.sex", 2)
    resized = classifier.resized((12, 12))
    assert class_maps_of_batch(resized, resized.noise_input())[0].verdict == "exact"
    folded = accelerate(classifier, "folded")
    maps, fast = (class_maps_of_batch(one, noise())[0] for one in (classifier, folded))
    assert fast.backend == "folded"
    torch.testing.assert_close(fast.values, maps.values)


def test_a_container_that_holds_itself_ends():
    circle: list[Any] = [torch.zeros(1, 2)]
    circle.append(circle)
    assert find_output_name(circle, "0") == "0"
    assert all(isinstance(tensor, Tensor) for tensor in list_outputs(circle).values())
