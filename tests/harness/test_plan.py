"""Bad words on the command line are caught before anything expensive starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ovbench._base.errors import ConfigError
from ovbench.harness import plan as planning
from ovbench.harness.plan import Plan, plan_runs

CATALOG = Path(planning.__file__).parents[1] / "tasks" / "catalog"


def plan(out: Path, **changes: Any) -> Plan:
    words = {
        "encoders": ["ovis3"],
        "suite": "understanding",
        "protocol": "mini",
        "tasks": None,
        "limit": None,
        "seeds": (0,),
        "device": "cpu",
        "dtype": "float32",
        "batch_size": 64,
        "out": out,
    }
    return plan_runs(**{**words, **changes})


def test_one_job_per_encoder_and_seed_and_no_job_twice(tmp_path: Path) -> None:
    made = plan(tmp_path, encoders=["clip", "ovis3", "openvision3/mini"], seeds=(0, 1, 0))
    assert [(job.encoder.canonical, job.seed) for job in made.jobs] == [
        ("clip/mini", 0),
        ("ovis3/mini", 0),
        ("clip/mini", 1),
        ("ovis3/mini", 1),
    ]


def test_the_headline_says_which_weights_and_which_protocol(tmp_path: Path) -> None:
    headline = plan(tmp_path, encoders=["ovis3", "random"], limit=10).headline
    for part in ("mini v1", "ovis3/mini (embedded weights)", "random/mini (untrained)", "limit 10", "mini-seed"):
        assert part in headline


@pytest.mark.parametrize(
    ("changes", "what", "fix"),
    [
        ({"encoders": ["clyp"]}, "unknown encoder 'clyp'", "'clip'"),
        ({"encoders": []}, "no encoder", "ovbench encoders"),
        ({"suite": "understandin"}, "unknown suite 'understandin'", "'understanding'"),
        ({"protocol": "mni"}, "unknown protocol 'mni'", "'mini'"),
        ({"tasks": ("mini-sed",)}, "unknown task 'mini-sed'", "'mini-seed'"),
        ({"tasks": ()}, "no task", "--tasks"),
        ({"limit": 0}, "--limit must be 1 or more, got 0", ""),
        ({"limit": -3}, "--limit must be 1 or more, got -3", ""),
        ({"seeds": (-1,)}, "a seed must be 0 or more, got -1", ""),
        ({"batch_size": 0}, "--batch-size", ""),
        ({"dtype": "float8"}, "unknown dtype 'float8'", "bfloat16"),
        ({"device": "mps"}, "unknown device 'mps'", "cuda"),
        ({"seeds": (1.5,)}, "seed must be a whole number, got 1.5", ""),
        ({"seeds": ("0",)}, "seed must be a whole number, got '0'", ""),
        ({"limit": True}, "limit must be a whole number, got True", ""),
        ({"tasks": "mini-pope"}, "tasks must be a list of names", ""),
        ({"encoders": ["vae"]}, "not to a language model", "ovbench encoders"),
    ],
)
def test_each_mistake_names_itself_and_the_way_out(
    tmp_path: Path, changes: dict[str, Any], what: str, fix: str
) -> None:
    with pytest.raises(ConfigError, match=what) as caught:
        plan(tmp_path, **changes)
    assert fix in caught.value.fix


def test_an_output_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write"):
        plan(tmp_path / "file" / "runs")


def test_a_full_disk_is_said_before_the_work_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "_SPACE_NEEDED_BYTES", 2**60)
    with pytest.raises(ConfigError, match="MiB are free"):
        plan(tmp_path)


def test_two_tasks_of_one_name_are_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        text = (CATALOG / "mini-pope.yaml").read_text().replace("name: mini-pope", "name: mine")
        (tmp_path / f"{name}.yaml").write_text(text.replace("family: mini", "family: local"))
    with pytest.raises(ConfigError, match="two tasks are named 'mine'"):
        plan(tmp_path, tasks=(str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml")))
