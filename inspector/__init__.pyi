from .anatomy import Anatomy, describe
from .backends import accelerate
from .classifier import Classifier
from .errors import ClassError, ExportError, HeadError, ImageError, InspectorError, NetworkError
from .figure import FigureStyle
from .head import Head
from .images.photo import Photo, Preprocessing, View, read_image
from .loading import load
from .maps import ClassMap, ClassMaps, class_maps, class_maps_of_batch
from .pooling import (
    GlobalAveragePooling,
    GlobalDepthPooling,
    GlobalMaxPooling,
    global_average,
    global_depth,
    global_max,
)
from .receptive_field import ReceptiveField
from .tiles import LargeMaps, large_class_maps

__all__ = [
    "Anatomy",
    "ClassError",
    "ClassMap",
    "ClassMaps",
    "Classifier",
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
    "NetworkError",
    "Photo",
    "Preprocessing",
    "ReceptiveField",
    "View",
    "accelerate",
    "class_maps",
    "class_maps_of_batch",
    "describe",
    "global_average",
    "global_depth",
    "global_max",
    "large_class_maps",
    "load",
    "read_image",
]
