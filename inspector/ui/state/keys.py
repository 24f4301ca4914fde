"""Keys of the session state and of links. Other modules make only keys that contain a changing value.

A widget with `bind="query-params"` writes its value into the link of the page under its key. Users share such links, so
these keys must not change. Streamlit forgets the widgets of a page when another page is opened, so two pages may use
the same key.
"""

import streamlit as st

# The bar at the top of all pages. The keys of the first line are in the link; that of an upload is its hash and name.
NETWORK, EXAMPLE, UPLOAD, INPUT_SIZE = "network", "example", "upload", "size"
UPLOADED_PHOTO, UPLOADS = "uploaded photo", "uploads"  # the field, and how many times it was emptied
BAR, UPLOADER, STRIP = "top bar", "uploader", "strip"  # containers, whose keys page.css names
PHOTO_STRIP, CHOSEN_PHOTO, THUMBNAILS = "the photos", "chosen photo", "thumbnails"
TAB, TAB_REPORTED = "tab", "tab reported"  # name of the browser tab, and whether the browser has reported it
LINK_NOTES = "link notes"  # key -> what a link says that the app does not have
OWN_NETWORKS = "own networks"  # networks loaded in this session: dict of name -> NetworkChoice
NEXT_NETWORK = "next network"  # name of the network that is chosen from the next run on
SHOWN_MAPS = "shown maps"  # MapsKey of the class maps that are on the screen

# Widgets of several pages. All keys are in the link.
CLASS, READING, AGAINST, CHANNEL = "class", "reading", "against", "channel"
RAW_GRID, POSITION_SCORES = "grid", "dense"

# The first page. All keys are in the link, except those of the last line.
VIEW, CELL, MASK_CHANGE = "show", "position", "change"  # the value of CELL is row,column
OPACITY, MASK_ABOVE, MASKED = "opacity", "above", "masked"  # the value of MASKED is row,column;row,column;...
GRAY, PINNED, BY_LOGIT = "gray", "pinned", "sorted"
FINER, BOXES, THRESHOLD, POINTS = "finer", "boxes", "threshold", "points"
VIEW_STATE, VIEWER, TOP_MAPS = "view state", "viewer", "top maps"  # VIEW_STATE: see state/view_state.py
SHOWN_PAGE = "shown page"  # name of the page that was drawn last, of those that state/handover.py serves

# Pages Layers and Compare: which part of the page is shown. It is in the link.
SUBPAGE, OLD_COMPARE = "view", "compare"  # OLD_COMPARE: what SUBPAGE was called in links of earlier versions

# Page Layers, feature maps. The keys of the first line are in the link. The channels use CHANNEL_MAP, too.
LAYER, CHANNEL_ORDER, CHANNEL_SCALES = "layer", "sort", "own"
LAYER_TREE, CHANNEL_GRID, CHANNEL_MAP, DEPTH_MAPS = "layer tree", "channels", "the channel", "all channels"

# Page Layers, channels. Only BARS is in the link.
BARS, CONTRIBUTION_CHART = "bars", "ledger"
# The photos with the highest activations of a channel: see pages/channels_photos.py.
TOP_FROM, TOP_FOLDER, TOP_START, TOP_STOP = "top from", "top folder", "top start", "top stop"
TOP_JOB, TOP_SEARCHED, TOP_RESULTS = "top job", "top searched", "top results"

# Page Compare, networks and photos. All keys are in the link.
COMPARED_NETWORKS, COMPARED_EXAMPLES = "with", "examples"
OWN_SCALES, COMMON_GRID = "own_scales", "one_grid"

# Page Export. All keys are in the link.
FIGURE_CLASSES, TOP_COUNT, FIGURE_OPACITY, PANELS = "classes", "likeliest", "figure_opacity", "panels"
WIDTH, UNIT, COLUMNS, FONT_SIZE, DPI = "width", "unit", "columns", "font", "dpi"
COLORMAP, TITLED, COLOR_BAR, EQUATIONS = "colours", "titled", "bar", "equations"
DARK, HEADING = "dark", "heading"

