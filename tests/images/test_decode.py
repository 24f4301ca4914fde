"""Files that would harm: formats nobody asked for, files without end, memory; and what is read from file objects."""

import io
import os
import struct
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, ImageCms

from inspector.errors import ImageError
from inspector.images import decode
from inspector.images.decode import MemoryBudget, convert_to_rgb
from inspector.images.large import open_large_image
from inspector.images.photo import read_image
from inspector.images.sources import list_images, read_item

READ = "JPEG, PNG, WebP, GIF, BMP, TIFF"


def encoded(image: Image.Image, format: str = "PNG", **how: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **how)
    return buffer.getvalue()


def in_time(work, seconds: float = 20):
    """Run work in a thread, so that a test of something that never ends fails."""
    outcome: list[object] = []

    def run() -> None:
        try:
            outcome.append(work())
        except Exception as error:  # the test looks at it
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert outcome, "it did not end"
    return outcome[0]


# --- formats


@pytest.mark.parametrize("format", ["EPS", "PPM", "ICO", "PCX", "TGA", "SGI", "DDS", "JPEG2000", "ICNS", "PDF", "XBM"])
@pytest.mark.parametrize("name", ["it.jpg", "it.tif"])
def test_formats_that_nobody_asked_for_are_refused_with_the_list(format, name, tmp_path, pixels):
    image = Image.fromarray(pixels).resize((32, 32)).convert("1" if format == "XBM" else "RGB")
    path = tmp_path / name
    path.write_bytes(encoded(image, format))
    for read in (read_image, lambda path: open_large_image(path)):
        with pytest.raises(ImageError, match=f"^{name} is not an image that can be read. {READ}"):
            read(path)


