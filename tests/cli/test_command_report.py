"""What commands print: JSON for programs, nothing with --quiet, foreign text as it is, and a status that tells."""

import ast
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_photos import write_photos

import inspector
from inspector.cli import main
from inspector.cli.console import PlainConsole
from inspector.cli.report import ExitStatus, judge, make_json_value, parse_verdict
from inspector.errors import InspectorError
from inspector.images.examples import list_examples
from inspector.networks.build import build

BOOT, BAG = (list_examples("fashion_mnist")[name] for name in ("Ankle boot", "Bag"))
PACKAGE = Path(inspector.__file__).parent

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in this process, because starting Python takes seconds."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["inspector", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main()
        return subprocess.CompletedProcess(sys.argv, int(stopped.value.code or 0), *capfd.readouterr())

    return run


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    (tmp_path / "broken.png").write_bytes(b"no image")
    return tmp_path / "broken.png"


# --- --json and --quiet


@pytest.mark.usefixtures("only_png")
def test_json_of_explain_is_all_of_standard_output(run: Run, tmp_path: Path) -> None:
    done = run("explain", BOOT, "-m", "fashion_gap", "-c", "Bag,Sandal", "-o", tmp_path / "out", "--json")
    assert done.returncode == 0
    (photo,) = json.loads(done.stdout)["photos"]
    assert (photo["folder"], photo["verdict"]) == (str(tmp_path / "out"), "exact")
    assert [one["name"] for one in photo["classes"]] == ["Bag", "Sandal"]
    for one in photo["classes"]:
        assert one["sum_of_the_map"] + one["bias"] == pytest.approx(one["logit"], abs=1e-4)
        assert 0 <= one["probability"] <= 1


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (["models"], "models"),
        (["describe", "fashion_gap"], "verdict"),
        (["describe", "fashion_gap", "--layers"], "layers"),
        (["large", "IMAGE", "-m", "fashion_gap", "-o", "OUT"], "classes"),
        (["batch", "IMAGE", "-m", "fashion_gap", "-o", "OUT"], "explained"),
        (["export-network", "fashion_gap", "--format", "pt2", "-o", "FILE"], "file"),
    ],
)
def test_every_command_has_json_and_quiet(run: Run, tmp_path: Path, arguments: list[str], key: str) -> None:
    places = {"IMAGE": str(BOOT), "OUT": str(tmp_path / "out"), "FILE": str(tmp_path / "net.pt2")}
    done = run(*(places.get(word, word) for word in arguments), "--json")
    assert done.returncode == 0, done.stderr
    assert key in json.loads(done.stdout)
    for path in (tmp_path / "out", tmp_path / "net.pt2"):
        if path.exists():
            path.rename(tmp_path / f"{path.name}.first")
    quiet = run(*(places.get(word, word) for word in arguments), "--quiet")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")


def test_results_of_a_data_set_are_json(run: Run, tmp_path: Path) -> None:
    run("batch", BOOT, BAG, "-m", "fashion_gap", "-o", tmp_path / "results")
    found = json.loads(run("survey", tmp_path / "results", "--json").stdout)
    assert (found["images"], found["verdict"], found["confusions"]) == (2, "exact", [])
    again = json.loads(run("rebuild", explained(run, tmp_path), "-o", tmp_path / "again", "--json").stdout)
    assert again["equal"] is True


def explained(run: Run, tmp_path: Path) -> Path:
    assert run("explain", BOOT, "-m", "fashion_gap", "-c", "top1", "-o", tmp_path / "boot").returncode == 0
    return tmp_path / "boot"


def test_an_error_is_json_too_and_is_named_in_spite_of_quiet(run: Run, tmp_path: Path) -> None:
    done = run("explain", "nowhere.jpg", "-o", tmp_path / "out", "--json", "--quiet")
    assert done.returncode == 1
    assert json.loads(done.stdout) == {
        "error": "Cannot read nowhere.jpg: No such file or directory.",
        "kind": "ImageError",
    }
    assert "Error: Cannot read nowhere.jpg" in done.stderr


