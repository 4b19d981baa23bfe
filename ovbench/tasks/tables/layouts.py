"""Which files of a folder are the tables of a task. Looks at names alone and opens nothing.

A table is one split of one configuration: `<config>/<split>-00000-of-00003.parquet` and its fellows (`data/…` or the
folder itself for the configuration `default`), the folder that `save_to_disk` of the library datasets wrote, or
`<split>.jsonl` with its pictures beside it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from ovbench._base.errors import DataError
from ovbench._base.files import read_json

Form = Literal["parquet", "arrow", "jsonl"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """The files of one table, in the order of its rows."""

    files: tuple[Path, ...]
    form: Form
    group: str = ""  # of all its rows; empty: a column says it


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundLayout:
    """One of a source's layouts, with the files that are there."""

    layout: Mapping[str, Any]  # as in the source
    tables: tuple[Table, ...]
    pictures: Table | None  # the table that the pictures are in, where it is another


def find_layout(source: Mapping[str, Any], root: Path) -> FoundLayout | None:
    """Returns the first layout of a source whose tables are all below `root`, or None.

    Raises:
        DataError: Some shards of a table are there and others are not.
    """
    for layout in source["layouts"]:
        tables = [_find(root, entry) for entry in layout["tables"]]
        pictures = _find(root, layout["pictures"]) if layout["pictures"] else None
        if all(tables) and (pictures or not layout["pictures"]):
            return FoundLayout(layout=layout, tables=tuple(table for table in tables if table), pictures=pictures)
    return None


def hub_files(source: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """Returns the files of a repository that hold the first layout of a source that is whole there.

    Args:
        source: The source.
        names: Every file of the repository.
    """
    names = list(names)
    for layout in source["layouts"]:
        entries = [*layout["tables"], *([layout["pictures"]] if layout["pictures"] else [])]
        if any("file" in entry for entry in entries):
            continue  # those are not on the hub
        found = [_shards(entry, names) for entry in entries]
        if all(found):
            return [name for shards in found for name in shards]
    return []


def expected(source: Mapping[str, Any]) -> str:
    """Returns what a folder would have to hold, for messages: the patterns of each layout."""
    ways = []
    for layout in source["layouts"]:
        entries = [*layout["tables"], *([layout["pictures"]] if layout["pictures"] else [])]
        parts = [
            entry["file"] if "file" in entry else f"{_folders(entry['config'])[0]}{entry['split']}-*.parquet"
            for entry in entries
        ]
        ways.append(" + ".join([*parts, *([f"{layout['images']}/"] if layout["images"] else [])]))
    return ", or ".join(ways)


def _folders(config: str) -> tuple[str, ...]:
    return ("data/", "", "default/") if config == "default" else (f"{config}/",)


def _find(root: Path, entry: Mapping[str, str]) -> Table | None:
    group = entry.get("group", "")
    if "file" in entry:
        path = root / entry["file"]
        return Table(files=(path,), form="jsonl", group=group) if path.is_file() else None
    for folder in _folders(entry["config"]):
        place = root / folder
        if not place.is_dir():
            continue
        names = [f"{folder}{path.name}" for path in sorted(place.glob(f"{entry['split']}*.parquet"))]
        if shards := _shards(entry, names):
            return Table(files=tuple(root / name for name in shards), form="parquet", group=group)
        if files := _arrow_files(place / entry["split"]):
            return Table(files=files, form="arrow", group=group)
        if (lines := place / f"{entry['split']}.jsonl").is_file():
            return Table(files=(lines,), form="jsonl", group=group)
    return None


def _shards(entry: Mapping[str, str], names: Iterable[str]) -> list[str]:
    """Returns the shards of a table among names, in order; none where there is none.

    Raises:
        DataError: Shards are missing, or there are those of two versions.
    """
    split = re.escape(entry["split"])
    pattern = re.compile(rf"{split}(-(?P<place>\d+)-of-(?P<count>\d+)(-[0-9a-f]+)?)?\.parquet")
    for folder in _folders(entry["config"]):
        inside = [PurePosixPath(name) for name in names if f"{PurePosixPath(name).parent}/" == (folder or "./")]
        matches = {path: match for path in inside if (match := pattern.fullmatch(path.name))}
        if not matches:
            continue
        if len(matches) == 1 and next(iter(matches.values()))["count"] is None:
            return [str(path) for path in matches]
        counts = {match["count"] for match in matches.values()}
        places = sorted(int(match["place"] or -1) for match in matches.values())
        if len(counts) != 1 or None in counts or places != list(range(int(next(iter(counts))))):
            there = ", ".join(sorted(path.name for path in matches))
            raise DataError(
                f"the split '{entry['split']}' is not whole: {len(matches)} of its files are there, "
                f"of {' or '.join(sorted(str(int(count or 1)) for count in counts))}",
                where=f"{folder}: {there}",
                fix="get the missing files, and leave no files of another version beside them",
            )
        return [str(path) for path in sorted(matches, key=lambda path: int(matches[path]["place"]))]
    return []


def _arrow_files(folder: Path) -> tuple[Path, ...]:
    """Returns the files of a data set that `save_to_disk` wrote, in order."""
    if not (folder / "state.json").is_file():
        return ()
    state = read_json(folder / "state.json")
    names = [entry.get("filename") for entry in state.get("_data_files") or []] if isinstance(state, dict) else []
    files = tuple(folder / str(name) for name in names)
    if not files or state.get("_indices_data_files"):
        raise DataError(
            "the saved data set is a selection, or lists no files", where=str(folder / "state.json"),
            fix="save it again: dataset.flatten_indices().save_to_disk(…)",
        )  # fmt: skip
    if missing := [path.name for path in files if not path.is_file()]:
        raise DataError(f"the file '{missing[0]}' of the saved data set is missing", where=str(folder))
    return files
