"""Ray gives the rows of the local engine, also if a worker is killed."""

import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import inspector
from inspector.datasets import run as run_module
from inspector.datasets.ray_engine import run_dataset_on_ray
from inspector.datasets.run import RunOptions
from inspector.datasets.table import Counts, count_written_shards, read_rows
from inspector.errors import ImageError, InspectorError, NetworkError
from inspector.images.examples import list_examples

NETWORK = "fashion_gap"
MANY, SHARD = 96, 4
COUNTS = Counts(MANY, MANY - 4, 4, MANY // SHARD)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import ray


@pytest.fixture(scope="module")
def boots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("boots")
    images = [path.read_bytes() for path in list_examples("fashion_mnist").values()]
    for number in range(MANY):
        (folder / f"{number:03}.png").write_bytes(images[number % len(images)] if number % 24 else b"no image")
    return folder


@pytest.fixture(scope="module")
def local_rows(boots: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    out = tmp_path_factory.mktemp("local") / "out"
    run_module.run_dataset(boots, inspector.load(NETWORK), out, RunOptions(batch_size=2, shard_size=SHARD))
    return read_row_dicts(out)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A running Ray on two processors, whose workers can import this file."""
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", str(Path(__file__).parent))
        warnings.simplefilter("ignore")
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, ignore_reinit_error=True)
        yield
        ray.shutdown()


def read_row_dicts(out: Path | str) -> list[dict[str, Any]]:
    return read_rows(out)[0].to_table().to_pylist()


def rows_are_close(rows: list[dict[str, Any]], others: list[dict[str, Any]]) -> bool:
    """Return whether rows are equal up to rounding: another process may use other threads."""
    return len(rows) == len(others) and all(
        row.keys() == other.keys()
        and all(
            row[name] == (pytest.approx(value, abs=2e-3) if _is_number(value) else value)
            for name, value in other.items()
        )
        for row, other in zip(rows, others, strict=True)
    )


def _is_number(value: object) -> bool:
    return isinstance(value, float) or (isinstance(value, list) and bool(value) and isinstance(value[0], float))


def load_and_sign(folder: str) -> inspector.Classifier:
    """Load the network after writing the process id into a folder."""
    (Path(folder) / str(os.getpid())).touch()
    return inspector.load(NETWORK)


def load_here_only(process: int) -> inspector.Classifier:
    if os.getpid() != process:
        raise NetworkError("The weights are not on this machine.")
    return inspector.load(NETWORK)


def test_ray_gives_the_rows_of_the_local_engine_without_setup(
    boots: Path, tmp_path: Path, local_rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    progress: list[tuple[int, int]] = []
    load = partial(inspector.load, NETWORK)
    counts = run_dataset_on_ray(
        os.path.relpath(boots),
        load,
        "out",
        RunOptions(batch_size=2, shard_size=SHARD),
        on_progress=lambda *now: progress.append(now),
    )
    assert counts == COUNTS
    assert sorted(progress) == progress
    assert progress[0] == (0, MANY)
    assert progress[-1] == (MANY, MANY)
    rows = read_row_dicts(tmp_path / "out")
    assert [row.pop("path") for row in rows] == [os.path.relpath(row["path"]) for row in local_rows]
    assert rows_are_close(rows, [{name: value for name, value in row.items() if name != "path"} for row in local_rows])
    assert not ray.is_initialized()
    # Nothing is left to do: Ray is not started for it.
    monkeypatch.setitem(sys.modules, "ray", None)
    resumed = run_dataset_on_ray(
        os.path.relpath(boots), load, "out", RunOptions(batch_size=2, shard_size=SHARD, resume=True)
    )
    assert resumed == COUNTS


def test_a_killed_worker_loses_and_doubles_no_image(
    boots: Path, tmp_path: Path, local_rows: list[dict[str, Any]], cluster: None
) -> None:
    signed, out = tmp_path / "signed", f"file://{tmp_path}/out"
    signed.mkdir()
    killed: list[int] = []

    def kill() -> None:
        while count_written_shards(out) < 3:
            time.sleep(0.002)
        (worker,) = {int(path.name) for path in signed.iterdir()} - {os.getpid()}
        os.kill(worker, signal.SIGKILL)
        killed.append(count_written_shards(out))

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    counts = run_dataset_on_ray(
        boots, partial(load_and_sign, str(signed)), out, RunOptions(batch_size=2, workers=2, shard_size=SHARD)
    )
    killer.join(10)
    assert counts == COUNTS
    assert killed[0] < MANY // SHARD, "it was not killed in the middle"
    assert len(list(signed.iterdir())) == 3, "this process, the worker that was killed, and the one in its place"
    assert rows_are_close(read_row_dicts(out), local_rows)
    assert not list((tmp_path / "out").glob("*.tmp"))


def test_a_worker_that_fails_gives_one_sentence(boots: Path, tmp_path: Path, cluster: None) -> None:
    with pytest.raises(InspectorError, match=r"A Ray worker failed \(.*The weights are not on this machine"):
        run_dataset_on_ray(
            boots, partial(load_here_only, os.getpid()), tmp_path / "out", RunOptions(batch_size=2, shard_size=SHARD)
        )


def test_errors_before_the_start_need_no_ray(boots: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImageError, match="No images at nowhere"):
        run_dataset_on_ray("nowhere", partial(inspector.load, NETWORK), tmp_path / "out")
    with pytest.raises(InspectorError, match="The Ray engine draws no overlays"):
        run_dataset_on_ray(boots, partial(inspector.load, NETWORK), tmp_path / "out", RunOptions(overlays=True))
    with pytest.raises(InspectorError, match=r"--engine ray needs ray .*pip install 'class-map-inspector\[scale\]'"):
        run_dataset_on_ray(boots, partial(inspector.load, NETWORK), tmp_path / "out")
