"""Exact class maps of image classifiers that end in global pooling.

>>> import inspector
>>> classifier = inspector.load("efficientnet_lite0")
>>> maps = inspector.class_maps(classifier, "photo.jpg")
>>> maps.top(5), maps.verdict, maps.residual

The file __init__.pyi lists the public names.
"""

import lazy_loader

from inspector.version import __version__ as __version__

# Import each name on first use: torch takes seconds to import, and `inspector --help` and the app's first page do
# not need it.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
