"""Stored answers under other programs' scoring: what the choice of protocol is worth. Changes no record."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ovbench._base.errors import ConfigError, DataError, RecordError
from ovbench._base.names import lookup, unknown
from ovbench.harness.metrics.protocol_base import Answered, Read, ScoringProtocol
from ovbench.harness.metrics.protocols import PROTOCOLS, protocol_names
from ovbench.results.record import CONTROLS, MAIN, MetricValue, RunRecord, TaskRecord
from ovbench.results.store import RECORD, RunStore
from ovbench.tasks.base import Sample

OURS = "ovbench"  # stands where a protocol's name would, in the rows of our own headline
_WORDS = "option_text"  # the parser of tasks whose prompt shows no letters


@dataclass(frozen=True, kw_only=True, slots=True)
class ProtocolScore:
    """One number of one program, beside ours."""

    task: str
    control: str
    protocol: str  # `ovbench`: our own headline, as the record has it
    metric: str  # under the program's own name
    value: float | None  # None: see `reason`
    unit: str
    n: int  # answers
    ours: str  # our metric that is quoted for the same, e.g. `f1` or `pope_f1_mean`; empty: none
    our_value: float | None
    difference: float | None  # value - our_value
    headline: bool  # the number that the program's users quote
    num_read_otherwise: int | None  # answers in which the program reads something else than we do
    how: str  # how it reads and adds up
    citation: str
    reason: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Rescored:
    """A run's stored answers under several protocols."""

    run_id: str
    encoder: str
    scores: tuple[ProtocolScore, ...]

    def rows(self) -> list[dict[str, Any]]:
        """Returns one plain mapping per number, with the run it belongs to."""
        return [{"run": self.run_id, "encoder": self.encoder, **asdict(score)} for score in self.scores]


def rescore(
    run: str, protocol: str | None = None, *, out: Path, task: str | None = None, control: str = MAIN
) -> Rescored:
    """Scores the stored answers of a run as other programs would.

    Args:
        run: Id of a run, or the path of its folder.
        protocol: Only this program's, e.g. `lmms-eval`; None: all that a task has.
        out: Folder of run records.
        task: Only this task of the run; None: all.
        control: `none`, `shuffled` or `blind`.

    Returns:
        Per task our headline, then each protocol's numbers. A protocol that cannot score the stored answers, say
        because they hold no likelihoods, has a row with the reason.

    Raises:
        RecordError: No such run (with a suggestion), a run of pictures, or damaged answers.
        ConfigError: The protocol, task or control is unknown, or the run's tasks do not have the protocol.
    """
    store, run_id = _find(run, out)
    record = store.record(run_id)
    if record.suite != "understanding":
        raise RecordError(
            f"'{run_id}' is a run of the suite '{record.suite}': it holds pictures and no answers",
            where=str(store.root / run_id),
            fix="rescore a run of the suite understanding; pictures are scored again by: ovbench fid",
        )
    if control not in CONTROLS:
        raise unknown("control", control, CONTROLS, where="--control")
    if protocol is not None and protocol not in protocol_names():
        raise unknown("scoring protocol", protocol, protocol_names(), where="--protocol-scorer")
    if task is not None:
        lookup({entry.name: entry for entry in record.tasks}, task, kind="task of this run", where="--task")
    chosen = [entry for entry in record.tasks if task in (None, entry.name)]
    if protocol is not None and all(protocol not in PROTOCOLS[scorer_of(entry)] for entry in chosen):
        there = "; ".join(f"{entry.name}: {', '.join(PROTOCOLS[scorer_of(entry)]) or 'none'}" for entry in chosen)
        raise ConfigError(
            f"no task of the run has the scoring protocol '{protocol}'", where="--protocol-scorer", fix=there
        )
    answers = _answers(store, record, control)
    scores: list[ProtocolScore] = []
    for entry in chosen:
        scores += _task_scores(record, entry, answers.get(entry.name, []), protocol, control)
    return Rescored(run_id=run_id, encoder=record.encoder.spec, scores=tuple(scores))


def scorer_of(task: TaskRecord) -> str:
    """Returns the name in tasks/scorers.py of the scorer that a record states, e.g. `pope` of `greedy, …, pope-1`.

    Raises:
        RecordError: It is none that this version knows.
    """
    name = task.scorer.rpartition(", ")[2].rpartition("-")[0]
    if name not in PROTOCOLS:
        raise RecordError(
            f"'{task.name}' was scored by '{task.scorer}', which this version of ovbench does not know",
            fix="upgrade ovbench: python -m pip install --upgrade ovbench",
        )
    return name


def _find(run: str, out: Path) -> tuple[RunStore, str]:
    path = Path(run).expanduser()
    if "/" in run and (path / RECORD).is_file():
        return RunStore(path.resolve().parent), path.resolve().name
    if "/" in run:
        raise RecordError(
            f"'{run}' is no run folder: it has no {RECORD}", where="RUN", fix="give the id of a run; all: ovbench runs"
        )
    return RunStore(out), run


