from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ovbench._base.errors import ConfigError, DataError
from ovbench.encoders.modeling.sources import seeded
from ovbench.harness.generation.decoder_config import DinoConfig, DiscriminatorConfig
from ovbench.harness.generation.dino import FrozenDino
from ovbench.harness.generation.discriminator import Discriminator, LocalNorm
from ovbench.harness.generation.losses import discriminator_loss, generator_loss
from tests.harness.generation.rae_data import Golden, assert_golden, golden, golden_names, pictures, randn

TINY = DiscriminatorConfig(
    dino=DinoConfig(depth=2, width=32, num_heads=4, mlp_ratio=2.0, patch_px=16, input_px=64),
    key_depths=(0, 1),
    kernel=3,
)


def golden_discriminator(case: Golden) -> Discriminator:
    """The discriminator of a golden file."""
    fields = case.config
    assert fields["in_chans"] == 3
    dino = DinoConfig(
        depth=fields["depth"], width=fields["embed_dim"], num_heads=fields["num_heads"], mlp_ratio=fields["mlp_ratio"],
        patch_px=fields["patch_size"], eps=fields["norm_eps"],
    )  # fmt: skip
    config = DiscriminatorConfig(
        dino=dino, key_depths=tuple(fields["key_depths"]), kernel=fields["ks"], norm=fields["norm_type"],
        spectral_norm=fields["using_spec_norm"], norm_eps=fields["norm_eps"],
    )  # fmt: skip
    assert config.num_heads == fields["num_heads_disc"]
    backbone = FrozenDino(dino)
    backbone.load_state_dict(case.part("sd.dino."))
    discriminator = Discriminator(backbone, config)
    heads = {f"heads.{key}": value for key, value in case.part("sd.heads.").items()}
    discriminator.load_head_state(heads, where="golden")
    return discriminator


def tiny(seed: int = 0, **changes: Any) -> Discriminator:
    """A small discriminator with seeded weights."""

    def build() -> Discriminator:
        config = replace(TINY, **changes)
        dino = FrozenDino(config.dino)
        for parameter in dino.parameters():
            nn.init.normal_(parameter, std=0.2)
        return Discriminator(dino, config)

    return seeded(build, seed)


@pytest.mark.parametrize("name", golden_names("rae_disc"))
def test_logits_and_the_spectral_norm_step_are_the_references(name: str) -> None:
    case = golden(name)
    discriminator, images = golden_discriminator(case), case.tensors["in.image"]
    with torch.no_grad():
        activations = discriminator.activations(images)
        assert_golden(activations[0], case.tensors["out.act_first"])
        assert_golden(activations[1], case.tensors["out.act_second"])
        assert_golden(discriminator.eval()(images), case.tensors["out.logits_eval"])
        assert_golden(discriminator.train()(images), case.tensors["out.logits_train_step1"])
    if "out.weight_u_after" in case.tensors:
        state = discriminator.head_state()
        assert_golden(state["heads.0.0.0.weight_u"], case.tensors["out.weight_u_after"])


def test_the_last_block_is_read_twice_where_it_is_a_tap() -> None:
    first, second, third = tiny().activations(2 * pictures(1) - 1)
    assert torch.equal(first, third)
    assert not torch.equal(first, second)
    assert DiscriminatorConfig().num_heads == 5
    assert DiscriminatorConfig(key_depths=(11, 2, 2, 99)).taps == (2, 11)


def test_one_power_iteration_in_train_mode_and_none_in_eval_mode() -> None:
    discriminator, images = tiny().train(), 2 * pictures(2) - 1
    before = discriminator.head_state()["heads.0.0.0.weight_u"].clone()
    discriminator(images)
    after = discriminator.head_state()["heads.0.0.0.weight_u"].clone()
    assert not torch.equal(before, after)
    discriminator.eval()(images)
    assert torch.equal(discriminator.head_state()["heads.0.0.0.weight_u"], after)


def test_many_iterations_bring_the_weight_to_spectral_norm_one() -> None:
    discriminator, images = tiny().train(), 2 * pictures(1) - 1
    with torch.no_grad():
        for _ in range(60):
            discriminator(images)
    convolution = discriminator.heads.get_submodule("1.1.fn.0")
    assert isinstance(convolution, nn.Conv1d)
    largest = torch.linalg.matrix_norm(convolution.weight.flatten(1), ord=2)
    assert float(largest) == pytest.approx(1.0, rel=1e-3)


