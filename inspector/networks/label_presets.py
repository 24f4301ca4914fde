"""Class names of data sets that many networks are trained on, so that nobody has to find a file of them."""

from inspector.explain.class_names import ClassNames
from inspector.networks.catalog import read_model_card, shipped_models, simplify_name

_CIFAR_10 = "airplane automobile bird cat deer dog frog horse ship truck"
_CIFAR_100 = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale
willow_tree wolf woman worm
"""
_NAMES = {
    "CIFAR-10": _CIFAR_10,
    "CIFAR-100": _CIFAR_100,
    "MNIST": "0 1 2 3 4 5 6 7 8 9",
}
# Data set -> network in models/ that was trained on it.
_NETWORKS = {"ImageNet-1k": "efficientnet_lite0", "Fashion-MNIST": "fashion_gap"}

PRESETS = ("ImageNet-1k", "CIFAR-10", "CIFAR-100", "Fashion-MNIST", "MNIST")


def find_preset(name: str) -> ClassNames | None:
    """Return the class names of a data set in its usual order; None if no preset has this name.

    Args:
        name: one of PRESETS, in any spelling: "imagenet1k", "CIFAR 10".
    """
    preset = next((one for one in PRESETS if simplify_name(one) == simplify_name(name)), None)
    if preset is None:
        return None
    if preset in _NETWORKS:
        names = read_model_card(shipped_models() / _NETWORKS[preset]).classes
    else:
        names = tuple(name.replace("_", " ") for name in _NAMES[preset].split())
    return ClassNames(names, preset)
