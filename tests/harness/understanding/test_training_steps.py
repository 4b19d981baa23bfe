"""Steps of the two stages: what is in their names, and what ends a run before stage 2."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ovbench._base.errors import ConfigError, OvbenchError
from ovbench.harness.events import Reporter, ignore
from ovbench.harness.steps import StepCache
from ovbench.harness.understanding.config import LlavaConfig, StageConfig
from ovbench.harness.understanding.language_model import check_language_model
from ovbench.harness.understanding.pipeline import UnderstandingRun
from tests.end_to_end.llava_parts import LLM, PROXY, plan, run_here, write_data, write_protocol

Keys = Callable[..., tuple[str, str]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "data", tasks=("pope",))


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVBENCH_CACHE", str(tmp_path / "cache"))
    torch.set_num_threads(1)


@pytest.fixture
def keys(data: Path, tmp_path: Path) -> Keys:
    """Returns the keys of stage 1 and 2 under changes of the protocol or of the command."""

    def make(changes: dict[str, Any] | None = None, **words: Any) -> tuple[str, str]:
        protocol = write_protocol(tmp_path / "own.yaml", changes=changes)
        words = {"data": data, "language_model": LLM, **words}
        (job,) = plan(protocol, tmp_path / "runs", tasks=["pope"], **words).jobs
        run = UnderstandingRun(job, StepCache(tmp_path / "cache"), Reporter(job.name, ignore))
        assert run.training is not None
        return run.training.stage1_step.key, run.training.stage2_step.key

    return make


@pytest.mark.parametrize(
    "changes",
    [{"max_length": 512}, {"strict_reference": False}, {"projector": "linear"}, {"precision": "bfloat16"}],
)
def test_what_changes_the_weights_changes_both_names(keys: Keys, changes: dict[str, Any]) -> None:
    usual, other = keys(), keys(changes)
    assert usual[0] != other[0]
    assert usual[1] != other[1]


@pytest.mark.parametrize("changes", [{"gradient_checkpointing": True}, {"max_new_tokens": 3}, {"controls": []}])
def test_what_changes_no_weight_changes_no_name(keys: Keys, changes: dict[str, Any]) -> None:
    assert keys(changes) == keys()


def test_ways_of_computing_and_asking_change_no_name_and_the_seed_does(keys: Keys) -> None:
    usual = keys()
    assert keys(batch_size=3, sharding="fsdp2", reference=True, scoring="ppl") == usual
    assert keys(seeds=[1]) != usual


def test_captions_held_out_for_the_gate_are_in_the_name_and_its_bounds_are_not(keys: Keys) -> None:
    bounds = {"max_loss": 4.0, "min_drop": 0.2, "min_gain": 0.05}
    usual = keys({"gate": {"mode": "warn", "num_images": 16, **bounds}})
    assert keys({"gate": {"mode": "refuse", "num_images": 16, **bounds, "max_loss": 1.0}}) == usual
    assert keys({"gate": {"mode": "warn", "num_images": 8, **bounds}})[0] != usual[0]
    assert keys({"gate": "off"})[0] != usual[0]


def test_gate_that_refuses_ends_the_run_before_stage_2_and_stage_1_is_kept(data: Path, tmp_path: Path) -> None:
    gate = {"mode": "refuse", "num_images": 16, "max_loss": 0.01}
    protocol = write_protocol(tmp_path / "own.yaml", changes={"gate": gate})
    for _ in range(2):  # stage 1 from the cache passes no better
        with pytest.raises(OvbenchError, match="stage 1 did not pass the gate"):
            run_here(protocol, tmp_path / "runs", tasks=["pope"], data=data, language_model=LLM)
    assert len(list((tmp_path / "cache/llava_stage1").glob("*/llava.safetensors"))) == 1
    assert not list((tmp_path / "cache").glob("llava_stage2/*"))
    assert not list((tmp_path / "cache").glob("answers/*"))


def test_templates_of_both_stages_are_looked_at() -> None:
    recipe = LlavaConfig(language_model=LLM)
    check_language_model(recipe.language_model, [recipe.stage1.template, recipe.stage2.template])
    stage = StageConfig(steps=1, batch_size=1, lr=1e-3, template="chat")
    with pytest.raises(ConfigError, match="chat template"):
        check_language_model(recipe.language_model, [recipe.stage1.template, stage.template])


def test_the_proxy_that_the_tests_change_is_that_of_the_package() -> None:
    assert "name: llava15-proxy" in PROXY.read_text(encoding="utf-8")
