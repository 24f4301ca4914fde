"""Columns are those of pyarrow's own conversion, made without pandas."""

import subprocess
import sys
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from inspector.datasets import arrow_columns
from inspector.datasets.arrow_columns import make_column
from inspector.errors import ExportError

VALUES: dict[str, list[Any]] = {
    "int64": [*range(9), None],
    "float32": [0.5, None, float("nan"), -1e30],
    "string": ["a", "", None, "Käfer 🐞", "b" * 300],
    "[int32]": [[1, 2, 3], [], None, [4]],
    "[float32]": [np.array([0.25, np.inf], np.float32), (1.5, 2.0, 3.0, 4.0), None],
    "[float16]": [np.arange(5, dtype=np.float16), None, np.array([-0.0, np.nan], np.float16)],
}


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize(
    "choose", [lambda values: values, lambda values: values[:1], lambda values: [None], lambda _: []]
)
def test_a_column_has_the_values_and_nulls_of_pyarrow(kind: str, choose: Any) -> None:
    values, single = choose(VALUES[kind]), getattr(pa, kind.strip("[]"))()
    expected = pa.array(values, pa.list_(single) if kind.startswith("[") else single)
    made = make_column(values, kind)
    made.validate(full=True)
    assert (made.type, made.null_count) == (expected.type, expected.null_count)
    assert str(made.to_pylist()) == str(expected.to_pylist())


def test_a_column_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow_columns, "_MOST", 3)
    assert len(make_column([[1, 2], [3]], "[int32]")) == 2
    for values, kind in (([[1, 2], [3, 4]], "[int32]"), (["ab", "cd"], "string")):
        with pytest.raises(ExportError, match=r"A shard of 2 images is too large .* Use a smaller --shard-size\."):
            make_column(values, kind)


def test_a_shard_is_written_and_counted_without_pandas() -> None:
    code = """
import sys, tempfile
from inspector.datasets.table import count_rows, write_shard
with tempfile.TemporaryDirectory() as out:
    write_shard(out, 0, [{"index": 0, "path": "a.jpg", "error": "broken"}], {KEYS})
    assert count_rows(out, 1, 8).unreadable == 1
assert "pandas" not in sys.modules
"""
    about = {
        **dict.fromkeys(("network", "network_sha256", "pooling"), "x"),
        "class_names": ["a"],
        "grid": [1, 1],
        "size": [8, 8],
        "preprocessing": {},
        "receptive_field": {axis: {"centre": 0, "stride": 1} for axis in "yx"},
    }
    subprocess.run([sys.executable, "-c", code.replace("{KEYS}", repr(about))], check=True, timeout=60)
