"""Attribution methods: complete sums, equalities between methods, and nothing left behind on network or process."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from inspector import Classifier, class_maps_of_batch
from inspector.analysis.attribution.case import Attribution
from inspector.analysis.attribution.methods import METHODS, compute_attribution
from inspector.analysis.attribution.pixels import WINDOWS
from inspector.errors import AttributionError, Cancelled

H, W = 8, 10


class HardToHook(nn.Module):
    """What Captum's hooks miss: a ReLU used twice and in place, functions, windows that overlap, a sum in place."""

    def __init__(self, last: nn.Module | None = None) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.norm, self.relu, self.linear = nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.Linear(6, 4)
        self.last = last or nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        maps = self.relu(self.norm(self.first(images)))
        maps = functional.max_pool2d(maps, 3, 2, 1)
        onward = self.second(maps)
        onward += maps
        maps = functional.relu(self.last(self.relu(onward)))
        return self.linear(maps.mean((2, 3)))


class SqueezeAndExcitation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.conv(images)
        return self.linear((maps * maps.mean((2, 3), keepdim=True).sigmoid()).mean((2, 3)))


def wrap(network: nn.Module, size: tuple[int, int] = (H, W)) -> Classifier:
    return Classifier.wrap(network, size=size, mean=(0.5,) * 3, std=(0.25,) * 3)


@pytest.fixture
def inputs() -> Tensor:
    return torch.randn(1, 3, H, W, generator=torch.Generator().manual_seed(7))


@pytest.fixture
def awkward() -> Classifier:
    torch.manual_seed(3)
    network = HardToHook()
    network.norm.running_mean.normal_()
    network.norm.running_var.uniform_(0.5, 2)
    return wrap(network)


def compute_exact_map(classifier: Classifier, inputs: Tensor, k: int) -> Tensor:
    return class_maps_of_batch(classifier, inputs)[0].values[k]


def adds_up(attribution: Attribution) -> bool:
    progress = attribution.completeness
    assert progress is not None
    assert progress.sum == pytest.approx(float(attribution.values.double().sum()))
    return progress.error < 1e-4


@pytest.mark.parametrize("name", METHODS)
def test_every_method_gives_a_map_on_its_grid(awkward, inputs, name):
    attribution = compute_attribution(awkward, inputs, 1, name)
    grid = (4, 5) if METHODS[name].grid == "cells" else (H, W)
    assert attribution.values.shape == grid
    assert attribution.values.isfinite().all()
    assert attribution.values.any()
    assert not attribution.values.requires_grad
    assert attribution.seconds > 0


# What must coincide


@pytest.mark.parametrize("name", METHODS)
def test_every_method_runs_on_a_network_in_half_precision(name):
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
    network = nn.Sequential(*layers).eval().bfloat16()
    classifier = Classifier.wrap(network, size=16)
    attribution = compute_attribution(classifier, classifier.noise_input(), 0, name)
    assert attribution.values.isfinite().all()
    assert attribution.values.any()


@pytest.mark.parametrize("k", range(3))
def test_with_average_pooling_grad_cam_is_the_exact_map_without_negative_values(hand_made_gap, inputs, k):
    classifier = wrap(hand_made_gap)
    expected = compute_exact_map(classifier, inputs, k)
    assert expected.min() < 0 < expected.max(), "or nothing would be cut off"
    attribution = compute_attribution(classifier, inputs, k, "Grad-CAM")
    assert torch.allclose(attribution.values, expected.clamp(min=0), atol=1e-6)
    assert "this is the exact map" in attribution.note


def test_a_map_of_zeros_has_a_note(hand_made_gap, inputs):
    inputs[:, 0] = -1
    assert "It is zero everywhere" in compute_attribution(wrap(hand_made_gap), inputs, 0, "Grad-CAM").note


def test_with_max_pooling_grad_cam_is_another_map(hand_made_gmp, inputs):
    classifier = wrap(hand_made_gmp)
    maps = hand_made_gmp.conv(inputs)[0].detach()
    # The gradient of a maximum is 1 at one cell of h * w: its mean 1 / (h * w). Class 2 weighs -1 and 0.5.
    expected = ((-maps[0] + 0.5 * maps[1]) / (H * W)).clamp(min=0)
    attribution = compute_attribution(classifier, inputs, 2, "Grad-CAM")
    assert torch.allclose(attribution.values, expected, atol=1e-6)
    assert not torch.allclose(attribution.values, compute_exact_map(classifier, inputs, 2).clamp(min=0), atol=1e-2)
    assert attribution.note == ""


