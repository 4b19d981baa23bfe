"""Reads a folder of runs as far as it can be read: what is damaged is named, and the rest still comes out.

`RunStore.records` is strict and stops at the first fault, which is right before a run; a table wants this instead.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from ovbench._base.errors import RecordError
from ovbench._base.fingerprint import fingerprint
from ovbench.results.record import RunRecord
from ovbench.results.schema import ADDED_TO_ENCODERS_BY_2
from ovbench.results.store import RECORD, SAMPLES, RunStore, read_record

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """Something in the folder that cannot be believed, or not wholly."""

    where: str
    what: str
    left_out: bool = True  # False: the record stays in tables, and something beside it is missing

    def __str__(self) -> str:
        return f"{'left out' if self.left_out else 'incomplete'}: {self.what} ({self.where})"


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """What a folder of runs holds."""

    records: tuple[RunRecord, ...]  # oldest first
    faults: tuple[Fault, ...]


def survey(store: RunStore) -> Survey:
    """Returns every record that can be believed, and what is wrong with the others; raises nothing for a bad record."""
    read: list[tuple[Path, RunRecord]] = []
    faults: list[Fault] = []
    for folder in store.folders():
        path = folder / RECORD
        try:
            record = read_record(path)
        except RecordError as error:
            faults.append(Fault(where=error.where or str(path), what=error.what))
            continue
        if not unedited(record):
            faults.append(
                Fault(
                    where=str(path),
                    what=f"the content of run '{record.run_id}' has the digest {record.fingerprint[:8]}, its id says "
                    f"{record.run_id.rpartition('-')[2]}: it was changed after the run",
                )
            )
            continue
        read.append((folder, record))
    kept, doubled = _once_each(read)
    faults += doubled
    for folder, record in kept:
        if record.suite == "understanding" and not (folder / SAMPLES).is_file():
            what = f"run '{record.run_id}' has no {SAMPLES}: its answers cannot be compared in pairs or looked at"
            faults.append(Fault(where=str(folder), what=what, left_out=False))
    records = sorted((record for _, record in kept), key=lambda item: (item.finished_utc, item.run_id))
    return Survey(records=tuple(records), faults=tuple(faults))


def said(found: Survey) -> Survey:
    """Logs each fault as a warning and returns the survey."""
    for fault in found.faults:
        log.warning("warning: %s", fault)
    return found


def unedited(record: RunRecord) -> bool:
    """Whether a record's content still has the digest that its run id ends with.

    The id holds 8 of the digest's digits: it shows a slip of the hand; someone who recomputes it goes unseen.
    """
    digits = record.run_id.rpartition("-")[2]
    if record.fingerprint[: len(digits)] == digits:
        return True
    encoder = {key: value for key, value in record.identity["encoder"].items() if key not in ADDED_TO_ENCODERS_BY_2}
    return fingerprint({**record.identity, "encoder": encoder})[: len(digits)] == digits  # made in schema 1


def _once_each(read: list[tuple[Path, RunRecord]]) -> tuple[list[tuple[Path, RunRecord]], list[Fault]]:
    """Keeps one record per run id: copies count once, and where they differ nobody knows which is right."""
    claims: dict[str, list[tuple[Path, RunRecord]]] = {}
    for folder, record in read:
        claims.setdefault(record.run_id, []).append((folder, record))
    kept: list[tuple[Path, RunRecord]] = []
    faults: list[Fault] = []
    for run_id, claimed in claims.items():
        names = ", ".join(folder.name for folder, _ in claimed)
        if len(claimed) == 1:
            kept += claimed
        elif all(record == claimed[0][1] for _, record in claimed):
            own = next((entry for entry in claimed if entry[0].name == run_id), claimed[0])
            kept.append(own)
            what = f"run '{run_id}' is here {len(claimed)} times, counted once"
            faults.append(Fault(where=f"{own[0].parent}: {names}", what=what))
        else:
            what = f"{len(claimed)} different records claim the run id '{run_id}'"
            faults.append(Fault(where=f"{claimed[0][0].parent}: {names}", what=what))
    return kept, faults
