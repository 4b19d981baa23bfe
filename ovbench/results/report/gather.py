"""Which runs a report is of: records of one or several folders, and what about them cannot be used."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ovbench._base.errors import RecordError
from ovbench._base.names import suggest
from ovbench.results.record import RunRecord
from ovbench.results.schema import SCHEMA_VERSION
from ovbench.results.store import RECORD


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A record, and the folder of its run."""

    record: RunRecord
    folder: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Gathered:
    """The runs of a report."""

    runs: tuple[Run, ...]  # every readable one that was asked for, oldest first; incomplete ones too
    compared: tuple[Run, ...]  # those that may stand in tables
    faults: tuple[str, ...]  # what could not be used, and why; shown on the page

    def folder(self, run_id: str) -> Path | None:
        """Returns the folder of a run."""
        return next((run.folder for run in self.runs if run.record.run_id == run_id), None)


def gather(
    roots: Sequence[Path],
    *,
    suite: str | None = None,
    protocol: str | None = None,
    run_ids: Sequence[str] = (),
) -> Gathered:
    """Returns the runs below some folders; one that cannot be read becomes a fault, and the rest still comes out.

    Args:
        roots: Folders of run records.
        suite: Only this suite; None: all.
        protocol: Only this protocol, by name; None: all.
        run_ids: Only these runs; none: all. Untrained weights are compared only where a run is named.

    Raises:
        RecordError: There is nothing to report, or a run that was named is not there.
    """
    faults: list[str] = []
    folders = [folder for root in roots for folder in _folders(root, faults)]
    by_id = _once_each([run for folder in folders if (run := _read(folder, faults)) is not None], faults)
    where = ", ".join(str(root) for root in roots)
    for run_id in run_ids:
        if run_id not in by_id:
            near = suggest(run_id, list(by_id))
            hint = f"did you mean '{near}'? " if near else ""
            raise RecordError(f"unknown run '{run_id}'", where=where, fix=f"{hint}All runs: ovbench runs")
    wanted = [
        run
        for run in by_id.values()
        if suite in (None, run.record.suite)
        and protocol in (None, run.record.protocol.name)
        and (not run_ids or run.record.run_id in run_ids)
    ]
    if not wanted:
        raise _nothing(by_id, faults, where, suite, protocol)
    runs = tuple(sorted(wanted, key=lambda run: (run.record.finished_utc, run.record.run_id)))
    compared = tuple(run for run in runs if run.record.complete and (run_ids or not run.record.encoder.untrained))
    return Gathered(runs=runs, compared=compared, faults=tuple(dict.fromkeys(faults)))


def _folders(root: Path, faults: list[str]) -> list[Path]:
    if not root.is_dir():
        return []
    found: list[Path] = []
    for folder in sorted(root.iterdir()):
        if not folder.is_dir() or folder.name.startswith("."):
            continue
        if (folder / RECORD).is_file():
            found.append(folder)
        else:
            faults.append(f"{folder.name}: left out: it has no {RECORD}, so its run did not end")
    return found


def _read(folder: Path, faults: list[str]) -> Run | None:
    try:
        text = (folder / RECORD).read_text(encoding="utf-8")
        record = RunRecord.from_json(text, where=f"{folder.name}/{RECORD}")
    except (OSError, UnicodeDecodeError) as error:
        faults.append(f"{folder.name}: left out: {RECORD} cannot be read: {type(error).__name__}")
        return None
    except RecordError as error:
        faults.append(f"{folder.name}: left out: {error.what}")
        return None
    if _was_edited(text, record):
        digest = record.fingerprint[:8]
        faults.append(f"{folder.name}: left out: its content was changed after the run, its digest is {digest}")
        return None
    return Run(record=record, folder=folder)


def _was_edited(text: str, record: RunRecord) -> bool:
    """Whether a record of the newest schema no longer has the content that its run id was made of.

    Records of older schemas are migrated when they are read, which changes the fingerprint, so they say nothing.
    """
    made = json.loads(text)["schema_version"]
    return made == SCHEMA_VERSION and record.run_id.rpartition("-")[2] != record.fingerprint[:8]


def _once_each(read: Sequence[Run], faults: list[str]) -> dict[str, Run]:
    """Returns run id → run; copies count once, and where two differ nobody knows which is right."""
    claims: dict[str, list[Run]] = {}
    for run in read:
        claims.setdefault(run.record.run_id, []).append(run)
    for run_id, claimed in claims.items():
        if any(run.record != claimed[0].record for run in claimed):
            names = ", ".join(f"{run.folder.parent.name}/{run.folder.name}" for run in claimed)
            faults.append(f"{run_id}: left out: {len(claimed)} different records claim this run id ({names})")
    return {
        run_id: claimed[0]
        for run_id, claimed in claims.items()
        if all(run.record == claimed[0].record for run in claimed)
    }


def _nothing(
    by_id: dict[str, Run], faults: Sequence[str], where: str, suite: str | None, protocol: str | None
) -> RecordError:
    if not by_id:
        about = f"; {len(faults)} folder(s) cannot be used: {faults[0]}" if faults else ""
        return RecordError(f"there is no run to report{about}", where=where, fix="run: ovbench run --encoder ovis3")
    asked = [f"--suite {suite}"] if suite else []
    asked += [f"--protocol {protocol}"] if protocol else []
    kinds = sorted({f"--suite {run.record.suite} --protocol {run.record.protocol.name}" for run in by_id.values()})
    return RecordError(f"no run has {' '.join(asked)}", where=where, fix=f"there are runs with: {'; '.join(kinds)}")
