"""Tasks of pictures: every one of the catalogue, and what makes none."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ovbench._base.errors import ConfigError
from ovbench.tasks.load import load_suite
from ovbench.tasks.pictures import load_picture_task, picture_task_names


@pytest.mark.parametrize("name", picture_task_names())
def test_every_task_says_what_it_is(name: str) -> None:
    task = load_picture_task(name)
    assert task.name == name
    assert task.citation
    assert task.licence
    assert task.description
    assert (task.family == "mini") == name.startswith("mini-")


@pytest.mark.parametrize("suite", ["generation", "reconstruction"])
@pytest.mark.parametrize("protocol", ["mini", "mini-smoke", "rae-imagenet256", "rae-imagenet256-100ep"])
def test_suites_name_tasks_of_their_own_kind(suite: str, protocol: str) -> None:
    for name in load_suite(suite, protocol):
        assert load_picture_task(name).kind == suite


def test_the_miniature_never_compares_with_the_network_of_fid() -> None:
    for name in picture_task_names():
        task = load_picture_task(name)
        assert (task.extractor == "inception-tf") == (task.family == "paper")


def test_pairs_and_sets_are_told_apart() -> None:
    task = load_picture_task("imagenet256-reconstruction")
    assert task.pair_metrics == ("psnr", "ssim", "lpips")
    assert task.set_metrics == ("fid",)


def test_an_unknown_task_gets_a_suggestion() -> None:
    with pytest.raises(ConfigError) as caught:
        load_picture_task("mini-image")
    assert "mini-images" in caught.value.fix


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "generations"}, "kind"),
        ({"headline": "kid"}, "headline"),
        ({"metrics": ("fid", "fid")}, "distinct"),
        ({"reference": "adm"}, "made of"),
        ({"family": "tiny"}, "family"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(load_picture_task("mini-reconstruction"), **changes)  # pyright: ignore[reportArgumentType]
