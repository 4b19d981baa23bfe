"""OpenVision 1, 2 and 3 through the public loader, from their on-disk layout, against the reference program."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ovbench._base.lazy import require
from ovbench.encoders.base import Tap
from ovbench.encoders.modeling.tokens import TokenEncoder
from ovbench.encoders.registry import load_encoder
from tests.encoders.published import (
    NARROW,
    PIXEL_MODELS,
    GoldenModel,
    flux_like_vae,
    read_golden,
    write_open_clip,
)

ATOL, RTOL = 5e-5, 1e-5  # stated in the golden files
SETTINGS: dict[str, dict[str, Any]] = {
    "": {},
    "alt_ln_first.": {"final_ln_after_pool": False},
    "alt_tok.": {"pool_type": "tok", "final_ln_after_pool": False},
}


def load(spec: str) -> TokenEncoder:
    encoder = load_encoder(spec)
    assert isinstance(encoder, TokenEncoder)
    return encoder


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=ATOL, rtol=RTOL)


def ovis3_on_latents(folder: Path, latents: Tensor, **vision: Any) -> tuple[TokenEncoder, Tensor]:
    """Returns the encoder of `openvision3_tiny` whose VAE gives these latents, and pictures of its input size."""
    golden = read_golden("openvision3_tiny")
    place = write_open_clip(folder / "ov3", golden.model_cfg(**vision), golden.state)
    encoder = load(f"ovis3/base-256:{place}?vae={flux_like_vae(folder / 'vae')}")
    assert encoder.frontend is not None
    encoder.frontend.encode = lambda images_pm1: latents[: len(images_pm1)]
    return encoder, torch.rand(len(latents), 3, *encoder.info.input.size)


@pytest.fixture(params=["ovis1", "ovis2", "ovis3"])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[GoldenModel, TokenEncoder, Tensor]]:
    """A golden model, the encoder loaded from its folder, and pictures that become the golden input."""
    if request.param == "ovis3":
        golden = read_golden("openvision3_tiny")
        encoder, images = ovis3_on_latents(tmp_path, golden.inputs["latents"])
        yield golden, encoder, images
        return
    golden = read_golden(PIXEL_MODELS[request.param])
    folder = write_open_clip(tmp_path / "ov", golden.model_cfg(), golden.state, preprocess_cfg=NARROW)
    yield golden, load(f"{request.param}:{folder}"), golden.pixels_01


Case = tuple[GoldenModel, TokenEncoder, Tensor]


def test_every_block_equals_the_reference(case: Case) -> None:
    golden, encoder, images = case
    names = ["embed", *(f"block.{number}" for number in range(encoder.info.depth))]
    assert len(names) == golden.document["model_cfg"]["vision_cfg"]["layers"] + 1
    for layer, name in enumerate(names):
        features = encoder.features(images, Tap(layer=layer, prefix=True))
        assert features.prefix is not None
        close(torch.cat([features.prefix, features.tokens], dim=1), golden.outputs[name])


def test_published_tokens_and_pooled_output_equal_the_reference(case: Case) -> None:
    golden, encoder, images = case
    features = encoder.features(images)
    assert features.pooled is not None
    close(features.tokens, golden.outputs["tokens"])
    close(features.pooled, golden.outputs["pooled"])
    close(encoder.llm_tokens(images), golden.outputs["tokens"])  # the default of a LLaVA: un-normalised h[L]


def test_llava_reads_the_last_but_one_block_without_the_class_token(case: Case) -> None:
    golden, encoder, images = case
    close(encoder.llm_tokens(images, Tap(layer=-2)), golden.outputs["llava_minus2"])


def test_rae_reads_the_layernormed_grid_and_on_request_the_plain_one(case: Case) -> None:
    golden, encoder, images = case
    close(encoder.latents(images), golden.outputs["rae_ln_grid"])
    close(encoder.latents(images, Tap(norm="none")), golden.outputs["grid"])


@pytest.mark.parametrize("family", ["ovis1", "ovis2"])
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("safetensors", [False, True])
def test_both_layernorm_settings_equal_the_reference(
    family: str, setting: str, safetensors: bool, tmp_path: Path
) -> None:
    golden = read_golden(PIXEL_MODELS[family])
    config = golden.model_cfg(**SETTINGS[setting])
    folder = write_open_clip(tmp_path, config, golden.state, preprocess_cfg=NARROW, safetensors=safetensors)
    encoder = load(f"{family}:{folder}")
    features = encoder.features(golden.pixels_01)
    assert features.pooled is not None
    close(features.tokens, golden.outputs[f"{setting}tokens"])
    close(features.pooled, golden.outputs[f"{setting}pooled"])
    close(encoder.features(golden.pixels_01, Tap(norm="none")).tokens, golden.outputs["tokens"])
    close(encoder.latents(golden.pixels_01), golden.outputs["rae_ln_grid"])  # of the residual stream in any setting


@pytest.mark.parametrize("setting", SETTINGS)
def test_both_layernorm_settings_equal_the_reference_on_latents(setting: str, tmp_path: Path) -> None:
    golden = read_golden("openvision3_tiny")
    encoder, images = ovis3_on_latents(tmp_path, golden.inputs["latents"], **SETTINGS[setting])
    features = encoder.features(images)
    assert features.pooled is not None
    close(features.tokens, golden.outputs[f"{setting}tokens"])
    close(features.pooled, golden.outputs[f"{setting}pooled"])


def test_a_safetensors_file_and_a_pickled_one_are_the_same_encoder(tmp_path: Path) -> None:
    golden = read_golden("openvision2_tiny")
    one, two = (
        load(f"ovis2:{write_open_clip(tmp_path / str(kind), golden.model_cfg(), golden.state, safetensors=kind)}")
        for kind in (False, True)
    )
    assert one.info.identity == two.info.identity


# --- OpenVision 3 from the picture


@pytest.fixture
def pictures() -> list[Image.Image]:
    images_u8 = read_golden("openvision3_vae_tiny").inputs["image_u8"].numpy()
    return [Image.fromarray(np.ascontiguousarray(image)) for image in images_u8]


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    golden = read_golden("openvision3_tiny")
    return write_open_clip(tmp_path / "ov3", golden.model_cfg(), golden.state), flux_like_vae(tmp_path / "vae")


def prepared(encoder: TokenEncoder, pictures: list[Image.Image]) -> Tensor:
    return torch.stack([encoder.prepare(picture) for picture in pictures])


@pytest.mark.parametrize("shift", [None, "false", "true"])
def test_a_picture_becomes_the_reference_tokens(
    folders: tuple[Path, Path], pictures: list[Image.Image], shift: str | None
) -> None:
    ov3, vae = folders
    encoder = load(f"ovis3/base-256:{ov3}?vae={vae}" + (f"&latent_shift={shift}" if shift else ""))
    assert encoder.info.input.size == (128, 128)
    expected = read_golden("openvision3_vae_tiny").outputs
    features = encoder.features(prepared(encoder, pictures))
    name = "encoder_with_shift" if shift == "true" else "encoder"
    torch.testing.assert_close(features.tokens, expected[f"{name}.tokens"], atol=2e-4, rtol=1e-4)
    if name == "encoder":
        torch.testing.assert_close(features.pooled, expected["encoder.pooled"], atol=2e-4, rtol=1e-4)


def test_parameters_of_the_vae_are_counted_apart(folders: tuple[Path, Path]) -> None:
    ov3, vae = folders
    info = load(f"ovis3/base-256:{ov3}?vae={vae}").info
    golden = read_golden("openvision3_vae_tiny")
    assert info.num_params == read_golden("openvision3_tiny").document["parameters"]
    assert info.num_params_frontend == sum(value.numel() for value in golden.state.values())


# --- open_clip's own tower


@pytest.mark.parametrize("family", ["ovis1", "ovis2"])
@pytest.mark.parametrize("setting", SETTINGS)
@torch.no_grad()
def test_open_clips_own_tower_gives_the_same(family: str, setting: str, tmp_path: Path) -> None:
    pytest.importorskip("open_clip", reason="needs open_clip, of the extra 'offline'")
    golden = read_golden(PIXEL_MODELS[family])
    config = golden.model_cfg(**SETTINGS[setting])
    tower = require("open_clip.model")._build_vision_tower(config["embed_dim"], config["vision_cfg"]).eval()
    state = {key.removeprefix("visual."): value for key, value in golden.state.items()}
    tower.load_state_dict({key: state[key] for key in tower.state_dict()})
    pooled, tokens = tower(golden.inputs["pixels"])
    folder = write_open_clip(tmp_path, config, golden.state, preprocess_cfg=NARROW)
    encoder = load(f"{family}:{folder}")
    features = encoder.features(golden.pixels_01)
    torch.testing.assert_close(features.tokens, tokens, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(features.pooled, pooled, atol=1e-5, rtol=1e-5)
    inner = tower.forward_intermediates(golden.inputs["pixels"], output_fmt="NLC")["image_intermediates"]
    for number, expected in enumerate(inner):
        tap = Tap(layer=number + 1)
        torch.testing.assert_close(encoder.features(golden.pixels_01, tap).tokens, expected, atol=2e-5, rtol=1e-5)
