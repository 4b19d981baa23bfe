"""Plans of the suites of pictures: which runs there are, which settings each has, and what is refused or said."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from ovbench._base.errors import ConfigError
from ovbench.harness.generation.options_config import GenerationOptions, parse_guidances
from ovbench.harness.plan import Plan, plan_runs


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVBENCH_CACHE", str(tmp_path / "cache"))


def plan(root: Path, **changes: Any) -> Plan:
    words: dict[str, Any] = {
        "encoders": ["clip"], "suite": "generation", "protocol": "mini-smoke", "tasks": None, "limit": None,
        "seeds": (0,), "device": "cpu", "dtype": "float32", "batch_size": 64, "out": root / "runs",
    }  # fmt: skip
    return plan_runs(**{**words, **changes})


def test_all_is_every_suite_of_the_protocol(tmp_path: Path) -> None:
    jobs = plan(tmp_path, suite="all").jobs
    assert [job.suite for job in jobs] == ["understanding", "reconstruction", "generation"]


def test_an_encoder_that_no_language_model_reads_is_said_to_be_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        jobs = plan(tmp_path, suite="all", encoders=["vae", "clip"]).jobs
    assert [(job.suite, job.encoder.canonical) for job in jobs] == [
        ("understanding", "clip/mini"),
        *((suite, name) for suite in ("reconstruction", "generation") for name in ("vae/mini", "clip/mini")),
    ]
    (message,) = caplog.messages
    assert message.startswith("vae/mini: suite understanding left out")


@pytest.mark.parametrize(
    ("changes", "what", "fix"),
    [
        ({"tasks": ("mini-seed",)}, "'mini-seed' is a task of understanding", "--suite understanding"),
        ({"tasks": ("mini-reconstruction",)}, "'mini-reconstruction' is a task of reconstruction", "reconstruction"),
        (
            {"suite": "understanding", "tasks": ("mini-images",)},
            "'mini-images' is a task of generation",
            "--suite generation",
        ),
        ({"tasks": ("mini-image",)}, "unknown task 'mini-image'", "'mini-images'"),
        ({"suite": "all", "tasks": ("mini-images",)}, "does not say which suite", "name one suite"),
        ({"limit": 5}, "--limit is of questions", "--num-samples"),
        ({"suite": "reconstruction", "limit": 5}, "--limit is of questions", "--num-samples"),
        ({"suite": "genration"}, "unknown suite 'genration'", "'generation'"),
        (
            {"suite": "understanding", "protocol": "rae-imagenet256", "encoders": ["dinov2"]},
            "has no section 'understanding'",
            "reconstruction, generation",
        ),
    ],
)
def test_each_mistake_names_itself_and_the_way_out(
    tmp_path: Path, changes: dict[str, Any], what: str, fix: str
) -> None:
    with pytest.raises(ConfigError) as error:
        plan(tmp_path, **changes)
    assert what in error.value.what
    assert fix in error.value.fix


def sweep(**options: Any) -> list[GenerationOptions]:
    return [
        GenerationOptions(guidance=guidance, **options) for guidance in parse_guidances(["none", "cfg:1.5", "cfg:1.5"])
    ]


def test_a_sweep_is_a_run_per_guidance_and_reconstructs_once(tmp_path: Path) -> None:
    jobs = plan(tmp_path, generation=sweep(), with_reconstruction=True).jobs
    assert [job.name for job in jobs] == [
        "clip/mini reconstruction seed 0",
        "clip/mini generation none seed 0",
        "clip/mini generation cfg:1.5 seed 0",
    ]


def test_reconstructions_get_nothing_that_is_about_samples(tmp_path: Path) -> None:
    (options,) = (
        job.generation
        for job in plan(
            tmp_path,
            generation=sweep(num_samples=9, save_samples=tmp_path / "s", save_format="npz"),
            with_reconstruction=True,
        ).jobs
        if job.suite == "reconstruction"
    )
    assert options == GenerationOptions()


def folders(made: Plan) -> list[Path]:
    return [
        job.generation.save_samples
        for job in made.jobs
        if job.generation is not None and job.generation.save_samples is not None
    ]


def test_a_single_run_saves_into_the_folder_itself(tmp_path: Path) -> None:
    options = [GenerationOptions(save_samples=tmp_path / "s")]
    assert folders(plan(tmp_path, generation=options, with_reconstruction=True)) == [tmp_path / "s"]


def test_several_runs_save_side_by_side(tmp_path: Path) -> None:
    options = [GenerationOptions(save_samples=tmp_path / "s")]
    found = folders(plan(tmp_path, generation=options, encoders=["clip", "clip/mini?size=64"], seeds=(0, 3)))
    assert [path.name for path in found] == [
        "clip-mini-seed-0", "clip-mini-size-64-seed-0", "clip-mini-seed-3", "clip-mini-size-64-seed-3",
    ]  # fmt: skip
    assert {path.parent for path in found} == {tmp_path / "s"}


def test_a_worker_plans_the_same_folder_although_its_parent_is_there_by_then(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    options = [GenerationOptions(save_samples=tmp_path / "s" / "clip-mini-seed-0")]
    assert folders(plan(tmp_path, generation=options, out=None)) == [tmp_path / "s" / "clip-mini-seed-0"]


def test_a_folder_that_holds_something_else_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is there already"):
        plan(tmp_path, generation=[GenerationOptions(save_samples=tmp_path / "s")])


def test_data_of_pictures_beside_questions_is_said_to_have_no_effect(caplog: pytest.LogCaptureFixture) -> None:
    plan_runs(
        encoders=["clip"], suite="understanding", protocol="mini", tasks=None, limit=None, seeds=(0,), device="cpu",
        dtype="float32", batch_size=64, out=None, generation=[GenerationOptions(data="somewhere")],
    )  # fmt: skip
    assert "--data and --adm-file have no effect on questions" in caplog.text
