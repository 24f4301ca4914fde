import math

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from inspector.explain.head import find_head
from inspector.explain.receptive_field import Axis, ReceptiveField
from inspector.explain.tracing.receptive_field import find_receptive_field


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Pooled(nn.Module):
    """Any layers, then global average pooling."""

    def __init__(self, body: object) -> None:
        super().__init__()
        self.body = body

    def forward(self, inputs: Tensor) -> Tensor:
        return self.body(inputs).mean((2, 3))


def field_of(body: object, height: int = 24, width: int = 24) -> ReceptiveField:
    network, example = Pooled(body).eval(), noise(1, 3, height, width)
    return find_receptive_field(network, example, find_head(network, example).finest_branch.call)


def conv(kernel: object = 3, **how: object) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(how.pop("channels", 3), 4, kernel, **how)


WEIGHT = noise(4, 3, 3, 3)

# (body, center, stride, size), worked out by hand; the same along both axes.
# "same" pads an odd number of pixels by one more on the far side.
BY_HAND = {
    "identity": (nn.ReLU(), 0.5, 1, 1),
    "valid": (conv(3), 1.5, 1, 3),
    "padded": (conv(3, padding=1), 0.5, 1, 3),
    "padded by a word": (conv(5, padding="same"), 0.5, 1, 5),
    "not padded by a word": (conv(5, padding="valid"), 2.5, 1, 5),
    "even and padded by a word": (conv(2, padding="same"), 1.0, 1, 2),
    "even, dilated and padded by a word": (conv(2, padding="same", dilation=3), 1.0, 1, 4),
    "strided": (conv(3, stride=2, padding=1), 0.5, 2, 3),
    "even and strided": (conv(2, stride=2), 1.0, 2, 2),
    "patches": (conv(4, stride=4), 2.0, 4, 4),
    "dilated": (conv(3, dilation=2), 2.5, 1, 5),
    "dilated and padded": (conv(3, dilation=2, padding=2), 0.5, 1, 5),
    "max pooling": (nn.MaxPool2d(2), 1.0, 2, 2),
    "max pooling, overlapping": (nn.MaxPool2d(3, stride=2, padding=1), 0.5, 2, 3),
    "max pooling, dilated": (nn.MaxPool2d(3, stride=1, dilation=2), 2.5, 1, 5),
    "max pooling, all positional": (lambda x: F.max_pool2d(x, 3, 1, 1, 2), 1.5, 1, 5),
    "max pooling, torch's own": (lambda x: torch.max_pool2d(x, 3, 1, 1, 2), 1.5, 1, 5),
    "average pooling": (nn.AvgPool2d(3), 1.5, 3, 3),
    "average pooling, all positional": (lambda x: F.avg_pool2d(x, 3, 2, 1, True, False), 0.5, 2, 3),
    "average pooling by keyword": (lambda x: F.avg_pool2d(input=x, kernel_size=4, stride=2), 2.0, 2, 4),
    "convolution as a function": (lambda x: F.conv2d(x, WEIGHT, None, 2, 1, 1), 0.5, 2, 3),
    "convolution by keyword": (lambda x: F.conv2d(input=x, weight=WEIGHT, stride=(2, 2)), 1.5, 2, 3),
    "F.pad": (lambda x: F.conv2d(F.pad(x, (1, 1, 1, 1)), WEIGHT), 0.5, 1, 3),
    "F.pad of more on the far side": (lambda x: F.conv2d(F.pad(x, (0, 1, 0, 1)), WEIGHT, stride=2), 1.5, 2, 3),
    "F.pad by keyword, reflecting": (lambda x: F.conv2d(F.pad(x, pad=[2, 0] * 2, mode="reflect"), WEIGHT), -0.5, 1, 3),
    "padding module": (nn.Sequential(nn.ZeroPad2d(2), conv(3)), -0.5, 1, 3),
    "circular": (conv(3, padding=1, padding_mode="circular"), 0.5, 1, 3),
    # 0.5; +1 -> 1.5, stride 2, size 3; +1 * 2 -> 3.5, stride 2, size 3 + 2 * 2.
    "two": (nn.Sequential(conv(3, stride=2), conv(3, channels=4)), 3.5, 2, 7),
    # conv 7/2 pad 3: 0.5, 2, 7; pool 3/2 pad 1: 0.5, 4, 11; conv 3 pad 1: 0.5, 4, 19.
    "a ResNet's beginning": (
        nn.Sequential(
            conv(7, stride=2, padding=3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1),
            conv(3, channels=4, padding=1),
        ),
        0.5, 4, 19,
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("case", BY_HAND)
def test_center_stride_and_size_are_those_worked_out_by_hand(case):
    body, *expected = BY_HAND[case]
    axis = Axis(*expected)
    assert field_of(body) == ReceptiveField(axis, axis)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("case", BY_HAND)
def test_center_and_size_agree_with_the_gradient(case):
    """The first and last pixels with a gradient from cell (2, 2) are the edges of its receptive field."""
    body, center, stride, size = BY_HAND[case]
    # A maximum passes its gradient to one pixel, so many random images are needed to find them all.
    touched = torch.zeros(24, 24, dtype=torch.bool)
    for seed in range(100 if "max" in case or "ResNet" in case else 1):
        image = torch.rand(1, 3, 24, 24, generator=torch.Generator().manual_seed(seed)).requires_grad_()
        maps = body(image)
        (gradient,) = torch.autograd.grad(maps[0, :, 2, 2].sum(), image)
        touched |= gradient[0].abs().sum(0) > 0
    for reached in (touched.any(0), touched.any(1)):
        first, last = int(reached.nonzero().min()), int(reached.nonzero().max())
        left, right = center + 2 * stride - size / 2, center + 2 * stride + size / 2
        assert (first, last + 1) == (max(0, left), right)


def test_each_axis_has_a_field_of_its_own():
    body = nn.Sequential(conv((3, 5), stride=(1, 2), padding=(1, 0)), nn.MaxPool2d((2, 1)))
    # y: 0.5 stride 1 size 3, then + 0.5 -> 1.0, 2, 4.  x: 0.5 + 2 -> 2.5, 2, 5.
    assert field_of(body, 20, 31) == ReceptiveField(Axis(1.0, 2, 4), Axis(2.5, 2, 5))


def test_padding_of_one_axis_does_not_change_the_other():
    field = field_of(lambda x: F.conv2d(F.pad(x, (2, 0)), WEIGHT))
    assert field == ReceptiveField(Axis(1.5, 1, 3), Axis(-0.5, 1, 3))


@pytest.mark.parametrize("meet", [torch.add, lambda a, b: torch.cat([a, b], 1), lambda a, b: a.mul_(b)])
@pytest.mark.parametrize("turned", [False, True])
def test_a_merge_has_the_larger_field_of_its_branches(meet, turned):
    wide, narrow = conv(5, stride=2, padding=2), conv(1, stride=2)

    def body(inputs: Tensor) -> Tensor:
        branches = (narrow(inputs), wide(inputs)) if turned else (wide(inputs), narrow(inputs))
        return meet(*branches)

    axis = Axis(0.5, 2, 5)
    assert field_of(body) == ReceptiveField(axis, axis)


def test_after_squeeze_and_excitation_a_cell_sees_everything_and_keeps_its_center():
    first, gate = conv(3, padding=1), conv(1, channels=4)

    def body(inputs: Tensor) -> Tensor:
        maps = first(inputs)
        return maps * gate(F.adaptive_avg_pool2d(maps, 1)).sigmoid()

    axis = Axis(0.5, 1, math.inf)
    assert field_of(body) == ReceptiveField(axis, axis)


@pytest.mark.parametrize(
    ("body", "axis"),
    [
        (lambda x: F.interpolate(x, size=(6, 8)), Axis(2.0, 4.0, 5)),
        (nn.AdaptiveAvgPool2d((6, 8)), Axis(2.0, 4.0, 5)),
        (lambda x: x[:, :, ::4, ::4], Axis(0.5, 4, 1)),
        (lambda x: x[..., 2:-2, 2:-2], Axis(2.5, 1, 1)),
        (lambda x: x[:, :, 1::2, 1::2], Axis(1.5, 2, 1)),
    ],
)
def test_crops_and_scaling_are_followed(body, axis):
    assert field_of(body, 24, 32) == ReceptiveField(axis, axis)


@pytest.mark.parametrize(
    "body",
    [
        lambda x: F.pixel_unshuffle(x, 4)[:, :4],
        lambda x: x[:, :, torch.arange(0, 24, 4)][..., torch.arange(0, 32, 4)],
        lambda x: x.unfold(2, 4, 4).unfold(3, 4, 4).amax((4, 5)),
    ],
)
def test_unknown_operations_give_cells_that_divide_the_input_evenly(body):
    # 24 rows over 6 and 32 columns over 8: the first center at 2, the next 4 on.
    axis = Axis(2.0, 4.0, math.inf)
    assert field_of(body, 24, 32) == ReceptiveField(axis, axis)


@pytest.mark.parametrize(
    ("pool", "size"),
    [
        (lambda x: x.permute(0, 2, 3, 1).mean((1, 2)), 4),
        (lambda x: F.gelu(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).mean((2, 3)), 4),
        (lambda x: F.layer_norm(x.flatten(2).transpose(1, 2), (3,)).mean(1), 4),
        (lambda x: (x.flatten(2) @ x.new_ones(48, 48)).mean(2), math.inf),
        (lambda x: x.permute(0, 2, 3, 1).roll(1, 1).mean((1, 2)), math.inf),
    ],
    ids=["channels last", "channels last and back", "tokens", "tokens that mix", "rolled"],
)
def test_fields_are_followed_through_other_layouts_while_cells_do_not_mix(pool, size):
    class LaidOut(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return pool(F.avg_pool2d(inputs, 4))

    network, example = LaidOut(), noise(1, 3, 24, 32)
    axis = Axis(2.0, 4.0, size)
    assert find_receptive_field(network, example, find_head(network, example).finest_branch.call) == ReceptiveField(
        axis, axis
    )


def test_the_receptive_field_of_resnet18_is_the_published_one():
    torch.manual_seed(0)
    network, example = torchvision.models.resnet18(weights=None).eval(), noise(1, 3, 224, 224)
    axis = Axis(0.5, 32, 435)
    assert find_receptive_field(network, example, find_head(network, example).finest_branch.call) == ReceptiveField(
        axis, axis
    )


@pytest.mark.parametrize("seed", range(8))
def test_gradients_of_positive_weights_fill_exactly_the_receptive_field(seed):
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    layers: list[nn.Module] = []
    for depth in range(3):
        kernel, stride = (draw(1, 3), draw(1, 3)), (draw(1, 2), draw(1, 2))
        # Without padding and with dilation 1 or kernel 1 nothing inside the box is skipped: stride <= kernel.
        stride = (min(stride[0], kernel[0]), min(stride[1], kernel[1]))
        padding = (draw(0, kernel[0] // 2), draw(0, kernel[1] // 2))
        layers.append(nn.Conv2d(1 if depth == 0 else 2, 2, kernel, stride, padding, bias=False))
        nn.init.uniform_(layers[-1].weight, 0.5, 1.0, generator=generator)
        if draw(0, 1):
            layers.append(nn.AvgPool2d(2, stride=draw(1, 2)))
    body = nn.Sequential(*layers)
    network = Pooled(body).eval()
    image = torch.rand(1, 1, 150, 170, generator=generator)
    field = find_receptive_field(network, image, find_head(network, image).finest_branch.call)

    image.requires_grad_()
    maps = body(image)
    row, column = maps.shape[2] // 2, maps.shape[3] // 2
    (gradient,) = torch.autograd.grad(maps[0, 0, row, column], image)
    rows, columns = gradient[0, 0].nonzero().T
    for reached, axis, position in ((rows, field.y, row), (columns, field.x, column)):
        center = axis.centre + position * axis.stride
        assert int(reached.min()) == center - axis.size / 2
        assert int(reached.max()) + 1 == center + axis.size / 2
    assert len(rows) == field.y.size * field.x.size
