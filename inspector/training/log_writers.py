"""Where the class maps of a training are written: TensorBoard, MLflow, or a function of one's own."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from inspector.errors import InspectorError, require
from inspector.images.decode import Pixels


@dataclass(frozen=True)
class LogWriter:
    """How pictures and numbers are written; both are called with a tag, what to write, and the step."""

    write_picture: Callable[[str, Pixels, int], Any]  # (H, W, 3)
    write_number: Callable[[str, float, int], Any]


def find_writer(target: Any) -> LogWriter:
    """Find out how to write to what a user has.

    Args:
        target: a SummaryWriter of torch.utils.tensorboard or tensorboardX; the module `mlflow`, for its active run; a
            run of MLflow; a pair (MlflowClient, id of the run); or a function that is called with a tag, a picture
            (H, W, 3) of uint8 and the step. A function gets no numbers.

    Raises:
        InspectorError: it is none of these.
    """
    if hasattr(target, "add_image") and hasattr(target, "add_scalar"):
        return LogWriter(partial(target.add_image, dataformats="HWC"), target.add_scalar)
    if hasattr(target, "log_image") and hasattr(target, "log_metric") and hasattr(target, "active_run"):
        return LogWriter(
            lambda tag, pixels, step: target.log_image(pixels, key=_spell_in_ascii(tag), step=step),
            lambda tag, value, step: target.log_metric(tag, value, step=step),
        )
    if (run_id := getattr(getattr(target, "info", None), "run_id", None)) is not None:
        mlflow = require("mlflow", extra="log", purpose="A run of MLflow")
        target = (mlflow.MlflowClient(), run_id)
    if isinstance(target, tuple) and len(target) == 2 and hasattr(target[0], "log_image"):
        client, run_id = target
        return LogWriter(
            lambda tag, pixels, step: client.log_image(run_id, pixels, key=_spell_in_ascii(tag), step=step),
            lambda tag, value, step: client.log_metric(run_id, tag, value, step=step),
        )
    if callable(target) and not isinstance(target, type):
        return LogWriter(target, lambda tag, value, step: None)
    raise InspectorError(
        "Class maps are written to a SummaryWriter of TensorBoard, to mlflow, a run of it or (MlflowClient, run id), "
        f"or by a function of tag, picture and step; got {type(target).__name__}."
    )


def make_tag(*parts: str) -> str:
    """Join texts to a tag with the characters that TensorBoard and MLflow both take; other ones become "_"."""
    return "/".join(re.sub(r"[^\w.\-]+", "_", part).strip("_.") or "_" for part in parts)


def _spell_in_ascii(tag: str) -> str:
    """Return a tag in the characters that MLflow takes for a picture: the others become their code points."""
    return re.sub(r"[^\x00-\x7f]", lambda found: f"_{ord(found[0]):x}_", tag)
