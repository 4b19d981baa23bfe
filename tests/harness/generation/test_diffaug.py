from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ovbench._base.errors import ConfigError
from ovbench.harness.generation.decoder_config import AugmentConfig
from ovbench.harness.generation.diffaug import AugmentDraws, diff_augment, draw, draw_by_index
from tests.harness.generation.rae_data import assert_golden, golden, golden_names, randn


def _draws(uniforms: Tensor, *, translation: bool = True, colour: bool = True, cutout: bool = True) -> AugmentDraws:
    applied = torch.tensor([translation, colour, cutout])[:, None].expand(3, uniforms.shape[1])
    return AugmentDraws(uniforms=uniforms, applied=applied)


def _uniforms(*values: float, batch: int = 1) -> Tensor:
    filled = [*values, *[0.5] * (7 - len(values))]
    return torch.tensor(filled).view(7, 1, 1, 1).repeat(1, batch, 1, 1)


@pytest.mark.parametrize("name", golden_names("rae_disc"))
def test_augmented_pictures_are_the_references(name: str) -> None:
    tensors = golden(name).tensors
    for key in (key for key in tensors if key.startswith("out.diffaug")):
        config = AugmentConfig(cutout=float(key.removeprefix("out.diffaug").removeprefix("_cutout") or 0.0))
        augmented = diff_augment(tensors["in.image"], _draws(tensors["in.diffaug_rand"]), config)
        assert_golden(augmented, tensors[key])


@pytest.mark.parametrize(("first", "second"), [(0.0, 0.999), (0.5, 0.5), (0.999, 0.0)])
def test_translation_moves_by_whole_pixels_and_fills_with_zeros(first: float, second: float) -> None:
    images = randn(1, 2, 16, 24)
    draws = _draws(_uniforms(first, second), colour=False)
    moved = diff_augment(images, draws, AugmentConfig())
    rows, columns = int(first * 5) - 2, int(second * 7) - 3  # round(16 / 8) = 2, round(24 / 8) = 3
    for row in range(16):
        for column in range(24):
            y, x = row + rows, column + columns
            expected = images[0, :, y, x] if 0 <= y < 16 and 0 <= x < 24 else torch.zeros(2)
            assert torch.equal(moved[0, :, row, column], expected)


def test_colour_in_the_middle_of_its_range_changes_nothing() -> None:
    images = randn(2, 3, 8, 8)
    same = diff_augment(images, _draws(_uniforms(batch=2)), AugmentConfig(translation=0.0))
    torch.testing.assert_close(same, images)


def test_each_colour_policy_does_its_part() -> None:
    images, config = randn(1, 3, 8, 8), AugmentConfig(translation=0.0)
    bright = diff_augment(images, _draws(_uniforms(0.5, 0.5, 0.9)), config)
    torch.testing.assert_close(bright, images + 0.4)
    grey = diff_augment(images, _draws(_uniforms(0.5, 0.5, 0.5, 0.0)), config)
    torch.testing.assert_close(grey, images.mean(dim=1, keepdim=True).expand_as(images))
    flat = diff_augment(images, _draws(_uniforms(0.5, 0.5, 0.5, 0.5, 0.0)), config)
    torch.testing.assert_close(flat - images.mean(), 0.5 * (images - images.mean()))


def test_cutout_blanks_one_rectangle_around_its_middle() -> None:
    draws = _draws(_uniforms(0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.25), colour=False, translation=False)
    cut = diff_augment(torch.ones(1, 3, 10, 10), draws, AugmentConfig(cutout=0.4))
    expected = torch.ones(10, 10)
    expected[3:7, 0:4] = 0.0  # 4 x 4 around (5, 2): floor(0.5 * 11) and floor(0.25 * 11)
    assert torch.equal(cut[0, 1], expected)


def test_policies_are_switched_off_one_by_one() -> None:
    images, config = randn(1, 3, 8, 8), AugmentConfig(cutout=0.5)
    uniforms = torch.rand(7, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    nothing = _draws(uniforms, translation=False, colour=False, cutout=False)
    assert torch.equal(diff_augment(images, nothing, config), images)
    one = {"translation": False, "colour": False, "cutout": False}
    for policy in one:
        assert not torch.equal(diff_augment(images, _draws(uniforms, **{**one, policy: True}), config), images)


@pytest.mark.parametrize("prob", [0.0, 0.3, 1.0])
def test_probability_is_per_picture_and_policy(prob: float) -> None:
    applied = draw(AugmentConfig(prob=prob), 3000, torch.Generator().manual_seed(1)).applied
    assert applied.shape == (3, 3000)
    torch.testing.assert_close(applied.float().mean(dim=1), torch.full((3,), prob), rtol=0, atol=0.03)


def test_draws_come_from_the_generator_alone() -> None:
    config = AugmentConfig()
    before = torch.random.get_rng_state()
    one, other = (draw(config, 4, torch.Generator().manual_seed(2)) for _ in range(2))
    assert torch.equal(one.uniforms, other.uniforms)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_draws_of_a_picture_depend_on_its_index_alone() -> None:
    config = AugmentConfig(prob=0.5)
    whole = draw_by_index(config, range(6), 0, "real")
    part = draw_by_index(config, [4, 1], 0, "real")
    assert torch.equal(part.uniforms, whole.uniforms[:, [4, 1]])
    assert torch.equal(part.applied, whole.applied[:, [4, 1]])
    for other in (draw_by_index(config, range(6), 1, "real"), draw_by_index(config, range(6), 0, "fake")):
        assert not torch.equal(other.uniforms, whole.uniforms)


def test_gradients_pass() -> None:
    images = randn(2, 3, 16, 16).requires_grad_()
    draws = draw(AugmentConfig(cutout=0.2), 2, torch.Generator().manual_seed(3))
    diff_augment(images, draws, AugmentConfig(cutout=0.2)).square().mean().backward()
    assert images.grad is not None
    assert float(images.grad.abs().sum()) > 0.0


def test_half_precision_is_widened() -> None:
    draws = _draws(_uniforms())
    assert diff_augment(randn(1, 3, 8, 8).bfloat16(), draws, AugmentConfig()).dtype == torch.float32


def test_draws_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"pictures \[2, 3, 8, 8\] have 1 draws"):
        diff_augment(torch.zeros(2, 3, 8, 8), _draws(_uniforms()), AugmentConfig())
    with pytest.raises(
        ConfigError, match=r"draws must be \[7, B, 1, 1\] and \[3, B\], got \[5, 1, 1, 1\] and \[3, 1\]"
    ):
        AugmentDraws(uniforms=torch.zeros(5, 1, 1, 1), applied=torch.ones(3, 1, dtype=torch.bool))
    with pytest.raises(ConfigError, match=r"cutout must lie in \[0, 1\], got 2.0"):
        AugmentConfig(cutout=2.0)
