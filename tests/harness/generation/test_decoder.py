from __future__ import annotations

import math

import pytest
import torch

from ovbench._base.errors import ConfigError
from ovbench.harness.generation.decoder import ViTDecoder, sincos_positions, unpatchify
from ovbench.harness.generation.decoder_config import DECODERS, DecoderConfig, decoder_config
from ovbench.harness.generation.decoder_weights import decoder_of
from tests.harness.generation.rae_data import Golden, assert_golden, golden, golden_names, randn, small_decoder


def golden_decoder(case: Golden) -> ViTDecoder:
    """The decoder of a golden file."""
    config = case.config
    architecture = DecoderConfig(
        latent_dim=config["enc_dim"],
        num_patches=config["num_patches"],
        patch_px=config["dec_patch"],
        width=config["dec_dim"],
        depth=config["dec_layers"],
        num_heads=config["dec_heads"],
        mlp_width=config["dec_inter"],
        eps=config["decoder_layer_norm_eps"],
    )
    assert architecture.output_px == config["output_size"]
    return decoder_of(case.part("sd.decoder."), architecture, where="golden")


@pytest.mark.parametrize("name", golden_names("rae_decoder"))
def test_patches_and_pictures_are_the_references(name: str) -> None:
    case = golden(name)
    decoder = golden_decoder(case)
    with torch.no_grad():
        logits = decoder(case.tensors["in.tokens"])
        other = decoder(case.tensors["in.tokens_othergrid"])
    assert_golden(logits, case.tensors["out.logits"])
    assert_golden(other, case.tensors["out.logits_othergrid"])
    pictures = unpatchify(logits, case.config["dec_patch"])
    assert_golden(pictures, case.tensors["out.unpatchified"])


@pytest.mark.parametrize(("name", "millions"), [("vit-b", 86.4), ("vit-l", 304.2), ("vit-xl", 415.4)])
def test_presets_have_the_published_sizes(name: str, millions: float) -> None:
    with torch.device("meta"):
        decoder = ViTDecoder(DECODERS[name])
    assert round(sum(p.numel() for p in decoder.parameters()) / 1e6, 1) == millions


def test_keys_are_the_official_ones() -> None:
    keys = set(small_decoder(depth=1).state_dict())
    affine = ("weight", "bias")
    modules = [
        "decoder_embed", "decoder_norm", "decoder_pred", "decoder_layers.0.layernorm_before",
        "decoder_layers.0.layernorm_after", "decoder_layers.0.attention.attention.query",
        "decoder_layers.0.attention.attention.key", "decoder_layers.0.attention.attention.value",
        "decoder_layers.0.attention.output.dense", "decoder_layers.0.intermediate.dense",
        "decoder_layers.0.output.dense",
    ]  # fmt: skip
    expected = {f"{module}.{kind}" for module in modules for kind in affine}
    assert keys == expected | {"decoder_pos_embed", "trainable_cls_token"}


def test_position_table_is_the_formula() -> None:
    width, grid = 8, 3
    table = sincos_positions(width, grid)[0]
    assert table.shape == (1 + grid * grid, width)
    assert torch.equal(table[0], torch.zeros(width))
    for row in range(grid):
        for column in range(grid):
            expected = []
            for place in (column, row):  # columns first
                angles = [place * 10000.0 ** (-k / (width / 4)) for k in range(width // 4)]
                expected += [math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles]
            torch.testing.assert_close(table[1 + row * grid + column], torch.tensor(expected), rtol=0, atol=1e-6)


def test_a_new_decoder_begins_with_its_table_and_a_class_token_of_zeros() -> None:
    decoder = ViTDecoder(DECODERS["mini"])
    assert torch.equal(decoder.decoder_pos_embed, sincos_positions(128, 4))
    assert not decoder.trainable_cls_token.any()
    assert decoder.trainable_cls_token.requires_grad


@pytest.mark.parametrize("trained", [False, True])
def test_positions_are_fixed_unless_asked_for(trained: bool) -> None:
    decoder = ViTDecoder(small_decoder().config, train_positions=trained)
    decoder(randn(1, 16, 6)).square().mean().backward()
    assert (decoder.decoder_pos_embed.grad is not None) is trained
    assert all(p.grad is not None for name, p in decoder.named_parameters() if name != "decoder_pos_embed")


def test_unpatchify_puts_each_patch_in_its_place() -> None:
    logits = torch.arange(2 * 4 * 12, dtype=torch.float32).view(2, 4, 12)
    pictures = unpatchify(logits, 2)
    assert pictures.shape == (2, 3, 4, 4)
    for token in range(4):
        for row in range(2):
            for column in range(2):
                for channel in range(3):
                    expected = logits[1, token, (row * 2 + column) * 3 + channel]
                    assert pictures[1, channel, 2 * (token // 2) + row, 2 * (token % 2) + column] == expected


def test_a_larger_patch_makes_a_larger_picture_of_the_same_tokens() -> None:
    decoder = small_decoder(patch_px=8)
    assert decoder.config.output_px == 32
    assert unpatchify(decoder(randn(2, 16, 6)), 8).shape == (2, 3, 32, 32)


def test_a_picture_does_not_depend_on_its_batch() -> None:
    decoder, tokens = small_decoder(), randn(5, 16, 6)
    with torch.no_grad():
        together, alone = decoder(tokens), torch.cat([decoder(row[None]) for row in tokens])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


def test_recomputed_blocks_give_the_same_gradients() -> None:
    plain = small_decoder()
    saving = ViTDecoder(plain.config, checkpointing=True)
    saving.load_state_dict(plain.state_dict())
    tokens = randn(2, 16, 6)
    for decoder in (plain, saving):
        decoder(tokens).square().mean().backward()
    for one, other in zip(plain.parameters(), saving.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None)
        if one.grad is not None and other.grad is not None:
            torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 16, 7), r"tokens must be \[B, N, 6\], got \[2, 16, 7\]"),
        ((16, 6), r"tokens must be \[B, N, 6\], got \[16, 6\]"),
        ((2, 15, 6), "15 tokens are no square grid"),
    ],
)
def test_tokens_that_do_not_fit_are_refused(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        small_decoder()(torch.zeros(shape))


def test_patches_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"patches must be \[B, N, 12\], got \[1, 4, 13\]"):
        unpatchify(torch.zeros(1, 4, 13), 2)
    with pytest.raises(ConfigError, match="5 tokens are no square grid"):
        unpatchify(torch.zeros(1, 5, 12), 2)


def test_a_preset_takes_the_latents_of_any_encoder() -> None:
    config = decoder_config("vit-l", latent_dim=1024, num_patches=196, patch_px=16)
    assert (config.latent_dim, config.grid, config.output_px, config.width) == (1024, 14, 224, 1024)
    with pytest.raises(ConfigError) as error:
        decoder_config("vit-lx", latent_dim=8, num_patches=4, patch_px=1)
    assert "unknown decoder 'vit-lx'" in error.value.what
    assert "did you mean 'vit-l'?" in error.value.fix


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_patches": 15}, "15 tokens are no square grid"),
        ({"num_heads": 3}, "a width of 16 cannot be split into 3 heads"),
        ({"width": 18}, "the width must be a multiple of 4 for the position table, got 18"),
        ({"depth": 0}, "depth must be at least 1, got 0"),
        ({"eps": 0.0}, "eps must be positive, got 0.0"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        small_decoder(**changes)
