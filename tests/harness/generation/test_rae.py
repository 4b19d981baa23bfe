from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from ovbench._base.errors import ConfigError, DataError
from ovbench.encoders.base import Normalisation, Tap
from ovbench.encoders.modeling.tokens import TokenEncoder
from ovbench.encoders.registry import load_encoder
from ovbench.harness.generation.decoder_config import NoiseConfig
from ovbench.harness.generation.latent_stats import LatentStats, compute_stats, latent_fingerprint
from ovbench.harness.generation.losses import DecoderLossConfig, reconstruction_loss
from ovbench.harness.generation.noise import add_noise, sigma_of
from ovbench.harness.generation.rae import RAE
from tests.conftest import GOLDEN
from tests.harness.generation.rae_data import (
    Golden,
    assert_golden,
    golden,
    golden_names,
    patch_encoder,
    pictures,
    randn,
    small_decoder,
)
from tests.harness.generation.test_decoder import golden_decoder


def _golden_encoder(case: Golden) -> TokenEncoder:
    config = case.config
    return patch_encoder(
        dim=config["enc_dim"],
        patch=config["enc_patch"],
        size=config["enc_input"],
        normalisation=Normalisation(tuple(config["mean"]), tuple(config["std"])),
        weight=case.tensors["sd.encoder.proj.weight"],
        bias=case.tensors["sd.encoder.proj.bias"],
    )


def _golden_rae(case: Golden, *, mean: bool = True) -> RAE:
    encoder = _golden_encoder(case)
    stats = LatentStats(
        mean=case.tensors["in.latent_mean"] if mean else None,
        var=case.tensors["in.latent_var"],
        eps=case.config["eps"],
        encoder=latent_fingerprint(encoder),
    )
    return RAE(encoder, golden_decoder(case), stats)


def _rae(stats: bool = True) -> RAE:
    encoder = patch_encoder()
    return RAE(encoder, small_decoder(), compute_stats(encoder, [pictures(8)], data="x") if stats else None)


@pytest.mark.parametrize("name", golden_names("rae_decoder"))
def test_both_directions_are_the_references(name: str) -> None:
    case = golden(name)
    rae, tensors = _golden_rae(case), case.tensors
    images, z = tensors["in.image"], tensors["in.z"]
    tokens = rae.raw_latents(images).flatten(2).transpose(1, 2)
    assert_golden(tokens, tensors["out.encoder_tokens"])
    assert_golden(rae.encode(images), tensors["out.encode"])
    assert_golden(rae.decode_unclamped(z), tensors["out.decode"])
    assert_golden(rae.decode_unclamped(rae.encode(images)), tensors["out.recon"])
    assert torch.equal(rae.decode(z), rae.decode_unclamped(z).clamp(0, 1))
    # A level can differ where 255 x lies within the tolerance of a whole number.
    gap = (rae.decode_u8(z).int() - tensors["out.decode_uint8"].int()).abs()
    assert int(gap.max()) <= 1
    assert float((gap > 0).float().mean()) < 0.01
    without = _golden_rae(case, mean=False)
    assert_golden(without.encode(images), tensors["out.encode_nomean"])
    assert_golden(without.decode_unclamped(z), tensors["out.decode_nomean"])


@pytest.mark.parametrize("name", golden_names("rae_decoder"))
def test_noise_of_training_is_the_references(name: str) -> None:
    case = golden(name)
    rae, noise = _golden_rae(case), case.tensors["in.noise_n"]
    raw = rae.raw_latents(case.tensors["in.image"])
    sigma = sigma_of(case.tensors["in.noise_u"], NoiseConfig(tau=case.config["tau"]))
    noised = add_noise(raw, sigma, noise.transpose(1, 2).reshape(raw.shape))
    assert rae.stats is not None
    assert_golden(rae.stats.normalise(noised), case.tensors["out.encode_noised"])


def test_levels_are_cut_off_as_in_the_reference() -> None:
    values = json.loads((GOLDEN / "rae_misc.json").read_text(encoding="utf-8"))["rounding"]["values"]
    rae = _rae(stats=False)
    pixels = torch.tensor([value for value, _ in values]).view(1, 1, 1, -1).repeat(1, 3, 1, 1)
    rae.decode_unclamped = lambda latents: pixels  # pyright: ignore[reportAttributeAccessIssue]
    assert rae.decode_u8(torch.zeros(1))[0, 0, :, 1].tolist() == [level for _, level in values]
    rounded = [min(255, int(min(max(value, 0.0), 1.0) * 255 + 0.5)) for value, _ in values]
    assert rae.decode_u8(torch.zeros(1), "round")[0, 0, :, 1].tolist() == rounded
    with pytest.raises(ConfigError, match="unknown quantisation 'floor'"):
        rae.decode_u8(torch.zeros(1), "floor")  # pyright: ignore[reportArgumentType]


def test_pictures_that_are_no_numbers_are_refused() -> None:
    rae = _rae(stats=False)
    with pytest.raises(DataError, match="values are NaN or infinite"):
        rae.decode_u8(torch.full((1, 6, 4, 4), torch.nan))


