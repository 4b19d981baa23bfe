"""Given decoders, statistics and networks; what the command line says of bad ones is tested end to end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ovbench._base.errors import ConfigError
from ovbench.encoders.base import Normalisation
from ovbench.encoders.registry import load_encoder
from ovbench.harness.generation.config import DiTDHConfig
from ovbench.harness.generation.decoder import ViTDecoder
from ovbench.harness.generation.decoder_config import DECODERS, DecoderConfig
from ovbench.harness.generation.decoder_weights import save_decoder
from ovbench.harness.generation.diffusers_layout import DEFAULTS, WEIGHTS, diffusers_key
from ovbench.harness.generation.given_parts import given_decoder, given_digests, given_stats, named_network
from ovbench.harness.generation.latent_stats import latent_fingerprint
from ovbench.harness.generation.options_config import GenerationOptions
from tests.harness.generation.rae_data import patch_encoder, randn, small_decoder

EXPECTED = small_decoder().config


def write_folder(folder: Path, decoder: ViTDecoder, *, latent: int = 6, grid: int = 4, **changes: Any) -> Path:
    """Writes a decoder as a folder of diffusers, with statistics of its latents."""
    config = decoder.config
    folder.mkdir()
    fields = {
        "encoder_type": "dinov2", "encoder_hidden_size": latent, "encoder_patch_size": 4, "encoder_input_size": 16,
        "encoder_num_hidden_layers": 1, "decoder_hidden_size": config.width, "decoder_num_hidden_layers": config.depth,
        "decoder_num_attention_heads": config.num_heads, "decoder_intermediate_size": config.mlp_width,
        "patch_size": config.patch_px, "image_size": config.output_px,
    }  # fmt: skip
    document = {**DEFAULTS, "_class_name": "AutoencoderRAE", **fields, **changes}
    (folder / "config.json").write_text(json.dumps(document))
    tensors = {f"decoder.{diffusers_key(key)}": value.contiguous() for key, value in decoder.state_dict().items()}
    tensors |= {"_latents_mean": randn(latent, grid, grid), "_latents_std": randn(latent, grid, grid, seed=1).abs() + 1}
    save_file(tensors, folder / WEIGHTS[0])
    return folder


def test_a_folder_of_diffusers_gives_the_decoder(tmp_path: Path) -> None:
    decoder = small_decoder()
    made = given_decoder(write_folder(tmp_path / "rae", decoder), patch_encoder(), EXPECTED)
    tokens = randn(2, 16, 6)
    with torch.no_grad():
        torch.testing.assert_close(made(tokens), decoder(tokens), rtol=0, atol=1e-6)


def test_a_folder_of_diffusers_gives_the_statistics(tmp_path: Path) -> None:
    stats = given_stats(write_folder(tmp_path / "rae", small_decoder()), patch_encoder())
    torch.testing.assert_close(stats.shift(), randn(6, 4, 4).double())
    torch.testing.assert_close(stats.scale(), randn(6, 4, 4, seed=1).abs().double() + 1)


@pytest.mark.parametrize("part", ["decoder", "stats"])
def test_a_folder_whose_encoder_normalises_otherwise_is_refused(tmp_path: Path, part: str) -> None:
    folder = write_folder(tmp_path / "rae", small_decoder())
    half = (0.5, 0.5, 0.5)
    encoder = patch_encoder(normalisation=Normalisation(half, half))
    with pytest.raises(ConfigError) as error:
        given_decoder(folder, encoder, EXPECTED) if part == "decoder" else given_stats(folder, encoder)
    assert "normalises pixels" in error.value.what
    assert f"--{part}" in error.value.where


def test_a_folder_of_other_latents_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "rae", small_decoder(latent_dim=8), latent=8)
    with pytest.raises(ConfigError) as error:
        given_decoder(folder, patch_encoder(), EXPECTED)
    assert "--decoder" in error.value.where


def test_the_digest_of_a_folder_follows_its_content_and_not_its_place(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_folder(tmp_path / name, small_decoder())
    write_folder(tmp_path / "c", small_decoder(seed=1))
    digests = [given_digests(GenerationOptions(decoder=tmp_path / name))["decoder"] for name in "abc"]
    assert digests[0] == digests[1] != digests[2]


def test_a_decoder_is_as_deep_as_its_file_where_a_preset_has_its_shape(tmp_path: Path) -> None:
    mini = DecoderConfig(latent_dim=6, num_patches=16, patch_px=4, width=128, depth=3, num_heads=4, mlp_width=512)
    torch.save(ViTDecoder(mini).state_dict(), tmp_path / "model.pt")
    assert given_decoder(tmp_path / "model.pt", patch_encoder(), EXPECTED).config == mini


def test_a_decoder_of_the_protocols_shape_has_the_protocols_heads(tmp_path: Path) -> None:
    torch.save(small_decoder().state_dict(), tmp_path / "model.pt")
    assert given_decoder(tmp_path / "model.pt", patch_encoder(), EXPECTED).config == EXPECTED


def test_a_network_is_named_by_a_configuration_of_the_reference(tmp_path: Path) -> None:
    params = {"in_channels": 6, "input_size": 4, "num_classes": 3, "hidden_size": [8, 16], "depth": [1, 1]}
    params["num_heads"] = [2, 2]
    document = {"stage_2": {"target": "stage2.models.DDT.DiTwDDTHead", "params": params}, "guidance": {}}
    (tmp_path / "dit.yaml").write_text(json.dumps(document))
    config = named_network(str(tmp_path / "dit.yaml"), "--dit-network", channels=6, grid=4, num_classes=3)
    assert config == DiTDHConfig(
        in_channels=6, input_size=4, num_classes=3, hidden_size=(8, 16), depth=(1, 1), num_heads=(2, 2)
    )


def test_a_preset_takes_the_sizes_of_the_latents() -> None:
    config = named_network("dit-dh-s", "--guide-network", channels=6, grid=4, num_classes=3)
    assert (config.in_channels, config.input_size, config.num_classes) == (6, 4, 3)


def test_a_decoder_that_says_another_encoder_is_refused(tmp_path: Path) -> None:
    config = DECODERS["mini"]
    with torch.random.fork_rng(devices=[]):
        decoder = ViTDecoder(config)
    ours, other = load_encoder("clip/mini?size=32"), load_encoder("random/mini?size=32")
    path = tmp_path / "decoder.safetensors"
    save_decoder(path, decoder, encoder=latent_fingerprint(ours))
    assert isinstance(given_decoder(path, ours, config), ViTDecoder)
    with pytest.raises(ConfigError, match="trained on the latents of another encoder"):
        given_decoder(path, other, config)
    save_decoder(path, decoder)  # released files do not say it
    assert isinstance(given_decoder(path, other, config), ViTDecoder)
