"""Cells respond at their places, or their place is said to be unknown: measured, whatever the operations are called."""

from collections.abc import Callable

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision import models
from torchvision.models.resnet import BasicBlock

from inspector import Classifier, class_maps, class_maps_of_batch, large_class_maps
from inspector.analysis.attribution.methods import compute_attribution
from inspector.analysis.faithfulness import PatchTest
from inspector.analysis.localization import measure_evidence_inside
from inspector.analysis.masking import make_mask, mask_at_head, mask_in_photo
from inspector.errors import NetworkError, PlaceError
from inspector.explain.grid import cell_extents
from inspector.explain.head import find_head
from inspector.explain.placement import place_head
from inspector.explain.receptive_field import ReceptiveField
from inspector.explain.tracing.forward import noise_input
from inspector.output.figure import class_map_figure
from inspector.output.manifest import make_manifest
from inspector.output.overlay import draw_map_on_photo, grid_image
from inspector.output.report import make_report

Step = Callable[[Tensor], Tensor]


class Network(nn.Module):
    """Two convolutions and global average pooling, with a step before the convolutions and one after."""

    def __init__(self, before: Step = lambda x: x, after: Step = lambda x: x) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 12, 3, 2, 1), nn.ReLU())
        self.fc, self.before, self.after = nn.Linear(12, 5), before, after

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.after(self.body(self.before(images))).mean((2, 3)))
        return logits


