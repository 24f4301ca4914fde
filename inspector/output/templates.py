"""HTML pages from the templates beside this module; values are escaped unless they are Markup. Imports no torch."""

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def render_template(name: str, **values: Any) -> str:
    """Fill in a template of output/templates.

    Args:
        name: file name of the template, as in "report.html".
        values: what the template asks for; a name that it uses and does not get is an error.
    """
    return make_environment("inspector.output", "templates").get_template(name).render(values)


@cache
def make_environment(package: str, folder: str) -> Environment:
    """Make the environment of the templates in a folder of a package."""
    return Environment(
        loader=PackageLoader(package, folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
