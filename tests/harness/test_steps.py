"""Cached steps: made once, verified, set aside when damaged, continued after a crash."""

from __future__ import annotations

import logging
import multiprocessing
from pathlib import Path

import pytest

from ovbench.harness.steps import Step, StepCache

STEP = Step(name="answers", version=1, inputs={"a": 1})


def build_text(text: str, calls: list[str] | None = None):
    def build(out: Path, work: Path) -> None:
        del work
        if calls is not None:
            calls.append(text)
        (out / "data.txt").write_text(text)

    return build


def test_the_second_call_is_from_cache(tmp_path: Path) -> None:
    calls: list[str] = []
    cache = StepCache(tmp_path)
    first, second = (cache.obtain(STEP, build_text("x", calls)) for _ in range(2))
    assert calls == ["x"]
    assert not first.cached
    assert second.cached
    assert second.path == first.path
    assert second.made_in_s == first.made_in_s


@pytest.mark.parametrize(
    "other",
    [
        Step(name="answers", version=2, inputs={"a": 1}),
        Step(name="answers", version=1, inputs={"a": 2}),
        Step(name="answers", version=1, inputs={"a": 1}, parents=("k",)),
        Step(name="scores", version=1, inputs={"a": 1}),
    ],
)
def test_everything_that_can_change_the_output_changes_the_key(other: Step) -> None:
    assert other.key != STEP.key


@pytest.mark.parametrize("fault", ["content", "missing", "manifest"])
def test_a_damaged_entry_is_reported_set_aside_and_made_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    cache = StepCache(tmp_path)
    path = cache.obtain(STEP, build_text("x")).path
    if fault == "content":
        (path / "data.txt").write_text("y")
    elif fault == "missing":
        (path / "data.txt").unlink()
    else:
        (path / "manifest.json").write_text("{")
    with caplog.at_level(logging.WARNING):
        again = StepCache(tmp_path).obtain(STEP, build_text("x"))
    assert not again.cached
    assert (again.path / "data.txt").read_text() == "x"
    assert "is damaged" in caplog.text
    assert "set aside" in caplog.text
    assert len(list((tmp_path / "damaged").iterdir())) == 1


def test_a_failed_build_leaves_no_entry_but_keeps_its_work(tmp_path: Path) -> None:
    cache = StepCache(tmp_path)

    def crash(out: Path, work: Path) -> None:
        (out / "half.txt").write_text("half")
        (work / "checkpoint.txt").write_text("so far")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.obtain(STEP, crash)
    assert cache.find(STEP) is None

    def go_on(out: Path, work: Path) -> None:
        (out / "data.txt").write_text((work / "checkpoint.txt").read_text())

    assert (cache.obtain(STEP, go_on).path / "data.txt").read_text() == "so far"
    assert not (tmp_path / "work" / f"answers-{STEP.key}").exists()


def test_looking_for_a_damaged_entry_moves_nothing(tmp_path: Path) -> None:
    path = StepCache(tmp_path).obtain(STEP, build_text("x")).path
    (path / "data.txt").write_text("y")
    assert StepCache(tmp_path).find(STEP) is None
    assert (path / "data.txt").read_text() == "y"


def test_what_a_killed_process_left_is_cleared_away(tmp_path: Path) -> None:
    cache = StepCache(tmp_path)
    left = cache.path(STEP).parent / f".{STEP.key}.abc.tmp"
    left.mkdir(parents=True)
    cache.obtain(STEP, build_text("x"))
    assert not left.exists()


def test_a_step_can_be_described_without_being_read(tmp_path: Path) -> None:
    cache = StepCache(tmp_path)
    assert cache.describe(STEP).made_in_s is None
    made = cache.obtain(STEP, build_text("x")).made_in_s
    assert cache.describe(STEP).made_in_s == made


def _obtain_slowly(root: str, queue) -> None:
    import time

    def build(out: Path, work: Path) -> None:
        del work
        time.sleep(0.5)
        (out / "data.txt").write_text("x")

    queue.put(StepCache(Path(root)).obtain(STEP, build).cached)


def test_two_processes_make_a_step_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    workers = [context.Process(target=_obtain_slowly, args=(str(tmp_path), queue)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert sorted(queue.get(timeout=5) for _ in workers) == [False, True]
