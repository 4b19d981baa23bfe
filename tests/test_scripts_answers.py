"""scripts/speed_answers.py at a size of seconds: the rivals must give the same answers before they are timed."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ovbench._base.errors import ConfigError, DataError

SCRIPTS = Path(__file__).parent.parent / "scripts"
PARTS = ("side_by_side", "answer_rivals", "speed_answers")


@pytest.fixture(scope="module")
def scripts() -> Iterator[SimpleNamespace]:
    """The parts by name, imported as a script imports its neighbours."""
    before = set(sys.modules)
    sys.path.insert(0, str(SCRIPTS))
    try:
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in PARTS})
    finally:
        sys.path.remove(str(SCRIPTS))
        for name in set(PARTS) - before:
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def rivals(scripts: SimpleNamespace) -> Any:
    size = replace(scripts.answer_rivals.SIZES["tiny"], side_px=28)
    load = [one for load in scripts.speed_answers.loads(1).values() for one in load]
    return scripts.answer_rivals.Rivals(size, device=torch.device("cpu"), dtype=torch.float32, load=load)


def test_the_pope_load_has_the_structure_of_pope(scripts: SimpleNamespace) -> None:
    load = scripts.answer_rivals.pope_load(500)
    assert (len(load), len({one.image_id for one in load}), len(set(load))) == (9000, 500, 5127)
    every = scripts.answer_rivals.pope_load(3, repeats=False)
    assert len(set(every)) == len(every) == 54


def test_the_seed_load_has_three_longer_questions_an_image(scripts: SimpleNamespace) -> None:
    load = scripts.answer_rivals.seed_load(4)
    assert (len(set(load)), len({one.image_id for one in load})) == (12, 4)
    assert min(len(one.question) for one in load) > 3 * max(
        len(one.question) for one in scripts.answer_rivals.pope_load(1)
    )


def test_both_sides_give_the_same_answers_and_they_end(scripts: SimpleNamespace, rivals: Any) -> None:
    load = scripts.answer_rivals.seed_load(2)
    ours, engine = rivals.ours(load)
    assert ours == rivals.theirs(load)
    assert engine.packing == "packed"
    assert all(0 < len(ids) < 128 for ids in ours)


def test_all_of_pope_is_500_passes_and_5127_calls(scripts: SimpleNamespace, rivals: Any) -> None:
    assert scripts.speed_answers.full_pope(rivals) == {
        "rows": 9000,
        "encoder_passes": 500,
        "language_model_calls": 5127,
    }


def test_other_answers_are_an_error_and_no_time(
    scripts: SimpleNamespace, rivals: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = scripts.answer_rivals.pope_load(1)[:3]
    monkeypatch.setattr(rivals, "theirs", lambda load: [(-1,)] * len(load))
    with pytest.raises(DataError, match="3 of 3 answers differ"):
        scripts.speed_answers.measure(rivals, load, rounds=1, device=torch.device("cpu"), exact=True)


def test_a_run_prints_ratios_and_counts(
    scripts: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "speed.json"
    words = ["--size", "tiny", "--load", "pope", "--images", "1", "--rounds", "1", "--json", str(path)]
    monkeypatch.setattr(sys, "argv", ["speed_answers.py", *words])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert scripts.speed_answers.main() == 0
    report = json.loads(path.read_text(encoding="utf-8"))
    found = report["sizes"]["tiny"]["loads"]["pope"]
    assert found["same_answers"] == found["rows"] == 18
    assert (found["counts"]["images"], found["counts"]["asked"]) == (1, 11)
    assert found["times_faster"] > 1
    assert report["sizes"]["7b"]["measured"] is False


def test_wrong_settings_are_refused(scripts: SimpleNamespace, tmp_path: Path) -> None:
    script = scripts.speed_answers
    with pytest.raises(ConfigError, match="--images must be at least 1, got 0"):
        script.run(script.parse(["--images", "0"]))
    with pytest.raises(ConfigError, match="there is no folder"):
        script.run(script.parse(["--json", str(tmp_path / "none" / "speed.json")]))
