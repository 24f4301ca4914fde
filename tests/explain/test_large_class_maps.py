"""Class maps of large images equal those in one piece, or an error says why not."""

import copy
import csv
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from typer.testing import CliRunner

import inspector
from inspector.cli import large as large_command  # noqa: F401 (the command joins the command line)
from inspector.cli.options import cli
from inspector.errors import ClassError, ExportError, HeadError, ImageError, InspectorError, NetworkError
from inspector.explain.classifier import Classifier
from inspector.explain.grid import resample_on_photo
from inspector.explain.large_class_maps import LargeMaps, large_class_maps
from inspector.explain.tiling import make_tiles, verify_tiling
from inspector.images import large
from inspector.images.examples import list_examples
from inspector.images.large import open_large_image
from inspector.networks.builtin import cifar_resnet


class SameAsTensorFlow(nn.Module):
    """A convolution padded so that a stride of 2 halves the image: how much on which side depends on its size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, 2)

    def forward(self, maps: Tensor) -> Tensor:
        sides: list[int] = []
        for length in (maps.shape[3], maps.shape[2]):
            missing = max((-(-length // 2) - 1) * 2 + 3 - length, 0)
            sides += [missing // 2, missing - missing // 2]
        return self.conv(functional.pad(maps, sides))


class Shifted(nn.Module):
    """Two branches that see to different sides: a rule for one of them would be too small for their sum."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 5), nn.Conv2d(3, 4, 5)

    def forward(self, maps: Tensor) -> Tensor:
        left = self.left(functional.pad(maps, (4, 0, 4, 0)))
        return torch.relu(left + self.right(functional.pad(maps, (0, 4, 0, 4))))


def trunk(name: str) -> nn.Sequential:
    torch.manual_seed(3)
    relu, small = nn.ReLU(), nn.Conv2d(4, 5, 3, padding=1)
    layers: dict[str, list[nn.Module]] = {
        "1x1": [nn.Conv2d(3, 5, 1)],
        "stride 2": [nn.Conv2d(3, 4, 3, 2, 1), relu, nn.Conv2d(4, 5, 3, 2, 1)],
        "stride 3": [nn.Conv2d(3, 4, 5, 3, 2), relu, small],
        "patches": [nn.Conv2d(3, 5, 4, 4)],
        "unpadded": [nn.Conv2d(3, 4, 5), relu, nn.Conv2d(4, 5, 3, 2)],
        "even kernel": [nn.Conv2d(3, 4, 4, 2, 1), relu, small],
        "one-sided": [nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 4, 3, 2), relu, small],
        "too much padding": [nn.Conv2d(3, 4, 1, padding=2), relu, small],
        "dilated": [nn.Conv2d(3, 4, 3, padding=3, dilation=3), relu, nn.MaxPool2d(2), small],
        "max pooling": [nn.Conv2d(3, 4, 3, 2, 1), nn.MaxPool2d(3, 2, 1), small],
        "ceil_mode": [nn.Conv2d(3, 4, 2), nn.MaxPool2d(3, 2, ceil_mode=True), nn.MaxPool2d(2, ceil_mode=True)],
        "average pooling": [nn.AvgPool2d(3, 2, 1), nn.Conv2d(3, 4, 3, padding=1), nn.AvgPool2d(2, ceil_mode=True)],
        "same": [SameAsTensorFlow(), relu, nn.Conv2d(4, 3, 1), SameAsTensorFlow()],
        "shifted": [Shifted(), nn.MaxPool2d(2)],
        "reflected": [nn.Conv2d(3, 4, 5, padding=2, padding_mode="reflect"), relu, nn.MaxPool2d(2)],
        "normalized channels": [nn.Conv2d(3, 4, 3, 2, 1), nn.LocalResponseNorm(3), nn.BatchNorm2d(4), small],
    }  # fmt: skip
    return nn.Sequential(*layers[name])


NAMES = (
    "1x1", "stride 2", "stride 3", "patches", "unpadded", "even kernel", "one-sided", "too much padding", "dilated",
    "max pooling", "ceil_mode", "average pooling", "same", "shifted", "reflected", "normalized channels",
)  # fmt: skip


