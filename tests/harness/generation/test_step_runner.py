"""Steps of several processes: built once by all, written by one, resumed by any number."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ovbench.harness.events import Reporter, ignore
from ovbench.harness.generation.latent_stats import LatentMoments
from ovbench.harness.generation.slots import Group
from ovbench.harness.generation.step_runner import Counted, PictureRunner
from ovbench.harness.parallel import ALONE, Processes
from ovbench.harness.steps import Step, StepCache
from ovbench.harness.training import Progress
from tests.harness.generation.rae_data import randn
from tests.harness.generation.ranks import ranks
from tests.harness.generation.test_picture_parts import COUNT, IMAGES, KEPT, LAYERS, SIZE, Killed, killed_at, make
from tests.harness.metrics.picture_sets import toy_extractor, toy_rows

STEP = Step(name="samples", version=1, inputs={"a": 1})


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVBENCH_CACHE", str(tmp_path / "cache"))


def runner(folder: Path, processes: Processes = ALONE, listener: Callable[..., None] = ignore) -> PictureRunner:
    return PictureRunner(StepCache(folder / "cache"), Reporter("test", listener), processes)


def passes(folder: Path, processes: Processes, made: Callable[[Group], Any] = make) -> Any:
    return runner(folder, processes).passes(
        STEP,
        "samples",
        (),
        made,
        num_items=COUNT,
        group_size=SIZE,
        num_kept=KEPT,
        num_shown=KEPT,
        extractor=toy_extractor(),
        layers=LAYERS,
    )


def entry(folder: Path) -> dict[str, bytes]:
    root = folder / "cache" / STEP.name / STEP.key
    return {path.name: path.read_bytes() for path in root.rglob("*") if path.is_file() and path.name != "manifest.json"}


def test_all_processes_build_a_step_and_one_writes_it(tmp_path: Path) -> None:
    seen: list[tuple[int, str]] = []

    def obtain(processes: Processes) -> Path:
        def build(out: Path, work: Path, progress: Progress) -> None:
            seen.append((processes.rank, str(work)))
            (out / f"of-{processes.rank}.txt").write_text("x")

        return runner(tmp_path, processes).obtain(STEP, "samples", (), build).path

    paths = ranks(3, obtain)
    assert sorted(rank for rank, _ in seen) == [0, 1, 2]
    assert len({work for _, work in seen}) == 1
    assert len(set(paths)) == 1
    assert set(entry(tmp_path)) == {"of-0.txt"}  # what the others wrote is thrown away
    assert not list((tmp_path / "cache" / "scratch").iterdir())


def test_a_step_that_is_there_is_built_by_nobody_and_its_parents_are_not_asked(tmp_path: Path) -> None:
    def obtain(processes: Processes, build: Callable[..., None], parent: Callable[[], None]) -> bool:
        return runner(tmp_path, processes).obtain(STEP, "samples", (parent,), build).cached

    asked = threading.Semaphore(0)
    first = ranks(2, lambda p: obtain(p, lambda out, work, progress: (out / "x").write_text("x"), asked.release))
    assert first == [False, True]
    assert asked.acquire(blocking=False)
    assert asked.acquire(blocking=False)

    def never(*_: object) -> None:
        raise AssertionError("built again")

    assert ranks(2, lambda p: obtain(p, never, never)) == [True, True]


def test_a_step_is_obtained_once_a_run(tmp_path: Path) -> None:
    events: list[Any] = []
    made = runner(tmp_path, listener=events.append)
    results = [made.obtain(STEP, "samples", (), lambda out, work, progress: None) for _ in range(2)]
    assert results[0] is results[1]
    assert made.result(STEP) is results[0]
    assert len([event for event in events if event.state in ("finished", "cached")]) == 1


@pytest.mark.parametrize("count", [1, 2, 3])
def test_passes_give_the_same_content_and_bytes_for_any_number_of_processes(tmp_path: Path, count: int) -> None:
    contents = ranks(count, lambda processes: passes(tmp_path / "several", processes))
    passes(tmp_path / "one", ALONE)
    assert entry(tmp_path / "several") == entry(tmp_path / "one")
    for content in contents:
        np.testing.assert_array_equal(content.features.rows["pool"], toy_rows(IMAGES)["pool"])
        np.testing.assert_array_equal(content.images_u8, IMAGES[:KEPT])


def test_passes_of_a_killed_run_are_finished_by_another_number_of_processes(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        passes(tmp_path, ALONE, killed_at(9))
    assert not entry(tmp_path)
    made: list[int] = []
    ranks(2, lambda processes: passes(tmp_path, processes, lambda g: (made.append(g.indices[0]), make(g))[1]))
    assert sorted(made) == [8, 12, 16]
    passes(tmp_path / "one", ALONE)
    assert entry(tmp_path) == entry(tmp_path / "one")


def test_a_damaged_entry_is_made_again_by_all(tmp_path: Path) -> None:
    ranks(2, lambda processes: passes(tmp_path, processes))
    before = entry(tmp_path)
    victim = tmp_path / "cache" / STEP.name / STEP.key / f"passes-{SIZE}" / "pass-000001.npz"
    victim.write_bytes(b"x")
    ranks(2, lambda processes: passes(tmp_path, processes))
    assert entry(tmp_path) == before


def test_moments_of_latents_are_the_same_for_any_number_of_processes() -> None:
    """As `AutoencoderSteps` sums them: passes in turn, states gathered, merged in order."""
    chunks = [randn(4, 3, 2, 2, seed=number) for number in range(7)]

    def gathered(processes: Processes) -> Any:
        own = LatentMoments()
        for chunk in chunks[processes.rank :: processes.world_size]:
            own.add(chunk)
        total = LatentMoments()
        for state in processes.gather(own.state()):
            total.merge(LatentMoments.from_state(state))
        return total.stats(encoder="e", num_pictures=28, provenance={})

    (alone,) = ranks(1, gathered)
    for count in (2, 3):
        several = ranks(count, gathered)
        for found in several:
            np.testing.assert_allclose(found.mean, alone.mean, rtol=1e-6, atol=1e-7)
            np.testing.assert_allclose(found.var, alone.var, rtol=1e-6)
        assert all(np.array_equal(found.var, several[0].var) for found in several)


def test_speed_is_units_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.monotonic", lambda: 14.0)
    made = runner(tmp_path)
    made.speed("encode", 20, 10.0, "images/s")
    made.speed("nothing", 20, 14.0, "images/s")
    made.speed("was there", 0, 10.0, "images/s")
    assert made.throughput == {"encode": (5.0, "images/s")}


def test_a_training_is_as_fast_as_the_updates_of_this_process() -> None:
    told: list[int] = []
    counted = Counted(lambda done, total, **fields: told.append(done))
    for done in (98, 99, 100):  # of a training that went on at its 98th update
        counted(done, 100, loss=1.0)
    assert (counted.count, told) == (3, [98, 99, 100])
