import csv
import hashlib
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from inspector.errors import ImageError
from inspector.images import decode as image_module
from inspector.images.photo import Photo, read_image
from inspector.images.preprocessing import Preprocessing, as_pair, make_view


def encoded(image: Image.Image, format: str = "PNG", **how: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **how)
    return buffer.getvalue()


def preprocessing(size, resize=None, interpolation="bilinear", channels=3) -> Preprocessing:
    return Preprocessing(size, (0.0,) * channels, (1.0,) * channels, resize, interpolation)


def photo_of(pixels: np.ndarray) -> Photo:
    return read_image(np.ascontiguousarray(pixels, np.uint8))


def random_pixels(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


# --- reading


def test_a_path_bytes_an_image_and_an_array_give_the_same_pixels(tmp_path, pixels):
    data = encoded(Image.fromarray(pixels))
    path = tmp_path / "a photo.png"
    path.write_bytes(data)
    for source in (path, str(path), data, Image.fromarray(pixels), pixels):
        photo = read_image(source)
        assert photo.pixels.dtype == np.uint8
        assert np.array_equal(photo.pixels, pixels)
        assert photo.size == (20, 30)
        assert photo.notes == ()


@pytest.mark.parametrize(("source", "name"), [("path", "a photo.png"), ("bytes", "image"), ("array", "array")])
def test_a_photo_has_a_name(tmp_path, pixels, source, name):
    data = encoded(Image.fromarray(pixels))
    path = tmp_path / "a photo.png"
    path.write_bytes(data)
    given = {"path": path, "bytes": data, "array": pixels}[source]
    assert read_image(given).name == name
    assert read_image(given, name="mine").name == "mine"


def test_the_hash_is_of_the_files_bytes(pixels):
    data = encoded(Image.fromarray(pixels))
    assert read_image(data).sha256 == hashlib.sha256(data).hexdigest()


def test_without_a_file_the_hash_is_of_the_pixels(pixels):
    expected = hashlib.sha256(pixels.tobytes()).hexdigest()
    assert read_image(pixels).sha256 == read_image(Image.fromarray(pixels)).sha256 == expected


def test_the_photo_is_a_copy_of_the_array(pixels):
    photo = read_image(pixels)
    before = photo.pixels.copy()
    pixels[:] = 0
    assert np.array_equal(photo.pixels, before)


# What each EXIF orientation asks to be done, so what must be done beforehand.
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("opened", [False, True])
def test_a_photo_is_turned_upright_by_its_exif_block(pixels, orientation, opened):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](pixels)))
    data = encoded(stored, exif=exif)
    assert np.array_equal(read_image(Image.open(io.BytesIO(data)) if opened else data).pixels, pixels)


def test_gray_becomes_three_equal_channels(pixels):
    gray = pixels[..., 0]
    for source in (encoded(Image.fromarray(gray)), gray, Image.fromarray(gray)):
        assert np.array_equal(read_image(source).pixels, np.stack([gray] * 3, 2))


def test_one_bit_becomes_black_and_white():
    bits = np.array([[True, False], [False, True]])
    assert read_image(encoded(Image.fromarray(bits))).pixels[..., 0].tolist() == [[255, 0], [0, 255]]


def test_a_palette_is_looked_up():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    assert read_image(encoded(image)).pixels.tolist() == [[[10, 20, 30], [200, 100, 50]]]


def test_a_transparent_palette_entry_is_shown_on_white():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    photo = read_image(encoded(image, transparency=0))
    assert photo.pixels.tolist() == [[[255, 255, 255], [200, 100, 50]]]
    assert photo.notes == ("Transparent parts are shown on white.",)


def test_transparency_is_shown_on_white():
    rgba = np.array([[[10, 20, 30, 0], [10, 20, 30, 255], [0, 0, 0, 51]]], np.uint8)
    photo = read_image(encoded(Image.fromarray(rgba)))
    # A fifth of black over white: 255 * 0.8.
    assert photo.pixels.tolist() == [[[255, 255, 255], [10, 20, 30], [204, 204, 204]]]
    assert photo.notes == ("Transparent parts are shown on white.",)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_and_not_clipped(format):
    values = np.array([[0, 255, 257, 32896, 65535]], np.uint16)
    photo = read_image(encoded(Image.fromarray(values), format))
    assert photo.pixels[..., 0].tolist() == [[0, 0, 1, 128, 255]]
    assert photo.notes == ("16 bits per pixel were scaled to 8.",)


