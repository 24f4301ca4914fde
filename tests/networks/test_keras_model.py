import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from inspector import Classifier, class_maps, class_maps_of_batch, load
from inspector.errors import NetworkError
from inspector.images.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from inspector.networks.keras_model import KerasNetwork, import_keras, make_keras_preprocessing, read_keras, wrap_keras

pytestmark = [
    # Keras warns where it writes a model to a file.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
]

HEIGHT, WIDTH = 5, 6


@pytest.fixture(scope="module")
def keras():
    return import_keras("the tests")


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def make_small_model(keras, data_format="channels_last", pooling="average", activation=None):
    """A 3x3 convolution to four maps, a ReLU, a pooling, Dense to three classes."""
    layers, first = keras.layers, data_format == "channels_first"
    keras.utils.set_random_seed(0)
    image = keras.Input((3, HEIGHT, WIDTH) if first else (HEIGHT, WIDTH, 3))
    convolution = layers.Conv2D(4, 3, padding="same", data_format=data_format, activation="relu")
    pool = {
        "average": layers.GlobalAveragePooling2D,
        "max": layers.GlobalMaxPooling2D,
        "flatten": layers.Flatten,
    }[pooling](data_format=data_format)
    dense = layers.Dense(3, activation=activation, bias_initializer="ones")
    return keras.Model(image, dense(pool(convolution(image))))


def compute_expected_maps(model, image: Tensor, pooling: str) -> Tensor:
    """(K, h, w) of one image (3, H, W), from the weights, by loops over classes and channels."""
    kernel, bias, weight, _ = (torch.from_numpy(np.array(values)) for values in model.get_weights())
    maps = torch.nn.functional.conv2d(image[None], kernel.permute(3, 2, 0, 1), bias, padding=1)[0].relu()
    expected = torch.zeros(3, HEIGHT, WIDTH)
    for k in range(3):
        for c in range(4):
            if pooling == "average":
                expected[k] += weight[c, k] * maps[c] / (HEIGHT * WIDTH)
            elif pooling == "max":
                y, x = divmod(int(maps[c].argmax()), WIDTH)
                expected[k, y, x] += weight[c, k] * maps[c, y, x]
            else:
                # Keras flattens row by row, cell by cell, all channels of each.
                expected[k] += weight.view(HEIGHT, WIDTH, 4, 3)[..., c, k] * maps[c]
    return expected


def assert_exact(network: KerasNetwork, size: tuple[int, int], images: int = 2):
    classifier = Classifier.wrap(network.eval(), size=size)
    inputs = noise(images, network.channels, *size)
    found = class_maps_of_batch(classifier, inputs)
    with torch.no_grad():
        logits = network(inputs)
    for maps, expected in zip(found, logits, strict=True):
        assert maps.verdict == "exact"
        torch.testing.assert_close(maps.logits, expected)
        torch.testing.assert_close(maps.values.sum((1, 2)) + maps.bias, expected, rtol=1e-4, atol=1e-6)
    return found


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("pooling", ["average", "max", "flatten"])
def test_maps_are_those_computed_by_hand_from_the_weights(keras, data_format, pooling):
    model = make_small_model(keras, data_format, pooling)
    found = assert_exact(wrap_keras(model), (HEIGHT, WIDTH))
    for maps, image in zip(found, noise(2, 3, HEIGHT, WIDTH), strict=True):
        torch.testing.assert_close(maps.values, compute_expected_maps(model, image, pooling), rtol=1e-4, atol=1e-6)


def make_inception(keras, size, pooling):
    """A small network as keras.applications builds InceptionV3: branches that are concatenated, twice."""
    layers = keras.layers

    def convolve(maps, side, strides=1):
        maps = layers.Conv2D(4, side, strides, padding="same", use_bias=False)(maps)
        return layers.Activation("relu")(layers.BatchNormalization(scale=False)(maps))

    image = keras.Input((size, size, 3))
    maps = convolve(image, 3, 2)
    for _ in range(2):
        pooled = layers.AveragePooling2D(3, 1, padding="same")(maps)
        maps = layers.concatenate([convolve(maps, 1), convolve(convolve(maps, 1), 3), convolve(pooled, 1)])
    pool = {"avg": layers.GlobalAveragePooling2D, "max": layers.GlobalMaxPooling2D}.get(pooling)
    return keras.Model(image, pool()(maps) if pool else maps)


