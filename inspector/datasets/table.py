"""Write and read the table of a run: Parquet shards of consecutive images, and run.json with network and settings.

A shard is written under a temporary name and renamed when it is complete. So every file with a final name is complete,
and the name tells which images the file holds. Pages and settings have checksums, so that damage is noticed when they
are read. This module does not import torch.
"""

import re
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
import numpy as np

from inspector.datasets.feature_files import is_features_file_whole
from inspector.datasets.shard_schema import check_rows, import_arrow, make_schema, open_parquet, parse_about, read_about
from inspector.errors import ExportError, translate_errors
from inspector.explain.kinds import rank_verdict
from inspector.files import json_bytes, write_atomic

RUN = "run.json"
_SHARD_NAME = re.compile(r"part-(\d{5,})\.parquet")
# A temporary file of ours: hidden on a local disk, and with a random number elsewhere.
_TEMPORARY_NAME = re.compile(
    r"\.((part|features)-\d{5,}\.parquet|run\.json|head\.safetensors)\.tmp"
    r"|(part-\d{5,}\.parquet|run\.json)\.[0-9a-f]{32}\.tmp"
)
_OTHER_NAMES = re.compile(
    r"run\.json|gallery(-\d{4,})?\.html|overlays|survey|features-\d{5,}\.parquet|head\.safetensors|concepts"
)
# Keys of run.json that must be equal in the resumed run and the earlier run, and their names in error messages.
_MUST_MATCH = {
    "network": "the network",
    "network_sha256": "the weights of the network",
    "preprocessing": "the preprocessing",
    "class_names": "the class names",
    "top": "--top",
    "shard_size": "--shard-size",
    "overlays": "--overlays",
    "features": "--features",
    "list_sha256": "the list of images",
}
Row = Mapping[str, Any]  # values by column name; a missing column is null


@dataclass(frozen=True)
class Counts:
    """The numbers of images and shards in a finished table."""

    images: int
    explained: int
    unreadable: int
    shards: int
    verdicts: Mapping[str, int] = field(default_factory=dict, compare=False)  # images per verdict
    precision: str = ""  # how the results differ from those in float32, if another precision computed them

    @property
    def not_exact(self) -> int:
        """Number of images whose class maps do not sum to the network's logits."""
        return self.verdicts.get("not exact", 0)

    @property
    def worst_verdict(self) -> str | None:
        """The worst verdict of all images; None if no image could be read."""
        return max(self.verdicts, key=rank_verdict, default=None)

    def __str__(self) -> str:
        images, rows = (f"{self.images:,} {word}{'s' * (self.images != 1)}" for word in ("image", "row"))
        shards = f"{self.shards:,} shard{'s' * (self.shards != 1)}"
        text = f"{images}: {self.explained:,} explained, {self.unreadable:,} could not be read; {rows} in {shards}"
        return text + (f"; the class maps of {self.not_exact:,} do not add up" if self.not_exact else "")


def format_shard_name(number: int) -> str:
    """Return the file name of a shard, as in "part-00003.parquet"."""
    return f"part-{number:05}.parquet"


def split_into_shards(images: int, shard_size: int) -> list[range]:
    """Return for each shard the range of its image indices."""
    return [range(first, min(first + shard_size, images)) for first in range(0, images, shard_size)]


def begin_run(out: str | Path, about: Mapping[str, Any], resume: bool) -> dict[int, range]:
    """Prepare the folder of a run: write run.json, or check the run.json of the run to resume.

    Args:
        out: path, or URL that fsspec knows.
        about: content of run.json, with at least the keys of _MUST_MATCH and "images".
        resume: keep the complete shards of an earlier run, after reading them; remove its temporary files.

    Returns:
        The shards that are missing: shard number -> indices of its images.

    Raises:
        ExportError: as for `check_place`, or run.json is broken or differs in a key of _MUST_MATCH.
    """
    system, folder = open_folder(out)
    present = check_place(out, resume)
    if RUN in present:
        problem = f"{out}/{RUN} cannot be read: {{reason}}. Use another folder, or delete {RUN} and all shards there."
        with translate_errors(ExportError, problem):
            earlier = parse_about(system.cat_file(f"{folder}/{RUN}"))
        _refuse_other(out, earlier, about)
    else:
        _write_file(system, folder, RUN, json_bytes(about, ascii_only=False))
    remove_temporary_files(out)
    return {
        number: indices
        for number, indices in enumerate(split_into_shards(about["images"], about["shard_size"]))
        if (name := format_shard_name(number)) not in present
        or not _is_whole(system, f"{folder}/{name}", indices)
        or (about.get("features") and not is_features_file_whole(Path(out), number, indices, about))
    }


