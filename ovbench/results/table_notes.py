"""What stands below a table of pictures: decoders, seeds that change nothing, and what the runs warned of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ovbench.results.record import RunRecord

if TYPE_CHECKING:
    from ovbench.results.table import Row

_DECODERS = {
    "native": "the encoder's own",
    "rae": "RAE's, trained on the encoder's tokens",
    "rae, given": "RAE's, given",
}


def notes_of(records: Sequence[RunRecord], rows: Sequence[Row]) -> tuple[str, ...]:
    """Returns the notes of a table of pictures; none for other tables.

    Args:
        records: Those that the rows were made of.
        rows: Of the table.
    """
    return (*_decoders(rows), *_seeds(records, rows), *_sweep(rows), *_warnings(records))


def _decoders(rows: Sequence[Row]) -> list[str]:
    by_decoder: dict[str, list[str]] = {}
    for row in rows:
        if row.decoder and row.label not in by_decoder.setdefault(row.decoder, []):
            by_decoder[row.decoder].append(row.label)
    if not by_decoder or set(by_decoder) == {"rae"}:
        return []
    words = [f"{_DECODERS.get(name, name)}: {', '.join(sorted(by_decoder[name]))}" for name in sorted(by_decoder)]
    mixed = "; a difference between rows of different decoders is not of encoders alone" if len(by_decoder) > 1 else ""
    return [f"pictures were decoded by: {'; '.join(words)}{mixed}"]


def _seeds(records: Sequence[RunRecord], rows: Sequence[Row]) -> list[str]:
    notes: list[str] = []
    for row in rows:
        seeds = {record.seed for record in records if record.run_id in row.run_ids}
        if len(seeds) > len(row.seeds):
            notes.append(f"{row.label}: no seed changes its pictures, so its {len(seeds)} seeds count once")
    return notes


def _sweep(rows: Sequence[Row]) -> list[str]:
    if not any(row.guidance for row in rows):
        return []
    return ["the best of several guidances was chosen by the score itself: do not compare it with one that was not"]


# Of runs of questions the others are about speed and controls.
_OF_SCORES = ("not the benchmark's scores", "rows were left out", "the gate")


def _warnings(records: Sequence[RunRecord]) -> list[str]:
    """Returns what the runs warned of that a score rests on, once each, with the encoders where not all did."""
    found: dict[str, list[str]] = {}
    encoders = sorted({record.encoder.spec for record in records})
    for record in records:
        for warning in record.warnings:
            if record.suite == "understanding" and not any(words in warning for words in _OF_SCORES):
                continue
            if record.encoder.spec not in found.setdefault(warning, []):
                found[warning].append(record.encoder.spec)
    return [
        warning if len(names) == len(encoders) else f"{', '.join(sorted(names))}: {warning}"
        for warning, names in found.items()
    ]
