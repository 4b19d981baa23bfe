"""Pictures from every kind of source are the same pictures; what is wrong with one is said by name."""

from __future__ import annotations

import struct
import threading
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ovbench._base.errors import ConfigError, DataError
from ovbench.encoders.preprocess import adm_center_crop
from ovbench.harness.metrics.image_sources import ImageSource

N = 11


def drawn(count: int = N, height: int = 24, width: int = 24, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def png(pixels: np.ndarray | Image.Image) -> bytes:
    stream = BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(stream, "PNG")
    return stream.getvalue()


def names(count: int = N) -> list[str]:
    """Names that sort as they count, in two folders."""
    return [f"{'ab'[2 * index // count]}/{index:03d}.png" for index in range(count)]


def write_folder(path: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def good(images: np.ndarray | None = None) -> dict[str, bytes]:
    images = drawn() if images is None else images
    return dict(zip(names(len(images)), map(png, images), strict=True))


def _folder(path: Path, images: np.ndarray) -> Path:
    extra = {"notes.txt": b"x", ".hidden.png": b"x", "__MACOSX/000.png": b"x"}
    return write_folder(path / "pictures", {**good(images), **extra})


def _zip(path: Path, images: np.ndarray) -> Path:
    with zipfile.ZipFile(path / "pictures.zip", "w") as archive:
        for name, data in reversed(good(images).items()):
            archive.writestr(name, data)
        archive.writestr("__MACOSX/a/000.png", b"x")
    return path / "pictures.zip"


def _npz(path: Path, images: np.ndarray) -> Path:
    np.savez(path / "pictures.npz", images, np.arange(len(images)))
    return path / "pictures.npz"


def _npz_deflated(path: Path, images: np.ndarray) -> Path:
    np.savez_compressed(path / "pictures.npz", images, np.arange(len(images)))
    return path / "pictures.npz"


def _parquet(path: Path, images: np.ndarray) -> Path:
    rows = [{"bytes": png(image), "path": f"{index}.png"} for index, image in enumerate(images)]
    pq.write_table(pa.table({"image": rows, "label": range(len(rows))}), path / "a.parquet", row_group_size=4)
    return path / "a.parquet"


def _parquet_folder(path: Path, images: np.ndarray) -> Path:
    (path / "shards").mkdir()
    for index, part in enumerate((images[:4], images[4:])):
        pq.write_table(pa.table({"jpg": [png(image) for image in part]}), path / "shards" / f"{index}.parquet")
    return path / "shards"


KINDS = {
    "folder": _folder, "zip": _zip, "npz": _npz, "npz, deflated": _npz_deflated, "parquet": _parquet,
    "folder of parquet": _parquet_folder,
}  # fmt: skip
Write = Callable[[Path, np.ndarray], Path]


def read(source: ImageSource, batch_size: int = 4, **span: Any) -> np.ndarray:
    return np.concatenate([batch.images_u8 for batch in source.batches(batch_size, **span)])


@pytest.mark.parametrize("write", KINDS.values(), ids=KINDS)
def test_every_kind_gives_the_same_pictures_in_order(tmp_path: Path, write: Write) -> None:
    source = ImageSource(write(tmp_path, drawn()), workers=3)
    batches = list(source.batches(4))
    assert len(source) == N
    assert [len(batch.images_u8) for batch in batches] == [4, 4, 3]
    assert np.array_equal(np.concatenate([batch.images_u8 for batch in batches]), drawn())
    assert len({name for batch in batches for name in batch.names}) == N
    assert (source.report.count, source.report.num_distinct, source.report.size) == (N, N, (24, 24))
    assert source.report.warnings() == []


@pytest.mark.parametrize("write", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize(("start", "stop"), [(0, 5), (5, 11), (3, 4), (10, 11)])
def test_every_kind_can_be_read_in_parts(tmp_path: Path, write: Write, start: int, stop: int) -> None:
    source = ImageSource(write(tmp_path, drawn()))
    assert np.array_equal(read(source, start=start, stop=stop), drawn()[start:stop])


@pytest.mark.parametrize("write", KINDS.values(), ids=KINDS)
def test_the_digest_is_of_the_pictures_and_not_of_their_container(tmp_path: Path, write: Write) -> None:
    source = ImageSource(write(tmp_path, drawn()))
    read(source)
    other = ImageSource(_folder(tmp_path / "other", drawn()[::-1]))
    read(other)
    changed = ImageSource(_folder(tmp_path / "changed", drawn(seed=1)))
    read(changed)
    assert source.report.pixels_sha256 == other.report.pixels_sha256 != changed.report.pixels_sha256


def test_a_folders_files_are_in_the_order_of_their_paths(tmp_path: Path) -> None:
    source = ImageSource(_folder(tmp_path, drawn()))
    assert [name for batch in source.batches(3) for name in batch.names] == names()


@pytest.mark.parametrize(
    ("write", "keys"),
    [
        (_folder, names()),
        (_zip, names()),
        (_parquet, [f"{index}.png" for index in range(N)]),
        (_npz, [None] * N),
        (_npz_deflated, [None] * N),
        (_parquet_folder, [None] * N),
    ],
)
def test_a_key_is_the_path_of_a_picture_and_nothing_else(tmp_path: Path, write: Write, keys: list[str | None]) -> None:
    source = ImageSource(write(tmp_path, drawn()))
    assert source.has_keys is (keys[0] is not None)
    assert [key for batch in source.batches(4) for key in batch.keys] == keys
    assert [key for batch in source.batches(4, start=3, stop=9) for key in batch.keys] == keys[3:9]


@pytest.mark.parametrize(
    "paths",
    [
        ["a.png", "b.png", None],
        ["a.png", "b.png", ""],
        ["a.png", "b.png", "a.png"],  # tells no picture from another
        [None, None, None],
        [1, 2, 3],
    ],
)
def test_rows_have_keys_only_where_every_path_is_there_and_another(tmp_path: Path, paths: list[Any]) -> None:
    rows = [{"bytes": png(image), "path": path} for image, path in zip(drawn(3), paths, strict=True)]
    pq.write_table(pa.table({"image": rows}), tmp_path / "a.parquet")
    source = ImageSource(tmp_path / "a.parquet")
    assert not source.has_keys
    assert [key for batch in source.batches(4) for key in batch.keys] == [None] * 3


def test_paths_of_several_files_are_told_apart(tmp_path: Path) -> None:
    for name, paths in (("0", ["a.png", "b.png"]), ("1", ["c.png", "d.png"]), ("2", ["a.png", "e.png"])):
        rows = [{"bytes": png(image), "path": path} for image, path in zip(drawn(2), paths, strict=True)]
        pq.write_table(pa.table({"image": rows}), tmp_path / f"{name}.parquet")
    assert not ImageSource(tmp_path).has_keys
    (tmp_path / "2.parquet").unlink()
    assert [key for batch in ImageSource(tmp_path).batches(4) for key in batch.keys] == [
        "a.png", "b.png", "c.png", "d.png",
    ]  # fmt: skip


def test_the_quick_key_changes_with_the_files_and_the_settings(tmp_path: Path) -> None:
    path = _folder(tmp_path, drawn())
    key = ImageSource(path).quick_key()
    assert ImageSource(path).quick_key() == key
    assert ImageSource(path, crop_px=8).quick_key() != key
    assert ImageSource(path, limit=4).quick_key() != key
    (path / "c.png").write_bytes(png(drawn(1)[0]))
    assert ImageSource(path).quick_key() != key


def test_labels_of_an_npz_are_read_up_to_the_limit(tmp_path: Path) -> None:
    source = ImageSource(_npz(tmp_path, drawn()), limit=5)
    assert source.labels is not None
    assert source.labels.tolist() == [0, 1, 2, 3, 4]
    assert len(read(source)) == 5
    assert ImageSource(_folder(tmp_path, drawn())).labels is None


@pytest.mark.parametrize("write", [_npz, _npz_deflated])
def test_an_npz_is_never_in_memory_as_a_whole(tmp_path: Path, write: Write) -> None:
    images = np.zeros((400, 128, 128, 3), dtype=np.uint8)  # 20 MB
    images[:, 0, 0, 0] = np.arange(400) % 256
    source = ImageSource(write(tmp_path, images))
    tracemalloc.start()
    count = sum(len(batch.images_u8) for batch in source.batches(8))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 400
    assert peak < 0.4 * images.nbytes


def test_the_crop_is_adms(tmp_path: Path) -> None:
    images = drawn(3, 40, 60)
    for write in (_folder, _npz):
        (tmp_path / write.__name__).mkdir()
        found = read(ImageSource(write(tmp_path / write.__name__, images), crop_px=16))
        wanted = np.stack([np.asarray(adm_center_crop(Image.fromarray(image), 16)) for image in images])
        assert np.array_equal(found, wanted)


def test_a_crop_makes_mixed_sizes_one(tmp_path: Path) -> None:
    path = write_folder(tmp_path, {"a.png": png(drawn(1, 40, 60)[0]), "b.png": png(drawn(1, 33, 20)[0])})
    assert read(ImageSource(path, crop_px=16)).shape == (2, 16, 16, 3)


def _bad_files() -> dict[str, bytes]:
    grey = Image.fromarray(drawn(1)[0, :, :, 0])
    deep = Image.fromarray(np.random.default_rng(0).integers(0, 65536, (24, 24)).astype(np.uint16))
    whole = png(drawn(1)[0])
    return {
        "c/grey.png": png(grey),
        "c/alpha.png": png(Image.fromarray(np.dstack([drawn(1)[0], drawn(1)[0, :, :, :1]]))),
        "c/deep.png": png(deep),
        "c/cut.png": whole[: len(whole) // 2],
        "c/empty.png": b"",
        "c/text.png": b"this is no picture",
        "c/wide.png": png(drawn(1, 24, 30)[0]),
    }


def test_bad_pictures_are_named_and_refused(tmp_path: Path) -> None:
    source = ImageSource(write_folder(tmp_path, {**good(), **_bad_files()}))
    with pytest.raises(DataError) as caught:
        read(source)
    what = caught.value.what
    assert what.startswith("7 of 18 pictures cannot be scored: ")
    for part in (
        "c/grey.png: grey", "c/alpha.png: RGB with alpha", "c/deep.png: 16-bit grey",
        "c/cut.png: the picture is truncated", "c/empty.png: the picture is empty",
        "c/text.png: the picture is in no format",
        "c/wide.png: 30×24 pixels among 24×24",
    ):  # fmt: skip
        assert part in what
    assert "--skip-bad 7" in caught.value.fix
    assert "--convert" in caught.value.fix
    assert "--crop" in caught.value.fix


def test_as_many_as_allowed_are_left_out_and_reported(tmp_path: Path) -> None:
    path = write_folder(tmp_path, {**good(), **_bad_files()})
    source = ImageSource(path, skip_bad=7)
    assert np.array_equal(read(source), drawn())
    assert len(source.report.bad) == 7
    assert "7 pictures were left out" in source.report.warnings()[0]
    with pytest.raises(DataError, match="7 of 18"):
        read(ImageSource(path, skip_bad=6))


def test_conversion_has_to_be_asked_for_and_is_reported(tmp_path: Path) -> None:
    files = {
        name: data for name, data in _bad_files().items() if name.split("/")[1] in ("grey.png", "alpha.png", "deep.png")
    }
    source = ImageSource(write_folder(tmp_path, {**good(), **files}), convert=True)
    images = read(source)
    assert len(images) == N + 3
    assert sorted(source.report.converted) == [
        "c/alpha.png (RGB with alpha)", "c/deep.png (16-bit grey)", "c/grey.png (grey)",
    ]  # fmt: skip
    assert np.array_equal(images[-1], np.repeat(drawn(1)[0, :, :, :1], 3, axis=2))
    assert images[-2].max() > 200  # 16 bits became 8, not white
    assert 50 < images[-2].mean() < 200


def test_a_png_of_16_bits_per_channel_is_not_taken_for_8(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    pixels = zlib.compress((b"\0" + b"\x12\x34" * 12) * 4)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    assert Image.open(BytesIO(data)).mode == "RGB"
    path = write_folder(tmp_path, {"deep.png": data})
    with pytest.raises(DataError, match="deep.png: 16-bit RGB"):
        read(ImageSource(path))
    assert (read(ImageSource(path, convert=True)) == 0x12).all()


def test_an_odd_picture_at_the_front_is_the_odd_one(tmp_path: Path) -> None:
    path = write_folder(tmp_path, {**good(), "a/0.png": png(drawn(1, 30, 30)[0])})
    source = ImageSource(path, skip_bad=1)
    assert len(read(source)) == N
    assert [entry.name for entry in source.report.bad] == ["a/0.png"]


def test_many_bad_pictures_are_not_all_looked_for(tmp_path: Path) -> None:
    path = write_folder(tmp_path, {f"{index:03d}.png": b"x" for index in range(60)})
    with pytest.raises(DataError, match="more than 20 of 60 pictures cannot be scored: 000.png"):
        read(ImageSource(path))


def test_a_source_of_bad_pictures_only_is_refused_even_if_they_may_be_left_out(tmp_path: Path) -> None:
    path = write_folder(tmp_path, {f"{index}.png": b"x" for index in range(3)})
    with pytest.raises(DataError, match="3 of 3 pictures cannot be scored"):
        read(ImageSource(path, skip_bad=5))


def test_duplicates_and_constant_pictures_are_counted(tmp_path: Path) -> None:
    images = drawn()
    images[7], images[9] = images[2], 128
    source = ImageSource(_folder(tmp_path, images))
    read(source)
    report = source.report
    assert report.duplicates == [(names()[2], names()[7])]
    assert report.constant == [names()[9]]
    assert (report.count, report.num_distinct) == (N, N - 1)
    assert any("repeat others" in line for line in report.warnings())
    assert any("of one colour" in line for line in report.warnings())
    with pytest.raises(DataError, match=f"{N} pictures, but only {N - 1} distinct ones") as caught:
        report.check_count(N)
    assert "padded last batch" in caught.value.fix
    with pytest.raises(DataError, match=f"{N} pictures instead of 50000"):
        report.check_count(50_000)


def test_a_clean_source_passes_the_count(tmp_path: Path) -> None:
    source = ImageSource(_folder(tmp_path, drawn()))
    read(source)
    source.report.check_count(N)


def test_pictures_that_are_no_squares_are_said(tmp_path: Path) -> None:
    source = ImageSource(_folder(tmp_path, drawn(3, 24, 40)))
    read(source)
    assert any("40×24 pixels; the resize to a square distorts" in line for line in source.report.warnings())


def test_one_picture_is_a_source(tmp_path: Path) -> None:
    assert len(read(ImageSource(_folder(tmp_path, drawn(1))))) == 1


@pytest.mark.parametrize("kind", ["folder", "zip", "npz", "parquet"])
def test_an_empty_source_is_refused(tmp_path: Path, kind: str) -> None:
    path = KINDS[kind](tmp_path, drawn()[:0]) if kind != "parquet" else tmp_path / "a.parquet"
    if kind == "parquet":
        pq.write_table(pa.table({"image": pa.array([], pa.binary())}), path)
    with pytest.raises(DataError, match="holds no pictures"):
        ImageSource(path)


@pytest.mark.parametrize("keep", [0.3, 0.9, 0.999])
@pytest.mark.parametrize("kind", ["zip", "npz", "npz, deflated", "parquet"])
def test_a_truncated_file_is_refused(tmp_path: Path, kind: str, keep: float) -> None:
    path = KINDS[kind](tmp_path, drawn())
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(DataError, match="truncated|damaged"):
        ImageSource(path)


def test_a_damaged_member_of_a_zip_is_named(tmp_path: Path) -> None:
    path = _zip(tmp_path, drawn())
    with zipfile.ZipFile(path) as archive:
        place = archive.getinfo(names()[4]).header_offset + 60
    data = bytearray(path.read_bytes())
    data[place : place + 40] = bytes(40)
    path.write_bytes(bytes(data))
    with pytest.raises(DataError, match=f"1 of {N} pictures cannot be scored: {names()[4]}: the member is damaged"):
        read(ImageSource(path))


def test_damage_inside_a_deflated_npz_is_an_error(tmp_path: Path) -> None:
    path = _npz_deflated(tmp_path, drawn())
    data = bytearray(path.read_bytes())
    data[2000:2200] = bytes(200)
    path.write_bytes(bytes(data))
    with pytest.raises(DataError, match="arr_0 is damaged"):
        read(ImageSource(path))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 3, 8, 8), dtype=np.uint8), r"uint8 \[4, 3, 8, 8\], not uint8 \[N, H, W, 3\]"),
        (np.zeros((4, 8, 8, 3), dtype=np.float32), r"float32 \[4, 8, 8, 3\], not uint8"),
        (np.asfortranarray(np.zeros((4, 8, 8, 3), dtype=np.uint8)), "in Fortran order"),
        (np.array([{}, {}], dtype=object), "holds pickled objects, which can run code"),
    ],
)
def test_an_npz_of_something_else_is_refused(tmp_path: Path, array: np.ndarray, message: str) -> None:
    np.savez(tmp_path / "a.npz", array, allow_pickle=True)
    with pytest.raises(DataError, match=message):
        ImageSource(tmp_path / "a.npz")