def check_place(out: str | Path, resume: bool) -> set[str]:
    """Check that a run can begin in a folder, or continue there; call it before work that takes long.

    Returns:
        The names of the files that an earlier run left in the folder; empty if there was none.

    Raises:
        ExportError: the folder is not empty and `resume` is False, or it holds other files and no run.json.
    """
    present = set(_list_names(*open_folder(out)))
    if present and not resume:
        raise ExportError(
            f"{out} is not empty. Use --resume to continue the run in it, --overwrite to replace it, or another folder."
        )
    if present and RUN not in present:
        # A run that was killed before run.json was complete leaves only temporary files: start again.
        if not all(map(_TEMPORARY_NAME.fullmatch, present)):
            raise ExportError(f"{out} has files but no {RUN}, so there is no run to resume. Use another folder.")
        return set()
    return present


def is_file_of_run(name: str) -> bool:
    """Return whether a run writes files or folders of this name into its folder."""
    return any(pattern.fullmatch(name) for pattern in (_SHARD_NAME, _TEMPORARY_NAME, _OTHER_NAMES))


def write_shard(out: str | Path, number: int, rows: Sequence[Row], about: Mapping[str, Any]) -> None:
    """Write a shard, as a complete file or not at all. An earlier shard with the same number is replaced."""
    pa, columns = import_arrow(), make_schema(about)
    table = pa.table({name: [row.get(name) for row in rows] for name in columns.names}, schema=columns)
    sink = pa.BufferOutputStream()
    names = ["label", "verdict"]
    pa.parquet.write_table(table, sink, compression="zstd", use_dictionary=names, write_page_checksum=True)
    _write_file(*open_folder(out), format_shard_name(number), sink.getvalue().to_pybytes())


def count_rows(out: str | Path, images: int, shard_size: int) -> Counts:
    """Count the rows in the files of all shards, and check that no image is missing.

    Args:
        out: folder or URL of the run.
        images: number of images in the list.
        shard_size: images per shard.

    Raises:
        ExportError: the shards do not hold every image exactly once.
    """
    system, folder = open_folder(out)
    unreadable, verdicts, wrong = 0, Counter[str](), []
    shards = {format_shard_name(number): part for number, part in enumerate(split_into_shards(images, shard_size))}
    for name, indices in shards.items():
        table = _read_whole(system, f"{folder}/{name}", indices, ["index", "error", "verdict"])
        if table is None:
            wrong.append(name)
            continue
        unreadable += len(table) - table["error"].null_count
        verdicts.update(table["verdict"].drop_null().to_pylist())
    wrong += [name for name in _list_shards(system, folder) if name not in shards]
    if wrong:
        examples = ", ".join(wrong[:5]) + (", ..." if len(wrong) > 5 else "")
        raise ExportError(
            f"The counts do not add up: {len(wrong)} shards of {out} do not hold the images that they should "
            f"({examples}). Delete these files and run again with --resume."
        )
    return Counts(images, images - unreadable, unreadable, len(shards), dict(verdicts.most_common()))


def read_rows(out: str | Path) -> tuple[Any, dict[str, Any]]:
    """Open the shards in a folder.

    Returns:
        A pyarrow Dataset in the order of the images, and the content of run.json (network and settings).

    Raises:
        ExportError: the folder has no shards, or the shards were not written by `inspector batch`.
    """
    pa, (system, folder) = import_arrow(), open_folder(out)
    paths = [f"{folder}/{name}" for name in _list_shards(system, folder)]
    if not paths:
        raise ExportError(f"No shards in {out}. Expected a folder that `inspector batch` wrote.")
    with translate_errors(ExportError, f"The shards in {out} are not those of `inspector batch`: {{reason}}."):
        # pyarrow reads the schema from the first shard only (all shards share it), and opens the other shards later.
        options = pa.dataset.ParquetFragmentScanOptions(page_checksum_verification=True)
        parquet = pa.dataset.ParquetFileFormat(default_fragment_scan_options=options)
        dataset = pa.dataset.dataset(paths, filesystem=None if _is_local(system) else system, format=parquet)
        return dataset, read_about(dataset.schema)


