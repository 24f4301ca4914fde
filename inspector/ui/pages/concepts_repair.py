"""The repair of the last layer: without the concepts that are flagged as shortcuts, with scores before and after."""

import io
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import streamlit as st

from inspector.datasets.concepts.files import ConceptFlag
from inspector.datasets.concepts.repair import (
    ChangedPhoto,
    Repair,
    describe_repair,
    explain_change,
    list_shortcuts,
    parse_photo_list,
    repair_head,
)
from inspector.datasets.concepts.repaired_network import list_repaired, write_repaired_network
from inspector.datasets.concepts.report import list_recalls, list_scores, make_concept_report
from inspector.errors import InspectorError
from inspector.files import check_new_folder
from inspector.networks.catalog import LIBRARIES, find_model_folder, user_models
from inspector.output.overlay import common_scale
from inspector.ui.components import html
from inspector.ui.components.concept_progress import show_progress
from inspector.ui.components.controls import show_download_buttons, show_errors, show_table
from inspector.ui.components.markdown import plain
from inspector.ui.components.stored_maps import draw_raw_grid
from inspector.ui.state import folders, keys, networks, uploads
from inspector.ui.state.concept_work import OpenedConcepts, RepairedNetwork, find_work, start_work
from inspector.ui.state.jobs import OnProgress, ShouldStop

_TILES = 12  # changed photos that are shown
_SIDE = 320  # longer side of a picture, in pixels
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_NO_NAME = re.compile(r"[^A-Za-z0-9._-]+")


def find_repaired(opened: OpenedConcepts) -> RepairedNetwork | None:
    """Return the last repair of this session with these concepts."""
    work = find_work()
    if work is not None and isinstance(work.result, RepairedNetwork):
        st.session_state[keys.REPAIRED] = work.result
    last: RepairedNetwork | None = st.session_state.get(keys.REPAIRED)
    if last is None or (last.results, last.concepts_sha256) != (opened.stored.results.folder, opened.found.sha256):
        return None
    return last if last.folder.is_dir() else None


def show_repair(opened: OpenedConcepts, flags: Mapping[str, ConceptFlag] | None) -> None:
    """Show the form that repairs the last layer, and the last repair."""
    st.subheader("Repair", anchor=False)
    cards = [key for key, one in (flags or {}).items() if one.flag == "shortcut"]
    st.caption(
        "The last layer is fitted again without the concepts flagged as shortcuts, of all classes, and measured on the "
        "photos that were held out. The layers before stay as they are."
    )
    if (work := opened.find_running("repair")) is not None:
        show_progress(work)
    elif not cards:
        st.info("Flag a concept as a shortcut first.", icon=":material/flag:")
    elif not opened.may_write:
        st.info("These results may only be read here. Use `inspector repair` on the command line.")
    else:
        _show_form(opened, flags or {}, cards)
    if (repaired := find_repaired(opened)) is not None:
        _show_repaired(opened, repaired)
    _show_earlier(opened, None if repaired is None else repaired.folder)


def _show_form(opened: OpenedConcepts, flags: Mapping[str, ConceptFlag], cards: Sequence[str]) -> None:
    st.markdown(f"Shortcuts: **{plain(', '.join(f'{key} {flags[key].name}'.rstrip() for key in cards))}**")
    first = _suggest_name(opened)
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        name = st.text_input("Name of the new network", key=keys.REPAIR_NAME, placeholder=first, width=320).strip()
        if st.button("Repair", key=keys.REPAIR, type="primary", icon=":material/build:"):
            with show_errors():
                _start(opened, flags, name or first)
    help = (
        "A text file with the path of a photo per line. A head fitted anew without them is measured, too: what can be "
        "reached if these photos are known."
    )
    st.file_uploader(
        "Photos that have a shortcut (optional)",
        "txt",
        key=keys.REPAIR_WITHOUT,
        max_upload_size=uploads.MAX_LABELS // 1_000_000,
        help=help,
    )


def _suggest_name(opened: OpenedConcepts) -> str:
    base = _NO_NAME.sub("_", opened.found.network)[:80].strip("_.-") or "network"
    names = (f"{base}_repaired", *(f"{base}_repaired_{number}" for number in range(2, 1000)))
    return next(name for name in names if not _make_place(opened, name).exists())


def _make_place(opened: OpenedConcepts, name: str) -> Path:
    """Return the folder for a network: on one's own machine that of the user's networks, else beside the results."""
    return _find_parent(opened) / name


def _find_parent(opened: OpenedConcepts) -> Path:
    return user_models() if folders.is_open() else opened.stored.results.folder / "repaired"


