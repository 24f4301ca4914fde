"""Class maps during a training by Lightning: `LightningClassMaps`. An import of this module imports Lightning."""

import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from inspector.errors import InspectorError, require
from inspector.explain.classifier import Classifier, check_classifier
from inspector.training.log_class_maps import LogOptions, check_intervals, log_class_maps, name_photos


def _import_lightning() -> Any:
    """Return the package that is imported already, or installed: `lightning` and `pytorch_lightning` are the same."""
    names = ("lightning.pytorch", "pytorch_lightning")
    imported = [name for name in names if name in sys.modules]
    installed = [name for name in names if find_spec(name.split(".")[0]) is not None]
    name = (*imported, *installed, names[-1])[0]
    return require(name, extra="log", purpose="A callback for Lightning")


class LightningClassMaps(_import_lightning().Callback):  # type: ignore[misc]
    """A callback of Lightning that writes class maps of photos before the training and after epochs.

    The step of a picture is that of the trainer, as in Lightning's own logs.

    Args:
        classifier: made by `Classifier.wrap(network, ...)` of the network that is trained, or of the part of the
            LightningModule that classifies.
        photos: as in `inspector.log_class_maps`; they are read now.
        writer: as in `inspector.log_class_maps`. Default: the TensorBoard and MLflow loggers of the trainer.
        every_n_epochs: number of epochs between two pictures.
        every_n_steps: number of steps between two pictures, besides those after epochs. Default: none.
        options: other arguments of `inspector.log_class_maps`, such as classes and scale.

    Raises:
        InspectorError: as `inspector.log_class_maps`; or a photo cannot be read.

    Example:
        >>> classifier = inspector.Classifier.wrap(network, class_names=names, size=224)
        >>> Trainer(callbacks=[LightningClassMaps(classifier, ["cat.jpg"])]).fit(LitNetwork(network), loader)
    """

    def __init__(
        self,
        classifier: Classifier,
        photos: Any,
        writer: Any = None,
        every_n_epochs: int = 1,
        every_n_steps: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        check_classifier(classifier)
        check_intervals(every_n_epochs=every_n_epochs, every_n_steps=every_n_steps)
        LogOptions(**options).check(classifier)
        self.classifier, self.photos, self.writer, self.options = classifier, name_photos(photos), writer, options
        self.every_n_epochs, self.every_n_steps = every_n_epochs, every_n_steps
        self._last_step = -1

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Write the class maps before the first step."""
        self._write(trainer)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *batch: Any) -> None:
        """Write the class maps after every n-th step."""
        if self.every_n_steps and trainer.global_step % self.every_n_steps == 0:
            self._write(trainer)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Write the class maps after every n-th epoch."""
        if (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            self._write(trainer)

    def _write(self, trainer: Any) -> None:
        step = trainer.global_step
        if not trainer.is_global_zero or step == self._last_step:
            return
        self._last_step = step
        writers = [self.writer] if self.writer is not None else _list_writers(trainer.loggers)
        for writer in writers:
            log_class_maps(self.classifier, self.photos, writer, step, **self.options)


def _list_writers(loggers: Sequence[Any]) -> list[Any]:
    """Return what class maps can be written to, of the loggers of a trainer."""
    writers: list[Any] = []
    for logger in loggers:
        experiment = getattr(logger, "experiment", None)
        if hasattr(experiment, "add_image"):
            writers.append(experiment)
        elif hasattr(experiment, "log_image") and hasattr(logger, "run_id"):
            writers.append((experiment, logger.run_id))
    if not writers:
        kinds = ", ".join(type(logger).__name__ for logger in loggers) or "none"
        raise InspectorError(
            f"The trainer has no TensorBoardLogger or MLFlowLogger to write class maps to; its loggers: {kinds}. Give "
            "it one, or the callback a writer."
        )
    return writers