def classifier_of(layers: nn.Module, pooling: str = "average", size: int = 32, classes: int = 6) -> Classifier:
    torch.manual_seed(4)
    pool = nn.AdaptiveAvgPool2d(1) if pooling == "average" else nn.AdaptiveMaxPool2d(1)
    channels = layers(torch.zeros(1, 3, size, size)).shape[1]
    return Classifier.wrap(
        nn.Sequential(layers, pool, nn.Flatten(), nn.Linear(channels, classes)).eval(), size=size, name="small"
    )


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def assert_equals_one_piece(maps: LargeMaps, classifier: Classifier, image: np.ndarray) -> None:
    whole = inspector.class_maps(classifier.resized(image.shape[:2], crop=False), image)
    expected = whole.values[list(maps.classes)]
    assert maps.values.shape == expected.shape
    torch.testing.assert_close(maps.values, expected, rtol=0, atol=2e-6 * float(whole.values.abs().max()))
    torch.testing.assert_close(maps.logits, whole.logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(maps.probabilities, whole.probabilities, rtol=1e-4, atol=1e-6)
    assert maps.verdict == whole.verdict == "exact"
    assert maps.top(3) == [(k, name, pytest.approx(p, rel=1e-4)) for k, name, p in whole.top(3)]
    sums = maps.values.double().sum((1, 2)) + maps.bias
    assert float((sums - maps.logits[list(maps.classes)]).abs().max()) <= maps.residual


@pytest.mark.parametrize("pooling", ["average", "max"])
@pytest.mark.parametrize("name", NAMES)
def test_tiles_give_the_class_maps_of_the_whole_image(name: str, pooling: str) -> None:
    classifier = classifier_of(trunk(name), pooling)
    generator = np.random.default_rng(NAMES.index(name))
    for seed in range(2):
        height, width = generator.integers(40, 90, 2).tolist()
        image = noise(height, width, seed)
        maps = large_class_maps(classifier, image, classes=4, tile=16)
        assert maps.tiles > 3
        assert_equals_one_piece(maps, classifier, image)


@pytest.mark.parametrize("pooling", ["average", "max"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_tiles_of_a_network_in_half_precision(dtype: torch.dtype, pooling: str) -> None:
    classifier = classifier_of(trunk(NAMES[0]), pooling)
    half = Classifier.wrap(copy.deepcopy(classifier.network).to(dtype), size=classifier.preprocessing.size)
    maps = large_class_maps(half, noise(60, 70), classes=4, tile=16)
    assert (maps.verdict, maps.values.dtype) == ("exact", torch.float32)
    sums = maps.values.double().sum((1, 2)) + maps.bias
    assert float((sums - maps.logits[list(maps.classes)]).abs().max()) <= maps.residual + 1e-6


class Shortcut(nn.Module):
    """A residual block whose shortcut is an operation without a rule: receptive fields are of unknown size."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.fc = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 8, 3, 2, 1), nn.Linear(8, 10)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.first(images).relu()
        rows, columns = (torch.arange(0, side, 2) for side in maps.shape[2:])
        logits: Tensor = self.fc((self.second(maps) + maps[:, :, rows][..., columns]).relu().mean((2, 3)))
        return logits


def test_the_reach_of_a_shortcut_with_a_rule_is_known() -> None:
    torch.manual_seed(0)
    classifier = Classifier.wrap(cifar_resnet(8), size=32)
    assert (classifier.receptive_field.y.size, classifier.receptive_field.y.stride) == (25, 4)
    image = noise(122, 149)
    assert_equals_one_piece(large_class_maps(classifier, image, tile=32), classifier, image)


def test_the_reach_of_a_shortcut_without_a_rule_is_measured() -> None:
    classifier = Classifier.wrap(Shortcut(), size=32)
    assert classifier.receptive_field.y.size == float("inf")
    image = noise(122, 149)
    maps = large_class_maps(classifier, image, tile=32)
    assert maps.tiles > 12
    assert_equals_one_piece(maps, classifier, image)


def test_max_and_average_pooling_side_by_side() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.trunk, self.linear = trunk("stride 2"), nn.Linear(10, 6)

        def forward(self, images: Tensor) -> Tensor:
            maps = self.trunk(images)
            return self.linear(torch.cat([maps.amax((2, 3)), maps.mean((2, 3))], 1))

    classifier, image = Classifier.wrap(Both(), size=32), noise(61, 58)
    assert classifier.head.pooling == "max + average"
    assert_equals_one_piece(large_class_maps(classifier, image, tile=16), classifier, image)


def test_of_equal_maxima_the_first_cell_of_the_whole_grid_counts(hand_made_gmp: nn.Module) -> None:
    classifier = Classifier.wrap(hand_made_gmp, size=8, mean=(0, 0, 0), std=(1, 1, 1))
    image = np.zeros((20, 30, 3), np.uint8)
    image[2, 27, 0] = image[3, 1, 0] = 255  # red: the tile on the left comes first, the row above decides
    image[11, 2, 1] = image[11, 20, 1] = image[15, 0, 1] = 255  # green
    maps = large_class_maps(classifier, image, classes=[0, 1], tile=8)
    assert maps.tiles == 3 * 4
    assert maps.values[0].nonzero().tolist() == [[2, 27]]
    assert maps.values[1].nonzero().tolist() == [[11, 2]]
    assert maps.values[0, 2, 27] == 1
    assert maps.values[1, 11, 2] == 2
    assert_equals_one_piece(maps, classifier, image)


@pytest.mark.parametrize("name", ["fashion_gap", "fashion_gmp_sigmoid"])
def test_grayscale_networks_get_grayscale_tiles(name: str) -> None:
    classifier, image = inspector.load(name), noise(101, 77)
    assert_equals_one_piece(large_class_maps(classifier, image, tile=40), classifier, image)


@pytest.mark.parametrize("name", ["squeezenet1_1", "resnet18"])
def test_networks_of_torchvision(name: str) -> None:
    torch.manual_seed(0)
    classifier = Classifier.wrap(getattr(torchvision.models, name)().eval(), size=64, name=name)
    image = noise(211, 150)
    assert_equals_one_piece(large_class_maps(classifier, image, tile=96), classifier, image)


def test_a_photo_by_the_network_that_comes_with_us() -> None:
    with Image.open(list_examples("photos")["Astronaut"]) as photo:
        image = np.asarray(photo.convert("RGB").resize((501, 470)))
    classifier = inspector.load("efficientnet_lite0")
    maps = large_class_maps(classifier, image, tile=256)
    assert maps.tiles == 4
    assert_equals_one_piece(maps, classifier, image)


def test_named_classes_keep_their_order() -> None:
    classifier, image = classifier_of(trunk("stride 2")), noise(50, 60)
    maps = large_class_maps(classifier, image, ["class 4", 1], tile=16)
    assert maps.classes == (4, 1)
    assert_equals_one_piece(maps, classifier, image)
    assert len(large_class_maps(classifier, image, 99, tile=16).classes) == 6


def test_every_cell_comes_from_one_tile() -> None:
    tiling = verify_tiling(classifier_of(trunk("stride 2")), (70, 95))
    count = np.zeros((tiling.y.positions, tiling.x.positions), int)
    for tile in make_tiles(tiling, 16):
        count[tile.rows, tile.columns] += 1
    assert (count == 1).all()


class ComputedImage:
    """An image whose pixels are computed when they are read, and which records the windows read."""

    def __init__(self, height: int, width: int) -> None:
        self.shape, self.dtype = (height, width, 3), np.dtype(np.uint8)
        self.windows: list[tuple[int, int]] = []

    def __getitem__(self, key: tuple[slice, slice]) -> np.ndarray:
        rows, columns = (np.arange(one.start, one.stop) for one in key)
        self.windows.append((len(rows), len(columns)))
        return np.stack(np.broadcast_arrays(*(rows[:, None] * a + columns * b for a, b in ((1, 2), (3, 5), (7, 1)))), 2)


def test_no_more_than_a_tile_and_its_surroundings_is_in_memory() -> None:
    input_sizes: list[tuple[int, ...]] = []
    layers = trunk("stride 2")
    layers.register_forward_pre_hook(lambda _, inputs: input_sizes.append(tuple(inputs[0].shape[2:])))
    classifier = classifier_of(layers)
    input_sizes.clear()
    image = ComputedImage(1500, 1100)
    progress: list[tuple[int, int]] = []
    maps = large_class_maps(classifier, image, tile=128, progress=lambda done, total: progress.append((done, total)))
    assert maps.grid == (375, 275)
    assert progress == [(n + 1, 12 * 9) for n in range(12 * 9)]
    assert len(image.windows) == 12 * 9
    most = 128 + (maps.tiling.y.before + maps.tiling.y.after) * 4
    assert most < 160
    assert max(max(window) for window in image.windows) <= most
    assert max(max(window) for window in input_sizes) <= most
    maps.reduced(100)
    assert max(height * width for height, width in image.windows) <= 2_000_000


def test_the_temporary_folder_is_removed_after_an_error_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    classifier, there = classifier_of(trunk("stride 2")), []

    def stop(done: int, total: int) -> None:
        there.extend(tmp_path.iterdir())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        large_class_maps(classifier, noise(50, 60), tile=16, progress=stop)
    assert len(there) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_network_trained_further_is_not_exact() -> None:
    classifier = classifier_of(trunk("stride 2"))
    with torch.no_grad():
        classifier.network[3].weight[2] += 1  # type: ignore[index, union-attr, operator]
    maps = large_class_maps(classifier, noise(50, 60), [0], tile=16)
    assert maps.verdict == "not exact"
    assert maps.residual > 0.01


class SqueezeExcitation(nn.Module):
    """A gate computed from the mean of each channel."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps * maps.mean((2, 3), keepdim=True).sigmoid()


class PositionEmbedding(nn.Module):
    """Adds a value that depends on the column."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps + torch.linspace(0, 1, maps.shape[3])


class MultiplesOfFour(nn.Module):
    """Accepts only sides that are multiples of 4."""

    def forward(self, maps: Tensor) -> Tensor:
        return functional.interpolate(functional.max_pool2d(maps, 4), scale_factor=4.0) + maps


@pytest.mark.parametrize(
    ("layer", "sentence"),
    [
        (
            SqueezeExcitation(),
            r": pixels \d+ px away still change its feature maps, so some layer mixes all cells",
        ),
        (nn.GroupNorm(2, 4), ".*some layer mixes all cells"),
        (nn.InstanceNorm2d(4), ".*some layer mixes all cells"),
        (
            PositionEmbedding(),
            r": .*differ from those of the whole image by \d.\de-\d\d of the largest value, where at most 1e-05 is",
        ),
        (MultiplesOfFour(), r" of an image of this size. The network cannot run on an input of shape"),
    ],
    ids=["squeeze-and-excitation", "group norm", "instance norm", "position embedding", "multiples of 4"],
)
def test_a_network_that_cannot_be_run_on_tiles_is_refused(layer: nn.Module, sentence: str) -> None:
    classifier = classifier_of(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), layer))
    with pytest.raises(NetworkError, match="^small cannot be run on tiles" + sentence):
        large_class_maps(classifier, noise(50, 61), tile=16)


def test_networks_of_torchvision_with_squeeze_and_excitation_are_refused() -> None:
    torch.manual_seed(0)
    nonlinear = Classifier.wrap(torchvision.models.mobilenet_v3_small().eval(), size=64, name="mobilenet")
    with pytest.raises(HeadError, match=r"What follows the pooling of mobilenet is not affine \(.* not unique\)"):
        large_class_maps(nonlinear, noise(50, 60))
    with_squeeze = Classifier.wrap(torchvision.models.regnet_y_400mf().eval(), size=64, name="regnet")
    with pytest.raises(NetworkError, match="regnet cannot be run on tiles: pixels"):
        large_class_maps(with_squeeze, noise(50, 60))


def test_a_head_made_for_one_size_is_refused() -> None:
    network = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Flatten(), nn.Linear(2 * 64, 3))
    with pytest.raises(HeadError, match=r"The head of network \(flatten\) takes images of one size only"):
        large_class_maps(Classifier.wrap(network, size=8), noise(50, 60))


def test_a_window_as_large_as_the_image_must_fit() -> None:
    classifier = classifier_of(nn.Conv2d(3, 4, 9))
    with pytest.raises(NetworkError, match="An image of 60 x 8 pixels is too small for small"):
        large_class_maps(classifier, noise(8, 60))


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({"tile": 0}, InspectorError, "at least 1 pixel and at least 1 class, got 0 and 5"),
        ({"classes": 0}, InspectorError, "got 1024 and 0"),
        ({"classes": ["class 9"]}, ClassError, "No class 'class 9'. Nearest names"),
    ],
    ids=["tile", "no classes", "unknown class"],
)
def test_impossible_arguments_get_one_sentence(arguments: dict, error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        large_class_maps(classifier_of(trunk("1x1")), noise(50, 60), **arguments)


def test_a_full_disk_is_an_error_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(InspectorError, match=r"need 0.0 GB of disk space .* environment variable TMPDIR"):
        large_class_maps(classifier_of(trunk("1x1")), noise(50, 60))
    large_class_maps(classifier_of(trunk("1x1"), "max"), noise(50, 60))  # max pooling keeps no feature maps


# Reading


@pytest.fixture
def image() -> np.ndarray:
    return noise(41, 33)


def window_of(source: object) -> np.ndarray:
    return open_large_image(source).read(slice(5, 20), slice(2, 33))  # type: ignore[arg-type]


def test_arrays_and_files_are_read_window_by_window(
    image: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "image.npy", image)
    tifffile.imwrite(tmp_path / "image.tif", image, photometric="rgb")
    tifffile.imwrite(tmp_path / "gray.tiff", image[..., 0], photometric="minisblack")
    monkeypatch.setattr(Image, "open", None)  # nothing is decoded
    expected = image[5:20, 2:33]
    for source in (image, tmp_path / "image.npy", str(tmp_path / "image.tif")):
        assert open_large_image(source).size == (41, 33)
        assert np.array_equal(window_of(source), expected)
    assert np.array_equal(window_of(tmp_path / "gray.tiff"), np.repeat(expected[..., :1], 3, 2))
    assert np.array_equal(window_of(image[..., 1]), np.repeat(expected[..., 1:2], 3, 2))


@pytest.mark.parametrize("most", [1000, 10**8], ids=["large", "small"])
def test_other_files_are_decoded_whole(
    image: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(large, "MAX_PIXELS", most)
    usual = Image.MAX_IMAGE_PIXELS
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # of which Pillow would warn
    Image.fromarray(image).save(tmp_path / "image.png")
    Image.fromarray(image).save(tmp_path / "packed.tif", compression="tiff_lzw")
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(image[::-1, ::-1]).save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(image[::-1, ::-1]).save(tmp_path / "turned.tif", exif=exif)
    if most > 10000:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", usual)
    limit = Image.MAX_IMAGE_PIXELS
    for name in ("image.png", "packed.tif", "turned.png", "turned.tif"):
        assert np.array_equal(window_of(tmp_path / name), image[5:20, 2:33]), name
        assert limit == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("absent.npy", None, r"Cannot read .*absent.npy: No such file or directory\."),
        ("cut.npy", b"\x93NUMPY\x01", r"cut.npy is broken or cut off \("),
        ("cut.tif", b"II*\0\x10", r"cut.tif is broken or cut off \("),
        (
            "text.jpg",
            b"no image",
            r"text.jpg is not an image that can be read. JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF and .npy can\.",
        ),
    ],
)
def test_a_bad_file_gets_one_sentence(name: str, content: bytes | None, sentence: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageError, match=sentence):
        open_large_image(tmp_path / name)


@pytest.mark.parametrize(
    "array",
    [np.zeros((5, 5, 3)), np.zeros((5, 5, 4), np.uint8), np.zeros((0, 5, 3), np.uint8), np.zeros(5, np.uint8)],
    ids=["float", "four channels", "empty", "one axis"],
)
def test_an_array_that_is_no_image_is_refused(array: np.ndarray, tmp_path: Path) -> None:
    message = re.escape(f"must be (H, W, 3) or (H, W) of uint8 in 0-255, got {array.shape} of {array.dtype}.")
    with pytest.raises(ImageError, match=f"^array {message}"):
        open_large_image(array)
    np.save(tmp_path / "image.npy", array)
    with pytest.raises(ImageError, match=rf"^image.npy {message}"):
        open_large_image(tmp_path / "image.npy")


def test_an_array_of_objects_is_not_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "image.npy", np.array([[{}]]), allow_pickle=True)
    with pytest.raises(ImageError, match=r"image\.npy is broken or cut off"):
        open_large_image(tmp_path / "image.npy")


def test_what_can_only_be_decoded_whole_has_a_limit(
    image: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(image).save(tmp_path / "image.png")
    monkeypatch.setattr(large, "MAX_DECODED", 41 * 33 - 1)
    with pytest.raises(ImageError, match=r"image.png has 33 x 41 pixels, .* Use an uncompressed TIFF or an .npy file"):
        open_large_image(tmp_path / "image.png")


def test_transparency_is_read_in_small_images_only(
    image: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(np.dstack([image, np.zeros((41, 33), np.uint8)])).save(tmp_path / "image.png")
    assert (window_of(tmp_path / "image.png") == 255).all()
    monkeypatch.setattr(large, "MAX_PIXELS", 1000)
    with pytest.raises(ImageError, match=r"image.png has pixels of the mode RGBA, which are read up to 0 megapixels"):
        open_large_image(tmp_path / "image.png")


def test_the_preview_is_the_mean_of_squares(image: np.ndarray) -> None:
    pixels, factor = open_large_image(image).preview(11)
    assert factor == 4
    assert pixels.shape == (11, 9, 3)
    assert np.abs(pixels[3, 2] - image[12:16, 8:12].mean((0, 1))).max() <= 0.5
    assert np.abs(pixels[10, 8] - image[40:, 32:].mean((0, 1))).max() <= 0.5
    pixels, factor = open_large_image(image).preview()
    assert factor == 1
    assert np.array_equal(pixels, image)


def test_the_preview_is_the_same_in_strips() -> None:
    image = noise(3000, 2100)
    pixels, factor = open_large_image(image).preview(1000)
    assert factor == 3
    assert np.array_equal(pixels, np.asarray(Image.fromarray(image).reduce(3)))


# Drawing and the command line


def test_the_maps_are_drawn_where_their_cells_lie() -> None:
    classifier = classifier_of(trunk("patches"))
    maps = large_class_maps(classifier, noise(64, 96), [3, 0], tile=16)
    small = maps.reduced(32)
    assert small.view is not None
    assert small.view.photo.size == (22, 32)  # a third
    assert small.view.box == pytest.approx((0, 0, 32, 64 / 3))
    assert small.classifier.class_names == ("class 3", "class 0")
    shown = small.class_map(0)
    assert torch.equal(shown.values, maps.values[0])
    assert shown.total == pytest.approx(float(maps.logits[3]))
    drawn = resample_on_photo(maps.values[0], small.view.crop, small.classifier.receptive_field, (66, 96), smooth=False)
    # A patch of 4 x 4 pixels per cell: drawn at the size of the image, each is in its own place.
    assert np.array_equal(drawn[:64], np.kron(maps.values[0].numpy(), np.ones((4, 4), np.float32)))
    assert not drawn[64:].any()  # the last row of the reduced photo holds a third of a row more than there is


def test_cells_of_unknown_position_divide_the_image() -> None:
    maps = large_class_maps(Classifier.wrap(Shortcut(), size=32), noise(122, 149), tile=64)
    field = maps.reduced(32).classifier.receptive_field
    assert field.y.stride == pytest.approx(122 / maps.grid[0])
    assert field.x.centre == pytest.approx(149 / maps.grid[1] / 2)


def test_the_command_writes_the_figure_and_the_numbers(tmp_path: Path, image: np.ndarray) -> None:
    np.save(tmp_path / "image.npy", noise(101, 77))
    arguments = ["large", str(tmp_path / "image.npy"), "-m", "fashion_gap", "-c", "Bag,3", "--tile", "40"]
    done = CliRunner().invoke(cli, [*arguments, "-o", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "verdict: exact" in done.stdout
    assert "6 tiles, 12 x 9 cells" in done.stdout
    folder = tmp_path / "out"
    assert {path.name for path in folder.iterdir()} == {"figure.png", "maps.npz", "logits.csv", "manifest.json"}
    numbers = np.load(folder / "maps.npz")
    assert numbers["class_names"].tolist() == ["Bag", "Dress"]
    assert numbers["values"].shape == (2, 12, 9)
    rows = list(csv.DictReader((folder / "logits.csv").read_text().splitlines()))
    assert len(rows) == 10
    assert rows[0]["map_sum"] == ""
    for k in numbers["classes"]:
        row = {name: float(value) for name, value in rows[k].items() if name != "name"}
        assert row["map_sum"] + row["bias"] == pytest.approx(row["logit"], abs=1e-4)
        assert row["logit"] == pytest.approx(float(numbers["logits"][k]))
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest == json.loads(str(numbers["manifest"]))
    assert manifest["image"]["size"] == [101, 77]
    assert manifest["tiles"]["count"] == 6
    with Image.open(folder / "figure.png") as figure:
        assert figure.width > 1000
    # A second time it is refused before any work, and an error leaves nothing.
    again = CliRunner().invoke(cli, [*arguments, "-o", str(folder)])
    assert isinstance(again.exception, ExportError)
    assert "exists already and is not empty" in str(again.exception)
    assert isinstance(CliRunner().invoke(cli, [*arguments, "-c", "x", "-o", str(tmp_path / "x")]).exception, ClassError)
    assert {path.name for path in tmp_path.iterdir()} == {"image.npy", "out"}


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    np.save(tmp_path / "image.npy", noise(60, 60))
    command = ["large", str(tmp_path / "image.npy"), "-m", "fashion_gmp", "-o", str(tmp_path / "file" / "out")]
    done = CliRunner().invoke(cli, command)
    assert isinstance(done.exception, ExportError)
    assert re.search(r"Cannot write .*out: .*\. Nothing was left there\.", str(done.exception))


def test_the_help_of_the_command_needs_no_torch() -> None:
    code = "import sys, inspector.cli.large; print(*sorted({'torch', 'matplotlib', 'tifffile'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
