"""How precisely torch multiplies, by its settings, and what follows for sums."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from inspector import Classifier, NetworkError, class_maps
from inspector.explain import precision
from inspector.explain.precision import allows_tf32, find_product_type, multiply


@pytest.fixture
def _settings():
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


def on_gpu(dtype=torch.float32):
    return SimpleNamespace(dtype=dtype, device=torch.device("cuda"), is_cuda=True)


@pytest.mark.parametrize(
    ("matmul", "convolution", "function", "expected"),
    [
        (False, True, torch.matmul, torch.float32),
        (False, True, torch.nn.functional.conv2d, torch.float16),
        (False, True, torch.ops.aten.convolution.default, torch.float16),
        (True, False, torch.nn.functional.linear, torch.float16),
        (True, False, torch.conv2d, torch.float32),
    ],
)
def test_the_type_of_products_on_a_gpu_follows_the_settings_of_tf32(
    monkeypatch, matmul, convolution, function, expected
):
    allowed = {torch.backends.cuda.matmul: matmul, torch.backends.cudnn: convolution}
    monkeypatch.setattr(precision, "allows_tf32", allowed.__getitem__)
    assert find_product_type(on_gpu(), function) == expected
    assert find_product_type(on_gpu(torch.float64), function) == torch.float64


@pytest.mark.usefixtures("_settings")
def test_the_older_and_the_newer_setting_of_tf32_are_read(monkeypatch):
    assert not allows_tf32(torch.backends.cuda.matmul)
    torch.set_float32_matmul_precision("high")
    assert allows_tf32(torch.backends.cuda.matmul)

    class Newer:
        conv = SimpleNamespace(fp32_precision="tf32")

        @property
        def allow_tf32(self):
            raise RuntimeError("mix of the legacy and new APIs")

    assert allows_tf32(Newer())
    monkeypatch.setattr(Newer, "conv", SimpleNamespace(fp32_precision="ieee"))
    assert not allows_tf32(Newer())


@pytest.mark.usefixtures("_settings")
def test_products_are_not_rounded_to_bfloat16():
    torch.manual_seed(0)
    a, b = torch.randn(64, 512), torch.randn(2, 512, 49)
    expected = a.double() @ b.double()
    torch.set_float32_matmul_precision("medium")
    assert find_product_type(a) == torch.bfloat16
    error = float((multiply(a, b).double() - expected).abs().max() / expected.abs().max())
    assert error < 1e-6
    maps = class_maps(Classifier.wrap(make_network(), size=16), torch.rand(3, 16, 16))
    assert maps.verdict == "exact"


def test_a_network_that_was_moved_after_its_head_was_read_is_refused_in_one_sentence(monkeypatch):
    classifier = Classifier.wrap(make_network(), size=16)
    head = classifier.head
    affine = tuple(one.to("meta") for one in head.affine)
    monkeypatch.setattr(type(head), "affine", property(lambda self: affine))
    with pytest.raises(NetworkError, match=r"runs on cpu, but its head was read on meta\. Use the classifier that"):
        class_maps(classifier, torch.rand(3, 16, 16))


def make_network() -> nn.Module:
    torch.manual_seed(0)
    convolution = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.ReLU())
    return nn.Sequential(convolution, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)).eval()
