"""Class maps during a training: what TensorBoard and MLflow read back, and that the training stays what it was."""

import io
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from changeable_network import Mixed
from PIL import Image
from torch import nn

import inspector
from inspector.errors import ClassError, InspectorError, NetworkError
from inspector.output.overlay import dimmed_photo, draw_map_on_photo, make_gray
from inspector.training import log_class_maps as module
from inspector.training.log_class_maps import log_class_maps, name_photos
from inspector.training.log_writers import make_tag

NAMES = ["red", "green less blue", "neither"]


@pytest.fixture
def classifier(hand_made_gap: nn.Module) -> inspector.Classifier:
    return inspector.Classifier.wrap(hand_made_gap, class_names=NAMES, size=8)


@pytest.fixture
def photos(pixels: np.ndarray) -> dict[str, np.ndarray]:
    return {"first": pixels, "second": np.ascontiguousarray(pixels[::-1])}


class Pictures(list):
    """A function that keeps what it is called with."""

    def __call__(self, tag: str, picture: np.ndarray, step: int) -> None:
        self.append((tag, picture, step))


def find_panels(picture: np.ndarray, maps: inspector.ClassMaps, classes: list[int], scale: float, side: int) -> bool:
    """Whether the photo and the overlays stand in the picture, pixel by pixel, row by row in their order."""
    view, field = maps.view, maps.classifier.receptive_field
    photo = dimmed_photo(view.photo, view.crop, side)
    draw = [draw_map_on_photo(make_gray(photo), view.crop, maps.values[k], field, scale) for k in classes]
    height, width = photo.shape[:2]
    last = (-1, -1)
    for panel in (photo, *draw):
        corners = np.argwhere((picture == panel[0, 0]).all(2)).tolist()
        places = [(y, x) for y, x in corners if np.array_equal(picture[y : y + height, x : x + width], panel)]
        if not any(place > last for place in places):
            return False
        last = min(place for place in places if place > last)
    return True


def test_a_function_gets_the_overlays_pixel_by_pixel(classifier, photos):
    pictures = Pictures()
    maps = log_class_maps(classifier, photos, pictures, 7, ["neither", 0], scale=0.5, side=40, strict=True)
    assert [(tag, step) for tag, _, step in pictures] == [("class_maps/first", 7), ("class_maps/second", 7)]
    for (_, picture, _), one in zip(pictures, maps, strict=True):
        assert find_panels(picture, one, [2, 0], 0.5, 40)
        assert not find_panels(picture, one, [2, 0], 0.25, 40)


def test_the_pictures_of_all_steps_have_one_size_and_one_scale(classifier, photos):
    pictures = Pictures()
    (first,) = log_class_maps(classifier, photos["first"], pictures, 0, NAMES, side=40)
    with torch.no_grad():
        classifier.network.linear.weight.mul_(3)
    (second,) = log_class_maps(classifier, photos["first"], pictures, 1, NAMES, side=40)
    scale = 20 / first.values[0].numel()
    for (_, picture, _), maps in zip(pictures, (first, second), strict=True):
        assert find_panels(picture, maps, [0, 1, 2], scale, 40)
    assert pictures[0][1].shape == pictures[1][1].shape


def test_maxima_lie_in_few_cells_so_their_scale_is_larger(hand_made_gmp, photos):
    pictures, classifier = Pictures(), inspector.Classifier.wrap(hand_made_gmp, size=8)
    (maps,) = log_class_maps(classifier, photos["first"], pictures, 0, [0], side=40)
    assert find_panels(pictures[0][1], maps, [0], 5.0, 40)


def test_the_head_is_read_anew_at_every_call(classifier, photos):
    with torch.no_grad():
        for parameter in classifier.network.parameters():
            parameter.add_(1)
    (stale,) = inspector.class_maps(classifier, [photos["first"]])
    assert stale.verdict == "not exact"
    (maps,) = log_class_maps(classifier, photos["first"], Pictures(), 0, strict=True)
    assert maps.verdict == "exact"
    torch.testing.assert_close(maps.logits[None], classifier.network(classifier.inputs(maps.view)))
    torch.testing.assert_close(maps.values.sum((1, 2)) + maps.bias, maps.logits)


def test_a_head_of_another_form_is_found_anew(classifier, photos):
    classifier.network.linear = nn.Sequential(nn.LayerNorm(2), classifier.network.linear)
    (maps,) = log_class_maps(classifier, photos["first"], Pictures(), 0, strict=True)
    assert maps.verdict == "exact for this image"


