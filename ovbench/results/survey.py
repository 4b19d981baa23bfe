"""Reads a folder of runs as far as it can be read: what is damaged is named, and the rest still comes out.

`RunStore.records` is strict and stops at the first fault, which is right before a run; a table wants this instead.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from ovbench._base.errors import RecordError
from ovbench.results.record import RunRecord, parse, stored_fingerprint
from ovbench.results.store import RECORD, SAMPLES, RunStore, record_text

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
        record = believed(folder / RECORD, faults)
        if record is not None:
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


def believed(path: Path, faults: list[Fault]) -> RunRecord | None:
    """Returns a record; None, with a fault added, where it is damaged or was changed after the run.

    A run id ends with 8 digits of the digest of the content. They show a slip of the hand; someone who recomputes them
    goes unseen.
    """
    try:
        document = parse(record_text(path), where=str(path))
        record = RunRecord.from_document(document, where=str(path))
    except RecordError as error:
        faults.append(Fault(where=error.where or str(path), what=error.what))
        return None
    digits, digest = record.run_id.rpartition("-")[2], stored_fingerprint(document)
    if digits and digest.startswith(digits):
        return record
    what = (
        f"the content of run '{record.run_id}' has the digest {digest[:8]}, its id says {digits or 'none'}: "
        "it was changed after the run"
    )
    faults.append(Fault(where=str(path), what=what))
    return None


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
