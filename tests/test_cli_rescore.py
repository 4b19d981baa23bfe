"""`ovbench rescore` as a user types it, on runs put together by hand from the real judge, scorers and store."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

import ovbench
from ovbench._base.errors import ConfigError, RecordError
from ovbench.cli_rescore import rescore
from ovbench.harness.metrics.base import values_of
from ovbench.harness.metrics.judging import judge
from ovbench.harness.metrics.score import sample_rows, score_task, scorer_name
from ovbench.results.record import RunRecord, TaskRecord
from ovbench.results.store import SAMPLE_COLUMNS, RunStore
from ovbench.tasks.base import Sample, TaskSpec

GOLDEN = Path(__file__).parent / "golden"
CASES: dict[str, Any] = {
    name: json.loads((GOLDEN / f"{name}_scoring.json").read_text(encoding="utf-8")) for name in ("pope", "mme", "seed")
}
app = typer.Typer()
app.command()(rescore)


def _spec(name: str, kind: Any, parser: str, headline: str, scoring: Any = "greedy", scorer: str = "") -> TaskSpec:
    return TaskSpec(
        name=name,
        version=1,
        title=name,
        kind=kind,
        source={},
        prompt="{question}",
        scoring=scoring,
        parser=parser,
        metrics=(headline,),
        headline=headline,
        chance=0.0,
        scorer=scorer,
        family="paper",
    )


def _yes_no(name: str, image: str) -> list[tuple[Sample, str]]:
    return [
        (
            Sample(
                item_id=f"{name}-{place}",
                image_id=case["image"],
                prompt="",
                question=case["question"],
                options=("yes", "no"),
                answer=case["label"].lower(),
                group=case["category"],
                extra={"question_id": str(case["question_id"]), "image_name": image},
            ),
            case["answer"].strip(),
        )
        for place, case in enumerate(CASES[name]["cases"])
    ]


def _seed() -> list[tuple[Sample, str]]:
    found: list[tuple[Sample, str]] = []
    for case in CASES["seed"]["cases"]:
        options = tuple(case[f"choice_{letter}"] for letter in "abcd")
        sample = Sample(
            item_id=case["question_id"],
            image_id=case["data_id"],
            prompt="",
            question=case["question"],
            options=options,
            answer=options["ABCD".index(case["answer"])],
            group=str(case["question_type_id"]),
        )
        if case["data_type"] == "image":
            found.append((sample, case["response"].strip()))
    return found


def _vqa() -> list[tuple[Sample, str]]:
    sample = Sample(
        item_id="t-1",
        image_id="sign",
        prompt="",
        question="what does it say?",
        options=(),
        answer="stop",
        group="",
        answers=("stop",) * 2 + ("halt",) * 8,
    )
    return [(sample, "Stop!"), (dataclasses.replace(sample, item_id="t-2", image_id="other"), "halt")]


POPE = (_spec("pope", "yesno", "pope_official", "pope_f1_mean", scorer="pope"), _yes_no("pope", "a"))
MME = (_spec("mme", "yesno", "mme_official", "mme_perception", scorer="mme"), _yes_no("mme", "b"))
SEED = (_spec("seedbench", "choice", "letter", "seed_image", scorer="seedbench"), _seed())
TEXT = (_spec("textvqa", "open", "vqa", "accuracy", scorer="vqa"), _vqa())


def keep(
    store: RunStore,
    tasks: Sequence[tuple[TaskSpec, list[tuple[Sample, str]]]],
    *,
    scores: tuple[float, ...] = (),
    controls: Sequence[str] = ("none",),
    suite: str = "understanding",
) -> RunRecord:
    """Stores a run of these tasks with these answers."""
    base = RunRecord.from_json((GOLDEN / "records" / "v2.json").read_text(encoding="utf-8"), where="v2.json")
    records, metrics, rows = [], [], []
    for spec, items in tasks:
        samples = [sample for sample, _ in items]
        predictions = [judge(spec, sample, raw, scores) for sample, raw in items]
        old = base.tasks[0]
        records.append(
            dataclasses.replace(
                old, name=spec.name, kind=spec.kind, scorer=scorer_name(spec), headline=spec.headline, n=len(samples)
            )
        )
        for control in controls:
            metrics += values_of(score_task(spec, samples, predictions), spec.name, control)
            rows += sample_rows(spec.name, control, samples, predictions)
    names = [field.name for field in dataclasses.fields(RunRecord) if field.name not in ("schema_version", "run_id")]
    fields = {name: getattr(base, name) for name in names}
    return store.keep(
        RunRecord.new(**{**fields, "suite": suite, "tasks": tuple(records), "metrics": tuple(metrics)}), rows
    )


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunStore:
    monkeypatch.setenv("OVBENCH_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("COLUMNS", "300")
    return RunStore(tmp_path / "runs")


@pytest.fixture
def run(store: RunStore) -> str:
    return keep(store, [POPE, MME, SEED, TEXT]).run_id


def asked(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def _row(rows: list[dict[str, Any]], task: str, protocol: str, metric: str) -> dict[str, Any]:
    (found,) = [row for row in rows if (row["task"], row["protocol"], row["metric"]) == (task, protocol, metric)]
    return found


def test_every_protocol_stands_beside_our_headline_with_the_difference(run: str) -> None:
    done = asked(run, "--json")
    assert done.exit_code == 0, done.stderr
    rows = json.loads(done.stdout)
    ours = _row(rows, "pope", "ovbench", "pope_f1_mean")
    lmms = _row(rows, "pope", "lmms-eval", "pope_f1_score")
    assert lmms["value"] == 1.0
    assert lmms["ours"] == "pope_f1_mean"
    assert lmms["difference"] == pytest.approx(1.0 - ours["value"])
    assert _row(rows, "mme", "lmms-eval", "mme_perception_score")["value"] == pytest.approx(1250.0)
    assert _row(rows, "mme", "lmms-eval", "mme_perception_score")["unit"] == "points"
    assert _row(rows, "seedbench", "lmms-eval", "seed_image")["difference"] == 0.0
    assert _row(rows, "textvqa", "vlmevalkit", "Overall")["value"] == pytest.approx((0.6 + 1.0) / 2)


def test_answers_that_are_read_otherwise_are_counted(run: str) -> None:
    rows = ovbench.rescore(run).rows()
    assert _row(rows, "pope", "llava", "mean of the splits' f1")["num_read_otherwise"] == 0
    images = [case for case in CASES["seed"]["cases"] if case["data_type"] == "image"]
    read = [(case["lmms_eval"]["pred"].lower(), case["cambrian"]["pred"]) for case in images]
    apart = sum(ours != theirs and bool({ours, theirs} & set("abcd")) for ours, theirs in read)
    assert apart > 0
    assert _row(rows, "seedbench", "cambrian", "accuracy")["num_read_otherwise"] == apart


def test_the_table_shows_percent_points_and_reasons(run: str) -> None:
    done = asked(run)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith(f"{run} · ")
    lines = done.stdout.splitlines()
    (lmms,) = (line for line in lines if "pope_f1_score" in line)
    assert "100.0 %" in lmms
    assert "vs pope_f1_mean" in lmms
    (points,) = (line for line in lines if "mme_perception_score" in line)
    assert "1250.0 points" in points
    (official,) = (line for line in lines if line.startswith("seedbench") and "official" in line)
    assert "—" in official
    assert "no likelihoods were stored" in official


def test_one_protocol_can_be_asked_for_and_tasks_without_it_say_so(run: str) -> None:
    rows = ovbench.rescore(run, "cambrian").rows()
    assert {row["protocol"] for row in rows} == {"ovbench", "cambrian"}
    (absent,) = [row for row in rows if row["task"] == "mme" and row["protocol"] == "cambrian"]
    assert absent["value"] is None
    assert absent["reason"] == "mme has no protocol 'cambrian'"


def test_one_task_can_be_asked_for(run: str) -> None:
    assert {row["task"] for row in ovbench.rescore(run, task="textvqa").rows()} == {"textvqa"}


def test_stored_likelihoods_are_ranked(store: RunStore) -> None:
    run = keep(store, [SEED], scores=(-1.0, -2.0, -3.0, -4.0)).run_id
    row = _row(ovbench.rescore(run, "official").rows(), "seedbench", "official", "accuracy")
    assert row["value"] == pytest.approx(
        sum(sample.options[0] == sample.answer for sample, _ in SEED[1]) / len(SEED[1])
    )


def test_a_task_in_words_is_not_read_by_letter(store: RunStore) -> None:
    spec = _spec("mini", "choice", "option_text", "accuracy", scoring="likelihood")
    run = keep(store, [(spec, SEED[1])], scores=(-1.0, -2.0, -3.0, -4.0)).run_id
    rows = ovbench.rescore(run).rows()
    assert _row(rows, "mini", "official", "accuracy")["difference"] == 0.0
    assert _row(rows, "mini", "lmms-eval", "seed_image")["reason"] == "the questions showed no letters"


def test_controls_are_rescored_too(store: RunStore) -> None:
    run = keep(store, [POPE], controls=("none", "blind")).run_id
    assert {row["control"] for row in ovbench.rescore(run, control="blind").rows()} == {"blind"}
    with pytest.raises(ConfigError, match="'pope' was not asked under the control 'shuffled'") as caught:
        ovbench.rescore(run, control="shuffled")
    assert caught.value.fix == "this run has: blind, none"


def test_a_run_is_found_by_its_folder(run: str, store: RunStore) -> None:
    assert ovbench.rescore(str(store.root / run), "llava").run_id == run


def test_nothing_in_the_run_folder_changes(run: str, store: RunStore, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in (store.root / run).iterdir()}
    assert asked(run, "--export", str(tmp_path / "side.csv")).exit_code == 0
    assert {path.name: path.read_bytes() for path in (store.root / run).iterdir()} == before


def test_a_side_file_holds_every_number(run: str, tmp_path: Path) -> None:
    targets = [tmp_path / f"side.{kind}" for kind in ("csv", "json", "md")]
    done = asked(run, *[word for target in targets for word in ("--export", str(target))], "--format", "csv")
    assert done.exit_code == 0, done.stderr
    rows = ovbench.rescore(run).rows()
    assert targets[0].read_text(encoding="utf-8") == done.stdout
    assert len(list(csv.DictReader(io.StringIO(done.stdout)))) == len(rows)
    assert json.loads(targets[1].read_text(encoding="utf-8")) == json.loads(asked(run, "--json").stdout)
    assert targets[2].read_text(encoding="utf-8").startswith("| task | protocol | metric |")


def test_answers_of_an_older_run_are_rescored(run: str, store: RunStore) -> None:
    import pandas

    path = store.root / run / "samples.parquet"
    pandas.read_parquet(path).drop(columns=["answers", "extra", "score"]).to_parquet(path)
    frame = store.samples(run)
    assert tuple(frame.columns) == SAMPLE_COLUMNS
    assert frame["extra"].tolist() == [{}] * len(frame)
    row = _row(ovbench.rescore(run, "lmms-eval", task="pope").rows(), "pope", "lmms-eval", "pope_f1_score")
    assert row["value"] == 1.0


@pytest.mark.parametrize(
    ("words", "texts"),
    [
        (["nothing-there"], ["error: unknown run 'nothing-there'", "all runs: ovbench runs"]),
        (["./folder"], ["error: './folder' is no run folder: it has no record.json"]),
        (["RUN", "--protocol-scorer", "lmmseval"], ["error: unknown scoring protocol 'lmmseval'", "mean 'lmms-eval'?"]),
        (
            ["RUN", "--protocol-scorer", "plain-numbers"],
            ["no task of the run has the scoring protocol", "pope: official"],
        ),
        (["RUN", "--task", "popes"], ["unknown task of this run 'popes'", "did you mean 'pope'?"]),
        (["RUN", "--control", "blond"], ["unknown control 'blond'", "did you mean 'blind'?"]),
        (["RUN", "--format", "xml"], ["unknown format 'xml'"]),
        (["RUN", "--export", "a.txt"], ["'a.txt' has the ending of no format", "end it with .csv, .json or .md"]),
    ],
)
def test_a_mistake_is_said_in_three_lines(run: str, words: list[str], texts: list[str]) -> None:
    done = asked(*[run if word == "RUN" else word for word in words])
    assert done.exit_code == 2
    assert done.stdout == ""
    for text in texts:
        assert text in done.stderr


def test_a_near_miss_of_a_run_gets_a_suggestion(run: str) -> None:
    assert f"did you mean '{run}'?" in asked(run[:-1]).stderr


def test_a_run_of_pictures_has_no_answers(store: RunStore) -> None:
    run = keep(store, [POPE], suite="generation").run_id
    with pytest.raises(RecordError, match="it holds pictures and no answers"):
        ovbench.rescore(run)


def test_a_scorer_of_the_future_is_said(store: RunStore) -> None:
    from ovbench.harness.rescore import scorer_of

    record = keep(store, [POPE])
    task: TaskRecord = dataclasses.replace(record.tasks[0], scorer="greedy, letter, chess-2")
    with pytest.raises(RecordError, match="scored by 'greedy, letter, chess-2'"):
        scorer_of(task)
