"""The cards of a class: crops, numbers, name and flag of each concept. One card can be opened."""

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from inspector.datasets.concepts import files
from inspector.datasets.concepts.crops import read_crops
from inspector.datasets.concepts.files import FLAGS, ConceptFlag
from inspector.datasets.concepts.model import ClassConcepts, ConceptCard
from inspector.datasets.concepts.outcomes import ConceptTrial
from inspector.datasets.concepts.report import describe_card, describe_position, describe_terms
from inspector.errors import ClassError, InspectorError
from inspector.explain.class_names import label_names
from inspector.ui.components import html
from inspector.ui.components.controls import choose_option
from inspector.ui.components.markdown import plain
from inspector.ui.pages import concepts_photo, concepts_trial
from inspector.ui.state import keys, links
from inspector.ui.state.concept_work import OpenedConcepts
from inspector.ui.state.top_bar import Bar

_SIDE = 176  # pixels of a crop
_COLORS = {"object": "green", "context": "blue", "shortcut": "red", "unclear": "gray"}

Flags = Mapping[str, ConceptFlag]


def show_class(bar: Bar, opened: OpenedConcepts, flags: Flags | None) -> None:
    """Show the choice of a class, and its cards, or the opened one. Without `flags` no card can be flagged."""
    found = opened.found
    opened_card = _find_opened(opened)
    labels = label_names(opened.names)
    offered = [labels[one.k] for one in found.classes]
    if opened_card is not None and st.session_state.get(keys.CONCEPT_CLASS) != labels[opened_card.k]:
        st.session_state[keys.CONCEPT_CLASS] = labels[opened_card.k]
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        label = choose_option("Class", offered, key=keys.CONCEPT_CLASS, on_change=_close_card)
        if opened_card is not None:
            st.button(
                "All concepts of the class", icon=":material/arrow_back:", key=keys.ALL_CONCEPTS, on_click=_close_card
            )
    one = found.find_class(labels.index(label))
    if opened_card is None:
        _show_sum(one)
        _show_cards(opened, one, one.cards, flags)
        _show_skipped(found.skipped)
        return
    _show_cards(opened, one, [opened_card], flags)
    concepts_photo.show_photo(bar, opened, one, opened_card, flags or {})
    concepts_trial.show_trial(opened, opened_card)


def name_card(card: ConceptCard, flags: Flags) -> str:
    """Return the key of a card and the name that it was given, if any."""
    return f"{card.key} {flags.get(card.key, ConceptFlag()).name}".rstrip()


def _find_opened(opened: OpenedConcepts) -> ConceptCard | None:
    """Return the card that the link names; None if it names none, or one that does not exist."""
    key = st.query_params.get(keys.CONCEPT)
    if not key:
        return None
    try:
        return opened.found.find_card(key)
    except ClassError as error:
        links.add_note(keys.CONCEPT, str(error))
        return None


def _open_card(key: str) -> None:
    links.drop_note(keys.CONCEPT)
    st.query_params[keys.CONCEPT] = key


def _close_card() -> None:
    links.drop_note(keys.CONCEPT)
    st.query_params.pop(keys.CONCEPT, None)


def _show_sum(one: ClassConcepts) -> None:
    st.subheader(plain(one.name), anchor=False)
    text = plain(describe_terms(one))
    if one.difference is not None:
        text += (
            f". The features are stored in float16: their logits are within {one.difference:.1g} of the network's own."
        )
    st.caption(text)


def _show_skipped(sentences: Sequence[str]) -> None:
    if sentences:
        with st.expander(f"{len(sentences)} classes have too few photos"):
            st.markdown("\n".join(f"- {plain(sentence)}" for sentence in sentences))


