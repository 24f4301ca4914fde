"""Keys of the session state and of links. Each is written once, here.

A widget with `bind="query-params"` writes its state into the link under its key: those keys are public and must stay.
Streamlit forgets the widgets of a page when another page is opened, so two pages may use one key.
"""

import streamlit as st

# The sidebar; in the link but for the upload.
NETWORK, EXAMPLE, INPUT_SIZE = "network", "example", "size"
UPLOADED_PHOTO = "uploaded photo"
OWN_NETWORKS = "own networks"  # what was uploaded in this session: dict of names and NetworkChoice
SHOWN_MAPS = "shown maps"  # the MapsKey whose class maps are on the screen

# Several pages; all in the link.
CLASS, READING, AGAINST, CHANNEL = "class", "reading", "against", "channel"
RAW_GRID, POSITION_SCORES = "grid", "dense"

# Page Class maps; the first row is in the link.
VIEW, CELL, MASK_CHANGE = "show", "position", "change"  # a cell is row,column
OPACITY, MASK_ABOVE = "opacity", "above"
MASK = "mask"  # what the buttons masked: (about, revision, cells)
PHOTO_COMPONENT, CLASS_LIST, TOP_MAPS = "the photo", "the classes", "top maps"

# Page Layers; the first row is in the link. Page Channels has a CHANNEL_MAP, too.
LAYER, CHANNEL_ORDER, CHANNEL_SCALES = "layer", "sort", "own"
CHANNEL_GRID, CHANNEL_MAP, DEPTH_MAPS = "channels", "the channel", "all channels"

# Page Channels; the bars are in the link.
BARS, CONTRIBUTION_CHART, WHOLE_FOLDER = "bars", "ledger", "whole folder"
READ_PHOTOS = "heard"  # the network and the uploads whose channels are on the screen

# Page Compare; all in the link but the uploads.
COMPARE, COMPARED_NETWORKS, COMPARED_EXAMPLES, OWN_SCALES = "compare", "with", "examples", "own_scales"
COMPARED_UPLOADS = "photos compared"

# Page Export; all in the link.
FIGURE_CLASSES, TOP_COUNT, FIGURE_OPACITY, PANELS = "classes", "likeliest", "figure_opacity", "panels"
WIDTH, UNIT, COLUMNS, FONT_SIZE, DPI = "width", "unit", "columns", "font", "dpi"
COLORMAP, TITLED, COLOR_BAR, EQUATIONS = "colours", "titled", "bar", "equations"
DARK, HEADING = "dark", "heading"

# Page Methods; the first row is in the link.
CURVES, METHODS = "curves", "methods"
SHUFFLED = "shuffled"  # (MapsKey, class) whose weights were shuffled
METHODS_JOB = "methods job"  # what is computed, and the Job that computes it
RESUME, STOP, SHUFFLE = "go on", "stop", "shuffle"

# Page Network.
NETWORK_FORM = "own network"
NOTE = "note"  # shown once, after an upload

# Page Training runs; all in the link but the upload. Its photo part is a fragment with keys of its own.
EXPERIMENT, CONFUSION_RUN, RUNS_CLASS = "experiment", "matrix", "average"
RUNS_UPLOAD, RUNS_EXAMPLE = "own photo", "head_example"
RUNS_PHOTO_FILTER, RUNS_PHOTO_CLASS, RUNS_PHOTO = "photos", "photo_class", "photo"
RUNS_PHOTO_MAP, RUNS_RAW_GRID, RUNS_OWN_SCALES = "head_class", "head_grid", "head_scales"

# Page Data set; all in the link.
RESULTS, PAGE, IMAGE = "data", "page", "image"
IMAGE_FILTER, TOP_CLASS, LABEL, PATH = "which", "predicted", "label", "path"
IMAGE_ORDER, DESCENDING = "order", "descending"
DATASET_CLASS, CONFUSED_LABEL, GALLERY = "average", "mistaken", "gallery"

# Widgets outside the fragments of a page: where one of them changes, the whole page has to run.
OUTSIDE_FRAGMENTS = (
    *(NETWORK, UPLOADED_PHOTO, EXAMPLE, INPUT_SIZE),
    *(COMPARE, COMPARED_NETWORKS, COMPARED_UPLOADS, COMPARED_EXAMPLES),
)

# Key -> value in links of earlier versions -> the value that replaces it.
_RENAMED_VALUES = {
    RUNS_PHOTO_FILTER: {"taken for another class": "misclassified", "of one class": "one class"},
    IMAGE_FILTER: {"mistaken": "misclassified", "not read": "unreadable"},
}


def update_link() -> None:
    """Set the widgets whose values in the link have new names. Call it before the widgets are drawn."""
    for key, renamed in _RENAMED_VALUES.items():
        # Streamlit drops a value that it does not know from the link, so this happens once.
        if (value := renamed.get(st.query_params.get(key, ""))) is not None:
            st.session_state[key] = value