def test_latents_and_pictures_have_the_stated_shapes_and_ranges() -> None:
    rae = _rae()
    latents = rae.encode(pictures(3, 24))
    assert tuple(latents.shape) == (3, *rae.latent_shape) == (3, 6, 4, 4)
    assert latents.dtype == torch.float32
    images = rae.decode(3.0 * latents)
    assert tuple(images.shape) == (3, 3, *rae.output_px) == (3, 3, 16, 16)
    assert float(images.min()) >= 0.0
    assert float(images.max()) <= 1.0
    levels = rae.reconstruct_u8(pictures(3))
    assert levels.dtype == torch.uint8
    assert tuple(levels.shape) == (3, 16, 16, 3)


def test_without_statistics_latents_are_the_encoders() -> None:
    rae = _rae(stats=False)
    assert torch.equal(rae.encode(pictures(2)), rae.encoder.latents(pictures(2)))
    assert rae.kind == "rae"


def test_statistics_change_the_latents_and_not_the_pictures() -> None:
    images = pictures(4)
    with_stats, without = _rae(), _rae(stats=False)
    normalised = with_stats.encode(images)
    assert not torch.allclose(normalised, without.encode(images), atol=1e-2)
    torch.testing.assert_close(with_stats.decode(normalised), without.decode(without.encode(images)), rtol=0, atol=1e-5)


def test_training_reaches_the_decoder_and_nothing_else() -> None:
    rae = _rae()
    assert {name.partition(".")[0] for name, _ in rae.named_parameters()} == {"decoder"}
    assert {key.partition(".")[0] for key in rae.state_dict()} == {"decoder"}
    images = pictures(2)
    reconstruction = rae.pixels(rae.raw_latents(images))
    reconstruction_loss(reconstruction, images, DecoderLossConfig(lpips_weight=0.0)).total.backward()
    gradients = {name for name, parameter in rae.named_parameters() if parameter.grad is not None}
    assert gradients == {name for name, parameter in rae.named_parameters() if parameter.requires_grad}
    assert "decoder.decoder_pos_embed" not in gradients
    assert not any(parameter.requires_grad for parameter in rae.encoder.parameters())  # pyright: ignore[reportAttributeAccessIssue]


def test_scoring_takes_no_gradients() -> None:
    rae = _rae()
    assert not rae.decode(rae.encode(pictures(1))).requires_grad


def test_another_tap_is_used_and_bound() -> None:
    encoder, tap = patch_encoder(), Tap(norm="none")
    stats = compute_stats(encoder, [pictures(4)], data="x", tap=tap)
    rae = RAE(encoder, small_decoder(), stats, tap=tap)
    torch.testing.assert_close(rae.raw_latents(pictures(1)), encoder.latents(pictures(1), tap))
    with pytest.raises(ConfigError, match="of another encoder, tap or precision"):
        RAE(encoder, small_decoder(), stats)


def test_parts_of_different_autoencoders_are_refused() -> None:
    with pytest.raises(ConfigError) as error:
        RAE(patch_encoder(dim=8), small_decoder())
    assert error.value.what == "the decoder reads latents of width 6, and those of 'stand-in/patch' have 8"
    stats = compute_stats(patch_encoder(seed=1), [pictures(2)], data="x")
    with pytest.raises(ConfigError, match="the latent statistics are of another encoder"):
        RAE(patch_encoder(), small_decoder(), stats)
    with pytest.raises(ConfigError, match="the decoder makes 1 channels, not RGB"):
        RAE(patch_encoder(), small_decoder(num_channels=1))


def test_an_encoder_without_a_decoder_is_said() -> None:
    with pytest.raises(ConfigError) as error:
        RAE(patch_encoder(), "native")
    assert error.value.what == "'stand-in/patch' has no decoder of its own"
    assert error.value.fix == "train one: decoder: rae"
    with pytest.raises(ConfigError, match="unknown decoder 'natve'"):
        RAE(patch_encoder(), "natve")  # pyright: ignore[reportArgumentType]


@pytest.fixture(scope="module")
def vae_images() -> Tensor:
    return pictures(3, 32)


@pytest.mark.parametrize("with_stats", [False, True])
def test_a_vae_decodes_with_its_own_decoder(vae_images: Tensor, with_stats: bool) -> None:
    encoder = load_encoder("vae/mini?size=32")
    stats = compute_stats(encoder, [vae_images], data="x") if with_stats else None
    rae = RAE(encoder, "native", stats)
    assert rae.kind == "native"
    assert rae.output_px == (32, 32)
    assert not list(rae.parameters())
    latents = rae.encode(vae_images)
    assert tuple(latents.shape[1:]) == rae.latent_shape == (16, 8, 8)
    again = rae.decode(latents)
    assert float((again - vae_images).square().mean()) < 0.01  # better than 20 dB
    own = encoder.decode(encoder.latents(vae_images))  # pyright: ignore[reportAttributeAccessIssue]
    torch.testing.assert_close(rae.decode_unclamped(latents), own, rtol=0, atol=1e-4)


def test_a_picture_does_not_depend_on_its_batch() -> None:
    rae, latents = _rae(), randn(5, 6, 4, 4)
    alone = torch.cat([rae.decode(row[None]) for row in latents])
    torch.testing.assert_close(rae.decode(latents), alone, rtol=0, atol=1e-6)