@pytest.mark.parametrize("pooling", [nn.AdaptiveAvgPool2d(1), nn.AdaptiveMaxPool2d(1), nn.Identity()])
def test_with_an_affine_head_hires_cam_is_the_exact_map(inputs, pooling):
    torch.manual_seed(0)
    flat = 2 * H * W if isinstance(pooling, nn.Identity) else 2
    classifier = wrap(nn.Sequential(nn.Conv2d(3, 2, 1), pooling, nn.Flatten(), nn.Linear(flat, 3)))
    attribution = compute_attribution(classifier, inputs, 1, "HiResCAM")
    assert torch.allclose(attribution.values, compute_exact_map(classifier, inputs, 1), atol=1e-6)
    assert adds_up(attribution)


def test_with_relu_and_max_pooling_lrp_is_input_times_gradient(awkward, inputs):
    lrp, product = (compute_attribution(awkward, inputs, 0, name) for name in ("LRP", "Input x gradient"))
    assert torch.allclose(lrp.values, product.values, atol=1e-5)
    assert product.values.abs().max() > 0.01
    assert lrp.completeness is not None
    assert lrp.completeness.target_name == "logit"
    assert lrp.completeness.target == pytest.approx(float(class_maps_of_batch(awkward, inputs)[0].logits[0]))


# What must add up


@pytest.mark.parametrize("name", ["Exact map", "HiResCAM", "DeepLIFT"])
def test_complete_methods_sum_to_their_target_on_a_nonlinear_network(awkward, inputs, name):
    assert adds_up(compute_attribution(awkward, inputs, 3, name))


@pytest.mark.parametrize("layer", [nn.ReLU6(), nn.SiLU(), nn.Sigmoid(), nn.MaxPool2d(2), nn.Hardswish(inplace=True)])
def test_deep_lift_has_a_rule_for_every_activation_and_max_pooling(inputs, layer):
    torch.manual_seed(1)
    classifier = wrap(HardToHook(layer))
    attribution = compute_attribution(classifier, 3 * inputs, 1, "DeepLIFT")
    black = torch.zeros_like(inputs)
    (logits,), (without,) = ([m.logits[1] for m in class_maps_of_batch(classifier, x)] for x in (3 * inputs, black))
    assert attribution.completeness is not None
    assert attribution.completeness.target == pytest.approx(float(logits - without), abs=1e-5)
    assert adds_up(attribution)


def test_deep_lift_notes_products_that_it_has_no_rule_for(inputs):
    torch.manual_seed(0)
    attribution = compute_attribution(wrap(SqueezeAndExcitation()), 30 * inputs, 0, "DeepLIFT")
    assert attribution.completeness is not None
    assert not attribution.completeness.holds
    assert "no rule for products" in attribution.note


@pytest.mark.parametrize("name", ["Integrated gradients", "Gradient SHAP", "DeepLIFT", "Input x gradient"])
def test_on_a_linear_network_all_methods_give_the_exact_contributions(hand_made_gap, inputs, name):
    attribution = compute_attribution(wrap(hand_made_gap), inputs, 2, name)
    # Class 2 weighs red by -1 and green less blue by 0.5; Gradient SHAP measures from the mean of its baselines: from
    # the mean color, 0, from black, (0 - 0.5) / 0.25 = -2, and from white, 2. That mean is 0 too.
    expected = (-inputs[0, 0] + 0.5 * (inputs[0, 1] - inputs[0, 2])) / (H * W)
    assert torch.allclose(attribution.values, expected, atol=1e-5)
    if name != "Input x gradient":
        assert adds_up(attribution)


def test_integrated_gradients_and_shap_are_nearly_complete_on_a_nonlinear_network(awkward, inputs):
    for name, near in (("Integrated gradients", 0.05), ("Gradient SHAP", 0.3)):
        progress = compute_attribution(awkward, inputs, 0, name).completeness
        assert progress is not None
        assert progress.error < near * abs(progress.target)


