"""Ways of asking and scoring: those that change no answer share a table, the others have tables of their own."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas
import pytest
import torch

from ovbench.harness.events import Event
from ovbench.results.leaderboard import tables_of
from ovbench.results.record import RunRecord
from ovbench.results.store import RunStore
from tests.end_to_end.llava_parts import LLM, run_here, scores, write_data, write_given, write_protocol

TASKS = ("mme", "seedbench", "gqa")
WAYS: dict[str, dict[str, Any]] = {
    "usual": {},
    "padded": {"packing": "padded"},
    "packed": {"packing": "packed"},
    "reference": {"reference": True},
    "ppl": {"scoring": "ppl"},
    "trusting": {"trust_first_token": True},
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """Runs of one given model by the way in which it was asked; tests only read them."""

    folder: Path
    records: dict[str, RunRecord]
    events: dict[str, list[Event]]

    def rows(self, way: str) -> pandas.DataFrame:
        return RunStore(self.folder / way).samples(self.records[way].run_id)


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Asked:
    """Each way has a cache of its own, so that nothing is found instead of asked."""
    folder = tmp_path_factory.mktemp("asked")
    data = write_data(folder / "data", tasks=TASKS)
    protocol, given = write_protocol(folder / "own.yaml"), write_given(folder / "given")
    records: dict[str, RunRecord] = {}
    events: dict[str, list[Event]] = {}
    with pytest.MonkeyPatch.context() as patch:
        torch.set_num_threads(1)
        for way, options in WAYS.items():
            patch.setenv("OVBENCH_CACHE", str(folder / f"cache-{way}"))
            events[way] = []
            records[way] = run_here(
                protocol, folder / way, tasks=TASKS, data=data, llava=given, listener=events[way].append, **options
            )
        patch.setenv("OVBENCH_CACHE", str(folder / "cache-usual"))
        records["constrained"] = run_here(
            protocol, folder / "constrained", tasks=["mme"], data=data, llava=given, scoring="constrained"
        )
    return Asked(folder=folder, records=records, events=events)


@pytest.mark.parametrize("way", ["padded", "packed", "reference"])
def test_packing_and_reference_change_no_answer_and_no_name_of_a_step(asked: Asked, way: str) -> None:
    for column in ("task", "control", "item_id", "raw", "parsed", "correct"):
        assert asked.rows(way)[column].tolist() == asked.rows("usual")[column].tolist(), column
    assert scores(asked.records[way]) == scores(asked.records["usual"])
    keys = [[step.key for step in asked.records[name].steps] for name in (way, "usual")]
    assert keys[0] == keys[1]
    assert asked.records[way].protocol == asked.records["usual"].protocol
    # It was asked, and not found.
    assert any(event.state == "finished" and event.step == "answers (mme)" for event in asked.events[way])


@pytest.mark.parametrize(("way", "task"), [("ppl", "mme"), ("ppl", "seedbench"), ("constrained", "mme")])
def test_another_way_of_scoring_is_named_in_record_and_answers_and_chooses_the_likeliest(
    asked: Asked, way: str, task: str
) -> None:
    record = asked.records[way]
    found = record.task(task)
    usual = asked.records["usual"].task(task)
    assert found is not None
    assert usual is not None
    assert found.scorer.split(", ")[0] == way
    assert found.scorer.split(", ")[1:] == usual.scorer.split(", ")[1:]
    assert record.protocol.content["scoring"] == way
    rows = asked.rows(way)
    rows = rows[rows["task"] == task]
    for row in json.loads(str(rows.to_json(orient="records"))):
        scores = list(row["option_scores"])
        assert row["chosen"] == row["options"][scores.index(max(scores))]
        assert row["correct"] == (row["chosen"] == row["answer"])


def test_open_questions_have_no_options_to_rank(asked: Asked) -> None:
    found, usual = asked.records["ppl"].task("gqa"), asked.records["usual"].task("gqa")
    assert found is not None
    assert usual is not None
    assert found.scorer == usual.scorer
    keys = {
        name: {step.key for step in asked.records[name].steps if step.name == "answers"} for name in ("ppl", "usual")
    }
    assert len(keys["ppl"] & keys["usual"]) == 3  # those of gqa


def test_each_way_that_can_change_a_score_has_a_table_whose_title_says_which(asked: Asked) -> None:
    tables = tables_of([asked.records[way] for way in ("usual", "ppl", "constrained", "trusting")])
    titles = [table.title for table in tables]
    assert len(set(titles)) == len(titles) == 4
    assert all("given llava" in title for title in titles)
    for words in ("scoring ppl", "scoring constrained", "first token trusted"):
        assert sum(words in title for title in titles) == 1, words


def test_ways_that_change_nothing_share_the_table(asked: Asked) -> None:
    (table,) = tables_of([asked.records[way] for way in ("usual", "padded", "packed", "reference")])
    assert [row.label for row in table.rows] == ["clip/mini", "chance"]


def test_a_given_model_and_another_language_model_hide_no_run_of_the_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OVBENCH_CACHE", str(tmp_path / "cache"))
    data = write_data(tmp_path / "data", tasks=("mme",))
    own = write_protocol(tmp_path / "own.yaml", changes={"language_model": LLM})
    given, other = write_given(tmp_path / "given"), write_given(tmp_path / "other", seed=1)
    runs = [
        {},
        {"language_model": LLM},
        {"llava": given},
        {"llava": other},
    ]
    records = [run_here(own, tmp_path / "runs", tasks=["mme"], data=data, **options) for options in runs]
    tables = tables_of(RunStore(tmp_path / "runs").records())
    assert len(tables) == len(records) == 4
    titles = {table.title for table in tables}
    assert len(titles) == 4
    assert sum("llm mini" in title for title in titles) == 1
    assert sum("given llava" in title for title in titles) == 2
    assert sum("protocol tiny-llava v1 · one seed" in title for title in titles) == 1
    # The same weights by another way: both stages are found.
    assert [step.key for step in records[0].steps] == [step.key for step in records[1].steps]
