"""Which input size and which decoder a suite of pictures gives an encoder."""

from __future__ import annotations

import pytest
import torch

from ovbench._base.errors import ConfigError
from ovbench.encoders.base import Tap
from ovbench.encoders.registry import load_encoder, parse_encoder
from ovbench.harness.forecast import encoder_cost
from ovbench.harness.generation.latent_stats import compute_stats
from ovbench.harness.generation.options_config import GenerationOptions
from ovbench.harness.generation.rae import RAE
from ovbench.harness.generation.recipe_config import GenerationRecipe, read_recipe
from ovbench.harness.generation.setting import Setting, encoder_for, open_setting
from ovbench.harness.plan import Job, plan_runs
from ovbench.harness.protocols import load_protocol
from tests.encoders.decoder_file import write_decoder


def job(encoder: str, suite: str = "reconstruction") -> Job:
    plan = plan_runs(
        encoders=[encoder],
        suite=suite,
        protocol="mini-smoke",
        tasks=None,
        limit=None,
        seeds=[0],
        device="cpu",
        dtype="float32",
        batch_size=64,
        out=None,
        generation=[GenerationOptions()] if suite == "generation" else None,
    )
    return plan.jobs[0]


def recipe(kind: str = "auto", **data: int) -> GenerationRecipe:
    section = dict(load_protocol("mini-smoke").section("reconstruction"))
    section["decoder"] = {**section["decoder"], "kind": kind}
    section["data"] = {**section["data"], **data}
    return read_recipe(section, where="test")


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> str:
    """OpenVision 3 with a decoder of its own, as a spec string."""
    path = tmp_path_factory.mktemp("decoder") / "d.safetensors"
    write_decoder(path)
    return f"ovis3/mini?decoder={path}"


@pytest.fixture(scope="module")
def setting(native: str) -> Setting:
    return open_setting(job(native))


def test_tokens_of_the_grid_are_not_folded_where_the_encoder_decodes_them(setting: Setting) -> None:
    assert setting.encoder.info.input.size == (32, 32)
    assert setting.latent_shape == (128, 4, 4)
    assert (setting.fold, setting.native, setting.decoder) == (1, True, None)
    assert (setting.network.in_channels, setting.network.input_size) == (128, 4)


def test_a_vae_still_reads_the_picture_and_is_folded_to_the_grid() -> None:
    vae = open_setting(job("vae"))
    assert vae.encoder.info.input.size == (32, 32)
    assert vae.latent_shape == (16, 8, 8)
    assert (vae.fold, vae.native) == (2, True)
    assert (vae.network.in_channels, vae.network.input_size) == (64, 4)


@pytest.mark.parametrize(
    ("name", "px"),
    [
        ("native", 64),  # 8 tokens along a side are finer than the grid: its decoder makes the whole picture
        ("vae", 64),
        ("ovis3/mini", 32),  # without a decoder the grid alone decides
    ],
)
def test_an_encoder_that_decodes_reads_no_less_than_the_picture(native: str, name: str, px: int) -> None:
    spec = parse_encoder(native if name == "native" else name)
    encoder = encoder_for(spec, recipe(image_px=64), device="cpu", dtype="float32")
    assert encoder.info.input.size == (px, px)


@pytest.mark.parametrize("name", ["native", "vae", "clip"])
def test_a_plan_counts_the_shape_that_a_run_makes(native: str, name: str) -> None:
    text = native if name == "native" else name
    made = open_setting(job(text))
    cost = encoder_cost(parse_encoder(text), recipe(), precision="tf32")
    assert (cost.shape, cost.fold) == (made.latent_shape, made.fold)
    assert (cost.native_flops is not None) == made.native


def test_reconstructions_come_from_the_encoders_own_decoder(setting: Setting) -> None:
    images = torch.from_numpy(setting.test.images_u8(range(8))).permute(0, 3, 1, 2).float() / 255
    encoder = setting.encoder
    stats = compute_stats(encoder, [images], data="test")
    made = RAE(encoder, "native", stats).reconstruct_u8(images)
    assert made.shape == (8, 32, 32, 3)
    plain = encoder.decode(encoder.latents(images)).clamp(0, 1)  # pyright: ignore[reportAttributeAccessIssue]
    assert (made.permute(0, 3, 1, 2).float() / 255 - plain).abs().max() < 2 / 255


def test_the_native_decoder_reads_no_other_tap(native: str) -> None:
    encoder = load_encoder(f"{native}&size=32")
    RAE(encoder, "native", tap=Tap(norm="none"))
    with pytest.raises(ConfigError, match="reads its latents at .*norm='none'.* not at .*norm='layernorm'"):
        RAE(encoder, "native", tap=Tap(norm="layernorm"))


def test_a_decoder_is_trained_where_the_protocol_says_rae(native: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ovbench.harness.generation.setting.read_recipe", lambda *_args, **_names: recipe("rae"))
    trained = open_setting(job(native))
    assert not trained.native
    assert trained.decoder is not None
    assert (trained.decoder.latent_dim, trained.decoder.output_px, trained.fold) == (128, 32, 1)


def test_native_is_refused_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ovbench.harness.generation.setting.read_recipe", lambda *_args, **_names: recipe("native"))
    with pytest.raises(ConfigError, match="has no decoder of its own"):
        open_setting(job("ovis3/mini"))


@pytest.mark.parametrize("text", ["native", "vae/mini?"])
def test_native_pictures_of_another_size_than_the_protocols_are_refused(native: str, text: str) -> None:
    with pytest.raises(ConfigError, match="decodes to 64 x 64 pixels, and the protocol's pictures have 32"):
        open_setting(job(f"{native if text == 'native' else text}&size=64"))
