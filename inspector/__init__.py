"""Exact class maps of image classifiers that end in global pooling.

>>> import inspector
>>> classifier = inspector.load("efficientnet_lite0")
>>> maps = inspector.class_maps(classifier, "photo.jpg")
>>> maps.top(5), maps.verdict, maps.residual

The public names stand in __init__.pyi.
"""

import lazy_loader

# On first use: torch takes seconds to import, and `inspector --help` or the app's first paint need none of it.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
