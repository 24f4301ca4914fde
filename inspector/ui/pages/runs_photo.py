"""One photo, and the class map of one class by every network of an experiment, on one scale."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

import streamlit as st

from inspector.errors import ImageError, InspectorError
from inspector.explain.class_maps import ClassMaps
from inspector.images.examples import list_examples
from inspector.images.photo import MAX_BYTES, Photo
from inspector.networks.catalog import find_model_card
from inspector.training.compare_runs import RunGroup
from inspector.training.read_run import Run, find_network
from inspector.ui.components import html
from inspector.ui.state import cache

ALL, CONFUSED, ONE_CLASS = "all", "taken for another class", "of one class"
LOOK_FOR = {
    "average": "**Average pooling** counts every position alike: its evidence spreads over the object.",
    "max": "**Max pooling** counts one position a channel: its evidence stands on few spots.",
    "flatten": "**A flattened head** has weights of its own for every position: look for evidence at fixed places, on "
    "whatever object.",
}


@dataclass(frozen=True)
class Tested:
    """A test photo that lies on this disk."""

    images: Path
    file: str
    label: str
    taken_for: Mapping[str, str]  # run -> class, of the runs that did not recognise it

    def title(self) -> str:
        taken = ", ".join(f"{predicted} by {run}" for run, predicted in self.taken_for.items())
        return f"{self.file} (taken for {taken})" if taken else self.file


@st.fragment
def show(groups: Sequence[RunGroup]) -> None:
    st.subheader("One photo, every head", anchor=False)
    try:
        known = [(group.label, *found) for group in groups if (found := _with_network(group)) is not None]
        networks = {f"{label}, seed {run.seed}": name for label, name, run in known}
        if not networks:
            st.info(
                "None of these runs has its weights here. `inspector train` leaves them in the folder of a run, as "
                "weights.safetensors.",
                icon=":material/science:",
            )
            return
        photo, label = _choose_photo(groups, next(iter(networks.values())))
        for note in photo.notes if photo is not None else ():
            st.info(note, icon=":material/info:")
        if photo is not None:
            _compare(networks, photo, label)
    except InspectorError as error:
        st.error(str(error), icon=":material/error:")


def _with_network(group: RunGroup) -> tuple[str, Run] | None:
    """The first seed whose network is there, and what loads it."""
    return next(((name, run) for run in group.runs if (name := find_network(run)) is not None), None)


def _choose_photo(groups: Sequence[RunGroup], network: str) -> tuple[Photo | None, str | None]:
    """A photo, and its class where it is known: a test photo or an example, or the user's own."""
    tests = tested_photos(groups)
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        upload = st.file_uploader(
            "Your photo", type=["jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif"], key="own photo",
            max_upload_size=MAX_BYTES // 1_000_000, width=320,
            help="It stays in this server's memory, is never written to disk, and no other session sees it.",
        )  # fmt: skip
        if tests:
            chosen = _choose_tested(tests, upload is not None)
        else:
            offered = _examples(network)
            example = st.selectbox(
                "or an example", list(offered), key="head_example", bind="query-params", width=280,
                disabled=upload is not None or not offered,
            )  # fmt: skip
    if upload is not None:
        return cache.uploaded_photo(upload.file_id, upload.name, upload.getvalue()), None
    if not tests:
        return (cache.example_photo(offered[example]), None) if example else (None, None)
    if chosen is None:
        st.info("There is none: every one of these runs recognised every test photo.", icon=":material/science:")
        return None, None
    return cache.example_photo(path_within(chosen.images, chosen.file)), chosen.label


def _choose_tested(tests: Sequence[Tested], disabled: bool) -> Tested | None:
    which = st.segmented_control(
        "or a test photo", [ALL, CONFUSED, ONE_CLASS], default=ALL, required=True, key="photos", bind="query-params",
        disabled=disabled,
    )  # fmt: skip
    if which == CONFUSED:
        tests = [test for test in tests if test.taken_for]
    elif which == ONE_CLASS:
        labels = sorted({test.label for test in tests})
        label = st.selectbox(
            "Class of the photo", labels, key="photo_class", bind="query-params", width=200, disabled=disabled
        )
        tests = [test for test in tests if test.label == label]
    by_file = {test.file: test for test in tests}
    if not by_file:
        return None
    file = st.selectbox(
        "Test photo", list(by_file), format_func=lambda file: by_file[file].title(), key="photo", bind="query-params",
        width=420, disabled=disabled,
    )  # fmt: skip
    return by_file[file]


