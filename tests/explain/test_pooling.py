import math

import pytest
import torch

from inspector.explain.pooling import (
    GlobalAveragePooling,
    GlobalDepthPooling,
    GlobalMaxPooling,
    argmax_positions,
    global_average,
    global_depth,
    global_max,
    identify_pooling,
    position_contributions,
    position_scores,
)

SHAPES = [(1, 1, 1, 1), (1, 3, 2, 5), (2, 4, 5, 2), (3, 2, 1, 7), (4, 5, 3, 3)]


def random_maps(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", SHAPES)
def test_global_pooling_is_the_mean_or_maximum_of_every_channel(shape):
    maps = random_maps(shape)
    lists = maps.flatten(2).tolist()
    means = torch.tensor([[math.fsum(channel) / len(channel) for channel in image] for image in lists]).double()
    maxima = torch.tensor([[max(channel) for channel in image] for image in lists]).double()
    for average in (global_average, GlobalAveragePooling()):
        torch.testing.assert_close(average(maps), means, rtol=0, atol=1e-6)
    for maximum in (global_max, GlobalMaxPooling()):
        torch.testing.assert_close(maximum(maps), maxima, rtol=0, atol=1e-6)
    assert global_average(maps).shape == global_max(maps).shape == shape[:2]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("reduction", "of"), [("average", lambda v: math.fsum(v) / len(v)), ("max", max)])
def test_depth_pooling_keeps_the_cells_and_pools_the_channels(shape, reduction, of):
    maps = random_maps(shape)
    images, channels, height, width = shape
    expected = torch.empty(images, 1, height, width, dtype=torch.float64)
    for n in range(images):
        for y in range(height):
            for x in range(width):
                expected[n, 0, y, x] = of([float(maps[n, c, y, x]) for c in range(channels)])
    for pool in (lambda m: global_depth(m, reduction), GlobalDepthPooling(reduction)):
        assert pool(maps).shape == expected.shape
        torch.testing.assert_close(pool(maps), expected)


def test_depth_pooling_averages_by_default():
    maps = torch.tensor([1.0, 3.0]).view(1, 2, 1, 1)
    assert GlobalDepthPooling()(maps).item() == global_depth(maps).item() == 2.0


@pytest.mark.parametrize("shape", SHAPES)
def test_average_pooling_gives_each_cell_an_equal_share(shape):
    maps = random_maps(shape)
    weight = random_maps((3, shape[1]), seed=1)
    images, channels, height, width = shape
    expected = torch.zeros(images, 3, height, width, dtype=torch.float64)
    for n in range(images):
        for k in range(3):
            for c in range(channels):
                expected[n, k] += weight[k, c] * maps[n, c] / (height * width)
    torch.testing.assert_close(position_contributions("average", maps, weight), expected)
    torch.testing.assert_close(position_contributions("average", maps, None), maps / (height * width))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("weighted", [True, False])
def test_max_pooling_gives_the_whole_contribution_of_a_channel_to_its_first_maximum(shape, weighted):
    maps = random_maps(shape).round()  # whole numbers: ties are common
    images, channels, height, width = shape
    weight = random_maps((3, channels), seed=1) if weighted else torch.eye(channels, dtype=torch.float64)
    expected = torch.zeros(images, len(weight), height, width, dtype=torch.float64)
    for n in range(images):
        for c in range(channels):
            values = maps[n, c].flatten().tolist()
            y, x = divmod(values.index(max(values)), width)
            for k in range(len(weight)):
                expected[n, k, y, x] += weight[k, c] * max(values)
    torch.testing.assert_close(position_contributions("max", maps, weight if weighted else None), expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_flattened_head_has_a_weight_per_cell(shape):
    maps = random_maps(shape)
    images, channels, height, width = shape
    weight = random_maps((2, channels * height * width), seed=1)
    expected = torch.zeros(images, 2, height, width, dtype=torch.float64)
    for n in range(images):
        for k in range(2):
            for c in range(channels):
                for y in range(height):
                    for x in range(width):
                        j = (c * height + y) * width + x
                        expected[n, k, y, x] += weight[k, j] * maps[n, c, y, x]
    torch.testing.assert_close(position_contributions("flatten", maps, weight), expected)


@pytest.mark.parametrize("pooling", ["average", "max", "flatten"])
def test_contributions_share_no_memory_with_the_feature_maps(pooling):
    maps = random_maps((2, 2, 3, 4))
    before = maps.clone()
    weight = random_maps((5, 24 if pooling == "flatten" else 2), seed=1)
    position_contributions(pooling, maps, weight).mul_(0)
    assert torch.equal(maps, before)


def test_of_equal_maxima_the_first_cell_decides():
    maps = torch.tensor([[0.0, 2, 1], [2, 2, 0]]).view(1, 1, 2, 3)
    assert argmax_positions(maps).tolist() == [[1]]
    assert position_contributions("max", maps, None).tolist() == [[[[0, 2, 0], [0, 0, 0]]]]


def test_a_channel_whose_maximum_is_zero_has_no_deciding_cell():
    maps = torch.tensor([[[0.0, 0], [0, 0]], [[-1, 0], [-2, -3]], [[-4, -3], [-2, -1]]])[None]
    assert argmax_positions(maps).tolist() == [[-1, -1, 3]]
    assert position_contributions("max", maps, None).tolist() == [
        [[[0, 0], [0, 0]], [[0, 0], [0, 0]], [[0, 0], [0, -1]]]
    ]


def test_position_scores_are_the_logits_of_each_cell_alone():
    maps = torch.tensor([[[1.0, 2], [3, 4]], [[0, -1], [1, 2]]])[None]
    weight = torch.tensor([[1.0, 10], [2, 0]])
    assert position_scores(maps, weight).tolist() == [[[[1, -8], [13, 24]], [[2, 4], [6, 8]]]]


@pytest.mark.parametrize(
    ("pooling", "pool"),
    [
        ("average", lambda m: m.mean((2, 3))),
        ("max", lambda m: m.amax((2, 3))),
        ("flatten", lambda m: m.flatten(1)),
        (None, lambda m: m.sum((2, 3))),
        (None, lambda m: m.amin((2, 3))),
        (None, lambda m: m.square().mean((2, 3)).sqrt()),
        (None, lambda m: m.transpose(2, 3).flatten(1)),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_pooling_is_identified_from_numbers(pooling, pool, dtype):
    maps = random_maps((2, 3, 4, 5)).to(dtype)
    assert identify_pooling(maps, pool(maps)) == ([pooling] if pooling else [])


def test_an_average_summed_in_another_order_is_still_an_average():
    maps = 1000 * random_maps((1, 4, 40, 40)).float()
    in_parts = maps.view(1, 4, 1600).flip(2).cumsum(2)[..., -1] / 1600
    assert identify_pooling(maps, in_parts) == ["average"]
