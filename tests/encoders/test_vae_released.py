"""VAEs of Stable Diffusion, Stable Diffusion 3 and FLUX.1 through the public loader, against diffusers."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.lazy import require
from ovbench.encoders.base import Tap
from ovbench.encoders.modeling.frozen import weights_digest
from ovbench.encoders.modeling.vae_encoder import VAEEncoder
from ovbench.encoders.registry import families, load_encoder
from ovbench.encoders.vae_configs import FLUX_VAE, SD3_VAE, SD_VAE
from tests.encoders.published import flux_like_vae, read_golden, write_vae

pytest.importorskip("diffusers", reason="needs diffusers, of the extra 'offline'")
FULL: dict[str, Mapping[str, Any]] = {"sd": SD_VAE, "sd3": SD3_VAE, "flux": FLUX_VAE}
TINY = {"block_out_channels": [8, 8, 16, 16], "layers_per_block": 1, "norm_num_groups": 4}
KINDS = list(FULL)
NEW_TO_OLD = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}


def load(spec: str) -> VAEEncoder:
    encoder = load_encoder(spec)
    assert isinstance(encoder, VAEEncoder)
    return encoder


def tiny_weights(kind: str) -> dict[str, Tensor]:
    """Returns weights of the kind's own layout (quantisation layers or none), small, with norms that do something."""
    generator = torch.Generator().manual_seed(7)
    vae = require("diffusers").AutoencoderKL(**{**FULL[kind], **TINY})
    return {key: value + 0.1 * torch.randn(value.shape, generator=generator) for key, value in vae.state_dict().items()}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def folder(kind: str, tmp_path: Path) -> Path:
    return write_vae(tmp_path, {**FULL[kind], **TINY}, tiny_weights(kind))


def reference(folder: Path) -> Any:
    return require("diffusers").AutoencoderKL.from_pretrained(str(folder), local_files_only=True).eval()


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_latents_are_diffusers_posterior_mean_shifted_and_scaled(kind: str, folder: Path, images: Tensor) -> None:
    vae, encoder = reference(folder), load(f"vae/{kind}:{folder}?size=64")
    mean = vae.encode(images * 2 - 1).latent_dist.mean
    shift = FULL[kind].get("shift_factor", 0.0)
    latents = encoder.latents(images)
    torch.testing.assert_close(latents, (mean - shift) * FULL[kind]["scaling_factor"], atol=1e-5, rtol=1e-5)
    assert latents.shape == (2, FULL[kind]["latent_channels"], 8, 8)
    assert encoder.info.dim == FULL[kind]["latent_channels"]
    torch.testing.assert_close(encoder.features(images).tokens.transpose(1, 2).reshape(latents.shape), latents)


@torch.no_grad()
def test_decode_turns_latents_into_what_diffusers_decodes(kind: str, folder: Path, images: Tensor) -> None:
    vae, encoder = reference(folder), load(f"vae/{kind}:{folder}?size=64")
    mean = vae.encode(images * 2 - 1).latent_dist.mean
    expected = (vae.decode(mean).sample + 1) / 2
    decoded = encoder.decode(encoder.latents(images))
    torch.testing.assert_close(decoded, expected, atol=1e-5, rtol=1e-5)
    assert decoded.shape == images.shape
    assert encoder.info.supports_decode


@torch.no_grad()
@pytest.mark.parametrize("kind", ["sd3", "flux"])
def test_the_shift_can_be_left_out_and_is_part_of_the_identity(kind: str, folder: Path, images: Tensor) -> None:
    plain = load(f"vae/{kind}:{folder}?size=64&latent_shift=false")
    default, stated = (load(f"vae/{kind}:{folder}?size=64{tail}") for tail in ("", "&latent_shift=true"))
    offset = FULL[kind]["shift_factor"] * FULL[kind]["scaling_factor"]
    torch.testing.assert_close(plain.latents(images) - default.latents(images), torch.full((2, 16, 8, 8), offset))
    torch.testing.assert_close(plain.decode(plain.latents(images)), default.decode(default.latents(images)))
    assert default.info.identity == stated.info.identity != plain.info.identity


def test_another_shift_of_the_file_is_another_encoder(tmp_path: Path) -> None:
    golden = read_golden("openvision3_vae_tiny")
    one, two = (
        load(f"vae/flux:{write_vae(tmp_path / str(shift), {**golden_config(), 'shift_factor': shift}, golden.state)}")
        for shift in (0.1, 0.2)
    )
    assert one.info.identity != two.info.identity


