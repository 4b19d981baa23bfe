"""What holds for every encoder in the package."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from ovbench._base.errors import ConfigError, DataError, DependencyError
from ovbench._base.paths import asset
from ovbench.encoders.base import Encoder, Tap
from ovbench.encoders.modeling.frozen import weights_digest
from ovbench.encoders.modeling.tokens import TokenEncoder
from ovbench.encoders.modeling.weights_file import read_weights
from ovbench.encoders.registry import families, load_encoder
from ovbench.harness.checkpoint import save_tensors

SPECS = [
    f"{family.key}/{variant.name}"
    for family in families().values()
    for variant in family.variants
    if variant.origin in ("embedded", "untrained")
]
TRUNKS = [spec for spec in SPECS if not spec.startswith("vae/")]


@pytest.fixture(scope="module", params=SPECS)
def encoder(request: pytest.FixtureRequest) -> Encoder:
    return load_encoder(request.param)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(5, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_it_follows_the_protocol_and_its_declared_shape(encoder: Encoder, images: torch.Tensor) -> None:
    assert isinstance(encoder, Encoder)
    features = encoder.features(images)
    rows, columns = encoder.info.grid
    assert features.tokens.shape == (5, rows * columns, encoder.info.dim)
    assert features.tokens.dtype == torch.float32


def test_the_listing_says_what_the_network_does(encoder: Encoder) -> None:
    family, _, variant = encoder.info.name.partition("/")
    (entry,) = (item for item in families()[family].variants if item.name == variant)
    assert (entry.num_tokens, entry.dim) == (encoder.info.grid[0] * encoder.info.grid[1], encoder.info.dim)
    assert encoder.info.input.size == (entry.resolution_px, entry.resolution_px)


def test_it_is_deterministic_and_independent_of_the_batch(encoder: Encoder, images: torch.Tensor) -> None:
    tokens = encoder.features(images).tokens
    torch.testing.assert_close(tokens, encoder.features(images).tokens, atol=0, rtol=0)
    torch.testing.assert_close(tokens[2:3], encoder.features(images[2:3]).tokens, atol=1e-4, rtol=1e-4)


def test_it_is_frozen_and_train_does_nothing(encoder: Encoder, images: torch.Tensor) -> None:
    assert isinstance(encoder, torch.nn.Module)
    before, digest = encoder.features(images).tokens, weights_digest(encoder)
    encoder.train()
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    after = encoder.features(images).tokens
    assert not after.requires_grad
    torch.testing.assert_close(after, before, atol=0, rtol=0)
    assert weights_digest(encoder) == digest


def test_latents_are_tokens_reshaped_in_raster_order(encoder: Encoder, images: torch.Tensor) -> None:
    latents = encoder.latents(images)
    rows, columns = encoder.info.grid
    assert latents.shape == (5, encoder.info.dim, rows, columns)
    assert latents.is_contiguous()
    tap = Tap() if encoder.info.depth == 0 else Tap(norm="layernorm", eps=1e-6)
    tokens = encoder.features(images, tap).tokens
    torch.testing.assert_close(latents[:, :, 1, 2], tokens[:, columns + 2])


def test_changing_one_patch_moves_its_own_token_most(encoder: Encoder, images: torch.Tensor) -> None:
    patch, columns = encoder.info.patch_px, encoder.info.grid[1]
    row, column = 2, 5
    changed = images.clone()
    changed[:, :, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch] = 0.0
    tap = Tap() if encoder.info.depth == 0 else Tap(layer=0)
    moved = (encoder.features(changed, tap).tokens - encoder.features(images, tap).tokens).norm(dim=-1).mean(dim=0)
    assert int(moved.argmax()) == row * columns + column


@pytest.mark.parametrize("bad", [torch.full((1, 3, 64, 64), 2.0), torch.full((1, 3, 64, 64), float("nan"))])
def test_values_outside_0_1_are_refused(encoder: Encoder, bad: torch.Tensor) -> None:
    with pytest.raises(ConfigError, match=r"\[0, 1\]"):
        encoder.features(bad)


@pytest.mark.parametrize("shape", [(1, 3, 32, 32), (3, 64, 64), (1, 1, 64, 64), (0, 3, 64, 64)])
def test_other_shapes_are_refused(encoder: Encoder, shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="images"):
        encoder.features(torch.zeros(shape))


def test_the_fingerprint_is_stable_and_names_the_weights(encoder: Encoder) -> None:
    assert encoder.fingerprint() == load_encoder(encoder.info.name).fingerprint()
    others = {load_encoder(spec).info.identity for spec in SPECS}
    assert len(others) == len(SPECS)


def test_a_header_that_is_no_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    save_tensors(path, {"x": torch.zeros(1)}, {"config": "{"})
    with pytest.raises(DataError, match="header"):
        load_encoder(f"clip:{path}")


@pytest.mark.parametrize("spec", TRUNKS)
def test_the_fingerprint_depends_on_the_tap(spec: str) -> None:
    encoder = load_encoder(spec)
    assert len({encoder.fingerprint(tap) for tap in (Tap(), Tap(layer=-2), Tap(norm="layernorm"))}) == 3


@pytest.mark.parametrize("spec", TRUNKS)
def test_taps_count_the_residual_stream(spec: str, images: torch.Tensor) -> None:
    encoder = load_encoder(spec)
    assert isinstance(encoder, TokenEncoder)
    last, final = encoder.features(images, Tap(layer=4)), encoder.features(images)
    torch.testing.assert_close(last.tokens, final.tokens)
    torch.testing.assert_close(encoder.features(images, Tap(layer=-1)).tokens, final.tokens)
    torch.testing.assert_close(
        encoder.features(images, Tap(layer=-2)).tokens, encoder.features(images, Tap(layer=3)).tokens
    )
    assert encoder.llm_tokens(images, Tap(prefix=True)).shape[1] == 65
    with pytest.raises(ConfigError, match="does not exist"):
        encoder.features(images, Tap(layer=5))


def test_prepare_takes_any_mode_and_size(encoder: Encoder) -> None:
    for mode in ("RGB", "RGBA", "L", "P", "CMYK"):
        prepared = encoder.prepare(Image.new(mode, (70, 33)))
        assert prepared.shape == (3, 64, 64)
        assert prepared.dtype == torch.float32
        assert float(prepared.min()) >= 0.0
        assert float(prepared.max()) <= 1.0


def test_the_control_depends_on_its_seed_alone() -> None:
    first, again, other = (load_encoder(spec) for spec in ("random", "random?seed=0", "random?seed=1"))
    assert first.info.weights_digest == again.info.weights_digest != other.info.weights_digest


def test_building_the_control_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    load_encoder("random")
    assert torch.rand(1) == expected


def test_a_vae_alone_is_not_offered_to_a_language_model(images: torch.Tensor) -> None:
    with pytest.raises(ConfigError, match="not to a language model"):
        load_encoder("vae").llm_tokens(images)


@pytest.mark.parametrize("other", ["ovis3", "siglip"])
def test_weights_of_another_family_are_refused(other: str) -> None:
    with pytest.raises(DataError, match="trained with the recipe 'clip'"):
        load_encoder(f"{other}/mini:{asset('encoders/clip-mini.safetensors')}")


def test_weights_that_read_other_channels_are_refused(tmp_path: Path) -> None:
    stored = read_weights(asset("encoders/clip-mini.safetensors"))
    path = tmp_path / "anonymous.safetensors"
    save_tensors(path, stored.tensors, {"config": json.dumps(stored.config)})
    with pytest.raises(ConfigError, match="channels"):
        load_encoder(f"ovis3/mini:{path}")


def test_a_weights_file_may_have_any_name(tmp_path: Path) -> None:
    path = tmp_path / "w@1?x=2.safetensors"
    path.write_bytes(asset("encoders/clip-mini.safetensors").read_bytes())
    assert load_encoder(f"clip:{path}").info.identity == load_encoder("clip").info.identity


def test_the_header_of_another_network_is_refused() -> None:
    with pytest.raises(DataError, match="another kind of network"):
        load_encoder(f"clip/mini:{asset('encoders/vae-mini.safetensors')}")


def test_weights_trained_behind_another_vae_are_refused(tmp_path: Path) -> None:
    stored = read_weights(asset("encoders/ovis3-mini.safetensors"))
    path = tmp_path / "ovis3.safetensors"
    save_tensors(path, stored.tensors, {"config": json.dumps(stored.config), "vae": "0" * 64})
    with pytest.raises(DataError, match="another VAE"):
        load_encoder(f"ovis3/mini:{path}")


def test_a_missing_weights_file_is_named() -> None:
    with pytest.raises(DataError, match="nowhere"):
        load_encoder("clip/mini:/nowhere/nowhere.safetensors")


def test_a_device_that_is_not_there_is_said() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU, so asking for one is no error")
    with pytest.raises(DependencyError, match="CUDA"):
        load_encoder("random", device="cuda")


@pytest.mark.parametrize("device", ["gpu0", "mps", "cuda:x", "meta"])
def test_an_unknown_device_is_refused(device: str) -> None:
    with pytest.raises(ConfigError, match="unknown device"):
        load_encoder("random", device=device)