@pytest.mark.parametrize(
    "start", [b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\xc5\xd0\xd3\xc6" + struct.pack("<I", 32) + b"\0" * 24]
)
def test_postscript_is_never_given_to_ghostscript(start, tmp_path, monkeypatch):
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path / 'ran'}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    data = start + b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
    path = tmp_path / "photo.jpg"
    path.write_bytes(data)
    for source in (path, data, io.BytesIO(data)):
        with pytest.raises(ImageError, match="is not an image that can be read"):
            read_image(source)
    with pytest.raises(ImageError, match="is not an image that can be read"):
        open_large_image(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("format", [*decode.FORMATS, "MPO"])
def test_the_formats_of_the_list_are_read(format):
    slope = np.repeat(np.arange(0, 200, 5, dtype=np.uint8)[:, None, None], 3, axis=2).repeat(32, axis=1)
    photo = read_image(encoded(Image.fromarray(slope), format))
    assert np.abs(photo.pixels.astype(int) - slope).max() < 8


def test_image_open_is_called_with_a_list_of_formats_only():
    for path in Path(decode.__file__).parents[1].rglob("*.py"):
        for line in path.read_text(encoding="utf-8").splitlines():
            assert "Image.open(" not in line or "formats=" in line, f"{path}: {line}"


# --- files without end


def test_a_device_that_never_ends_is_refused(tmp_path):
    link = tmp_path / "photo.jpg"
    link.symlink_to("/dev/zero")
    for path in (Path("/dev/zero"), link):
        error = in_time(lambda path=path: read_image(path))
        assert isinstance(error, ImageError)
        assert "it is not an ordinary file" in str(error)
        assert isinstance(in_time(lambda path=path: open_large_image(path)), ImageError)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no named pipes")
def test_a_pipe_is_refused_at_once_in_every_way_in(tmp_path):
    pipe = tmp_path / "photo.jpg"
    os.mkfifo(pipe)
    (tmp_path / "list.csv").write_text("path\nphoto.jpg\n/dev/zero\n")
    (tmp_path / "link.tar").symlink_to(pipe)
    assert isinstance(in_time(lambda: read_image(pipe)), ImageError)
    assert isinstance(in_time(lambda: open_large_image(pipe)), ImageError)
    for source in (tmp_path, tmp_path / "list.csv"):
        for item in list_images(source):
            error = in_time(lambda item=item: read_item(item))
            assert isinstance(error, ImageError)
            assert "it is not an ordinary file" in str(error)
    assert isinstance(in_time(lambda: list_images(tmp_path / "link.tar")), ImageError)


class Growing(io.RawIOBase):
    """A binary file that never ends."""

    name = "growing.jpg"
    read_bytes = 0

    def read(self, size: int = -1) -> bytes:
        assert 0 <= size <= 2 * decode.MAX_BYTES, "read without a limit"
        self.read_bytes += size
        return b"\xff" * size


def test_a_file_object_is_read_up_to_the_limit_only(monkeypatch):
    monkeypatch.setattr(decode, "MAX_BYTES", 1000)
    file = Growing()
    with pytest.raises(ImageError, match=r"^growing.jpg has more than 0 MB; at most"):
        read_image(file)
    assert file.read_bytes == 1001


def test_an_address_is_read_up_to_the_limit_only(monkeypatch, pixels):
    import fsspec

    data = encoded(Image.fromarray(pixels))
    system = fsspec.filesystem("memory")
    system.pipe_file("/limits/a.png", data)
    system.pipe_file("/limits/list.csv", b"path\na.png\n")
    (item,) = list_images("memory://limits/list.csv")
    assert np.array_equal(read_item(item).pixels, pixels)
    monkeypatch.setattr(decode, "MAX_BYTES", len(data) - 1)
    with pytest.raises(ImageError, match=r"^a.png has more than 0 MB"):
        read_item(item)
    system.rm("/limits", recursive=True)


# --- file objects and other sources


class Uploaded(io.BytesIO):
    """As Streamlit's UploadedFile: a BytesIO with a name."""

    name = "upload.png"


@pytest.mark.parametrize("position", [0, 7, None])
def test_a_file_object_is_read_from_its_start_and_left_where_it_was(position, pixels):
    data = encoded(Image.fromarray(pixels))
    file = Uploaded(data)
    before = file.seek(0, io.SEEK_END) if position is None else file.seek(position)
    photo = read_image(file)
    assert np.array_equal(photo.pixels, pixels)
    assert photo.name == "upload.png"
    assert photo.sha256 == read_image(data).sha256
    assert file.tell() == before


def test_open_files_byte_arrays_and_paths_of_other_kinds_are_read(tmp_path, pixels):
    data = encoded(Image.fromarray(pixels))
    path = tmp_path / "photo.png"
    path.write_bytes(data)

    class OwnPath:
        def __fspath__(self) -> str:
            return str(path)

    with path.open("rb") as file, path.open("rb", buffering=0) as unbuffered:
        for source in (file, unbuffered, bytearray(data), memoryview(data), io.BytesIO(data), OwnPath()):
            assert np.array_equal(read_image(source).pixels, pixels)
        assert read_image(file).name == "photo.png"


def test_a_pipe_that_cannot_be_rewound_is_read(pixels):
    data = encoded(Image.fromarray(pixels))
    reader, writer = os.pipe()

    def write() -> None:
        with os.fdopen(writer, "wb") as file:
            file.write(data)

    thread = threading.Thread(target=write)
    thread.start()
    with os.fdopen(reader, "rb") as file:
        assert np.array_equal(read_image(file).pixels, pixels)
    thread.join()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (io.StringIO("text"), "image is open as text. Open it as a binary file, with mode 'rb'"),
        (5, "Expected a path, bytes, a binary file object, a PIL image or an array; got int"),
        (None, "Expected a path, bytes, a binary file object, a PIL image or an array; got NoneType"),
        (b"", "image is empty"),
        (io.BytesIO(), "image is empty"),
    ],
)
def test_other_sources_are_refused_in_one_sentence(source, message):
    with pytest.raises(ImageError, match=f"^{message}"):
        read_image(source)


def test_a_closed_file_is_refused():
    file = io.BytesIO(b"x")
    file.close()
    with pytest.raises(ImageError, match=r"^Cannot read image: .*closed file"):
        read_image(file)