def place(network: nn.Module, size: tuple[int, int] = (40, 56)) -> list[ReceptiveField]:
    example = noise_input(network.eval(), (1, 3, *size))
    head = place_head(network, example, find_head(network, example))
    return [branch.field for branch in head.branches if branch.field is not None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("size", [(40, 56), (64, 64), (8, 8), (9, 33), (5, 5)])
def test_cells_of_a_plain_network_are_in_their_place(size: tuple[int, int], dtype: torch.dtype) -> None:
    (field,) = place(Network().to(dtype), size)
    assert field.misplaced is None
    assert field.y.size == 7


def test_a_roll_that_is_undone_leaves_the_place_known() -> None:
    (field,) = place(Network(lambda x: x.roll(8, 3), lambda x: x.roll(-2, 3)))
    assert field.misplaced is None


def in_windows(maps: Tensor) -> Tensor:
    """Order the cells window by window of 2 x 2."""
    n, c, h, w = maps.shape
    windows = maps[:, :, : h // 2 * 2, : w // 2 * 2].reshape(n, c, h // 2, 2, w // 2, 2)
    return windows.permute(0, 1, 2, 4, 3, 5).reshape(n, c, h // 2 * 2, w // 2 * 2)


def warp(maps: Tensor) -> Tensor:
    """Move the content by a quarter of the size."""
    matrix = torch.tensor([[[1.0, 0, 0.5], [0, 1, 0.5]]]).to(maps).repeat(len(maps), 1, 1)
    grid = functional.affine_grid(matrix, list(maps.shape), align_corners=False)
    return functional.grid_sample(maps, grid, align_corners=False)


MOVES: dict[str, Step] = {
    "mirrored": lambda x: x.flip(3),
    "upside down": lambda x: x.flip(2),
    "turned": lambda x: torch.rot90(x, 1, (2, 3)),
    "transposed": lambda x: x.transpose(2, 3),
    "permuted": lambda x: x.permute(0, 1, 3, 2),
    "rolled": lambda x: x.roll(x.shape[3] // 4, 3),
    "both sides averaged": lambda x: (x + x.flip(3)) / 2,
    "two side by side": lambda x: torch.cat([x, x.flip(3)], 3),
    "snake": lambda x: torch.where((torch.arange(x.shape[2]) % 2 == 1)[:, None], x.flip(3), x),
    "in windows": in_windows,
    "shuffled": lambda x: x.flatten(2)[:, :, torch.arange(x[0, 0].numel()) * 7 % x[0, 0].numel()].view_as(x),
    "sorted": lambda x: x.flatten(2).sort(2).values.view_as(x),
    "warped": warp,
}


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("where", ["image", "maps"])
@pytest.mark.parametrize("size", [(40, 64), (48, 48)])
def test_the_place_of_moved_cells_is_unknown(move: str, where: str, size: tuple[int, int]) -> None:
    step = MOVES[move]
    network = Network(step) if where == "image" else Network(after=step)
    assert all(field.misplaced for field in place(network, size))


def test_a_mirror_is_told_with_its_direction() -> None:
    (field,) = place(Network(lambda x: x.flip(3)))
    assert field.misplaced == "the cells respond to the opposite side of the photo, left and right exchanged"


@pytest.mark.parametrize(
    ("crop", "first"),
    [
        (lambda x: x[..., :20, 28:], (0.5, 28.5)),
        (lambda x: x[:, :, 8:-8, 8:-8], (8.5, 8.5)),
        (lambda x: functional.pad(x, (-8, 0, -4, 0)), (4.5, 8.5)),
        (lambda x: x[..., ::2, ::2], (0.5, 0.5)),
    ],
)
def test_a_crop_inside_the_network_is_drawn_where_it_is(crop: Step, first: tuple[float, float]) -> None:
    (field,) = place(Network(crop))
    assert field.misplaced is None
    assert (field.y.centre, field.x.centre) == first


def test_a_photo_that_is_scaled_inside_is_drawn_where_it_is() -> None:
    (field,) = place(Network(lambda x: functional.interpolate(x, (80, 112), mode="bilinear")))
    assert field.misplaced is None
    assert (field.y.stride, field.x.stride) == (2, 2)
    # Cell 0 is centered on the first pixel of the scaled photo, a quarter of a pixel from the edge of the photo.
    assert (field.y.centre, field.x.centre) == (0.25, 0.25)


def test_cells_that_see_more_than_the_operations_tell_see_the_whole_image() -> None:
    class Mixing(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, maps: Tensor) -> Tensor:
            return maps + 0.1 * maps.roll(3, 3)

        @staticmethod
        def backward(ctx: object, gradient: Tensor) -> Tensor:
            return gradient + 0.1 * gradient.roll(-3, 3)

    (field,) = place(Network(after=Mixing.apply))
    assert field.misplaced is None
    assert field.x.size == float("inf")


class BothSides(nn.Module):
    """The mean over a photo and the mirrored photo, as in test-time augmentation."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Network()

    def forward(self, images: Tensor) -> Tensor:
        both: Tensor = (self.network(images) + self.network(images.flip(3))) / 2
        return both


def test_every_branch_has_its_own_place() -> None:
    plain, mirrored = place(BothSides())
    assert plain.misplaced is None
    assert mirrored.misplaced is not None


class Parts(nn.Module):
    """The mean over crops at two corners of the photo."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Network()

    def forward(self, images: Tensor) -> Tensor:
        both: Tensor = self.network(images[..., :20, :20]) + self.network(images[..., -20:, -20:])
        return both


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (40, 56, 3)).astype(np.uint8)


@pytest.mark.parametrize("network", [BothSides, Parts, lambda: Network(lambda x: x.flip(3))])
def test_sums_are_exact_where_the_place_is_unknown(network: Callable[[], nn.Module], photo: np.ndarray) -> None:
    classifier = Classifier.wrap(network().eval(), size=(40, 56))
    maps = class_maps(classifier, photo)
    assert maps.verdict == "exact"
    torch.testing.assert_close(maps.values.sum((1, 2)) + maps.bias, maps.logits)
    assert classifier.place.startswith("The place of this evidence is unknown: ")


@pytest.fixture(scope="module")
def mirrored() -> Classifier:
    return Classifier.wrap(Network(lambda x: x.flip(3)).eval(), size=(40, 56))


def test_a_map_of_unknown_place_is_drawn_on_no_photo(mirrored: Classifier, photo: np.ndarray) -> None:
    maps = class_maps(mirrored, photo)
    assert maps.view is not None
    values, canvas = maps.values[0].numpy(), np.full((80, 112, 3), 77, np.uint8)
    drawn = draw_map_on_photo(canvas, maps.view.crop, values, mirrored.receptive_field, scale=1)
    cells = grid_image(values, 1)
    np.testing.assert_array_equal(drawn[4::8, 4::8], cells)
    assert "The place of this evidence is unknown" in class_map_figure(maps, maps.figure_content(1)).get_suptitle()
    assert "The place of this evidence is unknown" in make_report(maps, maps.figure_content(1))
    manifest = make_manifest(maps, maps.figure_content(1))
    assert "left and right exchanged" in manifest["receptive_field"]["misplaced"]
    assert manifest["place"] == mirrored.place


def test_cells_of_unknown_place_divide_the_bare_grid(mirrored: Classifier, photo: np.ndarray) -> None:
    maps = class_maps(mirrored, photo)
    assert maps.view is not None
    rows, columns = cell_extents((10, 14), maps.view.crop, mirrored.receptive_field)
    assert [(row.start, row.end) for row in rows] == [(4 * i, 4 * i + 4) for i in range(10)]
    assert (columns[0].start, columns[-1].end) == (0, 56)


def test_what_needs_a_place_refuses_with_the_reason(mirrored: Classifier, photo: np.ndarray) -> None:
    maps, reason = class_maps(mirrored, photo), "place of this evidence is unknown: .*left and right exchanged"
    mask = make_mask(maps, [(0, 0)])
    with pytest.raises(PlaceError, match=reason):
        mask_in_photo(maps, mask, "grey")
    with pytest.raises(PlaceError, match=reason):
        measure_evidence_inside(maps, 0, np.ones((40, 56), np.bool_))
    inputs = mirrored.noise_input()
    with pytest.raises(PlaceError, match=reason):
        PatchTest(mirrored, inputs, 0).measure(compute_attribution(mirrored, inputs, 0, "Grad-CAM"))
    assert mask_at_head(maps, mask).logits.shape == (5,), "the head needs no place"
    assert PatchTest(mirrored, inputs, 0, steps=2).measure(compute_attribution(mirrored, inputs, 0, "Saliency"))


def test_an_unknown_place_is_unknown_at_other_sizes(mirrored: Classifier) -> None:
    assert mirrored.resized((64, 96)).receptive_field.misplaced == mirrored.receptive_field.misplaced
    with pytest.raises(NetworkError, match=r"cannot be run on tiles\. The place of this evidence is unknown"):
        large_class_maps(mirrored, np.zeros((120, 160, 3), np.uint8), 1, tile=64)


class TwoStrides(nn.Module):
    """Average pooling of maps of stride 4, and of their maps of stride 12, whose centers are 4 pixels further."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fine, self.coarse = nn.Conv2d(3, 4, 4, 4), nn.Conv2d(4, 4, 3, 3)
        self.fc = nn.Linear(8, 2)

    def forward(self, images: Tensor) -> Tensor:
        fine = self.fine(images)
        logits: Tensor = self.fc(torch.cat([fine.mean((2, 3)), self.coarse(fine).mean((2, 3))], 1))
        return logits


@pytest.mark.parametrize("size", [(48, 48), (40, 56)])
def test_branches_of_different_stride_are_laid_over_each_other_by_their_own_fields(size: tuple[int, int]) -> None:
    network = TwoStrides().eval()
    classifier = Classifier.wrap(network, size=size)
    fine, coarse = (branch.field for branch in classifier.head.branches)
    assert fine is not None
    assert coarse is not None
    assert (fine.y.centre, fine.y.stride, coarse.y.centre, coarse.y.stride) == (2, 4, 6, 12)
    inputs = classifier.noise_input()
    (maps,) = class_maps_of_batch(classifier, inputs)
    torch.testing.assert_close(maps.values.sum((1, 2)) + maps.bias, maps.logits)
    with torch.no_grad():
        feature_maps = network.fine(inputs)
        coarser = network.coarse(feature_maps)
        weight = network.fc.weight
        expected = torch.einsum("kc,chw->khw", weight[:, :4], feature_maps[0]) / feature_maps[0, 0].numel()
        spread = torch.einsum("kc,chw->khw", weight[:, 4:], coarser[0]) / coarser[0, 0].numel() / 9
        # Every coarse cell covers 3 x 3 fine ones. Fine cells beyond the last coarse one get nothing of it.
        spread = spread.repeat_interleave(3, 1).repeat_interleave(3, 2)
        expected[:, : spread.shape[1], : spread.shape[2]] += spread
    torch.testing.assert_close(maps.values, expected)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "swin_t"])
def test_torchvision_networks_with_random_weights_are_in_their_place(name: str) -> None:
    torch.manual_seed(0)
    for field in place(models.get_model(name), (128, 96)):
        assert field.misplaced is None


def test_a_mirrored_torchvision_network_is_not() -> None:
    torch.manual_seed(0)
    network = models.ResNet(BasicBlock, [1, 1, 1, 1])

    class Mirrored(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.network(images.flip(3))
            return logits

    (field,) = place(Mirrored(), (128, 96))
    assert field.misplaced is not None


def test_a_vision_transformer_whose_tokens_are_averaged_is_in_its_place() -> None:
    torch.manual_seed(0)
    settings = {"global_pool": "avg", "class_token": False, "img_size": (64, 96), "depth": 3}
    (field,) = place(timm.create_model("vit_tiny_patch16_224", **settings), (64, 96))
    assert field.misplaced is None


class Faint(nn.Module):
    """Feature maps that hardly change with the image: by less than rounding."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(3, 6, 3, 4, 1), nn.Linear(6, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        maps = self.conv(inputs) * 1e-9 + torch.rand(6, 1, 1, generator=torch.Generator().manual_seed(0))
        logits: Tensor = self.head(torch.fft.ifft2(torch.fft.fft2(maps)).real.mean((2, 3)))
        return logits


def test_a_change_below_rounding_shows_no_place():
    classifier = Classifier.wrap(Faint(), size=64)
    assert classifier.receptive_field.misplaced == (
        "no cell of the feature maps changes with the photo by more than rounding"
    )


class Shuffling(nn.Module):
    """A deep network with random weights whose cells respond to the whole image alike."""

    def __init__(self, turned: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.fc, self.turned = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 5), turned
        self.layers = nn.ModuleList(nn.Conv2d(8, 8, 3, 1, 1) for _ in range(60))

    def forward(self, images: Tensor) -> Tensor:
        maps = self.first(images)
        for layer in self.layers:
            maps = torch.tanh(3 * layer(maps))
            n, c, h, w = maps.shape
            maps = maps.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)  # channel shuffle
        logits: Tensor = self.fc((maps.transpose(2, 3) if self.turned else maps).mean((2, 3)))
        return logits


def test_where_all_cells_respond_alike_operations_that_keep_places_decide() -> None:
    (field,) = place(Shuffling(), (32, 32))
    assert field.certain
    assert field.misplaced is None


def test_where_all_cells_respond_alike_an_exchange_of_height_and_width_leaves_the_place_unknown() -> None:
    (field,) = place(Shuffling(turned=True), (32, 32))
    assert not field.certain
    assert field.misplaced is not None
