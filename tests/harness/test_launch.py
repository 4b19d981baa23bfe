"""One job per encoder and seed, sent through submitit: its executors for one machine run what a cluster would."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from ovbench._base.errors import ConfigError, DependencyError, OvbenchError
from ovbench.harness import launch
from ovbench.harness.launch import LaunchJob, NodeTask, child_environment, command_line, jobs_of, submit

submitit = pytest.importorskip("submitit", reason="the extra slurm is not installed")


def test_there_is_a_job_for_every_encoder_and_seed() -> None:
    jobs = jobs_of(("run", "--suite", "understanding"), encoders=["clip/l14-336", "ovis3?size=256"], seeds=[0, 1])
    assert [job.name for job in jobs] == [
        "ovbench-clip-l14-336-0",
        "ovbench-clip-l14-336-1",
        "ovbench-ovis3-size-256-0",
        "ovbench-ovis3-size-256-1",
    ]
    assert jobs[2].arguments == ("run", "--suite", "understanding", "--encoder", "ovis3?size=256", "--seed", "0")


@pytest.mark.parametrize(
    ("encoders", "seeds", "message"),
    [([], [0], "no encoder"), (["a"], [], "no seed"), (["a", "a"], [0], "an encoder"), (["a"], [1, 1], "a seed is")],
)
def test_nothing_or_the_same_twice_is_refused(encoders: list[str], seeds: list[int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        jobs_of(("run",), encoders=encoders, seeds=seeds)


def test_one_process_is_started_without_a_launcher() -> None:
    assert command_line(("run", "-e", "x"), gpus=1) == [sys.executable, "-m", "ovbench", "run", "-e", "x"]


def test_several_processes_of_a_node_are_started_by_torchrun() -> None:
    words = command_line(("run",), gpus=8, python="py")
    assert words == [
        "py", "-m", "torch.distributed.run", "--nnodes=1", "--nproc-per-node=8", "--standalone", "-m", "ovbench", "run",
    ]  # fmt: skip


def test_nodes_meet_at_the_first_one() -> None:
    words = command_line(("run",), gpus=4, nodes=2, head="node7", job_id="4711")
    assert words[3:5] == ["--nnodes=2", "--nproc-per-node=4"]
    assert "--rdzv-id=4711" in words
    (endpoint,) = (word for word in words if word.startswith("--rdzv-endpoint="))
    assert endpoint.startswith("--rdzv-endpoint=node7:")
    assert 20_000 <= int(endpoint.rpartition(":")[2]) < 40_000
    assert words == command_line(("run",), gpus=4, nodes=2, head="node7", job_id="4711")  # the same on every node
    assert words != command_line(("run",), gpus=4, nodes=2, head="node7", job_id="4712")


def test_what_another_launcher_said_does_not_reach_a_job() -> None:
    assert child_environment({"RANK": "1", "WORLD_SIZE": "2", "HOME": "h"}) == {"HOME": "h"}


def version(folder: Path, **options: Any) -> launch.Submitted:
    (sent,) = submit([LaunchJob(name="a", arguments=("--version",))], folder=folder, **options)
    return sent


def test_a_job_runs_its_command_to_the_end(tmp_path: Path) -> None:
    """In the background of this machine, as on a cluster: pickled, unpickled in a program of its own, logged."""
    sent = version(tmp_path, cluster="local", gpus=0)
    assert sent.handle.result() == 0
    assert "ovbench" in sent.handle.stdout()
    assert sent.folder.parent == tmp_path


def test_a_job_can_run_in_this_process(tmp_path: Path) -> None:
    assert version(tmp_path, cluster="debug", gpus=0).handle.result() == 0


@pytest.mark.parametrize("error", [OSError("sbatch: no such file"), RuntimeError("sbatch: invalid partition")])
def test_a_job_that_is_not_taken_is_an_error_that_names_those_sent(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = submitit.AutoExecutor.submit

    def submit_one(self: Any, task: NodeTask) -> Any:
        if task.arguments == ("b",):
            raise error
        return send(self, task)

    monkeypatch.setattr(submitit.AutoExecutor, "submit", submit_one)
    jobs = [LaunchJob(name="a", arguments=("--version",)), LaunchJob(name="b", arguments=("b",))]
    with pytest.raises(OvbenchError) as caught:
        submit(jobs, folder=tmp_path, cluster="debug", gpus=0)
    assert caught.value.what == f"'b' cannot be sent: {error}"
    assert caught.value.fix is not None
    assert caught.value.fix.startswith("already sent: a is job ")


def test_a_failed_command_fails_the_job_with_its_status(tmp_path: Path) -> None:
    (sent,) = submit([LaunchJob(name="a", arguments=("runn",))], folder=tmp_path, cluster="local", gpus=0)
    with pytest.raises(submitit.core.utils.FailedJobError) as caught:
        sent.handle.result()
    assert "'ovbench runn' ended with status 2" in str(caught.value)
    assert "goes on where it ended" in str(caught.value)


def test_a_preempted_job_is_sent_again_as_it_was() -> None:
    task = NodeTask(arguments=("run",), gpus=2, nodes=1)
    again = task.checkpoint()
    assert isinstance(again, submitit.helpers.DelayedSubmission)
    assert again.function == task


def test_settings_reach_the_batch_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """submitit writes what sbatch would be given; sbatch itself is not called."""
    from submitit.slurm.slurm import SlurmExecutor

    calls: list[list[str]] = []
    monkeypatch.setattr(SlurmExecutor, "affinity", classmethod(lambda kind: 2))

    class Told(submitit.core.utils.CommandFunction):
        def __init__(self, command: list[str], **options: Any) -> None:
            super().__init__(["true"], **options)
            calls.append(command)

        def __call__(self, *arguments: Any, **options: Any) -> str:
            return "Submitted batch job 99"

    monkeypatch.setattr("submitit.core.utils.CommandFunction", Told)
    (sent,) = submit(
        [LaunchJob(name="clip-0", arguments=("run", "--encoder", "clip"))],
        partition="long",
        gpus=8,
        nodes=2,
        time=90,
        folder=tmp_path,
        more={"slurm_account": "vision"},
    )
    assert sent.job_id == "99"
    assert calls[0][0] == "sbatch"
    text = Path(calls[0][-1]).read_text(encoding="utf-8") if Path(calls[0][-1]).is_file() else ""
    text = text or next(tmp_path.rglob("*submission*.sh")).read_text(encoding="utf-8")
    for line in (
        "--job-name=clip-0", "--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=8", "--cpus-per-task=64",
        "--time=90", "--partition=long", "--account=vision",
    ):  # fmt: skip
        assert f"#SBATCH {line}\n" in text, text


def test_a_machine_without_slurm_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="no job can be sent from here") as caught:
        version(tmp_path)
    assert "login node" in caught.value.fix


def test_a_missing_package_is_named_with_the_line_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(DependencyError) as caught:
        version(tmp_path)
    assert caught.value.fix == "run: python -m pip install 'ovbench[slurm]'"


@pytest.mark.parametrize("change", [{"gpus": -1}, {"nodes": 0}, {"time": 0}, {"cpus_per_gpu": 0}])
def test_impossible_counts_are_refused(tmp_path: Path, change: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="or more, got"):
        version(tmp_path, **change)


def test_two_jobs_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the same name"):
        submit([LaunchJob(name="a", arguments=("run",))] * 2, folder=tmp_path)
