"""The summary of a data set, from hand-made results whose numbers are known."""

import csv
import json
import math
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from made_up_results import Image, make_about, make_row, write_results

from inspector import class_maps
from inspector.analysis.localization import Regions, find_object_mask, measure_evidence_inside
from inspector.cli.dataset import survey as survey_command
from inspector.datasets import index as dataset_index
from inspector.datasets.index import Filters
from inspector.datasets.results import Results, read_results, read_stored_image, unpack_maps
from inspector.datasets.statistics import compute_uniform_border_share, count_effective_cells, measure_border_share
from inspector.datasets.stored_maps import make_crop, read_receptive_field
from inspector.datasets.summarize import _match_pairs, summarize
from inspector.datasets.summary import AverageMaps, belongs_to, read_summary
from inspector.errors import ExportError, InspectorError, LocalizationError
from inspector.explain.classifier import Classifier
from inspector.explain.grid import resample_on_photo
from inspector.explain.receptive_field import Axis, ReceptiveField
from inspector.images.photo import read_image
from inspector.images.preprocessing import Crop, Preprocessing, make_view

NAMES = ("cat", "dog", "fox")
GRID = (3, 3)


def one_cell(row: int, column: int, value: float = 1.0) -> np.ndarray:
    """Return a map with one cell that is not zero."""
    cells = np.zeros(GRID)
    cells[row, column] = value
    return cells


MIDDLE, CORNER, EVEN = one_cell(1, 1), one_cell(0, 0), np.ones(GRID)


def make_images() -> list[Image]:
    """Two cats predicted as cats, two foxes as cats (one with a third map), a label that is no class, others."""
    return [
        Image("photos/a.png", {0: MIDDLE, 1: CORNER}, label=0),
        Image("photos/b.png", {0: 3 * MIDDLE, 2: EVEN}, label=0),
        Image("photos/c.png", {0: CORNER, 2: EVEN}, label=2),
        Image("photos/d.png", {0: 2 * CORNER, 1: MIDDLE, 2: one_cell(2, 2, 4)}, label=2, rank=2),
        Image("photos/E.png", {1: EVEN, 0: MIDDLE}, text="wolf"),
        Image("photos/f.png", {}, error="f.png is broken"),
        Image("photos/g.png", {1: -EVEN, 0: np.zeros(GRID)}),
    ]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return write_results(tmp_path / "results", make_images(), make_about(NAMES, GRID))


def test_border_shares_and_effective_cells_equal_the_values_worked_out_by_hand() -> None:
    maps = np.stack([MIDDLE, CORNER, EVEN, MIDDLE + 3 * CORNER, np.zeros(GRID), one_cell(1, 1, math.inf)])
    assert measure_border_share(maps)[:4].tolist() == pytest.approx([0, 1, 8 / 9, 3 / 4])
    assert np.isnan(measure_border_share(maps)[4:]).all()
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert count_effective_cells(maps)[:4].tolist() == pytest.approx([1, 1, 9, math.exp(entropy)])
    assert np.isnan(count_effective_cells(maps)[4:]).all()
    assert count_effective_cells(-maps[:4]).tolist() == count_effective_cells(maps[:4]).tolist()
    # In a grid of two rows, all cells are at the border.
    assert measure_border_share(np.ones((1, 2, 5))).tolist() == [1]
    assert compute_uniform_border_share((7, 7)) == pytest.approx(24 / 49)


def test_counts_and_accuracy_match_the_images(results: Path, tmp_path: Path) -> None:
    found = summarize(results, tmp_path / "out")
    counts = found.counts
    assert (counts.images, counts.errors, counts.labelled, counts.classed) == (7, 1, 5, 4)
    assert (counts.top1, counts.top5) == (0.5, 1.0)
    assert counts.residual == pytest.approx(6e-6)
    assert counts.verdicts == {"exact": 6}
    assert counts.border == pytest.approx((0 + 0 + 1 + 1 + 8 / 9 + 8 / 9) / 6)
    # The last map has no positive value.
    assert counts.border_positive == pytest.approx((0 + 0 + 1 + 1 + 8 / 9) / 5)
    assert counts.positions == pytest.approx((1 + 1 + 1 + 1 + 9 + 9) / 6)
    assert (counts.inside, counts.with_objects) == (None, 0)


