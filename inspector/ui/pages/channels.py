"""The page of channels: the ledger of a logit, one channel on the photo, and on photos of the user's own."""

from collections.abc import Sequence
from typing import Any

import altair as alt
import streamlit as st
from streamlit.runtime.uploaded_file_manager import UploadedFile

from inspector.analysis.channels import (
    ChannelContributions,
    PhotoChannels,
    classes_with_highest_weight,
    compute_channel_contributions,
)
from inspector.errors import InspectorError
from inspector.explain.class_maps import ClassMaps
from inspector.images.photo import MAX_BYTES
from inspector.output.overlay import common_scale
from inspector.ui.components import html
from inspector.ui.components.channel_grid import activation_bar, number, photo_tiles
from inspector.ui.components.map_canvas import MapDrawing, encode_cells, make_frame, show_maps
from inspector.ui.state import cache
from inspector.ui.state.selection import choose_channel, choose_class, choose_reading
from inspector.ui.state.sidebar import NetworkChoice, SidebarSelection
from inspector.ui.state.streamlit_fixes import fragment

MOST = 200  # photos of a folder
TILES = 12  # of them shown
FOR, AGAINST, SUM = "#D1243F", "#3B6FE0", "#8C8C8C"


def show(selection: SidebarSelection) -> None:
    _explore(selection.network, selection.key, selection.maps)


@fragment
def _explore(choice: NetworkChoice, key: cache.MapsKey, maps: ClassMaps) -> None:
    try:
        k, against, count, raw, place = _controls(maps)
        book = compute_channel_contributions(maps, k, against)
        with place:
            channel = choose_channel(len(book.parts), int(book.order[0]))
        wide, narrow = st.columns([3, 2], gap="large")
        # First what a click is waited for: the chart takes the browser a tenth of a second.
        with narrow:
            _channel(maps, book, channel, raw)
        with wide:
            _book(key, maps, book, k, against, count, channel)
        _folder(choice, channel)
    except InspectorError as error:
        st.error(str(error), icon=":material/error:")


def _controls(maps: ClassMaps) -> tuple[int, int | str | None, int, bool, Any]:
    """The class, what it is read against, how many bars, raw or not, and the place of the channel among them."""
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        k = choose_class(maps)
        against = choose_reading(maps, k)
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        place = st.empty()
        count = st.segmented_control("Bars", [10, 20, 40], default=20, required=True, key="bars", bind="query-params")
        raw = st.toggle("Raw grid", key="grid", bind="query-params", help="The cells as they are, not interpolated.")
    return k, against, count, raw, place


def _book(
    key: cache.MapsKey,
    maps: ClassMaps,
    book: ChannelContributions,
    k: int,
    against: int | str | None,
    count: int,
    channel: int,
) -> None:
    """The waterfall from the bias to the logit, and the same as a table."""
    st.subheader(f"The ledger of {book.title}", anchor=False)
    parts = float(book.parts.double().sum())
    st.markdown(
        f"**bias {_signed(book.bias)} and {len(book.parts)} channels {_signed(parts)} = {_signed(book.total)}**"
    )
    if maps.classifier.head.per_class:
        st.caption(
            "This network ends in one feature map a class, and pools that: the ledger of a class has a single line. "
            "The page Layers shows what goes into it."
        )
    else:
        st.caption(
            "Each channel brings its weight times its pooled value. From the bias down, every bar starts where the one "
            "before it ended; in grey the running sum. Click a line to see the channel."
        )
    lines = book.lines(count)

    def follow() -> None:
        bars = st.session_state["ledger"]["selection"]["bar"]
        if bars and bars[0].get("channel") is not None:
            st.session_state["channel"] = int(bars[0]["channel"])

    spec = _spec(key, k, against, count, book)
    st.vega_lite_chart(
        spec=spec | {"params": [*spec["params"], {"name": "chosen", "value": channel}]},
        key="ledger", on_select=follow, selection_mode="bar",
        alt=f"The bias, the {count} largest of {len(book.parts)} channels and the rest, which sum to {book.total:.4f}",
    )  # fmt: skip
    with st.expander("The ledger as a table"):
        weight, pooled = book.weight, book.pooled
        st.dataframe(
            [
                {
                    "": line.text,
                    "weight": None if line.channel is None or weight is None else float(weight[line.channel]),
                    "pooled value": None if line.channel is None else float(pooled[line.channel]),
                    "brings": line.value,
                    "running sum": line.after,
                }
                for line in lines
            ],
            hide_index=True,
            column_config={
                name: st.column_config.NumberColumn(format="%.4f")
                for name in ("weight", "pooled value", "brings", "running sum")
            },
            alt="The ledger, line by line",
        )


