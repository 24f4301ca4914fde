"""What the page Methods shows: maps, curves of insertion and deletion, numbers, and the randomization test."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import streamlit as st

from inspector.analysis.attribution.case import Attribution
from inspector.analysis.attribution.methods import METHODS
from inspector.analysis.faithfulness import CurveKind, Faithfulness, RandomBaseline
from inspector.analysis.randomization import ALL_LAYERS, LAST_LAYER, RandomizationResult
from inspector.explain.class_maps import ClassMaps
from inspector.output.overlay import find_scale
from inspector.output.text import format_mean_and_deviation, format_number
from inspector.ui.components.controls import show_download_buttons, show_table
from inspector.ui.components.faithfulness_chart import draw_faithfulness_chart
from inspector.ui.components.html import MethodTile, encode_map_on_photo, make_method_grid
from inspector.ui.components.save import PictureToSave, show_save_menu, write_maps_lines
from inspector.ui.components.saved_maps import SavedStyle, make_map_to_save
from inspector.ui.state import cache, keys
from inspector.ui.state.jobs import Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from inspector.output.figure_file import Format

# Kinds of results. A task begins with its kind.
MAP, CURVES, BASELINE, RANDOMIZED = "map", "curves", "random baseline", "randomized"

Results: TypeAlias = dict[Task, Any]  # task -> result; a str is an error message
_T = TypeVar("_T")

_SIDE = 480  # longer side of a picture, in pixels
_MANY = 6  # number of methods; with more, the pictures are smaller
_FILES = {"PNG": "methods.png", "PDF": "methods.pdf", "SVG": "methods.svg"}
_FORMATS: "dict[str, Format]" = {"methods.png": "png", "methods.pdf": "pdf", "methods.svg": "svg"}
_GRIDS = {"cells": "coarse random maps", "pixels": "fine random maps"}
_KINDS: tuple[tuple[CurveKind, str], ...] = (
    ("insertion", "A blurred photo is uncovered in the order of the map. The sooner the curve rises, the better."),
    ("deletion", "The photo is covered in the order of the map. The sooner the curve falls, the better."),
)


@dataclass(frozen=True)
class MethodsSelection:
    """What the controls of the page choose."""

    key: cache.MapsKey
    k: int  # class index
    names: tuple[str, ...]  # names of the methods
    curves: bool  # whether insertion and deletion are measured, too
    is_randomized: bool  # whether the maps of networks with shuffled weights are computed, too


def find_result(results: Results, task: Task, kind: type[_T]) -> _T | None:
    """Return a result of type `kind`; None if it is missing or failed."""
    result = results.get(task)
    return result if isinstance(result, kind) else None


def show_maps(maps: ClassMaps, chosen: MethodsSelection, results: Results) -> None:
    """Show the map of each method over the photo, with its numbers below."""
    tiles = [_make_tile(maps, chosen, name, results) for name in chosen.names]
    st.html(make_method_grid(tiles, "clamp(10rem, 20vw, 28rem)" if len(tiles) <= _MANY else "9rem"))
    st.caption(
        "Red is evidence for the class, blue against it. Each map has its own scale. Units differ: only maps in logits "
        "can be compared as numbers. Maps with one value per pixel are clipped at their 99th percentile."
    )


def _make_tile(maps: ClassMaps, chosen: MethodsSelection, name: str, results: Results) -> MethodTile:
    method, result = METHODS[name], results.get((MAP, name))
    if result is None or isinstance(result, str):
        return MethodTile(name, result or "...", summary=method.summary, reference=method.paper)
    picture, scale = _draw_map(maps, result)
    numbers = [("time", f"{result.seconds:.2f} s")]
    if chosen.curves:
        curves = find_result(results, (CURVES, name), Faithfulness)
        areas = ["..." if curves is None else f"{getattr(curves, kind).area:.3f}" for kind, _ in _KINDS]
        numbers += zip((kind for kind, _ in _KINDS), areas, strict=True)
    return MethodTile(name, picture, tuple(numbers), tuple(_list_lines(result, scale)), method.summary, method.paper)


def _draw_map(maps: ClassMaps, attribution: Attribution) -> tuple[bytes, float]:
    """Return the map over the photo as an encoded image, and the |value| with the strongest color."""
    values, view = attribution.values.numpy(force=True), cache.get_view(maps)
    scale = find_scale(values, attribution.grid)
    return encode_map_on_photo(values, view.photo, view.crop, attribution.field, _SIDE, scale), scale


def _list_lines(attribution: Attribution, scale: float) -> Iterator[str]:
    completeness = attribution.completeness
    if completeness is None:
        yield "makes no claim about its sum"
    else:
        verdict = "sum is complete" if completeness.holds else "sum is not complete"
        numbers = f"{format_number(completeness.sum, '.3f')} of {format_number(completeness.target, '.3f')}"
        yield f"{verdict}: {numbers} ({completeness.target_name})"
    yield f"scale \N{PLUS-MINUS SIGN}{scale:.3g} ({attribution.unit})"
    if attribution.note:
        yield attribution.note


def show_downloads(maps: ClassMaps, chosen: MethodsSelection, results: Results) -> None:
    """Show buttons that download the maps, as many as there are, as one figure."""
    found = [one for name in chosen.names if (one := find_result(results, (MAP, name), Attribution))]
    curves = {name: both for name in chosen.names if (both := find_result(results, (CURVES, name), Faithfulness))}
    if not found:
        return

    def make_file(name: str) -> bytes:
        # Imported here, because matplotlib takes a second to import.
        from inspector.output.comparison_figure import methods_figure
        from inspector.output.figure_file import encode_figure

        return encode_figure(methods_figure(maps, chosen.k, found, curves), _FORMATS[name])

    with st.container(horizontal=True, vertical_alignment="center"):
        show_download_buttons(_FILES, make_file, "Download the figure", key_prefix="methods ")
        pictures = [_make_figure(maps, chosen, found, curves), *(_make_picture(maps, chosen, one) for one in found)]
        show_save_menu(pictures, "method picture", "Save a picture")


def _write_methods(maps: ClassMaps, chosen: MethodsSelection) -> list[str]:
    return [
        "from inspector.analysis.attribution.methods import compute_attribution",
        *write_maps_lines(chosen.key, maps),
        "inputs = classifier.inputs(maps.view)",
    ]


def _make_figure(
    maps: ClassMaps, chosen: MethodsSelection, found: Sequence[Attribution], curves: Mapping[str, Faithfulness]
) -> PictureToSave:
    """Return the figure of all methods, to be saved."""

    def draw() -> "Figure":
        # Imported here, because matplotlib takes a second to import.
        from inspector.output.comparison_figure import methods_figure

        return methods_figure(maps, chosen.k, found, curves)

    names = [one.name for one in found]
    code = [
        "from inspector.output.comparison_figure import methods_figure",
        *(["from inspector.analysis.faithfulness import PatchTest"] if curves else []),
        *_write_methods(maps, chosen),
        f"results = [compute_attribution(classifier, inputs, {chosen.k}, name) for name in {names!r}]",
    ]
    if curves:
        code.append(f"curves = {{one.name: PatchTest(classifier, inputs, {chosen.k}).measure(one) for one in results}}")
    code.append(f"figure = methods_figure(maps, {chosen.k}, results{', curves' if curves else ''})")
    return PictureToSave("all maps as a figure", draw, "\n".join([*code, 'figure.savefig("methods.png", dpi=200)']))


def _make_picture(maps: ClassMaps, chosen: MethodsSelection, one: Attribution) -> PictureToSave:
    scale = find_scale(one.values.numpy(force=True), one.grid)
    code = [
        *_write_methods(maps, chosen),
        f"result = compute_attribution(classifier, inputs, {chosen.k}, {one.name!r})",
        "values, field = result.values, result.field",
    ]
    meaning = f"{maps.classifier.class_names[chosen.k]}; strongest color at {scale:.3g} {one.unit}"
    return make_map_to_save(one.name, one.values, cache.get_view(maps), one.field, SavedStyle(scale, meaning), code)


def show_curves(maps: ClassMaps, chosen: MethodsSelection, results: Results) -> None:
    """Show the curves of insertion and of deletion."""
    found = {name: find_result(results, (CURVES, name), Faithfulness) for name in chosen.names}
    curves = {name: result for name, result in found.items() if result is not None}
    if not curves:
        st.caption("The curves of insertion and deletion appear here when they are computed.")
        return
    measured = {label: find_result(results, (BASELINE, grid), RandomBaseline) for grid, label in _GRIDS.items()}
    baselines = {label: baseline for label, baseline in measured.items() if baseline is not None}
    outcome = maps.classifier.meaning.outcome
    for column, (kind, explanation) in zip(st.columns(2, gap="large"), _KINDS, strict=True):
        with column:
            st.markdown(f"**{kind.capitalize()}**: {outcome} of the class")
            st.caption(explanation)
            chart = draw_faithfulness_chart(curves, baselines, kind, outcome)
            st.altair_chart(chart, alt=f"{kind} curves of {', '.join(curves)}")
            code = _write_curves(maps, chosen, curves, kind, outcome)
            show_save_menu([PictureToSave(f"{kind} curves", chart.to_dict, code)], f"{kind} chart")


def _write_curves(
    maps: ClassMaps, chosen: MethodsSelection, curves: Iterable[str], kind: CurveKind, outcome: str
) -> str:
    """Return the lines of Python that draw the curves; those of random maps are left out."""
    return "\n".join(
        [
            "from inspector.analysis.faithfulness import PatchTest",
            "from inspector.ui.components.faithfulness_chart import draw_faithfulness_chart",
            *_write_methods(maps, chosen),
            f"test = PatchTest(classifier, inputs, {chosen.k})",
            "curves = {",
            f"    name: test.measure(compute_attribution(classifier, inputs, {chosen.k}, name))",
            f"    for name in {list(curves)!r}",
            "}",
            f"chart = draw_faithfulness_chart(curves, {{}}, {kind!r}, {outcome!r})  # the curves of random maps: "
            "test.measure_random_maps",
            f'chart.save("{kind}.svg")',
        ]
    )


def show_numbers(chosen: MethodsSelection, results: Results) -> None:
    """Show time, completeness and areas under the curves of each method."""
    rows = [row for name in chosen.names if (row := _make_row(name, chosen, results)) is not None]
    if not rows:
        return
    st.markdown("**The methods in numbers**")
    name_column = st.column_config.TextColumn(width="medium", pinned=True)
    columns = {"method": name_column, "seconds": "%.2f", "insertion": "%.3f", "deletion": "%.3f"}
    show_table(rows, "Time, completeness, insertion and deletion", columns, height="content")
    if chosen.curves:
        st.caption(
            "Insertion and deletion are the areas under the curves: high is good for insertion, low for deletion. "
            "Random: mean and standard deviation of four random maps on the same grid. Coarse and fine maps have "
            "separate baselines, because scattered patches change a photo more than one connected region."
        )


def _make_row(name: str, chosen: MethodsSelection, results: Results) -> dict[str, Any] | None:
    attribution = find_result(results, (MAP, name), Attribution)
    if attribution is None:
        return None
    completeness = attribution.completeness
    row: dict[str, Any] = {"method": name, "seconds": attribution.seconds, "completeness": "no claim"}
    if completeness is not None:
        row["completeness"] = f"{format_number(completeness.sum, '.3f')} of {format_number(completeness.target, '.3f')}"
    if chosen.curves:
        curves = find_result(results, (CURVES, name), Faithfulness)
        baseline = find_result(results, (BASELINE, METHODS[name].grid), RandomBaseline)
        for kind, _ in _KINDS:
            row[kind] = None if curves is None else getattr(curves, kind).area
            row[f"{kind}, random"] = "" if baseline is None else _format_baseline(baseline, kind)
    return row


def _format_baseline(baseline: RandomBaseline, kind: CurveKind) -> str:
    mean, deviation = getattr(baseline, kind)
    return format_mean_and_deviation(mean, deviation, ".3f")


def show_randomization(maps: ClassMaps, chosen: MethodsSelection, results: Results) -> None:
    """Show how far each map changes when the weights are shuffled. At first, show only a button to start the test."""
    st.subheader("Randomization test", anchor=False)
    st.caption(
        "The weights of the last layer, then of all layers, are shuffled, so that nothing learned is left. A map that "
        "stays the same does not depend on what the network has learned (Adebayo et al., NeurIPS 2018). Rank "
        "correlation: 1 is the same map, 0 an unrelated one."
    )
    if not chosen.is_randomized:
        if st.button("Shuffle the weights", key=keys.SHUFFLE, icon=":material/shuffle:"):
            st.session_state[keys.SHUFFLED] = chosen.key, chosen.k
            st.rerun()
        return
    rows, tiles, pictures = [], [], []
    for name in chosen.names:
        row = {layers: _format_correlation(results, layers, name) for layers in (LAST_LAYER, ALL_LAYERS)}
        rows.append({"method": name} | row)
        randomized = find_result(results, (RANDOMIZED, ALL_LAYERS, name), RandomizationResult)
        if randomized is not None:
            picture, _ = _draw_map(maps, randomized.attribution)
            tiles.append(MethodTile(name, picture, lines=(f"all layers shuffled: {row[ALL_LAYERS]}",)))
            pictures.append(_make_randomized_picture(maps, chosen, randomized.attribution))
    wide, narrow = st.columns([3, 2], gap="large")
    with wide:
        st.html(make_method_grid(tiles, "9rem"))
        if pictures:
            show_save_menu(pictures, "randomized picture", "Save a picture")
    with narrow:
        show_table(rows, "Rank correlations with the maps of networks with shuffled weights")


def _make_randomized_picture(maps: ClassMaps, chosen: MethodsSelection, one: Attribution) -> PictureToSave:
    """Return a map of the network with all weights shuffled, to be saved."""
    scale = find_scale(one.values.numpy(force=True), one.grid)
    code = [
        "from inspector.analysis.randomization import ALL_LAYERS, shuffle_weights",
        *_write_methods(maps, chosen),
        "shuffled = shuffle_weights(classifier, inputs, ALL_LAYERS)",
        f"result = compute_attribution(shuffled, inputs, {chosen.k}, {one.name!r})",
        "values, field = result.values, result.field",
    ]
    style = SavedStyle(scale, f"all layers shuffled; strongest color at {scale:.3g} {one.unit}")
    return make_map_to_save(f"{one.name} shuffled", one.values, cache.get_view(maps), one.field, style, code)


def _format_correlation(results: Results, layers: str, name: str) -> str:
    task = RANDOMIZED, layers, name
    if task not in results:
        return "..."
    randomized = find_result(results, task, RandomizationResult)
    if randomized is None:
        return "not applicable"
    return "constant map" if randomized.correlation is None else format_number(randomized.correlation, ".3f")
