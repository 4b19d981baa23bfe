"""Mistakes on the understanding side: three lines say what, where and how to mend it, before anything is trained."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from ovbench._base.errors import OvbenchError
from ovbench.cli import app
from ovbench.harness.run import run_job
from ovbench.results.record import RunRecord
from tests.end_to_end.llava_parts import (
    LLM,
    NUM_SCENES,
    STAGE1,
    STAGE2,
    plan,
    read_list,
    run_here,
    write_data,
    write_given,
    write_list,
    write_protocol,
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder, a protocol and a given LLaVA; tests copy what they spoil."""
    folder = tmp_path_factory.mktemp("mistakes")
    write_data(folder / "data", tasks=("pope", "seedbench"))
    write_protocol(folder / "own.yaml")
    write_given(folder / "given")
    return folder


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OVBENCH_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("OVBENCH_DATA", raising=False)
    torch.set_num_threads(1)


@pytest.fixture
def copied(source: Path, tmp_path: Path) -> Path:
    """The data folder, to be spoilt."""
    shutil.copytree(source / "data", tmp_path / "data")
    return tmp_path / "data"


def mistake(source: Path, tmp_path: Path, **words: Any) -> OvbenchError:
    """Runs up to the error and returns it; it must be three lines, and nothing may have been trained or encoded."""
    words = {"tasks": ["pope"], "data": source / "data", **words}
    protocol = words.pop("protocol", source / "own.yaml")
    with pytest.raises(OvbenchError) as caught:
        for job in plan(protocol, tmp_path / "runs", **words).jobs:
            run_job(job)
    assert len(str(caught.value).splitlines()) == 3, str(caught.value)
    for step in ("features", "llava_stage1", "llava_stage2", "answers"):
        assert not list((tmp_path / "cache" / step).glob("*")), step
    return caught.value


def test_missing_and_broken_pictures_are_named_and_refused(source: Path, copied: Path, tmp_path: Path) -> None:
    (copied / "coco/3.png").unlink()
    (copied / "LLaVA-Pretrain/images/5.png").write_bytes(b"no picture")
    error = mistake(source, tmp_path, data=copied, language_model=LLM)
    assert "1 of 40 rows of stage 1 cannot be trained on" in error.what
    assert "5.png" in error.what
    assert "--bad-rows drop" in error.fix


def test_rows_that_are_dropped_by_choice_are_counted_in_the_record(source: Path, copied: Path, tmp_path: Path) -> None:
    (copied / "coco/3.png").unlink()
    (copied / "LLaVA-Pretrain/images/5.png").write_bytes(b"no picture")
    record = run_here(
        source / "own.yaml", tmp_path / "runs", tasks=["pope"], data=copied, language_model=LLM, on_bad="drop"
    )
    found = {item.role: item for item in record.sources}
    assert found["conversations of stage 1"].count == NUM_SCENES - 1
    assert found["conversations of stage 2"].count == NUM_SCENES + 4 - 1
    assert "stage 1: 1 of 40 rows were left out" in record.warnings
    assert "stage 2: 1 of 44 rows were left out" in record.warnings
    # What a whole list gives has other names in the cache.
    with pytest.raises(OvbenchError, match="cannot be trained on"):
        run_here(source / "own.yaml", tmp_path / "runs", tasks=["pope"], data=copied, language_model=LLM)


