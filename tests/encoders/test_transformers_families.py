"""CLIP, SigLIP, DINOv2 and MAE give the library's own hidden states, token for token, from folders as published."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovbench.encoders.base import Tap
from ovbench.encoders.modeling.tokens import TokenEncoder
from ovbench.encoders.registry import load_encoder
from tests.encoders.layouts_hf import (
    LAYOUTS,
    ONE_OF_EACH,
    Layout,
    edit_json,
    library_run,
    library_tower,
    pictures,
    write_layout,
)

CLOSE: dict[str, Any] = {"atol": 1e-5, "rtol": 0.0}
NORMED = [name for name in ONE_OF_EACH if LAYOUTS[name].final_norm]


def load(spec: str, folder: Path, options: str = "") -> TokenEncoder:
    encoder = load_encoder(f"{spec}:{folder}{options}")
    assert isinstance(encoder, TokenEncoder)
    return encoder


@dataclass(frozen=True)
class Case:
    """A folder, our encoder and the library's tower of it."""

    layout: Layout
    folder: Path
    encoder: TokenEncoder
    tower: Any
    images: Tensor
    out: Any  # of the library


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Case]:
    made: dict[str, Case] = {}

    def get(name: str) -> Case:
        if name not in made:
            layout = LAYOUTS[name]
            folder = write_layout(tmp_path_factory.mktemp("layout"), name)
            tower, images = library_tower(folder, name), pictures(layout.px)
            encoder = load(layout.spec, folder)
            made[name] = Case(layout, folder, encoder, tower, images, library_run(tower, images))
        return made[name]

    return get


def whole(encoder: TokenEncoder, images: Tensor, tap: Tap) -> Tensor:
    features = encoder.features(images, replace(tap, prefix=True))
    assert features.prefix is not None
    return torch.cat([features.prefix, features.tokens], dim=1)


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layer_is_the_librarys_hidden_state(case: Callable[[str], Case], name: str) -> None:
    it = case(name)
    assert (it.encoder.info.depth, it.encoder.info.num_prefix) == (3, it.layout.num_prefix)
    assert len(it.out.hidden_states) == 4
    for layer, expected in enumerate(it.out.hidden_states):
        torch.testing.assert_close(whole(it.encoder, it.images, Tap(layer=layer)), expected, **CLOSE)
        torch.testing.assert_close(whole(it.encoder, it.images, Tap(layer=layer - 4)), expected, **CLOSE)


@pytest.mark.parametrize("name", LAYOUTS)
def test_final_is_what_the_library_publishes(case: Callable[[str], Case], name: str) -> None:
    it = case(name)
    torch.testing.assert_close(whole(it.encoder, it.images, Tap()), it.out.last_hidden_state, **CLOSE)
    pooled, expected = it.encoder.features(it.images).pooled, getattr(it.out, "pooler_output", None)
    if expected is None:
        assert name.startswith("mae")
        assert pooled is None
    else:
        assert pooled is not None
        torch.testing.assert_close(pooled, expected, **CLOSE)


@pytest.mark.parametrize("name", NORMED)
def test_the_last_layer_is_the_stream_before_the_final_norm(case: Callable[[str], Case], name: str) -> None:
    it = case(name)
    last = whole(it.encoder, it.images, Tap(layer=3))
    assert not torch.allclose(last, it.out.last_hidden_state, atol=0.1)
    torch.testing.assert_close(getattr(it.tower, it.layout.final_norm)(last), it.out.last_hidden_state, **CLOSE)
    torch.testing.assert_close(whole(it.encoder, it.images, Tap(norm="none")), last, atol=0, rtol=0)


def test_the_librarys_habit_of_putting_the_normed_state_last_does_not_reach_the_tap(tmp_path: Path) -> None:
    # Trap: with `tie_last_hidden_states` (which its decorator has switched on for most models, though not for these
    # families in 5.23) the library replaces hidden_states[-1] by the normed last_hidden_state.
    folder = write_layout(tmp_path, "siglip2 tower, transformers 5")
    plain, images = load("siglip2/base-256", folder), pictures(32)
    edit_json(folder / "config.json", lambda content: content.update(tie_last_hidden_states=True))
    tied = load("siglip2/base-256", folder)
    theirs = library_run(library_tower(folder, "siglip2 tower, transformers 5"), images)
    torch.testing.assert_close(theirs.hidden_states[-1], theirs.last_hidden_state, atol=0, rtol=0)
    ours = tied.features(images, Tap(layer=3)).tokens
    torch.testing.assert_close(ours, plain.features(images, Tap(layer=3)).tokens, atol=0, rtol=0)
    assert not torch.allclose(ours, theirs.hidden_states[-1], atol=0.1)


