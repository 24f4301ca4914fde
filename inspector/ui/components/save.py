"""The menu "Save" of a picture: PNG at twice its size, SVG, and the lines of Python that make it."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import streamlit as st

from inspector.output.picture import Picture
from inspector.ui.components.markdown import plain
from inspector.ui.state.cache import PRIVATE

if TYPE_CHECKING:
    from inspector.explain.class_maps import ClassMaps
    from inspector.ui.state.cache import MapsKey

_NO_FILE_NAME = re.compile(r"[^\w.-]+")  # a file name has letters, digits, "_", "." and "-" only


@dataclass(frozen=True, eq=False)
class PictureToSave:
    """A picture on the page, and how it is made again."""

    name: str  # in the menu and, with "-" for what no file name has, of the files
    draw: Callable[[], Picture]  # called only when a file is asked for
    python: str  # the lines that make the picture


def show_save_menu(pictures: Sequence[PictureToSave], key: str, label: str = "Save") -> None:
    """Show a menu that saves a picture of the page. Nothing is drawn before the user asks for a file.

    Args:
        pictures: the pictures, at least one. With several, the menu has a choice among them.
        key: beginning of the keys of the widgets.
        label: text on the button.
    """
    with st.popover(label, icon=":material/download:", type="tertiary", help="PNG at twice the size, SVG, or Python"):
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


def _make_file(picture: PictureToSave, format: Literal["png", "svg"]) -> Callable[[], bytes]:
    def make() -> bytes:
        # Imported here, because matplotlib takes a second to import.
        from inspector.output.picture_figure import encode_picture

        return encode_picture(picture.draw(), format)

    return make


def write_maps_lines(key: "MapsKey", maps: "ClassMaps") -> list[str]:
    """Return the lines of Python that compute the class maps of the page as `maps`.

    Args:
        key: key of the class maps in the caches.
        maps: the class maps, whose input size the lines name if it is not that of training.
    """
    network, _, photo, scale = key
    name, note = (
        (maps.classifier.name, "  # the network that you loaded") if network.startswith(PRIVATE) else (network, "")
    )
    height, width = maps.view.crop.input_size
    size = "" if scale == 1 else ', size="native"' if scale is None else f", size=({height}, {width})"
    return [
        "from inspector import class_maps, load",
        "",
        f"classifier = load({name!r}){note}",
        f"maps = class_maps(classifier, {photo!r}{size})",
    ]
