"""What goes wrong silently with OpenVision's files, one test each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ovbench._base.errors import ConfigError, DataError
from ovbench.encoders.base import Encoder, Tap
from ovbench.encoders.modeling.tokens import TokenEncoder
from ovbench.encoders.modeling.trunk import interpolate_positions
from ovbench.encoders.registry import load_encoder
from tests.encoders.published import NARROW, flux_like_vae, ovis2_loader, read_golden, write_open_clip, write_vae

OV1, OV2, OV3 = (read_golden(f"openvision{number}_tiny") for number in (1, 2, 3))


@pytest.fixture
def ovis2(tmp_path: Path) -> Callable[..., Encoder]:
    return ovis2_loader(tmp_path)


def tokens(encoder: Encoder) -> Tensor:
    return encoder.features(OV2.pixels_01).tokens


# --- final_ln_after_pool


@pytest.mark.parametrize("how", ["absent", "null"])
def test_a_missing_final_ln_after_pool_is_an_error(ovis2: Callable[..., Encoder], how: str) -> None:
    with pytest.raises(DataError, match="does not say final_ln_after_pool") as caught:
        ovis2(drop="final_ln_after_pool") if how == "absent" else ovis2(final_ln_after_pool=None)
    assert "open_clip_config.json" in caught.value.where
    assert "?final_ln_after_pool=true" in caught.value.fix


@pytest.mark.parametrize(("value", "name"), [("true", "tokens"), ("false", "alt_ln_first.tokens")])
def test_the_option_supplies_a_missing_final_ln_after_pool(
    ovis2: Callable[..., Encoder], value: str, name: str
) -> None:
    encoder = ovis2(drop="final_ln_after_pool", query=f"?final_ln_after_pool={value}", preprocess=NARROW)
    torch.testing.assert_close(tokens(encoder), OV2.outputs[name], atol=5e-5, rtol=1e-5)


def test_an_option_that_contradicts_the_file_is_refused(ovis2: Callable[..., Encoder]) -> None:
    with pytest.raises(ConfigError, match="final_ln_after_pool=false contradicts"):
        ovis2(query="?final_ln_after_pool=false")
    with pytest.raises(ConfigError, match="cannot be 'yes'"):
        ovis2(query="?final_ln_after_pool=yes")
    assert ovis2(query="?final_ln_after_pool=true").info.identity == ovis2().info.identity


# --- sizes and positions


def test_a_wrong_input_size_is_an_error(ovis2: Callable[..., Encoder]) -> None:
    with pytest.raises(ConfigError, match=r"\[B, 3, 28, 28\], got \[1, 3, 35, 35\]"):
        ovis2().features(torch.zeros(1, 3, 35, 35))
    with pytest.raises(ConfigError, match="reads 28 x 28 pixels, and 35 were asked for") as caught:
        ovis2(query="?size=35")
    assert "positions=bicubic" in caught.value.fix


def test_the_stored_position_table_is_used_and_not_made_anew(ovis2: Callable[..., Encoder]) -> None:
    encoder = ovis2(preprocess=NARROW)
    table = OV2.state["positional_embedding"]
    moved = ovis2(state={"positional_embedding": table + 1.0}, preprocess=NARROW)
    plain, changed = (each.features(OV2.pixels_01, Tap(layer=0)).tokens for each in (encoder, moved))
    torch.testing.assert_close(changed, plain + 1.0, atol=1e-5, rtol=1e-5)
    assert moved.info.identity != encoder.info.identity


@pytest.mark.parametrize("kind", ["learnable", "sin_cos_2d"])
def test_the_kind_of_position_table_changes_nothing(ovis2: Callable[..., Encoder], kind: str) -> None:
    encoder = ovis2(pos_embed_type=kind, preprocess=NARROW)
    torch.testing.assert_close(tokens(encoder), OV2.outputs["tokens"], atol=5e-5, rtol=1e-5)


def test_positions_are_interpolated_by_name_alone(ovis2: Callable[..., Encoder]) -> None:
    encoder = ovis2(query="?size=56&positions=bicubic")
    assert isinstance(encoder, TokenEncoder)
    assert (encoder.info.input.size, encoder.info.grid) == ((56, 56), (8, 8))
    table = encoder.model.state_dict()["positional_embedding"]
    stored = OV2.state["positional_embedding"]
    assert torch.equal(table[0], stored[0])  # the class token's row
    maps = stored[1:].reshape(1, 4, 4, -1).permute(0, 3, 1, 2)
    expected = F.interpolate(maps, size=(8, 8), mode="bicubic", antialias=True, align_corners=False)
    torch.testing.assert_close(table[1:], expected[0].permute(1, 2, 0).reshape(64, -1))
    assert encoder.features(torch.rand(1, 3, 56, 56)).tokens.shape == (1, 64, 64)
    assert encoder.info.identity != ovis2().info.identity


def test_interpolation_shrinks_with_antialiasing_and_keeps_raster_order() -> None:
    rows, columns = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    table = torch.cat([torch.full((1, 2), 9.0), torch.stack([rows, columns], dim=-1).reshape(64, 2)])
    small = interpolate_positions(table, 4)
    assert torch.equal(small[0], table[0])
    grid = small[1:].reshape(4, 4, 2)
    assert (grid[1:, :, 0] > grid[:-1, :, 0]).all()
    assert (grid[:, 1:, 1] > grid[:, :-1, 1]).all()
    checks = torch.cat([torch.zeros(1, 1), ((rows + columns) % 2).reshape(64, 1)])
    torch.testing.assert_close(interpolate_positions(checks, 4)[1:], torch.full((16, 1), 0.5), atol=0.05, rtol=0)


def test_the_weights_own_size_needs_no_interpolation(ovis2: Callable[..., Encoder]) -> None:
    assert ovis2(query="?size=28&positions=bicubic").info.identity == ovis2(query="?size=28").info.identity


@pytest.mark.parametrize(
    ("query", "what"),
    [
        ("?positions=bicubic", "needs a size"),
        ("?size=56&positions=nearest", "'positions' cannot be 'nearest'"),
        ("?size=30&positions=bicubic", "no whole number of 7-pixel patches"),
        ("?size=56&positions=stored", "reads 28 x 28 pixels"),
    ],
)
def test_an_interpolation_that_cannot_be_done_is_refused(ovis2: Callable[..., Encoder], query: str, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        ovis2(query=query)


def test_a_side_that_is_no_multiple_of_the_patch_loses_its_rest(tmp_path: Path) -> None:
    folder = write_open_clip(tmp_path, OV2.model_cfg(image_size=30), OV2.state)  # as 384 px with patch 14
    info = load_encoder(f"ovis2:{folder}").info
    assert (info.input.size, info.grid, info.patch_px) == ((30, 30), (4, 4), 7)


def ov3_28(tmp_path: Path) -> Path:
    state = dict(OV3.state)
    state["positional_embedding"] = interpolate_positions(state["positional_embedding"], 14)
    return write_open_clip(tmp_path / "ov3-28", OV3.model_cfg(image_size=28), state)


def test_checkpoints_named_28_read_224_pixels(tmp_path: Path) -> None:
    info = load_encoder(f"ovis3/base-224:{ov3_28(tmp_path)}?vae={flux_like_vae(tmp_path / 'vae')}").info
    assert (info.input.size, info.grid, info.patch_px) == ((224, 224), (14, 14), 16)


def test_the_size_of_the_weights_decides_and_not_the_variant_that_was_named(tmp_path: Path) -> None:
    info = load_encoder(f"ovis3/base-256:{ov3_28(tmp_path)}?vae={flux_like_vae(tmp_path / 'vae')}").info
    assert info.input.size == (224, 224)


def test_positions_behind_a_vae_count_latents(tmp_path: Path) -> None:
    spec = f"ovis3/base-224:{ov3_28(tmp_path)}?vae={flux_like_vae(tmp_path / 'vae')}"
    assert load_encoder(f"{spec}&size=256&positions=bicubic").info.grid == (16, 16)
    with pytest.raises(ConfigError, match="16-pixel patches"):
        load_encoder(f"{spec}&size=232&positions=bicubic")


# --- keys


def test_stray_text_keys_are_ignored_where_the_prefix_is_there(tmp_path: Path) -> None:
    assert {key.partition(".")[0] for key in OV1.state} > {"visual", "logit_scale", "token_embedding"}
    with_text = load_encoder(f"ovis1:{write_open_clip(tmp_path / 'a', OV1.model_cfg(), OV1.state)}")
    bare = {key.removeprefix("visual."): value for key, value in OV1.state.items() if key.startswith("visual.")}
    without = load_encoder(f"ovis1:{write_open_clip(tmp_path / 'b', OV1.model_cfg(), bare)}")
    assert with_text.info.identity == without.info.identity


def test_a_stray_key_without_any_prefix_is_named(ovis2: Callable[..., Encoder]) -> None:
    with pytest.raises(DataError, match="unexpected: logit_scale") as caught:
        ovis2(state={"logit_scale": torch.zeros(())})
    assert "open_clip_pytorch_model.bin" in caught.value.where


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    state = {key: value for key, value in OV2.state.items() if key != "ln_post.bias"}
    with pytest.raises(DataError, match=r"missing: ln_post\.bias"):
        load_encoder(f"ovis2:{write_open_clip(tmp_path, OV2.model_cfg(), state)}")


def test_weights_with_nan_are_named(ovis2: Callable[..., Encoder]) -> None:
    with pytest.raises(DataError, match=r"NaN or infinite values: proj") as caught:
        ovis2(state={"proj": torch.full_like(OV2.state["proj"], float("nan"))})
    assert caught.value.where
    assert caught.value.fix


def test_the_size_of_a_grid_that_the_table_does_not_have_is_refused(ovis2: Callable[..., Encoder]) -> None:
    with pytest.raises(DataError, match=r"wrong shape: positional_embedding: \(17, 64\) instead of \(26, 64\)"):
        ovis2(image_size=35)


def test_a_norm_in_front_is_loaded_where_the_configuration_has_one(ovis2: Callable[..., Encoder]) -> None:
    with pytest.raises(DataError, match=r"missing: ln_pre\.bias, ln_pre\.weight"):
        ovis2(no_ln_pre=False)
    generator = torch.Generator().manual_seed(0)
    norm = {f"ln_pre.{name}": torch.randn(64, generator=generator) for name in ("weight", "bias")}
    encoder = ovis2(no_ln_pre=False, state=norm, preprocess=NARROW)
    got = encoder.features(OV2.pixels_01, Tap(layer=0, prefix=True))
    assert got.prefix is not None
    expected = F.layer_norm(OV2.outputs["embed"], (64,), norm["ln_pre.weight"], norm["ln_pre.bias"], eps=1e-6)
    torch.testing.assert_close(torch.cat([got.prefix, got.tokens], dim=1), expected, atol=5e-5, rtol=1e-4)
    with pytest.raises(DataError, match=r"unexpected: ln_pre\.bias, ln_pre\.weight"):
        ovis2(state=norm)


# --- numerics


def test_every_epsilon_is_1e_6_whatever_the_file_says(ovis2: Callable[..., Encoder]) -> None:
    encoder = ovis2(norm_kwargs={"eps": 1e-2}, preprocess=NARROW)
    torch.testing.assert_close(tokens(encoder), OV2.outputs["tokens"], atol=5e-5, rtol=1e-5)
    assert isinstance(encoder, TokenEncoder)
    epsilons = [module.eps for module in encoder.modules() if isinstance(module, torch.nn.LayerNorm)]
    assert epsilons == [1e-6] * (2 * 3 + 1)


@pytest.mark.parametrize("change", [{"model": {"quick_gelu": True}}, {"act_kwargs": {"approximate": "tanh"}}])
def test_another_activation_than_the_exact_gelu_is_refused(
    ovis2: Callable[..., Encoder], change: dict[str, Any]
) -> None:
    with pytest.raises(DataError, match="another activation"):
        ovis2(**change)


def test_the_activation_is_the_exact_gelu(ovis2: Callable[..., Encoder]) -> None:
    # Behind a norm that gives 1 everywhere, the MLP of block 0 adds gelu(1), whatever the picture shows.
    width = 64
    constant = {
        "transformer.resblocks.0.attn.out_proj.weight": torch.zeros(width, width),
        "transformer.resblocks.0.attn.out_proj.bias": torch.zeros(width),
        "transformer.resblocks.0.ln_2.weight": torch.zeros(width),
        "transformer.resblocks.0.ln_2.bias": torch.ones(width),
        "transformer.resblocks.0.mlp.c_fc.weight": torch.eye(256, width),
        "transformer.resblocks.0.mlp.c_fc.bias": torch.zeros(256),
        "transformer.resblocks.0.mlp.c_proj.weight": torch.eye(width, 256),
        "transformer.resblocks.0.mlp.c_proj.bias": torch.zeros(width),
    }
    encoder = ovis2(state=constant)
    before, after = (encoder.features(OV2.pixels_01, Tap(layer=layer)).tokens for layer in (0, 1))
    # erf: 0.8413447; tanh: 0.8411920; quick: 0.8457958
    torch.testing.assert_close(after - before, torch.full_like(after, 0.8413447), atol=1e-5, rtol=0)


# --- the VAE in front


def test_the_shift_is_off_by_default_and_part_of_the_identity(tmp_path: Path) -> None:
    spec = f"ovis3/base-256:{write_open_clip(tmp_path / 'ov3', OV3.model_cfg(), OV3.state)}"
    spec += f"?vae={flux_like_vae(tmp_path / 'vae')}"
    default, off, on = (load_encoder(spec + tail).info for tail in ("", "&latent_shift=false", "&latent_shift=true"))
    assert default.identity == off.identity != on.identity
    with pytest.raises(ConfigError, match="'latent_shift' cannot be 'maybe'"):
        load_encoder(f"{spec}&latent_shift=maybe")


def test_a_shift_that_the_vae_does_not_have_is_refused(tmp_path: Path) -> None:
    golden = read_golden("openvision3_vae_tiny")
    vae = write_vae(tmp_path / "vae", {**golden.document["vae_config"], "shift_factor": None}, golden.state)
    folder = write_open_clip(tmp_path / "ov3", OV3.model_cfg(), OV3.state)
    load_encoder(f"ovis3/base-256:{folder}?vae={vae}")
    with pytest.raises(ConfigError, match="the VAE has no shift_factor"):
        load_encoder(f"ovis3/base-256:{folder}?vae={vae}&latent_shift=true")


def test_other_weights_or_another_scale_of_the_vae_are_another_encoder(tmp_path: Path) -> None:
    golden = read_golden("openvision3_vae_tiny")
    config, state = golden.document["vae_config"], golden.state
    folder = write_open_clip(tmp_path / "ov3", OV3.model_cfg(), OV3.state)
    other = {**state, "encoder.conv_in.bias": state["encoder.conv_in.bias"] + 1.0}
    vaes = (
        write_vae(tmp_path / "a", config, state),
        write_vae(tmp_path / "b", config, other),
        write_vae(tmp_path / "c", {**config, "scaling_factor": 0.3612}, state),
    )
    assert len({load_encoder(f"ovis3/base-256:{folder}?vae={vae}").info.identity for vae in vaes}) == 3


def test_a_vae_that_is_not_there_is_named(tmp_path: Path) -> None:
    folder = write_open_clip(tmp_path / "ov3", OV3.model_cfg(), OV3.state)
    with pytest.raises(DataError, match="no such folder") as caught:
        load_encoder(f"ovis3/base-256:{folder}?vae={tmp_path / 'nothing'}")
    assert caught.value.where == "?vae="
    with pytest.raises(ConfigError, match="no commit of it is pinned") as refused:
        load_encoder(f"ovis3/base-256:{folder}")
    assert "ovis3/base-256?vae=/path" in refused.value.fix


def test_a_trunk_for_other_latents_is_refused(tmp_path: Path) -> None:
    folder = write_open_clip(tmp_path / "ov2", OV2.model_cfg(), OV2.state)
    with pytest.raises(ConfigError, match="read 3 channels, and ovis3/base-256 gives 16"):
        load_encoder(f"ovis3/base-256:{folder}?vae={flux_like_vae(tmp_path / 'vae')}")
    latents = write_open_clip(tmp_path / "ov3", OV3.model_cfg(), OV3.state)
    with pytest.raises(ConfigError, match="read 16 channels, and ovis2/large-14-224 gives 3"):
        load_encoder(f"ovis2:{latents}")


# --- the rest of the contract


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_close_and_keeps_its_vae_in_float32(tmp_path: Path, dtype: str) -> None:
    folder, vae = write_open_clip(tmp_path / "ov3", OV3.model_cfg(), OV3.state), flux_like_vae(tmp_path / "vae")
    full, half = (load_encoder(f"ovis3/base-256:{folder}?vae={vae}&dtype={each}") for each in ("float32", dtype))
    images = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    assert isinstance(half, TokenEncoder)
    assert half.frontend is not None
    assert {parameter.dtype for parameter in half.frontend.parameters()} == {torch.float32}
    assert half.llm_tokens(images).dtype == getattr(torch, dtype)
    assert half.latents(images).dtype == torch.float32
    torch.testing.assert_close(half.latents(images), full.latents(images), atol=0.2, rtol=0)
    assert half.info.identity != full.info.identity


def test_untrained_weights_have_the_architecture_of_the_folder(tmp_path: Path) -> None:
    folder = write_open_clip(tmp_path, OV2.model_cfg(), {})
    one, again, other = (load_encoder(f"ovis2:{folder}?weights=random:{seed}").info for seed in (1, 1, 2))
    assert one.random_seed == 1
    assert one.weights_digest == again.weights_digest != other.weights_digest
    assert (one.dim, one.depth, one.grid) == (64, 3, (4, 4))


def test_a_folder_for_the_miniature_encoder_is_refused(tmp_path: Path) -> None:
    folder = write_open_clip(tmp_path, OV3.model_cfg(), OV3.state)
    with pytest.raises(DataError, match="is a folder, and ovis3/mini reads one file") as caught:
        load_encoder(f"ovis3:{folder}")
    assert f"ovis3/VARIANT:{folder}" in caught.value.fix


@pytest.mark.parametrize("option", ["vae=/x", "latent_shift=true", "positions=bicubic", "final_ln_after_pool=true"])
def test_options_of_released_weights_are_not_swallowed_by_the_miniature(option: str) -> None:
    with pytest.raises(ConfigError, match=f"the option '{option.partition('=')[0]}' has no effect on ovis3/mini"):
        load_encoder(f"ovis3/mini?{option}")


def test_untrained_weights_of_the_control_follow_the_seed_that_is_named() -> None:
    named, option = load_encoder("random?weights=random:3").info, load_encoder("random?seed=3").info
    assert named.weights_digest == option.weights_digest != load_encoder("random").info.weights_digest