def test_clip_publishes_the_stream_without_its_post_layernorm(case: Callable[[str], Case]) -> None:
    it = case("clip two towers")
    last = whole(it.encoder, it.images, Tap(layer=3))
    torch.testing.assert_close(whole(it.encoder, it.images, Tap()), last, atol=0, rtol=0)
    torch.testing.assert_close(it.encoder.features(it.images).pooled, it.tower.post_layernorm(last[:, 0]), **CLOSE)


def test_what_a_llava_reads_of_clip_is_its_last_but_one_layer_without_the_class_token(
    case: Callable[[str], Case],
) -> None:
    it = case("clip two towers")
    assert it.encoder.info.llm_tap == Tap(layer=-2)
    torch.testing.assert_close(it.encoder.llm_tokens(it.images), it.out.hidden_states[-2][:, 1:], **CLOSE)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_layernorm_is_without_affine_on_the_stream(case: Callable[[str], Case], name: str) -> None:
    it = case(name)
    eps = it.tower.config.layer_norm_eps
    for layer in range(4):
        expected = F.layer_norm(it.out.hidden_states[layer], (32,), eps=eps)
        torch.testing.assert_close(whole(it.encoder, it.images, Tap(layer=layer, norm="layernorm")), expected, **CLOSE)


@pytest.mark.parametrize("name", NORMED)
def test_latents_equal_raes_final_norm_without_weight_and_bias(tmp_path: Path, name: str) -> None:
    layout = LAYOUTS[name]
    folder = write_layout(tmp_path, name, changes={"layer_norm_eps": 0.05})
    tower, images = library_tower(folder, name), pictures(layout.px)
    norm = getattr(tower, layout.final_norm)
    norm.weight, norm.bias = None, None
    expected = library_run(tower, images).last_hidden_state[:, layout.num_prefix :]
    latents = load(layout.spec, folder).latents(images)
    torch.testing.assert_close(latents.flatten(2).transpose(1, 2), expected, **CLOSE)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_the_norms_epsilon_is_the_models_own(tmp_path: Path, name: str) -> None:
    layout = LAYOUTS[name]
    encoder = load(layout.spec, write_layout(tmp_path, name, changes={"layer_norm_eps": 0.05}))
    images = pictures(layout.px)
    stream = encoder.features(images, Tap(norm="none")).tokens
    for eps, tap in (
        (0.05, Tap(norm="layernorm")),
        (0.05, encoder.info.latent_tap),
        (0.5, Tap(norm="layernorm", eps=0.5)),
    ):
        torch.testing.assert_close(encoder.features(images, tap).tokens, F.layer_norm(stream, (32,), eps=eps), **CLOSE)


@pytest.mark.parametrize(
    ("name", "eps"),
    [("clip two towers", 1e-5), ("siglip two towers", 1e-6), ("dinov2", 1e-6), ("mae with decoder", 1e-12)],
)
def test_the_published_epsilons_are_read(case: Callable[[str], Case], name: str, eps: float) -> None:
    it = case(name)
    # A stream of almost one value: its variance is near the epsilon, so that the epsilon shows.
    flat = torch.linspace(0.0, 1e-5, 32).expand(1, 21, 32)
    assert it.encoder._network.eps == eps
    norm = next(module for module in it.encoder.model.modules() if isinstance(module, nn.LayerNorm))
    theirs = next(module for module in it.tower.modules() if isinstance(module, nn.LayerNorm))
    torch.testing.assert_close(norm(flat), theirs(flat), atol=0, rtol=0)


