"""Answers of the published protocols: shared reading, ways of scoring, and a file that survives a kill."""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ovbench._base.errors import ConfigError, DataError, RecordError
from ovbench._base.files import read_jsonl
from ovbench.harness.understanding import evaluate
from ovbench.harness.understanding.answer_requests import Request
from ovbench.harness.understanding.engine import AnswerEngine
from ovbench.harness.understanding.evaluate import answer
from ovbench.harness.understanding.llava import Llava
from ovbench.tasks.base import Prediction, Sample, TaskData, TaskSpec
from tests.harness.understanding.tiny import QUESTIONS, tiny_llava, tokens

ROOT = Path(__file__).parents[3]
CHOICES = ("winter", "red boot , blue bag", "summer")
SPEC = TaskSpec(
    name="toy",
    version=1,
    title="toy",
    kind="choice",
    source={},
    prompt="{question}",
    scoring="greedy",
    parser="letter",
    metrics=("accuracy",),
    headline="accuracy",
    chance=0.25,
    family="paper",
)


def task(samples: Sequence[Sample], spec: TaskSpec = SPEC) -> TaskData:
    def no_image(image_id: str) -> np.ndarray:
        raise AssertionError(image_id)

    return TaskData(
        spec=spec, samples=tuple(samples), digest="d", images_digest="i", image=no_image, num_total=len(samples)
    )


def samples(count: int = 36) -> list[Sample]:
    """Images with one to five questions, far from sorted."""
    found: list[Sample] = []
    for number in range(count):
        question = QUESTIONS[number % 30]
        found.append(
            Sample(
                item_id=f"row-{number}",
                image_id=f"image-{(number * number) % 11}",
                question=question,
                prompt=f"{question} red",
                options=CHOICES,
                answer=CHOICES[0],
                group="g",
            )
        )
    return found


@pytest.fixture(scope="module")
def model(toy_language_model: str) -> Llava:
    return tiny_llava(toy_language_model)


def run(model: Llava, out: Path, data: TaskData | None = None, **settings: Any) -> list[Prediction]:
    settings = {"max_new_tokens": 4, "max_positions": 90, **settings}
    return answer(model, data or task(samples()), tokens, out=out, **settings)


def test_the_file_is_in_the_order_of_the_questions_and_nothing_else_is_left(model: Llava, tmp_path: Path) -> None:
    found = run(model, tmp_path / "a.jsonl")
    rows = read_jsonl(tmp_path / "a.jsonl")
    assert [row["item_id"] for row in rows] == [item.item_id for item in found] == [f"row-{n}" for n in range(36)]
    assert [row["raw"] for row in rows] == [item.raw for item in found]
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


@pytest.mark.parametrize("control", ["none", "shuffled", "blind"])
@pytest.mark.parametrize("settings", [{"packing": "padded"}, {"packing": "packed"}, {"packing": "batched"}])
def test_every_way_of_reading_gives_the_reference_answers(
    model: Llava, tmp_path: Path, settings: dict[str, Any], control: str
) -> None:
    wanted = run(model, tmp_path / "reference.jsonl", reference=True, control=control)
    assert run(model, tmp_path / "a.jsonl", control=control, **settings) == wanted
    assert len({item.raw for item in wanted}) > 3


class _Killed(BaseException):
    pass


@pytest.mark.parametrize("mode", [None, "ppl"])
@pytest.mark.parametrize("after", [1, 2, 4])
def test_a_run_stopped_after_any_pack_goes_on_to_the_same_bytes(
    model: Llava, tmp_path: Path, after: int, mode: str | None
) -> None:
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    wanted = run(model, whole, scoring_mode=mode)
    calls = 0

    def stop(done: int, total: int) -> None:
        nonlocal calls
        calls += 1
        if calls == after:
            raise _Killed

    with pytest.raises(_Killed):
        run(model, cut, progress=stop, scoring_mode=mode)
    assert 0 <= len(read_jsonl(cut)) < 36
    assert run(model, cut, scoring_mode=mode) == wanted
    assert cut.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("num_bytes", [1, 300, 1500, 4000, -1])