def _examples(network: str) -> dict[str, Path]:
    """The examples that fit a network."""
    with suppress(InspectorError):
        return list_examples(find_model_card(network).examples)
    return {}


def tested_photos(groups: Sequence[RunGroup]) -> list[Tested]:
    """The test photos of the runs whose folder of photos is on this disk, and which runs took them for what."""
    found: dict[str, tuple[Path, str]] = {}
    taken_for: dict[str, dict[str, str]] = {}
    for group in groups:
        run = (_with_network(group) or ("", group.runs[0]))[1]
        if run.images is None or not run.images.is_dir():
            continue
        try:
            photos = cache.tested(run.folder, cache.changed(run.folder / "test.csv"), run)
        except InspectorError as error:
            st.error(str(error), icon=":material/error:")
            continue
        for photo in photos:
            found.setdefault(photo.file, (run.images, photo.label))
            if photo.predicted != photo.label:
                taken_for.setdefault(photo.file, {})[group.label] = photo.predicted
    return [Tested(images, file, label, taken_for.get(file, {})) for file, (images, label) in found.items()]


def path_within(images: Path, file: str) -> Path:
    """Where a file named in a test.csv lies; ImageError for one that leads out of the folder, also by a link."""
    named = PurePosixPath(file)
    leads_out = named.is_absolute() or ".." in named.parts or PureWindowsPath(file).drive or "\\" in file
    try:
        path = (images / named).resolve()
        leads_out = leads_out or not path.is_relative_to(images.resolve())
    except (OSError, ValueError):
        leads_out = True
    if leads_out:
        raise ImageError(f"test.csv names {file!r}, which is not inside the folder of the photos: it is not opened.")
    return path


def _compare(networks: Mapping[str, str], photo: Photo, label: str | None) -> None:
    """The class maps of every network, on one scale; what fails is one sentence, and the others are shown."""
    maps: dict[str, ClassMaps] = {}
    for number, (title, name) in enumerate(networks.items(), 1):
        try:
            with st.spinner(f"Splitting the logits of {photo.name} with {title}, {number} of {len(networks)} ..."):
                maps[title] = _class_maps(name, photo)
        except InspectorError as error:
            st.warning(f"{html.plain_text(title)}: {error}", icon=":material/warning:")
    if not maps:
        return
    names = list(dict.fromkeys(name for one in maps.values() for name in one.classifier.class_names))
    usual = label if label in names else next(iter(maps.values())).top(1)[0][1]
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        why = "the photo's own" if usual == label else "the first network's likeliest"
        chosen = st.selectbox(
            "Class", names, index=None, placeholder=f"{usual} ({why})", key="head_class", bind="query-params", width=280
        )
        smooth = not st.toggle("Raw grid", key="head_grid", bind="query-params")
        own_scales = st.toggle(
            "Each on its own scale", key="head_scales", bind="query-params",
            help="On one scale the few cells of max pooling outshine what average pooling spreads over the object.",
        )  # fmt: skip
    of_class = {title: one for title, one in maps.items() if (chosen or usual) in one.classifier.class_names}
    st.html(html.draw_network_maps(of_class, chosen or usual, smooth, label, own_scales))
    kinds = {kind for one in maps.values() for kind in one.classifier.head.pooling.split(" + ")}
    st.markdown("  \n".join(text for kind, text in LOOK_FOR.items() if kind in kinds))


def _class_maps(network: str, photo: Photo) -> ClassMaps:
    changed = cache.changed(Path(network) / "weights.safetensors")
    key = f"{network} {changed}"
    return cache.class_maps_of(
        key, photo.sha256, photo.name, 1, photo, lambda: cache.network(network, changed)
    )  # fmt: skip
