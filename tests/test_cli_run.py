"""`ovbench run`: words of the command line become options, and jobs of a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ovbench.cli import app
from ovbench.harness import launch
from ovbench.harness.plan import Plan
from ovbench.harness.understanding.options_config import UnderstandingOptions, read_options
from tests.end_to_end.llava_parts import LLM

RUN = ("run", "-e", "clip", "-e", "siglip", "--seed", "0", "--seed", "1")


@pytest.fixture(autouse=True)
def _folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """Plans that would have been run."""
    found: list[Plan] = []
    monkeypatch.setattr("ovbench.cli_run.print_records", lambda plan, folder, **words: found.append(plan) or [])
    return found


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What would have been sent to the cluster."""
    found: list[dict[str, Any]] = []
    monkeypatch.setattr(launch, "submit", lambda jobs, **words: found.append({"jobs": jobs, **words}) or [])
    return found


def test_words_become_options(planned: list[Plan], tmp_path: Path) -> None:
    words = ("--llm", LLM, "--scoring", "ppl", "--packing", "padded", "--bad-rows", "drop", "--sharding", "fsdp2")
    done = CliRunner().invoke(app, [*RUN, *words, "--trust-first-token", "--data", str(tmp_path)])
    assert done.exit_code == 0, done.output
    (plan,) = planned
    assert len(plan.jobs) == 4
    assert plan.jobs[0].understanding == UnderstandingOptions(
        data=tmp_path, language_model=LLM, scoring="ppl", packing="padded", trust_first_token=True, sharding="fsdp2",
        on_bad="drop",
    )  # fmt: skip


def test_without_such_words_there_are_no_options(planned: list[Plan]) -> None:
    assert CliRunner().invoke(app, list(RUN)).exit_code == 0
    assert planned[0].jobs[0].understanding is None


def test_folders_are_kept_in_full_and_hub_ids_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "lm").mkdir()
    found = read_options(data=None, language_model="lm", llava=Path("lm"))
    assert found is not None
    assert (found.language_model, found.llava) == (str(tmp_path / "lm"), tmp_path / "lm")
    named = read_options(data=None, language_model="Qwen/Qwen2.5-0.5B-Instruct")
    assert named is not None
    assert named.language_model == "Qwen/Qwen2.5-0.5B-Instruct"


def test_slurm_gets_a_job_per_encoder_and_seed_with_every_word(sent: list[dict[str, Any]], tmp_path: Path) -> None:
    slurm = "gpus=8,nodes=2,time=60,partition=gpu,account=lab"
    words = ("--launch", "slurm", "--slurm", slurm, "--llm", LLM, "--scoring", "ppl", "--reference", "--out", "records")
    done = CliRunner().invoke(app, [*RUN, *words])
    assert done.exit_code == 0, done.output
    (found,) = sent
    assert (found["gpus"], found["nodes"], found["time"], found["partition"]) == (8, 2, 60, "gpu")
    assert found["more"] == {"slurm_account": "lab"}
    assert found["folder"] == Path("records/.slurm")
    assert len(found["jobs"]) == 4
    arguments = found["jobs"][0].arguments
    assert arguments[0] == "run"
    for pair in (("--llm", LLM), ("--scoring", "ppl"), ("--out", str(tmp_path / "records")), ("--protocol", "mini")):
        assert arguments[arguments.index(pair[0]) + 1] == pair[1]
    assert "--reference" in arguments
    assert "--launch" not in arguments
    assert "--trust-first-token" not in arguments
    assert arguments[-4:] == ("--encoder", "clip/mini", "--seed", "0")


def test_arguments_that_slurm_gets_are_a_command_that_is_understood(
    sent: list[dict[str, Any]], planned: list[Plan]
) -> None:
    assert CliRunner().invoke(app, [*RUN, "--launch", "slurm", "--limit", "7", "--llm", LLM]).exit_code == 0
    done = CliRunner().invoke(app, list(sent[0]["jobs"][-1].arguments))
    assert done.exit_code == 0, done.output
    (job,) = planned[0].jobs
    assert (job.encoder.canonical, job.seed, job.limit) == ("siglip/mini", 1, 7)
    assert job.understanding == UnderstandingOptions(language_model=LLM)