def test_average_maps_are_the_means_over_their_images(results: Path, tmp_path: Path) -> None:
    found = summarize(results, tmp_path / "out")
    assert found.predicted.counts.tolist() == [4, 2, 0]
    assert found.labeled.counts.tolist() == [2, 0, 2]
    np.testing.assert_allclose(found.predicted.mean()[0], (4 * MIDDLE + 3 * CORNER) / 4)
    np.testing.assert_allclose(found.predicted.mean()[1], 0 * EVEN)
    np.testing.assert_allclose(found.labeled.mean()[0], 2 * MIDDLE)
    np.testing.assert_allclose(found.labeled.mean()[2], (EVEN + one_cell(2, 2, 4)) / 2)
    assert not found.predicted.mean()[2].any()


def test_a_confusion_has_the_mean_contrast_of_its_images(results: Path, tmp_path: Path) -> None:
    found = summarize(results, tmp_path / "out")
    assert found.pairs.tolist() == [[2, 0]]
    assert found.contrasts.counts.tolist() == [2]
    np.testing.assert_allclose(found.contrasts.mean()[0], (3 * CORNER - EVEN - one_cell(2, 2, 4)) / 2)


def test_sums_over_many_images_equal_those_of_a_plain_loop(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    images = []
    for number in range(60):
        first, second, third = (int(k) for k in random.permutation(3))
        # Whole numbers up to 2048 are exact in float16.
        maps = {k: random.integers(-9, 9, GRID).astype(float) for k in (first, second)}
        label = (first, second, third)[number % 3]
        if label == third:
            maps[third] = random.integers(-9, 9, GRID).astype(float)
        images.append(Image(f"{number}.png", maps, label=label, rank=number % 3))
    found = summarize(write_results(tmp_path / "results", images, make_about(NAMES, GRID), each=7), tmp_path / "out")
    for k in range(3):
        expected = sum(image.maps[k] for image in images if next(iter(image.maps)) == k)
        np.testing.assert_array_equal(found.predicted.sums[k], expected)
        np.testing.assert_array_equal(found.labeled.sums[k], sum(image.maps[k] for image in images if image.label == k))
    assert sorted(map(tuple, found.pairs.tolist())) == [(a, b) for a in range(3) for b in range(3) if a != b]
    assert found.contrasts.counts.tolist() == sorted(found.contrasts.counts.tolist(), reverse=True)
    for (label, predicted), values in zip(found.pairs, found.contrasts.sums, strict=True):
        of_pair = [i for i in images if (i.label, next(iter(i.maps))) == (label, predicted)]
        np.testing.assert_array_equal(values, sum(i.maps[predicted] - i.maps[label] for i in of_pair))


def test_maps_are_unpacked_from_a_slice_as_in_the_worked_example() -> None:
    columns = {"map_classes": [[4], [4, 7], [7], [4]], "maps": [[0, 0], [1, 2, 3, 4], [5, 6], [7, 8]]}
    rows = pa.RecordBatch.from_pydict(columns).slice(1)
    found, maps = unpack_maps(rows, np.array([7, 7, 7]), (1, 2))
    assert found.tolist() == [0, 1]
    assert maps.tolist() == [[[3, 4]], [[5, 6]]]


def test_pairs_are_matched_as_in_the_worked_example() -> None:
    pairs, found = np.array([[2, 0], [1, 3]]), np.array([[1, 3], [4, 4], [2, 0], [9, 9]])
    matched, numbers = _match_pairs(pairs, found, 10)
    assert (matched.tolist(), numbers.tolist()) == ([0, 2], [1, 0])


def test_every_image_of_the_index_leads_to_its_maps(results: Path, tmp_path: Path) -> None:
    found, opened = summarize(results, tmp_path / "out"), read_results(results)
    rows = dataset_index.list_rows(found.index)
    assert [row["index"] for row in rows] == list(range(7))
    for one, image in zip(rows, make_images(), strict=True):
        assert one["error"] == image.error
        if image.error is None:
            stored = read_stored_image(opened, one["part"], one["row_group"], one["row"])
            assert stored.path == one["path"] == image.path
            assert list(stored.maps) == list(image.maps)
            for k, values in image.maps.items():
                np.testing.assert_array_equal(stored.maps[k], values)
            k = one["predicted"]
            assert stored.maps[k].sum() + stored.biases[k] == pytest.approx(stored.logits[k])
    assert rows[5]["predicted"] is None
    assert rows[5]["positions"] is None


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (Filters(), [0, 1, 2, 3, 4, 5, 6]),
        (Filters(predicted=0), [0, 1, 2, 3]),
        (Filters(label="fox"), [2, 3]),
        (Filters(wrong=True), [2, 3]),
        (Filters(errors=True), [5]),
        (Filters(text="e.PNG"), [4]),
        (Filters(text="%"), []),
        (Filters(predicted=0, label="cat", text="photos"), [0, 1]),
    ],
    ids=["all", "class", "label", "misclassified", "unreadable", "path", "no pattern", "several"],
)
def test_filters_select_the_matching_images(
    results: Path, tmp_path: Path, filters: Filters, expected: list[int]
) -> None:
    index = summarize(results, tmp_path / "out").index
    assert [row["index"] for row in dataset_index.list_rows(index, filters)] == expected
    assert dataset_index.count_images(index, filters) == len(expected)


