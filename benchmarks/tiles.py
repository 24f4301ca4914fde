"""Measure the time and memory of large images in tiles.

The images have SIDE x SIDE pixels, made of scikit-image's photos side by side, and are memory-mapped .npy files. Each
row is measured in a process of its own, which loads the network and then computes the class maps of the top five
classes: in tiles, or in one piece if that fits in memory. The table has the time, the peak resident memory of the
process (ru_maxrss), and the part of it that was used before: Python, torch and the network. If both ways were run, it
also has the largest difference of a logit.

    python benchmarks/tiles.py
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.lib.format import write_array_header_1_0
from PIL import Image
from report import format_table, write_results

import inspector
from inspector.explain.large_class_maps import large_class_maps
from inspector.explain.memory import use_huge_pages
from inspector.images.examples import list_examples

MODEL = "efficientnet_lite0"


def main(
    sides: Annotated[str, typer.Option(help="Sides of the images, in pixels.")] = "2000,5000,20000",
    tiles: Annotated[str, typer.Option(help="Sides of the tiles, in pixels.")] = "1024,2048",
    whole: Annotated[int, typer.Option(help="The largest side that is also run in one piece.")] = 5000,
    one: Annotated[str, typer.Option(help="Run one row: FILE,TILE,LOGITS; tile 0 is one piece.", hidden=True)] = "",
) -> None:
    """Time large images and their memory, and write results/tiles.md."""
    if one:
        file, tile, logits = one.split(",")
        print(json.dumps(_measure_run(Path(file), int(tile), Path(logits))))
        return
    rows: list[tuple[object, ...]] = []
    # Other benchmarks make glibc keep freed memory. Here it would keep a part of every tile: 16 GB.
    usual = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    with tempfile.TemporaryDirectory() as folder:
        for side in map(int, sides.split(",")):
            file = _write_image(Path(folder) / "image.npy", side)
            logits = {}
            for tile in (*([0] if side <= whole else []), *map(int, tiles.split(","))):
                logits_file = Path(folder) / f"logits-{tile}.npy"
                command = [sys.executable, __file__, "--one", f"{file},{tile},{logits_file}"]
                run = subprocess.run(command, capture_output=True, text=True, check=True, env=usual)
                measured = json.loads(run.stdout)
                logits[tile] = np.load(logits_file)
                difference = f"{np.abs(logits[tile] - logits[0]).max():.1e}" if tile and 0 in logits else ""
                rows.append(
                    (
                        f"{side} x {side}",
                        f"tiles of {tile}" if tile else "one piece",
                        measured["tiles"],
                        f"{measured['seconds']:.1f}",
                        f"{measured['seconds'] / side**2 * 1e6:.2f}",
                        f"{measured['peak']:.0f}",
                        f"{measured['before']:.0f}",
                        difference,
                    )
                )
    header = (
        "image", "method", "tiles", "seconds", "s per megapixel", "peak MB", "MB before the run",
        "largest difference (logits)",
    )  # fmt: skip
    write_results(
        "tiles",
        f"python benchmarks/tiles.py --sides {sides} --tiles {tiles} --whole {whole}",
        format_table(header, rows),
    )


def _write_image(file: Path, side: int) -> Path:
    """Write an image of photos side by side, each row of them shifted further."""
    photos = [np.asarray(Image.open(path).convert("RGB")) for path in list_examples("photos").values()]
    height = min(len(photo) for photo in photos)
    line = np.concatenate([photo[:height] for photo in photos], 1)
    # Written in rows and not mapped: the memory of this process counts for the peak of the processes that it starts.
    with file.open("wb") as out:
        write_array_header_1_0(out, {"descr": "|u1", "fortran_order": False, "shape": (side, side, 3)})
        for n, top in enumerate(range(0, side, height)):
            rolled = np.tile(np.roll(line, 301 * n, 1), (1, -(-side // line.shape[1]), 1))
            out.write(rolled[: side - top, :side].tobytes())
    return file


def _measure_run(file: Path, tile: int, logits: Path) -> dict[str, float]:
    use_huge_pages()  # as `inspector large` does
    classifier = inspector.load(MODEL)
    before = _read_peak()
    start = time.perf_counter()
    if tile:
        in_tiles = large_class_maps(classifier, file, tile=tile)
        logits_now, count = in_tiles.logits, in_tiles.tiles
    else:
        pixels = np.load(file)
        logits_now, count = inspector.class_maps(classifier.resized(pixels.shape[:2], crop=False), pixels).logits, 1
    seconds = time.perf_counter() - start
    np.save(logits, logits_now.numpy())
    return {"tiles": count, "seconds": seconds, "peak": _read_peak(), "before": before}


def _read_peak() -> float:
    """Return the peak resident memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    typer.run(main)