def test_local_norm_standardises_over_tokens() -> None:
    x = 3.0 * randn(2, 5, 40) + 1.0
    norm = LocalNorm(5, 1e-6)
    out = norm(x)
    torch.testing.assert_close(out.mean(dim=2), torch.zeros(2, 5), rtol=0, atol=1e-5)
    torch.testing.assert_close(out.std(dim=2, correction=0), torch.ones(2, 5), rtol=1e-4, atol=0)
    assert norm(x.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("changes", [{}, {"norm": "gn"}, {"spectral_norm": False}])
def test_a_picture_does_not_depend_on_its_batch(changes: dict[str, Any]) -> None:
    discriminator, images = tiny(**changes).eval(), 2 * pictures(4) - 1
    with torch.no_grad():
        together, alone = discriminator(images), torch.cat([discriminator(image[None]) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_batch_norm_has_the_keys_of_the_reference_and_its_statistics_move() -> None:
    discriminator = tiny(norm="sbn").train()
    name = "heads.0.0.1.running_mean"
    before = discriminator.head_state()[name].clone()
    discriminator(2 * pictures(4) - 1)
    assert not torch.equal(discriminator.head_state()[name], before)


def test_without_spectral_norm_the_weights_are_plain() -> None:
    keys = set(tiny(spectral_norm=False).head_state())
    assert "heads.0.0.0.weight" in keys
    assert not any("weight_orig" in key for key in keys)


def test_only_the_heads_are_trained_and_freezing_them_is_undone() -> None:
    discriminator = tiny().train()
    wanted = [name for name, parameter in discriminator.named_parameters() if parameter.requires_grad]
    assert wanted
    assert all(name.startswith("heads.") for name in wanted)
    assert not discriminator.dino.training
    images = (2 * pictures(2) - 1).requires_grad_()
    before = {key: value.clone() for key, value in discriminator.head_state().items()}
    with discriminator.heads_frozen():
        generator_loss(discriminator(images)).backward()
    assert images.grad is not None
    assert float(images.grad.abs().max()) > 0.0
    assert all(parameter.grad is None for parameter in discriminator.parameters())
    assert all(torch.equal(value, before[key]) for key, value in discriminator.head_state().items())
    assert discriminator.heads.training
    assert [name for name, parameter in discriminator.named_parameters() if parameter.requires_grad] == wanted


def test_heads_learn_to_tell_two_sets_apart() -> None:
    discriminator = tiny().train()
    real = 2 * pictures(8) - 1
    fake = real + 0.3 * randn(8, 3, 16, 16)
    optimizer = torch.optim.Adam(discriminator.heads.parameters(), lr=2e-3)
    losses: list[float] = []
    for _ in range(40):
        loss = discriminator_loss(discriminator(real), discriminator(fake))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
    with torch.no_grad():
        assert float(discriminator.eval()(real).mean()) > float(discriminator(fake).mean())


def test_saved_heads_come_back() -> None:
    discriminator, other, images = tiny(), tiny(seed=1), 2 * pictures(1) - 1
    state = {**discriminator.head_state(), "dino_proxy.cls_token": torch.ones(1)}
    other.load_head_state({f"module.{key}": value for key, value in state.items()}, where="file")
    other.dino.load_state_dict(discriminator.dino.state_dict())
    with torch.no_grad():
        assert torch.equal(other.eval()(images), discriminator.eval()(images))


def _changed(state: dict[str, Tensor], key: str, value: Tensor | None) -> dict[str, Tensor]:
    changed = {name: old for name, old in state.items() if name != key}
    return changed if value is None else {**changed, key: value}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("heads.0.2.bias", None, r"missing: heads\.0\.2\.bias"),
        ("heads.9.2.bias", torch.zeros(1), r"unexpected: heads\.9\.2\.bias"),
        ("heads.0.2.bias", torch.zeros(2), r"wrong shape: heads\.0\.2\.bias"),
        ("heads.0.2.bias", torch.tensor([torch.nan]), "NaN or infinite values: heads"),
    ],
)
def test_heads_that_do_not_fit_are_refused(key: str, value: Tensor | None, message: str) -> None:
    discriminator = tiny()
    with pytest.raises(DataError, match=message):
        discriminator.load_head_state(_changed(discriminator.head_state(), key, value), where="file")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm": "ln"}, "unknown discriminator norm 'ln'"),
        ({"kernel": 4}, "the kernel must be an odd number, got 4"),
        ({"kernel": 35}, "a kernel of 35 goes round 16 tokens more than once"),
        ({"key_depths": (7,)}, r"no block among \[7\] is one of the backbone's 2"),
        ({"key_depths": (-1,)}, r"no block among \[-1\]"),
        ({"norm": "gn", "dino": replace(TINY.dino, width=24, num_heads=3)}, "'gn' has 32 groups"),
    ],
)
def test_settings_are_checked(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(TINY, **changes)
