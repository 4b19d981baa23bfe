"""Every mode becomes RGB as PIL converts it, but for 16-bit grey; every bad file is named."""

from __future__ import annotations

import random
import struct
import warnings
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovbench._base.errors import DataError
from ovbench._base.pictures import open_picture, to_rgb


def colours() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8))


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def with_alpha(mode: str) -> Image.Image:
    picture = colours().convert(mode)
    picture.putalpha(Image.fromarray(np.arange(108, dtype=np.uint8).reshape(9, 12)))
    return picture


def transparent_palette() -> Image.Image:
    picture = colours().quantize(16)
    picture.info["transparency"] = 3
    return picture


MODES = {
    "1": lambda: colours().convert("1"),
    "L": lambda: colours().convert("L"),
    "LA": lambda: with_alpha("L"),
    "P": lambda: colours().quantize(16),
    "P with transparency": transparent_palette,
    "PA": lambda: colours().quantize(16).convert("PA"),
    "RGB": colours,
    "RGBA": lambda: with_alpha("RGB"),
    "RGBa": lambda: with_alpha("RGB").convert("RGBa"),
    "CMYK": lambda: colours().convert("CMYK"),
    "YCbCr": lambda: colours().convert("YCbCr"),
    "HSV": lambda: colours().convert("HSV"),
}


