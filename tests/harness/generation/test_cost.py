"""Sizes by formula: those that torch counts on the networks, and those that the papers state."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ovbench._base.errors import ConfigError
from ovbench.harness.generation.config import PRESETS, DiTDHConfig, LightningDiTConfig, Stage2Config, preset
from ovbench.harness.generation.cost import (
    EXTRACTOR_FEATURES,
    EXTRACTOR_FLOPS,
    VGG16_PARAMS,
    decoder_flops,
    decoder_params,
    dino_flops,
    dino_params,
    extractor_flops,
    flops_of,
    heads_flops,
    heads_params,
    latent_bytes,
    network_by_name,
    network_params,
    params_of,
    picture_bytes,
    training_bytes,
    vgg16_flops,
)
from ovbench.harness.generation.decoder import ViTDecoder
from ovbench.harness.generation.decoder_config import DECODERS, DecoderConfig, DinoConfig, DiscriminatorConfig
from ovbench.harness.generation.dino import FrozenDino
from ovbench.harness.generation.discriminator import Discriminator
from ovbench.harness.generation.network_weights import build_network
from ovbench.harness.metrics.inception import Inception
from ovbench.harness.metrics.wardrobe import NUM_FEATURES, Wardrobe, WardrobeConfig

# (millions of parameters, GFLOP) with 768 channels and 256 tokens; arXiv 2510.11690 rounds XL to 839M.
PUBLISHED = {
    "vit-b": (86.4, 46.7), "vit-l": (304.2, 162.5), "vit-xl": (415.4, 221.7), "dit-dh-s": (196.5, 96.9),
    "dit-dh-b": (294.3, 131.4), "dit-dh-l": (621.7, 247.1), "dit-dh-xl": (838.7, 323.2), "dit-xl": (677.3, 238.1),
}  # fmt: skip
SMALL_DH = DiTDHConfig(
    input_size=4, in_channels=12, hidden_size=(32, 64), depth=(2, 3), num_heads=(2, 4), num_classes=10
)
SMALL_DIT = LightningDiTConfig(
    input_size=8, patch_size=2, in_channels=4, hidden_size=48, depth=2, num_heads=3, num_classes=10, learn_sigma=True
)
SMALL_DINO = DinoConfig(depth=3, width=24, num_heads=2, patch_px=8, input_px=44)
SMALL_HEADS = DiscriminatorConfig(dino=SMALL_DINO, key_depths=(1, 2), kernel=3)


def counted(run: Callable[[], object]) -> int:
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def num_params(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", PUBLISHED)
def test_size_is_the_published_one(name: str) -> None:
    config = network_by_name(name, channels=768, grid=16)
    params, flops = PUBLISHED[name]
    assert params_of(config) / 1e6 == pytest.approx(params, abs=0.06)
    assert flops_of(config) / 1e9 == pytest.approx(flops, rel=0.002)


@pytest.mark.parametrize(
    "config",
    [
        *DECODERS.values(),
        DecoderConfig(latent_dim=20, num_patches=9, patch_px=4, width=24, depth=2, num_heads=3, mlp_width=40),
    ],
)
def test_decoder_is_what_torch_counts(config: DecoderConfig) -> None:
    with torch.device("meta"):
        network, tokens = ViTDecoder(config), torch.empty(1, config.num_patches, config.latent_dim)
        assert counted(lambda: network(tokens)) == decoder_flops(config)
    assert num_params(network) == decoder_params(config)


@pytest.mark.parametrize(
    "config",
    [
        *PRESETS.values(),
        SMALL_DH,
        replace(SMALL_DH, use_swiglu=False, use_qknorm=True, hidden_size=(48, 48), num_heads=(3, 3)),
        replace(SMALL_DH, use_rmsnorm=False, use_qknorm=True, use_pos_embed=False, class_dropout_prob=0.0),
        SMALL_DIT,
        replace(SMALL_DIT, use_swiglu=False, use_rope=False, use_rmsnorm=False, use_qknorm=True, mlp_ratio=3.0),
    ],
)
def test_parameters_of_a_transformer_are_those_of_the_network(config: Stage2Config) -> None:
    with torch.device("meta"):
        assert num_params(build_network(config, seed=0)) == network_params(config)


@pytest.mark.parametrize("config", [DiscriminatorConfig(), SMALL_HEADS])
def test_discriminator_is_what_torch_counts(config: DiscriminatorConfig) -> None:
    plain = replace(config, spectral_norm=False)  # its power iterations are not counted
    with torch.device("meta"):
        dino = FrozenDino(config.dino)
        network = Discriminator(dino, plain)
        images = torch.empty(1, 3, config.dino.input_px, config.dino.input_px)
        assert counted(lambda: dino(images, [config.dino.depth - 1])) == dino_flops(config.dino)
        assert counted(lambda: network(images)) == dino_flops(config.dino) + heads_flops(config)
    assert num_params(dino) == dino_params(config.dino)
    assert num_params(network.heads) == heads_params(config)


def test_dino_s8_has_the_published_operations() -> None:
    assert dino_flops() / 1e9 == pytest.approx(44.8, abs=0.05)


def test_vgg16_is_what_torch_counts_on_torchvisions() -> None:
    vgg16 = pytest.importorskip("torchvision.models", reason="torchvision is not installed").vgg16
    with torch.device("meta"):
        network = vgg16(weights=None).features
        assert counted(lambda: network(torch.empty(1, 3, 64, 64))) == vgg16_flops(64)
    assert num_params(network) == VGG16_PARAMS
    assert vgg16_flops(256) / 1e9 == pytest.approx(40.1, abs=0.05)


def test_extractors_are_what_torch_counts() -> None:
    with torch.device("meta"):
        inception = Inception()
        assert counted(lambda: inception(torch.empty(1, 3, 299, 299))) == EXTRACTOR_FLOPS["inception-tf"]
    wardrobe = Wardrobe(WardrobeConfig()).eval()
    assert counted(lambda: wardrobe(torch.zeros(1, 3, 32, 32))) == EXTRACTOR_FLOPS["wardrobe"]
    assert EXTRACTOR_FEATURES["wardrobe"] == NUM_FEATURES


def test_extractor_without_a_count_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown extractor 'inception'") as caught:
        extractor_flops("inception")
    assert "did you mean 'inception-tf'" in caught.value.fix


def test_training_dit_dh_xl_takes_17_gb() -> None:
    assert training_bytes(network_params(preset("dit-dh-xl"))) / 1e9 == pytest.approx(17, abs=0.3)
    assert training_bytes(10, frozen=5) == 220


def test_pictures_and_latents_take_what_their_numbers_take() -> None:
    assert picture_bytes(1_281_167, 256) / 1e9 == pytest.approx(252, abs=0.5)
    assert latent_bytes(1, (768, 16, 16), "bfloat16", flips=False) == 393_216
    assert latent_bytes(1_281_167, (768, 16, 16), "bfloat16", flips=True) / 1e12 == pytest.approx(1.01, abs=0.005)
    assert latent_bytes(3, (4, 2, 2), "float32", flips=True) == 3 * 2 * 16 * 4


def test_unknown_network_is_refused_with_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="unknown network 'dit-dh-x'") as caught:
        network_by_name("dit-dh-x", channels=768, grid=16)
    assert "did you mean 'dit-dh-xl'" in caught.value.fix


@pytest.mark.parametrize(
    ("flag", "sizes"), [("--channels", (0, 16, 16)), ("--grid", (8, -1, 16)), ("--patch-px", (8, 4, 0))]
)
def test_sizes_that_cannot_be_are_refused(flag: str, sizes: tuple[int, int, int]) -> None:
    with pytest.raises(ConfigError, match="must be 1 or more") as caught:
        network_by_name("vit-b", channels=sizes[0], grid=sizes[1], patch_px=sizes[2])
    assert caught.value.where == flag


def test_sizes_need_no_torch() -> None:
    code = "import sys, ovbench.harness.generation.cost; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