def test_a_file_torn_anywhere_is_completed_to_the_same_bytes(model: Llava, tmp_path: Path, num_bytes: int) -> None:
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    wanted = run(model, whole)
    cut.write_bytes(whole.read_bytes()[:num_bytes])
    assert run(model, cut) == wanted
    assert cut.read_bytes() == whole.read_bytes()


def test_a_kill_before_the_file_is_put_in_order_loses_nothing(model: Llava, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    wanted = run(model, whole)
    lines = whole.read_text(encoding="utf-8").splitlines(keepends=True)
    cut.write_text("".join(reversed(lines)), encoding="utf-8")

    def refuse(image_ids: Sequence[str]) -> torch.Tensor:
        raise AssertionError(image_ids)

    assert answer(model, task(samples()), refuse, out=cut, max_new_tokens=4) == wanted
    assert cut.read_bytes() == whole.read_bytes()


_CHILD = """
import sys, time
from pathlib import Path
import torch
from tests.harness.understanding import test_answering as parent
from tests.harness.understanding.tiny import tiny_llava
torch.set_num_threads(1)
def progress(done, total):
    if done >= 12:
        time.sleep(600)
parent.run(tiny_llava(sys.argv[1]), Path(sys.argv[2]), progress=progress)
"""


def test_sigkill_while_answering_and_a_second_start_give_the_same_file(
    model: Llava, toy_language_model: str, tmp_path: Path
) -> None:
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    run(model, whole)
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, toy_language_model, str(cut)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
    )
    try:
        until = time.monotonic() + 120
        while not cut.is_file() or cut.read_bytes().count(b"\n") < 12:
            assert child.poll() is None, child.stderr and child.stderr.read()
            assert time.monotonic() < until
            time.sleep(0.05)
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate()
    assert 12 <= len(read_jsonl(cut)) < 36
    run(model, cut)
    assert cut.read_bytes() == whole.read_bytes()


