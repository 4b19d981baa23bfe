"""The pixel decoder of OpenVision 3: its layout, the encoder that carries it, and what it is refused for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.paths import asset
from ovbench.encoders.base import LoadRequest, Tap
from ovbench.encoders.modeling.frontend import load_tiny_vae
from ovbench.encoders.modeling.reconstruction_decoder import ReconstructionDecoder, corner_rows
from ovbench.encoders.modeling.tokens import TokenEncoder
from ovbench.encoders.modeling.trunk import load_trunk
from ovbench.encoders.modeling.vit import ViTConfig
from ovbench.encoders.registry import load_encoder, parse_encoder
from ovbench.testing import check_encoder
from tests.encoders.decoder_file import write_decoder

SMALL = ViTConfig(in_channels=3, image_size=4, patch_size=2, width=8, layers=1, head_width=4, embed_dim=8)
VAE = "encoders/vae-mini.safetensors"


def encoder(text: str) -> TokenEncoder:
    return cast(TokenEncoder, load_encoder(text))


def images(count: int = 2, side: int = 64) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decoder of the embedded trunk, with seeded weights."""
    path = tmp_path_factory.mktemp("decoder") / "d.safetensors"
    write_decoder(path)
    return path


def test_its_checkpoint_keeps_its_keys() -> None:
    linear = ("attn.out_proj", "ln_1", "ln_2", "mlp.c_fc", "mlp.c_proj")
    block = {f"{name}.{kind}" for name in linear for kind in ("weight", "bias")}
    block |= {"attn.in_proj_weight", "attn.in_proj_bias"}
    ends = {f"{name}.{kind}" for name in ("input", "ln_post", "output") for kind in ("weight", "bias")} | {"positions"}
    state = ReconstructionDecoder(SMALL, 2).state_dict()
    assert set(state) == ends | {f"blocks.{number}.{name}" for number in range(2) for name in block}
    assert state["positions"].shape == (4, 8)
    assert state["output.weight"].shape == (3 * 2 * 2, 8)


def test_a_token_becomes_the_cells_of_its_patch() -> None:
    torch.manual_seed(0)
    decoder, tokens = ReconstructionDecoder(SMALL, 0), torch.randn(1, 4, 8)
    got = decoder(tokens)
    rows = decoder.output(decoder.ln_post(decoder.input(tokens) + decoder.positions))[0]
    for token in range(4):
        top, left = 2 * (token // 2), 2 * (token % 2)
        torch.testing.assert_close(got[0, :, top : top + 2, left : left + 2].flatten(), rows[token])


def test_decoding_is_the_branch_and_then_the_vae(file: Path, tmp_path: Path) -> None:
    branch = write_decoder(tmp_path / "again.safetensors")
    own, x = encoder(f"ovis3/mini?decoder={file}"), images()
    assert own.info.supports_decode
    tokens = encoder("ovis3/mini").features(x, Tap(norm="none")).tokens
    expected = (load_tiny_vae(asset(VAE)).decode(branch(tokens)) + 1) / 2
    got = own.decode(own.latents(x))
    assert got.shape == x.shape
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


def test_smaller_pictures_take_the_positions_of_the_corner(file: Path, tmp_path: Path) -> None:
    branch = write_decoder(tmp_path / "again.safetensors")
    own, x = encoder(f"ovis3/mini?decoder={file}&size=32"), images(side=32)
    latents = own.latents(x)
    assert latents.shape == (2, 128, 4, 4)
    rows = torch.tensor([8 * row + column for row in range(4) for column in range(4)])
    assert torch.equal(corner_rows(8, 4), rows)
    expected = (load_tiny_vae(asset(VAE)).decode(branch(latents.flatten(2).transpose(1, 2), rows)) + 1) / 2
    torch.testing.assert_close(own.decode(latents), expected, rtol=0, atol=1e-5)


def test_a_generator_reads_the_tokens_that_the_branch_was_trained_on(file: Path) -> None:
    own, plain, x = encoder(f"ovis3/mini?decoder={file}"), encoder("ovis3/mini"), images()
    assert own.info.latent_tap == Tap(norm="none")
    assert torch.equal(own.latents(x), plain.latents(x, Tap(norm="none")))
    assert not torch.allclose(own.latents(x), plain.latents(x), atol=0.1)
    assert torch.equal(own.llm_tokens(x), plain.llm_tokens(x))


def test_each_decoder_has_a_fingerprint_of_its_own(file: Path, tmp_path: Path) -> None:
    write_decoder(tmp_path / "other.safetensors", seed=1)
    built = [
        encoder(text).info
        for text in (
            "ovis3/mini",
            f"ovis3/mini?decoder={file}",
            f"ovis3/mini?decoder={tmp_path / 'other.safetensors'}",
        )
    ]
    assert len({info.identity for info in built}) == 3
    assert len({info.weights_digest for info in built}) == 3


def test_low_precision_is_that_of_the_trunk_alone(file: Path) -> None:
    own = encoder(f"ovis3/mini?decoder={file}&size=32&dtype=bf16")
    assert own.decoder is not None
    assert {parameter.dtype for parameter in own.decoder.parameters()} == {torch.float32}
    x = images(side=32)
    whole = encoder(f"ovis3/mini?decoder={file}&size=32")
    assert (own.decode(own.latents(x)) - whole.decode(whole.latents(x))).abs().mean() < 0.05


@pytest.mark.parametrize("options", ["", "&size=32"])
def test_the_contract_holds(file: Path, options: str) -> None:
    report = check_encoder(f"ovis3/mini?decoder={file}{options}")
    report.raise_if_failed()
    assert report["decode"].outcome == "passed"
    assert report["random-weights"].outcome == "passed"


def test_untrained_weights_are_untrained_in_the_decoder_too(file: Path) -> None:
    one, other = (encoder(f"ovis3/mini?decoder={file}&weights=random:{seed}") for seed in (1, 2))
    latents = torch.ones(1, 128, 8, 8)
    assert not torch.equal(one.decode(latents), other.decode(latents))
    assert torch.equal(one.decode(latents), encoder(f"ovis3/mini?decoder={file}&weights=random:1").decode(latents))


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({"trunk": "0" * 64}, "trained with another trunk"),
        ({"vae": "0" * 64}, "trained with another VAE"),
        ({"recipe": "ovis3-base-256"}, "recipe 'ovis3-base-256', not as 'ovis3'"),
        ({"config": json.dumps({"layers": "two", "trunk": {}})}, "gives 'two' layers"),
        ({"config": json.dumps({"layers": 1, "trunk": {"colour": 3}})}, "another kind of network"),
        ({"config": json.dumps({"layers": 1, "trunk": {"in_channels": 16}})}, "trained with another trunk"),
        ({"config": "[1]"}, "holds no configuration"),
        ({"config": json.dumps({"layers": 1})}, "is no reconstruction decoder"),
    ],
)
def test_a_file_that_does_not_belong_is_refused(tmp_path: Path, header: dict[str, str], words: str) -> None:
    write_decoder(tmp_path / "d.safetensors", header=header)
    with pytest.raises(DataError, match=words):
        encoder(f"ovis3/mini?decoder={tmp_path / 'd.safetensors'}")


