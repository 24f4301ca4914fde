from .analysis.location import Location, locate_class
from .analysis.summary import Anatomy, NetworkSummary, describe
from .datasets.concepts.find import concepts
from .datasets.concepts.model import ConceptOptions, Concepts
from .datasets.run import RunOptions, run_dataset
from .datasets.summarize import summarize
from .datasets.summary import DatasetSummary, read_summary
from .datasets.table import Counts, read_rows
from .errors import (
    AttributionError,
    Cancelled,
    ClassError,
    ExportError,
    HeadError,
    ImageError,
    InspectorError,
    LocalizationError,
    NetworkError,
    PlaceError,
    TrainingError,
)
from .explain.backends.accelerate import accelerate
from .explain.class_maps import ClassMap, ClassMaps, class_maps, class_maps_of_batch
from .explain.classifier import Classifier
from .explain.head import Head
from .explain.large_class_maps import LargeMaps, large_class_maps
from .explain.pooling import (
    GlobalAveragePooling,
    GlobalDepthPooling,
    GlobalMaxPooling,
    global_average,
    global_depth,
    global_max,
)
from .explain.receptive_field import ReceptiveField
from .images.photo import Photo, read_image
from .images.preprocessing import Preprocessing, View
from .networks.load import load
from .output.publish.site import publish
from .output.style import FigureStyle
from .training.log_class_maps import log_class_maps
from .version import __version__ as __version__

__all__ = [
    "Anatomy",
    "AttributionError",
    "Cancelled",
    "ClassError",
    "ClassMap",
    "ClassMaps",
    "Classifier",
    "ConceptOptions",
    "Concepts",
    "Counts",
    "DatasetSummary",
    "ExportError",
    "FigureStyle",
    "GlobalAveragePooling",
    "GlobalDepthPooling",
    "GlobalMaxPooling",
    "Head",
    "HeadError",
    "ImageError",
    "InspectorError",
    "LargeMaps",
    "LocalizationError",
    "Location",
    "NetworkError",
    "NetworkSummary",
    "Photo",
    "PlaceError",
    "Preprocessing",
    "ReceptiveField",
    "RunOptions",
    "TrainingError",
    "View",
    "accelerate",
    "class_maps",
    "class_maps_of_batch",
    "concepts",
    "describe",
    "global_average",
    "global_depth",
    "global_max",
    "large_class_maps",
    "load",
    "locate_class",
    "log_class_maps",
    "publish",
    "read_image",
    "read_rows",
    "read_summary",
    "run_dataset",
    "summarize",
]
