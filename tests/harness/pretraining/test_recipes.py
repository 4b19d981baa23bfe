"""Recipes: the miniature ones, and OpenVision 3's at the paper's size."""

from __future__ import annotations

import pytest
import torch

from ovbench._base.errors import ConfigError
from ovbench.harness.pretraining.data import VOCABULARY_SIZE
from ovbench.harness.pretraining.model import Pretrainer
from ovbench.harness.pretraining.recipes import MINI, PAPER, find_recipe, with_steps


def test_the_three_miniature_recipes_differ_in_objective_and_front_end_alone() -> None:
    ovis3, clip, siglip = (MINI[name] for name in ("ovis3", "clip", "siglip"))
    assert ovis3.phases == clip.phases == siglip.phases
    assert ovis3.text == clip.text == siglip.text
    for field in ("width", "layers", "head_width", "embed_dim", "input_size"):
        assert getattr(ovis3.trunk, field) == getattr(clip.trunk, field)
    assert clip.trunk == siglip.trunk
    assert {recipe.objective.contrastive for recipe in (clip, siglip)} == {"softmax", "sigmoid"}


def test_ovis3_has_the_papers_weights() -> None:
    objective = MINI["ovis3"].objective
    assert (objective.beta, objective.alpha, objective.omega_rec, objective.omega_und) == (0.4, 1.0, 0.5, 1.0)


def test_the_vocabulary_fits_the_world() -> None:
    assert MINI["clip"].text.vocabulary_size == VOCABULARY_SIZE


@pytest.mark.parametrize(
    ("name", "millions", "tokens"),
    [("ovis3-base-224", 85.9, 196), ("ovis3-base-256", 85.9, 256), ("ovis3-large-256", 303.4, 256)],
)
def test_paper_scale_builds_with_the_published_size(name: str, millions: float, tokens: int) -> None:
    recipe = PAPER[name]
    with torch.device("meta"):
        model = Pretrainer(recipe)
    count = sum(parameter.numel() for parameter in model.visual.parameters()) / 1e6
    assert count == pytest.approx(millions, rel=0.005)
    assert model.visual.config.grid**2 == tokens
    side = model.visual.config.image_size
    out = model.visual(torch.empty(2, 16, side, side, device="meta"))
    assert out.tokens.shape == (2, tokens, recipe.trunk.width)
    assert model.decoder(out.tokens).shape == (2, 16, side, side)
    assert len(model.decoder.blocks) == 12
    assert model.captioner is not None


def test_paper_schedule_is_table_1() -> None:
    low, full = PAPER["ovis3-base-256"].phases
    assert (low.resolution, low.batch_size, full.resolution, full.batch_size) == (128, 8192, 256, 4096)
    assert (low.lr, full.lr) == (pytest.approx(2.56e-4), pytest.approx(6.4e-6))
    assert (low.lambda_lpips, full.lambda_lpips) == (0.0, 0.5)
    assert low.steps == pytest.approx(4000 * 1.281e6 / 8192, rel=0.001)


def test_unknown_names_come_with_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="unknown recipe 'clap'") as caught:
        find_recipe("clap", "mini")
    assert "'clip'" in caught.value.fix
    with pytest.raises(ConfigError, match="unknown protocol"):
        find_recipe("clip", "maxi")


def test_a_fraction_scales_every_stage() -> None:
    half = with_steps(MINI["clip"], 0.5)
    assert [phase.steps for phase in half.phases] == [phase.steps // 2 for phase in MINI["clip"].phases]
    with pytest.raises(ConfigError):
        with_steps(MINI["clip"], 0.0)