@pytest.mark.parametrize("kind", ["tensor", "channels first", "bfloat16", "requires grad", "batch of one"])
def test_tensors_are_read_as_arrays(kind, pixels):
    tensor = torch.from_numpy(pixels.copy())
    source = {
        "tensor": tensor,
        "channels first": tensor.permute(2, 0, 1),
        "bfloat16": (tensor // 64 * 64).bfloat16(),
        "requires grad": (tensor / 255).requires_grad_(),
        "batch of one": tensor.permute(2, 0, 1)[None],
    }[kind]
    expected = pixels // 64 * 64 if kind == "bfloat16" else pixels
    assert np.array_equal(read_image(source).pixels, expected)


MODES = "1 L LA P PA RGB RGBA RGBX RGBa La CMYK YCbCr HSV LAB I F I;16 I;16B"


@pytest.mark.parametrize("mode", MODES.split())
def test_every_mode_of_pillow_is_read(mode):
    photo = read_image(Image.new(mode, (3, 2)))
    assert photo.pixels.shape == (2, 3, 3)
    assert photo.pixels.dtype == np.uint8


# --- frames


def tiff_of_pages(pages: int) -> bytes:
    """A TIFF whose later pages are all the same 1 x 1 page: the directory of one points to the next."""
    entries = [
        (256, 4, 1, 2),
        (257, 4, 1, 2),
        (258, 3, 1, 8),
        (259, 3, 1, 1),
        (262, 3, 1, 1),
        (273, 4, 1, 8),
        (279, 4, 1, 4),
    ]
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    data = bytearray(b"II*\0" + struct.pack("<I", 12) + b"\x01\x02\x03\x04")
    for page in range(pages):
        following = 0 if page == pages - 1 else len(data) + len(directory) + 4
        data += directory + struct.pack("<I", following)
    return bytes(data)


def test_a_tiff_of_many_pages_costs_no_more_than_one_of_two():
    few, many = tiff_of_pages(2), tiff_of_pages(100_000)
    read_image(few)
    start = time.perf_counter()
    photo = read_image(many)
    assert time.perf_counter() - start < 2  # counting the pages took minutes
    assert photo.pixels[..., 0].tolist() == [[1, 2], [3, 4]]
    assert photo.notes == read_image(few).notes == ("Only the first frame is shown.",)


@pytest.mark.parametrize("format", ["GIF", "TIFF", "WEBP", "PNG"])
def test_a_broken_later_frame_does_not_refuse_the_first(format):
    frames = [Image.fromarray(np.full((64, 64), value, np.uint8)) for value in (10, 90, 200)]
    how = {"lossless": True} if format == "WEBP" else {}
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:], **how)
    whole = read_image(data)
    assert whole.notes == ("Only the first frame is shown.",)
    read = 0
    for cut in range(len(data) - 1, len(data) // 2, -7):
        try:
            photo = read_image(data[:cut])
        except ImageError:
            continue  # for WebP, the length of the whole file is checked
        read += 1
        assert np.array_equal(photo.pixels, whole.pixels)
    assert read or format in ("WEBP", "PNG")


def test_an_image_in_hand_keeps_its_frame(pixels):
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "lime", "blue")]
    image = Image.open(io.BytesIO(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])))
    image.seek(1)
    photo = read_image(image)
    assert photo.pixels[1, 1].tolist() == [0, 255, 0]
    assert photo.notes == ("Only the current frame is shown.",)
    assert image.tell() == 1


# --- memory


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_strips_give_the_pixels_of_a_conversion_in_one_piece(mode, monkeypatch):
    image = (
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 30, 4), np.uint8)).convert("RGB").convert(mode)
    )
    if mode in ("LA", "RGBA"):
        image.putalpha(Image.fromarray(np.random.default_rng(1).integers(0, 256, (50, 30), np.uint8)))
    whole = convert_to_rgb(image)
    monkeypatch.setattr(decode, "_STRIP", 7 * 30)
    strips = convert_to_rgb(image)
    assert np.array_equal(whole[0], strips[0])
    assert whole[1] == strips[1] == (mode in ("LA", "RGBA"))
    if mode not in ("LA", "RGBA"):
        assert np.array_equal(whole[0], np.asarray(image.convert("RGB")))


def test_an_opaque_alpha_channel_is_not_called_transparent(pixels):
    assert read_image(encoded(Image.fromarray(pixels).convert("RGBA"))).notes == ()


def test_reservations_of_memory_wait_until_there_is_enough():
    budget, order = MemoryBudget(100), []

    def work(size: int, name: str) -> None:
        with budget.reserve(size):
            order.append(name)

    with budget.reserve(70):
        threads = [threading.Thread(target=work, args=args) for args in ((40, "waits"), (30, "fits"))]
        for thread in threads:
            thread.start()
        threads[1].join(5)
        time.sleep(0.05)
        assert order == ["fits"]
    for thread in threads:
        thread.join(5)
    assert order == ["fits", "waits"]
    work(500, "larger than all")
    assert order[-1] == "larger than all"


