"""The page of methods: the exact map beside others, whether they add up, and whether the network uses them."""

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from typing import Any

import altair as alt
import streamlit as st

from inspector.analysis.attribution.case import Attribution
from inspector.analysis.attribution.methods import METHODS, compute_attribution
from inspector.analysis.faithfulness import (
    ALL,
    LAST,
    Curve,
    Faithfulness,
    Kind,
    RandomBaseline,
    Randomized,
    compute_random_baseline,
    measure_faithfulness,
    measure_randomization,
    shuffle_weights,
)
from inspector.explain.class_maps import ClassMaps
from inspector.output.overlay import common_scale, robust_scale
from inspector.ui.components import html
from inspector.ui.components.channel_grid import over_photo
from inspector.ui.components.charts import COLOURS
from inspector.ui.state import cache
from inspector.ui.state.jobs import Job, Task, Work, translate_memory_error
from inspector.ui.state.selection import choose_class
from inspector.ui.state.sidebar import SidebarSelection

USUAL = ("Exact map", "Grad-CAM", "Saliency", "Integrated gradients")
_JOB = "methods job"
_SIDE = 480  # pixels of the longer side of a tile
_MANY = 6  # methods; of more, the tiles are smaller
# What is made of a method: its map, its curves, chance on its grid, its map with shuffled weights.
MAP, CURVES, CHANCE, SHUFFLED = "map", "curves", "chance", "shuffled"


@dataclass(frozen=True)
class Asked:
    """What the page is to show."""

    key: cache.MapsKey
    k: int
    names: tuple[str, ...]
    curves: bool
    shuffled: bool


def show(selection: SidebarSelection) -> None:
    asked = _controls(selection.maps, selection.key, list(METHODS))
    if not asked.names:
        st.info("Choose a method above, and its map of the photo appears here.", icon=":material/compare:")
        return
    _page(selection.maps, asked)


def _controls(maps: ClassMaps, key: cache.MapsKey, names: list[str]) -> Asked:
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        k = choose_class(maps)
        curves = st.toggle(
            "Insertion and deletion", True, key="curves", bind="query-params",
            help="Does the network use what a map points at? The photo is covered, or uncovered, where the map is "
            "highest first, and the probability of the class is followed.",
        )  # fmt: skip
    chosen = st.pills(
        "Methods", names, selection_mode="multi", default=list(USUAL), key="methods", bind="query-params",
        help="The exact map is read off the head of the network; the others estimate. Occlusion and Score-CAM run the "
        "network more than a hundred times.",
    )  # fmt: skip
    shuffled = st.session_state.get("shuffled") == (key, k)
    return Asked(key, k, tuple(name for name in names if name in chosen), curves, shuffled)


def _page(maps: ClassMaps, asked: Asked) -> None:
    results = cache.methods_of(asked.key, asked.k)
    job = _job(maps, asked, results)
    _progress(job, len(results))
    found = dict(results)
    wide, narrow = st.columns([3, 2], gap="large")
    with wide:
        st.html(_tiles(maps, asked, found))
        st.caption(
            "Red speaks for the class, blue against it, each map on a scale of its own. Units differ: only maps in "
            "logits can be compared as numbers. Of maps with a value a pixel the highest hundredth is cut off."
        )
    with narrow:
        if asked.curves:
            _curves(asked, found)
    _table(asked, found)
    _shuffling(maps, asked, found)


# The work


def _job(maps: ClassMaps, asked: Asked, results: dict[Task, Any]) -> Job | None:
    """The work under way for what is asked; that for something else is stopped."""
    before: tuple[Asked, Job] | None = st.session_state.get(_JOB)
    works = _works(maps, asked)
    missing = {task: work for task, work in works.items() if task not in results}
    if before is not None:
        if missing and before[0] == asked and (before[1].running or before[1].stop.is_set()):
            return before[1]
        before[1].stop.set()
    if not missing:
        st.session_state.pop(_JOB, None)
        return None
    job = Job(missing, results)
    st.session_state[_JOB] = asked, job
    # What is quick is there at once.
    job.thread.join(0.3)
    return job


