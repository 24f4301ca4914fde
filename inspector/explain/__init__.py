"""From a network and an image to exact class maps."""
