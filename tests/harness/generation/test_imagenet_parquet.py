"""Parquet shards: a row group is read once, and a wrong table is named."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ovbench._base.errors import DataError
from ovbench.harness.generation import imagenet_parquet
from ovbench.harness.generation.imagenet_parquet import ParquetSource
from tests.harness.generation.imagenet_tree import jpeg, make_parquet, reference_pixels


def opened(root: Path) -> ParquetSource:
    return ParquetSource(root, "set", sorted(root.rglob("*.parquet")), num_classes=None)


def refusal(root: Path) -> str:
    with pytest.raises(DataError) as caught:
        opened(root)
    assert caught.value.fix
    return str(caught.value)


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Row groups that were read."""
    found: list[tuple[str, int]] = []
    read = imagenet_parquet._read_group

    def counting(shard: Path, group: int) -> Any:
        found.append((shard.name, group))
        return read(shard, group)

    monkeypatch.setattr(imagenet_parquet, "_read_group", counting)
    return found


def test_many_threads_read_each_row_group_once(tmp_path: Path, groups: list[tuple[str, int]]) -> None:
    source = opened(make_parquet(tmp_path))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(source.read, [*range(12), *range(12)]))
    assert len(groups) == len(set(groups)) == 5  # 3 + 3 + 1 and 3 + 2 rows


def test_row_groups_that_were_used_last_are_kept(
    tmp_path: Path, groups: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imagenet_parquet, "_KEPT_BYTES", 1)
    source = opened(make_parquet(tmp_path))
    for index in (0, 2, 3, 0):
        np.testing.assert_array_equal(np.asarray(source.read(index)), reference_pixels(index))
    assert [group for _, group in groups] == [0, 1, 0]


def test_a_failed_read_is_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = opened(make_parquet(tmp_path))

    def fail(shard: Path, group: int) -> Any:
        raise DataError("gone for a moment")

    with monkeypatch.context() as patch:
        patch.setattr(imagenet_parquet, "_read_group", fail)
        with pytest.raises(DataError, match="gone for a moment"):
            source.read(0)
    np.testing.assert_array_equal(np.asarray(source.read(0)), reference_pixels(0))


def test_pictures_may_be_plain_bytes(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [jpeg(0), jpeg(1)], "label": [1, 0]}), tmp_path / "a.parquet")
    source = opened(tmp_path)
    assert source.labels.tolist() == [1, 0]
    np.testing.assert_array_equal(np.asarray(source.read(1)), reference_pixels(1))


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 nothing PAR1")
    assert "'a.parquet' is damaged or no parquet" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("table", "what"),
    [
        ({"img": [b"x"], "label": [0]}, "no column 'image' of picture files (it has: img, label)"),
        ({"image": ["path.jpg"], "label": [0]}, "no column 'image' of picture files"),
        ({"image": [b"x"], "class": [0]}, "no column 'label' of whole numbers (it has: image, class)"),
        ({"image": [b"x"], "label": ["dog"]}, "no column 'label' of whole numbers"),
        ({"image": [b"x", b"y"], "label": [0, None]}, "row 1 of 'a.parquet' has no class"),
    ],
)
def test_a_table_without_pictures_and_classes_is_refused(tmp_path: Path, table: dict[str, Any], what: str) -> None:
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    assert what in refusal(tmp_path)


def test_a_row_without_bytes_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [jpeg(0), None], "label": [0, 0]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="the row holds no bytes") as caught:
        opened(tmp_path).read(1)
    assert caught.value.where.endswith("a.parquet[1]")


def test_a_row_is_named_by_its_own_shard(tmp_path: Path) -> None:
    source = opened(make_parquet(tmp_path))
    assert source.item(6) == "train-00000-of-00002.parquet[6]"
    assert source.item(7) == "train-00001-of-00002.parquet[0]"
