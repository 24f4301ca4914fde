"""Stored feature maps are those of the network, come back for any photos, and no damage goes unnoticed."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tiny_photos import write_photos
from torch import nn

import inspector
from inspector.datasets.features import read_features
from inspector.datasets.run import RunOptions, run_dataset
from inspector.errors import Cancelled, ExportError, HeadError, InspectorError

NAMES = ("cat", "dog", "bird")
STORED = RunOptions(batch_size=2, shard_size=4, features=True)


@pytest.fixture
def classifier(hand_made_gap: nn.Module) -> inspector.Classifier:
    return inspector.Classifier.wrap(hand_made_gap, class_names=NAMES, size=(6, 8), name="by hand")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Nine photos, of which one is broken."""
    folder = write_photos(tmp_path / "photos", {"cat": 5, "dog": 4})
    (folder / "dog" / "01.png").write_bytes(b"no image")
    return folder


def test_features_and_head_are_those_of_the_network(
    photos: Path, tmp_path: Path, classifier: inspector.Classifier
) -> None:
    run_dataset(photos, classifier, tmp_path / "out", STORED)
    stored = read_features(tmp_path / "out")
    assert [photo.index for photo in stored.photos] == [0, 1, 2, 3, 4, 5, 7, 8]
    assert [photo.label for photo in stored.photos] == [0] * 5 + [1] * 3
    chosen = [8, 0, 4, 5]
    features = stored.read(chosen)
    assert features.shape == (4, 2, 6, 8)
    for one, index in zip(features, chosen, strict=True):
        photo = stored.by_index[index]
        maps = inspector.class_maps(classifier, photo.path)
        assert np.array_equal(one, maps.feature_maps.numpy().astype(np.float16).astype(np.float32))
        assert photo.predicted == int(maps.logits.argmax())
        logits = stored.weight @ stored.pool(one[None])[0] + stored.bias
        assert logits == pytest.approx(maps.logits.numpy(), abs=2e-3)
    assert stored.field == classifier.receptive_field


def test_max_pooling_and_finer_maps_keep_the_features_own_grid(
    photos: Path, tmp_path: Path, hand_made_gmp: nn.Module
) -> None:
    classifier = inspector.Classifier.wrap(hand_made_gmp, class_names=NAMES, size=(6, 8))
    run_dataset(photos, classifier, tmp_path / "max", STORED)
    stored = read_features(tmp_path / "max")
    one = stored.read([0])
    assert np.array_equal(stored.pool(one), one.max((2, 3)))
    network = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    classifier = inspector.Classifier.wrap(network, class_names=NAMES, size=(16, 24))
    run_dataset(photos, classifier, tmp_path / "finer", RunOptions(finer=2, features=True))
    stored = read_features(tmp_path / "finer")
    assert stored.shape == (4, 4, 6)
    assert stored.field == classifier.receptive_field


def test_a_stopped_run_continues_and_damaged_features_are_written_anew(
    photos: Path, tmp_path: Path, classifier: inspector.Classifier
) -> None:
    out = tmp_path / "out"

    def stop(done: int, images: int) -> None:
        if done > 4:
            raise Cancelled("Stopped.")

    with pytest.raises(Cancelled):
        run_dataset(photos, classifier, out, STORED, on_progress=stop)
    names = {"features-00000.parquet", "head.safetensors", "part-00000.parquet", "run.json"}
    assert {path.name for path in out.iterdir()} == names
    resume = RunOptions(batch_size=2, shard_size=4, features=True, resume=True)
    run_dataset(photos, classifier, out, resume)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert len(before) == 8
    damaged = bytearray(before["features-00001.parquet"])
    damaged[200] ^= 1
    (out / "features-00001.parquet").write_bytes(damaged)
    (out / "features-00002.parquet").unlink()
    run_dataset(photos, classifier, out, resume)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    with pytest.raises(ExportError, match="differs in --features"):
        run_dataset(photos, classifier, out, RunOptions(batch_size=2, shard_size=4, resume=True))


def test_no_damaged_byte_changes_a_feature_without_an_error(
    photos: Path, tmp_path: Path, classifier: inspector.Classifier
) -> None:
    out = tmp_path / "out"
    run_dataset(photos, classifier, out, RunOptions(features=True))
    whole, noticed, tried = read_features(out).read([0, 3, 8]), 0, 0
    for name in ("features-00000.parquet", "head.safetensors"):
        content = (out / name).read_bytes()
        for place in range(0, len(content), 29):
            damaged = bytearray(content)
            damaged[place] ^= 1 << place % 8
            (out / name).write_bytes(damaged)
            tried += 1
            try:
                assert np.array_equal(read_features(out).read([0, 3, 8]), whole), (name, place)
            except InspectorError:
                noticed += 1
        (out / name).write_bytes(content)
    assert noticed > tried / 2


def change_features(out: Path, codec: str = "none", rows: int | None = None, **about: object) -> None:
    path = out / "features-00000.parquet"
    table = pq.read_table(path)
    if about:
        content = json.dumps(json.loads(table.schema.metadata[b"inspector"]) | about).encode()
        table = table.replace_schema_metadata({b"inspector": content})
    if rows is not None:
        table = pa.concat_tables([table] * rows)
    pq.write_table(table, path, compression=codec, row_group_size=10**9)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"codec": "zstd"}, "it is compressed"),
        ({"network_sha256": "1" * 64}, "of another run than the shards: network_sha256 differs"),
        ({"features": [1, 6, 8]}, "of another run than the shards: features differs"),
        ({"features": [10**6, 10**6, 10**6]}, "features"),
        ({"rows": 6000}, "larger row groups"),
    ],
)
def test_foreign_files_of_features_are_refused(
    photos: Path, tmp_path: Path, classifier: inspector.Classifier, change: dict[str, object], reason: str
) -> None:
    run_dataset(photos, classifier, tmp_path / "out", RunOptions(features=True))
    change_features(tmp_path / "out", **change)
    with pytest.raises(InspectorError, match=r"Cannot read .*features-00000\.parquet") as raised:
        read_features(tmp_path / "out")
    assert reason in str(raised.value)


def test_results_without_features_say_how_to_get_them(
    photos: Path, tmp_path: Path, classifier: inspector.Classifier
) -> None:
    run_dataset(photos, classifier, tmp_path / "out")
    with pytest.raises(InspectorError, match=r"have no features. Use `inspector batch PHOTOS --features`"):
        read_features(tmp_path / "out")


class LayerNormHead(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(4), nn.Linear(4, 3))


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (LayerNormHead(), "is not linear: its weights depend on the photo"),
        (nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(48, 3)), "has pooling of the kind 'flatten'"),
        (
            nn.Sequential(nn.Conv2d(3, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            "Every feature map of network is the map of one class",
        ),
    ],
)
def test_other_heads_are_refused_before_the_run(photos: Path, tmp_path: Path, network: nn.Module, reason: str) -> None:
    torch.manual_seed(0)
    classifier = inspector.Classifier.wrap(network, class_names=NAMES, size=(6, 8))
    with pytest.raises(HeadError, match=reason):
        run_dataset(photos, classifier, tmp_path / "out", RunOptions(features=True))
    assert not (tmp_path / "out").exists()
