"""The tables of a published benchmark → rows and pictures; refuses what is incomplete."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovbench._base.errors import DataError
from ovbench._base.fingerprint import fingerprint
from ovbench._base.names import suggest
from ovbench.tasks.base import TaskSpec
from ovbench.tasks.row_reader import RowForm, RowReader, refuse_duplicates
from ovbench.tasks.rows import Loaded, Row
from ovbench.tasks.tables.images import Checked, Place, TablePictures, check_shard
from ovbench.tasks.tables.layouts import FoundLayout, Table
from ovbench.tasks.tables.places import Located, locate
from ovbench.tasks.tables.shards import Shard

log = logging.getLogger(__name__)
_SHOWN = 5  # faulty pictures that a message names


def load_tables(spec: TaskSpec, *, data_dir: Path | None = None, only_there: bool = False) -> Loaded:
    """Reads the questions of a published benchmark; pictures are hashed and not decoded.

    Args:
        spec: A task whose source is of type `tables`.
        data_dir: See `sources.load_data`.
        only_there: Likewise.

    Raises:
        DataError: The data are not on this machine, or a file, row or picture is damaged or missing.
    """
    return read_located(spec, locate(spec, data_dir=data_dir, only_there=only_there))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Cells:
    """One row as it is in its file."""

    shard: Shard
    row: int  # counted from 0 in the shard
    number: int  # counted from 1 over all tables of the task
    group: str
    cells: Mapping[str, Any]


def read_located(spec: TaskSpec, located: Located) -> Loaded:
    """Reads the tables that were found; see `load_tables`."""
    found = located.found
    form = RowForm.of(spec.kind, spec.source, found.layout["columns"])
    folders = picture_folders(found, located.root)
    cells = [each for each in _cells(found, form, spec) if _wanted(each.cells, spec.source["where"])]
    if not cells:
        raise DataError(f"the tables of '{spec.name}' hold no rows", where=str(located.root))
    if found.pictures is None:
        pictures = _own_pictures(cells, str(form.columns["image"]), folders)
    else:
        pictures = _joined_pictures(cells, str(form.columns["image"]), found, folders)
    rows = tuple(
        _reader(form, each).row(image_id=checked.sha256, group=each.group)
        for each, (checked, _) in zip(cells, pictures, strict=True)
    )
    refuse_duplicates(rows, str(located.root))
    _refuse_faults(rows, cells, [checked for checked, _ in pictures], spec, located.root)
    _check_release(spec, rows, located.root)
    places: dict[str, Place] = {}
    for checked, place in pictures:
        if place is not None:
            places.setdefault(checked.sha256, place)
    source = TablePictures(places=places, folders=tuple(folders))
    return Loaded(
        rows=rows,
        digest=fingerprint({"tables": spec.source["folder"]}),  # the content is in the rows: equal in every layout
        image=source,
        digest_images=source.digest,
        provenance=located.provenance(),
    )


def picture_folders(found: FoundLayout, root: Path) -> list[Path]:
    """Returns what the paths of pictures may be relative to."""
    if found.layout["images"]:
        return [root / found.layout["images"]]
    return list(dict.fromkeys([*(path.parent for table in found.tables for path in table.files), root]))


def table_shards(table: Table) -> list[Shard]:
    """Returns the files of a table."""
    return [Shard(path=path, form=table.form) for path in table.files]


def _cells(found: FoundLayout, form: RowForm, spec: TaskSpec) -> Iterator[_Cells]:
    number = 0
    for table in found.tables:
        for shard in table_shards(table):
            # A picture inside the file is not read with the other cells; a path, or the key of another table, is.
            embedded = found.pictures is None and shard.form != "jsonl"
            image = str(form.columns["image"])
            wanted = [*form.needed, *spec.source["where"]]
            if table.group and "group" in form.columns:
                wanted = [name for name in wanted if name != form.columns["group"]]
            _check_columns(shard, wanted)
            for row, cells in enumerate(shard.rows([name for name in wanted if name != image or not embedded])):
                number += 1
                yield _Cells(shard=shard, row=row, number=number, group=table.group, cells=cells)


def _check_columns(shard: Shard, wanted: Sequence[str]) -> None:
    there = shard.columns()
    for name in wanted:
        if name not in there:
            near = suggest(name, there)
            raise DataError(
                f"'{shard.path.name}' has no column '{name}'" + (f"; it has '{near}'" if near else ""),
                where=str(shard.path),
                fix=f"get the table that the task was written for; columns: {', '.join(there)}",
            )


def _wanted(cells: Mapping[str, Any], where: Mapping[str, str]) -> bool:
    return all(str(cells.get(column)) == value for column, value in where.items())


def _reader(form: RowForm, each: _Cells) -> RowReader:
    return RowReader(form=form, file=str(each.shard.path), number=each.number, cells=each.cells)


Pictured = tuple[Checked, Place | None]


def _own_pictures(cells: Sequence[_Cells], column: str, folders: Sequence[Path]) -> list[Pictured]:
    by_shard: dict[Shard, list[_Cells]] = {}
    for each in cells:
        by_shard.setdefault(each.shard, []).append(each)
    found: list[Pictured] = []
    for shard, group in by_shard.items():
        checked = check_shard(shard, column, [each.row for each in group], folders)
        found += [
            (picture, Place(shard=shard, column=column, row=each.row))
            for picture, each in zip(checked, group, strict=True)
        ]
    return found


def _joined_pictures(cells: Sequence[_Cells], key: str, found: FoundLayout, folders: Sequence[Path]) -> list[Pictured]:
    """Returns the pictures of rows that name a row of another table."""
    assert found.pictures is not None
    named, column = found.layout["pictures"]["id"], found.layout["pictures"]["image"]
    by_id: dict[str, Pictured] = {}
    for shard in table_shards(found.pictures):
        _check_columns(shard, [named, column])
        ids = [str(row[named]) for row in shard.rows([named])]
        for row, (name, checked) in enumerate(
            zip(ids, check_shard(shard, column, range(len(ids)), folders), strict=True)
        ):
            if name in by_id:
                raise DataError(f"the picture '{name}' is in the table twice", where=str(shard.path))
            by_id[name] = (checked, Place(shard=shard, column=column, row=row))
    table = ", ".join(path.name for path in found.pictures.files)
    return [
        by_id.get(str(each.cells[key]), (Checked(fault=f"'{each.cells[key]}' is missing in {table}"), None))
        for each in cells
    ]


def _refuse_faults(
    rows: Sequence[Row], cells: Sequence[_Cells], pictures: Sequence[Checked], spec: TaskSpec, root: Path
) -> None:
    faulty = [
        f"row {each.number} ({row.item_id}): {picture.fault}"
        for row, each, picture in zip(rows, cells, pictures, strict=True)
        if picture.fault
    ]
    if faulty:
        more = f"; and {len(faulty) - _SHOWN} more" if len(faulty) > _SHOWN else ""
        raise DataError(
            f"{len(faulty)} of the {len(rows)} rows of '{spec.name}' have no usable picture: "
            f"{'; '.join(faulty[:_SHOWN])}{more}",
            where=str(root),
            fix="get the files again: no question is asked about a picture that is not there",
        )


def _check_release(spec: TaskSpec, rows: Sequence[Row], root: Path) -> None:
    counts = Counter(row.group for row in rows)
    for rule in spec.source["not_rows"]:
        if counts[rule["group"]] == rule["rows"]:
            raise DataError(
                f"the group '{rule['group']}' has {rule['rows']} rows: this is the data of the task '{rule['task']}', "
                f"not of '{spec.name}'",
                where=str(root),
                fix=f"use --tasks {rule['task']}, or put the data of '{spec.name}' there",
            )
    if len(rows) != spec.source["num_rows"]:
        log.warning(
            "'%s' has %d rows here, and %d as it was published: its scores are not those of the benchmark",
            spec.name,
            len(rows),
            spec.source["num_rows"],
        )
    if doubled := [row.item_id for row in rows if len(set(row.options)) < len(row.options)]:
        log.warning(
            "%d questions of '%s' have one option twice, and either letter counts: %s",
            len(doubled),
            spec.name,
            ", ".join(doubled[:_SHOWN]),
        )


def data_files(located: Located, rows: Loaded) -> list[Path]:
    """Returns every file that a task's data are in: the tables, what describes them, and pictures beside them."""
    tables = [*located.found.tables, *([located.found.pictures] if located.found.pictures else [])]
    files = [path for table in tables for path in table.files]
    files += [path.parent / name for path in files for name in _BESIDE_ARROW if (path.parent / name).is_file()]
    assert isinstance(rows.image, TablePictures)
    folders = picture_folders(located.found, located.root)
    for place in rows.image.places.values():
        if place.shard.form == "jsonl":
            files += _picture_files(place, folders)
    return list(dict.fromkeys(files))


_BESIDE_ARROW = ("state.json", "dataset_info.json")


def _picture_files(place: Place, folders: Sequence[Path]) -> list[Path]:
    cell = next(place.shard.cells(place.column, place.row))
    path = cell.get("path") if isinstance(cell, Mapping) else cell
    found = [folder / str(path) for folder in folders if path and (folder / str(path)).is_file()]
    return found[:1]