def test_pages_are_sorted_with_missing_values_last(results: Path, tmp_path: Path) -> None:
    index = summarize(results, tmp_path / "out").index
    ascending, descending = (
        [row["index"] for row in dataset_index.list_rows(index, order="border", descending=down)]
        for down in (False, True)
    )
    assert ascending == [0, 1, 4, 6, 2, 3, 5]
    assert descending == [2, 3, 4, 6, 0, 1, 5]
    page = dataset_index.list_rows(index, order="border", limit=2, offset=3)
    assert [row["index"] for row in page] == [6, 2]
    assert [row["index"] for row in dataset_index.list_extremes(index, "positions", True, 2)] == [4, 6]
    assert [row["index"] for row in dataset_index.list_extremes(index, "positions", False)] == [0, 1, 2, 3, 4, 6]
    assert dataset_index.find_row(index, 3)["path"] == "photos/d.png"  # type: ignore[index]
    assert dataset_index.find_row(index, 7) is None
    assert dataset_index.list_labels(index) == ["cat", "fox", "wolf"]
    counts = dataset_index.count_bins(index, "border")
    assert (counts[0], counts[17], counts[19], sum(counts)) == (2, 2, 2, 6)


def test_the_summary_has_the_worst_verdict(tmp_path: Path) -> None:
    metadata = make_about(NAMES, GRID)
    rows = [make_row(n, image, NAMES) for n, image in enumerate(make_images()[:3])]
    rows[1]["verdict"] = "not exact"
    rows[2]["verdict"] = "exact for this image"
    rows[2]["residual"] = math.nan
    found = summarize(write_results(tmp_path / "results", [], metadata, rows=rows), tmp_path / "out")
    assert found.verdict == "not exact"
    # A residual of nan is not dropped.
    assert math.isnan(found.counts.residual or 0)