def test_a_full_disk_ends_the_answering_and_loses_nothing(
    model: Llava, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    run(model, whole)
    append, calls = evaluate.append_jsonl, 0

    def full(path: Path, rows: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        append(path, rows)

    with monkeypatch.context() as patched:
        patched.setattr(evaluate, "append_jsonl", full)
        with pytest.raises(OSError, match="No space left"):
            run(model, out)
    assert 0 < len(read_jsonl(out)) < len(read_jsonl(whole))
    run(model, out)
    assert out.read_bytes() == whole.read_bytes()


def test_the_same_question_in_two_rows_is_asked_once_and_stays_two_rows(model: Llava, tmp_path: Path) -> None:
    first = samples(1)[0]
    twice = [replace(first, item_id=f"49914#{number}") for number in range(2)]
    found = run(model, tmp_path / "a.jsonl", task(twice))
    assert [item.item_id for item in found] == ["49914#0", "49914#1"]
    assert found[0].raw == found[1].raw
    assert len(read_jsonl(tmp_path / "a.jsonl")) == 2


def test_published_tasks_that_read_a_free_answer_score_no_options(model: Llava, tmp_path: Path) -> None:
    assert {item.option_scores for item in run(model, tmp_path / "a.jsonl")} == {None}
    local = task(samples(3), replace(SPEC, family="local"))
    assert None not in {item.option_scores for item in run(model, tmp_path / "b.jsonl", local)}


def test_ppl_ranks_option_texts_after_the_bare_question(model: Llava, tmp_path: Path) -> None:
    plain = run(model, tmp_path / "plain.jsonl")
    found = run(model, tmp_path / "ppl.jsonl", scoring_mode="ppl")
    direct = AnswerEngine(model, tokens, reference=True).ask(
        [
            Request(image_id=item.image_id, question=item.question, options=item.options, max_new_tokens=0)
            for item in samples()
        ]
    )
    for item, free, reply in zip(found, plain, direct, strict=True):
        assert (item.raw, item.parsed) == (free.raw, free.parsed)
        assert item.option_scores == pytest.approx(reply.option_scores, abs=1e-4)
        assert item.option_scores is not None
        assert item.chosen == CHOICES[item.option_scores.index(max(item.option_scores))]
    assert {row["scoring_mode"] for row in read_jsonl(tmp_path / "ppl.jsonl")} == {"ppl"}
    assert len({item.chosen for item in found}) > 1


def test_a_constrained_choice_is_between_the_letters(model: Llava, tmp_path: Path) -> None:
    # The toy tokenizer knows one of these words and no letters: yes and no are what it can tell apart.
    spec = replace(SPEC, kind="yesno", parser="yesno_strict")
    asked = [replace(item, options=("yes", "no"), answer="yes") for item in samples(8)]
    found = run(model, tmp_path / "a.jsonl", task(asked, spec), scoring_mode="constrained")
    direct = AnswerEngine(model, tokens, reference=True).ask(
        [
            Request(image_id=item.image_id, question=item.prompt, options=("Yes", "No"), max_new_tokens=1)
            for item in asked
        ]
    )
    assert [item.option_scores for item in found] == [pytest.approx(reply.option_scores, abs=1e-4) for reply in direct]
    assert all(item.chosen in ("yes", "no") for item in found)
    with pytest.raises(DataError, match="options A, B, C begin with the same token"):
        run(model, tmp_path / "b.jsonl", scoring_mode="constrained")


def test_scoring_options_that_are_not_there_is_refused(model: Llava, tmp_path: Path) -> None:
    bare = [replace(samples(1)[0], options=())]
    with pytest.raises(DataError, match="compares options, and there are 0"):
        run(model, tmp_path / "a.jsonl", task(bare), scoring_mode="ppl")


def test_an_unknown_way_of_scoring_is_refused(model: Llava, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown scoring mode 'guess'"):
        run(model, tmp_path / "a.jsonl", scoring_mode="guess")


def test_answers_scored_in_another_way_are_not_mixed(model: Llava, tmp_path: Path) -> None:
    run(model, tmp_path / "a.jsonl")
    with pytest.raises(RecordError, match="line 1 was scored in another way"):
        run(model, tmp_path / "a.jsonl", scoring_mode="ppl")
    with pytest.raises(RecordError, match="line 1 was scored in another way"):
        run(model, tmp_path / "a.jsonl", trust_first_token=True)


def test_an_answer_that_is_there_twice_is_refused(model: Llava, tmp_path: Path) -> None:
    run(model, tmp_path / "a.jsonl")
    lines = (tmp_path / "a.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "a.jsonl").write_text(lines[0] * 2, encoding="utf-8")
    with pytest.raises(RecordError, match="line 2 answers 'row-0' again"):
        run(model, tmp_path / "a.jsonl")


def test_trusting_the_first_token_is_noted_in_every_line(model: Llava, tmp_path: Path) -> None:
    run(model, tmp_path / "a.jsonl", trust_first_token=True)
    assert all(row["trust_first_token"] is True for row in read_jsonl(tmp_path / "a.jsonl"))


def test_the_task_says_how_long_an_answer_may_be(model: Llava, tmp_path: Path) -> None:
    spec = replace(SPEC, max_new_tokens=1)
    short = run(model, tmp_path / "a.jsonl", task(samples(), spec))
    assert {len(item.raw.split()) for item in short} <= {0, 1}
    assert max(len(item.raw.split()) for item in run(model, tmp_path / "b.jsonl")) > 1


def test_empty_answers_are_kept_and_counted(
    toy_language_model: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mute = tiny_llava(toy_language_model, end=20.0)
    with caplog.at_level(logging.INFO):
        found = run(mute, tmp_path / "a.jsonl")
    empty = sum(item.raw == "" for item in found)
    assert empty > 5
    assert f"{empty} of 36 answers are empty" in caplog.text
    assert [row["raw"] for row in read_jsonl(tmp_path / "a.jsonl")] == [item.raw for item in found]