def test_a_wrong_value_of_the_shift_option_is_refused(kind: str, folder: Path) -> None:
    with pytest.raises(ConfigError, match="'latent_shift' cannot be 'maybe'"):
        load(f"vae/{kind}:{folder}?latent_shift=maybe")


def test_the_golden_latents_and_pictures(tmp_path: Path) -> None:
    golden, folder = read_golden("openvision3_vae_tiny"), flux_like_vae(tmp_path)
    pictures = [Image.fromarray(np.ascontiguousarray(image)) for image in golden.inputs["image_u8"].numpy()]
    for tail, name in (("&latent_shift=false", "latents"), ("", "latents_with_shift")):
        encoder = load(f"vae/flux:{folder}?size=128{tail}")
        batch = torch.stack([encoder.prepare(picture) for picture in pictures])
        torch.testing.assert_close(encoder.latents(batch), golden.outputs[name], atol=2e-5, rtol=1e-5)
        decoded = encoder.decode(golden.outputs[name])
        torch.testing.assert_close(decoded * 2 - 1, golden.outputs["decoded"], atol=2e-4, rtol=1e-4)
        assert float(decoded.min()) < 0.0  # unclamped
        assert float(decoded.max()) > 1.0


# --- files of the first diffusers releases


@pytest.mark.parametrize("convolutions", [False, True])
@pytest.mark.parametrize("safetensors", [False, True])
@torch.no_grad()
def test_old_attention_names_and_convolutions_are_the_same_weights(
    convolutions: bool, safetensors: bool, tmp_path: Path, images: Tensor
) -> None:
    state, old = tiny_weights("sd"), {}
    for key, value in state.items():
        name = key
        for new, former in NEW_TO_OLD.items():
            name = name.replace(new, former)
        is_projection = name != key and value.ndim == 2
        old[name] = value[:, :, None, None].contiguous() if convolutions and is_projection else value
    assert sum(".query." in name for name in old) == 4  # weight and bias, in encoder and decoder
    config = {key: value for key, value in {**SD_VAE, **TINY}.items() if key not in ("scaling_factor", "force_upcast")}
    new = load(f"vae/sd:{write_vae(tmp_path / 'new', {**SD_VAE, **TINY}, state)}?size=64")
    folder = write_vae(tmp_path / "old", config, old, safetensors=safetensors)  # as stabilityai/sd-vae-ft-mse
    former = load(f"vae/sd:{folder}?size=64")
    assert former.info.weights_digest == new.info.weights_digest
    assert former.info.identity == new.info.identity
    if safetensors and not convolutions:
        mean = reference(folder).encode(images * 2 - 1).latent_dist.mean
        torch.testing.assert_close(former.latents(images), mean * 0.18215, atol=1e-5, rtol=1e-5)


# --- what a VAE is to the rest of ovbench