@dataclass(frozen=True, kw_only=True, slots=True)
class _Stored:
    answered: Answered
    chosen: str | None  # what we took for the answer


def _answers(store: RunStore, record: RunRecord, control: str) -> dict[str, list[_Stored]]:
    frame = store.samples(record.run_id)
    found: dict[str, list[_Stored]] = {}
    for row in frame.to_dict(orient="records"):
        if row["control"] != control:
            continue
        sample = Sample(
            item_id=row["item_id"],
            image_id=row["image_id"],
            prompt="",  # not stored; no program reads it
            question=row["question"],
            options=tuple(row["options"]),
            answer=row["answer"],
            group=row["group"],
            answers=tuple(row["answers"]),
            extra=row["extra"],
        )
        scores = row["option_scores"]
        answered = Answered(sample=sample, raw=row["raw"], option_scores=None if scores is None else tuple(scores))
        chosen = row["chosen"] if isinstance(row["chosen"], str) else None  # pandas has NaN for a missing text
        found.setdefault(row["task"], []).append(_Stored(answered=answered, chosen=chosen))
    return found


def _task_scores(
    record: RunRecord, task: TaskRecord, stored: Sequence[_Stored], only: str | None, control: str
) -> list[ProtocolScore]:
    ours = {_key(metric): metric for metric in record.metrics if (metric.task, metric.control) == (task.name, control)}
    main = ours.get(task.headline)
    if main is None or not stored:
        known = sorted({metric.control for metric in record.metrics if metric.task == task.name})
        raise ConfigError(
            f"'{task.name}' was not asked under the control '{control}'",
            where="--control",
            fix=f"this run has: {', '.join(known)}",
        )
    found = [
        ProtocolScore(
            task=task.name,
            control=control,
            protocol=OURS,
            metric=task.headline,
            value=main.value,
            unit=main.unit,
            n=main.n,
            ours=task.headline,
            our_value=main.value,
            difference=None,
            headline=True,
            num_read_otherwise=None,
            how=task.scorer,
            citation=task.citation,
            reason=main.reason,
        )
    ]
    table = PROTOCOLS[scorer_of(task)]
    for name, protocol in table.items():
        if only in (None, name):
            found += _protocol_scores(name, protocol, task, stored, ours, control)
    if only is not None and only not in table:
        found.append(_absent(only, None, task, control, len(stored), f"{task.name} has no protocol '{only}'"))
    return found


def _protocol_scores(
    name: str,
    protocol: ScoringProtocol,
    task: TaskRecord,
    stored: Sequence[_Stored],
    ours: dict[str, MetricValue],
    control: str,
) -> list[ProtocolScore]:
    answers = [item.answered for item in stored]
    if protocol.needs == "letters" and _WORDS in task.scorer.split(", "):
        return [_absent(name, protocol, task, control, len(answers), "the questions showed no letters")]
    try:
        numbers = protocol.score(answers)
        readings = protocol.readings(answers)
    except DataError as error:
        return [_absent(name, protocol, task, control, len(answers), error.what)]
    apart = None if task.kind == "open" else _num_apart(readings, stored)
    return [
        _score(name, protocol, metric, value, task, len(answers), ours, control, apart)
        for metric, value in numbers.items()
    ]


def _num_apart(readings: Iterable[Read], stored: Iterable[_Stored]) -> int:
    return sum(read.said != item.chosen for read, item in zip(readings, stored, strict=True))


def _score(
    name: str,
    protocol: ScoringProtocol,
    metric: str,
    value: float,
    task: TaskRecord,
    n: int,
    ours: dict[str, MetricValue],
    control: str,
    apart: int | None,
) -> ProtocolScore:
    base, bracket, group = metric.partition("[")
    key = protocol.ours.get(base, "")
    mine = ours.get(f"{key}{bracket}{group}") if key else None
    our_value = mine.value if mine is not None else None
    return ProtocolScore(
        task=task.name,
        control=control,
        protocol=name,
        metric=metric,
        value=value,
        unit=protocol.units.get(base, "fraction"),
        n=n,
        ours=f"{key}{bracket}{group}" if mine is not None else "",
        our_value=our_value,
        difference=None if our_value is None else value - our_value,
        headline=metric == protocol.headline,
        num_read_otherwise=apart,
        how=protocol.title,
        citation=protocol.citation,
    )


def _absent(
    name: str, protocol: ScoringProtocol | None, task: TaskRecord, control: str, n: int, reason: str
) -> ProtocolScore:
    metric = protocol.headline if protocol else ""
    return ProtocolScore(
        task=task.name,
        control=control,
        protocol=name,
        metric=metric,
        value=None,
        unit=protocol.units.get(metric, "fraction") if protocol else "fraction",
        n=n,
        ours="",
        our_value=None,
        difference=None,
        headline=True,
        num_read_otherwise=None,
        how=protocol.title if protocol else "",
        citation=protocol.citation if protocol else "",
        reason=reason,
    )


def _key(metric: MetricValue) -> str:
    return metric.name if metric.group is None else f"{metric.name}[{metric.group}]"
