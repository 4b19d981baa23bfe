"""The same twelve small pictures as class folders, as tar shards and as parquet shards."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

CLASSES = ("n01440764", "n01443537", "n02099601")
_SIZES = ((40, 30), (30, 41), (16, 16), (70, 75), (33, 90), (17, 20))  # (width, height); halved 0, 1 and 2 times to 16


def jpeg(number: int) -> bytes:
    """A picture's file: grey for 5, CMYK for 10, RGB otherwise; sizes differ."""
    width, height = _SIZES[number % len(_SIZES)]
    coarse = np.random.default_rng(number).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR)
    picture = picture.convert({5: "L", 10: "CMYK"}.get(number, "RGB"))
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=92)
    return stream.getvalue()


def members() -> Iterator[tuple[str, int, bytes]]:
    """Yields stem, class and file of the twelve pictures, in the order of their paths."""
    for number in range(12):
        yield f"{CLASSES[number // 4]}_{number:02d}", number // 4, jpeg(number)


def make_tree(root: Path, split: str = "train") -> Path:
    for stem, label, data in members():
        folder = root / split / CLASSES[label]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{stem}.JPEG").write_bytes(data)
    return root


def make_tar(path: Path, entries: Sequence[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in entries:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def make_tars(root: Path) -> Path:
    """Two shards; keys hold no dot, the second shard has capital endings and files that are no pictures."""
    everything = list(members())
    first = [(f"{stem}.{end}", part) for stem, label, data in everything[:5] for end, part in _pair(data, label)]
    second = [(f"./b/{stem}.{end}", part) for stem, label, data in everything[5:] for end, part in _pair(data, label)]
    second = [(name.replace(".jpg", ".JPEG"), data) for name, data in second]
    make_tar(root / "train-000000.tar", first)
    make_tar(root / "train-000001.tar", [*second, ("b/notes.json", b"{}")])
    return root


def _pair(data: bytes, label: int) -> list[tuple[str, bytes]]:
    return [("cls", f"{label}\n".encode()), ("jpg", data)]


def make_parquet(root: Path, split: str = "train", *, changed: dict[str, Any] | None = None) -> Path:
    """Two shards below `data`, three rows in a row group."""
    rows = [
        {"image": {"bytes": data, "path": f"{stem}.JPEG"}, "label": label, **(changed or {})}
        for stem, label, data in members()
    ]
    (root / "data").mkdir(parents=True, exist_ok=True)
    for shard, part in enumerate((rows[:7], rows[7:])):
        pq.write_table(
            pa.Table.from_pylist(part), root / "data" / f"{split}-{shard:05d}-of-00002.parquet", row_group_size=3
        )
    return root


def reference_pixels(number: int) -> np.ndarray:
    """What Pillow makes of a file, in RGB."""
    return np.asarray(Image.open(io.BytesIO(jpeg(number))).convert("RGB"))