@pytest.mark.parametrize("name", ["Grad-CAM", "Grad-CAM++", "LayerCAM", "Saliency", "Occlusion", "Guided Grad-CAM"])
def test_other_methods_claim_no_sum(awkward, inputs, name):
    assert compute_attribution(awkward, inputs, 0, name).completeness is None


# Worked out by hand or in a slower way


def test_saliency_is_the_largest_gradient_of_a_pixels_channels(hand_made_gap, inputs):
    classifier = wrap(hand_made_gap)
    for k, largest in ((0, 1), (1, 2), (2, 1)):
        attribution = compute_attribution(classifier, inputs, k, "Saliency").values
        assert torch.allclose(attribution, torch.full((H, W), largest / (H * W)))
        # Noise changes no gradient of a linear network.
        assert torch.allclose(compute_attribution(classifier, inputs, k, "SmoothGrad").values, attribution)


def compute_last_maps(network: HardToHook, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        maps = functional.max_pool2d(network.norm(network.first(inputs)).relu(), 3, 2, 1)
        return (network.second(maps) + maps).relu()[0]


def test_the_other_class_activation_maps_follow_their_formulas(awkward, inputs):
    network, k = awkward.network.eval(), 1
    maps, weight = compute_last_maps(network, inputs), network.linear.weight[k].detach()
    cells = maps[0].numel()
    plus_plus, layer, ablation = (torch.zeros(4, 5) for _ in range(3))
    for c in range(len(maps)):
        g = float(weight[c]) / cells
        share = g**2 / (2 * g**2 + float(maps[c].sum()) * g**3)
        plus_plus += cells * share * max(g, 0) * maps[c]
        layer += max(g, 0) * maps[c]
        # Without the channel its mean is gone from the logit.
        ablation += g * maps[c].sum() * maps[c]
    for name, expected in (("Grad-CAM++", plus_plus), ("LayerCAM", layer), ("Ablation-CAM", ablation)):
        assert torch.allclose(compute_attribution(awkward, inputs, k, name).values, expected.clamp(min=0), atol=1e-5), (
            name
        )


def test_score_cam_weighs_channels_by_the_masked_photo(awkward, inputs):
    network, k = awkward.network.eval(), 1
    maps, expected = compute_last_maps(network, inputs), torch.zeros(4, 5)
    for one in maps:
        if float(one.max()) == float(one.min()):
            continue
        mask = (one - one.min()) / (one.max() - one.min())
        mask = functional.interpolate(mask[None, None], (H, W), mode="bilinear")
        with torch.no_grad():
            expected += network(mask * inputs).softmax(1)[0, k] * one
    assert torch.allclose(compute_attribution(awkward, inputs, k, "Score-CAM").values, expected.clamp(min=0), atol=1e-5)


def test_occlusion_is_the_drop_of_the_logit_under_each_window(hand_made_gap):
    size, side = 14, 14 // WINDOWS
    inputs = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1))
    parts = inputs[0, 0] / size**2  # of class 0, which is the mean of red
    lost, windows = torch.zeros(size, size), torch.zeros(size, size)
    for y in range(size - side + 1):
        for x in range(size - side + 1):
            lost[y : y + side, x : x + side] += parts[y : y + side, x : x + side].sum()
            windows[y : y + side, x : x + side] += 1
    attribution = compute_attribution(wrap(hand_made_gap, (size, size)), inputs, 0, "Occlusion").values
    assert torch.allclose(attribution, lost / windows, atol=1e-5)


def test_guided_grad_cam_lets_only_positive_gradients_through(inputs):
    torch.manual_seed(2)
    network = nn.Sequential(
        nn.Conv2d(3, 5, 1), nn.ReLU(), nn.Conv2d(5, 4, 1), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 3),
    )  # fmt: skip
    first, second, linear = network[0], network[2], network[6]
    with torch.no_grad():
        a = first(inputs)
        b = second(a.relu())
        g = (linear.weight[1] / (H * W))[None, :, None, None].clamp(min=0) * ((b > 0) & (b < 6))
        g = (torch.einsum("oi,nohw->nihw", second.weight[..., 0, 0], g) * (a > 0)).clamp(min=0)
        guided = torch.einsum("oi,nohw->nihw", first.weight[..., 0, 0], g).sum((0, 1))
    classifier = wrap(network)
    cam = compute_attribution(classifier, inputs, 1, "Grad-CAM").values
    assert torch.allclose(compute_attribution(classifier, inputs, 1, "Guided Grad-CAM").values, guided * cam, atol=1e-6)


