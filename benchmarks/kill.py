"""Test that every image is in the output exactly once if a batch run is killed at a random moment and resumed.

`inspector batch` runs once undisturbed. This gives the expected rows and the duration, from the run.json file to the
end. Then, ten times, a new run is killed with SIGKILL at a random moment within this duration (seeded) and resumed to
its end. After that every index must be present once, every row must equal the row of the undisturbed run, and no
temporary file may be left.

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
from report import format_table, write_results

from inspector.datasets.table import RUN, count_written_shards, read_rows, split_into_shards


def main(
    images: Annotated[int, typer.Option(min=1, help="Number of photos.")] = 1_500,
    kills: Annotated[int, typer.Option(min=1, help="Number of runs that are killed.")] = 10,
    shard_size: Annotated[int, typer.Option(min=1, help="Images per shard.")] = 16,
    model: Annotated[str, typer.Option(help="As for the command line.")] = "fashion_gap",
    seed: Annotated[int, typer.Option(help="Seed of the random moments.")] = 0,
) -> None:
    """Kill and resume runs, and write results/kill.md."""
    random = np.random.default_rng(seed)
    shards = len(split_into_shards(images, shard_size))
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = make_photos(Path(temporary) / "photos", images)
        (folder / f"{images // 2:06}.jpg").write_bytes(b"no image")  # errors are rows too

        def start(out: Path, *options: str) -> "subprocess.Popen[bytes]":
            command = [sys.executable, "-m", "inspector.cli", "batch", str(folder), "-o", str(out), "-m", model]
            command += ["--shard-size", str(shard_size), *options]
            return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

        undisturbed = Path(temporary) / "undisturbed"
        process = start(undisturbed)
        wait_for_start(process, undisturbed)
        started = time.perf_counter()
        assert process.wait() == 0, "the undisturbed run failed"
        duration = time.perf_counter() - started
        expected = read_rows(undisturbed)[0].to_table()
        for number in range(kills):
            out = Path(temporary) / f"killed-{number}"
            moment = random.uniform(0, duration)
            process = start(out)
            wait_for_start(process, out)
            time.sleep(moment)
            process.kill()
            process.wait()
            complete, temporary_files = count_written_shards(out), len(list(out.glob("*.tmp")))
            assert start(out, "--resume").wait() == 0, "the resumed run failed"
            found = read_rows(out)[0].to_table()
            once = found["index"].to_pylist() == list(range(images))
            rows.append(
                (
                    number + 1,
                    f"{moment:.2f}",
                    f"{complete} of {shards}",
                    temporary_files,
                    len(found),
                    "yes" if once else "NO",
                    "yes" if found.equals(expected) else "NO",
                    len(list(out.glob("*.tmp"))),
                )
            )
    header = (
        "kill", "killed after (s)", "complete shards", "temporary files after the kill", "rows after resuming",
        "every image once", "rows equal to the undisturbed run", "temporary files left",
    )  # fmt: skip
    command = f"python benchmarks/kill.py --images {images} --kills {kills} --shard-size {shard_size} --model {model}"
    sentence = f"The undisturbed run took {duration:.1f} s, without the time to import and load."
    write_results("kill", f"{command} --seed {seed}", sentence, format_table(header, rows))
    if any("NO" in row for row in rows):
        sys.exit("A run lost or repeated an image, or has different rows.")


def wait_for_start(process: "subprocess.Popen[bytes]", out: Path) -> None:
    while process.poll() is None and not (out / RUN).exists():
        time.sleep(0.001)


if __name__ == "__main__":
    typer.run(main)
