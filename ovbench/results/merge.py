"""Runs of several sites in one folder: copied whole, the same ones once, conflicts named and refused."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ovbench._base.errors import ConfigError, RecordError
from ovbench._base.files import atomic_dir, folder_lock, writing
from ovbench._base.fingerprint import file_sha256
from ovbench.results.store import RECORD, RunStore, read_record
from ovbench.results.survey import Fault, believed


@dataclass(frozen=True, kw_only=True, slots=True)
class Merged:
    """What a merge did."""

    copied: tuple[str, ...]  # run ids
    skipped: tuple[str, ...]  # why, one line each
    faults: tuple[Fault, ...]  # runs that cannot be believed and were left where they are


def merge_runs(sources: Sequence[Path], out: Path) -> Merged:
    """Copies the runs of folders into one; nothing is written if two of them contradict each other.

    Args:
        sources: Folders of run records.
        out: Where they come together; its own runs stay and take part.

    Raises:
        ConfigError: A source is missing, or is the target itself.
        RecordError: Two runs of one id with different content; all are named.
    """
    for source in sources:
        if not source.is_dir():
            raise ConfigError(f"no such folder '{source}'", where="ovbench merge", fix="name folders of run records")
        if source.resolve() == out.resolve():
            raise ConfigError(f"'{source}' is the target itself", where="--out", fix="choose another folder with --out")
    with folder_lock(out, purpose="run or merge"):
        return _merge(sources, out)


def _merge(sources: Sequence[Path], out: Path) -> Merged:
    ids: dict[str, Path] = {}  # run id → the folder that holds it
    results: dict[str, str] = {}  # fingerprint → run id
    for folder in RunStore(out).folders():
        record = read_record(folder / RECORD)  # Contract: nothing is added to a folder that cannot be read
        ids[record.run_id], results[record.fingerprint] = folder, record.run_id
    copies: list[tuple[Path, str]] = []
    skipped: list[str] = []
    conflicts: list[str] = []
    faults: list[Fault] = []
    for source in sources:
        for folder in RunStore(source).folders():
            record = believed(folder / RECORD, faults)
            if record is None:
                continue
            known = ids.get(record.run_id)
            if known is not None:
                if differing := _differing(known, folder):
                    conflicts.append(f"{known} and {folder} differ in {', '.join(differing)}")
                else:
                    skipped.append(f"{folder}: the same as {known}")
            elif record.fingerprint in results:
                skipped.append(f"{folder}: ran the same as {results[record.fingerprint]}, with the same scores")
            else:
                ids[record.run_id], results[record.fingerprint] = folder, record.run_id
                copies.append((folder, record.run_id))
    if conflicts:
        raise RecordError(
            f"{len(conflicts)} run id(s) have two contents; nothing was merged",
            where="; ".join(conflicts),
            fix="find out which is right and move the other folder away",
        )
    for folder, run_id in copies:
        with atomic_dir(out / run_id) as temporary, writing(out / run_id):
            shutil.copytree(folder, temporary, dirs_exist_ok=True)
    return Merged(copied=tuple(run_id for _, run_id in copies), skipped=tuple(skipped), faults=tuple(faults))


def _differing(one: Path, two: Path) -> list[str]:
    """Returns the files in which two run folders differ."""
    files = [{path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()} for folder in (one, two)]
    first, second = files
    return sorted(
        str(name)
        for name in first.keys() | second.keys()
        if name not in first or name not in second or file_sha256(first[name]) != file_sha256(second[name])
    )