def test_tensorboard_reads_back_pictures_and_numbers(classifier, photos, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    pictures = Pictures()
    with SummaryWriter(str(tmp_path)) as writer:
        for step in (0, 5):
            (maps,) = log_class_maps(classifier, {"a b.jpg": photos["first"]}, writer, step, ["red"], strict=True)
            log_class_maps(classifier, {"a b.jpg": photos["first"]}, pictures, step, ["red"], strict=True)
    log = EventAccumulator(str(tmp_path)).Reload()
    assert log.Tags()["images"] == ["class_maps/a_b.jpg"]
    events = log.Images("class_maps/a_b.jpg")
    assert [event.step for event in events] == [0, 5]
    for event, (_, picture, _) in zip(events, pictures, strict=True):
        np.testing.assert_array_equal(Image.open(io.BytesIO(event.encoded_image_string)), picture)
    (_, logit) = log.Scalars("class_maps/a_b.jpg/logit/red")
    assert (logit.step, logit.value) == (5, pytest.approx(float(maps.logits[0])))
    assert log.Scalars("class_maps/a_b.jpg/probability/red")[1].value == pytest.approx(float(maps.probabilities[0]))
    assert log.Scalars("class_maps/a_b.jpg/residual")[1].value == pytest.approx(maps.residual)


@pytest.mark.parametrize("kind", ["module", "run", "client"])
def test_mlflow_reads_back_pictures_and_numbers(kind, classifier, photos, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    import mlflow

    mlflow.set_tracking_uri((tmp_path / "runs").as_uri())
    client = mlflow.MlflowClient()
    pictures = Pictures()
    with mlflow.start_run() as run:
        writer = {"module": mlflow, "run": run, "client": (client, run.info.run_id)}[kind]
        for step in (1, 2):
            (maps,) = log_class_maps(classifier, {"café.jpg": photos["first"]}, writer, step, ["red"], strict=True)
            log_class_maps(classifier, {"café.jpg": photos["first"]}, pictures, step, ["red"])
    files = [file.path for file in client.list_artifacts(run.info.run_id, "images") if file.path.endswith(".png")]
    steps = {int(path.split("step")[1][1:].split("+")[0]): path for path in files if "class_maps~caf_e9_.jpg" in path}
    assert sorted(steps) == [1, 2]
    with Image.open(client.download_artifacts(run.info.run_id, steps[2], str(tmp_path))) as read:
        np.testing.assert_array_equal(read, pictures[1][1])
    history = client.get_metric_history(run.info.run_id, "class_maps/café.jpg/logit/red")
    assert [(metric.step, metric.value) for metric in history][1] == (2, pytest.approx(float(maps.logits[0])))


def train(network: nn.Module, log: inspector.Classifier | None, image: np.ndarray) -> None:
    """Three steps with dropout, batch normalization, a frozen layer and layers in either mode."""
    torch.manual_seed(1)
    optimizer = torch.optim.Adam([one for one in network.parameters() if one.requires_grad], 0.01)
    for step in range(3):
        inputs, labels = torch.randn(4, 3, 8, 8), torch.randint(2, (4,))
        nn.functional.cross_entropy(network(inputs), labels).backward()
        if log is not None:  # between backward pass and step, inside of autocast: the worst place
            with torch.autocast("cpu", torch.bfloat16):
                maps = log_class_maps(log, image, Pictures(), step, strict=True)
                assert maps[0].logits.dtype == torch.float32
                assert torch.is_autocast_enabled("cpu")
        optimizer.step()
        optimizer.zero_grad()


def test_a_training_with_the_log_has_bit_by_bit_the_same_weights(pixels):
    networks = []
    for with_log in (False, True):
        torch.manual_seed(0)
        network = Mixed()
        train(network, inspector.Classifier.wrap(network, size=8) if with_log else None, pixels)
        networks.append(network)
    plain, logged = networks
    for name, value in plain.state_dict().items():
        assert torch.equal(value, logged.state_dict()[name]), name
    assert [one.training for one in plain.modules()] == [one.training for one in logged.modules()]
    assert [one.requires_grad for one in plain.parameters()] == [one.requires_grad for one in logged.parameters()]


def test_the_network_is_as_it_was_after_a_failure(pixels):
    network = Mixed()
    classifier = inspector.Classifier.wrap(network, size=8)
    modes, gradient = [one.training for one in network.modules()], network.linear.weight.grad
    network.break_it = True
    with pytest.warns(RuntimeWarning, match=r"Class maps are not written, and the training goes on: .*broken on purpo"):
        assert log_class_maps(classifier, pixels, Pictures(), 0) == []
    assert [one.training for one in network.modules()] == modes
    assert network.linear.weight.grad is gradient
    with pytest.raises(NetworkError, match="broken on purpose"):
        log_class_maps(classifier, pixels, Pictures(), 0, strict=True)


def test_the_same_failure_is_one_warning(classifier, photos):
    def fail(tag: str, picture: np.ndarray, step: int) -> None:
        raise OSError(28, "No space left on device")

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for step in range(3):
            assert log_class_maps(classifier, photos, fail, step) == []
    assert [str(one.message).split(": ")[1] for one in caught] == ["OSError, No space left on device"]


def test_a_photo_that_cannot_be_read_does_not_end_the_training(classifier):
    with pytest.warns(RuntimeWarning, match=r"missing\.jpg"):
        assert log_class_maps(classifier, "missing.jpg", Pictures(), 0) == []


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"classifier": nn.Linear(1, 1)}, NetworkError, "A classifier is needed"),
        ({"classes": ["blau"]}, ClassError, "No class 'blau'"),
        ({"classes": 0}, ClassError, "at least one class; got 0"),
        ({"writer": 3}, InspectorError, "or by a function of tag, picture and step; got int"),
        ({"scale": 0.0}, InspectorError, "above 0; got 0"),
        ({"scale": float("nan")}, InspectorError, "above 0; got nan"),
    ],
)
def test_what_is_wrong_at_every_step_is_raised(change, error, message, classifier, photos):
    given = {"classifier": classifier, "photos": photos, "writer": Pictures(), "step": 0} | change
    with pytest.raises(error, match=message):
        log_class_maps(**given)


