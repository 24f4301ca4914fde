"""The panels below the images of a data set: average class maps, confusions with contrast maps, extreme images."""

from pathlib import Path
from typing import Any

import streamlit as st

from inspector.datasets import index as dataset_index
from inspector.datasets.results import Results
from inspector.datasets.summary import AverageMaps, DatasetSummary
from inspector.explain.class_names import label_names
from inspector.output.overlay import common_scale
from inspector.ui.components import html, stored_maps
from inspector.ui.components.controls import choose_option, choose_segment, search_option, show_errors
from inspector.ui.components.markdown import plain
from inspector.ui.components.save import PictureToSave, show_save_menu
from inspector.ui.components.saved_results import find_place, make_average_to_save, make_stored_map_to_save
from inspector.ui.pages.dataset_images import read_image_of
from inspector.ui.state import keys

_TILES = 12
_SIDE = 320  # longer side of a picture, in pixels
# Choice -> (column of the index that sorts the images, whether the highest values come first).
GALLERIES = {
    "most concentrated": ("positions", False),
    "most diffuse": ("positions", True),
    "most at the border": ("border", True),
    "least at the border": ("border", False),
}


@st.fragment
def show_average_maps(results: Results, summary: DatasetSummary) -> None:
    """Show two average maps of a class: over the images predicted as it, and over the images labeled as it."""
    names = label_names(summary.class_names)
    heading = st.empty()
    most_frequent = int(summary.predicted.counts.argmax())
    name = choose_option("Class", names, index=most_frequent, key=keys.DATASET_CLASS)
    heading.subheader(f"Average class map of {plain(name)}", anchor=False)
    k, meaning = names.index(name), results.meaning.describe_cells()
    maps, pictures = {}, []
    for title, which in (("predicted as this class", "predicted"), ("labeled as this class", "labeled")):
        average: AverageMaps = getattr(summary, which)
        if not average.counts[k]:
            continue
        means = average.mean()
        maps[f"{title}: {average.counts[k]:,} images"] = means, k
        heading_of = f"{name}, average of {average.counts[k]:,} images {title}"
        code = f"summary.{which}.mean()[{k}]"
        pictures.append(make_average_to_save(results, heading_of, means[k], common_scale([means]), meaning, code))
    if not maps:
        st.info("No image is predicted or labeled as this class.", icon=":material/photo_library:")
        return
    with st.spinner("Drawing ..."):
        st.html(html.draw_average_maps(maps))
    show_save_menu(pictures, "average picture")
    cells = plain(meaning.capitalize())
    st.caption(f"{cells}: the mean over the images. Red is evidence for the class, blue against it.")


@st.fragment
def show_confusions(results: Results, summary: DatasetSummary) -> None:
    """Show the most frequent confusions, each with its average contrast map."""
    st.subheader("Confusions and their contrast maps", anchor=False)
    names = label_names(summary.class_names)
    confused = [names[k] for k in dict.fromkeys(summary.pairs[:, 0].tolist())]
    label = search_option("Label", confused, "any", key=keys.CONFUSED_LABEL)
    wanted = None if label is None else names.index(label)
    listed = [n for n, (true, _) in enumerate(summary.pairs) if wanted in (None, true)][:_TILES]
    maps = summary.contrasts.mean()[listed]
    scale = common_scale(list(maps))
    cells = results.meaning.describe_cells(quantity=results.meaning.difference)
    meaning = f"{cells}, predicted class minus label"
    tiles, pictures = [], []
    for n, values in zip(listed, maps, strict=True):
        true, predicted = summary.pairs[n]
        title = f"{summary.class_names[true]} predicted as {summary.class_names[predicted]}"
        line = f"{summary.contrasts.counts[n]:,} of {summary.labeled.counts[true]:,} images"
        tiles.append(html.Tile(stored_maps.draw_raw_grid(values, scale), title, [line], f"contrast map of {title}"))
        code = f"summary.contrasts.mean()[{n}]"
        pictures.append(make_average_to_save(results, title, values, scale, meaning, code))
    st.html(html.make_tiles(tiles))
    st.html(html.make_color_bar(scale, meaning))
    if pictures:
        show_save_menu(pictures, "confusion picture", "Save a picture")
    st.caption(
        "The map of the predicted class minus that of the label, averaged over their images, on one scale. Red cells "
        "are evidence for the wrong class."
    )


@st.fragment
def show_gallery(results: Results, summary: DatasetSummary) -> None:
    """Show the images whose class maps are the most concentrated, the most diffuse, and so on."""
    st.subheader("Extreme images", anchor=False)
    column, descending = GALLERIES[choose_segment("Evidence", list(GALLERIES), key=keys.GALLERY)]
    with show_errors(), st.spinner("Drawing ..."):
        rows = dataset_index.list_extremes(summary.index, column, descending, _TILES)
        shown = [_make_tile(results, summary, row, column) for row in rows]
        st.html(html.make_tiles([tile for tile, _ in shown], "clamp(9rem, 13vw, 14rem)"))
    if shown:
        show_save_menu([picture for _, picture in shown], "gallery picture", "Save a picture")


def _make_tile(
    results: Results, summary: DatasetSummary, row: dict[str, Any], column: str
) -> tuple[html.Tile, PictureToSave]:
    """Return the picture of an image as the page shows it, and as it is saved."""
    stored, k = read_image_of(results, summary, row), row["predicted"]
    image, problem = stored_maps.draw_stored_map(results, stored, stored.maps[k], _SIDE)
    value = f"{row[column]:.1f} cells" if column == "positions" else f"{row[column]:.0%} at the border"
    name = summary.class_names[k]
    alt = f"class map of {name} over {Path(row['path']).name}"
    title = f"{name} on number {row['index']}, {Path(row['path']).name}"
    picture = make_stored_map_to_save(results, stored, k, title, find_place(row), on_photo=not problem)
    return html.Tile(image, name, [f"{value}, number {row['index']}"], alt), picture
