"""Run folders: each holds `config.json`, `samples.parquet` and, written last, `record.json`. None is ever edited."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovbench._base.errors import DataError, RecordError
from ovbench._base.files import atomic_write_bytes, atomic_write_text, make_dir, write_json
from ovbench._base.names import suggest
from ovbench.results.record import RunRecord, read_record, to_json

if TYPE_CHECKING:
    import pandas
    import pyarrow

_log = logging.getLogger(__name__)
_RECORD, _SAMPLES, _CONFIG = "record.json", "samples.parquet", "config.json"

# Columns of samples.parquet: one row per question and control. docs/records.md describes them.
_TEXT = ("task", "control", "item_id", "image_id", "group", "question", "answer", "raw", "parsed", "chosen")
_COLUMNS = (*_TEXT[:6], "options", *_TEXT[6:], "option_scores", "correct")


def _schema() -> pyarrow.Schema:
    import pyarrow

    kinds: dict[str, pyarrow.DataType] = dict.fromkeys(_TEXT, pyarrow.string())
    kinds["options"] = pyarrow.list_(pyarrow.string())
    kinds["option_scores"] = pyarrow.list_(pyarrow.float64())
    kinds["correct"] = pyarrow.bool_()
    return pyarrow.schema([(name, kinds[name]) for name in _COLUMNS])


def newest_first(records: Sequence[RunRecord]) -> list[RunRecord]:
    """Returns records from the newest to the oldest, ties by run id: the same order on every machine."""
    return sorted(records, key=lambda record: (record.finished_utc, record.run_id), reverse=True)


class RunStore:
    """The run folders below one folder.

    Args:
        root: Folder that holds one folder per run; it need not exist yet.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, record: RunRecord, items: Sequence[Mapping[str, Any]]) -> Path:
        """Stores a run and returns its folder; `record.json` is written last, so its presence means all is there.

        Args:
            record: The record; its run id names the folder.
            items: One row per question and control, with the columns of docs/records.md; a missing column is null.

        Raises:
            RecordError: The folder holds a record already.
            ConfigError: The folder cannot be written.
            ValueError: A row has an unknown column, or the record holds a NaN.
        """
        if unknown := sorted({name for row in items for name in row} - set(_COLUMNS)):
            raise ValueError(f"unknown column '{unknown[0]}' of the per-question rows; known: {', '.join(_COLUMNS)}")
        folder = self.root / record.run_id
        if (folder / _RECORD).exists():
            raise RecordError(
                f"the run '{record.run_id}' has a record, and a run folder is never edited",
                where=str(folder),
                fix="make a new run; a correction is a new run",
            )
        text = to_json(record)  # before anything is written: a record that cannot be stored leaves no folder
        make_dir(folder)
        write_json(folder / _CONFIG, _config(record))
        atomic_write_bytes(folder / _SAMPLES, _parquet(items))
        atomic_write_text(folder / _RECORD, text)
        return folder

    def keep(self, record: RunRecord, items: Sequence[Mapping[str, Any]]) -> RunRecord:
        """Stores a run unless a stored one says exactly the same, and returns the stored one.

        Two records say the same when `RunRecord.result_key` agrees: same question, same steps, same scores. A repeated
        command therefore leaves no second folder.
        """
        key = record.result_key()
        for known in newest_first(list(self.records())):
            if known.result_key() == key:
                _log.info("already stored: %s", known.run_id)
                return known
        self.write(record, items)
        return record

    def records(self) -> Iterator[RunRecord]:
        """Yields every record, oldest run id first; a folder without `record.json` is named in a warning and left out.

        Raises:
            RecordError: A record has a newer schema or is damaged.
        """
        if not self.root.is_dir():
            return
        for folder in sorted(path for path in self.root.iterdir() if path.is_dir() and not path.name.startswith(".")):
            if not (folder / _RECORD).is_file():
                _log.warning("left out: %s has no %s (the run was interrupted or is still going on)", folder, _RECORD)
                continue
            yield read_record(folder / _RECORD)

    def record(self, run_id: str) -> RunRecord:
        """Returns one record.

        Raises:
            RecordError: There is no such run, or its record cannot be read.
        """
        path = self.root / run_id / _RECORD
        if run_id in ("", ".", "..") or "/" in run_id or not path.is_file():
            names = self._run_ids()
            near = suggest(run_id, names)
            raise RecordError(
                f"there is no finished run '{run_id}'",
                where=str(self.root),
                fix=(f"did you mean '{near}'? " if near else "") + "All runs: ovbench runs",
            )
        return read_record(path)

    def newest(self) -> list[RunRecord]:
        """Returns the newest complete record per encoder, protocol, suite, tasks, seed and limit, newest first."""
        kept: dict[object, RunRecord] = {}
        for record in newest_first(list(self.records())):
            if record.complete:
                kept.setdefault(_question(record), record)
        return list(kept.values())

    def samples(self, run_id: str) -> pandas.DataFrame:
        """Returns the per-question outcomes of a run, one row per question and control.

        Raises:
            DataError: The file is missing or damaged.
        """
        import pyarrow
        import pyarrow.parquet

        path = self.root / run_id / _SAMPLES
        try:
            return pyarrow.parquet.read_table(path).to_pandas()
        except (OSError, pyarrow.ArrowInvalid) as error:
            raise DataError(
                f"the per-question outcomes cannot be read: {error}",
                where=str(path),
                fix="remove that run folder; the same command makes the run again from the cache",
            ) from error

    def _run_ids(self) -> list[str]:
        return [path.parent.name for path in self.root.glob(f"*/{_RECORD}")]


def _question(record: RunRecord) -> object:
    tasks = tuple(sorted((task.name, task.version) for task in record.tasks))
    protocol = (record.protocol.name, record.protocol.version)
    return record.encoder.spec, protocol, record.suite, tasks, record.seed, record.limit


def _config(record: RunRecord) -> dict[str, Any]:
    """What the run was asked to do, resolved, no default hidden."""
    return {
        "encoder": record.encoder.spec,
        "suite": record.suite,
        "tasks": [{"name": task.name, "version": task.version, "scorer": task.scorer} for task in record.tasks],
        "protocol": dict(record.protocol.content),
        "seed": record.seed,
        "limit": record.limit,
        "device": record.environment.device,
        "dtype": record.environment.dtype,
        "threads": record.environment.threads,
    }


def _parquet(items: Sequence[Mapping[str, Any]]) -> bytes:
    import pyarrow
    import pyarrow.parquet

    rows = [{name: row.get(name) for name in _COLUMNS} for row in items]
    stream = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=_schema()), stream, compression="zstd")
    return stream.getvalue()
