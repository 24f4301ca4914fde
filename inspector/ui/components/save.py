"""The menu "Save" of all pages: PNG at twice the size on the screen, SVG, and the lines of Python for the same."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import streamlit as st

from inspector.output.picture import Picture
from inspector.ui.components.markdown import plain
from inspector.ui.state.cache import PRIVATE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from inspector.explain.class_maps import ClassMaps
    from inspector.explain.map_arrays import MapArrays
    from inspector.ui.state.cache import MapsKey

Chart: TypeAlias = dict[str, Any]  # a specification of Vega-Lite

_NO_FILE_NAME = re.compile(r"[^\w.-]+")  # a file name has letters, digits, "_", "." and "-" only


@dataclass(frozen=True, eq=False)
class PictureToSave:
    """A picture, figure or chart on the page, and how it is made again."""

    name: str  # in the menu and, with "-" for what no file name has, of the files
    draw: "Callable[[], Picture | Figure | Chart]"  # called only when a file is asked for
    python: str  # the lines that make the picture


def show_save_menu(pictures: Sequence[PictureToSave], key: str, label: str = "Save") -> None:
    """Show a menu that saves a picture of the page. Nothing is drawn before the user asks for a file.

    Args:
        pictures: the pictures, at least one. With several, the menu has a choice among them.
        key: beginning of the keys of the widgets.
        label: text on the button.
    """
    help = "PNG at twice the size, SVG, or Python"
    with st.popover(label, icon=":material/download:", type="tertiary", help=help, key=f"{key} menu"):
        by_name = {picture.name: picture for picture in pictures}
        names = list(by_name)
        name = st.selectbox("Picture", names, key=f"{key} picture") if len(names) > 1 else names[0]
        picture = by_name[name]
        with st.container(horizontal=True, gap="small"):
            for format in ("png", "svg"):
                file = f"{_NO_FILE_NAME.sub('-', name).strip('-.') or 'picture'}.{format}"
                st.download_button(
                    plain(format.upper()), _make_file(picture, format), file, key=f"{key} {format}", on_click="ignore"
                )
        st.caption("The same in Python:")
        st.code(picture.python, language="python", wrap_lines=True)


def show_python(python: str, key: str) -> None:
    """Show a menu with the lines of Python that make what the page shows; a button there copies them."""
    with st.popover("Copy as Python", icon=":material/code:", type="tertiary", key=key):
        st.code(python, language="python", wrap_lines=True)


def _make_file(picture: PictureToSave, format: Literal["png", "svg"]) -> Callable[[], bytes]:
    def make() -> bytes:
        return encode_drawing(picture.draw(), format)

    return make


def encode_drawing(drawn: "Picture | Figure | Chart", format: Literal["png", "svg"]) -> bytes:
    """Return a picture, a figure or a chart as the bytes of a file. A PNG has twice the size on the screen."""
    # Imported here, because matplotlib takes a second to import.
    if isinstance(drawn, Picture):
        from inspector.output.picture_figure import encode_picture

        return encode_picture(drawn, format)
    if isinstance(drawn, dict):
        from inspector.ui.components.charts import encode_chart

        return encode_chart(drawn, format)
    from inspector.output.figure_file import encode_figure

    return encode_figure(drawn, format)


def write_maps_lines(key: "MapsKey", maps: "ClassMaps | MapArrays", finer: int = 1) -> list[str]:
    """Return the lines of Python that compute the class maps of the page as `maps`.

    Args:
        key: key of the class maps in the caches.
        maps: the class maps, whose input size the lines name if it is not that of training.
        finer: how many times finer than the network's own grid they are.
    """
    grid = "" if finer == 1 else f", finer={finer}"
    note = "  # the network that you loaded" if key[0].startswith(PRIVATE) else ""
    return [
        "from inspector import class_maps, load",
        "",
        f"classifier = load({find_name(key, maps)!r}){note}",
        f"maps = class_maps(classifier, {write_photo(key, maps)}{grid})",
    ]


def find_name(key: "MapsKey", maps: "ClassMaps | MapArrays") -> str:
    """Return the name or the path that loads the network of class maps in Python."""
    network = key[0]
    return maps.classifier.name if network.startswith(PRIVATE) else network


def write_photo(key: "MapsKey", maps: "ClassMaps | MapArrays") -> str:
    """Return the photo of class maps and its input size as arguments of `class_maps`."""
    _, _, photo, scale = key
    height, width = maps.view.crop.input_size
    if isinstance(scale, str):
        return f"{photo!r}, size={scale!r}"
    return repr(photo) if scale == 1 else f"{photo!r}, size=({height}, {width})"


def write_class(maps: "ClassMaps | MapArrays", k: int | str | None) -> str:
    """Return a class as it is written in Python: by its name, or by its index if several classes have that name.

    Args:
        maps: the class maps.
        k: index of the class; or "average", or None, which are written as they are.
    """
    if k is None or isinstance(k, str):
        return repr(k)
    names = maps.classifier.class_names
    return repr(names[k]) if names.count(names[k]) == 1 else str(k)