@pytest.mark.parametrize(
    ("name", "size", "pooling"), [("MobileNetV2", 64, "avg"), ("Inception", 16, None), ("Inception", 16, "max")]
)
def test_networks_of_keras_applications_have_exact_maps(keras, name, size, pooling):
    keras.utils.set_random_seed(0)
    if name == "Inception":
        base = make_inception(keras, size, pooling)
    else:
        base = keras.applications.MobileNetV2((size, size, 3), 0.35, False, weights=None, pooling=pooling)
    pool = [] if pooling else [keras.layers.GlobalAveragePooling2D()]
    network = wrap_keras(keras.Sequential([keras.Input((size, size, 3)), base, *pool, keras.layers.Dense(3)]))
    assert (network.channels_first, network.size, network.channels) == (False, (size, size), 3)
    assert_exact(network, (size, size), images=1)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_a_model_is_the_same_after_saving_and_reading(keras, tmp_path, suffix, data_format):
    model = make_small_model(keras, data_format)
    model.compile(loss="mse")
    model.save(tmp_path / f"model{suffix}")
    network = read_keras(tmp_path / f"model{suffix}")
    assert network.channels_first == (data_format == "channels_first")
    image = noise(1, 3, HEIGHT, WIDTH)
    (maps,) = class_maps_of_batch(Classifier.wrap(network, size=(HEIGHT, WIDTH)), image)
    torch.testing.assert_close(maps.values, compute_expected_maps(model, image[0], "average"), rtol=1e-4, atol=1e-6)


def test_gradients_flow_from_the_output_to_the_image(keras):
    image = noise(1, 3, HEIGHT, WIDTH).requires_grad_()
    wrap_keras(make_small_model(keras))(image)[0, 0].backward()
    assert image.grad.abs().sum() > 0


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_a_last_activation_is_a_call_that_torch_functions_show(keras, activation):
    calls = []

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            calls.append((func.__name__, result))
            return result

    network = wrap_keras(make_small_model(keras, activation=activation))
    with Watch():
        output = network(noise(1, 3, HEIGHT, WIDTH))
    assert any(name == activation and result is output for name, result in calls)


def test_bgr_reverses_the_channels(keras):
    model = make_small_model(keras)
    image = noise(1, 3, HEIGHT, WIDTH)
    torch.testing.assert_close(wrap_keras(model, bgr=True)(image), wrap_keras(model)(image[:, [2, 1, 0]]))


@pytest.mark.parametrize("mode", ["tf", "torch", "caffe"])
def test_inputs_are_those_of_keras_preprocess_input(keras, pixels, mode):
    preprocessing = make_keras_preprocessing(mode, pixels.shape[:2])
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (preprocessing.mean, preprocessing.std))
    ours = (torch.from_numpy(pixels).permute(2, 0, 1) / 255 - mean) / std
    ours = ours.flip(0) if mode == "caffe" else ours
    theirs = keras.applications.imagenet_utils.preprocess_input(pixels.astype("float32"), mode=mode)
    np.testing.assert_allclose(ours.permute(1, 2, 0), theirs, rtol=1e-4, atol=1e-4)


def assert_refused(path: Path, match: str, **kwargs: object) -> None:
    with pytest.raises(NetworkError, match=match) as caught:
        read_keras(path, **kwargs)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_lambda_is_refused_and_not_run(keras, tmp_path, suffix):
    marker = tmp_path / "marker"
    layers = keras.layers
    image = keras.Input((HEIGHT, WIDTH, 3))
    # With an import of its own, because code from a file has no names of this module.
    touch = layers.Lambda(lambda maps, file=str(marker): (__import__("pathlib").Path(file).touch(), maps)[1])
    touched = touch(image)
    model = keras.Model(image, layers.Dense(3)(layers.GlobalAveragePooling2D()(touched)))
    model.save(tmp_path / f"model{suffix}")
    marker.unlink()
    assert_refused(tmp_path / f"model{suffix}", "asks for Lambda, .* nothing was run")
    assert not marker.exists()


