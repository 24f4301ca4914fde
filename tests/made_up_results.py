"""Hand-made results as `inspector batch` writes them: one row per image, in several Parquet files."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from inspector.datasets.shard_schema import make_schema
from inspector.datasets.table import format_shard_name


@dataclass(frozen=True, eq=False)
class Image:
    """One row, before it is written."""

    path: str
    maps: dict[
        int, np.ndarray
    ]  # by class, the top-1 class first; one more than `top` if the label is not among the top classes
    label: int | None = None  # a class
    text: str | None = None  # the label, if it is no class
    size: tuple[int, int] = (20, 30)  # (H, W) of the photo
    box: tuple[float, float, float, float] = (0, 0, 30, 20)
    rank: int | None = None  # of the label, if it is not among the top classes
    error: str | None = None
    sha256: str = "0" * 64  # of the photo's file


def make_about(class_names: Sequence[str], grid: tuple[int, int], **changed: Any) -> dict[str, Any]:
    stride = [20 / grid[0], 30 / grid[1]]
    field = {axis: {"centre": s / 2, "stride": s, "size": s} for axis, s in zip("yx", stride, strict=True)}
    return {
        "version": "0.1.0", "network": "hand_made", "network_sha256": "0" * 64, "class_names": list(class_names),
        "grid": list(grid), "size": [20, 30], "pooling": "average", "verdict": "exact", "top": 2,
        "probability": "softmax", "receptive_field": field,
        "preprocessing": {"size": [20, 30], "mean": [0.5], "std": [0.5], "resize": None, "interpolation": "bilinear"},
        "source": "photos", "images": 0, "shard_size": 4,
    } | changed  # fmt: skip


def make_row(number: int, image: Image, names: Sequence[str], top: int = 2) -> dict[str, Any]:
    label = image.text if image.label is None else names[image.label]
    common = {"index": number, "path": image.path, "label": label, "error": image.error}
    if image.error is not None:
        return dict.fromkeys(make_schema({}).names) | common
    classes = list(image.maps)[:top]
    biases = [0.25] * len(classes)
    logits = [float(image.maps[k].sum()) + 0.25 for k in classes]
    probabilities = [0.5**n for n in range(1, len(classes) + 1)]
    rank = image.rank
    if image.label is not None and rank is None:
        rank = classes.index(image.label)
    return common | {
        "height": image.size[0], "width": image.size[1], "sha256": image.sha256, "classes": classes,
        "probabilities": probabilities, "logits": logits, "biases": biases, "label_class": image.label,
        "label_rank": rank, "label_probability": None if rank is None else 0.5 ** (rank + 1),
        "maps": np.concatenate([m.ravel() for m in image.maps.values()]).astype(np.float16),
        "map_classes": list(image.maps), "box": list(image.box), "residual": 1e-6 * number, "verdict": "exact",
    }  # fmt: skip


def write_results(
    folder: Path,
    images: Sequence[Image],
    about: dict[str, Any],
    each: int = 4,
    rows: list[dict[str, Any]] | None = None,
) -> Path:
    """Write a folder of results with `each` images per part, and run.json."""
    rows = (
        [make_row(n, one, about["class_names"], about["top"]) for n, one in enumerate(images)] if rows is None else rows
    )
    folder.mkdir(parents=True, exist_ok=True)
    about = about | {"images": len(rows)}
    (folder / "run.json").write_text(json.dumps(about))
    for start in range(0, max(1, len(rows)), each):
        table = pa.Table.from_pylist(rows[start : start + each], make_schema(about))
        # Small row groups, so that there are several.
        pq.write_table(table, folder / format_shard_name(start // each), compression="zstd", row_group_size=3)
    return folder
