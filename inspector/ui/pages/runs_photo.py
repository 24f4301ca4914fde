"""The panel below the training runs: one photo, and its map of one class by every network of an experiment."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

import streamlit as st

from inspector.errors import ImageError, InspectorError
from inspector.images.examples import list_examples
from inspector.images.photo import Photo
from inspector.networks.catalog import find_model_card
from inspector.training.compare_runs import RunGroup
from inspector.training.read_run import Run, find_network
from inspector.ui.components import controls
from inspector.ui.components.controls import choose_option, show_errors, switch
from inspector.ui.components.map_columns import (
    ColumnsStyle,
    MapRequest,
    compute_requests,
    make_column,
    show_columns_menu,
    show_map_columns,
)
from inspector.ui.components.markdown import plain
from inspector.ui.state import cache, folders, keys
from inspector.ui.state.networks import NetworkChoice
from inspector.ui.state.top_bar import Bar

ALL, MISCLASSIFIED, ONE_CLASS = "all", "misclassified", "one class"  # values in links, as are the next two
EXAMPLES, OF_THE_BAR = "examples", "photo of the bar"
HINTS = {
    "average": "**Average pooling** weights all cells equally: its evidence covers the whole object.",
    "max": "**Max pooling** reads one cell per channel: its evidence lies in a few cells.",
    "flatten": "**A flattened head** has separate weights for every cell: look for evidence at fixed places, "
    "whatever the object.",
}


@dataclass(frozen=True)
class LocalTestPhoto:
    """A test photo whose file is on this disk."""

    folder: Path  # folder of the photos
    file: str  # relative to the folder, as test.csv names it
    label: str  # the true class
    predictions: Mapping[str, str]  # run -> predicted class, for the runs that misclassified the photo

    def make_title(self) -> str:
        """Return the file name with the wrong predictions, for the list of photos."""
        predictions = ", ".join(f"{predicted} by {run}" for run, predicted in self.predictions.items())
        return f"{self.file} (predicted as {predictions})" if predictions else self.file


@st.fragment
def show_photo_panel(groups: Sequence[RunGroup], bar: Bar) -> None:
    """Show the class maps of a photo by the first seed of every group whose weights are on this disk."""
    st.subheader("One photo by every network", anchor=False)
    with show_errors():
        found = [(group.label, *network) for group in groups if (network := _find_network(group)) is not None]
        networks = {f"{label}, seed {run.seed}": name for label, name, run in found}
        if not networks:
            st.info(
                "None of these runs has its weights here. `inspector train` writes them to the folder of the run, as "
                "weights.safetensors.",
                icon=":material/science:",
            )
            return
        photo, label = _choose_photo(groups, next(iter(networks.values())), bar)
        if photo is None:
            return
        for note in photo.notes:
            st.info(plain(note), icon=":material/info:")
        _show_class_maps(networks, photo, label)


def _find_network(group: RunGroup) -> tuple[str, Run] | None:
    """Return (name that loads the network, run) for the first seed whose weights are on this disk; None if none is."""
    return next(((name, run) for run in group.runs if (name := find_network(run)) is not None), None)


def _choose_photo(groups: Sequence[RunGroup], network: str, bar: Bar) -> tuple[Photo | None, str | None]:
    """Show the choice of photos: a test photo, or an example if there is none, or the photo of the bar.

    Returns:
        (photo, true class). The photo is None if there is none to show, and the class is None if it is unknown.
    """
    tests, offered = list_test_photos(groups), _list_examples(network)
    kinds = [ALL, MISCLASSIFIED, ONE_CLASS] if tests else [EXAMPLES] if offered else []
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        label = "Test photos, or the photo of the bar" if tests else "Photo"
        which = controls.choose_segment(label, [*kinds, OF_THE_BAR], key=keys.RUNS_PHOTO_FILTER)
        if which == OF_THE_BAR:
            return bar.read_photo(), None
        if which == EXAMPLES:
            example = choose_option("Example", list(offered), key=keys.RUNS_EXAMPLE)
            return cache.read_example(offered[example]), None
        chosen = _choose_test_photo(tests, which)
    if chosen is None:
        st.info("No such photo: every run classified every test photo correctly.", icon=":material/science:")
        return None, None
    return cache.read_example(resolve_inside(chosen.folder, chosen.file)), chosen.label


def _choose_test_photo(tests: Sequence[LocalTestPhoto], which: str) -> LocalTestPhoto | None:
    if which == MISCLASSIFIED:
        tests = [test for test in tests if test.predictions]
    elif which == ONE_CLASS:
        labels = sorted({test.label for test in tests})
        label = choose_option("True class", labels, key=keys.RUNS_PHOTO_CLASS, width=200)
        tests = [test for test in tests if test.label == label]
    by_file = {test.file: test for test in tests}
    if not by_file:
        return None
    settings = {"format_func": lambda file: by_file[file].make_title(), "width": 420}
    return by_file[choose_option("Test photo", list(by_file), key=keys.RUNS_PHOTO, **settings)]


def _list_examples(network: str) -> dict[str, Path]:
    """Return the examples that fit a network. For a network without a model card there are none."""
    with suppress(InspectorError):
        return list_examples(find_model_card(network).examples)
    return {}


def list_test_photos(groups: Sequence[RunGroup]) -> list[LocalTestPhoto]:
    """Return the test photos of the runs whose folder of photos is on this disk."""
    found: dict[str, tuple[Path, str]] = {}
    predictions: dict[str, dict[str, str]] = {}
    for group in groups:
        run = (_find_network(group) or ("", group.runs[0]))[1]
        if run.images is None or not may_show_photos(run.images):
            continue
        with show_errors():
            for photo in cache.read_tested_photos(run.folder, cache.read_change_time(run.folder / "test.csv"), run):
                found.setdefault(photo.file, (run.images, photo.label))
                if photo.predicted != photo.label:
                    predictions.setdefault(photo.file, {})[group.label] = photo.predicted
    return [LocalTestPhoto(folder, file, label, predictions.get(file, {})) for file, (folder, label) in found.items()]


def may_show_photos(folder: Path) -> bool:
    """Return whether test photos of a folder that a run.json names may be shown: it exists, and visitors may open it.

    The root of a disk holds no photos of a data set, but any image of this machine.
    """
    return folders.may_read(folder) and folder.is_dir() and folder.resolve() != folder.resolve().parent


def resolve_inside(folder: Path, file: str) -> Path:
    """Return the path of a file that a test.csv names.

    Raises:
        ImageError: the file is outside the folder, or a link leads out of the folder.
    """
    relative = PurePosixPath(file)
    is_outside = relative.is_absolute() or ".." in relative.parts or PureWindowsPath(file).drive or "\\" in file
    try:
        path = (folder / relative).resolve()
        is_outside = is_outside or not path.is_relative_to(folder.resolve())
    except (OSError, ValueError):
        is_outside = True
    if is_outside:
        raise ImageError(f"test.csv names {file!r}, which is outside the folder of the photos, so it is not opened.")
    return path


def _show_class_maps(networks: Mapping[str, str], photo: Photo, label: str | None) -> None:
    """Show the map of one class by every network that has this class."""
    computed = compute_requests(
        [MapRequest(title, _make_choice(title, name), photo) for title, name in networks.items()]
    )
    if not computed:
        return
    names = list(dict.fromkeys(name for _, maps in computed for name in maps.classifier.class_names))
    default = label if label in names else computed[0][1].top(1)[0][1]
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        reason = "true class" if default == label else "top-1 of the first network"
        chosen = controls.search_option("Class", names, f"{default} ({reason})", key=keys.RUNS_PHOTO_MAP)
        raw = switch("Raw grid", key=keys.RUNS_RAW_GRID)
        text = "On one scale, the few strong cells of max pooling make the maps of average pooling look faint."
        own_scales = switch("One scale per map", text, key=keys.RUNS_OWN_SCALES)
    name = chosen or default
    columns = []
    for request, maps in computed:
        if name in maps.classifier.class_names:
            k = maps.classifier.class_names.index(name)
            key = (networks[request.title], *request.key[1:])
            columns.append(make_column(request.title, maps, k, key))
    style = ColumnsStyle(own_scales, not raw)
    show_map_columns(columns, style, photo_line=f"true class: {label}" if label else "")
    show_columns_menu(columns, style, "runs picture")
    poolings = {kind for _, maps in computed for kind in maps.classifier.head.pooling.split(" + ")}
    st.markdown("  \n".join(text for kind, text in HINTS.items() if kind in poolings))


def _make_choice(title: str, network: str) -> NetworkChoice:
    """Return the network of a run. Its key has the time of the weights, so that new weights are loaded."""
    changed = cache.read_change_time(Path(network) / "weights.safetensors")
    return NetworkChoice(f"{network} {changed}", title, network, "", lambda: cache.load_network(network, changed))
