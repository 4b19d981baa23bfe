from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ovbench._base.errors import ConfigError, DataError
from ovbench.encoders.registry import load_encoder
from ovbench.harness.generation.decoder import sincos_positions
from ovbench.harness.generation.diffusers_rae import WEIGHTS, export_folder, import_folder
from ovbench.harness.generation.latent_stats import compute_stats
from ovbench.harness.generation.rae import RAE
from tests.harness.generation.rae_data import patch_encoder, pictures, randn, small_decoder

diffusers: Any = pytest.importorskip("diffusers", reason="needs diffusers, of the extra 'offline'")
# encoder type → patch and side of the input in pixels
KINDS = {"dinov2": (14, 28), "mae": (16, 32)}
GRID = 2


def _theirs(kind: str = "dinov2", *, seed: int = 0, **changes: Any) -> Any:
    """A tiny random `AutoencoderRAE` of diffusers; every parameter is off its initial value."""
    patch, side = KINDS[kind]
    fields: dict[str, Any] = {
        "encoder_type": kind, "encoder_hidden_size": 64, "encoder_patch_size": patch, "encoder_num_hidden_layers": 1,
        "encoder_input_size": side, "decoder_hidden_size": 32, "decoder_num_hidden_layers": 2,
        "decoder_num_attention_heads": 2, "decoder_intermediate_size": 48, "patch_size": 4,
        "latents_mean": randn(64, GRID, GRID), "latents_std": randn(64, GRID, GRID, seed=1).abs() + 0.05,
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = diffusers.AutoencoderRAE(**{**fields, **changes})
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def _written(folder: Path, kind: str = "dinov2", **changes: Any) -> Any:
    model = _theirs(kind, **changes)
    model.save_pretrained(folder)
    return model


def _rae(folder: Path, kind: str = "dinov2", **reading: Any) -> RAE:
    imported = import_folder(folder, **reading)
    return imported.rae(load_encoder(imported.write_encoder(folder / f"encoder-{kind}")))


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_decodes_and_encodes_as_diffusers_does(tmp_path: Path, kind: str) -> None:
    model = _written(tmp_path, kind)
    rae, z, images = _rae(tmp_path, kind, reading="diffusers"), randn(3, 64, GRID, GRID, seed=2), pictures(2, 40)
    with torch.no_grad():
        torch.testing.assert_close(rae.decode_unclamped(z), model.decode(z).sample, rtol=0, atol=2e-6)
        expected = model.encode(images).latent
    torch.testing.assert_close(rae.encode(images), expected, rtol=1e-4, atol=1e-4)
    assert float(expected.std()) > 0.5


@pytest.mark.parametrize("changes", [{"scaling_factor": 0.5}, {"latents_mean": None, "latents_std": None}])
def test_scaling_and_missing_statistics_are_diffusers(tmp_path: Path, changes: dict[str, Any]) -> None:
    model = _written(tmp_path, **changes)
    rae, z = _rae(tmp_path, reading="diffusers"), randn(2, 64, GRID, GRID, seed=2)
    with torch.no_grad():
        torch.testing.assert_close(rae.decode_unclamped(z), model.decode(z).sample, rtol=0, atol=2e-6)
        torch.testing.assert_close(rae.encode(pictures(1)), model.encode(pictures(1)).latent, rtol=1e-4, atol=1e-4)


def test_readings_differ_in_what_diffusers_changed(tmp_path: Path) -> None:
    model = _written(tmp_path)
    std = model._latents_std.double()
    for reading, scale, divisor in (
        ("converter", std, 1.0),
        ("diffusers", std + 1e-5, GRID / 16),
        ("ovbench", std + 1e-5, 1.0),
    ):
        imported = import_folder(tmp_path, reading=reading)  # pyright: ignore[reportArgumentType]
        torch.testing.assert_close(imported.scale, scale, rtol=1e-12, atol=0)
        assert torch.equal(imported.decoder.decoder_pos_embed, sincos_positions(32, GRID, divisor=divisor))
    assert import_folder(tmp_path).reading == "converter"


def test_the_positions_of_the_file_win_where_diffusers_ignores_them(tmp_path: Path) -> None:
    _written(tmp_path)
    path = tmp_path / WEIGHTS[0]
    table = randn(1, 1 + GRID * GRID, 32)
    save_file({**load_file(path), "decoder.decoder_pos_embed": table}, path, {"format": "pt"})
    assert torch.equal(import_folder(tmp_path).decoder.decoder_pos_embed, table)
    ignored = import_folder(tmp_path, reading="diffusers").decoder.decoder_pos_embed
    assert torch.equal(ignored, sincos_positions(32, GRID, divisor=GRID / 16))


@pytest.mark.parametrize("grid", [2, 14, 16])
def test_our_copy_of_diffusers_table_is_its_table(grid: int) -> None:
    model = _theirs(encoder_input_size=14 * grid, latents_mean=None, latents_std=None, decoder_num_hidden_layers=1)
    ours = sincos_positions(32, grid, divisor=grid / 16)
    torch.testing.assert_close(ours, model.decoder.decoder_pos_embed, rtol=0, atol=1e-6)
    same = torch.allclose(sincos_positions(32, grid), ours, atol=1e-5)
    assert same is (grid == 16)


def _ours(folder: Path, kind: str = "dinov2", *, stats: bool = True, diffusers_positions: bool = True) -> RAE:
    """An autoencoder of ovbench on an encoder that diffusers knows."""
    _written(folder, kind, seed=5)
    encoder = load_encoder(import_folder(folder).write_encoder(folder / "encoder"))
    decoder = small_decoder(latent_dim=64, num_patches=GRID * GRID)
    if diffusers_positions:
        with torch.no_grad():
            decoder.decoder_pos_embed.copy_(sincos_positions(16, GRID, divisor=GRID / 16))
    computed = compute_stats(encoder, [pictures(6)], data="six pictures") if stats else None
    return RAE(encoder, decoder, computed)


@pytest.mark.parametrize("stats", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_diffusers_reads_what_we_write(
    tmp_path: Path, kind: str, stats: bool, caplog: pytest.LogCaptureFixture
) -> None:
    rae = _ours(tmp_path, kind, stats=stats)
    with caplog.at_level(logging.WARNING):
        export_folder(tmp_path / "export", rae, noise_tau=0.8)
    assert not caplog.records
    model = diffusers.AutoencoderRAE.from_pretrained(tmp_path / "export").eval()
    z, images = randn(2, 64, GRID, GRID, seed=2), pictures(2, 40)
    with torch.no_grad():
        torch.testing.assert_close(model.decode(z).sample, rae.decode_unclamped(z), rtol=0, atol=2e-6)
        torch.testing.assert_close(model.encode(images).latent, rae.encode(images), rtol=1e-4, atol=1e-3)
    assert model.config.noise_tau == 0.8


@pytest.mark.parametrize("diffusers_positions", [True, False])
def test_what_we_write_comes_back(tmp_path: Path, diffusers_positions: bool) -> None:
    rae = _ours(tmp_path, diffusers_positions=diffusers_positions)
    export_folder(tmp_path / "export", rae)
    imported = import_folder(tmp_path / "export")
    assert imported.reading == "ovbench"
    assert rae.decoder is not None
    assert imported.decoder.config == rae.decoder.config
    for key, value in rae.decoder.state_dict().items():
        assert torch.equal(imported.decoder.state_dict()[key], value)
    again = imported.rae(rae.encoder)
    z = randn(2, 64, GRID, GRID, seed=2)
    torch.testing.assert_close(again.decode_unclamped(z), rae.decode_unclamped(z), rtol=0, atol=2e-6)
    other = load_encoder(imported.write_encoder(tmp_path / "again"))
    torch.testing.assert_close(imported.rae(other).encode(pictures(1)), rae.encode(pictures(1)), rtol=1e-4, atol=1e-3)


def test_positions_that_diffusers_would_replace_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        export_folder(tmp_path / "export", _ours(tmp_path, diffusers_positions=False))
    (record,) = caplog.records
    assert "it ignores the position table of the file and builds its own" in record.getMessage()


def test_names_of_transformers_4_are_read_too(tmp_path: Path) -> None:
    """As the folders on the hub have them, which diffusers cannot load with transformers 5."""
    model = _written(tmp_path)
    path = tmp_path / WEIGHTS[0]
    renamed: dict[str, Tensor] = {}
    for key, value in load_file(path).items():
        for new, old in {"q_proj": "attention.query", "k_proj": "attention.key", "v_proj": "attention.value",
                         "o_proj": "output.dense"}.items():  # fmt: skip
            key = key.replace(f".attention.{new}.", f".attention.{old}.") if key.startswith("encoder.") else key
        renamed[key] = value
    save_file(renamed, path, {"format": "pt"})
    rae = _rae(tmp_path, reading="diffusers")
    with torch.no_grad():
        expected = model.encode(pictures(1)).latent
    torch.testing.assert_close(rae.encode(pictures(1)), expected, rtol=1e-4, atol=1e-4)


def test_an_encoder_that_normalises_otherwise_is_refused(tmp_path: Path) -> None:
    _written(tmp_path)
    encoder = load_encoder(import_folder(tmp_path).write_encoder(tmp_path / "encoder"))
    _written(tmp_path / "other", encoder_norm_mean=[0.5, 0.5, 0.5], encoder_norm_std=[0.5, 0.5, 0.5])
    imported = import_folder(tmp_path / "other")
    assert imported.normalisation.mean == (0.5, 0.5, 0.5)
    with pytest.raises(ConfigError, match="normalises pixels by"):
        imported.rae(encoder)


def _edit(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**document, **changes}), encoding="utf-8")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_class_name": "AutoencoderKL"}, "is of the class 'AutoencoderKL', not 'AutoencoderRAE'"),
        ({"patchsize": 3}, "unknown settings: patchsize"),
        ({"encoder_type": "clip"}, "unknown encoder_type 'clip'"),
        ({"patch_size": 0}, "'patch_size' must be a whole number from 1, got 0"),
        ({"patch_size": True}, "'patch_size' must be a whole number from 1, got True"),
        ({"image_size": 9}, "sizes do not fit"),
        ({"encoder_input_size": 30}, "sizes do not fit"),
        ({"reshape_to_2d": False}, "the latents are no maps"),
        ({"scaling_factor": 0}, "'scaling_factor' must be positive, got 0"),
        ({"decoder_num_attention_heads": 3}, "a width of 32 cannot be split into 3 heads"),
        ({"decoder_hidden_size": 64}, "wrong shape: decoder_embed"),
        ({"decoder_num_hidden_layers": 1}, "unexpected: decoder_layers.1"),
        ({"encoder_input_size": 42}, r"the statistics are \[64, 2, 2\], and the latents \[64, 3, 3\]"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    _written(tmp_path)
    _edit(tmp_path, **changes)
    with pytest.raises(DataError, match=message):
        import_folder(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: {**state, "quant.weight": torch.ones(1)}, r"unexpected: quant\.weight"),
        (lambda state: {k: v for k, v in state.items() if k != "decoder.decoder_norm.bias"}, "missing: decoder_norm"),
        (lambda state: {**state, "_latents_std": torch.zeros(64, 2, 2)}, "are not all positive"),
        (lambda state: {**state, "_latents_mean": torch.full((64, 2, 2), torch.nan)}, "NaN or infinite values"),
        (lambda state: {**state, "encoder_std": torch.ones(1, 2, 1, 1)}, "has not three channels"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    tmp_path: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]], message: str
) -> None:
    _written(tmp_path)
    path = tmp_path / WEIGHTS[0]
    save_file(change(load_file(path)), path, {"format": "pt"})
    with pytest.raises(DataError, match=message):
        import_folder(tmp_path)


