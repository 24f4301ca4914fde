"""The version of Inspector."""

# Not from the metadata of the installed package: the distribution has another name than this package, and a checkout
# may not be installed at all. pyproject.toml reads the version from here.
__version__ = "0.1.0"
