"""Run folders: `<root>/<run_id>/` with `config.json`, `samples.parquet`, `record.json` and pictures; written once."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovbench._base.errors import RecordError
from ovbench._base.files import atomic_dir, to_json, writing
from ovbench._base.fingerprint import canonical_json, fingerprint
from ovbench._base.names import suggest
from ovbench.results.record import RunRecord, TaskRecord

if TYPE_CHECKING:
    import pandas

log = logging.getLogger(__name__)
RECORD, CONFIG, SAMPLES = "record.json", "config.json", "samples.parquet"
SAMPLE_COLUMNS = (
    "task", "control", "item_id", "image_id", "group", "question", "answer", "raw", "parsed", "chosen", "correct",
    "options", "option_scores", "answers", "extra", "score",
)  # fmt: skip
# Columns that older files lack → what they hold then. `extra` is stored as JSON text and read as a mapping.
_ADDED: Mapping[str, Any] = {"answers": (), "extra": "{}", "score": None}


class RunStore:
    """The folder of run records.

    Args:
        root: The folder; it need not exist to be read.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def keep(
        self, record: RunRecord, rows: Sequence[Mapping[str, Any]], files: Mapping[str, Path] | None = None
    ) -> RunRecord:
        """Stores a record with its per-question rows; one that is there already is returned instead.

        Two records are the same when they ran the same thing and got the same scores; time and machine do not count.

        Args:
            record: From `RunRecord.new`.
            rows: One mapping per question with exactly the keys `SAMPLE_COLUMNS`; none for suites of pictures.
            files: Name in the folder → file that is copied there, such as a sheet of samples.

        Raises:
            RecordError: Rows with missing or unknown keys, or a run folder of that name that holds something else.
            ConfigError: The folder cannot be written.
        """
        for row in rows:
            if wrong := set(row) ^ set(SAMPLE_COLUMNS):
                raise RecordError(f"per-question rows with missing or unknown columns: {', '.join(sorted(wrong))}")
        for old in self.records():
            if old.fingerprint == record.fingerprint:
                return old
        folder = self.root / record.run_id
        if folder.exists():
            raise RecordError(
                f"the run folder '{record.run_id}' exists and holds another run",
                where=str(folder),
                fix="run folders are never edited: move it away, or choose another folder with --out",
            )
        with atomic_dir(folder) as temporary, writing(folder):
            (temporary / CONFIG).write_text(to_json(config_of(record)), encoding="utf-8")
            if rows or not files:
                write_samples(rows, temporary / SAMPLES)
            for name, path in (files or {}).items():
                shutil.copyfile(path, temporary / name)
            (temporary / RECORD).write_text(record.to_json(), encoding="utf-8")  # Contract: last
        return record

    def records(self) -> list[RunRecord]:
        """Returns every record, oldest first; a folder without `record.json` is skipped with a warning.

        Raises:
            RecordError: A damaged record, or one of a newer schema; the message names the file.
        """
        return sorted((read_record(folder / RECORD) for folder in self.folders()), key=_age)

    def folders(self) -> list[Path]:
        """Returns the folders that hold a record, by name; one without `record.json` is skipped with a warning."""
        if not self.root.is_dir():
            return []
        found: list[Path] = []
        for folder in sorted(self.root.iterdir()):
            if not folder.is_dir() or folder.name.startswith("."):
                continue
            if not (folder / RECORD).is_file():
                log.warning("skipped %s: it has no %s, so its run did not end", folder, RECORD)
                continue
            found.append(folder)
        return found

    def record(self, run_id: str) -> RunRecord:
        """Returns the record of a run.

        Raises:
            RecordError: No such run (with a suggestion), or a damaged record.
        """
        path = self.root / run_id / RECORD
        if Path(run_id).name != run_id or not path.is_file():
            near = suggest(run_id, [record.run_id for record in self.records()])
            raise RecordError(
                f"unknown run '{run_id}'",
                where=str(self.root),
                fix=(f"did you mean '{near}'? " if near else "") + "all runs: ovbench runs",
            )
        return read_record(path)

    def newest(self) -> list[RunRecord]:
        """Returns the newest complete record of each kind (see the function `newest`), oldest first."""
        return newest(self.records())

    def samples(self, run_id: str) -> pandas.DataFrame:
        """Returns the per-question outcomes of a run, columns `SAMPLE_COLUMNS`; those of older runs too.

        Raises:
            RecordError: No such run, or its file of outcomes is missing or damaged.
        """
        import pandas

        self.record(run_id)
        path = self.root / run_id / SAMPLES
        try:
            frame = pandas.read_parquet(path)
            for name, value in _ADDED.items():
                if name not in frame.columns:
                    frame[name] = [value] * len(frame)
            frame["extra"] = [json.loads(text) for text in frame["extra"]]
        except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors, and so are json's
            raise RecordError(f"'{SAMPLES}' cannot be read: {error}", where=str(path)) from error
        return frame