def test_weights_of_another_depth_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    described = write_decoder(path, layers=1).describe()
    write_decoder(path, layers=2, header={"config": json.dumps(described)})
    with pytest.raises(DataError, match=r"unexpected: blocks\.1"):
        encoder(f"ovis3/mini?decoder={path}")


@pytest.mark.parametrize("name", ["", "missing.safetensors"])
def test_a_missing_file_is_named(name: str) -> None:
    with pytest.raises(DataError, match=f"no such file '{name}'"):
        encoder(f"ovis3/mini?decoder={name}")


def test_trunk_and_decoder_in_each_others_place_are_refused(file: Path) -> None:
    with pytest.raises(DataError, match="is no reconstruction decoder"):
        encoder(f"ovis3/mini?decoder={asset('encoders/ovis3-mini.safetensors')}")
    with pytest.raises(DataError, match="another kind of network than ViT"):
        encoder(f"ovis3/mini:{file}")


def test_released_weights_have_no_pixel_decoder(file: Path) -> None:
    with pytest.raises(ConfigError, match="whose pixel decoder is not released"):
        encoder(f"ovis3/base-256?decoder={file}")


def test_a_trunk_on_pixels_has_no_use_for_one(file: Path) -> None:
    with pytest.raises(ConfigError, match="unknown option of clip"):
        encoder(f"clip/mini?decoder={file}")
    variant = parse_encoder("clip/mini").variant
    with pytest.raises(ConfigError, match="'decoder' has no effect"):
        load_trunk(LoadRequest(family="clip", variant=variant, options={"decoder": str(file)}))


def test_an_encoder_without_a_decoder_does_not_decode() -> None:
    plain = encoder("ovis3/mini")
    assert not plain.info.supports_decode
    with pytest.raises(ConfigError, match="has no decoder of its own"):
        plain.decode(plain.latents(images()))


@pytest.mark.parametrize("shape", [(1, 128, 4, 4), (1, 16, 8, 8), (1, 64, 128)])
def test_latents_of_another_shape_are_refused(file: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"latents must be \[B, 128, 8, 8\]"):
        encoder(f"ovis3/mini?decoder={file}").decode(torch.zeros(shape))


def test_the_corner_has_the_same_network() -> None:
    whole = ReconstructionDecoder(replace(SMALL, image_size=8), 1)
    small = whole.corner(4)
    assert small.positions.shape == (4, 8)
    assert torch.equal(small.positions, whole.positions[torch.tensor([0, 1, 4, 5])])
    assert all(
        torch.equal(value, small.state_dict()[key]) for key, value in whole.state_dict().items() if key != "positions"
    )
