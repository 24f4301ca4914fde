"""Keys of the session state. Each is written once, here.

A widget with `bind="query-params"` writes its state into the link under its key: those keys are public and must stay.
Streamlit forgets the widgets of a page when another page is opened, so two pages may use one key.
"""

# The sidebar.
NETWORK = "network"  # in the link
UPLOADED_PHOTO = "uploaded photo"
EXAMPLE = "example"  # in the link
INPUT_SIZE = "size"  # in the link
OWN_NETWORKS = "own networks"  # what was uploaded in this session: dict of names and NetworkChoice
SHOWN_MAPS = "shown maps"  # the MapsKey whose class maps are on the screen

# Several pages; all in the link.
CLASS = "class"
READING = "reading"
AGAINST = "against"
CHANNEL = "channel"
RAW_GRID = "grid"
POSITION_SCORES = "dense"

# Page Class maps.
VIEW = "show"  # in the link
OPACITY = "opacity"
CELL = "position"  # in the link: row,column of the chosen cell
MASK = "mask"  # what the buttons masked: (about, revision, cells)
MASK_CHANGE = "change"  # in the link
MASK_ABOVE = "above"
PHOTO_COMPONENT = "the photo"
CLASS_LIST = "the classes"
TOP_MAPS = "top maps"

# Page Layers.
LAYER = "layer"  # in the link
CHANNEL_ORDER = "sort"  # in the link
CHANNEL_SCALES = "own"  # in the link
CHANNEL_GRID = "channels"
CHANNEL_MAP = "the channel"  # also on page Channels
DEPTH_MAPS = "all channels"

# Page Channels.
BARS = "bars"  # in the link
CONTRIBUTION_CHART = "ledger"
WHOLE_FOLDER = "whole folder"
READ_PHOTOS = "heard"  # the network and the uploads whose channels are on the screen

# Page Compare; all in the link but the uploads.
COMPARE = "compare"
COMPARED_NETWORKS = "with"
COMPARED_UPLOADS = "photos compared"
COMPARED_EXAMPLES = "examples"
OWN_SCALES = "own_scales"

# Page Export; all in the link.
FIGURE_CLASSES = "classes"
TOP_COUNT = "likeliest"
FIGURE_OPACITY = "figure_opacity"
PANELS = "panels"
WIDTH = "width"
UNIT = "unit"
COLUMNS = "columns"
FONT_SIZE = "font"
DPI = "dpi"
COLORMAP = "colours"
TITLED = "titled"
COLOR_BAR = "bar"
EQUATIONS = "equations"
DARK = "dark"
HEADING = "heading"

# Page Methods.
CURVES = "curves"  # in the link
METHODS = "methods"  # in the link
SHUFFLED = "shuffled"  # (MapsKey, class) whose weights were shuffled
METHODS_JOB = "methods job"  # what is computed, and the Job that computes it
RESUME = "go on"
STOP = "stop"
SHUFFLE = "shuffle"

# Page Network.
NETWORK_FORM = "own network"
NOTE = "note"  # shown once, after an upload

# Page Laboratory; all in the link but the upload. Its photo part is a fragment with keys of its own.
EXPERIMENT = "experiment"
CONFUSION_RUN = "matrix"
RUNS_CLASS = "average"
RUNS_UPLOAD = "own photo"
RUNS_EXAMPLE = "head_example"
RUNS_PHOTO_FILTER = "photos"
RUNS_PHOTO_CLASS = "photo_class"
RUNS_PHOTO = "photo"
RUNS_PHOTO_MAP = "head_class"
RUNS_RAW_GRID = "head_grid"
RUNS_OWN_SCALES = "head_scales"

# Page Data set; all in the link.
RESULTS = "data"
PAGE = "page"
IMAGE = "image"
IMAGE_FILTER = "which"
TOP_CLASS = "predicted"
LABEL = "label"
PATH = "path"
IMAGE_ORDER = "order"
DESCENDING = "descending"
DATASET_CLASS = "average"
CONFUSED_LABEL = "mistaken"
GALLERY = "gallery"

# Widgets outside the fragments of a page: where one of them changes, the whole page has to run.
OUTSIDE_FRAGMENTS = (
    *(NETWORK, UPLOADED_PHOTO, EXAMPLE, INPUT_SIZE),
    *(COMPARE, COMPARED_NETWORKS, COMPARED_UPLOADS, COMPARED_EXAMPLES),
)