def test_values_with_a_unit_need_a_scale(hand_made_gap, photos):
    classifier = inspector.Classifier.wrap(hand_made_gap, size=8, probability="none", unit="years")
    with pytest.raises(InspectorError, match=r"no default scale\. Give scale, .* in years"):
        log_class_maps(classifier, photos, Pictures(), 0)
    numbers = {}
    writer = SimpleNamespace(
        add_image=lambda *_, dataformats: None, add_scalar=lambda tag, value, step: numbers.update({tag: value})
    )
    (maps, _) = log_class_maps(classifier, photos, writer, 0, [0], scale=1.0, strict=True)
    assert maps.classifier.unit == "years"
    assert set(numbers) == {
        f"class_maps/{name}/{what}" for name in ("first", "second") for what in ("value/class_0", "residual")
    }


def test_only_the_first_process_writes(classifier, photos, monkeypatch):
    monkeypatch.setattr(module, "is_first", lambda: False)
    pictures = Pictures()
    assert log_class_maps(classifier, photos, pictures, 0) == []
    assert not pictures


def test_a_network_whose_parameters_are_divided_is_refused_and_not_run(classifier, photos):
    class FullyShardedDataParallel(nn.Module):
        pass

    classifier.network.shards = FullyShardedDataParallel()
    with pytest.warns(RuntimeWarning, match="divided among processes"):
        assert log_class_maps(classifier, photos, Pictures(), 0) == []


def test_photos_are_named_by_their_files_or_their_place(pixels, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.fromarray(pixels).save(tmp_path / folder / "1.png")
    assert list(name_photos([tmp_path / "a" / "1.png", str(tmp_path / "b" / "1.png")])) == ["1.png", "1.png 2"]
    assert list(name_photos(torch.randn(2, 3, 8, 8))) == ["photo 1", "photo 2"]
    assert list(name_photos((torch.randn(2, 3, 8, 8), torch.tensor([0, 1])))) == ["photo 1", "photo 2"]
    assert list(name_photos([(torch.randn(3, 8, 8), 1)])) == ["photo 1"]
    assert list(name_photos({"mine": pixels})) == ["mine"]


def test_tags_have_only_characters_that_both_logs_take():
    assert make_tag("class_maps", "a b/c<d>.jpg", "crane, bird") == "class_maps/a_b_c_d_.jpg/crane_bird"
    assert make_tag("x", "///") == "x/_"
