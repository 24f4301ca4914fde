"""Images of more than 8 bits and of any number of channels."""

import io
import re

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from inspector.errors import ImageError, NetworkError
from inspector.images.photo import read_image
from inspector.images.preprocessing import Preprocessing, PreprocessingOverrides, make_view
from inspector.images.values import find_channel_axis, find_window

GRAY = np.random.default_rng(0).permutation(np.arange(16 * 256) % 256).reshape(64, 64).astype(np.uint8)
COLOR = np.random.default_rng(1).integers(0, 256, (32, 24, 3), np.uint8)
CHANGE = "Use window=(low, high), or --window on the command line, for another range."


def tiff(values: np.ndarray, **settings: object) -> bytes:
    settings = {"photometric": "rgb" if values.shape[2:] == (3,) else "minisblack"} | settings
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, **settings)
    return buffer.getvalue()


def png(values: np.ndarray) -> bytes:
    return cv2.imencode(".png", values[..., [2, 1, 0, 3][: values.shape[2]]])[1].tobytes()


def preprocessing(channels: int, **settings: object) -> Preprocessing:
    return Preprocessing((8, 8), (0.0,) * channels, (1.0,) * channels, (8, 8), **settings)


# --- which values are black and white


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("source", ["array", "tiff", "big-endian tiff", "png", "pillow"])
def test_data_of_fewer_bits_in_16_bits_have_all_gray_levels_and_a_true_note(bits, source):
    values = GRAY.astype(np.uint16) << (bits - 8) if bits < 16 else GRAY.astype(np.uint16) * 257
    image = {
        "array": lambda: values,
        "tiff": lambda: tiff(values),
        "big-endian tiff": lambda: tiff(values, byteorder=">"),
        "png": lambda: cv2.imencode(".png", values)[1].tobytes(),
        "pillow": lambda: Image.fromarray(values),
    }[source]()
    photo = read_image(image)
    assert np.array_equal(photo.pixels[..., 0], GRAY)
    if bits == 16:
        assert photo.notes == ("16 bits per pixel were scaled to 8.",)
    else:
        note = f"Its 16-bit values use {bits} bits: 0 to {2**bits - 1} became black to white. {CHANGE}"
        assert photo.notes == (note,)


@pytest.mark.parametrize("source", ["array", "tiff", "planar tiff", "compressed tiff", "png", "opaque png"])
@pytest.mark.parametrize("bits", [10, 12, 16])
def test_color_of_16_bits_is_scaled_too(source, bits):
    values = COLOR.astype(np.uint16) << (bits - 8) if bits < 16 else COLOR.astype(np.uint16) * 257
    opaque = np.dstack([values, np.full(values.shape[:2], 65535, np.uint16)])
    lzw = cv2.imencode(".tif", values[..., ::-1], [cv2.IMWRITE_TIFF_COMPRESSION, 5])[1].tobytes()
    image = {
        "array": values,
        "tiff": tiff(values),
        "planar tiff": tiff(values.transpose(2, 0, 1), photometric="rgb", planarconfig="separate"),
        "compressed tiff": lzw,
        "png": png(values),
        "opaque png": png(opaque),
    }[source]
    photo = read_image(image)
    assert np.array_equal(photo.pixels, COLOR)
    whole = "16 bits per channel were scaled to 8."
    assert photo.notes == (
        (whole,)
        if bits == 16
        else (f"Its 16-bit values use {bits} bits: 0 to {2**bits - 1} became black to white. {CHANGE}",)
    )


