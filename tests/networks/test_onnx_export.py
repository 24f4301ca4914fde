"""`export-network` of networks that came from ONNX and Keras files."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from test_onnx_model import AVERAGE, GEMM, HEIGHT, NCHW, NHWC, TRUNK, TRUNK_LAST, WIDTH, make_model

from inspector import Classifier, class_maps_of_batch
from inspector.errors import ExportError, NetworkError
from inspector.explain.backends.export_network import export_network
from inspector.networks.keras_model import import_keras, wrap_keras
from inspector.networks.onnx_model import read_onnx

FLATTEN_LAST = [("Flatten", ["maps"], "f", {}), ("Gemm", ["f", "linear_of_all_last", "bias"], "y", {"transB": 1})]
FLATTEN = [("Flatten", ["maps"], "f", {}), ("Gemm", ["f", "linear_of_all", "bias"], "y", {"transB": 1})]
MAX = [("GlobalMaxPool", ["maps"], "p", {})]
MAX_LAST = [("ReduceMax", ["maps", "axes_1_2"], "f", {"keepdims": 0}), GEMM[1]]


def assert_same(file, classifier: Classifier) -> None:
    images = torch.randn(3, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(5))
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    logits, maps = session.run(["logits", "maps"], {"inputs": images.numpy()})
    for n, expected in enumerate(class_maps_of_batch(classifier, images)):
        np.testing.assert_allclose(logits[n], expected.logits, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(maps[n], expected.values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("opset", [9, 13, 18])
@pytest.mark.parametrize("nodes", [[*TRUNK, *AVERAGE, *GEMM], [*TRUNK, *MAX, *GEMM], [*TRUNK, *FLATTEN]])
def test_a_network_from_onnx_is_written_with_its_class_maps(tmp_path, nodes, opset):
    onnx.save(make_model(nodes, NCHW, opset), tmp_path / "a.onnx")
    classifier = Classifier.wrap(read_onnx(tmp_path / "a.onnx"), ["a", "b", "c"], (HEIGHT, WIDTH))
    file = export_network(classifier, tmp_path / "maps.onnx")
    assert_same(file, classifier)
    metadata = {entry.key: entry.value for entry in onnx.load(file).metadata_props}
    assert metadata["class_names"] == '["a", "b", "c"]'


@pytest.mark.parametrize("nodes", [[*TRUNK_LAST, *MAX_LAST], [*TRUNK_LAST, *FLATTEN_LAST]])
def test_a_network_with_the_channels_last_is_written_for_channels_first(tmp_path, nodes):
    onnx.save(make_model(nodes, NHWC), tmp_path / "a.onnx")
    classifier = Classifier.wrap(read_onnx(tmp_path / "a.onnx"), size=(HEIGHT, WIDTH))
    assert_same(export_network(classifier, tmp_path / "maps.onnx"), classifier)


def test_a_network_from_onnx_is_written_for_openvino_and_not_for_torch(tmp_path):
    onnx.save(make_model([*TRUNK, *AVERAGE, *GEMM]), tmp_path / "a.onnx")
    classifier = Classifier.wrap(read_onnx(tmp_path / "a.onnx"), size=(HEIGHT, WIDTH))
    export_network(classifier, tmp_path / "maps.xml", "openvino")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.onnx", "maps.bin", "maps.xml"]
    with pytest.raises(
        ExportError, match=r'from an ONNX file cannot be written as "pt2"\. Use the format onnx or openv'
    ):
        export_network(classifier, tmp_path / "maps.pt2", "pt2")


def test_a_file_for_one_image_is_not_extended_for_several(tmp_path):
    nodes = [
        *TRUNK,
        ("Reshape", ["maps", "shape_4_30"], "rows", {}),
        ("Reshape", ["rows", "shape_1_4_5_6"], "same", {}),
    ]
    nodes += [("Relu", ["same"], "again", {}), ("GlobalAveragePool", ["again"], "p", {}), *GEMM]
    onnx.save(make_model(nodes, (1, 3, HEIGHT, WIDTH)), tmp_path / "a.onnx")
    classifier = Classifier.wrap(read_onnx(tmp_path / "a.onnx"), size=(HEIGHT, WIDTH))
    with pytest.raises(NetworkError, match=r"takes one image at a time\. Export it again with a dynamic batch axis"):
        export_network(classifier, tmp_path / "maps.onnx")


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
@pytest.mark.parametrize(("format", "name"), [("onnx", "maps.onnx"), ("pt2", "maps.pt2")])
@pytest.mark.parametrize("pooling", ["GlobalAveragePooling2D", "GlobalMaxPooling2D"])
def test_a_network_of_keras_is_written_with_its_class_maps(tmp_path, format, name, pooling):
    keras = import_keras("the tests")
    keras.utils.set_random_seed(0)
    image = keras.Input((HEIGHT, WIDTH, 3))
    maps = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3, activation="relu", padding="same")(image))
    model = keras.Model(image, keras.layers.Dense(3)(getattr(keras.layers, pooling)()(maps)))
    classifier = Classifier.wrap(wrap_keras(model).eval(), size=(HEIGHT, WIDTH))
    file = export_network(classifier, tmp_path / name, format)
    if format == "onnx":
        assert_same(file, classifier)
