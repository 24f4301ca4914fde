"""Find the folders of results below other folders, without reading their rows. This module does not import torch."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from inspector.datasets.shard_schema import parse_about
from inspector.datasets.table import RUN, count_written_shards
from inspector.errors import InspectorError

_MOST_ENTRIES = 2000  # entries of one folder that are looked at: a folder of photos may have millions


@dataclass(frozen=True)
class ListedResults:
    """A folder of results, as its run.json and the names of its files describe it."""

    folder: Path
    network: str
    source: str  # where the photos came from
    top: int  # classes per image whose maps are stored
    images: int  # in the list of the run
    written: int  # images in complete shards, at most
    has_features: bool  # the feature maps before pooling are stored
    changed: float  # when the last shard was written, in seconds since 1970

    @property
    def is_complete(self) -> bool:
        """Whether the shards of all images are there."""
        return self.written >= self.images


def list_results(roots: Iterable[Path], depth: int = 2) -> list[ListedResults]:
    """List the folders of results at most `depth` levels below the roots, those that changed last first.

    A folder whose run.json cannot be read is left out.
    """
    found = {folder.resolve(): folder for root in roots for folder in _find_folders(root, depth)}
    listed = [one for folder in found.values() if (one := read_listed(folder)) is not None]
    return sorted(listed, key=lambda one: -one.changed)


def read_listed(folder: Path) -> ListedResults | None:
    """Describe one folder of results; None if it has no run.json of `inspector batch`."""
    try:
        path = folder / RUN
        about = parse_about(path.read_bytes())
        images, shards = int(about["images"]), count_written_shards(folder)
        written = min(images, shards * int(about["shard_size"]))
        changed = max(path.stat().st_mtime, folder.stat().st_mtime)
        top, network = int(about.get("top", 0)), str(about["network"])
        source, has_features = str(about.get("source", "")), "features" in about
        return ListedResults(folder, network, source, top, images, written, has_features, changed)
    except (OSError, ValueError, KeyError, TypeError, InspectorError):
        return None


def _find_folders(root: Path, depth: int) -> Iterator[Path]:
    try:
        if (root / RUN).is_file():
            yield root
        elif depth:
            with os.scandir(root) as entries:
                below = sorted(entry.name for entry in islice(entries, _MOST_ENTRIES) if entry.is_dir())
            for name in below:
                if not name.startswith("."):
                    yield from _find_folders(root / name, depth - 1)
    except OSError:
        return