@pytest.fixture(scope="module")
def saved(keras, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    model = make_small_model(keras)
    model.save(folder / "model.keras")
    model.save(folder / "model.h5")
    model.save_weights(folder / "model.weights.h5")
    return folder


def change_config(source: Path, target: Path, change) -> Path:
    """Copy a .keras file with a changed config."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name == "config.json":
                config = json.loads(data)
                change(config)
                data = json.dumps(config).encode()
            new.writestr(name, data)
    return target


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        ({"module": "os", "class_name": "system"}, "os.system"),
        ({"module": "keras_lookalike.layers", "class_name": "Dense"}, "keras_lookalike.layers.Dense"),
        ({"module": "keras.utils", "class_name": "get_file"}, "keras.utils.get_file"),
        ({"module": "keras.config", "class_name": "enable_unsafe_deserialization"}, "keras.config.enable"),
        ({"module": "keras.layers", "class_name": "Dense", "registered_name": "package>Mine"}, "package>Mine"),
        ({"module": "keras.layers", "class_name": "TorchModuleWrapper"}, "TorchModuleWrapper"),
        ({"class_name": "__lambda__"}, "__lambda__"),
        ({"module": "builtins", "class_name": "function"}, "function"),
    ],
)
@pytest.mark.parametrize("depth", ["layer", "activation"])
def test_objects_that_are_not_keras_own_are_refused_anywhere(saved, tmp_path, entry, named, depth):
    def change(config):
        dense = config["config"]["layers"][-1]
        if depth == "layer":
            dense.update(entry)
        else:
            dense["config"]["activation"] = {"config": {}, **entry}

    path = change_config(saved / "model.keras", tmp_path / "model.keras", change)
    assert_refused(path, f"model.keras asks for {named}.* nothing was run")


def test_the_training_configuration_is_not_checked(saved, tmp_path):
    def change(config):
        config["compile_config"] = {"loss": {"module": "builtins", "class_name": "function", "config": "my_loss"}}

    read_keras(change_config(saved / "model.keras", tmp_path / "model.keras", change))


def test_a_lambda_in_an_old_file_is_refused_too(saved, tmp_path):
    shutil.copy(saved / "model.h5", tmp_path / "model.h5")
    with h5py.File(tmp_path / "model.h5", "r+") as file:
        config = json.loads(file.attrs["model_config"])
        config["config"]["layers"][1]["class_name"] = "Lambda"
        file.attrs["model_config"] = json.dumps(config)
    assert_refused(tmp_path / "model.h5", "asks for Lambda")


@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
def test_a_file_that_is_no_keras_model_is_refused(saved, tmp_path, name):
    whole = (saved / name).read_bytes()
    for content in (b"", b"no network at all", whole[: len(whole) // 2]):
        (tmp_path / name).write_bytes(content)
        assert_refused(tmp_path / name, f"{name} is no Keras model, or is broken, cut off")


def test_weights_alone_are_refused(saved, tmp_path):
    assert_refused(saved / "model.weights.h5", "holds weights only")
    with zipfile.ZipFile(tmp_path / "model.keras", "w") as archive:
        archive.writestr("model.weights.h5", b"")
    assert_refused(tmp_path / "model.keras", "holds weights only")


def test_a_file_of_another_kind_or_place_is_refused(tmp_path):
    (tmp_path / "model.pb").write_bytes(b"")
    assert_refused(tmp_path / "model.pb", r"model.pb must be a .keras or .h5 file")
    assert_refused(tmp_path / "absent.keras", "Cannot read .*absent.keras: No such file")


def test_a_file_that_is_too_large_is_refused_before_it_is_read(saved, tmp_path):
    assert_refused(saved / "model.h5", "at most 0.0 MB are read", max_bytes=100)
    with zipfile.ZipFile(tmp_path / "model.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("assets/zeros", bytes(3_000_000))
    assert (tmp_path / "model.keras").stat().st_size < 1_000_000
    assert_refused(tmp_path / "model.keras", "has 3.0 MB; at most 1.0 MB are read", max_bytes=1_000_000)


def test_a_model_of_several_inputs_is_refused(keras):
    images = [keras.Input((HEIGHT, WIDTH, 3)) for _ in range(2)]
    model = keras.Model(images, keras.layers.GlobalAveragePooling2D()(keras.layers.Add()(images)))
    with pytest.raises(NetworkError, match=r"must have one input, .*\(None, 5, 6, 3\), \(None, 5, 6, 3\)"):
        wrap_keras(model)


def test_keras_on_another_backend_is_refused(saved, keras, monkeypatch):
    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    assert_refused(saved / "model.keras", "imported with its jax backend.* Set KERAS_BACKEND=torch before")


def test_keras_is_imported_on_torch_whatever_the_environment_says(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    code = "from inspector.networks.keras_model import import_keras; print(import_keras('it').config.backend())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["torch"]


def test_without_keras_the_extra_is_named(saved, monkeypatch):
    monkeypatch.setitem(sys.modules, "keras", None)
    assert_refused(saved / "model.keras", r"pip install 'class-map-inspector\[keras\]'")


def write_as_before_keras_3(model, path: Path) -> Path:
    """Write an .h5 file with the options that TensorFlow up to 2.15 writes and Keras 3 no longer has."""
    model.save(path)
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        waiting = [config]
        while waiting:
            value = waiting.pop()
            waiting += value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
            options = value.get("config") if isinstance(value, dict) else None
            if not isinstance(options, dict):
                continue
            if isinstance(options.get("dtype"), dict):
                options["dtype"] = "float32"
            match value.get("class_name"):
                case "DepthwiseConv2D":
                    options["groups"] = 1
                case "BatchNormalization":
                    options |= {"axis": [3], "fused": None, "renorm": False, "virtual_batch_size": None}
                case "InputLayer":
                    options["batch_input_shape"] = options.pop("batch_shape")
                    del options["optional"]
        file.attrs["model_config"] = json.dumps(config)
    return path


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("nested", [False, True])
def test_files_of_keras_before_3_give_the_same_output(keras, tmp_path, nested):
    layers = keras.layers
    keras.utils.set_random_seed(0)
    body = [layers.DepthwiseConv2D(3), layers.BatchNormalization(), layers.ReLU(6.0), layers.Conv2D(6, 1)]
    image = keras.Input((12, 14, 3))
    maps = image
    for layer in body:
        maps = layer(maps)
    if nested:
        model = keras.Sequential([image, keras.Model(image, maps), layers.GlobalMaxPooling2D(), layers.Dense(3)])
    else:
        model = keras.Model(image, layers.Dense(3)(layers.GlobalAveragePooling2D()(maps)))
    for n, weight in enumerate(model.weights):
        weight.assign(0.5 + 0.3 * noise(*weight.shape, seed=n).abs().numpy())
    network = read_keras(write_as_before_keras_3(model, tmp_path / "old.h5"))
    images = noise(2, 12, 14, 3)
    with torch.no_grad():
        expected = model(images, training=False)
        torch.testing.assert_close(network(images.permute(0, 3, 1, 2)), expected)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_old_option_that_means_something_is_not_dropped(keras, tmp_path):
    model = make_small_model(keras)
    model.save(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        config = json.loads(file.attrs["model_config"])
        config["config"]["layers"][1]["config"]["renorm"] = True
        file.attrs["model_config"] = json.dumps(config)
    assert_refused(tmp_path / "a.h5", r"Error when deserializing class 'Conv2D'")


@pytest.mark.parametrize("ending", [".keras", ".h5"])
def test_a_gray_model_gets_one_mean_and_says_so(keras, tmp_path, ending, monkeypatch):
    from inspector.networks.load import load, resolve

    monkeypatch.setenv("INSPECTOR_ISOLATION", "off")
    keras.utils.set_random_seed(0)
    image = keras.Input((28, 30, 1))
    pooled = keras.layers.GlobalMaxPooling2D()(keras.layers.Conv2D(4, 3)(image))
    keras.Model(image, keras.layers.Dense(3)(pooled)).save(tmp_path / f"gray{ending}")
    classifier = load(tmp_path / f"gray{ending}")
    assert (classifier.head.verdict, classifier.preprocessing.size) == ("exact", (28, 30))
    assert len(classifier.preprocessing.mean) == 1
    assert classifier.notes[0] == (
        "The network takes gray images. Unless given, mean is 0.449 and std 0.226, the averages of the usual three."
    )
    assert classifier.notes[1].startswith(f"gray{ending} does not say how photos are preprocessed. Unless given, they ")
    from inspector.images.preprocessing import PreprocessingOverrides

    given = resolve(tmp_path / f"gray{ending}", overrides=PreprocessingOverrides(mean=(0.5,), std=(0.25,)))
    assert (given.preprocessing.mean, given.preprocessing.std, given.notes) == ((0.5,), (0.25,), ())


def make_scaling_model(keras, first, nested=False, classes=3):
    """A model that begins with some layers, then a convolution, average pooling and Dense."""
    layers = keras.layers
    keras.utils.set_random_seed(0)
    scaling = [keras.Sequential([keras.Input((8, 10, 3)), *first])] if nested and first else first
    after = [layers.Conv2D(4, 3, activation="relu"), layers.GlobalAveragePooling2D(), layers.Dense(classes)]
    return keras.Sequential([keras.Input((8, 10, 3)), *scaling, *after])


SCALING = {
    "1/255": (lambda layers: [layers.Rescaling(1 / 255)], 255),
    "-1 to 1": (lambda layers: [layers.Rescaling(1 / 127.5, offset=-1)], 255),
    "a number for each channel": (lambda layers: [layers.Rescaling([1 / 255, 1 / 128, 1 / 64])], 255),
    "after augmentation": (lambda layers: [layers.RandomFlip(), layers.Rescaling(1 / 255)], 255),
    "from 0-1 to -1 to 1": (lambda layers: [layers.Rescaling(2.0, offset=-1)], 1),
    "normalization of pixels": (lambda layers: [layers.Normalization(mean=[124, 116, 104], variance=[9, 9, 9])], 255),
    "normalization of shares": (lambda layers: [layers.Normalization(mean=[0.5] * 3, variance=[0.1] * 3)], 1),
    "padding first": (lambda layers: [layers.ZeroPadding2D(), layers.Rescaling(1 / 255)], 255),
    "nothing": (lambda layers: [], None),
    "a rescaling after the first convolution": (
        lambda layers: [layers.Conv2D(3, 1), layers.Rescaling(1 / 255)],
        None,
    ),
}


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("case", SCALING)
def test_a_model_that_scales_pixels_itself_is_fed_what_it_expects(keras, tmp_path, case, nested):
    make, largest = SCALING[case]
    model = make_scaling_model(keras, make(keras.layers), nested)
    assert wrap_keras(model).input_range == largest
    model.save(tmp_path / "mine.keras")
    classifier = load(tmp_path / "mine.keras")
    photo = np.random.default_rng(0).integers(0, 256, (8, 10, 3), np.uint8)
    maps = class_maps(classifier, photo)
    pixels = torch.from_numpy(photo).float()
    if largest is None:
        pixels = (pixels / 255 - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)
    elif largest == 1:
        pixels = pixels / 255
    expected = torch.as_tensor(model(pixels[None], training=False)).detach()[0]
    torch.testing.assert_close(maps.logits.cpu(), expected.cpu(), rtol=1e-4, atol=1e-4)
    usual = classifier.preprocessing.describe()
    fed = f"mine.keras does not say how photos are preprocessed. Unless given, they are fed {usual}."
    scaled = f"The network scales pixels itself: unless given, it is fed values from 0 to {largest}."
    assert classifier.notes == ((fed,) if largest is None else (scaled, fed))
    given = load(tmp_path / "mine.keras", mean=0.5, std=0.25).preprocessing
    assert (given.mean, given.std) == ((0.5,) * 3, (0.25,) * 3)
