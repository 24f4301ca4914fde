"""Class maps during a training by Keras: `KerasClassMaps`. An import of this module imports Keras, with torch."""

from typing import Any

from inspector.explain.classifier import Classifier, check_classifier
from inspector.networks.keras_model import import_keras
from inspector.training.log_class_maps import LogOptions, check_intervals, log_class_maps, name_photos
from inspector.training.log_writers import find_writer


class KerasClassMaps(import_keras("a Keras model").callbacks.Callback):  # type: ignore[misc]
    """A callback of Keras that writes class maps of photos before the training and after epochs.

    The step of a picture is the number of epochs that were trained.

    Args:
        classifier: made by `Classifier.wrap(wrap_keras(model), ...)` of the model that is trained, or of the part that
            classifies.
        photos: as in `inspector.log_class_maps`; they are read now.
        writer: as in `inspector.log_class_maps`.
        every_n_epochs: number of epochs between two pictures.
        options: other arguments of `inspector.log_class_maps`, such as classes and scale.

    Raises:
        InspectorError: as `inspector.log_class_maps`; or a photo cannot be read.

    Example:
        >>> classifier = inspector.Classifier.wrap(wrap_keras(model), class_names=names, size=224)
        >>> model.fit(images, labels, callbacks=[KerasClassMaps(classifier, ["cat.jpg"], SummaryWriter())])
    """

    def __init__(
        self, classifier: Classifier, photos: Any, writer: Any, every_n_epochs: int = 1, **options: Any
    ) -> None:
        super().__init__()
        check_classifier(classifier)
        check_intervals(every_n_epochs=every_n_epochs)
        LogOptions(**options).check(classifier)
        find_writer(writer)
        self.classifier, self.photos, self.writer, self.options = classifier, name_photos(photos), writer, options
        self.every_n_epochs = every_n_epochs

    def on_train_begin(self, logs: Any = None) -> None:
        """Write the class maps before the first epoch."""
        self._write(0)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Write the class maps after every n-th epoch."""
        if (epoch + 1) % self.every_n_epochs == 0:
            self._write(epoch + 1)

    def _write(self, step: int) -> None:
        log_class_maps(self.classifier, self.photos, self.writer, step, **self.options)
