"""What all sessions share is bounded: what the cache drops is freed."""

import gc
import weakref

from inspector import class_maps
from inspector.images.examples import list_examples
from inspector.ui.state import cache


def test_a_network_that_the_cache_drops_is_freed_although_it_is_frozen() -> None:
    cache.load_network.clear()  # results of other tests may hold the network that is in the cache
    classifier = cache.load_network("fashion_gap")
    maps = class_maps(classifier, list_examples("fashion_mnist")["Bag"])
    network = weakref.ref(classifier.network)
    # Frozen objects in a reference cycle would never be freed: here the garbage collector must not be needed.
    gc.disable()
    try:
        del classifier, maps
        cache.load_network.clear()
        assert network() is None
    finally:
        gc.enable()
