"""Find, build and load networks, and make classifiers of them."""