def test_a_failed_decode_gives_its_memory_back(pixels):
    broken = encoded(Image.fromarray(pixels))[:-30]
    for _ in range(3):
        with pytest.raises(ImageError):
            read_image(broken)
    assert decode.decoding_memory._used == 0


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is read from /proc")
@pytest.mark.parametrize("mode", ["RGBA", "CMYK", "I;16"])
def test_a_decode_needs_the_image_once_beside_the_result(mode, tmp_path):
    side = 4000
    path = tmp_path / "image.tif"
    Image.new(mode, (side, side)).save(path, compression="tiff_lzw")
    program = f"""
import resource
from inspector.images.photo import read_image
from inspector.images import scientific
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
read_image({str(path)!r})
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    per_pixel = int(run.stdout) * 1024 / side**2
    assert per_pixel < {"RGBA": 16, "CMYK": 11, "I;16": 11}[mode]


def test_a_tiff_whose_strips_inflate_to_more_than_its_pixels_is_refused(monkeypatch):
    values = np.zeros((64, 64, 6), np.uint8)
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer, values, photometric="minisblack", planarconfig="contig", compression="zlib", rowsperstrip=64
    )
    data = bytearray(buffer.getvalue())
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as file:
        offset, count = file.pages[0].dataoffsets[0], file.pages[0].tags["StripByteCounts"]
    bomb = zlib.compress(bytes(40_000_000))
    tag = count.offset + 8
    data[tag : tag + 4] = struct.pack("<I", len(bomb))
    data[offset:] = bomb
    with pytest.raises(ImageError, match="inflates to more than its pixels"):
        read_image(bytes(data))


def test_a_scientific_tiff_of_too_many_pixels_or_bytes_is_refused_before_it_is_decoded():
    entries = [(256, 4, 1, 9000), (257, 4, 1, 9000), (258, 3, 1, 16), (259, 3, 1, 1)]
    entries += [(262, 3, 1, 1), (273, 4, 1, 8), (277, 3, 1, 13), (279, 4, 1, 4)]
    large = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    with pytest.raises(ImageError, match=r"has 9000 x 9000 pixels; at most 80 megapixels"):
        read_image(b"II*\0" + struct.pack("<I", 8) + large + bytes(4))
    entries[0], entries[1] = (256, 4, 1, 8000), (257, 4, 1, 8000)
    many = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    with pytest.raises(ImageError, match=r"takes 1664 MB when it is decoded; at most 640 MB are read"):
        read_image(b"II*\0" + struct.pack("<I", 8) + many + bytes(4))


# --- color profiles


def profile(name: str) -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile(name)).tobytes()


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_an_srgb_profile_needs_no_note(format, pixels):
    assert read_image(encoded(Image.fromarray(pixels), format, icc_profile=profile("sRGB"))).notes == ()


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_another_profile_is_named_and_changes_no_pixel(format, pixels):
    plain = read_image(encoded(Image.fromarray(pixels), format)).pixels
    photo = read_image(encoded(Image.fromarray(pixels), format, icc_profile=wide_profile()))
    assert np.array_equal(photo.pixels, plain)
    assert photo.notes == (
        'Its color profile is "Wide", not sRGB. Colors were not converted, as in training pipelines.',
    )


@pytest.mark.parametrize("data", [b"x", b"\0" * 128, bytes(range(200))])
def test_a_broken_profile_does_not_matter(data, pixels):
    photo = read_image(encoded(Image.fromarray(pixels), icc_profile=data))
    assert np.array_equal(photo.pixels, pixels)
    assert photo.notes == (
        'Its color profile is "unnamed", not sRGB. Colors were not converted, as in training pipelines.',
    )


def test_the_name_of_a_profile_is_no_markup(pixels):
    name = "[red]![i](http://evil/x.png)<b>"
    photo = read_image(encoded(Image.fromarray(pixels), icc_profile=wide_profile(name)))
    assert not set("[]!<>*`") & set(photo.notes[0])


def wide_profile(name: str = "Wide") -> bytes:
    """The sRGB profile with red and green exchanged, and another name."""
    data = bytearray(profile("sRGB"))
    count = struct.unpack(">I", data[128:132])[0]
    tags = {bytes(data[132 + 12 * n : 136 + 12 * n]): 132 + 12 * n for n in range(count)}
    red, green = tags[b"rXYZ"], tags[b"gXYZ"]
    data[red + 4 : red + 12], data[green + 4 : green + 12] = data[green + 4 : green + 12], data[red + 4 : red + 12]
    text = name.encode("utf-16-be")
    described = b"mluc" + bytes(4) + struct.pack(">II", 1, 12) + b"enUS" + struct.pack(">II", len(text), 28) + text
    data[tags[b"desc"] + 4 : tags[b"desc"] + 12] = struct.pack(">II", len(data), len(described))
    data += described + bytes(-len(described) % 4)
    data[:4] = struct.pack(">I", len(data))
    return bytes(data)
