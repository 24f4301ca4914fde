"""Write a matplotlib figure as PNG, PDF or SVG: quickly, and the same bytes for equal figures. Imports no torch."""

import io
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, BinaryIO, Literal

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from inspector.images.decode import Pixels
from inspector.output.picture import encode_png
from inspector.output.style import DEFAULT_STYLE

Format = Literal["png", "pdf", "svg"]
FORMATS: tuple[Format, ...] = ("png", "pdf", "svg")

# Write text as text, not as outlines; no random ids and dates, so that equal figures give equal bytes.
_RC: Any = {"svg.fonttype": "none", "pdf.fonttype": 42, "svg.hashsalt": "inspector"}
# So that `set_layout_engine(None)` leaves none, and the figure is not cut, whatever the settings of a notebook are.
_RC |= {"figure.autolayout": False, "figure.constrained_layout.use": False, "savefig.bbox": "standard"}
_NO_DATE: dict[Format, dict[str, None]] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}
_SOFTWARE = f"Software\0Matplotlib version {matplotlib.__version__}, https://matplotlib.org/"
# Tables of a font that arrange its glyphs. In a PDF each glyph has its place; to subset these tables takes most of the
# time of subsetting a font.
_LAYOUT_TABLES = ("GDEF", "GPOS", "GSUB", "MATH", "kern")
_lock = threading.Lock()  # matplotlib's settings are global, so only one thread at a time may change them


class InlineFigure(Figure):
    """A figure that notebooks show, though it does not belong to pyplot."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()


def encode_figure(figure: Figure, format: Format, dpi: int = DEFAULT_STYLE.dpi) -> bytes:
    """Return a figure as the bytes of a file. `dpi` is the resolution of a PNG, and of the photos in PDF and SVG."""
    with _lock, matplotlib.rc_context(_RC), _lay_out(figure, dpi):
        if format == "png":
            dots = round(dpi / 0.0254)  # per meter
            chunks = {b"pHYs": struct.pack(">IIB", dots, dots, 1), b"tEXt": _SOFTWARE.encode("latin-1")}
            return encode_png(_draw(figure, dpi), chunks)
        buffer = io.BytesIO()
        with _write_vectors_quickly(format):
            figure.savefig(buffer, format=format, dpi=dpi, metadata=_NO_DATE[format])
        return buffer.getvalue()


@contextmanager
def _lay_out(figure: Figure, dpi: int) -> Iterator[None]:
    """Place the axes of a figure once, for `dpi`; inside the block they stay. With a layout, savefig draws twice."""
    engine, usual_dpi = figure.get_layout_engine(), figure.get_dpi()
    if engine is None:
        yield
        return
    figure.set_dpi(dpi)
    engine.execute(figure)
    figure.set_layout_engine(None)
    try:
        yield
    finally:
        figure.set_layout_engine(engine)
        figure.set_dpi(usual_dpi)


def _draw(figure: Figure, dpi: int) -> Pixels:
    """Return the pixels of a figure: RGB (H, W, 3), or RGBA (H, W, 4) if it is transparent anywhere."""
    buffer, usual_dpi = io.BytesIO(), figure.get_dpi()
    figure.set_dpi(dpi)
    try:
        figure.savefig(buffer, format="raw", dpi=dpi)
        # As matplotlib rounds it: 4.6 inches at 200 dpi are 920 pixels, but 4.6 * 200 is less.
        width, height = figure.canvas.get_width_height()
    finally:
        figure.set_dpi(usual_dpi)
    return _drop_opaque_alpha(np.frombuffer(buffer.getvalue(), np.uint8).reshape(height, width, 4))


def _drop_opaque_alpha(pixels: Pixels) -> Pixels:
    return pixels[..., :3] if pixels.shape[2] == 4 and (pixels[..., 3] == 255).all() else pixels


@contextmanager
def _write_vectors_quickly(format: Format) -> Iterator[None]:
    """Let matplotlib encode the images in a PDF or SVG file quickly, and embed fonts in a PDF without what is not used.

    matplotlib has no settings for either, and takes twice as long. In this thread, inside the block, the functions of
    other libraries are replaced by which it makes images and opens fonts.
    """
    with ExitStack() as stack:
        stack.enter_context(_replace_in_thread(Image, "fromarray", _make_quick_image))
        if format == "pdf":
            from fontTools import subset  # matplotlib imports it with its backend for PDF

            stack.enter_context(_replace_in_thread(subset, "load_font", _load_font_without_layout))
        yield


@contextmanager
def _replace_in_thread(owner: Any, name: str, replacement: Callable[..., Any]) -> Iterator[None]:
    """Replace a function inside the block; other threads get the original. The replacement's first argument is that."""
    original, thread = getattr(owner, name), threading.get_ident()

    def call(*args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() == thread:
            return replacement(original, *args, **kwargs)
        return original(*args, **kwargs)

    setattr(owner, name, call)
    try:
        yield
    finally:
        setattr(owner, name, original)


def _make_quick_image(make: Callable[[NDArray[Any]], Image.Image], pixels: NDArray[Any]) -> Image.Image:
    """Make an image of Pillow. If it has colors, its `save` writes a PNG in a seventh of the time."""

    def save(file: BinaryIO, format: str) -> None:
        file.write(encode_png(_drop_opaque_alpha(pixels)))

    image = make(pixels)
    if image.mode in ("RGB", "RGBA"):
        image.save = save  # type: ignore[assignment, method-assign]
    return image


def _load_font_without_layout(load: Callable[..., Any], *args: Any) -> Any:
    font = load(*args)
    for table in _LAYOUT_TABLES:
        if table in font:
            del font[table]
    return font
