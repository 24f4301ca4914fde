"""How long does a large image take in tiles, and how much memory?

Images of SIDE x SIDE pixels, scikit-image's photos side by side, lie in .npy files and are mapped. Each row is a
process of its own, which loads the network and then makes the class maps of the five likeliest classes: in tiles, or
in one piece where that fits. Reported are the time of that and the largest resident memory of the process
(ru_maxrss), of which so much was there before: Python, torch and the network. Where both were run, the largest
difference of a logit.

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
    # glibc told to keep what is given back, as other benchmarks here tell it, would keep some of every tile: 16 GB.
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
    """Photos side by side, each row of them rolled further."""
    photos = [np.asarray(Image.open(path).convert("RGB")) for path in list_examples("photos").values()]
    height = min(len(photo) for photo in photos)
    line = np.concatenate([photo[:height] for photo in photos], 1)
    # Written and not mapped: what this process has held counts as the peak of those that it starts.
    with file.open("wb") as out:
        write_array_header_1_0(out, {"descr": "|u1", "fortran_order": False, "shape": (side, side, 3)})
        for n, top in enumerate(range(0, side, height)):
            rolled = np.tile(np.roll(line, 301 * n, 1), (1, -(-side // line.shape[1]), 1))
            out.write(rolled[: side - top, :side].tobytes())
    return file


def _measure_run(file: Path, tile: int, logits: Path) -> dict[str, float]:
    use_huge_pages()  # as the command does
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
    """Megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    typer.run(main)
