"""Is every image in the output exactly once when a batch run is killed at any moment and resumed?

`inspector batch` runs once undisturbed, which gives its rows and how long it works, from its run.json to its end. Then,
ten times: a new run is killed with SIGKILL at a random moment of that time (seeded), and resumed to its end. Then every
index must be there once, every row equal the undisturbed run's, and no temporary file be left.

    python benchmarks/kill.py
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from batch import make_photos
from report import table, write

from inspector.datasets.table import RUN, count_written_shards, read_rows, split_into_shards


def main(
    images: Annotated[int, typer.Option(min=1, help="Photos.")] = 1_500,
    kills: Annotated[int, typer.Option(min=1, help="How many runs are killed.")] = 10,
    shard_size: Annotated[int, typer.Option(min=1, help="Images in a shard.")] = 16,
    model: Annotated[str, typer.Option(help="As for the command line.")] = "fashion_gap",
    seed: Annotated[int, typer.Option(help="Of the moments.")] = 0,
) -> None:
    """Kill and resume, and write results/kill.md."""
    random = np.random.default_rng(seed)
    shards = len(split_into_shards(images, shard_size))
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = make_photos(Path(temporary) / "photos", images)
        (folder / f"{images // 2:06}.jpg").write_bytes(b"no image")  # an error is a row too

        def start(out: Path, *options: str) -> "subprocess.Popen[bytes]":
            command = [sys.executable, "-m", "inspector.cli", "batch", str(folder), "-o", str(out), "-m", model]
            command += ["--shard-size", str(shard_size), *options]
            return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

        undisturbed = Path(temporary) / "undisturbed"
        process = start(undisturbed)
        wait_for_begin(process, undisturbed)
        began = time.perf_counter()
        assert process.wait() == 0, "the undisturbed run failed"
        duration = time.perf_counter() - began
        expected = read_rows(undisturbed)[0].to_table()
        for number in range(kills):
            out = Path(temporary) / f"killed-{number}"
            moment = random.uniform(0, duration)
            process = start(out)
            wait_for_begin(process, out)
            time.sleep(moment)
            process.kill()
            process.wait()
            whole, left = count_written_shards(out), len(list(out.glob("*.tmp")))
            assert start(out, "--resume").wait() == 0, "the resumed run failed"
            found = read_rows(out)[0].to_table()
            once = found["index"].to_pylist() == list(range(images))
            rows.append(
                (
                    number + 1,
                    f"{moment:.2f}",
                    f"{whole} of {shards}",
                    left,
                    len(found),
                    "yes" if once else "NO",
                    "yes" if found.equals(expected) else "NO",
                    len(list(out.glob("*.tmp"))),
                )
            )
    header = (
        "kill", "at second", "shards whole", "temporary files", "rows after resuming", "every image once",
        "equal to undisturbed", "temporary files left",
    )  # fmt: skip
    command = f"python benchmarks/kill.py --images {images} --kills {kills} --shard-size {shard_size} --model {model}"
    told = f"The undisturbed run worked for {duration:.1f} s, less what it took to import and load."
    write("kill", f"{command} --seed {seed}", told, table(header, rows))
    if any("NO" in row for row in rows):
        sys.exit("Some run lost or doubled an image, or has other rows.")


def wait_for_begin(process: "subprocess.Popen[bytes]", out: Path) -> None:
    while process.poll() is None and not (out / RUN).exists():
        time.sleep(0.001)


if __name__ == "__main__":
    typer.run(main)