def _start(opened: OpenedConcepts, flags: Mapping[str, ConceptFlag], name: str) -> None:
    if _NAME.fullmatch(name) is None:
        raise InspectorError(f"{name:.60} cannot be the name of a network. Use letters, digits, '_', '-' and '.'.")
    if find_model_folder(name) is not None:
        raise InspectorError(f"There is a network {name} already. Use another name.")
    place = _make_place(opened, name)
    check_new_folder(place)
    list_shortcuts(opened.found, flags)
    network = networks.find_network(opened.found.network)
    arch = network.title if network.is_private and network.title.startswith(LIBRARIES) else None
    upload = st.session_state.get(keys.REPAIR_WITHOUT)
    without = [] if upload is None else parse_photo_list(upload.getvalue(), upload.name)
    with st.spinner(f"Loading {plain(network.name)} ..."):
        classifier = network.load()
    trials = list(opened.trials.values())

    def repair(on_progress: OnProgress, should_stop: ShouldStop) -> RepairedNetwork:
        repaired = repair_head(
            classifier,
            opened.stored,
            opened.found,
            flags,
            without=without,
            on_progress=on_progress,
            should_stop=should_stop,
        )
        about = describe_repair(repaired, opened.found, opened.stored)
        classes = [opened.found.find_card(key).k for key in repaired.flagged]
        page = make_concept_report(opened.stored, opened.found, flags, classes=classes, trials=trials, repair=repaired)
        report = {"report.html": page.encode()}
        source = network.name if network.is_private else network.key
        write_repaired_network(place, classifier, source, repaired.head, about, arch, report)
        return RepairedNetwork(repaired, place, opened.stored.results.folder, opened.found.sha256)

    start_work("repair", name, opened.stored.results.folder, repair)


def _show_repaired(opened: OpenedConcepts, repaired: RepairedNetwork) -> None:
    repair, names = repaired.repair, opened.names
    st.markdown(
        f"**{plain(repaired.folder.name)}** is without {plain(', '.join(repair.flagged))}. Fitted on {repair.fitted:,} "
        f"photos, measured on {repair.held_out:,} others."
    )
    heading, rows = list_scores(repair)
    show_table([dict(zip(heading, row, strict=True)) for row in rows], "Scores of the heads, with 95 % intervals")
    with st.expander("Recall of each class"):
        heading, rows = list_recalls(repair, names)
        show_table([dict(zip(heading, row, strict=True)) for row in rows], "Recall of each class by head")
    _show_changed(opened, repair)
    _show_buttons(repaired.folder)
    st.caption(plain(f"It lies in {folders.name_folder(repaired.folder)}, with its report."))


def _show_earlier(opened: OpenedConcepts, shown: Path | None) -> None:
    """List the networks that were repaired with these concepts before, without the one that is shown."""
    listed = [folder for folder in list_repaired(_find_parent(opened), opened.found) if folder != shown]
    if listed:
        with st.expander(f"Repaired before: {len(listed)}"):
            for folder in listed:
                st.markdown(f"**{plain(folder.name)}**")
                _show_buttons(folder)


def _show_buttons(folder: Path) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        if st.button("Use this network", key=f"use {folder.name}", icon=":material/check:"):
            with show_errors():
                with st.spinner(f"Loading {plain(folder.name)} ..."):
                    networks.add_folder(folder)
                st.rerun()
        files = {"Download it": f"{folder.name}.zip", "Its report": f"{folder.name}.html"}
        show_download_buttons(files, lambda name: _pack(folder) if name.endswith(".zip") else _read_report(folder))


def _read_report(folder: Path) -> bytes:
    return (folder / "report.html").read_bytes()


def _show_changed(opened: OpenedConcepts, repair: Repair) -> None:
    """Show photos that changed their class, each with the map of why."""
    if not repair.changed:
        st.markdown("No photo changed its class.")
        return
    held_out = sum(one.held_out for one in repair.changed)
    st.markdown(f"**{len(repair.changed)} photos changed their class**, {held_out:,} of them held out")
    chosen = sorted(repair.changed, key=lambda one: not one.held_out)[:_TILES]
    maps = [explain_change(opened.stored, repair, one.index) for one in chosen]
    scale = common_scale(maps)
    tiles = [_make_tile(opened, one, values, scale) for one, values in zip(chosen, maps, strict=True)]
    st.html(html.make_tiles(tiles, "clamp(9rem, 13vw, 14rem)"))
    st.html(html.make_color_bar(scale, "logits per cell, the new class less the old one"))
    st.caption("Why: how the repair moved the difference between the logits of the new and of the old class, by cell.")


def _make_tile(opened: OpenedConcepts, one: ChangedPhoto, values: object, scale: float) -> html.Tile:
    stored, names = opened.stored, opened.names
    try:
        photo, crop = stored.read_photo(one.index), stored.crop(stored.by_index[one.index])
        image = html.encode_map_on_photo(values, photo, crop, stored.field, _SIDE, scale)  # type: ignore[arg-type]
    except InspectorError:
        image = draw_raw_grid(values, scale)  # type: ignore[arg-type]
    title = f"{names[one.before]} \N{RIGHTWARDS ARROW} {names[one.after]}"
    lines = [Path(one.path).name, "no label" if one.label is None else f"label {names[one.label]}"]
    lines += ["held out"] if one.held_out else []
    return html.Tile(image, title, lines, f"why {Path(one.path).name} changed its class")


def _pack(folder: Path) -> bytes:
    """Return a folder as a ZIP file."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        for path in sorted(folder.iterdir()):
            file.write(path, f"{folder.name}/{path.name}")
    return packed.getvalue()