def test_color_that_uses_all_16_bits_is_as_pillow_reads_it():
    values = np.random.default_rng(0).integers(0, 65536, (40, 30, 3), np.uint16)
    data = png(values)
    assert np.array_equal(read_image(data).pixels, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def test_gray_that_uses_all_16_bits_is_divided_by_257():
    values = np.random.default_rng(0).integers(0, 65536, (40, 30), np.uint16)
    assert np.array_equal(read_image(values).pixels[..., 0], values // 257)


@pytest.mark.parametrize(
    ("values", "note"),
    [
        (GRAY.astype(np.uint32), "Its 32-bit values use 8 bits: 0 to 255 became black to white."),
        (GRAY.astype(np.uint32) * 2**20, f"Its 32-bit values 0 to {255 * 2**20:g} became black to white."),
        (GRAY.astype(np.uint32) * 2**24, f"Its 32-bit values 0 to {255 * 2**24:g} became black to white."),
        (GRAY.astype(np.int16) * 8 - 1024, "Its signed 16-bit values -1024 to 1016 became black to white."),
        (GRAY.astype(np.int32) * 8 - 1024, "Its signed 32-bit values -1024 to 1016 became black to white."),
        (GRAY / np.float32(255), "Its float 32-bit values 0 to 1 became black to white."),
        (GRAY / 255, "Its float 64-bit values 0 to 1 became black to white."),
        (GRAY.astype(np.float32), "Its float 32-bit values 0 to 255 became black to white."),
        (GRAY * np.float32(100) - 5000, "Its float 32-bit values -5000 to 20500 became black to white."),
    ],
)
def test_other_numbers_have_all_gray_levels_and_their_true_name(values, note):
    for image in (values, tiff(values)):
        photo = read_image(image)
        assert np.array_equal(photo.pixels[..., 0], GRAY)
        assert photo.notes == (f"{note} {CHANGE}",)


def test_a_dead_pixel_does_not_make_the_others_black():
    values = GRAY.astype(np.uint16) << 4
    values[5, 5] = 65535
    low, high = find_window(values)
    assert 0 <= low < 100
    assert 4000 < high <= 4080
    assert len(np.unique(read_image(values).pixels)) > 200


def test_a_few_dark_levels_of_a_full_range_image_stay_dark():
    values = np.full((64, 64), 9000, np.uint16)
    values[::2] = 60_000
    assert np.unique(read_image(values).pixels).tolist() == [9000 // 257, 60_000 // 257]


def test_white_is_zero_is_inverted():
    values = 65535 - GRAY.astype(np.uint16) * 257
    assert np.array_equal(read_image(tiff(values, photometric="miniswhite")).pixels[..., 0], GRAY)


def test_values_that_are_not_finite_are_black_or_white_and_noted():
    values = np.array([[np.nan, 0.0, 0.5, 1.0, np.inf]])
    photo = read_image(values)
    assert photo.pixels[0, :, 0].tolist() == [0, 0, 128, 255, 255]
    assert photo.notes[-1] == "2 values are not finite numbers: NaN is shown black."
    with pytest.raises(ImageError, match="None of the values is a finite number"):
        read_image(np.full((3, 3), np.nan))


def test_a_given_window_is_used_and_named():
    values = np.array([[0, 100, 150, 200, 4000]], np.uint16)
    photo = read_image(values, window=(100, 200))
    assert photo.pixels[0, :, 0].tolist() == [0, 0, 128, 255, 255]
    assert photo.notes == ("Its 16-bit values 100 to 200 became black to white, as the window says.",)


def test_an_8_bit_photo_is_not_windowed(pixels):
    photo = read_image(pixels, window=(10, 20))
    assert np.array_equal(photo.pixels, pixels)
    assert photo.notes == ("It has 8 bits per channel, so the window 10 to 20 was not applied.",)


@pytest.mark.parametrize("window", [(1,), (2, 1), (1, 1), (0, float("nan")), "ab", 5, (0, 1, 2), ("a", "b")])
def test_a_window_that_is_none_is_refused(window):
    with pytest.raises(
        ImageError, match=r"^Expected a window of two numbers, the value of black and that of white; got"
    ):
        read_image(np.zeros((4, 4), np.uint16), window=window)
    with pytest.raises(ImageError, match=r"^Expected a window"):
        PreprocessingOverrides(window=window).apply_to(preprocessing(3))


def test_the_window_of_a_network_holds_unless_the_photo_has_its_own():
    values = np.repeat(np.array([[0, 100, 150, 200, 4000]], np.uint16), 5, axis=0)
    fed = preprocessing(3, window=(100, 200))
    view = make_view(read_image(values), fed)
    assert view.photo.pixels[0, :, 0].tolist() == [0, 0, 128, 255, 255]
    assert view.photo.notes == ("Its 16-bit values 100 to 200 became black to white, as the window says.",)
    own = make_view(read_image(values, window=(0, 4000)), fed)
    assert own.photo.pixels[0, -1, 0] == 255
    assert own.photo.notes == ("Its 16-bit values 0 to 4000 became black to white, as the window says.",)


def test_the_window_of_a_network_does_not_touch_8_bit_photos(pixels):
    view = make_view(read_image(pixels), preprocessing(3, window=(0, 4095)))
    assert np.array_equal(view.photo.pixels, pixels)
    assert "the window 0 to 4095 was not applied" in view.photo.notes[0]


# --- channels


@pytest.mark.parametrize("channels", [2, 4, 5, 6, 13])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("source", ["array", "planar array", "tiff", "planar tiff", "pages", "deflate tiles"])
def test_all_channels_are_read_and_three_are_shown(channels, dtype, source):
    values = np.random.default_rng(0).integers(0, 256, (32, 24, channels)).astype(dtype)
    planes, contiguous = np.ascontiguousarray(values.transpose(2, 0, 1)), {"planarconfig": "contig"}
    image = {
        "array": lambda: values,
        "planar array": lambda: planes,
        "tiff": lambda: tiff(values, **contiguous),
        "planar tiff": lambda: tiff(planes, planarconfig="separate"),
        "pages": lambda: tiff(planes),
        "deflate tiles": lambda: tiff(values, compression="zlib", tile=(16, 16), **contiguous),
    }[source]()
    photo = read_image(image)
    assert photo.values.dtype == dtype
    assert np.array_equal(photo.values, values)
    shown = [0, 0, 0] if channels == 2 else [0, 1, 2]
    assert np.array_equal(photo.pixels, values[..., shown].astype(np.uint8))
    note = (
        "The first of 2 channels is shown."
        if channels == 2
        else f"Of {channels} channels, 0, 1 and 2 (counted from 0) are shown as red, green and blue."
    )
    assert note in photo.notes


def test_the_channels_to_show_can_be_chosen():
    values = np.random.default_rng(0).integers(0, 256, (16, 12, 6), np.uint8)
    photo = read_image(values, display=(5, 3, 0))
    assert np.array_equal(photo.pixels, values[..., [5, 3, 0]])
    assert photo.notes == ("Of 6 channels, 5, 3 and 0 (counted from 0) are shown as red, green and blue.",)
    assert np.array_equal(read_image(COLOR, display=(2, 1, 0)).pixels, COLOR[..., ::-1])
    by_network = make_view(read_image(values), preprocessing(6, display=(5, 3, 0)))
    assert np.array_equal(by_network.photo.pixels, photo.pixels)


@pytest.mark.parametrize("display", [(0, 1), (0, 1, -1), "abc", 3, (0, 1, 2, 3)])
def test_a_display_of_no_three_channels_is_refused(display):
    with pytest.raises(ImageError, match=r"^Expected display as three channel numbers"):
        read_image(np.zeros((8, 8, 6), np.uint8), display=display)


def test_a_channel_that_does_not_exist_is_refused():
    with pytest.raises(ImageError, match=r"display is \(0, 1, 6\), but the image has 6 channels, 0 to 5"):
        read_image(np.zeros((8, 8, 6), np.uint8), display=(0, 1, 6))


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((32, 24, 3), 2), ((3, 32, 24), 0), ((1, 32, 24), 0), ((32, 24, 1), 2), ((13, 32, 24), 0), ((32, 24, 13), 2),
        ((3, 32, 3), 2), ((30, 2, 4), 2), ((9, 9, 9), None), ((100, 64, 64), None),
    ],
)  # fmt: skip
def test_the_axis_of_the_channels(shape, axis):
    assert find_channel_axis(shape) == axis


@pytest.mark.parametrize(
    ("values", "fed", "note"),
    [
        (np.full((8, 8, 4), 51, np.uint8), 0.2, "All 4 channels were fed, divided by 255, before mean and std"),
        (np.full((8, 8, 4), 13107, np.uint16), 0.2, "All 4 channels were fed, divided by 65535, before mean and std"),
        (np.full((8, 8, 4), 1234.5, np.float32), 1234.5, "All 4 channels were fed, as they are, before mean and std"),
    ],
)
def test_a_network_of_other_channels_is_fed_the_values(values, fed, note):
    view = make_view(read_image(values), preprocessing(4))
    assert view.values.shape == (8, 8, 4)
    assert view.values == pytest.approx(fed)
    assert view.pixels.shape == (8, 8, 3)
    assert view.photo.notes[-1].startswith(note)


def test_the_window_scales_what_is_fed():
    values = np.dstack([np.full((8, 8), value, np.uint16) for value in (0, 1000, 2000, 5000)])
    view = make_view(read_image(values), preprocessing(4, window=(0, 4000)))
    assert view.values[0, 0].tolist() == [0, 0.25, 0.5, 1]
    assert "with 0 to 4000 scaled to 0 to 1" in view.photo.notes[-1]


def test_all_channels_are_resized_and_cropped_as_the_shown_ones():
    values = np.repeat(COLOR[..., :1], 5, axis=2)
    five = make_view(read_image(values), Preprocessing((8, 8), (0.0,) * 5, (1.0,) * 5, (12, 12)))
    three = make_view(read_image(values), Preprocessing((8, 8), (0.0,) * 3, (1.0,) * 3, (12, 12)))
    assert five.crop == three.crop
    assert np.abs(five.values[..., :3] * 255 - three.pixels).max() < 1  # 8 bits are rounded


@pytest.mark.parametrize("kind", ["TIFF", "PNG", "PIL image"])
def test_a_network_of_four_channels_is_fed_the_alpha_channel(kind):
    rgba = np.random.default_rng(0).integers(0, 256, (8, 8, 4), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(rgba).save(buffer, "PNG" if kind == "PIL image" else kind)
    photo = read_image(Image.open(buffer) if kind == "PIL image" else buffer.getvalue())
    assert "Transparent parts are shown on white." in photo.notes
    assert make_view(photo, preprocessing(4)).values * 255 == pytest.approx(rgba)


@pytest.mark.parametrize(("channels", "network"), [(3, 4), (4, 2), (13, 6), (2, 13)])
def test_another_number_of_channels_is_refused_in_one_sentence(channels, network):
    values = np.zeros((32, 24, channels), np.uint8)
    message = (
        f"array has {channels} channels, and the network takes {network}. Use an array (H, W, {network}) or a TIFF"
    )
    with pytest.raises(ImageError, match=re.escape(message)):
        make_view(read_image(values), preprocessing(network))


@pytest.mark.parametrize("size", [0, -3, "64", (0, 8), (8, 8, 8), 9000, 3.5, (8, "8")])
def test_a_size_that_is_none_is_refused(size):
    with pytest.raises(NetworkError, match=r"^Expected a size in pixels, one number or \(height, width\), each from 1"):
        PreprocessingOverrides(size=size).apply_to(preprocessing(3))