def _works(maps: ClassMaps, asked: Asked) -> dict[Task, Work]:
    assert maps.view is not None, "the app shows photos only"
    classifier, inputs, k = maps.classifier, maps.classifier.inputs(maps.view), asked.k
    results = cache.methods_of(asked.key, k)
    works: dict[Task, Work] = {}
    for name in asked.names:
        works[MAP, name] = partial(compute_attribution, classifier, inputs, k, name)

    def after(task: Task, work: Any) -> Work:
        """Work with the map that an earlier piece has made; its sentence where there is none."""

        def run(tell: Any, stopped: Any) -> Any:
            made = results[task]
            return made if isinstance(made, str) else work(made, tell, stopped)

        return run

    if asked.curves:
        for name in asked.names:
            works[CURVES, name] = after(
                (MAP, name),
                lambda made, tell, stopped: measure_faithfulness(
                    classifier, inputs, k, made, on_progress=tell, should_stop=stopped
                ),
            )
            works[CHANCE, METHODS[name].grid] = after(
                (MAP, name),
                lambda made, tell, stopped: compute_random_baseline(
                    classifier, inputs, k, made, on_progress=tell, should_stop=stopped
                ),
            )
    if asked.shuffled:
        for layers in (LAST, ALL):
            # Once for all methods, and only when its turn has come.
            other = functools.cache(partial(shuffle_weights, classifier, inputs, layers))
            for name in asked.names:
                works[SHUFFLED, layers, name] = after(
                    (MAP, name),
                    lambda made, tell, stopped, other=other: measure_randomization(
                        other(), inputs, k, made, tell, stopped
                    ),
                )
    return {task: translate_memory_error(work) for task, work in works.items()}


def _progress(job: Job | None, shown: int) -> None:
    """A bar and a button to stop while there is work; the page is drawn again for every result."""
    place = st.empty()
    if job is None:
        return
    if not job.running:
        # What is quick may have ended meanwhile.
        if not job.stop.is_set():
            return
        with place.container(horizontal=True, vertical_alignment="center"):
            st.caption("Stopped.")
            if st.button("Go on", key="go on", icon=":material/play_arrow:"):
                st.session_state.pop(_JOB, None)
                st.rerun()
        return

    def watch() -> None:
        job.look()
        if not job.running or len(job.results) != shown:
            st.rerun()
        with st.container(horizontal=True, vertical_alignment="center"):
            st.progress(job.progress, _doing(job))
            if st.button("Stop", key="stop", icon=":material/stop:"):
                job.stop.set()
                job.thread.join(2)
                st.rerun()

    with place.container():
        st.fragment(watch, run_every=0.4)()


def _doing(job: Job) -> str:
    if not job.at:
        return "Waiting for the methods of other sessions ..."
    kind, *of = job.at
    name = of[-1]
    what = {
        MAP: f"{name} ...",
        CURVES: f"Insertion and deletion by {name} ...",
        CHANCE: "Insertion and deletion by chance ...",
        SHUFFLED: f"{name} with shuffled weights ({of[0]}) ...",
    }
    return what[kind]


# What is shown


def _tiles(maps: ClassMaps, asked: Asked, found: dict[Task, Any]) -> str:
    tiles = []
    for name in asked.names:
        made, method = found.get((MAP, name)), METHODS[name]
        lines = f"{escape(method.summary)} <i>{escape(method.paper)}</i>"
        if made is None:
            tiles.append(_tile("<div>...</div>", name, lines))
        elif isinstance(made, str):
            tiles.append(_tile(f"<div>{escape(made)}</div>", name, lines))
        else:
            image, scale = _picture(maps, made)
            tiles.append(_tile(image, name, "<br>".join([*_told(made, scale), lines])))
    return _grid(tiles, "13rem" if len(tiles) <= _MANY else "9rem")


def _picture(maps: ClassMaps, made: Attribution) -> tuple[str, float]:
    """The map over the photo as an HTML image, and the value of its densest colour."""
    assert maps.view is not None, "the app shows photos only"
    values = made.values.numpy(force=True)
    scale = common_scale([values]) if METHODS[made.name].grid == "cells" else robust_scale(values)
    data = over_photo(made.values, maps.view, made.field, _SIDE, scale, True)
    return f'<img src="{html.make_data_url(data)}" alt="{escape(made.name)} over the photo">', scale


