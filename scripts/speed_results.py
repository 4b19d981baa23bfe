"""Measures how long a leaderboard of many stored runs takes: 1,000 records with 10,000 items each, as JSON lines.

    python scripts/speed_results.py [--records 1000] [--items 10000] [--folder DIR]

The records are made here: 100 encoders, 10 seeds, two tasks with groups and controls. The items of all runs are one
file, linked into each folder: a table must not read it, which the script checks by counting the opened files.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ovbench
from ovbench._base.fingerprint import fingerprint
from ovbench.results.record import (
    EncoderRecord,
    Environment,
    Measurement,
    MetricValue,
    ProtocolRecord,
    RunRecord,
    StepRecord,
    TaskRecord,
)
from ovbench.results.store import CONFIG, RECORD, SAMPLES, config_of, write_samples

SEEDS = 10
GROUPS = tuple(f"group-{number}" for number in range(7))
CONTROLS = ("none", "shuffled", "blind")
REPEATS = 5


def main() -> None:
    """Makes the records, measures, and prints one JSON object per figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=1000)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--folder", type=Path, help="Where the records are made; default: a temporary folder.")
    args = parser.parse_args()
    root = args.folder or Path(tempfile.mkdtemp(prefix="ovbench-speed-"))
    try:
        make_runs(root, args.records, args.items)
        for row in measure(root):
            about = {"records": args.records, "items": args.items, **_machine()}
            print(json.dumps(row | about, sort_keys=True))  # noqa: T201
    finally:
        if args.folder is None:
            shutil.rmtree(root)


def make_runs(root: Path, num_records: int, num_items: int) -> None:
    """Writes the run folders."""
    items = root / "items.parquet"
    root.mkdir(parents=True, exist_ok=True)
    write_samples([_item(index) for index in range(num_items)], items)
    for number in range(num_records):
        record = _record(number)
        folder = root / record.run_id
        folder.mkdir()
        os.link(items, folder / SAMPLES)
        (folder / CONFIG).write_text(json.dumps(config_of(record)), encoding="utf-8")
        (folder / RECORD).write_text(record.to_json(), encoding="utf-8")


def measure(root: Path) -> list[dict[str, Any]]:
    """Returns the time of each step, and of the whole command in a process of its own."""
    from ovbench.results.leaderboard import render_as
    from ovbench.results.store import RunStore
    from ovbench.results.survey import survey
    from ovbench.results.table import build_tables

    opened: list[str] = []
    sys.addaudithook(lambda event, found: opened.append(str(found[0])) if event == "open" else None)
    records = survey(RunStore(root)).records
    tables = build_tables(records)
    rows = [
        _timed("read and check all records", lambda: survey(RunStore(root))),
        _timed("build the tables", lambda: build_tables(records)),
        _timed("csv", lambda: render_as(tables, "csv")),
        _timed("html", lambda: render_as(tables, "html")),
        _timed("survey, tables and csv", lambda: render_as(build_tables(survey(RunStore(root)).records), "csv")),
    ]
    read = sum(name.endswith(SAMPLES) for name in opened)
    rows.append({"name": "files of items that were opened", "count": read})
    command = f"{sys.executable} -m ovbench leaderboard --suite understanding --format csv --out {root} > {os.devnull}"

    def whole() -> None:
        if os.system(command) != 0:
            raise SystemExit("the command failed")

    return [*rows, _timed("ovbench leaderboard, whole command", whole)]


def _timed(name: str, work: Callable[[], Any]) -> dict[str, Any]:
    """Returns wall time, and processor time of this process and its children, which a busy machine does not inflate."""
    walls_s: list[float] = []
    processor_s: list[float] = []
    for _ in range(REPEATS):
        began, spent = time.perf_counter(), _spent_s()
        work()
        walls_s.append(time.perf_counter() - began)
        processor_s.append(_spent_s() - spent)
    return {
        "name": name,
        "median_s": round(statistics.median(walls_s), 3),
        "best_s": round(min(walls_s), 3),
        "median_processor_s": round(statistics.median(processor_s), 3),
    }


def _spent_s() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _machine() -> dict[str, Any]:
    return {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "load_1min": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "ovbench": ovbench.__version__,
    }


def _item(index: int) -> dict[str, Any]:
    return {
        "task": "made-choice", "control": "none", "item_id": f"q{index}", "image_id": f"image{index // 10}",
        "group": GROUPS[index % len(GROUPS)], "question": "Which one?", "answer": "A", "raw": "A", "parsed": "A",
        "chosen": "A", "correct": index % 3 == 0, "options": ["A", "B", "C", "D"],
        "option_scores": [-0.1, -2.0, -3.0, -4.0], "answers": [], "extra": {}, "score": None,
    }  # fmt: skip


def _record(number: int) -> RunRecord:
    draw = random.Random(number)
    spec, seed = f"made/encoder-{number // SEEDS:03d}", number % SEEDS
    tasks = (_task("made-choice", 0.25), _task("made-yesno", 0.5))
    metrics = tuple(
        _metric(task.name, name, group, control, draw)
        for task in tasks
        for name in ("accuracy", "accuracy_macro", "unparsed_rate")
        for group in (None, *(GROUPS if name == "accuracy" else ()))
        for control in CONTROLS
    )
    digest = fingerprint(spec)
    return RunRecord.new(
        suite="understanding", seed=seed, limit=None,
        encoder=EncoderRecord(
            spec=spec, family="made", variant=spec.partition("/")[2], title="made", objective="none", control=False,
            weights="made", untrained=False, identity=digest, weights_digest=digest, adapter_version=1,
            num_params=86_000_000, num_params_frontend=0, resolution_px=(224, 224), grid=(14, 14), num_tokens=196,
            dim=768, depth=12, num_prefix=1, tap="last", licence="none", training_data="none", citation="none",
        ),
        protocol=ProtocolRecord(name="made", version=1, content={"name": "made", "stage": {"lr": 0.001}}),
        tasks=tasks, metrics=metrics,
        steps=(StepRecord(name="features", key=fingerprint([spec, seed]), seconds=1.0, cached=False, made_in_s=1.0),),
        measurements=(Measurement(name="encode", value=100.0, unit="images/s", reason=None),),
        environment=Environment(
            ovbench_version=ovbench.__version__, git_commit=None, git_dirty=None, python="3.11", packages={},
            platform="made", cpu="made", num_cores=1, device="cpu", device_name=None, dtype="float32", num_threads=1,
        ),
        started_utc="2026-01-20T10:00:00Z", finished_utc="2026-01-20T10:10:00Z", complete=True, warnings=(),
    )  # fmt: skip


def _task(name: str, chance: float) -> TaskRecord:
    return TaskRecord(
        name=name, version=1, title=name, kind="choice", family="mini", scorer="made-1", headline="accuracy",
        chance=chance, groups=GROUPS, data_digest=fingerprint(name), n=10_000, num_total=10_000, citation="none",
        licence="none",
    )  # fmt: skip


def _metric(task: str, name: str, group: str | None, control: str, draw: random.Random) -> MetricValue:
    value = draw.uniform(0.3, 0.7)
    return MetricValue(
        task=task, name=name, control=control, group=group, value=value, unit="fraction", higher_is_better=True,
        n=10_000 if group is None else 1_400, low=value - 0.01, high=value + 0.01, interval="made", reason=None,
    )  # fmt: skip


if __name__ == "__main__":
    main()
