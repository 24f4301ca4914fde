"""The commands `inspector boxes` and `inspector localize`."""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import inspector
from inspector.cli import main
from inspector.cli.options import NetworkOptions


@pytest.fixture
def run(hand_made_gap, tmp_path, monkeypatch, capsys):
    """Run a command on a network made by hand; return status, standard output and standard error."""
    classifier = inspector.Classifier.wrap(
        hand_made_gap, ("red", "green", "neither"), size=8, mean=(0.0,) * 3, std=(1.0,) * 3, resize="squeeze"
    )
    monkeypatch.setattr(NetworkOptions, "load", lambda self, model: classifier)
    monkeypatch.chdir(tmp_path)
    for name, color, place in (("red/a", 0, np.s_[:4, :4]), ("green/b", 1, np.s_[4:, 4:])):
        pixels = np.zeros((16, 16, 3), np.uint8)
        pixels[..., color][place] = 255
        Path(f"photos/{name}.png").parent.mkdir(parents=True)
        Image.fromarray(pixels).save(f"photos/{name}.png")
    Path("boxes.csv").write_text("file,x1,y1,x2,y2\nred/a.png,0,0,4,4\ngreen/b.png,4,4,16,16\n")

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["inspector", *arguments])
        status = 0
        try:
            main()
        except SystemExit as stopped:
            status = int(stopped.code or 0)
        return status, *capsys.readouterr()

    return run


def test_boxes_are_written_and_counted(run):
    status, printed, _ = run("boxes", "photos", "-o", "boxes.json")
    assert status == 0
    assert "2 photos: 2 boxes; 0 photos without a box" in printed
    found = json.loads(Path("boxes.json").read_text())
    assert [one["file_name"] for one in found["images"]] == ["green/b.png", "red/a.png"]
    assert not list(Path().glob(".boxes*"))
    status, _, error = run("boxes", "photos", "-o", "boxes.json")
    assert status == 1
    assert "boxes.json exists already" in error
    status, printed, _ = run("boxes", "photos", "-o", "boxes.json", "--overwrite", "--json", "--class", "red")
    assert json.loads(printed) == {
        "out": "boxes.json", "format": "coco", "photos": 2, "unreadable": 0, "boxes": 1, "without": 1,
        "worst_verdict": "exact", "precision": "",
    }  # fmt: skip


def test_a_stopped_search_is_not_begun_again_by_mistake(run):
    Path(".boxes.csv.inspector-part").write_text("{}\n")
    status, _, error = run("boxes", "photos", "-o", "boxes.csv", "--overwrite", "--threshold", "2")
    assert (status, "from 0 to below 1; got 2" in error) == (1, True)
    Path("boxes.csv").unlink()
    status, _, error = run("boxes", "photos", "-o", "boxes.csv")
    assert (status, "Use --resume to continue it, or --overwrite" in " ".join(error.split())) == (1, True)
    status, _, error = run("boxes", "photos", "-o", "boxes.csv", "--resume")
    assert (status, "differs in version" in error) == (1, True)
    assert run("boxes", "photos", "-o", "boxes.csv", "--overwrite")[0] == 0
    assert not Path(".boxes.csv.inspector-part").exists()


def test_only_photos_that_cannot_be_read_are_status_4(run):
    Path("broken.jpg").write_bytes(b"no photo")
    status, printed, error = run("boxes", "broken.jpg", "-o", "none.csv")
    assert status == 4
    assert "1 could not be read" in printed
    assert "broken.jpg" in error
    assert Path("none.csv").read_text().startswith("file,class,")


def test_scores_are_printed_and_written(run):
    status, printed, _ = run("localize", "photos", "--objects", "boxes.csv", "--tune", "0", "-o", "scores.csv")
    assert status == 0
    assert "MaxBoxAccV2" in printed
    assert "pointing game" in printed
    rows = list(csv.DictReader(Path("scores.csv").read_text().splitlines()))
    pointing = {row["class"]: row["value"] for row in rows if row["score"] == "pointing"}
    assert pointing == {"green": "1.000000", "red": "1.000000", "all": "1.000000"}
    status, printed, _ = run("localize", "photos", "--objects", "boxes.csv", "--json", "--class", "top1")
    assert json.loads(printed)["scores"][-1]["name"] == "all"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--alias", "apple"], "--alias is 'apple'. Use 'apple=Granny Smith'"),
        (["--tune", "1"], "--tune is 1.0. Use a share from 0 to below 1"),
        (["--contours", "two"], "--contours is 'two'. Use all or largest"),
        (["-o", "scores.txt"], "Scores need a name that ends in .json or .csv; got scores.txt"),
        (["-o", "boxes.csv"], "boxes.csv exists already"),
        (["--objects", "none.csv"], "Cannot read none.csv"),
        (["--finer", "3"], "finer is 3. Use 2 or 4"),
        (["--size", "whole", "--backend", "auto"], "--size whole gives every photo its own input size"),
        (["--size", "whole", "--dtype", "int8"], "its own input size. Leave out --backend and --dtype."),
        (["--dtype", "int8"], '"eager" runs the network as it is; got int8'),
    ],
)
def test_options_that_cannot_be_used_are_refused(run, arguments, sentence):
    status, _, error = run("localize", "photos", "--objects", "boxes.csv", *arguments)
    assert status == 1
    assert sentence in " ".join(error.split())
