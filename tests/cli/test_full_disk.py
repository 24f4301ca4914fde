"""A disk without room, and a machine without a temporary folder: one sentence, and nothing half-written stays."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from inspector.images.examples import list_examples
from inspector.networks.build import build

BOOT = list_examples("fashion_mnist")["Ankle boot"]

# No file of this process may grow over a few kB: to a program that looks like a full disk, also in native code.
FULL = """
import resource, sys
from inspector.cli import main
from inspector.networks import load
resource.setrlimit(resource.RLIMIT_FSIZE, (6000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
"""

NO_TEMPORARY_FOLDER = """
import errno, sys, tempfile
def fail():
    raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in []")
tempfile._get_default_tempdir = fail
from inspector.cli import main
"""

RUN_COMMANDS = """
for command in sys.argv[1].split(";"):
    sys.argv = ["inspector", *command.split()]
    try:
        main()
    except SystemExit as stopped:
        print("status", stopped.code, file=sys.stderr, flush=True)
"""


@pytest.mark.skipif(os.name == "nt", reason="limits of POSIX")
def test_a_full_disk_gives_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save(build("timm:test_resnet", 3).state_dict(), tmp_path / "mine.pth")
    model = f"{tmp_path}/mine.pth --arch timm:test_resnet"
    commands = [
        f"explain {BOOT} -m fashion_gap -c top1 -o {tmp_path}/explained",
        f"batch {BOOT} -m fashion_gap -o {tmp_path}/table --overwrite",
        f"large {BOOT} -m fashion_gap -o {tmp_path}/large",
        f"add {model} --name mine --size 64",
        *(
            f"export-network fashion_gap --format {kind} -o {tmp_path}/network{ending}"
            for kind, ending in (("onnx", ".onnx"), ("openvino", ".xml"), ("pt2", ".pt2"))
        ),
    ]
    environment = os.environ | {"INSPECTOR_MODELS": str(tmp_path / "models"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", FULL + RUN_COMMANDS, ";".join(commands)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=170,
    )
    lines = done.stderr.splitlines()
    assert done.returncode == 0, done.stderr
    assert lines.count("status 1") == len(commands), done.stderr
    assert sum(line.startswith("Error: Cannot write ") for line in lines) == len(commands), done.stderr
    assert "Traceback" not in done.stderr
    left = {path.name for path in tmp_path.rglob("*")}
    assert left <= {"mine.pth", "models"}


def test_no_temporary_folder_gives_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    commands = [
        f"{command} {BOOT} -m fashion_gap -o out {options}"
        for command, options in (("explain", ""), ("batch", "--backend onnxruntime"), ("large", ""))
    ]
    # No folder for the settings of matplotlib either, and no cache for networks.
    homes = ("HOME", "MPLCONFIGDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "INSPECTOR_CACHE")
    environment = os.environ | {name: str(tmp_path / "file" / "x") for name in homes}
    done = subprocess.run(
        [sys.executable, "-c", NO_TEMPORARY_FOLDER + RUN_COMMANDS, ";".join(commands)],
        capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=170,
    )  # fmt: skip
    parts = done.stderr.split("status 1\n")
    assert len(parts) == len(commands) + 1, done.stderr
    for shown in parts[:-1]:
        assert "temporary directory" in shown
        assert "Set TMPDIR to a folder that can be written." in shown
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
