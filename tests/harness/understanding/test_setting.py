"""What a run needs, found and checked: identities of models, aspects, taps, and what has no effect."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ovbench._base.errors import ConfigError, DataError
from ovbench.harness.understanding.setting import Setting, given_identity, language_model_identity, open_setting
from tests.end_to_end.llava_parts import LLM, plan, write_given, write_protocol

Open = Callable[..., Setting]


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
    monkeypatch.setenv("OVBENCH_CACHE", str(tmp_path / "cache"))

    def make(*, changes: dict[str, Any] | None = None, **words: Any) -> Setting:
        protocol = write_protocol(tmp_path / "own.yaml", changes=changes)
        (job,) = plan(protocol, tmp_path / "runs", tasks=["pope"], **words).jobs
        return open_setting(job)

    return make


def test_given_model_is_asked_with_its_own_aspect_and_not_the_protocols(opened: Open, tmp_path: Path) -> None:
    given = write_given(tmp_path / "given")
    setting = opened(llava=given)
    assert setting.training is None
    assert setting.answer_spec == setting.spec("pad")
    assert setting.answer_spec != setting.spec("square")
    assert setting.model_identity == given_identity(given)


def test_word_of_the_user_on_the_aspect_comes_first(opened: Open, tmp_path: Path) -> None:
    setting = opened(llava=write_given(tmp_path / "given"), encoders=["clip?aspect=crop"])
    assert setting.answer_spec == setting.encoder.info.input


def test_tap_of_the_protocol_is_used_where_nobody_names_another(opened: Open, tmp_path: Path) -> None:
    given = write_given(tmp_path / "given")
    assert opened(llava=given).tap == opened(llava=given).encoder.info.llm_tap
    changed = opened(llava=given, changes={"tap": {"layer": 1, "norm": "none"}})
    assert (changed.tap.layer, changed.tap.norm) == (1, "none")


def test_language_model_outside_a_checkpoint_is_part_of_its_identity(opened: Open, tmp_path: Path) -> None:
    """A projector alone is another model beside another language model."""
    shutil.copytree(LLM, tmp_path / "lm")
    given = write_given(tmp_path / "given", language_model=str(tmp_path / "lm"))
    first = opened(llava=given).model_identity
    assert first != given_identity(given)
    assert first == opened(llava=given, language_model=LLM).model_identity  # equal files by another way
    (tmp_path / "lm" / "more.json").write_text("{}")
    assert opened(llava=given).model_identity != first


def test_every_byte_of_a_given_folder_is_in_its_identity(tmp_path: Path) -> None:
    given = write_given(tmp_path / "given")
    before = given_identity(given)
    assert "mm_projector.safetensors" in before
    assert any(name.startswith("language_model/") for name in before)
    path = given / "language_model" / "config.json"
    path.write_text(path.read_text() + " ")
    after = given_identity(given)
    assert [name for name in before if before[name] != after[name]] == ["language_model/config.json"]


@pytest.mark.parametrize("name", ["/nowhere/lm", "./nowhere", "~/nowhere", "a/b/c"])
def test_path_of_a_language_model_that_is_not_there_is_no_hub_id(name: str) -> None:
    with pytest.raises(ConfigError, match="there is no folder"):
        language_model_identity(name)


def test_folder_without_a_language_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no config\.json"):
        language_model_identity(str(tmp_path))


def test_choice_about_bad_rows_without_lists_is_said_to_have_no_effect(
    opened: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    opened(llava=write_given(tmp_path / "given"), on_bad="drop")
    assert "--bad-rows has no effect" in caplog.text
