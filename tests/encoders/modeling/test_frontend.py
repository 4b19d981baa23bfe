"""Front ends: the miniature VAE, a diffusers VAE folder, and damaged files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.paths import asset
from ovbench.encoders.modeling.frontend import load_frontend, load_tiny_vae
from ovbench.encoders.modeling.tiny_vae import TinyVAE, TinyVAEConfig
from ovbench.encoders.modeling.weights_file import read_weights
from ovbench.harness.checkpoint import save_tensors
from ovbench.harness.pretraining.train_vae import measure
from ovbench.tasks.world.draw import embedded_sprites


def test_pixels_need_no_front_end() -> None:
    assert load_frontend("pixels", None) is None


def test_latents_without_a_vae_are_an_error() -> None:
    with pytest.raises(ConfigError, match="no VAE was named"):
        load_frontend("tiny-vae", None)


def test_the_embedded_vae_reconstructs_unseen_garments_within_its_band() -> None:
    figures = measure(load_tiny_vae(asset("encoders/vae-mini.safetensors")), embedded_sprites("test"), count=128)
    assert figures["psnr_32px_db"] >= 26.0


def test_scaled_latents_have_unit_spread_and_decode_undoes_the_scale() -> None:
    vae = TinyVAE(TinyVAEConfig(scaling_factor=4.0))
    plain = TinyVAE(TinyVAEConfig())
    plain.load_state_dict(vae.state_dict())
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(vae.encode(images), 4.0 * plain.encode(images))
        torch.testing.assert_close(vae.decode(vae.encode(images)), plain.decode(plain.encode(images)))


def test_a_cut_out_has_the_latents_of_the_whole_away_from_its_border() -> None:
    vae = TinyVAE(TinyVAEConfig())
    images = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        whole, part = vae.encode(images), vae.encode(images[..., :64, :64])
    torch.testing.assert_close(part[..., :6, :6], whole[..., :6, :6])


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "vae.safetensors"
    path.write_bytes(asset("encoders/vae-mini.safetensors").read_bytes()[:5000])
    with pytest.raises(DataError, match=r"vae\.safetensors.*damaged"):
        load_tiny_vae(path)


def test_a_file_without_its_architecture_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bare.safetensors"
    save_tensors(path, {"x": torch.zeros(1)})
    with pytest.raises(DataError, match="architecture"):
        read_weights(path)


def test_a_diffusers_vae_gives_the_scaled_mean_without_the_shift(tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers", reason="needs diffusers, of the extra 'offline'")
    torch.manual_seed(0)
    vae = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        norm_num_groups=4,
        latent_channels=16,
        scaling_factor=0.3611,
        shift_factor=0.1159,
    )
    vae.save_pretrained(tmp_path)
    front = load_frontend("flux-vae", tmp_path)
    assert front is not None
    assert front.downsampling == 8
    assert front.latent_channels == 16
    images = torch.rand(1, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        expected = vae.eval().encode(images).latent_dist.mean * 0.3611
        torch.testing.assert_close(front.encode(images), expected)
        assert front.decode(expected).shape == images.shape
    assert not any(parameter.requires_grad for parameter in front.parameters())


def test_a_folder_that_holds_no_vae_is_named(tmp_path: Path) -> None:
    pytest.importorskip("diffusers", reason="needs diffusers, of the extra 'offline'")
    with pytest.raises(DataError, match="config.json"):
        load_frontend("flux-vae", tmp_path)