def test_cmyk_becomes_rgb():
    cmyk = Image.new("CMYK", (2, 2), (255, 0, 0, 0))
    red, green, blue = read_image(encoded(cmyk, "TIFF")).pixels[0, 0].tolist()
    assert (red, green, blue) == (0, 255, 255)


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP"])
def test_of_an_animation_the_first_frame_is_shown_and_noted(format):
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "lime", "blue")]
    how = {"lossless": True} if format == "WEBP" else {}
    photo = read_image(encoded(frames[0], format, save_all=True, append_images=frames[1:], **how))
    assert photo.pixels[1, 1].tolist() == [255, 0, 0]
    assert photo.notes == ("Only the first frame is shown.",)


def test_a_broken_exif_block_does_not_matter(pixels):
    data = encoded(Image.fromarray(pixels), exif=b"Exif\0\0MM\x13*\0\0\0\x08")
    photo = read_image(data)
    assert np.array_equal(photo.pixels, pixels)


# --- refusals


def broken_files() -> dict[str, tuple[bytes, str]]:
    whole = encoded(Image.fromarray(random_pixels(40, 40)))
    jpeg = encoded(Image.fromarray(random_pixels(40, 40)), "JPEG")
    return {
        "zero bytes": (b"", r"it is empty \(0 bytes\). Choose a photo"),
        "text": (b"Dear diary, no picture today.", "it is not an image that can be read. JPEG, PNG"),
        "cut-off PNG": (whole[: len(whole) // 2], "it is broken or cut off .*Save it again or choose another"),
        "cut-off JPEG": (jpeg[: len(jpeg) // 2], "it is broken or cut off .*Save it again or choose another"),
        "only a signature": (whole[:8], "it is (not an image|broken)"),
        "PNG bomb": (png_header(60_000, 60_000), "it has too many pixels; at most 80 megapixels are read"),
        "PNG of more than is read": (png_header(9_000, 9_000), "it has 9000 x 9000 pixels; at most 80 megapixels"),
        "BMP bomb": (bmp_header(65_000, 65_000), "it has too many pixels; at most 80 megapixels are read"),
    }


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 10)) + chunk(b"IEND", b"")
    )


def bmp_header(width: int, height: int) -> bytes:
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, *[0] * 6)


@pytest.mark.parametrize("case", broken_files())
def test_a_bad_file_gets_one_sentence(case, tmp_path):
    data, message = broken_files()[case]
    path = tmp_path / "it"
    path.write_bytes(data)
    for source, name in ((data, "it"), (path, None)):
        with pytest.raises(ImageError, match=f"^{message}") as raised:
            read_image(source, name)
        assert "\n" not in str(raised.value)


