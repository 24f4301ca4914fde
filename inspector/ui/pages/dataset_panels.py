"""Of a data set: the average class maps, what is taken for what, and the images that stand out."""

from pathlib import Path
from typing import Any

import streamlit as st

from inspector.datasets import index as dataset_index
from inspector.datasets.results import Results, StoredImage
from inspector.datasets.summary import DatasetSummary
from inspector.errors import InspectorError
from inspector.output.overlay import common_scale
from inspector.ui.components import html, stored_maps
from inspector.ui.state import cache
from inspector.ui.state.selection import label_names

_TILES = 12
_SMALL = 320  # pixels of the longer side of a picture
GALLERIES = {
    "most concentrated": ("positions", False),
    "most diffuse": ("positions", True),
    "most at the border": ("border", True),
    "least at the border": ("border", False),
}


@st.fragment
def average_maps(survey: DatasetSummary) -> None:
    titles = label_names(survey.class_names)
    heading = st.empty()
    often = int(survey.predicted.counts.argmax())
    title = st.selectbox("Class", titles, index=often, key="average", bind="query-params", width=280)
    heading.subheader(f"Where does the network look for {html.escape_markdown(title)}?", anchor=False)
    k = titles.index(title)
    kinds = {"taken for it": survey.predicted, "labelled so": survey.labeled}
    known = {f"{what}: {maps.counts[k]:,} images": maps for what, maps in kinds.items() if maps.counts[k]}
    if not known:
        st.info("No image is taken for it or labelled so.", icon=":material/photo_library:")
        return
    with st.spinner("Drawing ..."):
        st.html(html.draw_average_maps({what: (maps.mean(), k) for what, maps in known.items()}))
    st.caption("The mean of this class's own map, cell by cell: red speaks for the class, blue against it.")


@st.fragment
def confusions(survey: DatasetSummary) -> None:
    st.subheader("What is taken for what, and why?", anchor=False)
    titles = label_names(survey.class_names)
    mistaken = [titles[k] for k in dict.fromkeys(survey.pairs[:, 0].tolist())]
    label = st.selectbox(
        "Label", mistaken, index=None, placeholder="any", key="mistaken", bind="query-params", width=280
    )
    wanted = None if label is None else titles.index(label)
    shown = [n for n, (true, _) in enumerate(survey.pairs) if wanted in (None, true)][:_TILES]
    maps = survey.contrasts.mean()[shown]
    scale = common_scale(list(maps))
    tiles = []
    for n, values in zip(shown, maps, strict=True):
        true, predicted = survey.pairs[n]
        name = f"{survey.class_names[true]} taken for {survey.class_names[predicted]}"
        line = f"{survey.contrasts.counts[n]:,} of {survey.labeled.counts[true]:,} images"
        tiles.append(html.Tile(stored_maps.draw_raw_grid(values, scale), name, [line], f"contrast map of {name}"))
    st.html(html.make_tiles(tiles))
    st.html(html.make_color_bar(scale, "logits a position for the class that was taken and against the label"))
    st.caption(
        "The map of the class that was taken less that of the label, the mean over their images, on one scale: red is "
        "where the mistake comes from."
    )


@st.fragment
def gallery(results: Results, survey: DatasetSummary) -> None:
    st.subheader("Images that stand out", anchor=False)
    which = st.segmented_control(
        "Evidence", list(GALLERIES), default=next(iter(GALLERIES)), required=True, key="gallery", bind="query-params"
    )
    column, descending = GALLERIES[which]
    try:
        with st.spinner("Drawing ..."):
            rows = dataset_index.list_extremes(survey.index, column, descending, _TILES)
            st.html(html.make_tiles([_tile(results, survey, row, column) for row in rows], "clamp(9rem, 13vw, 14rem)"))
    except InspectorError as error:
        st.error(str(error), icon=":material/error:")


def _tile(results: Results, survey: DatasetSummary, row: dict[str, Any], column: str) -> html.Tile:
    stored = stored_of(results, survey, row)
    image, _ = stored_maps.draw_stored_map(results, stored, stored.maps[row["predicted"]], _SMALL)
    value = f"{row[column]:.1f} positions" if column == "positions" else f"{row[column]:.0%} at the border"
    name = survey.class_names[row["predicted"]]
    return html.Tile(
        image, name, [f"{value}, number {row['index']}"], f"class map of {name} over {Path(row['path']).name}"
    )


def stored_of(results: Results, survey: DatasetSummary, row: dict[str, Any]) -> StoredImage:
    """What is kept of an image of the index."""
    changed = cache.changed(survey.index)
    place = row["part"], row["row_group"], row["row"]
    return stored_maps.read_stored_image(results.folder, changed, *place, results)