# Altair takes a tenth of a second for a chart, which the choice of a channel leaves as it is.
@st.cache_data(max_entries=64, show_spinner=False)
def _spec(
    key: cache.MapsKey, k: int, against: int | str | None, count: int, _book: ChannelContributions
) -> dict[str, Any]:
    spec: dict[str, Any] = ledger_chart(_book, count).to_dict()
    return spec


def ledger_chart(book: ChannelContributions, count: int) -> alt.LayerChart | alt.FacetChart:
    """Bars from the bias down to the total, each from where the one before ended, with its number and the sum.

    The channel that is `chosen`, a parameter that is left to whoever shows the chart, is brought forward.
    """
    # Here: it takes half a second to import.

    rows: list[dict[str, Any]] = [
        {
            "line": line.text, "channel": line.channel, "start": line.before, "end": line.after,
            "far": max(line.before, line.after), "brings": _signed(line.value, 3), "sum": _signed(line.after, 3),
            "side": "for" if line.value >= 0 else "against",
        }
        for line in book.lines(count)
    ]  # fmt: skip
    rows.append(
        {
            "line": "sum", "channel": None, "start": 0.0, "end": book.total, "far": max(0.0, book.total),
            "brings": _signed(book.total, 3), "sum": "", "side": "sum",
        }
    )  # fmt: skip
    ends = [row[end] for row in rows for end in ("start", "end")]
    low, high = min(ends), max(ends)
    # Room for the numbers at the right.
    high += 0.55 * (high - low or 1)
    bold = alt.condition("datum.value === 'channel ' + chosen", alt.value("bold"), alt.value("normal"))
    names = alt.Axis(labelLimit=150, labelOverlap=False, labelBaseline="middle", labelFontWeight=bold, ticks=False)
    base = alt.Chart(alt.InlineData(rows)).encode(
        y=alt.Y("line:N", sort=None, title=None, axis=names),
        tooltip=["line:N", "brings:N", alt.Tooltip("sum:N", title="running sum")],
    )
    colour = alt.Color(
        "side:N", scale=alt.Scale(domain=["for", "against", "sum"], range=[FOR, AGAINST, SUM]), legend=None
    )
    forward = alt.condition("datum.channel === chosen", alt.value(1), alt.value(0.72))
    bars = base.mark_bar(cornerRadius=2, height={"band": 0.72}).encode(
        x=alt.X("start:Q", title="logits", scale=alt.Scale(domain=[low, high], nice=False, zero=False)),
        x2="end:Q", color=colour, opacity=forward,
    )  # fmt: skip
    value = base.mark_text(align="left", dx=5, color=SUM, fontWeight="bold").encode(x="far:Q", text="brings:N")
    running = base.mark_text(align="right", color=SUM).encode(x=alt.datum(high), text="sum:N")
    # The whole row is clicked: a bar may be as thin as a hair.
    click = alt.selection_point(name="bar", fields=["channel"], on="click", empty=False)
    rows_to_click = base.mark_bar(opacity=0, cursor="pointer").encode(x=alt.datum(low), x2=alt.datum(high))
    return alt.layer(bars, value, running, rows_to_click.add_params(click)).properties(height=20 * len(rows) + 50)