def _told(made: Attribution, scale: float) -> Iterable[str]:
    yield f"scale \N{PLUS-MINUS SIGN}{scale:.3g} ({escape(made.unit)}), {made.seconds:.2f} s"
    told = made.completeness
    if told is None:
        yield "does not claim to add up"
    else:
        word = "adds up" if told.holds else "<b>does not add up</b>"
        yield f"{word}: {_number(told.sum)} of {_number(told.target)} ({escape(told.target_name)})"
    if made.note:
        yield escape(made.note)


def _tile(picture: str, name: str, lines: str) -> str:
    return f"<figure>{picture}<figcaption><b>{escape(name)}</b><br><span>{lines}</span></figcaption></figure>"


def _grid(tiles: Sequence[str], narrowest: str) -> str:
    columns = f"repeat(auto-fill, minmax(min({narrowest}, 100%), 1fr))"
    return f"""
    <style>
      .methods {{ display: grid; gap: 1rem }}
      .methods figure {{ margin: 0 }}
      .methods img {{ width: 100%; display: block }}
      .methods figure > div {{ aspect-ratio: 3 / 2; display: grid; place-items: center; text-align: center;
        border: 1px dashed rgba(128, 128, 128, .6); padding: .5rem; font-size: .85rem; box-sizing: border-box }}
      .methods figcaption {{ font-size: .85rem; line-height: 1.35; margin-top: .3rem; overflow-wrap: anywhere }}
      .methods span {{ opacity: .75 }}
    </style>
    <div class="methods" style="grid-template-columns: {columns}">{"".join(tiles)}</div>"""


def _number(value: float | None, digits: int = 3) -> str:
    return "" if value is None else f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _curves(asked: Asked, found: dict[Task, Any]) -> None:
    curves: dict[str, Faithfulness] = {
        name: made for name in asked.names if (made := found.get((CURVES, name))) and not isinstance(made, str)
    }
    if not curves:
        st.caption("The curves of insertion and deletion appear here as they are made.")
        return
    luck: dict[str, RandomBaseline] = {
        f"chance, {word}": made
        for grid, word in (("cells", "coarse maps"), ("pixels", "fine maps"))
        if (made := found.get((CHANCE, grid))) and not isinstance(made, str)
    }
    kinds: tuple[tuple[Kind, str], ...] = (
        ("insertion", "A blurred photo is uncovered where the map is highest first. The sooner it rises, the better."),
        ("deletion", "The photo is covered where the map is highest first. The sooner it falls, the better."),
    )
    for kind, line in kinds:
        st.markdown(f"**{kind.capitalize()}**: probability of the class")
        st.caption(line)
        st.altair_chart(curves_chart(curves, luck, kind), alt=f"{kind} curves of {', '.join(curves)}")


