"""Files of feature maps before pooling, beside the shards, and of the head that follows.

    features-00003.parquet    index (int64), features (the bytes of C x h x w values in float16; null: not read)
    head.safetensors          weight (K, C), bias (K,) in float32

A file of features holds the images of the shard with its number. It is written batch by batch under a temporary name,
and renamed before its shard is. It is not compressed, so a file takes no more memory than its size says, and pages and
settings have checksums. This module does not import torch.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from inspector.datasets.shard_schema import import_arrow, make_metadata, open_parquet, read_about
from inspector.errors import ExportError, summarize_reason, translate_errors
from inspector.files import new_file, open_regular, write_atomic

HEAD = "head.safetensors"
Features: TypeAlias = NDArray[np.float16]  # (C, h, w)
Write: TypeAlias = Callable[[Sequence[tuple[int, Features | None]]], None]  # takes images: (index, features)

_GROUP_BYTES = 8_000_000  # of a row group: what is read to get one image
_SLACK = 1_000_000  # bytes that the headers of pages may take in a row group, or of the head's file


def format_features_name(number: int) -> str:
    """Return the name of the file of features that belongs to a shard, as in "features-00003.parquet"."""
    return f"features-{number:05}.parquet"


@contextmanager
def open_features_writer(out: Path, number: int, about: Mapping[str, Any]) -> Iterator[Write]:
    """Yield a function that writes the features of some images; the file is complete when the `with` block ends.

    Args:
        out: folder of the run.
        number: number of the shard.
        about: content of run.json, with "features": [C, h, w].

    Raises:
        ExportError: the file cannot be written. Nothing is left there.
    """
    pa, schema, path = import_arrow(), _make_schema(about), out / format_features_name(number)
    options = {"compression": "none", "use_dictionary": False, "write_page_checksum": True, "write_statistics": False}
    rows = max(1, _GROUP_BYTES // schema.field("features").type.byte_width)
    try:
        with new_file(path, durable=True) as temporary, pa.parquet.ParquetWriter(temporary, schema, **options) as file:

            def write(images: Sequence[tuple[int, Features | None]]) -> None:
                contents = [None if features is None else features.astype("<f2").tobytes() for _, features in images]
                table = pa.table({"index": [index for index, _ in images], "features": contents}, schema=schema)
                with _translate_write_error(path):
                    file.write_table(table, row_group_size=rows)

            yield write
    except OSError as error:  # of opening and renaming; other exceptions in the block are not about this file
        raise ExportError(f"Cannot write {path}: {summarize_reason(error)}.") from error


def write_head(out: Path, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> None:
    """Write the head of the network into the folder of a run.

    Raises:
        ExportError: the file cannot be written.
    """
    with _translate_write_error(out / HEAD):
        write_atomic(out / HEAD, _encode_head(weight, bias))


def hash_head(weight: NDArray[np.float32], bias: NDArray[np.float32]) -> str:
    """Return the SHA-256 of the file that `write_head` writes."""
    return hashlib.sha256(_encode_head(weight, bias)).hexdigest()


def read_head(folder: Path, about: Mapping[str, Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Read weight (K, C) and bias (K,) of the head.

    Raises:
        ValueError: the file is damaged, or is not that of this run.
        OSError: it cannot be read.
    """
    classes, channels = len(about["class_names"]), about["features"][0]
    largest = 4 * classes * (channels + 1) + _SLACK
    with open_regular(folder / HEAD) as file:
        content = file.read(largest + 1)
    if hashlib.sha256(content).hexdigest() != about["head_sha256"]:
        raise ValueError("it has another checksum than when it was written")
    arrays = load(content)
    weight, bias = arrays["weight"], arrays["bias"]
    if weight.shape != (classes, channels) or bias.shape != (classes,):
        raise ValueError(f"its weight is {weight.shape}, not {(classes, channels)}")
    return weight.astype(np.float32), bias.astype(np.float32)


def open_features(file: Any, about: Mapping[str, Any]) -> Any:
    """Check a file of features, opened by `open_parquet`, and return it.

    Raises:
        ValueError: it is of another run, has other columns, or would take more memory than its rows need.
    """
    expected = _make_schema(about)
    found = read_about(file.schema_arrow, expected)
    for key in ("network_sha256", "features", "list_sha256"):
        if found.get(key) != about.get(key):
            raise ValueError(f"it is of another run than the shards: {key} differs")
    width = expected.field("features").type.byte_width
    for number in range(file.num_row_groups):
        group = file.metadata.row_group(number)
        columns = [group.column(n) for n in range(group.num_columns)]
        if any(column.compression != "UNCOMPRESSED" for column in columns):
            raise ValueError("it is compressed, which features are not")
        if (
            group.num_rows > max(1, _GROUP_BYTES // width)
            or group.total_byte_size > group.num_rows * (width + 64) + _SLACK
        ):
            raise ValueError("it has larger row groups than features have")
    return file


def decode_features(table: Any, shape: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.float16]]:
    """Return the indices (n,) of the images of a pyarrow table of features, and their features (n, C, h, w).

    Raises:
        ValueError: an image has no features.
    """
    column = table["features"].combine_chunks()
    column = column.chunk(0) if hasattr(column, "num_chunks") else column
    if column.null_count:
        raise ValueError("an image that was read has no features")
    size = math.prod(shape)
    values = np.frombuffer(column.buffers()[1], "<f2", len(column) * size, 2 * column.offset * size)
    return table["index"].to_numpy(), values.reshape(len(column), *shape)


def is_features_file_whole(out: Path, number: int, indices: range, about: Mapping[str, Any]) -> bool:
    """Return whether the file of features of a shard holds these images without damage; all its bytes are read."""
    try:
        with open_parquet(out / format_features_name(number)) as file:
            open_features(file, about)
            found = [file.read_row_group(group)["index"].to_numpy() for group in range(file.num_row_groups)]
        return np.array_equal(np.concatenate(found), np.arange(indices.start, indices.stop))
    except Exception:  # what a damaged file raises is not documented
        return False


def _make_schema(about: Mapping[str, Any]) -> Any:
    pa = import_arrow()
    features = pa.binary(2 * math.prod(about["features"]))
    return pa.schema({"index": pa.int64(), "features": features}, make_metadata(about))


def _encode_head(weight: NDArray[np.float32], bias: NDArray[np.float32]) -> bytes:
    return save({"weight": np.ascontiguousarray(weight), "bias": np.ascontiguousarray(bias)})


def _translate_write_error(path: Path) -> Any:
    return translate_errors(ExportError, f"Cannot write {path}: {{reason}}.")