def _channel(maps: ClassMaps, book: ChannelContributions, c: int, raw: bool) -> None:
    """One channel over the photo, and what it brings."""
    values, view = maps.feature_maps[c], maps.view
    assert view is not None, "the app shows photos only"
    rank, part = book.order.tolist().index(c) + 1, _signed(float(book.parts[c]))
    st.subheader(f"Channel {c}", anchor=False)
    scale = common_scale([values.numpy(force=True)])
    how = make_frame(values.shape, view, maps.classifier.receptive_field, 640, not raw)
    show_maps("the channel", view, how, [MapDrawing(encode_cells(values, scale), f"channel {c} on the photo")])
    st.html(activation_bar(scale, bool((values < 0).any())))
    if book.weight is None:
        st.markdown(f"It brings **{part}** logits: every position has a weight of its own.")
    else:
        weight, pooled = _signed(float(book.weight[c])), number(float(book.pooled[c]))
        st.markdown(
            f"weight **{weight}** x pooled value **{pooled}** = **{part}** logits",
            help="The pooled value is what the pooling makes of the map: its mean, or its maximum. The weight is what "
            "the class gives for it; of a difference, the difference of the weights.",
        )
    st.caption(f"Number {rank} of {len(book.parts)} by size for {html.plain_text(book.title)}.")
    if (liked := classes_with_highest_weight(maps, c, 5)) and not maps.classifier.head.per_class:
        names = ", ".join(f"{html.plain_text(name)} ({_signed(weight, 3)})" for _, name, weight in liked)
        st.markdown(f"**Classes with its highest weights**: {names}")


def _folder(choice: NetworkChoice, channel: int) -> None:
    """The photos of the user's own on which the channel is strongest."""
    st.subheader(f"Photos that channel {channel} answers to", anchor=False)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(
            f"What does a channel stand for? Give up to {MOST} photos: each is run once, and those with the channel's "
            "highest pooled values are shown. They stay in this server's memory, and no other session sees them."
        )
        whole = st.toggle("A whole folder", key="whole folder", help="Choose a folder in place of single files.")
    uploads = st.file_uploader(
        "Photos", type=["jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif"],
        accept_multiple_files="directory" if whole else True, key=f"photos of channels {whole}",
        max_upload_size=MAX_BYTES // 1_000_000, label_visibility="collapsed",
    )  # fmt: skip
    if not uploads:
        st.info("No photos yet: drop some here, of one kind or of many.", icon=":material/photo_library:")
        return
    if len(uploads) > MOST:
        st.warning(f"The first {MOST} of {len(uploads)} photos are used.", icon=":material/warning:")
    heard, bad = _heard(choice, uploads[:MOST])
    if bad:
        with st.expander(
            "One file was skipped" if len(bad) == 1 else f"{len(bad)} files were skipped", icon=":material/warning:"
        ):
            st.markdown("\n".join(f"- {html.plain_text(sentence)}" for sentence in bad))
    if heard:
        best = sorted(heard, key=lambda one: -float(one.pooled[channel]))[:TILES]
        st.caption(f"The highest {len(best)} of {len(heard)} photos, all on one scale, as the network sees them.")
        st.html(photo_tiles(best, channel, choice.load().receptive_field))


def _heard(choice: NetworkChoice, uploads: Sequence[UploadedFile]) -> tuple[list[PhotoChannels], list[str]]:
    """What the channels make of each photo, and a sentence for each that cannot be used."""
    heard: list[PhotoChannels] = []
    bad: list[str] = []
    # Where nothing new came, no bar flickers by.
    new = st.session_state.get("heard") != (choice.key, [upload.file_id for upload in uploads])
    bar = st.progress(0.0, f"Running {choice.name} on {len(uploads)} photos ...") if new else None
    for n, upload in enumerate(uploads):
        one = cache.photo_channels_of(choice.key, upload.file_id, upload.name, upload, choice.load)
        (bad if isinstance(one, str) else heard).append(one)  # type: ignore[arg-type]
        if bar is not None:
            bar.progress((n + 1) / len(uploads), f"{n + 1} of {len(uploads)} photos")
    if bar is not None:
        bar.empty()
    st.session_state["heard"] = choice.key, [upload.file_id for upload in uploads]
    return heard, bad


def _signed(value: float, digits: int = 4) -> str:
    return f"{value:+.{digits}f}".replace("-", "\N{MINUS SIGN}")
