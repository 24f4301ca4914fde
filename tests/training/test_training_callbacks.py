"""The callbacks of Lightning and Keras, in real trainings of tiny networks."""

import pkgutil
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import inspector
from inspector.errors import ClassError, ImageError, InspectorError
from inspector.networks.keras_model import import_keras, wrap_keras

# Lightning's own: torch is newer, the data loader has one process, and there are fewer steps than it logs.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*LeafSpec:FutureWarning", "ignore:.*does not have many workers:UserWarning"
)
QUIET = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}


@pytest.fixture(scope="module")
def lightning() -> ModuleType:
    """Lightning, whose import takes seconds: not when tests are collected."""
    import pytorch_lightning

    return pytorch_lightning


def build() -> nn.Module:
    torch.manual_seed(0)
    body = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5)
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))


def fit(lightning: ModuleType, network: nn.Module, callbacks: list, loggers: object) -> None:
    class Lit(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def training_step(self, batch: list[torch.Tensor], number: int) -> torch.Tensor:
            return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), 0.01)

    torch.manual_seed(1)
    data = TensorDataset(torch.randn(8, 3, 8, 8), torch.randint(2, (8,)))
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", logger=loggers, callbacks=callbacks, log_every_n_steps=1, **QUIET
    )
    trainer.fit(Lit(), DataLoader(data, 4, shuffle=True))


def test_lightning_writes_to_its_tensorboard_and_mlflow_and_trains_the_same(lightning, pixels, tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from inspector.training.lightning_callback import LightningClassMaps

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    plain, logged = build(), build()
    fit(lightning, plain, [], False)
    classifier = inspector.Classifier.wrap(logged, size=8)
    board = lightning.loggers.TensorBoardLogger(str(tmp_path), name="board", version=0)
    runs = lightning.loggers.MLFlowLogger(tracking_uri=(tmp_path / "runs").as_uri())
    callback = LightningClassMaps(classifier, {"photo": pixels}, every_n_steps=3, classes=1, side=40, strict=True)
    fit(lightning, logged, [callback], [board, runs])
    for name, value in plain.state_dict().items():
        assert torch.equal(value, logged.state_dict()[name]), name
    log = EventAccumulator(str(tmp_path / "board" / "version_0")).Reload()
    # Before the training, after both epochs of two steps, and after the third step.
    assert [event.step for event in log.Images("class_maps/photo")] == [0, 2, 3, 4]
    files = [file.path for file in runs.experiment.list_artifacts(runs.run_id, "images")]
    assert sum(path.endswith(".png") for path in files) == 4


def test_lightning_without_a_log_says_what_it_needs(lightning, pixels, tmp_path):
    from inspector.training.lightning_callback import LightningClassMaps

    callback = LightningClassMaps(inspector.Classifier.wrap(build(), size=8), pixels)
    with pytest.raises(InspectorError, match=r"no TensorBoardLogger or MLFlowLogger .* its loggers: CSVLogger"):
        fit(lightning, build(), [callback], lightning.loggers.CSVLogger(str(tmp_path)))


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of Keras with NumPy 2
def test_keras_writes_after_epochs_and_trains_the_same(pixels):
    from inspector.training.keras_callback import KerasClassMaps

    keras = import_keras("a test")
    images, labels = np.random.default_rng(0).random((8, 8, 8, 3), np.float32), np.arange(8) % 2
    weights, steps = [], []
    for with_log in (False, True):
        keras.utils.set_random_seed(0)
        layers = keras.layers
        model = keras.Sequential(
            [
                keras.Input((8, 8, 3)),
                *(layers.Conv2D(4, 3), layers.BatchNormalization(), layers.ReLU(), layers.Dropout(0.5)),
                *(layers.GlobalAveragePooling2D(), layers.Dense(2)),
            ]
        )
        model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        callbacks = []
        if with_log:
            classifier = inspector.Classifier.wrap(wrap_keras(model), size=8, mean=(0.0,) * 3, std=(1.0,) * 3)
            options = {"every_n_epochs": 2, "classes": 1, "strict": True}
            callbacks = [KerasClassMaps(classifier, pixels, lambda *call: steps.append(call[2]), **options)]
        model.fit(images, labels, batch_size=4, epochs=4, verbose=0, callbacks=callbacks)
        weights.append([np.array(one) for one in model.get_weights()])
    assert steps == [0, 2, 4]
    for plain, logged in zip(*weights, strict=True):
        np.testing.assert_array_equal(plain, logged)


@pytest.mark.parametrize("name", ["lightning_callback.LightningClassMaps", "keras_callback.KerasClassMaps"])
def test_a_callback_tells_mistakes_before_the_training(name, pixels):
    callback = pkgutil.resolve_name(f"inspector.training.{name.replace('.', ':')}")
    classifier = inspector.Classifier.wrap(build(), size=8)
    with pytest.raises(ClassError, match="No class 'x'"):
        callback(classifier, pixels, print, classes=["x"])
    with pytest.raises(ImageError, match=r"missing\.jpg"):
        callback(classifier, "missing.jpg", print)
    with pytest.raises(InspectorError, match="every_n_epochs is a number of 1 or more; got 0"):
        callback(classifier, pixels, print, every_n_epochs=0)