def curves_chart(curves: dict[str, Faithfulness], luck: dict[str, RandomBaseline], kind: Kind) -> alt.Chart:
    """The probability of the class over the part of the photo that is covered or uncovered, a line a method.

    In grey the mean of random maps. The first line is broad, so that another upon it is seen.
    """
    drawn: dict[str, Curve] = {name: getattr(both, kind) for name, both in curves.items()}
    drawn |= {name: made.mean(kind) for name, made in luck.items()}
    rows = [
        {"method": name, "part of the photo": float(x), "probability": float(y), "width": 2 if n else 5}
        for n, (name, curve) in enumerate(drawn.items())
        for x, y in zip(curve.fractions, curve.probabilities, strict=True)
    ]
    names, count, random = list(drawn), len(curves), len(luck)
    colours = [COLOURS[n % (len(COLOURS) - 1)] for n in range(count)] + [COLOURS[-1]] * random
    dashes = [[[1, 0], [5, 3], [2, 2]][n // (len(COLOURS) - 1)] for n in range(count)] + [[8, 3], [2, 3]][:random]
    legend = alt.Legend(
        orient="bottom", columns=2, columnPadding=6, labelLimit=130, labelFontSize=11, title=None, symbolOpacity=1,
        symbolSize=100,
    )  # fmt: skip
    chart: alt.Chart = (
        alt.Chart(alt.InlineData(rows))
        .mark_line()
        .encode(
            x=alt.X("part of the photo:Q", axis=alt.Axis(format="%", grid=False)),
            y=alt.Y("probability:Q", title=None, axis=alt.Axis(format="%"), scale=alt.Scale(zero=True)),
            color=alt.Color("method:N", scale=alt.Scale(domain=names, range=colours), legend=legend),
            strokeDash=alt.StrokeDash("method:N", scale=alt.Scale(domain=names, range=dashes), legend=legend),
            strokeWidth=alt.StrokeWidth("width:Q", scale=None, legend=None),
            tooltip=[
                "method:N",
                alt.Tooltip("part of the photo:Q", format=".0%"),
                alt.Tooltip("probability:Q", format=".1%"),
            ],
        )
        .properties(height=220 + 11 * len(names))
    )
    return chart


def _table(asked: Asked, found: dict[Task, Any]) -> None:
    rows = [row for name in asked.names if (row := _row(name, METHODS[name].grid, asked, found)) is not None]
    if not rows:
        return
    st.markdown("**The methods in numbers**")
    three = st.column_config.NumberColumn(format="%.3f")
    settings: dict[str, Any] = {
        "method": st.column_config.TextColumn(width="medium", pinned=True),
        "seconds": st.column_config.NumberColumn(format="%.2f"),
        "insertion": three, "deletion": three,
    }  # fmt: skip
    st.dataframe(
        rows, hide_index=True, column_config=settings, height="content",
        alt="Time, completeness, insertion and deletion",
    )  # fmt: skip
    if asked.curves:
        st.caption(
            "Insertion and deletion are the areas under the curves: high is good for insertion, low for deletion. By "
            "chance: the mean and spread of four random maps on the same grid, for coarse and for fine ones, because "
            "scattered patches harm a photo more than as many in one piece."
        )


def _row(name: str, grid: str, asked: Asked, found: dict[Task, Any]) -> dict[str, Any] | None:
    made: Attribution | str | None = found.get((MAP, name))
    if made is None or isinstance(made, str):
        return None
    told = made.completeness
    row: dict[str, Any] = {
        "method": name,
        "seconds": made.seconds,
        "adds up": f"{_number(told.sum)} of {_number(told.target)}" if told else "no claim",
    }
    if asked.curves:
        curves: Faithfulness | str | None = found.get((CURVES, name))
        luck: RandomBaseline | str | None = found.get((CHANCE, grid))
        for kind in ("insertion", "deletion"):
            row[kind] = None if curves is None or isinstance(curves, str) else getattr(curves, kind).area
            row[f"{kind} by chance"] = (
                "" if luck is None or isinstance(luck, str) else _with_spread(*getattr(luck, kind))
            )
    return row


def _with_spread(mean: float, spread: float) -> str:
    return f"{mean:.3f} \N{PLUS-MINUS SIGN} {spread:.3f}"


def _shuffling(maps: ClassMaps, asked: Asked, found: dict[Task, Any]) -> None:
    st.subheader("Does a map change when the network does?", anchor=False)
    st.caption(
        "The weights of the last layer, then of all layers, are put in random order, so that nothing learned is left. "
        "A map that stays as it was never explained the network (Adebayo et al., NeurIPS 2018). Rank correlation: 1 is "
        "the same map, 0 an unrelated one."
    )
    if not asked.shuffled:
        if st.button("Shuffle the weights", key="shuffle", icon=":material/shuffle:"):
            st.session_state["shuffled"] = asked.key, asked.k
            st.rerun()
        return
    rows, tiles = [], []
    for name in asked.names:
        row: dict[str, Any] = {"method": name}
        for layers in (LAST, ALL):
            made: Randomized | str | None = found.get((SHUFFLED, layers, name))
            if made is None or isinstance(made, str):
                row[layers] = "..." if made is None else "does not apply"
                continue
            row[layers] = "constant map" if made.correlation is None else _number(made.correlation)
            if layers == ALL:
                tiles.append(_tile(_picture(maps, made.attribution)[0], name, f"all layers shuffled: {row[layers]}"))
        rows.append(row)
    wide, narrow = st.columns([3, 2], gap="large")
    with wide:
        st.html(_grid(tiles, "9rem"))
    with narrow:
        st.dataframe(rows, hide_index=True, alt="Rank correlations with the maps of networks with shuffled weights")