def test_what_libraries_print_is_not_in_the_json(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from inspector.cli import networks

    def list_noisily() -> dict[str, Any]:
        print("from Python")
        os.write(1, b"from C\n")
        return {}

    monkeypatch.setattr(networks, "list_models", list_noisily)
    done = run("models", "--json")
    assert json.loads(done.stdout)["models"] == []
    assert "from Python" in done.stderr
    assert "from C" in done.stderr
    assert run("models", "--quiet").stdout == ""
    assert "from C" in run("models").stdout


def test_json_holds_no_number_that_json_cannot_hold() -> None:
    values = {"a": float("nan"), 1: (np.float32("inf"), np.arange(2), Path("x")), "b": [True, None, np.int64(3)]}
    assert make_json_value(values) == {"a": None, "1": [None, [0, 1], "x"], "b": [True, None, 3]}


# --- statuses


@pytest.mark.usefixtures("only_png")
def test_a_verdict_as_bad_as_asked_gives_status_3_after_everything_is_written(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["explain", BOOT, "-m", "fashion_gap", "--fail-on"]
    assert run(*command, "not-unique", "-o", tmp_path / "exact").returncode == 0
    class_maps = inspector.class_maps
    monkeypatch.setattr(
        "inspector.explain.class_maps.class_maps",
        lambda *arguments, **options: replace(class_maps(*arguments, **options), verdict="not unique"),
    )
    done = run(*command, "not unique", "-o", tmp_path / "same", "--json")
    assert (done.returncode, json.loads(done.stdout)["photos"][0]["verdict"]) == (3, "not unique")
    assert (tmp_path / "same" / "figure.png").is_file()
    assert "'not unique'" in done.stderr
    assert run(*command, "exact_for_this_image", "-o", tmp_path / "worse").returncode == 3
    assert run(*command, "not exact", "-o", tmp_path / "better").returncode == 0


def test_verdicts_are_judged_in_their_order() -> None:
    assert judge("exact", "exact for this image") == 0
    assert judge("not exact", "not unique") == judge("of another version", "not exact") == ExitStatus.VERDICT
    assert judge("not exact", None) == judge(None, "not unique") == 0
    assert parse_verdict("Not-Unique") == "not unique"
    for text in ("exact", "nothing", ""):
        with pytest.raises(InspectorError, match=r"--fail-on is .* Use one of 'exact for this image', 'not unique'"):
            parse_verdict(text)


def test_fail_on_is_checked_before_anything_runs(run: Run, tmp_path: Path) -> None:
    for command in (["explain", BOOT], ["batch", BOOT], ["large", BOOT]):
        done = run(*command, "-m", "no such network", "-o", tmp_path / "out", "--fail-on", "bad")
        assert (done.returncode, "--fail-on is 'bad'" in done.stderr) == (1, True)


def test_a_batch_without_a_readable_image_is_status_4(run: Run, tmp_path: Path, broken: Path) -> None:
    done = run("batch", broken, "-m", "fashion_gap", "-o", tmp_path / "none")
    assert done.returncode == 4
    assert "0 explained, 1 could not be read" in done.stdout
    assert (tmp_path / "none" / "part-00000.parquet").is_file()
    assert run("batch", broken, BOOT, "-m", "fashion_gap", "-o", tmp_path / "some").returncode == 0


def test_the_command_line_itself_is_status_2(run: Run) -> None:
    for arguments in (["expalin"], ["explain"], ["explain", "a.jpg", "-o", "b", "--clases", "3"]):
        assert run(*arguments).returncode == 2
    assert "Exit status: 0 done; 1 an error" in " ".join(run("--help").stdout.split())


# --- several photos


@pytest.mark.usefixtures("only_png")
def test_several_photos_get_a_folder_each_and_one_network(
    run: Run, tmp_path: Path, broken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from inspector.cli.options import NetworkOptions

    loads: list[str] = []
    load = NetworkOptions.load
    monkeypatch.setattr(NetworkOptions, "load", lambda self, model: (loads.append(model), load(self, model))[1])
    for folder, content in (("a", BOOT), ("b", BAG)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "photo.png").write_bytes(content.read_bytes())
    (tmp_path / "b" / "Photo.jpg").write_bytes(BAG.read_bytes())
    photos = [tmp_path / "a" / "photo.png", broken, tmp_path / "b" / "photo.png", tmp_path / "b" / "Photo.jpg"]
    done = run("explain", *photos, "-m", "fashion_gap", "-o", tmp_path / "out", "--json")
    assert done.returncode == 4
    assert loads == ["fashion_gap"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["Photo-3", "photo", "photo-2"]
    entries = json.loads(done.stdout)["photos"]
    assert [entry["photo"] for entry in entries] == list(map(str, photos))
    assert "is not an image" in entries[1]["error"]
    assert "is not an image" in done.stderr
    manifest = json.loads((tmp_path / "out" / "photo-2" / "manifest.json").read_text())
    assert manifest["top"][0]["name"] == "Bag"


# --- folders that exist


@pytest.mark.parametrize(
    "arguments",
    [
        ["explain", BOOT], ["explain", BOOT, BAG], ["large", BOOT], ["batch", BOOT], ["rebuild", BOOT],
    ],
    ids=lambda arguments: f"{arguments[0]} {len(arguments)}",
)  # fmt: skip
def test_an_existing_folder_is_refused_before_a_network_is_loaded(
    run: Run, tmp_path: Path, arguments: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inspector.networks.load.resolve", lambda *_, **__: pytest.fail("a network was loaded"))
    for name in ("out", "out/" + BOOT.stem):
        (tmp_path / name).mkdir()
        (tmp_path / name / "notes.txt").write_text("mine")
    model = [] if arguments[0] == "rebuild" else ["-m", "fashion_gap"]
    done = run(*arguments, *model, "-o", tmp_path / "out")
    assert (done.returncode, "--overwrite" in done.stderr) == (1, True)
    done = run(*arguments, *model, "-o", tmp_path / "out", "--overwrite")
    assert (done.returncode, "which Inspector did not write there" in done.stderr) == (1, True)
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"


@pytest.mark.usefixtures("only_png")
def test_overwrite_replaces_results_of_ours(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for command in (["explain"], ["explain"], ["batch", "--overlays"]):
        if command[0] == "batch":
            out = tmp_path / "results"
        for photo, extra in ((BOOT, []), (BAG, ["--overwrite"])):
            done = run(command[0], photo, "-m", "fashion_gap", "-o", out, *command[1:], *(extra or ["--overwrite"]))
            assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["photo"]["name"] == BAG.name
    assert json.loads((out / "run.json").read_text())["source"] == str(BAG)
    assert {path.name for path in tmp_path.iterdir()} == {"out", "results"}
    assert run("survey", out).returncode == 0
    assert run("survey", out).returncode == 0, "the summary in its usual place is replaced"
    assert run("survey", out, "-o", tmp_path / "report").returncode == 0
    assert run("survey", out, "-o", tmp_path / "report").returncode == 1
    assert run("survey", out, "-o", tmp_path / "report", "--overwrite").returncode == 0


def test_a_batch_that_fails_leaves_the_results_that_it_should_replace(run: Run, tmp_path: Path) -> None:
    run("batch", BOOT, "-m", "fashion_gap", "-o", tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert run("batch", "nowhere", "-m", "fashion_gap", "-o", tmp_path / "out", "--overwrite").returncode == 1
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    for options in (["--resume"], ["-o", "memory://out"]):
        done = run("batch", BOOT, "-m", "fashion_gap", "-o", tmp_path / "out", "--overwrite", *options)
        assert "--overwrite begins a new run in a local folder" in done.stderr


def test_a_network_that_was_exported_is_replaced_only_on_request(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "net.pt2"
    command = ["export-network", "fashion_gap", "--format", "pt2", "-o", file]
    assert run(*command).returncode == 0
    file.write_bytes(b"old")
    done = run("export-network", "no such network", "--format", "pt2", "-o", file)
    assert "net.pt2 exists already. Use another name, or --overwrite" in done.stderr
    assert run(*command, "--overwrite").returncode == 0
    assert file.read_bytes() != b"old"


# --- foreign text

NAMES = ["[/x]", "[red]tench[/red]", "esc\x1b[2J", ":cat:", "[bold"]


@pytest.fixture
def strange(tmp_path: Path) -> list[object]:
    """Options for a network whose classes have such names, and a photo whose folder has one."""
    torch.manual_seed(0)
    (tmp_path / "[").mkdir()
    torch.save(build("timm:test_resnet", len(NAMES)).state_dict(), tmp_path / "[/x].pth")
    (tmp_path / "labels.json").write_text(json.dumps(NAMES))
    return [
        "-m",
        tmp_path / "[/x].pth",
        "--arch",
        "timm:test_resnet",
        "--labels",
        tmp_path / "labels.json",
        "--size",
        "64",
    ]


@pytest.mark.usefixtures("only_png")
def test_names_that_look_like_markup_are_printed_as_they_are(
    run: Run, tmp_path: Path, strange: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    folder = tmp_path / "[/y]"
    write_photos(folder, {"[/z]": 2})
    photo = folder / "[/z]" / "00.png"
    for arguments in (
        ["explain", photo, *strange, "-o", tmp_path / "[out]"],
        ["explain", photo, *strange, "-a", "average", "-o", tmp_path / "[/out]"],
        ["large", photo, *strange[:-2], "-o", tmp_path / "[/large]"],
        ["batch", folder, *strange, "-o", tmp_path / "[/batch]", "--overlays"],
        ["survey", tmp_path / "[/batch]"],
        ["rebuild", tmp_path / "[out]", *strange[:-2], "-o", tmp_path / "[/again]"],
        ["describe", *strange[1:4]],
    ):
        done = run(*arguments)
        assert done.returncode == 0, done.stderr
        assert "\x1b" not in done.stdout + done.stderr
        if arguments[0] in ("explain", "large"):
            for name in NAMES:
                assert name.replace("\x1b", "\\x1b") in done.stdout
        if arguments[0] not in ("survey", "describe"):
            assert (
                f"written: {arguments[-1] if arguments[-1] != '--overlays' else tmp_path / '[/batch]'}" in done.stdout
            )


@pytest.mark.parametrize(
    "arguments",
    [
        ["explain", "[/x]\x1b[2J.jpg", "-o", "OUT"],
        ["explain", BOOT, "-m", "[/x]\x1b[2J", "-o", "OUT"],
        ["explain", BOOT, "-m", "fashion_gap", "-c", "[/x]\x1b[2J", "-o", "OUT"],
        ["describe", "[/x]\x1b[2J"],
        ["batch", "[/x]\x1b[2J", "-m", "fashion_gap", "-o", "OUT"],
        ["survey", "[/x]\x1b[2J"],
        ["compare", "[/x]\x1b[2J"],
        ["train", "[/x]\x1b[2J", "--data", "x"],
        ["rebuild", "[/x]\x1b[2J", "-o", "OUT"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_errors_quote_foreign_text_without_obeying_it(run: Run, tmp_path: Path, arguments: list[Any]) -> None:
    done = run(*(str(tmp_path / "out") if word == "OUT" else word for word in arguments))
    assert done.returncode == 1
    assert "[/x]" in done.stderr
    assert "\x1b" not in done.stderr
    assert "Traceback" not in done.stderr


def test_only_the_plain_console_prints() -> None:
    """Every console of the command line is a PlainConsole, and rich's markup stands nowhere."""
    for path in sorted((PACKAGE / "cli").glob("*.py")):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called != "print", path
                assert called not in ("Console", "rich.console.Console", "Text.from_markup", "typer.echo"), path
                assert called != "Progress" or path.name == "console.py", path
                assert not any(keyword.arg == "markup" for keyword in node.keywords) or path.name == "console.py", path


def test_a_plain_console_takes_cells_headings_and_lines_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.table import Table

    console = PlainConsole(width=100)
    table = Table("[/heading]", title="[/title]")
    table.add_row("[/cell]\x1b[2J :cat:")
    console.print(table)
    console.print("[/line]\nsecond\a")
    with console.status("[/status]"):
        pass
    shown = capsys.readouterr().out
    for text in ("[/heading]", "[/title]", "[/cell]\\x1b[2J :cat:", "[/line]", "second\\x07"):
        assert text in shown


def test_a_terminal_without_the_letters_of_a_name_gets_escapes(tmp_path: Path) -> None:
    (tmp_path / "caf\N{LATIN SMALL LETTER E WITH ACUTE}.png").write_bytes(b"no image")
    command = [sys.executable, "-m", "inspector.cli", "survey", "caf\N{LATIN SMALL LETTER E WITH ACUTE}"]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, env=environment, timeout=120)
    assert done.returncode == 1
    assert b"caf\\xe9" in done.stderr


# --- signals


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_command_leaves_nothing(tmp_path: Path, number: int, status: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3000, 3000, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "big.png", compress_level=1)
    # If a shell starts the tests in the background, they and their child processes ignore Ctrl-C.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += "from inspector.cli import main; main()"
    command = [
        sys.executable,
        "-c",
        code,
        "large",
        str(tmp_path / "big.png"),
        "-m",
        "fashion_gap",
        "-o",
        str(tmp_path / "out"),
        "--tile",
        "64",
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not list(tmp_path.glob(".inspector-*")):
            time.sleep(0.01)
        time.sleep(1)
        process.send_signal(number)
        _, shown = process.communicate(timeout=120)
    assert process.returncode == status, shown
    assert "Traceback" not in shown
    assert [path.name for path in tmp_path.iterdir()] == ["big.png"]


def test_the_app_runs_in_the_folder_where_it_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from inspector import cli

    commands: list[list[str]] = []
    monkeypatch.setattr(cli.os, "execv", lambda file, arguments: commands.append([file, *arguments]))
    monkeypatch.chdir(tmp_path)
    cli.app(port=8123, address="localhost")
    assert Path.cwd() == tmp_path
    (command,) = commands
    assert command[:2] == [sys.executable, sys.executable]
    assert any(word.endswith("app.py") and Path(word).is_file() for word in command)
    assert {"--server.port=8123", "--server.address=localhost"} <= set(command)


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_the_app_ends_with_its_signal(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "inspector.cli", "app", "--port", "8791"]
    environment = os.environ | {"STREAMLIT_SERVER_HEADLESS": "true"}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while "8791" not in (line := process.stdout.readline()):
            assert line, "it ended"
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode in (0, -signal.SIGTERM, 128 + signal.SIGTERM)
