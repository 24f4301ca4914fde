"""Pictures for the browser: encoded once, small, and laid out in HTML that wraps from narrow to wide windows."""

import base64
import re
from collections.abc import Iterable, Iterator, Mapping
from html import escape
from typing import TYPE_CHECKING, Any

import cv2

from inspector.images.photo import Pixels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from inspector.analysis.positions import Winners
    from inspector.explain.class_maps import ClassMap, ClassMaps

_SIDE = 480  # pixels of the longer side of a tile
# Okabe and Ito's, which colour-blind readers tell apart; grey for all classes beyond the first seven.
_WINNERS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#8C8C8C")


def encode_image(pixels: Pixels, exact: bool) -> bytes:
    """A PNG where every pixel counts (maps, tiny images), else a JPEG, which is ten times as quick to make."""
    suffix, settings = (".png", [cv2.IMWRITE_PNG_COMPRESSION, 1]) if exact else (".jpg", [cv2.IMWRITE_JPEG_QUALITY, 92])
    _, data = cv2.imencode(suffix, cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), settings)
    return data.tobytes()


def make_data_url(image: bytes) -> str:
    kind = "png" if image.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


def draw_overlays(
    maps: "ClassMaps", read: "Iterable[ClassMap]", side: int, scale: float, smooth: bool, opacity: float
) -> Iterator[bytes]:
    """Class maps over the whole photo, its longer side `side` pixels, as encoded images."""
    from inspector.output.overlay import dimmed_photo, draw_map_on_photo, needs_lossless

    assert maps.view is not None, "the app shows photos only"
    photo, crop, field = maps.view.photo, maps.view.crop, maps.classifier.receptive_field
    canvas = dimmed_photo(photo, crop, side)
    for class_map in read:
        image = draw_map_on_photo(canvas, crop, class_map.values, field, scale, smooth, opacity)
        yield encode_image(image, needs_lossless(photo.size))


