"""Pictures for the browser: encoded once, small, and laid out in HTML that wraps from narrow to wide windows."""

import base64
from collections.abc import Iterable, Iterator
from html import escape
from typing import TYPE_CHECKING

import cv2

from inspector.image import Pixels

if TYPE_CHECKING:
    from inspector.maps import ClassMap, ClassMaps


def encoded(pixels: Pixels, exact: bool) -> bytes:
    """A PNG where every pixel counts (maps, tiny images), else a JPEG, which is ten times as quick to make."""
    suffix, settings = (".png", [cv2.IMWRITE_PNG_COMPRESSION, 1]) if exact else (".jpg", [cv2.IMWRITE_JPEG_QUALITY, 92])
    _, data = cv2.imencode(suffix, pixels[..., ::-1], settings)
    return data.tobytes()


def _data_url(image: bytes) -> str:
    kind = "png" if image.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


def overlays_of(
    maps: "ClassMaps", read: "Iterable[ClassMap]", side: int, scale: float, smooth: bool, opacity: float
) -> Iterator[bytes]:
    """Class maps over the whole photo, its longer side `side` pixels, as encoded images."""
    from inspector.render import backdrop, overlay, spread

    assert maps.view is not None, "the app shows photos only"
    canvas = backdrop(maps.view, side)
    exact = max(maps.view.photo.size) < 100
    for class_map in read:
        drawn = spread(class_map.values, maps.view, maps.classifier.receptive_field, canvas.shape[:2], smooth)
        yield encoded(overlay(canvas, drawn, scale, opacity), exact)


def colour_bar(scale: float, unit: str) -> str:
    """The colour bar under a map, its middle at zero."""
    from inspector.render import diverging_colours

    stops = ", ".join(f"rgb({r}, {g}, {b})" for r, g, b in diverging_colours()[::42])
    ticks = "".join(f"<span>{_signed(tick * scale)}</span>" for tick in (-1, -0.5, 0, 0.5, 1))
    return f"""
    <div role="img" aria-label="colour bar from {-scale:.3g} to {scale:.3g} {escape(unit)}" style="max-width: 46rem">
      <div style="height: .7rem; border-radius: .2rem; background: linear-gradient(to right, {stops})"></div>
      <div style="display: flex; justify-content: space-between; font-size: .8rem; opacity: .85">{ticks}</div>
      <div style="font-size: .8rem; opacity: .7">{escape(unit)}: red speaks for, blue against</div>
    </div>"""


def _signed(value: float) -> str:
    return _minus(f"{value:+.3g}") if value else "0"


def _minus(number: str) -> str:
    return number.replace("-", "\N{MINUS SIGN}")


def row_of_overlays(maps: "ClassMaps", read: "dict[int, ClassMap]", scale: float, smooth: bool, opacity: float) -> str:
    """Several class maps over the photo on one scale, with what they add up to."""
    tiles = []
    images = overlays_of(maps, read.values(), 360, scale, smooth, opacity)
    for (k, class_map), image in zip(read.items(), images, strict=True):
        name = escape(maps.classifier.class_names[k])
        tiles.append(_tile(image, name, f"<b>{name}</b> {maps.probabilities[k]:.1%}", class_map.equation()))
    return _grid(tiles, "10rem")


def all_class_maps(maps: "ClassMaps") -> str:
    """Every class map before pooling as its raw grid, with its pooled value, the winner marked."""
    from inspector.render import common_scale, flat

    dense = maps.classifier.head.scores_positions
    values = (maps.position_scores() if dense else maps.values).numpy(force=True)
    scale = common_scale([values])
    winner = int(maps.logits.argmax())
    tiles = []
    for k, name in enumerate(map(escape, maps.classifier.class_names)):
        image = encoded(flat(values[k], scale), exact=True)
        border = "3px solid #c81428" if k == winner else "1px solid rgba(128, 128, 128, .5)"
        caption = f"<b>{name}</b> (winner)" if k == winner else name
        pooled = _minus(f"pooled {maps.logits[k]:.3f}")
        tiles.append(_tile(image, name, caption, pooled, f"image-rendering: pixelated; border: {border}"))
    return f'{_grid(tiles, "7.5rem")}<div style="margin-top: 1rem">{colour_bar(scale, "logits a position")}</div>'


def _tile(image: bytes, name: str, caption: str, line: str, style: str = "") -> str:
    """A small class map with its caption; the texts are HTML."""
    return (
        '<figure style="margin: 0">'
        f'<img src="{_data_url(image)}" alt="class map of {name}" style="width: 100%; {style}">'
        f'<figcaption style="font-size: .85rem; line-height: 1.3">{caption}<br>'
        f'<span style="opacity: .7">{line}</span></figcaption></figure>'
    )


def _grid(tiles: list[str], narrowest: str) -> str:
    columns = f"repeat(auto-fill, minmax({narrowest}, 1fr))"
    return f'<div style="display: grid; gap: .8rem; grid-template-columns: {columns}">{"".join(tiles)}</div>'