# Where a method does not apply, is stopped, or must leave things alone


@pytest.mark.parametrize(
    ("name", "network", "sentence"),
    [
        ("LRP", SqueezeAndExcitation(), "LRP has no rule for 'sigmoid', which this network calls"),
        ("Guided Grad-CAM", SqueezeAndExcitation(), "changes the gradient of ReLU layers, and this network has none"),
        (
            "Ablation-CAM",
            nn.Sequential(nn.Conv2d(3, 4, 3), nn.LPPool2d(2, (6, 8)), nn.Flatten(), nn.Linear(4, 3)),
            "With other pooling, this does not remove the channel",
        ),
        ("Grad-CAMP", SqueezeAndExcitation(), "No method 'Grad-CAMP'. Expected one of Exact map, Grad-CAM, "),
    ],
)
def test_a_method_that_does_not_apply_gives_the_reason(inputs, name, network, sentence):
    with pytest.raises(AttributionError, match=sentence):
        compute_attribution(wrap(network), inputs, 0, name)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_reports_progress_and_stops_on_request(awkward, inputs, name):
    progress: list[float] = []
    compute_attribution(awkward, inputs, 0, name, progress.append)
    assert progress == sorted(progress)
    assert 0 < progress[0] <= progress[-1] <= 1
    answers = iter([False] * (len(progress) - 1) + [True])
    before = len(progress)
    with pytest.raises(Cancelled, match=f"{name.replace('+', '.')} was stopped"):
        compute_attribution(awkward, inputs, 0, name, progress.append, lambda: next(answers))
    assert len(progress) - before == before - 1


@pytest.mark.parametrize("name", METHODS)
def test_the_network_and_the_generators_come_back_as_they_were(inputs, name):
    torch.manual_seed(5)
    network = HardToHook()
    classifier = wrap(network)
    for n, module in enumerate(network.modules()):
        module.training = n % 2 == 0
    for n, parameter in enumerate(network.parameters()):
        parameter.requires_grad = n % 3 != 1
        parameter.grad = torch.full_like(parameter, n) if n % 2 else None
    modes = [module.training for module in network.modules()]
    requires_grad = [parameter.requires_grad for parameter in network.parameters()]
    gradients = [None if p.grad is None else p.grad.clone() for p in network.parameters()]
    values = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    versions = [tensor._version for tensor in network.state_dict().values()]
    random_state, given = torch.get_rng_state(), inputs.clone()

    first, second = (compute_attribution(classifier, inputs, 1, name).values for _ in range(2))

    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.equal(inputs, given)
    assert [module.training for module in network.modules()] == modes
    assert [parameter.requires_grad for parameter in network.parameters()] == requires_grad
    for parameter, gradient in zip(network.parameters(), gradients, strict=True):
        assert (parameter.grad is None) == (gradient is None)
        assert gradient is None or torch.equal(parameter.grad, gradient)
    assert all(torch.equal(tensor, values[key]) for key, tensor in network.state_dict().items())
    assert [tensor._version for tensor in network.state_dict().values()] == versions
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in network.modules())


def test_threads_on_one_network_get_what_they_would_get_alone(awkward, inputs):
    images = [inputs * (1 + n) for n in range(3)]
    cases = [(image, name) for image in images for name in METHODS] * 2
    alone = {
        (n, name): compute_attribution(awkward, image, 1, name).values
        for n, image in enumerate(images)
        for name in METHODS
    }

    def work(case: tuple[Tensor, str]) -> Tensor:
        torch.set_num_threads(1)
        return compute_attribution(awkward, case[0], 1, case[1]).values

    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(work, cases))
    for (image, name), values in zip(cases, together, strict=True):
        number = next(n for n, one in enumerate(images) if one is image)
        assert torch.equal(values, alone[number, name]), name