def _show_cards(opened: OpenedConcepts, one: ClassConcepts, cards: Sequence[ConceptCard], flags: Flags | None) -> None:
    with st.spinner("Cutting the crops ..."):
        key = str(opened.folder), opened.found.sha256, one.k
        crops = _draw_crops(*key, opened, one)
        if any(len(crops[card.key]) < len(card.positions) for card in one.cards):
            _draw_crops.clear(*key, opened, one)  # the photos may be there next time
    place = st.container(key=keys.CONCEPT_CARDS) if len(cards) > 1 else st.container()
    for card in cards:
        with place, st.container(border=True):
            text, pictures = st.columns([1, 3], gap="medium")
            with text:
                _show_card(opened, card, flags, is_alone=len(cards) == 1)
            with pictures:
                shown = crops[card.key]
                if shown:
                    st.html(html.make_crops(shown))
                else:
                    st.caption(plain(_explain_missing(opened, card)))


def _show_card(opened: OpenedConcepts, card: ConceptCard, flags: Flags | None, is_alone: bool) -> None:
    flag = (flags or {}).get(card.key, ConceptFlag())
    badge = f" :{_COLORS[flag.flag]}-badge[{plain(flag.flag)}]" if flag.flag else ""
    st.markdown(f"**{plain(name_card(card, flags or {}))}**{badge}")
    lines = describe_card(card).split("; ")
    if (trial := opened.trials.get(card.key)) is not None:
        lines.append(describe_outcome(trial))
    st.caption("  \n".join(plain(line) for line in lines))
    is_off = flags is None or not opened.may_write
    _choose_flag(opened, card, flag, is_off)
    if not is_alone:
        st.button(
            plain(f"Open {card.key}"),
            key=f"open {card.key}",
            icon=":material/open_in_full:",
            on_click=_open_card,
            args=(card.key,),
        )


def describe_outcome(trial: ConceptTrial) -> str:
    """Return the main result of a test in one line."""
    if not trial.added.trials:
        return "tested: there was no photo of another class"
    added, random = trial.added.share, trial.added_random.share
    return f"tested: {added:.0%} of the photos with a part of it become the class (with random parts {random:.0%})"


def _choose_flag(opened: OpenedConcepts, card: ConceptCard, flag: ConceptFlag, is_off: bool) -> None:
    """Show flag and name of a concept. What is chosen is written at once."""
    flag_key, name_key = f"flag {card.key}", f"name {card.key}"
    # Another visitor, or the command line, may have changed the file.
    for key, value in ((flag_key, flag.flag), (name_key, flag.name)):
        if st.session_state.get(key) != value:
            st.session_state[key] = value

    def write() -> None:
        try:
            files.change_flag(
                opened.flags_path, opened.found, card.key, st.session_state[flag_key], st.session_state[name_key]
            )
        except InspectorError as error:
            st.session_state[keys.CONCEPT_PROBLEM] = str(error)

    settings: dict[str, Any] = {"on_change": write, "disabled": is_off, "label_visibility": "collapsed"}
    st.segmented_control(plain(f"Flag of {card.key}"), FLAGS, key=flag_key, **settings)
    st.text_input(plain(f"Name of {card.key}"), key=name_key, placeholder="name", max_chars=200, **settings)


def _explain_missing(opened: OpenedConcepts, card: ConceptCard) -> str:
    """Return why the crops of a card cannot be shown."""
    if not card.positions:
        return "No cell has this concept."
    try:
        opened.stored.read_photo(card.positions[0].photo)
    except InspectorError as error:
        return str(error)
    return "The photos cannot be shown."


# Kept for the session only: what a visitor may read, and uploads, are its own.
@st.cache_data(scope="session", max_entries=6, show_spinner=False)
def _draw_crops(
    folder: str, sha256: str, k: int, _opened: OpenedConcepts, _one: ClassConcepts
) -> dict[str, list[tuple[bytes, str]]]:
    """Return the crops of all cards of a class, by their keys: JPEG, and what it shows."""
    positions = [(card.key, position) for card in _one.cards for position in card.positions]
    crops: dict[str, list[tuple[bytes, str]]] = {card.key: [] for card in _one.cards}
    pixels = read_crops(_opened.stored, [position for _, position in positions], _SIDE)
    for (key, position), one in zip(positions, pixels, strict=True):
        if one is not None:
            crops[key].append((html.encode_image(one, exact=False), describe_position(position)))
    return crops