def test_an_encoder_with_missing_weights_is_refused(tmp_path: Path) -> None:
    _written(tmp_path)
    path = tmp_path / WEIGHTS[0]
    save_file({k: v for k, v in load_file(path).items() if "mlp.fc1.bias" not in k}, path, {"format": "pt"})
    spec = import_folder(tmp_path).write_encoder(tmp_path / "encoder")
    with pytest.raises(DataError, match=r"missing: encoder\.layer\.0\.mlp\.fc1\.bias"):
        load_encoder(spec)


def test_a_folder_without_files_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such file 'config\.json'"):
        import_folder(tmp_path)
    _written(tmp_path)
    (tmp_path / WEIGHTS[0]).unlink()
    with pytest.raises(DataError, match=r"no weights: none of diffusion_pytorch_model\.safetensors"):
        import_folder(tmp_path)
    with pytest.raises(ConfigError, match="unknown reading 'official'"):
        import_folder(tmp_path, reading="official")  # pyright: ignore[reportArgumentType]


def test_what_diffusers_cannot_hold_is_not_written(tmp_path: Path) -> None:
    begin = "diffusers' AutoencoderRAE cannot hold this autoencoder: "
    with pytest.raises(ConfigError) as error:
        export_folder(tmp_path / "out", RAE(patch_encoder(), small_decoder()))
    assert error.value.what == f"{begin}it holds DINOv2 with registers and MAE, not 'stand-in/patch'"
    with pytest.raises(ConfigError, match="the decoder is the encoder's own"):
        export_folder(tmp_path / "out", RAE(load_encoder("vae/mini"), "native"))
    rae = _ours(tmp_path)
    wider = small_decoder(latent_dim=64, num_patches=16)
    with pytest.raises(ConfigError, match="the decoder's grid is 4 and the encoder's 2 x 2"):
        export_folder(tmp_path / "out", RAE(rae.encoder, wider))
    with pytest.raises(ConfigError, match="its LayerNorms have eps 1e-12, and these 1e-06"):
        export_folder(tmp_path / "out", RAE(rae.encoder, small_decoder(latent_dim=64, num_patches=4, eps=1e-6)))
    config = json.loads((tmp_path / "encoder" / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "encoder" / "config.json").write_text(json.dumps({**config, "num_attention_heads": 2}))
    other = load_encoder(f"dinov2/base-reg:{tmp_path / 'encoder'}")
    with pytest.raises(ConfigError, match="its dinov2 has num_attention_heads 1, and this one 2"):
        export_folder(tmp_path / "out", RAE(other, small_decoder(latent_dim=64, num_patches=4)))
    assert not (tmp_path / "out").exists()