# Page Compare, methods. The keys of the first line are in the link.
CURVES, METHODS = "curves", "methods"
SHUFFLED = "shuffled"  # (MapsKey, class) for which the user started the randomization test
METHODS_JOB = "methods job"  # (MethodsSelection, the Job that computes its results)
RESUME, STOP, SHUFFLE = "go on", "stop", "shuffle"

# Page Model. No key is in the link.
LOAD_FROM = "load from"
LOAD_REVISION = "load revision"  # how many networks were loaded: the fields of the next one are new widgets
NOTE = "note"  # message that is shown once, after a network was loaded

# Page Training runs. All keys are in the link.
EXPERIMENT, CONFUSION_RUN, RUNS_CLASS = "experiment", "matrix", "average"
RUNS_EXAMPLE = "head_example"
RUNS_PHOTO_FILTER, RUNS_PHOTO_CLASS, RUNS_PHOTO = "photos", "photo_class", "photo"
RUNS_PHOTO_MAP, RUNS_RAW_GRID, RUNS_OWN_SCALES = "head_class", "head_grid", "head_scales"

# Page Data set. All keys are in the link.
RESULTS, PAGE, IMAGE = "data", "page", "image"
IMAGE_FILTER, TOP_CLASS, LABEL, PATH = "which", "predicted", "label", "path"
IMAGE_ORDER, DESCENDING = "order", "descending"
DATASET_CLASS, CONFUSED_LABEL, GALLERY = "average", "mistaken", "gallery"
# The form of the page Dataset that runs a batch. No key is in the link: a link must not begin work.
BATCH_FROM, BATCH_FOLDER, BATCH_PHOTOS, BATCH_UPLOAD = "batch from", "batch folder", "batch photos", "batch upload"
BATCH_TOP, BATCH_FEATURES, START_BATCH, STOP_BATCH = "batch top", "batch features", "start batch", "stop batch"
BATCH = "batch"  # the Batch of this session
OWN_RESULTS = "own results"  # folders of results that this session made of uploads: list of paths

# Page Concepts. The keys of the first line are in the link; CONCEPT is the key of an opened card, such as 3.1.
CONCEPT, CONCEPT_CLASS, CONCEPT_PHOTO = "concept", "concepts", "on"
FIND_RANK, FIND_SEEDS, FIND_HELD_OUT, FIND_OBJECTS, FIND = "rank", "seeds", "held out", "objects", "find concepts"
TRIAL_PHOTOS, TRIAL_PLACES, TRIAL_REMOVAL, TRIAL = "trial photos", "trial places", "trial removal", "test concept"
REPAIR_NAME, REPAIR_WITHOUT, REPAIR, CONCEPT_STOP = "repair name", "repair without", "repair", "stop concepts"
NEW_FLAGS, ALL_CONCEPTS, CONCEPT_NETWORK = "begin new flags", "all concepts", "choose network"  # buttons
CONCEPT_CARDS = "concept-cards"  # container, whose key page.css names
CONCEPT_WORK = "concept work"  # the ConceptWork of this session
CONCEPT_PROBLEM = "concept problem"  # message of an error in a callback, shown once
REPAIRED = "repaired"  # the last RepairedNetwork of this session

# Widgets outside the fragments of a page. If one of them changes, the whole page has to run.
OUTSIDE_FRAGMENTS = (
    *(NETWORK, CHOSEN_PHOTO, INPUT_SIZE),
    *(SUBPAGE, COMPARED_NETWORKS, COMPARED_EXAMPLES),
)

# Key -> {value in links of earlier versions: value that replaces it}.
_RENAMED_VALUES = {
    INPUT_SIZE: {"as trained": "center crop", "the photo's own": "full resolution"},
    RUNS_PHOTO_FILTER: {"taken for another class": "misclassified", "of one class": "one class"},
    IMAGE_FILTER: {"mistaken": "misclassified", "not read": "unreadable"},
}


def compared_class(mode: str) -> str:
    """Return the key of the box for the class on the page Compare. `mode` is "networks" or "photos"."""
    return f"class_of_{mode}"


def update_link() -> None:
    """Replace values in the link that now have other names. Call this before the widgets are drawn."""
    for key, renamed in _RENAMED_VALUES.items():
        # Streamlit removes unknown values from the link, so an old value is replaced only once.
        if (value := renamed.get(st.query_params.get(key, ""))) is not None:
            st.session_state[key] = value
