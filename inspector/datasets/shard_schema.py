"""The columns of a shard, and the network and settings in its metadata, which say what the numbers were made with.

The content of run.json is also in the metadata of each shard, with its checksum. This module does not import torch.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from inspector.entries import Entries, parse_json
from inspector.errors import require

KEY = b"inspector"  # key of the content of run.json in the metadata of the Parquet schema
_DIGEST_KEY = b"inspector.sha256"  # key of the SHA-256 of that content
# The columns of a shard with their pyarrow types; "[float32]" is a list. docs/batch.md explains the columns.
# fmt: off
SHARD_COLUMNS = {
    "index": "int64", "path": "string", "label": "string", "height": "int32", "width": "int32", "sha256": "string",
    "classes": "[int32]", "probabilities": "[float32]", "logits": "[float32]", "biases": "[float32]",
    "label_class": "int32", "label_rank": "int32", "label_probability": "float32",
    "maps": "[float16]", "map_classes": "[int32]", "box": "[float32]",
    "residual": "float32", "verdict": "string", "error": "string",
}
# fmt: on

PER_TOP_CLASS = ("probabilities", "logits", "biases")  # columns with one value for each of the row's `classes`
_TEXTS = ("network", "network_sha256", "pooling", "verdict", "probability", "source", "version")
_NUMBERS = {"top": 1, "images": 0, "shard_size": 1, "finer": 1}  # with their least values
_MAX_CELLS = 4_000_000  # in a class map; readers keep several maps in memory
_MAX_FEATURES = 40_000_000  # values in the feature maps of one photo
REQUIRED = ("network", "network_sha256", "class_names", "grid", "size", "pooling", "preprocessing")


def import_arrow() -> Any:
    """Import pyarrow with its modules for data sets and Parquet files.

    Raises:
        InspectorError: pyarrow is not installed.
    """
    return require("pyarrow", "pyarrow.dataset", "pyarrow.parquet", extra="data", purpose="A table of class maps")


def open_parquet(file: Any) -> Any:
    """Open a Parquet file, given by its path or as a file object; damaged pages raise OSError when they are read."""
    return import_arrow().parquet.ParquetFile(file, page_checksum_verification=True)


def make_schema(about: Mapping[str, Any]) -> Any:
    """Return the pyarrow schema of a shard, with `about` as JSON in its metadata."""
    pa = import_arrow()
    single = {name: getattr(pa, kind.strip("[]"))() for name, kind in SHARD_COLUMNS.items()}
    types = {
        name: pa.list_(single[name]) if kind.startswith("[") else single[name] for name, kind in SHARD_COLUMNS.items()
    }
    return pa.schema(types, make_metadata(about))


def make_metadata(about: Mapping[str, Any]) -> dict[bytes, bytes]:
    """Return the metadata of a schema: network and settings as JSON, and their checksum."""
    content = json.dumps(about).encode()
    return {KEY: content, _DIGEST_KEY: hashlib.sha256(content).hexdigest().encode()}


def read_about(schema: Any, expected: Any = None) -> dict[str, Any]:
    """Read the network and the settings from the metadata of a shard's pyarrow schema.

    Args:
        schema: schema of the file.
        expected: schema with the columns that must be there. Default: that of a shard.

    Raises:
        ValueError: they are missing, damaged or wrong, or a column is missing or has another type. The message follows
            the name of the file, as in "lacks label_rank".
    """
    metadata = schema.metadata or {}
    if KEY not in metadata:
        raise ValueError("does not say what it was made with")
    # Files of versions before the checksums have none.
    if metadata.get(_DIGEST_KEY) not in (None, hashlib.sha256(metadata[KEY]).hexdigest().encode()):
        raise ValueError("is damaged: what it says about its run has another checksum than when it was written")
    expected = make_schema({}) if expected is None else expected
    if missing := sorted(set(expected.names) - set(schema.names)):
        raise ValueError(f"lacks {', '.join(missing)}")
    for column in expected:
        if (found := schema.field(column.name).type) != column.type:
            raise ValueError(f"has {column.name} as {found}, not as {column.type}")
    try:
        return parse_about(metadata[KEY])
    except KeyError as error:
        raise ValueError(f"lacks {error.args[0]}") from error
    except ValueError as error:
        raise ValueError(f"has settings that cannot be read ({error})") from error


def parse_about(content: bytes) -> dict[str, Any]:
    """Parse the content of run.json, and check the values that its readers use.

    Raises:
        KeyError: entries are missing; the message lists them.
        ValueError: it is not JSON, or a value is wrong.
    """
    about = Entries(parse_json(content))
    if missing := [key for key in REQUIRED if key not in about.values]:
        raise KeyError(", ".join(missing))
    for key in _TEXTS:
        if about.has(key) or key in REQUIRED:
            about.text(key)
    for key, least in _NUMBERS.items():
        if key in about.values:
            about.whole(key, least)
    if not about.texts("class_names"):
        about.refuse("class_names", "at least one name")
    about.object("preprocessing")
    if math.prod(about.size("grid")) > _MAX_CELLS:
        about.refuse("grid", f"a grid of at most {_MAX_CELLS:,} cells")
    if about.has("features"):
        shape = about.wholes("features", least=1)
        if len(shape) != 3 or math.prod(shape) > _MAX_FEATURES:
            about.refuse("features", f"channels, rows and columns of at most {_MAX_FEATURES:,} values")
        about.text("head_sha256")
    if about.object("receptive_field").has("misplaced"):
        about.object("receptive_field").text("misplaced")
    for field in map(about.object("receptive_field").object, ("y", "x")):
        for key in ("centre", "stride", *(("size",) if field.has("size") else ())):
            field.number(key)
    return dict(about.values) | {key: list(about.size(key)) for key in ("grid", "size")}


def check_rows(rows: Any, about: Mapping[str, Any]) -> None:
    """Check the values of a pyarrow RecordBatch of a shard against the settings of its run.

    Raises:
        ValueError: a value is missing, a list has a wrong length, or a class has no name.
    """
    rows = rows.filter(rows.column("error").is_null())
    lengths = {}
    for name in ("classes", *PER_TOP_CLASS, "map_classes", "maps", "box"):
        column = rows.column(name)
        if column.null_count or column.flatten().null_count:
            raise ValueError(f"a value of {name} is missing")
        lengths[name] = np.diff(column.offsets.to_numpy())
    if any((lengths[name] != lengths["classes"]).any() for name in PER_TOP_CLASS) or not lengths["classes"].all():
        raise ValueError("an image has not one probability, logit and bias for each of its classes")
    height, width = about["grid"]
    if (lengths["maps"] != lengths["map_classes"] * height * width).any():
        raise ValueError(f"an image has maps that are not {height} x {width} cells")
    if (lengths["box"] != 4).any() or any(rows.column(name).null_count for name in ("path", "height", "width")):
        raise ValueError("an image lacks its path, size or crop")
    for name in ("classes", "map_classes", "label_class"):
        column = rows.column(name)
        numbers = (column.drop_null() if name == "label_class" else column.flatten()).to_numpy()
        if len(numbers) and not 0 <= numbers.min() <= numbers.max() < len(about["class_names"]):
            raise ValueError(f"{name} has a class that is not one of {len(about['class_names']):,}")
