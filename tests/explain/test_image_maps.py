"""What class maps give back: arrays at the photo's size, text, pictures for notebooks, and copies by pickle."""

import pickle

import cv2
import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

import inspector
from inspector import ClassError, Classifier, ClassMaps, InspectorError, PlaceError, accelerate, class_maps
from inspector.output.comparison_figure import side_by_side_figure
from inspector.output.overlay import common_scale

SIZE = (12, 16)
PHOTO = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
NAMES = ["red", "green", "blue, dark"]


class Affine(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc = nn.Conv2d(3, 4, 4, 4), nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.fc(self.conv(inputs).relu().mean((2, 3)))


class Normalized(Affine):
    def forward(self, inputs: Tensor) -> Tensor:
        return self.fc(F.layer_norm(self.conv(inputs).relu().mean((2, 3)), (4,)))


class Curved(Affine):
    def forward(self, inputs: Tensor) -> Tensor:
        return self.fc(F.gelu(self.conv(inputs).relu().amax((2, 3))))


class Attributes(Affine):
    def forward(self, inputs: Tensor) -> Tensor:
        pooled = torch.ops.aten.relu.default(self.conv(inputs)).mean((2, 3))
        return F.relu(self.fc(pooled).T).T.mT.mT * torch.ops.aten.sigmoid.default(pooled.sum(1, keepdim=True))


class TwoOutputs(Affine):
    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        pooled = self.conv(inputs).relu().mean((2, 3))
        exponentials = self.fc(pooled).exp()
        return pooled, exponentials / exponentials.sum(1, keepdim=True)


def explain(network: type[nn.Module] = Affine, photo: np.ndarray = PHOTO, **options: object) -> ClassMaps:
    return class_maps(Classifier.wrap(network(), NAMES, size=SIZE, name="by hand", **options), photo)


@pytest.fixture(scope="module")
def maps() -> ClassMaps:
    return explain()


def test_a_heatmap_has_the_size_of_the_photo_and_the_values_of_the_cells(maps):
    raw = maps.heatmap("red", smooth=False)
    assert (raw.dtype, raw.shape) == (np.float32, (48, 64))
    # The photo has the aspect ratio of the input, so each of the 3 x 4 cells covers 16 x 16 pixels.
    np.testing.assert_array_equal(raw, np.kron(maps.values[0].numpy(), np.ones((16, 16), np.float32)))
    smooth = maps.heatmap("red")
    np.testing.assert_allclose(smooth[8::16, 8::16], raw[8::16, 8::16], atol=0.1 * np.abs(raw).max())
    assert np.abs(smooth).max() <= np.abs(raw).max() * (1 + 1e-6)
    contrast = maps.heatmap(0, against="average", smooth=False)
    expected = (maps.values[0] - maps.values.mean(0)).numpy()
    np.testing.assert_allclose(contrast[::16, ::16], expected, atol=1e-6)


def test_a_heatmap_is_zero_outside_of_what_the_network_sees():
    photo = np.random.default_rng(0).integers(0, 256, (48, 100, 3), np.uint8)
    maps = explain(photo=photo)
    heat, (left, _, right, _) = maps.heatmap(0), maps.view.box
    assert (heat.shape, 10 < left < 30 < 70 < right < 90) == ((48, 100), True)
    assert not heat[:, : int(left)].any()
    assert not heat[:, int(right) + 1 :].any()
    assert heat[:, 30:70].any()


@pytest.mark.parametrize("cmap", ["inspector", "RdBu_r", "jet", "viridis", matplotlib.colormaps["seismic"]])
def test_an_overlay_has_the_colors_of_any_colormap(maps, cmap):
    drawn = maps.overlay("red", cmap, opacity=1, smooth=False)
    assert (drawn.dtype, drawn.shape) == (np.uint8, (48, 64, 3))
    heat = maps.heatmap("red", smooth=False)
    strongest = heat == heat.flat[np.abs(heat).argmax()]
    (color,) = np.unique(drawn[strongest], axis=0)
    table = cmap if isinstance(cmap, matplotlib.colors.Colormap) else matplotlib.colormaps.get(cmap)
    if table is not None:
        expected = np.array(table(1.0 if heat.flat[np.abs(heat).argmax()] > 0 else 0.0)[:3]) * 255
        np.testing.assert_allclose(color, expected, atol=2)
    np.testing.assert_array_equal(maps.overlay("red", cmap, opacity=0, gray=False), PHOTO)
    in_gray = np.asarray(Image.fromarray(PHOTO).convert("L"))[..., None]
    np.testing.assert_allclose(maps.overlay("red", cmap, opacity=0).astype(int), in_gray.repeat(3, 2), atol=1)


def test_overlays_on_one_scale_can_be_compared(maps):
    scale = 2 * common_scale([maps.values])
    assert (
        np.abs(maps.overlay(0, scale=scale).astype(int) - PHOTO).sum()
        < np.abs(maps.overlay(0).astype(int) - PHOTO).sum()
    )


def test_maps_whose_place_is_unknown_are_drawn_on_no_photo():
    class Flipped(Affine):
        def forward(self, inputs: Tensor) -> Tensor:
            return self.fc(self.conv(inputs.flip(3)).relu().mean((2, 3)))

    maps = explain(Flipped)
    assert maps.verdict == "exact"
    for draw in (maps.heatmap, maps.overlay):
        with pytest.raises(PlaceError, match=r"place of this evidence is unknown"):
            draw(0)
    assert "place of this evidence is unknown" in repr(maps)


def test_an_unknown_colormap_is_an_error_with_the_nearest_names(maps):
    with pytest.raises(InspectorError, match=r"^No colormap 'virids'\. Nearest names: viridis"):
        maps.overlay(0, "virids")


def test_a_large_photo_keeps_its_size():
    photo = cv2.resize(PHOTO, (1500, 1100))
    maps = explain(photo=photo)
    assert maps.overlay(0).shape == (1100, 1500, 3)
    assert maps.heatmap(0).shape == (1100, 1500)


def test_a_text_is_one_class_and_minus_one_the_last(maps):
    assert maps.figure_content("red").classes == (0,)
    assert maps.figure_content("blue, dark").classes == (2,)
    assert maps.figure_content([-1, "red"]).classes == (2, 0)
    torch.testing.assert_close(maps.contrast(-1, 0), maps.values[2] - maps.values[0])
    torch.testing.assert_close(maps.contrast("red", "average"), maps.values[0] - maps.values.mean(0))
    torch.testing.assert_close(maps.contrast("red"), maps.contrast("red", "average"))
    assert maps.class_map(-1).title == "blue, dark"
    for count in (0, -1):
        with pytest.raises(ClassError, match=rf"at least one class; got {count}\. For the last class, use \[-1\]\."):
            maps.figure(count)


def test_maps_and_classifier_print_what_they_are_in_five_lines(maps):
    lines = repr(maps).splitlines()
    assert lines[0] == "ClassMaps of array by by hand"
    ((_, name, probability),) = maps.top(1)
    assert lines[1].startswith(f"  top: {name} ({probability:.1%}), ")
    assert lines[2] == f"  verdict: exact, largest residual {maps.residual:.1e} logits"
    assert lines[3] == "  maps: 3 classes x 3 x 4 cells"
    assert lines[4].startswith("  photo: 48 x 64 pixels, fed as RGB; ")
    lines = repr(maps.classifier).splitlines()
    assert lines[:3] == [
        "Classifier by hand",
        "  3 classes: red, green, blue, dark",
        "  head: average pooling, class maps exact",
    ]
    assert len(lines) == 5
    assert "values=" not in repr(maps)


def test_notebooks_show_maps_and_figures(maps):
    for shown in (maps, maps.figure(1), side_by_side_figure([maps], "red", ["a"])):
        picture = cv2.imdecode(np.frombuffer(shown._repr_png_(), np.uint8), cv2.IMREAD_COLOR)
        assert picture.shape[0] > 100


@pytest.mark.parametrize("network", [Affine, Normalized, Curved, Attributes, TwoOutputs])
def test_maps_and_classifiers_can_be_pickled(network):
    maps = explain(network)
    copy = pickle.loads(pickle.dumps(maps))
    assert (copy.verdict, repr(copy)) == (maps.verdict, repr(maps))
    torch.testing.assert_close(copy.values, maps.values)
    torch.testing.assert_close(copy.parts(1), maps.parts(1))
    if maps.classifier.head.has_position_scores:
        torch.testing.assert_close(copy.position_scores(), maps.position_scores())
    np.testing.assert_array_equal(copy.overlay(0), maps.overlay(0))
    classifier = pickle.loads(pickle.dumps(maps.classifier))
    torch.testing.assert_close(class_maps(classifier, PHOTO).values, maps.values)


def test_the_default_network_can_be_pickled():
    classifier = inspector.load("efficientnet_lite0")
    assert pickle.loads(pickle.dumps(classifier)).sha256() == classifier.sha256()


def test_an_accelerated_classifier_runs_on_pytorch_where_it_is_unpickled(maps):
    fast = accelerate(maps.classifier, "folded")
    copy = pickle.loads(pickle.dumps(fast))
    assert (fast.backend_status, copy.backend_status) == ("Running on folded.", "Running on PyTorch.")
    torch.testing.assert_close(class_maps(copy, PHOTO).values, maps.values)


def test_errors_and_functions_for_data_sets_are_public():
    errors = {name for name in vars(inspector.errors) if isinstance(vars(inspector.errors)[name], type)}
    public = {name for name in errors if issubclass(vars(inspector.errors)[name], InspectorError)}
    assert public <= set(inspector.__all__)
    assert {"run_dataset", "RunOptions", "read_rows", "summarize", "read_summary"} <= set(inspector.__all__)
    for name in inspector.__all__:
        assert getattr(inspector, name) is not None
    assert inspector.__version__.count(".") == 2
