"""Make columns of a pyarrow table. pyarrow's own conversion imports pandas first, which takes a quarter of a second."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inspector.datasets.shard_schema import import_arrow
from inspector.errors import ExportError

_MOST = 2**31 - 1  # bytes or numbers that the strings or lists of one column can hold


def make_column(values: Sequence[Any], kind: str) -> Any:
    """Return values as a pyarrow array.

    Args:
        values: one per row; None becomes null.
        kind: type of the values, as in `SHARD_COLUMNS`: "int32", "string", "[float16]".

    Raises:
        ExportError: the strings or lists hold more than 2^31 bytes or numbers together.
    """
    pa = import_arrow()
    known = np.array([value is not None for value in values], bool)
    validity = None if known.all() else pa.py_buffer(np.packbits(known, bitorder="little"))
    if kind == "string":
        texts = [b"" if value is None else value.encode() for value in values]
        buffers = [validity, _make_offsets(texts), pa.py_buffer(b"".join(texts))]
        return pa.Array.from_buffers(pa.string(), len(values), buffers)
    if kind.startswith("["):
        lists = [np.asarray(() if value is None else value, kind.strip("[]")) for value in values]
        inner = _make_numbers(np.concatenate([*lists, np.zeros(0, kind.strip("[]"))]))
        return pa.Array.from_buffers(
            pa.list_(inner.type), len(values), [validity, _make_offsets(lists)], children=[inner]
        )
    return _make_numbers(np.array([0 if value is None else value for value in values], kind), validity)


def _make_numbers(numbers: NDArray[Any], validity: Any = None) -> Any:
    pa = import_arrow()
    type = pa.from_numpy_dtype(numbers.dtype)
    return pa.Array.from_buffers(type, len(numbers), [validity, pa.py_buffer(numbers)])


def _make_offsets(parts: Sequence[Any]) -> Any:
    """Return where each part begins when they are joined, and where the last one ends."""
    offsets = np.cumsum([0, *map(len, parts)])
    if offsets[-1] > _MOST:
        raise ExportError(
            f"A shard of {len(parts):,} images is too large for a Parquet file. Use a smaller --shard-size."
        )
    return import_arrow().py_buffer(offsets.astype(np.int32))