def test_a_broken_file_that_was_opened_by_pillow_is_refused_too():
    jpeg = encoded(Image.fromarray(random_pixels(40, 40)), "JPEG")
    with pytest.raises(ImageError, match="it is broken or cut off"):
        read_image(Image.open(io.BytesIO(jpeg[: len(jpeg) // 2])), "it")


def test_an_image_of_too_many_pixels_is_refused_from_pillow_too(monkeypatch, pixels):
    monkeypatch.setattr(image_module, "MAX_PIXELS", 599)
    with pytest.raises(ImageError, match="it has 30 x 20 pixels; at most"):
        read_image(Image.fromarray(pixels), "it")
    monkeypatch.setattr(image_module, "MAX_PIXELS", 600)
    assert read_image(Image.fromarray(pixels)).size == (20, 30)


def test_a_file_of_too_many_bytes_is_refused(monkeypatch, tmp_path, pixels):
    data = encoded(Image.fromarray(pixels))
    path = tmp_path / "it"
    path.write_bytes(data)
    monkeypatch.setattr(image_module, "MAX_BYTES", len(data) - 1)
    for source in (data, path):
        with pytest.raises(ImageError, match=r"^it has \d+ MB; at most \d+ MB are read\.$"):
            read_image(source, "it")
    monkeypatch.setattr(image_module, "MAX_BYTES", len(data))
    assert read_image(path).size == read_image(data).size == (20, 30)


@pytest.mark.parametrize(
    ("array", "got"),
    [
        (np.zeros((2, 4, 4, 3), np.uint8), r"\(2, 4, 4, 3\) of uint8"),
        (np.zeros((9, 9, 9), np.uint8), r"\(9, 9, 9\) of uint8"),
        (np.zeros(4, np.uint8), r"\(4,\) of uint8"),
        (np.zeros((0, 4, 3), np.uint8), r"\(0, 4, 3\) of uint8"),
        (np.zeros((4, 4), np.complex64), r"\(4, 4\) of complex64"),
        (np.zeros((4, 4), "datetime64[s]"), r"\(4, 4\) of datetime64\[s\]"),
        (np.array([["a"]]), r"\(1, 1\) of <U1"),
    ],
)
def test_an_array_of_another_shape_or_dtype_is_refused(array, got):
    message = rf"^Expected an array \(H, W\), \(H, W, C\) or \(C, H, W\) of numbers, got {got}\.$"
    with pytest.raises(ImageError, match=message):
        read_image(array)


@pytest.mark.parametrize("name", ["nowhere.jpg", ".", "nowhere/at all.jpg", "x" * 300, "a\0b.jpg"])
def test_a_path_that_is_no_file_is_refused(tmp_path, name):
    with pytest.raises(ImageError, match=r"^Cannot read "):
        read_image(str(tmp_path / name))


# --- the view

SIZES = [(40, 60), (60, 40), (37, 91), (91, 37), (50, 50), (33, 34), (200, 25)]


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("photo_size", SIZES)
@pytest.mark.parametrize(("resize", "crop"), [(32, 28), (32, 32), (33, 28), (64, 51)])
def test_the_view_is_torchvisions_resize_and_center_crop(interpolation, photo_size, resize, crop):
    pixels = random_pixels(*photo_size)
    view = make_view(photo_of(pixels), preprocessing((crop, crop), (resize, resize), interpolation))
    mode = InterpolationMode.BILINEAR if interpolation == "bilinear" else InterpolationMode.BICUBIC
    expected = transforms.resize(Image.fromarray(pixels), [resize], interpolation=mode, antialias=True)
    expected = transforms.center_crop(expected, [crop, crop])
    assert view.pixels.dtype == np.uint8
    assert np.array_equal(view.pixels, np.asarray(expected))


def test_a_gray_view_is_torchvisions_too():
    pixels = random_pixels(40, 60)
    view = make_view(photo_of(pixels), preprocessing((28, 28), (32, 32), channels=1))
    expected = transforms.center_crop(transforms.resize(Image.fromarray(pixels).convert("L"), [32]), [28, 28])
    assert view.pixels.shape == (28, 28)
    assert np.array_equal(view.pixels, np.asarray(expected))


@pytest.mark.parametrize("photo_size", SIZES)
def test_without_a_resize_the_whole_photo_is_resized_to_the_input(photo_size):
    pixels = random_pixels(*photo_size)
    view = make_view(photo_of(pixels), preprocessing((24, 36)))
    assert np.array_equal(view.pixels, np.asarray(transforms.resize(Image.fromarray(pixels), [24, 36])))
    assert view.box == (0, 0, photo_size[1], photo_size[0])


def test_a_photo_of_the_input_size_is_not_changed(pixels):
    view = make_view(read_image(pixels), preprocessing((20, 30), (20, 30)))
    assert np.array_equal(view.pixels, pixels)
    assert view.box == (0, 0, 30, 20)


def test_the_box_has_the_values_computed_by_hand():
    # 40 x 80 to height 20: 20 x 40, a factor of 2; of it the middle 16 x 16, from (2, 12) to (18, 28).
    view = make_view(photo_of(random_pixels(40, 80)), preprocessing((16, 16), (20, 20)))
    assert view.box == (24, 4, 56, 36)


@pytest.mark.parametrize("photo_size", [(120, 200), (200, 120), (333, 128), (90, 91)])
@pytest.mark.parametrize(
    ("resize", "size"), [((64, 64), (48, 48)), ((48, 48), (48, 48)), ((40, 70), (40, 60)), (None, (48, 32))]
)
def test_the_box_maps_a_marked_pixel_back(photo_size, resize, size):
    height, width = photo_size
    rows, columns = slice(height // 2 - 9, height // 2 - 1), slice(width // 2 + 3, width // 2 + 11)
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[rows, columns] = 255
    view = make_view(photo_of(pixels), preprocessing(size, resize))
    weights = view.pixels[..., 0].astype(float)
    y = (weights.sum(1) @ (np.arange(size[0]) + 0.5)) / weights.sum()
    x = (weights.sum(0) @ (np.arange(size[1]) + 0.5)) / weights.sum()
    left, top, right, bottom = view.box
    # The middle of the mark: half a pixel of the view is what rounding to 8 bits and to whole pixels may cost.
    assert left + x * (right - left) / size[1] == pytest.approx(
        (columns.start + columns.stop) / 2, abs=0.5 * width / size[1]
    )
    assert top + y * (bottom - top) / size[0] == pytest.approx((rows.start + rows.stop) / 2, abs=0.5 * height / size[0])


@pytest.mark.parametrize("photo_size", [(1, 1), (1, 9), (9, 1), (2, 300)])
def test_tiny_and_thin_images_have_a_view(photo_size):
    pixels = np.full((*photo_size, 3), 77, np.uint8)
    view = make_view(photo_of(pixels), preprocessing((28, 28), (32, 32)))
    assert view.pixels.shape == (28, 28, 3)
    assert (view.pixels == 77).all()


def test_an_image_too_thin_for_the_network_is_refused():
    photo = photo_of(np.zeros((1, 5000, 3)))
    with pytest.raises(ImageError, match=r"too thin for this network: 5000 x 1 pixels. Crop it first"):
        make_view(photo, preprocessing((224, 224), (256, 256)))


def test_making_a_view_does_not_change_the_photo(pixels):
    photo = read_image(pixels)
    make_view(photo, preprocessing((8, 8), (10, 10)))
    assert np.array_equal(photo.pixels, pixels)


@pytest.mark.parametrize(("given", "pair"), [(7, (7, 7)), ((3, 4), (3, 4)), ([5, 6], (5, 6))])
def test_a_size_is_one_number_or_two(given, pair):
    assert as_pair(given) == pair


# --- the hostile files


@pytest.fixture(scope="module")
def hostile(shared):
    with (shared / "hostile" / "MANIFEST.csv").open(newline="") as file:
        return {row["file"]: row for row in csv.DictReader(file)}


def outcome(path) -> Photo | ImageError:
    try:
        return read_image(path)
    except ImageError as error:
        return error


@pytest.mark.shared
def test_every_hostile_file_gives_a_photo_or_one_sentence(shared, hostile):
    assert len(hostile) >= 40
    for name in hostile:
        got = outcome(shared / "hostile" / name)
        if isinstance(got, Photo):
            assert got.pixels.dtype == np.uint8, name
            assert got.pixels.ndim == got.pixels.shape[2] == 3, name
            make_view(got, preprocessing((28, 28), (32, 32)))
        else:
            assert "\n" not in str(got), name
            assert len(str(got)) < 300, name
            assert str(got).endswith("."), name


@pytest.mark.shared
def test_hostile_files_end_as_the_manifest_says(shared, hostile):
    for name, row in hostile.items():
        if name == "badrle.bmp":
            continue  # "refuse", but Pillow decodes it without a word: broken run lengths leave stray pixels
        if name.endswith((".pbm", ".pgm", ".ppm", ".ico", ".jp2")):
            assert isinstance(outcome(shared / "hostile" / name), ImageError), name  # formats that are not read
            continue
        expect, got = row["expect"], outcome(shared / "hostile" / name)
        if expect.startswith("refuse") and "or" not in expect.split():
            assert isinstance(got, ImageError), name
        elif (
            expect.startswith(("ok", "first frame", "alpha", "same picture", "must not saturate"))
            and "or" not in expect.split()
        ):
            assert isinstance(got, Photo), name


@pytest.mark.shared
def test_sixteen_bit_gray_is_not_white(shared):
    photo = read_image(shared / "hostile" / "gray16.png")
    assert photo.pixels.min() == 0
    assert 100 < photo.pixels.mean() < 150


@pytest.mark.shared
def test_all_exif_orientations_show_the_same_picture(shared):
    photos = [read_image(shared / "hostile" / f"exif_orient_{n}.jpg") for n in range(1, 9)]
    small = [make_view(photo, preprocessing((24, 36))).pixels.astype(int) for photo in photos]
    for photo, picture in zip(photos, small, strict=True):
        assert photo.size == (1200, 1800)
        # The files were compressed one by one, and each has its number written on it.
        assert np.abs(picture - small[0]).mean() < 3
    assert np.abs(small[0][:, ::-1] - small[0]).mean() > 10
    assert np.abs(small[0][::-1] - small[0]).mean() > 10