def test_the_share_inside_objects_equals_that_of_the_class_maps_in_memory(
    tmp_path: Path, hand_made_gap: torch.nn.Module, pixels: np.ndarray
) -> None:
    classifier = Classifier.wrap(hand_made_gap, NAMES, size=(10, 10), name="hand_made")
    maps = class_maps(classifier, pixels)
    assert maps.view is not None
    k, other = (number for number, _, _ in maps.top(2))
    values = maps.values.numpy()
    regions = Regions({"a.png": [(4, 3, 15.5, 12)]})
    axes = {
        name: {"centre": axis.centre, "stride": axis.stride, "size": axis.size}
        for name, axis in (("y", classifier.receptive_field.y), ("x", classifier.receptive_field.x))
    }
    metadata = make_about(NAMES, values.shape[1:], size=[10, 10], receptive_field=axes)
    image = Image("photos/a.png", {k: values[k], other: values[other]}, label=k, size=(20, 30), box=maps.view.box)
    found = summarize(
        write_results(tmp_path / "results", [image, *make_unlabeled_image(values.shape[1:])], metadata),
        tmp_path / "out",
        regions,
    )
    mask = find_object_mask(regions, "a.png", (20, 30))
    assert mask is not None
    expected = measure_evidence_inside(maps, k, mask).share
    assert found.counts.with_objects == 1
    assert found.counts.inside == pytest.approx(expected, abs=2e-3)  # half precision


def make_unlabeled_image(grid: tuple[int, int]) -> list[Image]:
    return [Image("photos/unknown.png", {0: np.ones(grid), 1: np.zeros(grid)})]


def test_a_stored_map_has_its_crop_and_receptive_field(results: Path) -> None:
    opened = read_results(results)
    assert make_crop((40, 60), (0, 0, 30, 20), opened) == Crop((40, 60), (0, 0, 30, 20), (20, 30))
    assert read_receptive_field(opened).x.stride == 10
    unbounded = {axis: {"centre": 1, "stride": 2, "size": None} for axis in "yx"}
    write_results(results, make_images(), make_about(NAMES, GRID, receptive_field=unbounded))
    assert math.isinf(read_receptive_field(read_results(results)).y.size)


def test_a_summary_is_read_back_and_belongs_to_its_results(results: Path, tmp_path: Path) -> None:
    progress: list[float] = []
    found = summarize(results, tmp_path / "out", on_progress=progress.append)
    assert progress == sorted(progress)
    assert progress[-1] == 1
    again = read_summary(tmp_path / "out")
    assert again.counts == found.counts
    assert again.class_names == NAMES
    np.testing.assert_array_equal(again.predicted.sums, found.predicted.sums)
    assert belongs_to(tmp_path / "out", read_results(results))
    write_results(results, [*make_images(), *make_unlabeled_image(GRID)], make_about(NAMES, GRID))
    assert not belongs_to(tmp_path / "out", read_results(results))
    assert not belongs_to(tmp_path, read_results(results))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"images.parquet", "survey.json", "average-maps.npz"}


def test_images_that_cannot_be_read_are_summarized(tmp_path: Path) -> None:
    broken = [Image(f"{n}.png", {}, error="broken") for n in range(3)]
    found = summarize(write_results(tmp_path / "results", broken, make_about(NAMES, GRID)), tmp_path / "out")
    assert (found.counts.images, found.counts.errors, found.counts.top1) == (3, 3, None)
    assert found.verdict is None
    assert ("could not be read", "3") in found.describe()


def test_sums_add_up_over_repeated_and_absent_numbers() -> None:
    sums = AverageMaps(np.zeros((3, 1, 1)), np.zeros(3, np.int64))
    sums.add(np.array([2, 0, 2]), np.array([1.0, 2, 3]).reshape(3, 1, 1))
    sums.add(np.zeros(0, np.int64), np.zeros((0, 1, 1)))
    assert sums.sums.ravel().tolist() == [2, 0, 4]
    assert sums.counts.tolist() == [1, 0, 2]


