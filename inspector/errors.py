"""Our own errors: one sentence each, that says what was wrong, what was got and what would do."""


class InspectorError(Exception):
    """The base of every error that a user can cause and mend."""


def summarize_reason(error: Exception) -> str:
    """What an error of another library says, in one line, to be part of a sentence of ours."""
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__


class ImageError(InspectorError):
    """The image cannot be read, or not safely."""


class NetworkError(InspectorError):
    """The network cannot be found, loaded or run."""


class HeadError(InspectorError):
    """No pooled map of positions reaches the logits of the network, or more than it does."""


class ClassError(InspectorError):
    """No class has this name or number, or several might be meant."""


class TrainingError(InspectorError):
    """The experiment cannot be read, run or compared."""


class LocalizationError(InspectorError):
    """Where the objects of photos are cannot be read, or does not fit the photos."""


class ExportError(InspectorError):
    """The files cannot be written where they were asked for."""


class AttributionError(InspectorError):
    """The method of attribution does not exist, or does not apply to the network."""


class Cancelled(InspectorError):
    """What was under way was stopped, as asked."""
