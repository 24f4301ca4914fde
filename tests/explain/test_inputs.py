"""What users pass to `class_maps`: tensors, lists, data loaders and transforms."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.transforms import v2

from inspector import Classifier, ClassMaps, ImageError, NetworkError, class_maps, class_maps_of_batch, read_image
from inspector.analysis.layers import compute_layer_maps
from inspector.analysis.masking import mask_in_photo

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TRANSFORM = v2.Compose(
    [v2.Resize(24), v2.CenterCrop(16), v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
)


@pytest.fixture
def classifier() -> Classifier:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    return Classifier.wrap(network, size=16, mean=MEAN, std=STD)


@pytest.fixture
def photo() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)


@pytest.fixture
def tensor(classifier, photo) -> Tensor:
    """The photo, normalized by hand: (3, 16, 16)."""
    values = torch.from_numpy(photo).permute(2, 0, 1) / 255
    return (values - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def assert_same_maps(one: ClassMaps, other: ClassMaps) -> None:
    torch.testing.assert_close(one.logits, other.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(one.values, other.values, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["(3, H, W)", "(1, 3, H, W)", "float64", "requires grad"])
def test_a_normalized_tensor_is_fed_as_it_is_and_drawn(classifier, photo, tensor, kind):
    given = {
        "(3, H, W)": tensor, "(1, 3, H, W)": tensor[None], "float64": tensor.double(),
        "requires grad": tensor.clone().requires_grad_(),
    }[kind]  # fmt: skip
    maps = class_maps(classifier, given)
    assert_same_maps(maps, class_maps(classifier, photo))
    assert maps.verdict == "exact"
    assert np.array_equal(maps.view.photo.pixels, photo)
    assert maps.view.photo.notes == (
        "It was given as a tensor and fed as it is. The picture is this tensor, with mean and std undone.",
    )
    assert len(maps.figure(classes=2).axes) == 4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_tensor_of_half_precision_is_drawn(classifier, photo, tensor, dtype):
    maps = class_maps(classifier, tensor.to(dtype))
    assert np.abs(maps.view.photo.pixels.astype(int) - photo).max() <= 2


def test_a_tensor_of_another_size_is_fed_at_its_own_size(classifier):
    maps = class_maps(classifier, torch.rand(3, 24, 20))
    assert maps.values.shape[1:] == (11, 9)
    assert maps.view.photo.size == maps.classifier.preprocessing.size == (24, 20)
    assert maps.figure(classes=1) is not None


def test_a_tensor_with_another_mean_is_scaled_to_be_seen_and_that_is_said(classifier):
    maps = class_maps(classifier, 9 * torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(0)))
    pixels, note = maps.view.photo.pixels, maps.view.photo.notes[1]
    assert pixels.min() == 0
    assert pixels.max() == 255
    assert len(np.unique(pixels)) > 100
    assert note.startswith("With mean and std undone, its values are -")


def test_a_tensor_that_is_not_finite_is_drawn_black(classifier, tensor):
    maps = class_maps(classifier, tensor * float("nan"))
    assert maps.verdict == "not exact"
    assert not maps.view.photo.pixels.any()


@pytest.mark.parametrize("shape", [(16, 16, 3), (1, 16, 16), (2, 2, 3, 16, 16), (16, 16), (4, 16, 16), (0, 3, 16, 16)])
def test_a_tensor_that_is_no_input_is_refused_in_one_sentence(classifier, shape):
    with pytest.raises(ImageError, match=r"^Expected a tensor \(3, H, W\) or \(N, 3, H, W\) of normalized values, got"):
        class_maps(classifier, torch.rand(shape))


def test_the_size_of_a_tensor_cannot_be_changed(classifier, tensor):
    with pytest.raises(ImageError, match=r"^The tensor decides the input size\. Leave out size, which is 32\.$"):
        class_maps(classifier, tensor, 32)


def test_a_tensor_of_integers_is_a_photo(classifier, photo):
    maps = class_maps(classifier, torch.from_numpy(photo).permute(2, 0, 1))
    assert_same_maps(maps, class_maps(classifier, photo))


def test_a_tensor_for_a_network_of_other_channels(classifier):
    network = nn.Sequential(nn.Conv2d(5, 8, 3, 2), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    five = Classifier.wrap(network, size=16, mean=(0.5,) * 5, std=(0.5,) * 5)
    maps = class_maps(five, torch.rand(5, 16, 16))
    assert maps.view.values.shape == (16, 16, 5)
    assert len(maps.figure(classes=2).axes) == 4


def test_questions_to_maps_of_a_tensor_run_on_the_tensor(classifier, photo, tensor):
    of_tensor, of_photo = class_maps(classifier, tensor), class_maps(classifier, photo)
    torch.testing.assert_close(classifier.inputs(of_tensor.view)[0], tensor, atol=1e-6, rtol=1e-6)
    layers = [compute_layer_maps(classifier, image, "0").maps for image in (tensor, photo)]
    torch.testing.assert_close(*layers, atol=1e-5, rtol=1e-5)
    mask = torch.zeros(of_photo.values.shape[1:], dtype=torch.bool)
    mask[2:4, 3:6] = True
    masked = [mask_in_photo(maps, mask, "grey").logits for maps in (of_tensor, of_photo)]
    torch.testing.assert_close(*masked, atol=0.02, rtol=0.02)  # the mean color of the photo is rounded to 8 bits


def test_maps_of_a_batch_are_drawn_on_its_tensors(classifier, photo, tensor):
    first, second = class_maps_of_batch(classifier, torch.stack([tensor, tensor.flip(2)]))
    assert np.array_equal(first.view.photo.pixels, photo)
    assert np.array_equal(second.view.photo.pixels, photo[:, ::-1])


# --- several images


def test_a_list_of_photos_gives_a_list_of_class_maps(classifier, photo, tensor, tmp_path):
    path, buffer = tmp_path / "photo.png", io.BytesIO()
    Image.fromarray(photo).save(path)
    Image.fromarray(photo).save(buffer, "PNG")
    images = [photo, str(path), path, buffer, path.read_bytes(), Image.fromarray(photo), tensor, read_image(path)]
    results = class_maps(classifier, images)
    assert isinstance(results, list)
    assert len(results) == len(images)
    for maps in results:
        assert_same_maps(maps, results[0])
    assert len(class_maps(classifier, tuple(images[:2]))) == 2
    assert class_maps(classifier, []) == []


def test_a_tensor_of_several_images_gives_a_list(classifier, tensor):
    results = class_maps(classifier, torch.stack([tensor, tensor / 2, tensor / 3]))
    assert len(results) == 3
    assert_same_maps(results[1], class_maps(classifier, tensor / 2))
    integers = class_maps(classifier, torch.zeros(2, 3, 16, 16, dtype=torch.uint8))
    assert len(integers) == 2


@pytest.mark.parametrize("labels", [False, True])
def test_a_data_loader_gives_the_maps_of_its_images_one_batch_after_the_other(classifier, tensor, labels):
    images = torch.stack([tensor * (n + 1) / 5 for n in range(5)])
    data = TensorDataset(images, torch.arange(5)) if labels else TensorDataset(images)
    results = class_maps(classifier, DataLoader(data, batch_size=2))
    assert not isinstance(results, list)
    results = list(results)
    assert len(results) == 5
    for maps, image in zip(results, images, strict=True):
        assert_same_maps(maps, class_maps(classifier, image))


def test_batches_are_computed_when_they_are_asked_for(classifier, tensor):
    read = []

    def batches():
        for n in range(3):
            read.append(n)
            yield tensor[None]

    results = class_maps(classifier, batches())
    assert read == []
    next(results)
    assert read == [0]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda batch: {"pixel_values": batch, "labels": torch.tensor([0, 1])},
        lambda batch: {"image": batch},
        lambda batch: {"other": batch, "label": torch.tensor([0, 1])},
        lambda batch: [batch, torch.tensor([0, 1])],
        lambda batch: (batch, torch.tensor([0, 1]), ["a", "b"]),
    ],
)
def test_images_are_found_in_what_data_loaders_yield(classifier, tensor, wrap):
    results = class_maps(classifier, wrap(torch.stack([tensor, tensor / 2])))
    assert len(results) == 2
    assert_same_maps(results[0], class_maps(classifier, tensor))


@pytest.mark.parametrize("label", [3, np.int64(3), torch.tensor(3)])
def test_a_sample_of_a_data_set_is_its_image(classifier, photo, tensor, label):
    for image in (photo, tensor, Image.fromarray(photo)):
        assert_same_maps(class_maps(classifier, (image, label)), class_maps(classifier, photo))


def test_a_mapping_without_images_is_refused(classifier):
    with pytest.raises(ImageError, match=r"^No images in a batch with the entries label, name\."):
        class_maps(classifier, {"label": torch.tensor([0]), "name": ["a"]})


# --- transforms


def test_a_transform_makes_the_input_and_its_result_is_shown(classifier):
    photo = np.random.default_rng(1).integers(0, 256, (40, 60, 3), np.uint8)
    maps = class_maps(classifier, photo, transform=TRANSFORM)
    assert_same_maps(maps, class_maps(classifier, TRANSFORM(Image.fromarray(photo))))
    expected = np.asarray(v2.CenterCrop(16)(v2.Resize(24)(Image.fromarray(photo))))
    assert np.array_equal(maps.view.photo.pixels, expected)
    assert maps.view.photo.name == "array"
    assert maps.view.photo.notes == (
        "It was fed as the transform made it. Where its crop lies is unknown, so the picture is its result.",
    )
    assert [len(maps.view.photo.notes) for maps in class_maps(classifier, [photo, photo], transform=TRANSFORM)] == [
        1,
        1,
    ]


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (v2.Resize(16), "The transform returns Image. Expected a tensor of floats"),
        (v2.PILToTensor(), "The transform returns a tensor of torch.uint8. Expected a tensor of floats"),
        (lambda image: image.missing, "The transform fails on array: .*missing"),
        (lambda image: torch.rand(10, 3, 16, 16), "Expected one image, got 10 in a transform"),
        (lambda image: torch.rand(1, 16, 16), r"Expected a tensor \(3, H, W\)"),
    ],
)
def test_a_transform_that_makes_no_input_is_refused_in_one_sentence(classifier, photo, transform, message):
    with pytest.raises(ImageError, match=f"^{message}"):
        class_maps(classifier, photo, transform=transform)


# --- sizes


def test_a_thin_photo_at_its_own_size_has_a_map(classifier):
    padded = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    maps = class_maps(Classifier.wrap(padded, size=16), np.zeros((1, 65_535, 3), np.uint8), "native")
    assert maps.values.shape[1:] == (1, 512)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((30, 40), (16, 21)), ((40, 30), (21, 16)), ((16, 16), (16, 16)), ((8, 8), (16, 16)), ((10, 4000), (3, 1024))],
)
def test_nothing_of_a_whole_photo_is_cropped(shape, expected):
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    photo = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    maps = class_maps(Classifier.wrap(network, size=16), photo, "whole")
    assert maps.values.shape[1:] == maps.view.pixels.shape[:2] == expected
    assert maps.view.box == pytest.approx((0, 0, shape[1], shape[0]))
    assert maps.verdict == "exact"


def test_the_shorter_side_of_a_whole_photo_is_a_choice(classifier):
    padded = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    maps = class_maps(Classifier.wrap(padded, size=16), np.zeros((30, 40, 3), np.uint8), "whole:24")
    assert maps.values.shape[1:] == (24, 32)
    assert maps.view.box == pytest.approx((0, 0, 40, 30))


@pytest.mark.parametrize("size", ["whole:", "whole:0", "whole:9000", "whole:-5", "native:5", "half", "224"])
def test_a_size_that_is_none_is_refused_in_one_sentence(classifier, size):
    with pytest.raises(NetworkError, match=rf'^Expected a size as 224, .*"whole:288" or "native", .*; got {size!r}\.$'):
        class_maps(classifier, np.zeros((30, 40, 3), np.uint8), size)
