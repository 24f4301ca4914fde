"""Make HTML pages from templates. Values are escaped unless they are Markup. This module does not import torch."""

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def render_template(name: str, **values: Any) -> str:
    """Fill in a template from the folder output/templates.

    Args:
        name: file name of the template, as in "report.html".
        values: values of the names in the template; a name without a value is an error.
    """
    return make_environment("inspector.output", "templates").get_template(name).render(values)


@cache
def make_environment(package: str, folder: str) -> Environment:
    """Make the Jinja environment for the templates in a folder of a package."""
    return Environment(
        loader=PackageLoader(package, folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