def draw_winning_classes(maps: "ClassMaps", winners: "Winners", side: int, opacity: float) -> bytes:
    """The photo, its longer side `side` pixels, with every cell in the colour of the class that wins there."""
    from inspector.explain.grid import resample_on_photo
    from inspector.output.overlay import dimmed_photo, needs_lossless, paint_classes

    assert maps.view is not None, "the app shows photos only"
    photo, crop = maps.view.photo, maps.view.crop
    canvas, grid = dimmed_photo(photo, crop, side), winners.grid.numpy(force=True)
    colour_of = {k: min(i, len(_WINNERS) - 1) for i, k in enumerate(winners.classes)}
    # From 1 on: 0 is outside what the network saw.
    numbers = [[1 + colour_of.get(int(k), -1) for k in row] for row in grid]
    drawn = resample_on_photo(numbers, crop, maps.classifier.receptive_field, canvas.shape[:2], smooth=False)
    colours = [[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in _WINNERS]
    # Every cell is painted, and the photo is to be seen all the same.
    image = paint_classes(canvas, drawn.round().astype(int) - 1, colours, 0.6 * opacity)
    return encode_image(image, needs_lossless(photo.size))


def winners_legend(maps: "ClassMaps", winners: "Winners") -> str:
    """The classes that win somewhere, in their colours, with the number of positions; the last colour is the rest's."""
    own, rest = winners.classes[: len(_WINNERS) - 1], winners.classes[len(_WINNERS) - 1 :]
    places = {k: int((winners.grid == k).sum()) for k in winners.classes}
    names = [(escape(maps.classifier.class_names[k]), places[k]) for k in own]
    if rest:
        names.append((f"{len(rest)} other classes" if len(rest) > 1 else "1 other class", sum(places[k] for k in rest)))
    entries = "".join(
        f'<span style="white-space: nowrap"><span style="display: inline-block; width: .8rem; height: .8rem; '
        f"border-radius: .2rem; vertical-align: -.08rem; margin-right: .35rem; border: 1px solid rgba(128, 128, 128, "
        f'.6); background: {colour}"></span>{name} <span style="opacity: .7">{count}</span></span>'
        for (name, count), colour in zip(names, [*_WINNERS[: len(own)], _WINNERS[-1]], strict=False)
    )
    return (
        '<div role="list" aria-label="classes that win somewhere" style="display: flex; flex-wrap: wrap; '
        f'gap: .2rem 1.1rem; font-size: .9rem; max-width: 56rem">{entries}</div>'
    )


def colour_bar(scale: float, unit: str) -> str:
    """The colour bar under a map, its middle at zero."""
    from inspector.output.style import diverging_colormap

    stops = ", ".join(f"rgb({r}, {g}, {b})" for r, g, b in diverging_colormap()[::42])
    ticks = "".join(f"<span>{_signed(tick * scale)}</span>" for tick in (-1, -0.5, 0, 0.5, 1))
    return f"""
    <div role="img" aria-label="colour bar from {-scale:.3g} to {scale:.3g} {escape(unit)}" style="max-width: 46rem">
      <div style="height: .7rem; border-radius: .2rem; background: linear-gradient(to right, {stops})"></div>
      <div style="display: flex; justify-content: space-between; font-size: .8rem; opacity: .85">{ticks}</div>
      <div style="font-size: .8rem; opacity: .7">{escape(unit)}: red speaks for, blue against</div>
    </div>"""


def _signed(value: float) -> str:
    return true_minus(f"{value:+.3g}") if value else "0"


def true_minus(number: str) -> str:
    return number.replace("-", "\N{MINUS SIGN}")


def draw_all_class_maps(maps: "ClassMaps") -> str:
    """Every class map before pooling as its raw grid, with its pooled value, the winner marked."""
    from inspector.output.overlay import common_scale, grid_image

    dense = maps.classifier.head.has_position_scores
    values = (maps.position_scores() if dense else maps.values).numpy(force=True)
    scale = common_scale([values])
    winner = int(maps.logits.argmax())
    tiles = []
    for k, name in enumerate(map(escape, maps.classifier.class_names)):
        image = encode_image(grid_image(values[k], scale), exact=True)
        border = "3px solid #c81428" if k == winner else "1px solid rgba(128, 128, 128, .5)"
        caption = f"<b>{name}</b> (winner)" if k == winner else name
        pooled = true_minus(f"pooled {maps.logits[k]:.3f}")
        tiles.append(_tile(image, name, caption, pooled, f"image-rendering: pixelated; border: {border}"))
    return f'{_grid(tiles, "7.5rem")}<div style="margin-top: 1rem">{colour_bar(scale, "logits a position")}</div>'


def draw_average_maps(maps: "Mapping[str, tuple[NDArray[Any], int]]") -> str:
    """Of each run's (K, h, w) maps that of one class as its raw grid, on the scale of all the run's classes."""
    from inspector.output.overlay import common_scale, grid_image

    tiles = []
    for label, (values, k) in maps.items():
        name, scale = escape(label), common_scale([values])
        line = f"scale \N{PLUS-MINUS SIGN}{scale:.3g} logits a position<br>sum {_signed(float(values[k].sum()))} logits"
        image = encode_image(grid_image(values[k], scale), exact=True)
        style = "image-rendering: pixelated; border: 1px solid rgba(128, 128, 128, .5)"
        tiles.append(_tile(image, name, f"<b>{name}</b>", line, style))
    return _grid(tiles, "8.5rem")


def tiles(pictured: Iterable[tuple[bytes, str, str, str]], narrowest: str = "9rem") -> str:
    """Small pictures side by side, each with its name, a line below, both plain text, and what it is an image of."""
    return _grid(
        [
            _tile(image, "", f'<b style="overflow-wrap: anywhere">{escape(name)}</b>', escape(line), alt=escape(alt))
            for image, name, line, alt in pictured
        ],
        narrowest,
    )


def plain_text(text: str) -> str:
    """A name as Markdown that shows it as it is."""
    return re.sub(r"([\\`*_{}\[\]()<>#+!|~$:-])", r"\\\1", text)


def _tile(image: bytes, name: str, caption: str, line: str, style: str = "", alt: str = "") -> str:
    """A small picture, usually a class map, with its caption; the texts are HTML."""
    return (
        '<figure style="margin: 0">'
        f'<img src="{make_data_url(image)}" alt="{alt or f"class map of {name}"}" style="width: 100%; {style}">'
        f'<figcaption style="font-size: .85rem; line-height: 1.3">{caption}<br>'
        f'<span style="opacity: .7">{line}</span></figcaption></figure>'
    )


def _grid(tiles: list[str], narrowest: str) -> str:
    columns = f"repeat(auto-fill, minmax({narrowest}, 1fr))"
    return f'<div style="display: grid; gap: .8rem; grid-template-columns: {columns}">{"".join(tiles)}</div>'