def test_the_command_writes_tables_and_figures_and_prints_the_summary(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    boxes = tmp_path / "boxes.csv"
    boxes.write_text("file,x1,y1,x2,y2\na.png,0,0,30,20\n")
    survey_command(results, tmp_path / "report", boxes)
    output = capsys.readouterr().out
    assert "50.0% of 4 whose label is a class" in output
    assert "fox predicted as cat: 2 times" in output
    assert "100.0% of 1 images" in output
    files = {path.name for path in (tmp_path / "report").iterdir()}
    assert files >= {"classes.csv", "images.csv", "confusions.csv", "average-maps.png", "confusions.png", "border.png"}
    with (tmp_path / "report" / "classes.csv").open(newline="") as file:
        rows = {row["class"]: row for row in csv.DictReader(file)}
    assert (rows["cat"]["labelled"], rows["cat"]["recognised"], rows["cat"]["predicted"]) == ("2", "2", "4")
    assert (rows["fox"]["labelled"], rows["fox"]["recognised"], rows["fox"]["predicted"]) == ("2", "0", "")
    with (tmp_path / "report" / "confusions.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["label", "taken for", "images"], ["fox", "cat", "2"]]
    with (tmp_path / "report" / "images.csv").open(newline="") as file:
        images = [(row["which"], row["index"]) for row in csv.DictReader(file)]
    assert images[0] == ("most concentrated", "0")
    assert images[6] == ("most diffuse", "4")


def test_results_without_a_confusion_or_a_readable_image_have_a_report(tmp_path: Path) -> None:
    broken = write_results(tmp_path / "broken", [Image("a.png", {}, error="broken")], make_about(NAMES, GRID))
    survey_command(broken, None, None)
    files = {path.name for path in (broken / "survey").iterdir()}
    assert "border.png" in files
    assert not files & {"average-maps.png", "confusions.png"}


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InspectorError, match=r"No results in .*: no file there is named part-\*.parquet. Use `inspector"
    ):
        summarize(tmp_path, tmp_path / "out")


def test_a_parquet_file_from_elsewhere_is_refused(results: Path, tmp_path: Path) -> None:
    table = pq.read_table(results / "part-00000.parquet").replace_schema_metadata(None)
    pq.write_table(table, results / "part-00000.parquet")
    with pytest.raises(InspectorError, match=r"part-00000.parquet does not say what it was made with"):
        summarize(results, tmp_path / "out")


def test_a_file_that_is_no_parquet_is_refused(results: Path, tmp_path: Path) -> None:
    (results / "part-00001.parquet").write_bytes(b"no Parquet at all")
    with pytest.raises(InspectorError, match=r"Cannot read .*part-00001.parquet .* `inspector batch --resume`"):
        summarize(results, tmp_path / "out")


def test_a_part_that_lacks_a_column_is_refused(results: Path, tmp_path: Path) -> None:
    table = pq.read_table(results / "part-00000.parquet").drop_columns(["label_rank"])
    pq.write_table(table, results / "part-00000.parquet")
    with pytest.raises(
        InspectorError, match=r"part-00000.parquet lacks label_rank. Expected a Parquet file of this version"
    ):
        summarize(results, tmp_path / "out")


def test_metadata_that_lacks_an_entry_is_refused(results: Path, tmp_path: Path) -> None:
    table = pq.read_table(results / "part-00000.parquet").replace_schema_metadata({b"inspector": b'{"network": "a"}'})
    pq.write_table(table, results / "part-00000.parquet")
    with pytest.raises(InspectorError, match=r"part-00000.parquet lacks network_sha256, class_names, grid"):
        summarize(results, tmp_path / "out")


def test_results_of_two_networks_are_refused(results: Path, tmp_path: Path) -> None:
    other = make_about(NAMES, GRID, network_sha256="1" * 64)
    table = pq.read_table(results / "part-00001.parquet")
    metadata = {b"inspector": json.dumps(other).encode()}
    pq.write_table(table.replace_schema_metadata(metadata), results / "part-00001.parquet")
    with pytest.raises(InspectorError, match=r"part-00001.parquet and part-00000.parquet differ in network sha256"):
        summarize(results, tmp_path / "out")


def test_empty_results_are_refused(tmp_path: Path) -> None:
    empty = write_results(tmp_path / "results", [], make_about(NAMES, GRID))
    with pytest.raises(InspectorError, match=r"have no image\. Expected one or more"):
        summarize(empty, tmp_path / "out")


def test_an_image_without_the_map_of_its_top1_class_is_refused(tmp_path: Path) -> None:
    rows = [make_row(n, image, NAMES) for n, image in enumerate(make_images())]
    rows[0]["map_classes"] = [2, 1]
    broken = write_results(tmp_path / "results", [], make_about(NAMES, GRID), rows=rows)
    with pytest.raises(InspectorError, match="has an image without the map of its top-1 class"):
        summarize(broken, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_objects_of_other_images_are_refused(results: Path, tmp_path: Path) -> None:
    with pytest.raises(InspectorError, match=r"No object is known for the 7 images in .* relative to photos"):
        summarize(results, tmp_path / "out", Regions({"elsewhere.png": [(0, 0, 5, 5)]}))
    with pytest.raises(LocalizationError, match="has 30 x 20 pixels, but a box 0, 0, 50, 5"):
        summarize(results, tmp_path / "out", Regions({"photos/a.png": [(0, 0, 50, 5)]}))


def test_a_folder_that_cannot_be_written_is_named(results: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(ExportError, match=r"Cannot write .*out \(.*\). Use another folder"):
        summarize(results, tmp_path / "out")


def test_a_missing_or_broken_summary_gives_one_sentence(results: Path, tmp_path: Path) -> None:
    with pytest.raises(InspectorError, match=r"No summary in .* Use `inspector survey RESULTS"):
        read_summary(tmp_path)
    summarize(results, tmp_path / "out")
    for name in ("average-maps.npz", "survey.json"):
        (tmp_path / "out" / name).write_bytes(b"{}")
        with pytest.raises(InspectorError, match=r"Cannot read the summary in .*out"):
            read_summary(tmp_path / "out")
        assert not belongs_to(tmp_path / "out", read_results(results)) or name == "average-maps.npz"
    (tmp_path / "out" / "images.parquet").write_bytes(b"")
    with pytest.raises(InspectorError, match=r"Cannot read the index .* Use `inspector survey` to make it again"):
        dataset_index.read_counts(tmp_path / "out" / "images.parquet")


def test_deleted_results_give_one_sentence(results: Path) -> None:
    opened = read_results(results)
    with pytest.raises(InspectorError, match=r"no longer has part-00009.parquet"):
        read_stored_image(opened, "part-00009.parquet", 0, 0)
    with pytest.raises(InspectorError, match=r"Cannot read .*part-00000.parquet"):
        read_stored_image(opened, "part-00000.parquet", 99, 0)
    (results / "part-00000.parquet").unlink()
    with pytest.raises(InspectorError, match=r"Cannot read .*part-00000.parquet"):
        read_stored_image(opened, "part-00000.parquet", 0, 0)


def test_a_missing_library_gives_one_sentence(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = summarize(results, tmp_path / "out").index
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(
        InspectorError, match=r"The summary of a data set needs duckdb .*Use pip install 'class-map-inspector\[data\]'"
    ):
        dataset_index.count_images(index)


def test_a_stored_map_is_drawn_like_the_map_in_memory(pixels: np.ndarray) -> None:
    view = make_view(read_image(pixels), Preprocessing((10, 10), (0.5,), (0.5,), (12, 12)))
    field = ReceptiveField(Axis(1, 3, 3), Axis(1, 3, 3))
    again = make_crop(view.photo.size, view.box, Results(Path(), (), 0, make_about(NAMES, GRID, size=[10, 10])))
    direct, stored = (
        resample_on_photo(one_cell(0, 2), one, field, (20, 30), smooth=True) for one in (view.crop, again)
    )
    assert direct.any()
    np.testing.assert_array_equal(direct, stored)