def count_written_shards(out: str | Path) -> int:
    """Count the shards in a folder."""
    return len(_list_shards(*open_folder(out)))


def remove_temporary_files(out: str | Path) -> None:
    """Remove the temporary files that killed runs left, and no others."""
    system, folder = open_folder(out)
    for name in filter(_TEMPORARY_NAME.fullmatch, _list_names(system, folder)):
        if system.isfile(path := f"{folder}/{name}"):
            with translate_errors(ExportError, f"Cannot remove {path}: {{reason}}."):
                system.rm(path)


def open_folder(out: str | Path) -> tuple[Any, str]:
    """Return the fsspec file system of a path or URL, and the path inside this file system.

    Raises:
        ExportError: fsspec does not know the protocol, or its library is not installed.
    """
    with translate_errors(ExportError, f"Cannot write to {out}: {{reason}}."):
        system, path = fsspec.core.url_to_fs(str(out))
    return system, path.rstrip("/")


def _list_shards(system: Any, folder: str) -> list[str]:
    """List the names of the shards in a folder, in the order of their numbers."""
    names = filter(_SHARD_NAME.fullmatch, _list_names(system, folder))
    return sorted(names, key=lambda name: (len(name), name))


def _list_names(system: Any, folder: str) -> list[str]:
    """List the names of the files in a folder; the list is empty if the folder does not exist."""
    system.invalidate_cache()
    with translate_errors(ExportError, f"Cannot list {folder}: {{reason}}."):
        try:
            return [path.rstrip("/").rsplit("/", 1)[-1] for path in system.ls(folder, detail=False)]
        except (FileNotFoundError, NotADirectoryError):
            return []


def _is_whole(system: Any, path: str, indices: range) -> bool:
    """Return whether a file holds all columns of these images without damage; all its bytes are read."""
    return _read_whole(system, path, indices) is not None


def _read_whole(system: Any, path: str, indices: range, columns: Sequence[str] | None = None) -> Any:
    """Read columns of a shard as a pyarrow table; return None if they are damaged or of other images."""
    try:
        with system.open(path, "rb") as file, open_parquet(file) as shard:
            about, table = read_about(shard.schema_arrow), shard.read(columns)
            for rows in table.to_batches() if columns is None else ():
                check_rows(rows, about)
        return table if np.array_equal(table["index"].to_numpy(), np.arange(indices.start, indices.stop)) else None
    except Exception:  # what a damaged file raises is not documented
        return None


def _is_local(system: Any) -> bool:
    return "file" in ((system.protocol,) if isinstance(system.protocol, str) else system.protocol)


def _write_file(system: Any, folder: str, name: str, content: bytes) -> None:
    path = f"{folder}/{name}"
    with translate_errors(ExportError, f"Cannot write {path}: {{reason}}."):
        system.makedirs(folder, exist_ok=True)
        if _is_local(system):
            # Write through to the disk: after a power failure no shard may be empty under its final name.
            write_atomic(Path(path), content, durable=True)
        else:
            # Use a new temporary name: an actor that Ray considers dead may still be writing the same shard.
            temporary = f"{path}.{uuid.uuid4().hex}.tmp"
            system.pipe_file(temporary, content)
            system.mv(temporary, path)


def _refuse_other(out: str | Path, earlier: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    if differing := [key for key in _MUST_MATCH if earlier.get(key) != about.get(key)]:
        key = differing[0]
        values = f" ({earlier.get(key)} then, {about[key]} now)" if key in ("network", "top", "shard_size") else ""
        raise ExportError(
            f"The run in {out} differs in {_MUST_MATCH[key]}{values}. Use --resume with the command that began it, or "
            "another folder."
        )