@pytest.mark.parametrize("name", MODES)
def test_modes_become_rgb_as_pil_converts_them(name: str) -> None:
    picture = MODES[name]()
    assert name.startswith(picture.mode)
    ours = to_rgb(picture)
    assert ours.mode == "RGB"
    assert np.array_equal(np.asarray(ours), np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize(
    ("name", "kind"),
    [("1", "PNG"), ("L", "PNG"), ("LA", "PNG"), ("P", "GIF"), ("P with transparency", "PNG"), ("RGB", "JPEG"),
     ("RGBA", "PNG"), ("RGBA", "WEBP"), ("CMYK", "JPEG"), ("CMYK", "TIFF"), ("YCbCr", "TIFF"), ("RGB", "BMP")],
)  # fmt: skip
def test_a_file_gives_what_pil_gives(name: str, kind: str, tmp_path: Path) -> None:
    data = encoded(MODES[name](), kind)
    (tmp_path / "picture").write_bytes(data)
    theirs = np.asarray(Image.open(BytesIO(data)).convert("RGB"))
    for ours in (open_picture(data), open_picture(tmp_path / "picture")):
        assert ours.mode == "RGB"
        assert np.array_equal(np.asarray(ours), theirs)


def test_transparency_is_dropped_so_hidden_colours_become_visible() -> None:
    assert to_rgb(Image.new("RGBA", (1, 1), (255, 10, 20, 0))).getpixel((0, 0)) == (255, 10, 20)


DEEP = np.array([[0, 128, 129, 385], [386, 25700, 65406, 65535]], np.uint16)
SHALLOW = np.round(DEEP / 257).astype(np.uint8)  # 0, 0, 1, 1, 2, 100, 254, 255


@pytest.mark.parametrize("mode", ["I", "I;16", "I;16L", "I;16B"])
def test_16_bit_grey_is_divided_by_257_and_rounded(mode: str) -> None:
    order = ">u2" if mode == "I;16B" else "<i4" if mode == "I" else "<u2"
    picture = Image.frombytes(mode, (4, 2), DEEP.astype(order).tobytes())
    ours = np.asarray(to_rgb(picture))
    assert np.array_equal(ours, np.repeat(SHALLOW[..., None], 3, axis=2))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_files_are_not_turned_white(kind: str) -> None:
    data = encoded(Image.fromarray(DEEP), kind)
    assert np.array_equal(np.asarray(open_picture(data))[..., 0], SHALLOW)


def test_16_bit_pgm_is_not_turned_white() -> None:
    data = b"P5 4 2 65535\n" + DEEP.astype(">u2").tobytes()
    assert np.array_equal(np.asarray(open_picture(data))[..., 0], SHALLOW)


def test_orientation_marks_are_not_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees to show
    data = encoded(colours(), "JPEG", exif=exif)
    assert Image.open(BytesIO(data)).getexif()[0x0112] == 6
    assert open_picture(data).size == (12, 9)


def test_of_an_animation_the_first_frame_is_read() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert open_picture(data).getpixel((0, 0)) == (255, 0, 0)


def damaged_png() -> bytes:
    data = bytearray(encoded(colours()))
    data[data.index(b"IDAT") + 6] ^= 255
    return bytes(data)


def claims(width: int, height: int) -> bytes:
    """Returns a PNG whose header promises more than the file holds."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return encoded(colours())[:8] + chunk + encoded(colours())[33:]


BAD = {
    "empty": (b"", "is empty (0 bytes)", "get the file again"),
    "text": (b"<html>404</html>", "is in no format that Pillow can read", "get the file again, or save it as PNG"),
    "short header": (encoded(colours())[:20], "is truncated or damaged: ", "get the file again"),
    "truncated png": (encoded(colours())[:-60], "is truncated or damaged: ", "get the file again"),
    "truncated jpeg": (encoded(colours(), "JPEG")[:-40], "is truncated or damaged: ", "get the file again"),
    "damaged png": (damaged_png(), "is truncated or damaged: ", "get the file again"),
    "no pixels": (claims(0, 5), "is in no format that Pillow can read", "get the file again"),
    "bomb": (claims(60000, 60000), "is too large: Image size (3600000000 pixels) exceeds limit", "save it smaller"),
    "floats": (
        encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"),
        "cannot be used: a picture of floating-point values (mode F) does not say which value is white",
        "save it as PNG or JPEG with 8 bits per channel",
    ),
    "below zero": (
        encoded(Image.fromarray(np.full((4, 4), -1, np.int32)), "TIFF"),
        "cannot be used: a grey picture with values -1 … -1 has more than 16 bits (mode I)",
        "save it with 8 or 16 bits per channel",
    ),
    "32 bits": (
        encoded(Image.fromarray(np.full((4, 4), 70000, np.int32)), "TIFF"),
        "cannot be used: a grey picture with values 70000 … 70000 has more than 16 bits (mode I)",
        "save it with 8 or 16 bits per channel",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_named_with_what_to_do(name: str, tmp_path: Path) -> None:
    data, what, fix = BAD[name]
    path = tmp_path / "bad.png"
    path.write_bytes(data)
    with pytest.raises(DataError) as error:
        open_picture(path)
    assert error.value.what.startswith(f"the picture 'bad.png' {what}")
    assert error.value.where == str(path)
    assert error.value.fix.startswith(fix)
    with pytest.raises(DataError) as error:
        open_picture(data, where="table.parquet, row 3")
    assert error.value.what.startswith(f"the picture {what}")
    assert error.value.where == "table.parquet, row 3"


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the picture 'none\.png' is missing") as missing:
        open_picture(tmp_path / "none.png")
    assert missing.value.where == str(tmp_path / "none.png")
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        open_picture(tmp_path, where="row 1")


def test_no_damage_raises_anything_but_a_data_error() -> None:
    rng = random.Random(0)
    refused = 0
    for kind in ("PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP", "PPM"):
        whole = encoded(colours(), kind)
        for _ in range(60):
            data = bytearray(whole[: rng.randrange(1, len(whole) + 1)])
            for _ in range(3):
                data[rng.randrange(len(data))] = rng.randrange(256)
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                warnings.filterwarnings("ignore", category=UserWarning)
                try:
                    assert open_picture(bytes(data)).mode == "RGB"
                except DataError:
                    refused += 1
    assert refused > 100


def test_modes_that_pillow_cannot_convert_are_refused() -> None:
    with pytest.raises(DataError, match="a picture of mode La cannot be shown as RGB: conversion from La") as error:
        to_rgb(Image.new("La", (2, 2)))
    assert error.value.fix == "save it as an RGB PNG or JPEG"


def test_a_cut_off_picture_is_refused_whatever_another_library_has_set(monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import ImageFile

    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)  # as importing lmms-eval does
    with pytest.raises(DataError, match="is truncated or damaged"):
        open_picture(encoded(colours(), "JPEG")[:-40])