def test_list_that_is_no_json_is_refused_with_the_place(source: Path, copied: Path, tmp_path: Path) -> None:
    text = (copied / STAGE2).read_text()
    (copied / STAGE2).write_text(text[: len(text) // 2])
    error = mistake(source, tmp_path, data=copied, language_model=LLM)
    assert STAGE2 in error.where
    assert "row" in error.what or "byte" in error.what


def test_row_without_an_answer_is_named(source: Path, copied: Path, tmp_path: Path) -> None:
    rows = read_list(copied / STAGE1)
    rows[7]["conversations"] = rows[7]["conversations"][:1]
    write_list(copied / STAGE1, rows)
    assert "row 8" in mistake(source, tmp_path, data=copied, language_model=LLM).what


def test_missing_list_and_missing_folder_are_named(source: Path, copied: Path, tmp_path: Path) -> None:
    (copied / STAGE2).unlink()
    assert STAGE2 in str(mistake(source, tmp_path, data=copied, language_model=LLM))
    error = mistake(source, tmp_path, data=None, language_model=LLM)
    assert error.where == "--data"
    assert STAGE1 in error.fix


def _no_tokenizer(folder: Path) -> None:
    for path in folder.glob("*token*"):
        path.unlink()


def _no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


@pytest.mark.parametrize(
    ("spoil", "message"), [(_no_tokenizer, "there is no tokenizer"), (_no_config, "there is no config.json")]
)
def test_language_model_without_a_part_is_refused_before_pictures_are_encoded(
    source: Path, tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    shutil.copytree(LLM, tmp_path / "lm")
    spoil(tmp_path / "lm")
    assert message in mistake(source, tmp_path, language_model=str(tmp_path / "lm")).what


def test_language_model_without_a_chat_template_is_refused_before_pictures_are_encoded(
    source: Path, tmp_path: Path
) -> None:
    protocol = write_protocol(tmp_path / "chat.yaml")
    protocol.write_text(protocol.read_text().replace("template: v1\n", "template: chat\n"))
    error = mistake(source, tmp_path, protocol=protocol, language_model=LLM)
    assert "chat template" in error.what


def test_language_models_that_are_not_here_are_said_with_the_way_out(source: Path, tmp_path: Path) -> None:
    error = mistake(source, tmp_path)
    assert "Qwen/Qwen2.5-0.5B-Instruct" in error.what
    assert "--llm FOLDER" in error.fix
    assert "there is no folder './none'" in mistake(source, tmp_path, language_model="./none").what


def test_folder_that_holds_no_llava_is_refused(source: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "no checkpoint of a known layout" in mistake(source, tmp_path, llava=tmp_path / "empty").what


def test_projector_of_another_width_and_model_of_another_encoder_are_refused(source: Path, tmp_path: Path) -> None:
    wide = write_given(tmp_path / "wide", dim=64)
    assert "64" in mistake(source, tmp_path, llava=wide).what
    error = mistake(source, tmp_path, llava=source / "given", encoders=["siglip"])
    assert error.what == "the model was trained on 'clip/mini', and 'siglip/mini' is asked for"
    assert error.fix == "use --encoder 'clip/mini'"


def test_another_language_model_than_the_one_inside_is_refused(source: Path, tmp_path: Path) -> None:
    assert "holds its language model" in mistake(source, tmp_path, llava=source / "given", language_model=LLM).what


def test_seeds_of_a_given_model_are_refused_since_nothing_is_drawn(source: Path, tmp_path: Path) -> None:
    error = mistake(source, tmp_path, llava=source / "given", seeds=[0, 1])
    assert error.where == "--seed"


def test_question_ids_that_occur_twice_are_refused(source: Path, copied: Path, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (path,) = (copied / "POPE").rglob("*.parquet")
    table = pq.read_table(path)
    pq.write_table(pa.concat_tables([table, table.slice(0, 1)]), path)
    error = mistake(source, tmp_path, data=copied, llava=source / "given")
    assert "twice" in error.what


def test_seedbench_keeps_the_id_that_occurs_twice_as_two_rows(source: Path, tmp_path: Path) -> None:
    record: RunRecord = run_here(
        source / "own.yaml", tmp_path / "runs", tasks=["seedbench"], data=source / "data", llava=source / "given"
    )
    assert record.task("seedbench").n == 18  # pyright: ignore[reportOptionalMemberAccess]


def test_letters_that_the_language_model_does_not_know_cannot_be_chosen_from(source: Path, tmp_path: Path) -> None:
    jobs = plan(
        source / "own.yaml",
        tmp_path / "runs",
        tasks=["seedbench"],
        data=source / "data",
        llava=source / "given",
        scoring="constrained",
    ).jobs
    with pytest.raises(OvbenchError, match="begin with the same token") as caught:
        run_job(jobs[0])
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--scoring", "foo"), "unknown scoring 'foo'"),
        (("--packing", "tight"), "unknown packing 'tight'"),
        (("--bad-rows", "keep"), "unknown bad-rows 'keep'"),
        (("--sharding", "fsdp"), "unknown sharding 'fsdp'"),
        (("--engine", "vlmevalkit"), "unknown engine 'vlmevalkit'"),
        (("--reference", "--trust-first-token"), "--reference checks every token"),
        (("--llava", "nowhere"), "there is no folder 'nowhere'"),
        (("--data", "nowhere"), "there is no folder 'nowhere'"),
        (("--launch", "k8s"), "unknown launcher 'k8s'"),
        (("--slurm", "gpus=2"), "--slurm has no effect without --launch slurm"),
        (("--launch", "slurm", "--slurm", "gpu=2"), "unknown setting 'gpu'"),
        (("--launch", "slurm", "--slurm", "gpus=two"), "'gpus' must be a whole number, got 'two'"),
        (("--launch", "slurm", "--slurm", "gpus"), "'gpus' is not understood"),
        (("--launch", "slurm"), "no job can be sent from here"),
        (("--suite", "generation", "--scoring", "ppl"), "--scoring is of the suite understanding, not of generation"),
        (("--suite", "generation", "--llm", LLM), "--llm is of the suite understanding, not of generation"),
        (("--suite", "reconstruction", "--bad-rows", "drop"), "--bad-rows is of the suite understanding"),
        (("--suite", "generation", "--engine", "lmms-eval"), "lmms-eval scores answers, not pictures"),
    ],
)
def test_option_that_cannot_be_is_said_in_three_lines(
    words: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")  # no Slurm, wherever the tests run
    done = CliRunner().invoke(app, ["run", "-e", "clip", *words])
    assert done.exit_code == 2, done.output
    lines = done.stderr.splitlines()
    assert [line[:8] for line in lines] == ["error: " + message[0], "  where:", "  fix:  "]
    assert message in lines[0]


def test_the_command_ends_with_exit_code_2_and_no_traceback(source: Path) -> None:
    words = ["run", "-e", "clip", "-p", str(source / "own.yaml"), "--tasks", "pope", "--data", str(source / "data")]
    done = CliRunner().invoke(app, [*words, "--llava", str(source / "data")])
    assert done.exit_code == 2, done.output
    assert "error: no checkpoint of a known layout" in done.stderr
    assert "Traceback" not in done.stderr