def test_statistics_are_no_pictures(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", mu=np.zeros(4), sigma=np.eye(4))
    with pytest.raises(DataError, match="holds statistics .* and no pictures"):
        ImageSource(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", features=np.zeros(4))
    with pytest.raises(DataError, match="there is no array 'arr_0'"):
        ImageSource(tmp_path / "b.npz")


def test_a_parquet_without_pictures_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"], "label": [1]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"no columns of bytes \(it has: text, label\)"):
        ImageSource(tmp_path / "a.parquet")
    pq.write_table(pa.table({"one": [b"a"], "two": [b"b"]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"2 columns of bytes \(one, two\)"):
        ImageSource(tmp_path / "a.parquet")


def test_a_row_without_bytes_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [png(drawn(1)[0]), None]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a.parquet\[1\]: the row holds no bytes"):
        read(ImageSource(tmp_path / "a.parquet"))


def test_what_is_no_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder 'absent'"):
        ImageSource(tmp_path / "absent")
    (tmp_path / "a.tar").write_bytes(b"x")
    with pytest.raises(DataError, match="its name ends in '.tar'"):
        ImageSource(tmp_path / "a.tar")


@pytest.mark.parametrize(
    ("option", "where"), [({"skip_bad": -1}, "--skip-bad"), ({"crop_px": 0}, "--crop"), ({"limit": 0}, "--limit"),
                          ({"workers": 0}, "--workers")],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(tmp_path: Path, option: dict[str, int], where: str) -> None:
    with pytest.raises(ConfigError, match="or more") as caught:
        ImageSource(_folder(tmp_path, drawn(2)), **option)  # type: ignore[arg-type]
    assert caught.value.where == where


def test_more_than_there_is_cannot_be_asked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="12 pictures were asked for, and 'pictures' holds 11"):
        ImageSource(_folder(tmp_path, drawn()), limit=12)
    with pytest.raises(ConfigError, match="pictures 5 … 12 in batches of 4"):
        ImageSource(tmp_path / "pictures").batches(4, start=5, stop=12)
    with pytest.raises(ConfigError, match="in batches of 0"):
        ImageSource(tmp_path / "pictures").batches(0)


def test_leaving_off_in_the_middle_ends_the_threads(tmp_path: Path) -> None:
    before = threading.active_count()
    stream = ImageSource(_folder(tmp_path, drawn()), workers=4).batches(2)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_a_link_that_leads_nowhere_is_named_and_refused(tmp_path: Path) -> None:
    for index in range(3):
        Image.fromarray(np.full((8, 8, 3), 40 * index, dtype=np.uint8)).save(tmp_path / f"{index}.png")
    (tmp_path / "9.png").symlink_to(tmp_path / "nowhere.png")
    source = ImageSource(tmp_path)
    assert source.quick_key()
    with pytest.raises(DataError, match="1 of 4 pictures cannot be scored: 9.png"):
        list(source.batches(4))