# Root mean square of the error over that of the tokens. Measured here: bfloat16 up to 0.0081, float16 up to 0.0010.
BOUNDS = {"bfloat16": 0.015, "float16": 0.002}


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_half_precision_stays_near_float32_with_norms_in_float32(
    case: Callable[[str], Case], name: str, dtype: str
) -> None:
    it = case(name)
    low = load(it.layout.spec, it.folder, f"?dtype={dtype}")
    wanted = getattr(torch, dtype)
    for module in low.model.modules():
        if isinstance(module, nn.LayerNorm):
            assert module.weight.dtype == torch.float32
        elif isinstance(module, nn.Linear | nn.Conv2d):
            assert module.weight.dtype == wanted
    for tap in (Tap(), Tap(layer=-2), Tap(norm="layernorm")):
        exact, rough = it.encoder.features(it.images, tap).tokens, low.features(it.images, tap).tokens
        assert rough.dtype == (torch.float32 if tap.norm == "layernorm" else wanted)
        error = (rough.float() - exact).square().mean().sqrt() / exact.square().mean().sqrt()
        assert 0.0 < float(error) < BOUNDS[dtype]
    assert low.latents(it.images).dtype == torch.float32


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_a_callers_autocast_changes_nothing(case: Callable[[str], Case], name: str, dtype: str) -> None:
    it = case(name)
    encoder = load(it.layout.spec, it.folder, f"?dtype={dtype}")
    taps = (Tap(), Tap(norm="layernorm"))
    plain = [encoder.features(it.images, tap).tokens for tap in taps]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = [encoder.features(it.images, tap).tokens for tap in taps]
    for first, second in zip(plain, inside, strict=True):
        torch.testing.assert_close(second, first, atol=0, rtol=0)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_one_picture_gives_what_it_gives_in_a_batch_and_nothing_learns(case: Callable[[str], Case], name: str) -> None:
    it = case(name)
    batch = it.encoder.train().features(it.images).tokens
    torch.testing.assert_close(it.encoder.features(it.images[1:]).tokens, batch[1:], **CLOSE)
    assert not batch.requires_grad
    assert not any(parameter.requires_grad for parameter in it.encoder.parameters())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_mae_hides_nothing_and_keeps_the_raster_order_of_many_patches(tmp_path: Path, dtype: str) -> None:
    px = 136  # 17 x 17 = 289 patches: more than bfloat16 can count
    folder = write_layout(tmp_path, "mae with decoder", changes={"image_size": px})
    encoder = load("mae/base-256", folder, f"?size={px}&dtype={dtype}")
    assert encoder.info.grid == (17, 17)
    images = pictures(px)
    expected = library_run(library_tower(folder, "mae with decoder"), images).hidden_states[0][:, 1:]
    tokens = encoder.features(images, Tap(layer=0)).tokens
    torch.testing.assert_close(tokens.float(), expected, atol=1e-5 if dtype == "float32" else 0.06, rtol=0)
    torch.testing.assert_close(encoder.features(images, Tap(layer=0)).tokens, tokens, atol=0, rtol=0)
    nearest = torch.cdist(tokens.float(), expected).argmin(dim=-1)
    assert torch.equal(nearest, torch.arange(289).expand(2, 289))


def test_mae_orders_its_tokens_by_float32_numbers(tmp_path: Path) -> None:
    encoder = load("mae/base-224", write_layout(tmp_path, "mae alone"), "?dtype=bfloat16")
    seen: list[Tensor] = []
    encoder.model.get_submodule("embeddings").register_forward_pre_hook(
        lambda _module, _args, kwargs: seen.append(kwargs["noise"]), with_kwargs=True
    )
    encoder.features(pictures(32))
    assert seen[0].dtype == torch.float32
    assert seen[0].tolist() == [list(range(16))] * 2


@pytest.mark.parametrize("registers", [0, 2, 4])
def test_dinov2_drops_as_many_registers_as_its_configuration_says(tmp_path: Path, registers: int) -> None:
    name = "dinov2 with registers"
    folder = write_layout(tmp_path, name, changes={"num_register_tokens": registers})
    encoder, images = load("dinov2/base-reg", folder), pictures(56)
    assert encoder.info.num_prefix == 1 + registers
    expected = library_run(library_tower(folder, name), images).last_hidden_state[:, 1 + registers :]
    torch.testing.assert_close(encoder.features(images).tokens, expected, **CLOSE)


def test_the_folder_decides_whether_a_dinov2_has_registers(tmp_path: Path) -> None:
    with_them = write_layout(tmp_path / "with", "dinov2 with registers")
    without = write_layout(tmp_path / "without", "dinov2")
    assert load("dinov2/base", with_them).info.num_prefix == 5
    assert load("dinov2/base-reg", without).info.num_prefix == 1