@pytest.mark.parametrize("px", [8, 40, 64])
def test_any_multiple_of_8_is_read(px: int, kind: str, folder: Path) -> None:
    encoder = load(f"vae/{kind}:{folder}?size={px}")
    assert encoder.info.input.size == (px, px)
    assert encoder.info.grid == (px // 8, px // 8)
    assert encoder.latents(torch.zeros(1, 3, px, px)).shape[-2:] == (px // 8, px // 8)


def test_other_sizes_are_refused_and_the_default_is_256_cropped(kind: str, folder: Path) -> None:
    with pytest.raises(ConfigError, match="no multiple of the VAE's 8"):
        load(f"vae/{kind}:{folder}?size=60")
    info = load(f"vae/{kind}:{folder}").info
    assert (info.input.size, info.input.aspect, info.grid) == ((256, 256), "crop", (32, 32))
    assert load(f"vae/{kind}:{folder}?aspect=squash").info.input.aspect == "squash"


def test_it_is_frozen_and_has_no_layers(kind: str, folder: Path, images: Tensor) -> None:
    encoder = load(f"vae/{kind}:{folder}?size=64")
    before = weights_digest(encoder)
    encoder.train()
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not encoder.latents(images).requires_grad
    assert weights_digest(encoder) == before
    with pytest.raises(ConfigError, match="no layers to tap"):
        encoder.features(images, Tap(layer=-2))
    with pytest.raises(ConfigError, match="no layers to tap"):
        load(f"vae/{kind}:{folder}?layer=-2")


def test_it_is_not_offered_to_a_language_model(kind: str, folder: Path, images: Tensor) -> None:
    with pytest.raises(ConfigError, match="not to a language model"):
        load(f"vae/{kind}:{folder}?size=64").llm_tokens(images)
    assert not any(variant.for_understanding for variant in families()["vae"].variants)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_another_dtype_is_said_to_have_no_effect(
    kind: str, folder: Path, images: Tensor, dtype: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        encoder = load(f"vae/{kind}:{folder}?size=64&dtype={dtype}")
    assert f"vae/{kind} runs in float32: the dtype {dtype} has no effect on a VAE" in caplog.text
    assert encoder.latents(images).dtype == torch.float32
    caplog.clear()
    load(f"vae/{kind}:{folder}?size=64")
    assert caplog.text == ""


@torch.no_grad()
def test_an_autocast_of_the_caller_changes_nothing(kind: str, folder: Path, images: Tensor) -> None:
    encoder = load(f"vae/{kind}:{folder}?size=64")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside, decoded = encoder.latents(images), encoder.decode(encoder.latents(images))
    assert torch.equal(inside, encoder.latents(images))
    assert torch.equal(decoded, encoder.decode(encoder.latents(images)))


def test_untrained_weights_follow_the_seed(kind: str, folder: Path) -> None:
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    one, again, other = (load(f"vae/{kind}:{folder}?weights=random:{seed}").info for seed in (1, 1, 2))
    assert one.random_seed == 1
    assert one.weights_digest == again.weights_digest != other.weights_digest


@pytest.mark.parametrize("kind", KINDS)
def test_the_listing_states_the_parameters_of_the_real_architecture(kind: str) -> None:
    (entry,) = (variant for variant in families()["vae"].variants if variant.name == kind)
    with torch.device("meta"):
        vae = require("diffusers").AutoencoderKL(**FULL[kind])
    assert entry.num_params_frontend == sum(parameter.numel() for parameter in vae.parameters())
    assert (entry.dim, entry.num_tokens) == (vae.config.latent_channels, 1024)


# --- bad folders


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"_class_name": "AutoencoderTiny"}, "class 'AutoencoderTiny', not 'AutoencoderKL'"),
        ({"scaling_factor": None}, "does not give scaling_factor"),
        ({"latent_channels": None}, "does not give latent_channels"),
        ({"latents_mean": [0.0] * 16, "latents_std": [1.0] * 16}, r"normalises its latents per channel \(latents_mean"),
        ({"turbo": True}, "cannot be used.*turbo"),
        ({"norm_num_groups": 0}, "cannot be used"),
        ({"down_block_types": ["Nothing"] * 4}, "cannot be used"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_named(tmp_path: Path, change: dict[str, Any], what: str) -> None:
    folder = flux_like_vae(tmp_path)
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(DataError, match=what) as caught:
        load(f"vae/flux:{folder}")
    assert "config.json" in caught.value.where


def test_a_scale_is_supplied_for_stable_diffusion_alone(tmp_path: Path) -> None:
    golden = read_golden("openvision3_vae_tiny")
    config = {key: value for key, value in golden.document["vae_config"].items() if key != "scaling_factor"}
    with pytest.raises(DataError, match="does not give scaling_factor"):
        load(f"vae/flux:{write_vae(tmp_path, config, golden.state)}")


def test_missing_unexpected_and_nan_weights_are_named(tmp_path: Path) -> None:
    folder = flux_like_vae(tmp_path)
    path = folder / "diffusion_pytorch_model.safetensors"
    state = load_file(path)
    bias = "encoder.conv_in.bias"
    cases = {
        f"missing: {bias}": {key: value for key, value in state.items() if key != bias},
        "unexpected: stray": {**state, "stray": torch.zeros(1)},
        f"NaN or infinite values: {bias}": {**state, bias: torch.full((8,), torch.nan)},
    }
    for what, changed in cases.items():
        write_vae(folder, golden_config(), changed)
        with pytest.raises(DataError, match=what) as caught:
            load(f"vae/flux:{folder}")
        assert path.name in caught.value.where


def golden_config() -> dict[str, Any]:
    return read_golden("openvision3_vae_tiny").document["vae_config"]


def test_places_that_are_no_vae_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such file 'config\.json'"):
        load(f"vae/sd:{tmp_path}")
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKL", **SD_VAE, **TINY}))
    with pytest.raises(DataError, match=r"none of diffusion_pytorch_model\.safetensors"):
        load(f"vae/sd:{tmp_path}")
    with pytest.raises(DataError, match=r"'config\.json' is no folder"):
        load(f"vae/sd:{tmp_path / 'config.json'}")
    with pytest.raises(DataError, match="is a folder, and vae/mini reads one file") as caught:
        load(f"vae:{tmp_path}")
    assert f"vae/sd:{tmp_path}" in caught.value.fix


def test_the_miniature_has_no_shift_to_leave_out() -> None:
    with pytest.raises(ConfigError, match="'latent_shift' has no effect on vae/mini"):
        load("vae/mini?latent_shift=false")