def _age(record: RunRecord) -> tuple[str, str]:
    return record.finished_utc, record.run_id


def read_record(path: Path) -> RunRecord:
    """Reads one `record.json`; raises RecordError as `RunRecord.from_json` does."""
    return RunRecord.from_json(record_text(path), where=str(path))


def record_text(path: Path) -> str:
    """Returns the text of a `record.json`; raises RecordError where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"'{path.name}' cannot be read: {error}", where=str(path)) from error


def newest(records: Iterable[RunRecord]) -> list[RunRecord]:
    """Returns the newest complete record per encoder, dtype, protocol, suite, tasks, seed and limit; oldest first.

    Pictures that were made in another way, by other given weights say, or in another number are no older ones of these.
    """
    kept: dict[tuple[Any, ...], RunRecord] = {}
    for record in sorted(records, key=_age):
        if not record.complete:
            log.warning(
                "left out of tables: %s did not score every task (%s)", record.run_id, "; ".join(record.warnings)
            )
            continue
        protocol, tasks = record.protocol, tuple(sorted(_kind_of(record, task) for task in record.tasks))
        dtype = record.environment.dtype
        given = fingerprint(protocol.content.get("given"))  # weights that the protocol did not make
        key = (record.encoder.spec, dtype, protocol.label, given, record.suite, tasks, record.seed, record.limit)
        kept[key] = record
    return sorted(kept.values(), key=_age)


def _kind_of(record: RunRecord, task: TaskRecord) -> tuple[str, int, str, int]:
    pictures = record.suite != "understanding"
    return task.name, task.version, task.scorer if pictures else "", task.n if pictures else 0


def config_of(record: RunRecord) -> dict[str, Any]:
    """Returns the resolved settings of a run, as `config.json` holds them."""
    document = record.to_dict()
    environment = document["environment"]
    return {
        "encoder": record.encoder.spec,
        "suite": record.suite,
        "protocol": document["protocol"],
        "tasks": [{"name": task.name, "version": task.version} for task in record.tasks],
        "limit": record.limit,
        "seed": record.seed,
        "device": environment["device"],
        "dtype": environment["dtype"],
        "num_threads": environment["num_threads"],
    }


def write_samples(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Writes per-question rows with the keys `SAMPLE_COLUMNS` as Parquet."""
    import pyarrow
    import pyarrow.parquet

    kinds = {
        "correct": pyarrow.bool_(),
        "options": pyarrow.list_(pyarrow.string()),
        "option_scores": pyarrow.list_(pyarrow.float64()),
        "answers": pyarrow.list_(pyarrow.string()),
        "score": pyarrow.float64(),
    }
    schema = pyarrow.schema([(name, kinds.get(name, pyarrow.string())) for name in SAMPLE_COLUMNS])
    plain = [
        {
            **row,
            "option_scores": None if row["option_scores"] is None else list(row["option_scores"]),
            "answers": list(row["answers"]),
            "extra": canonical_json(dict(row["extra"])),
        }
        for row in rows
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(plain, schema=schema), path)
